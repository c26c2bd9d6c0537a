//! Sites to connections, connections to transactions.
//!
//! A connection that would take a transaction pulls one ([`ShardCore::assign`]): the site's
//! destinations with ready mail take turns (`ready`). Mail that comes while no connection is free calls
//! for another ([`ShardCore::pump`]) within the limits. A failure to connect defers one message, which is
//! logged, and sets the site's back-off; the rest stays ready and bound to it, so that a dead site
//! costs a connection now and then and not one attempt for each of a million messages.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::content::{Given, Held, Purpose};
use super::judge::Context;
use super::unconnected::Unconnected;
use super::{Action, Cause, Delivery, Settings, ShardCore};
use crate::clock::Now;
use crate::dns::Target;
use crate::ids::TransactionToken;
use crate::phase::Phase;
use crate::pool::{
    Conditions, ConnId, Failure, Go, Halt, LimitsTable, NoStart, OpenPermit, PeerInfo, SiteId,
    StartPermit,
};
use crate::schedule::Binding;
use crate::schedule::index::EntryId;
use crate::smtp::client::{OutboundTransaction, RecipientOutcome, RecipientResult};

/// Sites looked at for connections in a turn; the others follow in the next.
const PUMPS_PER_TURN_MAX: usize = 4096;

/// Whether the peer said something about the recipient, rather than the session being broken.
fn is_answer(result: &RecipientResult) -> bool {
    result.outcome != RecipientOutcome::Lost
}

/// The `turn`th of our addresses that can reach `target`. It moves on by one more after each round, so
/// that not always the same one meets the same target.
fn source_address(ours: &[IpAddr], target: IpAddr, turn: usize) -> Option<IpAddr> {
    let of_family = || ours.iter().filter(|ip| ip.is_ipv4() == target.is_ipv4());
    let count = of_family().count();
    let nth = turn.wrapping_add(turn.checked_div(count)?) % count;
    of_family().nth(nth).copied()
}

/// What the settings allow.
pub(super) fn limits(settings: &Settings, shards: u16) -> LimitsTable {
    LimitsTable::new(settings.site_backoff_ms, shards, &settings.policy)
}

impl ShardCore {
    /// Whether nothing may be started: outcomes could not be noted, or we are about to stop.
    pub(super) fn is_stalled(&self) -> bool {
        self.halt().is_some()
    }

    fn halt(&self) -> Option<Halt> {
        if self.draining {
            Some(Halt::Stopping)
        } else if self.store.queue.is_failing() {
            Some(Halt::DiskTrouble)
        } else {
            None
        }
    }

    /// What the gate has to know of the other rooms.
    pub(super) fn conditions(&self, now: Now) -> Conditions {
        Conditions {
            now,
            halt: self.halt(),
            is_memory_short: self.content.is_crowded(),
        }
    }

    /// The end of a turn: finds connections for the ready mail of the marked sites, each once, however
    /// often it was marked.
    pub(super) fn pump_marked(&mut self, now: Now) {
        for _ in 0..self.pool.marked_len().min(PUMPS_PER_TURN_MAX) {
            let Some((site, is_eager)) = self.pool.take_marked() else {
                return;
            };
            self.pump(site, is_eager, now);
        }
    }

    /// The end of a turn: what is to be said to other shards about leases.
    pub(super) fn settle_leases(&mut self, now: Now) {
        for (to, message) in self.pool.settle_leases(now.mono) {
            self.tell(to, message);
        }
    }

    /// Finds connections for a site's ready mail. `is_eager`: opens one even if the mail is little.
    fn pump(&mut self, site: SiteId, mut is_eager: bool, now: Now) {
        self.pool.look_at_lease(site);
        loop {
            self.park_closed(site, now);
            if !self.pool.site(site).has_mail() {
                return;
            }
            let at = self.conditions(now);
            match self.pool.may_go(site, is_eager, &at) {
                Ok(Go::Start(permit)) => {
                    if !self.pull(permit, now) {
                        return;
                    }
                }
                Ok(Go::Quit(conn)) => self.quit(conn),
                Ok(Go::Open(_)) if !self.has_sendable(site, now) => return,
                Ok(Go::Open(permit)) => {
                    self.open(permit, now);
                    is_eager = false;
                }
                Err(Binding::AddressesResting { .. }) if self.pool.site(site).conns() == 0 => {
                    // Some were refused while others still went on; now there is none, and mail to send.
                    self.pool.back_off(site, &mut self.random, now.mono);
                    return;
                }
                Err(_) => return,
            }
        }
    }

