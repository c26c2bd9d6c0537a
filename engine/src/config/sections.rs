//! The tables of a configuration file: each key with its default and bounds, named where it is
//! read.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::net::{Cidr, DomainPattern, NextHop, check_host_name};
use super::reader::{Reader, TextDefault};
use super::units::{format_duration_ms, parse_duration_ms};
use crate::limits::{
    MESSAGE_BYTES_MAX, RECIPIENTS_MAX, RETRY_STEPS_MAX, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
    SHARDS_MAX, TAG_HEADERS_MAX,
};
use crate::shard::QUESTIONS_MAX;

const S: u64 = 1_000;
const M: u64 = 60 * S;
const H: u64 = 60 * M;
const D: u64 = 24 * H;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// `[server]`: who we are and where our data lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Name in greeting, EHLO and Received, lower case.
    pub hostname: String,
    /// The directory of everything that must survive.
    pub data_dir: PathBuf,
    /// Number of shards; `None`: one per available core.
    pub shards: Option<u16>,
    /// Header whose value is the message's group; compared without case.
    pub group_header: String,
    /// Headers whose values go into the delivery log as tags.
    pub tag_headers: Vec<String>,
    /// Remove group and tag headers on delivery.
    pub strip_headers: bool,
    /// Add a Date header where there is none.
    pub add_date: bool,
    /// Add a Message-ID header where there is none.
    pub add_message_id: bool,
}

pub(super) fn server(r: &mut Reader<'_, '_>) -> Option<Server> {
    let hostname = r.text("hostname", "host name", TextDefault::Required, |text| {
        check_host_name(text)?;
        Ok(text.to_ascii_lowercase())
    });
    let data_dir = r.path("data_dir", TextDefault::Text("/var/lib/hikyaku"));
    let shards = r.number_or(
        "shards",
        None,
        "one per available core".into(),
        1..=SHARDS_MAX,
    );
    let group_header = r.text(
        "group_header",
        "header name",
        TextDefault::Text("X-Hikyaku-Group"),
        header_name,
    );
    let tag_headers = r.list(
        "tag_headers",
        "list of header names",
        &["X-Hikyaku-Tag"],
        TAG_HEADERS_MAX,
        header_name,
    );
    let strip_headers = r.boolean("strip_headers", true);
    let add_date = r.boolean("add_date", true);
    let add_message_id = r.boolean("add_message_id", true);
    Some(Server {
        hostname: hostname?,
        data_dir: data_dir?,
        shards,
        group_header: group_header?,
        tag_headers,
        strip_headers,
        add_date,
        add_message_id,
    })
}

/// A field name (RFC 5322 §2.2).
fn header_name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_graphic() && b != b':';
    if !text.is_empty() && text.len() <= 77 && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is not a header name; write it without colon and spaces"
        ))
    }
}

/// Where the passphrase comes from. The key itself never touches a disk of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The terminal at start, else `hikyaku unlock`.
    Prompt,
    /// A file, read once.
    File(PathBuf),
    /// Standard input, read to its end.
    Stdin,
    /// An inherited file descriptor.
    Fd(u32),
    /// A file of that name in `$CREDENTIALS_DIRECTORY` (systemd).
    Credential(String),
    /// Standard output of a program; the first item is the program.
    Command(Vec<String>),
}

/// `[key]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Where the passphrase comes from.
    pub source: KeySource,
    /// The file that `hikyaku init` fills with the installation secret.
    pub secret: PathBuf,
    /// How long a key program may run, ms.
    pub command_timeout_ms: u64,
}

