//! Mail addresses and domains.

/// A recipient or sender domain as the queue and the router know it: A-labels, lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(Box<str>);

impl Domain {
    /// The name, without a trailing dot. An address literal keeps its brackets.
    pub fn as_str(&self) -> &str {
        &self.0
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
    /// The address as the client wrote it, without angle brackets.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part before the last `@`, as written.
    pub fn local_part(&self) -> &str {
        &self.text[..self.at]
    }

    /// The domain to route by.
    pub const fn domain(&self) -> &Domain {
        &self.domain
    }
}
