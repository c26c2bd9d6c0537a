//! Where content ends, and the dots that keep it from ending early (RFC 5321 §4.5.2).
//!
//! [`ContentDecoder`] takes content off the wire, [`stuff`] puts it on. Only CRLF.CRLF ends DATA
//! (§4.1.1.4): a server that also takes LF.LF while its neighbour does not lets one message smuggle
//! a second one past the neighbour's checks. For the same reason a CR or LF that stands alone is
//! never passed on: see [`BareNewline`].

use std::sync::LazyLock;

use memchr::{memchr2, memmem};

/// What to do with a CR or LF that is not part of a CRLF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BareNewline {
    /// Refuse the message or command.
    #[default]
    Reject,
    /// Read a bare LF as CRLF and drop a bare CR, for clients known to be careless but trusted.
    /// Neither can end the content.
    Normalise,
}

/// What to do with content that holds a NUL octet (obsolete in RFC 5322 §4: none is to be
/// sent any more).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NulOctets {
    /// Refuse the message: programs behind us may cut it off there.
    #[default]
    Refuse,
    /// Take and send it as it is.
    Pass,
}

/// What [`ContentDecoder::decode`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Octets of the input that belonged to the content or its end.
    pub consumed: usize,
    /// CRLF.CRLF has come.
    pub ended: bool,
}

/// Takes dot-stuffed content off the wire, over any number of reads.
#[derive(Clone, Debug)]
pub struct ContentDecoder {
    at: At,
    dots: bool,
    policy: BareNewline,
    bare_newline_seen: bool,
    discard: bool,
    /// Octets of the current line, of earlier input.
    line_bytes: usize,
    line_bytes_max: usize,
    long_line_seen: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Behind a CRLF, or at the very start.
    LineStart,
    /// Behind a dot that opened a line; it is not copied.
    Dot,
    /// Behind such a dot and a CR, which is held back.
    DotCr,
    /// Within a line.
    Line,
    /// Behind a CR within a line.
    Cr,
}

impl ContentDecoder {
    /// For content that follows DATA. Lines may have `line_bytes_max` octets, CRLF and the dot added
    /// for transparency not counted.
    pub const fn data(policy: BareNewline, line_bytes_max: usize) -> Self {
        Self {
            at: At::LineStart,
            dots: true,
            policy,
            bare_newline_seen: false,
            discard: false,
            line_bytes: 0,
            line_bytes_max,
            long_line_seen: false,
        }
    }

    /// For content in BDAT chunks (RFC 3030 §2): no dots are removed and nothing ends it.
    pub const fn chunks(policy: BareNewline, line_bytes_max: usize) -> Self {
        Self {
            at: At::Line,
            dots: false,
            ..Self::data(policy, line_bytes_max)
        }
    }

    /// A line was longer than allowed. Nothing more is put out then.
    pub const fn long_line_seen(&self) -> bool {
        self.long_line_seen
    }

    /// A bare CR or LF was met under [`BareNewline::Reject`]. Nothing more is put out then.
    pub const fn bare_newline_seen(&self) -> bool {
        self.bare_newline_seen
    }

    /// Go on looking for the end, but put nothing out.
    pub const fn discard_rest(&mut self) {
        self.discard = true;
    }

