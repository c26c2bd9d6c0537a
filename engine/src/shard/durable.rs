//! Batches of the queue's stream on their way, and what is done when one is durable or failed.
//!
//! [`ShardCore::flush`] sends a batch, [`ShardCore::written`] hears of it: each [`Awaited`] of it brings a
//! [`Ticket`], and its [`Waiter`] is told. What a failed batch carried is sorted by
//! [`crate::store::GroupCommit`]; here the index is set right, and who waited is told.

use super::accept::PartMessage;
use super::waiter::{Hold, Ticket, Waiter};
use super::{Action, ShardCore, Stored};
use crate::clock::Now;
use crate::ids::QueueId;
use crate::queue::cipher::Stream;
use crate::schedule::index::{EntryId, State};
use crate::store::{Awaited, BatchId, DiskError, Failed, Mark, Written};

impl ShardCore {
    /// Memory of a batch that was written, for the next one.
    pub fn reuse_batch(&mut self, bytes: Vec<u8>) {
        self.store.queue.reuse_batch(bytes);
    }

    /// Sends the next batch on its way if none is and there is reason to. Call it when the events at
    /// hand are handled rather than after each, so that what they stored shares a batch.
    pub fn flush(&mut self, now: Now) {
        let outcome_ms_max = if self.draining {
            0
        } else {
            self.settings.outcome_sync_ms_max
        };
        let Some(write) = self.store.queue.flush(outcome_ms_max, now) else {
            return;
        };
        let free_bytes = self.store.disk_free_bytes;
        self.store.disk_free_bytes = free_bytes.saturating_sub(write.bytes.len() as u64);
        self.write(Stream::Queue, write);
    }

    pub(super) fn written(&mut self, batch: BatchId, result: Result<(), DiskError>, now: Now) {
        if batch.stream() != Some(Stream::Queue) {
            return self.side_written(batch, &result, now);
        }
        let why = result.as_ref().err().map(ToString::to_string);
        match self.store.queue.written(batch, result, now) {
            Some(Written::Durable(awaited)) => {
                for one in &awaited {
                    self.awaited_durable(one, now);
                }
            }
            Some(Written::Failed(failed)) => {
                self.batch_failed(failed, &why.unwrap_or_default(), now);
            }
            None => {}
        }
    }

    fn awaited_durable(&mut self, one: &Awaited<Ticket>, now: Now) {
        match *one {
            Awaited::Copy { queue_id, from, .. } => self.moved_durable(queue_id, from),
            Awaited::Mark(Mark::Compacted(segment)) => self.compacted(segment),
            Awaited::Mark(Mark::Strays) => {}
            Awaited::Mark(Mark::HandedOver) => self.handed_durable(),
            Awaited::Mark(Mark::Counted) => self.counted_durable(now),
            Awaited::Message {
                queue_id, ticket, ..
            } => {
                match ticket.hold {
                    Hold::No => self.stored_ready(queue_id, now),
                    Hold::Pending => {}
                    Hold::Handover(handover) => self.hold(queue_id, handover),
                }
                self.tell_waiter(ticket.waiter, Stored::Durable, now);
            }
        }
    }

    pub(super) fn tell_waiter(&mut self, waiter: Waiter, result: Stored, now: Now) {
        match waiter {
            Waiter::Origin(origin) => self.answer(origin, result, now),
            Waiter::Part(split) => self.part_stored(split, result, now),
            Waiter::Shard { shard, split } => {
                self.tell(shard, PartMessage::Stored { split, result });
            }
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

    fn batch_failed(&mut self, failed: Failed<Ticket>, why: &str, now: Now) {
        self.report(format!(
            "queue write failed (segment {:08}: {why}): its mail is answered as not accepted, delivery \
             rests until outcomes can be written; free space or mend the disk under server.data_dir",
            failed.segment.0
        ));
        self.copies_failed(&failed.awaited);
        for one in &failed.awaited {
            match one {
                Awaited::Message { queue_id, .. } => self.forget_message(*queue_id),
                Awaited::Mark(Mark::HandedOver) => self.moves.handovers.not_durable(),
                Awaited::Mark(Mark::Counted) => self.store.counts.not_counted(),
                Awaited::Mark(Mark::Compacted(_) | Mark::Strays) | Awaited::Copy { .. } => {}
            }
        }
        self.store.queue.give_up_segments(failed.segments);
        let result = self.not_stored();
        for one in failed.awaited {
            if let Awaited::Message { ticket, .. } = one {
                self.tell_waiter(ticket.waiter, result, now);
            }
        }
        // At once, if the first failure was no more than that.
        self.retry_write(now);
    }

    /// What is said of mail while writing fails.
    pub(super) const fn not_stored(&self) -> Stored {
        if self.store.queue.is_full() {
            Stored::NoSpace
        } else {
            Stored::Failed
        }
    }

    /// After a failed write: writing goes on in a new segment when its time has come, and so do
    /// deliveries.
    pub(super) fn retry_write(&mut self, now: Now) {
        let has_room = !self.disk_low();
        let Some(faults) = self.store.queue.retry(has_room, now) else {
            return;
        };
        for (queue_id, error) in faults {
            self.note_fault(queue_id, &error);
        }
        // A site with ready mail is among these.
        self.pool.mark_tended();
    }

    pub(super) fn note_fault(&mut self, queue_id: QueueId, error: &impl std::fmt::Display) {
        let line = format!("note on {queue_id} not written: {error}");
        self.actions.push(Action::Report { line });
    }
}
