//! A transaction's recipients to the shards that own them, and one answer for all.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::admit::{Arrival, Whence};
use super::waiter::{Hold, Origin, Waiter};
use super::{Action, ShardCore, Stored, Submission};
use crate::clock::Now;
use crate::envelope::Recipient;
use crate::ids::{AdoptedPart, HandoverId, QueueId, ShardId, SplitId};
use crate::memory::Permit;
use crate::route::owner;

/// What shards tell each other of a transaction's parts.
#[derive(Debug)]
pub enum PartMessage {
    /// Store these recipients of a transaction; answered with `Stored`.
    Store {
        /// As the sender names it.
        split: SplitId,
        /// The part of the transaction that the receiver owns.
        submission: Box<Submission>,
        /// Other shards own recipients too: hold it until `Confirm` or `Cancel`.
        pending: bool,
        /// It was queued before, in the folder of a shard that does not own its domain any more: hold
        /// it until this handover is noted.
        handover: Option<HandoverId>,
        /// A notification of ours: the mail it tells of leaves the queue once it is stored.
        is_notice: bool,
    },
    /// The answer.
    Stored {
        /// As the sender names it.
        split: SplitId,
        /// Whether it is durable.
        result: Stored,
    },
    /// Every owner has it: deliver.
    Confirm {
        /// The message.
        queue_id: QueueId,
    },
    /// An owner failed: forget it.
    Cancel {
        /// The message.
        queue_id: QueueId,
    },
}

/// A transaction of which other shards own recipients.
#[derive(Debug)]
pub(super) struct Split {
    origin: Origin,
    queue_id: QueueId,
    /// More than one owner: they hold the mail until told.
    pending: bool,
    owners: Vec<ShardId>,
    awaited: usize,
    failure: Option<Stored>,
    /// The copies of the content that are on their way to others.
    _crossing: Permit,
}

/// Messages of which parts are being stored, here and elsewhere.
#[derive(Debug, Default)]
pub(super) struct Splits {
    pub(super) open: HashMap<SplitId, Split>,
    last: SplitId,
}

impl ShardCore {
    /// Stores a submission at the owners of its recipients; `origin` is answered once all have it.
    pub(super) fn route(&mut self, origin: Origin, mut submission: Submission, now: Now) {
        let first = owner(submission.recipients()[0].domain(), self.shards);
        let one_owner = submission
            .recipients()
            .iter()
            .all(|r| owner(r.domain(), self.shards) == first);
        if one_owner && first == self.me {
            let hold = Hold::new(false, origin.handover());
            self.store(submission, Waiter::Origin(origin), hold, now);
            return;
        }
        let mut parts: BTreeMap<ShardId, Vec<Recipient>> = BTreeMap::new();
        let envelope = Arc::make_mut(&mut submission.envelope);
        for recipient in std::mem::take(&mut envelope.recipients) {
            let to = owner(recipient.domain(), self.shards);
            parts.entry(to).or_default().push(recipient);
        }
        let split = self.splits.last.next();
        let pending = parts.len() > 1;
        let copies = parts.len() - usize::from(parts.contains_key(&self.me));
        let crossing = self.content.cross(copies * submission.content.len());
        let opened = Split {
            origin,
            queue_id: submission.queue_id,
            pending,
            owners: parts.keys().copied().collect(),
            awaited: parts.len(),
            failure: None,
            _crossing: crossing,
        };
        self.splits.open.insert(split, opened);
        let mut whole = Some(submission);
        while let Some((to, recipients)) = parts.pop_first() {
            // The content is copied for every owner but the last.
            let part = match (parts.is_empty(), &mut whole) {
                (true, taken) => taken.take().map(|mut whole| {
                    Arc::make_mut(&mut whole.envelope).recipients = recipients;
                    whole
                }),
                (false, Some(whole)) => Some(whole.for_recipients(recipients)),
                (false, None) => None,
            };
            let Some(part) = part else { break };
            if to == self.me {
                let hold = Hold::new(pending, origin.handover());
                self.store(part, Waiter::Part(split), hold, now);
            } else {
                let submission = Box::new(part);
                let handover = origin.handover();
                self.tell(
                    to,
                    PartMessage::Store {
                        split,
                        submission,
                        pending,
                        handover,
                        is_notice: matches!(origin, Origin::Notice(_)),
                    },
                );
            }
        }
    }

