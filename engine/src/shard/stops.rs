//! Mail that an operator has stopped: held where its turn would come, and set going again.
//!
//! A stop moves nothing when it is made. From then on whoever would begin a transaction asks the book: when
//! mail becomes ready, when it is taken for a connection ([`ShardCore::hold_if_stopped`]), and when its record
//! is at hand, the moment before it is sent ([`ShardCore::is_stopped_by_record`]). What is held stands in no
//! list ([`State::Suspended`]); it does not expire meanwhile. When a stop is over, a walk through the index, so
//! much a tick, makes ready what no other holds.

use std::sync::Arc;

use super::{Message, ShardCore};
use crate::clock::{Now, UnixMs};
use crate::counters::Counter;
use crate::policy::stop::{Match, Selector, Shown, Stop, StopBook, Verdict, Written};
use crate::pool::SiteId;
use crate::schedule::Binding;
use crate::schedule::destination::{Destination, DestinationId, Lookup};
use crate::schedule::index::{EntryId, State};

/// Entries put aside in a tick: some milliseconds.
const HELD_PER_TICK_MAX: u32 = 16_384;

/// What is stopped, and how far the shard is with what is no longer.
#[derive(Debug)]
pub(super) struct Stops {
    book: Arc<StopBook>,
    /// Stops with a lower number were made before the start, and counted what they held.
    begun: u64,
    /// Entries that may still be put aside in this tick.
    budget: u32,
    /// When the next stop ends by itself.
    next_end: Option<UnixMs>,
    /// Stops that are over, while what they held is being made ready.
    over: Vec<Arc<Stop>>,
    release_from: Option<usize>,
}

impl Stops {
    pub(super) fn new() -> Self {
        Self {
            book: Arc::default(),
            begun: 0,
            budget: HELD_PER_TICK_MAX,
            next_end: None,
            over: Vec::new(),
            release_from: None,
        }
    }
}

/// Queued mail that a command is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    /// Queue entries: one for each message and recipient domain.
    pub messages: u64,
    /// Their recipients that are not done.
    pub recipients: u64,
    /// Of the messages, with a connection or about to be.
    pub in_flight: u64,
    /// Messages of which only their records show whether they are meant; none of the above.
    pub unknown: u64,
}

/// A walk through the queue that counts, as far as it has come.
#[derive(Debug)]
pub struct Counting {
    selector: Selector,
    from: Option<usize>,
    selected: Selected,
}

impl Counting {
    /// What a command with this selector would be about.
    pub const fn new(selector: Selector) -> Self {
        Self {
            selector,
            from: Some(0),
            selected: Selected {
                messages: 0,
                recipients: 0,
                in_flight: 0,
                unknown: 0,
            },
        }
    }

    /// What was found.
    pub const fn selected(&self) -> Selected {
        self.selected
    }
}

impl ShardCore {
    /// The stops of earlier runs; before anything is replayed.
    pub fn restore_stops(&mut self, book: Arc<StopBook>, now: Now) {
        self.stops.begun = book.next_number();
        self.set_stops(book, now);
    }

    /// What is stopped from now on. When this returns, no transaction begins that it is about.
    pub fn set_stops(&mut self, book: Arc<StopBook>, now: Now) {
        let at = self.mail.unix(now);
        let before = std::mem::replace(&mut self.stops.book, book);
        let stays = |stop: &&Arc<Stop>| !self.stops.book.stops().contains(stop);
        let over: Vec<Arc<Stop>> = before.stops().iter().filter(stays).cloned().collect();
        self.stops.next_end = self.stops.book.next_end(at);
        self.stops_over(over);
    }

    /// The stops in force.
    pub const fn stop_book(&self) -> &Arc<StopBook> {
        &self.stops.book
    }

    fn stops_over(&mut self, over: Vec<Arc<Stop>>) {
        if !over.is_empty() {
            self.stops.over.extend(over);
            self.stops.release_from = Some(0);
        }
    }

