//! `[delivery]`: how mail goes out.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::reader::{Reader, TextDefault};
use super::{H, M, S};
use crate::dsn::DsnReturn;
use crate::limits::{RECIPIENTS_PER_TRANSACTION_MAX, RETRY_STEPS_MAX};
use crate::net::{Cidr, IpFamily};
use crate::policy::window::{WINDOW_SPANS_MAX, Zone};
use crate::policy::{KEYS, Key, Kind, Spec, Value};
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
    /// The default layer of the sending policy: each key that has a value where nobody sets it, and those
    /// that are set.
    pub policy: Vec<(Key, Value)>,
    /// Recipients of one transaction.
    pub recipients_per_message: u32,
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

pub(super) fn read(r: &mut Reader<'_, '_>) -> Delivery {
    let machine = ClientTimeouts::default();
    Delivery {
        policy: KEYS
            .iter()
            .filter_map(|spec| read_default(r, spec))
            .collect(),
        recipients_per_message: r.number(
            "recipients_per_message",
            100,
            1..=RECIPIENTS_PER_TRANSACTION_MAX,
        ),
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

/// A key of the sending policy, by its own bounds.
fn read_default(r: &mut Reader<'_, '_>, spec: &Spec) -> Option<(Key, Value)> {
    if spec.key == Key::Window {
        let spans = r.list(spec.name, "list of times", &[], WINDOW_SPANS_MAX, |text| {
            text.parse().map_err(|()| {
                format!("`{text}` must be a time of the week such as \"mon-fri 09:00-18:00\"")
            })
        });
        return (!spans.is_empty()).then(|| (spec.key, Value::Window(spans.into())));
    }
    let value = match (spec.key.built_in()?, spec.kind) {
        (Value::Count(n), Kind::Count { min, max }) => {
            Value::Count(r.number(spec.name, n, min..=max))
        }
        (Value::Duration(ms), Kind::Duration { min_ms, max_ms }) => {
            Value::Duration(r.duration_ms(spec.name, ms, min_ms..=max_ms))
        }
        (Value::Durations(steps), Kind::Durations { min_ms, max_ms }) => {
            let steps: Vec<String> = steps.iter().map(|ms| format_duration_ms(*ms)).collect();
            let texts: Vec<&str> = steps.iter().map(String::as_str).collect();
            Value::Durations(read_steps(r, spec.name, &texts, min_ms..=max_ms))
        }
        (Value::Zone(_), _) => {
            let utc = TextDefault::Text("UTC");
            let zone = r.text(spec.name, "time zone", utc, |text| {
                text.parse().map_err(|()| {
                    format!("`{text}` is no time zone such as \"Asia/Tokyo\" or \"UTC\"")
                })
            });
            Value::Zone(zone.unwrap_or(Zone::UTC))
        }
        _ => return None,
    };
    Some((spec.key, value))
}

fn read_steps(
    r: &mut Reader<'_, '_>,
    key: &'static str,
    default: &[&str],
    bounds: RangeInclusive<u64>,
) -> Box<[u64]> {
    let parse = |text: &str| {
        parse_duration_ms(text)
            .filter(|ms| bounds.contains(ms))
            .ok_or_else(|| {
                let (least, most) = (bounds.start(), bounds.end());
                let (least, most) = (format_duration_ms(*least), format_duration_ms(*most));
                format!("`{text}` must be a duration such as \"5m\", {least} to {most}")
            })
    };
    let steps = r.list(key, "list of durations", default, RETRY_STEPS_MAX, parse);
    if steps.is_empty() {
        r.fault(key, format!("`{key}` has no valid entry"), None);
    }
    steps.into()
}
