//! What comes into a [`ShardCore`](super::ShardCore) and what it asks to be done.

use std::net::IpAddr;
use std::rc::Rc;

use super::message::Submission;
use super::peer::ShardMessage;
use crate::dns::{Answer, Question, Target};
use crate::ids::{HandoverId, SegmentId, SessionTicket, ShardId, TransactionToken};
use crate::phase::Phase;
use crate::pool::{ConnId, PeerInfo};
use crate::queue::cipher::Stream;
use crate::queue::segment::Placement;
use crate::queue::set::Disposal;
use crate::smtp::client::{ClientError, OutboundTransaction, RecipientResult};
use crate::smtp::reply::Reply;
use crate::store::{BatchId, Begin, DiskError};

/// Names one read of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadId(pub u64);

/// Something happened.
#[derive(Debug)]
pub enum Event {
    /// A session has a whole transaction; it is answered with [`Action::Answer`].
    Accepted {
        /// The session's.
        ticket: SessionTicket,
        /// Envelope and content.
        submission: Box<Submission>,
    },
    /// The session has ended without its answer: its message need not be taken any more, and is not if it
    /// still waits to be.
    Gone {
        /// Of [`Event::Accepted`].
        ticket: SessionTicket,
    },
    /// The write and its fdatasync are done, or failed.
    Written {
        /// The batch of [`Action::Write`].
        batch: BatchId,
        /// The disk's answer.
        result: Result<(), DiskError>,
    },
    /// A record was read back.
    Read {
        /// The read of [`Action::Read`].
        read: ReadId,
        /// Its bytes as they lie on disk.
        result: Result<Vec<u8>, DiskError>,
    },
    /// The resolver has answered.
    Answered {
        /// What was asked.
        question: Question,
        /// What came.
        answer: Answer,
        /// For how long it holds, seconds.
        ttl_s: u32,
    },
    /// A connection is through EHLO.
    Connected {
        /// The connection.
        conn: ConnId,
        /// What it told.
        peer: Rc<PeerInfo>,
    },
    /// A connection would take a transaction.
    CanStart {
        /// The connection.
        conn: ConnId,
    },
    /// A transaction is through, one result a recipient.
    Finished {
        /// Which connection.
        conn: ConnId,
        /// The transaction's.
        token: TransactionToken,
        /// In the order of its recipients.
        results: Vec<RecipientResult>,
    },
    /// A transaction was not tried, as its connection ended first.
    Returned {
        /// Which connection.
        conn: ConnId,
        /// The transaction's.
        token: TransactionToken,
    },
    /// A connection is gone; every transaction it had was reported before.
    Closed {
        /// The connection.
        conn: ConnId,
        /// Where it stood.
        phase: Phase,
        /// Why.
        cause: Cause,
    },
    /// A segment's file was disposed of, or could not be.
    Retired {
        /// The segment.
        segment: SegmentId,
        /// As asked.
        disposal: Disposal,
        /// The disk's answer.
        result: Result<(), DiskError>,
    },
    /// One of the free files is gone, or could not be deleted and is still at hand.
    FreeDeleted {
        /// The disk's answer.
        result: Result<(), DiskError>,
    },
    /// A handover of this shard's mail is noted, or could not be: then it may be or not.
    HandoverNoted {
        /// As asked.
        handover: HandoverId,
        /// The disk's answer.
        result: Result<(), DiskError>,
    },
    /// Another shard says something.
    FromShard {
        /// Who.
        from: ShardId,
        /// What.
        message: ShardMessage,
    },
    /// Free space of the data directory's file system, bytes.
    DiskSpace {
        /// What statvfs says is available to us.
        free_bytes: u64,
    },
    /// Time passed; sent at least every [`TICK_MS`](super::TICK_MS).
    Tick,
}

/// Why a connection ended.
#[derive(Clone, Debug)]
pub struct Cause {
    /// In words.
    pub text: Box<str>,
    /// What the peer said, if it refused the session (RFC 5321 §3.1: 554 or 421).
    pub reply: Option<Reply>,
}

impl From<ClientError> for Cause {
    fn from(error: ClientError) -> Self {
        let text = error.to_string().into();
        let reply = match error {
            ClientError::Refused(reply) => Some(reply),
            _ => None,
        };
        Self { text, reply }
    }
}

impl From<&str> for Cause {
    fn from(text: &str) -> Self {
        let text = text.into();
        Self { text, reply: None }
    }
}

/// What a session is told of its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Durable at every owner: 250.
    Durable,
    /// Not stored; nothing of it will be delivered: 451.
    Failed,
    /// No room: 452.
    NoSpace,
}

/// Something to be done.
#[derive(Debug)]
pub enum Action {
    /// Tell the session; its message is durable or not accepted.
    Answer {
        /// Of [`Event::Accepted`].
        ticket: SessionTicket,
        /// What to say.
        result: Stored,
    },
    /// Write at `offset` of the segment's file and fdatasync; answered with [`Event::Written`].
    Write {
        /// To be named in the answer.
        batch: BatchId,
        /// Queue or delivery log.
        stream: Stream,
        /// The file; made when the offset is 0, out of a recycled one if there is one.
        segment: SegmentId,
        /// Byte offset, a multiple of 4096.
        offset: u64,
        /// A multiple of 4096 bytes.
        bytes: Vec<u8>,
        /// The file to be made when `offset` is 0; `None` elsewhere.
        begin: Option<Begin>,
    },
    /// Read a record; answered with [`Event::Read`].
    Read {
        /// To be named in the answer.
        read: ReadId,
        /// Where it lies.
        placement: Placement,
    },
    /// The queue segment's file is not needed any more; durable before [`Event::Retired`].
    Retire {
        /// The segment.
        segment: SegmentId,
        /// Whether to keep it, and as what.
        disposal: Disposal,
    },
    /// Delete a segment's file of another stream than the queue.
    Delete {
        /// Delivery log or counters.
        stream: Stream,
        /// The segment.
        segment: SegmentId,
    },
    /// Delete one of the queue's free files; answered with [`Event::FreeDeleted`].
    DeleteFree,
    /// Make a folder named [`handover_folder_name`](crate::queue::segment::handover_folder_name) beside
    /// the queue's, durably, if it is not there; answered with [`Event::HandoverNoted`].
    NoteHandover {
        /// The handover.
        handover: HandoverId,
    },
    /// Read the queue segment through and give its records back by
    /// [`ShardCore::compact`](super::ShardCore::compact), then call
    /// [`ShardCore::compact_read`](super::ShardCore::compact_read).
    Compact {
        /// The segment.
        segment: SegmentId,
    },
    /// Ask the resolver; answered with [`Event::Answered`].
    Resolve {
        /// What.
        question: Question,
    },
    /// Connect; answered with [`Event::Connected`] or [`Event::Closed`].
    Connect {
        /// To be named from now on.
        conn: ConnId,
        /// Where to.
        target: Target,
        /// Our address for it.
        source: Option<IpAddr>,
    },
    /// Send a transaction; answered with [`Event::Finished`].
    Start {
        /// Over which connection.
        conn: ConnId,
        /// What.
        transaction: OutboundTransaction,
    },
    /// Send QUIT and close; answered with [`Event::Closed`].
    Quit {
        /// The connection.
        conn: ConnId,
    },
    /// Tell another shard.
    Tell {
        /// Whom.
        to: ShardId,
        /// What.
        message: ShardMessage,
    },
    /// Say this on the daemon's standard error: an operator must know.
    Report {
        /// One line.
        line: String,
    },
}
