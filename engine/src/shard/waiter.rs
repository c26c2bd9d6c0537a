//! Who waits for a message to be stored, and whether it may be sent once it is.

use crate::ids::{AdoptedPart, HandoverId, NoticeId, SessionTicket, ShardId, SplitId};
use crate::schedule::index::EntryId;

/// Who is told whether a submission was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// An SMTP session.
    Session(SessionTicket),
    /// A notification of ours; of its `notice::Notice`.
    Notice(NoticeId),
    /// An entry that another shard owns since the number of shards changed.
    Transfer {
        entry: EntryId,
        handover: HandoverId,
    },
    /// A message of a shard that is no more; as the caller names it.
    Adopted {
        part: AdoptedPart,
        handover: HandoverId,
    },
}

impl Origin {
    /// The message was queued before, under an id that any shard may know.
    pub(super) const fn handover(self) -> Option<HandoverId> {
        match self {
            Self::Transfer { handover, .. } | Self::Adopted { handover, .. } => Some(handover),
            Self::Session(_) | Self::Notice(_) => None,
        }
    }
}

/// Who waits for a message to be durable.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiter {
    /// The whole transaction is ours.
    Origin(Origin),
    /// Our part of a transaction of this shard.
    Part(SplitId),
    /// A part that another shard asked us to store.
    Shard { shard: ShardId, split: SplitId },
}

/// Whether a message may be sent as soon as it is durable.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hold {
    No,
    /// Not before the transaction's other owners have stored their parts.
    Pending,
    /// Not before the handover that brought it is noted.
    Handover(HandoverId),
}

impl Hold {
    pub(super) const fn new(pending: bool, handover: Option<HandoverId>) -> Self {
        match (pending, handover) {
            (_, Some(handover)) => Self::Handover(handover),
            (true, None) => Self::Pending,
            (false, None) => Self::No,
        }
    }
}

/// What comes back when a stored message is durable, or failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    pub(super) waiter: Waiter,
    pub(super) hold: Hold,
}
