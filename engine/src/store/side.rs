//! Any other stream of a shard than the queue's: batches of records that nobody waits for.
//!
//! [`SideStream::offer`] takes what is to be written, one blob a batch, and [`SideStream::next_write`] gives
//! it out, one write at a time. Batches wait in memory while the disk does not take them, up to
//! [`SIDE_WAITING_BYTES_MAX`]. How they come to stand in segments is the stream's [`Layout`]: one behind
//! the other, as a log, or each in a segment of its own that takes the place of the one before, as a
//! snapshot.
//!
//! What the bytes mean is their owner's business: [`crate::delivery_log`], [`crate::counters`].

use std::collections::VecDeque;

use super::tail::{Maker, Tail};
use super::{BatchId, Begin, DiskError, SIDE_WAITING_BYTES_MAX, WRITE_RETRY_MS, Write};
use crate::clock::{Mono, Now};
use crate::delivery_log::LogRotation;
use crate::ids::SegmentId;
use crate::queue::cipher::Stream;
use crate::queue::record::Record;
use crate::queue::segment::{AppendError, BLOCK_BYTES};

/// How a stream's batches stand in segments.
#[derive(Debug)]
enum Layout {
    /// One behind the other; segments end by size and time.
    Log(LogRotation),
    /// Each alone in a segment; the one before goes when it is durable.
    Snapshot,
}

/// What became of a batch.
#[derive(Debug)]
#[must_use]
pub enum SideWritten {
    /// It is durable.
    Durable {
        /// Its memory, for the next one.
        buffer: Vec<u8>,
        /// What it takes the place of: its file may go.
        superseded: Option<SegmentId>,
    },
    /// A log's comes again. A snapshot's does not: the next says more, and its file may go.
    Failed {
        /// That file's.
        useless: Option<SegmentId>,
    },
}

/// A batch on its way to the disk.
#[derive(Debug)]
struct Flying {
    id: BatchId,
    segment: SegmentId,
    end: u64,
    bytes: Vec<u8>,
}

/// One such stream.
#[derive(Debug)]
pub struct SideStream {
    stream: Stream,
    /// Of its records.
    blob_kind: u16,
    layout: Layout,
    tail: Tail,
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    in_flight: Option<Flying>,
    /// The segment written last and how much of it is durable.
    durable: Option<(SegmentId, u64)>,
    retry_at: Option<Mono>,
}

impl SideStream {
    /// A log: batches one behind the other in segments of `segment_bytes`, which end by `rotation`.
    /// `next`: the first segment to be.
    pub const fn log(
        stream: Stream,
        blob_kind: u16,
        next: SegmentId,
        segment_bytes: u32,
        rotation: LogRotation,
    ) -> Self {
        let tail = Tail::new(stream, segment_bytes, next);
        Self::new(stream, blob_kind, Layout::Log(rotation), tail)
    }

    /// Snapshots, each of which takes the place of the one before. `next`: the first segment to be.
    pub const fn snapshots(stream: Stream, blob_kind: u16, next: SegmentId) -> Self {
        let tail = Tail::new(stream, 0, next);
        Self::new(stream, blob_kind, Layout::Snapshot, tail)
    }

    const fn new(stream: Stream, blob_kind: u16, layout: Layout, tail: Tail) -> Self {
        Self {
            stream,
            blob_kind,
            layout,
            tail,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            in_flight: None,
            durable: None,
            retry_at: None,
        }
    }

    /// A segment of an earlier run, which the next snapshot takes the place of.
    pub const fn found(&mut self, segment: SegmentId) {
        self.durable = Some((segment, 0));
    }

    /// New bounds of a log, which its next segment begins with.
    pub fn resize(&mut self, segment_bytes: u32, rotation: LogRotation) {
        self.layout = Layout::Log(rotation);
        self.tail.segment_bytes = segment_bytes;
    }

    /// What is written next goes into a new segment.
    pub fn roll(&mut self) {
        let _ = self.tail.leave();
    }

    /// The segment written last and how much of it is durable.
    pub const fn end(&self) -> Option<(SegmentId, u64)> {
        self.durable
    }

