//! A running daemon: cores, and what they have asked for and not got yet. Gone at a power cut.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;

use engine::ids::{HandoverId, SegmentId, SessionTicket};
use engine::pool::ConnId;
use engine::queue::cipher::Stream;
use engine::queue::replay::SegmentReader;
use engine::queue::set::Disposal;
use engine::shard::adopt::Adoption;
use engine::shard::{BatchId, Event, ShardCore};
use engine::smtp::client::{OutboundTransaction, RecipientResult};

use super::disk::FolderName;

/// One thing a job does to the disk; each may be the last before a cut.
#[derive(Debug)]
pub(crate) enum Step {
    Create {
        name: String,
        bytes: usize,
    },
    Write {
        name: String,
        at: usize,
        bytes: Vec<u8>,
    },
    Sync {
        name: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        name: String,
    },
    SyncFolder,
    /// Notes a handover, by a new folder or by the rename of the queue folder that it is out of.
    NoteHandover {
        handover: HandoverId,
        out_of: Option<u16>,
    },
    /// Makes that durable.
    SyncHandover {
        handover: HandoverId,
    },
}

/// Whom a job's end is told.
#[derive(Debug)]
pub(crate) enum Then {
    Written {
        batch: BatchId,
        stream: Stream,
        segment: SegmentId,
    },
    Retired {
        segment: SegmentId,
        disposal: Disposal,
    },
    FreeDeleted,
    Deleted,
    Adopted {
        gone: u16,
        handover: HandoverId,
    },
    HandoverNoted {
        handover: HandoverId,
    },
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) shard: usize,
    pub(crate) folder: FolderName,
    pub(crate) steps: VecDeque<Step>,
    pub(crate) then: Then,
    /// The free file taken for it, until it is renamed.
    pub(crate) free: Option<SegmentId>,
}

/// Why segments are read through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Replay,
    Compact,
    Adopt,
}

/// Segments being read through, chunk by chunk.
pub(crate) struct Reading {
    pub(crate) shard: usize,
    pub(crate) folder: u16,
    pub(crate) why: Why,
    pub(crate) segments: VecDeque<SegmentId>,
    pub(crate) reader: Option<SegmentReader>,
    pub(crate) offset: usize,
}

#[derive(Default)]
pub(crate) struct Conn {
    pub(crate) waiting: VecDeque<OutboundTransaction>,
    pub(crate) offered: bool,
    pub(crate) host: Option<IpAddr>,
}

/// Another shard's folder being taken over.
pub(crate) struct Adopting {
    pub(crate) gone: u16,
    pub(crate) adoption: Adoption,
}

pub(crate) struct Shard {
    pub(crate) core: ShardCore,
    pub(crate) free: Vec<SegmentId>,
    pub(crate) flush_due: bool,
    pub(crate) conns: HashMap<ConnId, Conn>,
    /// Folders to adopt after replay.
    pub(crate) gone: VecDeque<u16>,
    pub(crate) adopting: Option<Adopting>,
    pub(crate) last_event_us: u64,
    /// Until when a rule has a site rest, by the site's first host.
    pub(crate) resting: BTreeMap<u8, u64>,
    /// An operator may lift rests at any later time.
    pub(crate) lifts: bool,
}

pub(crate) struct Process {
    pub(crate) shards: Vec<Shard>,
    pub(crate) jobs: BTreeMap<u64, Job>,
    pub(crate) readings: BTreeMap<u64, Reading>,
    /// When the last message from one shard to another arrives.
    pub(crate) arrivals: BTreeMap<(usize, usize), u64>,
    pub(crate) draining: bool,
}

/// What comes up at some moment.
pub(crate) enum Moment {
    Tick(usize),
    Flush(usize),
    /// Adoption goes on where the disk failed.
    Adopt(usize),
    Event(usize, Box<Event>),
    Step(u64),
    ReadRecord(
        usize,
        engine::shard::ReadId,
        engine::queue::segment::Placement,
    ),
    ReadAdopted(
        usize,
        engine::ids::AdoptedRead,
        engine::queue::segment::Placement,
    ),
    Chunk(u64),
    Space(usize),
    /// The next waiting transaction of a connection is taken or refused.
    Peer(usize, ConnId),
    Offer(usize, ConnId),
    /// The peer's last word on a transaction.
    Reply {
        shard: usize,
        conn: ConnId,
        token: engine::ids::TransactionToken,
        results: Vec<RecipientResult>,
        broken: bool,
    },
    PeerClose(usize, ConnId),
    /// A client has waited long enough for the reply to its content.
    GiveUp(usize, SessionTicket),
    // These outlive a process.
    Inject(usize, u32),
    Cut,
    /// An operator's command.
    Command,
    /// The wall clock is off by so many milliseconds from now on.
    Leap(i64),
    /// The machine is off for days if there is mail left: what is dated in the future gets old.
    DaysOff,
    Boot,
    Calm,
    Stop,
}

impl Moment {
    pub(crate) const fn outlives_process(&self) -> bool {
        matches!(
            self,
            Self::Inject(..)
                | Self::Cut
                | Self::Command
                | Self::Leap(_)
                | Self::DaysOff
                | Self::Boot
                | Self::Calm
                | Self::Stop
        )
    }
}
