//! TSV drawn as a table for a terminal.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use engine::delivery_log::text::{escape_tsv, quote_json, unescape_tsv};

/// How rows are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns, for people
    Table,
    /// Tab-separated values with a header line
    Tsv,
    /// JSON
    Json,
}

impl Format {
    /// What was asked for; else a table on a terminal and TSV elsewhere.
    pub(crate) fn or_default(given: Option<Self>) -> Self {
        given.unwrap_or_else(|| {
            if io::stdout().is_terminal() {
                Self::Table
            } else {
                Self::Tsv
            }
        })
    }
}

/// Narrowest a text column is made, characters.
const NARROWEST: usize = 12;

/// Rows under named columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rows {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Rows {
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self {
            columns: columns.iter().map(|&c| c.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, row: Vec<String>) {
        debug_assert_eq!(row.len(), self.columns.len());
        self.rows.push(row);
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Reads TSV with a header line.
    pub(crate) fn from_tsv(text: &str) -> Self {
        let mut lines = text.lines();
        let split = |line: &str| line.split('\t').map(unescape_tsv).collect::<Vec<_>>();
        let columns = lines.next().map(split).unwrap_or_default();
        let mut rows: Vec<_> = lines.filter(|line| !line.is_empty()).map(split).collect();
        rows.iter_mut()
            .for_each(|row| row.resize(columns.len(), String::new()));
        Self { columns, rows }
    }

    pub(crate) fn print(&self, format: Format) -> io::Result<()> {
        let text = match format {
            Format::Table => self.table(terminal_columns()),
            Format::Tsv => self.tsv(),
            Format::Json => self.json(),
        };
        io::stdout().lock().write_all(text.as_bytes())
    }

    /// One row as lines of name and value, for rows too wide to read.
    pub(crate) fn print_upright(&self) -> io::Result<()> {
        let widest = self
            .columns
            .iter()
            .map(|column| width(column))
            .max()
            .unwrap_or(0);
        let mut out = String::new();
        for row in &self.rows {
            for (column, value) in self.columns.iter().zip(row) {
                pad(&mut out, column, widest, false);
                out.push_str("  ");
                out.push_str(value);
                out.push('\n');
            }
        }
        io::stdout().lock().write_all(out.as_bytes())
    }

    fn tsv(&self) -> String {
        let mut out = String::new();
        for row in std::iter::once(&self.columns).chain(&self.rows) {
            for (index, value) in row.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "\t" });
                escape_tsv(value, &mut out);
            }
            out.push('\n');
        }
        out
    }

    fn json(&self) -> String {
        let mut out = String::from("[");
        for (number, row) in self.rows.iter().enumerate() {
            out.push_str(if number == 0 { "" } else { ",\n" });
            for (index, (column, value)) in self.columns.iter().zip(row).enumerate() {
                out.push(if index == 0 { '{' } else { ',' });
                quote_json(column, &mut out);
                out.push(':');
                if is_number(value) {
                    out.push_str(value);
                } else {
                    quote_json(value, &mut out);
                }
            }
            out.push('}');
        }
        out.push_str("]\n");
        out
    }

    /// `columns`: width of the terminal; wider text columns are cut to fit.
    fn table(&self, columns: Option<usize>) -> String {
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| row.iter().map(|value| clean(value)).collect())
            .collect();
        let is_text = |index| {
            rows.iter()
                .any(|row: &Vec<String>| !row[index].is_empty() && !is_number(&row[index]))
        };
        let widest = |index: usize| {
            let values = rows.iter().map(|row| width(&row[index]));
            values.max().unwrap_or(0).max(width(&self.columns[index]))
        };
        let texts: Vec<bool> = (0..self.columns.len()).map(is_text).collect();
        let mut widths: Vec<usize> = (0..self.columns.len()).map(widest).collect();
        if let Some(columns) = columns {
            shrink(&mut widths, &texts, &self.columns, columns);
        }
        let mut out = String::new();
        for row in std::iter::once(&self.columns).chain(&rows) {
            let last = row.len().saturating_sub(1);
            for (index, value) in row.iter().enumerate() {
                let value = cut(value, widths[index]);
                if index == last && texts[index] {
                    out.push_str(&value);
                } else {
                    pad(&mut out, &value, widths[index], !texts[index]);
                }
                out.push_str(if index == last { "\n" } else { "  " });
            }
        }
        if rows.is_empty() {
            out.push_str("(none)\n");
        }
        out
    }
}

/// Takes from the widest text column until all fit, or none can give more.
fn shrink(widths: &mut [usize], texts: &[bool], names: &[String], columns: usize) {
    let gaps = 2 * widths.len().saturating_sub(1);
    let mut over = (widths.iter().sum::<usize>() + gaps).saturating_sub(columns);
    while over > 0 {
        let can_give =
            |index: &usize| texts[*index] && widths[*index] > NARROWEST.max(width(&names[*index]));
        let Some(widest) = (0..widths.len())
            .filter(can_give)
            .max_by_key(|&index| widths[index])
        else {
            return;
        };
        widths[widest] -= 1;
        over -= 1;
    }
}

/// No control characters on a terminal: a reply from the network may hold any.
fn clean(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    escape_tsv(value, &mut out);
    out
}

fn is_number(value: &str) -> bool {
    let digits = value.strip_prefix('-').unwrap_or(value);
    !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && (digits.len() == 1 || !digits.starts_with('0'))
        && digits.len() < 16
}

/// Columns a text takes on a terminal: 2 for East Asian wide characters, 0 for combining marks.
fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

const fn char_width(c: char) -> usize {
    match c as u32 {
        0x300..=0x36f | 0x200b..=0x200f | 0x3099..=0x309a | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0x303e
        | 0x3041..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += char_width(c);
        if used > columns {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}

fn pad(out: &mut String, text: &str, columns: usize, right: bool) {
    let spaces = " ".repeat(columns.saturating_sub(width(text)));
    if right {
        out.push_str(&spaces);
        out.push_str(text);
    } else {
        out.push_str(text);
        out.push_str(&spaces);
    }
}

/// Width of the terminal on standard output, if it is one.
fn terminal_columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Rows {
        Rows::from_tsv(
            "domain\tqueued\tbinding\nexample.jp\t7\twaits\\tfor 2 sessions\n例え.jp\t1234\t\n",
        )
    }

    #[test]
    fn a_table_is_aligned_by_what_a_terminal_shows() {
        assert_eq!(
            rows().table(None),
            "domain      queued  binding\n\
             example.jp       7  waits\\tfor 2 sessions\n\
             例え.jp       1234  \n"
        );
        assert_eq!(Rows::new(&["a"]).table(None), "a\n(none)\n");
    }

    #[test]
    fn a_table_is_cut_to_the_terminal() {
        let table = rows().table(Some(36));
        assert!(table.lines().all(|line| width(line) <= 36), "{table}");
        assert!(table.contains("waits\\tfor…"), "{table}");
        assert!(table.contains("1234"));
        // Too narrow for anything: it is left as wide as it must be.
        assert!(rows().table(Some(5)).contains("1234"));
    }

    #[test]
    fn tsv_and_json_keep_everything() {
        assert_eq!(Rows::from_tsv(&rows().tsv()), rows());
        let json: serde_json::Value = serde_json::from_str(&rows().json()).unwrap();
        assert_eq!(json[0]["binding"], "waits\tfor 2 sessions");
        assert_eq!(json[1]["queued"], 1234);
        let id = Rows::from_tsv("queue_id\n0000000000007\n");
        assert!(
            id.json().contains("\"0000000000007\""),
            "an id is no number"
        );
    }
}
