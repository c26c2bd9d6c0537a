//! TSV drawn as a table for a terminal.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use engine::delivery_log::text::{escape_tsv, quote_json, unescape_tsv};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

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

/// Narrowest that the last column is wrapped to, columns of the terminal; else it has lines of its own.
pub(crate) const NARROWEST: usize = 24;

/// What stands in front of a last column that has lines of its own.
pub(crate) const INDENT: &str = "    ";

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
        let cleaned = |row: &Vec<String>| row.iter().map(|value| clean(value)).collect();
        let rows: Vec<Vec<String>> = self.rows.iter().map(cleaned).collect();
        let text = upright(&self.columns, &rows, terminal_columns());
        io::stdout().lock().write_all(text.as_bytes())
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

    /// `columns`: width of the terminal. Nothing is cut: a text that is too long goes on beneath, and
    /// rows that are too wide even so are written upright.
    fn table(&self, columns: Option<usize>) -> String {
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| row.iter().map(|value| clean(value)).collect())
            .collect();
        let texts: Vec<bool> = (0..self.columns.len())
            .map(|index| {
                let mut values = rows.iter().map(|row| &row[index]);
                values.any(|value| !value.is_empty() && !is_number(value))
            })
            .collect();
        let widest = |index: usize| {
            let values = rows.iter().map(|row| width(&row[index]));
            values.max().unwrap_or(0).max(width(&self.columns[index]))
        };
        let mut widths: Vec<usize> = (0..self.columns.len()).map(widest).collect();
        let Some(last) = widths.len().checked_sub(1) else {
            return String::new();
        };
        let before: usize = widths[..last].iter().map(|width| width + 2).sum();
        let room = columns.map_or(usize::MAX, |columns| columns.saturating_sub(before));
        let fits = widths[last] <= room;
        let on_own_lines = !fits && room < NARROWEST;
        if on_own_lines && (!texts[last] || columns.is_some_and(|columns| before > columns + 2)) {
            return upright(&self.columns, &rows, columns);
        }
        widths[last] = widths[last].min(room);
        let mut out = String::new();
        for row in std::iter::once(&self.columns).chain(&rows) {
            let mut line = String::new();
            for (index, value) in row[..last].iter().enumerate() {
                pad(&mut line, value, widths[index], !texts[index]);
                line.push_str("  ");
            }
            let (lead, room) = if on_own_lines {
                out.push_str(line.trim_end());
                out.push('\n');
                line = INDENT.to_owned();
                (
                    INDENT.len(),
                    columns.unwrap_or(0).saturating_sub(INDENT.len()),
                )
            } else {
                (before, room)
            };
            if texts[last] {
                for (number, part) in wrapped(&row[last], room.max(1)).iter().enumerate() {
                    if number > 0 {
                        line = " ".repeat(lead);
                    }
                    out.push_str(&line);
                    out.push_str(part);
                    out.push('\n');
                }
            } else {
                pad(&mut line, &row[last], widths[last], true);
                out.push_str(&line);
                out.push('\n');
            }
        }
        if rows.is_empty() {
            out.push_str("(none)\n");
        }
        out
    }
}

/// Each row as lines of name and value, with an empty line between rows.
fn upright(columns: &[String], rows: &[Vec<String>], terminal: Option<usize>) -> String {
    let mut out = String::new();
    for (number, row) in rows.iter().enumerate() {
        out.push_str(if number == 0 { "" } else { "\n" });
        let pairs = columns.iter().zip(row);
        let pairs = pairs.map(|(column, value)| (column.as_str(), value.as_str()));
        write_upright(pairs, terminal, &mut out);
    }
    if rows.is_empty() {
        out.push_str("(none)\n");
    }
    out
}

/// Lines of name and value; a value too long for `terminal` goes on beneath itself.
pub(crate) fn write_upright<'t>(
    pairs: impl Iterator<Item = (&'t str, &'t str)> + Clone,
    terminal: Option<usize>,
    out: &mut String,
) {
    let widest = pairs.clone().map(|(name, _)| width(name)).max();
    let widest = widest.unwrap_or(0);
    let room = terminal.map_or(usize::MAX, |columns| {
        columns.saturating_sub(widest + 2).max(NARROWEST)
    });
    for (name, value) in pairs {
        pad(out, name, widest, false);
        for (number, part) in wrapped(value, room).iter().enumerate() {
            out.push_str(&" ".repeat(if number == 0 { 2 } else { widest + 2 }));
            out.push_str(part);
            out.push('\n');
        }
    }
}

/// The text in lines of at most `columns`, broken at spaces where that can be; at least one line.
pub(crate) fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_inclusive(' ') {
        if !line.is_empty() && width(&line) + width(word.trim_end()) > columns {
            lines.push(std::mem::take(&mut line).trim_end().to_owned());
        }
        for c in word.chars() {
            if c != ' ' && !line.is_empty() && width(&line) + c.width().unwrap_or(0) > columns {
                lines.push(std::mem::take(&mut line));
            }
            line.push(c);
        }
    }
    if !line.trim_end().is_empty() || lines.is_empty() {
        lines.push(line.trim_end().to_owned());
    }
    lines
}

/// No control characters on a terminal: a reply from the network may hold any.
pub(crate) fn clean(value: &str) -> String {
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

/// Columns a text takes on a terminal.
pub(crate) fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
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
pub(crate) fn terminal_columns() -> Option<usize> {
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

    /// What mail waits for stood behind an ellipsis at 80 and 120 columns.
    #[test]
    fn nothing_of_a_table_is_cut() {
        let binding = "site backoff, next try in 13 s: connect: Connection refused (os error 111)";
        let rows = Rows::from_tsv(&format!(
            "queue_id\taccepted\tdomain\trecipients\tattempts\tbinding\n\
             0G4X7RZ1N2K3M\t2026-11-24T06:57:00.000Z\tdown.example.jp\t1\t3\t{binding}\n"
        ));
        let words = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        for columns in [20, 40, 80, 100, 120, 200] {
            let table = rows.table(Some(columns));
            assert!(!table.contains('…'), "{table}");
            assert!(table.contains("2026-11-24T06:57:00.000Z"), "{table}");
            let found = words(&table).join(" ");
            assert!(found.contains(binding), "at {columns} columns:\n{table}");
            if columns >= 80 {
                assert!(table.lines().all(|line| width(line) <= columns), "{table}");
            }
        }
    }

    #[test]
    fn a_long_text_goes_on_beneath_itself() {
        assert_eq!(
            self::rows().table(Some(46)),
            "domain      queued  binding\n\
             example.jp       7  waits\\tfor 2 sessions\n\
             例え.jp       1234  \n"
        );
        let rows = Rows::from_tsv("a\tb\n1\tone two three four five six seven\n");
        assert_eq!(
            rows.table(Some(29)),
            "a  b\n1  one two three four five\n   six seven\n"
        );
        assert_eq!(wrapped("飛脚飛脚", 5), ["飛脚", "飛脚"]);
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