    /// Whether nothing waits for the disk.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_none()
    }

    /// Has a batch written in its turn; `false` if there is no room to keep it until then.
    pub fn offer(&mut self, bytes: Vec<u8>) -> bool {
        if matches!(self.layout, Layout::Snapshot) {
            // An older one that was not begun is of no use any more.
            self.waiting.clear();
            self.waiting_bytes = 0;
        } else if self.waiting_bytes + bytes.len() > SIDE_WAITING_BYTES_MAX {
            return false;
        }
        self.waiting_bytes += bytes.len();
        self.waiting.push_back(bytes);
        true
    }

    /// The next batch, if none is on its way and the disk need not rest.
    ///
    /// # Errors
    /// The bytes of a batch that fits no segment, and is dropped.
    pub fn next_write(&mut self, maker: &mut Maker, now: Now) -> Result<Option<Write>, Vec<u8>> {
        if self.in_flight.is_some() || self.retry_at.is_some_and(|at| at > now.mono) {
            return Ok(None);
        }
        self.retry_at = None;
        let Some(bytes) = self.waiting.pop_front() else {
            return Ok(None);
        };
        self.waiting_bytes -= bytes.len();
        self.turn_page(bytes.len(), now);
        let record = Record::Blob {
            kind: self.blob_kind,
            bytes: &bytes,
        };
        let appended = match self.tail.writer(maker, now.unix).append(&record) {
            Err(AppendError::Full { .. }) => {
                let _ = self.tail.leave();
                self.tail.writer(maker, now.unix).append(&record)
            }
            other => other,
        };
        let is_begun = self.tail.begun.take().is_some();
        if let Layout::Log(rotation) = &mut self.layout {
            if is_begun {
                rotation.opened(now.unix);
            }
            rotation.appended(now.unix, bytes.len() as u64);
        }
        if appended.is_err() {
            return Err(bytes);
        }
        let Some(batch) = self.tail.take_batch() else {
            return Ok(None);
        };
        let id = maker.next_batch(self.stream);
        self.in_flight = Some(Flying {
            id,
            segment: batch.segment,
            end: batch.end(),
            bytes,
        });
        Ok(Some(Write {
            batch: id,
            segment: batch.segment,
            offset: batch.file_offset,
            bytes: batch.bytes,
            begin: is_begun.then_some(Begin {
                segment_bytes: self.tail.segment_bytes,
                reuse: false,
            }),
        }))
    }

    /// Leaves the segment if a batch of so many bytes belongs into another.
    fn turn_page(&mut self, bytes: usize, now: Now) {
        let leave = match &self.layout {
            Layout::Log(rotation) => rotation.must_rotate(now.unix, bytes as u64),
            Layout::Snapshot => {
                let room = bytes + 8 * BLOCK_BYTES;
                self.tail.segment_bytes = room.next_multiple_of(BLOCK_BYTES) as u32;
                true
            }
        };
        if leave {
            // All that was written to it is durable, as no batch is on its way.
            let _ = self.tail.leave();
        }
    }

    /// The disk's answer to the batch on its way; `None` if there is none.
    pub fn written(
        &mut self,
        batch: BatchId,
        result: &Result<(), DiskError>,
        now: Now,
    ) -> Option<SideWritten> {
        let Flying {
            id,
            segment,
            end,
            bytes,
        } = self.in_flight.take()?;
        debug_assert_eq!(
            id, batch,
            "one batch of a side stream is on its way at a time"
        );
        let is_snapshot = matches!(self.layout, Layout::Snapshot);
        if result.is_ok() {
            let before = self.durable.replace((segment, end));
            return Some(SideWritten::Durable {
                buffer: bytes,
                superseded: before.filter(|_| is_snapshot).map(|(segment, _)| segment),
            });
        }
        // A new segment: whether these bytes are in the old one is unknown.
        let _ = self.tail.leave();
        if is_snapshot {
            return Some(SideWritten::Failed {
                useless: Some(segment),
            });
        }
        self.waiting_bytes += bytes.len();
        self.waiting.push_front(bytes);
        self.retry_at = Some(now.mono.plus_ms(WRITE_RETRY_MS));
        Some(SideWritten::Failed { useless: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMs;
    use crate::ids::ShardId;
    use crate::keys::{KeyRing, MasterKey};
    use std::sync::Arc;

    const HOUR_MS: u64 = 3_600_000;

    fn maker() -> Maker {
        let keys = KeyRing::new(MasterKey::from_bytes(&mut [7; 32]));
        let mut n = 0;
        let nonces = Box::new(move || {
            n += 1;
            [n; 16]
        });
        Maker::new(ShardId(0), Arc::new(keys), nonces)
    }

    fn at(ms: u64) -> Now {
        Now {
            unix: UnixMs(1_800_000_000_000 + ms),
            mono: Mono(ms * 1000),
        }
    }

    fn log() -> SideStream {
        let rotation = LogRotation::new(1 << 20, HOUR_MS);
        SideStream::log(Stream::DeliveryLog, 1, SegmentId(5), 1 << 20, rotation)
    }

    #[test]
    fn batches_of_a_log_stand_one_behind_the_other_until_the_hour_ends() {
        let (mut log, mut maker) = (log(), maker());
        let mut places = Vec::new();
        for (ms, text) in [(0, "a"), (10, "b"), (HOUR_MS, "c")] {
            assert!(log.offer(text.into()));
            let write = log.next_write(&mut maker, at(ms)).unwrap().unwrap();
            assert!(log.next_write(&mut maker, at(ms)).unwrap().is_none());
            places.push((write.segment.0, write.offset > 0, write.begin.is_some()));
            let written = log.written(write.batch, &Ok(()), at(ms));
            let superseded = matches!(
                written,
                Some(SideWritten::Durable {
                    superseded: Some(_),
                    ..
                })
            );
            assert!(!superseded, "a log keeps what was written");
        }
        assert_eq!(
            places,
            [(5, false, true), (5, true, false), (6, false, true)]
        );
        assert!(log.is_idle());
    }

    #[test]
    fn a_failed_batch_of_a_log_comes_again_after_a_rest_in_a_new_segment() {
        let (mut log, mut maker) = (log(), maker());
        assert!(log.offer(b"a".to_vec()));
        let write = log.next_write(&mut maker, at(0)).unwrap().unwrap();
        let written = log.written(write.batch, &Err(DiskError::Full), at(0));
        assert!(matches!(
            written,
            Some(SideWritten::Failed { useless: None })
        ));
        assert!(log.next_write(&mut maker, at(10)).unwrap().is_none());
        let again = log.next_write(&mut maker, at(WRITE_RETRY_MS)).unwrap();
        assert_eq!(again.map(|write| write.segment), Some(SegmentId(6)));
    }

    #[test]
    fn a_batch_that_fits_no_segment_is_given_back() {
        let (mut log, mut maker) = (log(), maker());
        let batch = vec![7; 2 << 20];
        assert!(log.offer(batch.clone()));
        let dropped = log.next_write(&mut maker, at(0)).unwrap_err();
        assert_eq!(dropped, batch);
        assert!(log.is_idle());
    }

    #[test]
    fn what_the_disk_does_not_take_is_bounded() {
        let mut log = log();
        let batch = vec![0; 64 * 1024];
        let taken = (0..1000).filter(|_| log.offer(batch.clone())).count();
        assert_eq!(taken, SIDE_WAITING_BYTES_MAX / batch.len());
    }

    #[test]
    fn a_snapshot_takes_the_place_of_the_last_durable_one() {
        let mut maker = maker();
        let mut counts = SideStream::snapshots(Stream::Counters, 3, SegmentId(9));
        counts.found(SegmentId(2));
        let mut write = |counts: &mut SideStream, result: Result<(), DiskError>| {
            // Only the latest is of use.
            assert!(counts.offer(b"old".to_vec()) && counts.offer(vec![1; 100_000]));
            let write = counts.next_write(&mut maker, at(0)).unwrap().unwrap();
            let begin = write.begin.unwrap();
            assert!(write.offset == 0 && write.bytes.len() <= begin.segment_bytes as usize);
            let files = match counts.written(write.batch, &result, at(0)).unwrap() {
                SideWritten::Durable { superseded, .. } => (write.segment.0, superseded),
                SideWritten::Failed { useless } => (write.segment.0, useless),
            };
            assert!(counts.is_idle());
            files
        };
        assert_eq!(write(&mut counts, Ok(())), (9, Some(SegmentId(2))));
        let io = DiskError::Io("EIO".into());
        assert_eq!(write(&mut counts, Err(io)), (10, Some(SegmentId(10))));
        assert_eq!(write(&mut counts, Ok(())), (11, Some(SegmentId(9))));
    }
}
