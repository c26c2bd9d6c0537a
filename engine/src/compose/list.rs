//! Recipient lists in CSV (RFC 4180): one record a recipient, the first names the fields.
//!
//! Records may span lines inside quotes. A bad record is an error with its line number and the next
//! one is read all the same, as one slip in a million lines must not stop a campaign.

use std::fmt;
use std::sync::Arc;

use super::data::{Columns, Data};
use super::limits::{LIST_COLUMNS_MAX, LIST_RECORD_BYTES_MAX};
use super::mailbox::{Mailbox, MailboxError};

/// Header names of the column with the address, the first found being it.
pub const ADDRESS_COLUMNS: [&str; 6] = [
    "address",
    "email",
    "mail",
    "to",
    "メールアドレス",
    "アドレス",
];

/// A line that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListError {
    /// Number of the line on which the record begins, from 1.
    pub line: usize,
    /// Why.
    pub kind: ListErrorKind,
}

/// Why a line cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListErrorKind {
    /// The list is empty.
    NoHeader,
    /// No column is called by one of [`ADDRESS_COLUMNS`].
    NoAddressColumn,
    /// A header cell is empty or there are too many.
    BadHeader,
    /// Fewer or more cells than the header has.
    CellCount {
        /// In this record.
        found: usize,
        /// In the header.
        wanted: usize,
    },
    /// Text behind a closing quote, or a quote inside an unquoted cell.
    StrayQuote,
    /// A quote that is never closed.
    OpenQuote,
    /// Larger than [`LIST_RECORD_BYTES_MAX`].
    TooLarge,
    /// Not UTF-8.
    NotUtf8,
    /// The address.
    Address {
        /// As it stands.
        text: String,
        /// What is wrong.
        error: MailboxError,
    },
}

impl fmt::Display for ListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.line)?;
        match &self.kind {
            ListErrorKind::NoHeader => {
                f.write_str("the list is empty; its first line names the fields")
            }
            ListErrorKind::NoAddressColumn => {
                write!(
                    f,
                    "no column for the address; call it one of {}",
                    ADDRESS_COLUMNS.join(", ")
                )
            }
            ListErrorKind::BadHeader => {
                write!(
                    f,
                    "a field without a name, or more than {LIST_COLUMNS_MAX} fields"
                )
            }
            ListErrorKind::CellCount { found, wanted } => {
                write!(f, "{found} cells where the first line names {wanted}")
            }
            ListErrorKind::StrayQuote => f.write_str(
                "a quote inside a cell; quote the whole cell and double the quotes in it",
            ),
            ListErrorKind::OpenQuote => f.write_str("a quote is opened and never closed"),
            ListErrorKind::TooLarge => {
                write!(
                    f,
                    "a record of more than {LIST_RECORD_BYTES_MAX} bytes; is a quote left open?"
                )
            }
            ListErrorKind::NotUtf8 => f.write_str("not UTF-8; convert the list to UTF-8"),
            ListErrorKind::Address { text, error } => write!(f, "{text:?}: {error}"),
        }
    }
}

impl std::error::Error for ListError {}

/// One recipient of a list.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Number of the line on which the record begins, from 1.
    pub line: usize,
    /// Whom it goes to.
    pub recipient: Mailbox,
    /// All its cells, the address too.
    pub data: Arc<Data>,
}

/// Reads a list from its bytes, record by record.
#[derive(Debug)]
pub struct List<'a> {
    records: Records<'a>,
    columns: Arc<Columns>,
    address: usize,
}

impl<'a> List<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// The header cannot be used.
    pub fn open(bytes: &'a [u8]) -> Result<Self, ListError> {
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        let mut records = Records {
            rest: bytes,
            line: 1,
            cells: Vec::new(),
        };
        let line = match records.advance() {
            Some(line) => line?,
            None => {
                return Err(ListError {
                    line: 1,
                    kind: ListErrorKind::NoHeader,
                });
            }
        };
        let names: Vec<String> = records.cells.iter().map(|c| c.trim().to_owned()).collect();
        if names.len() > LIST_COLUMNS_MAX || names.iter().any(String::is_empty) {
            return Err(ListError {
                line,
                kind: ListErrorKind::BadHeader,
            });
        }
        let same = |name: &str, wanted: &str| name.eq_ignore_ascii_case(wanted);
        let address = ADDRESS_COLUMNS
            .iter()
            .find_map(|w| names.iter().position(|name| same(name, w)));
        let address = address.ok_or(ListError {
            line,
            kind: ListErrorKind::NoAddressColumn,
        })?;
        Ok(Self {
            records,
            columns: Columns::new(names),
            address,
        })
    }

    /// The fields.
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    /// Bytes not yet read, for a progress bar.
    pub const fn rest_bytes(&self) -> usize {
        self.records.rest.len()
    }
}

impl Iterator for List<'_> {
    type Item = Result<Entry, ListError>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = match self.records.advance()? {
            Ok(line) => line,
            Err(error) => return Some(Err(error)),
        };
        let (found, wanted) = (self.records.cells.len(), self.columns.names().len());
        if found != wanted {
            return Some(Err(ListError {
                line,
                kind: ListErrorKind::CellCount { found, wanted },
            }));
        }
        let cells = &self.records.cells;
        let text = cells[self.address].trim();
        let recipient = Mailbox::parse(text).map_err(|error| {
            let text = text.to_owned();
            ListError {
                line,
                kind: ListErrorKind::Address { text, error },
            }
        });
        let data = Data::new(Arc::clone(&self.columns), cells.iter().map(String::as_str));
        Some(recipient.map(|recipient| Entry {
            line,
            recipient,
            data: Arc::new(data),
        }))
    }
}

