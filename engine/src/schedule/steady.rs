//! The wall clock without its leaps: what retry times and ages are measured with.
//!
//! A wall clock is set by operators, by NTP after a start, by a bad RTC. One second of it being wrong by
//! days must neither expire a queue nor let retries wait for days. So the shard follows it only as long
//! as it goes like the monotonic clock; where it leaps, this one goes on as before and the leap is
//! reported (decision 100).

use crate::clock::{Now, UnixMs};

/// A difference to the monotonic clock, between one event and the next, that is no mere correction,
/// milliseconds.
pub const LEAP_MS_MIN: u64 = 1000;

/// A clock in milliseconds since the epoch, as good as the wall clock was at the start.
#[derive(Debug)]
pub struct SteadyClock {
    last: Now,
    steady: UnixMs,
}

impl SteadyClock {
    /// Agrees with the wall clock, for now.
    pub const fn new(now: Now) -> Self {
        Self {
            last: now,
            steady: now.unix,
        }
    }

    /// Takes in the time of an event. Returns how far the wall clock has leapt since the one before,
    /// milliseconds, if it has.
    pub fn observe(&mut self, now: Now) -> Option<i64> {
        let expected_ms = self.last.unix.0 + now.mono.ms_since(self.last.mono);
        let leap_ms = now.unix.0.cast_signed() - expected_ms.cast_signed();
        let is_leap = leap_ms.unsigned_abs() > LEAP_MS_MIN;
        self.steady = if is_leap {
            self.unix(now)
        } else {
            // Small corrections are followed, so that nothing adds up over months.
            let passed_ms = now.unix.0.cast_signed() - self.last.unix.0.cast_signed();
            UnixMs(self.steady.0.saturating_add_signed(passed_ms))
        };
        self.last = now;
        is_leap.then_some(leap_ms)
    }

    /// The time, whatever the wall clock says by now.
    pub const fn unix(&self, now: Now) -> UnixMs {
        UnixMs(self.steady.0 + now.mono.ms_since(self.last.mono))
    }

    /// As [`Self::unix`], in whole seconds.
    pub const fn seconds(&self, now: Now) -> u32 {
        self.unix(now).seconds()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Mono;

    fn at(mono_ms: u64, unix_ms: u64) -> Now {
        Now {
            mono: Mono(mono_ms * 1000),
            unix: UnixMs(unix_ms),
        }
    }

    #[test]
    fn leaps_are_told_and_not_followed_and_corrections_are_followed() {
        let day_ms = 86_400_000;
        let mut clock = SteadyClock::new(at(0, 5 * day_ms));
        assert_eq!(clock.observe(at(100, 5 * day_ms + 100)), None);
        let ahead = at(200, 7 * day_ms + 200);
        assert_eq!(
            clock.unix(ahead),
            UnixMs(5 * day_ms + 200),
            "before it is told"
        );
        assert_eq!(clock.observe(ahead), Some(2 * day_ms as i64));
        assert_eq!(clock.unix(ahead), UnixMs(5 * day_ms + 200));
        assert_eq!(
            clock.observe(at(300, 5 * day_ms + 300)),
            Some(-2 * (day_ms as i64))
        );
        assert_eq!(clock.observe(at(1300, 5 * day_ms + 1310)), None);
        assert_eq!(clock.unix(at(1300, 0)), UnixMs(5 * day_ms + 1310));
    }
}
