//! The index after a restart, and compaction: records read back from segments.
//!
//! Replay reads each segment once, front to back and oldest first, and gives the records to
//! [`ShardCore::replay`]. New mail is accepted and delivered meanwhile: it is in segments that are not
//! replayed. What replay found is delivered when all of it is read, since the outcome of a message may
//! stand in any later segment.

use std::collections::{HashMap, HashSet};

use super::handover::Handovers;
use super::records::Ticket;
use super::{Action, DiskError, ENTRIES_PER_TICK_MAX, ShardCore, Stored};
use crate::clock::{Now, UnixMs};
use crate::ids::{HandoverId, QueueId, SegmentId};
use crate::keys::KeyRing;
use crate::queue::record::{
    About, Message as MessageRecord, Moved, Outcome, OutcomeKind, OutcomeState, OutcomeStates,
    Record,
};
use crate::queue::replay::Summary;
use crate::queue::segment::Placement;
use crate::queue::segment::SegmentHeader;
use crate::queue::set::{Disposal, SegmentUsage, Task};
use crate::route::owner;
use crate::schedule::index::{EntryId, State};
use crate::schedule::mail::NewEntry;
use crate::store::{Mark, Note};

/// Blob kind that marks the end of a compaction's copies.
const BLOB_COMPACTED: u16 = 2;

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

/// What replay must remember until it is through.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// Where messages that were copied forward stood before.
    moved_from: HashMap<QueueId, SegmentId>,
    /// Outcomes that name another segment than the one their message was found in, with that.
    strays: Vec<Outcome>,
}

/// Mail that moves: out of segments after a start, between places, between shards.
#[derive(Debug)]
pub(super) struct Moves {
    /// Originals of messages whose copies are not durable yet.
    pub(super) moving: HashMap<QueueId, Move>,
    pub(super) handovers: Handovers,
    pub(super) adopted: Vec<(u64, Stored)>,
    /// Ids of earlier runs whose mail left the queue: segments may still tell of them.
    pub(super) past_ids: HashSet<QueueId>,
    /// Ids of this run are not older.
    pub(super) begun: UnixMs,
    /// Next index slot to schedule after replay.
    pub(super) replay_from: Option<usize>,
    pub(super) replaying: bool,
    pub(super) replayed: Replayed,
    /// Segments of earlier runs that are to be read again.
    pub(super) unread: Vec<super::UnreadSegment>,
    /// Ticks until the next segment may be compacted or removed.
    pub(super) task_rest_ticks: u32,
}

impl Moves {
    pub(super) fn new(handover: HandoverId, now: Now) -> Self {
        Self {
            moving: HashMap::new(),
            handovers: Handovers::new(handover),
            adopted: Vec::new(),
            past_ids: HashSet::new(),
            begun: now.unix,
            replay_from: None,
            replaying: true,
            replayed: Replayed::default(),
            unread: Vec::new(),
            task_rest_ticks: 0,
        }
    }
}

impl ShardCore {
    /// Files of earlier runs: each segment with its size, before any is replayed; and sizes of free ones.
    pub fn found_files(&mut self, segments: &[(SegmentId, u64)], free: &[u64]) {
        for (segment, file_bytes) in segments {
            self.store.queue.set.found(*segment, *file_bytes);
        }
        for file_bytes in free {
            self.store.queue.set.free_found(*file_bytes);
        }
    }

    /// A segment that cannot be read at all; its file stays where it is.
    pub fn replay_unreadable(&mut self, segment: SegmentId, why: &str) {
        self.store.queue.set.unreadable(segment);
        self.report(format!(
            "queue segment {:08} cannot be read: {why}; the file is kept",
            segment.0
        ));
    }

    /// A segment of an earlier run is about to be replayed.
    pub fn replay_segment(&mut self, header: &SegmentHeader) {
        self.store.queue.learn(header);
    }

    /// The keys to read segments with.
    pub fn keys(&self) -> &KeyRing {
        self.store.queue.keys()
    }

