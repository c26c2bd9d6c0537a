//! Where the content of queued mail is: kept in memory, in its record, or on its way back from there.
//!
//! There is one door: [`ShardCore::content_for`] asks for an entry's message for a purpose. It is here, or
//! is being read and comes by [`ShardCore::record_read`], or there is no room and the entry waits in a line
//! until [`ShardCore::wake_for_memory`] makes it ready again. The ledger's permit goes with the message.
//!
//! Small content and large content wait in lines of their own, as they have shares of their own: neither
//! holds the other up. Within a line nobody is overtaken, so that what is largest gets its turn; who has
//! come to the front is promised its room until a connection takes it, but not for long.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use super::unconnected::Unconnected;
use super::{Action, DiskError, Message, READS_MAX, ReadId, ShardCore};
use crate::clock::{Mono, Now};
use crate::memory::{Ledger, Permit, SMALL_BYTES_MAX};
use crate::message::downgrade::converted_bytes;
use crate::pool::ConnId;
use crate::queue::segment::Placement;
use crate::schedule::index::EntryId;

/// How long a message rests that the disk did not give back, milliseconds.
const UNREAD_RETRY_MS: u64 = 60_000;
/// Entries set aside until there is memory for their content; at this many, all others wait with them.
const WAITING_FOR_MEMORY_MAX: usize = 4096;
/// How long room is kept for an entry that has waited for it, milliseconds: its site may have turned away
/// meanwhile.
const PROMISE_MS_MAX: u64 = 5000;

/// What an entry's content is wanted for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// To send it over this connection.
    Send(ConnId),
    /// To settle all its open recipients without a connection.
    Settle(Unconnected),
    /// To give it to the shard that owns it now.
    Transfer,
}

/// A message, and the memory taken for it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) message: Rc<Message>,
    /// `None` where it is kept anyway.
    pub(super) permit: Option<Permit>,
}

/// A message kept for the first delivery of its entries, and the memory that takes, once for all.
#[derive(Debug)]
pub(super) struct Kept {
    message: Rc<Message>,
    _permit: Permit,
}

/// What came of asking for content.
#[derive(Debug)]
pub(super) enum Given {
    Here(Held),
    /// [`ShardCore::record_read`] goes on with it.
    BeingRead,
    /// The entry stands in a line, and is made ready when there is room.
    NoRoom,
}

/// Why a record could not be read back.
enum Unread {
    /// The disk failed; the record may be whole.
    Disk(DiskError),
    /// What was read is not what was written there.
    Damaged(String),
}

/// A record being read back.
#[derive(Debug)]
struct Reading {
    entry: EntryId,
    purpose: Purpose,
    placement: Placement,
    permit: Permit,
}

/// Room for an entry that has waited for it.
#[derive(Debug)]
struct Promise {
    permit: Permit,
    until: Mono,
}

/// Entries taken for a connection whose content has to wait for memory, first come first, with the bytes
/// that each needs.
type Line = VecDeque<(EntryId, usize)>;

/// Where the content of queued mail is, and the memory it takes.
#[derive(Debug)]
pub(super) struct Content {
    /// Messages kept for their first delivery.
    kept: HashMap<EntryId, Rc<Kept>>,
    ledger: Ledger,
    small: Line,
    large: Line,
    promised: HashMap<EntryId, Promise>,
    reads: HashMap<ReadId, Reading>,
    last_read: u64,
}

impl Content {
    pub(super) fn new(content_bytes_max: usize) -> Self {
        Self {
            kept: HashMap::new(),
            ledger: Ledger::new(content_bytes_max),
            small: Line::new(),
            large: Line::new(),
            promised: HashMap::new(),
            reads: HashMap::new(),
            last_read: 0,
        }
    }

    /// Whether no more content should come in, beside `waiting` bytes that wait for the disk.
    pub(super) fn is_full(&self, waiting: usize) -> bool {
        self.ledger.is_full(waiting)
    }

