//! Segments that may go, and compaction: what is needed of a segment is copied forward, then it goes.
//!
//! Which segment is next: [`crate::queue::set`]. What the copies mean at the next start:
//! [`crate::queue::survivors`].

use std::collections::BTreeSet;

use super::waiter::Ticket;
use super::{Action, DiskError, ShardCore};
use crate::clock::Now;
use crate::ids::{QueueId, SegmentId};
use crate::queue::record::{
    About, Message as MessageRecord, Moved, Outcome, OutcomeKind, OutcomeState, OutcomeStates,
    Record,
};
use crate::queue::segment::Placement;
use crate::queue::set::{Disposal, Task};
use crate::queue::survivors::runs_of;
use crate::schedule::index::{EntryId, State};
use crate::store::{Awaited, Mark};

/// Ticks for which nothing is compacted or removed after that failed: some seconds.
const TASK_REST_TICKS: u32 = 50;

/// A message's copy that is not durable yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    /// Where it can be read.
    pub(super) from: Placement,
    /// Where its entries say it stands.
    pub(super) to: Placement,
}

/// Segments that hold nothing that is needed, and wait until counts are saved.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// The one that is next to go.
    next: Option<SegmentId>,
    /// Counts that were taken since are on their way.
    is_taken: bool,
    /// Segments that held nothing when those were taken.
    dead: BTreeSet<SegmentId>,
    /// Segments that held nothing when the counts that are saved were taken.
    counted: BTreeSet<SegmentId>,
}

impl Leaving {
    /// Whether one waits for counts that nobody has taken yet.
    pub(super) const fn wants_counts(&self) -> bool {
        self.next.is_some()
    }

    /// Counts are taken, while these segments hold nothing.
    pub(super) fn counts_taken(&mut self, dead: BTreeSet<SegmentId>) {
        self.is_taken = self.next.is_some();
        self.dead = dead;
    }

    /// They were not saved: others are to be taken.
    pub(super) const fn counts_failed(&mut self) {
        self.is_taken = false;
    }
}

impl ShardCore {
    /// Asks for the next segment to be compacted, and lets go of those that hold nothing.
    pub(super) fn clean_segments(&mut self, now: Now) {
        let reading =
            self.moves.replaying || self.moves.replay_from.is_some() || self.keeps_for_unread(now);
        if reading || self.store.queue.is_failing() || self.store.queue.are_strays_waiting() {
            return;
        }
        if self.moves.task_rest_ticks > 0 {
            self.moves.task_rest_ticks -= 1;
            return;
        }
        match self.store.queue.set.next_task() {
            Some(Task::Remove(segment) | Task::Compact(segment))
                if self.store.queue.is_unfinished(segment) =>
            {
                self.store.queue.set.task_dropped();
            }
            Some(Task::Remove(segment)) if self.store.queue.set.is_newest(segment) => {
                self.store.queue.goes_unnoted(segment);
                self.retire_counted(segment, false);
            }
            // That it may go is noted first, lest the next start miss it.
            Some(Task::Remove(segment)) => {
                self.store.queue.compaction_begun();
                self.compact_read(segment, Ok(()), now);
            }
            Some(Task::Compact(segment)) => {
                self.store.queue.compaction_begun();
                self.actions.push(Action::Compact { segment });
            }
            Some(Task::DeleteFree) => self.actions.push(Action::DeleteFree),
            None => {}
        }
    }

    /// The task comes again after a rest: trying at once what costs reading a segment is no help.
    fn task_failed(&mut self) {
        self.store.queue.set.task_failed();
        self.moves.task_rest_ticks = TASK_REST_TICKS;
    }

    /// The segment goes once counts are saved: of outcomes behind the last save, nobody could tell after
    /// a crash whose they are without it. `has_copies`: its outcomes stand elsewhere again, where they
    /// would be counted twice.
    fn retire_counted(&mut self, segment: SegmentId, has_copies: bool) {
        let leaving = &mut self.moves.leaving;
        if !has_copies && leaving.counted.contains(&segment) {
            return self.retire(segment);
        }
        leaving.next = Some(segment);
        leaving.is_taken = false;
    }

