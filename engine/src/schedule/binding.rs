//! What mail waits for, in words, and what would end the wait.

use std::fmt;

use jiff::Timestamp;

use crate::clock::UnixMs;
use crate::delivery_log::utc;

/// Why mail of a destination, or one message, is not being sent at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Not durable yet, or other shards that own recipients have not confirmed.
    Storing,
    /// The queue is still being replayed after the start.
    Replaying,
    /// The resolver has been asked.
    AwaitingDns,
    /// The resolver has as many questions as it may; this one waits for its turn.
    QuestionsMax {
        /// How many are open.
        open: u64,
    },
    /// DNS gave no answer.
    DnsTrouble {
        /// What went wrong.
        trouble: &'static str,
        /// Seconds until it is asked again.
        retry_in_s: u64,
    },
    /// No MX host could be connected to, or all refused.
    SiteBackoff {
        /// The last failure seen.
        cause: Box<str>,
        /// Seconds until the next try.
        retry_in_s: u64,
    },
    /// Every session the limits allow is busy.
    SessionsMax {
        /// How many there are.
        sessions: u32,
    },
    /// The site is sent no more mail, or connections, in a time.
    RateMax {
        /// The policy's key: `messages_per_second`.
        limit: &'static str,
        /// Its value.
        units: u64,
        /// Milliseconds until the next may go.
        next_in_ms: u64,
    },
    /// The delivery window is closed.
    Window {
        /// When this domain's mail goes on: the opening, and its part of the spread.
        opens: UnixMs,
        /// Seconds until then.
        opens_in_s: u64,
    },
    /// The site has shown to take mail no faster.
    Paced {
        /// So many messages a minute.
        per_min: u64,
        /// Seconds since it first refused some.
        paced_for_s: u64,
        /// Milliseconds until the next may go.
        next_in_ms: u64,
    },
    /// A reply rule has the site rest.
    RuleRest {
        /// File and line of the rule.
        rule: Box<str>,
        /// The reply it was about.
        reply: Box<str>,
        /// Seconds until the rest ends.
        rest_in_s: u64,
    },
    /// A reply rule lets the site have no more in a time.
    RuleSlow {
        /// File and line of the rule.
        rule: Box<str>,
        /// The reply it was about.
        reply: Box<str>,
        /// So many messages
        units: u32,
        /// in so many seconds.
        per_s: u32,
        /// Milliseconds until the next may go.
        next_in_ms: u64,
        /// Seconds until the rule ends.
        ends_in_s: u64,
    },
    /// Connections are being opened.
    Connecting,
    /// The message was put off after an attempt.
    Retry {
        /// Attempts made.
        attempts: u16,
        /// Seconds until the next.
        retry_in_s: u64,
    },
    /// Other content read back for delivery fills the memory it may take.
    Memory,
    /// With a connection.
    Delivering,
    /// Outcomes cannot be recorded (disk), so nothing is sent that could not be noted as sent.
    DiskTrouble,
    /// The daemon is stopping: what is left is sent after the next start.
    Stopping,
    /// Sessions are at work, and as many as the waiting mail calls for.
    SessionsBusy {
        /// How many there are.
        sessions: u32,
    },
    /// The site's sessions, or the rest of a rate, are with other shards: its owner has been asked.
    Lent {
        /// The shard that owns the site.
        owner: u16,
        /// How long it has waited, milliseconds.
        waiting_ms: u64,
    },
    /// Every address of the site that is not in use refused or failed a moment ago.
    AddressesResting {
        /// The last failure seen.
        cause: Box<str>,
        /// Seconds until the first of them is tried again.
        retry_in_s: u64,
    },
    /// The domain takes no mail: what waits is being returned to its senders.
    Failing {
        /// Why it takes none.
        failure: &'static str,
    },
    /// An operator has stopped it.
    Suspended {
        /// The stop's number.
        number: u64,
        /// Which mail it is about.
        selector: Box<str>,
        /// Who stopped it.
        author: Box<str>,
        /// Why.
        reason: Box<str>,
        /// When that ends by itself.
        until: Option<UnixMs>,
    },
    /// The turn that begins it has not come yet: the next, or one of the next few.
    NextTurn,
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Storing => f.write_str("being stored"),
            Self::Replaying => f.write_str("queue replay in progress"),
            Self::AwaitingDns => f.write_str("awaiting DNS answer"),
            Self::QuestionsMax { open } => {
                write!(f, "all {open} DNS questions allowed are open; waits to ask")
            }
            Self::DnsTrouble {
                trouble,
                retry_in_s,
            } => {
                write!(f, "DNS {trouble}; asked again in {retry_in_s} s")
            }
            Self::SiteBackoff { cause, retry_in_s } => {
                write!(f, "site backoff, next try in {retry_in_s} s: {cause}")
            }
            Self::SessionsMax { sessions } => write!(f, "all {sessions} allowed sessions busy"),
            Self::RateMax {
                limit,
                units,
                next_in_ms,
            } => write!(f, "{limit} = {units}: the next in {next_in_ms} ms"),
            Self::Window { opens, opens_in_s } => {
                let at = Timestamp::from_millisecond(opens.0.cast_signed() / 1000 * 1000);
                let at = at.map_or_else(|_| "never".to_owned(), |at| at.to_string());
                write!(f, "delivery window closed, opens in {opens_in_s} s: {at}")
            }
            Self::Paced { .. } | Self::RuleRest { .. } | Self::RuleSlow { .. } => self.fmt_rule(f),
            Self::Connecting => f.write_str("connecting"),
            Self::Retry {
                attempts,
                retry_in_s,
            } => {
                write!(
                    f,
                    "deferred after attempt {attempts}, next in {retry_in_s} s"
                )
            }
            Self::Memory => {
                f.write_str("waiting for memory to be read back into: limits.memory_bytes_max")
            }
            Self::Delivering => f.write_str("being delivered"),
            Self::DiskTrouble => f.write_str("disk trouble: outcomes cannot be recorded"),
            Self::Stopping => f.write_str("stopping: sent after the next start"),
            Self::SessionsBusy { sessions } => write!(f, "behind others on {sessions} sessions"),
            Self::Lent { owner, waiting_ms } => write!(
                f,
                "what the site is allowed is with other shards; shard {owner} lends it, asked for {waiting_ms} ms"
            ),
            Self::AddressesResting { cause, retry_in_s } => {
                write!(
                    f,
                    "no other address to connect to, next try in {retry_in_s} s: {cause}"
                )
            }
            Self::Failing { failure } => write!(f, "being failed: {failure}"),
            Self::Suspended { .. } => self.fmt_suspended(f),
            Self::NextTurn => f.write_str("begins within a turn of the shard"),
        }
    }
}

