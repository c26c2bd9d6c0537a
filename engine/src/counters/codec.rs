//! What of the counters survives: the counts since ever, as the payload of one record.
//!
//! Levels are left out, since replay counts what is queued anew, and so are the windows. The record
//! goes into the queue's own stream, in order with the outcomes: after a crash the outcomes
//! replayed behind it are what has to be counted on top of it.
//!
//! ```text
//! version u8 = 1 | row of the total | rows u32 | { name | row }* domains
//! | rows u32 | { name | row }* groups
//! row: 9 varints, in the order of the counters without the levels; name: varint length and bytes
//! ```

use std::fmt;

use super::{Counter, Counters, NAME_BYTES_MAX, Row, Rows, Values};

const VERSION: u8 = 1;

/// Saved counters that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountersDecodeError {
    /// They end too early, go on behind their end, or hold an impossible value.
    Damaged,
    /// Their version is not ours.
    Version(u8),
}

impl fmt::Display for CountersDecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged => f.write_str("saved counters are damaged"),
            Self::Version(version) => {
                write!(
                    f,
                    "saved counters of version {version}, this program reads {VERSION}"
                )
            }
        }
    }
}

impl std::error::Error for CountersDecodeError {}

impl Counters {
    /// Appends the counts since ever to `out`.
    pub fn save(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        put_row(self.total.ever(), out);
        put_rows(&self.domains, out);
        put_rows(&self.groups, out);
    }

    /// Adds saved counts, of this shard or of one that is no more. Nothing is added if they cannot
    /// be read.
    ///
    /// # Errors
    /// [`CountersDecodeError`] says why not.
    pub fn restore(&mut self, saved: &[u8]) -> Result<(), CountersDecodeError> {
        let mut reader = Reader(saved);
        match reader.byte()? {
            VERSION => {}
            version => return Err(CountersDecodeError::Version(version)),
        }
        let total = reader.row()?;
        let domains = reader.rows()?;
        let groups = reader.rows()?;
        if !reader.0.is_empty() {
            return Err(CountersDecodeError::Damaged);
        }
        add(&mut self.total, &total);
        for (name, values) in domains {
            let id = self.domains.find_or_add_quiet(name);
            add(self.domains.row(id), &values);
        }
        for (name, values) in groups {
            let id = self.groups.find_or_add_quiet(name);
            add(self.groups.row(id), &values);
        }
        Ok(())
    }
}

impl Rows {
    /// As `find_or_add`, but the row does not become active and none is given away for it.
    fn find_or_add_quiet(&mut self, name: &str) -> super::RowId {
        if let Some(&index) = self.by_name.get(name) {
            return super::RowId {
                index,
                generation: self.rows[index as usize].generation,
            };
        }
        if name == super::OTHER || self.rows.len() > self.rows_max as usize {
            return super::RowId {
                index: 0,
                generation: 0,
            };
        }
        let index = self.rows.len() as u32;
        self.rows.push(super::Slot {
            name: name.into(),
            generation: 0,
            row: Row::new(),
        });
        self.by_name.insert(name.into(), index);
        super::RowId {
            index,
            generation: 0,
        }
    }
}

fn add(row: &mut Row, values: &Values) {
    for counter in &Counter::ALL[Counter::LEVELS..] {
        row.add_ever(*counter, values[*counter as usize]);
    }
}

fn put_rows(rows: &Rows, out: &mut Vec<u8>) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    let mut count: u32 = 0;
    rows.each(|name, row| {
        if row.ever()[Counter::LEVELS..].iter().any(|&n| n > 0) {
            put_varint(name.len() as u64, out);
            out.extend_from_slice(name.as_bytes());
            put_row(row.ever(), out);
            count += 1;
        }
    });
    out[at..at + 4].copy_from_slice(&count.to_le_bytes());
}

fn put_row(values: &Values, out: &mut Vec<u8>) {
    for value in &values[Counter::LEVELS..] {
        put_varint(*value, out);
    }
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, CountersDecodeError> {
        let (first, rest) = self.0.split_first().ok_or(CountersDecodeError::Damaged)?;
        self.0 = rest;
        Ok(*first)
    }

    fn varint(&mut self) -> Result<u64, CountersDecodeError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(CountersDecodeError::Damaged)
    }

    fn row(&mut self) -> Result<Values, CountersDecodeError> {
        let mut values = Values::default();
        for value in &mut values[Counter::LEVELS..] {
            *value = self.varint()?;
        }
        Ok(values)
    }

    fn rows(&mut self) -> Result<Vec<(&'a str, Values)>, CountersDecodeError> {
        let (count, rest) = self
            .0
            .split_first_chunk()
            .ok_or(CountersDecodeError::Damaged)?;
        self.0 = rest;
        let count = u32::from_le_bytes(*count) as usize;
        // A row takes at least 10 bytes, so a wild count cannot ask for more than the input's size.
        if count > self.0.len() / 10 {
            return Err(CountersDecodeError::Damaged);
        }
        (0..count)
            .map(|_| Ok((self.name()?, self.row()?)))
            .collect()
    }

    fn name(&mut self) -> Result<&'a str, CountersDecodeError> {
        let bytes = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
        if bytes > NAME_BYTES_MAX {
            return Err(CountersDecodeError::Damaged);
        }
        let (name, rest) = self
            .0
            .split_at_checked(bytes)
            .ok_or(CountersDecodeError::Damaged)?;
        self.0 = rest;
        std::str::from_utf8(name).map_err(|_| CountersDecodeError::Damaged)
    }
}
