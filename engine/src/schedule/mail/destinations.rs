//! Recipient domains: found by name, and given a slot each.

use super::super::destination::{Destination, DestinationId, Lookup};
use super::Mail;
use crate::address::Domain;
use crate::slots::put;

impl Mail {
    /// The destination.
    pub(crate) fn destination(&self, id: DestinationId) -> &Destination {
        &self.destinations[id.slot()]
    }

    /// The destination: how far it is with its lookup is the caller's to change.
    pub(crate) fn destination_mut(&mut self, id: DestinationId) -> &mut Destination {
        &mut self.destinations[id.slot()]
    }

    /// Every destination there is a name for.
    pub(crate) fn destinations(&self) -> impl Iterator<Item = &Destination> {
        let taken = |destination: &&Destination| !destination.is_vacant;
        self.destinations.iter().filter(taken)
    }

    /// Every slot there is, vacant ones too.
    pub(crate) fn destination_ids(&self) -> impl Iterator<Item = DestinationId> + Clone + use<> {
        (0..self.destinations.len() as u32).map(DestinationId::new)
    }

    /// How many destinations there are.
    pub(crate) fn destinations_len(&self) -> usize {
        self.by_domain.len()
    }

    /// The destination of that name, if there is one.
    pub(crate) fn find_destination(&self, domain: &Domain) -> Option<DestinationId> {
        self.by_domain.get(domain).copied()
    }

    /// A destination for a domain that has none.
    pub(crate) fn add_destination(&mut self, domain: &Domain) -> DestinationId {
        let destination = Destination::new(domain.clone());
        let slot = put(&mut self.destinations, &mut self.free, destination);
        let id = DestinationId::new(slot);
        self.by_domain.insert(domain.clone(), id);
        id
    }

    /// The next slots to be looked at for one that can be given to another.
    pub(crate) fn next_slots(&mut self) -> impl Iterator<Item = DestinationId> + use<> {
        let slots = self.free.step(self.destinations.len());
        slots.map(DestinationId::new)
    }

    /// Whether nothing stands behind the destination: no mail, and no list that is sure to come back to
    /// it.
    pub(crate) fn is_idle(&self, id: DestinationId) -> bool {
        let destination = self.destination(id);
        let is_resting = matches!(destination.lookup, Lookup::Unknown | Lookup::Site { .. });
        let is_listed = destination.in_round || !destination.ready.is_empty();
        !destination.is_vacant && destination.queued() == 0 && !is_listed && is_resting
    }

    /// The slot of an idle destination is free from now on.
    pub(crate) fn drop_destination(&mut self, id: DestinationId) {
        debug_assert!(self.is_idle(id), "it has mail or is in some list");
        let destination = &mut self.destinations[id.slot()];
        destination.is_vacant = true;
        self.by_domain.remove(&destination.domain);
        self.free.give(id.slot() as u32);
    }

    /// Ready mail of the destination is to be failed for want of a host.
    pub(crate) fn fail_soon(&mut self, id: DestinationId) {
        self.failing.push_back(id);
    }

    /// The next destination whose ready mail is to be failed; it stays.
    pub(crate) fn next_failing(&self) -> Option<DestinationId> {
        self.failing.front().copied()
    }

    /// No more of that one's is to be failed.
    pub(crate) fn failing_over(&mut self) {
        self.failing.pop_front();
    }
}
