//! The questions that are with the resolver, and the destinations that wait for them or for room to
//! ask.
//!
//! A destination stands in one of these places at most, and its [`Lookup`] says in which:
//!
//! - `Asking`: every question it needs is open;
//! - `Due`: it has ready mail and no site, or answers have come: it is planned, so many a turn;
//! - `Queued`: one of its questions found no room. It is planned again when a question is answered, and
//!   nothing more is asked for it before;
//! - `Trouble`: asked again when its time has come.
//!
//! [`Lookup`]: super::destination::Lookup

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::destination::DestinationId;
use crate::clock::Mono;
use crate::dns::Question;

/// A question that is with the resolver.
#[derive(Debug)]
struct Open {
    since: Mono,
    /// Thousands of domains may wait for the addresses of one MX host.
    waiting: BTreeSet<DestinationId>,
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The resolver is to be told.
    New,
    /// It has been told before.
    Open,
    /// As many are open as may be.
    NoRoom,
}

/// Questions and who waits.
#[derive(Debug, Default)]
pub struct Lookups {
    open: HashMap<Question, Open>,
    due: VecDeque<(DestinationId, bool)>,
    queued: VecDeque<DestinationId>,
    troubled: BTreeSet<(Mono, DestinationId)>,
}

impl Lookups {
    /// Asks on behalf of `id`, unless `open_max` questions are open.
    pub fn ask(
        &mut self,
        question: &Question,
        id: DestinationId,
        open_max: usize,
        now: Mono,
    ) -> Asked {
        if let Some(open) = self.open.get_mut(question) {
            open.waiting.insert(id);
            return Asked::Open;
        }
        if self.open.len() >= open_max {
            return Asked::NoRoom;
        }
        let waiting = BTreeSet::from([id]);
        let since = now;
        self.open.insert(question.clone(), Open { since, waiting });
        Asked::New
    }

    /// The question is open no more; gives the destinations that asked it.
    pub fn answered(&mut self, question: &Question) -> BTreeSet<DestinationId> {
        let open = self.open.remove(question);
        open.map(|open| open.waiting).unwrap_or_default()
    }

    /// Questions that have been open since before `since`.
    pub fn older_than(&self, since: Mono) -> Vec<Question> {
        let old = self.open.iter().filter(|(_, open)| open.since <= since);
        let mut old: Vec<Question> = old.map(|(question, _)| question.clone()).collect();
        // The map's order differs from run to run.
        old.sort_by_cached_key(ToString::to_string);
        old
    }

    /// How many questions are open.
    pub fn open_len(&self) -> usize {
        self.open.len()
    }

    /// To be planned; `has_begun` as for [`Self::queue`].
    pub fn put_due(&mut self, id: DestinationId, has_begun: bool) {
        self.due.push_back((id, has_begun));
    }

    /// The next to be planned.
    pub fn take_due(&mut self) -> Option<(DestinationId, bool)> {
        self.due.pop_front()
    }

    /// Waits for room to ask. `has_begun`: some of what it needs is known or asked already; such are
    /// finished first, so that answers are used before the cache lets go of them.
    pub fn queue(&mut self, id: DestinationId, has_begun: bool) {
        if has_begun {
            self.queued.push_front(id);
        } else {
            self.queued.push_back(id);
        }
    }

    /// The next that waits for room, if there is some.
    pub fn take_queued(&mut self, open_max: usize) -> Option<DestinationId> {
        if self.open.len() < open_max {
            self.queued.pop_front()
        } else {
            None
        }
    }

    /// How many destinations wait for room to ask.
    pub fn queued_len(&self) -> usize {
        self.queued.len()
    }

    /// Asked again at `until`.
    pub fn trouble(&mut self, id: DestinationId, until: Mono) {
        self.troubled.insert((until, id));
    }

    /// Not asked again at `until` after all.
    pub fn no_trouble(&mut self, id: DestinationId, until: Mono) {
        self.troubled.remove(&(until, id));
    }

    /// The next whose time has come.
    pub fn next_troubled(&self, now: Mono) -> Option<DestinationId> {
        let (until, id) = self.troubled.first()?;
        (*until <= now).then_some(*id)
    }
}
