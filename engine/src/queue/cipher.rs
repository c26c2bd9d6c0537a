//! AES-256-CTR and POLYVAL of one segment.
//!
//! All keys come from the master key by HKDF-SHA256 with the segment's random nonce as salt and
//! its stream, shard and number as info, so no two segments share a key. The keystream position of
//! a byte is its offset in the file: every byte is encrypted once only, since a segment is never
//! appended to after it was closed. The MAC covers offset and ciphertext (encrypt-then-MAC): a
//! record can be neither altered nor moved, neither within the segment nor into another.
//!
//! The MAC is built as GCM's (Wegman and Carter): a polynomial of the ciphertext at a secret point,
//! hidden by a mask, which is the record's offset encrypted under a key of its own. As with the
//! keystream, one mask must hide one text only: two different records at one offset of one use of a
//! file would give the point away. Decision 117.
//!
//! `aes` and `polyval` choose AES-NI/VAES and CLMUL when the processor has them.

use std::fmt;

use aes::Aes256;
use ctr::Ctr128BE;
use ctr::cipher::{BlockCipherEncrypt, KeyIvInit, StreamCipher, StreamCipherSeek};
use polyval::Polyval;
use polyval::universal_hash::{KeyInit, UniversalHash};
use zeroize::Zeroize;

use crate::ids::{Offset, SegmentId, ShardId};
use crate::keys::{KEY_BYTES, MasterKey};

/// Bytes of a segment's random nonce.
pub const NONCE_BYTES: usize = 16;
/// Bytes of a record's MAC: one block of POLYVAL (RFC 8452 §3).
pub const MAC_BYTES: usize = 16;

/// Random bytes of one use of a segment file; never used twice.
pub type Nonce = [u8; NONCE_BYTES];

/// Bytes of the point at which the MAC's polynomial is taken.
const POINT_BYTES: usize = 16;

/// What a segment's records are about; keys of different streams differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Stream {
    /// Messages and their outcomes.
    Queue = 1,
    /// The delivery log.
    DeliveryLog = 2,
    /// Snapshots of the counters.
    Counters = 3,
    /// Error addresses and suppression.
    ErrorAddresses = 4,
    /// Templates of composed mail.
    Templates = 5,
    /// What an operator has stopped.
    Stops = 6,
}

impl Stream {
    /// Every stream.
    pub const ALL: [Self; 6] = [
        Self::Queue,
        Self::DeliveryLog,
        Self::Counters,
        Self::ErrorAddresses,
        Self::Templates,
        Self::Stops,
    ];

    /// The stream of that number in a segment header.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| *stream as u8 == number)
    }

    /// The word for operators; also the name of its folder in a shard's directory.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::DeliveryLog => "log",
            Self::Counters => "counters",
            Self::ErrorAddresses => "errors",
            Self::Templates => "templates",
            Self::Stops => "stops",
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names one segment within an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// What it holds.
    pub stream: Stream,
    /// Whose it is.
    pub shard: ShardId,
    /// The segment.
    pub segment: SegmentId,
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "shard {} {} segment {}",
            self.shard.0, self.stream, self.segment.0
        )
    }
}

/// Encrypts and authenticates the records of one segment.
pub struct SegmentCipher {
    keystream: Ctr128BE<Aes256>,
    /// Makes of each offset the mask of the record there.
    masks: Aes256,
    /// Keyed once; each record's MAC starts from a copy, which saves computing the point's powers.
    polynomial: Polyval,
}

impl SegmentCipher {
    /// The cipher of segment `name` written with `nonce` under `key`.
    pub fn new(key: &MasterKey, name: SegmentName, nonce: &Nonce) -> Self {
        let mut keys = [0; 2 * KEY_BYTES + POINT_BYTES];
        key.expand(
            nonce,
            &[
                b"hikyaku segment 2",
                &[name.stream as u8],
                &name.shard.0.to_le_bytes(),
                &name.segment.0.to_le_bytes(),
            ],
            &mut keys,
        );
        let (encryption, authentication) = keys.split_at(KEY_BYTES);
        let (masks, point) = authentication.split_at(KEY_BYTES);
        let keystream = Ctr128BE::<Aes256>::new_from_slices(encryption, &[0; 16])
            .expect("AES-256 takes 32 bytes of key and 16 of counter");
        let masks = Aes256::new_from_slice(masks).expect("AES-256 takes 32 bytes of key");
        let polynomial = Polyval::new_from_slice(point).expect("POLYVAL takes 16 bytes of key");
        keys.zeroize();
        Self {
            keystream,
            masks,
            polynomial,
        }
    }

    /// Encrypts `record`, which stands at `offset` and whose last [`MAC_BYTES`] are left for the
    /// MAC, in place.
    pub fn seal(&mut self, offset: Offset, record: &mut [u8]) {
        let (text, mac) = record.split_at_mut(record.len() - MAC_BYTES);
        self.apply(offset.0, text);
        mac.copy_from_slice(&self.mac_of(offset, text));
    }

    /// Whether the last [`MAC_BYTES`] of `record`, still encrypted, are its MAC at `offset`.
    pub fn verify(&self, offset: Offset, record: &[u8]) -> bool {
        let Some((text, mac)) = record.split_last_chunk::<MAC_BYTES>() else {
            return false;
        };
        // One comparison of whole words: takes as long whatever differs.
        u128::from_ne_bytes(*mac) == u128::from_ne_bytes(self.mac_of(offset, text))
    }

