//! Destinations that have no mail: kept for their lookups and what is known of them, up to a number,
//! then their slots are given to others.
//!
//! A hand goes round the slots and looks at a few for each that is added, so that adding one costs the
//! same however many there are. Sites do likewise (`pool`).

use super::{IDLE_DESTINATIONS_MAX, ShardCore};
use crate::address::Domain;
use crate::schedule::destination::{DestinationId, Lookup};

impl ShardCore {
    /// The destination of that domain, a new one if there is none.
    pub(super) fn destination_of(&mut self, domain: &Domain) -> DestinationId {
        if let Some(id) = self.mail.find_destination(domain) {
            return id;
        }
        if self.mail.destinations_len() >= IDLE_DESTINATIONS_MAX {
            for id in self.mail.next_slots() {
                self.evict_destination(id);
            }
        }
        self.mail.add_destination(domain)
    }

    fn evict_destination(&mut self, id: DestinationId) {
        if self.mail.is_idle(id) {
            self.set_lookup(id, Lookup::Unknown);
            self.unpark(id);
            self.mail.drop_destination(id);
        }
    }

    /// What is known of where a destination's mail goes; a site counts those that lead to it.
    pub(super) fn set_lookup(&mut self, id: DestinationId, lookup: Lookup) {
        match &lookup {
            Lookup::Site { site, .. } => self.pool.bound(*site),
            Lookup::Trouble { until, .. } => self.names.lookups.trouble(id, *until),
            _ => {}
        }
        let before = std::mem::replace(&mut self.mail.destination_mut(id).lookup, lookup);
        match before {
            Lookup::Site { site, .. } => self.pool.unbound(site),
            Lookup::Trouble { until, .. } => self.names.lookups.no_trouble(id, until),
            _ => {}
        }
    }
}