    /// A tick: stops whose time is over end, and what they held is made ready, a bounded part of it.
    pub(super) fn tend_stops(&mut self, now: Now) {
        self.stops.budget = HELD_PER_TICK_MAX;
        let at = self.mail.unix(now);
        if self.stops.next_end.is_some_and(|end| at >= end) {
            let is_over = |stop: &&Arc<Stop>| !stop.is_in_force(at);
            let stops = self.stops.book.stops().iter();
            let over = stops.filter(is_over).cloned().collect();
            self.stops.next_end = self.stops.book.next_end(at);
            self.stops_over(over);
        }
        let Some(from) = self.stops.release_from else {
            return;
        };
        let (live, next) = self.mail.sweep(from, self.settings.entries_per_turn_max);
        for id in live {
            if self.mail.get(id).state == State::Suspended && self.is_released(id, at) {
                self.make_ready(id, now);
            }
        }
        self.stops.release_from = next;
        if next.is_none() {
            self.stops.over.clear();
        }
    }

    /// Whether nothing is known to hold the entry any more. What a record had shown is asked of it again,
    /// if a stop that is over may have been the one.
    fn is_released(&self, id: EntryId, at: UnixMs) -> bool {
        let shown = self.shown(id);
        match self.stops.book.holds(&shown, at) {
            Verdict::Held(_) => false,
            Verdict::Goes => true,
            Verdict::AskRecord => {
                let mut over = self.stops.over.iter();
                over.any(|stop| stop.selector.matches(&shown) != Match::No)
            }
        }
    }

