//! Reads segments back: every MAC checked, torn tails and damage told apart.
//!
//! The file comes in as chunks, front to back; [`SegmentReader::next`] gives each good record.
//! What cannot be read is skipped to the next good record, searched at every multiple of 16 bytes,
//! and kept as a gap. A gap below the offset that a later batch knew to be durable is damage: it
//! was acknowledged, and is reported. Any other gap was never acknowledged: a torn tail.
//! Records of an earlier use of the file fail the MAC, as they stood under another nonce.
//!
//! What the records mean for the queue is decided by the index, not here.

use std::fmt;

use super::cipher::{MAC_BYTES, SegmentCipher, SegmentName};
use super::record::{
    BatchFrame, DecodeError, HEAD_LENGTH_BYTES, Header, Kind, RECORD_ALIGN_BYTES, RECORD_BYTES_MIN,
    RECORD_HEADER_BYTES, Record, Seal, head_bytes,
};
use super::segment::{BLOCK_BYTES, HeaderError, Placement, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::ids::{Offset, SegmentId};
use crate::keys::KeyRing;

/// Gaps of one segment reported each by itself; further ones widen the last.
pub const GAPS_MAX: usize = 1024;

/// How a segment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentEnd {
    /// With a seal: closed in good order, all of it was durable.
    Sealed,
    /// Without: power or process went away, or it is the one being written. From `offset` on
    /// nothing was acknowledged.
    TornTail {
        /// Where the first bytes stand that are not part of a good batch.
        offset: Offset,
    },
}

/// Bytes that were durable once and cannot be read: to be quarantined and reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Of the first byte that cannot be read.
    pub offset: Offset,
    /// Of the next good record.
    pub resync: Offset,
    /// What was found at `offset`.
    pub reason: DamageReason,
}

/// What is wrong with a damaged record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageReason {
    /// No record begins where one must.
    Header,
    /// A record begins there, but its MAC does not fit its bytes.
    Mac {
        /// What the record claims to be.
        kind: Kind,
    },
    /// Authentic, but not of this format: a fault of the writer.
    Malformed(DecodeError),
}

impl fmt::Display for DamageReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("no record header where one must be"),
            Self::Mac { kind } => write!(f, "the MAC of a {kind} record does not fit"),
            Self::Malformed(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "bytes {} to {}: {}",
            self.offset.0, self.resync.0, self.reason
        )
    }
}

/// What a segment turned out to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How it ended.
    pub end: SegmentEnd,
    /// Everything lost, in order, at most [`GAPS_MAX`].
    pub damage: Vec<Damage>,
    /// Good records, the seal not counted.
    pub records: u32,
    /// Bytes of those on disk.
    pub record_bytes: u32,
    /// What the seal says the segment holds, if it has one.
    pub seal: Option<Seal>,
}

/// A good record and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// Its place, for the index.
    pub placement: Placement,
    /// What it says.
    pub record: Record<'a>,
}

/// Whether messages are wanted with their content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Decrypt everything.
    Read,
    /// Check the MAC over everything, but decrypt envelopes only: enough to rebuild the index.
    Skip,
}

/// Reads one segment.
#[derive(Debug)]
pub struct SegmentReader {
    header: SegmentHeader,
    cipher: SegmentCipher,
    contents: Contents,
    /// Bytes of the file from `base` on.
    buffer: Vec<u8>,
    base: u32,
    /// Next byte to look at.
    at: u32,
    input_closed: bool,
    place: Place,
    /// Where what cannot be read began, and what was found there; set while searching on.
    gap: Option<(u32, DamageReason)>,
    gaps: Vec<Damage>,
    durable_to: u32,
    records: u32,
    record_bytes: u32,
    seal: Option<Seal>,
}

/// What is expected at the next offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// A batch's frame.
    BatchStart,
    /// A record of a batch whose frame is known.
    Batch { used_end: u32, end: u32 },
    /// A record of a batch whose frame is lost.
    Unframed,
    /// Nothing: the seal was read.
    Sealed,
}

/// A look at the record at an offset.
enum Look {
    /// Its MAC fits.
    Good(Header),
    Bad(DamageReason),
    /// Cannot be told without more bytes.
    NeedMore,
}

impl SegmentReader {
    /// Opens the segment that should be `expected`; `front`: at least its first
    /// [`SEGMENT_HEADER_BYTES`].
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn open(
        front: &[u8],
        keys: &KeyRing,
        expected: SegmentName,
        contents: Contents,
    ) -> Result<Self, HeaderError> {
        let (header, cipher) = SegmentHeader::open(front, keys, expected)?;
        Ok(Self {
            header,
            cipher,
            contents,
            buffer: Vec::new(),
            base: 0,
            at: SEGMENT_HEADER_BYTES as u32,
            input_closed: false,
            place: Place::BatchStart,
            gap: None,
            gaps: Vec::new(),
            durable_to: 0,
            records: 0,
            record_bytes: 0,
            seal: None,
        })
    }

