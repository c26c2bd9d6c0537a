//! One segment file: its header, and the writer that gathers records into batches.
//!
//! The appender's contract: [`SegmentWriter::append`] returns = ordered in memory; the batch from
//! [`SegmentWriter::take_batch`] written and synced = all its records durable; say so with
//! [`SegmentWriter::durable`]. A segment is written once, front to back, and never opened again for
//! appending: its keystream must not be used twice.
//!
//! Reading back is in [`super::replay`], when to remove a segment in [`super::set`].

use std::fmt;

use super::cipher::{MAC_BYTES, NONCE_BYTES, Nonce, SegmentCipher, SegmentName, Stream};
use super::record::{
    BatchFrame, EncodeError, Message, RECORD_BYTES_MAX, Record, Seal, record_bytes,
};
use crate::ids::{HandoverId, Offset, SegmentId, ShardId};
use crate::keys::{KeyId, KeyRing, MasterKey};

/// Unit of direct writes, bytes; batches begin and end at its multiples.
pub const BLOCK_BYTES: usize = 4096;
/// Bytes of the header at the front of each segment.
pub const SEGMENT_HEADER_BYTES: usize = BLOCK_BYTES;
/// Usual size of a segment, bytes.
pub const SEGMENT_BYTES_DEFAULT: u32 = 64 * 1024 * 1024;
/// Smallest segment, bytes: a header, one batch and the seal.
pub const SEGMENT_BYTES_MIN: u32 = 4 * BLOCK_BYTES as u32;
/// Largest segment, bytes.
pub const SEGMENT_BYTES_MAX: u32 = 1024 * 1024 * 1024;
/// Version of the format written.
pub const FORMAT_VERSION: u16 = 2;

const MAGIC: [u8; 8] = *b"Hikyaku\0";
/// Bytes of the header that mean something, MAC included.
const HEADER_TEXT_BYTES: usize = 64;
const HEADER_COPY_BYTES: usize = HEADER_TEXT_BYTES + MAC_BYTES;
/// The second copy lies in another sector, of 512 bytes or of 2 KiB.
const HEADER_COPIES_AT: [usize; 2] = [0, 2048];
const _: () = assert!(
    SEGMENT_BYTES_DEFAULT as usize
        >= SEGMENT_HEADER_BYTES + BatchFrame::BYTES + RECORD_BYTES_MAX + BLOCK_BYTES,
    "the largest record fits a segment of the usual size"
);

/// The name of a segment's file in its stream's folder.
pub fn file_name(segment: SegmentId) -> String {
    format!("{:08}.seg", segment.0)
}

/// The name of a file that holds nothing and waits to become a segment.
pub fn free_file_name(segment: SegmentId) -> String {
    format!("{:08}.free", segment.0)
}

/// The segment whose [`file_name`] this is.
pub fn parse_file_name(name: &str) -> Option<SegmentId> {
    parse_numbered(name, ".seg")
}

/// The segment whose [`free_file_name`] this is.
pub fn parse_free_file_name(name: &str) -> Option<SegmentId> {
    parse_numbered(name, ".free")
}

/// The folder, beside a shard's queue folder, whose being there notes a handover of its mail.
pub fn handover_folder_name(handover: HandoverId) -> String {
    format!("queue.handover-{handover}")
}

/// The handover whose [`handover_folder_name`] this is.
pub fn parse_handover_folder_name(name: &str) -> Option<HandoverId> {
    HandoverId::parse(name.strip_prefix("queue.handover-")?)
}

fn parse_numbered(name: &str, extension: &str) -> Option<SegmentId> {
    let digits = name.strip_suffix(extension)?;
    let plain = digits.len() >= 8
        && digits.bytes().all(|b| b.is_ascii_digit())
        && (digits.len() == 8 || !digits.starts_with('0'));
    if plain {
        digits.parse().ok().map(SegmentId)
    } else {
        None
    }
}

