//! Content-Transfer-Encoding (RFC 2045 §6): which one a body needs, and the encoders.
//!
//! Never 8bit and never binary: a relay without 8BITMIME would have to change the message and so
//! break its signature.

use data_encoding::BASE64;

use super::limits::LINE_BYTES_MAX;

/// How a body travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// As it is.
    SevenBit,
    /// Quoted-printable.
    QuotedPrintable,
    /// Base64, 76 characters a line.
    Base64,
}

impl Transfer {
    /// The header field's value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SevenBit => "7bit",
            Self::QuotedPrintable => "quoted-printable",
            Self::Base64 => "base64",
        }
    }

    /// The plainest encoding that brings `body` (CRLF line ends) through any relay unchanged; of the
    /// two heavy ones the shorter.
    pub fn choose(body: &[u8]) -> Self {
        let (mut high, mut quoted, mut line_start) = (0_usize, 0_usize, 0_usize);
        let mut safe = true;
        for (at, &byte) in body.iter().enumerate() {
            match CLASS[byte as usize] {
                PLAIN => {}
                BREAK => {
                    let crlf = if byte == b'\n' {
                        at > 0 && body[at - 1] == b'\r'
                    } else {
                        body.get(at + 1) == Some(&b'\n')
                    };
                    safe &= crlf && at - line_start <= LINE_BYTES_MAX;
                    if byte == b'\n' {
                        line_start = at + 1;
                    }
                }
                QUOTED => quoted += 1,
                NUL => safe = false,
                _ => high += 1,
            }
        }
        safe &= body.len() - line_start <= LINE_BYTES_MAX;
        // Ruby's mail takes a part of bare white space for an empty one.
        let blank = !body.is_empty() && body.iter().all(u8::is_ascii_whitespace);
        if high == 0 && safe && !blank {
            Self::SevenBit
        } else {
            Self::heavy(body.len(), high + quoted)
        }
    }

    const fn heavy(bytes: usize, escaped: usize) -> Self {
        if escaped * 2 <= bytes / 3 {
            Self::QuotedPrintable
        } else {
            Self::Base64
        }
    }

    /// Appends `body` encoded; the output ends in CRLF unless `body` is empty.
    pub fn encode(self, body: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::SevenBit => {
                out.extend_from_slice(body);
                if !body.is_empty() && !body.ends_with(b"\r\n") {
                    out.extend_from_slice(b"\r\n");
                }
            }
            Self::QuotedPrintable => quoted_printable(body, out),
            Self::Base64 => base64_lines(body, out),
        }
    }
}

const PLAIN: u8 = 0;
const BREAK: u8 = 1;
const QUOTED: u8 = 2;
const NUL: u8 = 3;
const HIGH: u8 = 4;

static CLASS: [u8; 256] = {
    let mut table = [PLAIN; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            0 => NUL,
            b'\r' | b'\n' => BREAK,
            b'\t' => PLAIN,
            1..=31 | b'=' | 127 => QUOTED,
            128..=255 => HIGH,
            _ => PLAIN,
        };
        byte += 1;
    }
    table
};

const HEX: &[u8; 16] = b"0123456789ABCDEF";
const LINE_CHARS: usize = 76;

/// `body` in quoted-printable (RFC 2045 §6.7): CRLF stays a line break, every other control, white
/// space before a line end and all above 126 are escaped. A line never begins with a bare dot or
/// `From `, which old relays and mailboxes change.
fn quoted_printable(body: &[u8], out: &mut Vec<u8>) {
    out.reserve(body.len() + body.len() / 2);
    let mut column = 0;
    let mut at = 0;
    while at < body.len() {
        let rest = &body[at..];
        if rest.starts_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
            (column, at) = (0, at + 2);
            continue;
        }
        let byte = rest[0];
        let end_of_line = rest.len() == 1 || rest[1..].starts_with(b"\r\n");
        let escape = match CLASS[byte as usize] {
            PLAIN if matches!(byte, b' ' | b'\t') => end_of_line,
            PLAIN => column == 0 && (byte == b'.' || rest.starts_with(b"From ")),
            _ => true,
        };
        let width = if escape { 3 } else { 1 };
        // The last column belongs to the soft break unless the line ends by itself.
        if column + width > LINE_CHARS - usize::from(!end_of_line) {
            out.extend_from_slice(b"=\r\n");
            column = 0;
            continue;
        }
        if escape {
            let quoted = [b'=', HEX[(byte >> 4) as usize], HEX[(byte & 15) as usize]];
            out.extend_from_slice(&quoted);
        } else {
            out.push(byte);
        }
        (column, at) = (column + width, at + 1);
    }
    if column > 0 {
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends `bytes` in base64 without line breaks (RFC 4648 §4).
pub fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + BASE64.encode_len(bytes.len()), 0);
    BASE64.encode_mut(bytes, &mut out[start..]);
}

fn base64_lines(body: &[u8], out: &mut Vec<u8>) {
    out.reserve(body.len() * 4 / 3 + body.len() / 24 + 8);
    for line in body.chunks(LINE_CHARS / 4 * 3) {
        base64(line, out);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(transfer: Transfer, body: &[u8]) -> String {
        let mut out = Vec::new();
        transfer.encode(body, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn content_decides_the_encoding() {
        assert_eq!(
            Transfer::choose(b"plain\r\ntext = 1\r\n"),
            Transfer::SevenBit
        );
        assert_eq!(Transfer::choose(b"\x1b$B$\"\x1b(B"), Transfer::SevenBit);
        assert_eq!(
            Transfer::choose("naïve résumé, but mostly plain ASCII text".as_bytes()),
            { Transfer::QuotedPrintable }
        );
        assert_eq!(Transfer::choose("飛脚は走る".as_bytes()), Transfer::Base64);
        assert_eq!(Transfer::choose(&[b'a'; 998]), Transfer::SevenBit);
        assert_eq!(Transfer::choose(&[b'a'; 999]), Transfer::QuotedPrintable);
        assert_eq!(Transfer::choose(b"bare\nLF"), Transfer::QuotedPrintable);
        assert_eq!(Transfer::choose(b"a\0b"), Transfer::QuotedPrintable);
        assert_eq!(Transfer::choose(b"   "), Transfer::QuotedPrintable);
    }

    #[test]
    fn quoted_printable_lines_fit_and_protect_their_ends() {
        assert_eq!(
            encoded(
                Transfer::QuotedPrintable,
                b"a=b \r\n.dot\r\nFrom x\r\n\x1b$B"
            ),
            "a=3Db=20\r\n=2Edot\r\n=46rom x\r\n=1B$B\r\n"
        );
        let long = encoded(Transfer::QuotedPrintable, &[b'x'; 200]);
        assert!(long.lines().all(|l| l.len() <= 76), "{long}");
        assert_eq!(long.replace("=\r\n", "").trim_end(), "x".repeat(200));
        assert_eq!(
            encoded(Transfer::QuotedPrintable, &[b'x'; 76])
                .lines()
                .count(),
            1
        );
        assert_eq!(
            encoded(Transfer::QuotedPrintable, b"bare\nLF"),
            "bare=0ALF\r\n"
        );
    }

    #[test]
    fn base64_matches_the_vectors_of_rfc_4648() {
        for (plain, wanted) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            let mut out = Vec::new();
            base64(plain.as_bytes(), &mut out);
            assert_eq!(out, wanted.as_bytes());
        }
        assert_eq!(encoded(Transfer::Base64, &[0; 58]).lines().count(), 2);
    }
}