    /// What the header says.
    pub const fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Which segment this is.
    pub const fn segment(&self) -> SegmentId {
        self.header.name.segment
    }

    /// Offset up to which all is read: for progress.
    pub const fn offset(&self) -> Offset {
        Offset(self.at)
    }

    /// Nothing further will be found: the rest of the file need not be read.
    pub fn is_done(&self) -> bool {
        self.place == Place::Sealed
    }

    /// The next bytes of the file; the first push begins at offset 0, header included. Then call
    /// [`Self::next`] until it gives `None`. Bytes past the segment's size are ignored.
    pub fn push(&mut self, chunk: &[u8]) {
        debug_assert!(!self.input_closed, "push after close_input");
        let consumed = (self.at - self.base).min(self.buffer.len() as u32);
        self.buffer.drain(..consumed as usize);
        self.base += consumed;
        let mut chunk = chunk;
        if self.buffer.is_empty() {
            let skip = (self.at - self.base).min(chunk.len() as u32);
            chunk = &chunk[skip as usize..];
            self.base += skip;
        }
        let room = (self.header.segment_bytes - self.base) as usize - self.buffer.len();
        self.buffer
            .extend_from_slice(&chunk[..chunk.len().min(room)]);
    }

    /// There are no more bytes. Call [`Self::next`] until it gives `None`, then
    /// [`Self::into_summary`].
    pub fn close_input(&mut self) {
        self.input_closed = true;
    }

