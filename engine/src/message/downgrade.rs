//! Making 8-bit content fit for a server without 8BITMIME (RFC 6152 §3, RFC 2045).
//!
//! Each part with octets above 127 is converted to quoted-printable or base64, whichever suits it,
//! and labelled so; multipart and message/rfc822 are descended into, since MIME forbids encoding
//! them (RFC 2045 §6.4). Header sections are left as they are: raw 8-bit text there has no charset
//! and cannot be converted. Signatures over a converted part become void, which is why senders of
//! signed mail are told to use 7-bit content (RFC 6376 §5.3, RFC 1847 §2.1).

use data_encoding::BASE64;
use std::fmt;

use memchr::memchr;

/// Deepest nesting of multipart and message parts gone into.
pub const DOWNGRADE_DEPTH_MAX: u32 = 20;
/// Longest line of encoded content, without CRLF (RFC 2045 §6.7 rule 5, §6.8).
const ENCODED_LINE_BYTES_MAX: usize = 76;

/// Why content cannot be converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DowngradeError {
    /// Nested deeper than [`DOWNGRADE_DEPTH_MAX`].
    TooDeep,
    /// A multipart whose boundary is not declared or does not occur.
    NoBoundary,
    /// 8-bit content in a message type that may not be encoded.
    MessageType,
    /// 8-bit octets in a part that is encoded already, in a way that is not ours to undo.
    ForeignEncoding,
}

impl fmt::Display for DowngradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooDeep => "the 8-bit message is nested too deeply to be converted",
            Self::NoBoundary => "the 8-bit message has a multipart without its boundary",
            Self::MessageType => "the message has an 8-bit part of a type that may not be encoded",
            Self::ForeignEncoding => {
                "the message has 8-bit octets in a part with an encoding of its own"
            }
        })
    }
}

impl std::error::Error for DowngradeError {}

/// What converting content of so many bytes takes beside it. More only where a part that says it is
/// quoted-printable is raw 8-bit text.
pub const fn converted_bytes(content_bytes: usize) -> usize {
    content_bytes + content_bytes / 2 + 128
}

/// Converts every 8-bit body in `content` (a whole message with CRLF line ends).
///
/// # Errors
/// [`DowngradeError`] says which structure is in the way.
pub fn downgrade(content: &[u8]) -> Result<Vec<u8>, DowngradeError> {
    let mut out = Vec::with_capacity(converted_bytes(content.len()));
    entity(content, 0, true, &mut out)?;
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    Ok(out)
}

/// How a body is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// Nothing to convert.
    SevenBit,
    QuotedPrintable,
    Base64,
    /// Encoded already, with stray 8-bit octets in it.
    BrokenQuotedPrintable,
    BrokenBase64,
}

/// Writes one entity: header section, empty line, body.
fn entity(
    bytes: &[u8],
    depth: u32,
    outermost: bool,
    out: &mut Vec<u8>,
) -> Result<(), DowngradeError> {
    let (fields, body) = split(bytes);
    if body.is_ascii() {
        out.extend_from_slice(bytes);
        return Ok(());
    }
    if depth > DOWNGRADE_DEPTH_MAX {
        return Err(DowngradeError::TooDeep);
    }
    let content_type = fields
        .iter()
        .find_map(|field| value_of(field, "content-type"));
    let kind = content_type.map_or_else(|| "text/plain".to_owned(), media_type);
    let transfer_encoding = fields
        .iter()
        .find_map(|f| value_of(f, "content-transfer-encoding"));

    if kind.starts_with("multipart/") {
        let boundary = content_type
            .and_then(boundary)
            .ok_or(DowngradeError::NoBoundary)?;
        header(&fields, Encoding::SevenBit, out);
        return multipart(body, &boundary, depth, out);
    }
    if kind == "message/rfc822" || kind == "message/global" {
        header(&fields, Encoding::SevenBit, out);
        return entity(body, depth + 1, true, out);
    }
    if kind.starts_with("message/") {
        return Err(DowngradeError::MessageType);
    }

    let encoding = choose(&kind, transfer_encoding, body)?;
    let mut labelled = fields;
    let (mime_version, text_type);
    if outermost && content_type.is_none() {
        // A message from before MIME (RFC 1428): its charset can only be guessed.
        let charset = if std::str::from_utf8(body).is_ok() {
            "utf-8"
        } else {
            "unknown-8bit"
        };
        text_type = format!("Content-Type: text/plain; charset={charset}\r\n");
        mime_version = b"MIME-Version: 1.0\r\n";
        if !labelled
            .iter()
            .any(|field| value_of(field, "mime-version").is_some())
        {
            labelled.push(mime_version);
        }
        labelled.push(text_type.as_bytes());
    }
    header(&labelled, encoding, out);
    match encoding {
        Encoding::SevenBit => out.extend_from_slice(body),
        Encoding::QuotedPrintable => quoted_printable(body, out),
        Encoding::Base64 => base64(body, out),
        Encoding::BrokenQuotedPrintable => mend_quoted_printable(body, out),
        // Decoders skip octets outside the alphabet (RFC 2045 §6.8); so do we.
        Encoding::BrokenBase64 => out.extend(body.iter().filter(|byte| byte.is_ascii())),
    }
    Ok(())
}