/// What stands at the front of a segment, in clear and authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Stream, shard and number.
    pub name: SegmentName,
    /// Bytes the segment may grow to, header included: a multiple of [`BLOCK_BYTES`] between
    /// [`SEGMENT_BYTES_MIN`] and [`SEGMENT_BYTES_MAX`].
    pub segment_bytes: u32,
    /// When it was begun, milliseconds since the epoch.
    pub created_ms: u64,
    /// The master key it is under.
    pub key_id: KeyId,
    /// Random, new for every use of the file.
    pub nonce: Nonce,
}

/// A file is no segment that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// Neither copy of the header begins as one.
    NotASegment,
    /// Fewer than [`SEGMENT_HEADER_BYTES`].
    TooShort,
    /// Written by another version of the program.
    OtherFormat {
        /// Version found.
        version: u16,
    },
    /// No key of the ring has written it.
    UnknownKey {
        /// Key named in the header.
        key_id: KeyId,
    },
    /// Both copies of the header are damaged or forged.
    Damaged,
    /// A good segment, but of another stream, shard or number than its place says.
    Misplaced {
        /// Where it belongs.
        found: SegmentName,
    },
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotASegment => f.write_str("not a Hikyaku segment"),
            Self::TooShort => f.write_str("shorter than a segment header"),
            Self::OtherFormat { version } => write!(
                f,
                "segment format {version} is not this program's {FORMAT_VERSION}: use the \
                 program that wrote it"
            ),
            Self::UnknownKey { key_id } => {
                write!(
                    f,
                    "written under key {key_id}, which was not given: give its passphrase"
                )
            }
            Self::Damaged => f.write_str("the segment header is damaged in both copies"),
            Self::Misplaced { found } => write!(f, "this file is {found}: move it back there"),
        }
    }
}

impl std::error::Error for HeaderError {}

impl SegmentHeader {
    /// The header's block, authenticated under `key`.
    pub fn encode(&self, key: &MasterKey) -> Vec<u8> {
        let mut copy = [0; HEADER_COPY_BYTES];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            copy[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&MAGIC);
        put(&FORMAT_VERSION.to_le_bytes());
        put(&[self.name.stream as u8, 0]);
        put(&self.name.shard.0.to_le_bytes());
        put(&[0; 2]);
        put(&self.name.segment.0.to_le_bytes());
        put(&self.segment_bytes.to_le_bytes());
        put(&self.created_ms.to_le_bytes());
        put(&self.key_id.0);
        put(&self.nonce);
        let cipher = SegmentCipher::new(key, self.name, &self.nonce);
        // Offset 0 is no record's, so no record's MAC can stand in for this one.
        let mac = cipher.mac_of(Offset(0), &copy[..HEADER_TEXT_BYTES]);
        copy[HEADER_TEXT_BYTES..].copy_from_slice(&mac);
        let mut block = vec![0; SEGMENT_HEADER_BYTES];
        for at in HEADER_COPIES_AT {
            block[at..at + HEADER_COPY_BYTES].copy_from_slice(&copy);
        }
        block
    }

    /// Reads a header without a key: what it says may be forged.
    ///
    /// # Errors
    /// [`HeaderError::TooShort`], [`HeaderError::NotASegment`], [`HeaderError::OtherFormat`].
    pub fn peek(block: &[u8]) -> Result<Self, HeaderError> {
        let [first, second] = copies(block)?;
        Self::parse_copy(first).or_else(|error| Self::parse_copy(second).map_err(|_| error))
    }

    /// Reads and authenticates the header of the segment that should be `expected`; gives its
    /// cipher too.
    ///
    /// # Errors
    /// Any [`HeaderError`]; one good copy of the two is enough.
    pub fn open(
        block: &[u8],
        keys: &KeyRing,
        expected: SegmentName,
    ) -> Result<(Self, SegmentCipher), HeaderError> {
        // The copy that names this place counts: the other may be left of an earlier use.
        let mut fault = HeaderError::NotASegment;
        for copy in copies(block)? {
            match Self::open_copy(copy, keys) {
                Ok((header, cipher)) if header.name == expected => return Ok((header, cipher)),
                Ok((header, _)) => fault = HeaderError::Misplaced { found: header.name },
                Err(error) if fault == HeaderError::NotASegment => fault = error,
                Err(_) => {}
            }
        }
        Err(fault)
    }

