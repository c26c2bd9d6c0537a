//! Header fields: encoded words (RFC 2047), folding (RFC 5322 §2.2.3) and parameters (RFC 2231).
//!
//! A field is either plain ASCII, written as it is and folded at spaces, or encoded as a whole: words
//! mixed with plain text are where receivers disagree about spaces. An encoded word ends between
//! characters, never inside one, and in ISO-2022-JP it begins and ends in ASCII.

use super::charset::{Lost, Unit, Units, Wire};
use super::limits::HEADER_LINE_BYTES_MAX;
use super::mailbox::{LocalStyle, Mailbox};
use super::transfer::base64;

/// Characters of one encoded word (RFC 2047 §2).
const WORD_CHARS_MAX: usize = 75;

/// Appends `name: text` and CRLF for free text such as Subject.
///
/// `text` holds no CR, LF or NUL; the caller has refused those.
pub fn unstructured(name: &str, text: &str, wire: Wire, out: &mut Vec<u8>) -> Lost {
    let column = start(name, out);
    let lost = if is_plain(text, column) {
        fold_plain(text, column, out);
        Lost::default()
    } else {
        encoded_words(text, wire, column, out).1
    };
    out.extend_from_slice(b"\r\n");
    lost
}

/// Appends `name: value` and CRLF for a structured ASCII value, folded at spaces where it can be.
pub fn structured(name: &str, value: &str, out: &mut Vec<u8>) {
    let column = start(name, out);
    fold_plain(value, column, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends `name: display <address>` and CRLF; `display` may be empty.
pub fn address(
    name: &str,
    display: &str,
    mailbox: &Mailbox,
    style: LocalStyle,
    wire: Wire,
    out: &mut Vec<u8>,
) -> Lost {
    let mut column = start(name, out);
    let mut lost = Lost::default();
    if !display.is_empty() {
        (column, lost) = phrase(display, wire, column, out);
        out.push(b' ');
        column += 1;
    }
    let at = out.len();
    out.push(b'<');
    mailbox.write(style, out);
    out.push(b'>');
    if display.is_empty() && out[at + 1] != b'"' {
        // A bare address needs no brackets; a quoted one does, or mail-parser reads it as a name.
        out.remove(at);
        out.pop();
    } else if !display.is_empty() && column + out.len() - at > HEADER_LINE_BYTES_MAX {
        out.splice(at - 1..at, *b"\r\n ");
    }
    out.extend_from_slice(b"\r\n");
    lost
}

fn start(name: &str, out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    name.len() + 2
}

/// May stand unencoded: printable ASCII that no receiver takes for an encoded word or tidies up, and
/// that folds into short lines behind what stands up to `column`.
fn is_plain(text: &str, column: usize) -> bool {
    text.bytes().all(|b| (0x20..0x7F).contains(&b))
        && !text.contains("=?")
        && !text.contains("  ")
        && !text.starts_with(' ')
        && !text.ends_with(' ')
        && column + text.split(' ').next().map_or(0, str::len) <= HEADER_LINE_BYTES_MAX
        && text
            .split(' ')
            .all(|word| word.len() < HEADER_LINE_BYTES_MAX)
}

/// Writes `text`, breaking lines before a space; returns the column reached.
fn fold_plain(text: &str, mut column: usize, out: &mut Vec<u8>) -> usize {
    for (at, word) in text.split(' ').enumerate() {
        if at > 0 {
            if column + 1 + word.len() > HEADER_LINE_BYTES_MAX && !word.is_empty() {
                out.extend_from_slice(b"\r\n");
                column = 0;
            }
            out.push(b' ');
            column += 1;
        }
        out.extend_from_slice(word.as_bytes());
        column += word.len();
    }
    column
}

/// A display name: atoms, a quoted string, or encoded words.
fn phrase(display: &str, wire: Wire, column: usize, out: &mut Vec<u8>) -> (usize, Lost) {
    let atoms = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~ ".contains(&b);
    if !is_plain(display, column) || display.len() > HEADER_LINE_BYTES_MAX - 16 {
        return encoded_words(display, wire, column, out);
    }
    if display.bytes().all(atoms) {
        return (fold_plain(display, column, out), Lost::default());
    }
    let from = out.len();
    out.push(b'"');
    for byte in display.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
    (column + out.len() - from, Lost::default())
}

/// An encoded word under construction.
struct Word {
    wire: Wire,
    quoted: bool,
    /// B: the bytes to encode. Q: the characters as they will stand.
    raw: [u8; 96],
    len: usize,
    /// ISO-2022-JP is shifted to two-byte characters.
    double: bool,
}

impl Word {
    /// Characters around the payload: `=?` charset `?B?` and `?=`.
    const fn overhead(&self) -> usize {
        self.wire.charset_name().len() + 7
    }

    /// Payload a word of `chars` characters can take, in units of `raw`.
    const fn room(&self, chars: usize) -> usize {
        let payload = chars.saturating_sub(self.overhead());
        if self.quoted {
            payload
        } else {
            payload / 4 * 3
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        if let Some(slot) = self.raw.get_mut(self.len..self.len + bytes.len()) {
            slot.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    fn push_char(&mut self, bytes: &[u8]) {
        if !self.quoted {
            return self.push(bytes);
        }
        for &byte in bytes {
            match byte {
                b' ' => self.push(b"_"),
                _ if is_q_safe(byte) => self.push(&[byte]),
                _ => {
                    let digit = |n: u8| b"0123456789ABCDEF"[n as usize];
                    self.push(&[b'=', digit(byte >> 4), digit(byte & 15)]);
                }
            }
        }
    }

    fn shift(&mut self, double: bool) {
        if self.double != double {
            self.push(if double { b"\x1b$B" } else { b"\x1b(B" });
            self.double = double;
        }
    }

    /// What adding a unit costs, including the escapes before it and those then due at the end.
    const fn cost(&self, unit: Unit, bytes: usize, q: usize) -> usize {
        if self.quoted {
            return q;
        }
        if !self.wire.has_escapes() {
            return bytes;
        }
        match (self.double, matches!(unit, Unit::Double(_))) {
            (false, false) => bytes,
            (false, true) => 3 + bytes + 3,
            // The end's escape comes now instead.
            (true, false) => 3 + bytes,
            (true, true) => bytes + 3,
        }
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        if self.wire.has_escapes() {
            self.shift(false);
        }
        out.extend_from_slice(b"=?");
        out.extend_from_slice(self.wire.charset_name().as_bytes());
        if self.quoted {
            out.extend_from_slice(b"?Q?");
            out.extend_from_slice(&self.raw[..self.len]);
        } else {
            out.extend_from_slice(b"?B?");
            base64(&self.raw[..self.len], out);
        }
        out.extend_from_slice(b"?=");
        self.len = 0;
    }
}

/// Safe in a Q word wherever it stands, phrases included (RFC 2047 §5 rule 3).
const fn is_q_safe(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'!' | b'*' | b'+' | b'-' | b'/')
}

/// Q is shorter than B for this text; only ever in UTF-8, as phones read B alone.
fn prefers_q(text: &str, wire: Wire) -> bool {
    let escaped = text.bytes().filter(|&b| !is_q_safe(b) && b != b' ').count();
    wire == Wire::Utf8 && text.len() + 2 * escaped < text.len() * 4 / 3
}

/// Bytes at the start of `rest` that belong to the character before it: marks, joiners and what they
/// join, skin tones.
fn joined_bytes(rest: &str) -> usize {
    let mut bytes = 0;
    let mut after_joiner = false;
    for c in rest.chars().take(8) {
        let joins = matches!(c, '\u{300}'..='\u{36F}' | '\u{3099}' | '\u{309A}' | '\u{20E3}'
            | '\u{200D}' | '\u{FE0E}' | '\u{FE0F}' | '\u{1F3FB}'..='\u{1F3FF}');
        if !joins && !after_joiner {
            break;
        }
        after_joiner = c == '\u{200D}';
        bytes += c.len_utf8();
    }
    bytes
}

/// Writes `text` as encoded words, each on its own line but the first; returns the column reached.
fn encoded_words(text: &str, wire: Wire, mut column: usize, out: &mut Vec<u8>) -> (usize, Lost) {
    let quoted = prefers_q(text, wire);
    let mut word = Word {
        wire,
        quoted,
        raw: [0; 96],
        len: 0,
        double: false,
    };
    if column > 1 && HEADER_LINE_BYTES_MAX.saturating_sub(column) < word.overhead() + 16 {
        out.extend_from_slice(b"\r\n ");
        column = 1;
    }
    let mut room = word.room(WORD_CHARS_MAX.min(HEADER_LINE_BYTES_MAX - column));
    let full = word.room(WORD_CHARS_MAX);
    let mut units = Units::new(wire, text);
    while let Some(unit) = units.next() {
        let mut utf8 = [0; 4];
        let pair;
        let bytes: &[u8] = match unit {
            Unit::Single(byte) => {
                utf8[0] = byte;
                &utf8[..1]
            }
            Unit::Double(code) => {
                pair = code.to_be_bytes();
                &pair
            }
            Unit::Char(c) => c.encode_utf8(&mut utf8).as_bytes(),
        };
        let q = bytes
            .iter()
            .map(|&b| if is_q_safe(b) || b == b' ' { 1 } else { 3 })
            .sum();
        let mut cost = word.cost(unit, bytes.len(), q);
        if wire.is_utf8() {
            let joined = joined_bytes(units.rest()) * if quoted { 3 } else { 1 };
            if cost + joined <= full {
                cost += joined;
            }
        }
        if word.len + cost > room && word.len > 0 {
            word.flush(out);
            out.extend_from_slice(b"\r\n ");
            (column, room) = (1, full);
        }
        if wire.has_escapes() {
            word.shift(matches!(unit, Unit::Double(_)));
        }
        word.push_char(bytes);
    }
    let at = out.len();
    if word.len > 0 {
        word.flush(out);
    }
    (
        column + out.len() - at,
        Lost {
            count: units.lost,
            first: units.first_lost,
        },
    )
}

/// Appends `; name=value` on a line of its own: quoted, or in RFC 2231's form and pieces where the
/// value is not plain ASCII or too long.
pub fn parameter(name: &str, value: &str, out: &mut Vec<u8>) {
    if is_plain_parameter(value) {
        return quoted_parameter(name, value, out);
    }
    // ` name*9*=` and the semicolon before the next piece stand beside a piece's text.
    let room = HEADER_LINE_BYTES_MAX - name.len() - 6;
    let width = |b: u8| if is_attribute_char(b) { 1 } else { 3 };
    let encoded_chars = value.bytes().map(width).sum::<usize>() + "utf-8''".len();
    let whole = encoded_chars <= room;
    // Ruby's mail and others sort pieces by text, so that 10 comes before 2: never more than ten, and
    // longer lines for the few names over some 70 kanji. A piece may end 11 characters early.
    let room = room.max(encoded_chars.div_ceil(10) + 11);
    let mut piece = 0;
    let open = |piece: usize, out: &mut Vec<u8>| {
        out.extend_from_slice(b";\r\n ");
        out.extend_from_slice(name.as_bytes());
        if !whole {
            out.extend_from_slice(format!("*{piece}").as_bytes());
        }
        out.extend_from_slice(if piece == 0 { b"*=utf-8''" } else { b"*=" });
    };
    open(0, out);
    let mut column = "utf-8''".len();
    for c in value.chars() {
        let mut utf8 = [0; 4];
        let bytes = c.encode_utf8(&mut utf8).as_bytes();
        let width = if is_attribute_char(bytes[0]) {
            1
        } else {
            3 * bytes.len()
        };
        if !whole && column + width > room {
            piece += 1;
            open(piece, out);
            column = 0;
        }
        column += width;
        if width == 1 {
            out.push(bytes[0]);
        } else {
            for byte in bytes {
                out.extend_from_slice(format!("%{byte:02X}").as_bytes());
            }
        }
    }
}

/// Appends `; name="value"` for clients that know no RFC 2231: encoded words between the quotes where
/// the value is not plain (forbidden by RFC 2047 §5, and what Outlook and phones expect).
pub fn legacy_parameter(name: &str, value: &str, wire: Wire, out: &mut Vec<u8>) -> Lost {
    if is_plain_parameter(value) {
        quoted_parameter(name, value, out);
        return Lost::default();
    }
    out.extend_from_slice(b";\r\n ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"=\"");
    let (_, lost) = encoded_words(value, wire, name.len() + 4, out);
    out.push(b'"');
    lost
}

fn quoted_parameter(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b";\r\n ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"=\"");
    out.extend_from_slice(value.as_bytes());
    out.push(b'"');
}

fn is_plain_parameter(value: &str) -> bool {
    value.len() <= 56
        && is_plain(value, 0)
        && !value
            .bytes()
            .any(|b| matches!(b, b'"' | b'\\' | b'%' | b'\''))
}

/// RFC 5987's attr-char: a subset of RFC 2231's that no parser trips over.
const fn is_attribute_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'&' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(text: &str, wire: Wire) -> String {
        let mut out = Vec::new();
        unstructured("Subject", text, wire, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn subjects_match_the_vectors_of_captured_mail() {
        let text = "\u{2600}です";
        for (wire, wanted) in [
            (Wire::DocomoSjis, "Subject: =?shift_jis?B?+J+CxYK3?=\r\n"),
            (
                Wire::AuJis,
                "Subject: =?iso-2022-jp?B?GyRCdUEkRyQ5GyhC?=\r\n",
            ),
            (Wire::SoftbankUtf8, "Subject: =?utf-8?B?7oGK44Gn44GZ?=\r\n"),
            (Wire::SoftbankSjis, "Subject: =?shift_jis?B?+YuCxYK3?=\r\n"),
        ] {
            assert_eq!(subject(text, wire), wanted);
        }
    }

    #[test]
    fn long_words_split_between_characters_and_in_ascii() {
        let text =
            "飛脚便り第百二十号：秋の新作と感謝をこめた割引のお知らせ（Aからお得意様へ）".repeat(3);
        for wire in Wire::ALL {
            let field = subject(&text, wire);
            for line in field.trim_end().split("\r\n") {
                assert!(line.len() <= HEADER_LINE_BYTES_MAX, "{line}");
                let word = line.rsplit("?B?").next().unwrap().trim_end_matches("?=");
                let bytes = unbase64(word);
                let back = super::super::charset::decode(wire, &bytes);
                assert!(!back.contains('\u{FFFD}'), "{wire:?}: {back}");
                if wire.has_escapes() {
                    assert!(bytes.ends_with(b"\x1b(B") || bytes.is_ascii());
                    assert!(bytes.windows(3).filter(|w| w == b"\x1b(B").count() <= 3);
                }
            }
        }
    }

    fn unbase64(text: &str) -> Vec<u8> {
        let digit = |c: u8| match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        let mut out = Vec::new();
        for quad in text.as_bytes().chunks(4) {
            let used = quad.iter().filter(|&&c| c != b'=').count();
            let all = quad
                .iter()
                .fold(0_u32, |all, &c| all << 6 | u32::from(digit(c)) & 63);
            out.extend_from_slice(&all.to_be_bytes()[1..used]);
        }
        out
    }

    #[test]
    fn plain_text_stays_and_folds_at_spaces() {
        assert_eq!(
            subject("Hello world", Wire::Jis),
            "Subject: Hello world\r\n"
        );
        let long = "word ".repeat(40);
        let field = subject(long.trim_end(), Wire::Utf8);
        assert!(field.lines().all(|l| l.len() <= 76));
        assert_eq!(
            field.replace("\r\n ", " ").trim_end(),
            format!("Subject: {}", long.trim_end())
        );
        assert_eq!(subject("Your résumé is ready to be read", Wire::Utf8), {
            "Subject: =?utf-8?Q?Your_r=C3=A9sum=C3=A9_is_ready_to_be_read?=\r\n"
        });
        assert!(subject("a =?utf-8?B?eA==?=", Wire::Utf8).contains("=?utf-8?"));
    }

    #[test]
    fn an_emoji_with_its_modifiers_is_not_split() {
        let text = "👨\u{200D}👩\u{200D}👧".repeat(4);
        for line in subject(&text, Wire::Utf8).trim_end().lines() {
            let word = line.rsplit("?B?").next().unwrap().trim_end_matches("?=");
            let back = String::from_utf8(unbase64(word)).unwrap();
            assert!(back.starts_with('👨') && back.ends_with('👧'), "{back}");
        }
    }

    #[test]
    fn display_names_are_atoms_quoted_or_encoded() {
        let mailbox = Mailbox::parse("a@example.jp").unwrap();
        for (display, wanted) in [
            ("", "To: a@example.jp\r\n"),
            ("Taro Yamada", "To: Taro Yamada <a@example.jp>\r\n"),
            (
                "Yamada, \"T\"",
                "To: \"Yamada, \\\"T\\\"\" <a@example.jp>\r\n",
            ),
            ("山田", "To: =?utf-8?B?5bGx55Sw?= <a@example.jp>\r\n"),
        ] {
            let mut out = Vec::new();
            address(
                "To",
                display,
                &mailbox,
                LocalStyle::Quoted,
                Wire::Utf8,
                &mut out,
            );
            assert_eq!(String::from_utf8(out).unwrap(), wanted);
        }
    }

    #[test]
    fn file_names_take_the_form_they_need() {
        let mut out = Vec::new();
        parameter("filename", "a.pdf", &mut out);
        parameter("filename", "見積.pdf", &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            ";\r\n filename=\"a.pdf\";\r\n filename*=utf-8''%E8%A6%8B%E7%A9%8D.pdf"
        );
        let mut long = Vec::new();
        parameter("filename", &"見積書".repeat(15), &mut long);
        let long = String::from_utf8(long).unwrap();
        assert!(long.contains(" filename*0*=utf-8''") && long.contains(" filename*1*="));
        assert!(
            long.split("\r\n").all(|l| l.len() <= HEADER_LINE_BYTES_MAX),
            "{long}"
        );
    }
}
