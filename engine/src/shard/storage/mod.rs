//! Records into batches, batches onto the disk, acknowledged when durable.
//!
//! One batch is on its way at a time; what comes meanwhile gathers in the next. So the batch grows
//! with the load and the disk is asked once for all that wait (group commit). A batch that holds a
//! message leaves at once; outcomes alone wait up to `outcome_sync_ms_max` for company.
//!
//! When a write fails, its segment is left for good: whether those bytes are on disk is unknown, and
//! its keystream must not be used twice. Messages of the batch are answered as not stored, and
//! cancelled in the next segment; outcomes are written again there. That is begun at once after the
//! first failure; while one follows another, writing rests in between, longer each time, and neither
//! is a delivery started nor mail taken.
//!
//! Here are `Storage`, the queue's stream as records are appended to it and read back, and what its
//! batches carry. The rest:
//! - `records`: messages and notes into records, messages out of records;
//! - `commit`: batches onto the disk, what is done when they are durable, and after a failed write;
//! - `tail`: the segment being written, of any stream;
//! - `log_stream`, `counter_stream`: the two other streams.
//!
//! Which segments may go, and compaction: [`crate::queue::set`] and the shard's `replay`.

mod commit;
mod counter_stream;
mod log_stream;
mod records;
mod tail;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

pub(super) use counter_stream::CounterStream;
pub(super) use log_stream::LogStream;
pub(super) use records::message_from;
use tail::{Maker, Tail};

use super::accept::Origin;
use super::{BatchId, Message, Settings, ShardCore};
use crate::clock::{Mono, Now};
use crate::ids::{HandoverId, QueueId, SegmentId, ShardId};
use crate::keys::KeyRing;
use crate::queue::cipher::{Nonce, SegmentCipher, Stream};
use crate::queue::record::{About, Outcome, RecipientsBuf, Record};
use crate::queue::segment::{AppendError, Batch, Placement, SegmentHeader, SegmentWriter};

/// Bytes of records not yet durable at which no further mail is taken.
pub const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A batch of this size is closed, and the next begun; bounds one write.
pub const BATCH_BYTES_FULL: usize = 2 * 1024 * 1024;
/// How long the delivery log rests after a failed write, and the queue where the disk is full,
/// milliseconds.
pub const WRITE_RETRY_MS: u64 = 1000;
/// Longest time that writing rests while one failure follows another, milliseconds.
pub const WRITE_RETRY_MS_MAX: u64 = 5000;
/// The rest after the second failure in a row; each further one doubles it.
const WRITE_RETRY_MS_MIN: u64 = 100;
/// Blob kind of the counts since ever.
pub const BLOB_COUNTERS: u16 = 3;
/// Blob kind of a delivery log batch.
pub const BLOB_LOG_BATCH: u16 = 1;
/// Bytes of delivery log kept while the disk does not take them; beyond, lines are dropped and counted.
pub const LOG_WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The low bits of a batch's number say which stream it is of.
const KIND_QUEUE: u64 = 0;
const KIND_LOG: u64 = 1;
const KIND_COUNTERS: u64 = 2;

/// 16 random bytes from the system at each call.
pub type NonceSource = Box<dyn FnMut() -> Nonce>;

/// What a shard's storage starts from.
pub struct StorageSetup {
    /// Keys of this installation; shared, since its locked pages are those of this one ring.
    pub keys: Arc<KeyRing>,
    /// For new segments.
    pub nonces: NonceSource,
    /// Number of the first new queue segment: above all there are and have been.
    pub next_segment: SegmentId,
    /// Number of the first new delivery log segment.
    pub next_log_segment: SegmentId,
    /// Number of the first new segment of counters.
    pub next_counters_segment: SegmentId,
}

impl fmt::Debug for StorageSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageSetup")
            .field("next_segment", &self.next_segment)
            .finish_non_exhaustive()
    }
}

