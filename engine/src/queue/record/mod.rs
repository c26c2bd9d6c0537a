//! What one record says, and its bytes before encryption.
//!
//! A record is an 8-byte header, a body, zeros up to a multiple of 16 and a MAC of 16 bytes:
//!
//! ```text
//! body_bytes u32 | kind u8 | flags u8 (0) | check u16 | body … | zeros | MAC 16
//! ```
//!
//! All numbers are little endian. Bodies of messages are in [`message`], those of the short notes
//! about messages in [`note`]. Decoding borrows from the decrypted bytes, copies nothing and takes
//! nothing for granted: bytes that no writer of ours produces are a [`DecodeError`].

use std::fmt;

use crate::ids::QueueId;
use crate::ids::SegmentId;

mod bytes;
pub mod message;
pub mod note;
pub mod options;
mod recipients;

pub use message::Message;
pub use note::{Outcome, OutcomeKind, OutcomeState, OutcomeStates};
pub use options::Options;
pub use recipients::{DomainRecipients, Recipient, Recipients, RecipientsBuf, RecipientsError};

use bytes::{Put, Take};

/// Records begin at multiples of this, bytes: the block of AES, so that no block of keystream is
/// shared between two records.
pub const RECORD_ALIGN_BYTES: usize = 16;
/// Bytes before the body.
pub const RECORD_HEADER_BYTES: usize = 8;
/// Largest body, bytes. A message with content of [`message::CONTENT_BYTES_MAX`] and the largest
/// envelope is within it.
pub const BODY_BYTES_MAX: usize = 52 * 1024 * 1024;
/// Smallest record on disk, bytes.
pub const RECORD_BYTES_MIN: usize = RECORD_ALIGN_BYTES + super::cipher::MAC_BYTES;
/// Largest record on disk, bytes.
pub const RECORD_BYTES_MAX: usize = record_bytes(BODY_BYTES_MAX);

/// In every header: with the kinds and the bound on the length it makes a stray hit of the search
/// for the next good record rare (one position in 2³⁰), so that few MACs are computed in vain.
const CHECK: u16 = 0x6b48;

/// Bytes on disk of a record with a body of `body_bytes`.
pub const fn record_bytes(body_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + body_bytes).next_multiple_of(RECORD_ALIGN_BYTES)
        + super::cipher::MAC_BYTES
}

/// The byte that tells what a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Opens every batch; not seen by readers of records.
    Batch = 1,
    /// [`Record::Message`].
    Message = 2,
    /// [`Record::Outcome`].
    Outcome = 3,
    /// [`Record::Commit`].
    Commit = 4,
    /// [`Record::Cancel`].
    Cancel = 5,
    /// [`Record::Moved`].
    Moved = 6,
    /// [`Record::Blob`].
    Blob = 7,
    /// [`Record::Seal`].
    Seal = 8,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Batch,
        Self::Message,
        Self::Outcome,
        Self::Commit,
        Self::Cancel,
        Self::Moved,
        Self::Blob,
        Self::Seal,
    ];

    /// The kind of that number in a record header.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// The word for operators.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Message => "message",
            Self::Outcome => "outcome",
            Self::Commit => "commit",
            Self::Cancel => "cancel",
            Self::Moved => "moved",
            Self::Blob => "blob",
            Self::Seal => "seal",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One record, borrowing from the caller or from the bytes it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A message accepted for the recipients this shard owns.
    Message(Message<'a>),
    /// What became of some recipients of a message.
    Outcome(Outcome),
    /// The transaction that brought a `pending` message is durable at every owner.
    Commit(About),
    /// That transaction was rolled back: the message was never accepted.
    Cancel(About),
    /// A live message copied forward by compaction, with its state.
    Moved(Moved<'a>),
    /// State of something else, e.g. a snapshot of counters or lines of the delivery log.
    Blob {
        /// Chosen by the stream that writes it.
        kind: u16,
        /// At most [`BLOB_BYTES_MAX`].
        bytes: &'a [u8],
    },
    /// Nothing follows: the segment was closed in good order.
    Seal(Seal),
}

/// Largest [`Record::Blob`], bytes.
pub const BLOB_BYTES_MAX: usize = BODY_BYTES_MAX - 2;

/// Which message a note is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// The message.
    pub queue_id: QueueId,
    /// The segment the message stands in: while that exists, the note must be kept.
    pub segment: SegmentId,
}

/// A message copied forward, with what happened to it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved<'a> {
    /// The segment it was copied from, which is to be removed next.
    pub from: SegmentId,
    /// State of each run of recipients that has any; apply them as outcomes.
    pub states: OutcomeStates<'a>,
    /// The message as it was.
    pub message: Message<'a>,
}

/// Totals over a segment, checked by `hikyaku shard verify`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seal {
    /// Records before this one, batch frames not counted.
    pub records: u32,
    /// Bytes of those records.
    pub record_bytes: u32,
}

