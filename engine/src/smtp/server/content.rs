//! Taking content in, by DATA or BDAT, and making an [`AcceptedMessage`] of it.
//!
//! The Received field is written first, so the octets off the wire are copied once, behind it. The
//! header section is looked at, and changed, as soon as it has come in: what is moved then is what
//! came with it in the same read, not a body of megabytes.

use memchr::memchr;

use super::{AcceptedMessage, Host, ServerEvent, ServerSession, State, Transaction};
use crate::clock::{Mono, Now};
use crate::envelope::Envelope;
use crate::ids::QueueId;
use crate::message::date::rfc5322_date;
use crate::message::header::{HEADER_BYTES_MAX, HeaderScan, HeaderScanner};
use crate::smtp::dot::{ContentDecoder, NulOctets};
use crate::smtp::received::Protocol;

/// Room for content when MAIL gave no SIZE, octets.
const CONTENT_BYTES_DEFAULT: u64 = 2 * 1024;
/// Most room made on the word of a SIZE parameter, octets.
const CONTENT_BYTES_RESERVED_MAX: u64 = 256 * 1024;

const TOO_LARGE: &str = "552 5.3.4 Message size exceeds the maximum announced";
/// Octets of refused content that are read and thrown away, so that the client comes to hear why; beyond,
/// it is told and the connection ends.
pub(super) const DISCARDED_BYTES_MAX: u64 = 1024 * 1024;

/// Content on its way in.
#[derive(Debug)]
pub(super) struct Receiving {
    /// When DATA or the first BDAT came.
    pub(super) started: Mono,
    id: QueueId,
    content: Vec<u8>,
    /// Octets of content taken, without our own fields.
    bytes: u64,
    decoder: ContentDecoder,
    header: HeaderState,
    /// Set once the message cannot be taken; the rest is read and thrown away.
    refusal: Option<&'static str>,
    chunk: Option<Chunk>,
    /// Octets thrown away since it was refused.
    discarded: u64,
}

#[derive(Debug)]
enum HeaderState {
    Scanning(HeaderScanner),
    Done(HeaderScan),
}

#[derive(Clone, Copy, Debug)]
struct Chunk {
    bytes: u64,
    bytes_left: u64,
    last: bool,
}

impl Receiving {
    /// A chunk that nobody wants: `refusal` is the answer.
    pub(super) fn refused(refusal: Option<&'static str>, now: Now) -> Self {
        let mut decoder = ContentDecoder::chunks(super::BareNewline::Reject, usize::MAX);
        decoder.discard_rest();
        Self {
            started: now.mono,
            id: QueueId::default(),
            content: Vec::new(),
            bytes: 0,
            decoder,
            header: HeaderState::Done(HeaderScan::default()),
            refusal: refusal.or(Some("503 5.5.1 Bad sequence of commands")),
            chunk: None,
            discarded: 0,
        }
    }

    pub(super) const fn start_chunk(&mut self, bytes: u64, last: bool) {
        self.chunk = Some(Chunk {
            bytes,
            bytes_left: bytes,
            last,
        });
    }

    /// BDAT says how much will come, so what is too much is refused before it does.
    pub(super) fn refuse_beyond(&mut self, size_max_bytes: u64) {
        let chunk_bytes = self.chunk.map_or(0, |chunk| chunk.bytes);
        if self.bytes.saturating_add(chunk_bytes) > size_max_bytes {
            self.refuse(TOO_LARGE);
        }
    }

    pub(super) const fn buffered_bytes(&self) -> usize {
        self.content.capacity()
    }

    /// Room for `octets` more, grown by a quarter: content of megabytes must not take twice its size.
    fn make_room(&mut self, octets: usize) {
        let (length, capacity) = (self.content.len(), self.content.capacity());
        if self.refusal.is_none() && capacity - length < octets {
            self.content.reserve_exact(octets.max(capacity / 4));
        }
    }

    pub(super) fn refuse(&mut self, text: &'static str) {
        self.refusal.get_or_insert(text);
        self.decoder.discard_rest();
        self.content = Vec::new();
    }
}

