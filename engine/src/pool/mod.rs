//! Receiving sites and their connections.
//!
//! A [`Site`] is what several domains with the same MX hosts share: targets in order of preference,
//! connections, back-off. This module keeps the books and chooses targets; what is sent over a
//! connection and when is `shard::deliver`'s part.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use crate::clock::{Mono, UnixMs};
use crate::dns::{Target, Targets};
use crate::ids::ShardId;
use crate::schedule::destination::DestinationId;
use crate::slots::Free;
use crate::smtp::reply::Reply;

/// How long an address that refused or failed is passed over, milliseconds.
pub const TARGET_COOLDOWN_MS: u64 = 60_000;
/// Connections in a row that may be lost without an answer before their address is passed over: one
/// broken session says little of a host, and has deferred its message already.
pub const BROKEN_MAX: u16 = 3;
/// Connections being opened to one site at a time.
pub const OPENING_MAX: usize = 4;

/// Index into a shard's sites.
pub type SiteId = u32;

/// Receiving sites and connections of a shard.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    pub(crate) sites: Vec<Site>,
    pub(crate) by_key: HashMap<Rc<str>, SiteId>,
    pub(crate) free: Free,
    /// Sites that every tick looks at.
    pub(crate) tended: Vec<SiteId>,
    pub(crate) conns: Conns,
    /// Equal targets and source addresses take turns.
    pub(crate) next_turn: usize,
}

/// A connection: slot and generation, so that a late event of a closed one meets nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// What a connection told of itself once it was ready; shared by the log lines of all its mail.
#[derive(Clone, Debug, Default)]
pub struct PeerInfo {
    /// Our address.
    pub source_ip: Option<std::net::IpAddr>,
    /// The 220 line, without the code.
    pub greeting: Box<str>,
    /// Protocol version and cipher, or empty without TLS.
    pub tls: Box<str>,
    /// From the connect call to the end of EHLO, milliseconds.
    pub connect_ms: u32,
}

/// One connection, from the decision to open it.
#[derive(Debug)]
pub struct Conn {
    /// Its site.
    pub site: SiteId,
    /// Where it goes.
    pub target: Target,
    /// Set once EHLO is answered.
    pub peer: Option<Rc<PeerInfo>>,
    /// Transactions started and not finished, at most 2.
    pub in_flight: u8,
    /// Transactions started.
    pub started: u32,
    /// Transactions of which at least one recipient got an answer other than a lost connection.
    pub answered: u32,
    /// A message's record is being read back for it.
    pub loading: bool,
    /// The dialog would take another transaction.
    pub can_start: bool,
    /// We have told it to quit.
    pub quitting: bool,
    /// It is in its site's `idle`.
    pub is_idle: bool,
    /// Since when it has been there, or been opened.
    pub opened: Mono,
    /// Since when it has had nothing to do.
    pub idle_since: Mono,
}

/// A receiving site.
#[derive(Debug)]
pub struct Site {
    /// MX hosts and port, as in [`Targets::site`].
    pub key: Rc<str>,
    /// From the newest lookup.
    pub targets: Vec<Target>,
    /// Addresses passed over until a time.
    pub cooling: Vec<(std::net::SocketAddr, Mono)>,
    /// Connections that wait for mail.
    pub idle: Vec<ConnId>,
    /// All connections, opening ones too.
    pub conns: u32,
    /// Connections being opened.
    pub opening: u32,
    /// Destinations with ready mail, served in turn.
    pub round: VecDeque<DestinationId>,
    /// Ready entries of those destinations.
    pub ready_len: u64,
    /// Destinations whose lookup led here.
    pub bound: u32,
    /// Every tick looks at it: it has idle connections, ready mail or a back-off.
    pub is_tended: bool,
    /// The slot is free.
    pub is_vacant: bool,
    /// No connection before this.
    pub backoff_until: Option<Mono>,
    /// Connections in a row that were greeted and then lost without an answer.
    pub broken: u16,
    /// Times in a row that no target would have us.
    pub failures: u16,
    /// The last failure, for the operator.
    pub last_failure: Box<str>,
    /// Where that was.
    pub last_failed: Option<Target>,
    /// What the peer said there, if it refused the session.
    pub last_refusal: Option<Reply>,
}

