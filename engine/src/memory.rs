//! Content in memory: one ledger a shard, so that one limit holds for all who keep any.
//!
//! Sessions that receive, complete messages that wait to be admitted, accepted content kept for its first delivery, content read back for delivery,
//! its conversion to 7 bits, and parts of messages on their way to other shards take from the same
//! `[limits] memory_bytes_max`; records that wait for the disk are counted by the store and given to the
//! questions here. Who may not take more is told so: a client 452, a delivery waits until another has
//! ended. All but what sessions hold is counted by a [`Permit`] that stays with it, so that nobody can
//! forget to give it back.

use std::cell::Cell;
use std::rc::Rc;

/// Content that is taken whatever is free, bytes: a message of usual size must not wait behind large ones.
pub const SMALL_BYTES_MAX: usize = 64 * 1024;

/// Bytes of content in one shard's memory; a clone counts in the same book.
#[derive(Clone, Debug)]
pub struct Ledger(Rc<Book>);

#[derive(Debug)]
struct Book {
    bytes_max: usize,
    receiving: Cell<usize>,
    at_door: Cell<usize>,
    kept: Cell<usize>,
    crossing: Cell<usize>,
    /// Read back, small content and large apart: each has a share of its own.
    small: Cell<usize>,
    large: Cell<usize>,
}

/// What memory is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    AtDoor,
    Kept,
    Crossing,
    ReadBack,
}

impl Book {
    const fn column(&self, used: Use, bytes: usize) -> &Cell<usize> {
        match used {
            Use::AtDoor => &self.at_door,
            Use::Kept => &self.kept,
            Use::Crossing => &self.crossing,
            Use::ReadBack if bytes <= SMALL_BYTES_MAX => &self.small,
            Use::ReadBack => &self.large,
        }
    }
}

/// Memory taken for content, and given back when this is dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the memory back"]
pub struct Permit {
    bytes: usize,
    used: Use,
    book: Rc<Book>,
}

impl Permit {
    /// What it is for, bytes.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes more for the same content that was read back, `whole_bytes` in all; `false` if that has to
    /// wait. Whoever holds all there is is let through.
    pub fn grow_to(&mut self, whole_bytes: usize) -> bool {
        if whole_bytes <= self.bytes {
            return true;
        }
        self.give();
        let fits = Ledger::fits(&self.book, whole_bytes);
        self.take(if fits { whole_bytes } else { self.bytes });
        fits
    }

    fn take(&mut self, bytes: usize) {
        self.bytes = bytes;
        let column = self.book.column(self.used, bytes);
        column.set(column.get() + bytes);
    }

    fn give(&self) {
        let column = self.book.column(self.used, self.bytes);
        column.set(column.get() - self.bytes);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.give();
    }
}

impl Ledger {
    /// An empty one; `bytes_max` is this shard's part of the limit.
    pub fn new(bytes_max: usize) -> Self {
        Self(Rc::new(Book {
            bytes_max,
            receiving: Cell::new(0),
            at_door: Cell::new(0),
            kept: Cell::new(0),
            crossing: Cell::new(0),
            small: Cell::new(0),
            large: Cell::new(0),
        }))
    }

    /// What may be in memory, bytes.
    pub fn bytes_max(&self) -> usize {
        self.0.bytes_max
    }

    /// A session holds `after` bytes and no longer `before`. `others`: bytes that wait for the disk.
    /// Whether that is within the limit; if not, the session gives its content up.
    pub fn receive(&self, before: usize, after: usize, others: usize) -> bool {
        let receiving = &self.0.receiving;
        receiving.set(receiving.get().saturating_sub(before) + after);
        after <= before || after <= SMALL_BYTES_MAX || !self.is_full(others)
    }

    /// Whether no more content should come in. A quarter is left to deliveries: what goes out makes room,
    /// what comes in does not.
    pub fn is_full(&self, others: usize) -> bool {
        let bytes_max = self.bytes_max();
        self.bytes() + others > bytes_max - bytes_max / 4
    }

    /// Takes `bytes` for a message that waits to be admitted; `None` if those that do would have more than
    /// a quarter of the limit. One is always let through.
    pub fn wait_at_door(&self, bytes: usize) -> Option<Permit> {
        let waiting = self.0.at_door.get();
        let fits = waiting == 0 || waiting + bytes <= self.bytes_max() / 4;
        fits.then(|| self.permit(Use::AtDoor, bytes))
    }

