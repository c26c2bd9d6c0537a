//! A message on its way through a shard: as it is submitted, and as it is held for delivery.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::clock::UnixMs;
use crate::envelope::{Envelope, Recipient};
use crate::ids::QueueId;

/// A message and what is known of it; `C` is how its content is held.
#[derive(Clone, Debug)]
pub struct MessageWith<C> {
    /// The same at every owner.
    pub queue_id: QueueId,
    /// When its content was complete.
    pub accepted: UnixMs,
    /// Sender, and those recipients that are meant: all of the transaction, or the part one shard owns.
    /// Shared by the transactions that send it.
    pub envelope: Arc<Envelope>,
    /// From the group header.
    pub group: Option<Box<str>>,
    /// From the tag headers, as `(header name, value)`.
    pub tags: Vec<(Box<str>, Box<str>)>,
    /// Without angle brackets.
    pub message_id: Option<Box<str>>,
    /// The client it came from.
    pub peer: Option<IpAddr>,
    /// Options of its record that stand in no field here
    /// ([`Options::other_of_message`](crate::queue::record::Options::other_of_message)).
    pub options: Box<[u8]>,
    /// Header section and body as they will be sent, CRLF line ends, not dot-stuffed.
    pub content: C,
}

/// A message, or the part of one whose recipients one shard owns, before it is stored.
pub type Submission = MessageWith<Vec<u8>>;

/// A stored message in memory, shared by the deliveries of all its recipients.
pub type Message = MessageWith<Rc<Vec<u8>>>;

impl<C> MessageWith<C> {
    /// The recipients, those of one domain side by side once it is stored.
    pub fn recipients(&self) -> &[Recipient] {
        &self.envelope.recipients
    }

    /// The same message with its content held in another way.
    fn with_content<D>(self, into: impl FnOnce(C) -> D) -> MessageWith<D> {
        MessageWith {
            queue_id: self.queue_id,
            accepted: self.accepted,
            envelope: self.envelope,
            group: self.group,
            tags: self.tags,
            message_id: self.message_id,
            peer: self.peer,
            options: self.options,
            content: into(self.content),
        }
    }

    /// All but the content, for other recipients.
    fn part<D>(&self, recipients: Vec<Recipient>, content: D) -> MessageWith<D> {
        MessageWith {
            queue_id: self.queue_id,
            accepted: self.accepted,
            envelope: Arc::new(self.envelope.for_recipients(recipients)),
            group: self.group.clone(),
            tags: self.tags.clone(),
            message_id: self.message_id.clone(),
            peer: self.peer,
            options: self.options.clone(),
            content,
        }
    }
}

impl Submission {
    /// The same message for other recipients; `content` is copied.
    pub fn for_recipients(&self, recipients: Vec<Recipient>) -> Self {
        self.part(recipients, self.content.clone())
    }

    /// Puts recipients of one domain side by side, otherwise in their order.
    pub fn group_by_domain(&mut self) {
        Arc::make_mut(&mut self.envelope).group_by_domain();
    }

    /// As it is held once its record is encoded.
    pub fn into_message(self) -> Message {
        self.with_content(Rc::new)
    }
}

impl Message {
    /// The message once more, for some of its recipients: to be stored at another shard.
    pub fn submission(&self, recipients: Vec<Recipient>) -> Submission {
        self.part(recipients, self.content.to_vec())
    }

    /// What it costs to keep, bytes.
    pub fn memory_bytes(&self) -> usize {
        // 512: the structure, its small strings and their allocations.
        self.content.capacity() + self.recipients().len() * 112 + 512
    }

    /// The header section, without the empty line.
    pub fn header_section(&self) -> &[u8] {
        crate::message::header::section(&self.content)
    }
}
