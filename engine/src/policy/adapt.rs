//! A site's pace, found by trying: it rises slowly while mail is taken and falls at once on what looks like
//! congestion (AIMD).
//!
//! There is no pace as long as nothing was refused. The first trouble sets one, below the rate at which
//! the site took mail until then; each further one lowers it, but those of one moment count once. While
//! mail is taken it rises, by so much a minute of the rate at which trouble began, and faster the longer
//! there was none; an answer that takes much longer than usual stops the rise. When it has risen past the
//! configured limits, or far past where trouble began, there is none again. Pure: time comes in, nothing is asked.

use crate::clock::Mono;
use crate::policy::bucket::{Bucket, Rate};

/// Troubles of so many milliseconds count once: they are answers to what was sent at one pace.
pub const TROUBLE_MS: u64 = 10_000;
/// What a site takes is counted over so many milliseconds.
const WINDOW_MS: u64 = 10_000;
/// A pace that has risen to so many times where trouble began is given up, where no limit is configured.
const LIFTED_TIMES: u64 = 16;
/// A calm longer than so many minutes makes it rise no faster.
const CALM_MIN_MAX: u64 = 10;
/// Time whose messages may come at once, milliseconds: sites that wait are looked at each tick.
const BURST_MS: u64 = 200;
/// The longest time that one success makes the pace rise for, milliseconds.
const RISE_MS_MAX: u64 = 10_000;

const HOUR_MS: u64 = 3_600_000;

/// Within what a pace moves, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PaceBounds {
    /// Never less, messages an hour.
    pub floor_per_h: u64,
    /// The limit that is configured, messages an hour; above it there is no need for a pace.
    pub ceiling_per_h: Option<u64>,
    /// How much of the pace a trouble takes, percent, below 100.
    pub decrease_percent: u64,
    /// How much of it is won a minute, percent.
    pub increase_percent: u64,
}

/// What the last transaction said of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Mail was taken, after so many milliseconds.
    Taken(u64),
    /// It was refused for now, or the session was lost.
    Trouble,
}

#[derive(Clone, Copy, Debug)]
struct Pace {
    per_h: u64,
    /// The pace at which trouble began.
    broke_at_per_h: u64,
    since: Mono,
    risen: Mono,
    used: Bucket,
}

/// The pace of a site.
#[derive(Clone, Copy, Debug, Default)]
pub struct Adapt {
    pace: Option<Pace>,
    /// Taken in the window under way, and in the one before.
    taken: (u64, u64),
    window: Mono,
    trouble: Option<Mono>,
    /// How long an answer usually takes, milliseconds, in sixteenths.
    usual_ms_16: u64,
}

/// A pace, for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaceView {
    /// Messages an hour.
    pub per_h: u64,
    /// Since when there is one.
    pub since: Mono,
}

fn rate(per_h: u64) -> Rate {
    Rate::new(per_h, 3600, per_h * BURST_MS / HOUR_MS + 1)
}

impl Adapt {
    /// Whether a message may go; else the milliseconds until it may.
    ///
    /// # Errors
    /// The wait, at least 1.
    pub fn may_send(&self, now: Mono) -> Result<(), u64> {
        let Some(pace) = &self.pace else {
            return Ok(());
        };
        let waited = pace.used.may_take(rate(pace.per_h), now);
        waited.map_err(|wait_us| wait_us.div_ceil(1000))
    }

    /// A message goes.
    pub fn send(&mut self, now: Mono) {
        if let Some(pace) = &mut self.pace {
            pace.used.take(rate(pace.per_h), 1, now);
        }
    }

    /// The pace, if there is one.
    pub fn view(&self) -> Option<PaceView> {
        self.pace.map(|pace| PaceView {
            per_h: pace.per_h,
            since: pace.since,
        })
    }

