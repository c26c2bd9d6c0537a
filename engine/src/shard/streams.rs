//! A shard's streams: what is gathered for each, and when it is written.
//!
//! How batches come onto the disk: [`crate::store`]. What is done when one of the queue's is durable or
//! failed: `durable`.

use std::sync::Arc;

use super::waiter::Ticket;
use super::{Action, Settings, ShardCore};
use crate::clock::{Mono, Now};
use crate::counters::Covered;
use crate::delivery_log::record::RECORD_BYTES_MAX;
use crate::delivery_log::{LogBatch, LogRecord, LogRotation, read_batch};
use crate::ids::{SegmentId, ShardId};
use crate::keys::KeyRing;
use crate::limits::SEGMENT_BYTES_MIN;
use crate::queue::cipher::Stream;
use crate::queue::record::{RecipientsBuf, Record};
use crate::queue::segment::Placement;
use crate::store::{
    BLOB_COUNTED, BLOB_COUNTERS, BLOB_LOG_BATCH, BatchId, DiskError, GroupCommit, Mark, SideStream,
    SideWritten, StorageSetup, Write,
};

/// A batch of the delivery log is closed at this size before its time, bytes: one event may settle thousands
/// of recipients, and a batch that fits no segment is lost whole.
const LOG_BATCH_BYTES_MAX: usize = 512 * 1024;
const _: () = assert!(LOG_BATCH_BYTES_MAX + RECORD_BYTES_MAX < SEGMENT_BYTES_MIN as usize / 3 * 2);

/// Saves of counts that may fail one after another before segments no longer wait for them.
const SAVE_TRIES: u32 = 20;
/// What was counted when nothing was saved.
const NEVER: u64 = u64::MAX;

/// The streams of a shard, and the disk they are on.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) queue: GroupCommit<Ticket>,
    pub(super) log: LogStream,
    pub(super) counts: CountStream,
    /// Room to encode a record's recipients in.
    pub(super) recipients: RecipientsBuf,
    /// Free space as last measured, less what was written since, bytes.
    pub(super) disk_free_bytes: u64,
}

/// The delivery log: lines gathered into batches, and what the disk did not take.
#[derive(Debug)]
pub(super) struct LogStream {
    side: SideStream,
    batch: LogBatch,
    dropped_lines: u64,
}

/// Counts as they are saved: from time to time, and before any segment goes, as outcomes behind the last
/// save are counted from their records after a crash.
#[derive(Debug)]
pub(super) struct CountStream {
    side: SideStream,
    saved_at: Option<Mono>,
    /// What was counted when that was saved, in all.
    saved: u64,
    /// Saves that failed since one was durable.
    failures: u32,
    /// Counts that wait until all outcomes in them are durable.
    taken: Option<Vec<u8>>,
    /// Up to where outcomes are in the counts of earlier runs.
    restored: Option<Covered>,
    /// The counts of the whole run are saved.
    is_closed: bool,
}

const fn log_rotation(settings: &Settings) -> LogRotation {
    LogRotation::new(settings.log_segment_bytes as u64, settings.log_rotate_ms)
}

impl Streams {
    pub(super) fn new(me: ShardId, settings: &Settings, setup: StorageSetup) -> Self {
        let counts =
            SideStream::snapshots(Stream::Counters, BLOB_COUNTERS, setup.next_counters_segment);
        let log = SideStream::log(
            Stream::DeliveryLog,
            BLOB_LOG_BATCH,
            setup.next_log_segment,
            settings.log_segment_bytes,
            log_rotation(settings),
        );
        Self {
            queue: GroupCommit::new(me, settings.segment_bytes, setup),
            log: LogStream {
                side: log,
                batch: LogBatch::new(),
                dropped_lines: 0,
            },
            counts: CountStream {
                side: counts,
                saved_at: None,
                saved: 0,
                failures: 0,
                taken: None,
                restored: None,
                is_closed: false,
            },
            recipients: RecipientsBuf::new(),
            disk_free_bytes: u64::MAX,
        }
    }
}

/// The lines of a batch of the delivery log.
fn lines_of(batch: &[u8]) -> u64 {
    read_batch(batch).map_or(1, |(header, _)| u64::from(header.records))
}

impl LogStream {
    /// The segment being written and how much of it is durable.
    pub(super) const fn end(&self) -> Option<(SegmentId, u64)> {
        self.side.end()
    }

    /// New bounds, which the next file begins with.
    pub(super) fn reload(&mut self, settings: &Settings) {
        self.side
            .resize(settings.log_segment_bytes, log_rotation(settings));
    }

    pub(super) fn push(&mut self, record: &LogRecord<'_>) {
        self.batch.push(record);
        if self.batch.bytes_len() >= LOG_BATCH_BYTES_MAX {
            self.close_batch();
        }
    }

    fn close_batch(&mut self) {
        let lines = self.batch.len();
        let batch = self.batch.take();
        if !self.side.offer(batch) {
            self.dropped_lines += u64::from(lines);
        }
    }

    /// The lines gathered so far.
    #[cfg(test)]
    pub(super) fn take_batch(&mut self) -> Vec<u8> {
        self.batch.take()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.batch.is_empty() && self.side.is_idle()
    }

    /// Lines lost because the disk did not take them.
    pub(super) const fn dropped_lines(&self) -> u64 {
        self.dropped_lines
    }
}