    /// As [`Ledger::receive`], beside `waiting` bytes that wait for the disk.
    pub(super) fn receive(&self, before: usize, after: usize, waiting: usize) -> bool {
        self.ledger.receive(before, after, waiting)
    }

    /// Content in memory, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.ledger.bytes()
    }

    /// Counts a part of a message on its way to another shard.
    pub(super) fn cross(&self, bytes: usize) -> Permit {
        self.ledger.cross(bytes)
    }

    /// Memory of messages that wait to be admitted, bytes.
    pub(super) fn at_door_bytes(&self) -> usize {
        self.ledger.at_door_bytes()
    }

    /// Takes memory for a message that waits to be admitted; `None` if too many bytes do.
    pub(super) fn wait_at_door(&self, bytes: usize) -> Option<Permit> {
        self.ledger.wait_at_door(bytes)
    }

    /// The message, to be kept for its first delivery if there is room, `kept_bytes_max` being for all.
    pub(super) fn keepable(&self, message: Message, kept_bytes_max: usize) -> Option<Rc<Kept>> {
        let bytes = message.memory_bytes();
        let fits =
            self.ledger.kept_bytes() + bytes <= kept_bytes_max && !self.ledger.is_full(bytes);
        fits.then(|| {
            Rc::new(Kept {
                message: Rc::new(message),
                _permit: self.ledger.keep(bytes),
            })
        })
    }

    /// Keeps the message of an entry.
    pub(super) fn keep(&mut self, id: EntryId, kept: &Rc<Kept>) {
        self.kept.insert(id, Rc::clone(kept));
    }

    /// Some of an entry's recipients are an entry of their own.
    pub(super) fn split(&mut self, from: EntryId, off: EntryId) {
        if let Some(kept) = self.kept.get(&from).map(Rc::clone) {
            self.kept.insert(off, kept);
        }
    }

    /// The entry has had its first delivery, or has left the queue.
    pub(super) fn forget(&mut self, id: EntryId) {
        self.kept.remove(&id);
        self.promised.remove(&id);
    }

    /// Whether so few records are being read that more may be, on behalf of no connection.
    pub(super) fn may_read(&self) -> bool {
        self.reads.len() < READS_MAX
    }

    /// Whether so many entries wait for memory that no more should be taken for connections.
    pub(super) fn is_crowded(&self) -> bool {
        self.small.len() + self.large.len() >= WAITING_FOR_MEMORY_MAX
    }

    /// Whether the entry waits for memory.
    pub(super) fn is_waiting(&self, id: EntryId) -> bool {
        let mut lines = self.small.iter().chain(&self.large);
        lines.any(|(waiting, _)| *waiting == id)
    }

    fn line_mut(&mut self, bytes: usize) -> &mut Line {
        if bytes <= SMALL_BYTES_MAX {
            &mut self.small
        } else {
            &mut self.large
        }
    }

    /// The entry waits until there is room for so much.
    fn wait(&mut self, id: EntryId, bytes: usize) {
        self.line_mut(bytes).push_back((id, bytes));
    }

    /// Room for an entry's content; `None` if it has to wait, and stands in the line.
    fn room(&mut self, id: EntryId, bytes: usize) -> Option<Permit> {
        let permit = match self.promised.remove(&id) {
            Some(promise) if promise.permit.bytes() >= bytes => Some(promise.permit),
            _ if self.line_mut(bytes).is_empty() => self.ledger.read_back(bytes),
            _ => None,
        };
        if permit.is_none() {
            self.wait(id, bytes);
        }
        permit
    }

    /// Promises what room there is to those that have waited longest; gives them, a bounded number.
    fn promise_some(&mut self, now: Mono) -> Vec<EntryId> {
        self.promised.retain(|_, promise| promise.until > now);
        let mut woken = Vec::new();
        for line in [&mut self.small, &mut self.large] {
            for _ in 0..READS_MAX {
                let Some(&(id, bytes)) = line.front() else {
                    break;
                };
                let Some(permit) = self.ledger.read_back(bytes) else {
                    break;
                };
                let until = now.plus_ms(PROMISE_MS_MAX);
                self.promised.insert(id, Promise { permit, until });
                line.pop_front();
                woken.push(id);
            }
        }
        woken
    }

    fn read(&mut self, reading: Reading) -> Action {
        self.last_read += 1;
        let read = ReadId(self.last_read);
        let placement = reading.placement;
        self.reads.insert(read, reading);
        Action::Read { read, placement }
    }
}

