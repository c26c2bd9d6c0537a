//! `[delivery]`: how mail goes out.

use std::net::IpAddr;

use super::reader::{Reader, TextDefault};
use super::{D, H, M, S};
use crate::dsn::DsnReturn;
use crate::limits::{RECIPIENTS_PER_TRANSACTION_MAX, RETRY_STEPS_MAX};
use crate::net::{Cidr, IpFamily};
use crate::policy::window::{Span, WINDOW_SPANS_MAX, Zone};
use crate::smtp::client::ClientTimeouts;
use crate::units::{format_duration_ms, parse_duration_ms};

/// Waits as an SMTP client (RFC 5321 §4.5.3.2), ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP connection.
    pub connect_ms: u64,
    /// The 220 greeting.
    pub greeting_ms: u64,
    /// EHLO or HELO.
    pub ehlo_ms: u64,
    /// MAIL.
    pub mail_ms: u64,
    /// RCPT.
    pub rcpt_ms: u64,
    /// 354 after DATA.
    pub data_ms: u64,
    /// Progress while content is written.
    pub data_block_ms: u64,
    /// The reply to the whole content.
    pub end_of_data_ms: u64,
    /// RSET and QUIT.
    pub quit_ms: u64,
}

/// `[delivery]`: how mail goes out where no policy says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Waits before the second, third, … attempt, ms; the last one repeats.
    pub retry_schedule_ms: Vec<u64>,
    /// Each wait is drawn from ± this much of it, percent.
    pub retry_jitter_percent: u8,
    /// From acceptance until a message is given up, ms.
    pub expire_after_ms: u64,
    /// When mail may begin to be sent; empty: at any time.
    pub window: Vec<Span>,
    /// By which clock, for rows that name no zone either.
    pub window_zone: Zone,
    /// Mail that has waited for the opening begins within this after it, ms.
    pub window_spread_ms: u64,
    /// Sessions to one site, in all shards.
    pub sessions_max: u32,
    /// Messages before a session is ended.
    pub messages_per_session: u32,
    /// Recipients of one transaction.
    pub recipients_per_message: u32,
    /// How long an idle session is kept for the next message, ms.
    pub idle_timeout_ms: u64,
    /// How long a session is given new messages, ms.
    pub session_time_ms_max: u64,
    /// How long deliveries in flight may take to end when the daemon is told to, ms.
    pub stop_ms_max: u64,
    /// Waits in a dialog.
    pub timeouts: Timeouts,
    /// Port of MX hosts.
    pub port: u16,
    /// Addresses connections come from, taken in turn; empty: the system's choice.
    pub source_addresses: Vec<IpAddr>,
    /// Which addresses of a host are used.
    pub ip_family: IpFamily,
    /// Looked-up addresses that are used although no host elsewhere can have them.
    pub allow_addresses: Vec<Cidr>,
    /// MX hosts of one domain that are tried.
    pub mx_hosts_max: u32,
    /// Report failed and expired recipients to the reverse-path.
    pub dsn: bool,
    /// What such a report carries of the message.
    pub dsn_return: DsnReturn,
}

fn retry_schedule(r: &mut Reader<'_, '_>) -> Vec<u64> {
    let steps = ["1m", "5m", "15m", "30m", "1h", "2h", "4h"];
    let schedule_ms = r.list(
        "retry_schedule",
        "list of durations",
        &steps,
        RETRY_STEPS_MAX,
        |text| {
            parse_duration_ms(text)
                .filter(|ms| (S..=7 * D).contains(ms))
                .ok_or_else(|| {
                    let (least, most) = (format_duration_ms(S), format_duration_ms(7 * D));
                    format!("`{text}` must be a duration such as \"5m\", {least} to {most}")
                })
        },
    );
    if schedule_ms.is_empty() {
        r.fault(
            "retry_schedule",
            "`retry_schedule` has no valid entry",
            None,
        );
    }
    schedule_ms
}

pub(super) fn read(r: &mut Reader<'_, '_>) -> Delivery {
    let retry_schedule_ms = retry_schedule(r);
    let machine = ClientTimeouts::default();
    Delivery {
        retry_schedule_ms,
        retry_jitter_percent: r.number("retry_jitter_percent", 20, 0..=50),
        expire_after_ms: r.duration_ms("expire_after", 5 * D, S..=30 * D),
        window: r.list("window", "list of times", &[], WINDOW_SPANS_MAX, |text| {
            text.parse().map_err(|()| {
                format!("`{text}` must be a time of the week such as \"mon-fri 09:00-18:00\"")
            })
        }),
        window_zone: r
            .text(
                "window_zone",
                "time zone",
                TextDefault::Text("UTC"),
                |text| {
                    text.parse().map_err(|()| {
                        format!("`{text}` is no time zone such as \"Asia/Tokyo\" or \"UTC\"")
                    })
                },
            )
            .unwrap_or(Zone::UTC),
        window_spread_ms: r.duration_ms("window_spread", 2 * M, 0..=H),
        sessions_max: r.number("sessions_max", 20, 1..=10_000),
        messages_per_session: r.number("messages_per_session", 1_000, 1..=1_000_000),
        recipients_per_message: r.number(
            "recipients_per_message",
            100,
            1..=RECIPIENTS_PER_TRANSACTION_MAX,
        ),
        idle_timeout_ms: r.duration_ms("idle_timeout", 5 * S, 0..=5 * M),
        session_time_ms_max: r.duration_ms("session_time_max", 5 * M, S..=D),
        stop_ms_max: r.duration_ms("stop_timeout", 30 * S, 0..=10 * M),
        timeouts: Timeouts {
            connect_ms: r.duration_ms("connect_timeout", 30 * S, 100..=10 * M),
            greeting_ms: r.duration_ms("greeting_timeout", machine.greeting_ms, 100..=H),
            ehlo_ms: r.duration_ms("ehlo_timeout", machine.ehlo_ms, 100..=H),
            mail_ms: r.duration_ms("mail_timeout", machine.mail_ms, 100..=H),
            rcpt_ms: r.duration_ms("rcpt_timeout", machine.rcpt_ms, 100..=H),
            data_ms: r.duration_ms("data_timeout", machine.data_ms, 100..=H),
            data_block_ms: r.duration_ms("data_block_timeout", machine.data_block_ms, 100..=H),
            end_of_data_ms: r.duration_ms(
                "end_of_data_timeout",
                machine.end_of_data_ms,
                100..=2 * H,
            ),
            quit_ms: r.duration_ms("quit_timeout", machine.quit_ms, 100..=5 * M),
        },
        port: r.number("port", 25, 1..=u16::MAX),
        source_addresses: r.list(
            "source_addresses",
            "list of IP addresses",
            &[],
            1_024,
            |text| {
                text.parse()
                    .map_err(|_| format!("`{text}` is not an IP address"))
            },
        ),
        ip_family: r.word(
            "ip_family",
            &[
                ("any", IpFamily::Any),
                ("ipv4", IpFamily::Ipv4),
                ("ipv6", IpFamily::Ipv6),
            ],
        ),
        allow_addresses: r.list("allow_addresses", "list of networks", &[], 256, Cidr::parse),
        mx_hosts_max: r.number("mx_hosts_max", 20, 1..=100),
        dsn: r.boolean("dsn", true),
        dsn_return: r.word(
            "dsn_return",
            &[("headers", DsnReturn::Headers), ("full", DsnReturn::Full)],
        ),
    }
}
