//! One pass over a header section while it comes in.
//!
//! [`HeaderScanner`] looks at each field once, as soon as it is complete, so that a message costs
//! the same whether it comes in one read or in a thousand. It finds what the relay needs (hops,
//! Date, Message-ID, the group and tag fields) and where the section ends; [`HeaderScan::rewrite`]
//! then takes fields out and puts missing ones in. Field bodies are not parsed; of group and tag
//! fields the encoded words are decoded ([`super::encoded_word`]).

use std::ops::Range;

use memchr::memchr;

use super::encoded_word;

/// Longest header section looked at, octets; a longer one is refused.
pub const HEADER_BYTES_MAX: usize = 512 * 1024;
/// Longest Message-ID, group or tag value kept, octets; the rest is cut off.
pub const VALUE_BYTES_MAX: usize = 255;
/// Most tags kept of one message; later ones are left out.
pub const TAGS_MAX: usize = 16;

/// Fields the operator wants to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchedHeaders {
    /// The field that names a message's group. The first one counts.
    pub group: Option<Box<str>>,
    /// Fields whose values go to the delivery log.
    pub tags: Vec<Box<str>>,
    /// Take the fields above out of the message.
    pub strip: bool,
}

/// What a header section holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderScan {
    /// Number of Received fields (RFC 5321 §6.3), the relay's own not counted.
    pub hops: u32,
    /// There is a Date field.
    pub has_date: bool,
    /// Value of the first Message-ID field, angle brackets included.
    pub message_id: Option<Box<str>>,
    /// Value of the first group field.
    pub group: Option<Box<str>>,
    /// Name as configured and value of each tag field, in order.
    pub tags: Vec<(Box<str>, Box<str>)>,
    /// Offset behind the last field: of the empty line, or of the first line that is no field.
    pub end: usize,
    /// An empty line, or the end of the content, stands at `end`.
    pub ends_properly: bool,
    strip: Vec<Range<usize>>,
}

impl HeaderScan {
    /// Takes watched fields out of `content`, adds `extra` (whole fields, each with CRLF) at the end
    /// of the header section, and an empty line if the section ended without one.
    ///
    /// Only bytes from the first change on are moved, so this is best called as soon as the
    /// section is complete. Offsets of this scan are void afterwards.
    pub fn rewrite(&self, content: &mut Vec<u8>, extra: &[u8]) {
        if !extra.is_empty() || !self.ends_properly {
            let empty_line: &[u8] = if self.ends_properly { b"" } else { b"\r\n" };
            let insertion = extra.iter().chain(empty_line).copied();
            content.splice(self.end..self.end, insertion);
        }
        let Some(first) = self.strip.first() else {
            return;
        };
        // In one pass: a section may hold thousands of watched fields.
        let mut kept = first.start;
        for (n, range) in self.strip.iter().enumerate() {
            let next = self.strip.get(n + 1).map_or(content.len(), |r| r.start);
            content.copy_within(range.end..next, kept);
            kept += next - range.end;
        }
        content.truncate(kept);
    }
}

/// Scans a header section that grows at the end of a buffer.
#[derive(Debug)]
pub struct HeaderScanner {
    start: usize,
    field: usize,
    line: usize,
    /// No LF lies between `line` and here.
    searched: usize,
    scan: HeaderScan,
}

impl HeaderScanner {
    /// For a section that begins at offset `start` of the buffer.
    pub fn new(start: usize) -> Self {
        Self {
            start,
            field: start,
            line: start,
            searched: start,
            scan: HeaderScan::default(),
        }
    }

    /// Looks at the lines that became complete. Returns the scan once the section has ended.
    ///
    /// `content` is the buffer of all calls, grown at its end; `complete` says that no more will
    /// come. Not to be called again after it returned a scan.
    pub fn advance(
        &mut self,
        content: &[u8],
        watched: &WatchedHeaders,
        complete: bool,
    ) -> Option<HeaderScan> {
        // Normalising may have taken back the CR that ended the last call's octets.
        self.searched = self.searched.min(content.len());
        while let Some(length) = memchr(b'\n', &content[self.searched..]) {
            let line_end = self.searched + length + 1;
            self.searched = line_end;
            match content[self.line] {
                b' ' | b'\t' if self.line > self.start => {}
                first => {
                    self.field_ends(content, watched);
                    let line = &content[self.line..line_end];
                    let empty = first == b'\r' && line.len() == 2;
                    if empty || !is_field(line) {
                        return Some(self.section_ends(empty));
                    }
                    self.field = self.line;
                }
            }
            self.line = line_end;
        }
        self.searched = content.len();
        if !complete {
            return None;
        }
        self.field_ends(content, watched);
        let nothing_left = self.line == content.len();
        Some(self.section_ends(nothing_left))
    }

