//! Mail addresses and domains: parsed once at the edge, compared and routed ever after.
//!
//! [`Address`] is a mailbox (`local-part@domain`), [`Domain`] the part to route by. Source routes,
//! angle brackets and the null reverse-path belong to the command line: see
//! [`crate::smtp::command`].
//!
//! Two rules are looser than RFC 5321 §4.1.2. Dots may stand anywhere in a local part
//! (`a..b@docomo.ne.jp` and `.a@`, `a.@` exist at Japanese carriers and must stay reachable), and a
//! local part may be longer than 64 octets as long as the whole fits a path (§4.5.3.1.3), because
//! return addresses that carry the recipient do get longer. Nothing is looser than what a strict
//! receiver could still read unambiguously: no spaces, controls or unquoted specials.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Longest address without its angle brackets, octets (RFC 5321 §4.5.3.1.3: 256 with them).
pub const ADDRESS_BYTES_MAX: usize = 254;
/// Longest domain in A-label form, octets (RFC 1035 §3.1 without the root label).
pub const DOMAIN_BYTES_MAX: usize = 253;
/// Longest label of a domain, octets (RFC 1035 §3.1).
pub const LABEL_BYTES_MAX: usize = 63;

/// What is wrong with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// Nothing there.
    Empty,
    /// Longer than [`ADDRESS_BYTES_MAX`].
    TooLong,
    /// No `@`, or nothing behind it.
    NoDomain,
    /// The local part is empty or holds a character that wants quoting.
    LocalPart,
    /// A quoted local part that does not end, or with a control character in it.
    QuotedString,
    /// The domain is not labels of letters, digits and hyphens, nor convertible to them.
    Domain,
    /// The address literal is neither `[192.0.2.1]` nor `[IPv6:2001:db8::1]`.
    Literal,
}

impl AddressError {
    /// A sentence without a full stop, fit for a reply text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "the address is empty",
            Self::TooLong => "the address is longer than 254 octets",
            Self::NoDomain => "the address has no domain",
            Self::LocalPart => "the local part is empty or holds a character that must be quoted",
            Self::QuotedString => "the quoted local part does not end or holds a control character",
            Self::Domain => "the domain is not a valid name",
            Self::Literal => "the address literal is neither [IPv4] nor [IPv6:address]",
        }
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for AddressError {}

/// A recipient or sender domain as the queue and the router know it: A-labels, lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(Box<str>);

impl Domain {
    /// Reads a domain name or an address literal in brackets.
    ///
    /// U-labels become A-labels (UTS 46), letters lower case, one trailing dot is dropped, and an
    /// address literal takes its canonical spelling.
    ///
    /// # Errors
    /// [`AddressError::Domain`], [`AddressError::Literal`], [`AddressError::NoDomain`] if empty.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        Self::parse_without_dot(text)
    }

    fn parse_without_dot(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Err(AddressError::NoDomain);
        }
        if text.starts_with('[') {
            return literal(text)
                .map(Self::from_ip)
                .ok_or(AddressError::Literal);
        }
        if text.is_ascii() {
            return lower_ascii(text).map(Self);
        }
        let ascii = idna::domain_to_ascii(text).map_err(|_| AddressError::Domain)?;
        lower_ascii(&ascii).map(Self)
    }

    /// What an operator typed, as the queue spells it. What is no domain stays as it is, and is the
    /// name of nothing.
    pub fn as_queued(text: &str) -> String {
        Self::parse(text.trim()).map_or_else(|_| text.to_owned(), |domain| domain.0.into())
    }

    /// A domain that was checked when it was accepted, read back from the queue.
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The address literal for `ip`.
    pub fn from_ip(ip: IpAddr) -> Self {
        Self(match ip {
            IpAddr::V4(ip) => format!("[{ip}]").into(),
            IpAddr::V6(ip) => format!("[IPv6:{ip}]").into(),
        })
    }

    /// The name, without a trailing dot. An address literal keeps its brackets.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address, if this is an address literal.
    pub fn literal_ip(&self) -> Option<IpAddr> {
        if self.0.starts_with('[') {
            literal(&self.0)
        } else {
            None
        }
    }
}

impl Borrow<str> for Domain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Domain {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

/// `local-part@domain`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    text: Box<str>,
    at: usize,
    domain: Domain,
}

