//! The admit stage: whether a message whose content is complete is taken, before it is routed.
//!
//! [`ShardCore::admit`] asks each of [`CHECKS`] in turn, and each admits the message, refuses it or has it
//! wait. What passes the last goes on to `accept`, or to `records` if another shard has admitted it. A check
//! more is a function here and a line in [`CHECKS`]; it may change the message it is shown.
//!
//! A message that waits stands in the line of its check, first come, first served, and is asked again in
//! every turn until [`WAIT_MS_MAX`] has passed; then its client is told to come again. Lines are bounded in
//! number and bytes, and the memory of what stands in them is in the ledger. When its session is gone nobody
//! would hear that it was stored, so it leaves ([`ShardCore::gone`]): the client sends it again.
//!
//! Left out: what is asked before content comes (`Host::overload`), and mail that was queued before and is
//! handed over, which is taken as long as there is room at all.

use std::collections::VecDeque;

use super::waiter::{Hold, Origin, Waiter};
use super::{ShardCore, Stored, Submission};
use crate::clock::{Mono, Now};
use crate::ids::{SessionTicket, ShardId, SplitId};
use crate::memory::Permit;
use crate::route::owner;
use crate::smtp::server::Overload;
use crate::store::WAITING_BYTES_MAX;

/// Notifications from other shards that a full queue takes all the same.
pub(super) const NOTICES_RESERVE: usize = 4096;
/// Longest wait at the door, milliseconds: a few failed writes in a row, and far less than any client
/// allows for the reply to its content (RFC 5321 §4.5.3.2.6: 10 minutes).
pub(super) const WAIT_MS_MAX: u64 = 5000;
/// Messages that wait at a time; more are told to come again at once.
pub(super) const WAITING_MAX: usize = 4096;
/// Messages let in from a line in one turn.
const ADMITTED_PER_TURN_MAX: usize = 256;

/// What a check makes of a message.
#[derive(Debug)]
enum Verdict {
    Admit,
    /// It is not taken.
    Refuse(Stored),
    /// Not now; it is asked again.
    Wait,
}

type Check = fn(&mut ShardCore, &mut Arrival, Now) -> Verdict;

/// In this order. What waits at one has passed those before it, and does not come back to them.
const CHECKS: [Check; 2] = [ShardCore::has_room, ShardCore::disk_keeps_up];

/// Where a message comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whence {
    /// A session of ours.
    Session(SessionTicket),
    /// Another shard, which has admitted it: the recipients that we own.
    Shard {
        shard: ShardId,
        split: SplitId,
        pending: bool,
        is_notice: bool,
    },
}

/// A message at the door.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) whence: Whence,
    pub(super) submission: Box<Submission>,
}

#[derive(Debug)]
struct Waiting {
    arrival: Arrival,
    until: Mono,
    permit: Permit,
}

/// Messages that wait at the door.
#[derive(Debug, Default)]
pub(super) struct Admission {
    /// One for each check.
    lines: [VecDeque<Waiting>; CHECKS.len()],
}

impl Admission {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.lines.iter().map(VecDeque::len).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.iter().all(VecDeque::is_empty)
    }

    /// Content of those that wait, bytes.
    pub(super) fn bytes(&self) -> usize {
        let waiting = self.lines.iter().flatten();
        waiting.map(|one| one.permit.bytes()).sum()
    }
}

impl ShardCore {
    /// A message whose content is complete: taken on, refused, or made to wait.
    pub(super) fn admit(&mut self, arrival: Arrival, now: Now) {
        self.go_on(0, arrival, now);
    }

    /// Asks the checks from `step` on.
    fn go_on(&mut self, step: usize, mut arrival: Arrival, now: Now) {
        for (step, check) in CHECKS.iter().enumerate().skip(step) {
            // Who comes does not overtake those that wait.
            let verdict = if self.admission.lines[step].is_empty() {
                check(self, &mut arrival, now)
            } else {
                Verdict::Wait
            };
            match verdict {
                Verdict::Admit => {}
                Verdict::Refuse(result) => return self.turn_away(&arrival, result, now),
                Verdict::Wait => return self.let_wait(step, arrival, now),
            }
        }
        self.take_on(arrival, now);
    }

    /// The session has gone: what waits for it is not taken, as it could not be told.
    pub(super) fn gone(&mut self, ticket: SessionTicket) {
        for line in &mut self.admission.lines {
            line.retain(|one| !matches!(one.arrival.whence, Whence::Session(of) if of == ticket));
        }
    }

    /// Asks again for those that wait, the first of each line first; the last line before the others, as
    /// what leaves one may have to stand in the next.
    pub(super) fn admit_waiting(&mut self, now: Now) {
        for (step, check) in CHECKS.iter().enumerate().rev() {
            for _ in 0..ADMITTED_PER_TURN_MAX {
                let Some(mut first) = self.admission.lines[step].pop_front() else {
                    break;
                };
                match check(self, &mut first.arrival, now) {
                    Verdict::Admit => {
                        // Its bytes are counted by whoever has it next.
                        drop(first.permit);
                        self.go_on(step + 1, first.arrival, now);
                    }
                    Verdict::Refuse(result) => self.turn_away(&first.arrival, result, now),
                    Verdict::Wait if first.until <= now.mono => {
                        self.turn_away(&first.arrival, self.not_stored(), now);
                    }
                    Verdict::Wait => {
                        self.admission.lines[step].push_front(first);
                        break;
                    }
                }
            }
        }
    }