    /// Octets of the section seen so far.
    pub const fn bytes(&self) -> usize {
        self.line - self.start
    }

    fn section_ends(&mut self, properly: bool) -> HeaderScan {
        let mut scan = std::mem::take(&mut self.scan);
        scan.end = self.line;
        scan.ends_properly = properly;
        scan
    }

    fn field_ends(&mut self, content: &[u8], watched: &WatchedHeaders) {
        let range = self.field..self.line;
        let field = &content[range.clone()];
        let Some(first) = field.first() else { return };
        match first | 0x20 {
            b'r' if value_of(field, "received").is_some() => self.scan.hops += 1,
            b'd' if value_of(field, "date").is_some() => self.scan.has_date = true,
            b'm' if self.scan.message_id.is_none() => {
                if let Some(value) = value_of(field, "message-id") {
                    self.scan.message_id = clean(value);
                }
            }
            _ => {}
        }
        if let Some(name) = &watched.group
            && let Some(value) = value_of(field, name)
        {
            self.scan.group = self.scan.group.take().or_else(|| words(value));
            self.strip(&range, watched);
        }
        for name in &watched.tags {
            if let Some(value) = value_of(field, name) {
                if self.scan.tags.len() < TAGS_MAX
                    && let Some(value) = words(value)
                {
                    self.scan.tags.push((name.clone(), value));
                }
                self.strip(&range, watched);
                break;
            }
        }
    }

    fn strip(&mut self, range: &Range<usize>, watched: &WatchedHeaders) {
        if watched.strip && self.scan.strip.last() != Some(range) {
            self.scan.strip.push(range.clone());
        }
    }
}

/// The header section of `content`, without the empty line behind it.
pub fn section(content: &[u8]) -> &[u8] {
    if content.starts_with(b"\r\n") {
        return &[];
    }
    match memchr::memmem::find(content, b"\r\n\r\n") {
        Some(end) => &content[..end + 2],
        None => content,
    }
}

/// Whether a line opens a field: a name of printable ASCII, then a colon (RFC 5322 §2.2). White
/// space before the colon is obsolete syntax (§4.5) and still read.
fn is_field(line: &[u8]) -> bool {
    let name_end = line
        .iter()
        .position(|&b| !matches!(b, b'!'..=b'9' | b';'..=b'~'));
    let Some(name_end @ 1..) = name_end else {
        return false;
    };
    line[name_end..].iter().find(|&&b| b != b' ' && b != b'\t') == Some(&b':')
}

/// The bytes behind the colon, if the field has that name.
fn value_of<'a>(field: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let (head, rest) = field.split_at_checked(name.len())?;
    if !head.eq_ignore_ascii_case(name.as_bytes()) {
        return None;
    }
    rest.trim_ascii_start().strip_prefix(b":")
}

/// An unstructured field body as [`clean`] leaves it, its encoded words decoded.
fn words(value: &[u8]) -> Option<Box<str>> {
    match encoded_word::decoded(value) {
        Some(text) => clean(text.as_bytes()),
        None => clean(value),
    }
}

