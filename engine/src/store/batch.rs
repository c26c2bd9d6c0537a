//! What a batch makes durable, kept in case it does not.

use std::collections::HashMap;

use crate::clock::Mono;
use crate::ids::{QueueId, SegmentId};
use crate::queue::record::{About, Outcome};
use crate::queue::segment::{Batch, Placement};

/// Something of a batch that somebody waits for.
#[derive(Clone, Copy, Debug)]
pub enum Awaited<T> {
    /// A message was stored.
    Message {
        /// Its id.
        queue_id: QueueId,
        /// Where.
        placement: Placement,
        /// Who waits.
        ticket: T,
    },
    /// A message was copied forward out of a segment that is being compacted.
    Copy {
        /// Its id.
        queue_id: QueueId,
        /// Of the original.
        from: Placement,
        /// Of the copy.
        to: Placement,
    },
    /// All that was appended before it.
    Mark(Mark),
}

/// A place in the stream that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// All that was to be copied out of this segment stands before it.
    Compacted(SegmentId),
    /// Outcomes that replay found under a segment their message is not in.
    Strays,
    /// The outcomes of all mail that other shards have now.
    HandedOver,
    /// All that is counted in the counts that are about to be saved.
    Counted,
}

/// What a batch makes durable.
#[derive(Debug)]
pub(super) struct Pending<T> {
    pub(super) awaited: Vec<Awaited<T>>,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) commits: Vec<About>,
    pub(super) cancels: Vec<About>,
    pub(super) bytes: usize,
    pub(super) since: Option<Mono>,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self {
            awaited: Vec::new(),
            outcomes: Vec::new(),
            commits: Vec::new(),
            cancels: Vec::new(),
            bytes: 0,
            since: None,
        }
    }
}

impl<T> Pending<T> {
    pub(super) const fn is_empty(&self) -> bool {
        self.awaited.is_empty()
            && self.outcomes.is_empty()
            && self.commits.is_empty()
            && self.cancels.is_empty()
    }

    /// Whether copies of messages are in it.
    pub(super) fn has_copies(&self) -> bool {
        let is_copy = |one: &Awaited<T>| matches!(one, Awaited::Copy { .. });
        self.awaited.iter().any(is_copy)
    }

    /// What has to be written elsewhere if the batch of `self` failed and those of `behind` were never
    /// begun, and who is told of it.
    pub(super) fn give_up(self, behind: impl IntoIterator<Item = Self>) -> (Self, Vec<Awaited<T>>) {
        // Only what was being written may be on disk.
        let cancels: Vec<About> = self
            .awaited
            .iter()
            .filter_map(|one| match one {
                Awaited::Message {
                    queue_id,
                    placement,
                    ..
                } => Some(About {
                    queue_id: *queue_id,
                    segment: placement.segment,
                }),
                Awaited::Copy { .. } | Awaited::Mark(_) => None,
            })
            .collect();
        let mut again = Self::default();
        let mut awaited = Vec::new();
        for pending in std::iter::once(self).chain(behind) {
            again.outcomes.extend(pending.outcomes);
            again.commits.extend(pending.commits);
            again.cancels.extend(pending.cancels);
            awaited.extend(pending.awaited);
        }
        again.cancels.extend(cancels);
        again.name_originals(&awaited);
        (again, awaited)
    }

    /// Outcomes about copies that were given up are about the originals again.
    fn name_originals(&mut self, awaited: &[Awaited<T>]) {
        let originals: HashMap<(QueueId, SegmentId), SegmentId> = awaited
            .iter()
            .filter_map(|one| match one {
                Awaited::Copy { queue_id, from, to } => {
                    Some(((*queue_id, to.segment), from.segment))
                }
                Awaited::Message { .. } | Awaited::Mark(_) => None,
            })
            .collect();
        for Outcome { about, .. } in &mut self.outcomes {
            if let Some(original) = originals.get(&(about.queue_id, about.segment)) {
                about.segment = *original;
            }
        }
    }
}

/// A batch on its way to the disk.
#[derive(Debug)]
pub(super) struct Flying<T> {
    pub(super) id: super::BatchId,
    pub(super) segment: SegmentId,
    /// File offset behind it.
    pub(super) end: u64,
    /// Its segment's file is made with it.
    pub(super) begins: bool,
    pub(super) pending: Pending<T>,
}

/// A batch that waits for the one on its way.
pub(super) type Closed<T> = (Batch, Pending<T>);
