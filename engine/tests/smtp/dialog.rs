//! Dialogs as text files (tests/dialogs): one step a line.
//!
//! ```text
//! # a comment
//! c -> EHLO client.example      the client says this line
//! c => a bare\nLF\r\n           the same without adding CRLF, with \r \n \t \\ \xNN
//! s <- 250 *                    the server says this line; * stands for any rest of it
//! ```
//! An arrow to the right is what the script does, to the left what the machine under test must do.
//! Lines the script says one after the other arrive in one piece. Other first words are directives
//! of the runner.

use std::path::{Path, PathBuf};

/// One line of a dialog.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// Number of the line in its file, from 1.
    pub(crate) line: usize,
    /// What it says.
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Octets the script sends.
    Say(Vec<u8>),
    /// Line the machine must send.
    Expect(String),
    /// First word and the rest.
    Directive(String, String),
}

/// A dialog file read.
#[derive(Debug)]
pub(crate) struct Dialog {
    pub(crate) path: PathBuf,
    pub(crate) steps: Vec<Step>,
}

/// Reads every dialog in tests/dialogs/`folder`.
pub(crate) fn read_all(folder: &str) -> Vec<Dialog> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/dialogs")
        .join(folder);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "dialog")
        })
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no dialogs in {}", folder.display());
    paths.into_iter().map(read).collect()
}

fn read(path: PathBuf) -> Dialog {
    let text = std::fs::read_to_string(&path).unwrap();
    let mut steps = Vec::new();
    for (n, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (arrow, said) = rest.split_once(' ').unwrap_or((rest, ""));
        let kind = match (word, arrow) {
            ("c" | "s", "->") => Kind::Say([said.as_bytes(), b"\r\n"].concat()),
            ("c" | "s", "=>") => Kind::Say(unescape(said)),
            ("c" | "s", "<-") => Kind::Expect(said.to_owned()),
            _ => Kind::Directive(word.to_owned(), rest.to_owned()),
        };
        steps.push(Step { line: n + 1, kind });
    }
    Dialog { path, steps }
}

/// Octets of a text with \r \n \t \\ and \xNN in it.
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next() {
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => panic!("unknown escape {other:?} in {text}"),
        });
    }
    out
}

/// Whether a line fits what was expected.
pub(crate) fn fits(line: &str, expected: &str) -> bool {
    match expected.strip_suffix('*') {
        Some(start) => line.starts_with(start),
        None => line == expected,
    }
}

/// Milliseconds of `30s` or `250ms`.
pub(crate) fn milliseconds(text: &str) -> u64 {
    match text.strip_suffix("ms") {
        Some(number) => number.parse().unwrap(),
        None => text.strip_suffix('s').unwrap().parse::<u64>().unwrap() * 1000,
    }
}
