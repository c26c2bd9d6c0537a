//! Mail that may be sent, on its way to a site: ready lists and turns.
//!
//! An entry that is ready stands in its destination's list ([`ShardCore::make_ready`]); the
//! destination is looked up ([`ShardCore::activate`], `lookup`) and takes its turn in the round of the site it
//! resolves to. [`ShardCore::next_entry`] takes mail out again, for `deliver`'s connections. What
//! cannot be resolved, or has expired, is settled without one.

use super::ShardCore;
use super::unconnected::Unconnected;
use crate::clock::{Now, UnixMs};
use crate::pool::SiteId;
use crate::schedule::destination::{DestinationId, Lookup, WindowOf};
use crate::schedule::index::{EntryId, State};
use crate::schedule::mail::{Listed, Taken};

/// More recipients than a message has.
const WHOLE: u16 = u16::MAX;

/// Recipients that are settled without a connection in one go: each is a line of the log, and a part of a
/// notification. One message more may go beyond.
const RECIPIENTS_SETTLED_MAX: u32 = 4096;

impl ShardCore {
    /// The entry, in no list, may be sent from now on, unless an operator has stopped it.
    pub(super) fn make_ready(&mut self, id: EntryId, now: Now) {
        if self.hold_if_stopped(id, now) {
            return;
        }
        let listed = self.mail.ready(id);
        self.listed(listed, now);
    }

    /// Deferred entries whose time has come are ready.
    pub(super) fn wake_deferred(&mut self, now: Now) {
        let now_s = self.mail.seconds(now);
        let entries_max = self.settings.entries_per_turn_max;
        let woken = self.mail.woken(now_s, entries_max, &mut self.counters);
        for listed in woken {
            self.listed(listed, now);
        }
    }

    fn listed(&mut self, listed: Listed, now: Now) {
        self.touched += 1;
        if let Some(site) = listed.round {
            self.pool.ready_more(site);
        }
        self.activate(listed.destination, now);
    }

    /// Every destination is looked up anew: routes may have changed.
    pub(super) fn forget_lookups(&mut self) {
        self.pool.clear_rounds();
        self.forget_windows();
        let ids = self.mail.destination_ids();
        for id in ids.clone() {
            let destination = self.mail.destination_mut(id);
            destination.in_round = false;
            destination.is_provider_known = false;
            destination.window = WindowOf::Unknown;
            destination.parked = None;
            if matches!(destination.lookup, Lookup::Site { .. }) {
                self.set_lookup(id, Lookup::Unknown);
            }
        }
        // Planned over the next ticks: there may be a million.
        for id in ids {
            let destination = self.mail.destination(id);
            if matches!(destination.lookup, Lookup::Unknown) && destination.ready_len() > 0 {
                self.look_up_soon(id);
            }
        }
    }

    /// Marks a destination with ready mail: to have its turn at its site, or to be looked up first. Nothing
    /// is begun before the event is through.
    pub(super) fn activate(&mut self, id: DestinationId, now: Now) {
        let destination = self.mail.destination(id);
        if destination.ready_len() == 0 || destination.parked.is_some() {
            return;
        }
        match &destination.lookup {
            Lookup::Site { site, targets } if targets.expires > now.mono => {
                self.enrol(id, *site, now);
            }
            Lookup::Asking | Lookup::Due | Lookup::Queued | Lookup::Failed(_) => {}
            Lookup::Trouble { until, .. } if *until > now.mono => {}
            Lookup::Site { .. } if destination.in_round => {}
            // The first time it has nothing that a wait would let go stale.
            Lookup::Unknown => self.plan_soon(id, false),
            Lookup::Site { .. } | Lookup::Trouble { .. } => self.plan_soon(id, true),
        }
    }

    /// The destination takes its turns at the site from now on, or waits for its window to open.
    pub(super) fn enrol(&mut self, id: DestinationId, site_id: SiteId, now: Now) {
        if !self.mail.destination(id).in_round && self.parks(id, now) {
            return;
        }
        let destination = self.mail.destination_mut(id);
        if !destination.in_round {
            destination.in_round = true;
            self.pool.enrol(site_id, id, destination.ready_len());
        }
        self.pool.mark(site_id);
    }

    /// Fails ready mail of destinations that have no host, a bounded number at a time.
    pub(super) fn fail_ready(&mut self, now: Now) {
        let mut recipients = 0;
        while recipients < RECIPIENTS_SETTLED_MAX {
            let Some(id) = self.mail.next_failing() else {
                return;
            };
            if !self.content.may_read() || self.is_stalled() {
                return;
            }
            let Lookup::Failed(failure) = self.mail.destination(id).lookup else {
                self.mail.failing_over();
                continue;
            };
            match self.pop_ready(id, now) {
                Some(entry) => {
                    recipients += self.mail.open_recipients(entry);
                    self.settle_without_connection(entry, Unconnected::DnsFailure(failure), now);
                }
                None if self.mail.destination(id).ready_len() > 0 => return,
                None => {
                    self.mail.failing_over();
                    self.set_lookup(id, Lookup::Unknown);
                }
            }
        }
    }

