//! A recipient domain with mail in the queue, and what its mail waits for.

use std::rc::Rc;

pub use super::index::DestinationId;
use super::index::List;
use crate::address::Domain;
use crate::clock::{Mono, UnixMs};
use crate::counters::DomainRow;
use crate::dns::{DnsFailure, DnsTrouble, Targets};
use crate::ids::SiteId;

/// How far a destination is with finding its receiving site.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// Nobody has asked yet, or the answer has expired.
    Unknown,
    /// All its questions are with the resolver.
    Asking,
    /// To be planned, with what the cache has by now.
    Due,
    /// One of its questions found no room with the resolver.
    Queued,
    /// Resolved: mail is handed to this site.
    Site {
        /// The site.
        site: SiteId,
        /// The answer it came from, for the delivery log.
        targets: Rc<Targets>,
    },
    /// No answer; asked again at `until`.
    Trouble {
        /// What went wrong.
        trouble: DnsTrouble,
        /// When to ask again.
        until: Mono,
    },
    /// The domain takes no mail; what is ready is being failed, and the question asked anew for later mail.
    Failed(DnsFailure),
}

/// Which window a destination's mail has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WindowOf {
    /// Nobody has asked since it was last seen whose domain it is.
    #[default]
    Unknown,
    /// None.
    Always,
    /// By its number.
    Hours(u32),
}

/// A recipient domain.
#[derive(Debug)]
pub struct Destination {
    /// The domain.
    pub domain: Domain,
    /// Where its mail is counted; good while it has any.
    pub(super) row: DomainRow,
    /// Entries that could be sent now.
    pub(super) ready: List,
    pub(super) ready_len: u32,
    pub(super) deferred_len: u32,
    pub(super) busy_len: u32,
    pub(super) suspended_len: u32,
    /// Where its mail goes.
    pub lookup: Lookup,
    /// Who said what when mail was deferred last, while any is; unknown after a start.
    pub last_reply: String,
    /// Whose it is, as the last lookup showed.
    pub provider: Option<Box<str>>,
    /// Whether a lookup has shown that, since the start and the last reload.
    pub is_provider_known: bool,
    /// An operator wants its site tried at once, whichever that is.
    pub lifts_back_off: bool,
    /// Its delivery window.
    pub window: WindowOf,
    /// Its mail waits for this time, as the window was closed.
    pub parked: Option<UnixMs>,
    /// DNS failures in a row.
    pub dns_failures: u16,
    /// Whether it stands in its site's round.
    pub in_round: bool,
    /// The slot is free.
    pub(super) is_vacant: bool,
}

impl Destination {
    /// A domain nobody has written to yet.
    pub fn new(domain: Domain) -> Self {
        Self {
            domain,
            row: DomainRow::NONE,
            ready: List::default(),
            ready_len: 0,
            deferred_len: 0,
            busy_len: 0,
            suspended_len: 0,
            lookup: Lookup::Unknown,
            last_reply: String::new(),
            provider: None,
            is_provider_known: false,
            lifts_back_off: false,
            window: WindowOf::Unknown,
            parked: None,
            dns_failures: 0,
            in_round: false,
            is_vacant: false,
        }
    }

    /// Entries that could be sent now.
    pub const fn ready_len(&self) -> u32 {
        self.ready_len
    }

    /// Entries that wait for a retry.
    pub const fn deferred_len(&self) -> u32 {
        self.deferred_len
    }

    /// Entries being stored, read back or with a connection.
    pub const fn busy_len(&self) -> u32 {
        self.busy_len
    }

    /// Entries that an operator has stopped.
    pub const fn suspended_len(&self) -> u32 {
        self.suspended_len
    }

    /// The site in whose round it stands.
    pub const fn round(&self) -> Option<SiteId> {
        match self.lookup {
            Lookup::Site { site, .. } if self.in_round => Some(site),
            _ => None,
        }
    }

    /// Entries of any state.
    pub const fn queued(&self) -> u32 {
        self.ready_len + self.deferred_len + self.busy_len + self.suspended_len
    }
}
