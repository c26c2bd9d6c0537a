//! Sites to connections, connections to transactions.
//!
//! A connection that would take a transaction pulls one ([`ShardCore::assign`]): the site's
//! destinations with ready mail take turns (`ready`). Mail that comes while no connection is free calls
//! for another ([`ShardCore::pump`]) within the limits. A failure to connect defers one message, which is
//! logged, and sets the site's back-off; the rest stays ready and bound to it, so that a dead site
//! costs a connection now and then and not one attempt for each of a million messages.

use std::net::IpAddr;
use std::rc::Rc;

use super::content::{Given, Held, Purpose};
use super::settle::Synthetic;
use super::{Action, Cause, Delivery, ShardCore};
use crate::clock::Now;
use crate::dns::Target;
use crate::phase::Phase;
use crate::pool::{BROKEN_MAX, Conn, ConnId, OPENING_MAX, PeerInfo, SiteId, sessions_share};
use crate::schedule::index::EntryId;
use crate::smtp::client::{OutboundTransaction, RecipientOutcome, RecipientResult};

/// A connection is opened beside busy ones only if this many messages wait for each of them, or if
/// they have waited for a tick.
const READY_PER_SESSION: u64 = 2;
/// Transactions on one connection at a time: one whose content is sent, and the next behind it.
const IN_FLIGHT_MAX: u8 = 2;
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

impl ShardCore {
    /// Whether nothing may be started: outcomes could not be noted, or we are about to stop.
    pub(super) fn is_stalled(&self) -> bool {
        self.draining || self.store.queue.is_failing()
    }

    /// Finds connections for a site's ready mail. `eager`: open another even if the mail is little.
    pub(super) fn pump(&mut self, site_id: SiteId, eager: bool, now: Now) {
        if self.is_stalled() {
            return;
        }
        loop {
            let site = &mut self.pool.sites[site_id as usize];
            if site.round.is_empty() || site.backoff_until.is_some_and(|until| until > now.mono) {
                return;
            }
            let Some(id) = site.idle.pop() else { break };
            if let Some(conn) = self.pool.conns.get_mut(id) {
                conn.is_idle = false;
            }
            if !self.assign(id, now) {
                return;
            }
        }
        let sessions_max = self.sessions_max_of(site_id, now);
        let site = &mut self.pool.sites[site_id as usize];
        let conns = u64::from(site.conns);
        let enough = !eager && conns > 0 && site.ready_len < READY_PER_SESSION * conns;
        let full = site.conns >= sessions_max;
        if enough || full || site.opening as usize >= OPENING_MAX {
            return;
        }
        self.pool.next_turn = self.pool.next_turn.wrapping_add(1);
        let Some(target) = site.choose(self.pool.next_turn, now.mono) else {
            // Some were refused while others still went on; now there is none, and mail to send.
            if site.conns == 0 {
                self.back_off(site_id, now);
            }
            return;
        };
        site.conns += 1;
        site.opening += 1;
        let conn = self.pool.conns.insert(Conn {
            site: site_id,
            target: target.clone(),
            peer: None,
            in_flight: 0,
            started: 0,
            answered: 0,
            loading: false,
            can_start: false,
            quitting: false,
            is_idle: false,
            opened: now.mono,
            idle_since: now.mono,
        });
        let source = source_address(
            &self.settings.source_addresses,
            target.address.ip(),
            self.pool.next_turn,
        );
        self.actions.push(Action::Connect {
            conn,
            target,
            source,
        });
    }

    pub(super) fn connected(&mut self, id: ConnId, peer: Rc<PeerInfo>, now: Now) {
        let Some(conn) = self.pool.conns.get_mut(id) else {
            return;
        };
        conn.peer = Some(peer);
        let site = &mut self.pool.sites[conn.site as usize];
        site.opening -= 1;
        site.backoff_until = None;
        self.can_start(id, now);
    }

    pub(super) fn can_start(&mut self, id: ConnId, now: Now) {
        let Some(conn) = self.pool.conns.get_mut(id) else {
            return;
        };
        conn.can_start = true;
        self.assign(id, now);
    }