    /// Appends the content in `input` to `out`, up to its end.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Decoded {
        let mut run = 0; // first byte not yet put out
        let mut i = 0; // next byte to look at
        let mut line = 0; // first byte of the current line, if it began in this input
        while i < input.len() {
            match self.at {
                At::Line => match memchr2(b'\r', b'\n', &input[i..]) {
                    None => i = input.len(),
                    Some(n) if input[i + n] == b'\n' => {
                        self.put(&input[run..i + n], out);
                        self.bare_lf(out);
                        self.line_ends(i + n - line);
                        i += n + 1;
                        run = i;
                        line = i;
                    }
                    Some(n) => {
                        i += n + 1;
                        self.at = At::Cr;
                    }
                },
                At::Cr if input[i] == b'\n' => {
                    // The CR was counted, in this input or an earlier one.
                    self.line_ends(i - line);
                    i += 1;
                    line = i;
                    self.at = if self.dots { At::LineStart } else { At::Line };
                }
                At::Cr => {
                    self.put(&input[run..i], out);
                    run = i;
                    self.bare_cr();
                    if !self.discard {
                        out.pop();
                    }
                    self.at = At::Line;
                }
                At::LineStart if input[i] == b'.' => {
                    self.put(&input[run..i], out);
                    i += 1;
                    run = i;
                    line = i;
                    self.at = At::Dot;
                }
                At::LineStart => self.at = At::Line,
                At::Dot if input[i] == b'\r' => {
                    i += 1;
                    run = i;
                    self.at = At::DotCr;
                }
                At::Dot => self.at = At::Line,
                At::DotCr if input[i] == b'\n' => {
                    return Decoded {
                        consumed: i + 1,
                        ended: true,
                    };
                }
                At::DotCr => {
                    self.bare_cr();
                    self.at = At::Line;
                }
            }
        }
        self.put(&input[run..], out);
        self.line_bytes += input.len() - line;
        self.check_line();
        Decoded {
            consumed: input.len(),
            ended: false,
        }
    }

    /// To be called when the last chunk is in: a CR at its very end stands alone too. Ends the last
    /// line, so that the content can be sent on by DATA.
    pub fn finish_chunks(&mut self, out: &mut Vec<u8>) {
        if self.at == At::Cr {
            self.bare_cr();
            if !self.discard {
                out.pop();
            }
            self.at = At::Line;
        }
        if !self.discard && !out.ends_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
        }
    }

    /// A line break, its CR counted, ends the current line, `bytes` of it in the input at hand.
    const fn line_ends(&mut self, bytes: usize) {
        self.line_bytes += bytes;
        self.check_line();
        self.line_bytes = 0;
    }

    const fn check_line(&mut self) {
        if self.line_bytes > self.line_bytes_max.saturating_add(1) {
            self.long_line_seen = true;
            self.discard = true;
        }
    }

    fn put(&self, bytes: &[u8], out: &mut Vec<u8>) {
        if !self.discard {
            out.extend_from_slice(bytes);
        }
    }

    fn bare_lf(&mut self, out: &mut Vec<u8>) {
        match self.policy {
            BareNewline::Reject => self.reject(),
            BareNewline::Normalise => self.put(b"\r\n", out),
        }
    }

    const fn bare_cr(&mut self) {
        match self.policy {
            BareNewline::Reject => self.reject(),
            BareNewline::Normalise => {}
        }
    }

    const fn reject(&mut self) {
        self.bare_newline_seen = true;
        self.discard = true;
    }
}

static LF_DOT: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(b"\n."));

