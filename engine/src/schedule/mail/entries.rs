//! What happens to an entry.
//!
//! Each method moves one entry from state to state and takes all that follows from it along: the list
//! it stands in, the lengths of its destination, the levels of the counters.

use super::super::destination::{Destination, DestinationId};
use super::super::index::{Entry, EntryId, State};
use super::{DONE_BITS, Mail};
use crate::counters::{Counter, Counters};
use crate::ids::QueueId;
use crate::ids::SiteId;
use crate::queue::segment::Placement;

/// A message for one recipient domain, new in the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewEntry {
    pub(crate) queue_id: QueueId,
    pub(crate) placement: Placement,
    pub(crate) destination: DestinationId,
    /// Number of the group's row.
    pub(crate) group: u32,
    pub(crate) recipient_first: u16,
    pub(crate) recipient_count: u16,
}

/// An entry has come into its destination's ready list.
#[derive(Clone, Copy, Debug)]
#[must_use = "a site counts the ready mail of its round"]
pub(crate) struct Listed {
    pub(crate) destination: DestinationId,
    /// The site in whose round the destination stands.
    pub(crate) round: Option<SiteId>,
}

/// An entry, or a part of one, has left its destination's ready list for a connection.
#[derive(Clone, Copy, Debug)]
#[must_use = "a site counts the ready mail of its round"]
pub(crate) struct Taken {
    pub(crate) entry: EntryId,
    /// The site in whose round the destination stands, if the list is shorter now.
    pub(crate) round: Option<SiteId>,
    /// The entry that it was a part of, which stays with the rest of its recipients.
    pub(crate) split_from: Option<EntryId>,
}

/// An entry has left the queue.
#[derive(Clone, Copy, Debug)]
#[must_use = "its record may be needed no more, and a site counts the ready mail of its round"]
pub(crate) struct Done {
    pub(crate) queue_id: QueueId,
    pub(crate) placement: Placement,
    /// No other entry stands in that record.
    pub(crate) is_last: bool,
    /// The site in whose round its destination stands, if it was ready.
    pub(crate) round: Option<SiteId>,
}

/// Into which of its destination's lengths an entry counts.
enum Length {
    Ready,
    Deferred,
    Busy,
    Suspended,
    None,
}

const fn length_of(state: State) -> Length {
    match state {
        State::Ready => Length::Ready,
        State::Deferred => Length::Deferred,
        State::Suspended => Length::Suspended,
        State::Replayed
        | State::Storing
        | State::Held
        | State::Handed
        | State::InFlight
        | State::Sending => Length::Busy,
        State::Gone => Length::None,
    }
}

impl Destination {
    const fn len_mut(&mut self, state: State) -> Option<&mut u32> {
        match length_of(state) {
            Length::Ready => Some(&mut self.ready_len),
            Length::Deferred => Some(&mut self.deferred_len),
            Length::Busy => Some(&mut self.busy_len),
            Length::Suspended => Some(&mut self.suspended_len),
            Length::None => None,
        }
    }
}

impl Mail {
    /// An accepted message was appended to the queue; nothing is sent before it is durable.
    pub(crate) fn stored(&mut self, new: NewEntry, counters: &mut Counters) -> EntryId {
        self.add(new, State::Storing, counters)
    }

    /// A message of an earlier run was found; nothing is sent before all of that is read.
    pub(crate) fn restored(&mut self, new: NewEntry, counters: &mut Counters) -> EntryId {
        self.add(new, State::Replayed, counters)
    }

    /// It is durable here, and the handover that brought it is not noted yet.
    pub(crate) fn held(&mut self, id: EntryId) {
        self.shift(id, &[State::Storing], State::Held);
    }

    /// It may be sent from now on.
    pub(crate) fn ready(&mut self, id: EntryId) -> Listed {
        const FROM: [State; 5] = [
            State::Storing,
            State::Held,
            State::Replayed,
            State::InFlight,
            State::Suspended,
        ];
        self.list(id, &FROM)
    }

