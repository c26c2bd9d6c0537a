//! Mail that leaves a shard's folder for the shards that own it now, all of it at one moment.
//!
//! When the number of shards changes, mail stands where it does not belong: in the folder of a shard
//! that is no more ([`adopt`](super::adopt)), or here, for domains that others own now. Either is given
//! away under a [`HandoverId`], and nobody sends any of it before that is *noted*: an empty folder of
//! that name is durable beside the queue's. What that changes, it changes at once, whatever crashes:
//!
//! - Before, the mail is the old folder's. What its owners have stored of it is skipped at their next
//!   start ([`Handovers::is_void`]), as another handover will bring it again.
//! - After, it is its owners'. The folder of a shard that is no more goes by the same rename that makes
//!   the note; one that stays has durable outcomes, "handed over", that count from then on.
//!
//! So nothing is sent twice, and nobody has to ask anybody who has what. Decision 015 has the why.
//!
//! The way of an entry here: `Replayed`, [`ShardCore::transfer`] → read back → stored at its owner →
//! `Handed`, [`ShardCore::transferred`]. When all are, [`ShardCore::note_handover`] makes their outcomes
//! durable and then asks for the note. At the owner: `Storing` → `Held` → ready
//! ([`ShardCore::handed_over`]).

use std::collections::HashMap;

use super::content::{Given, Purpose};
use super::waiter::Origin;
use super::{Action, DiskError, Message, ShardCore, Stored};
use crate::clock::Now;
use crate::ids::{HandoverId, QueueId, ShardId};
use crate::queue::record::{OutcomeState, Record};
use crate::queue::survivors::{NotedHandovers, is_void};
use crate::schedule::index::{EntryId, List, State};
use crate::store::Mark;

/// Blob kind that marks the end of the outcomes of a handover.
const BLOB_HANDED_OVER: u16 = 4;
/// Ticks until a note that failed is tried again: some seconds.
const NOTE_REST_TICKS: u32 = 20;

/// What shards tell each other of handovers.
#[derive(Debug)]
pub enum HandoverMessage {
    /// It is noted: what was stored under it may be sent.
    Noted {
        /// The handover.
        handover: HandoverId,
    },
}

/// What a shard gives away and what it is given. The lists are links in the entries themselves.
#[derive(Debug)]
pub(super) struct Handovers {
    noted: NotedHandovers,
    /// Under which the shard gives mail away in this run.
    id: HandoverId,
    /// Entries to be read.
    waiting: List,
    /// Entries being read, or stored at their owners.
    under_way: usize,
    /// Entries that their owners have.
    given: List,
    /// Those whose handover is noted: they leave the queue, so many a turn.
    leaving: List,
    is_noting: bool,
    rest_ticks: u32,
    /// Entries given to us that are durable, until their handover is noted. As many handovers as
    /// there are shards, and folders of shards that are no more.
    held: HashMap<HandoverId, List>,
    /// Those whose handover is noted: they may be sent, so many a turn.
    released: List,
}

impl Handovers {
    pub(super) fn new(id: HandoverId) -> Self {
        Self {
            noted: NotedHandovers::default(),
            id,
            waiting: List::default(),
            under_way: 0,
            given: List::default(),
            leaving: List::default(),
            is_noting: false,
            rest_ticks: 0,
            held: HashMap::new(),
            released: List::default(),
        }
    }

    /// Whether what was found under `handover` at replay does not count.
    pub(super) fn is_void(&self, handover: Option<HandoverId>) -> bool {
        is_void(&self.noted, handover)
    }

    /// An entry that was to be read is out of the queue.
    pub(super) const fn gave_up_one(&mut self) {
        self.under_way -= 1;
    }

    /// Making the outcomes durable failed: they are written again, and then this.
    pub(super) const fn not_durable(&mut self) {
        self.is_noting = false;
    }
}

impl ShardCore {
    /// The handovers that notes were found of at this start, in the folders of all shards; to be told
    /// before any segment is replayed.
    pub fn noted_handovers(&mut self, noted: NotedHandovers) {
        self.moves.handovers.noted = noted;
    }

    /// Names a handover from the folder of a shard that is no more.
    pub fn new_handover(&mut self) -> HandoverId {
        self.store.queue.random_handover()
    }

    /// Gives an entry that another shard owns now to it.
    pub(super) fn transfer(&mut self, id: EntryId) {
        self.mail.set_aside(&mut self.moves.handovers.waiting, id);
    }

    /// Reads the next entries to be given away, a bounded number at a time.
    pub(super) fn transfer_some(&mut self, now: Now) {
        while self.content.may_read() && !self.is_stalled() {
            let Some(id) = self.mail.next_aside(&mut self.moves.handovers.waiting) else {
                return;
            };
            self.moves.handovers.under_way += 1;
            if let Given::Here(held) = self.content_for(id, Purpose::Transfer) {
                self.transfer_message(id, &held.message, now);
            }
        }
    }

    /// It comes again.
    pub(super) fn transfer_failed(&mut self, id: EntryId) {
        self.moves.handovers.under_way -= 1;
        self.transfer(id);
    }

