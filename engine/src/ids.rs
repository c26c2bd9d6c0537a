//! Numbers with a meaning of their own, so that none is taken for another.

use std::fmt;
use std::str::FromStr;

/// A receiving site, as one shard counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SiteId(pub(crate) u32);

/// Numbers that are given out one after another, each kind a type of its own.
macro_rules! tokens {
    ($($(#[$meta:meta])* $name:ident;)+) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// Counts on, and gives the new number.
            pub const fn next(&mut self) -> Self {
                self.0 += 1;
                *self
            }
        }
    )+};
}

tokens! {
    /// Names a transaction on a connection until its results are there.
    TransactionToken;
    /// Names an SMTP session of a shard, whose transaction is to be answered.
    SessionTicket;
    /// Names a transaction of which several shards store a part; its first shard's to choose.
    SplitId;
    /// Names a notification until it is stored, and the failures it tells of recorded.
    NoticeId;
    /// Names a message of a shard that is no more while it is read.
    AdoptedRead;
    /// Names what one owner stores of such a message.
    AdoptedPart;
}

/// A shard: one pinned executor with its queue, 0-based.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// Sequence number of a segment file within its shard; never used twice for one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u32);

/// Byte offset within a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u32);

/// Names one handover of mail from a shard's folder to the shards that own it now
/// (docs/decisions/015): [`Self::BITS`] random bits, never 0. Written as 12 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandoverId(u64);

impl HandoverId {
    /// How many bits it has.
    pub const BITS: u32 = 48;

    /// Out of random bits, of which the lower ones count.
    pub const fn from_random(bits: u64) -> Self {
        let id = bits & ((1 << Self::BITS) - 1);
        Self(if id == 0 { 1 } else { id })
    }

    /// As a number; `None` if it is none that a handover may have.
    pub const fn from_number(number: u64) -> Option<Self> {
        if number == 0 || number >> Self::BITS != 0 {
            None
        } else {
            Some(Self(number))
        }
    }

    /// As a number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Out of its text form.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 12 || !text.bytes().all(is_hex) {
            return None;
        }
        Self::from_number(u64::from_str_radix(text, 16).ok()?)
    }
}

impl fmt::Display for HandoverId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

/// Names one accepted message for as long as the installation lives, on every shard that holds a
/// part of it.
///
/// Layout, high to low: 42 bits milliseconds since the epoch, 8 bits accepting shard, 14 bits
/// sequence. Written as 13 characters of Crockford's base32, so ids sort by time as text too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u64);

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl QueueId {
    /// Length of the text form, characters.
    pub const TEXT_CHARS: usize = 13;

    /// Milliseconds since the epoch at which the message was accepted.
    pub const fn accepted_ms(self) -> u64 {
        self.0 >> 22
    }

    /// The text form as ASCII bytes.
    pub fn text(self) -> [u8; Self::TEXT_CHARS] {
        let mut out = [0; Self::TEXT_CHARS];
        let mut rest = self.0;
        for slot in out.iter_mut().rev() {
            *slot = ALPHABET[(rest & 31) as usize];
            rest >>= 5;
        }
        out
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.text() {
            fmt::Write::write_char(f, byte as char)?;
        }
        Ok(())
    }
}

/// The text is not a queue id: 13 characters of Crockford's base32, at most `FZZZZZZZZZZZZ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAQueueId;

impl fmt::Display for NotAQueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a queue id: expected 13 characters out of 0-9 A-Z without I, L, O, U")
    }
}

impl std::error::Error for NotAQueueId {}

impl FromStr for QueueId {
    type Err = NotAQueueId;

    fn from_str(text: &str) -> Result<Self, NotAQueueId> {
        if text.len() != Self::TEXT_CHARS {
            return Err(NotAQueueId);
        }
        let mut value: u64 = 0;
        for byte in text.bytes() {
            let upper = byte.to_ascii_uppercase();
            let digit = ALPHABET
                .iter()
                .position(|&a| a == upper)
                .ok_or(NotAQueueId)? as u64;
            if value >> 59 != 0 {
                return Err(NotAQueueId);
            }
            value = value << 5 | digit;
        }
        Ok(Self(value))
    }
}

