//! What shards tell each other, by subject.
//!
//! Each subject's messages stand where they are handled, as an enum of their own; here is the envelope
//! they travel in. Between two shards messages keep their order.

use super::accept::PartMessage;
use super::handover::HandoverMessage;
use super::{Action, ShardCore};
use crate::clock::Now;
use crate::ids::ShardId;
use crate::pool::LeaseMessage;

/// A message between shards. A subject more is a variant here and a line in `told_by_shard`.
#[derive(Debug)]
pub enum ShardMessage {
    /// Recipients of a transaction that the receiver owns.
    Part(PartMessage),
    /// Mail that has moved to other folders.
    Handover(HandoverMessage),
    /// Sessions and rates of sites.
    Lease(LeaseMessage),
}

impl From<PartMessage> for ShardMessage {
    fn from(message: PartMessage) -> Self {
        Self::Part(message)
    }
}

impl From<HandoverMessage> for ShardMessage {
    fn from(message: HandoverMessage) -> Self {
        Self::Handover(message)
    }
}

impl From<LeaseMessage> for ShardMessage {
    fn from(message: LeaseMessage) -> Self {
        Self::Lease(message)
    }
}

impl ShardCore {
    pub(super) fn tell(&mut self, to: ShardId, message: impl Into<ShardMessage>) {
        let message = message.into();
        self.actions.push(Action::Tell { to, message });
    }

    pub(super) fn told_by_shard(&mut self, from: ShardId, message: ShardMessage, now: Now) {
        match message {
            ShardMessage::Part(message) => self.told_of_part(from, message, now),
            ShardMessage::Handover(message) => self.told_of_handover(message, now),
            ShardMessage::Lease(message) => self.pool.told_of_leases(from, message, now.mono),
        }
    }
}
