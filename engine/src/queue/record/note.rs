//! Short records about a message that stands elsewhere: outcomes, commits, cancels.
//!
//! Notes may be applied in any order and more than once ([`OutcomeState::merge`]), so compaction
//! may copy them forward and a crash may leave two copies.

use super::bytes::{Put, Take};
use super::{About, DecodeError};
use crate::ids::{HandoverId, QueueId, SegmentId};

/// Most runs of recipients a moved message carries states of: one for each recipient.
pub const STATES_MAX: usize = super::message::RECIPIENTS_MAX;

pub(super) const ABOUT_BYTES: usize = 12;
pub(super) const OUTCOME_BYTES: usize = ABOUT_BYTES + STATE_BYTES;
const STATE_BYTES: usize = 12;

/// What became of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum OutcomeKind {
    /// To be tried again at the retry time.
    Deferred = 1,
    /// Stopped by an operator; stays queued.
    Suspended = 2,
    /// Accepted by the next hop.
    Delivered = 3,
    /// Permanently refused.
    Failed = 4,
    /// Not delivered in time.
    Expired = 5,
    /// Taken out of the queue by an operator.
    Cancelled = 6,
    /// Not sent, as the address is on the suppression list.
    Suppressed = 7,
}

impl OutcomeKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Deferred,
        Self::Suspended,
        Self::Delivered,
        Self::Failed,
        Self::Expired,
        Self::Cancelled,
        Self::Suppressed,
    ];

    /// The kind of that number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// The recipient needs no further attempt.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Deferred | Self::Suspended)
    }

    /// The word in log, CLI and page.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deferred => "deferred",
            Self::Suspended => "suspended",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Suppressed => "suppressed",
        }
    }
}

/// State of a run of recipients of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutcomeState {
    /// First recipient, 0-based in the order of the message's [`super::Recipients`].
    pub first: u16,
    /// How many from there on, at least 1.
    pub count: u16,
    /// What became of them.
    pub kind: OutcomeKind,
    /// Attempts made in all; of one handed over, the upper bits of the handover.
    pub attempts: u16,
    /// When to try again, seconds since the epoch; 0 if the kind is final, but for one handed over the
    /// lower bits of the handover.
    pub next_retry_s: u32,
}

impl OutcomeState {
    /// The owner has the recipients now: cancelled here, if the handover is noted.
    pub const fn handed_over(first: u16, count: u16, handover: HandoverId) -> Self {
        Self {
            first,
            count,
            kind: OutcomeKind::Cancelled,
            attempts: (handover.number() >> 32) as u16,
            next_retry_s: handover.number() as u32,
        }
    }

    /// The handover that the state depends on, if it does.
    pub fn handover(&self) -> Option<HandoverId> {
        if self.kind != OutcomeKind::Cancelled {
            return None;
        }
        HandoverId::from_number(u64::from(self.attempts) << 32 | u64::from(self.next_retry_s))
    }

    /// The 0-based recipients of the run.
    pub fn recipients(&self) -> std::ops::Range<usize> {
        let first = usize::from(self.first);
        first..first + usize::from(self.count)
    }

    /// Which of two states of the same recipient holds, whatever the order in which they are read:
    /// the final one, else the one after more attempts, else the later retry.
    pub fn merge(self, other: Self) -> Self {
        let rank = |state: &Self| {
            (
                state.kind.is_final(),
                state.attempts,
                state.next_retry_s,
                state.kind,
            )
        };
        if rank(&other) > rank(&self) {
            other
        } else {
            self
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(self.first);
        out.put_u16(self.count);
        out.extend_from_slice(&[self.kind as u8, 0]);
        out.put_u16(self.attempts);
        out.put_u32(self.next_retry_s);
    }

    fn decode(take: &mut Take<'_>) -> Result<Self, DecodeError> {
        let (first, count) = (take.u16()?, take.u16()?);
        if count == 0 || first.checked_add(count).is_none() {
            return Err(DecodeError {
                field: "recipient run",
            });
        }
        let kind = OutcomeKind::from_number(take.u8()?).ok_or(DecodeError {
            field: "outcome kind",
        })?;
        take.u8()?;
        Ok(Self {
            first,
            count,
            kind,
            attempts: take.u16()?,
            next_retry_s: take.u32()?,
        })
    }
}

/// What became of a run of recipients of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whose.
    pub about: About,
    /// What.
    pub state: OutcomeState,
}

impl Outcome {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.about.encode(out);
        self.state.encode(out);
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut take = Take::new(body);
        let outcome = Self {
            about: About::decode(&mut take)?,
            state: OutcomeState::decode(&mut take)?,
        };
        take.end()?;
        Ok(outcome)
    }
}

impl About {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.queue_id.0);
        out.put_u32(self.segment.0);
    }

    fn decode(take: &mut Take<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            queue_id: QueueId(take.u64()?),
            segment: SegmentId(take.u32()?),
        })
    }

    pub(super) fn decode_all(body: &[u8]) -> Result<Self, DecodeError> {
        let mut take = Take::new(body);
        let about = Self::decode(&mut take)?;
        take.end()?;
        Ok(about)
    }
}

/// States of a moved message, either the caller's or still encoded.
#[derive(Clone, Copy)]
pub struct OutcomeStates<'a>(States<'a>);

#[derive(Clone, Copy)]
enum States<'a> {
    Given(&'a [OutcomeState]),
    Encoded(&'a [u8]),
}

impl<'a> OutcomeStates<'a> {
    /// States to write, at most [`STATES_MAX`].
    pub const fn new(states: &'a [OutcomeState]) -> Self {
        Self(States::Given(states))
    }

    /// How many.
    pub const fn len(&self) -> usize {
        match self.0 {
            States::Given(states) => states.len(),
            States::Encoded(bytes) => bytes.len() / STATE_BYTES,
        }
    }

    /// None at all.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Each state.
    pub fn iter(&self) -> impl Iterator<Item = OutcomeState> + 'a {
        let (given, encoded): (&'a [OutcomeState], &'a [u8]) = match self.0 {
            States::Given(states) => (states, &[]),
            States::Encoded(bytes) => (&[], bytes),
        };
        let decoded = encoded
            .chunks_exact(STATE_BYTES)
            .filter_map(|bytes| OutcomeState::decode(&mut Take::new(bytes)).ok());
        given.iter().copied().chain(decoded)
    }

    pub(super) const fn encoded_bytes(&self) -> usize {
        self.len() * STATE_BYTES
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|state| state.encode(out));
    }

    /// A `u16` count and that many states, each of which is checked here.
    pub(super) fn decode(take: &mut Take<'a>) -> Result<Self, DecodeError> {
        let count = usize::from(take.u16()?);
        let bytes = take.bytes(count * STATE_BYTES)?;
        for state in bytes.chunks_exact(STATE_BYTES) {
            OutcomeState::decode(&mut Take::new(state))?;
        }
        Ok(Self(States::Encoded(bytes)))
    }

    /// No state speaks of a recipient the message does not have.
    pub(super) fn check(&self, recipients: usize) -> Result<(), DecodeError> {
        if self
            .iter()
            .all(|state| state.recipients().end <= recipients)
        {
            Ok(())
        } else {
            Err(DecodeError {
                field: "recipient run",
            })
        }
    }
}

impl PartialEq for OutcomeStates<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for OutcomeStates<'_> {}

impl std::fmt::Debug for OutcomeStates<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
