//! Counts since ever as they are saved: each time a new small segment, then the one before goes.
//!
//! What is counted, and how the counts are encoded: [`crate::counters`].

use super::tail::Tail;
use super::{BLOB_COUNTERS, KIND_COUNTERS};
use crate::clock::{Mono, Now};
use crate::ids::SegmentId;
use crate::queue::cipher::Stream;
use crate::queue::record::Record;
use crate::queue::segment::BLOCK_BYTES;
use crate::shard::{Action, BatchId, Begin, DiskError, ShardCore};

/// Counts since ever as they are saved: each time a new small segment, then the one before goes.
#[derive(Debug)]
pub(in crate::shard) struct CounterStream {
    next: SegmentId,
    in_flight: Option<(BatchId, SegmentId)>,
    durable: Option<SegmentId>,
    saved_at: Option<Mono>,
    /// The counts of the whole run are saved.
    closed: bool,
}

impl CounterStream {
    pub(super) const fn new(next: SegmentId) -> Self {
        Self {
            next,
            in_flight: None,
            durable: None,
            saved_at: None,
            closed: false,
        }
    }

    /// Whether, while draining, the last counts are durable.
    pub(in crate::shard) const fn is_closed(&self) -> bool {
        self.closed && self.in_flight.is_none()
    }
}

impl ShardCore {
    /// Counts of earlier runs; `segment` holds them, `saved` is what [`BLOB_COUNTERS`] said there.
    ///
    /// # Errors
    /// A sentence; nothing is added then.
    pub fn restore_counters(&mut self, segment: SegmentId, saved: &[u8]) -> Result<(), String> {
        self.counters
            .restore(saved)
            .map_err(|error| error.to_string())?;
        self.store.counts.durable = Some(segment);
        Ok(())
    }

    pub(in crate::shard) fn save_counters(&mut self, now: Now) {
        let every_ms = self.settings.counter_save_ms;
        let due = self
            .store
            .counts
            .saved_at
            .is_none_or(|at| now.mono.ms_since(at) >= every_ms);
        let closing = self.draining && self.deliveries.is_empty() && self.store.queue.is_idle();
        let wanted = !self.store.counts.closed && (closing || due);
        if self.store.counts.in_flight.is_some() || !wanted || self.store.queue.is_failing() {
            return;
        }
        self.store.counts.closed = closing;
        let first = self.store.counts.saved_at.is_none();
        self.store.counts.saved_at = Some(now.mono);
        if first && !closing {
            return;
        }
        let mut bytes = Vec::new();
        self.counters.save(&mut bytes);
        let record = Record::Blob {
            kind: BLOB_COUNTERS,
            bytes: &bytes,
        };
        let room = bytes.len() + 8 * BLOCK_BYTES;
        let segment_bytes = room.next_multiple_of(BLOCK_BYTES) as u32;
        let mut tail = Tail::new(Stream::Counters, segment_bytes, self.store.counts.next);
        let maker = &mut self.store.queue.maker;
        if tail.writer(maker, now.unix).append(&record).is_err() {
            return;
        }
        let Some(batch) = tail.take_batch() else {
            return;
        };
        self.store.counts.next = tail.next;
        self.store.queue.next_batch += 1;
        let id = BatchId(self.store.queue.next_batch << 2 | KIND_COUNTERS);
        self.store.counts.in_flight = Some((id, batch.segment));
        self.actions.push(Action::Write {
            batch: id,
            stream: Stream::Counters,
            segment: batch.segment,
            offset: batch.file_offset,
            bytes: batch.bytes,
            begin: Some(Begin {
                segment_bytes,
                reuse: false,
            }),
        });
    }

    pub(super) fn counters_written(&mut self, result: Result<(), DiskError>) {
        let Some((_, segment)) = self.store.counts.in_flight.take() else {
            return;
        };
        let old = match result {
            Ok(()) => self.store.counts.durable.replace(segment),
            Err(_) => Some(segment),
        };
        if let Some(segment) = old {
            self.actions.push(Action::Delete {
                stream: Stream::Counters,
                segment,
            });
        }
    }
}
