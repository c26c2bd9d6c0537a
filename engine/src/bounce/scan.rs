//! Finds addresses, codes, phases and hosts in lines of text. No judgement: that is in
//! [`super::notice`].

use crate::phase::Phase;
use crate::status::{EnhancedStatus, ReplyCode};

/// Characters of an address; RFC 5321 §4.5.3.1 allows 64 + 1 + 255.
pub(super) const ADDRESS_BYTES_MAX: usize = 320;

/// An address in a line: bytes `start..end`, without brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Every address in `line`, from left to right.
pub(super) fn addresses(line: &str) -> impl Iterator<Item = Found> {
    let bytes = line.as_bytes();
    let mut after = 0;
    memchr::memchr_iter(b'@', bytes).filter_map(move |at| {
        if at < after {
            return None;
        }
        let found = address_at(line, at, after)?;
        after = found.end;
        Some(found)
    })
}

fn address_at(line: &str, at: usize, floor: usize) -> Option<Found> {
    let bytes = line.as_bytes();
    let mut start = at;
    if at > floor && bytes[at - 1] == b'"' {
        // "local part"@domain
        let open = memchr::memrchr(b'"', &bytes[floor..at - 1])? + floor;
        start = open;
    } else {
        while start > floor && is_local(bytes[start - 1]) {
            start -= 1;
        }
    }
    let mut end = at + 1;
    if bytes.get(end) == Some(&b'[') {
        end = memchr::memchr(b']', &bytes[end..])? + end + 1;
    } else {
        while end < bytes.len() && is_domain(bytes[end]) {
            end += 1;
        }
        while end > at + 1 && matches!(bytes[end - 1], b'.' | b'-' | b'_') {
            end -= 1;
        }
    }
    // `rfc822;x@y`, `mailto:x@y`, `SMTP=x@y`, `'x@y'`, `=x@y`.
    let encoded_word = bytes[start..at].starts_with(b"=?");
    while !encoded_word
        && start < at
        && matches!(
            bytes[start],
            b'\'' | b'=' | b'*' | b'.' | b'`' | b'/' | b'|' | b'{' | b'-'
        )
    {
        start += 1;
    }
    if let Some(equals) = memchr::memrchr(b'=', &bytes[start..at]).filter(|_| !encoded_word) {
        let name = &line[start..start + equals];
        if [
            "smtp",
            "to",
            "addr",
            "address",
            "recipient",
            "rcpt",
            "rfc822",
        ]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known))
        {
            start += equals + 1;
        }
    }
    let long = end - start > ADDRESS_BYTES_MAX;
    if start == at || end == at + 1 || long {
        return None;
    }
    line.is_char_boundary(start).then_some(Found { start, end })
}

fn is_local(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&b) || b >= 0x80
}

fn is_domain(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_') || b >= 0x80
}

/// Whether a text from a recipient field can be an address: something without spaces.
pub(super) fn is_plausible(address: &str) -> bool {
    !address.is_empty()
        && address.len() <= ADDRESS_BYTES_MAX
        && (address.contains('"') || !address.contains(char::is_whitespace))
}

/// The address in a field value such as `rfc822; <x@example.jp>`, or a bare local name.
pub(super) fn field_address(value: &str) -> Option<String> {
    let value = value
        .rsplit_once(';')
        .map_or(value, |(_, address)| address)
        .trim();
    if let Some(found) = addresses(value).next() {
        return Some(value[found.start..found.end].to_owned());
    }
    let bare = value.trim_matches(|c: char| c == '<' || c == '>' || c == '"' || c.is_whitespace());
    is_plausible(bare).then(|| bare.to_owned())
}

/// The first reply code of a diagnostic: three digits as a word, not inside an address or version.
pub(super) fn reply_code(text: &str) -> Option<ReplyCode> {
    let bytes = text.as_bytes();
    let mut index = 0;
    while index + 3 <= bytes.len() {
        let digits = &bytes[index..index + 3];
        let fits = matches!(digits[0], b'4' | b'5')
            && digits[1] <= b'5'
            && digits.iter().all(u8::is_ascii_digit)
            && (index == 0 || b" \t\n>:(\"'#[;-".contains(&bytes[index - 1]))
            && bytes
                .get(index + 3)
                .is_none_or(|b| b" -\t\r\n<:;,.)]\"'".contains(b));
        let fraction = bytes.get(index + 3) == Some(&b'.')
            && bytes.get(index + 4).is_some_and(u8::is_ascii_digit);
        if fits && !fraction {
            let code = digits
                .iter()
                .fold(0, |sum, b| sum * 10 + u16::from(b - b'0'));
            return ReplyCode::new(code);
        }
        index += 1;
    }
    None
}