    pub(super) fn transfer_message(&mut self, id: EntryId, message: &Message, now: Now) {
        let entry = self.mail.get(id);
        let ours = &message.recipients()[usize::from(entry.recipient_first)..];
        let recipients = (self.mail.open_places(id).into_iter())
            .map(|place| ours[usize::from(place)].clone())
            .collect();
        let submission = message.submission(recipients);
        let handover = self.moves.handovers.id;
        let entry = id;
        self.route(Origin::Transfer { entry, handover }, submission, now);
    }

    pub(super) fn transferred(&mut self, id: EntryId, result: Stored, now: Now) {
        if result != Stored::Durable {
            // The other shard is replaying, or short of room: offered again.
            return self.transfer_failed(id);
        }
        self.moves.handovers.under_way -= 1;
        self.mail.handed(id);
        self.mail.set_aside(&mut self.moves.handovers.given, id);
        let entry = self.mail.get(id);
        let (first, count) = (entry.recipient_first, entry.recipient_count);
        let (queue_id, segment) = (entry.queue_id, entry.placement.segment);
        let state = OutcomeState::handed_over(first, count, self.moves.handovers.id);
        self.append_outcome(queue_id, segment, state, now);
    }

    /// Has the handover noted, once every entry is at its owner.
    pub(super) fn note_handover(&mut self, now: Now) {
        let is_replayed = !self.moves.replaying && self.moves.replay_from.is_none();
        let handovers = &mut self.moves.handovers;
        let is_complete =
            handovers.waiting.is_empty() && handovers.under_way == 0 && !handovers.given.is_empty();
        if !is_complete || !is_replayed || handovers.is_noting || self.store.queue.is_failing() {
            return;
        }
        if handovers.rest_ticks > 0 {
            handovers.rest_ticks -= 1;
            return;
        }
        // Behind all outcomes in the stream.
        let mark = Record::Blob {
            kind: BLOB_HANDED_OVER,
            bytes: &self.moves.handovers.id.number().to_le_bytes(),
        };
        match self.store.queue.append(&mark, now) {
            Ok(_) => {
                self.moves.handovers.is_noting = true;
                self.store.queue.await_mark(Mark::HandedOver);
            }
            Err(error) => self.report(format!("a handover cannot be written: {error}")),
        }
    }

    /// The outcomes of all that was given away are durable.
    pub(super) fn handed_durable(&mut self) {
        let handover = self.moves.handovers.id;
        self.actions.push(Action::NoteHandover { handover });
    }

    pub(super) fn handover_noted(
        &mut self,
        handover: HandoverId,
        result: Result<(), DiskError>,
        now: Now,
    ) {
        self.moves.handovers.is_noting = false;
        if let Err(error) = result {
            self.moves.handovers.rest_ticks = NOTE_REST_TICKS;
            self.report(format!(
                "mail for other shards waits, as its handover cannot be noted: {error}"
            ));
            return;
        }
        let Handovers { leaving, given, .. } = &mut self.moves.handovers;
        self.mail.join_aside(leaving, given);
        // Another would be another handover.
        self.moves.handovers.id = self.store.queue.random_handover();
        self.handed_over(handover, now);
    }

    /// A handover is noted, durably: every shard may send what it was given.
    pub fn handed_over(&mut self, handover: HandoverId, now: Now) {
        for shard in (0..self.shards).map(ShardId) {
            if shard != self.me {
                self.tell(shard, HandoverMessage::Noted { handover });
            }
        }
        self.release(handover, now);
    }

    /// A message given to us is durable.
    pub(super) fn hold(&mut self, queue_id: QueueId, handover: HandoverId) {
        let entries: Vec<EntryId> = self.mail.siblings(queue_id).collect();
        let held = self.moves.handovers.held.entry(handover).or_default();
        for id in entries {
            if self.mail.get(id).state == State::Storing {
                self.mail.held(id);
                self.mail.set_aside(held, id);
            }
        }
    }

    pub(super) fn told_of_handover(&mut self, message: HandoverMessage, now: Now) {
        match message {
            HandoverMessage::Noted { handover } => self.release(handover, now),
        }
    }

    /// What was given to us under the handover is ours.
    fn release(&mut self, handover: HandoverId, now: Now) {
        let Handovers { held, released, .. } = &mut self.moves.handovers;
        if let Some(mut ours) = held.remove(&handover) {
            self.mail.join_aside(released, &mut ours);
        }
        self.settle_handovers(now);
    }

    /// Goes on with what noted handovers change, a bounded number of entries a turn: a queue of millions
    /// would otherwise hold the shard up for seconds.
    pub(super) fn settle_handovers(&mut self, now: Now) {
        for _ in 0..self.settings.entries_per_turn_max {
            if let Some(id) = self.mail.next_aside(&mut self.moves.handovers.leaving) {
                self.finish_entry(id);
            } else if let Some(id) = self.mail.next_aside(&mut self.moves.handovers.released) {
                self.make_ready(id, now);
            } else {
                return;
            }
        }
    }
}
