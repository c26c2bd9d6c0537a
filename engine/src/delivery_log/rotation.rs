//! When a log segment is sealed, and which sealed ones are deleted.

use crate::clock::UnixMs;
use crate::ids::{SegmentId, ShardId};

/// Decides when a shard starts its next log segment.
///
/// Before each batch ask [`must_rotate`](Self::must_rotate); if so, seal the open segment, open the
/// next one and call [`opened`](Self::opened). After each batch call [`appended`](Self::appended).
#[derive(Clone, Debug)]
pub struct LogRotation {
    rotate_bytes: u64,
    rotate_every_ms: u64,
    open: Option<Open>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    period: u64,
    bytes: u64,
}

impl LogRotation {
    /// Rotation at a size in bytes and at clock-aligned periods in ms (see `[log]` in the
    /// configuration).
    pub const fn new(rotate_bytes: u64, rotate_every_ms: u64) -> Self {
        let rotate_every_ms = if rotate_every_ms == 0 {
            1
        } else {
            rotate_every_ms
        };
        Self {
            rotate_bytes,
            rotate_every_ms,
            open: None,
        }
    }

    /// Whether a batch of `bytes` must go into a new segment: none is open, the period has changed,
    /// or it would grow beyond the bound. A segment with nothing in it takes any batch.
    pub fn must_rotate(&self, now: UnixMs, bytes: u64) -> bool {
        let Some(open) = self.open else { return true };
        let other_period = open.period != now.0 / self.rotate_every_ms;
        open.bytes > 0 && (other_period || open.bytes + bytes > self.rotate_bytes)
    }

    /// A new segment was opened.
    pub const fn opened(&mut self, now: UnixMs) {
        self.open = Some(Open {
            period: now.0 / self.rotate_every_ms,
            bytes: 0,
        });
    }

    /// A batch of `bytes` was written to it.
    pub fn appended(&mut self, now: UnixMs, bytes: u64) {
        if let Some(open) = &mut self.open {
            if open.bytes == 0 {
                // A segment that stood empty over the hour belongs to the hour of its first batch.
                open.period = now.0 / self.rotate_every_ms;
            }
            open.bytes += bytes;
        }
    }
}

/// A sealed segment of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedLog {
    /// Whose.
    pub shard: ShardId,
    /// The segment.
    pub segment: SegmentId,
    /// When its last batch was written.
    pub last: UnixMs,
    /// Size on disk.
    pub bytes: u64,
}

/// The segments to delete: all older than `keep_age_ms`, then the oldest until the rest is at most
/// `keep_bytes`. Open segments are not among `sealed`, so the newest lines are always kept.
pub fn expired_segments(
    mut sealed: Vec<SealedLog>,
    now: UnixMs,
    keep_age_ms: u64,
    keep_bytes: u64,
) -> Vec<SealedLog> {
    sealed.sort_by_key(|log| (log.last, log.shard, log.segment));
    let mut total: u64 = sealed.iter().map(|log| log.bytes).sum();
    let drop = sealed
        .iter()
        .take_while(|log| {
            let old = now.0.saturating_sub(log.last.0) > keep_age_ms;
            let over = total > keep_bytes;
            if old || over {
                total -= log.bytes;
            }
            old || over
        })
        .count();
    sealed.truncate(drop);
    sealed
}