    /// The next good record; `None`: push more, or, after [`Self::close_input`], the end.
    #[expect(
        clippy::should_implement_trait,
        reason = "what it gives borrows from the reader"
    )]
    pub fn next(&mut self) -> Option<Found<'_>> {
        let (placement, header) = self.advance()?;
        let at = (placement.offset.0 - self.base) as usize;
        let bytes = &mut self.buffer[at..at + placement.bytes as usize];
        // `advance` has checked that it decodes, and has decrypted it.
        let record = decode_decrypted(header, bytes, self.contents).ok()?;
        Some(Found { placement, record })
    }

    /// Moves over whatever is not a record for the caller and decrypts the next that is.
    fn advance(&mut self) -> Option<(Placement, Header)> {
        loop {
            if self.gap.is_some() {
                self.search()?;
            }
            match self.place {
                Place::Sealed => return None,
                Place::Batch { used_end, end } if self.at >= used_end => {
                    self.at = end;
                    self.place = Place::BatchStart;
                }
                _ => {}
            }
            let header = match self.look(self.at) {
                Look::Good(header) => header,
                Look::NeedMore => return None,
                Look::Bad(reason) => {
                    if self.place == Place::Unframed && self.skip_padding()? {
                        continue;
                    }
                    self.gap = Some((self.at, reason));
                    self.at = self.at.saturating_add(RECORD_ALIGN_BYTES as u32);
                    continue;
                }
            };
            let offset = Offset(self.at);
            let bytes = header.record_bytes() as u32;
            self.at += bytes;
            let decoded = if header.kind == Kind::Batch {
                self.open_batch(offset, header)
            } else {
                self.open_record(offset, header)
            };
            match decoded {
                Ok(true) => {
                    let segment = self.segment();
                    return Some((
                        Placement {
                            segment,
                            offset,
                            bytes,
                        },
                        header,
                    ));
                }
                Ok(false) => {}
                Err(error) => {
                    self.note_gap(offset.0, self.at, DamageReason::Malformed(error));
                }
            }
        }
    }

    /// Decrypts the record at `offset`; whether it is one for the caller.
    fn open_record(&mut self, offset: Offset, header: Header) -> Result<bool, DecodeError> {
        if self.place == Place::BatchStart {
            self.place = Place::Unframed;
        }
        let at = (offset.0 - self.base) as usize;
        let bytes = &mut self.buffer[at..at + header.record_bytes()];
        decrypt(&mut self.cipher, offset, header, bytes, self.contents)?;
        if let Record::Seal(seal) = decode_decrypted(header, bytes, self.contents)? {
            self.seal = Some(seal);
            self.place = Place::Sealed;
            return Ok(false);
        }
        self.records += 1;
        self.record_bytes += header.record_bytes() as u32;
        Ok(true)
    }

    fn open_batch(&mut self, offset: Offset, header: Header) -> Result<bool, DecodeError> {
        let at = (offset.0 - self.base) as usize;
        let bytes = &mut self.buffer[at..at + header.record_bytes()];
        decrypt(&mut self.cipher, offset, header, bytes, Contents::Read)?;
        let frame = BatchFrame::decode(&bytes[RECORD_HEADER_BYTES..][..header.body_bytes])?;
        let end = offset.0.checked_add(frame.batch_bytes);
        let end = end.filter(|end| {
            offset.0.is_multiple_of(BLOCK_BYTES as u32)
                && *end <= self.header.segment_bytes
                && frame.batch_bytes.is_multiple_of(BLOCK_BYTES as u32)
                && frame.used_bytes <= frame.batch_bytes
                && frame.used_bytes as usize >= BatchFrame::BYTES
                && frame.durable_to <= offset.0
        });
        let end = end.ok_or(DecodeError {
            field: "batch frame",
        })?;
        self.durable_to = self.durable_to.max(frame.durable_to);
        self.place = Place::Batch {
            used_end: offset.0 + frame.used_bytes,
            end,
        };
        Ok(false)
    }

    /// In a batch whose frame is lost, zeros up to the next block are its padding: moves past them.
    /// `None` if more bytes are needed.
    fn skip_padding(&mut self) -> Option<bool> {
        let next = self.at.next_multiple_of(BLOCK_BYTES as u32);
        let at = (self.at - self.base) as usize;
        let Some(padding) = self.buffer.get(at..(next - self.base) as usize) else {
            return if self.input_closed { Some(false) } else { None };
        };
        if padding.iter().any(|byte| *byte != 0) {
            return Some(false);
        }
        self.at = next;
        self.place = Place::BatchStart;
        Some(true)
    }

    /// Looks for the next good record from `at` on; `None` if there is none in what was pushed.
    fn search(&mut self) -> Option<()> {
        let mut block = [0; BLOCK_BYTES];
        loop {
            let from = (self.at - self.base) as usize;
            let to_boundary = BLOCK_BYTES - self.at as usize % BLOCK_BYTES;
            let rest = self.buffer.get(from..).unwrap_or_default();
            let cut = rest.len().min(to_boundary);
            let cut = cut - cut % RECORD_ALIGN_BYTES;
            if cut == 0 {
                return None;
            }
            let block = &mut block[..cut];
            block.copy_from_slice(&rest[..cut]);
            self.cipher.apply(self.at, block);
            let begin = self.at;
            for (position, bytes) in block.chunks_exact(RECORD_ALIGN_BYTES).enumerate() {
                let likely = bytes.first_chunk().and_then(Header::parse).is_some();
                if !likely {
                    continue;
                }
                self.at = begin + (position * RECORD_ALIGN_BYTES) as u32;
                match self.look(self.at) {
                    Look::Good(header) => {
                        self.close_gap(header.kind);
                        return Some(());
                    }
                    Look::NeedMore => return None,
                    Look::Bad(_) => {}
                }
            }
            self.at = begin + cut as u32;
        }
    }

    /// The search has found a record of `kind` at `at`.
    fn close_gap(&mut self, kind: Kind) {
        if let Some((from, reason)) = self.gap.take() {
            self.note_gap(from, self.at, reason);
        }
        self.place = match self.place {
            Place::Batch { used_end, end } if self.at < used_end && kind != Kind::Batch => {
                Place::Batch { used_end, end }
            }
            _ if kind == Kind::Batch => Place::BatchStart,
            _ => Place::Unframed,
        };
    }

    fn note_gap(&mut self, from: u32, to: u32, reason: DamageReason) {
        if self.gaps.len() >= GAPS_MAX
            && let Some(last) = self.gaps.last_mut()
        {
            last.resync = Offset(to);
            return;
        }
        self.gaps.push(Damage {
            offset: Offset(from),
            resync: Offset(to),
            reason,
        });
    }

    /// Checks header and MAC of the record at `offset`, which must be the kind its place asks for.
    fn look(&mut self, offset: u32) -> Look {
        let at = offset
            .checked_sub(self.base)
            .map_or(usize::MAX, |at| at as usize);
        let rest = self.buffer.get(at..).unwrap_or_default();
        let Some(front) = rest.first_chunk::<RECORD_HEADER_BYTES>() else {
            return self.without_more();
        };
        let mut front = *front;
        self.cipher.apply(offset, &mut front);
        let Some(header) = Header::parse(&front) else {
            return Look::Bad(DamageReason::Header);
        };
        let bytes = header.record_bytes();
        let expected = match self.place {
            // The search has no expectation but that frames begin blocks.
            _ if self.gap.is_some() => {
                header.kind != Kind::Batch || offset.is_multiple_of(BLOCK_BYTES as u32)
            }
            Place::BatchStart => header.kind == Kind::Batch,
            Place::Batch { used_end, .. } => {
                header.kind != Kind::Batch && bytes <= (used_end - offset) as usize
            }
            Place::Unframed => header.kind != Kind::Batch,
            Place::Sealed => false,
        };
        if !expected || bytes > (self.header.segment_bytes - offset) as usize {
            return Look::Bad(DamageReason::Header);
        }
        let Some(record) = rest.get(..bytes) else {
            return self.without_more();
        };
        if self.cipher.verify(Offset(offset), record) {
            Look::Good(header)
        } else {
            Look::Bad(DamageReason::Mac { kind: header.kind })
        }
    }

    const fn without_more(&self) -> Look {
        if self.input_closed {
            Look::Bad(DamageReason::Header)
        } else {
            Look::NeedMore
        }
    }

    /// What the segment held, after all was pushed and read.
    pub fn into_summary(self) -> Summary {
        debug_assert!(
            self.input_closed || self.is_done(),
            "summary before the end"
        );
        let is_damage = |gap: &Damage| {
            gap.offset.0 < self.durable_to || matches!(gap.reason, DamageReason::Malformed(_))
        };
        let (damage, torn): (Vec<_>, Vec<_>) = self.gaps.into_iter().partition(is_damage);
        let tail = match self.gap {
            Some((from, _)) => Some(Offset(from)),
            None if self.place == Place::Sealed => None,
            None => Some(Offset(self.at)),
        };
        let offset = torn.first().map(|gap| gap.offset).or(tail);
        Summary {
            end: offset.map_or(SegmentEnd::Sealed, |offset| SegmentEnd::TornTail { offset }),
            damage,
            records: self.records,
            record_bytes: self.record_bytes,
            seal: self.seal,
        }
    }
}

