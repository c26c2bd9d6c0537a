//! What happens to a connection, from the decision to open it to its end, and what follows from it for
//! the books of its site.

use std::net::IpAddr;
use std::rc::Rc;

use super::Pool;
use super::conns::{Conn, ConnId, PeerInfo, State, Working};
use super::gate::{OpenPermit, StartPermit};
use super::limits::{CONNECTIONS, MESSAGES};
use super::site::Failure;
use crate::clock::Mono;
use crate::dns::Target;
use crate::ids::SiteId;
use crate::random::Random;
use crate::smtp::reply::Reply;

/// Connections in a row that may be lost without an answer before their address is passed over: one
/// broken session says little of a host, and has deferred its message already.
pub const BROKEN_MAX: u16 = 3;

/// A connection that was decided on.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) conn: ConnId,
    pub(crate) target: Target,
    /// Which of our addresses is its turn.
    pub(crate) turn: usize,
}

/// A connection that is gone.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) site: SiteId,
    /// No target of its site would have us, and no connection is left.
    pub(crate) has_failed: bool,
    /// Between whom it was.
    pub(crate) target: Target,
    pub(crate) source: Option<IpAddr>,
    /// Transactions it was given.
    pub(crate) started: u32,
    /// What ended it says nothing that is not known: we ended it, or a transaction has told.
    pub(crate) is_told: bool,
}

impl Pool {
    /// Opens one.
    pub(crate) fn open(&mut self, permit: OpenPermit, now: Mono) -> Opened {
        let OpenPermit { site, target, turn } = permit;
        self.next_turn = turn;
        let books = self.site_mut(site);
        books.conns += 1;
        books.opening += 1;
        books.take(CONNECTIONS, now);
        self.look_at_lease(site);
        let conn = self.conns.insert(Conn::new(site, target.clone(), now));
        Opened { conn, target, turn }
    }

