//! The delivery log as a shard writes it: one batch of lines a record, segments ended by size and time.
//!
//! Lines wait in memory while the disk does not take them, up to [`LOG_WAITING_BYTES_MAX`]; no
//! delivery waits for them. The lines themselves: [`crate::delivery_log`].

use std::collections::VecDeque;

use super::tail::Tail;
use super::{BLOB_LOG_BATCH, KIND_LOG, LOG_WAITING_BYTES_MAX, WRITE_RETRY_MS};
use crate::clock::{Mono, Now};
use crate::delivery_log::{LogBatch, LogRecord, LogRotation};
use crate::ids::SegmentId;
use crate::queue::cipher::Stream;
use crate::queue::record::Record;
use crate::queue::segment::AppendError;
use crate::shard::{Action, BatchId, Begin, DiskError, Settings, ShardCore};

/// The delivery log as this shard writes it.
#[derive(Debug)]
pub(in crate::shard) struct LogStream {
    pub(super) tail: Tail,
    rotation: LogRotation,
    batch: LogBatch,
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    in_flight: Option<(BatchId, SegmentId, u64, Vec<u8>)>,
    durable: Option<(SegmentId, u64)>,
    retry_at: Option<Mono>,
    dropped_lines: u64,
}

fn rotation(settings: &Settings) -> LogRotation {
    LogRotation::new(
        u64::from(settings.log_segment_bytes),
        settings.log_rotate_ms,
    )
}

impl LogStream {
    pub(super) fn new(settings: &Settings, next: SegmentId) -> Self {
        Self {
            tail: Tail::new(Stream::DeliveryLog, settings.log_segment_bytes, next),
            rotation: rotation(settings),
            batch: LogBatch::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            in_flight: None,
            durable: None,
            retry_at: None,
            dropped_lines: 0,
        }
    }

    /// The segment being written and how much of it is durable.
    pub(in crate::shard) fn end(&self) -> Option<(SegmentId, u64)> {
        self.durable
    }

    /// New bounds, which the next file begins with.
    pub(in crate::shard) fn reload(&mut self, settings: &Settings) {
        self.rotation = rotation(settings);
        self.tail.segment_bytes = settings.log_segment_bytes;
    }

    pub(in crate::shard) fn push(&mut self, record: &LogRecord<'_>) {
        self.batch.push(record);
    }

    /// The lines gathered so far.
    #[cfg(test)]
    pub(in crate::shard) fn take_batch(&mut self) -> Vec<u8> {
        self.batch.take()
    }

    pub(in crate::shard) fn is_idle(&self) -> bool {
        self.batch.is_empty() && self.waiting.is_empty() && self.in_flight.is_none()
    }

    /// Lines lost because the disk did not take them.
    pub(in crate::shard) const fn dropped_lines(&self) -> u64 {
        self.dropped_lines
    }
}

impl ShardCore {
    pub(in crate::shard) fn flush_log(&mut self, now: Now) {
        let log = &mut self.store.log;
        if log.batch.is_due(now.unix) || (self.draining && !log.batch.is_empty()) {
            let lines = log.batch.len();
            let bytes = log.batch.take();
            if log.waiting_bytes + bytes.len() > LOG_WAITING_BYTES_MAX {
                log.dropped_lines += u64::from(lines);
            } else {
                log.waiting_bytes += bytes.len();
                log.waiting.push_back(bytes);
            }
        }
        if log.in_flight.is_some() || log.retry_at.is_some_and(|at| at > now.mono) {
            return;
        }
        log.retry_at = None;
        let Some(lines) = log.waiting.pop_front() else {
            return;
        };
        log.waiting_bytes -= lines.len();
        let record = Record::Blob {
            kind: BLOB_LOG_BATCH,
            bytes: &lines,
        };
        if log.rotation.must_rotate(now.unix, lines.len() as u64) {
            // All that was written to it is durable, as no batch is on its way.
            log.tail.writer = None;
            log.tail.header.clear();
        }
        let maker = &mut self.store.queue.maker;
        let appended = match log.tail.writer(maker, now.unix).append(&record) {
            Err(AppendError::Full { .. }) => {
                log.tail.writer = None;
                log.tail.writer(maker, now.unix).append(&record)
            }
            other => other,
        };
        let segment_bytes = log.tail.segment_bytes;
        let begin = log.tail.begun.take().map(|_| {
            log.rotation.opened(now.unix);
            Begin {
                segment_bytes,
                reuse: false,
            }
        });
        log.rotation.appended(now.unix, lines.len() as u64);
        let batch = appended.is_ok().then(|| log.tail.take_batch()).flatten();
        let Some(batch) = batch else {
            log.dropped_lines += 1;
            return;
        };
        self.store.queue.next_batch += 1;
        let id = BatchId(self.store.queue.next_batch << 2 | KIND_LOG);
        log.in_flight = Some((id, batch.segment, batch.end(), lines));
        self.actions.push(Action::Write {
            batch: id,
            stream: Stream::DeliveryLog,
            segment: batch.segment,
            offset: batch.file_offset,
            bytes: batch.bytes,
            begin,
        });
    }

    pub(super) fn log_written(&mut self, batch: BatchId, result: Result<(), DiskError>, now: Now) {
        let log = &mut self.store.log;
        let Some((id, segment, end, lines)) = log.in_flight.take() else {
            return;
        };
        debug_assert_eq!(id, batch, "one log batch is on its way at a time");
        if result.is_err() {
            // A new segment: whether these bytes are in the old one is unknown.
            log.tail.writer = None;
            log.tail.header.clear();
            log.waiting_bytes += lines.len();
            log.waiting.push_front(lines);
            log.retry_at = Some(now.mono.plus_ms(WRITE_RETRY_MS));
        } else {
            log.durable = Some((segment, end));
            log.batch.reuse(lines);
        }
    }
}
