//! Whether a connection may be opened, and a transaction started: a permit, or the [`Binding`] that is
//! in the way.
//!
//! Nobody opens or starts without a permit: [`Pool::open`] and [`Pool::started`] consume one, and only
//! the functions here make them. What tells an operator why mail waits asks the same functions
//! ([`Pool::may_go`]), so that it cannot say anything else than what was decided.

use super::Pool;
use super::SiteId;
use super::conns::{Conn, ConnId, State, Working};
use super::lease::{Lease, Wait};
use super::limits::{CONNECTIONS, MESSAGES};
use super::site::Site;
use crate::clock::{Mono, Now};
use crate::dns::Target;
use crate::schedule::Binding;

/// Connections being opened to one site at a time.
pub const OPENING_MAX: u32 = 4;
/// A connection is opened beside busy ones only if this many messages wait for each of them, or if
/// they have waited for a tick.
const READY_PER_SESSION: u64 = 2;
/// Transactions on one connection at a time: one whose content is sent, and the next behind it.
const IN_FLIGHT_MAX: u8 = 2;

/// Why the shard starts nothing at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Halt {
    /// It is about to stop.
    Stopping,
    /// Outcomes could not be noted.
    DiskTrouble,
}

impl Halt {
    pub(crate) const fn binding(self) -> Binding {
        match self {
            Self::Stopping => Binding::Stopping,
            Self::DiskTrouble => Binding::DiskTrouble,
        }
    }
}

/// What holds at this moment, whichever site is asked about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conditions {
    pub(crate) now: Now,
    pub(crate) halt: Option<Halt>,
    /// No more content may be read back.
    pub(crate) is_memory_short: bool,
}

/// A connection may be opened.
#[derive(Debug)]
pub(crate) struct OpenPermit {
    pub(super) site: SiteId,
    pub(super) target: Target,
    pub(super) turn: usize,
}

impl OpenPermit {
    /// To which site.
    pub(crate) const fn site(&self) -> SiteId {
        self.site
    }
}

/// A transaction may be started on a connection.
#[derive(Debug)]
pub(crate) struct StartPermit {
    pub(super) conn: ConnId,
    pub(super) site: SiteId,
    /// When it was given; `None` if the site's rates have counted the transaction already.
    pub(super) given: Option<Mono>,
}

impl StartPermit {
    /// On which.
    pub(crate) const fn conn(&self) -> ConnId {
        self.conn
    }

    /// To which site.
    pub(crate) const fn site(&self) -> SiteId {
        self.site
    }
}

/// Why a connection gets no transaction.
#[derive(Debug)]
pub(crate) enum NoStart {
    /// It takes none now, or is gone.
    Occupied,
    /// It is given no more, and told to quit once it has nothing in flight.
    IsOver,
    /// It would take one.
    Bound(Binding),
}

/// What is to be done for a site's ready mail.
#[derive(Debug)]
pub(crate) enum Go {
    /// An idle connection takes the next message.
    Start(StartPermit),
    /// An idle connection has served its time.
    Quit(ConnId),
    /// Another connection is wanted.
    Open(OpenPermit),
}

impl Pool {
    /// What is to be done next for the ready mail of a site, or what is in the way. `is_eager`: another
    /// connection is wanted even if the mail is little.
    pub(crate) fn may_go(
        &self,
        id: SiteId,
        is_eager: bool,
        at: &Conditions,
    ) -> Result<Go, Binding> {
        let site = self.site(id);
        self.may_reach(site, at)?;
        let Some(conn) = site.idle.last() else {
            return self.may_open(id, is_eager, at).map(Go::Open);
        };
        match self.may_start(*conn, at) {
            Ok(permit) => Ok(Go::Start(permit)),
            Err(NoStart::Bound(binding)) => Err(binding),
            Err(NoStart::IsOver | NoStart::Occupied) => Ok(Go::Quit(*conn)),
        }
    }