fn choose(
    kind: &str,
    transfer_encoding: Option<&[u8]>,
    body: &[u8],
) -> Result<Encoding, DowngradeError> {
    let named =
        transfer_encoding.map(|value| without_comments(value).trim_ascii().to_ascii_lowercase());
    match named.as_deref() {
        Some(b"quoted-printable") => return Ok(Encoding::BrokenQuotedPrintable),
        Some(b"base64") => return Ok(Encoding::BrokenBase64),
        // Its name would be lost under ours, and with it the way back (RFC 2045 §6.3).
        Some(name) if name.starts_with(b"x-") || name == b"uuencode" => {
            return Err(DowngradeError::ForeignEncoding);
        }
        _ => {}
    }
    let escaped = (body.iter()).filter(|byte| !byte.is_ascii() || **byte == b'=');
    // Three octets for one in quoted-printable against four for three in base64.
    if kind.starts_with("text/") && escaped.count() < body.len() / 6 {
        Ok(Encoding::QuotedPrintable)
    } else {
        Ok(Encoding::Base64)
    }
}

/// Encodes what is not ASCII in content that is quoted-printable already, and breaks the lines that
/// become too long by it where no escape is torn (RFC 2045 §6.7 rule 5).
fn mend_quoted_printable(body: &[u8], out: &mut Vec<u8>) {
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        if line.is_ascii() {
            out.extend_from_slice(line);
            continue;
        }
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let (mut column, mut at) = (0, 0);
        while let Some(&byte) = text.get(at) {
            let is_escape = byte == b'='
                && matches!(text.get(at + 1..at + 3), Some(hex) if hex.iter().all(u8::is_ascii_hexdigit));
            let taken = if is_escape { 3 } else { 1 };
            let written = if byte.is_ascii() { taken } else { 3 };
            // The last column is the soft break's, unless nothing comes behind.
            let room = ENCODED_LINE_BYTES_MAX - usize::from(at + taken < text.len());
            if column + written > room {
                out.extend_from_slice(b"=\r\n");
                column = 0;
            }
            if byte.is_ascii() {
                out.extend_from_slice(&text[at..at + taken]);
            } else {
                push_hex(byte, out);
            }
            column += written;
            at += taken;
        }
        out.extend_from_slice(&line[text.len()..]);
    }
}

