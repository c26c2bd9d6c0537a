//! The queue's stream: group commit.
//!
//! One batch is on its way at a time; what comes meanwhile gathers in the next. So the batch grows
//! with the load and the disk is asked once for all that wait. A batch that holds a message leaves at
//! once; outcomes alone wait some time for company.
//!
//! When a write fails, its segment is left for good: whether those bytes are on disk is unknown, and
//! its keystream must not be used twice. Messages of the batch are given back as not stored, and
//! cancelled in the next segment; outcomes are written again there. That is begun at once after the
//! first failure; while one follows another, writing rests in between, longer each time.
//!
//! The order of calls: `append_*` and `note_*`, [`GroupCommit::flush`] when the events at hand are
//! handled, [`GroupCommit::written`] with the disk's answer; after a failure
//! [`GroupCommit::give_up_segments`] and then [`GroupCommit::retry`], at once and at each tick.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::batch::{Awaited, Closed, Flying, Mark, Pending};
use super::tail::{Maker, Tail};
use super::{
    BATCH_BYTES_FULL, BatchId, Begin, DiskError, StorageSetup, WRITE_RETRY_MS, WRITE_RETRY_MS_MAX,
    Write,
};
use crate::clock::{Mono, Now};
use crate::ids::{HandoverId, QueueId, SegmentId, ShardId};
use crate::keys::KeyRing;
use crate::queue::chain::{BLOB_MANIFEST, BLOB_MAY_GO, manifest};
use crate::queue::cipher::{SegmentCipher, Stream};
use crate::queue::record::{About, Outcome, Record};
use crate::queue::segment::{AppendError, Placement, SegmentHeader, SegmentWriter};
use crate::queue::set::{Disposal, SegmentSet};

/// The rest after the second failure in a row; each further one doubles it.
const WRITE_RETRY_MS_MIN: u64 = 100;

/// What became of a batch.
#[derive(Debug)]
#[must_use]
pub enum Written<T> {
    /// All of it is durable.
    Durable(Vec<Awaited<T>>),
    /// Nothing of it may be relied on.
    Failed(Failed<T>),
}

/// A failed batch, and those behind it.
#[derive(Debug)]
#[must_use]
pub struct Failed<T> {
    /// Whose write it was.
    pub segment: SegmentId,
    /// All that waited.
    pub awaited: Vec<Awaited<T>>,
    /// What was never written, to be let go of when no message of it is counted as live.
    pub segments: GivenUp,
}

/// Segments of which nothing was ever durable.
#[derive(Debug)]
#[must_use]
pub struct GivenUp {
    /// Its only batches failed.
    begun: Option<SegmentId>,
    /// Copies in it count for nothing.
    copies: Option<SegmentId>,
    /// Their files were never made.
    unmade: HashMap<SegmentId, bool>,
}

/// The queue's segments as a shard writes and reads them; `T` is what it gives for whoever waits.
#[derive(Debug)]
pub struct GroupCommit<T> {
    maker: Maker,
    tail: Tail,
    filling: Pending<T>,
    closed: VecDeque<Closed<T>>,
    in_flight: Option<Flying<T>>,
    /// A full segment whose last batch is on its way; sealed when that is durable.
    rolled: VecDeque<SegmentWriter>,
    ciphers: HashMap<SegmentId, SegmentCipher>,
    failing_until: Option<Mono>,
    /// Writes that failed since one was durable.
    failures: u32,
    full: bool,
    /// Segments whose file is still to be made, and whether out of a free one.
    begin: HashMap<SegmentId, bool>,
    /// Something that the compaction under way was to copy was not: its segment must stay.
    compaction_fault: bool,
    /// The segment that is about to go: no manifest lists it.
    going: Option<SegmentId>,
    /// The segment written before, and where it ended.
    before: Option<(SegmentId, u32)>,
    /// No segment may go before the outcomes of [`Mark::Strays`] are durable.
    strays_waiting: bool,
    /// What each segment holds, and which may go.
    pub set: SegmentSet,
}

impl<T> GroupCommit<T> {
    /// Nothing is written yet; new segments are of `segment_bytes`.
    pub fn new(me: ShardId, segment_bytes: u32, setup: StorageSetup) -> Self {
        Self {
            maker: Maker::new(me, setup.keys, setup.nonces),
            tail: Tail::new(Stream::Queue, segment_bytes, setup.next_segment),
            filling: Pending::default(),
            closed: VecDeque::new(),
            in_flight: None,
            rolled: VecDeque::new(),
            ciphers: HashMap::new(),
            failing_until: None,
            failures: 0,
            full: false,
            begin: HashMap::new(),
            compaction_fault: false,
            going: None,
            before: None,
            strays_waiting: false,
            set: SegmentSet::new(segment_bytes),
        }
    }