    /// Whether anything may go to the site at all.
    fn may_reach(&self, site: &Site, at: &Conditions) -> Result<(), Binding> {
        if let Some(halt) = at.halt {
            return Err(halt.binding());
        }
        if let Some(rest) = site
            .rests
            .as_ref()
            .and_then(|rests| rests.rest(at.now.mono))
        {
            return Err(rest);
        }
        match site.backoff_at(at.now) {
            Some(until) => Err(Binding::SiteBackoff {
                cause: site.last_failure().into(),
                retry_in_s: until.ms_since(at.now.mono).div_ceil(1000),
            }),
            None => Ok(()),
        }
    }

    /// Whether another connection to the site may be opened, and to which target.
    pub(crate) fn may_open(
        &self,
        id: SiteId,
        is_eager: bool,
        at: &Conditions,
    ) -> Result<OpenPermit, Binding> {
        let site = self.site(id);
        self.may_reach(site, at)?;
        let sessions = site.conns;
        let busy = |binding| match site.opening {
            opening if opening > 0 && opening == sessions => Err(Binding::Connecting),
            _ => Err(binding),
        };
        let sessions_max = self.sessions_max(site, at.now.mono);
        if sessions >= sessions_max {
            return busy(match sessions {
                // One that has some will say when there is work for more; it has not to wait for that.
                0 => site.lent_binding(self.me, at.now.mono),
                sessions => Binding::SessionsMax { sessions },
            });
        }
        match site.may_take(MESSAGES, at.now.mono) {
            // Units are asked for when there is a session that would use them.
            Ok(()) | Err(Wait::Asking) => {}
            Err(wait) => return busy(self.rate_binding(site, MESSAGES, wait, at.now.mono)),
        }
        if let Err(paced) = may_pace(site, at.now.mono) {
            return busy(paced);
        }
        if let Some(Err(slow)) = site.rests.as_ref().map(|rests| rests.may_send(at.now.mono)) {
            return busy(slow);
        }
        if let Err(wait) = site.may_take(CONNECTIONS, at.now.mono) {
            return busy(self.rate_binding(site, CONNECTIONS, wait, at.now.mono));
        }
        let is_enough = site.ready_len < READY_PER_SESSION * u64::from(sessions);
        if sessions > 0 && is_enough && !is_eager {
            return busy(Binding::SessionsBusy { sessions });
        }
        if site.opening >= OPENING_MAX {
            return Err(Binding::Connecting);
        }
        let turn = self.next_turn.wrapping_add(1);
        match site.choose(turn, at.now.mono) {
            Some(target) => Ok(OpenPermit {
                site: id,
                target: target.clone(),
                turn,
            }),
            None => Err(Binding::AddressesResting {
                cause: site.last_failure().into(),
                retry_in_s: site
                    .cool_until(at.now.mono)
                    .map_or(0, |until| until.ms_since(at.now.mono).div_ceil(1000)),
            }),
        }
    }

    /// Whether a connection may be given a transaction.
    pub(crate) fn may_start(&self, id: ConnId, at: &Conditions) -> Result<StartPermit, NoStart> {
        let Some(conn) = self.conns.get(id) else {
            return Err(NoStart::Occupied);
        };
        match conn.state {
            State::Idle { .. } => {}
            State::Working(Working {
                in_flight,
                is_loading: false,
                is_offered: true,
            }) if in_flight < IN_FLIGHT_MAX => {}
            _ => return Err(NoStart::Occupied),
        }
        let site = self.site(conn.site);
        // What is no longer a target of its site is sent nothing more, however long it would last.
        let is_over = conn.started >= messages_max(site, at.now.mono)
            || is_passed_over(site, conn, at.now.mono)
            || at.now.mono.ms_since(conn.opened) >= site.limits.connection_ms_max
            || !site.has_target(conn.target.address);
        if is_over
            || at.halt == Some(Halt::Stopping)
            || self.sessions_too_many(site, at.now.mono) > 0
        {
            return Err(NoStart::IsOver);
        }
        if at.halt == Some(Halt::DiskTrouble) {
            return Err(NoStart::Bound(Binding::DiskTrouble));
        }
        if at.is_memory_short {
            return Err(NoStart::Bound(Binding::Memory));
        }
        if let Err(wait) = site.may_take(MESSAGES, at.now.mono) {
            let binding = self.rate_binding(site, MESSAGES, wait, at.now.mono);
            return Err(NoStart::Bound(binding));
        }
        if let Some(rests) = &site.rests {
            if let Some(rest) = rests.rest(at.now.mono) {
                return Err(NoStart::Bound(rest));
            }
            rests.may_send(at.now.mono).map_err(NoStart::Bound)?;
        }
        may_pace(site, at.now.mono).map_err(NoStart::Bound)?;
        Ok(StartPermit {
            conn: id,
            site: conn.site,
            given: Some(at.now.mono),
        })
    }