    fn open(&mut self, permit: OpenPermit, now: Now) {
        let site = permit.site();
        let opened = self.pool.open(permit, now.mono);
        let source = self.source_for(site, opened.target.address.ip(), opened.turn, now);
        self.actions.push(Action::Connect {
            conn: opened.conn,
            target: opened.target,
            source,
        });
    }

    /// Our address for a connection, of those that do not rest at the site.
    fn source_for(&self, site: SiteId, target: IpAddr, turn: usize, now: Now) -> Option<IpAddr> {
        let ours = self.settings.source_addresses.iter().copied();
        let awake: Vec<IpAddr> = ours
            .filter(|source| !self.pool.is_source_resting(site, *source, now.mono))
            .collect();
        source_address(&awake, target, turn)
    }

    fn quit(&mut self, conn: ConnId) {
        if self.pool.quit(conn) {
            self.actions.push(Action::Quit { conn });
        }
    }

    pub(super) fn connected(&mut self, id: ConnId, peer: Rc<PeerInfo>, now: Now) {
        self.pool.greeted(id, peer);
        self.can_start(id, now);
    }

    pub(super) fn can_start(&mut self, id: ConnId, now: Now) {
        self.pool.offered(id);
        self.assign(id, now);
    }

    /// Gives a connection its next transaction, if it would take one and there is one; else puts it
    /// among the idle if it has nothing to do.
    fn assign(&mut self, id: ConnId, now: Now) {
        match self.pool.may_start(id, &self.conditions(now)) {
            Ok(permit) => {
                self.pull(permit, now);
            }
            Err(NoStart::IsOver) => self.quit(id),
            Err(NoStart::Bound(_)) => self.pool.rest(id, now.mono),
            Err(NoStart::Occupied) => {}
        }
    }

    /// Takes the site's next message for a connection that may have it. Returns whether there was one.
    fn pull(&mut self, permit: StartPermit, now: Now) -> bool {
        let mut permit = permit;
        while let Some(entry) = self.next_entry(permit.site(), now) {
            match self.begin(permit, entry, now) {
                None => return true,
                Some(unused) => permit = unused,
            }
            if self.has_held_enough() {
                break;
            }
        }
        self.pool.rest(permit.conn(), now.mono);
        false
    }

    /// Begins with an entry that was taken for a connection; gives the permit back if it is stopped.
    fn begin(&mut self, permit: StartPermit, entry: EntryId, now: Now) -> Option<StartPermit> {
        match self.content_for(entry, Purpose::Send(permit.conn())) {
            Given::Here(held) => return self.start(permit, entry, held, now),
            Given::BeingRead => self.pool.loading(permit),
            Given::NoRoom => self.pool.rest(permit.conn(), now.mono),
        }
        None
    }

    /// What a connection was to send has been read back.
    pub(super) fn loaded(&mut self, conn: ConnId, entry: EntryId, held: Held, now: Now) {
        let destination = self.mail.get(entry).destination;
        match self.pool.loaded(conn) {
            // Outcomes cannot be noted, its window closed meanwhile, or a rule has the site rest.
            Some(permit)
                if self.is_stalled()
                    || self.is_closed(destination, now)
                    || self.pool.is_resting(permit.site(), now.mono) =>
            {
                self.make_ready(entry, now);
                self.assign(conn, now);
            }
            Some(permit) => {
                if let Some(unused) = self.start(permit, entry, held, now) {
                    self.pull(unused, now);
                }
            }
            None => self.make_ready(entry, now),
        }
    }

