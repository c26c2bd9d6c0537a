//! Addresses as composition needs them: those on which Japanese carriers once broke the rules too.
//!
//! docomo and au handed out `a..b@` and `a.@` until 2009 and some live on. The local part is kept
//! unquoted, as its owner writes it, and leaves quoted (`"a..b"@docomo.ne.jp`, which RFC 5321 allows
//! anyone) or raw where a carrier's configuration says so. Envelopes and their stricter grammar:
//! `crate::address`.

use std::fmt;

use super::limits::{DOMAIN_BYTES_MAX, LOCAL_PART_BYTES_MAX};

/// How a local part that is no dot-atom is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocalStyle {
    /// `"a..b"@docomo.ne.jp` (RFC 5322 §3.4.1).
    #[default]
    Quoted,
    /// `a..b@docomo.ne.jp`.
    Raw,
}

/// An address, its local part unquoted, its domain in A-labels and lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mailbox {
    local: Box<str>,
    domain: Box<str>,
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MailboxError {
    /// No `@`, or nothing on one side of it.
    NotAnAddress,
    /// A local part with spaces, specials or controls that are not quoted, or over 64 bytes.
    LocalPart,
    /// A local part outside ASCII, which needs SMTPUTF8 all the way; composition does not offer it.
    LocalPartNotAscii,
    /// Not a domain name, neither in A-labels nor in any script.
    Domain,
}

impl fmt::Display for MailboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnAddress => "not an address: expected local-part@domain",
            Self::LocalPart => {
                "the part before @ holds spaces or specials that need quoting, or is over 64 bytes"
            }
            Self::LocalPartNotAscii => "the part before @ must be ASCII",
            Self::Domain => "the part behind @ is not a domain name",
        })
    }
}

impl std::error::Error for MailboxError {}

const fn is_atext(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'/'
        | b'=' | b'?' | b'^'..=b'`' | b'{'..=b'~')
}

/// Dots stand single and inside (RFC 5322 §3.2.3).
fn is_dot_atom(local: &str) -> bool {
    local
        .split('.')
        .all(|atom| !atom.is_empty() && atom.bytes().all(is_atext))
}

impl Mailbox {
    /// Reads `local@domain`, quoted or raw, with or without angle brackets.
    ///
    /// # Errors
    /// See [`MailboxError`].
    pub fn parse(text: &str) -> Result<Self, MailboxError> {
        let text = text.trim();
        let text = text
            .strip_prefix('<')
            .and_then(|t| t.strip_suffix('>'))
            .unwrap_or(text);
        let (local, domain) = text.rsplit_once('@').ok_or(MailboxError::NotAnAddress)?;
        if local.is_empty() || domain.is_empty() {
            return Err(MailboxError::NotAnAddress);
        }
        Ok(Self {
            local: parse_local(local)?,
            domain: parse_domain(domain)?,
        })
    }

    /// The local part without quotes.
    pub fn local_part(&self) -> &str {
        &self.local
    }

    /// The domain in A-labels, lower case.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Appends `local@domain` as `style` has it.
    pub fn write(&self, style: LocalStyle, out: &mut Vec<u8>) {
        let dots_only = self.local.bytes().all(|b| is_atext(b) || b == b'.');
        if is_dot_atom(&self.local) || (style == LocalStyle::Raw && dots_only) {
            out.extend_from_slice(self.local.as_bytes());
        } else {
            out.push(b'"');
            for byte in self.local.bytes() {
                if matches!(byte, b'"' | b'\\') {
                    out.push(b'\\');
                }
                out.push(byte);
            }
            out.push(b'"');
        }
        out.push(b'@');
        out.extend_from_slice(self.domain.as_bytes());
    }

    /// The address as it stands in RCPT and in header fields.
    pub fn to_text(&self, style: LocalStyle) -> String {
        let mut out = Vec::with_capacity(self.local.len() + self.domain.len() + 3);
        self.write(style, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text(LocalStyle::Quoted))
    }
}

fn parse_local(local: &str) -> Result<Box<str>, MailboxError> {
    if !local.is_ascii() {
        return Err(MailboxError::LocalPartNotAscii);
    }
    let plain = match local.strip_prefix('"').and_then(|l| l.strip_suffix('"')) {
        Some(quoted) => unquote(quoted)?,
        None if local.bytes().all(|b| is_atext(b) || b == b'.') => local.into(),
        None => return Err(MailboxError::LocalPart),
    };
    if plain.is_empty() || plain.len() > LOCAL_PART_BYTES_MAX {
        return Err(MailboxError::LocalPart);
    }
    Ok(plain.into())
}

