//! Rates: so many a second, a minute, an hour, a day (GCRA, the generic cell rate algorithm of ITU-T I.371).
//!
//! A bucket remembers one time: when the next unit is due if units came evenly. One may come up to the
//! depth ahead of that, so that after a pause as many come at once as the depth holds, never more, and
//! over any long time not one more than the rate. Times are whole nanoseconds of a monotonic clock:
//! nothing is rounded away from call to call, so that it does not drift.

use crate::clock::Mono;

/// A rate, and how many units may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds between two units.
    interval_ns: u64,
    /// How far ahead of its time a unit may come, nanoseconds.
    depth_ns: u64,
}

impl Rate {
    /// `units` in `seconds`, of which `burst` (1 or more) may come at once. A rate of no units is taken for
    /// one unit.
    pub fn new(units: u64, seconds: u64, burst: u64) -> Self {
        // Rounded up: not one unit too many in a day.
        let interval_ns = seconds
            .saturating_mul(1_000_000_000)
            .div_ceil(units.max(1))
            .max(1);
        Self {
            interval_ns,
            depth_ns: interval_ns.saturating_mul(burst.max(1) - 1),
        }
    }

    /// The part of it that is one of `parts`: all parts together never exceed the whole, nor do their
    /// bursts as far as each is at least one.
    #[must_use]
    pub fn part(self, parts: u64) -> Self {
        let parts = parts.max(1);
        Self {
            interval_ns: self.interval_ns.saturating_mul(parts),
            depth_ns: self.depth_ns,
        }
    }
}

/// What has been used of a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// When the next unit is due, nanoseconds of [`Mono`]; 0 if none ever came.
    due_ns: u64,
}

const fn ns(now: Mono) -> u64 {
    // `Mono` counts microseconds.
    now.0.saturating_mul(1000)
}

impl Bucket {
    /// Whether one unit may come now; else the microseconds until it may.
    ///
    /// # Errors
    /// The wait, at least 1.
    pub const fn may_take(&self, rate: Rate, now: Mono) -> Result<(), u64> {
        let earliest = self.due_ns.saturating_sub(rate.depth_ns);
        match earliest.checked_sub(ns(now)) {
            None | Some(0) => Ok(()),
            Some(wait_ns) => Err(wait_ns.div_ceil(1000)),
        }
    }

    /// Takes `units`, allowed or not: what was sent was sent. More than may come now is made up for by a
    /// longer wait.
    pub fn take(&mut self, rate: Rate, units: u64, now: Mono) {
        let from = self.due_ns.max(ns(now));
        self.due_ns = from.saturating_add(rate.interval_ns.saturating_mul(units));
    }

    /// Units that were taken have not been used.
    pub const fn give_back(&mut self, rate: Rate, units: u64) {
        self.due_ns = (self.due_ns).saturating_sub(rate.interval_ns.saturating_mul(units));
    }

    /// Whether it remembers nothing that one never used would not say.
    pub const fn is_full(&self, now: Mono) -> bool {
        self.due_ns <= ns(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Units that a greedy sender gets through between two times, asking every `step` microseconds.
    fn sent(bucket: &mut Bucket, rate: Rate, from: u64, to: u64, step: u64) -> u64 {
        let mut count = 0;
        let mut at = from;
        while at < to {
            while bucket.may_take(rate, Mono(at)).is_ok() {
                bucket.take(rate, 1, Mono(at));
                count += 1;
            }
            at += step;
        }
        count
    }

    #[test]
    fn after_a_pause_no_more_come_at_once_than_the_depth() {
        let rate = Rate::new(10, 1, 3);
        let mut bucket = Bucket::default();
        for hour in 1..4 {
            let now = hour * 3_600_000_000;
            assert_eq!(sent(&mut bucket, rate, now, now + 1, 1), 3);
        }
    }

    #[test]
    fn a_day_of_asking_gives_a_days_units_and_no_more() {
        // Asked now and then only, a bucket needs the depth that one such pause uses up.
        let rate = Rate::new(50_000, 86_400, 2);
        let mut bucket = Bucket::default();
        let day = 86_400_000_000;
        let count = sent(&mut bucket, rate, day, 2 * day, 100_000);
        assert!((49_999..=50_001).contains(&count), "{count}");
    }

    #[test]
    fn what_came_in_excess_is_waited_for() {
        let rate = Rate::new(1, 1, 1);
        let mut bucket = Bucket::default();
        bucket.take(rate, 5, Mono(1_000_000));
        assert_eq!(bucket.may_take(rate, Mono(1_000_000)), Err(5_000_000));
        assert_eq!(bucket.may_take(rate, Mono(6_000_000)), Ok(()));
    }

    proptest! {
        #[test]
        fn no_window_holds_more_than_rate_and_depth(
            units in 1u64..2000, seconds in 1u64..120, burst in 1u64..50,
            gaps in prop::collection::vec(0u64..2_000_000, 1..400),
        ) {
            let rate = Rate::new(units, seconds, burst);
            let mut bucket = Bucket::default();
            let mut now = 1_000_000;
            let mut taken = Vec::new();
            for gap in gaps {
                now += gap;
                if bucket.may_take(rate, Mono(now)).is_ok() {
                    bucket.take(rate, 1, Mono(now));
                    taken.push(now);
                }
            }
            for (nth, first) in taken.iter().enumerate() {
                let last = taken[taken.len() - 1];
                let held = (taken.len() - nth) as u64;
                let allowed = (last - first) * units / (seconds * 1_000_000) + burst + 1;
                prop_assert!(held <= allowed, "{held} > {allowed}");
            }
        }

        #[test]
        fn the_wait_it_tells_is_right(units in 1u64..5000, burst in 1u64..20, used in 1u64..60) {
            let rate = Rate::new(units, 1, burst);
            let mut bucket = Bucket::default();
            let now = 5_000_000;
            bucket.take(rate, used, Mono(now));
            if let Err(wait) = bucket.may_take(rate, Mono(now)) {
                prop_assert!(bucket.may_take(rate, Mono(now + wait)).is_ok());
                prop_assert!(bucket.may_take(rate, Mono(now + wait - 1)).is_err());
            }
        }

        #[test]
        fn what_comes_back_is_there_again_and_no_more(units in 1u64..1000, taken in 1u64..20, back in 0u64..20) {
            let back = back.min(taken);
            let (rate, now) = (Rate::new(units, 1, 1), Mono(5_000_000));
            let (mut bucket, mut other) = (Bucket::default(), Bucket::default());
            bucket.take(rate, taken, now);
            bucket.give_back(rate, back);
            other.take(rate, taken - back, now);
            prop_assert_eq!(bucket.may_take(rate, now), other.may_take(rate, now));
        }

        #[test]
        fn parts_never_exceed_the_whole(units in 1u64..1000, parts in 1u64..9) {
            let rate = Rate::new(units, 1, 1);
            let mut buckets = vec![Bucket::default(); parts as usize];
            let second = 1_000_000;
            let total: u64 = buckets
                .iter_mut()
                .map(|bucket| sent(bucket, rate.part(parts), second, 11 * second, 5_000))
                .sum();
            prop_assert!(total <= units * 10 + parts, "{total}");
        }
    }
}
