//! What an operator may ask of a shard: levels, destinations, and why mail waits.

use std::rc::Rc;

use super::{Settings, ShardCore, UnreadSegment};
use crate::clock::Now;
use crate::counters::Counter;
use crate::ids::{QueueId, SegmentId, ShardId};
use crate::schedule::Binding;
use crate::schedule::destination::{Destination, Lookup};
use crate::schedule::index::{EntryId, State};

/// A shard at a glance.
#[derive(Clone, Debug)]
pub struct ShardStatus {
    /// Its number.
    pub shard: ShardId,
    /// Whether earlier mail is still being read from disk.
    pub replaying: bool,
    /// Recipients not delivered to yet, as in the counter of that name.
    pub queued: u64,
    /// Of these, waiting for a retry.
    pub deferred: u64,
    /// Of these, with a connection.
    pub delivering: u64,
    /// Queue entries: one for each message and recipient domain.
    pub queued_messages: u64,
    /// Recipients delivered to, since ever.
    pub delivered: u64,
    /// Recipients failed, since ever.
    pub failed: u64,
    /// Recipients expired, since ever.
    pub expired: u64,
    /// Domains with mail or a lookup.
    pub destinations: u64,
    /// Connections, opening ones too.
    pub connections: u64,
    /// Content in memory, being received, kept or read back, bytes.
    pub memory_bytes: u64,
    /// Records not yet durable, bytes.
    pub waiting_bytes: u64,
    /// Segment files in use.
    pub segments: u64,
    /// Segments of earlier runs that the disk did not give out yet, the one that is tried next first.
    pub unread: Vec<UnreadSegment>,
    /// Bytes of those that are this shard's own.
    pub unread_bytes: u64,
    /// Segments of earlier runs that are missing or cut off.
    pub broken_segments: u64,
    /// Delivery log lines lost to a failing disk.
    pub log_dropped_lines: u64,
    /// Why no mail is accepted, or empty.
    pub overload: &'static str,
}

/// A destination and what it waits for.
#[derive(Clone, Debug)]
pub struct DestinationView {
    /// Recipient domain.
    pub domain: String,
    /// Receiving site, or empty while unknown.
    pub site: String,
    /// Could be sent now.
    pub ready: u64,
    /// Waiting for a retry.
    pub deferred: u64,
    /// Being stored, read back or delivered.
    pub busy: u64,
    /// Stopped by an operator.
    pub suspended: u64,
    /// Connections of its site.
    pub connections: u64,
    /// What holds the ready mail back, or would if there were any.
    pub binding: Option<Binding>,
    /// The pace that its site has shown to take, messages a minute; 0: none.
    pub pace_per_min: u64,
    /// Who said what when the deferred mail was deferred last; empty if none is, or since the start.
    pub last_reply: Box<str>,
}

/// One message's part for one domain, and what it waits for.
#[derive(Clone, Debug)]
pub struct Why {
    /// The message.
    pub queue_id: QueueId,
    /// Recipient domain.
    pub domain: String,
    /// Recipients, done ones included.
    pub recipients: u64,
    /// Attempts made.
    pub attempts: u64,
    /// What holds it back.
    pub binding: Binding,
}

impl ShardCore {
    /// The shard at a glance.
    pub fn status(&self) -> ShardStatus {
        ShardStatus {
            shard: self.me,
            replaying: self.moves.replaying || self.moves.replay_from.is_some(),
            queued: self.counters.total(Counter::Queued),
            deferred: self.counters.total(Counter::Deferred),
            delivering: self.counters.total(Counter::Delivering),
            queued_messages: self.mail.len() as u64,
            delivered: self.counters.total(Counter::Delivered),
            failed: self.counters.total(Counter::Failed),
            expired: self.counters.total(Counter::Expired),
            destinations: self.mail.destinations_len() as u64,
            connections: self.pool.conns_len(),
            memory_bytes: self.content.bytes() as u64,
            waiting_bytes: self.store.queue.waiting_bytes() as u64,
            segments: self.store.queue.set.usage().count() as u64,
            unread: self.unread_segments(),
            unread_bytes: self.unread_bytes(),
            broken_segments: self.moves.broken.len() as u64,
            log_dropped_lines: self.store.log.dropped_lines(),
            overload: self.overload().map_or("", |overload| match overload {
                crate::smtp::server::Overload::Disk => "disk",
                crate::smtp::server::Overload::Queue => "queue",
                crate::smtp::server::Overload::Memory => "memory",
            }),
        }
    }

    /// Destinations with mail, those with the most first, at most `max`.
    pub fn destinations(&self, max: usize, now: Now) -> Vec<DestinationView> {
        let mut list: Vec<&Destination> = self
            .mail
            .destinations()
            .filter(|destination| destination.queued() > 0)
            .collect();
        list.sort_by_key(|destination| std::cmp::Reverse(destination.queued()));
        list.truncate(max);
        list.into_iter()
            .map(|destination| self.view(destination, now))
            .collect()
    }

