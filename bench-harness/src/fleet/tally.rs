//! What the fleet received, id by id.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::message::{Marker, RECIPIENTS_MAX, now_us};

/// Ids a run may have; 5 bytes of memory each.
pub const IDS_MAX: u64 = 200_000_000;
/// Duplicates remembered one by one; more are only counted.
pub const DUPLICATES_MAX: usize = 1_000_000;
/// Longest transit time told apart, in µs (an hour).
const TRANSIT_US_MAX: u64 = 3_600_000_000;

/// An id that arrived again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Duplicate {
    /// The id.
    pub id: u64,
    /// When it had come before, ms after the tally's start.
    pub before_ms: u32,
    /// When it came again, ms after the tally's start.
    pub again_ms: u32,
}

/// Counts of one MX host.
#[derive(Debug, Default)]
pub struct HostCounts {
    /// Sessions open now.
    pub open: AtomicU64,
    /// Sessions ever.
    pub sessions: AtomicU64,
    /// Messages answered 250.
    pub messages: AtomicU64,
    /// Replies 4xx.
    pub deferred: AtomicU64,
    /// Replies 5xx.
    pub refused: AtomicU64,
    /// Resets, closes, stalls and garbage.
    pub broken: AtomicU64,
}

/// Totals of a tally.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Ids received at least once.
    pub distinct: u64,
    /// Receipts of an id beyond its first.
    pub duplicates: u64,
    /// Messages without a marker or with none of our forward-paths (DSNs, smtp-source's mail).
    pub unmarked: u64,
    /// Recipients of messages of another run.
    pub other_run: u64,
    /// Messages whose content does not belong to their forward-path.
    pub mixed_up: u64,
    /// Messages whose body is not as it was sent.
    pub altered: u64,
}

/// What arrived, by id; shared by the fleet's thread and whoever reports.
#[derive(Debug)]
pub struct Tally {
    run: u32,
    started: Instant,
    received: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// How often each id came, saturating.
    times: Vec<u8>,
    /// When each id came last, ms after the start.
    last_ms: Vec<u32>,
    duplicates: Vec<Duplicate>,
    totals: Totals,
    transit_us: Histogram<u64>,
}

impl Tally {
    /// An empty tally for messages of `run`.
    pub fn new(run: u32) -> Self {
        let transit_us = Histogram::new_with_bounds(1, TRANSIT_US_MAX, 3)
            .expect("bounds of a histogram are constants that fit");
        Self {
            run,
            started: Instant::now(),
            received: AtomicU64::new(0),
            inner: Mutex::new(Inner {
                times: Vec::new(),
                last_ms: Vec::new(),
                duplicates: Vec::new(),
                totals: Totals::default(),
                transit_us,
            }),
        }
    }

    /// Milliseconds since this tally began; the time base of its duplicates.
    pub fn elapsed_ms(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_millis()).unwrap_or(u32::MAX)
    }

    /// Counts one message that was answered 250 for the recipients `ids` (`None`: not one of ours).
    pub fn receive(&self, content: &[u8], ids: &[Option<u64>]) {
        self.received.fetch_add(1, Ordering::Relaxed);
        let marker = Marker::read(content);
        let ours = ids.iter().any(Option::is_some);
        let mut inner = self.lock();
        let Some((marker, sum)) = marker.filter(|_| ours) else {
            inner.totals.unmarked += 1;
            return;
        };
        if marker.run != self.run {
            inner.totals.other_run += ids.len() as u64;
            return;
        }
        if marker.body_sum != sum {
            inner.totals.altered += 1;
        }
        let transit = now_us().saturating_sub(marker.at_us);
        inner.transit_us.saturating_record(transit);
        let now_ms = self.elapsed_ms();
        let belongs = marker.first_id..marker.first_id + RECIPIENTS_MAX as u64;
        for id in ids.iter().flatten() {
            if !belongs.contains(id) || *id >= IDS_MAX {
                inner.totals.mixed_up += 1;
                continue;
            }
            inner.count(*id, now_ms);
        }
    }

    /// Messages received in all, of any kind.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// The totals so far.
    pub fn totals(&self) -> Totals {
        self.lock().totals
    }

    /// Transit times so far: from the injector's content to the fleet's 250, in µs.
    pub fn transit_us(&self) -> Histogram<u64> {
        self.lock().transit_us.clone()
    }

    /// The duplicates told apart so far.
    pub fn duplicates(&self) -> Vec<Duplicate> {
        self.lock().duplicates.clone()
    }

    /// How often each id came, indexed by id (ids beyond the end: never).
    pub fn times(&self) -> Vec<u8> {
        self.lock().times.clone()
    }

    /// Calls `see` for each id of `0..ids` that never came.
    pub fn missing(&self, ids: u64, mut see: impl FnMut(u64)) {
        let inner = self.lock();
        for id in 0..ids {
            if inner.times.get(id as usize).is_none_or(|times| *times == 0) {
                see(id);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn count(&mut self, id: u64, now_ms: u32) {
        let index = id as usize;
        if index >= self.times.len() {
            let grown = (index + 1).next_power_of_two().max(1 << 16);
            self.times.resize(grown, 0);
            self.last_ms.resize(grown, 0);
        }
        if self.times[index] == 0 {
            self.totals.distinct += 1;
        } else {
            self.totals.duplicates += 1;
            if self.duplicates.len() < DUPLICATES_MAX {
                let before_ms = self.last_ms[index];
                self.duplicates.push(Duplicate {
                    id,
                    before_ms,
                    again_ms: now_ms,
                });
            }
        }
        self.times[index] = self.times[index].saturating_add(1);
        self.last_ms[index] = now_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Template;

    fn content(run: u32, id: u64) -> Vec<u8> {
        let mut content = Vec::new();
        Template::new(run, 600, &[]).write(
            &mut content,
            id,
            "a@b.example",
            "c@d.example",
            now_us(),
        );
        content
    }

    #[test]
    fn counts_each_kind() {
        let tally = Tally::new(7);
        tally.receive(&content(7, 0), &[Some(0), Some(1)]);
        tally.receive(&content(7, 2), &[Some(2)]);
        tally.receive(&content(7, 2), &[Some(2)]);
        tally.receive(&content(8, 3), &[Some(3)]);
        tally.receive(&content(7, 4000), &[Some(3)]);
        tally.receive(b"Subject: x\r\n\r\nhello\r\n", &[None]);
        let mut altered = content(7, 5);
        let last = altered.len() - 4;
        altered[last] ^= 1;
        tally.receive(&altered, &[Some(5)]);
        let expected = Totals {
            distinct: 4,
            duplicates: 1,
            unmarked: 1,
            other_run: 1,
            mixed_up: 1,
            altered: 1,
        };
        assert_eq!(tally.totals(), expected);
        let mut missing = vec![];
        tally.missing(7, |id| missing.push(id));
        assert_eq!(missing, [3, 4, 6]);
        assert_eq!(tally.duplicates()[0].id, 2);
    }
}
