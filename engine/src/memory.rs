//! Content in memory: one ledger a shard, so that one limit holds for all who keep any.
//!
//! Sessions that receive, accepted content kept for its first delivery, and content read back for
//! delivery take from the same `[limits] memory_bytes_max`; records that wait for the disk are counted by
//! the store and given to the questions here. Who may not take more is told so: a client 452, a delivery
//! waits until another has ended.

/// Content that is taken whatever is free, bytes: a message of usual size must not wait behind large ones.
pub const SMALL_BYTES_MAX: usize = 64 * 1024;

/// Bytes of content in one shard's memory.
#[derive(Clone, Debug)]
pub struct Ledger {
    bytes_max: usize,
    receiving: usize,
    read_back: usize,
    /// Of `read_back`, what was taken for small content.
    read_back_small: usize,
}

impl Ledger {
    /// An empty one; `bytes_max` is this shard's part of the limit.
    pub const fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            receiving: 0,
            read_back: 0,
            read_back_small: 0,
        }
    }

    /// What may be in memory, bytes.
    pub const fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// A session holds `after` bytes and no longer `before`. `others`: bytes kept and bytes that wait for
    /// the disk. Whether that is within the limit; if not, the session gives its content up.
    pub const fn receive(&mut self, before: usize, after: usize, others: usize) -> bool {
        self.receiving = self.receiving.saturating_sub(before) + after;
        after <= before || after <= SMALL_BYTES_MAX || !self.is_full(others)
    }

    /// Whether no more content should come in. A quarter is left to deliveries: what goes out makes room,
    /// what comes in does not.
    pub const fn is_full(&self, others: usize) -> bool {
        self.receiving + others + self.read_back > self.bytes_max - self.bytes_max / 4
    }

    /// Takes `bytes` for content to be read back; `false` if it has to wait. One is always let through.
    pub const fn read_back(&mut self, bytes: usize) -> bool {
        let large = self.read_back - self.read_back_small;
        let share = self.bytes_max / 4;
        let fits = if bytes <= SMALL_BYTES_MAX {
            self.read_back_small == 0 || self.read_back_small + bytes <= share
        } else {
            large == 0 || large + bytes <= share
        };
        if fits {
            self.read_back_unasked(bytes);
        }
        fits
    }

    /// As [`Self::read_back`], for what cannot wait.
    pub const fn read_back_unasked(&mut self, bytes: usize) {
        self.read_back += bytes;
        if bytes <= SMALL_BYTES_MAX {
            self.read_back_small += bytes;
        }
    }

    /// Content that was read back has been dropped; 0 for content that was not.
    pub const fn dropped(&mut self, bytes: usize) {
        self.read_back = self.read_back.saturating_sub(bytes);
        if bytes <= SMALL_BYTES_MAX {
            self.read_back_small = self.read_back_small.saturating_sub(bytes);
        }
    }

    /// Bytes of content read back.
    pub const fn read_back_bytes(&self) -> usize {
        self.read_back
    }

    /// Bytes that sessions hold.
    pub const fn receiving_bytes(&self) -> usize {
        self.receiving
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn large_content_waits_and_small_passes() {
        let mut ledger = Ledger::new(256 * MIB);
        assert!(ledger.read_back(30 * MIB) && ledger.read_back(30 * MIB));
        assert!(!ledger.read_back(30 * MIB));
        assert!(ledger.read_back(4096));
        ledger.dropped(30 * MIB);
        assert!(ledger.read_back(30 * MIB));
        ledger.dropped(4096);
        ledger.dropped(30 * MIB);
        ledger.dropped(30 * MIB);
        assert_eq!(ledger.read_back_bytes(), 0);
        let mut small = Ledger::new(8 * MIB);
        assert!(small.read_back(30 * MIB), "one is always let through");
        assert!(!small.read_back(30 * MIB));
    }

    #[test]
    fn session_that_grows_beyond_the_limit_is_refused() {
        let mut ledger = Ledger::new(100 * MIB);
        assert!(ledger.receive(0, 40 * MIB, 0) && ledger.receive(0, 30 * MIB, 0));
        assert!(!ledger.receive(30 * MIB, 31 * MIB, 10 * MIB));
        assert!(ledger.is_full(10 * MIB));
        assert!(ledger.receive(31 * MIB, 0, 10 * MIB));
        assert!(!ledger.is_full(10 * MIB));
    }
}
