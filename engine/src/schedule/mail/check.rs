//! What must hold at all times, looked at in full: for tests and the simulation.

use std::collections::HashMap;

use super::super::destination::DestinationId;
use super::super::index::{EntryId, State};
use super::Mail;
use crate::counters::{Counter, Counters};

/// Entries of a destination, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lengths {
    ready: u32,
    deferred: u32,
    busy: u32,
    suspended: u32,
}

/// Recipients queued, and of these deferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Levels {
    queued: u64,
    deferred: u64,
}

impl Mail {
    /// Holds lists, lengths and levels against the states of all entries.
    ///
    /// # Panics
    /// If they do not agree.
    pub(crate) fn assert_consistent(&self, counters: &Counters) {
        let live = self.live();
        assert_eq!(live.len(), self.index.len(), "entries, and how many");
        for id in &live {
            let queue_id = self.get(*id).queue_id;
            assert!(
                self.siblings(queue_id).any(|other| other == *id),
                "an entry of {queue_id} is not found by it"
            );
        }
        self.assert_lists(&live);
        self.assert_destinations(&live);
        self.assert_done_bits(&live);
        self.assert_levels(&live, counters);
    }

    /// How many entries wait to be durable everywhere.
    pub(crate) fn storing_len(&self) -> usize {
        let live = self.live();
        let storing = live
            .iter()
            .filter(|id| self.get(**id).state == State::Storing);
        storing.count()
    }

    fn live(&self) -> Vec<EntryId> {
        let (live, rest) = self.index.sweep(0, usize::MAX);
        assert_eq!(rest, None);
        live
    }

    /// Each entry stands in the list of its state and in no other.
    fn assert_lists(&self, live: &[EntryId]) {
        let mut listed: HashMap<EntryId, State> = HashMap::new();
        let mut put = |id: EntryId, state: State| {
            let is_state = self.get(id).state;
            if is_state != State::Gone {
                assert_eq!(is_state, state, "{:?}", self.get(id));
            }
            assert_eq!(listed.insert(id, state), None, "{:?} twice", self.get(id));
        };
        for slot in self.destination_ids() {
            for id in self.destination(slot).ready.iter(&self.index) {
                put(id, State::Ready);
                let entry = self.get(id);
                assert!(entry.state == State::Gone || entry.destination == slot);
            }
        }
        let mut waiting = 0;
        for id in self.wheel.iter(&self.index) {
            put(id, State::Deferred);
            waiting += 1;
        }
        assert_eq!(waiting, self.wheel.len(), "in the wheel");
        for id in live {
            let entry = self.get(*id);
            assert_ne!(entry.state, State::Gone, "{entry:?}");
            let is_listed = matches!(entry.state, State::Ready | State::Deferred);
            assert_eq!(is_listed, listed.contains_key(id), "{entry:?}");
        }
    }

    fn assert_destinations(&self, live: &[EntryId]) {
        let mut counted: HashMap<DestinationId, Lengths> = HashMap::new();
        for id in live {
            let entry = self.get(*id);
            let lengths = counted.entry(entry.destination).or_default();
            match entry.state {
                State::Ready => lengths.ready += 1,
                State::Deferred => lengths.deferred += 1,
                State::Suspended => lengths.suspended += 1,
                _ => lengths.busy += 1,
            }
        }
        let mut named = 0;
        for slot in self.destination_ids() {
            let destination = self.destination(slot);
            let lengths = Lengths {
                ready: destination.ready_len,
                deferred: destination.deferred_len,
                busy: destination.busy_len,
                suspended: destination.suspended_len,
            };
            let counted = counted.get(&slot).copied().unwrap_or_default();
            assert_eq!(lengths, counted, "{}", destination.domain.as_str());
            if destination.is_vacant {
                assert_eq!(destination.queued(), 0, "{}", destination.domain.as_str());
            } else {
                assert_eq!(self.find_destination(&destination.domain), Some(slot));
                named += 1;
            }
        }
        let deferred = counted.values().map(|lengths| u64::from(lengths.deferred));
        assert_eq!(deferred.sum::<u64>(), self.deferred_len, "deferred");
        assert_eq!(named, self.by_domain.len(), "names of destinations");
    }

    fn assert_done_bits(&self, live: &[EntryId]) {
        let with_bits = live.iter().filter(|id| self.done.contains_key(id)).count();
        assert_eq!(
            with_bits,
            self.done.len(),
            "done bits of entries that are gone"
        );
        for (id, bits) in &self.done {
            let entry = self.get(*id);
            let count = u32::from(entry.recipient_count);
            assert!(128 - bits.leading_zeros() <= count, "{entry:?} {bits:b}");
            assert!(self.open_recipients(*id) > 0, "{entry:?} is done");
        }
    }

    fn assert_levels(&self, live: &[EntryId], counters: &Counters) {
        let mut total = Levels::default();
        let mut domains: HashMap<u32, Levels> = HashMap::new();
        let mut groups: HashMap<u32, Levels> = HashMap::new();
        for id in live {
            let open = u64::from(self.open_recipients(*id));
            let is_deferred = self.get(*id).state == State::Deferred;
            let (row, group) = self.rows(*id, counters);
            for levels in [
                &mut total,
                domains.entry(row.number()).or_default(),
                groups.entry(group.number()).or_default(),
            ] {
                levels.queued += open;
                levels.deferred += if is_deferred { open } else { 0 };
            }
        }
        let level = |of: &dyn Fn(Counter) -> u64| Levels {
            queued: of(Counter::Queued),
            deferred: of(Counter::Deferred),
        };
        assert_eq!(level(&|counter| counters.total(counter)), total);
        for (number, counted) in domains {
            let row = counters.domain_row(number);
            let counted_there = level(&|counter| counters.domain_level(row, counter));
            assert_eq!(counted_there, counted, "level of domain row {number}");
        }
        for (number, counted) in groups {
            let row = counters.group_row(number);
            let counted_there = level(&|counter| counters.group_level(row, counter));
            assert_eq!(counted_there, counted, "level of group row {number}");
        }
    }

    /// How many entries are with a connection.
    pub(crate) fn sending_len(&self) -> usize {
        let is_sent = |id: &EntryId| self.get(*id).state == State::Sending;
        self.live().into_iter().filter(is_sent).count()
    }
}
