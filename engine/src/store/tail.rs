//! The segment that a stream writes to: made when first needed, its header block ahead of its first batch.
//!
//! Each of a shard's streams has one [`Tail`]; [`Maker`] has the keys, nonces and batch numbers they
//! share. Which record goes where is the streams' own business (`commit`, `side`).

use std::fmt;
use std::sync::Arc;

use super::{BatchId, NonceSource};
use crate::clock::UnixMs;
use crate::ids::{HandoverId, SegmentId, ShardId};
use crate::keys::KeyRing;
use crate::queue::cipher::{SegmentName, Stream};
use crate::queue::segment::{Batch, SegmentHeader, SegmentWriter};

/// What new segments are made of, and the numbers of their batches.
pub struct Maker {
    shard: ShardId,
    pub(super) keys: Arc<KeyRing>,
    nonces: NonceSource,
    next_batch: u64,
}

impl fmt::Debug for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maker")
            .field("shard", &self.shard)
            .finish_non_exhaustive()
    }
}

impl Maker {
    pub(super) const fn new(shard: ShardId, keys: Arc<KeyRing>, nonces: NonceSource) -> Self {
        Self {
            shard,
            keys,
            nonces,
            next_batch: 0,
        }
    }

    pub(super) const fn next_batch(&mut self, stream: Stream) -> BatchId {
        self.next_batch += 1;
        BatchId::new(self.next_batch, stream)
    }

    /// Names a handover.
    pub(super) fn random_handover(&mut self) -> HandoverId {
        let nonce = (self.nonces)();
        let (low, _) = nonce.split_at(8);
        let bits = low
            .iter()
            .fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        HandoverId::from_random(bits)
    }

    fn header(
        &mut self,
        stream: Stream,
        segment: SegmentId,
        bytes: u32,
        now: UnixMs,
    ) -> SegmentHeader {
        SegmentHeader {
            name: SegmentName {
                stream,
                shard: self.shard,
                segment,
            },
            segment_bytes: bytes,
            created_ms: now.0,
            key_id: self.keys.current_id(),
            nonce: (self.nonces)(),
        }
    }
}

/// One stream's segment being written, and the numbers of those to come.
#[derive(Debug)]
pub(super) struct Tail {
    stream: Stream,
    pub(super) segment_bytes: u32,
    next: SegmentId,
    pub(super) writer: Option<SegmentWriter>,
    /// Header block of the writer's segment, until its first batch takes it along.
    header: Vec<u8>,
    /// Segments begun since they were last asked for.
    pub(super) begun: Option<SegmentId>,
}

impl Tail {
    /// Nothing is begun yet; `next` is the first segment to be.
    pub(super) const fn new(stream: Stream, segment_bytes: u32, next: SegmentId) -> Self {
        Self {
            stream,
            segment_bytes,
            next,
            writer: None,
            header: Vec::new(),
            begun: None,
        }
    }

    pub(super) fn writer(&mut self, maker: &mut Maker, now: UnixMs) -> &mut SegmentWriter {
        if self.writer.is_none() {
            let segment = self.next;
            self.next = SegmentId(segment.0 + 1);
            let header = maker.header(self.stream, segment, self.segment_bytes, now);
            self.header = header.encode(maker.keys.current());
            self.writer = Some(SegmentWriter::new(maker.keys.current(), header));
            self.begun = Some(segment);
        }
        self.writer.as_mut().expect("made just above")
    }

    /// The open batch; the first of a segment begins with the header block.
    pub(super) fn take_batch(&mut self) -> Option<Batch> {
        let batch = self.writer.as_mut()?.take_batch()?;
        if self.header.is_empty() {
            return Some(batch);
        }
        let mut bytes = std::mem::take(&mut self.header);
        bytes.extend_from_slice(&batch.bytes);
        Some(Batch {
            file_offset: 0,
            bytes,
            ..batch
        })
    }

    /// Whether the segment's file would be made by its next batch.
    pub(super) const fn is_unmade(&self) -> bool {
        !self.header.is_empty()
    }

    /// What is appended next goes into a new segment; the one so far, if one was begun.
    pub(super) fn leave(&mut self) -> Option<SegmentWriter> {
        self.header.clear();
        self.writer.take()
    }
}
