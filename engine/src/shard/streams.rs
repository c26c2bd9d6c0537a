//! A shard's streams: what is gathered for each, and when it is written.
//!
//! How batches come onto the disk: [`crate::store`]. What is done when one of the queue's is durable or
//! failed: `durable`.

use std::sync::Arc;

use super::records::Ticket;
use super::{Action, Settings, ShardCore};
use crate::clock::{Mono, Now};
use crate::delivery_log::{LogBatch, LogRecord, LogRotation};
use crate::ids::{SegmentId, ShardId};
use crate::keys::KeyRing;
use crate::queue::cipher::Stream;
use crate::queue::record::RecipientsBuf;
use crate::store::{
    BLOB_COUNTERS, BLOB_LOG_BATCH, BatchId, DiskError, GroupCommit, SideStream, SideWritten,
    StorageSetup, Write,
};

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

/// Counts as they are saved from time to time.
#[derive(Debug)]
pub(super) struct CountStream {
    side: SideStream,
    saved_at: Option<Mono>,
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
                is_closed: false,
            },
            recipients: RecipientsBuf::new(),
            disk_free_bytes: u64::MAX,
        }
    }
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
        self.is_closed && self.side.is_idle()
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
        self.counters
            .restore(saved)
            .map_err(|error| error.to_string())?;
        self.store.counts.side.found(segment);
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
            let lines = log.batch.len();
            let batch = log.batch.take();
            if !log.side.offer(batch) {
                log.dropped_lines += u64::from(lines);
            }
        }
        match log.side.next_write(self.store.queue.maker(), now) {
            Ok(Some(write)) => self.write(Stream::DeliveryLog, write),
            Ok(None) => {}
            Err(_) => log.dropped_lines += 1,
        }
    }

    pub(super) fn save_counters(&mut self, now: Now) {
        let every_ms = self.settings.counter_save_ms;
        let counts = &mut self.store.counts;
        let due = counts
            .saved_at
            .is_none_or(|at| now.mono.ms_since(at) >= every_ms);
        let closing = self.draining && self.deliveries.is_empty() && self.store.queue.is_idle();
        let wanted = !counts.is_closed && (closing || due);
        if !counts.side.is_idle() || !wanted || self.store.queue.is_failing() {
            return;
        }
        counts.is_closed = closing;
        let is_first = counts.saved_at.is_none();
        counts.saved_at = Some(now.mono);
        if is_first && !closing {
            return;
        }
        let mut bytes = Vec::new();
        self.counters.save(&mut bytes);
        let _ = counts.side.offer(bytes);
        // One that fits no segment cannot be helped; the next may.
        if let Ok(Some(write)) = counts.side.next_write(self.store.queue.maker(), now) {
            self.write(Stream::Counters, write);
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
        let useless = match side.written(batch, result, now) {
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
    }
}
