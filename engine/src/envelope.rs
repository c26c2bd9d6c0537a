//! What travels beside a message's content (RFC 5321 §2.3.1), with what a sender may ask to be told of
//! (RFC 3461).

use std::collections::HashSet;

use crate::address::{Address, Domain};

/// Longest ENVID and ORCPT, octets as given by the client (RFC 3461 §4.2, §4.4).
pub const XTEXT_BYTES_MAX: usize = 500;

/// How the content's bytes may be read (RFC 6152, RFC 3030).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BodyType {
    /// `BODY=7BIT`, or no BODY parameter.
    #[default]
    SevenBit,
    /// `BODY=8BITMIME`.
    EightBitMime,
}

/// What a notification of failure returns of the message (RFC 3461 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ret {
    /// `RET=FULL`.
    Full,
    /// `RET=HDRS`.
    Headers,
}

/// When the sender wants to hear of a recipient (RFC 3461 §4.1).
///
/// Without a NOTIFY parameter ([`Self::default`]) failures are told, and delays may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Notify(u8);

impl Notify {
    /// `NEVER`; stands alone.
    pub const NEVER: Self = Self(1);
    /// `SUCCESS`.
    pub const SUCCESS: Self = Self(1 << 1);
    /// `FAILURE`.
    pub const FAILURE: Self = Self(1 << 2);
    /// `DELAY`.
    pub const DELAY: Self = Self(1 << 3);

    /// The bits as a queue record has them, 0 without the parameter.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// From [`Self::bits`]; `None` for what no parameter can say.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        let known = bits & !0b1111 == 0;
        let never_alone = bits & 1 == 0 || bits == 1;
        if known && never_alone {
            Some(Self(bits))
        } else {
            None
        }
    }

    /// This and `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the client gave the parameter.
    pub const fn is_given(self) -> bool {
        self.0 != 0
    }

    /// Whether the sender is told of a failure.
    pub const fn tells_failure(self) -> bool {
        !self.is_given() || self.0 & Self::FAILURE.0 != 0
    }
}

/// A forward-path with the parameters of its RCPT command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// The forward-path.
    pub address: Address,
    /// From NOTIFY.
    pub notify: Notify,
    /// From ORCPT, as the client wrote it: `addr-type;xtext`, at most [`XTEXT_BYTES_MAX`].
    pub orcpt: Option<Box<str>>,
}

impl Recipient {
    /// The domain to route by.
    pub const fn domain(&self) -> &Domain {
        self.address.domain()
    }

    /// The address without angle brackets.
    pub fn as_str(&self) -> &str {
        self.address.as_str()
    }
}

impl From<Address> for Recipient {
    /// Without parameters.
    fn from(address: Address) -> Self {
        Self {
            address,
            notify: Notify::default(),
            orcpt: None,
        }
    }
}

/// Sender and recipients of one mail transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// `None` is the null reverse-path `<>`: a notification that must never be answered with another.
    pub reverse_path: Option<Address>,
    /// From RET.
    pub ret: Option<Ret>,
    /// From ENVID, in xtext as the client wrote it; at most [`XTEXT_BYTES_MAX`].
    pub envid: Option<Box<str>>,
    /// From the BODY parameter of MAIL.
    pub body: BodyType,
    /// MAIL carried SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// In the order of their RCPT commands, at least one, none twice; once stored, those of one domain
    /// stand together.
    pub recipients: Vec<Recipient>,
}

impl Envelope {
    /// From `reverse_path` to `recipients` without any parameter.
    pub fn new(reverse_path: Option<Address>, recipients: Vec<Recipient>) -> Self {
        Self {
            reverse_path,
            ret: None,
            envid: None,
            body: BodyType::SevenBit,
            smtputf8: false,
            recipients,
        }
    }

    /// The same for other recipients.
    #[must_use]
    pub fn for_recipients(&self, recipients: Vec<Recipient>) -> Self {
        Self {
            reverse_path: self.reverse_path.clone(),
            ret: self.ret,
            envid: self.envid.clone(),
            body: self.body,
            smtputf8: self.smtputf8,
            recipients,
        }
    }

    /// Keeps one of each mailbox that was named more than once, the first: local parts are compared to
    /// the letter (RFC 5321 §2.4), domains without regard to case.
    pub fn keep_distinct(&mut self) {
        if self.recipients.len() < 2 {
            return;
        }
        let mut seen = HashSet::with_capacity(self.recipients.len());
        let is_first: Vec<bool> = (self.recipients.iter())
            .map(|one| seen.insert((one.address.local_part(), one.domain())))
            .collect();
        if seen.len() < self.recipients.len() {
            let mut is_first = is_first.into_iter();
            self.recipients.retain(|_| is_first.next() == Some(true));
        }
    }

    /// Puts recipients of one domain side by side, otherwise in their order.
    pub fn group_by_domain(&mut self) {
        let recipients = &mut self.recipients;
        if recipients
            .windows(2)
            .any(|pair| pair[0].domain() != pair[1].domain())
        {
            recipients.sort_by(|a, b| a.domain().cmp(b.domain()));
        }
    }

    /// The reverse-path as text, empty for the null one.
    pub fn reverse_path_text(&self) -> &str {
        self.reverse_path.as_ref().map_or("", Address::as_str)
    }
}
