//! The queue in memory: one small entry for each (message, recipient domain) that is not done.
//!
//! Envelope and content stay on disk; an entry knows where. At ten million messages every byte here
//! is ten megabytes, so an entry takes [`ENTRY_BYTES`] and the table of queue ids some eight more.
//! Lists of entries (`list`, `wheel`) are links inside them.

use hashbrown::HashTable;

use crate::ids::{Offset, QueueId, SegmentId};
use crate::queue::segment::Placement;

/// Size of one [`Entry`] in memory.
pub const ENTRY_BYTES: usize = std::mem::size_of::<Entry>();
const _: () = assert!(
    ENTRY_BYTES <= 48,
    "the index is budgeted at 64 bytes a message with its table"
);

/// Names an entry for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryId(std::num::NonZeroU32);

impl EntryId {
    fn from_slot(slot: usize) -> Self {
        let number = u32::try_from(slot + 1)
            .ok()
            .and_then(std::num::NonZeroU32::new);
        Self(number.expect("queued_messages_max keeps the index below 2^32 entries"))
    }

    const fn slot(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// Names a destination of a shard, for as long as it has mail or a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationId(u32);

impl DestinationId {
    pub(crate) const fn new(slot: u32) -> Self {
        Self(slot)
    }

    pub(super) const fn slot(self) -> usize {
        self.0 as usize
    }
}

/// What an entry is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Found at replay; an outcome may still be read.
    Replayed,
    /// Not to be sent yet: its batch is not durable, or another owner has not confirmed.
    Storing,
    /// Durable, and not to be sent before its handover to us is noted.
    Held,
    /// Durable at its owner, and kept until the handover to it is noted.
    Handed,
    /// In its destination's ready list.
    Ready,
    /// Taken for a connection or to be settled without one; its record may be being read back.
    InFlight,
    /// With a connection.
    Sending,
    /// In the wheel until `retry_at_s`.
    Deferred,
    /// Stopped by an operator, and in no list.
    Suspended,
    /// No entry any more: free, or freed when the list that still links it comes to it.
    Gone,
}

/// One message for one recipient domain, or what is left of it beside the parts that were sent or are.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The message.
    pub queue_id: QueueId,
    /// Where its record lies.
    pub placement: Placement,
    /// Its recipients' domain.
    pub destination: DestinationId,
    /// Where it is counted by group: the number of a row that stays while the entry does.
    pub group: u32,
    /// Link of the list it is in.
    pub(super) next: Option<EntryId>,
    pub(super) sibling: Option<EntryId>,
    /// Not before this second since the epoch.
    pub retry_at_s: u32,
    /// First of its recipients within the record.
    pub recipient_first: u16,
    /// How many recipients, done ones included.
    pub recipient_count: u16,
    /// What it is doing.
    pub state: State,
    /// Delivery attempts made.
    pub attempts: u16,
}

impl Entry {
    /// An entry with nothing known but its message.
    pub const fn new(queue_id: QueueId) -> Self {
        Self {
            queue_id,
            placement: Placement {
                segment: SegmentId(0),
                offset: Offset(0),
                bytes: 0,
            },
            destination: DestinationId::new(0),
            group: 0,
            next: None,
            sibling: None,
            retry_at_s: 0,
            recipient_first: 0,
            recipient_count: 0,
            state: State::Storing,
            attempts: 0,
        }
    }
}

const CHUNK_ENTRIES: usize = 4096;

/// All entries of a shard, by slot and by queue id.
#[derive(Debug, Default)]
pub struct Index {
    // Chunks rather than one vector: growing must not copy, nor need twice the memory.
    chunks: Vec<Box<[Entry]>>,
    free: Option<EntryId>,
    used: usize,
    len: usize,
    by_queue_id: HashTable<EntryId>,
}