    /// Gives a connection its next transaction, if it would take one and there is one; else puts it
    /// among the idle if it has nothing to do. Returns whether it got one.
    fn assign(&mut self, id: ConnId, now: Now) -> bool {
        let settings = Rc::clone(&self.settings);
        let Some(conn) = self.pool.conns.get_mut(id) else {
            return false;
        };
        if conn.quitting
            || conn.loading
            || conn.is_idle
            || !conn.can_start
            || conn.in_flight >= IN_FLIGHT_MAX
        {
            return false;
        }
        let site_id = conn.site;
        let site = &self.pool.sites[site_id as usize];
        // What is no longer a target of its site is sent nothing more, however long it would last.
        let is_over = conn.started >= settings.messages_per_session_max
            || now.mono.ms_since(conn.opened) >= settings.connection_ms_max
            || !site.has_target(conn.target.address);
        if is_over || self.draining || site.conns > self.sessions_max_of(site_id, now) {
            let conn = self.pool.conns.get_mut(id);
            if let Some(conn) = conn
                && conn.in_flight == 0
            {
                conn.quitting = true;
                self.actions.push(Action::Quit { conn: id });
            }
            return false;
        }
        if !self.is_stalled()
            && !self.content.is_crowded()
            && let Some(entry) = self.next_entry(site_id, now)
        {
            self.begin(id, entry, now);
            return true;
        }
        self.rest(id, now);
        false
    }

    /// Connections that this shard may have to the site now.
    pub(super) fn sessions_max_of(&self, id: SiteId, now: Now) -> u32 {
        sessions_share(
            self.settings.sessions_per_site_max,
            self.shards,
            self.me,
            &self.pool.sites[id as usize].key,
            now.unix,
        )
    }

    fn begin(&mut self, conn_id: ConnId, entry: EntryId, now: Now) {
        match self.content_for(entry, Purpose::Send(conn_id)) {
            Given::Here(held) => self.start(conn_id, entry, held, now),
            Given::BeingRead => {
                if let Some(conn) = self.pool.conns.get_mut(conn_id) {
                    conn.loading = true;
                }
            }
            Given::NoRoom => self.rest(conn_id, now),
        }
    }

    /// What a connection was to send has been read back.
    pub(super) fn loaded(&mut self, conn_id: ConnId, entry: EntryId, held: Held, now: Now) {
        if let Some(conn) = self.pool.conns.get_mut(conn_id) {
            conn.loading = false;
        }
        self.start(conn_id, entry, held, now);
    }

    /// What a connection was to send could not be read back: it takes something else.
    pub(super) fn not_loaded(&mut self, conn_id: ConnId, now: Now) {
        if let Some(conn) = self.pool.conns.get_mut(conn_id) {
            conn.loading = false;
        }
        self.assign(conn_id, now);
    }

    /// Puts a connection that has nothing to do among its site's idle ones.
    fn rest(&mut self, id: ConnId, now: Now) {
        if let Some(conn) = self.pool.conns.get_mut(id)
            && conn.in_flight == 0
            && !conn.is_idle
        {
            conn.is_idle = true;
            conn.idle_since = now.mono;
            let site_id = conn.site;
            self.pool.sites[site_id as usize].idle.push(id);
            self.tend(site_id);
        }
    }

