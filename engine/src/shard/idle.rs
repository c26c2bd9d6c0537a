//! Destinations and sites that have no mail: kept for their lookups and what is known of them, up to a
//! number, then their slots are given to others.
//!
//! A hand goes round the slots and looks at a few for each that is added, so that adding one costs the
//! same however many there are. Which mail goes where is `deliver`'s part.

use super::{IDLE_DESTINATIONS_MAX, SITES_MAX, ShardCore};
use crate::address::Domain;
use crate::clock::Now;
use crate::pool::{Site, SiteId};
use crate::schedule::destination::{DestinationId, Lookup};
use crate::slots::put;

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
            self.mail.drop_destination(id);
        }
    }

    /// What is known of where a destination's mail goes; a site counts those that lead to it.
    pub(super) fn set_lookup(&mut self, id: DestinationId, lookup: Lookup) {
        match &lookup {
            Lookup::Site { site, .. } => self.pool.sites[*site as usize].bound += 1,
            Lookup::Trouble { until, .. } => self.names.lookups.trouble(id, *until),
            _ => {}
        }
        let before = std::mem::replace(&mut self.mail.destination_mut(id).lookup, lookup);
        match before {
            Lookup::Site { site, .. } => self.pool.sites[site as usize].bound -= 1,
            Lookup::Trouble { until, .. } => self.names.lookups.no_trouble(id, until),
            _ => {}
        }
    }

    pub(super) fn add_site(&mut self, site: Site, now: Now) -> SiteId {
        if self.pool.by_key.len() >= SITES_MAX {
            for id in self.pool.free.step(self.pool.sites.len()) {
                self.evict_site(id, now);
            }
        }
        put(&mut self.pool.sites, &mut self.pool.free, site)
    }

    /// Gives the slot away if no destination leads there and nothing goes on.
    fn evict_site(&mut self, id: SiteId, now: Now) {
        let site = &mut self.pool.sites[id as usize];
        let cooling = site.cooling.iter().any(|(_, until)| *until > now.mono);
        if site.is_vacant || site.bound > 0 || site.conns > 0 || site.is_tended || cooling {
            return;
        }
        site.is_vacant = true;
        self.pool.by_key.remove(&site.key);
        self.pool.free.give(id);
    }

    /// Looks at the site at every tick from now on, as long as there is reason to.
    pub(super) fn tend(&mut self, id: SiteId) {
        let site = &mut self.pool.sites[id as usize];
        if !site.is_tended {
            site.is_tended = true;
            self.pool.tended.push(id);
        }
    }
}
