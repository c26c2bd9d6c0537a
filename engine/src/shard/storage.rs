//! Records into batches, batches onto the disk, acknowledged when durable.
//!
//! One batch is on its way at a time; what comes meanwhile gathers in the next. So the batch grows
//! with the load and the disk is asked once for all that wait (group commit). A batch that holds a
//! message leaves at once; outcomes alone wait up to `outcome_sync_ms_max` for company.
//!
//! When a write fails, its segment is left for good: whether those bytes are on disk is unknown, and
//! its keystream must not be used twice. Messages of the batch are answered as not stored, and
//! cancelled in the next segment; outcomes are written again there, and no delivery is started until
//! they are.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use super::accept::Origin;
use super::{Action, BatchId, Begin, DiskError, Message, Settings, ShardCore, Stored, Submission};
use crate::address::Address;
use crate::clock::{Mono, Now, UnixMs};
use crate::counters::Counter;
use crate::delivery_log::{LogBatch, LogRecord, LogRotation};
use crate::ids::{HandoverId, QueueId, SegmentId, ShardId};
use crate::keys::KeyRing;
use crate::queue::cipher::{Nonce, SegmentCipher, SegmentName, Stream};
use crate::queue::record::{
    About, Message as MessageRecord, Outcome, OutcomeState, RecipientsBuf, Record,
};
use crate::queue::replay::read_one;
use crate::queue::segment::{
    AppendError, BLOCK_BYTES, Batch, Placement, SegmentHeader, SegmentWriter,
};
use crate::queue::set::Disposal;
use crate::schedule::index::{Entry, EntryId, State};

/// Bytes of records not yet durable at which no further mail is taken.
pub const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A batch of this size is closed, and the next begun; bounds one write.
pub const BATCH_BYTES_FULL: usize = 2 * 1024 * 1024;
/// How long writing rests after a failure, milliseconds.
pub const WRITE_RETRY_MS: u64 = 1000;
/// Blob kind of the counts since ever.
pub const BLOB_COUNTERS: u16 = 3;
/// Blob kind of a delivery log batch.
pub const BLOB_LOG_BATCH: u16 = 1;
/// Bytes of delivery log kept while the disk does not take them; beyond, lines are dropped and counted.
pub const LOG_WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;

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

impl Waiter {
    /// Whether a message was stored for it, rather than something of our own written.
    const fn is_message(self) -> bool {
        matches!(self, Self::Origin(_) | Self::Part(_) | Self::Shard { .. })
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

/// What new segments are made of.
struct Maker {
    shard: ShardId,
    keys: Arc<KeyRing>,
    nonces: NonceSource,
}

impl fmt::Debug for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maker")
            .field("shard", &self.shard)
            .finish_non_exhaustive()
    }
}

impl Maker {
    fn header(
        &mut self,
        stream: Stream,
        segment: SegmentId,
        bytes: u32,
        now: UnixMs,
    ) -> SegmentHeader {
        SegmentHeader {
            name: SegmentName {
                stream,
                shard: self.shard,
                segment,
            },
            segment_bytes: bytes,
            created_ms: now.0,
            key_id: self.keys.current_id(),
            nonce: (self.nonces)(),
        }
    }
}

/// One stream's segment being written, and the numbers of those to come.
#[derive(Debug)]
struct Tail {
    stream: Stream,
    segment_bytes: u32,
    next: SegmentId,
    writer: Option<SegmentWriter>,
    /// Header block of the writer's segment, until its first batch takes it along.
    header: Vec<u8>,
    /// Segments begun since they were last asked for.
    begun: Option<SegmentId>,
}

impl Tail {
    fn writer(&mut self, maker: &mut Maker, now: UnixMs) -> &mut SegmentWriter {
        if self.writer.is_none() {
            let segment = self.next;
            self.next = SegmentId(segment.0 + 1);
            let header = maker.header(self.stream, segment, self.segment_bytes, now);
            self.header = header.encode(maker.keys.current());
            self.writer = Some(SegmentWriter::new(maker.keys.current(), header));
            self.begun = Some(segment);
        }
        self.writer.as_mut().expect("made just above")
    }

