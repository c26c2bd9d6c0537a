//! An answer about counters: rows that can be merged across shards and written.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use super::row::{Periods, Row};
use super::{By, COUNTERS, Counter, Values, Window};
use crate::clock::UnixMs;
use crate::delivery_log::text::{escape_tsv, quote_json};
use crate::delivery_log::utc;

/// Rows by name, each with one value of every counter for each bucket of the window, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterTable {
    by: By,
    window: Window,
    /// The running hour or 5 minutes; 0 for [`Window::All`].
    period: u32,
    rows: BTreeMap<String, Vec<Values>>,
}

/// Two answers to different questions cannot be merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableMismatch;

impl fmt::Display for TableMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("counters asked for by different rows or windows cannot be added")
    }
}

impl std::error::Error for TableMismatch {}

impl CounterTable {
    pub(super) fn new(by: By, window: Window, named: Periods) -> Self {
        let period = match window {
            Window::All => 0,
            Window::Hours => named.hour,
            Window::Minutes => named.five,
        };
        Self {
            by,
            window,
            period,
            rows: BTreeMap::new(),
        }
    }

    /// `now`: the periods that run, as the rows count them.
    pub(super) fn add(&mut self, name: String, row: &Row, now: Periods) {
        let buckets = match self.window {
            Window::All => Some(vec![*row.ever()]),
            Window::Hours => row.hours(now).map(|buckets| buckets.to_vec()),
            Window::Minutes => row.fives(now).map(|buckets| buckets.to_vec()),
        };
        if let Some(buckets) = buckets {
            self.rows.insert(name, buckets);
        }
    }

    /// Rows by name; the name of the only row by total is empty.
    pub const fn rows(&self) -> &BTreeMap<String, Vec<Values>> {
        &self.rows
    }

    /// The start of a bucket; `None` for [`Window::All`].
    pub const fn bucket_start(&self, bucket: usize) -> Option<UnixMs> {
        let back = (self.window.buckets() - 1).saturating_sub(bucket) as u32;
        match self.window {
            Window::All => None,
            Window::Hours => Some(Periods::hour_start(self.period.saturating_sub(back))),
            Window::Minutes => Some(Periods::five_start(self.period.saturating_sub(back))),
        }
    }

    /// Adds another shard's answer to the same question. If that was asked a moment later, past the
    /// end of a bucket, both are brought to the later time.
    ///
    /// # Errors
    /// [`TableMismatch`] if it answers another question.
    pub fn merge(&mut self, mut other: Self) -> Result<(), TableMismatch> {
        if self.by != other.by || self.window != other.window {
            return Err(TableMismatch);
        }
        let period = self.period.max(other.period);
        self.shift_to(period);
        other.shift_to(period);
        for (name, theirs) in other.rows {
            let mine = self
                .rows
                .entry(name)
                .or_insert_with(|| vec![[0; COUNTERS]; theirs.len()]);
            for (mine, theirs) in mine.iter_mut().flatten().zip(theirs.iter().flatten()) {
                *mine = mine.saturating_add(*theirs);
            }
        }
        Ok(())
    }

    fn shift_to(&mut self, period: u32) {
        let shift = (period - self.period) as usize;
        self.period = period;
        if shift == 0 {
            return;
        }
        for buckets in self.rows.values_mut() {
            let mut level_only = [0; COUNTERS];
            if let Some(last) = buckets.last() {
                level_only[..Counter::LEVELS].copy_from_slice(&last[..Counter::LEVELS]);
            }
            let shift = shift.min(buckets.len());
            buckets.rotate_left(shift);
            let kept = buckets.len() - shift;
            buckets[kept..].fill(level_only);
        }
    }

    /// TSV with a header line: `domain` or `group` unless by total, `from` (start of the bucket)
    /// unless since ever, and the counters in their order.
    pub fn tsv(&self) -> String {
        let mut out = String::new();
        if self.by != By::Total {
            out.push_str(self.by.as_str());
            out.push('\t');
        }
        if self.window != Window::All {
            out.push_str("from\t");
        }
        out.push_str(&Counter::ALL.map(Counter::as_str).join("\t"));
        out.push('\n');
        for (name, buckets) in &self.rows {
            for (bucket, values) in buckets.iter().enumerate() {
                if self.by != By::Total {
                    escape_tsv(name, &mut out);
                    out.push('\t');
                }
                if let Some(start) = self.bucket_start(bucket) {
                    out.extend(utc::text(start).map(char::from));
                    out.push('\t');
                }
                for (index, value) in values.iter().enumerate() {
                    let tab = if index == 0 { "" } else { "\t" };
                    let _ = write!(out, "{tab}{value}");
                }
                out.push('\n');
            }
        }
        out
    }

    /// A JSON array of objects with the columns of [`tsv`](Self::tsv) as keys, and a newline.
    pub fn json(&self) -> String {
        let mut out = String::from("[");
        for (name, buckets) in &self.rows {
            for (bucket, values) in buckets.iter().enumerate() {
                out.push_str(if out.len() == 1 { "{" } else { ",\n{" });
                if self.by != By::Total {
                    let _ = write!(out, "\"{}\":", self.by.as_str());
                    quote_json(name, &mut out);
                    out.push(',');
                }
                if let Some(start) = self.bucket_start(bucket) {
                    out.push_str("\"from\":\"");
                    out.extend(utc::text(start).map(char::from));
                    out.push_str("\",");
                }
                for (index, (counter, value)) in Counter::ALL.iter().zip(values).enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    let _ = write!(out, "{comma}\"{counter}\":{value}");
                }
                out.push('}');
            }
        }
        out.push_str("]\n");
        out
    }

    /// The newest values of the first row: of all mail, where the rows are [`By::Total`].
    pub fn newest(&self) -> Option<&Values> {
        self.rows.values().next()?.last()
    }
}
