//! Records as TSV and JSON lines (contract: the names and order of the columns).
//!
//! In TSV a tab, newline, carriage return or backslash within a value is written `\t`, `\n`, `\r`,
//! `\\`, any other control character `\xHH`. Bytes that are no UTF-8 become U+FFFD in both forms.
//! What is not known is an empty column, in JSON `null` for numbers and `""` for texts.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::record::LogRecord;
use super::utc;

/// The columns, in order.
pub const COLUMNS: [&str; 27] = [
    "time",
    "queue_id",
    "message_id",
    "group",
    "tags",
    "reverse_path",
    "forward_path",
    "domain",
    "site",
    "attempt",
    "outcome",
    "class",
    "phase",
    "code",
    "enhanced",
    "reply",
    "dns",
    "source_ip",
    "dest_ip",
    "dest_host",
    "greeting",
    "tls",
    "delay_queue_ms",
    "delay_connect_ms",
    "delay_send_ms",
    "size",
    "shard",
];

/// One column's value.
enum Cell<'a> {
    Text(&'a [u8]),
    Word(&'a str),
    Number(Option<u64>),
    Ip(Option<IpAddr>),
    Owned(String),
}

fn cells<'a>(r: &LogRecord<'a>) -> [Cell<'a>; 27] {
    use Cell::{Ip, Number, Owned, Text, Word};
    let ascii = |bytes: &[u8]| Owned(bytes.iter().map(|&b| b as char).collect());
    [
        ascii(&utc::text(r.time)),
        ascii(&r.queue_id.text()),
        Text(r.message_id),
        Text(r.group),
        Text(r.tags),
        Text(r.reverse_path),
        Text(r.forward_path),
        Text(r.domain),
        Text(r.site),
        Number(Some(r.attempt.into())),
        Word(r.outcome.as_str()),
        Text(r.class),
        Word(r.phase.map_or("", |phase| phase.as_str())),
        Number(r.code.map(|code| code.get().into())),
        Owned(
            r.enhanced
                .map_or_else(String::new, |enhanced| enhanced.to_string()),
        ),
        Text(r.reply),
        Text(r.dns),
        Ip(r.source_ip),
        Ip(r.dest_ip),
        Text(r.dest_host),
        Text(r.greeting),
        Text(r.tls),
        Number(Some(r.delay_queue_ms)),
        Number(r.delay_connect_ms),
        Number(r.delay_send_ms),
        Number(Some(r.size)),
        Number(Some(r.shard.0.into())),
    ]
}

/// Appends the header line with its newline.
pub fn write_tsv_header(out: &mut String) {
    for (index, column) in COLUMNS.iter().enumerate() {
        out.push_str(if index == 0 { "" } else { "\t" });
        out.push_str(column);
    }
    out.push('\n');
}

/// Appends one line with its newline.
pub fn write_tsv_line(record: &LogRecord<'_>, out: &mut String) {
    for (index, cell) in cells(record).into_iter().enumerate() {
        out.push_str(if index == 0 { "" } else { "\t" });
        match cell {
            Cell::Text(bytes) => escape_tsv(&String::from_utf8_lossy(bytes), out),
            Cell::Word(word) => out.push_str(word),
            Cell::Owned(text) => out.push_str(&text),
            Cell::Number(number) => push_display(number, out),
            Cell::Ip(ip) => push_display(ip, out),
        }
    }
    out.push('\n');
}

/// Appends one JSON object with the columns as keys, and a newline.
pub fn write_json_line(record: &LogRecord<'_>, out: &mut String) {
    for (index, (column, cell)) in COLUMNS.iter().zip(cells(record)).enumerate() {
        out.push_str(if index == 0 { "{\"" } else { ",\"" });
        out.push_str(column);
        out.push_str("\":");
        match cell {
            Cell::Text(bytes) => quote_json(&String::from_utf8_lossy(bytes), out),
            Cell::Word(word) => quote_json(word, out),
            Cell::Owned(text) => quote_json(&text, out),
            Cell::Number(None) => out.push_str("null"),
            Cell::Number(number) => push_display(number, out),
            Cell::Ip(ip) => {
                out.push('"');
                push_display(ip, out);
                out.push('"');
            }
        }
    }
    out.push_str("}\n");
}

fn push_display(value: Option<impl std::fmt::Display>, out: &mut String) {
    if let Some(value) = value {
        // Writing to a String cannot fail.
        let _ = write!(out, "{value}");
    }
}

/// Appends `text` as a TSV value.
pub fn escape_tsv(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\\' => out.push_str("\\\\"),
            c if (c as u32) < 0x20 || c == '\x7f' => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
}

/// The value that [`escape_tsv`] wrote; an escape it never writes is kept as it stands.
pub fn unescape_tsv(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let hex = || {
            rest.get(2..4)
                .and_then(|hex| u8::from_str_radix(hex, 16).ok())
        };
        let (c, bytes) = match rest.as_bytes().get(1) {
            Some(b't') => ('\t', 2),
            Some(b'n') => ('\n', 2),
            Some(b'r') => ('\r', 2),
            Some(b'x') => hex().map_or(('\\', 1), |code| (code as char, 4)),
            Some(b'\\') => ('\\', 2),
            _ => ('\\', 1),
        };
        out.push(c);
        rest = &rest[bytes..];
    }
    out.push_str(rest);
    out
}

/// Appends `text` as a JSON string with its quotes (RFC 8259 §7).
pub fn quote_json(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c == '\x7f' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