    /// It is through EHLO.
    pub(crate) fn greeted(&mut self, id: ConnId, peer: Rc<PeerInfo>) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if conn.state != State::Opening {
            return;
        }
        conn.peer = Some(peer);
        conn.state = State::Working(Working::default());
        let site = conn.site;
        let site = self.site_mut(site);
        site.opening -= 1;
        site.backoff_until = None;
    }

    /// Its dialog would take another transaction.
    pub(crate) fn offered(&mut self, id: ConnId) {
        if let Some(State::Working(working)) = self.state_mut(id) {
            working.is_offered = true;
        }
    }

    /// A transaction goes out on it.
    pub(crate) fn started(&mut self, permit: StartPermit) {
        self.count_rates(&permit);
        self.work(&permit, |working| {
            working.in_flight += 1;
            working.is_offered = false;
        });
        if let Some(conn) = self.conns.get_mut(permit.conn) {
            conn.started += 1;
        }
    }

    /// The content for it is being read back first.
    pub(crate) fn loading(&mut self, permit: StartPermit) {
        self.count_rates(&permit);
        self.work(&permit, |working| working.is_loading = true);
    }

    /// The content is there, or is not to be had. `None` if the connection takes it no longer.
    pub(crate) fn loaded(&mut self, id: ConnId) -> Option<StartPermit> {
        let conn = self.conns.get_mut(id)?;
        let State::Working(working) = &mut conn.state else {
            return None;
        };
        working.is_loading = false;
        Some(StartPermit {
            conn: id,
            site: conn.site,
            given: None,
        })
    }

    fn state_mut(&mut self, id: ConnId) -> Option<&mut State> {
        self.conns.get_mut(id).map(|conn| &mut conn.state)
    }

    /// A transaction begins, or its content is read for it: that is when its site's rates count it.
    fn count_rates(&mut self, permit: &StartPermit) {
        if let Some(now) = permit.given {
            let site = self.site_mut(permit.site);
            site.take(MESSAGES, now);
            if let Some(rests) = &mut site.rests {
                rests.send(now);
            }
            site.adapt.send(now);
        }
    }

    /// The connection has something to do: it is idle no longer.
    fn work(&mut self, permit: &StartPermit, change: impl FnOnce(&mut Working)) {
        let Some(conn) = self.conns.get_mut(permit.conn) else {
            return;
        };
        match &mut conn.state {
            State::Working(working) => change(working),
            State::Idle { .. } => {
                let mut working = Working {
                    is_offered: true,
                    ..Working::default()
                };
                change(&mut working);
                conn.state = State::Working(working);
                self.not_idle(permit.site, permit.conn);
            }
            State::Opening | State::Quitting { .. } => {}
        }
    }

    fn not_idle(&mut self, site: SiteId, id: ConnId) {
        let idle = &mut self.site_mut(site).idle;
        // Mostly the last one, which is taken first.
        if let Some(place) = idle.iter().rposition(|other| *other == id) {
            idle.remove(place);
        }
    }

    /// There is no mail for it now: it is idle, if it has nothing else to do.
    pub(crate) fn rest(&mut self, id: ConnId, now: Mono) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if let State::Working(Working { in_flight: 0, .. }) = conn.state {
            conn.state = State::Idle { since: now };
            let site = conn.site;
            self.site_mut(site).idle.push(id);
            self.tend(site);
            self.look_at_lease(site);
        }
    }

    /// A transaction is through; `is_answered`: the peer said something about one of its recipients.
    /// Whom it was with, unless the connection is gone.
    pub(crate) fn finished(
        &mut self,
        id: ConnId,
        is_answered: bool,
    ) -> Option<(SiteId, Option<Rc<PeerInfo>>, Target)> {
        let conn = self.conns.get_mut(id)?;
        conn.less_in_flight();
        conn.answered += u32::from(is_answered);
        let whom = (conn.site, conn.peer.clone(), conn.target.clone());
        if conn.answered == 1 {
            let site = conn.site;
            let site = self.site_mut(site);
            site.failures = 0;
            site.broken = 0;
        }
        Some(whom)
    }

    /// A transaction on it was refused or lost, and what was said there has been judged.
    pub(crate) fn told(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.is_told = true;
        }
    }

    /// Whether content that is 8-bit has to be converted for it.
    pub(crate) fn converts(&self, id: ConnId) -> bool {
        let peer = self.conns.get(id).and_then(|conn| conn.peer.as_ref());
        peer.is_some_and(|peer| !peer.eight_bit_mime)
    }

    /// Transactions it was given so far.
    pub(crate) fn started_on(&self, id: ConnId) -> u32 {
        self.conns.get(id).map_or(0, |conn| conn.started)
    }

    /// It ends, and has handed a transaction back untried.
    pub(crate) fn returned(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.less_in_flight();
            self.quitting(id);
        }
    }

    /// Tells it to quit, unless something is in flight; whether the dialog is to be told.
    pub(crate) fn quit(&mut self, id: ConnId) -> bool {
        match self.conns.get(id).map(|conn| conn.state) {
            Some(State::Idle { .. } | State::Working(Working { in_flight: 0, .. })) => {
                self.quitting(id);
                true
            }
            _ => false,
        }
    }

    fn quitting(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let (site, before) = (conn.site, conn.state);
        let in_flight = match before {
            State::Working(Working { in_flight, .. }) => in_flight,
            State::Opening | State::Idle { .. } => 0,
            State::Quitting { .. } => return,
        };
        conn.state = State::Quitting { in_flight };
        let books = self.site_mut(site);
        books.quitting += 1;
        match before {
            State::Opening => books.opening -= 1,
            State::Idle { .. } => self.not_idle(site, id),
            State::Working(_) | State::Quitting { .. } => {}
        }
    }

    /// It is gone. `seen`: what is kept if it was lost, in words and in the peer's.
    pub(crate) fn closed(
        &mut self,
        id: ConnId,
        seen: impl FnOnce(&Target) -> (Box<str>, Option<Reply>),
        now: Mono,
    ) -> Option<Closed> {
        let conn = self.conns.remove(id)?;
        let site_id = conn.site;
        let site = self.site_mut(site_id);
        site.conns -= 1;
        match conn.state {
            State::Opening => site.opening -= 1,
            State::Quitting { .. } => site.quitting -= 1,
            State::Idle { .. } => site.idle.retain(|idle| *idle != id),
            State::Working(_) => {}
        }
        let is_quitting = matches!(conn.state, State::Quitting { .. });
        // One that was given mail and answered none of it is lost, whoever ended it: a server that
        // talks out of turn would else be connected to again at once, for ever.
        let is_lost = conn.answered == 0 && (!is_quitting || conn.started > 0);
        if is_lost && conn.peer.is_some() {
            site.broken = site.broken.saturating_add(1);
        }
        let (target, source) = (
            conn.target.clone(),
            conn.peer.as_ref().and_then(|p| p.source_ip),
        );
        let mut has_failed = false;
        if is_lost && (conn.peer.is_none() || site.broken >= BROKEN_MAX) {
            let (text, refusal) = seen(&conn.target);
            self.target_failed(
                site_id,
                Failure {
                    text,
                    target: conn.target,
                    refusal,
                },
                now,
            );
            let site = self.site(site_id);
            has_failed = site.conns == 0 && site.all_cooling(now);
        }
        self.look_at_lease(site_id);
        Some(Closed {
            site: site_id,
            has_failed,
            target,
            source,
            started: conn.started,
            is_told: is_quitting || conn.is_told,
        })
    }

    /// A target would not have us: it is passed over for a while.
    pub(crate) fn target_failed(&mut self, id: SiteId, failure: Failure, now: Mono) {
        let site = self.site_mut(id);
        site.cool(failure.target.address, now);
        site.last_failure = Some(failure);
    }

    /// No target would have us: leaves the site alone for a while, after which all are tried again.
    pub(crate) fn back_off(&mut self, id: SiteId, random: &mut Random, now: Mono) {
        let site = self.site_mut(id);
        let (min_ms, max_ms) = site.limits.site_backoff_ms;
        let exponent = u32::from(site.failures.min(16));
        let base_ms = (min_ms << exponent).min(max_ms);
        let jitter_ms = random.below(base_ms / 5 + 1);
        site.backoff_until = Some(now.plus_ms(base_ms + jitter_ms));
        site.cooling.clear();
        self.tend(id);
    }

    /// No target would have us from the first word: backs off, the longer the more often. What was
    /// seen last.
    pub(crate) fn failed(&mut self, id: SiteId, random: &mut Random, now: Mono) -> Option<Failure> {
        self.back_off(id, random, now);
        let site = self.site_mut(id);
        site.failures = site.failures.saturating_add(1);
        site.last_failure.clone()
    }
}
