//! Replies of a server, read as they come (RFC 5321 §4.2, RFC 2034).
//!
//! [`ReplyParser`] is fed whatever arrived and gives out one [`ReplyView`] at a time, so that a
//! reply nobody keeps costs no allocation; [`Reply`] is one that is kept. Taken as they exist in
//! the wild: lines that end with a bare LF, a code without text or separator. What a reply means
//! is decided in [`super::client`] and by policy.

use std::fmt;

use memchr::memchr;

use crate::status::{EnhancedStatus, ReplyCode};

/// Longest reply read, octets over all its lines.
pub const REPLY_BYTES_MAX: usize = 32 * 1024;
/// Most lines of one reply.
pub const REPLY_LINES_MAX: usize = 256;
/// Longest text kept of a reply, octets; the rest is cut off.
pub const REPLY_TEXT_BYTES_MAX: usize = 1000;

/// A reply worth keeping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The three-digit code.
    pub code: ReplyCode,
    /// The enhanced status code at the head of the text, if there is one.
    pub enhanced: Option<EnhancedStatus>,
    /// The text without the enhanced status code, lines joined by LF, controls and broken UTF-8
    /// replaced, at most [`REPLY_TEXT_BYTES_MAX`] octets.
    pub text: Box<str>,
}

impl Reply {
    /// A reply that no server gave, for failures of our own finding.
    pub fn synthetic(code: u16, enhanced: EnhancedStatus, text: &str) -> Self {
        Self {
            code: known(code),
            enhanced: Some(enhanced),
            text: text.into(),
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        if !self.text.is_empty() {
            for line in self.text.split('\n') {
                write!(f, " {line}")?;
            }
        }
        Ok(())
    }
}

/// A reply code the program itself writes down.
pub(crate) const fn known(code: u16) -> ReplyCode {
    match ReplyCode::new(code) {
        Some(code) => code,
        None => panic!("reply codes lie between 200 and 599"),
    }
}

/// The peer's bytes are no SMTP reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// A line that does not begin with a code from 200 to 599.
    NotAReply,
    /// The lines of one reply disagree on the code.
    MixedCodes,
    /// More than [`REPLY_BYTES_MAX`] octets or [`REPLY_LINES_MAX`] lines.
    TooLong,
}

impl ReplyError {
    /// The fault in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotAReply => "the server sent a line that is no SMTP reply",
            Self::MixedCodes => "the server sent a reply whose lines disagree on the code",
            Self::TooLong => "the server sent a reply that is too long",
        }
    }
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for ReplyError {}

/// A whole reply, still in the parser's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyView<'a> {
    /// The three-digit code.
    pub code: ReplyCode,
    /// Texts of the lines, joined by LF, the enhanced status code still in front.
    pub raw_text: &'a [u8],
}

impl ReplyView<'_> {
    /// The text of each line, without code and line end.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.raw_text.split(|&b| b == b'\n')
    }

    /// The enhanced status code at the head of the first line, if any.
    pub fn enhanced(&self) -> Option<EnhancedStatus> {
        split_enhanced(self.raw_text.split(|&b| b == b'\n').next()?).0
    }

    /// A copy to keep.
    pub fn to_reply(&self) -> Reply {
        let enhanced = self.enhanced();
        let mut text = String::with_capacity(self.raw_text.len().min(REPLY_TEXT_BYTES_MAX));
        for (n, line) in self.lines().enumerate() {
            let (status, line_text) = split_enhanced(line);
            // A status code other than the first line's is a word of the text.
            let line_text = if status.is_some() && status == enhanced {
                line_text
            } else {
                line
            };
            if n > 0 {
                text.push('\n');
            }
            let kept = &line_text[..line_text.len().min(REPLY_TEXT_BYTES_MAX)];
            let readable = String::from_utf8_lossy(kept);
            text.extend(
                readable
                    .chars()
                    .map(|c| if c.is_control() { ' ' } else { c }),
            );
            if text.len() > REPLY_TEXT_BYTES_MAX {
                break;
            }
        }
        text.truncate(text.floor_char_boundary(REPLY_TEXT_BYTES_MAX));
        Reply {
            code: self.code,
            enhanced,
            text: text.into(),
        }
    }
}

/// Splits `5.1.1 text` off its status code.
fn split_enhanced(line: &[u8]) -> (Option<EnhancedStatus>, &[u8]) {
    let end = line.iter().position(|&b| b == b' ').unwrap_or(line.len());
    if end > "5.999.999".len() {
        return (None, line);
    }
    let word = std::str::from_utf8(&line[..end]).unwrap_or_default();
    match EnhancedStatus::parse(word) {
        Some(status) => (Some(status), line[end..].trim_ascii_start()),
        None => (None, line),
    }
}

/// Reads replies off a stream, bounded by [`REPLY_BYTES_MAX`].
#[derive(Debug, Default)]
pub struct ReplyParser {
    /// Start of a line whose end has not come.
    partial: Vec<u8>,
    /// Texts of the reply's lines so far.
    text: Vec<u8>,
    lines: usize,
    code: u16,
    finished: bool,
}