    /// The next mail of a site's destinations, which take turns: an entry, or as much of it as one
    /// transaction takes.
    pub(super) fn next_entry(&mut self, site_id: SiteId, now: Now) -> Option<EntryId> {
        let most = self.settings.recipients_per_message_max;
        let by_rule = self.pool.recipients_max(site_id, now.mono);
        self.next_part(site_id, by_rule.map_or(most, |max| max.min(most)), now)
    }

    /// As [`Self::next_entry`], with all the recipients that are left of it.
    pub(super) fn next_message(&mut self, site_id: SiteId, now: Now) -> Option<EntryId> {
        self.next_part(site_id, WHOLE, now)
    }

    fn next_part(&mut self, site_id: SiteId, recipients_max: u16, now: Now) -> Option<EntryId> {
        loop {
            let id = self.pool.next_in_round(site_id)?;
            let expired = match &self.mail.destination(id).lookup {
                Lookup::Site { targets, .. } => targets.expires <= now.mono,
                _ => true,
            };
            if expired {
                self.leave_round(site_id, id);
                self.look_up_soon(id);
                continue;
            }
            if self.is_closed(id, now) {
                self.step_out(site_id, id);
                self.parks(id, now);
                continue;
            }
            let entry = self.pop_part(id, recipients_max, &mut 0, now);
            let destination = self.mail.destination_mut(id);
            let is_empty = destination.ready_len() == 0;
            destination.in_round = !is_empty;
            self.pool.turn_over(site_id, is_empty);
            if entry.is_some() || !is_empty {
                return entry;
            }
        }
    }

    fn leave_round(&mut self, site_id: SiteId, id: DestinationId) {
        self.step_out(site_id, id);
        self.set_lookup(id, Lookup::Unknown);
    }

    /// The next in turn leaves the round; where it leads is known still.
    pub(super) fn step_out(&mut self, site_id: SiteId, id: DestinationId) {
        let destination = self.mail.destination_mut(id);
        destination.in_round = false;
        debug_assert_eq!(
            self.pool.next_in_round(site_id),
            Some(id),
            "only the next in turn leaves"
        );
        self.pool.leave_round(site_id, destination.ready_len());
    }

    /// Takes the next live entry out of a destination's ready list, as in flight. Entries that have
    /// expired are settled on the way.
    pub(super) fn pop_ready(&mut self, id: DestinationId, now: Now) -> Option<EntryId> {
        self.pop_part(id, WHOLE, &mut 0, now)
    }

    /// As [`Self::pop_ready`], for at most `recipients_max` of the entry's recipients. Of expired mail only
    /// so much is settled at a time, which `expired` counts: `None`, though some is left, says that it goes
    /// on in another turn.
    fn pop_part(
        &mut self,
        id: DestinationId,
        recipients_max: u16,
        expired: &mut u32,
        now: Now,
    ) -> Option<EntryId> {
        loop {
            let first = self.mail.first_ready(id)?;
            if self.is_stopped(first, now) {
                if self.has_held_enough() {
                    return None;
                }
                self.take_stopped(id, now);
                continue;
            }
            let recipients_max = if self.is_expired(first, now) {
                if *expired >= RECIPIENTS_SETTLED_MAX || !self.content.may_read() {
                    return None;
                }
                *expired += self.mail.open_recipients(first);
                WHOLE
            } else {
                recipients_max
            };
            let Taken {
                entry,
                round,
                split_from,
            } = self.mail.taken(id, recipients_max)?;
            if let Some(rest) = split_from {
                self.content.split(rest, entry);
            }
            if let Some(site) = round {
                self.pool.ready_less(site);
            }
            if self.is_expired(entry, now) {
                self.settle_without_connection(entry, Unconnected::Expired, now);
                continue;
            }
            return Some(entry);
        }
    }

    pub(super) fn is_expired(&self, id: EntryId, now: Now) -> bool {
        let accepted = UnixMs(self.mail.get(id).queue_id.accepted_ms());
        let age_ms = self.mail.age_ms(accepted, now);
        age_ms >= self.expire_after_ms(self.mail.get(id).destination)
    }

    /// Looks for expired mail that waits behind a site's back-off, a bounded part of the index at a
    /// time.
    pub(super) fn sweep(&mut self, now: Now) {
        if !self.content.may_read() || self.is_stalled() {
            return;
        }
        let mut seen = Vec::new();
        for id in self.mail.sweep_on(self.settings.entries_per_turn_max) {
            let entry = self.mail.get(id);
            if entry.state == State::Ready
                && self.is_expired(id, now)
                && !seen.contains(&entry.destination)
            {
                seen.push(entry.destination);
            }
        }
        let mut expired = 0;
        for destination in seen {
            self.expire_ready(destination, &mut expired, now);
        }
    }

    /// Settles the expired entries at the head of a ready list.
    fn expire_ready(&mut self, id: DestinationId, expired: &mut u32, now: Now) {
        let first = self.mail.first_ready(id);
        if first.is_some_and(|first| self.is_expired(first, now))
            && let Some(live) = self.pop_part(id, WHOLE, expired, now)
        {
            self.make_ready(live, now);
        }
    }
}
