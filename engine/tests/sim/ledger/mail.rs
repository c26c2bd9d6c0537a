//! A message, its copies in shards' queues, and what each of its recipients is owed.

use std::collections::{BTreeMap, BTreeSet};

use engine::ids::{HandoverId, SegmentId};
use engine::queue::record::OutcomeKind;

use super::super::net::{self, Kind, Plan};
use super::Heard;

#[derive(Debug, Default)]
pub(super) struct Fate {
    pub(super) budget: u32,
    pub(super) tries: u32,
    pub(super) taken: u32,
    pub(super) refused: bool,
    pub(super) recorded: Option<OutcomeKind>,
    /// It may expire before its domain's delivery window opens.
    pub(super) has_window: bool,
    /// A durable notification names it.
    pub(super) notified: bool,
}

/// A message's record at one shard.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) shard: u16,
    /// Where it stood and stands.
    pub(super) segments: Vec<SegmentId>,
    pub(super) addresses: Vec<String>,
    /// Written and synced; after a cut, perhaps only in part.
    pub(super) durable: bool,
    /// It was synced for sure.
    pub(super) certain: bool,
    /// Its write failed, so it has to be cancelled.
    pub(super) failed: bool,
    /// It was there at a cut: an outcome nobody saw become durable may have become moot, as its
    /// message's segment was removed before.
    pub(super) saw_cut: bool,
    /// The handover it depends on.
    pub(super) handover: Option<HandoverId>,
    /// Recipients that were handed over to others, by which handovers.
    pub(super) given: BTreeMap<String, BTreeSet<HandoverId>>,
    /// Cancelled, or its folder is gone.
    pub(super) void: bool,
    /// Its shard has let go of every segment it stood in.
    pub(super) let_go: bool,
    pub(super) done: BTreeSet<String>,
    /// What is recorded of them for sure.
    pub(super) outcomes: BTreeMap<String, OutcomeKind>,
    /// Recorded in a batch of which a cut has left nobody knows what.
    pub(super) perhaps: BTreeMap<String, OutcomeKind>,
    pub(super) perhaps_void: bool,
}

impl Part {
    /// Whether its shard may send it: it was not given to it by a handover that may yet be void.
    pub(super) fn is_its_own(&self, noted: &BTreeSet<HandoverId>) -> bool {
        self.handover
            .is_none_or(|handover| noted.contains(&handover))
    }
}

#[derive(Debug)]
pub(super) struct Mail {
    pub(super) text: Vec<u8>,
    pub(super) reverse_path: Option<String>,
    pub(super) heard: Heard,
    pub(super) is_notice: bool,
    /// A record about it was lost to a bad sector: nothing is promised of it any more.
    pub(super) spoiled: bool,
    pub(super) fates: BTreeMap<String, Fate>,
    pub(super) parts: Vec<Part>,
}

impl Mail {
    /// Its outcome is known to nobody, but a cut may have left it, or made it moot; and all that has
    /// to come before it has happened.
    pub(super) fn may_be_done(&self, address: &str) -> bool {
        let of_it = |part: &&Part| part.addresses.iter().any(|other| other == address);
        let fate = &self.fates[address];
        let told = fate.notified || self.reverse_path.is_none();
        self.parts.iter().filter(of_it).any(|part| part.saw_cut)
            && match expected_kind(address) {
                _ if fate.has_window && told => true,
                OutcomeKind::Delivered => fate.taken > 0,
                OutcomeKind::Failed => (fate.refused || fails_in_dns(address)) && told,
                _ => told,
            }
    }
}

/// What the address and its domain lead to.
pub(super) fn expected_kind(address: &str) -> OutcomeKind {
    match (net::kind(address), net::plan(address)) {
        (Kind::NoSuchDomain | Kind::NullMx, _) => OutcomeKind::Failed,
        (Kind::Dead | Kind::NoDns, _) => OutcomeKind::Expired,
        (_, Plan::Refuse) => OutcomeKind::Failed,
        (_, Plan::PutOffAlways) => OutcomeKind::Expired,
        _ => OutcomeKind::Delivered,
    }
}

pub(super) fn fails_in_dns(address: &str) -> bool {
    matches!(net::kind(address), Kind::NoSuchDomain | Kind::NullMx)
}