/// Who waits for a message to be durable.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiter {
    /// The whole transaction is ours.
    Origin(Origin),
    /// Our part of a transaction of this shard.
    Part(u64),
    /// A part that another shard asked us to store.
    Shard { shard: ShardId, key: u64 },
    /// A message copied forward from a segment that is being compacted.
    Compaction { from: Placement },
    /// All that was to be copied out of this segment.
    Compacted(SegmentId),
    /// Outcomes that replay found under a segment their message is not in.
    Strays,
    /// The outcomes of all entries that other shards have now.
    HandedOver,
}

impl Waiter {
    /// Whether a message was stored for it, rather than something of our own written.
    const fn is_message(self) -> bool {
        matches!(self, Self::Origin(_) | Self::Part(_) | Self::Shard { .. })
    }
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

#[derive(Debug)]
struct Note {
    queue_id: QueueId,
    placement: Placement,
    hold: Hold,
    waiter: Waiter,
}

/// What a batch makes durable, kept in case it does not.
#[derive(Debug, Default)]
struct Pending {
    notes: Vec<Note>,
    outcomes: Vec<Outcome>,
    commits: Vec<About>,
    cancels: Vec<About>,
    bytes: usize,
    since: Option<Mono>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.notes.is_empty()
            && self.outcomes.is_empty()
            && self.commits.is_empty()
            && self.cancels.is_empty()
    }
}

/// A batch on its way to the disk.
#[derive(Debug)]
struct Flying {
    id: BatchId,
    segment: SegmentId,
    /// File offset behind it.
    end: u64,
    /// Its segment's file is made with it.
    begins: bool,
    pending: Pending,
}

/// The queue's segments as this shard writes and reads them.
#[derive(Debug)]
pub(super) struct Storage {
    maker: Maker,
    tail: Tail,
    filling: Pending,
    closed: VecDeque<(Batch, Pending)>,
    in_flight: Option<Flying>,
    /// A full segment whose last batch is on its way; sealed when that is durable.
    rolled: VecDeque<SegmentWriter>,
    next_batch: u64,
    ciphers: HashMap<SegmentId, SegmentCipher>,
    failing_until: Option<Mono>,
    /// Writes that failed since one was durable.
    failures: u32,
    full: bool,
    recipients: RecipientsBuf,
    /// Segments whose file is still to be made, and whether out of a free one.
    begin: HashMap<SegmentId, bool>,
    /// Something that the compaction under way was to copy was not: its segment must stay.
    compaction_fault: bool,
    /// No segment may go before the outcomes of [`Waiter::Strays`] are durable.
    strays_waiting: bool,
    pub(super) set: crate::queue::set::SegmentSet,
}

/// The streams of a shard, and the disk they are on.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) queue: Storage,
    pub(super) log: LogStream,
    pub(super) counts: CounterStream,
    /// Free space as last measured, less what was written since, bytes.
    pub(super) disk_free_bytes: u64,
}

pub(super) fn open(me: ShardId, settings: &Settings, setup: StorageSetup) -> Store {
    let storage = Storage {
        maker: Maker {
            shard: me,
            keys: setup.keys,
            nonces: setup.nonces,
        },
        tail: Tail::new(Stream::Queue, settings.segment_bytes, setup.next_segment),
        filling: Pending::default(),
        closed: VecDeque::new(),
        in_flight: None,
        rolled: VecDeque::new(),
        next_batch: 0,
        ciphers: HashMap::new(),
        failing_until: None,
        failures: 0,
        full: false,
        recipients: RecipientsBuf::new(),
        begin: HashMap::new(),
        compaction_fault: false,
        strays_waiting: false,
        set: crate::queue::set::SegmentSet::new(settings.segment_bytes),
    };
    Store {
        queue: storage,
        log: LogStream::new(settings, setup.next_log_segment),
        counts: CounterStream::new(setup.next_counters_segment),
        disk_free_bytes: u64::MAX,
    }
}

impl Storage {
    /// Whether the last write failed and outcomes wait to be written again.
    pub(super) const fn is_failing(&self) -> bool {
        self.failing_until.is_some()
    }