    /// Connections to the site that all shards together may have now, as far as this one knows: the one
    /// place for a ceiling of any kind.
    pub(super) fn budget(&self, site: &Site, now: Mono) -> u32 {
        let limits = &site.limits;
        let all = match limits.sessions_per_mta {
            Some(each) if site.has_targets() => each.saturating_mul(site.addresses_in_use(now)),
            // Known for what others borrow only: they know the addresses.
            _ => u32::MAX,
        };
        let rests = site.rests.as_ref();
        let by_rule = rests.and_then(|rests| rests.sessions_max(now));
        let least = limits.sessions_max.min(all);
        least.min(by_rule.unwrap_or(u32::MAX))
    }

    /// Connections that this shard may have to the site now.
    fn sessions_max(&self, site: &Site, now: Mono) -> u32 {
        let budget = self.budget(site, now);
        match &site.lease {
            Lease::Owned(lender) if lender.is_idle() => budget,
            Lease::Owned(lender) => lender.own_sessions(&site.own(budget, now), now),
            Lease::Borrowed { of, .. } => of.sessions(now).min(budget),
        }
    }

    /// Connections beyond that, apart from those that quit already.
    pub(super) fn sessions_too_many(&self, site: &Site, now: Mono) -> u32 {
        (site.conns - site.quitting).saturating_sub(self.sessions_max(site, now))
    }

    fn rate_binding(&self, site: &Site, kind: usize, wait: Wait, now: Mono) -> Binding {
        let limit = match wait {
            Wait::Until { limit, wait_ms } => site.limits.rate(kind, limit).zip(Some(wait_ms)),
            Wait::Asking => None,
        };
        match limit {
            Some((limit, wait_ms)) => Binding::RateMax {
                limit: limit.key.spec().name,
                units: limit.units,
                next_in_ms: wait_ms,
            },
            None => site.lent_binding(self.me, now),
        }
    }
}

/// Transactions that a session of the site is given.
fn messages_max(site: &Site, now: Mono) -> u32 {
    let rests = site.rests.as_ref();
    let by_rule = rests.and_then(|rests| rests.messages_max(now));
    by_rule.map_or(site.limits.messages_per_session_max, |most| {
        most.min(site.limits.messages_per_session_max)
    })
}

/// Whether a rule has one of its ends rest.
fn is_passed_over(site: &Site, conn: &Conn, now: Mono) -> bool {
    let source = conn.peer.as_ref().and_then(|peer| peer.source_ip);
    let rests = site.rests.as_ref();
    rests.is_some_and(|rests| rests.is_passed_over(source, conn.target.address, now))
}

/// Whether the pace that the site has shown to take allows a transaction.
fn may_pace(site: &Site, now: Mono) -> Result<(), Binding> {
    site.adapt.may_send(now).map_err(|next_in_ms| {
        let pace = site.adapt.view();
        Binding::Paced {
            per_min: pace.map_or(0, |pace| pace.per_h.div_ceil(60)),
            paced_for_s: pace.map_or(0, |pace| now.ms_since(pace.since) / 1000),
            next_in_ms,
        }
    })
}