/// Hands out queue ids for one shard, strictly rising even if the wall clock goes back.
///
/// Of earlier runs it learns what is found at replay, but new mail does not wait for that, and an id may
/// live on in another shard's folder only. So each run begins at a place of its own within the
/// millisecond, and at one of its own behind ids from the future: a clock that went back over a
/// restart does not lead to the same ids.
#[derive(Debug)]
pub struct QueueIds {
    shard: ShardId,
    last: u64,
    /// The last of earlier runs, as far as is known.
    seen: u64,
    first_of_ms: u64,
    /// Milliseconds left out behind it.
    skipped_ms: u64,
}

impl QueueIds {
    /// Ids for messages accepted by `shard`, whose number is taken modulo 256.
    /// `random` is this run's.
    pub const fn new(shard: ShardId, random: u64) -> Self {
        Self {
            shard,
            last: 0,
            seen: 0,
            first_of_ms: random & 0x3fff,
            skipped_ms: random >> 48,
        }
    }

    /// Never hand out an id up to `seen`; called for every id found at replay.
    pub fn saw(&mut self, seen: QueueId) {
        self.seen = self.seen.max(seen.0 >> 22 << 14 | seen.0 & 0x3fff);
    }

    /// The next id, from the wall clock in milliseconds.
    pub fn next(&mut self, unix_ms: u64) -> QueueId {
        self.last = (self.last + 1).max(unix_ms << 14 | self.first_of_ms);
        if self.seen >= self.last {
            let ms = (self.seen >> 14) + 1 + self.skipped_ms;
            self.last = ms << 14 | self.first_of_ms;
        }
        let (ms, sequence) = (self.last >> 14, self.last & 0x3fff);
        QueueId(ms << 22 | u64::from(self.shard.0 & 0xff) << 14 | sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handover_ids_are_written_as_12_digits_and_read_back() {
        let id = HandoverId::from_random(0xffff_0000_0000_00ab);
        assert_eq!(id.to_string(), "0000000000ab");
        assert_eq!(HandoverId::parse("0000000000ab"), Some(id));
        assert_eq!(HandoverId::from_random(0).number(), 1);
        for other in [
            "",
            "000000000000",
            "0000000000AB",
            "0000000000a",
            "+000000000ab",
        ] {
            assert_eq!(HandoverId::parse(other), None, "{other}");
        }
    }

    #[test]
    fn queue_id_text_reads_back_and_sorts_by_time() {
        let mut ids = QueueIds::new(ShardId(3), 0x3fff);
        let mut last = String::new();
        for ms in [
            1_700_000_000_000,
            1_700_000_000_000,
            1_600_000_000_000,
            1_800_000_000_000,
        ] {
            let id = ids.next(ms);
            let text = id.to_string();
            assert_eq!(text.parse(), Ok(id));
            assert!(text > last, "{text} must sort behind {last}");
            last = text;
        }
        assert_eq!("ZZZZZZZZZZZZZ".parse::<QueueId>(), Err(NotAQueueId));
        assert_eq!("0".parse::<QueueId>(), Err(NotAQueueId));
    }

    #[test]
    fn ids_seen_at_replay_are_not_handed_out_again() {
        let mut ids = QueueIds::new(ShardId(0), 7);
        let old = ids.next(2_000_000_000_000);
        let mut after_restart = QueueIds::new(ShardId(0), 7);
        after_restart.saw(old);
        assert!(after_restart.next(1_000_000_000_000) > old);
    }

    /// The clock went back over a restart: ids of mail that another shard still had were given again.
    #[test]
    fn another_run_in_the_same_millisecond_has_other_ids() {
        let ids = |random| QueueIds::new(ShardId(0), random).next(1_800_000_000_000);
        assert_ne!(ids(1), ids(2));
        assert_eq!(ids(1).accepted_ms(), 1_800_000_000_000);
        assert_eq!(ids(u64::MAX).accepted_ms(), 1_800_000_000_000);
        let behind = |random| {
            let mut ids = QueueIds::new(ShardId(0), random);
            ids.saw(QueueId(1_900_000_000_000 << 22));
            ids.next(1_800_000_000_000)
        };
        assert_ne!(behind(1), behind(2));
        assert_ne!(behind(1 << 48), behind(2 << 48));
        assert!(behind(0).accepted_ms() > 1_900_000_000_000);
    }
}