    fn open_copy(
        copy: &[u8; HEADER_COPY_BYTES],
        keys: &KeyRing,
    ) -> Result<(Self, SegmentCipher), HeaderError> {
        let header = Self::parse_copy(copy)?;
        let key_id = header.key_id;
        let key = keys
            .find(key_id)
            .ok_or(HeaderError::UnknownKey { key_id })?;
        let cipher = SegmentCipher::new(key, header.name, &header.nonce);
        if cipher.verify(Offset(0), copy) {
            Ok((header, cipher))
        } else {
            Err(HeaderError::Damaged)
        }
    }

    fn parse_copy(copy: &[u8; HEADER_COPY_BYTES]) -> Result<Self, HeaderError> {
        fn field<const N: usize>(copy: &[u8; HEADER_COPY_BYTES], at: usize) -> [u8; N] {
            std::array::from_fn(|i| copy[at + i])
        }
        if field(copy, 0) != MAGIC {
            return Err(HeaderError::NotASegment);
        }
        let version = u16::from_le_bytes(field(copy, 8));
        if version != FORMAT_VERSION && version != 0 {
            return Err(HeaderError::OtherFormat { version });
        }
        let segment_bytes = u32::from_le_bytes(field(copy, 20));
        let stream = Stream::from_number(copy[10]).ok_or(HeaderError::Damaged)?;
        if version == 0 || !is_segment_size(segment_bytes) {
            return Err(HeaderError::Damaged);
        }
        Ok(Self {
            name: SegmentName {
                stream,
                shard: ShardId(u16::from_le_bytes(field(copy, 12))),
                segment: SegmentId(u32::from_le_bytes(field(copy, 16))),
            },
            segment_bytes,
            created_ms: u64::from_le_bytes(field(copy, 24)),
            key_id: KeyId(field(copy, 32)),
            nonce: field::<NONCE_BYTES>(copy, 40),
        })
    }
}

fn copies(block: &[u8]) -> Result<[&[u8; HEADER_COPY_BYTES]; 2], HeaderError> {
    if block.len() < SEGMENT_HEADER_BYTES {
        return Err(HeaderError::TooShort);
    }
    let copy = |at: usize| block[at..].first_chunk().ok_or(HeaderError::TooShort);
    let [first, second] = HEADER_COPIES_AT;
    Ok([copy(first)?, copy(second)?])
}

/// Whether a segment may be of `bytes`.
pub const fn is_segment_size(bytes: u32) -> bool {
    bytes >= SEGMENT_BYTES_MIN
        && bytes <= SEGMENT_BYTES_MAX
        && bytes.is_multiple_of(BLOCK_BYTES as u32)
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Placement {
    /// In which segment of its stream and shard.
    pub segment: SegmentId,
    /// Of its first byte; a multiple of [`super::record::RECORD_ALIGN_BYTES`].
    pub offset: Offset,
    /// On disk, header and MAC included.
    pub bytes: u32,
}

impl Placement {
    /// The blocks to read for it: file offset and bytes, both multiples of [`BLOCK_BYTES`], and
    /// where the record begins within.
    pub const fn blocks(&self) -> (u64, usize, usize) {
        let within = self.offset.0 as usize % BLOCK_BYTES;
        let bytes = (within + self.bytes as usize).next_multiple_of(BLOCK_BYTES);
        ((self.offset.0 as usize - within) as u64, bytes, within)
    }
}

/// Bytes to write in one go and then to sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Which file.
    pub segment: SegmentId,
    /// Where in it, a multiple of [`BLOCK_BYTES`].
    pub file_offset: u64,
    /// A multiple of [`BLOCK_BYTES`] of them.
    pub bytes: Vec<u8>,
    /// Records within.
    pub records: u32,
}