/// Appends `content[from..]` to `out`, a dot added to each line that begins with one, until `out`
/// has grown by some `bytes_max` octets. Returns the offset in `content` to go on from.
///
/// `content` has CRLF line ends; a call with `from` = 0 begins its first line. The end of data is
/// left to the caller.
pub fn stuff(content: &[u8], from: usize, out: &mut Vec<u8>, bytes_max: usize) -> usize {
    let end = content.len().min(from.saturating_add(bytes_max));
    let mut run = from;
    let starts_line = from == 0 || content.get(from - 1) == Some(&b'\n');
    if starts_line && content.get(from) == Some(&b'.') && from < end {
        out.push(b'.');
    }
    while let Some(n) = LF_DOT.find(&content[run..end]) {
        out.extend_from_slice(&content[run..=run + n]);
        out.push(b'.');
        run += n + 1;
    }
    out.extend_from_slice(&content[run..end]);
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes in pieces of `step` octets; content, octets consumed, whether refused.
    fn decode(input: &[u8], policy: BareNewline, step: usize) -> Option<(Vec<u8>, usize, bool)> {
        let mut decoder = ContentDecoder::data(policy, 998);
        let (mut out, mut done) = (Vec::new(), 0);
        for piece in input.chunks(step) {
            let decoded = decoder.decode(piece, &mut out);
            done += decoded.consumed;
            if decoded.ended {
                return Some((out, done, decoder.bare_newline_seen()));
            }
        }
        None
    }

    #[test]
    fn only_crlf_dot_crlf_ends_content() {
        for step in 1..9 {
            for (input, content) in [
                ("a\r\n.\r\n", "a\r\n"),
                (".\r\n", ""),
                ("..\r\n.a\r\n...\r\n.\r\n", ".\r\na\r\n..\r\n"),
                ("a.\r\n.b.\r\n.\r\nQUIT\r\n", "a.\r\nb.\r\n"),
            ] {
                let (out, consumed, refused) =
                    decode(input.as_bytes(), BareNewline::Reject, step).unwrap();
                assert_eq!(
                    String::from_utf8(out).unwrap(),
                    content,
                    "{input:?} by {step}"
                );
                assert!(!refused);
                assert!(input.as_bytes()[..consumed].ends_with(b".\r\n"));
            }
        }
    }

    #[test]
    fn a_bare_cr_or_lf_is_refused_and_ends_nothing() {
        for step in 1..9 {
            for smuggled in [
                "\n.\n",
                "\n.\r\n",
                "\r\n.\n",
                "\r.\r",
                "\r\n.\r",
                "\r.\r\n",
                "\r\n\r.\r\n",
                "\n",
                "\r",
                "\r\n.\rx",
                "\n\r.\n",
            ] {
                let input = format!("a{smuggled}MAIL\r\n.\r\nrest");
                let (_, consumed, refused) =
                    decode(input.as_bytes(), BareNewline::Reject, step).unwrap();
                assert!(refused, "{smuggled:?} by {step}");
                assert_eq!(&input[consumed..], "rest", "{smuggled:?} by {step}");
            }
        }
    }

    #[test]
    fn normalising_leaves_only_crlf_and_ends_nothing_early() {
        for step in 1..9 {
            for (input, content) in [
                ("a\nb\r\n.\r\n", "a\r\nb\r\n"),
                ("a\rb\r\n.\r\n", "ab\r\n"),
                ("a\n.\nb\r\n.\r\n", "a\r\n.\r\nb\r\n"),
                ("a\r\r\n.\r\n", "a\r\n"),
                ("a\r\n.\rb\r\n.\r\n", "a\r\nb\r\n"),
                ("\r\r\r\n.\n\r\n.\r\n", "\r\n\r\n\r\n"),
            ] {
                let (out, ..) = decode(input.as_bytes(), BareNewline::Normalise, step).unwrap();
                assert_eq!(
                    String::from_utf8(out).unwrap(),
                    content,
                    "{input:?} by {step}"
                );
            }
        }
    }

    #[test]
    fn a_line_may_be_as_long_as_allowed_and_no_longer() {
        for (line, is_long) in [
            ("12345\r\n", false),
            ("123456\r\n", true),
            (".12345\r\n", false),
            (".123456\r\n", true),
            ("x\r\n12345\r\n1\r\n", false),
            ("x\r\n1\r\n1234567890\r\n1\r\n", true),
        ] {
            for step in 1..20 {
                let mut decoder = ContentDecoder::data(BareNewline::Reject, 5);
                let mut out = Vec::new();
                for piece in line.as_bytes().chunks(step) {
                    decoder.decode(piece, &mut out);
                }
                assert_eq!(decoder.long_line_seen(), is_long, "{line:?} by {step}");
                assert!(decoder.decode(b".\r\n", &mut out).ended, "its end is found");
            }
        }
        let mut decoder = ContentDecoder::chunks(BareNewline::Reject, 5);
        let mut out = Vec::new();
        for _ in 0..7 {
            decoder.decode(b"x", &mut out);
        }
        assert!(decoder.long_line_seen(), "before its end has come");
    }

    #[test]
    fn chunks_keep_their_dots_and_end_with_crlf() {
        let mut decoder = ContentDecoder::chunks(BareNewline::Reject, 998);
        let mut out = Vec::new();
        decoder.decode(b".a\r", &mut out);
        decoder.decode(b"\n.\r\nb", &mut out);
        decoder.finish_chunks(&mut out);
        assert_eq!(out, b".a\r\n.\r\nb\r\n");
        assert!(!decoder.bare_newline_seen());
        decoder.decode(b"c\r", &mut out);
        decoder.finish_chunks(&mut out);
        assert!(decoder.bare_newline_seen());
    }

    #[test]
    fn stuffed_content_decodes_to_itself_whatever_the_pieces() {
        let content = b".\r\n..\r\na.b\r\n.c\r\n\r\n.\r\nlast\r\n";
        for bytes_max in 1..content.len() + 1 {
            let (mut wire, mut from) = (Vec::new(), 0);
            while from < content.len() {
                from = stuff(content, from, &mut wire, bytes_max);
            }
            wire.extend_from_slice(b".\r\n");
            let (out, consumed, _) = decode(&wire, BareNewline::Reject, 7).unwrap();
            assert_eq!(out, content, "by {bytes_max}");
            assert_eq!(consumed, wire.len());
        }
    }
}
