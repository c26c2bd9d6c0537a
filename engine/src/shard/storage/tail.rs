//! The segment that a stream writes to: made when first needed, its header block ahead of its first batch.
//!
//! Each of a shard's streams has one [`Tail`]; [`Maker`] has the keys and nonces they share. Which
//! record goes where is the streams' own business (`mod`, `log_stream`, `counter_stream`).

use std::fmt;
use std::sync::Arc;

use super::NonceSource;
use crate::clock::UnixMs;
use crate::ids::{SegmentId, ShardId};
use crate::keys::KeyRing;
use crate::queue::cipher::{SegmentName, Stream};
use crate::queue::segment::{Batch, SegmentHeader, SegmentWriter};

/// What new segments are made of.
pub(super) struct Maker {
    pub(super) shard: ShardId,
    pub(super) keys: Arc<KeyRing>,
    pub(super) nonces: NonceSource,
}

impl fmt::Debug for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maker")
            .field("shard", &self.shard)
            .finish_non_exhaustive()
    }
}

impl Maker {
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
    pub(super) next: SegmentId,
    pub(super) writer: Option<SegmentWriter>,
    /// Header block of the writer's segment, until its first batch takes it along.
    pub(super) header: Vec<u8>,
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
        Some(self.with_header(batch))
    }

    pub(super) fn with_header(&mut self, batch: Batch) -> Batch {
        if self.header.is_empty() {
            return batch;
        }
        let mut bytes = std::mem::take(&mut self.header);
        bytes.extend_from_slice(&batch.bytes);
        Batch {
            file_offset: 0,
            bytes,
            ..batch
        }
    }
}
