//! The recipients of a message's record, grouped by domain.

use std::fmt;

use super::DecodeError;
use super::bytes::{Put, Take};
use super::options::{Options, RECIPIENT_OPTIONS_BYTES_MAX};

/// Most recipients of one record.
pub const RECIPIENTS_MAX: usize = 10_000;
/// Longest address, bytes: path of RFC 5321 §4.5.3.1.3, with room for UTF-8 (RFC 6531).
pub const ADDRESS_BYTES_MAX: usize = 1024;
/// Longest domain, bytes.
pub const DOMAIN_BYTES_MAX: usize = 255;
/// Bytes of all recipients with their domains.
pub(super) const RECIPIENTS_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Bit of an address's length: its options follow.
const WITH_OPTIONS: u16 = 1 << 15;
const _: () = assert!(ADDRESS_BYTES_MAX < WITH_OPTIONS as usize);

/// Forward-paths grouped by domain, as they stand in the record.
///
/// For each domain: `u8` length and name, `u16` count, then each address as `u16` length and text; bit 15
/// of the length says that `u16` length and [`Options`] follow.
/// Built with [`RecipientsBuf`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Recipients<'a> {
    pub(super) domains: u16,
    pub(super) count: u16,
    pub(super) bytes: &'a [u8],
}

/// One forward-path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient<'a> {
    /// 0-based among the message's recipients; outcomes name it by this.
    pub index: u16,
    /// The address as the client wrote it, without angle brackets.
    pub address: &'a str,
    /// The domain to route by: A-labels, lower case.
    pub domain: &'a str,
    /// What else is to be known of it.
    pub options: Options<'a>,
}

impl<'a> Recipients<'a> {
    /// How many recipients.
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// No recipient at all: no message in the queue is like that.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many domains.
    pub const fn domains_len(&self) -> usize {
        self.domains as usize
    }

    /// Every recipient, those of one domain together.
    pub fn iter(&self) -> impl Iterator<Item = Recipient<'a>> + use<'a> {
        self.domains().flat_map(|domain| domain.iter())
    }

    /// Every domain, in the order of their first recipients.
    pub fn domains(&self) -> impl Iterator<Item = DomainRecipients<'a>> + use<'a> {
        let mut take = Take::new(self.bytes);
        let mut first = 0;
        // `decode` and `RecipientsBuf` have seen to it that every read succeeds.
        std::iter::from_fn(move || {
            if take.is_empty() {
                return None;
            }
            let domain = DomainRecipients::take(&mut take, first).ok()?;
            first += domain.count;
            Some(domain)
        })
    }

    pub(super) fn decode(mut take: Take<'a>) -> Result<Self, DecodeError> {
        let (domains, count) = (take.u16()?, take.u16()?);
        let recipients = Self {
            domains,
            count,
            bytes: take.rest(),
        };
        let (mut domains_seen, mut count_seen) = (0u32, 0u32);
        while !take.is_empty() {
            let domain = DomainRecipients::take(&mut take, 0)?;
            domains_seen += 1;
            count_seen += u32::from(domain.count);
        }
        if (domains_seen, count_seen) != (domains.into(), count.into())
            || usize::from(count) > RECIPIENTS_MAX
        {
            return Err(DecodeError {
                field: "recipient count",
            });
        }
        Ok(recipients)
    }
}

/// The recipients of one domain, a run of indexes from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainRecipients<'a> {
    /// The domain to route by.
    pub domain: &'a str,
    /// Index of its first recipient.
    pub first: u16,
    /// How many.
    pub count: u16,
    addresses: &'a [u8],
}

impl<'a> DomainRecipients<'a> {
    /// Its recipients.
    pub fn iter(&self) -> impl Iterator<Item = Recipient<'a>> + use<'a> {
        let (domain, mut index) = (self.domain, self.first);
        let mut take = Take::new(self.addresses);
        std::iter::from_fn(move || {
            if take.is_empty() {
                return None;
            }
            let (address, options) = take_address(&mut take).ok()?;
            let recipient = Recipient {
                index,
                address,
                domain,
                options,
            };
            index += 1;
            Some(recipient)
        })
    }

    fn take(take: &mut Take<'a>, first: u16) -> Result<Self, DecodeError> {
        let malformed = DecodeError { field: "domain" };
        let name = usize::from(take.u8()?);
        let domain = std::str::from_utf8(take.bytes(name)?).map_err(|_| malformed)?;
        let count = take.u16()?;
        if count == 0 {
            return Err(malformed);
        }
        let mut after = *take;
        for _ in 0..count {
            take_address(&mut after)?;
        }
        let addresses = take.bytes(take.rest().len() - after.rest().len())?;
        Ok(Self {
            domain,
            first,
            count,
            addresses,
        })
    }
}