/// A field body on one line: unfolded, trimmed, bounded, controls as spaces; `None` if empty.
pub(crate) fn clean(value: &[u8]) -> Option<Box<str>> {
    let value = value.trim_ascii();
    let bounded = &value[..value.len().min(VALUE_BYTES_MAX + 4)];
    let mut text = String::with_capacity(bounded.len());
    for c in String::from_utf8_lossy(bounded).chars() {
        match c {
            // Folding is CRLF before white space (RFC 5322 §2.2.3): the white space stays.
            '\r' | '\n' => continue,
            c if text.len() + c.len_utf8() > VALUE_BYTES_MAX => break,
            c if c.is_control() => text.push(' '),
            c => text.push(c),
        }
    }
    if text.is_empty() {
        None
    } else {
        Some(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched() -> WatchedHeaders {
        WatchedHeaders {
            group: Some("X-Hikyaku-Group".into()),
            tags: vec!["X-Hikyaku-Tag".into(), "X-Campaign".into()],
            strip: true,
        }
    }

    fn scan(content: &[u8]) -> HeaderScan {
        HeaderScanner::new(0)
            .advance(content, &watched(), true)
            .unwrap()
    }

    const MESSAGE: &[u8] = b"Received: from a\r\n\tby b; date\r\nreceived: x\r\nDate: now\r\n\
        x-hikyaku-group: shop\r\n  one\r\nX-Hikyaku-Tag : 17\r\nMessage-Id: <1@a>\r\n\
        X-Campaign: spring\r\nMessage-ID: <2@a>\r\n\r\nReceived: in the body\r\n";

    #[test]
    fn fields_are_found_whatever_their_case_and_folding() {
        let scan = scan(MESSAGE);
        assert_eq!(scan.hops, 2);
        assert!(scan.has_date && scan.ends_properly);
        assert_eq!(scan.message_id.as_deref(), Some("<1@a>"));
        assert_eq!(scan.group.as_deref(), Some("shop  one"));
        let tags: Vec<(&str, &str)> = scan.tags.iter().map(|(n, v)| (&**n, &**v)).collect();
        assert_eq!(tags, [("X-Hikyaku-Tag", "17"), ("X-Campaign", "spring")]);
        assert!(MESSAGE[scan.end..].starts_with(b"\r\nReceived: in"));
    }

    #[test]
    fn splitting_the_input_changes_nothing() {
        let whole = scan(MESSAGE);
        for split in 0..MESSAGE.len() {
            let mut scanner = HeaderScanner::new(0);
            let found = scanner
                .advance(&MESSAGE[..split], &watched(), false)
                .or_else(|| scanner.advance(MESSAGE, &watched(), true));
            assert_eq!(found.unwrap(), whole, "split at {split}");
        }
    }

    #[test]
    fn rewriting_strips_watched_fields_and_adds_missing_ones() {
        let mut content = MESSAGE.to_vec();
        scan(MESSAGE).rewrite(&mut content, b"X: y\r\n");
        assert_eq!(
            String::from_utf8(content).unwrap(),
            "Received: from a\r\n\tby b; date\r\nreceived: x\r\nDate: now\r\nMessage-Id: <1@a>\r\n\
             Message-ID: <2@a>\r\nX: y\r\n\r\nReceived: in the body\r\n"
        );
    }

    #[test]
    fn a_body_without_header_section_gets_an_empty_line_before_it() {
        for (content, expected) in [
            ("no header\r\n", "X: y\r\n\r\nno header\r\n"),
            (" leading space\r\n", "X: y\r\n\r\n leading space\r\n"),
            ("A: b\r\nno header\r\n", "A: b\r\nX: y\r\n\r\nno header\r\n"),
            ("\r\nbody\r\n", "X: y\r\n\r\nbody\r\n"),
            ("A: b\r\n", "A: b\r\nX: y\r\n"),
            ("", "X: y\r\n"),
            (": no name\r\n", "X: y\r\n\r\n: no name\r\n"),
        ] {
            let mut bytes = content.as_bytes().to_vec();
            scan(content.as_bytes()).rewrite(&mut bytes, b"X: y\r\n");
            assert_eq!(String::from_utf8(bytes).unwrap(), expected, "{content:?}");
        }
    }

    #[test]
    fn the_section_ends_before_the_empty_line() {
        assert_eq!(
            section(b"A: b\r\nC: d\r\n\r\nbody\r\n\r\n"),
            b"A: b\r\nC: d\r\n"
        );
        assert_eq!(section(b"\r\nbody"), b"");
        assert_eq!(section(b"A: b\r\n"), b"A: b\r\n");
    }

    #[test]
    fn values_are_bounded_and_fit_one_line() {
        let long = format!(
            "Message-ID: {}\r\nX-Campaign: a\tb\0c\r\n\r\n",
            "あ".repeat(400)
        );
        let scan = scan(long.as_bytes());
        let id = scan.message_id.unwrap();
        assert!(id.len() <= VALUE_BYTES_MAX && id.chars().all(|c| c == 'あ'));
        assert_eq!(&*scan.tags[0].1, "a b c");
        assert_eq!(clean(b" \r\n "), None);
    }

    #[test]
    fn group_and_tags_in_encoded_words_are_decoded() {
        let message = "X-Hikyaku-Group: =?UTF-8?B?5aSP44Gu?=\r\n =?iso-2022-jp?B?GyRCJDskaBsoQg==?= 1\r\n\
            X-Campaign: =?iso-8859-1?q?caf=E9_a?= =?utf-8?Q?=0D=0Ab?=\r\n\r\n";
        let scan = scan(message.as_bytes());
        assert_eq!(scan.group.as_deref(), Some("夏のせよ 1"));
        assert_eq!(&*scan.tags[0].1, "café ab");
    }

    #[test]
    fn stripping_many_fields_takes_time_in_proportion() {
        let mut content = Vec::new();
        let mut kept = Vec::new();
        for n in 0..30_000 {
            content.extend_from_slice(format!("X-Campaign: {n}\r\n").as_bytes());
            if n % 100 == 0 {
                let field = format!("X-Kept: {n}\r\n");
                content.extend_from_slice(field.as_bytes());
                kept.extend_from_slice(field.as_bytes());
            }
        }
        let body = b"\r\nbody\r\n";
        content.extend_from_slice(body);
        kept.extend_from_slice(b"Date: x\r\n");
        kept.extend_from_slice(body);
        let scan = scan(&content);
        scan.rewrite(&mut content, b"Date: x\r\n");
        assert!(content == kept);
    }
}
