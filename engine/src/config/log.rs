//! `[log]`: the delivery log and how long it is kept.

use super::reader::Reader;
use super::{D, GIB, H, M, MIB, TIB};
use crate::limits::SEGMENT_BYTES_MAX;

/// `[log]`: the delivery log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A log segment is sealed at this size, bytes.
    pub rotate_bytes: u64,
    /// A log segment is sealed at this age, aligned to the clock, ms.
    pub rotate_every_ms: u64,
    /// Sealed segments older than this are deleted, ms.
    pub keep_age_ms: u64,
    /// The oldest sealed segments are deleted above this, all shards together, bytes.
    pub keep_bytes: u64,
}

pub(super) fn read(r: &mut Reader<'_, '_>) -> Log {
    Log {
        rotate_bytes: r.bytes("rotate_bytes", 64 * MIB, MIB..=SEGMENT_BYTES_MAX),
        rotate_every_ms: r.duration_ms("rotate_every", H, M..=D),
        keep_age_ms: r.duration_ms("keep_age", 30 * D, H..=3650 * D),
        keep_bytes: r.bytes("keep_bytes", 10 * GIB, 16 * MIB..=1_024 * TIB),
    }
}
