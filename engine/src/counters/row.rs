//! One row: since ever, the last 6 hours by the hour, the last hour by 5 minutes.
//!
//! A bucket of a level holds the level at the bucket's end (that of the running bucket: the level
//! now); a bucket of any other counter what was counted within it. Buckets are aligned to the clock
//! in UTC, and follow no leap of it: they pass as time does, and where the clock was set, they are named
//! anew from the running one back.

use crate::clock::UnixMs;

use super::{COUNTERS, Counter, Values};

/// Buckets of an hour.
pub(super) const HOURS: usize = 6;
/// Buckets of 5 minutes.
pub(super) const FIVES: usize = 12;

const HOUR_MS: u64 = 3_600_000;
const FIVE_MS: u64 = 300_000;

/// The hour and the 5 minutes that run, counted from the epoch, by whichever clock; they fit `u32` for 40,000 years.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Periods {
    pub(super) hour: u32,
    pub(super) five: u32,
}

impl Periods {
    pub(super) const fn at(now: UnixMs) -> Self {
        let five = now.0 / FIVE_MS;
        let five = if five > u32::MAX as u64 {
            u32::MAX
        } else {
            five as u32
        };
        Self::at_five(five)
    }

    /// Of a steady clock that is brought to where the wall clock's hours and 5 minutes begin, which is
    /// `leap_ms` ahead of it.
    pub(super) fn aligned(steady: UnixMs, leap_ms: i64) -> Self {
        let nearest = |period_ms: u64| {
            let period_ms = period_ms.cast_signed();
            let off_ms = leap_ms.rem_euclid(period_ms);
            let by_ms = if off_ms > period_ms / 2 {
                off_ms - period_ms
            } else {
                off_ms
            };
            Self::at(UnixMs(steady.0.saturating_add_signed(by_ms)))
        };
        Self {
            hour: nearest(HOUR_MS).hour,
            five: nearest(FIVE_MS).five,
        }
    }

    pub(super) const fn at_five(five: u32) -> Self {
        Self {
            hour: five / 12,
            five,
        }
    }

    pub(super) const fn hour_start(hour: u32) -> UnixMs {
        UnixMs(hour as u64 * HOUR_MS)
    }

    pub(super) const fn five_start(five: u32) -> UnixMs {
        UnixMs(five as u64 * FIVE_MS)
    }
}

/// Values of one row. The windows are there only while it is active.
#[derive(Clone, Debug)]
pub(super) struct Row {
    ever: Values,
    windows: Option<Box<Windows>>,
}

#[derive(Clone, Debug)]
struct Windows {
    now: Periods,
    hours: [[u32; COUNTERS]; HOURS],
    fives: [[u32; COUNTERS]; FIVES],
}

impl Row {
    pub(super) const fn new() -> Self {
        Self {
            ever: [0; COUNTERS],
            windows: None,
        }
    }

    pub(super) const fn ever(&self) -> &Values {
        &self.ever
    }

    #[inline]
    pub(super) fn count(&mut self, now: Periods, counter: Counter, n: u32) {
        let at = counter as usize;
        self.ever[at] += u64::from(n);
        let windows = self.windows(now);
        let hour = &mut windows.hours[now.hour as usize % HOURS][at];
        *hour = hour.saturating_add(n);
        let five = &mut windows.fives[now.five as usize % FIVES][at];
        *five = five.saturating_add(n);
    }

    #[inline]
    pub(super) fn raise(&mut self, now: Periods, counter: Counter, n: u32) {
        // Buckets that are past take the level as it was, so they are closed first.
        self.windows(now);
        self.ever[counter as usize] += u64::from(n);
    }

    #[inline]
    pub(super) fn lower(&mut self, now: Periods, counter: Counter, n: u32) {
        self.windows(now);
        let level = &mut self.ever[counter as usize];
        debug_assert!(*level >= u64::from(n), "{counter} lowered below 0");
        *level = level.saturating_sub(u64::from(n));
    }

