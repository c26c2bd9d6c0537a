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

/// What kind of failure a message is tried again after; what is tried again sooner stands first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RetryClass {
    /// A receiver that wants a message twice from strangers (RFC 6647).
    Greylisted,
    /// Network, system, rate.
    Transient,
    /// Nothing known.
    #[default]
    Other,
    /// A refusal by policy.
    Policy,
    /// The mailbox: full, or suspended.
    Mailbox,
}

/// Waits after a greylisting where the policy has none, seconds; never longer than the schedule itself has.
/// Receivers want 1 to 5 minutes, some 15 (RFC 6647 §5).
const GREYLISTED_S: [u32; 5] = [60, 120, 300, 300, 600];
/// The longest wait that a receiver is believed which names one, seconds.
pub const ASKED_S_MAX: u32 = 3600;

/// The wait that a receiver asks for in words (`try again in 5 minutes`), seconds.
pub fn asked_wait_s(text: &str) -> Option<u32> {
    let text = text.to_ascii_lowercase();
    let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let wait = words.windows(3).find_map(|three| {
        let &[before, number, unit] = three else {
            return None;
        };
        let scale = match unit {
            "s" | "sec" | "secs" | "second" | "seconds" => 1,
            "m" | "min" | "mins" | "minute" | "minutes" => 60,
            "h" | "hour" | "hours" => 3600,
            _ => return None,
        };
        let number: u32 = number.parse().ok()?;
        matches!(before, "in" | "after" | "for" | "least" | "wait")
            .then(|| number.saturating_mul(scale))
    })?;
    (1..=ASKED_S_MAX).contains(&wait).then_some(wait)
}

impl RetrySchedule {
    /// With the waits for greylisting.
    #[must_use]
    pub fn greylisted(&self) -> Self {
        let own = |step: usize| self.delays_s.get(step).or(self.delays_s.last());
        let shorter =
            |(step, wait_s): (usize, &u32)| own(step).map_or(*wait_s, |own| *wait_s.min(own));
        Self {
            delays_s: GREYLISTED_S.iter().enumerate().map(shorter).collect(),
            ..*self
        }
    }

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
    fn wait_that_a_receiver_asks_for_is_found_in_its_words() {
        for (text, wait_s) in [
            ("Greylisted, please try again in 300 seconds", Some(300)),
            ("Greylisting in action, try again in 5 minutes.", Some(300)),
            ("4.7.1 wait at least 10 min before you retry", Some(600)),
            ("Greylisted for 3 days", None),
            ("try again in 99999999999 seconds", None),
            ("try again later", None),
            ("mailbox of 250 MB in 2 parts", None),
        ] {
            assert_eq!(asked_wait_s(text), wait_s, "{text}");
        }
    }

    #[test]
    fn greylisted_mail_waits_minutes_and_never_longer_than_other_mail() {
        let usual = RetrySchedule::default();
        assert_eq!(usual.greylisted().delays_s, GREYLISTED_S);
        let fast = RetrySchedule {
            delays_s: vec![1],
            ..usual
        };
        assert_eq!(fast.greylisted().delays_s, [1; 5]);
    }

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