impl Address {
    /// Reads a mailbox (RFC 5321 §4.1.2, RFC 6531 §3.3) without angle brackets or source route.
    ///
    /// # Errors
    /// What is wrong first, from left to right.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        if text.len() > ADDRESS_BYTES_MAX {
            return Err(AddressError::TooLong);
        }
        let at = local_part_len(text.as_bytes())?;
        let domain = Domain::parse_without_dot(&text[at + 1..])?;
        Ok(Self {
            text: text.into(),
            at,
            domain,
        })
    }

    /// An address and its domain that were checked when they were accepted, read back from the queue.
    pub fn from_stored(text: &str, domain: &str) -> Self {
        let at = text.rfind('@').unwrap_or(text.len());
        Self {
            text: text.into(),
            at,
            domain: Domain::from_stored(domain),
        }
    }

    /// A reverse-path that was checked when it was accepted, read back from the queue.
    pub fn reverse_path_from_stored(text: &str) -> Self {
        // What an earlier version took and this one would not is kept as it was written.
        Self::parse(text).unwrap_or_else(|_| {
            let domain = text.rsplit_once('@').map_or("", |(_, domain)| domain);
            Self::from_stored(text, domain)
        })
    }

    /// The address as the client wrote it, without angle brackets.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The text of [`Self::as_str`], without copying it.
    pub fn into_text(self) -> Box<str> {
        self.text
    }

    /// The part before the last `@`, as written.
    pub fn local_part(&self) -> &str {
        &self.text[..self.at]
    }

    /// The domain to route by.
    pub const fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Whether the address can be sent to a server without SMTPUTF8 as it stands.
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }

    /// The address with its domain in A-labels, or `None` if the local part is not ASCII and so
    /// no ASCII form exists.
    pub fn to_ascii(&self) -> Option<Cow<'_, str>> {
        if self.is_ascii() {
            Some(Cow::Borrowed(&self.text))
        } else if self.local_part().is_ascii() {
            Some(Cow::Owned(format!("{}@{}", self.local_part(), self.domain)))
        } else {
            None
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

/// Bytes before the `@` that ends the local part; the `@` is there.
fn local_part_len(text: &[u8]) -> Result<usize, AddressError> {
    if text[0] == b'"' {
        return quoted_len(text);
    }
    let at = text.iter().position(|&b| !LOCAL_PART[b as usize]);
    match at {
        Some(0) => Err(AddressError::LocalPart),
        Some(at) if text[at] == b'@' => Ok(at),
        Some(_) => Err(AddressError::LocalPart),
        None => Err(AddressError::NoDomain),
    }
}

fn quoted_len(text: &[u8]) -> Result<usize, AddressError> {
    let mut i = 1;
    loop {
        match text.get(i) {
            Some(b'"') => break,
            // A quoted pair hides any printable character (RFC 5321 §4.1.2, quoted-pairSMTP).
            Some(b'\\') if matches!(text.get(i + 1), Some(b' '..=b'~')) => i += 2,
            Some(b' '..=b'[' | b']'..=b'~' | 0x80..) => i += 1,
            _ => return Err(AddressError::QuotedString),
        }
    }
    match text.get(i + 1) {
        Some(b'@') => Ok(i + 1),
        Some(_) => Err(AddressError::LocalPart),
        None => Err(AddressError::NoDomain),
    }
}

fn literal(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    match inner.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => {
            inner[5..].parse::<Ipv6Addr>().ok().map(IpAddr::V6)
        }
        _ => inner.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// Checks labels and lengths. Underscores pass: they are no host names, yet such mail domains exist.
fn lower_ascii(text: &str) -> Result<Box<str>, AddressError> {
    if text.len() > DOMAIN_BYTES_MAX {
        return Err(AddressError::Domain);
    }
    let mut label_bytes = 0;
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => label_bytes += 1,
            b'.' if label_bytes > 0 => {
                label_bytes = 0;
                continue;
            }
            _ => return Err(AddressError::Domain),
        }
        if label_bytes > LABEL_BYTES_MAX {
            return Err(AddressError::Domain);
        }
    }
    if label_bytes == 0 {
        return Err(AddressError::Domain);
    }
    Ok(text.to_ascii_lowercase().into_boxed_str())
}