    /// Makes the row active without counting anything.
    pub(super) fn touch(&mut self, now: Periods) {
        self.windows(now);
    }

    /// Nothing queued, and nothing counted within any window.
    pub(super) fn is_quiet(&self, now: Periods) -> bool {
        let past = |windows: &Windows| now.hour.saturating_sub(windows.now.hour) as usize >= HOURS;
        self.ever[..Counter::LEVELS].iter().all(|&level| level == 0)
            && self.windows.as_deref().is_none_or(past)
    }

    /// Adds what another row has counted since ever; not its levels, which belong to its messages.
    pub(super) fn absorb(&mut self, other: &Self) {
        for (mine, theirs) in self.ever[Counter::LEVELS..]
            .iter_mut()
            .zip(&other.ever[Counter::LEVELS..])
        {
            *mine = mine.saturating_add(*theirs);
        }
    }

    /// Adds counts since ever that were saved.
    pub(super) fn add_ever(&mut self, counter: Counter, n: u64) {
        let value = &mut self.ever[counter as usize];
        *value = value.saturating_add(n);
    }

    /// Counts what happened at an earlier time, `then`.
    pub(super) fn count_late(&mut self, then: Periods, now: Periods, counter: Counter, n: u32) {
        self.add_ever(counter, u64::from(n));
        let mut values = [0; COUNTERS];
        values[counter as usize] = n;
        self.add_hour(then.hour, now, &values);
        self.add_five(then.five, now, &values);
    }

    /// Adds to the bucket of an hour, if it is not past or still to come.
    pub(super) fn add_hour(&mut self, hour: u32, now: Periods, values: &[u32; COUNTERS]) {
        if hour <= now.hour && ((now.hour - hour) as usize) < HOURS {
            add_to(&mut self.windows(now).hours[hour as usize % HOURS], values);
        }
    }

    /// Adds to the bucket of 5 minutes, if it is not past or still to come.
    pub(super) fn add_five(&mut self, five: u32, now: Periods, values: &[u32; COUNTERS]) {
        if five <= now.five && ((now.five - five) as usize) < FIVES {
            add_to(&mut self.windows(now).fives[five as usize % FIVES], values);
        }
    }

    /// The buckets to be saved, by their number in the file: hours from 0 and 5 minutes from [`HOURS`] on, the
    /// running one first. Of those that run the level is not known yet.
    pub(super) fn buckets(&self, now: Periods) -> impl Iterator<Item = (u8, [u32; COUNTERS])> + '_ {
        let windows = self.windows.as_deref();
        let hours = windows.map(|windows| Ring {
            ring: &windows.hours[..],
            last: windows.now.hour,
            now: now.hour,
        });
        let fives = windows.map(|windows| Ring {
            ring: &windows.fives[..],
            last: windows.now.five,
            now: now.five,
        });
        let hours = hours.into_iter().flat_map(|ring| ring.buckets(&self.ever));
        let fives = fives.into_iter().flat_map(|ring| ring.buckets(&self.ever));
        (0..).zip(hours).chain((HOURS as u8..).zip(fives))
    }

    /// The last 6 hours, oldest first; `None` if nothing happened in them.
    pub(super) fn hours(&self, now: Periods) -> Option<[Values; HOURS]> {
        let windows = self.windows.as_deref()?;
        if self.is_quiet(now) {
            return None;
        }
        let mut copy = windows.clone();
        copy.roll(now, &self.ever);
        Some(std::array::from_fn(|back| {
            let hour = now.hour as usize + 1 + back;
            self.with_level(copy.hours[hour % HOURS], back + 1 == HOURS)
        }))
    }

    /// The last hour by 5 minutes, oldest first; `None` if nothing happened in it.
    pub(super) fn fives(&self, now: Periods) -> Option<[Values; FIVES]> {
        let windows = self.windows.as_deref()?;
        let past = now.five.saturating_sub(windows.now.five) as usize >= FIVES;
        if past && self.ever[..Counter::LEVELS].iter().all(|&level| level == 0) {
            return None;
        }
        let mut copy = windows.clone();
        copy.roll(now, &self.ever);
        Some(std::array::from_fn(|back| {
            let five = now.five as usize + 1 + back;
            self.with_level(copy.fives[five % FIVES], back + 1 == FIVES)
        }))
    }

    pub(super) fn window_bytes(&self) -> usize {
        self.windows.as_ref().map_or(0, |_| size_of::<Windows>())
    }

    fn with_level(&self, bucket: [u32; COUNTERS], running: bool) -> Values {
        let mut values = bucket.map(u64::from);
        if running {
            values[..Counter::LEVELS].copy_from_slice(&self.ever[..Counter::LEVELS]);
        }
        values
    }

    #[inline]
    fn windows(&mut self, now: Periods) -> &mut Windows {
        let windows = self
            .windows
            .get_or_insert_with(|| Box::new(Windows::new(now)));
        if windows.now != now {
            windows.roll(now, &self.ever);
        }
        windows
    }
}