/// Opens every batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BatchFrame {
    /// Bytes of frame, records and padding: a multiple of the block size.
    pub(crate) batch_bytes: u32,
    /// Bytes of frame and records.
    pub(crate) used_bytes: u32,
    /// All bytes of the segment before this offset were known durable when the batch was closed.
    pub(crate) durable_to: u32,
    /// Records in the batch, the frame not counted.
    pub(crate) records: u32,
}

impl BatchFrame {
    const BODY_BYTES: usize = 16;
    /// On disk.
    pub(crate) const BYTES: usize = record_bytes(Self::BODY_BYTES);

    /// Writes header and body into the first [`Self::BYTES`] of `out`, which are zero.
    pub(crate) fn encode(&self, out: &mut [u8]) {
        let fields = [
            self.batch_bytes,
            self.used_bytes,
            self.durable_to,
            self.records,
        ];
        let header = header_bytes(Kind::Batch, Self::BODY_BYTES);
        out[..RECORD_HEADER_BYTES].copy_from_slice(&header);
        for (slot, field) in out[RECORD_HEADER_BYTES..].chunks_exact_mut(4).zip(fields) {
            slot.copy_from_slice(&field.to_le_bytes());
        }
    }

    /// Reads a decrypted body.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut take = Take::new(body);
        let frame = Self {
            batch_bytes: take.u32()?,
            used_bytes: take.u32()?,
            durable_to: take.u32()?,
            records: take.u32()?,
        };
        take.end()?;
        Ok(frame)
    }
}

/// A record cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// A field is over its bound.
    TooLong {
        /// The field that was over its bound.
        field: &'static str,
        /// Its bytes, or its count.
        found: usize,
        /// The bound.
        max: usize,
    },
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::TooLong { field, found, max } = self;
        write!(f, "{field} has {found} bytes, a queue record takes {max}")
    }
}

impl std::error::Error for EncodeError {}

/// Authentic bytes that no version of the writer produces: our bug, or a later format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// The field at fault.
    pub field: &'static str,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the record's {} cannot be read", self.field)
    }
}

impl std::error::Error for DecodeError {}

/// A decrypted record header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the record is.
    pub kind: Kind,
    /// Bytes of its body.
    pub body_bytes: usize,
}

impl Header {
    /// Reads a header; `None` if these are not the bytes of one.
    pub fn parse(bytes: &[u8; RECORD_HEADER_BYTES]) -> Option<Self> {
        let [b0, b1, b2, b3, kind, flags, c0, c1] = *bytes;
        let body_bytes = u32::from_le_bytes([b0, b1, b2, b3]) as usize;
        let good =
            u16::from_le_bytes([c0, c1]) == CHECK && flags == 0 && body_bytes <= BODY_BYTES_MAX;
        let kind = Kind::from_number(kind)?;
        good.then_some(Self { kind, body_bytes })
    }

    /// Bytes of the whole record on disk.
    pub const fn record_bytes(&self) -> usize {
        record_bytes(self.body_bytes)
    }
}

fn header_bytes(kind: Kind, body_bytes: usize) -> [u8; RECORD_HEADER_BYTES] {
    let [b0, b1, b2, b3] = (body_bytes as u32).to_le_bytes();
    let [c0, c1] = CHECK.to_le_bytes();
    [b0, b1, b2, b3, kind as u8, 0, c0, c1]
}

