//! Dates, addresses and foreign words as they may stand in a notification.

use std::fmt::Write;

use crate::address::Address;
use crate::clock::UnixMs;
use crate::message::date::rfc5322_date;

pub(super) fn date(time: UnixMs) -> String {
    String::from_utf8_lossy(&rfc5322_date(time)).into_owned()
}

pub(super) fn address_text(address: &Address, utf8: bool) -> String {
    match address.to_ascii() {
        Some(ascii) if !utf8 => ascii.into_owned(),
        _ => address.as_str().to_owned(),
    }
}

/// Type and address for Final-Recipient (RFC 3464 §2.3.2, RFC 6533 §3).
pub(super) fn typed_address(text: &str, utf8: bool) -> String {
    if text.is_ascii() {
        return format!("rfc822; {}", in_charset(text, false));
    }
    if utf8 {
        return format!("utf-8; {}", in_charset(text, true));
    }
    let mut encoded = String::from("utf-8; ");
    for c in text.chars() {
        match c {
            '!'..='~' if !matches!(c, '\\' | '+' | '=') => encoded.push(c),
            c => {
                let _ = write!(encoded, "\\x{{{:X}}}", u32::from(c));
            }
        }
    }
    encoded
}

/// Text that cannot break out of its line, in ASCII unless UTF-8 is allowed.
pub(super) fn in_charset(text: &str, utf8: bool) -> String {
    let shown = |c: char| match c {
        c if c.is_control() => ' ',
        c if !utf8 && !c.is_ascii() => '?',
        c => c,
    };
    text.chars().map(shown).collect()
}

/// Lines of at most some `columns` octets, broken at spaces, or anywhere in a longer word.
pub(super) fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_ascii_whitespace() {
        let mut word = word;
        loop {
            let last = lines.len() - 1;
            let line = &mut lines[last];
            let gap = usize::from(!line.is_empty());
            if line.len() + gap + word.len() <= columns {
                if gap == 1 {
                    line.push(' ');
                }
                line.push_str(word);
                break;
            }
            if line.is_empty() {
                let (head, rest) = word.split_at(word.floor_char_boundary(columns));
                line.push_str(head);
                word = rest;
            }
            lines.push(String::new());
        }
    }
    lines.retain(|line| !line.is_empty());
    if lines.is_empty() {
        lines.push("-".to_owned());
    }
    lines
}