    /// Whether the disk said that it is full, at the last write.
    pub(super) const fn is_full(&self) -> bool {
        self.full
    }

    /// Counts a failed write; how long to rest before the next, milliseconds. One bad write says little
    /// about the next segment, so that is tried at once; a second in a row is trouble.
    fn rest_ms(&mut self) -> u64 {
        self.failures = self.failures.saturating_add(1);
        match self.failures {
            _ if self.full => WRITE_RETRY_MS,
            0 | 1 => 0,
            n => (WRITE_RETRY_MS_MIN << (n - 2).min(8)).min(WRITE_RETRY_MS_MAX),
        }
    }

    /// Bytes of records that are not durable.
    pub(super) fn waiting_bytes(&self) -> usize {
        let flying = self
            .in_flight
            .as_ref()
            .map_or(0, |flying| flying.pending.bytes);
        self.filling.bytes + flying + self.closed.iter().map(|(_, p)| p.bytes).sum::<usize>()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.filling.is_empty() && self.closed.is_empty() && self.in_flight.is_none()
    }

    /// The key ring, for reading segments back.
    pub(super) fn keys(&self) -> &KeyRing {
        &self.maker.keys
    }

    /// New segments under the ring's current key from now on.
    pub(super) fn rekey(&mut self, keys: Arc<KeyRing>) {
        self.roll();
        self.maker.keys = keys;
    }

    /// New segments from now on.
    pub(super) fn roll(&mut self) {
        let Some(mut writer) = self.tail.writer.take() else {
            return;
        };
        if let Some(batch) = writer.take_batch() {
            self.tail.writer = Some(writer);
            let batch = self.tail.with_header(batch);
            let pending = std::mem::take(&mut self.filling);
            self.closed.push_back((batch, pending));
            self.rolled.extend(self.tail.writer.take());
        } else if self.tail.header.is_empty() && self.has_batches(writer.segment()) {
            self.rolled.push_back(writer);
        } else if self.tail.header.is_empty() {
            self.seal(writer);
        }
        self.tail.header.clear();
    }

    /// Ends a segment all of whose batches are durable.
    fn seal(&mut self, mut writer: SegmentWriter) {
        self.learn(&{ *writer.header() });
        writer.durable(u64::from(writer.written_to()));
        if let Some(batch) = writer.seal() {
            self.closed.push_front((batch, Pending::default()));
        }
    }

    /// Whether batches of the segment are on their way or about to be.
    fn has_batches(&self, segment: SegmentId) -> bool {
        self.in_flight
            .as_ref()
            .is_some_and(|flying| flying.segment == segment)
            || self
                .closed
                .iter()
                .any(|(batch, _)| batch.segment == segment)
    }

    /// Whether the segment is not written to its end: it may be neither read through nor removed.
    pub(super) fn is_unfinished(&self, segment: SegmentId) -> bool {
        self.has_batches(segment)
            || self.rolled.iter().any(|writer| writer.segment() == segment)
            || self
                .tail
                .writer
                .as_ref()
                .is_some_and(|writer| writer.segment() == segment)
    }

    pub(super) const fn are_strays_waiting(&self) -> bool {
        self.strays_waiting
    }

    /// The outcomes appended last must be durable before any segment goes.
    pub(super) fn note_strays(&mut self) {
        self.strays_waiting = true;
        self.note_mark(Waiter::Strays);
    }

    /// The outcomes appended so far must be durable before their handover is noted.
    pub(super) fn note_handed_over(&mut self) {
        self.note_mark(Waiter::HandedOver);
    }

    /// All of a segment's copies stand before this in the stream.
    pub(super) fn note_compacted(&mut self, segment: SegmentId) {
        self.note_mark(Waiter::Compacted(segment));
    }

    /// `waiter` is told when all that was appended is durable.
    fn note_mark(&mut self, waiter: Waiter) {
        let placement = Placement {
            segment: SegmentId(0),
            offset: crate::ids::Offset(0),
            bytes: 0,
        };
        self.filling.notes.push(Note {
            queue_id: QueueId(0),
            placement,
            hold: Hold::No,
            waiter,
        });
    }

