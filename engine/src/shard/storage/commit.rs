//! Batches onto the disk, and what is done when they are durable or failed.
//!
//! [`ShardCore::flush`] sends a batch, [`ShardCore::written`] hears of it: each [`Note`] of it tells
//! its [`Waiter`]. After a failure [`ShardCore::write_failed`] sorts what may be lost from what must
//! be written again, and [`ShardCore::retry_write`] does so. The two other streams' writes are theirs
//! (`log_stream`, `counter_stream`).

use super::{
    BATCH_BYTES_FULL, Flying, Hold, KIND_COUNTERS, KIND_LOG, KIND_QUEUE, Note, Pending,
    WRITE_RETRY_MS, Waiter,
};
use crate::clock::Now;
use crate::ids::{QueueId, SegmentId};
use crate::queue::cipher::Stream;
use crate::queue::record::{About, Record};
use crate::queue::set::Disposal;
use crate::schedule::index::{EntryId, State};
use crate::shard::{Action, BatchId, Begin, DiskError, ShardCore, ShardMessage, Stored};

impl ShardCore {
    /// Memory of a batch that was written, for the next one.
    pub fn reuse_batch(&mut self, bytes: Vec<u8>) {
        if bytes.capacity() <= 2 * BATCH_BYTES_FULL
            && let Some(writer) = &mut self.store.queue.tail.writer
        {
            writer.recycle(bytes);
        }
    }

