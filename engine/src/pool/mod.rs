//! Receiving sites and their connections.
//!
//! A [`Site`] is what several domains with the same MX hosts share: targets in order of preference,
//! connections, back-off. [`Pool`] keeps the books of both, here and nowhere else: `site` and `conns`
//! hold them, `books` is what happens to a connection, `limits` what a site may be sent, `rests` what
//! reply rules take from that, `lease` and `lend` what of it is with which shard, `gate` says what
//! may be begun. What is sent over a connection is `shard::deliver`'s part.

mod books;
mod conns;
mod gate;
mod lease;
mod lend;
mod limits;
mod rests;
mod site;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

pub use books::BROKEN_MAX;
pub(crate) use books::Closed;
pub use conns::{ConnId, PeerInfo};
use conns::{Conns, State};
pub use gate::OPENING_MAX;
pub(crate) use gate::{Conditions, Go, Halt, NoStart, OpenPermit, StartPermit};
use lease::Lease;
pub use lease::{LeaseKey, LeaseMessage};
pub use lend::LEASES_PER_TURN_MAX;
pub(crate) use limits::LimitsTable;
pub(crate) use rests::Told;
pub use rests::{COUNTED_RULES_MAX, RESTING_ADDRESSES_MAX};
use site::Mark;
pub use site::TARGET_COOLDOWN_MS;
pub(crate) use site::{Failure, Site, SiteKey};

use crate::clock::{Mono, Now};
use crate::dns::{Target, Targets};
use crate::ids::ShardId;
pub use crate::ids::SiteId;
use crate::policy::adapt::Adapt;
use crate::schedule::destination::DestinationId;
use crate::slots::{Free, put};

/// Sites kept although no destination is bound to them.
pub const SITES_MAX: usize = 65_536;

/// Receiving sites and connections of a shard.
#[derive(Debug)]
pub(crate) struct Pool {
    sites: Vec<Site>,
    by_key: HashMap<SiteKey, SiteId>,
    free: Free,
    /// Sites that every tick looks at.
    tended: Vec<SiteId>,
    /// Sites that are looked at when the turn ends, each once.
    marked: VecDeque<SiteId>,
    conns: Conns,
    /// Equal targets and source addresses take turns.
    next_turn: usize,
    limits: LimitsTable,
    me: ShardId,
    shards: u16,
    /// Numbers of claims, grants and terms: each greater than all before.
    lease_number: u64,
    /// Sites whose leases are looked at when the turn ends, each once.
    leases_due: VecDeque<SiteId>,
}

impl Pool {
    /// Nobody is known yet.
    pub(crate) fn new(limits: LimitsTable, me: ShardId, shards: u16) -> Self {
        Self {
            sites: Vec::new(),
            by_key: HashMap::new(),
            free: Free::default(),
            tended: Vec::new(),
            marked: VecDeque::new(),
            conns: Conns::default(),
            next_turn: 0,
            limits,
            me,
            shards,
            lease_number: 1,
            leases_due: VecDeque::new(),
        }
    }

    /// The settings have changed.
    pub(crate) fn set_limits(&mut self, limits: LimitsTable) {
        for site in &mut self.sites {
            let new = limits.of(site.key.provider());
            site.used.forget_changed(&site.limits, new);
            if new.pace != site.limits.pace {
                site.adapt = Adapt::default();
            }
            site.limits = Rc::clone(new);
            if let Some(rests) = &mut site.rests {
                rests.renumber();
            }
        }
        self.limits = limits;
    }

    pub(crate) fn site(&self, id: SiteId) -> &Site {
        &self.sites[id.0 as usize]
    }

    fn site_mut(&mut self, id: SiteId) -> &mut Site {
        &mut self.sites[id.0 as usize]
    }

    /// All connections, opening and quitting ones too.
    pub(crate) fn conns_len(&self) -> u64 {
        self.sites.iter().map(|site| u64::from(site.conns)).sum()
    }

    /// Sites that every tick looks at.
    #[cfg(test)]
    pub(crate) const fn tended_len(&self) -> usize {
        self.tended.len()
    }

    /// Sites known, and slots for them; every site is found where its key says.
    #[cfg(test)]
    pub(crate) fn checked_len(&self) -> (usize, usize) {
        for (key, id) in &self.by_key {
            let site = self.site(*id);
            assert!(site.key == *key && !site.is_vacant);
        }
        (self.by_key.len(), self.sites.len())
    }

    /// Each site's round, the length of its ready mail, and its name.
    pub(crate) fn rounds(&self) -> impl Iterator<Item = (&VecDeque<DestinationId>, u64, &str)> {
        let sites = self.sites.iter();
        sites.map(|site| (&site.round, site.ready_len, site.name()))
    }

