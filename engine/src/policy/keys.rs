//! The values a policy may set: name, kind, bounds, and in which layers each may stand.

use std::fmt;

use super::window::{Span, WINDOW_SPANS_MAX, Zone};
use crate::limits::RETRY_STEPS_MAX;
use crate::units::{format_duration_ms, parse_duration_ms};

/// How specific a row is; a later one goes over an earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// Everything: `[delivery]` of the configuration.
    Default,
    /// A set of domains and MX hosts.
    Provider,
    /// Recipient domains.
    Domain,
}

impl Layer {
    /// The table of a file whose rows are of this layer.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Provider => "provider",
            Self::Domain => "domain",
        }
    }
}

const S: u64 = 1_000;
const M: u64 = 60 * S;
const D: u64 = 24 * 60 * M;

/// What kind of value a key has, with its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number.
    Count {
        /// Least.
        min: u64,
        /// Greatest.
        max: u64,
    },
    /// Milliseconds.
    Duration {
        /// Least.
        min_ms: u64,
        /// Greatest.
        max_ms: u64,
    },
    /// A list of durations, at most [`RETRY_STEPS_MAX`].
    Durations {
        /// Least of each.
        min_ms: u64,
        /// Greatest of each.
        max_ms: u64,
    },
    /// Times of the week, at most [`WINDOW_SPANS_MAX`].
    Window,
    /// A time zone.
    Zone,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Count { min, max } => write!(f, "a whole number, {min} to {max}"),
            Self::Duration { min_ms, max_ms } => write!(
                f,
                "a duration such as \"30s\", \"5m\", {} to {}",
                format_duration_ms(min_ms),
                format_duration_ms(max_ms)
            ),
            Self::Durations { min_ms, max_ms } => write!(
                f,
                "a list of durations such as [\"5m\", \"1h\"], each {} to {}, {RETRY_STEPS_MAX} at most",
                format_duration_ms(min_ms),
                format_duration_ms(max_ms)
            ),
            Self::Window => write!(
                f,
                "a list of times such as [\"mon-fri 09:00-18:00\", \"sat,sun\"], {WINDOW_SPANS_MAX} at most"
            ),
            Self::Zone => f.write_str("a time zone such as \"Asia/Tokyo\" or \"UTC\""),
        }
    }
}

/// One value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A whole number.
    Count(u64),
    /// Milliseconds.
    Duration(u64),
    /// Milliseconds each.
    Durations(Box<[u64]>),
    /// Times of the week, by the clock of a zone.
    Window(Box<[Span]>),
    /// A time zone.
    Zone(Zone),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(n) => n.fmt(f),
            Self::Duration(ms) => f.write_str(&format_duration_ms(*ms)),
            Self::Durations(list) => {
                let texts: Vec<_> = list.iter().map(|ms| format_duration_ms(*ms)).collect();
                f.write_str(&texts.join(", "))
            }
            Self::Window(spans) => {
                let texts: Vec<_> = spans.iter().map(ToString::to_string).collect();
                f.write_str(&texts.join("; "))
            }
            Self::Zone(zone) => zone.fmt(f),
        }
    }
}

impl Kind {
    /// Takes a whole number, if the kind is one and it is within bounds.
    pub(super) fn number(self, n: u64) -> Option<Value> {
        match self {
            Self::Count { min, max } => (min..=max).contains(&n).then_some(Value::Count(n)),
            _ => None,
        }
    }

    /// Takes a text.
    pub(super) fn text(self, text: &str) -> Option<Value> {
        match self {
            Self::Count { .. } => None,
            Self::Duration { min_ms, max_ms } => parse_duration_ms(text)
                .filter(|ms| (min_ms..=max_ms).contains(ms))
                .map(Value::Duration),
            Self::Durations { .. } | Self::Window => self.texts(&[text]),
            Self::Zone => text.parse().ok().map(Value::Zone),
        }
    }

    /// Takes a list of texts.
    pub(super) fn texts(self, texts: &[&str]) -> Option<Value> {
        if self == Self::Window {
            let is_list = (1..=WINDOW_SPANS_MAX).contains(&texts.len());
            let spans: Option<Box<[Span]>> = texts.iter().map(|text| text.parse().ok()).collect();
            return spans.filter(|_| is_list).map(Value::Window);
        }
        let Self::Durations { min_ms, max_ms } = self else {
            return None;
        };
        if texts.is_empty() || texts.len() > RETRY_STEPS_MAX {
            return None;
        }
        let steps: Option<Box<[u64]>> = texts
            .iter()
            .map(|text| parse_duration_ms(text).filter(|ms| (min_ms..=max_ms).contains(ms)))
            .collect();
        steps.map(Value::Durations)
    }
}

/// The values, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Sessions to the site, over all shards.
    SessionsMax,
    /// Sessions for each receiving address of the site; the lower of both bounds holds.
    SessionsPerMta,
    /// New connections to the site a minute.
    ConnectionsPerMinute,
    /// Transactions over one session.
    MessagesPerSession,
    /// How long a session is given new messages.
    SessionTimeMax,
    /// How long an idle session is kept.
    IdleTimeout,
    /// Messages a second.
    MessagesPerSecond,
    /// Messages a minute.
    MessagesPerMinute,
    /// Messages an hour.
    MessagesPerHour,
    /// Messages a day.
    MessagesPerDay,
    /// Percent of its pace that trouble takes from a site; 0: it has none.
    AdaptiveDecreasePercent,
    /// Percent of its pace that a site wins a minute.
    AdaptiveIncreasePercent,
    /// The pace is never less than so many messages a minute.
    AdaptiveFloor,
    /// Waits before the second, third, … attempt; the last one repeats.
    RetrySchedule,
    /// The same after a greylisting.
    RetryGreylisted,
    /// The same where the mailbox is the matter.
    RetryMailbox,
    /// The same after trouble that passes: network, system, rate.
    RetryTransient,
    /// The same after a refusal by policy.
    RetryPolicy,
    /// Each wait is drawn from ± this much of it, percent.
    RetryJitterPercent,
    /// From acceptance until a message is given up.
    ExpireAfter,
    /// When mail may begin to be sent.
    Window,
    /// By which clock.
    WindowZone,
    /// Mail that has waited for the opening begins within this after it.
    WindowSpread,
}

