//! `[counters]`: how many rows are kept, and how often they are saved.

use super::reader::Reader;
use super::{M, S};

/// `[counters]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Domains with a row of their own, per shard; the rest is `(other)`.
    pub domains_max: u32,
    /// Groups with a row of their own, per shard; the rest is `(other)`.
    pub groups_max: u32,
    /// How often counts and windows are made durable, ms.
    pub save_every_ms: u64,
}

pub(super) fn read(r: &mut Reader<'_, '_>) -> Counters {
    Counters {
        domains_max: r.at_start("domains_max", |r, key| r.number(key, 20_000, 1..=1_000_000)),
        groups_max: r.at_start("groups_max", |r, key| r.number(key, 2_000, 1..=100_000)),
        save_every_ms: r.duration_ms("save_every", 10 * S, S..=10 * M),
    }
}