fn take_address<'a>(take: &mut Take<'a>) -> Result<(&'a str, Options<'a>), DecodeError> {
    let length = take.u16()?;
    let bytes = take.bytes(usize::from(length & !WITH_OPTIONS))?;
    let field = "address";
    let address = std::str::from_utf8(bytes).map_err(|_| DecodeError { field })?;
    let options = if length & WITH_OPTIONS == 0 {
        Options::NONE
    } else {
        let length = usize::from(take.u16()?);
        Options::decode(take.bytes(length)?)?
    };
    Ok((address, options))
}

impl fmt::Debug for Recipients<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recipients")
            .field("domains", &self.domains)
            .field("count", &self.count)
            .finish()
    }
}

/// Gathers recipients in the record's own form; used again and again without allocating.
#[derive(Clone, Debug, Default)]
pub struct RecipientsBuf {
    bytes: Vec<u8>,
    pub(super) domains: u16,
    pub(super) count: u16,
    /// Where the count of the domain begun last stands.
    open_count_at: usize,
}

/// A recipient cannot be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecipientsError {
    /// More than [`RECIPIENTS_MAX`], or too many bytes of them.
    TooMany,
    /// The address or the domain is empty or too long.
    BadLength,
    /// An address before any domain.
    NoDomain,
}

impl fmt::Display for RecipientsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany => write!(f, "a queue record takes {RECIPIENTS_MAX} recipients"),
            Self::BadLength => write!(
                f,
                "an address has 1 to {ADDRESS_BYTES_MAX} bytes, a domain 1 to {DOMAIN_BYTES_MAX}"
            ),
            Self::NoDomain => f.write_str("an address was added before its domain"),
        }
    }
}

impl std::error::Error for RecipientsError {}

impl RecipientsBuf {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        (self.domains, self.count, self.open_count_at) = (0, 0, 0);
    }

    /// Begins `domain` (A-labels, lower case) with its first recipient.
    ///
    /// # Errors
    /// [`RecipientsError`]; nothing is added then.
    pub fn domain(&mut self, domain: &str, address: &str) -> Result<(), RecipientsError> {
        self.domain_with(domain, address, Options::NONE)
    }

    /// As [`Self::domain`], with the first recipient's options.
    ///
    /// # Errors
    /// [`RecipientsError`]; nothing is added then.
    pub fn domain_with(
        &mut self,
        domain: &str,
        address: &str,
        options: Options<'_>,
    ) -> Result<(), RecipientsError> {
        if domain.is_empty() || domain.len() > DOMAIN_BYTES_MAX {
            return Err(RecipientsError::BadLength);
        }
        self.check(address, options, 3 + domain.len())?;
        self.bytes.push(domain.len() as u8);
        self.bytes.extend_from_slice(domain.as_bytes());
        self.open_count_at = self.bytes.len();
        self.bytes.put_u16(0);
        self.domains += 1;
        self.recipient_with(address, options)
    }

    /// Adds a further recipient of the domain begun last.
    ///
    /// # Errors
    /// [`RecipientsError`]; nothing is added then.
    pub fn recipient(&mut self, address: &str) -> Result<(), RecipientsError> {
        self.recipient_with(address, Options::NONE)
    }

    /// As [`Self::recipient`], with its options.
    ///
    /// # Errors
    /// [`RecipientsError`]; nothing is added then.
    pub fn recipient_with(
        &mut self,
        address: &str,
        options: Options<'_>,
    ) -> Result<(), RecipientsError> {
        self.check(address, options, 0)?;
        let count = self
            .bytes
            .get_mut(self.open_count_at..)
            .and_then(|bytes| bytes.first_chunk_mut::<2>())
            .ok_or(RecipientsError::NoDomain)?;
        *count = (u16::from_le_bytes(*count) + 1).to_le_bytes();
        if options == Options::NONE {
            self.bytes.put_text(address);
        } else {
            self.bytes.put_u16(address.len() as u16 | WITH_OPTIONS);
            self.bytes.extend_from_slice(address.as_bytes());
            self.bytes.put_bytes(options.as_bytes());
        }
        self.count += 1;
        Ok(())
    }

    /// What was gathered.
    pub fn recipients(&self) -> Recipients<'_> {
        Recipients {
            domains: self.domains,
            count: self.count,
            bytes: &self.bytes,
        }
    }

    fn check(
        &self,
        address: &str,
        options: Options<'_>,
        more: usize,
    ) -> Result<(), RecipientsError> {
        let options_bytes = options.as_bytes().len();
        if address.is_empty()
            || address.len() > ADDRESS_BYTES_MAX
            || options_bytes > RECIPIENT_OPTIONS_BYTES_MAX
        {
            return Err(RecipientsError::BadLength);
        }
        let bytes = self.bytes.len() + more + 4 + address.len() + options_bytes;
        if usize::from(self.count) == RECIPIENTS_MAX || bytes > RECIPIENTS_BYTES_MAX {
            return Err(RecipientsError::TooMany);
        }
        Ok(())
    }
}
