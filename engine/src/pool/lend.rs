//! Sessions and rates of a site over all shards: the shard that owns the site lends to the others
//! ([`crate::policy::lease`]).
//!
//! Whose a site is, its key says. The owner's books of a site that others send to are a [`Site`] like any other,
//! if need be without targets. Sites where something may have changed are looked at once a turn
//! ([`Pool::settle_leases`]), and what is to be said about all of them is one message to each shard. A site that
//! only its owner sends to costs nothing.

use std::collections::BTreeMap;

use super::lease::{Lease, LeaseKey, LeaseMessage, Wait};
use super::limits::{CONNECTIONS, MESSAGES};
use super::site::{Site, SiteKey};
use super::{OPENING_MAX, Pool, SiteId};
use crate::clock::Mono;
use crate::ids::ShardId;
use crate::policy::lease::{Need, Own, UNITS};
use crate::schedule::Binding;

/// Sites whose leases are looked at in a turn; the others follow in the next.
pub const LEASES_PER_TURN_MAX: usize = 1024;

/// Sessions that the site has work for.
fn wants(site: &Site, budget: u32, now: Mono) -> u32 {
    let busy = (site.conns - site.quitting).saturating_sub(site.idle.len() as u32);
    let is_resting = site.backoff_until.is_some_and(|until| until > now)
        || site
            .rests
            .as_ref()
            .is_some_and(|rests| rests.rest(now).is_some());
    let ready = if is_resting { 0 } else { site.ready_len };
    budget.min(busy.saturating_add(u32::try_from(ready).unwrap_or(u32::MAX)))
}

impl Site {
    pub(super) fn own(&self, budget: u32, now: Mono) -> Own {
        Own {
            budget,
            holds: self.conns,
            wants: wants(self, budget, now),
        }
    }

    fn need(&self, budget: u32, now: Mono) -> Need {
        let wants = wants(self, budget, now);
        let ready = u32::try_from(self.ready_len).unwrap_or(u32::MAX);
        let mut units = [0; UNITS];
        if let Some(lot) = self.limits.lot(MESSAGES)
            && self.conns > self.opening + self.quitting
        {
            units[MESSAGES] = lot.min(ready);
        }
        if let Some(lot) = self.limits.lot(CONNECTIONS)
            && self.conns < wants
            && self.opening < OPENING_MAX
        {
            units[CONNECTIONS] = lot.min(ready).min(wants - self.conns);
        }
        Need {
            holds: self.conns,
            wants,
            ceiling: budget,
            units,
        }
    }

    /// Whether a unit of a rate may be used here and now.
    pub(super) fn may_take(&self, kind: usize, now: Mono) -> Result<(), Wait> {
        if self.limits.lot(kind).is_none() {
            return Ok(());
        }
        match &self.lease {
            Lease::Owned(lender) => {
                let (limit, wait_ms) = match self.used.may_take(kind, &self.limits, now) {
                    Ok(()) if lender.may_take(kind, None, now) => return Ok(()),
                    // Another shard has waited longer for it.
                    Ok(()) => (0, 1),
                    Err(wait) => wait,
                };
                Err(Wait::Until { limit, wait_ms })
            }
            Lease::Borrowed { of, .. } => of.may_take(kind, now).map_err(|wait| match wait {
                Some((until, limit)) => Wait::Until {
                    limit,
                    wait_ms: until.ms_since(now).max(1),
                },
                None => Wait::Asking,
            }),
        }
    }

    /// Uses it.
    pub(super) fn take(&mut self, kind: usize, now: Mono) {
        match &mut self.lease {
            Lease::Owned(lender) => {
                self.used.take(kind, &self.limits, now);
                lender.took(kind, None);
            }
            Lease::Borrowed { of, .. } => of.take(kind),
        }
    }

    /// What the site is allowed is with other shards.
    pub(super) fn lent_binding(&self, me: ShardId, now: Mono) -> Binding {
        let (owner, since) = match &self.lease {
            Lease::Owned(_) => (me, self.lent_since),
            Lease::Borrowed { owner, of } => (*owner, of.waits_since()),
        };
        Binding::Lent {
            owner: owner.0,
            waiting_ms: since.map_or(0, |since| now.ms_since(since)),
        }
    }
}

impl Pool {
    /// Looks at the site's lease when the turn ends, if there is anything to say about it.
    pub(crate) fn look_at_lease(&mut self, id: SiteId) {
        let site = self.site_mut(id);
        let is_alone = matches!(&site.lease, Lease::Owned(lender) if lender.is_idle());
        if is_alone || site.is_lease_due {
            return;
        }
        site.is_lease_due = true;
        self.leases_due.push_back(id);
    }

