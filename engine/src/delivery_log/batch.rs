//! Records packed together: what one encrypted segment record of the log stream holds.
//!
//! A record of its own for each line would pay the cipher's and the segment's overhead 15,000 times
//! a second. A batch is written when it is large or old enough, and its header lets a reader skip
//! what lies outside the time asked for.
//!
//! ```text
//! version u8 = 1 | records u32 | first ms u64 | last ms u64 | { bytes u32 | packed record }*
//! ```

use crate::clock::UnixMs;

use super::record::{Cursor, LogDecodeError, LogRecord, RECORD_BYTES_MAX, decode, encode};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 4 + 8 + 8;

/// A batch is due at this size, bytes.
pub const BATCH_BYTES_FULL: usize = 64 * 1024;

/// A batch is due at this age, ms: what a crash may cost the log, and how far `--follow` lags.
pub const BATCH_AGE_MS_MAX: u64 = 500;

/// A batch that is taken as soon as it is due never exceeds this, bytes: one more record than makes it full.
pub const BATCH_BYTES_MAX: usize = BATCH_BYTES_FULL + RECORD_BYTES_MAX + 4;

/// Records waiting to be written.
///
/// After [`push`](Self::push) ask [`is_due`](Self::is_due); when it is, write
/// [`take`](Self::take)'s bytes as one record of the log stream and hand the buffer back with
/// [`reuse`](Self::reuse).
#[derive(Debug, Default)]
pub struct LogBatch {
    bytes: Vec<u8>,
    records: u32,
    first: UnixMs,
    last: UnixMs,
}

impl LogBatch {
    /// An empty batch with its buffer.
    pub fn new() -> Self {
        let mut batch = Self::default();
        batch.reuse(Vec::with_capacity(BATCH_BYTES_MAX));
        batch
    }

    /// Adds one record.
    pub fn push(&mut self, record: &LogRecord<'_>) {
        if self.records == 0 {
            self.bytes.clear();
            self.bytes.resize(HEADER_BYTES, 0);
            (self.first, self.last) = (record.time, record.time);
        }
        self.first = self.first.min(record.time);
        self.last = self.last.max(record.time);
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        encode(record, &mut self.bytes);
        let bytes = (self.bytes.len() - at - 4) as u32;
        self.bytes[at..at + 4].copy_from_slice(&bytes.to_le_bytes());
        self.records += 1;
    }

    /// Number of records waiting.
    pub const fn len(&self) -> u32 {
        self.records
    }

    /// What waits, bytes.
    pub const fn bytes_len(&self) -> usize {
        if self.records == 0 {
            0
        } else {
            self.bytes.len()
        }
    }

    /// Whether nothing waits.
    pub const fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Whether the batch should be written now.
    pub fn is_due(&self, now: UnixMs) -> bool {
        self.records > 0
            && (self.bytes.len() >= BATCH_BYTES_FULL
                || now.0.abs_diff(self.first.0) >= BATCH_AGE_MS_MAX)
    }

    /// The batch as bytes, at most [`BATCH_BYTES_MAX`] if it was taken when due; empty if nothing
    /// waits.
    pub fn take(&mut self) -> Vec<u8> {
        if self.records == 0 {
            return Vec::new();
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes[0] = VERSION;
        bytes[1..5].copy_from_slice(&self.records.to_le_bytes());
        bytes[5..13].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[13..21].copy_from_slice(&self.last.0.to_le_bytes());
        self.records = 0;
        bytes
    }

    /// Takes back a written buffer, so that none is allocated for the next batch.
    pub fn reuse(&mut self, mut buffer: Vec<u8>) {
        if self.records == 0 && buffer.capacity() > self.bytes.capacity() {
            buffer.clear();
            self.bytes = buffer;
        }
    }
}

/// What a batch's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBatchHeader {
    /// Records in it.
    pub records: u32,
    /// The earliest time in it.
    pub first: UnixMs,
    /// The latest.
    pub last: UnixMs,
}

/// Reads a batch: its header, and its records in the order in which they were pushed.
///
/// # Errors
/// [`LogDecodeError`] if there is no header; the iterator yields one in place of the first record
/// that cannot be read, and ends with it.
pub fn read_batch(
    bytes: &[u8],
) -> Result<
    (
        LogBatchHeader,
        impl Iterator<Item = Result<LogRecord<'_>, LogDecodeError>>,
    ),
    LogDecodeError,
> {
    let mut cursor = Cursor(bytes);
    let [version] = cursor.array()?;
    if version != VERSION {
        return Err(LogDecodeError::Version(version));
    }
    let records = u32::from_le_bytes(cursor.array()?);
    let first = UnixMs(u64::from_le_bytes(cursor.array()?));
    let last = UnixMs(u64::from_le_bytes(cursor.array()?));
    let mut left = records;
    let iterator = std::iter::from_fn(move || {
        if left == 0 {
            let trailing = !cursor.0.is_empty();
            cursor.0 = &[];
            return trailing.then_some(Err(LogDecodeError::Long));
        }
        left -= 1;
        let record = cursor
            .array()
            .and_then(|bytes| cursor.slice(u32::from_le_bytes(bytes) as usize))
            .and_then(decode);
        if record.is_err() {
            left = 0;
            cursor.0 = &[];
        }
        Some(record)
    });
    Ok((
        LogBatchHeader {
            records,
            first,
            last,
        },
        iterator,
    ))
}