    /// Takes in what a transaction said.
    pub fn learn(&mut self, sign: Sign, bounds: &PaceBounds, now: Mono) {
        self.turn_window(now);
        match sign {
            Sign::Trouble => self.slow_down(bounds, now),
            Sign::Taken(took_ms) => {
                self.taken.0 += 1;
                let usual_ms = self.usual_ms_16 / 16;
                self.usual_ms_16 = match usual_ms {
                    0 => took_ms.max(1) * 16,
                    _ => self.usual_ms_16 - usual_ms + took_ms,
                };
                let is_known = usual_ms > 0;
                if is_known && took_ms > 8 * usual_ms + 5_000 {
                    self.slow_down(bounds, now);
                } else if !is_known || took_ms <= 4 * usual_ms + 1_000 {
                    self.speed_up(bounds, now);
                }
            }
        }
    }

    fn turn_window(&mut self, now: Mono) {
        let passed_ms = now.ms_since(self.window);
        if passed_ms >= WINDOW_MS {
            let before = if passed_ms < 2 * WINDOW_MS {
                self.taken.0
            } else {
                0
            };
            self.taken = (0, before);
            self.window = now;
        }
    }

    /// The rate at which mail was taken until now, messages an hour.
    fn taken_per_h(&self, now: Mono) -> u64 {
        let (current, before) = self.taken;
        let ms = now.ms_since(self.window).max(1);
        // What is left of a window that has hardly begun says little.
        let of_current = current * HOUR_MS / ms.max(WINDOW_MS / 20);
        of_current.max(before * HOUR_MS / WINDOW_MS)
    }

    fn slow_down(&mut self, bounds: &PaceBounds, now: Mono) {
        if bounds.decrease_percent == 0 {
            return;
        }
        if self.trouble.is_some_and(|at| now.ms_since(at) < TROUBLE_MS) {
            return;
        }
        self.trouble = Some(now);
        let taken = self.taken_per_h(now);
        let (from, since) = match &self.pace {
            // What the site took may be less than it was offered, never more than the pace.
            Some(pace) => (pace.per_h.min(taken.max(pace.per_h / 2)), pace.since),
            None => (taken, now),
        };
        let kept = from * (100 - bounds.decrease_percent.min(99)) / 100;
        let mut used = self.pace.map_or_else(Bucket::default, |pace| pace.used);
        let per_h = kept.max(bounds.floor_per_h).max(1);
        if self.pace.is_none() {
            used.take(rate(per_h), 1, now);
        }
        self.pace = Some(Pace {
            per_h,
            broke_at_per_h: from.max(per_h),
            since,
            risen: now,
            used,
        });
    }