impl Site {
    /// A site nobody has connected to.
    pub fn new(targets: &Targets) -> Self {
        Self {
            key: Rc::clone(&targets.site),
            targets: targets.list.clone(),
            cooling: Vec::new(),
            idle: Vec::new(),
            conns: 0,
            opening: 0,
            round: VecDeque::new(),
            ready_len: 0,
            bound: 0,
            is_tended: false,
            is_vacant: false,
            backoff_until: None,
            broken: 0,
            failures: 0,
            last_failure: "".into(),
            last_failed: None,
            last_refusal: None,
        }
    }

    /// Whether time alone may change what is to be done about it.
    pub fn needs_tending(&self) -> bool {
        !self.idle.is_empty() || !self.round.is_empty() || self.backoff_until.is_some()
    }

    /// The target for a new connection: among the most preferred that are not cooling, the one
    /// `turn` points at, so that equal ones share the load. `None` if all are cooling.
    pub fn choose(&mut self, turn: usize, now: Mono) -> Option<Target> {
        self.cooling.retain(|(_, until)| *until > now);
        let usable = |target: &&Target| {
            !self
                .cooling
                .iter()
                .any(|(address, _)| *address == target.address)
        };
        let best = self.targets.iter().find(usable)?.preference;
        let equal: Vec<&Target> = self
            .targets
            .iter()
            .filter(usable)
            .filter(|t| t.preference == best)
            .collect();
        Some((*equal.get(turn % equal.len())?).clone())
    }

    /// Passes `address` over for a while.
    pub fn cool(&mut self, address: std::net::SocketAddr, now: Mono) {
        self.cooling.retain(|(other, _)| *other != address);
        self.cooling
            .push((address, now.plus_ms(TARGET_COOLDOWN_MS)));
    }

    /// Whether mail may still go to `address`, by the newest lookup.
    pub fn has_target(&self, address: std::net::SocketAddr) -> bool {
        self.targets.iter().any(|target| target.address == address)
    }

    /// Whether every target is being passed over.
    pub fn all_cooling(&mut self, now: Mono) -> bool {
        self.choose(0, now).is_none()
    }
}

/// How long the sessions of a site are with the same shards where there are fewer of them, seconds.
const TURN_S: u32 = 60;
/// The end of a turn, in which nothing is begun, seconds.
const TURN_REST_S: u32 = 20;

/// How many of a site's `sessions_max` sessions are shard `me`'s: over all shards they add up to it.
/// Where there are fewer sessions than shards they go round by the minute.
pub fn sessions_share(sessions_max: u32, shards: u16, me: ShardId, site: &str, now: UnixMs) -> u32 {
    let shards = u32::from(shards.max(1));
    let (each, rest) = (sessions_max / shards, sessions_max % shards);
    if rest == 0 {
        return each;
    }
    let turn = if each == 0 { now.seconds() / TURN_S } else { 0 };
    let is_resting = each == 0 && now.seconds() % TURN_S >= TURN_S - TURN_REST_S;
    // FNV-1a: the same at every shard.
    let hash = site.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let place = (hash % shards + u32::from(me.0) + turn % shards) % shards;
    each + u32::from(place < rest && !is_resting)
}

/// All connections of a shard.
#[derive(Debug, Default)]
pub struct Conns {
    slots: Vec<(u32, Option<Conn>)>,
    free: Vec<u32>,
}

