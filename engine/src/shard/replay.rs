//! The index after a restart: records read back from segments, by the rules of
//! [`crate::queue::survivors`].
//!
//! Replay reads each segment once, front to back and oldest first, and gives the records to
//! [`ShardCore::replay`]. New mail is accepted and delivered meanwhile: it is in segments that are not
//! replayed. What replay found is delivered when all of it is read, since the outcome of a message may
//! stand in any later segment.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::compact::{Leaving, Move};
use super::handover::Handovers;
use super::{ShardCore, Stored};
use crate::clock::{Now, UnixMs};
use crate::counters::Counter;
use crate::ids::{AdoptedPart, HandoverId, QueueId, SegmentId};
use crate::keys::KeyRing;
use crate::queue::chain::{Broken, Chain};
use crate::queue::record::{About, Message as MessageRecord, Moved, Outcome, OutcomeState, Record};
use crate::queue::replay::Summary;
use crate::queue::segment::Placement;
use crate::queue::segment::SegmentHeader;
use crate::queue::set::SegmentUsage;
use crate::queue::survivors::{CopyAt, Meant, Name, is_stray};
use crate::route::owner;
use crate::schedule::index::{EntryId, State};
use crate::schedule::mail::NewEntry;
use crate::store::Mark;

/// What replay must remember until it is through.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// Where messages that were copied forward stood before.
    moved_from: HashMap<Name, SegmentId>,
    /// Outcomes that name another segment than the one their message was found in, with that.
    strays: Vec<Outcome>,
}

/// Mail that moves: out of segments after a start, between places, between shards.
#[derive(Debug)]
pub(super) struct Moves {
    /// Originals of messages whose copies are not durable yet.
    pub(super) copies: HashMap<QueueId, Move>,
    pub(super) handovers: Handovers,
    pub(super) adopted: Vec<(AdoptedPart, Stored)>,
    /// Ids of earlier runs whose mail left the queue, by the segment it stood in last: as long as that is
    /// there, notes about it are kept.
    pub(super) past_ids: BTreeMap<SegmentId, HashSet<QueueId>>,
    /// Ids of this run are not older.
    pub(super) begun: UnixMs,
    /// Next index slot to schedule after replay.
    pub(super) replay_from: Option<usize>,
    pub(super) replaying: bool,
    pub(super) replayed: Replayed,
    /// Which segments of earlier runs there should be, until that is known.
    chain: Option<Chain>,
    /// Those that are missing or cut off.
    pub(super) broken: Vec<Broken>,
    /// Segments of earlier runs that are to be read again.
    pub(super) unread: Vec<super::UnreadSegment>,
    pub(super) leaving: Leaving,
    /// Ticks until the next segment may be compacted or removed.
    pub(super) task_rest_ticks: u32,
}

impl Moves {
    pub(super) fn new(handover: HandoverId, now: Now) -> Self {
        Self {
            copies: HashMap::new(),
            handovers: Handovers::new(handover),
            adopted: Vec::new(),
            past_ids: BTreeMap::new(),
            begun: now.unix,
            replay_from: None,
            replaying: true,
            replayed: Replayed::default(),
            chain: Some(Chain::default()),
            broken: Vec::new(),
            unread: Vec::new(),
            leaving: Leaving::default(),
            task_rest_ticks: 0,
        }
    }
}

impl ShardCore {
    /// Files of earlier runs: each segment with its size, before any is replayed; and sizes of free ones.
    pub fn found_files(&mut self, segments: &[(SegmentId, u64)], free: &[u64]) {
        for (segment, file_bytes) in segments {
            self.store.queue.set.found(*segment, *file_bytes);
            if let Some(chain) = &mut self.moves.chain {
                chain.found(*segment);
            }
        }
        for file_bytes in free {
            self.store.queue.set.free_found(*file_bytes);
        }
    }

