//! Rows of an answer as TSV or JSON, and the answer itself.

use std::fmt::Write as _;
use std::io::Cursor;

use engine::delivery_log::text::escape_tsv;
use serde::{Serialize, Serializer};
use tiny_http::{Header, Response, StatusCode};

use super::Refusal;
use super::request::Format;

pub(super) const TSV: &str = "text/tab-separated-values; charset=utf-8";
pub(super) const JSON: &str = "application/json";
pub(super) const JSON_LINES: &str = "application/jsonl";

/// One value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    Text(String),
    Number(u64),
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

/// Rows under named columns.
#[derive(Clone, Debug)]
pub(super) struct Table {
    columns: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(super) const fn new(columns: &'static [&'static str]) -> Self {
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.columns.len());
        self.rows.push(row);
    }

    pub(super) fn write(&self, format: Format) -> Body {
        match format {
            Format::Tsv => Body::new(TSV, self.tsv()),
            Format::Json => Body::new(JSON, self.json()),
        }
    }

    fn tsv(&self) -> String {
        let mut out = self.columns.join("\t");
        out.push('\n');
        for row in &self.rows {
            for (index, cell) in row.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "\t" });
                match cell {
                    Cell::Text(text) => escape_tsv(text, &mut out),
                    Cell::Number(number) => {
                        let _ = write!(out, "{number}");
                    }
                }
            }
            out.push('\n');
        }
        out
    }

    fn json(&self) -> String {
        let rows: Vec<String> = self
            .rows
            .iter()
            .map(|cells| {
                let row = Row {
                    columns: self.columns,
                    cells,
                };
                serde_json::to_string(&row).unwrap_or_default()
            })
            .collect();
        format!("[{}]\n", rows.join(",\n"))
    }
}

/// A row as a JSON object, in the order of the columns.
struct Row<'a> {
    columns: &'static [&'static str],
    cells: &'a [Cell],
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.columns.iter().zip(self.cells))
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Number(number) => serializer.serialize_u64(*number),
        }
    }
}

/// What goes back with status 200.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) content_type: &'static str,
    pub(super) text: String,
}

impl Body {
    pub(super) const fn new(content_type: &'static str, text: String) -> Self {
        Self { content_type, text }
    }
}

pub(super) fn response(result: Result<Body, Refusal>, format: Format) -> Response<Cursor<Vec<u8>>> {
    let mut allow = None;
    let (status, body) = match result {
        Ok(body) => (200, body),
        Err(refusal) => {
            allow = refusal.allow.map(|methods| ("Allow", methods));
            (refusal.status, error(&refusal, format))
        }
    };
    let mut response = Response::from_string(body.text).with_status_code(StatusCode(status));
    let headers = [
        ("Content-Type", body.content_type),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        // The page has its script and style in itself and talks to nobody else.
        (
            "Content-Security-Policy",
            "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src \
             'self'; frame-ancestors 'none'",
        ),
    ];
    for (name, value) in headers.into_iter().chain(allow) {
        if let Ok(header) = Header::from_bytes(name, value) {
            response.add_header(header);
        }
    }
    response
}

pub(super) fn error(refusal: &Refusal, format: Format) -> Body {
    match format {
        Format::Tsv => {
            let mut text = String::from("error\t");
            escape_tsv(&refusal.message, &mut text);
            text.push('\n');
            Body::new(TSV, text)
        }
        Format::Json => {
            let error = serde_json::json!({ "error": refusal.message });
            Body::new(JSON, format!("{error}\n"))
        }
    }
}