impl Conns {
    /// Adds one.
    pub fn insert(&mut self, conn: Conn) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            self.slots.len() as u32 - 1
        });
        let entry = &mut self.slots[slot as usize];
        entry.1 = Some(conn);
        ConnId {
            slot,
            generation: entry.0,
        }
    }

    /// The connection, unless it is gone.
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        let (generation, conn) = self.slots.get_mut(id.slot as usize)?;
        if *generation == id.generation {
            conn.as_mut()
        } else {
            None
        }
    }

    /// Takes it out.
    pub fn remove(&mut self, id: ConnId) -> Option<Conn> {
        let (generation, conn) = self.slots.get_mut(id.slot as usize)?;
        if *generation != id.generation {
            return None;
        }
        let conn = conn.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(id.slot);
        Some(conn)
    }

    /// Every connection there is.
    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &Conn)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(slot, (generation, conn))| {
                let id = ConnId {
                    slot: slot as u32,
                    generation: *generation,
                };
                conn.as_ref().map(|conn| (id, conn))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(preferences: &[u16]) -> Site {
        let list: Vec<Target> = preferences
            .iter()
            .enumerate()
            .map(|(n, preference)| Target {
                host: format!("m{n}").into(),
                address: format!("127.0.0.{}:25", n + 1).parse().unwrap(),
                preference: *preference,
            })
            .collect();
        Site::new(&Targets {
            site: "s".into(),
            list,
            text: "".into(),
            expires: Mono(0),
        })
    }

    #[test]
    fn next_preference_is_used_when_the_first_cools() {
        let mut site = site(&[10, 10, 20]);
        let now = Mono(0);
        let hosts = |site: &mut Site, now| {
            let mut names: Vec<_> = (0..4)
                .filter_map(|turn| site.choose(turn, now))
                .map(|t| t.host)
                .collect();
            names.sort();
            names.dedup();
            names.join(" ")
        };
        assert_eq!(hosts(&mut site, now), "m0 m1");
        site.cool("127.0.0.1:25".parse().unwrap(), now);
        assert_eq!(hosts(&mut site, now), "m1");
        site.cool("127.0.0.2:25".parse().unwrap(), now);
        assert_eq!(hosts(&mut site, now), "m2");
        site.cool("127.0.0.3:25".parse().unwrap(), now);
        assert!(site.all_cooling(now));
        assert_eq!(hosts(&mut site, now.plus_ms(TARGET_COOLDOWN_MS)), "m0 m1");
    }

    #[test]
    fn shares_of_a_site_add_up_to_its_sessions_and_every_shard_has_its_turn() {
        for (sessions_max, shards) in [(3, 2), (20, 8), (7, 3), (8, 8), (1, 4), (3, 8)] {
            for site in ["mx.a.example:25", "mx.b.example:25", "mx.c.example:25"] {
                let mut served = vec![false; usize::from(shards)];
                for second in 0..60 * u64::from(shards) {
                    let shares: Vec<u32> = (0..shards)
                        .map(|me| {
                            let now = UnixMs(second * 1000);
                            sessions_share(sessions_max, shards, ShardId(me), site, now)
                        })
                        .collect();
                    let sum: u32 = shares.iter().sum();
                    assert!(sum <= sessions_max, "{shares:?}");
                    let is_turn_over = sessions_max < u32::from(shards) && second % 60 >= 40;
                    assert!(sum == sessions_max || is_turn_over, "{shares:?}");
                    for (served, share) in served.iter_mut().zip(shares) {
                        *served |= share > 0;
                    }
                }
                assert!(
                    served.iter().all(|served| *served),
                    "{sessions_max} {shards}"
                );
            }
        }
    }

    #[test]
    fn late_event_of_a_removed_connection_finds_nothing() {
        let mut conns = Conns::default();
        let target = site(&[0]).targets.remove(0);
        let conn = || Conn {
            site: 0,
            target: target.clone(),
            peer: None,
            in_flight: 0,
            started: 0,
            answered: 0,
            loading: false,
            can_start: false,
            quitting: false,
            is_idle: false,
            opened: Mono(0),
            idle_since: Mono(0),
        };
        let old = conns.insert(conn());
        assert!(conns.remove(old).is_some());
        let new = conns.insert(conn());
        assert_eq!(old.slot, new.slot);
        assert!(conns.get_mut(old).is_none() && conns.remove(old).is_none());
        assert!(conns.get_mut(new).is_some());
    }
}