fn hash(queue_id: QueueId) -> u64 {
    let mixed = (queue_id.0 ^ queue_id.0 >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}

impl Index {
    /// How many entries live.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry; `id` must not have been removed.
    pub fn get(&self, id: EntryId) -> &Entry {
        &self.chunks[id.slot() / CHUNK_ENTRIES][id.slot() % CHUNK_ENTRIES]
    }

    /// The entry, to change; `id` must not have been removed.
    pub fn get_mut(&mut self, id: EntryId) -> &mut Entry {
        &mut self.chunks[id.slot() / CHUNK_ENTRIES][id.slot() % CHUNK_ENTRIES]
    }

    /// Adds an entry; others of the same message become its siblings.
    pub fn insert(&mut self, mut entry: Entry) -> EntryId {
        let queue_id = entry.queue_id;
        let id = match self.free {
            Some(id) => {
                self.free = self.get(id).next;
                id
            }
            None => {
                if self.used == self.chunks.len() * CHUNK_ENTRIES {
                    let empty = Entry::new(QueueId(0));
                    self.chunks
                        .push(vec![empty; CHUNK_ENTRIES].into_boxed_slice());
                }
                self.used += 1;
                EntryId::from_slot(self.used - 1)
            }
        };
        entry.next = None;
        entry.sibling = self.find(queue_id);
        *self.get_mut(id) = entry;
        self.len += 1;
        let head = self.get(id).sibling;
        match head {
            Some(head) => {
                let chunks = &self.chunks;
                let slot = self.by_queue_id.find_mut(hash(queue_id), |other| {
                    queue_id_of(chunks, *other) == queue_id
                });
                debug_assert_eq!(slot.as_deref(), Some(&head));
                if let Some(slot) = slot {
                    *slot = id;
                }
            }
            None => {
                let chunks = &self.chunks;
                self.by_queue_id.insert_unique(hash(queue_id), id, |other| {
                    hash(queue_id_of(chunks, *other))
                });
            }
        }
        id
    }

    /// Nobody finds the entry any more. Returns whether it was the last of its message. To be followed by
    /// [`Index::give`] once no list links it.
    pub fn unlink(&mut self, id: EntryId) -> bool {
        let (queue_id, after) = (self.get(id).queue_id, self.get(id).sibling);
        let chunks = &self.chunks;
        let found = self.by_queue_id.find_entry(hash(queue_id), |other| {
            queue_id_of(chunks, *other) == queue_id
        });
        let mut last = false;
        if let Ok(mut found) = found {
            if *found.get() == id {
                match after {
                    Some(after) => *found.get_mut() = after,
                    None => {
                        found.remove();
                        last = true;
                    }
                }
            } else {
                let mut before = *found.get();
                while let Some(sibling) = self.get(before).sibling {
                    if sibling == id {
                        self.get_mut(before).sibling = after;
                        break;
                    }
                    before = sibling;
                }
            }
        }
        *self.get_mut(id) = Entry {
            // A list may still go on from here.
            next: self.get(id).next,
            state: State::Gone,
            ..Entry::new(QueueId(0))
        };
        self.len -= 1;
        last
    }

    /// The slot of an unlinked entry, in no list, is free from now on.
    pub fn give(&mut self, id: EntryId) {
        debug_assert_eq!(self.get(id).state, State::Gone, "it is somebody's");
        self.get_mut(id).next = self.free;
        self.free = Some(id);
    }

    /// One entry of the message; [`Index::siblings`] gives all.
    pub fn find(&self, queue_id: QueueId) -> Option<EntryId> {
        self.by_queue_id
            .find(hash(queue_id), |other| {
                queue_id_of(&self.chunks, *other) == queue_id
            })
            .copied()
    }

    /// Whether the message has no other entry.
    pub fn is_only(&self, id: EntryId) -> bool {
        self.get(id).sibling.is_none() && self.find(self.get(id).queue_id) == Some(id)
    }

    /// Every entry of the message, newest first.
    pub fn siblings(&self, queue_id: QueueId) -> impl Iterator<Item = EntryId> + '_ {
        let mut next = self.find(queue_id);
        std::iter::from_fn(move || {
            let id = next?;
            next = self.get(id).sibling;
            Some(id)
        })
    }

    /// Entries of slots `from..from + count` that live, and the slot to go on from; `None` at the end.
    pub fn sweep(&self, from: usize, count: usize) -> (Vec<EntryId>, Option<usize>) {
        let end = (from + count).min(self.used);
        let live = (from..end)
            .map(EntryId::from_slot)
            .filter(|id| self.get(*id).queue_id != QueueId(0))
            .collect();
        (live, (end < self.used).then_some(end))
    }
}

