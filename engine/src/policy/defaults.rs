//! The default layer where the configuration says nothing.
//!
//! The only place that has these numbers: the configuration takes its defaults from here and its bounds
//! from [`Key::spec`], and whoever sends asks the policy.

use super::keys::{Key, Value};
use super::window::Zone;

const S: u64 = 1_000;
const M: u64 = 60 * S;
const H: u64 = 60 * M;
const D: u64 = 24 * H;

/// Quick at first, for greylisting, then rarer (RFC 5321 §4.5.4.1).
const RETRY_SCHEDULE_MS: [u64; 7] = [M, 5 * M, 15 * M, 30 * M, H, 2 * H, 4 * H];

impl Key {
    /// What holds where nobody sets it; `None`: there is no limit.
    pub fn built_in(self) -> Option<Value> {
        let value = match self {
            Self::SessionsMax => Value::Count(20),
            Self::MessagesPerSession => Value::Count(1_000),
            Self::SessionTimeMax => Value::Duration(5 * M),
            Self::IdleTimeout => Value::Duration(5 * S),
            Self::RetryJitterPercent => Value::Count(20),
            Self::RetrySchedule => Value::Durations(RETRY_SCHEDULE_MS.into()),
            Self::WindowZone => Value::Zone(Zone::UTC),
            Self::WindowSpread => Value::Duration(2 * M),
            Self::ExpireAfter => Value::Duration(5 * D),
            _ => return None,
        };
        Some(value)
    }
}