    pub(super) fn shown(&self, id: EntryId) -> Shown<'_> {
        let entry = self.mail.get(id);
        let destination = self.mail.destination(entry.destination);
        Shown {
            queue_id: entry.queue_id,
            domain: destination.domain.as_str(),
            group: self.counters.group_name(entry.group),
            site: self.site_of(destination),
        }
    }

    fn site_of(&self, destination: &Destination) -> Option<&str> {
        match &destination.lookup {
            Lookup::Site { site, .. } => Some(self.pool.site(*site).name()),
            _ => None,
        }
    }

    /// The stop that holds an entry, if what the index shows is enough to say.
    fn stop_on(&self, id: EntryId, now: Now) -> Option<&Arc<Stop>> {
        if self.stops.book.is_empty() {
            return None;
        }
        match self.stops.book.holds(&self.shown(id), self.mail.unix(now)) {
            Verdict::Held(stop) => Some(stop),
            Verdict::Goes | Verdict::AskRecord => None,
        }
    }

    /// Whether a stop is about the entry, as far as the index shows.
    pub(super) fn is_stopped(&self, id: EntryId, now: Now) -> bool {
        self.stop_on(id, now).is_some()
    }

    /// Whether a stop is about the entry in flight, whose record is at hand: then it is put aside.
    pub(super) fn is_stopped_by_record(
        &mut self,
        id: EntryId,
        message: &Message,
        now: Now,
    ) -> bool {
        if self.stops.book.is_empty() {
            return false;
        }
        let written = Written {
            group: message.group.as_deref().unwrap_or(""),
            sender: message
                .envelope
                .reverse_path
                .as_ref()
                .map(|path| path.as_str()),
            source: message.peer,
            tags: &message.tags,
        };
        let at = self.mail.unix(now);
        let held = self.stops.book.holds_record(&self.shown(id), &written, at);
        let Some(number) = held.map(|stop| stop.number) else {
            return false;
        };
        self.put_aside(id, number);
        true
    }

    /// Puts an entry that is in no list aside if a stop is about it.
    pub(super) fn hold_if_stopped(&mut self, id: EntryId, now: Now) -> bool {
        let Some(number) = self.stop_on(id, now).map(|stop| stop.number) else {
            return false;
        };
        self.put_aside(id, number);
        true
    }

    fn put_aside(&mut self, id: EntryId, number: u64) {
        self.stops.budget = self.stops.budget.saturating_sub(1);
        // What is held for long is read back when its time comes.
        self.content.forget(id);
        if self.mail.get(id).state == State::Suspended {
            return;
        }
        self.mail.suspended(id);
        let is_earlier = self.mail.get(id).queue_id.accepted_ms() < self.moves.begun.0;
        if !(is_earlier && number < self.stops.begun) {
            self.count(id, Counter::Suspended, 1);
        }
    }

    /// Whether no more entries are put aside before the next tick.
    pub(super) const fn has_held_enough(&self) -> bool {
        self.stops.budget == 0
    }

    /// Whether a site has mail that no stop is known to be about; what one is about is put aside on the way.
    pub(super) fn has_sendable(&mut self, site: SiteId, now: Now) -> bool {
        if self.stops.book.is_empty() {
            return true;
        }
        while let Some(id) = self.pool.next_in_round(site) {
            if self.skip_stopped(id, now) {
                return true;
            }
            let destination = self.mail.destination_mut(id);
            if destination.ready_len() > 0 {
                return false;
            }
            destination.in_round = false;
            self.pool.turn_over(site, true);
        }
        false
    }

    /// Puts stopped mail at the head of a ready list aside; whether other mail stands there then.
    fn skip_stopped(&mut self, destination: DestinationId, now: Now) -> bool {
        while let Some(first) = self.mail.first_ready(destination) {
            if !self.is_stopped(first, now) {
                return true;
            }
            if self.has_held_enough() {
                return false;
            }
            self.take_stopped(destination, now);
        }
        false
    }

    /// Puts the first of a ready list, which is stopped, aside.
    pub(super) fn take_stopped(&mut self, destination: DestinationId, now: Now) {
        let Some(taken) = self.mail.taken(destination, u16::MAX) else {
            return;
        };
        if let Some(site) = taken.round {
            self.pool.ready_less(site);
        }
        if !self.hold_if_stopped(taken.entry, now) {
            debug_assert!(false, "it was stopped a moment ago");
            self.make_ready(taken.entry, now);
        }
    }

    /// Counts a bounded part of the queue; `true` when all is counted.
    pub fn count_some(&self, counting: &mut Counting) -> bool {
        let Some(from) = counting.from else {
            return true;
        };
        let (live, next) = self.mail.sweep(from, self.settings.entries_per_turn_max);
        counting.from = next;
        let selected = &mut counting.selected;
        for id in live {
            match counting.selector.matches(&self.shown(id)) {
                Match::No => {}
                Match::Perhaps => selected.unknown += 1,
                Match::Yes => {
                    selected.messages += 1;
                    selected.recipients += u64::from(self.mail.open_recipients(id));
                    let state = self.mail.get(id).state;
                    let is_under_way = matches!(state, State::InFlight | State::Sending);
                    selected.in_flight += u64::from(is_under_way);
                }
            }
        }
        next.is_none()
    }

    /// What holds an entry, for the operator.
    pub(super) fn stop_binding(&self, id: EntryId, now: Now) -> Option<Binding> {
        let entry = self.mail.get(id);
        if self.stops.book.is_empty() && entry.state != State::Suspended {
            return None;
        }
        let shown = self.shown(id);
        let at = self.mail.unix(now);
        match (self.stops.book.holds(&shown, at), entry.state) {
            (Verdict::Held(stop), _) => Some(binding_of(stop)),
            // It was its record that a stop was about.
            (Verdict::AskRecord, State::Suspended) => {
                let mut stops = self.stops.book.stops().iter();
                let may_be = |stop: &&Arc<Stop>| {
                    stop.is_in_force(at) && stop.selector.matches(&shown) == Match::Perhaps
                };
                stops.find(may_be).map(|stop| binding_of(stop))
            }
            (Verdict::Goes, State::Suspended) => Some(Binding::NextTurn),
            _ => None,
        }
    }

    /// What holds stopped mail of a destination; `is_all`: all of its mail, whatever else is in the way.
    pub(super) fn stop_of_destination(
        &self,
        destination: &Destination,
        is_all: bool,
        now: Now,
    ) -> Option<Binding> {
        let at = self.mail.unix(now);
        let is_about = |stop: &&Arc<Stop>| {
            let Selector { domain, site, .. } = &stop.selector;
            let is_domain = domain
                .as_deref()
                .is_none_or(|d| d == destination.domain.as_str());
            let is_site = site.is_none() || site.as_deref() == self.site_of(destination);
            let of_domain_or_site = || Selector {
                domain: domain.clone(),
                site: site.clone(),
                ..Selector::default()
            };
            let is_meant = !is_all || stop.selector == of_domain_or_site();
            stop.is_in_force(at) && is_domain && is_site && is_meant
        };
        let mut stops = self.stops.book.stops().iter();
        stops.find(is_about).map(|stop| binding_of(stop))
    }
}

fn binding_of(stop: &Stop) -> Binding {
    Binding::Suspended {
        number: stop.number,
        selector: stop.selector.to_string().into(),
        author: stop.author.clone(),
        reason: stop.reason.clone(),
        until: stop.until,
    }
}