impl CountStream {
    /// Whether, while draining, the last counts are durable.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed && self.is_idle()
    }

    /// Whether no counts are on their way to the disk.
    fn is_idle(&self) -> bool {
        self.taken.is_none() && self.side.is_idle()
    }

    /// Whether an outcome that replay finds there is in no counts yet.
    pub(super) fn misses(&self, placement: Placement) -> bool {
        self.restored
            .is_none_or(|covered| (placement.segment, placement.offset) > covered)
    }

    /// Outcomes in the counts that were taken are not durable: others are taken.
    pub(super) fn not_counted(&mut self) {
        self.taken = None;
        self.saved = NEVER;
        self.is_closed = false;
        self.saved_at = None;
    }
}

impl ShardCore {
    /// Starts new segments under `keys`' current key; the older ones stay readable.
    pub fn rekey(&mut self, keys: Arc<KeyRing>) {
        self.store.queue.rekey(keys);
        self.store.log.side.roll();
    }

    /// Counts of earlier runs; `segment` holds them, `saved` is what [`BLOB_COUNTERS`] said there.
    ///
    /// # Errors
    /// A sentence; nothing is added then.
    pub fn restore_counters(&mut self, segment: SegmentId, saved: &[u8]) -> Result<(), String> {
        let covered = self.counters.restore(saved);
        let covered = covered.map_err(|error| error.to_string())?;
        let counts = &mut self.store.counts;
        counts.restored = Some(covered);
        counts.saved = self.counters.counted();
        counts.side.found(segment);
        Ok(())
    }

    pub(super) fn write(&mut self, stream: Stream, write: Write) {
        self.actions.push(Action::Write {
            batch: write.batch,
            stream,
            segment: write.segment,
            offset: write.offset,
            bytes: write.bytes,
            begin: write.begin,
        });
    }

    pub(super) fn flush_log(&mut self, now: Now) {
        let log = &mut self.store.log;
        if log.batch.is_due(now.unix) || (self.draining && !log.batch.is_empty()) {
            log.close_batch();
        }
        match log.side.next_write(self.store.queue.maker(), now) {
            Ok(Some(write)) => self.write(Stream::DeliveryLog, write),
            Ok(None) => {}
            Err(batch) => log.dropped_lines += lines_of(&batch),
        }
    }

    /// Saves the counts when their time has come, a segment waits for it, or all is done.
    pub(super) fn save_counters(&mut self, now: Now) {
        let every_ms = self.settings.counter_save_ms;
        let counts = &mut self.store.counts;
        let since = *counts.saved_at.get_or_insert(now.mono);
        let closing = self.draining && self.deliveries.is_empty() && self.store.queue.is_idle();
        let is_due = now.mono.ms_since(since) >= every_ms || self.moves.leaving.wants_counts();
        let is_read = !self.moves.replaying && self.moves.replay_from.is_none();
        if counts.is_closed || !counts.is_idle() || self.store.queue.is_failing() {
            return;
        }
        if !closing && !is_due {
            return;
        }
        counts.is_closed = closing;
        counts.saved_at = Some(now.mono);
        let is_news = self.counters.counted() != counts.saved || self.moves.leaving.wants_counts();
        // What replay has not read yet is in no counts: they would claim it.
        if is_news && is_read {
            self.take_counts(now);
        }
    }

    fn take_counts(&mut self, now: Now) {
        let mark = Record::Blob {
            kind: BLOB_COUNTED,
            bytes: &[],
        };
        let Ok(mark) = self.store.queue.append(&mark, now) else {
            return;
        };
        self.store.queue.await_mark(Mark::Counted);
        let mut bytes = Vec::new();
        self.counters.save((mark.segment, mark.offset), &mut bytes);
        self.store.counts.taken = Some(bytes);
        self.store.counts.saved = self.counters.counted();
        let dead = self.store.queue.set.dead_segments();
        self.moves.leaving.counts_taken(dead);
    }

    /// All outcomes in the counts that were taken are durable.
    pub(super) fn counted_durable(&mut self, now: Now) {
        let counts = &mut self.store.counts;
        let Some(bytes) = counts.taken.take() else {
            return;
        };
        let _ = counts.side.offer(bytes);
        match counts.side.next_write(self.store.queue.maker(), now) {
            Ok(Some(write)) => self.write(Stream::Counters, write),
            // One that fits no segment cannot be helped; the next may.
            Ok(None) | Err(_) => self.counts_settled(),
        }
    }

    pub(super) fn side_written(
        &mut self,
        batch: BatchId,
        result: &Result<(), DiskError>,
        now: Now,
    ) {
        let (stream, side) = match batch.stream() {
            Some(Stream::DeliveryLog) => (Stream::DeliveryLog, &mut self.store.log.side),
            Some(Stream::Counters) => (Stream::Counters, &mut self.store.counts.side),
            _ => return,
        };
        let written = side.written(batch, result, now);
        let is_durable = matches!(written, Some(SideWritten::Durable { .. }));
        let useless = match written {
            Some(SideWritten::Durable { buffer, superseded }) => {
                if stream == Stream::DeliveryLog {
                    self.store.log.batch.reuse(buffer);
                }
                superseded
            }
            Some(SideWritten::Failed { useless }) => useless,
            None => None,
        };
        if let Some(segment) = useless {
            self.actions.push(Action::Delete { stream, segment });
        }
        if stream == Stream::Counters {
            self.counts_written(is_durable);
        }
    }

    /// A save that failed is tried again at once, but not for ever: a disk that takes no counts must not
    /// fill up with segments that wait for it.
    fn counts_written(&mut self, is_durable: bool) {
        let counts = &mut self.store.counts;
        if is_durable {
            counts.failures = 0;
            return self.counts_settled();
        }
        counts.saved = NEVER;
        counts.failures = counts.failures.saturating_add(1);
        if counts.failures >= SAVE_TRIES {
            self.counts_settled();
        } else {
            self.moves.leaving.counts_failed();
        }
    }
}