    /// Holds every site's books against its connections.
    ///
    /// # Panics
    /// If they do not agree.
    pub(crate) fn assert_consistent(&self) {
        let mut seen = vec![(0, 0, 0, 0); self.sites.len()];
        for (id, conn) in self.conns.iter() {
            let (conns, opening, quitting, idle) = &mut seen[conn.site.0 as usize];
            *conns += 1;
            match conn.state {
                State::Opening => *opening += 1,
                State::Quitting { .. } => *quitting += 1,
                State::Idle { .. } => {
                    *idle += 1;
                    assert!(self.site(conn.site).idle.contains(&id), "{conn:?}");
                }
                State::Working(_) => {}
            }
        }
        for (site, seen) in self.sites.iter().zip(seen) {
            let books = (site.conns, site.opening, site.quitting, site.idle.len());
            assert_eq!(books, seen, "connections to {}", site.name());
            assert!(site.is_tended || !site.needs_tending(), "{}", site.name());
            let floor_per_h = site.limits.pace.floor_per_h;
            let pace = site.adapt.view().map(|pace| pace.per_h);
            assert!(
                pace.is_none_or(|pace| pace >= floor_per_h),
                "{}: {pace:?}",
                site.name()
            );
            let is_marked = self
                .marked
                .iter()
                .any(|id| self.site(*id).hash == site.hash);
            assert!(site.mark == Mark::None || is_marked, "{}", site.name());
        }
    }
}

/// Sites: known, forgotten, and which destinations lead to them.
impl Pool {
    /// The site of what a lookup gave; it has these targets from now on.
    /// `provider`: whose limits hold for it.
    pub(crate) fn resolved(
        &mut self,
        targets: &Targets,
        provider: Option<&str>,
        now: Now,
    ) -> SiteId {
        let key = SiteKey::of(targets, provider);
        if let Some(id) = self.by_key.get(&key).copied() {
            targets.list.clone_into(&mut self.site_mut(id).targets);
            return id;
        }
        self.add_site(key, &targets.list, now.mono)
    }

    fn add_site(&mut self, key: SiteKey, targets: &[Target], now: Mono) -> SiteId {
        if self.by_key.len() >= SITES_MAX {
            for slot in self.free.step(self.sites.len()) {
                self.evict(SiteId(slot), now);
            }
        }
        let limits = Rc::clone(self.limits.of(key.provider()));
        self.lease_number += 1;
        let lease = Lease::of(key.hash(), self.me, self.shards, self.lease_number);
        let site = Site::new(key.clone(), targets, limits, lease);
        let id = SiteId(put(&mut self.sites, &mut self.free, site));
        self.by_key.insert(key, id);
        id
    }

    /// Gives the slot away if no destination leads there and nothing goes on.
    fn evict(&mut self, id: SiteId, now: Mono) {
        let site = self.site_mut(id);
        let is_cooling = site.cooling.iter().any(|(_, until)| *until > now);
        let is_used = site.bound > 0 || site.conns > 0 || site.is_tended || site.is_lease_due;
        let rests = site.rests.as_ref();
        let is_ruled = rests.is_some_and(|rests| !rests.is_over(now));
        // What was sent today counts today, however long the site has been idle.
        let is_remembered = !site.used.is_over(now) || !site.lease.is_idle();
        let is_kept = is_used || is_cooling || is_ruled || is_remembered;
        if site.is_vacant || is_kept || site.mark != Mark::None {
            return;
        }
        site.is_vacant = true;
        let key = site.key.clone();
        self.by_key.remove(&key);
        self.free.give(id.0);
    }

    /// A destination leads there.
    pub(crate) fn bound(&mut self, id: SiteId) {
        self.site_mut(id).bound += 1;
    }

    /// One leads there no longer.
    pub(crate) fn unbound(&mut self, id: SiteId) {
        self.site_mut(id).bound -= 1;
    }
}

/// Rounds: destinations with ready mail, which take turns.
impl Pool {
    /// A destination with so many ready entries takes its turns from now on.
    pub(crate) fn enrol(&mut self, id: SiteId, destination: DestinationId, ready_len: u32) {
        self.look_at_lease(id);
        let site = self.site_mut(id);
        site.round.push_back(destination);
        site.ready_len += u64::from(ready_len);
        self.tend(id);
    }

    /// A destination of the round has one more ready entry.
    pub(crate) fn ready_more(&mut self, id: SiteId) {
        self.site_mut(id).ready_len += 1;
    }

    /// One was taken.
    pub(crate) fn ready_less(&mut self, id: SiteId) {
        self.site_mut(id).ready_len -= 1;
    }