/// Writes header fields with the label that fits, and the empty line.
fn header(fields: &[&[u8]], encoding: Encoding, out: &mut Vec<u8>) {
    let label: Option<&[u8]> = match encoding {
        Encoding::SevenBit => Some(b"7bit"),
        Encoding::QuotedPrintable => Some(b"quoted-printable"),
        Encoding::Base64 => Some(b"base64"),
        Encoding::BrokenQuotedPrintable | Encoding::BrokenBase64 => None,
    };
    for field in fields {
        if label.is_none() || value_of(field, "content-transfer-encoding").is_none() {
            out.extend_from_slice(field);
        }
    }
    if let Some(label) = label {
        out.extend_from_slice(b"Content-Transfer-Encoding: ");
        out.extend_from_slice(label);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a multipart body part by part. Preamble and epilogue, which nobody reads, lose what is
/// not ASCII.
fn multipart(
    body: &[u8],
    boundary: &[u8],
    depth: u32,
    out: &mut Vec<u8>,
) -> Result<(), DowngradeError> {
    let mut part_start = None; // None: preamble
    let mut at = 0;
    let mut closed = false;
    while at < body.len() {
        let line_end = memchr(b'\n', &body[at..]).map_or(body.len(), |n| at + n + 1);
        let Some(closes) = delimiter(&body[at..line_end], boundary) else {
            at = line_end;
            continue;
        };
        match part_start {
            None => ascii_only(&body[..at], out),
            Some(start) => {
                // The line end before a delimiter belongs to the delimiter (RFC 2046 §5.1.1).
                let part = &body[start..at];
                let trimmed = part.strip_suffix(b"\r\n").unwrap_or(part);
                entity(trimmed, depth + 1, false, out)?;
                out.extend_from_slice(&part[trimmed.len()..]);
            }
        }
        out.extend_from_slice(&body[at..line_end]);
        part_start = Some(line_end);
        at = line_end;
        if closes {
            closed = true;
            break;
        }
    }
    match part_start {
        None => Err(DowngradeError::NoBoundary),
        Some(start) if closed => {
            ascii_only(&body[start..], out);
            Ok(())
        }
        // Cut off before its closing delimiter: the last part goes to the end.
        Some(start) => entity(&body[start..], depth + 1, false, out),
    }
}

/// Whether a line is a delimiter, and if so whether it is the closing one.
fn delimiter(line: &[u8], boundary: &[u8]) -> Option<bool> {
    let rest = line.strip_prefix(b"--")?.strip_prefix(boundary)?;
    match rest.trim_ascii_end() {
        b"" => Some(false),
        b"--" => Some(true),
        _ => None,
    }
}

fn ascii_only(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend(
        bytes
            .iter()
            .map(|&byte| if byte.is_ascii() { byte } else { b'?' }),
    );
}

/// Splits an entity into its fields, each with its continuation lines and CRLF, and its body.
fn split(bytes: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut fields: Vec<&[u8]> = Vec::new();
    let (mut field, mut at) = (0, 0);
    loop {
        let line_end = memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |n| at + n + 1);
        let line = &bytes[at..line_end];
        let folded = matches!(line.first(), Some(b' ' | b'\t')) && at > 0;
        if !folded {
            if field < at {
                fields.push(&bytes[field..at]);
            }
            field = at;
        }
        if line.is_empty() || line == b"\r\n" || line == b"\n" {
            return (fields, &bytes[line_end..]);
        }
        if !folded && !line.contains(&b':') {
            return (fields, &bytes[at..]);
        }
        at = line_end;
    }
}

fn value_of<'a>(field: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let (head, rest) = field.split_at_checked(name.len())?;
    if !head.eq_ignore_ascii_case(name.as_bytes()) {
        return None;
    }
    rest.trim_ascii_start().strip_prefix(b":")
}

/// A structured field body without its comments (RFC 5322 §3.2.2), which nest; quoted strings stay.
fn without_comments(value: &[u8]) -> Vec<u8> {
    let (mut depth, mut quoted, mut escaped) = (0_u32, false, false);
    let mut out = Vec::with_capacity(value.len());
    for &byte in value {
        let opaque = escaped;
        escaped = !opaque && byte == b'\\' && (quoted || depth > 0);
        match byte {
            _ if opaque => {}
            b'(' if !quoted => {
                depth += 1;
                continue;
            }
            b')' if depth > 0 => {
                depth -= 1;
                continue;
            }
            b'"' if depth == 0 => quoted = !quoted,
            _ => {}
        }
        if depth == 0 {
            out.push(byte);
        }
    }
    out
}

/// `type/subtype` in lower case.
fn media_type(value: &[u8]) -> String {
    let value = without_comments(value);
    let end = memchr(b';', &value).unwrap_or(value.len());
    String::from_utf8_lossy(value[..end].trim_ascii()).to_ascii_lowercase()
}