    /// Counts are saved, or could not be: a disk that takes none must not fill up with segments.
    pub(super) fn counts_settled(&mut self) {
        let leaving = &mut self.moves.leaving;
        leaving.counted = std::mem::take(&mut leaving.dead);
        if std::mem::take(&mut leaving.is_taken)
            && let Some(segment) = leaving.next.take()
        {
            self.retire(segment);
        }
    }

    fn retire(&mut self, segment: SegmentId) {
        let disposal = self.store.queue.set.disposal(segment);
        self.actions.push(Action::Retire { segment, disposal });
    }

    pub(super) fn retired(
        &mut self,
        segment: SegmentId,
        disposal: Disposal,
        result: Result<(), DiskError>,
    ) {
        match result {
            Ok(()) => {
                self.store.queue.forget(segment);
                self.moves.past_ids.remove(&segment);
                self.store.queue.set.removed(segment, disposal);
            }
            Err(error) => {
                self.task_failed();
                self.report(format!(
                    "queue segment {:08} cannot be removed: {error}",
                    segment.0
                ));
            }
        }
    }

    pub(super) fn free_deleted(&mut self, result: Result<(), DiskError>) {
        match result {
            Ok(()) => self.store.queue.set.free_deleted(),
            Err(error) => {
                self.task_failed();
                self.report(format!("a free queue file cannot be deleted: {error}"));
            }
        }
    }

    /// One record of a segment that is being compacted. Returns how many bytes wait to be written:
    /// read on when they are below [`crate::store::BATCH_BYTES_FULL`].
    pub fn compact(&mut self, placement: Placement, record: &Record<'_>, now: Now) -> usize {
        if self.store.queue.is_failing() {
            self.store.queue.compaction_failed();
            return self.store.queue.waiting_bytes();
        }
        let message = match record {
            Record::Message(message) => message,
            Record::Moved(moved) => &moved.message,
            Record::Outcome(Outcome { about, .. })
            | Record::Commit(about)
            | Record::Cancel(about) => {
                if self
                    .store
                    .queue
                    .set
                    .is_needed(placement.segment, about.segment)
                {
                    self.copy_note(record, *about, now);
                }
                return self.store.queue.waiting_bytes();
            }
            Record::Blob { .. } | Record::Seal(_) => return self.store.queue.waiting_bytes(),
        };
        self.copy_message(placement, message, now);
        self.store.queue.waiting_bytes()
    }

    /// Copies a message forward if it is live there and its acceptance is settled.
    fn copy_message(&mut self, placement: Placement, message: &MessageRecord<'_>, now: Now) {
        let queue_id = message.queue_id;
        let live: Vec<EntryId> = self
            .mail
            .siblings(queue_id)
            .filter(|id| self.mail.get(*id).placement == placement)
            .collect();
        let is_in = |states: &[State]| {
            live.iter()
                .any(|id| states.contains(&self.mail.get(*id).state))
        };
        // The outcome of what is handed over names its place.
        let must_stay = is_in(&[State::Storing, State::Handed]);
        let is_held = is_in(&[State::Held]);
        if live.is_empty() || must_stay || self.moves.copies.contains_key(&queue_id) {
            return;
        }
        let states = self.states_of(message.recipients.len(), &live);
        let moved = Moved {
            from: placement.segment,
            states: OutcomeStates::new(&states),
            message: MessageRecord {
                pending: false,
                handover: message.handover.filter(|_| is_held),
                ..*message
            },
        };
        match self.store.queue.append(&Record::Moved(moved), now) {
            Ok(to) => {
                for id in live {
                    self.mail.moved(id, to);
                }
                let from = placement;
                self.moves.copies.insert(queue_id, Move { from, to });
                self.store.queue.await_copy(queue_id, from, to);
            }
            Err(error) => {
                self.store.queue.compaction_failed();
                self.report(format!("{queue_id} cannot be moved: {error}"));
            }
        }
    }