    /// Whose turn it is.
    pub(crate) fn next_in_round(&self, id: SiteId) -> Option<DestinationId> {
        self.site(id).round.front().copied()
    }

    /// The next in turn has had it; `is_empty`: it has no more ready mail, and leaves.
    pub(crate) fn turn_over(&mut self, id: SiteId, is_empty: bool) {
        let round = &mut self.site_mut(id).round;
        if is_empty {
            round.pop_front();
        } else if round.len() > 1 {
            round.rotate_left(1);
        }
    }

    /// The next in turn leaves, with so many ready entries.
    pub(crate) fn leave_round(&mut self, id: SiteId, ready_len: u32) {
        let site = self.site_mut(id);
        site.round.pop_front();
        site.ready_len -= u64::from(ready_len);
    }

    /// All leave.
    pub(crate) fn clear_rounds(&mut self) {
        for site in &mut self.sites {
            site.round.clear();
            site.ready_len = 0;
        }
    }
}

/// What is looked at when a turn ends, and at every tick.
impl Pool {
    /// Looks at the site when the turn ends.
    pub(crate) fn mark(&mut self, id: SiteId) {
        self.mark_as(id, Mark::Due);
    }

    /// Looks at all tended sites when the turn ends, and opens connections for little mail too.
    pub(crate) fn mark_tended(&mut self) {
        for n in 0..self.tended.len() {
            self.mark_as(self.tended[n], Mark::Eager);
        }
    }

    fn mark_eager(&mut self, id: SiteId) {
        self.mark_as(id, Mark::Eager);
    }

    fn mark_as(&mut self, id: SiteId, mark: Mark) {
        let site = self.site_mut(id);
        let before = site.mark;
        site.mark = before.max(mark);
        if before == Mark::None {
            self.marked.push_back(id);
        }
    }

    /// How many sites are marked.
    pub(crate) fn marked_len(&self) -> usize {
        self.marked.len()
    }

    /// The next marked site, which is so no longer; whether another connection is wanted even if its
    /// mail is little.
    pub(crate) fn take_marked(&mut self) -> Option<(SiteId, bool)> {
        let id = self.marked.pop_front()?;
        let mark = std::mem::take(&mut self.site_mut(id).mark);
        Some((id, mark == Mark::Eager))
    }

    /// Looks at the site at every tick from now on, as long as there is reason to.
    fn tend(&mut self, id: SiteId) {
        let site = self.site_mut(id);
        if !site.is_tended {
            site.is_tended = true;
            self.tended.push(id);
        }
    }

    /// A tick: back-offs end, and idle connections that are too old, too many or of no use are told to
    /// quit (`quits`); sites with ready mail are marked.
    pub(crate) fn tend_all(&mut self, at: &Conditions, quits: &mut Vec<ConnId>) {
        for id in std::mem::take(&mut self.tended) {
            let site = self.site_mut(id);
            site.backoff_until = site.backoff_at(at.now);
            if !site.idle.is_empty() {
                self.quit_idle(id, at, quits);
            }
            let site = self.site_mut(id);
            site.is_tended = site.needs_tending();
            if site.has_mail() {
                self.mark_as(id, Mark::Eager);
            }
            if self.site(id).is_tended {
                self.tended.push(id);
                self.look_at_lease(id);
            }
        }
    }

    fn quit_idle(&mut self, id: SiteId, at: &Conditions, quits: &mut Vec<ConnId>) {
        let site = self.site(id);
        let mut too_many = match at.halt {
            Some(Halt::Stopping) => u32::MAX,
            _ => self.sessions_too_many(site, at.now.mono),
        };
        let from = quits.len();
        for conn_id in &site.idle {
            let Some(conn) = self.conns.get(*conn_id) else {
                continue;
            };
            let is_stale = match conn.state {
                State::Idle { since } => {
                    at.now.mono.ms_since(since) >= site.limits.connection_idle_ms_max
                }
                _ => false,
            };
            if is_stale || too_many > 0 || !site.has_target(conn.target.address) {
                too_many = too_many.saturating_sub(1);
                quits.push(*conn_id);
            }
        }
        for conn in &quits[from..] {
            self.quit(*conn);
        }
    }

    /// An operator wants it tried at once: its back-off ends, and that of its addresses.
    pub(crate) fn lift_back_off(&mut self, id: SiteId) {
        let site = self.site_mut(id);
        site.backoff_until = None;
        site.cooling.clear();
        site.failures = 0;
        if let Some(rests) = &mut site.rests {
            rests.lift();
        }
    }

    /// The same for all.
    pub(crate) fn lift_back_offs(&mut self) {
        for slot in 0..self.sites.len() {
            self.lift_back_off(SiteId(slot as u32));
        }
    }
}