    /// A segment that cannot be read at all; its file stays where it is.
    pub fn replay_unreadable(&mut self, segment: SegmentId, why: &str) {
        self.store.queue.set.unreadable(segment);
        if let Some(chain) = &mut self.moves.chain {
            chain.gap();
        }
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
                let name = (message.queue_id, placement.segment);
                self.moves.replayed.moved_from.remove(&name);
                self.replay_message(placement, message);
            }
            Record::Outcome(outcome) => {
                self.store.queue.set.note(placement, outcome.about.segment);
                if !self.moves.handovers.is_void(outcome.state.handover()) {
                    let is_missed = self.store.counts.misses(placement);
                    self.replay_outcome(outcome, is_missed);
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
                let name = (queue_id, placement.segment);
                self.moves.replayed.moved_from.insert(name, moved.from);
                self.replay_message(placement, &moved.message);
                let about = About {
                    queue_id,
                    segment: placement.segment,
                };
                for state in moved.states.iter() {
                    self.replay_outcome(&Outcome { about, state }, false);
                }
            }
            Record::Blob { kind, bytes } => {
                if let Some(chain) = &mut self.moves.chain {
                    chain.blob(placement.segment, *kind, bytes);
                }
            }
            Record::Seal(_) => {}
        }
    }

    /// The segment is read through; damage in it is reported and its file kept.
    pub fn replay_segment_done(&mut self, segment: SegmentId, summary: &Summary) {
        if let Some(chain) = &mut self.moves.chain {
            chain.ended(segment, &summary.end);
            if !summary.damage.is_empty() {
                chain.gap();
            }
        }
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
        self.tell_broken();
    }

    /// Tells which segments are missing or cut off, once all that others say of them is read.
    pub(super) fn tell_broken(&mut self) {
        let unread = &self.moves.unread;
        if self.moves.replaying || unread.iter().any(|unread| unread.folder == self.me) {
            return;
        }
        let Some(chain) = self.moves.chain.take() else {
            return;
        };
        let why = if chain.has_gap() {
            "unless that stood in what cannot be read, mail is lost"
        } else {
            "mail may be lost: was an older copy of the data directory put back?"
        };
        self.moves.broken = chain.broken();
        for broken in self.moves.broken.clone() {
            let segment = broken.segment().0;
            self.report(format!("queue segment {segment:08} {broken}; {why}"));
        }
    }

    /// Segments of earlier runs that are missing or cut off.
    pub fn broken_segments(&self) -> &[Broken] {
        &self.moves.broken
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
            let entry = NewEntry {
                queue_id: message.queue_id,
                placement,
                destination,
                group: self.counters.group(message.group.unwrap_or("")).number(),
                recipient_first: domain.first,
                recipient_count: domain.count,
            };
            self.mail.restored(entry, &mut self.counters);
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
            if entry.state == State::Replayed && self.copy_of(id).ends_with(segment) {
                stood.push(entry.placement.segment);
                self.finish_entry(id);
            }
        }
        stood
    }

    fn copy_of(&self, id: EntryId) -> CopyAt {
        let entry = self.mail.get(id);
        let segment = entry.placement.segment;
        let moved_from = &self.moves.replayed.moved_from;
        let earliest = moved_from.get(&(entry.queue_id, segment)).copied();
        CopyAt {
            segment,
            earliest: earliest.unwrap_or(segment),
        }
    }

    /// An outcome of an earlier run; `is_missed`: no saved counts have it.
    pub(super) fn replay_outcome(&mut self, outcome: &Outcome, is_missed: bool) {
        let About { queue_id, segment } = outcome.about;
        let Some(first) = self.mail.find(queue_id) else {
            return;
        };
        if self.mail.is_only(first) {
            let copy = self.copy_of(first);
            if Meant::among(segment, [copy]).includes(copy) {
                self.replay_entry_outcome(first, outcome, is_missed);
            }
            return;
        }
        let entries: Vec<EntryId> = self.mail.siblings(queue_id).collect();
        let meant = Meant::among(segment, entries.iter().map(|id| self.copy_of(*id)));
        for id in entries {
            if meant.includes(self.copy_of(id)) {
                self.replay_entry_outcome(id, outcome, is_missed);
            }
        }
    }

    fn replay_entry_outcome(&mut self, id: EntryId, outcome: &Outcome, is_missed: bool) {
        let entry = self.mail.get(id);
        if entry.state != State::Replayed {
            return;
        }
        let (queue_id, segment) = (entry.queue_id, entry.placement.segment);
        let is_news = self.replay_state(id, &outcome.state, is_missed);
        if is_news && is_stray(outcome.about.segment, segment) {
            let about = About { queue_id, segment };
            let state = outcome.state;
            self.moves.replayed.strays.push(Outcome { about, state });
        }
    }

    /// Applies a state to an entry; whether that changed anything.
    fn replay_state(&mut self, id: EntryId, state: &OutcomeState, is_missed: bool) -> bool {
        let entry = self.mail.get(id);
        let end = entry.recipient_first + entry.recipient_count;
        let from = state.first.max(entry.recipient_first);
        let to = state.first.saturating_add(state.count).min(end);
        if from >= to {
            return false;
        }
        let per = self.settings.recipients_per_message_max;
        let id = self.mail.narrowed(id, from, to, per);
        if !state.kind.is_final() {
            return self
                .mail
                .attempts_restored(id, state.attempts, state.next_retry_s);
        }
        let entry = self.mail.get(id);
        // One with more recipients than bits has a note about all of them at once.
        let is_whole = to - from == entry.recipient_count;
        let before = self.mail.done_bits(id);
        let mut done = before;
        for recipient in (from..to).filter(|_| !is_whole) {
            done |= 1 << (recipient - entry.recipient_first);
        }
        let news = if is_whole {
            self.mail.open_recipients(id)
        } else {
            (done & !before).count_ones()
        };
        if is_missed && let Some(counter) = Counter::of_final(state.kind) {
            let (row, group) = self.mail.rows(id, &self.counters);
            self.counters.recount(row, group, counter, news);
        }
        if is_whole {
            self.finish_entry(id);
            return true;
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
        self.store.queue.await_mark(Mark::Strays);
    }

    /// Schedules what replay found, a bounded number of entries a tick.
    pub(super) fn schedule_replayed(&mut self, now: Now) {
        let Some(from) = self.moves.replay_from else {
            return;
        };
        self.write_strays(now);
        let slots = 16 * self.settings.entries_per_turn_max;
        let longest_ms = self.longest_retry_ms();
        let (live, next) = self.mail.sweep(from, slots);
        for id in live {
            let entry = self.mail.get(id);
            let (state, segment) = (entry.state, entry.placement.segment);
            if state == State::Replayed && !self.is_unread(segment) {
                self.schedule_entry(id, longest_ms, now);
            }
        }
        self.moves.replay_from = next;
    }

    fn schedule_entry(&mut self, id: EntryId, longest_ms: u64, now: Now) {
        self.touched += 1;
        let now_s = self.mail.seconds(now);
        // A clock that was ahead in an earlier run has left times that nobody should wait for.
        let entry = self.mail.get(id);
        let latest_s = self.mail.seconds_after(longest_ms, now);
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
}