/// Splits bytes into records of cells.
#[derive(Debug)]
struct Records<'a> {
    rest: &'a [u8],
    line: usize,
    cells: Vec<String>,
}

impl Records<'_> {
    /// Reads the next record that is not an empty line; returns its first line's number.
    fn advance(&mut self) -> Option<Result<usize, ListError>> {
        loop {
            if self.rest.is_empty() {
                return None;
            }
            let line = self.line;
            let end = record_end(self.rest);
            let (record, rest) = match end {
                Ok(end) => self.rest.split_at(end),
                Err(kind) => {
                    // Without its end nothing of it can be trusted but that it begins here.
                    let end = memchr::memchr(b'\n', self.rest).map_or(self.rest.len(), |at| at + 1);
                    self.rest = &self.rest[end..];
                    self.line += 1;
                    return Some(Err(ListError { line, kind }));
                }
            };
            self.rest = rest;
            self.line += memchr::memchr_iter(b'\n', record).count();
            let record = record.strip_suffix(b"\n").unwrap_or(record);
            let record = record.strip_suffix(b"\r").unwrap_or(record);
            if record.is_empty() {
                continue;
            }
            let split = std::str::from_utf8(record)
                .map_err(|_| ListErrorKind::NotUtf8)
                .and_then(|text| split_cells(text, &mut self.cells));
            return Some(
                split
                    .map(|()| line)
                    .map_err(|kind| ListError { line, kind }),
            );
        }
    }
}

/// Offset behind the record's line end.
fn record_end(bytes: &[u8]) -> Result<usize, ListErrorKind> {
    let mut quoted = false;
    for at in memchr::memchr2_iter(b'"', b'\n', bytes) {
        if at > LIST_RECORD_BYTES_MAX {
            return Err(ListErrorKind::TooLarge);
        }
        match bytes[at] {
            b'"' => quoted = !quoted,
            _ if !quoted => return Ok(at + 1),
            _ => {}
        }
    }
    match (quoted, bytes.len() > LIST_RECORD_BYTES_MAX) {
        (_, true) => Err(ListErrorKind::TooLarge),
        (true, false) => Err(ListErrorKind::OpenQuote),
        (false, false) => Ok(bytes.len()),
    }
}

fn split_cells(record: &str, cells: &mut Vec<String>) -> Result<(), ListErrorKind> {
    cells.clear();
    let mut rest = record;
    loop {
        let tail = match rest.strip_prefix('"') {
            Some(inside) => {
                let mut cell = String::new();
                let mut inside = inside;
                loop {
                    let (text, tail) = inside.split_once('"').ok_or(ListErrorKind::OpenQuote)?;
                    cell.push_str(text);
                    match tail.strip_prefix('"') {
                        Some(more) => {
                            cell.push('"');
                            inside = more;
                        }
                        None => {
                            inside = tail;
                            break;
                        }
                    }
                }
                cells.push(cell);
                inside
            }
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                if rest[..end].contains('"') {
                    return Err(ListErrorKind::StrayQuote);
                }
                cells.push(rest[..end].to_owned());
                &rest[end..]
            }
        };
        match (tail.strip_prefix(','), tail.is_empty()) {
            (Some(next), _) => rest = next,
            (None, true) => return Ok(()),
            (None, false) => return Err(ListErrorKind::StrayQuote),
        }
        if cells.len() > LIST_COLUMNS_MAX {
            return Err(ListErrorKind::BadHeader);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_span_lines_and_bad_ones_are_numbered() {
        let csv = "\u{FEFF}address,name,note\r\na@example.jp,山田,\"x, \"\"y\"\"\r\nz\"\r\n\r\nbroken\r\n\
                   nobody,a,b\nb@example.jp,\"q\"x,y\nc@example.jp,鈴木,\n";
        let list = List::open(csv.as_bytes()).unwrap();
        let mut seen = Vec::new();
        for entry in list {
            seen.push(match entry {
                Ok(e) => format!(
                    "{} {} {:?}",
                    e.line,
                    e.recipient,
                    e.data.get("note").map(ToString::to_string)
                ),
                Err(error) => error.to_string(),
            });
        }
        assert_eq!(
            seen,
            [
                "2 a@example.jp Some(\"x, \\\"y\\\"\\r\\nz\")",
                "5: 1 cells where the first line names 3",
                "6: \"nobody\": not an address: expected local-part@domain",
                "7: a quote inside a cell; quote the whole cell and double the quotes in it",
                "8 c@example.jp Some(\"\")",
            ]
        );
    }

    #[test]
    fn lists_without_what_they_need_are_refused() {
        for (csv, kind) in [
            ("", ListErrorKind::NoHeader),
            ("name,x\n", ListErrorKind::NoAddressColumn),
            ("address,,x\n", ListErrorKind::BadHeader),
            ("address,\"x\n", ListErrorKind::OpenQuote),
        ] {
            assert_eq!(
                List::open(csv.as_bytes()).unwrap_err().kind,
                kind,
                "{csv:?}"
            );
        }
        let list = List::open("名前,メールアドレス\n山田,a@example.jp\n".as_bytes()).unwrap();
        assert_eq!(
            list.last().unwrap().unwrap().recipient.to_string(),
            "a@example.jp"
        );
    }
}
