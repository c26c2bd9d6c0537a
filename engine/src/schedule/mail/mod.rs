//! The mail of a shard that is not done, and what each recipient domain's waits for.
//!
//! [`Mail`] is the only place where an entry changes its state, and with it its lists, its destination's
//! lengths and the levels of the counters. Each change is a method named for what happened (`entries`):
//!
//! ```text
//! from                        what happens             to
//! (new)                       stored                   Storing    appended, not durable
//! (new)                       restored                 Replayed   found at a start
//! Storing                     held                     Held       until its handover is noted
//! Storing Held Replayed       ready                    Ready      in its destination's list
//! Ready                       taken                    InFlight   for a connection, or to be settled
//! Replayed                    leaving                  InFlight   to be read for its owner
//! InFlight                    sending                  Sending    with a connection
//! Sending                     answered, returned       InFlight
//! InFlight                    ready                    Ready      it was not tried
//! InFlight Replayed           deferred                 Deferred   in the wheel
//! Deferred                    woken                    Ready
//! InFlight Storing Held Replayed  suspended            Suspended  an operator has stopped it
//! Suspended                   ready                    Ready
//! InFlight                    handed                   Handed     its owner has it
//! any but Sending             done                     (gone)
//! ```
//!
//! Files: `entries` the changes, `destinations` the recipient domains, `check` what must hold at all times.
//! Which site takes a destination's mail, and when, is decided in `shard`.

mod check;
mod destinations;
mod entries;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};

pub(crate) use entries::{Done, Listed, NewEntry, Taken};

use super::destination::{Destination, DestinationId};
use super::index::{Entry, EntryId, Index, List};
use super::steady::SteadyClock;
use super::wheel::Wheel;
use crate::address::Domain;
use crate::clock::{Now, UnixMs};
use crate::counters::{Counters, DomainRow, GroupRow};
use crate::ids::QueueId;
use crate::limits::RECIPIENTS_PER_TRANSACTION_MAX;
use crate::slots::Free;

/// Most recipients of an entry of which some are done and some not. One with more is split before.
const DONE_BITS: u16 = 128;
const _: () = assert!(RECIPIENTS_PER_TRANSACTION_MAX <= DONE_BITS as u32);

/// Queued mail: entries, their times, their destinations.
#[derive(Debug)]
pub(crate) struct Mail {
    index: Index,
    wheel: Wheel,
    /// Entries that wait for a retry.
    deferred_len: u64,
    /// Retry times and ages are measured with this.
    clock: SteadyClock,
    /// Bits of the recipients that are done, for entries with some done and some not: none has more than
    /// [`DONE_BITS`] recipients.
    done: HashMap<EntryId, u128>,
    destinations: Vec<Destination>,
    by_domain: HashMap<Domain, DestinationId>,
    free: Free,
    /// Destinations whose ready mail is being failed for want of a host.
    failing: VecDeque<DestinationId>,
    /// Next index slot to be looked at for expired mail.
    sweep_from: usize,
}

impl Mail {
    /// An empty queue.
    pub(crate) fn new(now: Now) -> Self {
        Self {
            index: Index::default(),
            wheel: Wheel::new(now.unix.seconds()),
            deferred_len: 0,
            clock: SteadyClock::new(now),
            done: HashMap::new(),
            destinations: Vec::new(),
            by_domain: HashMap::new(),
            free: Free::default(),
            failing: VecDeque::new(),
            sweep_from: 0,
        }
    }

    /// How many entries there are.
    pub(crate) const fn len(&self) -> usize {
        self.index.len()
    }

    /// The entry.
    pub(crate) fn get(&self, id: EntryId) -> &Entry {
        self.index.get(id)
    }

    /// One entry of the message.
    pub(crate) fn find(&self, queue_id: QueueId) -> Option<EntryId> {
        self.index.find(queue_id)
    }

    /// Whether the message has no other entry.
    pub(crate) fn is_only(&self, id: EntryId) -> bool {
        self.index.is_only(id)
    }

    /// Every entry of the message, newest first.
    pub(crate) fn siblings(&self, queue_id: QueueId) -> impl Iterator<Item = EntryId> + '_ {
        self.index.siblings(queue_id)
    }

    /// Entries of slots `from..from + count`, and the slot to go on from; `None` at the end.
    pub(crate) fn sweep(&self, from: usize, count: usize) -> (Vec<EntryId>, Option<usize>) {
        self.index.sweep(from, count)
    }

    /// The next entries of a round over all, some `count` slots of it.
    pub(crate) fn sweep_on(&mut self, count: usize) -> Vec<EntryId> {
        let (live, next) = self.index.sweep(self.sweep_from, count);
        self.sweep_from = next.unwrap_or(0);
        live
    }

    /// Puts an entry that is in no list behind those of `list`; none of them may leave the queue before it is
    /// taken out again.
    pub(crate) fn set_aside(&mut self, list: &mut List, id: EntryId) {
        list.push(&mut self.index, id);
    }

    /// Takes the first that was set aside.
    pub(crate) fn next_aside(&mut self, list: &mut List) -> Option<EntryId> {
        list.pop(&mut self.index)
    }

    /// Puts what was set aside in `more` behind `list`.
    pub(crate) fn join_aside(&mut self, list: &mut List, more: &mut List) {
        list.append(&mut self.index, more);
    }

    /// Bits of the entry's recipients that are done.
    pub(crate) fn done_bits(&self, id: EntryId) -> u128 {
        self.done.get(&id).copied().unwrap_or(0)
    }

    /// Places within the entry of its recipients that are not done.
    pub(crate) fn open_places(&self, id: EntryId) -> Vec<u16> {
        let places = 0..self.index.get(id).recipient_count;
        match self.done.get(&id) {
            None => places.collect(),
            Some(done) => places.filter(|place| done >> place & 1 == 0).collect(),
        }
    }

    /// Recipients of the entry that are not done.
    pub(crate) fn open_recipients(&self, id: EntryId) -> u32 {
        let done = self.done.get(&id).map_or(0, |done| done.count_ones());
        u32::from(self.index.get(id).recipient_count).saturating_sub(done)
    }

    /// Where the entry is counted.
    pub(crate) fn rows(&self, id: EntryId, counters: &Counters) -> (DomainRow, GroupRow) {
        let entry = self.index.get(id);
        let row = self.destinations[entry.destination.slot()].row;
        (row, counters.group_row(entry.group))
    }

    /// Takes in the time of an event; how far the wall clock has leapt, milliseconds, if it has.
    pub(crate) fn observe(&mut self, now: Now) -> Option<i64> {
        self.clock.observe(now)
    }

    /// How old mail is that was accepted then, milliseconds ([`SteadyClock::age_ms`]).
    pub(crate) const fn age_ms(&self, accepted: UnixMs, now: Now) -> u64 {
        self.clock.age_ms(accepted, now)
    }

    /// The time, without the leaps of the wall clock.
    pub(crate) const fn unix(&self, now: Now) -> UnixMs {
        self.clock.unix(now)
    }

    /// As [`Self::unix`], in whole seconds: what retry times are measured with.
    pub(crate) const fn seconds(&self, now: Now) -> u32 {
        self.clock.seconds(now)
    }

    /// The second in which something is due that waits for so long.
    pub(crate) fn seconds_after(&self, wait_ms: u64, now: Now) -> u32 {
        let due_s = self.unix(now).0.saturating_add(wait_ms).div_ceil(1000);
        u32::try_from(due_s).unwrap_or(u32::MAX)
    }
}