/// A single record cannot be read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadError {
    /// Where it was looked for.
    pub placement: Placement,
    /// What was found.
    pub reason: DamageReason,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Placement {
            segment, offset, ..
        } = self.placement;
        write!(
            f,
            "segment {} offset {}: {}",
            segment.0, offset.0, self.reason
        )
    }
}

impl std::error::Error for ReadError {}

/// Checks and decrypts, in place, the one record at `placement`; `bytes` are exactly its bytes.
///
/// # Errors
/// [`ReadError`] if they are not what was written there.
pub fn read_one<'a>(
    cipher: &mut SegmentCipher,
    placement: Placement,
    bytes: &'a mut [u8],
) -> Result<Record<'a>, ReadError> {
    let fault = |reason| ReadError { placement, reason };
    let offset = placement.offset;
    let mut front = *bytes
        .first_chunk::<RECORD_HEADER_BYTES>()
        .ok_or(fault(DamageReason::Header))?;
    cipher.apply(offset.0, &mut front);
    let header = Header::parse(&front).ok_or(fault(DamageReason::Header))?;
    if header.record_bytes() != bytes.len() || bytes.len() < RECORD_BYTES_MIN {
        return Err(fault(DamageReason::Header));
    }
    if !cipher.verify(offset, bytes) {
        return Err(fault(DamageReason::Mac { kind: header.kind }));
    }
    let malformed = |error| fault(DamageReason::Malformed(error));
    decrypt(cipher, offset, header, bytes, Contents::Read).map_err(malformed)?;
    decode_decrypted(header, bytes, Contents::Read).map_err(malformed)
}

/// Whether a message's content is left encrypted.
fn skips_content(kind: Kind, contents: Contents) -> bool {
    contents == Contents::Skip && matches!(kind, Kind::Message | Kind::Moved)
}

fn decrypt(
    cipher: &mut SegmentCipher,
    offset: Offset,
    header: Header,
    record: &mut [u8],
    contents: Contents,
) -> Result<(), DecodeError> {
    if !skips_content(header.kind, contents) {
        let text = record.len() - MAC_BYTES;
        cipher.apply(offset.0, &mut record[..text]);
        return Ok(());
    }
    // Most envelopes fit the first piece; its blocks are decrypted together.
    let first = (ENVELOPE_BYTES_USUAL).min(RECORD_HEADER_BYTES + header.body_bytes);
    cipher.apply(offset.0, &mut record[..first]);
    if first < RECORD_HEADER_BYTES + HEAD_LENGTH_BYTES {
        return Err(DecodeError {
            field: "envelope length",
        });
    }
    let head = head_bytes(&record[RECORD_HEADER_BYTES..first], header.body_bytes)?;
    let end = RECORD_HEADER_BYTES + head;
    if end > first {
        cipher.apply(offset.0 + first as u32, &mut record[first..end]);
    }
    Ok(())
}

/// Bytes of a record decrypted at first when only its envelope is wanted.
const ENVELOPE_BYTES_USUAL: usize = 256;

fn decode_decrypted(
    header: Header,
    record: &[u8],
    contents: Contents,
) -> Result<Record<'_>, DecodeError> {
    let body = &record[RECORD_HEADER_BYTES..][..header.body_bytes];
    if !skips_content(header.kind, contents) {
        return Record::decode(header.kind, body);
    }
    let head = head_bytes(body, body.len())?;
    Record::decode_head(header.kind, &body[..head], &[], body.len() - head)
}