pub(super) fn key(r: &mut Reader<'_, '_>) -> Option<Key> {
    #[derive(Clone, Copy, PartialEq)]
    enum From {
        Prompt,
        File,
        Credential,
        Command,
    }
    let base = r.base();
    let from = r.word(
        "source",
        &[
            ("prompt", From::Prompt),
            ("file", From::File),
            ("credential", From::Credential),
            ("command", From::Command),
        ],
    );
    let path = r.text(
        "path",
        "path, `-` or `fd:N`",
        TextDefault::Absent("none; required for source `file`"),
        |text| {
            if text == "-" {
                return Ok(KeySource::Stdin);
            }
            if let Some(number) = text.strip_prefix("fd:") {
                let number = number
                    .parse()
                    .map_err(|_| "write the descriptor as e.g. `fd:3`")?;
                return Ok(KeySource::Fd(number));
            }
            if text.is_empty() || text.contains('\0') {
                return Err("the path is empty or has a NUL in it".into());
            }
            Ok(KeySource::File(base.join(text)))
        },
    );
    let name = r.text(
        "name",
        "credential name",
        TextDefault::Text("hikyaku-key"),
        |text| {
            if text.is_empty() || text.contains(['/', '\0']) || text.starts_with('.') {
                return Err(format!("`{text}` is not the name of a credential"));
            }
            Ok(text.to_owned())
        },
    );
    let command = r.list("command", "list: program and arguments", &[], 64, |text| {
        Ok(text.to_owned())
    });
    let command_timeout_ms = r.duration_ms("command_timeout", 30 * S, S..=10 * M);
    let secret = r.path("secret", TextDefault::Text("installation.secret"));
    for (key, wanted, word) in [
        ("path", From::File, "file"),
        ("name", From::Credential, "credential"),
        ("command", From::Command, "command"),
    ] {
        if r.has(key) && from != wanted {
            let hint = format!("set `source = \"{word}\"` or remove `{key}`");
            r.fault(
                key,
                format!("`{key}` has no meaning for this source"),
                Some(hint),
            );
        }
    }
    let source = match from {
        From::Prompt => KeySource::Prompt,
        From::File => {
            if !r.has("path") {
                let hint =
                    "add `path = \"/run/hikyaku/key\"`, \"-\" for standard input or \"fd:3\"";
                r.fault("source", "source \"file\" needs `path`", Some(hint.into()));
            }
            path?
        }
        From::Credential => KeySource::Credential(name?),
        From::Command => {
            if command.first().is_none_or(String::is_empty) {
                let hint =
                    "add e.g. `command = [\"/usr/local/bin/fetch-key\", \"--name\", \"hikyaku\"]`";
                r.fault(
                    "source",
                    "source \"command\" needs `command`",
                    Some(hint.into()),
                );
            }
            KeySource::Command(command)
        }
    };
    Some(Key {
        source,
        secret: secret?,
        command_timeout_ms,
    })
}

/// One `[[listen]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Every shard accepts here.
    pub address: SocketAddr,
    /// Clients that may relay to any domain.
    pub relay_from: Vec<Cidr>,
}

impl Listen {
    /// Whether a client at `address` may relay.
    pub fn may_relay(&self, address: IpAddr) -> bool {
        self.relay_from.iter().any(|net| net.contains(address))
    }
}

pub(super) fn listen(r: &mut Reader<'_, '_>) -> Option<Listen> {
    let address = r.text(
        "address",
        "IP address and port",
        TextDefault::Required,
        socket_address,
    );
    let relay_from = r.list("relay_from", "list of networks", &[], 4096, Cidr::parse);
    Some(Listen {
        address: address?,
        relay_from,
    })
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(address),
        Ok(_) => Err(format!(
            "`{text}`: port 0 cannot be told to clients; choose one"
        )),
        Err(_) => Err(format!(
            "`{text}` is not an address with port; write e.g. `127.0.0.1:25` or `[::]:25`"
        )),
    }
}

/// `[control]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The Unix socket that `hikyaku` talks to.
    pub socket: PathBuf,
    /// HTTPS for the page and API; not served by this version.
    pub https: Option<SocketAddr>,
    /// How long a shard may take to answer a question, ms.
    pub answer_timeout_ms: u64,
}

