//! What a site has of its lease, and what shards tell each other about it; `lend` says what becomes of it.

use crate::ids::ShardId;
use crate::policy::lease::{Borrowed, Claim, Grant, Lender};

/// A site, between shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseKey {
    pub(super) mx: Box<str>,
    pub(super) provider: Option<Box<str>>,
}

/// What one shard has to say to another about leases.
#[derive(Clone, Debug, Default)]
pub struct LeaseMessage {
    /// For sites that the receiver owns.
    pub claims: Vec<(LeaseKey, Claim)>,
    /// For sites that the sender owns.
    pub grants: Vec<(LeaseKey, Grant)>,
}

/// Whose a site's sessions and rates are.
#[derive(Debug)]
pub(super) enum Lease {
    Owned(Lender),
    Borrowed { owner: ShardId, of: Borrowed },
}

impl Lease {
    /// `term`: another for each that is made.
    pub(super) fn of(hash: u32, me: ShardId, shards: u16, term: u64) -> Self {
        let owner = ShardId((hash % u32::from(shards.max(1))) as u16);
        if owner == me {
            Self::Owned(Lender::default())
        } else {
            let of = Borrowed::new(term);
            Self::Borrowed { owner, of }
        }
    }

    /// Whether nothing is lent and nothing borrowed.
    pub(super) fn is_idle(&self) -> bool {
        match self {
            Self::Owned(lender) => lender.is_idle(),
            Self::Borrowed { of, .. } => of.is_idle(),
        }
    }
}

/// Why there is no unit of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The next comes in so many milliseconds; the limit, by its number among those of its kind.
    Until { limit: u8, wait_ms: u64 },
    /// The site's owner has to be asked.
    Asking,
}