impl<'a> Record<'a> {
    /// What it is.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Message(_) => Kind::Message,
            Self::Outcome(_) => Kind::Outcome,
            Self::Commit(_) => Kind::Commit,
            Self::Cancel(_) => Kind::Cancel,
            Self::Moved(_) => Kind::Moved,
            Self::Blob { .. } => Kind::Blob,
            Self::Seal(_) => Kind::Seal,
        }
    }

    /// The message it carries or speaks of.
    pub const fn queue_id(&self) -> Option<QueueId> {
        match self {
            Self::Message(message) | Self::Moved(Moved { message, .. }) => Some(message.queue_id),
            Self::Outcome(outcome) => Some(outcome.about.queue_id),
            Self::Commit(about) | Self::Cancel(about) => Some(about.queue_id),
            Self::Blob { .. } | Self::Seal(_) => None,
        }
    }

    /// The segment of the message a note speaks of; `None` for all that are not notes.
    pub const fn about(&self) -> Option<About> {
        match self {
            Self::Outcome(outcome) => Some(outcome.about),
            Self::Commit(about) | Self::Cancel(about) => Some(*about),
            _ => None,
        }
    }

    /// Bytes of the body; `extra` content in front of a message's own is counted in.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`] for a field over its bound.
    pub(crate) fn body_bytes(&self, extra: usize) -> Result<usize, EncodeError> {
        match self {
            Self::Message(message) => message.body_bytes(0, extra),
            Self::Moved(moved) => {
                message_field(moved.states.len(), note::STATES_MAX, "states")?;
                moved
                    .message
                    .body_bytes(MOVED_BYTES + moved.states.encoded_bytes(), extra)
            }
            Self::Outcome(_) => Ok(note::OUTCOME_BYTES),
            Self::Commit(_) | Self::Cancel(_) => Ok(note::ABOUT_BYTES),
            Self::Blob { bytes, .. } => {
                message_field(bytes.len(), BLOB_BYTES_MAX, "blob")?;
                Ok(2 + bytes.len())
            }
            Self::Seal(_) => Ok(8),
        }
    }

    /// Appends header, body, alignment and room for the MAC to `out`; `body_bytes` is what
    /// [`Self::body_bytes`] said for the same `extra`.
    pub(crate) fn encode(&self, body_bytes: usize, extra: &[&[u8]], out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(&header_bytes(self.kind(), body_bytes));
        match self {
            Self::Message(message) => {
                out.put_u32(message.head_bytes(0) as u32);
                message.encode_envelope(out);
                message.encode_content(extra, out);
            }
            Self::Moved(Moved {
                from,
                states,
                message,
            }) => {
                let before = MOVED_BYTES + states.encoded_bytes();
                out.put_u32(message.head_bytes(before) as u32);
                out.put_u32(from.0);
                out.put_u16(states.len() as u16);
                states.encode(out);
                message.encode_envelope(out);
                message.encode_content(extra, out);
            }
            Self::Outcome(outcome) => outcome.encode(out),
            Self::Commit(about) | Self::Cancel(about) => about.encode(out),
            Self::Blob { kind, bytes } => {
                out.put_u16(*kind);
                out.extend_from_slice(bytes);
            }
            Self::Seal(seal) => {
                out.put_u32(seal.records);
                out.put_u32(seal.record_bytes);
            }
        }
        debug_assert_eq!(out.len() - begin, RECORD_HEADER_BYTES + body_bytes);
        out.resize(begin + record_bytes(body_bytes), 0);
    }

    /// Reads a decrypted body of a kind that is not [`Kind::Batch`].
    ///
    /// # Errors
    /// [`DecodeError`] for bytes no writer of this format produces.
    pub fn decode(kind: Kind, body: &'a [u8]) -> Result<Self, DecodeError> {
        match kind {
            Kind::Message | Kind::Moved => {
                let (head, content) = split_head(body)?;
                Self::decode_head(kind, head, content, content.len())
            }
            Kind::Outcome => Outcome::decode(body).map(Self::Outcome),
            Kind::Commit => About::decode_all(body).map(Self::Commit),
            Kind::Cancel => About::decode_all(body).map(Self::Cancel),
            Kind::Blob => {
                let mut take = Take::new(body);
                let kind = take.u16()?;
                Ok(Self::Blob {
                    kind,
                    bytes: take.rest(),
                })
            }
            Kind::Seal => {
                let mut take = Take::new(body);
                let seal = Seal {
                    records: take.u32()?,
                    record_bytes: take.u32()?,
                };
                take.end()?;
                Ok(Self::Seal(seal))
            }
            Kind::Batch => Err(DecodeError { field: "kind" }),
        }
    }

    /// Reads a message or moved message whose head is decrypted and whose content, of
    /// `content_bytes`, may be left out.
    pub(crate) fn decode_head(
        kind: Kind,
        head: &'a [u8],
        content: &'a [u8],
        content_bytes: usize,
    ) -> Result<Self, DecodeError> {
        let mut take = Take::new(head);
        take.u32()?;
        if kind == Kind::Message {
            return Message::decode(take, content, content_bytes).map(Self::Message);
        }
        let from = SegmentId(take.u32()?);
        let states = OutcomeStates::decode(&mut take)?;
        let message = Message::decode(take, content, content_bytes)?;
        states.check(message.recipients.len())?;
        Ok(Self::Moved(Moved {
            from,
            states,
            message,
        }))
    }
}

/// Bytes of a moved message's body between the head's length and its states.
const MOVED_BYTES: usize = 4 + 2;

/// Bytes at the front of a message's body from which [`head_bytes`] reads.
pub(crate) const HEAD_LENGTH_BYTES: usize = 4;

/// Bytes of a message's body in front of its content, from the first [`HEAD_LENGTH_BYTES`] of it.
pub(crate) fn head_bytes(body: &[u8], body_bytes: usize) -> Result<usize, DecodeError> {
    let head = Take::new(body).u32()? as usize;
    if head < HEAD_LENGTH_BYTES || head > body_bytes {
        return Err(DecodeError {
            field: "envelope length",
        });
    }
    Ok(head)
}

fn split_head(body: &[u8]) -> Result<(&[u8], &[u8]), DecodeError> {
    Ok(body.split_at(head_bytes(body, body.len())?))
}

/// `Ok` if `found` is within `max`.
fn message_field(found: usize, max: usize, field: &'static str) -> Result<(), EncodeError> {
    if found > max {
        Err(EncodeError::TooLong { field, found, max })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