    fn copy_note(&mut self, record: &Record<'_>, about: About, now: Now) {
        match self.store.queue.append(record, now) {
            Ok(to) => self.store.queue.set.note(to, about.segment),
            Err(error) => {
                self.store.queue.compaction_failed();
                self.report(format!("note on {} not moved: {error}", about.queue_id));
            }
        }
    }

    fn states_of(&self, recipients: usize, live: &[EntryId]) -> Vec<OutcomeState> {
        // Recipients of entries that are gone are done, whatever their outcome was.
        let gone = OutcomeState {
            first: 0,
            count: 1,
            kind: OutcomeKind::Delivered,
            attempts: 0,
            next_retry_s: 0,
        };
        let mut each = vec![gone; recipients];
        for id in live {
            let entry = self.mail.get(*id);
            for place in self.mail.open_places(*id) {
                let n = usize::from(entry.recipient_first + place);
                if let Some(state) = each.get_mut(n) {
                    state.kind = OutcomeKind::Deferred;
                    state.attempts = entry.attempts;
                    state.next_retry_s = entry.retry_at_s;
                }
            }
        }
        runs_of(each)
    }

    /// The segment is read through, or could not be. It is removed when what was copied is durable.
    pub fn compact_read(&mut self, segment: SegmentId, result: Result<(), String>, now: Now) {
        let fault = match result {
            Ok(()) if self.store.queue.is_failing() => Some("writing fails".to_owned()),
            Ok(()) => {
                let noted = self.store.queue.append_may_go(segment, now);
                noted.err().map(|error| error.to_string())
            }
            Err(why) => Some(why),
        };
        match fault {
            None => self.store.queue.await_mark(Mark::Compacted(segment)),
            Some(why) => {
                self.task_failed();
                self.report(format!(
                    "queue segment {:08} cannot be compacted: {why}",
                    segment.0
                ));
            }
        }
    }

    /// All copies out of the segment are durable, and that it may go.
    pub(super) fn compacted(&mut self, segment: SegmentId) {
        let has_copies = self.store.queue.set.task() == Some(Task::Compact(segment));
        if self.store.queue.is_compacted(segment) {
            self.retire_counted(segment, has_copies);
        } else {
            // Something could not be copied: not settled yet, or a write failed. It is tried again.
            self.task_failed();
        }
    }

    /// The record of a message cannot be read: it is reported and its file kept; the rest goes on.
    pub(super) fn quarantine(&mut self, id: EntryId, why: &str) {
        let entry = self.mail.get(id);
        let (queue_id, placement) = (entry.queue_id, entry.placement);
        self.store.queue.set.damaged(placement.segment);
        self.report(format!(
            "message {queue_id} cannot be read back (queue segment {:08}, offset {}, {} bytes: {why}); \
             it is out of the queue, the file is kept: see `hikyaku shard verify`",
            placement.segment.0, placement.offset.0, placement.bytes
        ));
        self.finish_entry(id);
    }

    pub(super) fn moved_durable(&mut self, queue_id: QueueId, from: Placement) {
        self.moves.copies.remove(&queue_id);
        self.store.queue.set.dead(from);
    }

    /// Copies were not written: entries point at the originals again.
    pub(super) fn copies_failed(&mut self, awaited: &[Awaited<Ticket>]) {
        for one in awaited {
            let Awaited::Copy { queue_id, from, to } = *one else {
                continue;
            };
            self.moves.copies.remove(&queue_id);
            let moved: Vec<EntryId> = self
                .mail
                .siblings(queue_id)
                .filter(|id| self.mail.get(*id).placement == to)
                .collect();
            let gone = moved.is_empty();
            for id in moved {
                self.mail.moved(id, from);
            }
            // A message that was finished meanwhile has let go of the copy already.
            self.store.queue.set.dead(if gone { from } else { to });
        }
    }
}
