//! The wall clock without its leaps: what retry times and ages are measured with.
//!
//! A wall clock is set by operators, by NTP after a start, by a bad RTC. One second of it being wrong by
//! days must neither expire a queue nor let retries wait for days. So the shard follows it only as long
//! as it goes like the monotonic clock; where it leaps, this one goes on as before and the leap is
//! reported (decision 100).
//!
//! What a start begins with may be wrong as well: until the clock has gone steadily for a while, mail of
//! earlier runs has no age, and its age follows a leap that comes meanwhile (decision 151).

use crate::clock::{Mono, Now, UnixMs};

/// A difference to the monotonic clock, between one event and the next, that is no mere correction,
/// milliseconds.
pub const LEAP_MS_MIN: u64 = 1000;

/// So long after a start, and after a leap in that time, is the wall clock on trial, milliseconds:
/// a machine that starts with a wrong clock has it set by then.
pub const TRIAL_MS: u64 = 10 * 60 * 1000;

/// Mail is of an earlier run if it was accepted so long before this one began, milliseconds: shards do
/// not begin at the same moment.
const RUN_SLACK_MS: u64 = 60 * 1000;

/// A clock in milliseconds since the epoch, as good as the wall clock was at the start.
#[derive(Debug)]
pub struct SteadyClock {
    last: Now,
    steady: UnixMs,
    /// When this run began, by itself.
    begun: UnixMs,
    trial_ends: Mono,
    /// How far the clock was set on trial.
    set_ms: i64,
}

impl SteadyClock {
    /// Agrees with the wall clock, for now.
    pub const fn new(now: Now) -> Self {
        Self {
            last: now,
            steady: now.unix,
            begun: now.unix,
            trial_ends: Mono(now.mono.0 + TRIAL_MS * 1000),
            set_ms: 0,
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
        if is_leap && now.mono < self.trial_ends {
            self.set_ms = self.set_ms.saturating_add(leap_ms);
            self.trial_ends = Mono(now.mono.0 + TRIAL_MS * 1000);
        }
        is_leap.then_some(leap_ms)
    }

    /// How old mail is that was accepted then, milliseconds; none as long as that cannot be known.
    pub const fn age_ms(&self, accepted: UnixMs, now: Now) -> u64 {
        let steady = self.unix(now);
        // Dated after now, it cannot be of this run, which may have begun under a clock of 1970.
        let is_to_come = accepted.0 > steady.0.saturating_add(RUN_SLACK_MS);
        if accepted.0.saturating_add(RUN_SLACK_MS) >= self.begun.0 && !is_to_come {
            return steady.0.saturating_sub(accepted.0);
        }
        if now.mono.0 < self.trial_ends.0 {
            return 0;
        }
        let set = steady.0.saturating_add_signed(self.set_ms);
        set.saturating_sub(accepted.0)
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

    /// A machine that started two days ahead, and had its clock set a second later, expired the queue.
    #[test]
    fn mail_of_earlier_runs_has_the_age_that_a_clock_on_trial_is_set_to() {
        let (day_ms, accepted) = (86_400_000, UnixMs(50 * 86_400_000));
        let start = accepted.0 + 3_600_000;
        let mut clock = SteadyClock::new(at(0, start + 2 * day_ms));
        assert_eq!(clock.age_ms(accepted, at(0, start + 2 * day_ms)), 0);
        assert_eq!(
            clock.observe(at(1000, start + 1000)),
            Some(-2 * (day_ms as i64))
        );
        let settled = at(1000 + TRIAL_MS, start + 1000 + TRIAL_MS);
        assert_eq!(clock.observe(settled), None);
        assert_eq!(
            clock.age_ms(accepted, settled),
            3_600_000 + 1000 + TRIAL_MS,
            "as it truly is"
        );
        let of_this_run = UnixMs(start + 2 * day_ms + 500);
        assert_eq!(clock.age_ms(of_this_run, settled), 500 + TRIAL_MS);
        // What comes later is not followed.
        let leapt = at(2000 + TRIAL_MS, start + 2000 + TRIAL_MS + day_ms);
        assert_eq!(clock.observe(leapt), Some(day_ms as i64));
        assert_eq!(clock.age_ms(accepted, leapt), 3_600_000 + 2000 + TRIAL_MS);
    }

    /// What was queued before a long time off is old when the clock has proved right.
    #[test]
    fn mail_that_waited_for_a_start_has_its_age_after_the_trial() {
        let day_ms = 86_400_000;
        let clock = SteadyClock::new(at(0, 60 * day_ms));
        let accepted = UnixMs(50 * day_ms);
        assert_eq!(clock.age_ms(accepted, at(TRIAL_MS - 1, 0)), 0);
        assert_eq!(
            clock.age_ms(accepted, at(TRIAL_MS, 0)),
            10 * day_ms + TRIAL_MS
        );
    }
}
