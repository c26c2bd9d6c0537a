//! A message on its way through a shard: as it is submitted, and as it is held for delivery.

use std::net::IpAddr;
use std::rc::Rc;

use crate::address::Address;
use crate::clock::UnixMs;
use crate::envelope::BodyType;
use crate::ids::QueueId;

/// A message, or the part of one whose recipients one shard owns, before it is stored.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The same at every owner.
    pub queue_id: QueueId,
    /// When its content was complete.
    pub accepted: UnixMs,
    /// `None` is the null reverse-path.
    pub reverse_path: Option<Address>,
    /// Forward-paths, at least one; recipients of one domain stand together.
    pub recipients: Vec<Address>,
    /// From MAIL.
    pub body: BodyType,
    /// From MAIL.
    pub smtputf8: bool,
    /// Header section and body as they will be sent, CRLF line ends, not dot-stuffed.
    pub content: Vec<u8>,
    /// From the group header.
    pub group: Option<Box<str>>,
    /// From the tag headers, as `(header name, value)`.
    pub tags: Vec<(Box<str>, Box<str>)>,
    /// Without angle brackets.
    pub message_id: Option<Box<str>>,
    /// The client it came from.
    pub peer: Option<IpAddr>,
}

impl Submission {
    /// The same message for other recipients; `content` is copied.
    pub fn for_recipients(&self, recipients: Vec<Address>) -> Self {
        Self {
            queue_id: self.queue_id,
            accepted: self.accepted,
            reverse_path: self.reverse_path.clone(),
            recipients,
            body: self.body,
            smtputf8: self.smtputf8,
            content: self.content.clone(),
            group: self.group.clone(),
            tags: self.tags.clone(),
            message_id: self.message_id.clone(),
            peer: self.peer,
        }
    }

    /// Puts recipients of one domain side by side, otherwise in their order.
    pub fn group_by_domain(&mut self) {
        if self
            .recipients
            .windows(2)
            .all(|pair| pair[0].domain() == pair[1].domain())
        {
            return;
        }
        self.recipients.sort_by(|a, b| a.domain().cmp(b.domain()));
    }
}

/// A stored message in memory, shared by the deliveries of all its recipients.
#[derive(Debug)]
pub struct Message {
    /// The same at every owner.
    pub queue_id: QueueId,
    /// When it was accepted.
    pub accepted: UnixMs,
    /// `None` is the null reverse-path.
    pub reverse_path: Option<Box<str>>,
    /// Those the shard owns, as in the record.
    pub recipients: Vec<Address>,
    /// From MAIL.
    pub body: BodyType,
    /// From MAIL.
    pub smtputf8: bool,
    /// As in [`Submission::content`].
    pub content: Rc<Vec<u8>>,
    /// From the group header.
    pub group: Option<Box<str>>,
    /// From the tag headers.
    pub tags: Vec<(Box<str>, Box<str>)>,
    /// Without angle brackets.
    pub message_id: Option<Box<str>>,
}

impl Message {
    /// Takes a submission apart once its record is encoded.
    pub fn from_submission(submission: Submission) -> Self {
        Self {
            queue_id: submission.queue_id,
            accepted: submission.accepted,
            reverse_path: submission.reverse_path.map(Address::into_text),
            recipients: submission.recipients,
            body: submission.body,
            smtputf8: submission.smtputf8,
            content: Rc::new(submission.content),
            group: submission.group,
            tags: submission.tags,
            message_id: submission.message_id,
        }
    }

    /// The message once more, for some of its recipients: to be stored at another shard.
    pub fn submission(&self, recipients: Vec<Address>) -> Submission {
        Submission {
            queue_id: self.queue_id,
            accepted: self.accepted,
            reverse_path: self
                .reverse_path
                .as_deref()
                .and_then(|path| Address::parse(path).ok()),
            recipients,
            body: self.body,
            smtputf8: self.smtputf8,
            content: self.content.to_vec(),
            group: self.group.clone(),
            tags: self.tags.clone(),
            message_id: self.message_id.clone(),
            peer: None,
        }
    }

    /// What it costs to keep, bytes.
    pub fn memory_bytes(&self) -> usize {
        // 512: the structure, its small strings and their allocations.
        self.content.capacity() + self.recipients.len() * 96 + 512
    }

    /// The header section, without the empty line.
    pub fn header_section(&self) -> &[u8] {
        crate::message::header::section(&self.content)
    }
}
