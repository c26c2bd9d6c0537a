//! Reply codes (RFC 5321 §4.2) and enhanced status codes (RFC 3463).

use std::fmt;

/// A three-digit SMTP reply code, 200 to 599.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyCode(u16);

impl ReplyCode {
    /// The code, if it lies between 200 and 599.
    pub const fn new(code: u16) -> Option<Self> {
        if code >= 200 && code <= 599 {
            Some(Self(code))
        } else {
            None
        }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// 2yz.
    pub const fn is_positive(self) -> bool {
        self.0 / 100 == 2
    }

    /// 4yz: the same command may succeed later.
    pub const fn is_transient(self) -> bool {
        self.0 / 100 == 4
    }

    /// 5yz.
    pub const fn is_permanent(self) -> bool {
        self.0 / 100 == 5
    }
}

impl fmt::Display for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `class.subject.detail` (RFC 3463 §2): class 2, 4 or 5, the others 0 to 999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnhancedStatus {
    /// 2 success, 4 persistent transient failure, 5 permanent failure.
    pub class: u8,
    /// What the status is about, e.g. 1 addressing.
    pub subject: u16,
    /// The condition within the subject.
    pub detail: u16,
}

impl EnhancedStatus {
    /// A status from its three numbers.
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self {
            class,
            subject,
            detail,
        }
    }

    /// Parses a whole text such as `5.1.1`; `None` for anything else, leading zeros included.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let class = parts.next()?;
        let subject = number(parts.next()?)?;
        let detail = number(parts.next()?)?;
        if parts.next().is_some() {
            return None;
        }
        let class = match class {
            "2" => 2,
            "4" => 4,
            "5" => 5,
            _ => return None,
        };
        Some(Self {
            class,
            subject,
            detail,
        })
    }
}

fn number(text: &str) -> Option<u16> {
    let plain = !text.is_empty()
        && text.len() <= 3
        && text.bytes().all(|b| b.is_ascii_digit())
        && (text.len() == 1 || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enhanced_status_takes_only_the_rfc_3463_form() {
        assert_eq!(
            EnhancedStatus::parse("5.1.1"),
            Some(EnhancedStatus::new(5, 1, 1))
        );
        assert_eq!(
            EnhancedStatus::parse("4.7.650"),
            Some(EnhancedStatus::new(4, 7, 650))
        );
        for bad in [
            "", "5", "5.1", "3.1.1", "5.1.1.1", "5.01.1", "5.1.1000", "5.x.1", "5..1",
        ] {
            assert_eq!(EnhancedStatus::parse(bad), None, "{bad}");
        }
        assert_eq!(EnhancedStatus::new(4, 7, 28).to_string(), "4.7.28");
    }
}
