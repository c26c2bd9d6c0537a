//! Delivery status notifications: what a sender is told when a message fails or waits long.
//!
//! [`build`] writes the content: a multipart/report (RFC 6522) of a text for people, a
//! machine-readable part (RFC 3464) and the header section of the message, its body left out. All of
//! it is ASCII, so that it passes every server, unless the sender's own address is not: then the
//! parts of RFC 6533 are used.
//! [`DsnRequest::envelope`] has the null reverse-path (RFC 5321 §4.5.5), and a request cannot be
//! made without a sender to tell: nothing with a null reverse-path is ever answered. When a
//! notification is due is the schedule's business.
//!
//! A part a file: `header` of the notification, `people` what is said in words, `report` what a program
//! reads, `returned` of the message; `text`: what may stand on a line.

mod header;
mod people;
mod report;
mod returned;
mod text;

use crate::address::Address;
use crate::clock::UnixMs;
use crate::envelope::{BodyType, Envelope};
use crate::ids::QueueId;
use crate::smtp::reply::Reply;
use crate::status::EnhancedStatus;

/// Most octets of the original header section that are sent back; cut at a line end.
pub const RETURNED_HEADER_BYTES_MAX: usize = 64 * 1024;

/// What a notification carries of the message it reports on (RFC 3464 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DsnReturn {
    /// The header section.
    Headers,
    /// All of it.
    Full,
}

/// A notification to be written.
#[derive(Clone, Debug)]
pub struct DsnRequest<'a> {
    /// Our hostname.
    pub reporting_mta: &'a str,
    /// The notification's own queue id; makes Message-ID and boundary unique.
    pub id: QueueId,
    /// Queue id of the message it is about.
    pub original_id: QueueId,
    /// When that message was accepted.
    pub arrival: UnixMs,
    /// The reverse-path of that message.
    pub to: &'a Address,
    /// Whom it is about, at least one.
    pub recipients: &'a [DsnRecipient<'a>],
    /// The message's header section ([`crate::message::header::section`]), or all of its content.
    pub header_section: &'a [u8],
    /// All of its content, to be returned instead if it is 7-bit.
    pub whole: Option<&'a [u8]>,
    /// The time of writing.
    pub now: UnixMs,
}

/// What happened to one recipient.
#[derive(Clone, Debug)]
pub struct DsnRecipient<'a> {
    /// The address delivery was tried to, without angle brackets.
    pub final_recipient: &'a str,
    /// Whether it is over.
    pub action: Action,
    /// Why (RFC 3463).
    pub status: EnhancedStatus,
    /// The server's words or ours.
    pub diagnostic: Diagnostic<'a>,
    /// Host that gave the reply.
    pub remote_mta: Option<&'a str>,
    /// When it was last tried.
    pub last_attempt: Option<UnixMs>,
}

/// The Action field (RFC 3464 §2.3.3), as far as a relay needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Delivery was given up.
    Failed,
    /// Delivery is still tried.
    Delayed {
        /// When it will be given up.
        until: UnixMs,
    },
}

/// Where the explanation comes from.
#[derive(Clone, Copy, Debug)]
pub enum Diagnostic<'a> {
    /// A reply of the remote host.
    Reply(&'a Reply),
    /// No reply: what we found ourselves.
    Text(&'a str),
}

impl DsnRequest<'_> {
    /// The envelope to queue the notification with.
    pub fn envelope(&self) -> Envelope {
        let utf8 = self.needs_utf8();
        let recipients = vec![self.to.clone().into()];
        Envelope {
            body: if utf8 {
                BodyType::EightBitMime
            } else {
                BodyType::SevenBit
            },
            smtputf8: utf8,
            ..Envelope::new(None, recipients)
        }
    }

    /// Whether the parts of RFC 6533 are used: only where the report goes nowhere without SMTPUTF8. That
    /// the sender spoke SMTPUTF8 to us says nothing of the server that takes its reports.
    fn needs_utf8(&self) -> bool {
        self.to.to_ascii().is_none()
    }

    /// All of the message, if it is to be returned and can go into a 7-bit part: a message within a
    /// message must not be encoded (RFC 2046 §5.2.1).
    fn returned_whole(&self) -> Option<&[u8]> {
        self.whole.filter(|whole| whole.is_ascii())
    }

    fn returned_header(&self) -> &[u8] {
        let section = crate::message::header::section(self.header_section);
        if section.len() <= RETURNED_HEADER_BYTES_MAX {
            return section;
        }
        let cut = memchr::memrchr(b'\n', &section[..RETURNED_HEADER_BYTES_MAX]);
        &section[..cut.map_or(RETURNED_HEADER_BYTES_MAX, |n| n + 1)]
    }
}

/// Writes the content of a notification, CRLF line ends.
pub fn build(request: &DsnRequest<'_>) -> Vec<u8> {
    let utf8 = request.needs_utf8();
    let header = request.returned_header();
    let whole = request.returned_whole();
    let boundary = boundary(request, whole.unwrap_or(header));
    let mut text = String::with_capacity(2048 + 256 * request.recipients.len());
    header::write(request, utf8, &boundary, &mut text);
    people::write(request, utf8, &boundary, &mut text);
    report::write(request, utf8, &boundary, &mut text);
    let mut content = text.into_bytes();
    content.reserve(whole.unwrap_or(header).len() + 256);
    match whole {
        Some(whole) => returned::whole(whole, &boundary, &mut content),
        None => returned::header(header, utf8, &boundary, &mut content),
    }
    content
}

/// A boundary that occurs nowhere else; the queue id alone makes that all but certain.
fn boundary(request: &DsnRequest<'_>, header: &[u8]) -> String {
    let mut boundary = format!("=_hikyaku_{}", request.id);
    while memchr::memmem::find(header, boundary.as_bytes()).is_some() {
        boundary.push('_');
    }
    boundary
}

#[cfg(test)]
mod tests;