impl Batch {
    /// File offset behind the batch: what to tell [`SegmentWriter::durable`] after the sync.
    pub const fn end(&self) -> u64 {
        self.file_offset + self.bytes.len() as u64
    }
}

/// A record was not appended; the writer is as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendError {
    /// This segment has no room for it: go on in a new one.
    Full {
        /// The record's bytes on disk.
        bytes: usize,
        /// What is left.
        remaining: usize,
    },
    /// No segment of this size has room for it.
    TooLarge {
        /// The record's bytes on disk.
        bytes: usize,
        /// Most bytes a record may have.
        max: usize,
    },
    /// A field is over its bound.
    Encode(EncodeError),
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { bytes, remaining } => {
                write!(
                    f,
                    "a record of {bytes} bytes, the segment has {remaining} left"
                )
            }
            Self::TooLarge { bytes, max } => {
                write!(f, "a record of {bytes} bytes, a segment takes {max}")
            }
            Self::Encode(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for AppendError {}

impl From<EncodeError> for AppendError {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error)
    }
}

/// Writes one segment.
#[derive(Debug)]
pub struct SegmentWriter {
    header: SegmentHeader,
    cipher: SegmentCipher,
    /// Frame and encrypted records of the batch being gathered; empty if there is none.
    batch: Vec<u8>,
    /// File offset of the batch.
    batch_at: u32,
    batch_records: u32,
    durable_to: u32,
    totals: Seal,
    sealed: bool,
}

impl SegmentWriter {
    /// Begins a segment under `key`. The header's block ([`SegmentHeader::encode`]) must be durable
    /// at the front of the file, and the file under its name, before any batch is acknowledged.
    ///
    /// `header.nonce` must be fresh from the system's random source, `header.segment_bytes` one
    /// that [`is_segment_size`] allows.
    pub fn new(key: &MasterKey, header: SegmentHeader) -> Self {
        assert!(
            is_segment_size(header.segment_bytes),
            "segment of {} B",
            header.segment_bytes
        );
        Self {
            cipher: SegmentCipher::new(key, header.name, &header.nonce),
            header,
            batch: Vec::new(),
            batch_at: SEGMENT_HEADER_BYTES as u32,
            batch_records: 0,
            durable_to: SEGMENT_HEADER_BYTES as u32,
            totals: Seal::default(),
            sealed: false,
        }
    }

    /// What the segment's header says.
    pub const fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Which segment this is.
    pub const fn segment(&self) -> SegmentId {
        self.header.name.segment
    }

    /// Encrypts `record` into the current batch.
    ///
    /// # Errors
    /// [`AppendError`]; nothing is appended then.
    pub fn append(&mut self, record: &Record<'_>) -> Result<Placement, AppendError> {
        self.append_parts(record, &[])
    }

    /// Encrypts a message whose content is `before` joined and then `message.content`: header
    /// fields added in front need not be copied together first.
    ///
    /// # Errors
    /// [`AppendError`]; nothing is appended then.
    pub fn append_message(
        &mut self,
        message: &Message<'_>,
        before: &[&[u8]],
    ) -> Result<Placement, AppendError> {
        self.append_parts(&Record::Message(*message), before)
    }

    fn append_parts(
        &mut self,
        record: &Record<'_>,
        before: &[&[u8]],
    ) -> Result<Placement, AppendError> {
        let extra = before.iter().map(|part| part.len()).sum();
        let body_bytes = record.body_bytes(extra)?;
        let bytes = record_bytes(body_bytes);
        let max = self.record_bytes_max();
        if bytes > max {
            return Err(AppendError::TooLarge { bytes, max });
        }
        let remaining = self.remaining();
        if bytes > remaining {
            return Err(AppendError::Full { bytes, remaining });
        }
        Ok(self.put(record, body_bytes, before))
    }