impl ShardCore {
    /// The message of an entry in flight, for a purpose.
    pub(super) fn content_for(&mut self, id: EntryId, purpose: Purpose) -> Given {
        let converts = matches!(purpose, Purpose::Send(conn) if self.pool.converts(conn));
        if let Some(kept) = self.content.kept.get(&id) {
            let message = Rc::clone(&kept.message);
            // Only what is 8-bit is converted, and that is counted beside what is kept.
            if !converts || message.content.is_ascii() {
                return Given::Here(Held {
                    message,
                    permit: None,
                });
            }
            let bytes = converted_bytes(message.content.len());
            return match self.content.room(id, bytes) {
                Some(permit) => Given::Here(Held {
                    message,
                    permit: Some(permit),
                }),
                None => Given::NoRoom,
            };
        }
        // Whether it has to be converted is known when it is read.
        let bytes = self.mail.get(id).placement.bytes as usize;
        let permit = match purpose {
            Purpose::Send(_) => self.content.room(id, bytes),
            Purpose::Settle(_) | Purpose::Transfer => {
                Some(self.content.ledger.read_back_unasked(bytes))
            }
        };
        let Some(permit) = permit else {
            return Given::NoRoom;
        };
        self.read_record(id, purpose, permit);
        Given::BeingRead
    }

    fn read_record(&mut self, entry: EntryId, purpose: Purpose, permit: Permit) {
        let placement = self.readable_placement(entry);
        let reading = Reading {
            entry,
            purpose,
            placement,
            permit,
        };
        let action = self.content.read(reading);
        self.actions.push(action);
    }

    /// Where the message of an entry can be read back.
    fn readable_placement(&self, id: EntryId) -> Placement {
        let entry = self.mail.get(id);
        // A copy that is not durable cannot be read back yet; its original can.
        match self.moves.copies.get(&entry.queue_id) {
            Some(moving) if moving.to == entry.placement => moving.from,
            _ => entry.placement,
        }
    }

    /// A record was read back, or could not be: goes on with what it was wanted for.
    pub(super) fn record_read(
        &mut self,
        read: ReadId,
        result: Result<Vec<u8>, DiskError>,
        now: Now,
    ) {
        let Some(reading) = self.content.reads.remove(&read) else {
            return;
        };
        let (entry, placement) = (reading.entry, reading.placement);
        let message = match result {
            Ok(bytes) => self
                .decode_message(placement, bytes)
                .map_err(Unread::Damaged),
            Err(error) => Err(Unread::Disk(error)),
        };
        if message.is_err() && self.readable_placement(entry) != placement {
            // Compaction has moved it meanwhile, and its old place is gone or written over.
            return self.read_record(entry, reading.purpose, reading.permit);
        }
        let mut permit = reading.permit;
        if let (Ok(message), Purpose::Send(conn)) = (&message, &reading.purpose)
            && self.pool.converts(*conn)
            && !message.content.is_ascii()
        {
            let whole_bytes = placement.bytes as usize + converted_bytes(message.content.len());
            if !permit.grow_to(whole_bytes) {
                // It is read again when there is room for both.
                self.content.wait(entry, whole_bytes);
                drop(permit);
                return self.not_loaded(*conn, now);
            }
        }
        let held = message.map(|message| Held {
            message: Rc::new(message),
            permit: Some(permit),
        });
        match (held, reading.purpose) {
            (Ok(held), Purpose::Send(conn)) => self.loaded(conn, entry, held, now),
            (Ok(held), Purpose::Settle(unconnected)) => {
                self.settle_unconnected(entry, &held.message, unconnected, now);
            }
            (Ok(held), Purpose::Transfer) => self.transfer_message(entry, &held.message, now),
            (Err(Unread::Disk(error)), Purpose::Transfer) if !self.is_expired(entry, now) => {
                self.report(format!("a message to be moved to another shard: {error}"));
                self.transfer_failed(entry);
            }
            (Err(why), purpose) => {
                self.not_read(entry, why, now);
                match purpose {
                    Purpose::Send(conn) => self.not_loaded(conn, now),
                    Purpose::Transfer => self.moves.handovers.gave_up_one(),
                    Purpose::Settle(_) => {}
                }
            }
        }
    }