    /// What a connection was to send could not be read back: it takes something else.
    pub(super) fn not_loaded(&mut self, conn: ConnId, now: Now) {
        self.pool.loaded(conn);
        self.assign(conn, now);
    }

    /// The last moment before a transaction; gives the permit back if an operator has stopped the mail.
    fn start(
        &mut self,
        on: StartPermit,
        entry_id: EntryId,
        held: Held,
        now: Now,
    ) -> Option<StartPermit> {
        let Held { message, permit } = held;
        if self.is_stopped_by_record(entry_id, &message, now) {
            return Some(on);
        }
        let entry = self.mail.get(entry_id);
        let first = entry.recipient_first;
        let destination = entry.destination;
        let recipients = self.mail.open_places(entry_id);
        let conn = on.conn();
        self.pool.started(on);
        let token = self.last_token.next();
        let transaction = OutboundTransaction {
            token,
            envelope: Arc::clone(&message.envelope),
            recipients: recipients.iter().map(|place| first + place).collect(),
            content: Rc::clone(&message.content),
        };
        let ready_since = message.accepted;
        let started = now;
        self.mail
            .sending(entry_id, recipients.len() as u32, &mut self.counters);
        let delivery = Delivery {
            entry: entry_id,
            recipients,
            message,
            destination,
            started,
            ready_since,
            _permit: permit,
        };
        self.deliveries.insert(token, delivery);
        self.actions.push(Action::Start { conn, transaction });
        None
    }

    pub(super) fn finished(
        &mut self,
        id: ConnId,
        token: TransactionToken,
        results: Vec<RecipientResult>,
        now: Now,
    ) {
        let Some(delivery) = self.deliveries.remove(&token) else {
            return;
        };
        let whom = self.pool.finished(id, results.iter().any(is_answer));
        let context = whom.map_or_else(Context::default, |(site, peer, target)| Context {
            site: Some(site),
            peer,
            target: Some(target),
        });
        self.settle(id, delivery, &results, context, now);
        self.assign(id, now);
    }

    /// The connection ended before anything was said about this transaction.
    pub(super) fn returned(&mut self, id: ConnId, token: TransactionToken, now: Now) {
        let Some(delivery) = self.deliveries.remove(&token) else {
            return;
        };
        let recipients = delivery.recipients.len() as u32;
        self.mail
            .returned(delivery.entry, recipients, &mut self.counters);
        self.pool.returned(id);
        self.make_ready(delivery.entry, now);
    }

    pub(super) fn closed(&mut self, id: ConnId, phase: Phase, cause: Cause, now: Now) {
        let Cause { text, reply } = cause.clone();
        let seen = |target: &Target| {
            let text = format!("{} [{}] {phase}: {text}", target.host, target.address);
            (text.into(), reply)
        };
        let Some(closed) = self.pool.closed(id, seen, now.mono) else {
            return;
        };
        self.judge_closed(&closed, phase, &cause, now);
        if closed.has_failed {
            self.site_failed(closed.site, phase, now);
        } else {
            self.pool.mark(closed.site);
        }
    }

    /// No target would have us, from the first word: backs off, and says so on one message.
    fn site_failed(&mut self, site_id: SiteId, phase: Phase, now: Now) {
        let failure = self.pool.failed(site_id, &mut self.random, now.mono);
        let connecting = phase <= Phase::Greeting;
        if let Some(Failure {
            text,
            target,
            refusal,
        }) = failure
            && let Some(entry) = self.next_message(site_id, now)
        {
            let unconnected = Unconnected::NoConnection {
                phase,
                cause: text,
                target: Some(target),
                refusal,
                connecting,
            };
            self.settle_without_connection(entry, unconnected, now);
        }
    }

    /// A tick: ends back-offs, tells idle connections to quit, and marks the sites with ready mail.
    pub(super) fn tend_sites(&mut self, now: Now) {
        let mut quits = Vec::new();
        let at = self.conditions(now);
        self.pool.tend_all(&at, &mut quits);
        let quits = quits.into_iter().map(|conn| Action::Quit { conn });
        self.actions.extend(quits);
    }
}