/// The boundary parameter of a Content-Type (RFC 2046 §5.1.1: 1 to 70 characters, more is taken), also
/// in pieces or with a charset (RFC 2231).
fn boundary(value: &[u8]) -> Option<Vec<u8>> {
    let value = without_comments(value);
    let mut rest = &value[memchr(b';', &value)?..];
    let mut pieces: Vec<(u32, Vec<u8>)> = Vec::new();
    while let [_separator, tail @ ..] = rest {
        rest = tail;
        if let Some((name, tail)) = rest.split_at_checked("boundary".len())
            && name.eq_ignore_ascii_case(b"boundary")
            && let Some(equals) = memchr(b'=', tail)
            && let Some(section) = Section::parse(tail[..equals].trim_ascii())
        {
            let text = token_or_quoted(tail[equals + 1..].trim_ascii_start())?;
            let text = if section.extended {
                unextended(&text, section.number.unwrap_or(0) == 0)
            } else {
                text
            };
            match section.number {
                Some(number) => pieces.push((number, text)),
                None => return Some(text).filter(|boundary| !boundary.is_empty()),
            }
        }
        rest = skip_parameter(rest);
    }
    pieces.sort_by_key(|(number, _)| *number);
    let whole: Vec<u8> = pieces.into_iter().flat_map(|(_, text)| text).collect();
    Some(whole).filter(|boundary| !boundary.is_empty())
}

/// What stands between a parameter's name and its `=`: nothing, `*`, `*0` or `*0*` (RFC 2231 §3, §4).
struct Section {
    number: Option<u32>,
    extended: bool,
}

impl Section {
    fn parse(text: &[u8]) -> Option<Self> {
        let Some(text) = text.strip_prefix(b"*") else {
            return text.is_empty().then_some(Self {
                number: None,
                extended: false,
            });
        };
        if text.is_empty() {
            return Some(Self {
                number: None,
                extended: true,
            });
        }
        let digits = text.strip_suffix(b"*").unwrap_or(text);
        Some(Self {
            number: Some(std::str::from_utf8(digits).ok()?.parse().ok()?),
            extended: digits.len() < text.len(),
        })
    }
}

/// An extended value: `charset'language'` taken off if it is the `first`, `%XX` as octets.
fn unextended(text: &[u8], first: bool) -> Vec<u8> {
    let text = match text.splitn(3, |byte| *byte == b'\'').nth(2) {
        Some(behind) if first => behind,
        _ => text,
    };
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let hex = text
            .get(at + 1..at + 3)
            .and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(octet) if byte == b'%' => {
                out.push(octet);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// Up to the next separator outside quotes.
fn skip_parameter(text: &[u8]) -> &[u8] {
    let (mut quoted, mut escaped) = (false, false);
    let end = text.iter().position(|&b| {
        match b {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b';' | b' ' | b'\t' | b'\r' | b'\n' if !quoted => return true,
            _ => {}
        }
        false
    });
    &text[end.unwrap_or(text.len())..]
}

fn token_or_quoted(text: &[u8]) -> Option<Vec<u8>> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = text
            .iter()
            .position(|b| b.is_ascii_whitespace() || *b == b';');
        return Some(text[..end.unwrap_or(text.len())].to_vec());
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter();
    loop {
        match bytes.next()? {
            b'"' => return Some(value),
            b'\\' => value.push(*bytes.next()?),
            &byte => value.push(byte),
        }
    }
}

/// RFC 2045 §6.7. Line ends stay line ends.
pub(crate) fn quoted_printable(body: &[u8], out: &mut Vec<u8>) {
    let mut column = 0;
    let mut at = 0;
    while let Some(&byte) = body.get(at) {
        if body[at..].starts_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
            column = 0;
            at += 2;
            continue;
        }
        at += 1;
        let ends_line = at == body.len() || body[at..].starts_with(b"\r\n");
        let plain = match byte {
            b' ' | b'\t' => !ends_line,
            b'=' => false,
            b'!'..=b'~' => true,
            _ => false,
        };
        let width = if plain { 1 } else { 3 };
        // A line that goes on needs room for its soft line break.
        let room = if ends_line {
            ENCODED_LINE_BYTES_MAX
        } else {
            ENCODED_LINE_BYTES_MAX - 1
        };
        if column + width > room {
            out.extend_from_slice(b"=\r\n");
            column = 0;
        }
        if plain {
            out.push(byte)
        } else {
            push_hex(byte, out)
        }
        column += width;
    }
}