    fn start(&mut self, conn_id: ConnId, entry_id: EntryId, held: Held, now: Now) {
        let Held { message, permit } = held;
        let entry = self.mail.get(entry_id);
        let (first, count) = (usize::from(entry.recipient_first), entry.recipient_count);
        let destination = entry.destination;
        let done = self.mail.done_bits(entry_id);
        let recipients: Vec<u8> = (0..count).filter(|n| done >> n & 1 == 0).collect();
        let Some(conn) = self.pool.conns.get_mut(conn_id) else {
            return self.make_ready(entry_id, now);
        };
        conn.in_flight += 1;
        conn.started += 1;
        conn.can_start = false;
        self.next_token += 1;
        let token = self.next_token;
        let transaction = OutboundTransaction {
            token,
            reverse_path: (message.envelope.reverse_path.as_ref()).map(|path| path.as_str().into()),
            recipients: recipients
                .iter()
                .map(|n| {
                    message.recipients()[first + usize::from(*n)]
                        .as_str()
                        .into()
                })
                .collect(),
            content: Rc::clone(&message.content),
            body: message.envelope.body,
            smtputf8: message.envelope.smtputf8,
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
        self.actions.push(Action::Start {
            conn: conn_id,
            transaction,
        });
    }

    pub(super) fn finished(
        &mut self,
        id: ConnId,
        token: u64,
        results: Vec<RecipientResult>,
        now: Now,
    ) {
        let Some(delivery) = self.deliveries.remove(&token) else {
            return;
        };
        let mut context = super::settle::Context::default();
        if let Some(conn) = self.pool.conns.get_mut(id) {
            conn.in_flight -= 1;
            if results.iter().any(is_answer) {
                conn.answered += 1;
            }
            context.peer = conn.peer.clone();
            context.target = Some(conn.target.clone());
            if conn.answered == 1 {
                let site = &mut self.pool.sites[conn.site as usize];
                site.failures = 0;
                site.broken = 0;
            }
        }
        self.settle(delivery, &results, context, now);
        self.assign(id, now);
    }

    /// The connection ended before anything was said about this transaction.
    pub(super) fn returned(&mut self, id: ConnId, token: u64, now: Now) {
        let Some(delivery) = self.deliveries.remove(&token) else {
            return;
        };
        let recipients = delivery.recipients.len() as u32;
        self.mail
            .returned(delivery.entry, recipients, &mut self.counters);
        if let Some(conn) = self.pool.conns.get_mut(id) {
            conn.in_flight -= 1;
            conn.quitting = true;
        }
        self.make_ready(delivery.entry, now);
    }

    pub(super) fn closed(&mut self, id: ConnId, phase: Phase, cause: Cause, now: Now) {
        let Some(conn) = self.pool.conns.remove(id) else {
            return;
        };
        let site_id = conn.site;
        let site = &mut self.pool.sites[site_id as usize];
        site.conns -= 1;
        site.idle.retain(|idle| *idle != id);
        if conn.peer.is_none() {
            site.opening -= 1;
        }
        // One that was given mail and answered none of it is lost, whoever ended it: a server that
        // talks out of turn would else be connected to again at once, for ever.
        let lost = conn.answered == 0 && (!conn.quitting || conn.started > 0);
        if lost && conn.peer.is_some() {
            site.broken = site.broken.saturating_add(1);
        }
        if lost && (conn.peer.is_none() || site.broken >= BROKEN_MAX) {
            site.cool(conn.target.address, now.mono);
            site.last_failure = format!(
                "{} [{}] {phase}: {}",
                conn.target.host, conn.target.address, cause.text
            )
            .into();
            site.last_failed = Some(conn.target);
            site.last_refusal = cause.reply;
            if site.all_cooling(now.mono) && site.conns == 0 {
                self.site_failed(site_id, phase, now);
                return;
            }
        }
        self.pump(site_id, false, now);
    }

    /// No target would have us: leaves the site alone for a while, after which all are tried again.
    fn back_off(&mut self, site_id: SiteId, now: Now) {
        let (min_s, max_s) = self.settings.site_backoff_s;
        let site = &mut self.pool.sites[site_id as usize];
        let exponent = u32::from(site.failures.min(16));
        let base_s = (u64::from(min_s.max(1)) << exponent).min(u64::from(max_s));
        let jitter_ms = self.random.below(base_s * 200 + 1);
        site.backoff_until = Some(now.mono.plus_ms(base_s * 1000 + jitter_ms));
        site.cooling.clear();
        self.tend(site_id);
    }

    /// No target would have us, from the first word: backs off, and says so on one message.
    fn site_failed(&mut self, site_id: SiteId, phase: Phase, now: Now) {
        self.back_off(site_id, now);
        let site = &mut self.pool.sites[site_id as usize];
        site.failures = site.failures.saturating_add(1);
        let cause = site.last_failure.clone();
        let (target, refusal) = (site.last_failed.clone(), site.last_refusal.clone());
        let connecting = phase <= Phase::Greeting;
        if let Some(entry) = self.next_entry(site_id, now) {
            let synthetic = Synthetic::NoConnection {
                phase,
                cause,
                target,
                refusal,
                connecting,
            };
            self.settle_without_connection(entry, synthetic, now);
        }
    }

    pub(super) fn tend_sites(&mut self, now: Now) {
        for site_id in std::mem::take(&mut self.pool.tended) {
            let site = &mut self.pool.sites[site_id as usize];
            if site.backoff_until.is_some_and(|until| until <= now.mono) {
                site.backoff_until = None;
            }
            if !site.idle.is_empty() {
                self.close_idle(site_id, now);
            }
            if !self.pool.sites[site_id as usize].round.is_empty() {
                self.pump(site_id, true, now);
            }
            let site = &mut self.pool.sites[site_id as usize];
            site.is_tended = site.needs_tending();
            if site.is_tended {
                self.pool.tended.push(site_id);
            }
        }
    }

    fn close_idle(&mut self, site_id: SiteId, now: Now) {
        let idle_ms_max = self.settings.connection_idle_ms_max;
        let draining = self.draining;
        let sessions_max = self.sessions_max_of(site_id, now);
        let site = &mut self.pool.sites[site_id as usize];
        let is_fit = |conn: &Conn, targets: &[Target]| {
            now.mono.ms_since(conn.idle_since) < idle_ms_max
                && targets
                    .iter()
                    .any(|target| target.address == conn.target.address)
        };
        let too_many = draining || site.conns > sessions_max;
        let targets = &site.targets;
        let conns = &mut self.pool.conns;
        let actions = &mut self.actions;
        site.idle.retain(|id| {
            let Some(conn) = conns.get_mut(*id) else {
                return false;
            };
            let keep = !too_many && is_fit(conn, targets);
            if !keep {
                conn.quitting = true;
                actions.push(Action::Quit { conn: *id });
            }
            keep
        });
    }
}
