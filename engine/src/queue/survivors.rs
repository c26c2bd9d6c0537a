//! Which copy of a message counts, and which note is about which message.
//!
//! A crash may leave two copies of a message (compaction was cut short), a note about a copy that is not
//! there (the copy was torn, the note behind it was not), parts of one message under one id (the number
//! of shards changed), and all of it again under a handover that was cut short. One set of rules says
//! what of it holds, for whoever reads segments, oldest first and front to back:
//!
//! 1. What came or went under a handover that is not noted does not count ([`is_void`]).
//! 2. A message is a copy of its own. A moved message takes the place of every copy of its id in its own
//!    segment and before ([`CopyAt::ends_with`]).
//! 3. An outcome is about the copy in the segment that it names, if there is one; else about every copy
//!    that stood there or before, or whose original did ([`Meant`]).
//! 4. An outcome that names another segment than the one its message is in holds, but does not outlive
//!    its own segment: it is written again ([`is_stray`]).
//! 5. A cancel is about the copies in the segment that it names and before.
//! 6. Of two states of a recipient the later in life holds, in whatever order they are read
//!    ([`OutcomeState::merge`]).
//!
//! A shard's replay follows the rules over its index; [`Survivors`] is all of them over a small table, for
//! folders of other shards and for tests. What of a segment is copied forward: [`super::set`].

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::record::{About, Message, Moved, Outcome, OutcomeState, Record};
use super::segment::Placement;
use crate::ids::{HandoverId, QueueId, SegmentId};

/// Handovers of earlier runs that were noted.
pub type NotedHandovers = Rc<BTreeSet<HandoverId>>;

/// Whether what depends on `handover` does not count.
pub fn is_void(noted: &NotedHandovers, handover: Option<HandoverId>) -> bool {
    handover.is_some_and(|handover| !noted.contains(&handover))
}

/// Where a copy of a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyAt {
    /// Now.
    pub segment: SegmentId,
    /// The earliest segment that notes about it may name: where it stood before.
    pub earliest: SegmentId,
}

impl CopyAt {
    /// Whether a moved message, or a cancel, that is read in or names `segment` ends this copy.
    pub fn ends_with(self, segment: SegmentId) -> bool {
        self.segment <= segment
    }
}

/// Which copies an outcome is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meant {
    about: SegmentId,
    is_exact: bool,
}

impl Meant {
    /// Of an outcome that names the segment `about`, among all `copies` of its message.
    pub fn among(about: SegmentId, copies: impl IntoIterator<Item = CopyAt>) -> Self {
        let is_exact = copies.into_iter().any(|copy| copy.segment == about);
        Self { about, is_exact }
    }

    /// Whether it is about this one.
    pub fn includes(self, copy: CopyAt) -> bool {
        if self.is_exact {
            copy.segment == self.about
        } else {
            copy.earliest <= self.about
        }
    }
}

/// Whether an outcome that names the segment `about` has to be written again, if it is news of a message
/// that stands in `found`; durable before any segment goes.
pub fn is_stray(about: SegmentId, found: SegmentId) -> bool {
    about != found
}

/// States of recipients, one each in their order, as the runs that a moved message carries; nothing is
/// said of those that were never tried.
pub fn runs_of(states: impl IntoIterator<Item = OutcomeState>) -> Vec<OutcomeState> {
    let mut runs: Vec<OutcomeState> = Vec::new();
    for (n, state) in states.into_iter().enumerate() {
        match runs.last_mut() {
            Some(last)
                if (last.kind, last.attempts, last.next_retry_s)
                    == (state.kind, state.attempts, state.next_retry_s) =>
            {
                last.count += 1;
            }
            _ => runs.push(OutcomeState {
                first: n as u16,
                count: 1,
                ..state
            }),
        }
    }
    runs.retain(|run| run.kind.is_final() || run.attempts > 0);
    runs
}

/// A message's id and the segment it stands in: an id alone may name two parts of one message.
pub type Name = (QueueId, SegmentId);

/// A message that is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivor {
    /// Where it can be read.
    pub placement: Placement,
    earliest: SegmentId,
    recipients: u16,
    done: BTreeSet<u16>,
}

impl Survivor {
    const fn copy(&self) -> CopyAt {
        CopyAt {
            segment: self.placement.segment,
            earliest: self.earliest,
        }
    }

    /// Whether the recipient of that number needs no further attempt.
    pub fn is_done_for(&self, recipient: u16) -> bool {
        self.done.contains(&recipient)
    }

    /// Whether all recipients need none.
    pub fn is_done(&self) -> bool {
        self.done.len() >= usize::from(self.recipients)
    }