    fn speed_up(&mut self, bounds: &PaceBounds, now: Mono) {
        let Some(pace) = &mut self.pace else {
            return;
        };
        let since_ms = now.ms_since(pace.risen).min(RISE_MS_MAX);
        // Each minute without trouble adds as much again: what broke at a pace far below what the site
        // takes, as on a bad day, is found out soon.
        let calm_min = self.trouble.map_or(0, |at| now.ms_since(at) / 60_000);
        let won_percent = bounds.increase_percent * (calm_min.min(CALM_MIN_MAX) + 1);
        let from = pace.per_h.max(pace.broke_at_per_h);
        let won = from.saturating_mul(won_percent) / 100 * since_ms / 60_000;
        if won == 0 {
            return;
        }
        pace.risen = now;
        pace.per_h = pace.per_h.saturating_add(won);
        let lifted_at = bounds
            .ceiling_per_h
            .unwrap_or_else(|| pace.broke_at_per_h.saturating_mul(LIFTED_TIMES));
        if pace.per_h >= lifted_at {
            self.pace = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: PaceBounds = PaceBounds {
        floor_per_h: 60,
        ceiling_per_h: None,
        decrease_percent: 30,
        increase_percent: 30,
    };

    /// Sends all it may for so many seconds; what was taken of it, by a receiver that takes so much a second.
    fn run(adapt: &mut Adapt, from_s: u64, seconds: u64, takes_per_s: u64) -> (u64, u64) {
        let (mut taken, mut refused) = (0, 0);
        for tick in from_s * 10..(from_s + seconds) * 10 {
            let now = Mono(tick * 100_000);
            // A sender can do no more than 20 in a tick.
            for nth in 0..20 {
                if adapt.may_send(now).is_err() {
                    break;
                }
                adapt.send(now);
                let is_taken = nth * 10 < takes_per_s;
                taken += u64::from(is_taken);
                refused += u64::from(!is_taken);
                let sign = if is_taken {
                    Sign::Taken(5)
                } else {
                    Sign::Trouble
                };
                adapt.learn(sign, &BOUNDS, now);
            }
        }
        (taken, refused)
    }

    #[test]
    fn there_is_no_pace_before_trouble_and_none_where_it_is_switched_off() {
        let mut adapt = Adapt::default();
        assert_eq!(run(&mut adapt, 1, 60, 1000), (12_000, 0));
        assert_eq!(adapt.view(), None);
        let off = PaceBounds {
            decrease_percent: 0,
            ..BOUNDS
        };
        adapt.learn(Sign::Trouble, &off, Mono(100_000_000));
        assert_eq!(adapt.view(), None);
    }

    #[test]
    fn limit_is_found_and_mostly_used_with_few_refusals() {
        let mut adapt = Adapt::default();
        // It begins with nothing known.
        run(&mut adapt, 1, 600, 50);
        let (taken, refused) = run(&mut adapt, 601, 600, 50);
        // 50 a second of which a tick takes 5.
        assert!(taken > 600 * 50 * 70 / 100, "{taken}");
        assert!(refused * 100 < taken, "{refused} of {taken}");
    }

    #[test]
    fn troubles_of_one_moment_count_once() {
        let mut adapt = Adapt::default();
        run(&mut adapt, 1, 30, 1000);
        let now = Mono(31_000_000);
        adapt.learn(Sign::Trouble, &BOUNDS, now);
        let first = adapt.view().unwrap().per_h;
        for ms in 1..1000 {
            adapt.learn(Sign::Trouble, &BOUNDS, now.plus_ms(ms));
        }
        assert_eq!(adapt.view().unwrap().per_h, first);
        adapt.learn(Sign::Trouble, &BOUNDS, now.plus_ms(TROUBLE_MS));
        assert!(adapt.view().unwrap().per_h < first);
    }

    #[test]
    fn answers_that_take_much_longer_than_usual_stop_the_rise_and_then_slow_it_down() {
        let mut adapt = Adapt::default();
        run(&mut adapt, 1, 60, 1000);
        let at = |s: u64| Mono(s * 1_000_000);
        adapt.learn(Sign::Trouble, &BOUNDS, at(61));
        let slowed = adapt.view().unwrap().per_h;
        adapt.learn(Sign::Taken(2_000), &BOUNDS, at(66));
        assert_eq!(adapt.view().unwrap().per_h, slowed);
        adapt.learn(Sign::Taken(5), &BOUNDS, at(70));
        let risen = adapt.view().unwrap().per_h;
        assert!(risen > slowed);
        adapt.learn(Sign::Taken(60_000), &BOUNDS, at(75));
        assert!(adapt.view().unwrap().per_h < risen);
    }

    proptest! {
        #[test]
        fn pace_stays_between_its_bounds(signs in prop::collection::vec((0u64..30_000, any::<bool>()), 1..300)) {
            let bounds = PaceBounds { ceiling_per_h: Some(100_000), ..BOUNDS };
            let (mut adapt, mut now) = (Adapt::default(), Mono(1_000_000));
            for (ms, is_taken) in signs {
                now = now.plus_ms(ms);
                let sign = if is_taken { Sign::Taken(10) } else { Sign::Trouble };
                adapt.learn(sign, &bounds, now);
                if let Some(pace) = adapt.view() {
                    prop_assert!((60..100_000).contains(&pace.per_h), "{pace:?}");
                    // It never waits for longer than the floor has it wait.
                    prop_assert!(adapt.may_send(now).map_or_else(|ms| ms, |()| 0) <= 60_001 + 60_000);
                }
            }
        }
    }
}