/// atext (RFC 5322 §3.2.3), the dot, and every byte of a multi-byte UTF-8 character.
const LOCAL_PART: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric() || b >= 0x80;
        byte += 1;
    }
    let others = b"!#$%&'*+-/=?^_`{|}~.";
    let mut i = 0;
    while i < others.len() {
        table[others[i] as usize] = true;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, String) {
        let address = Address::parse(text).unwrap();
        (
            address.local_part().to_owned(),
            address.domain().as_str().to_owned(),
        )
    }

    #[test]
    fn addresses_split_at_the_at_that_ends_the_local_part() {
        for (text, local, domain) in [
            ("user@example.jp", "user", "example.jp"),
            ("User+x=y@EXAMPLE.jp", "User+x=y", "example.jp"),
            (r#""a@b c"@example.jp"#, r#""a@b c""#, "example.jp"),
            (r#""a\"b"@example.jp"#, r#""a\"b""#, "example.jp"),
            ("a@[192.0.2.1]", "a", "[192.0.2.1]"),
            ("a@[ipv6:2001:DB8:0::1]", "a", "[IPv6:2001:db8::1]"),
            ("a@localhost", "a", "localhost"),
            ("a@foo_bar.example", "a", "foo_bar.example"),
        ] {
            assert_eq!(parts(text), (local.to_owned(), domain.to_owned()), "{text}");
        }
    }

    #[test]
    fn dots_anywhere_in_a_local_part_are_taken_raw() {
        for local in ["a..b", ".a", "a.", "-a-", "a...b."] {
            assert_eq!(parts(&format!("{local}@docomo.ne.jp")).0, local);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        use AddressError::*;
        for (text, error) in [
            ("", Empty),
            ("user", NoDomain),
            ("user@", NoDomain),
            ("@example.jp", LocalPart),
            ("a b@example.jp", LocalPart),
            ("a<b@example.jp", LocalPart),
            ("a\r@example.jp", LocalPart),
            ("a\0@example.jp", LocalPart),
            (r#""a@example.jp"#, QuotedString),
            ("\"a\n\"@example.jp", QuotedString),
            (r#""a"b@example.jp"#, LocalPart),
            (r#""a""#, NoDomain),
            ("a@b@c", Domain),
            ("a@-.", Domain),
            ("a@b..c", Domain),
            ("a@.b", Domain),
            ("a@b.", Domain),
            ("a@b c", Domain),
            ("a@[192.0.2]", Literal),
            ("a@[IPv6:zz]", Literal),
            ("a@[192.0.2.1", Literal),
            ("a@[x:y]", Literal),
        ] {
            assert_eq!(Address::parse(text), Err(error), "{text:?}");
        }
        let long_label = format!("a@{}.jp", "x".repeat(64));
        assert_eq!(Address::parse(&long_label), Err(Domain));
        let long = format!("{}@example.jp", "x".repeat(254));
        assert_eq!(Address::parse(&long), Err(TooLong));
        let long_local = format!("{}@example.jp", "x".repeat(200));
        assert!(Address::parse(&long_local).is_ok());
    }

    #[test]
    fn idn_domains_become_a_labels() {
        let address = Address::parse("info@日本語.JP").unwrap();
        assert_eq!(address.domain().as_str(), "xn--wgv71a119e.jp");
        assert!(!address.is_ascii());
        assert_eq!(address.to_ascii().unwrap(), "info@xn--wgv71a119e.jp");
        assert_eq!(
            Address::parse("a@日本語。jp").unwrap().domain(),
            address.domain()
        );
        assert_eq!(Address::parse("用户@example.jp").unwrap().to_ascii(), None);
        assert_eq!(
            Address::parse("a@\u{200b}").map(|_| ()),
            Err(AddressError::Domain)
        );
    }

    #[test]
    fn domains_read_back_and_know_their_literal() {
        assert_eq!(Domain::parse("Example.JP.").unwrap().as_str(), "example.jp");
        for text in ["[192.0.2.7]", "[IPv6:2001:db8::1]"] {
            let domain = Domain::parse(text).unwrap();
            assert_eq!(domain.as_str(), text);
            assert_eq!(Domain::from_ip(domain.literal_ip().unwrap()), domain);
        }
        assert_eq!(Domain::parse("example.jp").unwrap().literal_ip(), None);
        assert_eq!(Domain::parse("."), Err(AddressError::NoDomain));
    }
}