pub(super) fn control(r: &mut Reader<'_, '_>) -> Control {
    let socket = r.path("socket", TextDefault::Text("/run/hikyaku/control.sock"));
    let https = r.text(
        "https",
        "IP address and port",
        TextDefault::Absent("none"),
        socket_address,
    );
    let answer_timeout_ms = r.duration_ms("answer_timeout", 10 * S, 100..=5 * M);
    // A path that is wrong has been reported, and the file is refused for it.
    Control {
        socket: socket.unwrap_or_default(),
        https,
        answer_timeout_ms,
    }
}

/// `[dns]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Recursive servers; empty: those of the system.
    pub servers: Vec<SocketAddr>,
    /// Wait for one answer, ms.
    pub timeout_ms: u64,
    /// Tries per server.
    pub attempts: u8,
    /// Cached answers per shard.
    pub cache_entries_max: u32,
    /// Longest time an answer is kept, whatever its TTL, ms.
    pub ttl_ms_max: u64,
    /// Longest time the absence of an answer is kept, ms.
    pub negative_ttl_ms_max: u64,
    /// Questions in flight per shard.
    pub queries_max: u32,
}

pub(super) fn dns(r: &mut Reader<'_, '_>) -> Dns {
    Dns {
        servers: r.list(
            "servers",
            "list of IP addresses, port 53 unless given",
            &[],
            16,
            |text| match text.parse::<IpAddr>() {
                Ok(address) => Ok(SocketAddr::new(address, 53)),
                Err(_) => socket_address(text),
            },
        ),
        timeout_ms: r.duration_ms("timeout", 5 * S, 100..=M),
        attempts: r.number("attempts", 2, 1..=10),
        cache_entries_max: r.number("cache_entries_max", 100_000, 100..=10_000_000),
        ttl_ms_max: r.duration_ms("ttl_max", D, S..=7 * D),
        negative_ttl_ms_max: r.duration_ms("negative_ttl_max", 15 * M, 0..=D),
        queries_max: r.number("queries_max", 1_000, 1..=QUESTIONS_MAX as u32),
    }
}

/// One `[[route]]`: overrides MX lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The recipient domains.
    pub domain: DomainPattern,
    /// Tried in this order, at least one.
    pub to: Vec<NextHop>,
}

pub(super) fn route(r: &mut Reader<'_, '_>) -> Option<Route> {
    let domain = r.text(
        "domain",
        "domain, `*.domain` or `*`",
        TextDefault::Required,
        DomainPattern::parse,
    );
    let to = r.list(
        "to",
        "list of hosts or addresses, port 25 unless given",
        &[],
        32,
        NextHop::parse,
    );
    if !r.has("to") {
        let hint = "add `to = \"smarthost.example.jp\"` or `to = \"192.0.2.1:25\"`";
        r.fault("to", "[[route]] has no `to`", Some(hint.into()));
    } else if to.is_empty() {
        r.fault("to", "`to` names no next hop", None);
    }
    Some(Route {
        domain: domain?,
        to,
    })
}

/// `[limits]`: what clients and memory may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Content of one message, bytes; announced with SIZE.
    pub message_bytes_max: u64,
    /// Recipients of one transaction.
    pub recipients_max: u32,
    /// Received headers before a message is taken for looping.
    pub hops_max: u32,
    /// Longest line of content, CRLF not counted, bytes.
    pub content_line_bytes_max: u64,
    /// SMTP sessions in, in all.
    pub sessions_max: u32,
    /// SMTP sessions in from one client address.
    pub sessions_per_client_max: u32,
    /// Refused commands before a session is closed with 421.
    pub errors_per_session_max: u32,
    /// Messages of one session before it is closed with 421.
    pub messages_per_session_max: u32,
    /// Wait between transactions, ms.
    pub idle_timeout_ms: u64,
    /// Wait for a whole command within a transaction, ms.
    pub command_timeout_ms: u64,
    /// Wait for more content, ms.
    pub data_timeout_ms: u64,
    /// From 354 to the end of content, ms.
    pub message_time_ms_max: u64,
    /// Content held in memory, in all shards, bytes.
    pub memory_bytes_max: u64,
    /// Part of it that may keep accepted content for its first delivery, bytes.
    pub content_cache_bytes_max: u64,
    /// Free space that is never used, bytes.
    pub disk_reserve_bytes: u64,
    /// Messages in the queue, in all shards.
    pub queued_messages_max: u64,
}