    /// One domain, if it has mail or is known.
    pub fn destination(&self, domain: &str, now: Now) -> Option<DestinationView> {
        let domain = crate::address::Domain::from_stored(domain);
        let id = self.mail.find_destination(&domain)?;
        Some(self.view(self.mail.destination(id), now))
    }

    fn view(&self, destination: &Destination, now: Now) -> DestinationView {
        let site = match &destination.lookup {
            Lookup::Site { site, .. } => Some(self.pool.site(*site)),
            _ => None,
        };
        DestinationView {
            domain: destination.domain.as_str().to_owned(),
            site: site.map_or_else(String::new, |site| site.name().to_owned()),
            ready: u64::from(destination.ready_len()),
            deferred: u64::from(destination.deferred_len()),
            busy: u64::from(destination.busy_len()),
            suspended: u64::from(destination.suspended_len()),
            connections: site.map_or(0, |site| u64::from(site.conns())),
            binding: self.binding(destination, now),
            pace_per_min: site
                .and_then(|site| site.pace())
                .map_or(0, |pace| pace.per_h.div_ceil(60)),
            last_reply: match destination.deferred_len() {
                0 => Box::default(),
                _ => destination.last_reply.as_str().into(),
            },
        }
    }

    /// What holds the mail of a destination back that could be sent now; what would hold it back if
    /// some became ready, where that is known.
    fn binding(&self, destination: &Destination, now: Now) -> Option<Binding> {
        if let Some(stop) = self.stop_of_destination(destination, true, now) {
            return Some(stop);
        }
        if destination.ready_len() > 0 {
            return Some(self.binding_of_ready(destination, now));
        }
        if destination.suspended_len() > 0 {
            return self.stop_of_destination(destination, false, now);
        }
        match self.binding_of_ready(destination, now) {
            binding @ (Binding::Stopping
            | Binding::DiskTrouble
            | Binding::DnsTrouble { .. }
            | Binding::Window { .. }
            | Binding::RuleRest { .. }
            | Binding::SiteBackoff { .. }) => Some(binding),
            _ => None,
        }
    }

    fn binding_of_ready(&self, destination: &Destination, now: Now) -> Binding {
        let at = self.conditions(now);
        if let Some(halt) = at.halt {
            return halt.binding();
        }
        if let Some(closed) = self.window_binding(destination, now) {
            return closed;
        }
        match &destination.lookup {
            Lookup::Unknown | Lookup::Asking | Lookup::Due => Binding::AwaitingDns,
            Lookup::Queued => Binding::QuestionsMax {
                open: self.names.lookups.open_len() as u64,
            },
            Lookup::Trouble { trouble, until } => Binding::DnsTrouble {
                trouble: trouble.as_str(),
                retry_in_s: until.ms_since(now.mono).div_ceil(1000),
            },
            Lookup::Failed(failure) => Binding::Failing {
                failure: failure.as_str(),
            },
            Lookup::Site { site, .. } => match self.pool.may_go(*site, false, &at) {
                Ok(_) => Binding::NextTurn,
                Err(binding) => binding,
            },
        }
    }

    /// Every part of a message that is queued here.
    pub fn why(&self, queue_id: QueueId, now: Now) -> Vec<Why> {
        self.mail
            .siblings(queue_id)
            .map(|id| self.why_entry(id, now))
            .collect()
    }

    pub(super) fn why_entry(&self, id: EntryId, now: Now) -> Why {
        let entry = self.mail.get(id);
        let destination = self.mail.destination(entry.destination);
        let stopped = match entry.state {
            State::Ready | State::Deferred | State::Suspended => self.stop_binding(id, now),
            _ => None,
        };
        let binding = stopped.unwrap_or_else(|| match entry.state {
            State::Replayed => Binding::Replaying,
            State::Storing | State::Held | State::Handed => Binding::Storing,
            State::InFlight if self.content.is_waiting(id) => Binding::Memory,
            State::InFlight | State::Sending => Binding::Delivering,
            State::Deferred => Binding::Retry {
                attempts: entry.attempts,
                retry_in_s: u64::from(entry.retry_at_s.saturating_sub(self.mail.seconds(now))),
            },
            State::Suspended => Binding::NextTurn,
            State::Ready | State::Gone => self.binding_of_ready(destination, now),
        });
        Why {
            queue_id: entry.queue_id,
            domain: destination.domain.as_str().to_owned(),
            recipients: u64::from(entry.recipient_count),
            attempts: u64::from(entry.attempts),
            binding,
        }
    }

    /// The delivery log segment being written, and how many bytes of it are durable.
    pub fn log_end(&self) -> Option<(SegmentId, u64)> {
        self.store.log.end()
    }

    /// The settings in force.
    pub const fn settings(&self) -> &Rc<Settings> {
        &self.settings
    }
}
