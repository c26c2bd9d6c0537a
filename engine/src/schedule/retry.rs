//! When to try again: a list of delays, the last of which repeats, with jitter.

use crate::random::Random;

/// Delays between the attempts of a message.
#[derive(Clone, Debug)]
pub struct RetrySchedule {
    /// Milliseconds after the first, second, … failed attempt; the last repeats. Not empty.
    pub delays_ms: Vec<u64>,
    /// Each delay is spread by up to this share of it either way, percent, below 100.
    pub jitter_percent: u8,
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

/// Waits after a greylisting where the policy has none, milliseconds; never longer than the schedule itself has.
/// Receivers want 1 to 5 minutes, some 15 (RFC 6647 §5).
const GREYLISTED_MS: [u64; 5] = [60_000, 120_000, 300_000, 300_000, 600_000];
/// The longest wait that a receiver is believed which names one, milliseconds.
pub const ASKED_MS_MAX: u64 = 3_600_000;

/// The wait that a receiver asks for in words (`try again in 5 minutes`), milliseconds.
pub fn asked_wait_ms(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let wait = words.windows(3).find_map(|three| {
        let &[before, number, unit] = three else {
            return None;
        };
        let scale = match unit {
            "s" | "sec" | "secs" | "second" | "seconds" => 1000,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
            "h" | "hour" | "hours" => 3_600_000,
            _ => return None,
        };
        let number: u64 = number.parse().ok()?;
        matches!(before, "in" | "after" | "for" | "least" | "wait")
            .then(|| number.saturating_mul(scale))
    })?;
    (1..=ASKED_MS_MAX).contains(&wait).then_some(wait)
}

impl RetrySchedule {
    /// With the waits for greylisting.
    #[must_use]
    pub fn greylisted(&self) -> Self {
        let own = |step: usize| self.delays_ms.get(step).or(self.delays_ms.last());
        let shorter =
            |(step, wait_ms): (usize, &u64)| own(step).map_or(*wait_ms, |own| *wait_ms.min(own));
        Self {
            delays_ms: GREYLISTED_MS.iter().enumerate().map(shorter).collect(),
            ..*self
        }
    }

    /// Milliseconds to wait after `attempts` (at least 1) failed ones.
    pub fn delay_ms(&self, attempts: u16, random: &mut Random) -> u64 {
        let step = usize::from(attempts.max(1)) - 1;
        let delays = &self.delays_ms;
        let delay_ms = delays.get(step).or(delays.last()).copied().unwrap_or(0);
        self.spread_ms(delay_ms, random)
    }

    /// A wait of about `delay_ms`.
    pub fn spread_ms(&self, delay_ms: u64, random: &mut Random) -> u64 {
        let spread_ms = delay_ms * u64::from(self.jitter_percent.min(99)) / 100;
        delay_ms - spread_ms + random.below(2 * spread_ms + 1)
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
            assert_eq!(
                asked_wait_ms(text),
                wait_s.map(|wait_s| wait_s * 1000),
                "{text}"
            );
        }
    }

    #[test]
    fn greylisted_mail_waits_minutes_and_never_longer_than_other_mail() {
        let usual = RetrySchedule {
            delays_ms: vec![1_800_000],
            jitter_percent: 20,
        };
        assert_eq!(usual.greylisted().delays_ms, GREYLISTED_MS);
        let fast = RetrySchedule {
            delays_ms: vec![1],
            ..usual
        };
        assert_eq!(fast.greylisted().delays_ms, [1; 5]);
    }

    #[test]
    fn delays_follow_the_list_within_jitter_and_the_last_repeats() {
        let schedule = RetrySchedule {
            delays_ms: vec![60_000, 600_000],
            jitter_percent: 20,
        };
        let mut random = Random::new(1);
        for _ in 0..1000 {
            assert!((48_000..=72_000).contains(&schedule.delay_ms(1, &mut random)));
            assert!((480_000..=720_000).contains(&schedule.delay_ms(2, &mut random)));
            assert!((480_000..=720_000).contains(&schedule.delay_ms(9, &mut random)));
        }
    }
}