pub(super) fn limits(r: &mut Reader<'_, '_>) -> Limits {
    let limits = Limits {
        message_bytes_max: r.bytes("message_bytes_max", 32 * MIB, 64 * KIB..=MESSAGE_BYTES_MAX),
        recipients_max: r.number("recipients_max", 1_000, 100..=RECIPIENTS_MAX),
        hops_max: r.number("hops_max", 100, 1..=1_000),
        content_line_bytes_max: r.bytes("content_line_bytes_max", 998, 998..=MESSAGE_BYTES_MAX),
        sessions_max: r.number("sessions_max", 10_000, 1..=1_000_000),
        sessions_per_client_max: r.number("sessions_per_client_max", 1_000, 1..=1_000_000),
        errors_per_session_max: r.number("errors_per_session_max", 100, 1..=1_000_000),
        messages_per_session_max: r.number(
            "messages_per_session_max",
            1_000_000,
            1..=1_000_000_000,
        ),
        idle_timeout_ms: r.duration_ms("idle_timeout", 5 * M, S..=H),
        command_timeout_ms: r.duration_ms("command_timeout", 5 * M, S..=H),
        data_timeout_ms: r.duration_ms("data_timeout", 3 * M, S..=H),
        message_time_ms_max: r.duration_ms("message_time_max", 30 * M, 10 * S..=D),
        memory_bytes_max: r.bytes("memory_bytes_max", 256 * MIB, 8 * MIB..=TIB),
        content_cache_bytes_max: r.bytes("content_cache_bytes_max", 64 * MIB, 0..=TIB),
        disk_reserve_bytes: r.bytes("disk_reserve_bytes", 256 * MIB, 0..=TIB),
        queued_messages_max: r.number("queued_messages_max", 10_000_000, 1..=4_000_000_000),
    };
    if limits.content_cache_bytes_max > limits.memory_bytes_max {
        let hint = "lower it, or raise `memory_bytes_max`".to_owned();
        let message =
            "`content_cache_bytes_max` is more than `memory_bytes_max`, which it is part of";
        r.fault("content_cache_bytes_max", message, Some(hint));
    }
    if limits.message_bytes_max > limits.memory_bytes_max {
        let hint = "lower it, or raise `memory_bytes_max`".to_owned();
        let message = "`message_bytes_max` is more than `memory_bytes_max`: such a message could \
                       not be accepted";
        r.fault("message_bytes_max", message, Some(hint));
    }
    limits
}

/// What a DSN carries of the message it reports on (RFC 3464 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DsnReturn {
    /// The header section.
    Headers,
    /// All of it.
    Full,
}

/// Which addresses of an MX host are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpFamily {
    /// Both, in the order of preference.
    Any,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

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
    /// Sessions to one site, in all shards.
    pub sessions_max: u32,
    /// Messages before a session is ended.
    pub messages_per_session: u32,
    /// Recipients of one transaction.
    pub recipients_per_message: u32,
    /// How long an idle session is kept for the next message, ms.
    pub idle_timeout_ms: u64,
    /// Waits in a dialog.
    pub timeouts: Timeouts,
    /// Port of MX hosts.
    pub port: u16,
    /// Addresses connections come from, taken in turn; empty: the system's choice.
    pub source_addresses: Vec<IpAddr>,
    /// Which addresses of a host are used.
    pub ip_family: IpFamily,
    /// MX hosts of one domain that are tried.
    pub mx_hosts_max: u32,
    /// Report failed and expired recipients to the reverse-path.
    pub dsn: bool,
    /// What such a report carries of the message.
    pub dsn_return: DsnReturn,
}