    fn put(&mut self, record: &Record<'_>, body_bytes: usize, before: &[&[u8]]) -> Placement {
        if self.batch.is_empty() {
            self.batch.resize(BatchFrame::BYTES, 0);
        }
        let begin = self.batch.len();
        let offset = Offset(self.batch_at + begin as u32);
        record.encode(body_bytes, before, &mut self.batch);
        let sealed = &mut self.batch[begin..];
        self.cipher.seal(offset, sealed);
        let bytes = sealed.len() as u32;
        self.batch_records += 1;
        self.totals.records += 1;
        self.totals.record_bytes += bytes;
        Placement {
            segment: self.segment(),
            offset,
            bytes,
        }
    }

    /// Most bytes a record may have on disk in a segment of this size.
    pub fn record_bytes_max(&self) -> usize {
        let room = self.header.segment_bytes as usize
            - SEGMENT_HEADER_BYTES
            - BatchFrame::BYTES
            - BLOCK_BYTES;
        room.min(RECORD_BYTES_MAX)
    }

    /// Bytes on disk of the largest record that can still be appended; the block for the seal is
    /// kept back.
    pub fn remaining(&self) -> usize {
        if self.sealed {
            return 0;
        }
        let used = self.batch_at as usize + self.batch.len().max(BatchFrame::BYTES);
        (self.header.segment_bytes as usize - BLOCK_BYTES).saturating_sub(used)
    }

    /// Bytes gathered since the last batch was taken.
    pub const fn pending_bytes(&self) -> usize {
        self.batch.len()
    }

    /// Records gathered since the last batch was taken.
    pub const fn pending_records(&self) -> u32 {
        self.batch_records
    }

    /// Bytes of the file that batches taken so far cover, header included.
    pub const fn written_to(&self) -> u32 {
        self.batch_at
    }

    /// Closes the current batch; `None` if it has no record. The next batch begins in the block
    /// after it.
    pub fn take_batch(&mut self) -> Option<Batch> {
        if self.batch.is_empty() {
            return None;
        }
        let mut bytes = std::mem::take(&mut self.batch);
        let used_bytes = bytes.len() as u32;
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        let records = std::mem::take(&mut self.batch_records);
        let frame = BatchFrame {
            batch_bytes: bytes.len() as u32,
            used_bytes,
            durable_to: self.durable_to,
            records,
        };
        let framed = &mut bytes[..BatchFrame::BYTES];
        frame.encode(framed);
        self.cipher.seal(Offset(self.batch_at), framed);
        let file_offset = u64::from(self.batch_at);
        self.batch_at += bytes.len() as u32;
        Some(Batch {
            segment: self.segment(),
            file_offset,
            bytes,
            records,
        })
    }

    /// Gives a written batch's memory back, for the next one.
    pub fn recycle(&mut self, mut bytes: Vec<u8>) {
        if self.batch.is_empty() && bytes.capacity() > self.batch.capacity() {
            bytes.clear();
            self.batch = bytes;
        }
    }

    /// Every byte of the file before `offset` is durable. The next batch carries it, so that replay
    /// can tell damage (in what was durable) from a torn tail.
    pub fn durable(&mut self, offset: u64) {
        let offset = u32::try_from(offset).unwrap_or(u32::MAX).min(self.batch_at);
        self.durable_to = self.durable_to.max(offset);
    }

    /// Closes the segment in good order: nothing can be appended after. Returns the batch with the
    /// seal, and with whatever was still pending.
    ///
    /// Best called after the last batch was synced and said to be [`Self::durable`]: then the seal
    /// vouches for all of the segment. Sealing twice gives `None`.
    pub fn seal(&mut self) -> Option<Batch> {
        if self.sealed {
            return None;
        }
        let record = Record::Seal(self.totals);
        let body_bytes = record.body_bytes(0).expect("a seal is of fixed length");
        // `remaining` has kept a block back for this.
        self.put(&record, body_bytes, &[]);
        self.sealed = true;
        self.take_batch()
    }
}
