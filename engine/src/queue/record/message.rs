//! A message's record: envelope first, so that it can be read without touching the content.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::bytes::{Put, Take};
use super::options::{MESSAGE_OPTIONS_BYTES_MAX, Options, RECIPIENT_OPTIONS_BYTES_MAX};
use super::{DecodeError, EncodeError, HEAD_LENGTH_BYTES, message_field};
use crate::envelope::BodyType;
use crate::ids::{HandoverId, QueueId};

/// Longest content, bytes.
pub const CONTENT_BYTES_MAX: usize = 48 * 1024 * 1024;
/// Most recipients of one record.
pub const RECIPIENTS_MAX: usize = 10_000;
/// Longest address, bytes: path of RFC 5321 §4.5.3.1.3, with room for UTF-8 (RFC 6531).
pub const ADDRESS_BYTES_MAX: usize = 1024;
/// Longest domain, bytes.
pub const DOMAIN_BYTES_MAX: usize = 255;
/// Longest group name, bytes.
pub const GROUP_BYTES_MAX: usize = 255;
/// Longest tags of one message, bytes.
pub const TAGS_BYTES_MAX: usize = 8192;
/// Longest Message-ID kept beside the content, bytes: a line of RFC 5322 §2.1.1.
pub const MESSAGE_ID_BYTES_MAX: usize = 998;
/// Bytes of all recipients with their domains.
const RECIPIENTS_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Bit of an address's length: its options follow.
const WITH_OPTIONS: u16 = 1 << 15;
const _: () = assert!(ADDRESS_BYTES_MAX < WITH_OPTIONS as usize);

const FIXED_BYTES: usize = 8 + 8 + 2;
const SMTPUTF8: u16 = 1;
const EIGHT_BIT: u16 = 1 << 1;
const PENDING: u16 = 1 << 2;
const REVERSE_PATH: u16 = 1 << 3;
const GROUP: u16 = 1 << 4;
const MESSAGE_ID: u16 = 1 << 5;
const PEER_V4: u16 = 1 << 6;
const PEER_V6: u16 = 1 << 7;
const HANDOVER: u16 = 1 << 8;
const KNOWN_FLAGS: u16 = (1 << 9) - 1;

const _: () = assert!(
    CONTENT_BYTES_MAX
        + RECIPIENTS_BYTES_MAX
        + ADDRESS_BYTES_MAX
        + GROUP_BYTES_MAX
        + TAGS_BYTES_MAX
        + MESSAGE_OPTIONS_BYTES_MAX
        + MESSAGE_ID_BYTES_MAX
        + RECIPIENTS_MAX * 12 // states of a moved message
        + 256
        <= super::BODY_BYTES_MAX
);

/// A message as the queue keeps it: the recipients one shard owns, and the whole content.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Names it on every shard that holds a part of it.
    pub queue_id: QueueId,
    /// Milliseconds since the epoch.
    pub accepted_ms: u64,
    /// From the BODY parameter of MAIL.
    pub body: BodyType,
    /// MAIL carried SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// Other shards hold other recipients of the transaction: counts as accepted only with
    /// [`super::Record::Commit`].
    pub pending: bool,
    /// It was handed over by another shard, and counts only if that handover was noted.
    pub handover: Option<HandoverId>,
    /// `None` is the null reverse-path; at most [`ADDRESS_BYTES_MAX`].
    pub reverse_path: Option<&'a str>,
    /// Grouped by domain.
    pub recipients: Recipients<'a>,
    /// For emergency stop and counters; at most [`GROUP_BYTES_MAX`].
    pub group: Option<&'a str>,
    /// Values of the linkage headers as `name=value;`; at most [`TAGS_BYTES_MAX`].
    pub tags: &'a str,
    /// At most [`MESSAGE_ID_BYTES_MAX`].
    pub message_id: Option<&'a str>,
    /// The client it came from.
    pub peer: Option<IpAddr>,
    /// What else is to be known of it; at most [`MESSAGE_OPTIONS_BYTES_MAX`].
    pub options: Options<'a>,
    /// The content, at most [`CONTENT_BYTES_MAX`]; empty if it was left out in reading.
    pub content: &'a [u8],
    /// Bytes of the content, whether it is here or not. Ignored in writing.
    pub content_bytes: u32,
}

impl<'a> Message<'a> {
    pub(super) fn body_bytes(&self, before: usize, extra: usize) -> Result<usize, EncodeError> {
        let text = |text: Option<&str>| text.map_or(0, str::len);
        message_field(text(self.reverse_path), ADDRESS_BYTES_MAX, "reverse-path")?;
        message_field(text(self.group), GROUP_BYTES_MAX, "group")?;
        message_field(text(self.message_id), MESSAGE_ID_BYTES_MAX, "Message-ID")?;
        message_field(self.tags.len(), TAGS_BYTES_MAX, "tags")?;
        let options = self.options.as_bytes().len();
        message_field(options, MESSAGE_OPTIONS_BYTES_MAX, "options")?;
        let content = self.content.len() + extra;
        message_field(content, CONTENT_BYTES_MAX, "content")?;
        Ok(self.head_bytes(before) + content)
    }

