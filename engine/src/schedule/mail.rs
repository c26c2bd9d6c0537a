//! The mail of a shard that is not done, and what each recipient domain's waits for.

use std::collections::{HashMap, VecDeque};

use super::destination::{Destination, DestinationId};
use super::index::{EntryId, Index};
use super::steady::SteadyClock;
use super::wheel::Wheel;
use crate::address::Domain;
use crate::clock::Now;
use crate::slots::Free;

/// Queued mail: entries, their times, their destinations.
#[derive(Debug)]
pub(crate) struct Mail {
    pub(crate) index: Index,
    pub(crate) wheel: Wheel,
    /// Retry times and ages are measured with this.
    pub(crate) clock: SteadyClock,
    /// Bits of the recipients that are done, for entries with some done and some not.
    pub(crate) done: HashMap<EntryId, u128>,
    pub(crate) destinations: Vec<Destination>,
    pub(crate) by_domain: HashMap<Domain, DestinationId>,
    pub(crate) free: Free,
    /// Destinations whose ready mail is being failed for want of a host.
    pub(crate) failing: VecDeque<DestinationId>,
    /// Next index slot to be looked at for expired mail.
    pub(crate) sweep_from: usize,
}

impl Mail {
    /// An empty queue.
    pub(crate) fn new(now: Now) -> Self {
        Self {
            index: Index::default(),
            wheel: Wheel::new(now.unix.seconds()),
            clock: SteadyClock::new(now),
            done: HashMap::new(),
            destinations: Vec::new(),
            by_domain: HashMap::new(),
            free: Free::default(),
            failing: VecDeque::new(),
            sweep_from: 0,
        }
    }
}
