//! What travels beside a message's content (RFC 5321 §2.3.1).

use crate::address::Address;

/// How the content's bytes may be read (RFC 6152, RFC 3030).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BodyType {
    /// `BODY=7BIT`, or no BODY parameter.
    #[default]
    SevenBit,
    /// `BODY=8BITMIME`.
    EightBitMime,
}

/// Sender and recipients of one mail transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// `None` is the null reverse-path `<>`: a notification that must never be answered with another.
    pub reverse_path: Option<Address>,
    /// Forward-paths in the order of their RCPT commands, at least one.
    pub recipients: Vec<Address>,
    /// From the BODY parameter of MAIL.
    pub body: BodyType,
    /// MAIL carried SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
}