/// What there is to know of a key.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// The key.
    pub key: Key,
    /// As it is written.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Layers whose rows may set it. A limit of what a site is sent means nothing in a row that is not
    /// for whole sites.
    pub layers: &'static [Layer],
}

const SITE: &[Layer] = &[Layer::Default, Layer::Provider];
const RATE: &[Layer] = &[Layer::Provider];
const MAIL: &[Layer] = &[Layer::Default, Layer::Provider, Layer::Domain];

const CLASS: &[Layer] = &[Layer::Provider, Layer::Domain];

const fn count(max: u64) -> Kind {
    Kind::Count { min: 1, max }
}

const fn duration(min_ms: u64, max_ms: u64) -> Kind {
    Kind::Duration { min_ms, max_ms }
}

/// Every value, in the order of [`Key`].
pub const KEYS: [Spec; 23] = [
    spec(Key::SessionsMax, "sessions_max", count(10_000), SITE),
    spec(Key::SessionsPerMta, "sessions_per_mta", count(1_000), SITE),
    spec(
        Key::ConnectionsPerMinute,
        "connections_per_minute",
        count(1_000_000),
        RATE,
    ),
    spec(
        Key::MessagesPerSession,
        "messages_per_session",
        count(1_000_000),
        SITE,
    ),
    spec(
        Key::SessionTimeMax,
        "session_time_max",
        duration(S, D),
        SITE,
    ),
    spec(Key::IdleTimeout, "idle_timeout", duration(0, 5 * M), SITE),
    spec(
        Key::MessagesPerSecond,
        "messages_per_second",
        count(1_000_000),
        RATE,
    ),
    spec(
        Key::MessagesPerMinute,
        "messages_per_minute",
        count(10_000_000),
        RATE,
    ),
    spec(
        Key::MessagesPerHour,
        "messages_per_hour",
        count(100_000_000),
        RATE,
    ),
    spec(
        Key::MessagesPerDay,
        "messages_per_day",
        count(1_000_000_000),
        RATE,
    ),
    spec(
        Key::AdaptiveDecreasePercent,
        "adaptive_decrease_percent",
        Kind::Count { min: 0, max: 90 },
        RATE,
    ),
    spec(
        Key::AdaptiveIncreasePercent,
        "adaptive_increase_percent",
        count(1_000),
        RATE,
    ),
    spec(Key::AdaptiveFloor, "adaptive_floor", count(1_000_000), RATE),
    spec(
        Key::RetrySchedule,
        "retry_schedule",
        Kind::Durations {
            min_ms: S,
            max_ms: 7 * D,
        },
        MAIL,
    ),
    class_schedule(Key::RetryGreylisted, "retry_schedule_greylisted"),
    class_schedule(Key::RetryMailbox, "retry_schedule_mailbox"),
    class_schedule(Key::RetryTransient, "retry_schedule_transient"),
    class_schedule(Key::RetryPolicy, "retry_schedule_policy"),
    spec(
        Key::RetryJitterPercent,
        "retry_jitter_percent",
        Kind::Count { min: 0, max: 50 },
        MAIL,
    ),
    spec(Key::ExpireAfter, "expire_after", duration(S, 30 * D), MAIL),
    spec(Key::Window, "window", Kind::Window, MAIL),
    spec(Key::WindowZone, "window_zone", Kind::Zone, MAIL),
    spec(
        Key::WindowSpread,
        "window_spread",
        duration(0, 60 * M),
        MAIL,
    ),
];

const fn class_schedule(key: Key, name: &'static str) -> Spec {
    let kind = Kind::Durations {
        min_ms: S,
        max_ms: 7 * D,
    };
    spec(key, name, kind, CLASS)
}

const fn spec(key: Key, name: &'static str, kind: Kind, layers: &'static [Layer]) -> Spec {
    Spec {
        key,
        name,
        kind,
        layers,
    }
}

impl Key {
    /// What there is to know of it.
    pub const fn spec(self) -> &'static Spec {
        &KEYS[self as usize]
    }

    /// The key of that name.
    pub fn named(name: &str) -> Option<Self> {
        KEYS.iter()
            .find(|spec| spec.name == name)
            .map(|spec| spec.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stand_in_their_order_and_names_are_unique() {
        for (at, spec) in KEYS.iter().enumerate() {
            assert_eq!(spec.key as usize, at, "{}", spec.name);
            assert_eq!(Key::named(spec.name), Some(spec.key));
        }
    }

    #[test]
    fn values_are_taken_within_their_bounds_only() {
        let sessions = Key::SessionsMax.spec().kind;
        assert_eq!(sessions.number(5), Some(Value::Count(5)));
        assert_eq!(sessions.number(0), None);
        assert_eq!(sessions.text("5"), None, "a number stands without quotes");
        let idle = Key::IdleTimeout.spec().kind;
        assert_eq!(idle.text("90s"), Some(Value::Duration(90_000)));
        assert_eq!(idle.text("6m"), None);
        let schedule = Key::RetrySchedule.spec().kind;
        let steps: Box<[u64]> = [300_000, 3_600_000].into();
        assert_eq!(schedule.texts(&["5m", "1h"]), Some(Value::Durations(steps)));
        assert_eq!(schedule.texts(&[]), None);
    }
}