fn unquote(quoted: &str) -> Result<String, MailboxError> {
    let mut plain = String::with_capacity(quoted.len());
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.push(chars.next().ok_or(MailboxError::LocalPart)?),
            '"' => return Err(MailboxError::LocalPart),
            _ => plain.push(c),
        }
    }
    if plain.bytes().any(|b| b.is_ascii_control()) {
        return Err(MailboxError::LocalPart);
    }
    Ok(plain)
}

fn parse_domain(domain: &str) -> Result<Box<str>, MailboxError> {
    if let Some(literal) = domain.strip_prefix('[').and_then(|d| d.strip_suffix(']')) {
        let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b':' | b'-');
        let good = !literal.is_empty() && domain.len() <= DOMAIN_BYTES_MAX;
        return match good && literal.bytes().all(safe) {
            true => Ok(domain.to_ascii_lowercase().into()),
            false => Err(MailboxError::Domain),
        };
    }
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    let ascii = if domain.is_ascii() {
        domain.to_ascii_lowercase()
    } else {
        idna::domain_to_ascii(domain).map_err(|_| MailboxError::Domain)?
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if ascii.len() > DOMAIN_BYTES_MAX || !ascii.split('.').all(label) {
        return Err(MailboxError::Domain);
    }
    Ok(ascii.into())
}

/// Splits `Name <address>` into its two sides, quotes around the name removed; a text without angle
/// brackets is all address.
pub fn split_named(text: &str) -> (&str, &str) {
    let text = text.trim();
    match text.strip_suffix('>').and_then(|t| t.rsplit_once('<')) {
        Some((name, address)) => {
            let name = name.trim();
            let bare = name.strip_prefix('"').and_then(|n| n.strip_suffix('"'));
            (bare.unwrap_or(name), address.trim())
        }
        None => ("", text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_breaking_local_parts_are_kept_unquoted_and_written_quoted_or_raw() {
        for text in [
            "a..b@docomo.ne.jp",
            "\"a..b\"@docomo.ne.jp",
            "<a..b@DOCOMO.ne.jp>",
        ] {
            let mailbox = Mailbox::parse(text).unwrap();
            assert_eq!(mailbox.local_part(), "a..b");
            assert_eq!(mailbox.to_text(LocalStyle::Quoted), "\"a..b\"@docomo.ne.jp");
            assert_eq!(mailbox.to_text(LocalStyle::Raw), "a..b@docomo.ne.jp");
        }
        let trailing = Mailbox::parse("a.@ezweb.ne.jp").unwrap();
        assert_eq!(trailing.to_text(LocalStyle::Quoted), "\"a.\"@ezweb.ne.jp");
        // Raw is for stray dots alone: a space would end the command.
        let spaced = Mailbox::parse("\"a b\"@example.jp").unwrap();
        assert_eq!(spaced.to_text(LocalStyle::Raw), "\"a b\"@example.jp");
        assert_eq!(
            Mailbox::parse("plain.x@example.jp").unwrap().to_string(),
            "plain.x@example.jp"
        );
    }

    #[test]
    fn domains_of_any_script_become_a_labels() {
        assert_eq!(
            Mailbox::parse("info@日本語.jp").unwrap().domain(),
            "xn--wgv71a119e.jp"
        );
        assert_eq!(
            Mailbox::parse("info@EXAMPLE.jp.").unwrap().domain(),
            "example.jp"
        );
        assert_eq!(
            Mailbox::parse("x@[192.0.2.1]").unwrap().domain(),
            "[192.0.2.1]"
        );
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_reason() {
        for (text, error) in [
            ("nobody", MailboxError::NotAnAddress),
            ("@example.jp", MailboxError::NotAnAddress),
            ("a b@example.jp", MailboxError::LocalPart),
            ("a\r\nRCPT@example.jp", MailboxError::LocalPart),
            ("\"a\rb\"@example.jp", MailboxError::LocalPart),
            ("山田@example.jp", MailboxError::LocalPartNotAscii),
            ("a@exa mple.jp", MailboxError::Domain),
            ("a@-x.jp", MailboxError::Domain),
            ("a@b..jp", MailboxError::Domain),
        ] {
            assert_eq!(Mailbox::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_display_name_is_told_from_its_address() {
        assert_eq!(split_named("飛脚 <a@b.jp>"), ("飛脚", "a@b.jp"));
        assert_eq!(split_named("\"x, y\" <a@b.jp>"), ("x, y", "a@b.jp"));
        assert_eq!(split_named(" a@b.jp "), ("", "a@b.jp"));
    }
}
