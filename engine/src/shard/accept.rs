//! A transaction's recipients to the shards that own them, and one answer for all.

use std::collections::BTreeMap;

use super::storage::Waiter;
use super::{Action, ShardCore, ShardMessage, Stored, Submission, Ticket};
use crate::address::Address;
use crate::clock::Now;
use crate::ids::{QueueId, ShardId};
use crate::route::owner;
use crate::schedule::index::EntryId;

/// Who is told whether a submission was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// An SMTP session.
    Session(Ticket),
    /// A notification of ours; the key of its `settle::Notice`.
    Notice(u64),
    /// An entry that another shard owns since the number of shards changed.
    Transfer(EntryId),
    /// A message of a shard that is no more; the caller's key.
    Adopted(u64),
}

impl Origin {
    /// The message was queued before, under an id that any shard may know.
    const fn was_queued(self) -> bool {
        matches!(self, Self::Transfer(_) | Self::Adopted(_))
    }
}

/// A transaction of which other shards own recipients.
#[derive(Debug)]
pub(super) struct Transaction {
    origin: Origin,
    queue_id: QueueId,
    /// More than one owner: they hold the mail until told.
    pending: bool,
    owners: Vec<ShardId>,
    awaited: usize,
    failure: Option<Stored>,
}

impl ShardCore {
    /// Stores a submission at the owners of its recipients; `origin` is answered once all have it.
    pub(super) fn route(&mut self, origin: Origin, mut submission: Submission, now: Now) {
        let first = owner(submission.recipients[0].domain(), self.shards);
        let one_owner = submission
            .recipients
            .iter()
            .all(|r| owner(r.domain(), self.shards) == first);
        if one_owner && first == self.me {
            self.store(submission, Waiter::Origin(origin), false, now);
            return;
        }
        let mut parts: BTreeMap<ShardId, Vec<Address>> = BTreeMap::new();
        for recipient in std::mem::take(&mut submission.recipients) {
            let to = owner(recipient.domain(), self.shards);
            parts.entry(to).or_default().push(recipient);
        }
        self.next_key += 1;
        let key = self.next_key;
        let pending = parts.len() > 1;
        let transaction = Transaction {
            origin,
            queue_id: submission.queue_id,
            pending,
            owners: parts.keys().copied().collect(),
            awaited: parts.len(),
            failure: None,
        };
        self.transactions.insert(key, transaction);
        let mut whole = Some(submission);
        while let Some((to, recipients)) = parts.pop_first() {
            // The content is copied for every owner but the last.
            let part = match (parts.is_empty(), &mut whole) {
                (true, taken) => taken.take().map(|whole| Submission {
                    recipients,
                    ..whole
                }),
                (false, Some(whole)) => Some(whole.for_recipients(recipients)),
                (false, None) => None,
            };
            let Some(part) = part else { break };
            if to == self.me {
                self.store(part, Waiter::Part(key), pending, now);
            } else {
                let submission = Box::new(part);
                let transferred = origin.was_queued();
                self.tell(
                    to,
                    ShardMessage::Store {
                        key,
                        submission,
                        pending,
                        transferred,
                    },
                );
            }
        }
    }

    pub(super) fn tell(&mut self, to: ShardId, message: ShardMessage) {
        self.actions.push(Action::Tell { to, message });
    }

    pub(super) fn told_by_shard(&mut self, from: ShardId, message: ShardMessage, now: Now) {
        match message {
            ShardMessage::Store {
                key,
                mut submission,
                pending,
                transferred,
            } => {
                let waiter = Waiter::Shard { shard: from, key };
                if transferred {
                    self.rename_if_known(&mut submission, now);
                }
                if self.overload().is_some() {
                    let result = Stored::NoSpace;
                    self.tell(from, ShardMessage::Stored { key, result });
                } else if transferred && self.replaying {
                    // A part of the same message may still be found: which, is not known yet.
                    let result = Stored::Failed;
                    self.tell(from, ShardMessage::Stored { key, result });
                } else {
                    self.store(*submission, waiter, pending, now);
                }
            }
            ShardMessage::Stored { key, result } => self.part_stored(key, result, now),
            ShardMessage::Confirm { queue_id } => self.confirm(queue_id, now),
            ShardMessage::Cancel { queue_id } => self.cancel_stored(queue_id, now),
        }
    }

    /// Two parts of one message may meet here when the number of shards changes; the index names a
    /// message by its id alone, so the second gets one of its own.
    fn rename_if_known(&mut self, submission: &mut Submission, now: Now) {
        if self.index.find(submission.queue_id).is_some() {
            submission.queue_id = self.ids.next(now.unix.0);
        }
    }

    /// Stores a message found in the files of a shard that is no more, all recipients of one owner,
    /// at that owner; [`Self::take_adopted`] tells of `key` once it is durable or could not be
    /// stored. Only after [`Self::replay_done`].
    pub fn adopt(&mut self, key: u64, mut submission: Submission, now: Now) {
        debug_assert!(!self.replaying, "adoption while replaying");
        if owner(submission.recipients[0].domain(), self.shards) == self.me {
            self.rename_if_known(&mut submission, now);
        }
        self.route(Origin::Adopted(key), submission, now);
    }

    /// What became of the messages given to [`Self::adopt`], by their keys.
    pub fn take_adopted(&mut self, into: &mut Vec<(u64, Stored)>) {
        into.append(&mut self.adopted);
    }

    /// One owner has answered.
    pub(super) fn part_stored(&mut self, key: u64, result: Stored, now: Now) {
        let Some(transaction) = self.transactions.get_mut(&key) else {
            return;
        };
        transaction.awaited -= 1;
        if result != Stored::Durable {
            transaction.failure = Some(result);
        }
        if transaction.awaited > 0 {
            return;
        }
        let Some(transaction) = self.transactions.remove(&key) else {
            return;
        };
        let queue_id = transaction.queue_id;
        if transaction.pending {
            for to in &transaction.owners {
                match (*to == self.me, transaction.failure.is_some()) {
                    (true, false) => self.confirm(queue_id, now),
                    (true, true) => self.cancel_stored(queue_id, now),
                    (false, false) => self.tell(*to, ShardMessage::Confirm { queue_id }),
                    (false, true) => self.tell(*to, ShardMessage::Cancel { queue_id }),
                }
            }
        }
        self.answer(
            transaction.origin,
            transaction.failure.unwrap_or(Stored::Durable),
            now,
        );
    }

    pub(super) fn answer(&mut self, origin: Origin, result: Stored, now: Now) {
        match origin {
            Origin::Session(ticket) => self.actions.push(Action::Answer { ticket, result }),
            Origin::Notice(key) => self.notice_stored(key, result, now),
            Origin::Transfer(entry) => self.transferred(entry, result, now),
            Origin::Adopted(key) => self.adopted.push((key, result)),
        }
    }
}
