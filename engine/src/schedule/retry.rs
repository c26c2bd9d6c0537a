//! When to try again: a list of delays, the last of which repeats, with jitter.

use crate::random::Random;

/// Retry delays and the age at which a message expires.
#[derive(Clone, Debug)]
pub struct RetrySchedule {
    /// Seconds after the first, second, … failed attempt; the last repeats. Not empty.
    pub delays_s: Vec<u32>,
    /// Each delay is spread by up to this share of it either way, percent, below 100.
    pub jitter_percent: u8,
    /// Seconds after acceptance at which a message is given up.
    pub expire_after_s: u32,
}

impl Default for RetrySchedule {
    /// Quick at first, for greylisting, then rarer; five days in all (RFC 5321 §4.5.4.1).
    fn default() -> Self {
        Self {
            delays_s: vec![60, 300, 600, 1200, 1800, 3600, 7200, 14_400],
            jitter_percent: 20,
            expire_after_s: 5 * 86_400,
        }
    }
}

impl RetrySchedule {
    /// The longest that [`Self::delay_s`] gives, or more.
    pub fn longest_s(&self) -> u32 {
        self.delays_s
            .iter()
            .max()
            .map_or(300, |longest| longest.saturating_mul(2))
    }

    /// Seconds to wait after `attempts` (at least 1) failed ones.
    pub fn delay_s(&self, attempts: u16, random: &mut Random) -> u32 {
        let step = usize::from(attempts.max(1)) - 1;
        let delay = self
            .delays_s
            .get(step)
            .or(self.delays_s.last())
            .copied()
            .unwrap_or(300);
        self.spread_s(delay, random)
    }

    /// A wait of about `delay` seconds.
    pub fn spread_s(&self, delay: u32, random: &mut Random) -> u32 {
        let spread = u64::from(delay) * u64::from(self.jitter_percent.min(99)) / 100;
        (u64::from(delay) - spread + random.below(2 * spread + 1)).max(1) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_follow_the_list_within_jitter_and_the_last_repeats() {
        let schedule = RetrySchedule {
            delays_s: vec![60, 600],
            ..RetrySchedule::default()
        };
        let mut random = Random::new(1);
        for _ in 0..1000 {
            assert!((48..=72).contains(&schedule.delay_s(1, &mut random)));
            assert!((480..=720).contains(&schedule.delay_s(2, &mut random)));
            assert!((480..=720).contains(&schedule.delay_s(9, &mut random)));
        }
    }
}