fn queue_id_of(chunks: &[Box<[Entry]>], id: EntryId) -> QueueId {
    chunks[id.slot() / CHUNK_ENTRIES][id.slot() % CHUNK_ENTRIES].queue_id
}

/// A first-in first-out list of entries, linked through them.
#[derive(Debug, Default)]
pub struct List {
    head: Option<EntryId>,
    tail: Option<EntryId>,
}

impl List {
    /// Whether nothing is in it.
    pub const fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// The first, which stays.
    pub const fn first(&self) -> Option<EntryId> {
        self.head
    }

    /// Appends `id`, which is in no list.
    pub fn push(&mut self, index: &mut Index, id: EntryId) {
        index.get_mut(id).next = None;
        match self.tail {
            Some(tail) => index.get_mut(tail).next = Some(id),
            None => self.head = Some(id),
        }
        self.tail = Some(id);
    }

    /// Every entry in it, in order.
    pub fn iter<'a>(&self, index: &'a Index) -> impl Iterator<Item = EntryId> + use<'a> {
        std::iter::successors(self.head, |id| index.get(*id).next)
    }

    /// Appends all of `other`, which is empty afterwards.
    pub fn append(&mut self, index: &mut Index, other: &mut Self) {
        let Some(head) = other.head.take() else {
            return;
        };
        match self.tail {
            Some(tail) => index.get_mut(tail).next = Some(head),
            None => self.head = Some(head),
        }
        self.tail = other.tail.take();
    }

    /// Takes the first.
    pub fn pop(&mut self, index: &mut Index) -> Option<EntryId> {
        let id = self.head?;
        self.head = index.get_mut(id).next.take();
        if self.head.is_none() {
            self.tail = None;
        }
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, VecDeque};

    #[test]
    fn index_agrees_with_a_map_of_lists_under_random_use() {
        let mut rng = crate::random::Random::new(11);
        let mut index = Index::default();
        let mut model: HashMap<u64, Vec<EntryId>> = HashMap::new();
        for _ in 0..30_000 {
            let message = 1 + rng.below(2_000);
            let of_message = model.entry(message).or_default();
            if rng.below(3) > 0 || of_message.is_empty() {
                of_message.push(index.insert(Entry::new(QueueId(message))));
            } else {
                let victim = of_message.swap_remove(rng.below(of_message.len() as u64) as usize);
                assert_eq!(index.unlink(victim), of_message.is_empty());
                index.give(victim);
            }
            let mut found: Vec<_> = index.siblings(QueueId(message)).collect();
            let mut expected = of_message.clone();
            found.sort_by_key(|id| id.slot());
            expected.sort_by_key(|id| id.slot());
            assert_eq!(found, expected);
        }
        let live = model.values().map(Vec::len).sum::<usize>();
        assert_eq!(index.len(), live);
        let (mut swept, mut from) = (0, Some(0));
        while let Some(start) = from {
            let (ids, next) = index.sweep(start, 777);
            swept += ids.len();
            from = next;
        }
        assert_eq!(swept, live);
    }

    #[test]
    fn list_keeps_order() {
        let mut index = Index::default();
        let (mut list, mut model) = (List::default(), VecDeque::new());
        for n in 0..100 {
            let id = index.insert(Entry::new(QueueId(n + 1)));
            list.push(&mut index, id);
            model.push_back(id);
            if n % 3 == 0 {
                assert_eq!(list.pop(&mut index), model.pop_front());
            }
        }
        while let Some(id) = list.pop(&mut index) {
            assert_eq!(Some(id), model.pop_front());
        }
        assert!(model.is_empty() && list.is_empty());
    }
}