    /// Another shard has something to say.
    pub(crate) fn told_of_leases(&mut self, from: ShardId, message: LeaseMessage, now: Mono) {
        for (key, claim) in message.claims {
            let id = self.site_of_lease(&key, now);
            let site = self.site_mut(id);
            let Lease::Owned(lender) = &mut site.lease else {
                continue;
            };
            if let Some(back) = lender.claimed(from.0, claim, now) {
                for (kind, units) in back.into_iter().enumerate() {
                    site.used.give_back(kind, &site.limits, units);
                }
                self.tend(id);
                self.look_at_lease(id);
            }
        }
        for (key, grant) in message.grants {
            let Some(id) = self.by_key.get(&SiteKey::of_lease(&key)).copied() else {
                continue;
            };
            if let Lease::Borrowed { of, .. } = &mut self.site_mut(id).lease
                && of.granted(&grant, now)
            {
                self.look_at_lease(id);
                if self.site(id).has_mail() {
                    self.mark_eager(id);
                }
            }
        }
    }

    fn site_of_lease(&mut self, key: &LeaseKey, now: Mono) -> SiteId {
        let key = SiteKey::of_lease(key);
        match self.by_key.get(&key) {
            Some(id) => *id,
            None => self.add_site(key, &[], now),
        }
    }

    /// The end of a turn: what is to be said to other shards about leases.
    pub(crate) fn settle_leases(&mut self, now: Mono) -> BTreeMap<ShardId, LeaseMessage> {
        let mut said = BTreeMap::new();
        for _ in 0..self.leases_due.len().min(LEASES_PER_TURN_MAX) {
            let Some(id) = self.leases_due.pop_front() else {
                break;
            };
            self.site_mut(id).is_lease_due = false;
            if self.site(id).is_vacant {
                continue;
            }
            match self.site(id).lease {
                Lease::Owned(_) => self.settle_lent(id, now, &mut said),
                Lease::Borrowed { .. } => self.settle_borrowed(id, now, &mut said),
            }
            if !self.site(id).lease.is_idle() {
                self.tend(id);
            }
        }
        said
    }

    fn settle_borrowed(
        &mut self,
        id: SiteId,
        now: Mono,
        said: &mut BTreeMap<ShardId, LeaseMessage>,
    ) {
        let budget = self.budget(self.site(id), now);
        let number = self.lease_number;
        let site = self.site_mut(id);
        let need = site.need(budget, now);
        let Lease::Borrowed { owner, of } = &mut site.lease else {
            return;
        };
        if let Some(claim) = of.claim(need, number, now) {
            let claims = &mut said.entry(*owner).or_default().claims;
            claims.push((site.key.to_lease(), claim));
            self.lease_number += 1;
        }
    }

    fn settle_lent(&mut self, id: SiteId, now: Mono, said: &mut BTreeMap<ShardId, LeaseMessage>) {
        let budget = self.budget(self.site(id), now);
        let mut number = self.lease_number;
        let site = self.site_mut(id);
        let own = site.own(budget, now);
        let Lease::Owned(lender) = &mut site.lease else {
            return;
        };
        lender.expire(now);
        let is_lent = own.wants > own.holds && lender.own_sessions(&own, now) <= own.holds;
        site.lent_since = is_lent.then(|| site.lent_since.unwrap_or(now));
        for (to, sessions) in lender.due(&own, now) {
            let wanted = lender
                .unanswered(to)
                .map_or([0; UNITS], |claim| claim.units_wanted);
            let (mut units, mut wait) = ([0; UNITS], [None; UNITS]);
            for kind in [MESSAGES, CONNECTIONS] {
                let lot = wanted[kind].min(site.limits.lot(kind).unwrap_or(u32::MAX));
                while units[kind] < lot && lender.may_take(kind, Some(to), now) {
                    if let Err((limit, ms)) = site.used.may_take(kind, &site.limits, now) {
                        wait[kind] = Some((ms, limit));
                        break;
                    }
                    site.used.take(kind, &site.limits, now);
                    lender.took(kind, Some(to));
                    units[kind] += 1;
                }
                if lot > 0 && units[kind] == 0 {
                    let (ms, _) = *wait[kind].get_or_insert((1, 0));
                    lender.waits(kind, Some(to), ms, now);
                }
            }
            number += 1;
            if let Some(mut grant) = lender.grant(to, sessions, units, number) {
                grant.wait = wait;
                let message = said.entry(ShardId(to)).or_default();
                message.grants.push((site.key.to_lease(), grant));
            }
        }
        if own.wants > 0
            && !lender.is_idle()
            && let Err((_, ms)) = site.used.may_take(MESSAGES, &site.limits, now)
        {
            lender.waits(MESSAGES, None, ms, now);
        }
        self.lease_number = number;
    }
}