impl ServerSession {
    /// Opens content with the Received field; `None` outside a transaction.
    pub(super) fn start_content(
        &mut self,
        host: &mut impl Host,
        now: Now,
        chunked: bool,
    ) -> Option<Receiving> {
        let (hello, transaction) = (self.hello.as_ref()?, self.transaction.as_ref()?);
        let id = host.next_queue_id(now);
        let room = transaction.declared_bytes.unwrap_or(CONTENT_BYTES_DEFAULT);
        let room = room.min(CONTENT_BYTES_RESERVED_MAX) as usize;
        let mut content = Vec::with_capacity(room + 512);
        let protocol = match (transaction.smtputf8, hello.extended) {
            (true, _) => Protocol::Utf8Smtp,
            (false, true) => Protocol::Esmtp,
            (false, false) => Protocol::Smtp,
        };
        let recipient = match &transaction.recipients[..] {
            [only] => Some(only.as_str()),
            _ => None,
        };
        hello
            .received
            .write(&mut content, protocol, id, recipient, now.unix);
        let (policy, line_bytes_max) = (
            self.settings.bare_newline,
            self.settings.content_line_bytes_max,
        );
        Some(Receiving {
            started: now.mono,
            id,
            header: HeaderState::Scanning(HeaderScanner::new(content.len())),
            content,
            bytes: 0,
            decoder: if chunked {
                ContentDecoder::chunks(policy, line_bytes_max)
            } else {
                ContentDecoder::data(policy, line_bytes_max)
            },
            refusal: None,
            chunk: None,
            discarded: 0,
        })
    }