    /// Recipients that need no further attempt; whether that is news.
    pub fn add_done(&mut self, recipients: impl IntoIterator<Item = u16>) -> bool {
        let before = self.done.len();
        let all = self.recipients;
        let theirs = recipients.into_iter().filter(|n| *n < all);
        self.done.extend(theirs);
        self.done.len() > before
    }

    fn apply(&mut self, state: &OutcomeState) -> bool {
        state.kind.is_final() && self.add_done(state.recipients().map(|n| n as u16))
    }
}

/// What a record has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Copies that another took the place of, or whose message is done or cancelled.
    pub gone: Vec<Placement>,
    /// Outcomes to be written again.
    pub strays: Vec<Outcome>,
}

/// The messages of a folder that are not done.
#[derive(Debug)]
pub struct Survivors {
    noted: NotedHandovers,
    mail: BTreeMap<Name, Survivor>,
}

impl Survivors {
    /// None yet; `noted`: the handovers that count.
    pub const fn new(noted: NotedHandovers) -> Self {
        Self {
            noted,
            mail: BTreeMap::new(),
        }
    }

    /// The messages, by id and then oldest first.
    pub const fn mail(&self) -> &BTreeMap<Name, Survivor> {
        &self.mail
    }

    /// One of them.
    pub fn get_mut(&mut self, name: &Name) -> Option<&mut Survivor> {
        self.mail.get_mut(name)
    }

    /// It has another owner, or cannot be read.
    pub fn remove(&mut self, name: &Name) {
        self.mail.remove(name);
    }

    /// One record, in the order of the disk; contents may be left out.
    pub fn read(&mut self, placement: Placement, record: &Record<'_>) -> Effects {
        let mut effects = Effects::default();
        match record {
            Record::Message(message) | Record::Moved(Moved { message, .. })
                if is_void(&self.noted, message.handover) => {}
            Record::Message(message) => self.insert(placement, placement.segment, message),
            Record::Moved(moved) => {
                let queue_id = moved.message.queue_id;
                self.end(queue_id, placement.segment, &mut effects);
                self.insert(placement, moved.from, &moved.message);
                let segment = placement.segment;
                let about = About { queue_id, segment };
                for state in moved.states.iter() {
                    self.outcome(Outcome { about, state }, &mut effects);
                }
            }
            Record::Outcome(outcome) => self.outcome(*outcome, &mut effects),
            Record::Cancel(about) => self.end(about.queue_id, about.segment, &mut effects),
            Record::Commit(_) | Record::Blob { .. } | Record::Seal(_) => {}
        }
        effects
    }

    fn insert(&mut self, placement: Placement, earliest: SegmentId, message: &Message<'_>) {
        let survivor = Survivor {
            placement,
            earliest,
            recipients: message.recipients.len() as u16,
            done: BTreeSet::new(),
        };
        self.mail
            .insert((message.queue_id, placement.segment), survivor);
    }

    /// All copies of the message, oldest first.
    fn copies(&mut self, id: QueueId) -> impl Iterator<Item = (&Name, &mut Survivor)> {
        self.mail
            .range_mut((id, SegmentId(0))..=(id, SegmentId(u32::MAX)))
    }

    fn end(&mut self, queue_id: QueueId, segment: SegmentId, effects: &mut Effects) {
        let copies = self.copies(queue_id);
        let ended: Vec<Name> = copies
            .filter(|(_, survivor)| survivor.copy().ends_with(segment))
            .map(|(name, _)| *name)
            .collect();
        for name in ended {
            let gone = self.mail.remove(&name);
            effects.gone.extend(gone.map(|gone| gone.placement));
        }
    }

    fn outcome(&mut self, outcome: Outcome, effects: &mut Effects) {
        let Outcome { about, state } = outcome;
        if is_void(&self.noted, state.handover()) {
            return;
        }
        let copies = self.copies(about.queue_id);
        let meant = Meant::among(about.segment, copies.map(|(_, survivor)| survivor.copy()));
        let mut done = Vec::new();
        for (name, survivor) in self.copies(about.queue_id) {
            if !meant.includes(survivor.copy()) {
                continue;
            }
            let is_news = survivor.apply(&state);
            if survivor.is_done() {
                done.push(*name);
            }
            if is_news && is_stray(about.segment, name.1) {
                let (queue_id, segment) = *name;
                let about = About { queue_id, segment };
                effects.strays.push(Outcome { about, state });
            }
        }
        for name in done {
            let gone = self.mail.remove(&name);
            effects.gone.extend(gone.map(|gone| gone.placement));
        }
    }
}

#[cfg(test)]
mod tests;