    /// What the disk did not give back it may give the next time; what is damaged is out of the queue.
    fn not_read(&mut self, id: EntryId, why: Unread, now: Now) {
        match why {
            Unread::Disk(error) if !self.is_expired(id, now) => {
                let retry_at_s = self.mail.seconds_after(UNREAD_RETRY_MS, now);
                let queue_id = self.mail.get(id).queue_id;
                self.report(format!(
                    "message {queue_id} cannot be read back: {error}; it is tried again in \
                     {} s",
                    UNREAD_RETRY_MS / 1000
                ));
                self.mail.deferred(id, retry_at_s, &mut self.counters);
            }
            Unread::Disk(error) => self.quarantine(id, &error.to_string()),
            Unread::Damaged(why) => self.quarantine(id, &why),
        }
    }

    /// Entries whose content had to wait for memory are ready again once there is some.
    pub(super) fn wake_for_memory(&mut self, now: Now) {
        for id in self.content.promise_some(now.mono) {
            self.make_ready(id, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::QueueId;
    use crate::schedule::index::{Entry, Index};

    const MIB: usize = 1 << 20;

    fn entries<const N: usize>() -> [EntryId; N] {
        let mut index = Index::default();
        std::array::from_fn(|n| index.insert(Entry::new(QueueId(n as u64 + 1))))
    }

    #[test]
    fn small_content_does_not_wait_behind_large() {
        let mut content = Content::new(8 * MIB);
        let [first, large, small] = entries();
        let _first = content.room(first, 30 * MIB).unwrap();
        assert!(content.room(large, 30 * MIB).is_none());
        assert!(content.is_waiting(large));
        let taken = content.room(small, 4096);
        assert!(taken.is_some(), "its share is its own");
    }

    #[test]
    fn large_content_is_not_overtaken_for_ever_by_less_large() {
        let mut content = Content::new(8 * MIB);
        let [first, large, later, last] = entries();
        let running = content.room(first, MIB).unwrap();
        assert!(content.room(large, 30 * MIB).is_none());
        assert!(content.room(later, MIB / 2).is_none(), "it waits its turn");
        assert_eq!(content.promise_some(Mono(0)), []);
        drop(running);
        assert_eq!(content.promise_some(Mono(0)), [large]);
        // A line that others join meanwhile does not take what was promised.
        assert!(content.room(last, MIB / 2).is_none());
        let running = content.room(large, 30 * MIB).unwrap();
        assert_eq!(content.promise_some(Mono(1)), []);
        drop(running);
        assert_eq!(content.promise_some(Mono(2)), [later, last]);
    }

    #[test]
    fn room_that_nobody_comes_for_is_given_to_the_next() {
        let mut content = Content::new(8 * MIB);
        let [first, large, next] = entries();
        let running = content.room(first, 3 * MIB).unwrap();
        assert!(content.room(large, 3 * MIB).is_none() && content.room(next, 3 * MIB).is_none());
        drop(running);
        assert_eq!(content.promise_some(Mono(0)), [large]);
        let later = Mono(0).plus_ms(PROMISE_MS_MAX - 1);
        assert_eq!(content.promise_some(later), []);
        assert_eq!(content.promise_some(later.plus_ms(1)), [next]);
        content.forget(next);
        let taken = content.room(large, 3 * MIB);
        assert!(taken.is_some(), "what is forgotten holds nothing");
    }
}
