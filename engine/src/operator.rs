//! What an operator may ask of a shard, and what it answers.
//!
//! The control plane asks from threads of its own over bounded channels; a shard answers out of its
//! own state and shares none of it. What concerns the daemon as a whole (unlocking, reloading)
//! never comes here.

use std::sync::Arc;

use crate::counters::{By, CounterTable, Window};
use crate::ids::{QueueId, SegmentId, ShardId};
use crate::policy::stop::{Selector, StopBook};
use crate::shard::stops::Selected;
use crate::shard::{DestinationView, ShardStatus, Why};

/// Rows of one answer at most, whatever is asked for.
pub const ROWS_MAX: usize = 10_000;

/// A question or command to one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// The shard at a glance.
    Status,
    /// The twelve counters.
    Counters(By, Window),
    /// The destinations with the most mail, at most so many.
    Destinations {
        /// At most [`ROWS_MAX`].
        rows_max: usize,
    },
    /// One destination (A-labels, lower case).
    Destination(String),
    /// Every part of a message that is queued here.
    Message(QueueId),
    /// Queued messages.
    Search {
        /// Of this domain only.
        domain: Option<String>,
        /// At most [`ROWS_MAX`].
        rows_max: usize,
    },
    /// Makes deferred mail ready at once: all of it, or that of one domain.
    Retry {
        /// That domain.
        domain: Option<String>,
    },
    /// Goes by this book of stops from now on.
    Stops(Arc<StopBook>),
    /// How much mail a selector means.
    Count(Selector),
    /// How far the delivery log is written.
    LogEnd,
}

/// A shard's answer to the [`Query`] of the same name.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To [`Query::Status`].
    Status(Box<ShardStatus>),
    /// To [`Query::Counters`].
    Counters(CounterTable),
    /// To [`Query::Destinations`] and [`Query::Destination`]; empty if it has no such mail.
    Destinations(Vec<DestinationView>),
    /// To [`Query::Message`] and [`Query::Search`].
    Messages(Vec<Why>),
    /// To [`Query::Retry`]: queue entries made ready.
    Retried(u64),
    /// To [`Query::Stops`]: no transaction begins any more that a stop is about.
    Stopped,
    /// To [`Query::Count`].
    Counted(Selected),
    /// To [`Query::LogEnd`]; `None` if nothing was logged since the start.
    LogEnd(Option<LogEnd>),
}

/// How far a shard has written its log: what stands behind is not to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// The shard.
    pub shard: ShardId,
    /// The segment that is being written.
    pub segment: SegmentId,
    /// Bytes of it that are written.
    pub offset: u64,
}