    /// Takes the first of a destination's ready mail, for at most `recipients_max` of its recipients: the
    /// rest stays first, for another transaction.
    pub(crate) fn taken(&mut self, id: DestinationId, recipients_max: u16) -> Option<Taken> {
        let first = self.first_ready(id)?;
        if self.open_recipients(first) > u32::from(recipients_max) {
            let after = self.open_places(first)[usize::from(recipients_max)];
            return Some(Taken {
                entry: self.split(first, after, State::InFlight),
                round: None,
                split_from: Some(first),
            });
        }
        let destination = &mut self.destinations[id.slot()];
        let entry = destination.ready.pop(&mut self.index)?;
        let round = destination.round();
        self.shift(entry, &[State::Ready], State::InFlight);
        Some(Taken {
            entry,
            round,
            split_from: None,
        })
    }

    /// An operator has stopped it, and it is in no list.
    pub(crate) fn suspended(&mut self, id: EntryId) {
        const FROM: [State; 4] = [
            State::Storing,
            State::Held,
            State::Replayed,
            State::InFlight,
        ];
        self.shift(id, &FROM, State::Suspended);
    }

    /// It is another shard's now, and about to be read for that.
    pub(crate) fn leaving(&mut self, id: EntryId) {
        self.shift(id, &[State::Replayed], State::InFlight);
    }

    /// It is with a connection, so many of its recipients.
    pub(crate) fn sending(&mut self, id: EntryId, recipients: u32, counters: &mut Counters) {
        self.shift(id, &[State::InFlight], State::Sending);
        let (row, group) = self.rows(id, counters);
        counters.raise(row, group, Counter::Delivering, recipients);
    }

    /// The connection has said what became of them: an attempt was made.
    pub(crate) fn answered(&mut self, id: EntryId, recipients: u32, counters: &mut Counters) {
        self.returned(id, recipients, counters);
        self.attempted(id);
    }

    /// The connection has not tried it.
    pub(crate) fn returned(&mut self, id: EntryId, recipients: u32, counters: &mut Counters) {
        self.shift(id, &[State::Sending], State::InFlight);
        let (row, group) = self.rows(id, counters);
        counters.lower(row, group, Counter::Delivering, recipients);
    }

    /// An attempt was made, if only to find a host.
    pub(crate) fn attempted(&mut self, id: EntryId) {
        let entry = self.index.get_mut(id);
        entry.attempts = entry.attempts.saturating_add(1);
    }

    /// These recipients are done, for good.
    pub(crate) fn recipients_done(&mut self, id: EntryId, done: u128, counters: &mut Counters) {
        if done == 0 {
            return;
        }
        debug_assert!(
            matches!(length_of(self.index.get(id).state), Length::Busy),
            "recipients of {:?} mail are done",
            self.index.get(id).state
        );
        debug_assert!(self.index.get(id).recipient_count <= DONE_BITS);
        let bits = self.done.entry(id).or_default();
        let newly = (done & !*bits).count_ones();
        *bits |= done;
        if newly > 0 {
            let (row, group) = self.rows(id, counters);
            counters.lower(row, group, Counter::Queued, newly);
        }
    }

    /// It waits until `retry_at_s`.
    pub(crate) fn deferred(&mut self, id: EntryId, retry_at_s: u32, counters: &mut Counters) {
        self.shift(id, &[State::InFlight, State::Replayed], State::Deferred);
        self.index.get_mut(id).retry_at_s = retry_at_s;
        self.deferred_len += 1;
        self.wheel.insert(&mut self.index, id);
        let (row, group) = self.rows(id, counters);
        counters.raise(row, group, Counter::Deferred, self.open_recipients(id));
    }