    fn let_wait(&mut self, step: usize, arrival: Arrival, now: Now) {
        let bytes = arrival.submission.content.len();
        let is_crowded = self.admission.len() >= WAITING_MAX;
        let Some(permit) = self.content.wait_at_door(bytes).filter(|_| !is_crowded) else {
            return self.turn_away(&arrival, Stored::NoSpace, now);
        };
        self.admission.lines[step].push_back(Waiting {
            arrival,
            until: now.mono.plus_ms(WAIT_MS_MAX),
            permit,
        });
    }

    fn turn_away(&mut self, arrival: &Arrival, result: Stored, now: Now) {
        let waiter = match arrival.whence {
            Whence::Session(ticket) => Waiter::Origin(Origin::Session(ticket)),
            Whence::Shard { shard, split, .. } => Waiter::Shard { shard, split },
        };
        self.tell_waiter(waiter, result, now);
    }

    fn take_on(&mut self, arrival: Arrival, now: Now) {
        let submission = *arrival.submission;
        match arrival.whence {
            Whence::Session(ticket) => self.route(Origin::Session(ticket), submission, now),
            Whence::Shard {
                shard,
                split,
                pending,
                ..
            } => {
                let waiter = Waiter::Shard { shard, split };
                self.store(submission, waiter, Hold::new(pending, None), now);
            }
        }
    }

    /// Whether any of it is stored here. What others own they admit by themselves.
    fn is_stored_here(&self, arrival: &Arrival) -> bool {
        match arrival.whence {
            Whence::Shard { .. } => true,
            Whence::Session(_) => (arrival.submission.recipients().iter())
                .any(|recipient| owner(recipient.domain(), self.shards) == self.me),
        }
    }

    /// Disk and queue. Neither is likely to be better in a moment, so nobody waits.
    fn has_room(&mut self, arrival: &mut Arrival, _: Now) -> Verdict {
        let is_notice = matches!(
            arrival.whence,
            Whence::Shard {
                is_notice: true,
                ..
            }
        );
        // A notification has a reserve: refused, what it tells of would stay, and be tried again.
        let has_reserve =
            is_notice && self.mail.len() < self.settings.queued_entries_max + NOTICES_RESERVE;
        match self.overload() {
            Some(Overload::Disk) if self.is_stored_here(arrival) => {
                Verdict::Refuse(Stored::NoSpace)
            }
            Some(Overload::Queue) if !has_reserve && self.is_stored_here(arrival) => {
                Verdict::Refuse(Stored::NoSpace)
            }
            // Content that is complete takes no more memory; where it goes, the next check knows.
            _ => Verdict::Admit,
        }
    }

    /// A disk that is behind, or whose last write failed, is waited for: what is answered 451 now comes
    /// again as a whole in a moment, and finds the same.
    fn disk_keeps_up(&mut self, arrival: &mut Arrival, _: Now) -> Verdict {
        let queue = &self.store.queue;
        let waiting_bytes = queue.waiting_bytes();
        let waiting_bytes_max = WAITING_BYTES_MAX.min(self.settings.content_bytes_max / 2);
        let is_behind = waiting_bytes > 0
            && waiting_bytes + arrival.submission.content.len() > waiting_bytes_max;
        // What failed is written again first, and shows whether writing works: of a batch that fails
        // nothing is taken.
        let is_on_trial = queue.is_failing() || queue.last_failed() && !queue.is_idle();
        if !(is_behind || is_on_trial) || !self.is_stored_here(arrival) {
            Verdict::Admit
        } else if queue.is_full() {
            Verdict::Refuse(Stored::NoSpace)
        } else {
            Verdict::Wait
        }
    }

    /// What is over the door is said of mail that was queued before, too; but a full queue must take it, or
    /// would be full for good.
    pub(super) fn refuses_handover(&self) -> Option<Stored> {
        match self.overload() {
            Some(Overload::Disk | Overload::Memory) => Some(Stored::NoSpace),
            // A part of the same message may still be found: which, is not known yet.
            _ if self.moves.replaying => Some(Stored::Failed),
            _ => None,
        }
    }

    /// Why no new mail can be taken now, if so.
    pub fn overload(&self) -> Option<Overload> {
        if self.disk_low() || self.store.queue.is_full() {
            Some(Overload::Disk)
        } else if self.mail.len() >= self.settings.queued_entries_max {
            Some(Overload::Queue)
        } else if self.store.queue.waiting_bytes() > WAITING_BYTES_MAX
            || self.content.is_full(self.store.queue.waiting_bytes())
        {
            Some(Overload::Memory)
        } else {
            None
        }
    }

    /// Whether new mail would touch the reserve.
    pub(super) fn disk_low(&self) -> bool {
        let waiting = self.store.queue.waiting_bytes() as u64;
        self.store.disk_free_bytes.saturating_sub(waiting) < self.settings.disk_reserve_bytes
    }
}
