//! A message's record: envelope first, so that it can be read without touching the content.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::bytes::{Put, Take};
use super::options::{MESSAGE_OPTIONS_BYTES_MAX, Options};
pub use super::recipients::{ADDRESS_BYTES_MAX, DOMAIN_BYTES_MAX, RECIPIENTS_MAX};
use super::recipients::{RECIPIENTS_BYTES_MAX, Recipients};
use super::{DecodeError, EncodeError, HEAD_LENGTH_BYTES, message_field};
use crate::envelope::BodyType;
use crate::ids::{HandoverId, QueueId};

/// Longest content, bytes.
pub const CONTENT_BYTES_MAX: usize = 48 * 1024 * 1024;
/// Longest group name, bytes.
pub const GROUP_BYTES_MAX: usize = 255;
/// Longest tags of one message, bytes.
pub const TAGS_BYTES_MAX: usize = 8192;
/// Longest Message-ID kept beside the content, bytes: a line of RFC 5322 §2.1.1.
pub const MESSAGE_ID_BYTES_MAX: usize = 998;

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