    /// What each queue segment holds, oldest first.
    pub fn segments(&self) -> impl Iterator<Item = SegmentUsage> + '_ {
        self.store.queue.set.usage()
    }

    /// Bytes of records that are not durable yet.
    pub fn waiting_bytes(&self) -> usize {
        self.store.queue.waiting_bytes()
    }

    /// One record of an earlier run, in the order of the disk.
    pub fn replay(&mut self, placement: Placement, record: &Record<'_>) {
        match record {
            // Given to us by a handover that was cut short: another brings it again.
            Record::Message(message) | Record::Moved(Moved { message, .. })
                if self.moves.handovers.is_void(message.handover) =>
            {
                self.replay_id(message.queue_id);
            }
            Record::Message(message) => {
                self.moves.replayed.moved_from.remove(&message.queue_id);
                self.replay_message(placement, message);
            }
            Record::Outcome(outcome) => {
                self.store.queue.set.note(placement, outcome.about.segment);
                if !self.moves.handovers.is_void(outcome.state.handover()) {
                    self.replay_outcome(outcome);
                }
            }
            Record::Commit(about) => self.store.queue.set.note(placement, about.segment),
            Record::Cancel(about) => {
                self.store.queue.set.note(placement, about.segment);
                self.forget_replayed(about.queue_id, about.segment);
            }
            Record::Moved(moved) => {
                let queue_id = moved.message.queue_id;
                self.store.queue.set.moved_from(moved.from);
                for segment in self.forget_replayed(queue_id, placement.segment) {
                    // The copied one, or a copy that was given up after a failed write.
                    self.store.queue.set.moved_from(segment);
                }
                self.moves.replayed.moved_from.insert(queue_id, moved.from);
                self.replay_message(placement, &moved.message);
                let about = About {
                    queue_id,
                    segment: placement.segment,
                };
                for state in moved.states.iter() {
                    self.replay_outcome(&Outcome { about, state });
                }
            }
            Record::Blob { .. } | Record::Seal(_) => {}
        }
    }

    /// The segment is read through; damage in it is reported and its file kept.
    pub fn replay_segment_done(&mut self, segment: SegmentId, summary: &Summary) {
        for damage in &summary.damage {
            self.report(format!(
                "queue segment {:08}: bytes {} to {} are damaged ({}); the file is kept, see \
                 `hikyaku shard verify`",
                segment.0, damage.offset.0, damage.resync.0, damage.reason
            ));
        }
        if !summary.damage.is_empty() {
            self.store.queue.set.damaged(segment);
        }
    }

    /// Everything there was is read: what is live is scheduled from the next tick on.
    pub fn replay_done(&mut self) {
        self.moves.replaying = false;
        self.moves.replay_from = Some(0);
    }

    fn replay_id(&mut self, queue_id: QueueId) {
        self.ids.saw(queue_id);
        // Should the clock have gone back.
        self.moves.begun = self.moves.begun.max(UnixMs(queue_id.accepted_ms() + 1));
    }

    fn replay_message(&mut self, placement: Placement, message: &MessageRecord<'_>) {
        self.replay_id(message.queue_id);
        self.store.queue.set.live(placement);
        for domain in message.recipients.domains() {
            let name = crate::address::Domain::from_stored(domain.domain);
            let destination = self.destination_of(&name);
            let per_entry = self.settings.recipients_per_message_max as u16;
            let group = self.counters.group(message.group.unwrap_or("")).number();
            let mut first = domain.first;
            while first < domain.first + domain.count {
                let count = (domain.first + domain.count - first).min(per_entry);
                let entry = NewEntry {
                    queue_id: message.queue_id,
                    placement,
                    destination,
                    group,
                    recipient_first: first,
                    recipient_count: count as u8,
                };
                self.mail.restored(entry, &mut self.counters);
                first += count;
            }
        }
    }

    /// Takes the entries that stand in `segment` or before it out again; gives where they stood.
    pub(super) fn forget_replayed(
        &mut self,
        queue_id: QueueId,
        segment: SegmentId,
    ) -> Vec<SegmentId> {
        let entries: Vec<EntryId> = self.mail.siblings(queue_id).collect();
        let mut stood = Vec::new();
        for id in entries {
            let entry = self.mail.get(id);
            if entry.state == State::Replayed && entry.placement.segment <= segment {
                stood.push(entry.placement.segment);
                self.finish_entry(id);
            }
        }
        stood
    }

    pub(super) fn replay_outcome(&mut self, outcome: &Outcome) {
        let queue_id = outcome.about.queue_id;
        let Some(first) = self.mail.find(queue_id) else {
            return;
        };
        if self.mail.is_only(first) {
            return self.replay_entry_outcome(first, outcome);
        }
        // If it names where one part stands, it is not about another part of the same message.
        let names = |id: &EntryId| self.mail.get(*id).placement.segment == outcome.about.segment;
        let mut entries: Vec<EntryId> = self.mail.siblings(queue_id).collect();
        if entries.iter().any(names) {
            entries.retain(names);
        }
        for id in entries {
            self.replay_entry_outcome(id, outcome);
        }
    }

    fn replay_entry_outcome(&mut self, id: EntryId, outcome: &Outcome) {
        let entry = self.mail.get(id);
        let About { queue_id, segment } = outcome.about;
        let found = entry.placement.segment;
        // A shard that took over another's mail may have had a part of the same message before, and
        // kept notes about that.
        let earliest = self
            .moves
            .replayed
            .moved_from
            .get(&queue_id)
            .copied()
            .unwrap_or(found);
        if entry.state != State::Replayed || segment < earliest {
            return;
        }
        let is_news = self.replay_state(id, &outcome.state);
        // The message's copy was torn and the outcome behind it was not, or the copy was given up
        // after a failed write and is there all the same. Such an outcome holds, but does not
        // outlive its segment: it is written again.
        if is_news && segment != found {
            let about = About {
                queue_id,
                segment: found,
            };
            self.moves.replayed.strays.push(Outcome {
                about,
                state: outcome.state,
            });
        }
    }

    /// Applies a state to an entry; whether that changed anything.
    fn replay_state(&mut self, id: EntryId, state: &OutcomeState) -> bool {
        let entry = self.mail.get(id);
        let count = u16::from(entry.recipient_count);
        let from = state.first.max(entry.recipient_first);
        let to = (state.first.saturating_add(state.count)).min(entry.recipient_first + count);
        if from >= to {
            return false;
        }
        if !state.kind.is_final() {
            return self
                .mail
                .attempts_restored(id, state.attempts, state.next_retry_s);
        }
        let before = self.mail.done_bits(id);
        let mut done = before;
        for recipient in from..to {
            done |= 1 << (recipient - entry.recipient_first);
        }
        self.mail.recipients_done(id, done, &mut self.counters);
        if self.mail.open_recipients(id) == 0 {
            self.finish_entry(id);
        }
        done != before
    }

    /// Writes the outcomes again that name a segment their message is not in.
    fn write_strays(&mut self, now: Now) {
        let Replayed { strays, .. } = std::mem::take(&mut self.moves.replayed);
        if strays.is_empty() {
            return;
        }
        for Outcome { about, state } in strays {
            self.append_outcome(about.queue_id, about.segment, state, now);
        }
        self.store.queue.note_mark(Mark::Strays);
    }

    /// Schedules what replay found, a bounded number of entries a tick.
    pub(super) fn schedule_replayed(&mut self, now: Now) {
        let Some(from) = self.moves.replay_from else {
            return;
        };
        self.write_strays(now);
        let (live, next) = self.mail.sweep(from, 16 * ENTRIES_PER_TICK_MAX);
        for id in live {
            let entry = self.mail.get(id);
            let (state, segment) = (entry.state, entry.placement.segment);
            if state == State::Replayed && !self.is_unread(segment) {
                self.schedule_entry(id, now);
            }
        }
        self.moves.replay_from = next;
    }

    fn schedule_entry(&mut self, id: EntryId, now: Now) {
        let now_s = self.mail.seconds(now);
        // A clock that was ahead in an earlier run has left times that nobody should wait for.
        let latest_s = now_s.saturating_add(self.settings.retry.longest_s());
        let entry = self.mail.get(id);
        let retry_at_s = entry.retry_at_s.min(latest_s);
        let destination = self.mail.destination(entry.destination);
        if owner(&destination.domain, self.shards) != self.me {
            self.mail.leaving(id);
            return self.transfer(id);
        }
        if retry_at_s > now_s {
            self.mail.deferred(id, retry_at_s, &mut self.counters);
        } else {
            self.make_ready(id, now);
        }
    }

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
            Some(Task::Remove(segment)) => self.retire(segment),
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
        if !live.is_empty() && !must_stay && !self.moves.moving.contains_key(&queue_id) {
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
                    self.moves.moving.insert(
                        queue_id,
                        Move {
                            from: placement,
                            to,
                        },
                    );
                    self.store.queue.note_copy(queue_id, placement, to);
                }
                Err(error) => {
                    self.store.queue.compaction_failed();
                    self.report(format!("{queue_id} cannot be moved: {error}"));
                }
            }
        }
        self.store.queue.waiting_bytes()
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
            let done = self.mail.done_bits(*id);
            for n in 0..usize::from(entry.recipient_count) {
                if done >> n & 1 == 0
                    && let Some(state) = each.get_mut(usize::from(entry.recipient_first) + n)
                {
                    state.kind = OutcomeKind::Deferred;
                    state.attempts = entry.attempts;
                    state.next_retry_s = entry.retry_at_s;
                }
            }
        }
        let mut runs: Vec<OutcomeState> = Vec::new();
        for (n, state) in each.into_iter().enumerate() {
            match runs.last_mut() {
                Some(last)
                    if (last.kind, last.attempts, last.next_retry_s)
                        == (state.kind, state.attempts, state.next_retry_s) =>
                {
                    last.count += 1;
                }
                _ => runs.push(OutcomeState {
                    first: n as u16,
                    ..state
                }),
            }
        }
        // Nothing to say of recipients that were never tried.
        runs.retain(|run| run.kind.is_final() || run.attempts > 0);
        runs
    }

    /// The segment is read through, or could not be. It is removed when what was copied is durable.
    pub fn compact_read(&mut self, segment: SegmentId, result: Result<(), String>, now: Now) {
        let mark = Record::Blob {
            kind: BLOB_COMPACTED,
            bytes: &segment.0.to_le_bytes(),
        };
        let fault = match result {
            Ok(()) if self.store.queue.is_failing() => Some("writing fails".to_owned()),
            Ok(()) => self
                .store
                .queue
                .append(&mark, now)
                .err()
                .map(|error| error.to_string()),
            Err(why) => Some(why),
        };
        match fault {
            None => self.store.queue.note_mark(Mark::Compacted(segment)),
            Some(why) => {
                self.task_failed();
                self.report(format!(
                    "queue segment {:08} cannot be compacted: {why}",
                    segment.0
                ));
            }
        }
    }

    /// All copies out of the segment are durable.
    pub(super) fn compacted(&mut self, segment: SegmentId) {
        if self.store.queue.is_compacted(segment) {
            self.retire(segment);
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
        self.moves.moving.remove(&queue_id);
        self.store.queue.set.dead(from);
    }

    /// Copies were not written: entries point at the originals again.
    pub(super) fn copies_failed(&mut self, notes: &[Note<Ticket>]) {
        for note in notes {
            let Note::Copy { queue_id, from, to } = *note else {
                continue;
            };
            self.moves.moving.remove(&queue_id);
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

    /// How old the oldest queued message is, for the operator.
    pub fn oldest_accepted(&self) -> Option<UnixMs> {
        let (live, _) = self.mail.sweep(0, ENTRIES_PER_TICK_MAX);
        live.iter()
            .map(|id| UnixMs(self.mail.get(*id).queue_id.accepted_ms()))
            .min()
    }
}