    /// Bytes of the body in front of the content, `before` of which stand before the envelope.
    pub(super) fn head_bytes(&self, before: usize) -> usize {
        let text = |text: Option<&str>| text.map_or(0, |text| 2 + text.len());
        let peer = match self.peer {
            None => 0,
            Some(IpAddr::V4(_)) => 4,
            Some(IpAddr::V6(_)) => 16,
        };
        HEAD_LENGTH_BYTES
            + before
            + FIXED_BYTES
            + peer
            + if self.handover.is_some() { 8 } else { 0 }
            + text(self.reverse_path)
            + text(self.group)
            + text(self.message_id)
            + 2
            + self.tags.len()
            + 2
            + self.options.as_bytes().len()
            + 4
            + self.recipients.bytes.len()
    }

    fn flags(&self) -> u16 {
        let flag = |set: bool, flag: u16| if set { flag } else { 0 };
        flag(self.smtputf8, SMTPUTF8)
            | flag(self.body == BodyType::EightBitMime, EIGHT_BIT)
            | flag(self.pending, PENDING)
            | flag(self.handover.is_some(), HANDOVER)
            | flag(self.reverse_path.is_some(), REVERSE_PATH)
            | flag(self.group.is_some(), GROUP)
            | flag(self.message_id.is_some(), MESSAGE_ID)
            | flag(matches!(self.peer, Some(IpAddr::V4(_))), PEER_V4)
            | flag(matches!(self.peer, Some(IpAddr::V6(_))), PEER_V6)
    }

    pub(super) fn encode_envelope(&self, out: &mut Vec<u8>) {
        out.put_u64(self.queue_id.0);
        out.put_u64(self.accepted_ms);
        out.put_u16(self.flags());
        match self.peer {
            None => {}
            Some(IpAddr::V4(ip)) => out.extend_from_slice(&ip.octets()),
            Some(IpAddr::V6(ip)) => out.extend_from_slice(&ip.octets()),
        }
        if let Some(handover) = self.handover {
            out.put_u64(handover.number());
        }
        for text in [self.reverse_path, self.group, self.message_id]
            .into_iter()
            .flatten()
        {
            out.put_text(text);
        }
        out.put_text(self.tags);
        out.put_bytes(self.options.as_bytes());
        out.put_u16(self.recipients.domains);
        out.put_u16(self.recipients.count);
        out.extend_from_slice(self.recipients.bytes);
    }

    pub(super) fn encode_content(&self, extra: &[&[u8]], out: &mut Vec<u8>) {
        extra.iter().for_each(|part| out.extend_from_slice(part));
        out.extend_from_slice(self.content);
    }

    pub(super) fn decode(
        mut take: Take<'a>,
        content: &'a [u8],
        content_bytes: usize,
    ) -> Result<Self, DecodeError> {
        let queue_id = QueueId(take.u64()?);
        let accepted_ms = take.u64()?;
        let flags = take.u16()?;
        if flags & !KNOWN_FLAGS != 0 || flags & PEER_V4 != 0 && flags & PEER_V6 != 0 {
            return Err(DecodeError { field: "flags" });
        }
        let is = |flag| flags & flag != 0;
        let peer = if is(PEER_V4) {
            Some(IpAddr::V4(Ipv4Addr::from(take.array::<4>()?)))
        } else if is(PEER_V6) {
            Some(IpAddr::V6(Ipv6Addr::from(take.array::<16>()?)))
        } else {
            None
        };
        let handover = if is(HANDOVER) {
            let field = "handover";
            let id = HandoverId::from_number(take.u64()?).ok_or(DecodeError { field })?;
            Some(id)
        } else {
            None
        };
        let mut text = |set, field| {
            if set {
                take.text(field).map(Some)
            } else {
                Ok(None)
            }
        };
        let reverse_path = text(is(REVERSE_PATH), "reverse-path")?;
        let group = text(is(GROUP), "group")?;
        let message_id = text(is(MESSAGE_ID), "Message-ID")?;
        let tags = take.text("tags")?;
        let options = usize::from(take.u16()?);
        let options = Options::decode(take.bytes(options)?)?;
        let recipients = Recipients::decode(take)?;
        Ok(Self {
            queue_id,
            accepted_ms,
            body: if is(EIGHT_BIT) {
                BodyType::EightBitMime
            } else {
                BodyType::SevenBit
            },
            smtputf8: is(SMTPUTF8),
            pending: is(PENDING),
            handover,
            reverse_path,
            recipients,
            group,
            tags,
            message_id,
            peer,
            options,
            content,
            content_bytes: content_bytes as u32,
        })
    }
}

impl fmt::Debug for Message<'_> {
    /// Without addresses and content, which do not belong into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("queue_id", &self.queue_id)
            .field("accepted_ms", &self.accepted_ms)
            .field("pending", &self.pending)
            .field("recipients", &self.recipients.len())
            .field("content_bytes", &self.content_bytes)
            .finish_non_exhaustive()
    }
}

/// Forward-paths grouped by domain, as they stand in the record.
///
/// For each domain: `u8` length and name, `u16` count, then each address as `u16` length and text; bit 15
/// of the length says that `u16` length and [`Options`] follow.
/// Built with [`RecipientsBuf`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Recipients<'a> {
    domains: u16,
    count: u16,
    bytes: &'a [u8],
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

    fn decode(mut take: Take<'a>) -> Result<Self, DecodeError> {
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
    domains: u16,
    count: u16,
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