impl ReplyParser {
    /// Takes the next whole reply off the front of `input`, or all of `input` if it holds none.
    ///
    /// # Errors
    /// After an error the stream cannot be read on.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<ReplyView<'_>>, ReplyError> {
        if std::mem::take(&mut self.finished) {
            self.text.clear();
            self.lines = 0;
        }
        while let Some(end) = memchr(b'\n', input) {
            let (line, rest) = input.split_at(end + 1);
            *input = rest;
            let last = if self.partial.is_empty() {
                self.line(line)?
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                let last = self.line(&whole);
                whole.clear();
                self.partial = whole;
                last?
            };
            if last {
                self.finished = true;
                return Ok(Some(ReplyView {
                    code: known(self.code),
                    raw_text: &self.text,
                }));
            }
        }
        if self.text.len() + self.partial.len() + input.len() > REPLY_BYTES_MAX {
            return Err(ReplyError::TooLong);
        }
        self.partial.extend_from_slice(input);
        *input = &[];
        Ok(None)
    }

    /// Takes one line in; whether it is the reply's last.
    fn line(&mut self, line: &[u8]) -> Result<bool, ReplyError> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let &[
            a @ b'2'..=b'5',
            b @ b'0'..=b'9',
            c @ b'0'..=b'9',
            ref rest @ ..,
        ] = line
        else {
            return Err(ReplyError::NotAReply);
        };
        let code = [a, b, c]
            .iter()
            .fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
        let (last, text) = match rest {
            [] => (true, rest),
            [b' ', text @ ..] => (true, text),
            [b'-', text @ ..] => (false, text),
            _ => return Err(ReplyError::NotAReply),
        };
        if self.lines > 0 {
            if code != self.code {
                return Err(ReplyError::MixedCodes);
            }
            self.text.push(b'\n');
        }
        self.code = code;
        self.lines += 1;
        if self.text.len() + text.len() > REPLY_BYTES_MAX || self.lines > REPLY_LINES_MAX {
            return Err(ReplyError::TooLong);
        }
        self.text.extend_from_slice(text);
        Ok(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replies(input: &[u8], step: usize) -> Result<Vec<Reply>, ReplyError> {
        let mut parser = ReplyParser::default();
        let mut found = Vec::new();
        for mut piece in input.chunks(step) {
            while let Some(view) = parser.next(&mut piece)? {
                found.push(view.to_reply());
            }
        }
        Ok(found)
    }

    fn reply(code: u16, enhanced: Option<&str>, text: &str) -> Reply {
        let enhanced = enhanced.map(|text| EnhancedStatus::parse(text).unwrap());
        Reply {
            code: known(code),
            enhanced,
            text: text.into(),
        }
    }

    #[test]
    fn replies_are_read_whatever_the_pieces() {
        let input = b"220 mx.example ESMTP\r\n250-mx.example\r\n250-PIPELINING\r\n250 SIZE 10\r\n\
            550-5.1.1 no such\r\n550-5.1.1\r\n550 5.1.1 user\r\n421\r\n250 2.1.0\r\n\
            450 4.7.1000 x\n354 \r\n552-5.2.2 full\r\n552 5.3.4 or large\r\n";
        let expected = [
            reply(220, None, "mx.example ESMTP"),
            reply(250, None, "mx.example\nPIPELINING\nSIZE 10"),
            reply(550, Some("5.1.1"), "no such\n\nuser"),
            reply(421, None, ""),
            reply(250, Some("2.1.0"), ""),
            reply(450, None, "4.7.1000 x"),
            reply(354, None, ""),
            reply(552, Some("5.2.2"), "full\n5.3.4 or large"),
        ];
        for step in 1..input.len() + 1 {
            assert_eq!(replies(input, step).unwrap(), expected, "by {step}");
        }
    }

    #[test]
    fn what_is_no_reply_is_told_apart() {
        for (input, error) in [
            (&b"hello\r\n"[..], ReplyError::NotAReply),
            (b"25 ok\r\n", ReplyError::NotAReply),
            (b"250_ok\r\n", ReplyError::NotAReply),
            (b"150 ok\r\n", ReplyError::NotAReply),
            (b"999 ok\r\n", ReplyError::NotAReply),
            (b"\r\n", ReplyError::NotAReply),
            (b"250-a\r\n550 b\r\n", ReplyError::MixedCodes),
        ] {
            assert_eq!(replies(input, 3), Err(error));
        }
    }

    #[test]
    fn replies_cost_a_bounded_amount() {
        let endless_line = [b"250 ".as_slice(), &vec![b'x'; REPLY_BYTES_MAX + 1]].concat();
        assert_eq!(replies(&endless_line, 100), Err(ReplyError::TooLong));
        assert_eq!(
            replies(&endless_line, endless_line.len()),
            Err(ReplyError::TooLong)
        );
        let endless_lines = b"250-x\r\n".repeat(REPLY_LINES_MAX + 1);
        assert_eq!(replies(&endless_lines, 1000), Err(ReplyError::TooLong));
        let long = [b"550 ".as_slice(), "あ".repeat(1000).as_bytes(), b"\r\n"].concat();
        let kept = replies(&long, 1000).unwrap().remove(0);
        assert!(kept.text.len() <= REPLY_TEXT_BYTES_MAX && kept.text.starts_with('あ'));
    }

    #[test]
    fn kept_texts_hold_no_controls() {
        let kept = replies(b"550 5.0.0 a\tb\x1b[31m\xffc\r\n", 100)
            .unwrap()
            .remove(0);
        assert_eq!(&*kept.text, "a b [31m\u{fffd}c");
        assert_eq!(kept.to_string(), "550 5.0.0 a b [31m\u{fffd}c");
    }
}