impl Binding {
    fn fmt_rule(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paced {
                per_min,
                paced_for_s,
                next_in_ms,
            } => write!(
                f,
                "adaptive pace of {per_min} a minute, for {paced_for_s} s now: the next in {next_in_ms} ms"
            ),
            Self::RuleRest {
                rule,
                reply,
                rest_in_s,
            } => write!(
                f,
                "rule {rule} has the site rest for another {rest_in_s} s: {reply}"
            ),
            Self::RuleSlow {
                rule,
                reply,
                units,
                per_s,
                next_in_ms,
                ends_in_s,
            } => write!(
                f,
                "rule {rule} allows {units} messages in {per_s} s, for another {ends_in_s} s, the next in \
                 {next_in_ms} ms: {reply}"
            ),
            _ => Ok(()),
        }
    }

    fn fmt_suspended(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Suspended {
            number,
            selector,
            author,
            reason,
            until,
        } = self
        else {
            return Ok(());
        };
        write!(f, "suspended by {author} (stop {number}: {selector})")?;
        if let Some(until) = until {
            let until: String = utc::text(*until).map(char::from).iter().collect();
            write!(f, " until {until}")?;
        }
        if reason.is_empty() {
            return Ok(());
        }
        write!(f, ": {reason}")
    }

    /// What would end the wait, for the operator.
    pub const fn unbound_by(&self) -> &'static str {
        match self {
            Self::Storing => "its record durable at every shard that owns a recipient",
            Self::Replaying => "the end of the replay; whether it goes on: hikyaku status",
            Self::AwaitingDns => "an answer of the resolver, or its timeout",
            Self::QuestionsMax { .. } => "an answer to one of the open questions",
            Self::DnsTrouble { .. } => "a DNS answer at the next attempt; at once: hikyaku retry",
            Self::SiteBackoff { .. } => {
                "a host of the site that takes a session; tried at once: hikyaku retry"
            }
            Self::SessionsMax { .. } => {
                "a transaction that ends; more sessions: sessions_max, see hikyaku policy explain"
            }
            Self::RateMax { .. } => "its time; a higher rate: see hikyaku policy explain",
            Self::Window { .. } => "its opening; another window: see hikyaku policy explain",
            Self::Paced { .. } => {
                "its time; the pace rises while mail is taken; adaptive_floor, see hikyaku policy explain"
            }
            Self::RuleRest { .. } => {
                "the end of the rest; at once: hikyaku retry; another rest: a rule of your own, see hikyaku policy reply"
            }
            Self::RuleSlow { .. } => {
                "its time; another rate: a rule of your own, see hikyaku policy reply"
            }
            Self::Connecting => "a session that opens, or fails to",
            Self::Retry { .. } => "its retry time; at once: hikyaku retry",
            Self::Memory => "content in memory that is delivered; more: [limits] memory_bytes_max",
            Self::Delivering => "the peer's reply, or its timeout",
            Self::DiskTrouble => "a write to the queue that succeeds",
            Self::Stopping => "the next start of hikyakud",
            Self::SessionsBusy { .. } => {
                "a transaction that ends; another session opens within a tick"
            }
            Self::Lent { .. } => {
                "a session or message of another shard that ends, or its turn, seconds; more: see hikyaku policy explain"
            }
            Self::AddressesResting { .. } => {
                "an address whose rest ends, or a transaction that ends; at once: hikyaku retry"
            }
            Self::Failing { .. } => "the notifications to the senders, written over the next ticks",
            Self::Suspended { .. } => "its end; at once: hikyaku resume",
            Self::NextTurn => "the next turn of the shard, within a tenth of a second",
        }
    }
}
