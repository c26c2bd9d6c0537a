//! Connections and the states they go through: opening, working, idle, quitting.

use std::net::IpAddr;
use std::rc::Rc;

use super::SiteId;
use crate::clock::Mono;
use crate::dns::Target;

/// A connection: slot and generation, so that a late event of a closed one meets nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    slot: u32,
    generation: u32,
}

/// What a connection told of itself once it was ready; shared by the log lines of all its mail.
#[derive(Clone, Debug, Default)]
pub struct PeerInfo {
    /// Our address.
    pub source_ip: Option<IpAddr>,
    /// The 220 line, without the code.
    pub greeting: Box<str>,
    /// Protocol version and cipher, or empty without TLS.
    pub tls: Box<str>,
    /// It offers 8BITMIME: content need not be converted for it.
    pub eight_bit_mime: bool,
    /// From the connect call to the end of EHLO, milliseconds.
    pub connect_ms: u32,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Until EHLO is answered.
    Opening,
    /// With mail, or about to say that it would take some.
    Working(Working),
    /// It would take a transaction and there is none: it stands in its site's `idle`.
    Idle {
        /// Since when.
        since: Mono,
    },
    /// It has been told to quit, or has handed a transaction back, and is given no more.
    Quitting {
        /// Transactions started and not finished.
        in_flight: u8,
    },
}

/// What a connection has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Working {
    /// Transactions started and not finished.
    pub(super) in_flight: u8,
    /// A message's record is being read back for it.
    pub(super) is_loading: bool,
    /// Its dialog would take another transaction.
    pub(super) is_offered: bool,
}

/// One connection, from the decision to open it.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) site: SiteId,
    pub(super) target: Target,
    /// Set once EHLO is answered.
    pub(super) peer: Option<Rc<PeerInfo>>,
    /// Transactions started.
    pub(super) started: u32,
    /// Transactions of which at least one recipient got an answer other than a lost connection.
    pub(super) answered: u32,
    /// What it ended with has been judged with a transaction.
    pub(super) is_told: bool,
    pub(super) opened: Mono,
    pub(super) state: State,
}

impl Conn {
    pub(super) const fn new(site: SiteId, target: Target, now: Mono) -> Self {
        Self {
            site,
            target,
            peer: None,
            started: 0,
            answered: 0,
            is_told: false,
            opened: now,
            state: State::Opening,
        }
    }

    /// A transaction has come to its end, in whichever state; nothing else changes.
    pub(super) fn less_in_flight(&mut self) {
        if let State::Working(Working { in_flight, .. }) | State::Quitting { in_flight } =
            &mut self.state
        {
            *in_flight = in_flight.saturating_sub(1);
        }
    }
}

/// All connections of a shard.
#[derive(Debug, Default)]
pub(super) struct Conns {
    slots: Vec<(u32, Option<Conn>)>,
    free: Vec<u32>,
}

impl Conns {
    /// Adds one.
    pub(super) fn insert(&mut self, conn: Conn) -> ConnId {
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
    pub(super) fn get(&self, id: ConnId) -> Option<&Conn> {
        let (generation, conn) = self.slots.get(id.slot as usize)?;
        conn.as_ref().filter(|_| *generation == id.generation)
    }

    /// The connection, unless it is gone.
    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        let (generation, conn) = self.slots.get_mut(id.slot as usize)?;
        conn.as_mut().filter(|_| *generation == id.generation)
    }

    /// Takes it out.
    pub(super) fn remove(&mut self, id: ConnId) -> Option<Conn> {
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
    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnId, &Conn)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(slot, (generation, conn))| {
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

    #[test]
    fn late_event_of_a_removed_connection_finds_nothing() {
        let mut conns = Conns::default();
        let conn = || {
            let target = Target {
                host: "m0".into(),
                address: "127.0.0.1:25".parse().unwrap(),
                preference: 0,
            };
            Conn::new(SiteId(0), target, Mono(0))
        };
        let old = conns.insert(conn());
        assert!(conns.remove(old).is_some());
        let new = conns.insert(conn());
        assert_eq!(old.slot, new.slot);
        assert!(conns.get_mut(old).is_none() && conns.remove(old).is_none());
        assert!(conns.get_mut(new).is_some() && conns.get(old).is_none());
    }
}