/// Buckets of one length, as they were when something was counted `last`.
struct Ring<'a> {
    ring: &'a [[u32; COUNTERS]],
    last: u32,
    now: u32,
}

impl<'a> Ring<'a> {
    /// From the running one back, with what [`Windows::roll`] would make of them.
    fn buckets(self, ever: &'a Values) -> impl Iterator<Item = [u32; COUNTERS]> + 'a {
        let Self { ring, last, now } = self;
        (0..ring.len() as u32).map(move |back| {
            let Some(at) = now.checked_sub(back) else {
                return [0; COUNTERS];
            };
            // Those behind `last` saw no event; those too far ahead of it are of an earlier round.
            let mut values = if at > last || last - at >= ring.len() as u32 {
                [0; COUNTERS]
            } else {
                ring[at as usize % ring.len()]
            };
            for (value, level) in values[..Counter::LEVELS].iter_mut().zip(ever) {
                if back == 0 {
                    *value = 0;
                } else if at >= last {
                    *value = u32::try_from(*level).unwrap_or(u32::MAX);
                }
            }
            values
        })
    }
}

fn add_to(bucket: &mut [u32; COUNTERS], values: &[u32; COUNTERS]) {
    for (mine, theirs) in bucket.iter_mut().zip(values) {
        *mine = mine.saturating_add(*theirs);
    }
}

impl Windows {
    const fn new(now: Periods) -> Self {
        Self {
            now,
            hours: [[0; COUNTERS]; HOURS],
            fives: [[0; COUNTERS]; FIVES],
        }
    }

    /// Closes what is past with the level it ended with, and clears what runs from now on.
    #[cold]
    fn roll(&mut self, now: Periods, ever: &Values) {
        let mut closed = [0; COUNTERS];
        for (level, value) in closed[..Counter::LEVELS].iter_mut().zip(ever) {
            *level = u32::try_from(*value).unwrap_or(u32::MAX);
        }
        let close = |bucket: &mut [u32; COUNTERS]| {
            bucket[..Counter::LEVELS].copy_from_slice(&closed[..Counter::LEVELS]);
        };
        if now.five > self.now.five {
            close(&mut self.fives[self.now.five as usize % FIVES]);
            let skipped = (now.five - self.now.five).min(FIVES as u32);
            for back in 0..skipped {
                // What was skipped saw no event, so its level is that of its start.
                self.fives[(now.five - back) as usize % FIVES] = closed;
            }
        }
        if now.hour > self.now.hour {
            close(&mut self.hours[self.now.hour as usize % HOURS]);
            let skipped = (now.hour - self.now.hour).min(HOURS as u32);
            for back in 0..skipped {
                self.hours[(now.hour - back) as usize % HOURS] = closed;
            }
        }
        self.now = now;
    }
}