    /// Whether the last write failed and outcomes wait to be written again.
    pub const fn is_failing(&self) -> bool {
        self.failing_until.is_some()
    }

    /// Whether the last write failed; writing may go on meanwhile.
    pub const fn last_failed(&self) -> bool {
        self.failures > 0
    }

    /// Whether the disk said that it is full, at the last write.
    pub const fn is_full(&self) -> bool {
        self.full
    }

    /// Bytes of records that are not durable.
    pub fn waiting_bytes(&self) -> usize {
        let flying = self
            .in_flight
            .as_ref()
            .map_or(0, |flying| flying.pending.bytes);
        self.filling.bytes + flying + self.closed.iter().map(|(_, p)| p.bytes).sum::<usize>()
    }

    /// Whether nothing waits for the disk.
    pub fn is_idle(&self) -> bool {
        self.filling.is_empty() && self.closed.is_empty() && self.in_flight.is_none()
    }

    /// What the segments of other streams are made of.
    pub const fn maker(&mut self) -> &mut Maker {
        &mut self.maker
    }

    /// Names a handover.
    pub fn random_handover(&mut self) -> HandoverId {
        self.maker.random_handover()
    }

    /// Appends a record. What is to be known of it later is noted by one of the other calls.
    ///
    /// # Errors
    /// [`AppendError`] if it is too large for any segment.
    pub fn append(&mut self, record: &Record<'_>, now: Now) -> Result<Placement, AppendError> {
        let placement = match self.writer(now)?.append(record) {
            Err(AppendError::Full { .. }) => {
                self.roll();
                self.writer(now)?.append(record)?
            }
            other => other?,
        };
        self.filling.since.get_or_insert(now.mono);
        self.filling.bytes += placement.bytes as usize;
        Ok(placement)
    }

