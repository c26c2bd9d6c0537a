//! Streams onto the disk: records into batches, batches into segments, durable or failed.
//!
//! Whoever appends is told later what became of it, by values: [`GroupCommit::written`] gives
//! [`Written::Durable`] or [`Written::Failed`] with the tickets of all that waited, and nothing here
//! calls back or knows whose tickets they are. What is to be written comes out as [`Write`].
//!
//! - `commit`: the queue's stream, group commit;
//! - `batch`: what a batch of it makes durable, and what is to be written again if it does not;
//! - `side`: any other stream of a shard (delivery log, counts), each a use of one type;
//! - `tail`: the segment being written, of any stream.
//!
//! What the records are, and which segments may go: [`crate::queue`]. What is done about a durable or
//! failed batch: the shard's `durable`.

mod batch;
mod commit;
mod side;
mod tail;

use std::fmt;
use std::sync::Arc;

pub use batch::{Awaited, Mark};
pub use commit::{Failed, GivenUp, GroupCommit, Written};
pub use side::{SideStream, SideWritten};
pub use tail::Maker;

use crate::ids::SegmentId;
use crate::keys::KeyRing;
use crate::queue::cipher::{Nonce, Stream};

/// Bytes of records not yet durable at which no further mail is taken.
pub const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A batch of this size is closed, and the next begun; bounds one write.
pub const BATCH_BYTES_FULL: usize = 2 * 1024 * 1024;
/// How long a side stream rests after a failed write, and the queue where the disk is full,
/// milliseconds.
pub const WRITE_RETRY_MS: u64 = 1000;
/// Longest time that writing rests while one failure follows another, milliseconds.
pub const WRITE_RETRY_MS_MAX: u64 = 5000;
/// Bytes of a side stream kept while the disk does not take them; beyond, batches are dropped.
pub const SIDE_WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Blob kind of the counts since ever.
pub const BLOB_COUNTERS: u16 = 3;
/// Blob kind of the place in the queue's stream up to which outcomes are in saved counts.
pub const BLOB_COUNTED: u16 = 5;
/// Blob kind of a book of stops.
pub const BLOB_STOPS: u16 = 6;
/// Blob kind of a delivery log batch.
pub const BLOB_LOG_BATCH: u16 = 1;

/// 16 random bytes from the system at each call.
pub type NonceSource = Box<dyn FnMut() -> Nonce>;

/// What a shard's storage starts from.
pub struct StorageSetup {
    /// Keys of this installation; shared, since its locked pages are those of this one ring.
    pub keys: Arc<KeyRing>,
    /// For new segments.
    pub nonces: NonceSource,
    /// Number of the first new queue segment: above all there are and have been.
    pub next_segment: SegmentId,
    /// Number of the first new delivery log segment.
    pub next_log_segment: SegmentId,
    /// Number of the first new segment of counters.
    pub next_counters_segment: SegmentId,
}

impl fmt::Debug for StorageSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageSetup")
            .field("next_segment", &self.next_segment)
            .finish_non_exhaustive()
    }
}

/// Names one write until it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchId(pub u64);

impl BatchId {
    /// Its low bits say which stream it is of.
    const fn new(number: u64, stream: Stream) -> Self {
        Self(number << 3 | stream as u64)
    }

    /// Of which stream it is.
    pub fn stream(self) -> Option<Stream> {
        Stream::from_number((self.0 & 7) as u8)
    }
}

/// How a new segment's file is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Its size, bytes.
    pub segment_bytes: u32,
    /// Write over one of the free files if there is one.
    pub reuse: bool,
}

/// Why a disk operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// ENOSPC or EDQUOT.
    Full,
    /// Anything else, in the system's words.
    Io(String),
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("no space left on device"),
            Self::Io(why) => f.write_str(why),
        }
    }
}

/// Bytes to be written at `offset` of the segment's file, and synced.
#[derive(Debug)]
pub struct Write {
    /// To be named in the answer.
    pub batch: BatchId,
    /// Which file.
    pub segment: SegmentId,
    /// Byte offset, a multiple of 4096.
    pub offset: u64,
    /// A multiple of 4096 bytes.
    pub bytes: Vec<u8>,
    /// The file to be made when `offset` is 0; `None` elsewhere.
    pub begin: Option<Begin>,
}