/// The first enhanced status code in a text (`#5.1.1`, `(5.7.1)` and the like too), class 4 or 5
/// before class 2.
pub(super) fn enhanced(text: &str) -> Option<EnhancedStatus> {
    let mut success = None;
    for word in text.split(|c: char| !(c.is_ascii_digit() || c == '.')) {
        let word = word.trim_matches('.');
        if word.len() < 5 || !matches!(word.as_bytes()[0], b'2' | b'4' | b'5') {
            continue;
        }
        if let Some(status) = EnhancedStatus::parse(word) {
            if status.class != 2 {
                return Some(status);
            }
            success = success.or(Some(status));
        }
    }
    success
}

/// The SMTP step that a notice names. `text` is lower case.
pub(super) fn phase(text: &str) -> Option<Phase> {
    const NAMES: [(&str, Phase); 26] = [
        ("in reply to rcpt", Phase::Rcpt),
        ("in reply to end of data", Phase::EndOfData),
        ("in reply to mail from", Phase::Mail),
        ("in reply to data", Phase::Data),
        ("in reply to ehlo", Phase::Ehlo),
        ("in reply to helo", Phase::Ehlo),
        ("after rcpt to", Phase::Rcpt),
        ("after rcpt command", Phase::Rcpt),
        ("after end of data", Phase::EndOfData),
        ("after sending data block", Phase::EndOfData),
        ("after data command", Phase::Data),
        ("after mail from", Phase::Mail),
        ("after initial connection", Phase::Greeting),
        ("after connect", Phase::Connect),
        ("after helo", Phase::Ehlo),
        ("after ehlo", Phase::Ehlo),
        ("end of data", Phase::EndOfData),
        ("in response to \"rcpt", Phase::Rcpt),
        ("in response to the rcpt", Phase::Rcpt),
        ("sent: rcpt to", Phase::Rcpt),
        (">>> rcpt to", Phase::Rcpt),
        (">>> mail from", Phase::Mail),
        (">>> data", Phase::EndOfData),
        ("does not like recipient", Phase::Rcpt),
        ("failed after i sent the message", Phase::EndOfData),
        ("while sending rcpt to", Phase::Rcpt),
    ];
    NAMES
        .iter()
        .find(|(words, _)| text.contains(words))
        .map(|(_, phase)| *phase)
}

/// The host that a notice says refused: `host mx.example.jp[192.0.2.1] said`, `while talking to …`.
pub(super) fn remote_host(text: &str) -> Option<String> {
    const BEFORE: [&str; 8] = [
        "while talking to ",
        "host ",
        "remote server ",
        "connected to ",
        "talking to ",
        "by ",
        "server ",
        "connect to ",
    ];
    for before in BEFORE {
        let mut rest = text;
        while let Some(at) = rest.find(before) {
            rest = &rest[at + before.len()..];
            let end = rest
                .bytes()
                .take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
                .count();
            let name = rest[..end].trim_end_matches(['.', '-']);
            let is_host = name.contains('.')
                && name.bytes().any(|b| b.is_ascii_alphabetic())
                && name.len() <= 255;
            if is_host {
                return Some(name.to_ascii_lowercase());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(line: &str) -> Vec<&str> {
        addresses(line)
            .map(|found| &line[found.start..found.end])
            .collect()
    }

    #[test]
    fn addresses_are_found_in_any_dress() {
        assert_eq!(all("<a.b@example.jp>: x"), ["a.b@example.jp"]);
        assert_eq!(all("a@b.jp<mailto:a@b.jp>."), ["a@b.jp", "a@b.jp"]);
        assert_eq!(all("dda:SMTP=u@example.COM; on"), ["u@example.COM"]);
        assert_eq!(
            all("'x@y.jp' and \"q..q\"@docomo.ne.jp"),
            ["x@y.jp", "\"q..q\"@docomo.ne.jp"]
        );
        assert_eq!(
            all("rfc822;bounce+a=b.c@d.e, @ alone, a@ b"),
            ["bounce+a=b.c@d.e"]
        );
        assert_eq!(all("u@[192.0.2.1] ok"), ["u@[192.0.2.1]"]);
    }

    #[test]
    fn codes_are_words_of_their_own() {
        assert_eq!(reply_code("host said: 550 5.1.1 no"), ReplyCode::new(550));
        assert_eq!(reply_code("550-5.1.1 no"), ReplyCode::new(550));
        assert_eq!(reply_code("192.0.2.1 port 4500 x5501"), None);
        assert_eq!(enhanced("Sorry (#5.1.1)"), EnhancedStatus::parse("5.1.1"));
        assert_eq!(
            enhanced("2.0.0 ok then 4.2.2"),
            EnhancedStatus::parse("4.2.2")
        );
        assert_eq!(enhanced("192.0.2.1"), None);
    }

    #[test]
    fn phase_and_host_are_read_from_the_usual_sentences() {
        assert_eq!(phase("(in reply to rcpt to command)"), Some(Phase::Rcpt));
        assert_eq!(phase("nothing"), None);
        let said = "host MX.example.jp[192.0.2.1] said: 550";
        assert_eq!(remote_host(said).as_deref(), Some("mx.example.jp"));
        assert_eq!(
            remote_host("... while talking to a.b.c.:").as_deref(),
            Some("a.b.c")
        );
    }
}