    /// The open batch; the first of a segment begins with the header block.
    fn take_batch(&mut self) -> Option<Batch> {
        let batch = self.writer.as_mut()?.take_batch()?;
        Some(self.with_header(batch))
    }

    fn with_header(&mut self, batch: Batch) -> Batch {
        if self.header.is_empty() {
            return batch;
        }
        let mut bytes = std::mem::take(&mut self.header);
        bytes.extend_from_slice(&batch.bytes);
        Batch {
            file_offset: 0,
            bytes,
            ..batch
        }
    }
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

/// The delivery log as this shard writes it.
#[derive(Debug)]
pub(super) struct LogStream {
    tail: Tail,
    rotation: LogRotation,
    batch: LogBatch,
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    in_flight: Option<(BatchId, SegmentId, u64, Vec<u8>)>,
    durable: Option<(SegmentId, u64)>,
    retry_at: Option<Mono>,
    dropped_lines: u64,
}

pub(super) fn open(
    me: ShardId,
    settings: &Settings,
    setup: StorageSetup,
) -> (Storage, LogStream, CounterStream) {
    let tail = |stream, segment_bytes, next| Tail {
        stream,
        segment_bytes,
        next,
        writer: None,
        header: Vec::new(),
        begun: None,
    };
    let storage = Storage {
        maker: Maker {
            shard: me,
            keys: setup.keys,
            nonces: setup.nonces,
        },
        tail: tail(Stream::Queue, settings.segment_bytes, setup.next_segment),
        filling: Pending::default(),
        closed: VecDeque::new(),
        in_flight: None,
        rolled: VecDeque::new(),
        next_batch: 0,
        ciphers: HashMap::new(),
        failing_until: None,
        full: false,
        recipients: RecipientsBuf::new(),
        begin: HashMap::new(),
        compaction_fault: false,
        strays_waiting: false,
        set: crate::queue::set::SegmentSet::new(settings.segment_bytes),
    };
    let log = LogStream {
        tail: tail(
            Stream::DeliveryLog,
            settings.log_segment_bytes,
            setup.next_log_segment,
        ),
        rotation: rotation(settings),
        batch: LogBatch::new(),
        waiting: VecDeque::new(),
        waiting_bytes: 0,
        in_flight: None,
        durable: None,
        retry_at: None,
        dropped_lines: 0,
    };
    let saved = CounterStream {
        next: setup.next_counters_segment,
        in_flight: None,
        durable: None,
        saved_at: None,
        closed: false,
    };
    (storage, log, saved)
}

fn rotation(settings: &Settings) -> LogRotation {
    LogRotation::new(
        u64::from(settings.log_segment_bytes),
        settings.log_rotate_ms,
    )
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

/// A message out of its record's bytes as they lie on disk.
pub(super) fn message_from(
    cipher: &mut SegmentCipher,
    placement: Placement,
    bytes: &mut [u8],
) -> Result<Message, String> {
    match read_one(cipher, placement, bytes).map_err(|error| error.to_string())? {
        Record::Message(message) => Ok(message_of(&message)),
        Record::Moved(moved) => Ok(message_of(&moved.message)),
        other => Err(format!(
            "a {} record where a message was written",
            other.kind()
        )),
    }
}

fn message_of(record: &MessageRecord<'_>) -> Message {
    Message {
        queue_id: record.queue_id,
        accepted: UnixMs(record.accepted_ms),
        reverse_path: record.reverse_path.map(Into::into),
        recipients: record
            .recipients
            .iter()
            .map(|recipient| Address::from_stored(recipient.address, recipient.domain))
            .collect(),
        body: record.body,
        smtputf8: record.smtputf8,
        content: std::rc::Rc::new(record.content.to_vec()),
        group: record.group.map(Into::into),
        tags: tags_of(record.tags),
        message_id: record.message_id.map(Into::into),
    }
}

/// Tags as the record has them: `name=value` lines joined by LF.
fn tags_of(text: &str) -> Vec<(Box<str>, Box<str>)> {
    text.split('\n')
        .filter_map(|tag| tag.split_once('='))
        .map(|(n, v)| (n.into(), v.into()))
        .collect()
}

fn tags_text(tags: &[(Box<str>, Box<str>)]) -> String {
    let lines: Vec<String> = tags
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    lines.join("\n")
}

impl ShardCore {
    /// Appends a message that we own; `waiter` is told when it is durable.
    pub(super) fn store(
        &mut self,
        mut submission: Submission,
        waiter: Waiter,
        hold: Hold,
        now: Now,
    ) {
        if self.storage.is_failing() {
            // Its batch would wait for the disk, and its client with it.
            let result = if self.storage.full {
                Stored::NoSpace
            } else {
                Stored::Failed
            };
            return self.tell_waiter(waiter, result, now);
        }
        submission.group_by_domain();
        let placement = match self.append_message(&submission, hold, now) {
            Ok(placement) => placement,
            Err(why) => {
                let line = format!("message {} cannot be stored: {why}", submission.queue_id);
                self.actions.push(Action::Report { line });
                return self.tell_waiter(waiter, Stored::Failed, now);
            }
        };
        let queue_id = submission.queue_id;
        self.storage.filling.notes.push(Note {
            queue_id,
            placement,
            hold,
            waiter,
        });
        self.storage.set.live(placement);
        self.storage.close_full_batch();
        let message = std::rc::Rc::new(Message::from_submission(submission));
        // What is held for long is read back when its time comes.
        let keep = !matches!(hold, Hold::Handover(_))
            && self.memory_bytes + message.memory_bytes() <= self.settings.memory_bytes_max;
        let group = self
            .counters
            .group(message.group.as_deref().unwrap_or(""))
            .number();
        let mut first = 0;
        for run in message.recipients.chunk_by(|a, b| a.domain() == b.domain()) {
            let destination = self.destination_of(run[0].domain());
            for part in run.chunks(self.settings.recipients_per_message_max) {
                let entry = Entry {
                    placement,
                    destination,
                    group,
                    recipient_first: first,
                    recipient_count: part.len() as u8,
                    ..Entry::new(queue_id)
                };
                first += part.len() as u16;
                let id = self.index.insert(entry);
                self.raise(id, Counter::Queued, part.len() as u32);
                self.destinations[destination as usize].busy_len += 1;
                if keep {
                    self.memory_bytes += message.memory_bytes();
                    self.memory.insert(id, std::rc::Rc::clone(&message));
                }
            }
        }
    }

    fn append_message(
        &mut self,
        submission: &Submission,
        hold: Hold,
        now: Now,
    ) -> Result<Placement, String> {
        let mut recipients = std::mem::take(&mut self.storage.recipients);
        recipients.clear();
        let mut fault = Ok(());
        for run in submission
            .recipients
            .chunk_by(|a, b| a.domain() == b.domain())
        {
            let (first, rest) = (&run[0], &run[1..]);
            fault = fault.and_then(|()| recipients.domain(first.domain().as_str(), first.as_str()));
            for address in rest {
                fault = fault.and_then(|()| recipients.recipient(address.as_str()));
            }
        }
        let tags = tags_text(&submission.tags);
        let record = Record::Message(MessageRecord {
            queue_id: submission.queue_id,
            accepted_ms: submission.accepted.0,
            body: submission.body,
            smtputf8: submission.smtputf8,
            pending: matches!(hold, Hold::Pending),
            handover: match hold {
                Hold::Handover(handover) => Some(handover),
                Hold::No | Hold::Pending => None,
            },
            reverse_path: submission.reverse_path.as_ref().map(Address::as_str),
            recipients: recipients.recipients(),
            group: submission.group.as_deref(),
            tags: &tags,
            message_id: submission.message_id.as_deref(),
            peer: submission.peer,
            content: &submission.content,
            content_bytes: submission.content.len() as u32,
        });
        let result = match fault {
            Ok(()) => self
                .storage
                .append(&record, now)
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        self.storage.recipients = recipients;
        result
    }

    pub(super) fn append_outcome(
        &mut self,
        queue_id: QueueId,
        segment: SegmentId,
        state: OutcomeState,
        now: Now,
    ) {
        let outcome = Outcome {
            about: About { queue_id, segment },
            state,
        };
        if self.storage.is_failing() {
            self.storage.filling.outcomes.push(outcome);
            return;
        }
        match self.storage.append(&Record::Outcome(outcome), now) {
            Ok(placement) => {
                self.storage.set.note(placement, segment);
                self.storage.filling.outcomes.push(outcome);
                self.storage.close_full_batch();
            }
            Err(error) => self.report(format!("outcome of {queue_id} cannot be written: {error}")),
        }
    }

    pub(super) fn report(&mut self, line: String) {
        self.actions.push(Action::Report { line });
    }

    /// Every owner has stored the message: note so, and deliver it.
    pub(super) fn confirm(&mut self, queue_id: QueueId, now: Now) {
        let Some(id) = self.index.find(queue_id) else {
            return;
        };
        let about = About {
            queue_id,
            segment: self.index.get(id).placement.segment,
        };
        self.append_note(&Record::Commit(about), about, now);
        self.storage.filling.commits.push(about);
        self.stored_ready(queue_id, now);
    }

    /// Another owner failed: the message was never accepted.
    pub(super) fn cancel_stored(&mut self, queue_id: QueueId, now: Now) {
        let Some(id) = self.index.find(queue_id) else {
            return;
        };
        let about = About {
            queue_id,
            segment: self.index.get(id).placement.segment,
        };
        self.forget_message(queue_id);
        self.append_note(&Record::Cancel(about), about, now);
        self.storage.filling.cancels.push(about);
    }

    fn append_note(&mut self, record: &Record<'_>, about: About, now: Now) {
        if self.storage.is_failing() {
            return;
        }
        match self.storage.append(record, now) {
            Ok(placement) => self.storage.set.note(placement, about.segment),
            Err(error) => self.report(format!("note on {} not written: {error}", about.queue_id)),
        }
    }

    fn forget_message(&mut self, queue_id: QueueId) {
        let entries: Vec<EntryId> = self.index.siblings(queue_id).collect();
        for id in entries {
            if self.index.get(id).state == State::Storing {
                self.finish_entry(id);
            }
        }
    }

    fn stored_ready(&mut self, queue_id: QueueId, now: Now) {
        // One entry is by far the most common; siblings would need a list.
        let Some(first) = self.index.find(queue_id) else {
            return;
        };
        if self.index.is_only(first) {
            return self.stored_entry_ready(first, now);
        }
        let entries: Vec<EntryId> = self.index.siblings(queue_id).collect();
        for id in entries {
            self.stored_entry_ready(id, now);
        }
    }

    fn stored_entry_ready(&mut self, id: EntryId, now: Now) {
        let entry = self.index.get(id);
        if entry.state == State::Storing {
            self.destinations[entry.destination as usize].busy_len -= 1;
            self.make_ready(id, now);
        }
    }

    fn tell_waiter(&mut self, waiter: Waiter, result: Stored, now: Now) {
        match waiter {
            Waiter::Origin(origin) => self.answer(origin, result, now),
            Waiter::Part(key) => self.part_stored(key, result, now),
            Waiter::Shard { shard, key } => {
                self.tell(shard, super::ShardMessage::Stored { key, result });
            }
            Waiter::Compaction { .. }
            | Waiter::Compacted(_)
            | Waiter::Strays
            | Waiter::HandedOver => {}
        }
    }

    /// Memory of a batch that was written, for the next one.
    pub fn reuse_batch(&mut self, bytes: Vec<u8>) {
        if bytes.capacity() <= 2 * BATCH_BYTES_FULL
            && let Some(writer) = &mut self.storage.tail.writer
        {
            writer.recycle(bytes);
        }
    }

    /// Sends the next batch on its way if none is and there is reason to. Call it when the events at
    /// hand are handled rather than after each, so that what they stored shares a batch.
    pub fn flush(&mut self, now: Now) {
        if self.storage.in_flight.is_some() || self.storage.is_failing() {
            return;
        }
        if self.storage.closed.is_empty() {
            let filling = &self.storage.filling;
            let age_ms = filling.since.map_or(0, |since| now.mono.ms_since(since));
            let urgent = !filling.notes.is_empty() || self.draining;
            if filling.is_empty() || !(urgent || age_ms >= self.settings.outcome_sync_ms_max) {
                return;
            }
        }
        let next = self.storage.closed.pop_front().or_else(|| {
            let batch = self.storage.tail.take_batch()?;
            Some((batch, std::mem::take(&mut self.storage.filling)))
        });
        let Some((batch, pending)) = next else { return };
        self.storage.next_batch += 1;
        let id = BatchId(self.storage.next_batch << 2 | KIND_QUEUE);
        self.disk_free_bytes = self
            .disk_free_bytes
            .saturating_sub(batch.bytes.len() as u64);
        let begin = self.storage.begin.remove(&batch.segment);
        self.storage.in_flight = Some(Flying {
            id,
            segment: batch.segment,
            end: batch.end(),
            begins: begin.is_some(),
            pending,
        });
        self.actions.push(Action::Write {
            batch: id,
            stream: Stream::Queue,
            segment: batch.segment,
            offset: batch.file_offset,
            bytes: batch.bytes,
            begin: begin.map(|reuse| Begin {
                segment_bytes: self.storage.tail.segment_bytes,
                reuse,
            }),
        });
    }

    pub(super) fn written(&mut self, batch: BatchId, result: Result<(), DiskError>, now: Now) {
        match batch.0 & 3 {
            KIND_LOG => return self.log_written(batch, result, now),
            KIND_COUNTERS => return self.counters_written(result),
            _ => {}
        }
        let Some(flying) = self.storage.in_flight.take() else {
            return;
        };
        debug_assert_eq!(flying.id, batch, "one batch is on its way at a time");
        match result {
            Ok(()) => {
                self.storage.full = false;
                self.batch_durable(flying.segment, flying.end);
                for note in flying.pending.notes {
                    self.note_durable(&note, now);
                }
            }
            Err(error) => self.write_failed(flying, &error, now),
        }
    }

    fn batch_durable(&mut self, segment: SegmentId, end: u64) {
        let storage = &mut self.storage;
        if let Some(writer) = &mut storage.tail.writer
            && writer.segment() == segment
        {
            writer.durable(end);
            return;
        }
        if storage.has_batches(segment) {
            return;
        }
        if let Some(at) = storage
            .rolled
            .iter()
            .position(|writer| writer.segment() == segment)
            && let Some(writer) = storage.rolled.remove(at)
        {
            storage.seal(writer);
        }
    }

    fn note_durable(&mut self, note: &Note, now: Now) {
        match note.waiter {
            Waiter::Compaction { from } => return self.moved_durable(note.queue_id, from),
            Waiter::Compacted(segment) => return self.compacted(segment),
            Waiter::Strays => {
                self.storage.strays_waiting = false;
                return;
            }
            Waiter::HandedOver => return self.handed_durable(),
            _ => {}
        }
        match note.hold {
            Hold::No => self.stored_ready(note.queue_id, now),
            Hold::Pending => {}
            Hold::Handover(handover) => self.hold(note.queue_id, handover),
        }
        self.tell_waiter(note.waiter, Stored::Durable, now);
    }

    fn write_failed(&mut self, flying: Flying, error: &DiskError, now: Now) {
        let failed = flying.pending;
        let why = match error {
            DiskError::Full => "no space left on device",
            DiskError::Io(text) => text.as_str(),
        };
        self.report(format!(
            "queue write failed ({why}): its mail is answered as not accepted, delivery rests until \
             outcomes can be written; free space or mend the disk under server.data_dir"
        ));
        let storage = &mut self.storage;
        storage.full = *error == DiskError::Full;
        storage.failing_until = Some(now.mono.plus_ms(WRITE_RETRY_MS));
        // What is durable in these segments will still be read.
        for writer in storage
            .tail
            .writer
            .take()
            .into_iter()
            .chain(std::mem::take(&mut storage.rolled))
        {
            storage.learn(&{ *writer.header() });
        }
        storage.tail.header.clear();
        storage.compaction_fault = true;
        // Only what was being written may be on disk.
        let cancels = failed
            .notes
            .iter()
            .filter(|note| note.waiter.is_message())
            .map(|note| About {
                queue_id: note.queue_id,
                segment: note.placement.segment,
            });
        let cancels: Vec<About> = cancels.collect();
        let is_copy = |note: &Note| matches!(note.waiter, Waiter::Compaction { .. });
        let has_copies = failed.notes.iter().any(is_copy);
        let mut all = vec![failed];
        all.extend(storage.closed.drain(..).map(|(_, pending)| pending));
        all.push(std::mem::take(&mut storage.filling));
        let mut again = Pending::default();
        let mut notes = Vec::new();
        for pending in all {
            again.outcomes.extend(pending.outcomes);
            again.commits.extend(pending.commits);
            again.cancels.extend(pending.cancels);
            notes.extend(pending.notes);
        }
        again.cancels.extend(cancels);
        let moves: Vec<_> = notes
            .iter()
            .filter_map(|note| match note.waiter {
                Waiter::Compaction { from } => Some((note.queue_id, from, note.placement)),
                _ => None,
            })
            .collect();
        self.moves_failed(&moves, &mut again.outcomes);
        self.storage.filling = again;
        let result = if self.storage.full {
            Stored::NoSpace
        } else {
            Stored::Failed
        };
        for note in &notes {
            match note.waiter {
                Waiter::Compacted(_) => self.storage.set.task_failed(),
                Waiter::Strays => self.storage.note_strays(),
                Waiter::HandedOver => self.handovers.not_durable(),
                Waiter::Compaction { .. } => {}
                _ => self.forget_message(note.queue_id),
            }
        }
        if flying.begins {
            self.storage.set.given_up(flying.segment);
        }
        if has_copies {
            self.storage.set.copies_given_up(flying.segment);
        }
        // Files that were not made yet never will be.
        for (segment, reuse) in std::mem::take(&mut self.storage.begin) {
            self.storage.set.removed(
                segment,
                if reuse {
                    Disposal::Free
                } else {
                    Disposal::Delete
                },
            );
        }
        for note in notes {
            self.tell_waiter(note.waiter, result, now);
        }
    }

    /// After a failed write: writes the notes that must not be lost into a new segment.
    pub(super) fn retry_write(&mut self, now: Now) {
        if self
            .storage
            .failing_until
            .is_none_or(|until| until > now.mono)
        {
            return;
        }
        self.storage.failing_until = None;
        if self.disk_low() && self.storage.full {
            // Writing would fail again: wait for room.
            self.storage.failing_until = Some(now.mono.plus_ms(WRITE_RETRY_MS));
            return;
        }
        self.storage.full = false;
        let mut again = std::mem::take(&mut self.storage.filling);
        let records = again
            .outcomes
            .iter()
            .map(|outcome| (Record::Outcome(*outcome), outcome.about))
            .chain(
                again
                    .commits
                    .iter()
                    .map(|about| (Record::Commit(*about), *about)),
            )
            .chain(
                again
                    .cancels
                    .iter()
                    .map(|about| (Record::Cancel(*about), *about)),
            );
        for (record, about) in records {
            self.append_note(&record, about, now);
        }
        let filling = &mut self.storage.filling;
        filling.outcomes.append(&mut again.outcomes);
        filling.commits.append(&mut again.commits);
        filling.cancels.append(&mut again.cancels);
        filling.notes.append(&mut again.notes);
        self.resume(now);
    }

    /// Deliveries go on.
    fn resume(&mut self, now: Now) {
        // A site with ready mail is among these.
        for site in self.tended.clone() {
            self.pump(site, true, now);
        }
    }
}

/// Counts since ever as they are saved: each time a new small segment, then the one before goes.
#[derive(Debug)]
pub(super) struct CounterStream {
    next: SegmentId,
    in_flight: Option<(BatchId, SegmentId)>,
    durable: Option<SegmentId>,
    saved_at: Option<Mono>,
    /// The counts of the whole run are saved.
    closed: bool,
}

impl CounterStream {
    /// Whether, while draining, the last counts are durable.
    pub(super) const fn is_closed(&self) -> bool {
        self.closed && self.in_flight.is_none()
    }
}

impl ShardCore {
    /// Counts of earlier runs; `segment` holds them, `saved` is what [`BLOB_COUNTERS`] said there.
    ///
    /// # Errors
    /// A sentence; nothing is added then.
    pub fn restore_counters(&mut self, segment: SegmentId, saved: &[u8]) -> Result<(), String> {
        self.counters
            .restore(saved)
            .map_err(|error| error.to_string())?;
        self.saved.durable = Some(segment);
        Ok(())
    }

    pub(super) fn save_counters(&mut self, now: Now) {
        let every_ms = self.settings.counter_save_ms;
        let due = self
            .saved
            .saved_at
            .is_none_or(|at| now.mono.ms_since(at) >= every_ms);
        let closing = self.draining && self.deliveries.is_empty() && self.storage.is_idle();
        let wanted = !self.saved.closed && (closing || due);
        if self.saved.in_flight.is_some() || !wanted || self.storage.is_failing() {
            return;
        }
        self.saved.closed = closing;
        let first = self.saved.saved_at.is_none();
        self.saved.saved_at = Some(now.mono);
        if first && !closing {
            return;
        }
        let mut bytes = Vec::new();
        self.counters.save(&mut bytes);
        let record = Record::Blob {
            kind: BLOB_COUNTERS,
            bytes: &bytes,
        };
        let room = bytes.len() + 8 * BLOCK_BYTES;
        let segment_bytes = room.next_multiple_of(BLOCK_BYTES) as u32;
        let mut tail = Tail {
            stream: Stream::Counters,
            segment_bytes,
            next: self.saved.next,
            writer: None,
            header: Vec::new(),
            begun: None,
        };
        let maker = &mut self.storage.maker;
        if tail.writer(maker, now.unix).append(&record).is_err() {
            return;
        }
        let Some(batch) = tail.take_batch() else {
            return;
        };
        self.saved.next = tail.next;
        self.storage.next_batch += 1;
        let id = BatchId(self.storage.next_batch << 2 | KIND_COUNTERS);
        self.saved.in_flight = Some((id, batch.segment));
        self.actions.push(Action::Write {
            batch: id,
            stream: Stream::Counters,
            segment: batch.segment,
            offset: batch.file_offset,
            bytes: batch.bytes,
            begin: Some(Begin {
                segment_bytes,
                reuse: false,
            }),
        });
    }

    fn counters_written(&mut self, result: Result<(), DiskError>) {
        let Some((_, segment)) = self.saved.in_flight.take() else {
            return;
        };
        let old = match result {
            Ok(()) => self.saved.durable.replace(segment),
            Err(_) => Some(segment),
        };
        if let Some(segment) = old {
            self.actions.push(Action::Delete {
                stream: Stream::Counters,
                segment,
            });
        }
    }
}

/// The low bits of a batch's number say which stream it is of.
const KIND_QUEUE: u64 = 0;
const KIND_LOG: u64 = 1;
const KIND_COUNTERS: u64 = 2;

impl ShardCore {
    /// Starts new segments under `keys`' current key; the older ones stay readable.
    pub fn rekey(&mut self, keys: Arc<KeyRing>) {
        self.storage.rekey(keys);
        self.log.tail.writer = None;
        self.log.tail.header.clear();
    }
}

impl LogStream {
    /// The segment being written and how much of it is durable.
    pub(super) fn end(&self) -> Option<(SegmentId, u64)> {
        self.durable
    }

    /// New bounds, which the next file begins with.
    pub(super) fn reload(&mut self, settings: &Settings) {
        self.rotation = rotation(settings);
        self.tail.segment_bytes = settings.log_segment_bytes;
    }

    pub(super) fn push(&mut self, record: &LogRecord<'_>) {
        self.batch.push(record);
    }

    /// The lines gathered so far.
    #[cfg(test)]
    pub(super) fn take_batch(&mut self) -> Vec<u8> {
        self.batch.take()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.batch.is_empty() && self.waiting.is_empty() && self.in_flight.is_none()
    }

    /// Lines lost because the disk did not take them.
    pub(super) const fn dropped_lines(&self) -> u64 {
        self.dropped_lines
    }
}

impl ShardCore {
    pub(super) fn flush_log(&mut self, now: Now) {
        let log = &mut self.log;
        if log.batch.is_due(now.unix) || (self.draining && !log.batch.is_empty()) {
            let lines = log.batch.len();
            let bytes = log.batch.take();
            if log.waiting_bytes + bytes.len() > LOG_WAITING_BYTES_MAX {
                log.dropped_lines += u64::from(lines);
            } else {
                log.waiting_bytes += bytes.len();
                log.waiting.push_back(bytes);
            }
        }
        if log.in_flight.is_some() || log.retry_at.is_some_and(|at| at > now.mono) {
            return;
        }
        log.retry_at = None;
        let Some(lines) = log.waiting.pop_front() else {
            return;
        };
        log.waiting_bytes -= lines.len();
        let record = Record::Blob {
            kind: BLOB_LOG_BATCH,
            bytes: &lines,
        };
        if log.rotation.must_rotate(now.unix, lines.len() as u64) {
            // All that was written to it is durable, as no batch is on its way.
            log.tail.writer = None;
            log.tail.header.clear();
        }
        let maker = &mut self.storage.maker;
        let appended = match log.tail.writer(maker, now.unix).append(&record) {
            Err(AppendError::Full { .. }) => {
                log.tail.writer = None;
                log.tail.writer(maker, now.unix).append(&record)
            }
            other => other,
        };
        let segment_bytes = log.tail.segment_bytes;
        let begin = log.tail.begun.take().map(|_| {
            log.rotation.opened(now.unix);
            Begin {
                segment_bytes,
                reuse: false,
            }
        });
        log.rotation.appended(now.unix, lines.len() as u64);
        let batch = appended.is_ok().then(|| log.tail.take_batch()).flatten();
        let Some(batch) = batch else {
            log.dropped_lines += 1;
            return;
        };
        self.storage.next_batch += 1;
        let id = BatchId(self.storage.next_batch << 2 | KIND_LOG);
        log.in_flight = Some((id, batch.segment, batch.end(), lines));
        self.actions.push(Action::Write {
            batch: id,
            stream: Stream::DeliveryLog,
            segment: batch.segment,
            offset: batch.file_offset,
            bytes: batch.bytes,
            begin,
        });
    }

    fn log_written(&mut self, batch: BatchId, result: Result<(), DiskError>, now: Now) {
        let log = &mut self.log;
        let Some((id, segment, end, lines)) = log.in_flight.take() else {
            return;
        };
        debug_assert_eq!(id, batch, "one log batch is on its way at a time");
        if result.is_err() {
            // A new segment: whether these bytes are in the old one is unknown.
            log.tail.writer = None;
            log.tail.header.clear();
            log.waiting_bytes += lines.len();
            log.waiting.push_front(lines);
            log.retry_at = Some(now.mono.plus_ms(WRITE_RETRY_MS));
        } else {
            log.durable = Some((segment, end));
            log.batch.reuse(lines);
        }
    }
}