    /// Notes that a segment may go.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_may_go(&mut self, segment: SegmentId, now: Now) -> Result<(), AppendError> {
        let note = Record::Blob {
            kind: BLOB_MAY_GO,
            bytes: &segment.0.to_le_bytes(),
        };
        self.append(&note, now)?;
        self.going = Some(segment);
        Ok(())
    }

    /// The newest segment goes: none that is begun from now on says that it should be there.
    pub const fn goes_unnoted(&mut self, segment: SegmentId) {
        self.going = Some(segment);
    }

    /// The segment that is written to; one that is begun says first which others there are.
    fn writer(&mut self, now: Now) -> Result<&mut SegmentWriter, AppendError> {
        self.tail.writer(&mut self.maker, now.unix);
        let Some(segment) = self.tail.begun.take() else {
            return Ok(self.tail.writer(&mut self.maker, now.unix));
        };
        // What was noted of it may stand in a segment that is itself gone by the next start.
        let going = self.going;
        let others = self.set.with_file().filter(|other| Some(*other) != going);
        let there = manifest(self.before.take(), others);
        let reuse = self.set.free_files() > 0;
        self.begin.insert(segment, reuse);
        let segment_bytes = u64::from(self.tail.segment_bytes);
        self.set.began(segment, segment_bytes, reuse);
        let writer = self.tail.writer(&mut self.maker, now.unix);
        let manifest = Record::Blob {
            kind: BLOB_MANIFEST,
            bytes: &there,
        };
        self.filling.bytes += writer.append(&manifest)?.bytes as usize;
        Ok(writer)
    }

    /// The message appended at `placement` is live; `ticket` comes back when it is durable or failed.
    pub fn await_message(&mut self, queue_id: QueueId, placement: Placement, ticket: T) {
        self.filling.awaited.push(Awaited::Message {
            queue_id,
            placement,
            ticket,
        });
        self.set.live(placement);
        self.close_full_batch();
    }

    /// A message's copy was appended: its original is let go of when the copy is durable.
    pub fn await_copy(&mut self, queue_id: QueueId, from: Placement, to: Placement) {
        self.filling
            .awaited
            .push(Awaited::Copy { queue_id, from, to });
        self.set.live(to);
        self.close_full_batch();
    }

    /// `mark` comes back when all that was appended so far is durable.
    pub fn await_mark(&mut self, mark: Mark) {
        self.strays_waiting |= mark == Mark::Strays;
        self.filling.awaited.push(Awaited::Mark(mark));
    }

    /// Appends an outcome, now or, while writing fails, when it goes on.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_outcome(&mut self, outcome: Outcome, now: Now) -> Result<(), AppendError> {
        if !self.is_failing() {
            let placement = self.append(&Record::Outcome(outcome), now)?;
            self.set.note(placement, outcome.about.segment);
        }
        self.filling.outcomes.push(outcome);
        if !self.is_failing() {
            self.close_full_batch();
        }
        Ok(())
    }

    /// Appends that every owner has stored the message, now or when writing goes on.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_commit(&mut self, about: About, now: Now) -> Result<(), AppendError> {
        let result = self.append_note(&Record::Commit(about), about, now);
        self.filling.commits.push(about);
        result
    }

    /// Appends that the message was never accepted, now or when writing goes on.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_cancel(&mut self, about: About, now: Now) -> Result<(), AppendError> {
        let result = self.append_note(&Record::Cancel(about), about, now);
        self.filling.cancels.push(about);
        result
    }

    fn append_note(
        &mut self,
        record: &Record<'_>,
        about: About,
        now: Now,
    ) -> Result<(), AppendError> {
        if self.is_failing() {
            return Ok(());
        }
        let placement = self.append(record, now)?;
        self.set.note(placement, about.segment);
        Ok(())
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

    /// Memory of a batch that was written, for the next one.
    pub fn reuse_batch(&mut self, bytes: Vec<u8>) {
        if bytes.capacity() <= 2 * BATCH_BYTES_FULL
            && let Some(writer) = &mut self.tail.writer
        {
            writer.recycle(bytes);
        }
    }

    /// The next batch, if none is on its way and there is reason to write one: outcomes alone are one
    /// when they are `outcome_ms_max` old.
    pub fn flush(&mut self, outcome_ms_max: u64, now: Now) -> Option<Write> {
        if self.in_flight.is_some() || self.is_failing() {
            return None;
        }
        if self.closed.is_empty() {
            let filling = &self.filling;
            let age_ms = filling.since.map_or(0, |since| now.mono.ms_since(since));
            let is_urgent = !filling.awaited.is_empty() || age_ms >= outcome_ms_max;
            if filling.is_empty() || !is_urgent {
                return None;
            }
        }
        let (batch, pending) = self.closed.pop_front().or_else(|| {
            let batch = self.tail.take_batch()?;
            Some((batch, std::mem::take(&mut self.filling)))
        })?;
        let id = self.maker.next_batch(Stream::Queue);
        let begin = self.begin.remove(&batch.segment);
        self.in_flight = Some(Flying {
            id,
            segment: batch.segment,
            end: batch.end(),
            begins: begin.is_some(),
            pending,
        });
        Some(Write {
            batch: id,
            segment: batch.segment,
            offset: batch.file_offset,
            bytes: batch.bytes,
            begin: begin.map(|reuse| Begin {
                segment_bytes: self.tail.segment_bytes,
                reuse,
            }),
        })
    }

    /// The disk's answer to the batch on its way; `None` if there is none.
    pub fn written(
        &mut self,
        batch: BatchId,
        result: Result<(), DiskError>,
        now: Now,
    ) -> Option<Written<T>> {
        let flying = self.in_flight.take()?;
        debug_assert_eq!(flying.id, batch, "one batch is on its way at a time");
        Some(match result {
            Ok(()) => {
                self.full = false;
                self.failures = 0;
                self.batch_durable(flying.segment, flying.end);
                let awaited = flying.pending.awaited;
                let has_strays = |one: &Awaited<T>| matches!(one, Awaited::Mark(Mark::Strays));
                if self.strays_waiting && awaited.iter().any(has_strays) {
                    self.strays_waiting = false;
                }
                Written::Durable(awaited)
            }
            Err(error) => Written::Failed(self.batch_failed(flying, &error, now)),
        })
    }

    fn batch_durable(&mut self, segment: SegmentId, end: u64) {
        if let Some(writer) = &mut self.tail.writer
            && writer.segment() == segment
        {
            writer.durable(end);
            return;
        }
        if self.has_batches(segment) {
            return;
        }
        if let Some(at) = self.rolled.iter().position(|w| w.segment() == segment)
            && let Some(writer) = self.rolled.remove(at)
        {
            self.seal(writer);
        }
    }

    fn batch_failed(&mut self, flying: Flying<T>, error: &DiskError, now: Now) -> Failed<T> {
        self.full = *error == DiskError::Full;
        self.failing_until = Some(now.mono.plus_ms(self.rest_ms()));
        // Where it ends nobody knows.
        self.before = None;
        // What is durable in these segments will still be read.
        let rolled = std::mem::take(&mut self.rolled);
        for writer in self.tail.leave().into_iter().chain(rolled) {
            self.learn(&{ *writer.header() });
        }
        self.compaction_fault = true;
        let segments = GivenUp {
            begun: flying.begins.then_some(flying.segment),
            copies: flying.pending.has_copies().then_some(flying.segment),
            unmade: std::mem::take(&mut self.begin),
        };
        let closed = self.closed.drain(..).map(|(_, pending)| pending);
        let filling = std::mem::take(&mut self.filling);
        let (again, awaited) = flying
            .pending
            .give_up(closed.chain(std::iter::once(filling)));
        self.filling = again;
        for one in &awaited {
            match one {
                Awaited::Mark(Mark::Compacted(_)) => {
                    self.set.task_failed();
                    self.going = None;
                }
                Awaited::Mark(Mark::Strays) => self.await_mark(Mark::Strays),
                Awaited::Mark(Mark::HandedOver | Mark::Counted)
                | Awaited::Copy { .. }
                | Awaited::Message { .. } => {}
            }
        }
        Failed {
            segment: flying.segment,
            awaited,
            segments,
        }
    }

    /// Lets go of segments that were never written, once nothing in them is live.
    pub fn give_up_segments(&mut self, segments: GivenUp) {
        if let Some(segment) = segments.begun {
            self.set.given_up(segment);
        }
        if let Some(segment) = segments.copies {
            self.set.copies_given_up(segment);
        }
        for (segment, reuse) in segments.unmade {
            let disposal = if reuse {
                Disposal::Free
            } else {
                Disposal::Delete
            };
            self.set.removed(segment, disposal);
        }
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

    /// After a failed write: appends what must not be lost to a new segment, and writing goes on, if
    /// its time has come. `has_room`: whether a disk that was full has room now. Gives what could not
    /// be appended; `None` if writing does not go on.
    pub fn retry(&mut self, has_room: bool, now: Now) -> Option<Vec<(QueueId, AppendError)>> {
        if self.failing_until.is_none_or(|until| until > now.mono) {
            return None;
        }
        if self.full && !has_room {
            // Writing would fail again: wait for room.
            self.failing_until = Some(now.mono.plus_ms(WRITE_RETRY_MS));
            return None;
        }
        self.failing_until = None;
        self.full = false;
        let mut again = std::mem::take(&mut self.filling);
        let mut faults = Vec::new();
        let outcomes = again
            .outcomes
            .iter()
            .map(|o| (Record::Outcome(*o), o.about));
        let commits = again.commits.iter().map(|a| (Record::Commit(*a), *a));
        let cancels = again.cancels.iter().map(|a| (Record::Cancel(*a), *a));
        for (record, about) in outcomes.chain(commits).chain(cancels) {
            if let Err(error) = self.append_note(&record, about, now) {
                faults.push((about.queue_id, error));
            }
        }
        self.filling.outcomes.append(&mut again.outcomes);
        self.filling.commits.append(&mut again.commits);
        self.filling.cancels.append(&mut again.cancels);
        self.filling.awaited.append(&mut again.awaited);
        Some(faults)
    }

    /// The key ring, for reading segments back.
    pub fn keys(&self) -> &KeyRing {
        &self.maker.keys
    }

    /// New segments under the ring's current key from now on.
    pub fn rekey(&mut self, keys: Arc<KeyRing>) {
        self.roll();
        self.maker.keys = keys;
    }

    /// New segments from now on.
    fn roll(&mut self) {
        let batch = self.tail.take_batch();
        let is_unmade = self.tail.is_unmade();
        let Some(writer) = self.tail.leave() else {
            return;
        };
        if !is_unmade || batch.is_some() {
            self.before = Some((writer.segment(), writer.written_to()));
        }
        if let Some(batch) = batch {
            let pending = std::mem::take(&mut self.filling);
            self.closed.push_back((batch, pending));
            self.rolled.push_back(writer);
        } else if is_unmade {
            // Nothing stands in it.
        } else if self.has_batches(writer.segment()) {
            self.rolled.push_back(writer);
        } else {
            self.seal(writer);
        }
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
    pub fn is_unfinished(&self, segment: SegmentId) -> bool {
        let mut writers = self.tail.writer.iter().chain(&self.rolled);
        self.has_batches(segment) || writers.any(|writer| writer.segment() == segment)
    }

    /// Whether no segment may go, as outcomes that speak of another one are not durable.
    pub const fn are_strays_waiting(&self) -> bool {
        self.strays_waiting
    }

    /// A compaction begins.
    pub const fn compaction_begun(&mut self) {
        self.compaction_fault = false;
    }

    /// The compaction under way has not copied something.
    pub const fn compaction_failed(&mut self) {
        self.compaction_fault = true;
    }

    /// Whether all that the compaction of the segment was to copy was copied.
    pub fn is_compacted(&self, segment: SegmentId) -> bool {
        !self.compaction_fault && self.set.is_drained(segment)
    }

    /// What decrypts the records of a segment; `None` if it is not known.
    pub fn cipher(&mut self, segment: SegmentId) -> Option<&mut SegmentCipher> {
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
    pub fn learn(&mut self, header: &SegmentHeader) {
        if let Some(key) = self.maker.keys.find(header.key_id) {
            let cipher = SegmentCipher::new(key, header.name, &header.nonce);
            self.ciphers.insert(header.name.segment, cipher);
        }
    }

    /// The segment is gone.
    pub fn forget(&mut self, segment: SegmentId) {
        self.ciphers.remove(&segment);
    }
}
