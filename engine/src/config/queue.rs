//! `[queue]`: the segments of the queue.

use super::reader::Reader;
use super::{MIB, S};
use crate::limits::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};

/// `[queue]`: the segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Size of one segment file, bytes.
    pub segment_bytes: u64,
    /// Longest wait of a recorded outcome for its sync, ms.
    pub outcome_commit_ms_max: u64,
}

pub(super) fn read(r: &mut Reader<'_, '_>) -> Queue {
    Queue {
        segment_bytes: r.at_start("segment_bytes", |r, key| {
            r.bytes(key, 64 * MIB, SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX)
        }),
        outcome_commit_ms_max: r.duration_ms("outcome_commit_max", 100, 1..=10 * S),
    }
}