    /// Counts content kept for its first delivery.
    pub fn keep(&self, bytes: usize) -> Permit {
        self.permit(Use::Kept, bytes)
    }

    /// Counts a part of a message on its way to another shard, until that has answered.
    pub fn cross(&self, bytes: usize) -> Permit {
        self.permit(Use::Crossing, bytes)
    }

    /// Takes `bytes` for content to be read back; `None` if it has to wait. One is always let through.
    pub fn read_back(&self, bytes: usize) -> Option<Permit> {
        Self::fits(&self.0, bytes).then(|| self.read_back_unasked(bytes))
    }

    /// As [`Self::read_back`], for what cannot wait.
    pub fn read_back_unasked(&self, bytes: usize) -> Permit {
        self.permit(Use::ReadBack, bytes)
    }

    /// Bytes of content in memory, whatever for.
    pub fn bytes(&self) -> usize {
        let Book {
            receiving,
            at_door,
            kept,
            crossing,
            small,
            large,
            ..
        } = &*self.0;
        [receiving, at_door, kept, crossing, small, large]
            .into_iter()
            .map(Cell::get)
            .sum()
    }

    /// Bytes of messages that wait to be admitted.
    pub fn at_door_bytes(&self) -> usize {
        self.0.at_door.get()
    }

    /// Bytes of content kept for its first delivery.
    pub fn kept_bytes(&self) -> usize {
        self.0.kept.get()
    }

    fn permit(&self, used: Use, bytes: usize) -> Permit {
        let book = Rc::clone(&self.0);
        let mut permit = Permit {
            bytes: 0,
            used,
            book,
        };
        permit.take(bytes);
        permit
    }

    fn fits(book: &Book, bytes: usize) -> bool {
        let taken = book.column(Use::ReadBack, bytes).get();
        taken == 0 || taken + bytes <= book.bytes_max / 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn large_content_waits_and_small_passes() {
        let ledger = Ledger::new(256 * MIB);
        let first = ledger.read_back(30 * MIB).unwrap();
        let second = ledger.read_back(30 * MIB).unwrap();
        assert!(ledger.read_back(30 * MIB).is_none());
        let small = ledger.read_back(4096).unwrap();
        drop(first);
        let third = ledger.read_back(30 * MIB).unwrap();
        assert_eq!(ledger.bytes(), 60 * MIB + 4096);
        drop((second, small, third));
        assert_eq!(ledger.bytes(), 0);
        let ledger = Ledger::new(8 * MIB);
        let only = ledger.read_back(30 * MIB);
        assert!(only.is_some(), "one is always let through");
        assert!(ledger.read_back(30 * MIB).is_none());
    }

    #[test]
    fn a_permit_that_grows_is_counted_in_its_share() {
        let ledger = Ledger::new(4 * MIB);
        let mut one = ledger.read_back(SMALL_BYTES_MAX).unwrap();
        let other = ledger.read_back(MIB / 2).unwrap();
        assert!(!one.grow_to(MIB), "there is no room beside the other");
        assert_eq!(one.bytes(), SMALL_BYTES_MAX);
        drop(other);
        assert!(one.grow_to(3 * MIB), "alone it is let through");
        assert_eq!(ledger.bytes(), 3 * MIB);
        assert!(ledger.read_back(SMALL_BYTES_MAX + 1).is_none());
        assert!(one.grow_to(MIB), "it has as much");
        drop(one);
        assert_eq!(ledger.bytes(), 0);
    }

    #[test]
    fn session_that_grows_beyond_the_limit_is_refused() {
        let ledger = Ledger::new(100 * MIB);
        assert!(ledger.receive(0, 40 * MIB, 0) && ledger.receive(0, 30 * MIB, 0));
        assert!(!ledger.receive(30 * MIB, 31 * MIB, 10 * MIB));
        assert!(ledger.is_full(10 * MIB));
        assert!(ledger.receive(31 * MIB, 0, 10 * MIB));
        assert!(!ledger.is_full(10 * MIB));
        let (kept, crossing) = (ledger.keep(20 * MIB), ledger.cross(20 * MIB));
        assert!(ledger.is_full(0), "what is kept or goes elsewhere counts");
        drop(crossing);
        assert!(!ledger.is_full(0));
        drop(kept);
        assert_eq!(ledger.kept_bytes(), 0);
    }
}
