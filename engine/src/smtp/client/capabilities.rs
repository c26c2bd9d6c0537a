//! What a server offers in its reply to EHLO (RFC 5321 §4.1.1.1).

use crate::smtp::reply::ReplyView;

/// The extensions this client makes use of, and those worth showing to an operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3030.
    pub chunking: bool,
    /// RFC 2034.
    pub enhanced_status_codes: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 1870: SIZE is understood; a limit in octets, or `None` if the server names none.
    pub size: Option<Option<u64>>,
}

impl Capabilities {
    /// Reads the lines of a positive reply to EHLO; the first is the server's name.
    pub fn read(reply: &ReplyView<'_>) -> Self {
        let mut found = Self::default();
        for line in reply.lines().skip(1) {
            let mut words = line.split(|&b| b == b' ' || b == b'=');
            let Some(keyword) = words.next() else {
                continue;
            };
            match &keyword.to_ascii_uppercase()[..] {
                b"PIPELINING" => found.pipelining = true,
                b"8BITMIME" => found.eight_bit_mime = true,
                b"SMTPUTF8" => found.smtputf8 = true,
                b"CHUNKING" => found.chunking = true,
                b"ENHANCEDSTATUSCODES" => found.enhanced_status_codes = true,
                b"STARTTLS" => found.starttls = true,
                b"SIZE" => {
                    let limit = words.next().and_then(|word| std::str::from_utf8(word).ok());
                    // 0 means that there is no fixed limit (RFC 1870 §4).
                    found.size = Some(limit.and_then(|w| w.parse().ok()).filter(|&n| n > 0));
                }
                _ => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::reply::ReplyParser;

    fn read(mut reply: &[u8]) -> Capabilities {
        Capabilities::read(&ReplyParser::default().next(&mut reply).unwrap().unwrap())
    }

    #[test]
    fn keywords_are_read_in_any_case_and_others_left() {
        let found = read(
            b"250-pipelining SIZE greets you\r\n250-size 1000\r\n250-8bitmime\r\n250-AUTH=LOGIN\r\n\
              250-\r\n250-X-UNKNOWN a b\r\n250 SmtpUtf8\r\n",
        );
        assert!(!found.pipelining && found.eight_bit_mime && found.smtputf8);
        assert_eq!(found.size, Some(Some(1000)));
        assert_eq!(read(b"250-a\r\n250 SIZE\r\n").size, Some(None));
        assert_eq!(read(b"250-a\r\n250 SIZE 0\r\n").size, Some(None));
        assert_eq!(read(b"250 a\r\n"), Capabilities::default());
    }
}