    pub(super) fn told_of_part(&mut self, from: ShardId, message: PartMessage, now: Now) {
        match message {
            PartMessage::Store {
                split,
                submission,
                pending,
                handover: None,
                is_notice,
            } => {
                let whence = Whence::Shard {
                    shard: from,
                    split,
                    pending,
                    is_notice,
                };
                self.admit(Arrival { whence, submission }, now);
            }
            PartMessage::Store {
                split,
                mut submission,
                handover,
                ..
            } => {
                self.rename_if_known(&mut submission, now);
                let waiter = Waiter::Shard { shard: from, split };
                match self.refuses_handover() {
                    Some(result) => self.tell_waiter(waiter, result, now),
                    None => self.store(*submission, waiter, Hold::new(false, handover), now),
                }
            }
            PartMessage::Stored { split, result } => self.part_stored(split, result, now),
            PartMessage::Confirm { queue_id } => self.confirm(queue_id, now),
            PartMessage::Cancel { queue_id } => self.cancel_stored(queue_id, now),
        }
    }

    /// Two parts of one message may meet here when the number of shards changes. The index names a
    /// message by its id alone, so the second gets one of its own; and so it does when the first is
    /// done, since notes about it, copied forward behind the second, would be taken for the second's.
    fn rename_if_known(&mut self, submission: &mut Submission, now: Now) {
        let queue_id = submission.queue_id;
        let is_past = |ids: &HashSet<QueueId>| ids.contains(&queue_id);
        if self.mail.find(queue_id).is_some() || self.moves.past_ids.values().any(is_past) {
            submission.queue_id = self.next_queue_id(now);
        }
    }

    /// Stores a message found in the files of a shard that is no more, all recipients of one owner,
    /// at that owner, to be held until [`Self::handed_over`]; [`Self::take_adopted`] tells of `part`
    /// once it is durable or could not be stored. Only after [`Self::replay_done`].
    pub fn adopt(
        &mut self,
        part: AdoptedPart,
        handover: HandoverId,
        mut submission: Submission,
        now: Now,
    ) {
        debug_assert!(!self.moves.replaying, "adoption while replaying");
        if owner(submission.recipients()[0].domain(), self.shards) == self.me {
            self.rename_if_known(&mut submission, now);
        }
        self.route(Origin::Adopted { part, handover }, submission, now);
    }

    /// What became of the messages given to [`Self::adopt`].
    pub fn take_adopted(&mut self, into: &mut Vec<(AdoptedPart, Stored)>) {
        into.append(&mut self.moves.adopted);
    }

    /// One owner has answered.
    pub(super) fn part_stored(&mut self, split: SplitId, result: Stored, now: Now) {
        let Some(opened) = self.splits.open.get_mut(&split) else {
            return;
        };
        opened.awaited -= 1;
        if result != Stored::Durable {
            opened.failure = Some(result);
        }
        if opened.awaited > 0 {
            return;
        }
        let Some(opened) = self.splits.open.remove(&split) else {
            return;
        };
        let queue_id = opened.queue_id;
        if opened.pending {
            for to in &opened.owners {
                match (*to == self.me, opened.failure.is_some()) {
                    (true, false) => self.confirm(queue_id, now),
                    (true, true) => self.cancel_stored(queue_id, now),
                    (false, false) => self.tell(*to, PartMessage::Confirm { queue_id }),
                    (false, true) => self.tell(*to, PartMessage::Cancel { queue_id }),
                }
            }
        }
        self.answer(
            opened.origin,
            opened.failure.unwrap_or(Stored::Durable),
            now,
        );
    }

    pub(super) fn answer(&mut self, origin: Origin, result: Stored, now: Now) {
        match origin {
            Origin::Session(ticket) => self.actions.push(Action::Answer { ticket, result }),
            Origin::Notice(notice) => self.notice_stored(notice, result, now),
            Origin::Transfer { entry, .. } => self.transferred(entry, result, now),
            Origin::Adopted { part, .. } => self.moves.adopted.push((part, result)),
        }
    }
}