pub(super) fn delivery(r: &mut Reader<'_, '_>) -> Delivery {
    let steps = ["1m", "5m", "15m", "30m", "1h", "2h", "4h"];
    let retry_schedule_ms = r.list(
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
    if retry_schedule_ms.is_empty() {
        r.fault(
            "retry_schedule",
            "`retry_schedule` has no valid entry",
            None,
        );
    }
    Delivery {
        retry_schedule_ms,
        retry_jitter_percent: r.number("retry_jitter_percent", 20, 0..=50),
        expire_after_ms: r.duration_ms("expire_after", 5 * D, S..=30 * D),
        sessions_max: r.number("sessions_max", 20, 1..=10_000),
        messages_per_session: r.number("messages_per_session", 1_000, 1..=1_000_000),
        recipients_per_message: r.number("recipients_per_message", 100, 1..=10_000),
        idle_timeout_ms: r.duration_ms("idle_timeout", 5 * S, 0..=5 * M),
        timeouts: Timeouts {
            connect_ms: r.duration_ms("connect_timeout", 30 * S, 100..=10 * M),
            greeting_ms: r.duration_ms("greeting_timeout", 5 * M, 100..=H),
            ehlo_ms: r.duration_ms("ehlo_timeout", 5 * M, 100..=H),
            mail_ms: r.duration_ms("mail_timeout", 5 * M, 100..=H),
            rcpt_ms: r.duration_ms("rcpt_timeout", 5 * M, 100..=H),
            data_ms: r.duration_ms("data_timeout", 2 * M, 100..=H),
            data_block_ms: r.duration_ms("data_block_timeout", 3 * M, 100..=H),
            end_of_data_ms: r.duration_ms("end_of_data_timeout", 10 * M, 100..=2 * H),
            quit_ms: r.duration_ms("quit_timeout", 5 * S, 100..=5 * M),
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
        mx_hosts_max: r.number("mx_hosts_max", 20, 1..=100),
        dsn: r.boolean("dsn", true),
        dsn_return: r.word(
            "dsn_return",
            &[("headers", DsnReturn::Headers), ("full", DsnReturn::Full)],
        ),
    }
}

/// `[queue]`: the segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Size of one segment file, bytes.
    pub segment_bytes: u64,
    /// Longest wait of a recorded outcome for its sync, ms.
    pub outcome_commit_ms_max: u64,
}

pub(super) fn queue(r: &mut Reader<'_, '_>) -> Queue {
    Queue {
        segment_bytes: r.bytes(
            "segment_bytes",
            64 * MIB,
            SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX,
        ),
        outcome_commit_ms_max: r.duration_ms("outcome_commit_max", 100, 1..=10 * S),
    }
}

/// `[log]`: the delivery log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A log segment is sealed at this size, bytes.
    pub rotate_bytes: u64,
    /// A log segment is sealed at this age, aligned to the clock, ms.
    pub rotate_every_ms: u64,
    /// Sealed segments older than this are deleted, ms.
    pub keep_age_ms: u64,
    /// The oldest sealed segments are deleted above this, all shards together, bytes.
    pub keep_bytes: u64,
}

pub(super) fn log(r: &mut Reader<'_, '_>) -> Log {
    Log {
        rotate_bytes: r.bytes("rotate_bytes", 64 * MIB, MIB..=SEGMENT_BYTES_MAX),
        rotate_every_ms: r.duration_ms("rotate_every", H, M..=D),
        keep_age_ms: r.duration_ms("keep_age", 30 * D, H..=3650 * D),
        keep_bytes: r.bytes("keep_bytes", 10 * GIB, 16 * MIB..=1_024 * TIB),
    }
}

/// `[counters]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Domains with a row of their own, per shard; the rest is `(other)`.
    pub domains_max: u32,
    /// Groups with a row of their own, per shard; the rest is `(other)`.
    pub groups_max: u32,
    /// How often the counts since ever are made durable, ms.
    pub save_every_ms: u64,
}

pub(super) fn counters(r: &mut Reader<'_, '_>) -> Counters {
    Counters {
        domains_max: r.number("domains_max", 20_000, 1..=1_000_000),
        groups_max: r.number("groups_max", 2_000, 1..=100_000),
        save_every_ms: r.duration_ms("save_every", 10 * S, S..=10 * M),
    }
}