    /// Sends the next batch on its way if none is and there is reason to. Call it when the events at
    /// hand are handled rather than after each, so that what they stored shares a batch.
    pub fn flush(&mut self, now: Now) {
        if self.store.queue.in_flight.is_some() || self.store.queue.is_failing() {
            return;
        }
        if self.store.queue.closed.is_empty() {
            let filling = &self.store.queue.filling;
            let age_ms = filling.since.map_or(0, |since| now.mono.ms_since(since));
            let urgent = !filling.notes.is_empty() || self.draining;
            if filling.is_empty() || !(urgent || age_ms >= self.settings.outcome_sync_ms_max) {
                return;
            }
        }
        let next = self.store.queue.closed.pop_front().or_else(|| {
            let batch = self.store.queue.tail.take_batch()?;
            Some((batch, std::mem::take(&mut self.store.queue.filling)))
        });
        let Some((batch, pending)) = next else { return };
        self.store.queue.next_batch += 1;
        let id = BatchId(self.store.queue.next_batch << 2 | KIND_QUEUE);
        self.store.disk_free_bytes = self
            .store
            .disk_free_bytes
            .saturating_sub(batch.bytes.len() as u64);
        let begin = self.store.queue.begin.remove(&batch.segment);
        self.store.queue.in_flight = Some(Flying {
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
                segment_bytes: self.store.queue.tail.segment_bytes,
                reuse,
            }),
        });
    }

    pub(in crate::shard) fn written(
        &mut self,
        batch: BatchId,
        result: Result<(), DiskError>,
        now: Now,
    ) {
        match batch.0 & 3 {
            KIND_LOG => return self.log_written(batch, result, now),
            KIND_COUNTERS => return self.counters_written(result),
            _ => {}
        }
        let Some(flying) = self.store.queue.in_flight.take() else {
            return;
        };
        debug_assert_eq!(flying.id, batch, "one batch is on its way at a time");
        match result {
            Ok(()) => {
                self.store.queue.full = false;
                self.store.queue.failures = 0;
                self.batch_durable(flying.segment, flying.end);
                for note in flying.pending.notes {
                    self.note_durable(&note, now);
                }
            }
            Err(error) => self.write_failed(flying, &error, now),
        }
    }

    fn batch_durable(&mut self, segment: SegmentId, end: u64) {
        let storage = &mut self.store.queue;
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
                self.store.queue.strays_waiting = false;
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

    pub(super) fn tell_waiter(&mut self, waiter: Waiter, result: Stored, now: Now) {
        match waiter {
            Waiter::Origin(origin) => self.answer(origin, result, now),
            Waiter::Part(key) => self.part_stored(key, result, now),
            Waiter::Shard { shard, key } => {
                self.tell(shard, ShardMessage::Stored { key, result });
            }
            Waiter::Compaction { .. }
            | Waiter::Compacted(_)
            | Waiter::Strays
            | Waiter::HandedOver => {}
        }
    }

    pub(super) fn stored_ready(&mut self, queue_id: QueueId, now: Now) {
        // One entry is by far the most common; siblings would need a list.
        let Some(first) = self.mail.find(queue_id) else {
            return;
        };
        if self.mail.is_only(first) {
            return self.stored_entry_ready(first, now);
        }
        let entries: Vec<EntryId> = self.mail.siblings(queue_id).collect();
        for id in entries {
            self.stored_entry_ready(id, now);
        }
    }

    fn stored_entry_ready(&mut self, id: EntryId, now: Now) {
        if self.mail.get(id).state == State::Storing {
            self.make_ready(id, now);
        }
    }

    pub(super) fn forget_message(&mut self, queue_id: QueueId) {
        let entries: Vec<EntryId> = self.mail.siblings(queue_id).collect();
        for id in entries {
            if self.mail.get(id).state == State::Storing {
                self.finish_entry(id);
            }
        }
    }

    fn write_failed(&mut self, flying: Flying, error: &DiskError, now: Now) {
        let failed = flying.pending;
        let why = match error {
            DiskError::Full => "no space left on device",
            DiskError::Io(text) => text.as_str(),
        };
        self.report(format!(
            "queue write failed (segment {:08}: {why}): its mail is answered as not accepted, delivery \
             rests until outcomes can be written; free space or mend the disk under server.data_dir",
            flying.segment.0
        ));
        let storage = &mut self.store.queue;
        storage.full = *error == DiskError::Full;
        storage.failing_until = Some(now.mono.plus_ms(storage.rest_ms()));
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
        self.store.queue.filling = again;
        let result = if self.store.queue.full {
            Stored::NoSpace
        } else {
            Stored::Failed
        };
        for note in &notes {
            match note.waiter {
                Waiter::Compacted(_) => self.store.queue.set.task_failed(),
                Waiter::Strays => self.store.queue.note_strays(),
                Waiter::HandedOver => self.moves.handovers.not_durable(),
                Waiter::Compaction { .. } => {}
                _ => self.forget_message(note.queue_id),
            }
        }
        if flying.begins {
            self.store.queue.set.given_up(flying.segment);
        }
        if has_copies {
            self.store.queue.set.copies_given_up(flying.segment);
        }
        // Files that were not made yet never will be.
        for (segment, reuse) in std::mem::take(&mut self.store.queue.begin) {
            self.store.queue.set.removed(
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
        // At once, if the first failure was no more than that.
        self.retry_write(now);
    }

    /// After a failed write: writes the notes that must not be lost into a new segment.
    pub(in crate::shard) fn retry_write(&mut self, now: Now) {
        if self
            .store
            .queue
            .failing_until
            .is_none_or(|until| until > now.mono)
        {
            return;
        }
        self.store.queue.failing_until = None;
        if self.disk_low() && self.store.queue.full {
            // Writing would fail again: wait for room.
            self.store.queue.failing_until = Some(now.mono.plus_ms(WRITE_RETRY_MS));
            return;
        }
        self.store.queue.full = false;
        let mut again = std::mem::take(&mut self.store.queue.filling);
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
        let filling = &mut self.store.queue.filling;
        filling.outcomes.append(&mut again.outcomes);
        filling.commits.append(&mut again.commits);
        filling.cancels.append(&mut again.cancels);
        filling.notes.append(&mut again.notes);
        self.resume(now);
    }

    /// Deliveries go on.
    fn resume(&mut self, now: Now) {
        // A site with ready mail is among these.
        for site in self.pool.tended.clone() {
            self.pump(site, true, now);
        }
    }
}