    /// Names a handover.
    pub(super) fn random_handover(&mut self) -> HandoverId {
        let nonce = (self.maker.nonces)();
        let (low, _) = nonce.split_at(8);
        let bits = low
            .iter()
            .fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        HandoverId::from_random(bits)
    }

    /// A compaction begins.
    pub(super) const fn compaction_begun(&mut self) {
        self.compaction_fault = false;
    }

    /// The compaction under way has not copied something.
    pub(super) const fn compaction_failed(&mut self) {
        self.compaction_fault = true;
    }

    /// Whether all that the compaction of the segment was to copy was copied.
    pub(super) fn is_compacted(&self, segment: SegmentId) -> bool {
        !self.compaction_fault && self.set.is_drained(segment)
    }

    pub(super) fn append(
        &mut self,
        record: &Record<'_>,
        now: Now,
    ) -> Result<Placement, AppendError> {
        let placement = match self.tail.writer(&mut self.maker, now.unix).append(record) {
            Err(AppendError::Full { .. }) => {
                self.roll();
                self.tail.writer(&mut self.maker, now.unix).append(record)?
            }
            other => other?,
        };
        if let Some(segment) = self.tail.begun.take() {
            let reuse = self.set.free_files() > 0;
            self.begin.insert(segment, reuse);
            self.set
                .began(segment, u64::from(self.tail.segment_bytes), reuse);
        }
        self.filling.since.get_or_insert(now.mono);
        self.filling.bytes += placement.bytes as usize;
        Ok(placement)
    }

    /// A message's copy was appended: its original is let go of when the copy is durable.
    pub(super) fn note_moved(&mut self, queue_id: QueueId, placement: Placement, from: Placement) {
        let waiter = Waiter::Compaction { from };
        self.filling.notes.push(Note {
            queue_id,
            placement,
            hold: Hold::No,
            waiter,
        });
        self.close_full_batch();
    }

    /// Closes the open batch if it has grown to its bound; to be called once what was appended is noted.
    fn close_full_batch(&mut self) {
        if self.filling.bytes >= BATCH_BYTES_FULL
            && let Some(batch) = self.tail.take_batch()
        {
            self.closed
                .push_back((batch, std::mem::take(&mut self.filling)));
        }
    }

    fn cipher(&mut self, segment: SegmentId) -> Option<&mut SegmentCipher> {
        if !self.ciphers.contains_key(&segment) {
            let writers = self.tail.writer.iter().chain(&self.rolled);
            let header = *writers
                .map(SegmentWriter::header)
                .find(|h| h.name.segment == segment)?;
            self.learn(&header);
        }
        self.ciphers.get_mut(&segment)
    }

    /// Remembers how to read a segment.
    pub(super) fn learn(&mut self, header: &SegmentHeader) {
        if let Some(key) = self.maker.keys.find(header.key_id) {
            let cipher = SegmentCipher::new(key, header.name, &header.nonce);
            self.ciphers.insert(header.name.segment, cipher);
        }
    }

    pub(super) fn forget(&mut self, segment: SegmentId) {
        self.ciphers.remove(&segment);
    }

    /// A message read back; `bytes` are its record's as they lie on disk.
    pub(super) fn decode_message(
        &mut self,
        placement: Placement,
        mut bytes: Vec<u8>,
    ) -> Result<Message, String> {
        let cipher = self
            .cipher(placement.segment)
            .ok_or_else(|| "its segment is unknown".to_owned())?;
        message_from(cipher, placement, &mut bytes)
    }

    /// No entry of the message is left.
    pub(super) fn message_done(&mut self, placement: Placement) {
        self.set.dead(placement);
    }
}

impl ShardCore {
    /// Starts new segments under `keys`' current key; the older ones stay readable.
    pub fn rekey(&mut self, keys: Arc<KeyRing>) {
        self.store.queue.rekey(keys);
        self.store.log.tail.writer = None;
        self.store.log.tail.header.clear();
    }
}