    /// Takes content off the front of `input`; what is left belongs to commands.
    pub(super) fn content_octets<'a>(&mut self, input: &'a [u8], now: Now) -> &'a [u8] {
        let State::Content(receiving) = &mut self.state else {
            return input;
        };
        receiving.make_room(input.len());
        let before = receiving.content.len();
        let is_refused = receiving.refusal.is_some();
        let (rest, ended) = match &mut receiving.chunk {
            None => {
                let decoded = receiving.decoder.decode(input, &mut receiving.content);
                (&input[decoded.consumed..], decoded.ended)
            }
            Some(chunk) => {
                let length = chunk.bytes_left.min(input.len() as u64) as usize;
                let (octets, rest) = input.split_at(length);
                chunk.bytes_left -= length as u64;
                if !is_refused {
                    receiving.decoder.decode(octets, &mut receiving.content);
                }
                if chunk.bytes_left == 0 && chunk.last {
                    receiving.decoder.finish_chunks(&mut receiving.content);
                }
                (rest, chunk.bytes_left == 0)
            }
        };
        // Normalising may take back the CR that ended the last read, so the content may shrink.
        let after = receiving.bytes + receiving.content.len() as u64;
        receiving.bytes = after.saturating_sub(before as u64);
        if self.settings.nul_octets == NulOctets::Refuse
            && let Some(new) = receiving.content.get(before..)
            && memchr(0, new).is_some()
        {
            receiving.refuse("550 5.6.0 The content holds a NUL octet");
        }
        let complete = ended && receiving.chunk.is_none_or(|chunk| chunk.last);
        self.check_content(complete, now);
        if ended {
            self.content_ended(complete);
        } else {
            self.discard_within_bounds((input.len() - rest.len()) as u64);
        }
        rest
    }

    /// Ends the connection rather than read on and on what nobody wants.
    fn discard_within_bounds(&mut self, octets: u64) {
        let State::Content(receiving) = &mut self.state else {
            return;
        };
        let Some(refusal) = receiving.refusal else {
            return;
        };
        receiving.discarded += octets;
        let to_come = receiving.chunk.map_or(0, |chunk| chunk.bytes_left);
        if receiving.discarded.saturating_add(to_come) > DISCARDED_BYTES_MAX {
            self.reply(refusal);
            self.reply_with_hostname("421 4.7.0 ", " Closing connection: refused content goes on");
            self.close();
        }
    }

    /// Looks at what came in: alone standing newlines, size, header section.
    fn check_content(&mut self, complete: bool, now: Now) {
        let State::Content(receiving) = &mut self.state else {
            return;
        };
        if receiving.refusal.is_some() {
            return;
        }
        if receiving.decoder.bare_newline_seen() {
            return receiving.refuse("550 5.5.2 Bare CR or LF: lines must end with CRLF");
        }
        if receiving.decoder.long_line_seen() {
            return receiving.refuse("550 5.6.0 A line of the content is too long");
        }
        if receiving.bytes > self.settings.size_max_bytes {
            return receiving.refuse(TOO_LARGE);
        }
        let HeaderState::Scanning(scanner) = &mut receiving.header else {
            return;
        };
        let watched = &self.settings.watched;
        let scan = scanner.advance(&receiving.content, watched, complete);
        // How much of a section comes in one read must not decide whether it is too long.
        let unended = scan.is_none() && receiving.bytes > 2 * HEADER_BYTES_MAX as u64;
        if scanner.bytes() > HEADER_BYTES_MAX || unended {
            return receiving.refuse("552 5.3.4 Header section too long");
        }
        let Some(mut scan) = scan else {
            return;
        };
        if scan.hops > self.settings.hops_max {
            return receiving.refuse("554 5.4.6 Too many hops: the message seems to loop");
        }
        let mut extra = Vec::new();
        if self.settings.add_date && !scan.has_date {
            extra.extend_from_slice(b"Date: ");
            extra.extend_from_slice(&rfc5322_date(now.unix));
            extra.extend_from_slice(b"\r\n");
        }
        if self.settings.add_message_id && scan.message_id.is_none() {
            let id = format!("<{}@{}>", receiving.id, self.settings.hostname);
            extra.extend_from_slice(b"Message-ID: ");
            extra.extend_from_slice(id.as_bytes());
            extra.extend_from_slice(b"\r\n");
            scan.message_id = Some(id.into());
        }
        scan.rewrite(&mut receiving.content, &extra);
        receiving.header = HeaderState::Done(scan);
    }

    /// Answers a chunk, or hands the message out; all of its content is in.
    fn content_ended(&mut self, complete: bool) {
        let State::Content(receiving) = std::mem::replace(&mut self.state, State::Command) else {
            return;
        };
        if let Some(refusal) = receiving.refusal {
            match &mut self.transaction {
                // A refused chunk leaves the transaction to be reset by the client (RFC 3030 §2).
                Some(transaction) if receiving.chunk.is_some() => transaction.chunk_failed = true,
                _ => self.transaction = None,
            }
            return self.reject(refusal);
        }
        if !complete {
            let bytes = receiving.chunk.map_or(0, |chunk| chunk.bytes);
            if let Some(transaction) = &mut self.transaction {
                transaction.chunks = Some(receiving);
            }
            return self.reply(&format!("250 2.0.0 {bytes} octets received"));
        }
        let Some(transaction) = self.transaction.take() else {
            return;
        };
        self.messages += 1;
        self.idle_commands = 0;
        self.errors = 0;
        self.state = State::Awaiting(receiving.id);
        let message = accepted(transaction, *receiving, self.peer);
        self.events
            .push_back(ServerEvent::Message(Box::new(message)));
    }
}

fn accepted(transaction: Transaction, receiving: Receiving, peer: super::Peer) -> AcceptedMessage {
    let scan = match receiving.header {
        HeaderState::Done(scan) => scan,
        HeaderState::Scanning(_) => HeaderScan::default(),
    };
    let mut envelope = Envelope {
        body: transaction.body,
        smtputf8: transaction.smtputf8,
        ..Envelope::new(transaction.reverse_path, transaction.recipients)
    };
    envelope.keep_distinct();
    AcceptedMessage {
        queue_id: receiving.id,
        envelope,
        content: receiving.content,
        group: scan.group,
        tags: scan.tags,
        message_id: scan.message_id,
        peer,
    }
}