fn push_hex(byte: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(&[
        b'=',
        HEX[usize::from(byte >> 4)],
        HEX[usize::from(byte & 15)],
    ]);
}

/// RFC 2045 §6.8, without a CRLF behind the last line.
fn base64(body: &[u8], out: &mut Vec<u8>) {
    for (n, line) in body.chunks(ENCODED_LINE_BYTES_MAX / 4 * 3).enumerate() {
        if n > 0 {
            out.extend_from_slice(b"\r\n");
        }
        let start = out.len();
        out.resize(start + BASE64.encode_len(line.len()), 0);
        BASE64.encode_mut(line, &mut out[start..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(content: &str) -> String {
        let converted = downgrade(content.as_bytes()).unwrap();
        assert!(converted.is_ascii());
        String::from_utf8(converted).unwrap()
    }

    #[test]
    fn mostly_ascii_text_becomes_quoted_printable() {
        assert_eq!(
            text_of(
                "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
                 Content-Transfer-Encoding: 8bit\r\n\r\nThe caf\u{e9} = open, they all say. \r\nbye\r\n"
            ),
            "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: quoted-printable\r\n\r\n\
             The caf=C3=A9 =3D open, they all say.=20\r\nbye\r\n"
        );
    }

    #[test]
    fn japanese_text_becomes_base64_and_a_message_without_mime_gets_labels() {
        assert_eq!(
            text_of("Subject: x\r\n\r\nこんにちは\r\n"),
            "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: base64\r\n\r\n44GT44KT44Gr44Gh44GvDQo=\r\n"
        );
        let latin = downgrade(b"A: b\r\n\r\n\xe9\xe8\r\n").unwrap();
        assert!(
            String::from_utf8(latin)
                .unwrap()
                .contains("charset=unknown-8bit")
        );
    }

    #[test]
    fn what_is_encoded_already_is_not_encoded_again() {
        for (name, body, expected) in [
            (
                "quoted-printable (by hand)",
                "a=20b\u{e9}=\r\nc",
                "a=20b=C3=A9=\r\nc",
            ),
            ("(in (nested) words) base64", "YWJj\u{e9}", "YWJj"),
        ] {
            let field =
                format!("Content-Type: text/plain\r\nContent-Transfer-Encoding: {name}\r\n\r\n");
            let content = format!("{field}{body}\r\n");
            assert_eq!(text_of(&content), format!("{field}{expected}\r\n"));
        }
        assert_eq!(
            downgrade("Content-Transfer-Encoding: X-UUencode\r\n\r\n\u{e9}\r\n".as_bytes()),
            Err(DowngradeError::ForeignEncoding)
        );
    }

    #[test]
    fn mended_lines_are_broken_within_76_octets_and_mean_the_same() {
        let line = format!(
            "{}\u{e9}=3D{}=E3 {}",
            "x".repeat(70),
            "\u{e9}".repeat(20),
            "y".repeat(76)
        );
        let mut out = Vec::new();
        mend_quoted_printable(
            format!("{line}=\r\n{}\r\n", "z".repeat(80)).as_bytes(),
            &mut out,
        );
        let mended = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = mended.lines().collect();
        let (last, broken) = lines.split_last().unwrap();
        assert!(
            broken
                .iter()
                .all(|line| line.len() <= 76 && line.ends_with('=')),
            "{mended}"
        );
        assert_eq!(last.len(), 80, "what was ASCII stays as it is");
        let joined: String = broken.iter().map(|line| &line[..line.len() - 1]).collect();
        assert_eq!(joined, line.replace('\u{e9}', "=C3=A9"));
    }

    #[test]
    fn a_boundary_in_pieces_or_encoded_is_found() {
        for parameter in [
            "boundary*=us-ascii'en'b%3D1",
            "boundary*1=\"=1\"; boundary*0=b",
            "boundary*0*=us-ascii''b%3D; boundary*1=1",
            "(a; boundary=c) boundary=\"b=1\"",
        ] {
            let value = format!(" multipart/mixed (x); charset=x; {parameter}");
            assert_eq!(
                boundary(value.as_bytes()).as_deref(),
                Some(&b"b=1"[..]),
                "{value}"
            );
        }
    }

    #[test]
    fn parts_are_converted_one_by_one() {
        let content = "Content-Type: multipart/mixed;\r\n\tcharset=\"x;y\"; boundary=\"b=1\"\r\n\
            Content-Transfer-Encoding: 8bit\r\n\r\npr\u{e9}amble\r\n--b=1\r\n\r\nplain\r\n--b=1\r\n\
            Content-Type: application/x\r\n\r\n\u{ff}\r\n--b=1\r\nContent-Type: message/rfc822\r\n\
            \r\nSubject: y\r\nContent-Type: text/plain\r\n\r\n12345678901234567890 \u{e9}\r\n\
            --b=1--\r\nend\r\n";
        assert_eq!(
            text_of(content),
            "Content-Type: multipart/mixed;\r\n\tcharset=\"x;y\"; boundary=\"b=1\"\r\n\
             Content-Transfer-Encoding: 7bit\r\n\r\npr??amble\r\n--b=1\r\n\r\nplain\r\n--b=1\r\n\
             Content-Type: application/x\r\nContent-Transfer-Encoding: base64\r\n\r\nw78=\r\n\
             --b=1\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n\r\n\
             Subject: y\r\nContent-Type: text/plain\r\n\
             Content-Transfer-Encoding: quoted-printable\r\n\r\n12345678901234567890 =C3=A9\r\n\
             --b=1--\r\nend\r\n"
        );
    }

    #[test]
    fn what_cannot_be_converted_is_refused() {
        let eight_bit =
            |kind: &str| downgrade(format!("Content-Type: {kind}\r\n\r\né\r\n").as_bytes());
        assert_eq!(
            eight_bit("multipart/mixed"),
            Err(DowngradeError::NoBoundary)
        );
        assert_eq!(
            eight_bit("multipart/mixed; boundary=x"),
            Err(DowngradeError::NoBoundary)
        );
        assert_eq!(
            eight_bit("message/partial"),
            Err(DowngradeError::MessageType)
        );
        let mut nested = "Content-Type: message/rfc822\r\n\r\n".repeat(10_000);
        nested.push('é');
        assert_eq!(downgrade(nested.as_bytes()), Err(DowngradeError::TooDeep));
        assert_eq!(downgrade(b""), Ok(b"\r\n".to_vec()));
    }

    #[test]
    fn quoted_printable_lines_are_short_and_keep_trailing_space() {
        let mut out = Vec::new();
        quoted_printable(
            format!("{}\r\n{} ", "x=".repeat(60), "é".repeat(80)).as_bytes(),
            &mut out,
        );
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.lines()
                .all(|line| line.len() <= ENCODED_LINE_BYTES_MAX)
        );
        assert!(text.ends_with("=20"));
        let joined = text.replace("=\r\n", "");
        assert_eq!(
            joined,
            format!("{}\r\n{}=20", "x=3D".repeat(60), "=C3=A9".repeat(80))
        );
    }

    #[test]
    fn stray_octets_in_encoded_parts_do_not_spoil_them() {
        let part = |encoding: &str, body: &str| {
            text_of(&format!(
                "Content-Transfer-Encoding: {encoding}\r\nContent-Type: text/plain\r\n\r\n{body}"
            ))
        };
        assert!(part("quoted-printable", "=C3=A9 é\r\n").ends_with("\r\n\r\n=C3=A9 =C3=A9\r\n"));
        assert!(part("base64", "YWJjé\r\n").ends_with("\r\n\r\nYWJj\r\n"));
    }
}