    /// Encrypts or decrypts `bytes`, the first of which stands at `offset` of the file.
    pub fn apply(&mut self, offset: u32, bytes: &mut [u8]) {
        self.keystream.seek(offset);
        self.keystream.apply_keystream(bytes);
    }

    /// The MAC of `text`, encrypted, at `offset`: POLYVAL over the text, zeros to a multiple of 16,
    /// and its length; exclusive-or the encrypted offset.
    pub(super) fn mac_of(&self, offset: Offset, text: &[u8]) -> [u8; MAC_BYTES] {
        let mut polynomial = self.polynomial.clone();
        polynomial.update_padded(text);
        polynomial.update_padded(&(text.len() as u128).to_le_bytes());
        let hash: [u8; MAC_BYTES] = polynomial.finalize().into();
        let mut mask = u128::from(offset.0).to_le_bytes().into();
        self.masks.encrypt_block(&mut mask);
        let mask: [u8; MAC_BYTES] = mask.into();
        (u128::from_ne_bytes(hash) ^ u128::from_ne_bytes(mask)).to_ne_bytes()
    }
}

impl fmt::Debug for SegmentCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SegmentCipher(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(segment: u32) -> SegmentName {
        SegmentName {
            stream: Stream::Queue,
            shard: ShardId(0),
            segment: SegmentId(segment),
        }
    }

    fn cipher(name: SegmentName, nonce: u8) -> SegmentCipher {
        let key = MasterKey::from_bytes(&mut [7; KEY_BYTES]);
        SegmentCipher::new(&key, name, &[nonce; NONCE_BYTES])
    }

    #[test]
    fn sealed_record_verifies_only_where_it_was_written() {
        let mut sealed = vec![b'a'; 96];
        cipher(name(1), 1).seal(Offset(4096), &mut sealed);
        assert!(cipher(name(1), 1).verify(Offset(4096), &sealed));
        assert!(
            !cipher(name(1), 1).verify(Offset(4112), &sealed),
            "another offset"
        );
        assert!(
            !cipher(name(2), 1).verify(Offset(4096), &sealed),
            "another segment"
        );
        assert!(
            !cipher(name(1), 2).verify(Offset(4096), &sealed),
            "another use of the file"
        );
        let log = SegmentName {
            stream: Stream::DeliveryLog,
            ..name(1)
        };
        assert!(
            !cipher(log, 1).verify(Offset(4096), &sealed),
            "another stream"
        );
        let shard = SegmentName {
            shard: ShardId(1),
            ..name(1)
        };
        assert!(
            !cipher(shard, 1).verify(Offset(4096), &sealed),
            "another shard"
        );
        assert!(
            !cipher(name(1), 1).verify(Offset(4096), &sealed[..8]),
            "too short for a MAC"
        );
        for bit in 0..sealed.len() * 8 {
            sealed[bit / 8] ^= 1 << (bit % 8);
            assert!(
                !cipher(name(1), 1).verify(Offset(4096), &sealed),
                "bit {bit}"
            );
            sealed[bit / 8] ^= 1 << (bit % 8);
        }
    }

    /// RFC 8452 appendix A: POLYVAL itself is what its specification says; and the MAC is built of it
    /// as docs/segment-format.md says.
    #[test]
    fn mac_is_polyval_under_the_encrypted_offset() {
        let point = 0x25629347589242761d31f826ba4b757b_u128.to_be_bytes();
        let mut polyval = Polyval::new_from_slice(&point).expect("16 bytes");
        polyval.update_padded(&0x4f4f95668c83dfb6401762bb2d01a262_u128.to_be_bytes());
        polyval.update_padded(&0xd1a24ddd2721d006bbe45f20d3c9f362_u128.to_be_bytes());
        let hash: [u8; 16] = polyval.finalize().into();
        assert_eq!(
            u128::from_be_bytes(hash),
            0xf7a3b47b846119fae5b7866cf5e5b77e
        );
        let cipher = cipher(name(1), 1);
        // Of an empty text the polynomial is 0, which leaves the mask: another for each offset.
        let masks = [16, 32].map(|offset| cipher.mac_of(Offset(offset), b""));
        assert_ne!(masks[0], masks[1]);
        let difference = |text: &[u8]| {
            let [a, b] = [16, 32].map(|at| u128::from_ne_bytes(cipher.mac_of(Offset(at), text)));
            a ^ b
        };
        assert_eq!(difference(b"some text"), difference(b""));
        assert_ne!(
            cipher.mac_of(Offset(16), b"some text"),
            cipher.mac_of(Offset(16), b"some text\0"),
            "the length counts"
        );
    }

    #[test]
    fn keystream_follows_the_offset() {
        let mut whole = vec![0; 256];
        cipher(name(1), 1).apply(8192, &mut whole);
        let mut part = vec![0; 100];
        cipher(name(1), 1).apply(8192 + 37, &mut part);
        assert_eq!(part, whole[37..137]);
        let mut elsewhere = vec![0; 256];
        cipher(name(1), 1).apply(8192 + 256, &mut elsewhere);
        assert_ne!(elsewhere, whole);
    }

    #[test]
    fn streams_read_back_by_number() {
        for stream in Stream::ALL {
            assert_eq!(Stream::from_number(stream as u8), Some(stream));
        }
        assert_eq!(Stream::from_number(0), None);
    }
}