    /// Those whose time has come by `now_s` are ready, some `entries_max` at most.
    pub(crate) fn woken(
        &mut self,
        now_s: u32,
        entries_max: usize,
        counters: &mut Counters,
    ) -> Vec<Listed> {
        let mut due = Vec::new();
        self.wheel
            .advance(&mut self.index, now_s, entries_max, |_, id| due.push(id));
        let mut woken = Vec::with_capacity(due.len());
        for id in due {
            let entry = self.index.get(id);
            if entry.state == State::Gone {
                self.index.give(id);
            } else if entry.retry_at_s > now_s {
                // Farther ahead than the wheel reaches.
                self.wheel.insert(&mut self.index, id);
            } else {
                self.deferred_len -= 1;
                let (row, group) = self.rows(id, counters);
                counters.lower(row, group, Counter::Deferred, self.open_recipients(id));
                woken.push(self.list(id, &[State::Deferred]));
            }
        }
        woken
    }

    /// The shard that owns it now has it; it stays until the handover is noted.
    pub(crate) fn handed(&mut self, id: EntryId) {
        self.shift(id, &[State::InFlight], State::Handed);
    }

    /// It leaves the queue, whatever it was doing.
    pub(crate) fn done(&mut self, id: EntryId, counters: &mut Counters) -> Done {
        let open = self.open_recipients(id);
        let (row, group) = self.rows(id, counters);
        counters.lower(row, group, Counter::Queued, open);
        let &Entry {
            queue_id,
            placement,
            state,
            destination,
            ..
        } = self.index.get(id);
        debug_assert!(state != State::Sending, "a connection has it");
        let destination = &mut self.destinations[destination.slot()];
        if let Some(len) = destination.len_mut(state) {
            *len -= 1;
        }
        let mut round = None;
        self.done.remove(&id);
        let was_only = self.index.unlink(id);
        match state {
            // The list gives it back when it comes to it.
            State::Ready => round = destination.round(),
            State::Deferred => {
                self.deferred_len -= 1;
                counters.lower(row, group, Counter::Deferred, open);
            }
            _ => self.index.give(id),
        }
        // Two parts of one message may be here under its one id; each stands in a record of its own.
        let is_last = was_only
            || !self
                .index
                .siblings(queue_id)
                .any(|other| self.index.get(other).placement == placement);
        Done {
            queue_id,
            placement,
            is_last,
            round,
        }
    }

    /// Its record stands elsewhere.
    pub(crate) fn moved(&mut self, id: EntryId, to: Placement) {
        self.index.get_mut(id).placement = to;
    }

    /// A note of an earlier run tells of an attempt; whether that is news.
    pub(crate) fn attempts_restored(
        &mut self,
        id: EntryId,
        attempts: u16,
        retry_at_s: u32,
    ) -> bool {
        let entry = self.index.get_mut(id);
        debug_assert_eq!(entry.state, State::Replayed, "its time is known");
        // Notes copied forward come late: the one after more attempts holds.
        let is_newer = (attempts, retry_at_s) > (entry.attempts, entry.retry_at_s);
        if is_newer {
            entry.attempts = attempts;
            entry.retry_at_s = retry_at_s;
        }
        is_newer
    }

    /// A note of an earlier run tells of recipients `from..to` of an entry: the entry that has these, and
    /// no more than transactions of `per` recipients had, so that each goes on from where it was.
    pub(crate) fn narrowed(&mut self, id: EntryId, from: u16, to: u16, per: u16) -> EntryId {
        let entry = self.index.get(id);
        let (first, count) = (entry.recipient_first, entry.recipient_count);
        if count <= per || self.done.contains_key(&id) {
            return id;
        }
        let (mut low, mut high) = (from - first, to - first);
        // What was sent at once may have several notes.
        let wide_low = low / per * per;
        let wide_high = high.div_ceil(per).saturating_mul(per).min(count);
        if wide_high - wide_low <= DONE_BITS {
            (low, high) = (wide_low, wide_high);
        }
        let part = if high < count {
            self.split(id, high, State::Replayed)
        } else {
            id
        };
        if low > 0 {
            self.split(part, low, State::Replayed);
        }
        part
    }

