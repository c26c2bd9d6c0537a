//! What an operator has stopped: mail that matches is held until it is set going again.
//!
//! A [`Stop`] is a [`Selector`] with who made it, why and until when. All of them are one [`StopBook`], a
//! value: a command makes a new one, which every shard is given, and whoever would begin a transaction asks it
//! ([`StopBook::holds`]). What an entry of the index shows ([`Shown`]) decides most of it; sender, tag and
//! client stand in the record only, so a stop by these is asked again when that has been read
//! ([`StopBook::holds_record`]).
//!
//! `codec` is how the book survives a restart. Nothing here knows the queue or a clock.

mod codec;
mod selector;

use std::sync::Arc;

pub use codec::BookError;
pub use selector::{Match, Selector, Shown, Written};

use crate::clock::UnixMs;

/// Stops at a time at most.
pub const STOPS_MAX: usize = 256;
/// Longest text of a stop: a selector's value, a reason, an author, bytes.
pub const TEXT_BYTES_MAX: usize = 512;

/// Mail that an operator has stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Never given to another.
    pub number: u64,
    /// Which mail.
    pub selector: Selector,
    /// Why, in the operator's words.
    pub reason: Box<str>,
    /// Who said so.
    pub author: Box<str>,
    /// Since when.
    pub since: UnixMs,
    /// When it ends by itself.
    pub until: Option<UnixMs>,
}

impl Stop {
    /// Whether it holds mail at that time.
    pub fn is_in_force(&self, now: UnixMs) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// What a stop is made of.
#[derive(Clone, Debug, Default)]
pub struct NewStop {
    /// Which mail.
    pub selector: Selector,
    /// Why.
    pub reason: Box<str>,
    /// Who says so.
    pub author: Box<str>,
    /// When it is to end by itself.
    pub until: Option<UnixMs>,
}

/// There are [`STOPS_MAX`] stops already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyStops;

/// Whether mail may be sent, as far as stops go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// No stop is about it.
    Goes,
    /// Whether one is, its record will show.
    AskRecord,
    /// It is held by this one.
    Held(&'a Arc<Stop>),
}

/// All stops in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopBook {
    next_number: u64,
    stops: Vec<Arc<Stop>>,
}

impl StopBook {
    /// The stops, oldest first.
    pub fn stops(&self) -> &[Arc<Stop>] {
        &self.stops
    }

    /// Whether nothing is stopped.
    pub const fn is_empty(&self) -> bool {
        self.stops.is_empty()
    }

    /// The number that the next stop will have: those below were made before.
    pub const fn next_number(&self) -> u64 {
        self.next_number
    }

    /// The book with one stop more; without those whose time is over.
    ///
    /// # Errors
    /// [`TooManyStops`].
    pub fn with(&self, new: NewStop, now: UnixMs) -> Result<Self, TooManyStops> {
        let mut book = self.without(|_| false, now);
        if book.stops.len() >= STOPS_MAX {
            return Err(TooManyStops);
        }
        let number = book.next_number.max(1);
        book.next_number = number + 1;
        book.stops.push(Arc::new(Stop {
            number,
            selector: new.selector,
            reason: new.reason,
            author: new.author,
            since: now,
            until: new.until,
        }));
        Ok(book)
    }

    /// The book without the stops that `is_over` says are, and those whose time is.
    pub fn without(&self, is_over: impl Fn(&Stop) -> bool, now: UnixMs) -> Self {
        let stays = |stop: &&Arc<Stop>| stop.is_in_force(now) && !is_over(stop);
        Self {
            next_number: self.next_number,
            stops: self.stops.iter().filter(stays).cloned().collect(),
        }
    }

    /// What holds an entry of which this is known.
    pub fn holds(&self, shown: &Shown<'_>, now: UnixMs) -> Verdict<'_> {
        let mut verdict = Verdict::Goes;
        for stop in &self.stops {
            match stop.selector.matches(shown) {
                Match::Yes if stop.is_in_force(now) => return Verdict::Held(stop),
                Match::Perhaps if stop.is_in_force(now) => verdict = Verdict::AskRecord,
                _ => {}
            }
        }
        verdict
    }

    /// What holds an entry whose record has been read.
    pub fn holds_record(
        &self,
        shown: &Shown<'_>,
        written: &Written<'_>,
        now: UnixMs,
    ) -> Option<&Arc<Stop>> {
        let is_about = |stop: &&Arc<Stop>| {
            stop.is_in_force(now) && stop.selector.matches_record(shown, written)
        };
        self.stops.iter().find(is_about)
    }

    /// When the next stop ends by itself after `now`.
    pub fn next_end(&self, now: UnixMs) -> Option<UnixMs> {
        let ends = self.stops.iter().filter_map(|stop| stop.until);
        ends.filter(|until| *until > now).min()
    }
}

#[cfg(test)]
mod tests;
