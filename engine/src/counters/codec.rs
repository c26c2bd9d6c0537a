//! What of the counters survives: the counts since ever and the windows, as the payload of one record.
//!
//! Levels are left out, since replay counts what is queued anew, but for those that past buckets ended
//! with. A place in the queue's stream goes with them: the outcomes that replay finds behind it are
//! counted on top ([`Counters::recount`]).
//!
//! ```text
//! version u8 = 2 | five minutes since the epoch u32 | queue segment u32 | offset u32
//! | row of the total | rows u32 | { name | row }* domains | rows u32 | { name | row }* groups
//! row: 9 varints since ever, in the order of the counters without the levels | buckets u8 | bucket*
//! bucket: which u8, 0 the hour then running, 5 the sixth last, 6 the 5 minutes then running, 17 the
//! twelfth last | bits u16 of the counters that are not 0 | a varint each
//! name: varint length and bytes
//! ```

use std::fmt;

use super::row::{FIVES, HOURS, Periods};
use super::{COUNTERS, Counter, Counters, NAME_BYTES_MAX, Row, Rows, Values};
use crate::ids::{Offset, SegmentId};

const VERSION: u8 = 2;

/// A place in the queue's stream: what stands before it is counted.
pub type Covered = (SegmentId, Offset);

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
    /// Appends the counts to `out`; `covered`: up to where outcomes are in them.
    pub fn save(&self, covered: Covered, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend_from_slice(&self.named.five.to_le_bytes());
        out.extend_from_slice(&covered.0.0.to_le_bytes());
        out.extend_from_slice(&covered.1.0.to_le_bytes());
        put_row(&self.total, self.periods, out);
        put_rows(&self.domains, self.periods, out);
        put_rows(&self.groups, self.periods, out);
    }

    /// Adds saved counts, of this shard or of one that is no more. Nothing is added if they cannot
    /// be read. Gives up to where outcomes are in them.
    ///
    /// # Errors
    /// [`CountersDecodeError`] says why not.
    pub fn restore(&mut self, saved: &[u8]) -> Result<Covered, CountersDecodeError> {
        let mut reader = Reader(saved);
        match reader.byte()? {
            VERSION => {}
            version => return Err(CountersDecodeError::Version(version)),
        }
        let then = self.as_counted(Periods::at_five(reader.u32()?));
        let covered = (SegmentId(reader.u32()?), Offset(reader.u32()?));
        let total = reader.row()?;
        let domains = reader.rows()?;
        let groups = reader.rows()?;
        if !reader.0.is_empty() {
            return Err(CountersDecodeError::Damaged);
        }
        let now = self.periods;
        self.restored = then;
        add(&mut self.total, &total, then, now);
        for (name, saved) in domains {
            let id = self.domains.find_or_add_quiet(name);
            add(self.domains.row(id), &saved, then, now);
        }
        for (name, saved) in groups {
            let id = self.groups.find_or_add_quiet(name);
            add(self.groups.row(id), &saved, then, now);
        }
        Ok(covered)
    }
}

impl Counters {
    /// What the wall clock called so, as rows count it now.
    fn as_counted(&self, named: Periods) -> Periods {
        let (now, wall) = (self.periods, self.named);
        if named.five > wall.five && named.five - wall.five <= FIVES as u32 {
            // The clock was set back a little since: no time has passed that could be known.
            return now;
        }
        // One farther ahead is past every period that runs.
        let back = |now: u32, wall: u32, named: u32| match wall.checked_sub(named) {
            Some(back) => now.saturating_sub(back),
            None => u32::MAX,
        };
        Periods {
            hour: back(now.hour, wall.hour, named.hour),
            five: back(now.five, wall.five, named.five),
        }
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

/// A bucket as it is saved: which, and its values.
type Bucket = (u8, [u32; COUNTERS]);

/// A row as it is saved.
type Saved = (Values, Vec<Bucket>);

fn add(row: &mut Row, (ever, buckets): &Saved, then: Periods, now: Periods) {
    for counter in &Counter::ALL[Counter::LEVELS..] {
        row.add_ever(*counter, ever[*counter as usize]);
    }
    for (which, values) in buckets {
        let back = u32::from(*which);
        match back.checked_sub(HOURS as u32) {
            None => row.add_hour(then.hour.saturating_sub(back), now, values),
            Some(back) => row.add_five(then.five.saturating_sub(back), now, values),
        }
    }
}

fn put_rows(rows: &Rows, now: Periods, out: &mut Vec<u8>) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    let mut count: u32 = 0;
    rows.each(|name, row| {
        if row.ever()[Counter::LEVELS..].iter().any(|&n| n > 0) {
            put_varint(name.len() as u64, out);
            out.extend_from_slice(name.as_bytes());
            put_row(row, now, out);
            count += 1;
        }
    });
    out[at..at + 4].copy_from_slice(&count.to_le_bytes());
}

fn put_row(row: &Row, now: Periods, out: &mut Vec<u8>) {
    for value in &row.ever()[Counter::LEVELS..] {
        put_varint(*value, out);
    }
    let at = out.len();
    out.push(0);
    for (which, values) in row.buckets(now) {
        let bits = values
            .iter()
            .rev()
            .fold(0_u16, |bits, n| bits << 1 | u16::from(*n > 0));
        if bits == 0 {
            continue;
        }
        out[at] += 1;
        out.push(which);
        out.extend_from_slice(&bits.to_le_bytes());
        for value in values.iter().filter(|n| **n > 0) {
            put_varint(u64::from(*value), out);
        }
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

    fn u32(&mut self) -> Result<u32, CountersDecodeError> {
        let (bytes, rest) = self
            .0
            .split_first_chunk()
            .ok_or(CountersDecodeError::Damaged)?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*bytes))
    }

    fn row(&mut self) -> Result<Saved, CountersDecodeError> {
        let mut values = Values::default();
        for value in &mut values[Counter::LEVELS..] {
            *value = self.varint()?;
        }
        let buckets = self.byte()?;
        let buckets = (0..buckets)
            .map(|_| self.bucket())
            .collect::<Result<_, _>>()?;
        Ok((values, buckets))
    }

    fn bucket(&mut self) -> Result<Bucket, CountersDecodeError> {
        let which = self.byte()?;
        let bits = u16::from_le_bytes([self.byte()?, self.byte()?]);
        if usize::from(which) >= HOURS + FIVES || bits >> COUNTERS != 0 {
            return Err(CountersDecodeError::Damaged);
        }
        let mut values = [0; COUNTERS];
        for (n, value) in values.iter_mut().enumerate() {
            if bits >> n & 1 == 1 {
                *value = u32::try_from(self.varint()?).unwrap_or(u32::MAX);
            }
        }
        Ok((which, values))
    }

    fn rows(&mut self) -> Result<Vec<(&'a str, Saved)>, CountersDecodeError> {
        let count = self.u32()? as usize;
        // A row takes at least 11 bytes, so a wild count cannot ask for more than the input's size.
        if count > self.0.len() / 11 {
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