    /// Begins to go through all that is deferred: [`Self::hasten_some`].
    pub(crate) fn hasten(&mut self) {
        self.wheel.rebuild();
    }

    /// Goes on with it, some `entries_max` at most: what is deferred and `is_wanted` is due at `now_s`.
    /// Returns how many that were, and whether it is through.
    pub(crate) fn hasten_some(
        &mut self,
        now_s: u32,
        entries_max: usize,
        is_wanted: impl Fn(DestinationId) -> bool,
    ) -> (u64, bool) {
        let mut count = 0;
        let is_through = self
            .wheel
            .rebuild_some(&mut self.index, entries_max, |index, id| {
                let entry = index.get_mut(id);
                if entry.state == State::Deferred
                    && entry.retry_at_s > now_s
                    && is_wanted(entry.destination)
                {
                    entry.retry_at_s = now_s;
                    count += 1;
                }
            });
        (count, is_through)
    }

    /// The first of a destination's ready mail, which stays.
    pub(crate) fn first_ready(&mut self, id: DestinationId) -> Option<EntryId> {
        let ready = &mut self.destinations[id.slot()].ready;
        loop {
            let first = ready.first()?;
            if self.index.get(first).state != State::Gone {
                return Some(first);
            }
            ready.pop(&mut self.index);
            self.index.give(first);
        }
    }

    fn add(&mut self, new: NewEntry, state: State, counters: &mut Counters) -> EntryId {
        let destination = &mut self.destinations[new.destination.slot()];
        debug_assert!(!destination.is_vacant, "mail for nobody");
        if destination.queued() == 0 {
            destination.row = counters.domain(destination.domain.as_str());
        }
        destination.busy_len += 1;
        let row = destination.row;
        let group = counters.group_row(new.group);
        counters.raise(row, group, Counter::Queued, u32::from(new.recipient_count));
        self.index.insert(Entry {
            placement: new.placement,
            destination: new.destination,
            group: new.group,
            recipient_first: new.recipient_first,
            recipient_count: new.recipient_count,
            state,
            ..Entry::new(new.queue_id)
        })
    }

    /// The first `count` of an entry's recipients are an entry of their own from now on, in no list.
    fn split(&mut self, id: EntryId, count: u16, state: State) -> EntryId {
        let entry = self.index.get_mut(id);
        debug_assert!(0 < count && count < entry.recipient_count, "{entry:?}");
        let part = Entry {
            recipient_count: count,
            state,
            ..entry.clone()
        };
        entry.recipient_first += count;
        entry.recipient_count -= count;
        let destination = &mut self.destinations[part.destination.slot()];
        if let Some(len) = destination.len_mut(state) {
            *len += 1;
        }
        let part = self.index.insert(part);
        if let Some(bits) = self.done.remove(&id) {
            let low = bits & !(u128::MAX << count);
            for (id, bits) in [(part, low), (id, bits >> count)] {
                if bits != 0 {
                    self.done.insert(id, bits);
                }
            }
        }
        part
    }

    fn list(&mut self, id: EntryId, from: &[State]) -> Listed {
        let slot = self.shift(id, from, State::Ready);
        let destination = &mut self.destinations[slot.slot()];
        destination.ready.push(&mut self.index, id);
        Listed {
            destination: slot,
            round: destination.round(),
        }
    }

    /// The state and what counts by it.
    fn shift(&mut self, id: EntryId, from: &[State], to: State) -> DestinationId {
        let entry = self.index.get_mut(id);
        let before = std::mem::replace(&mut entry.state, to);
        debug_assert!(from.contains(&before), "{before:?} mail is {to:?}");
        let slot = entry.destination;
        let destination = &mut self.destinations[slot.slot()];
        if let Some(len) = destination.len_mut(before) {
            *len -= 1;
        }
        if let Some(len) = destination.len_mut(to) {
            *len += 1;
        }
        slot
    }
}
