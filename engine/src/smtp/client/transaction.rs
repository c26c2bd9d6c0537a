//! One mail transaction: the commands to send and what each reply means for each recipient.
//!
//! [`Active`] walks from step to step; a step is a command whose reply comes next. The same walk
//! serves pipelined and lock-step dialogs, only the moment of writing differs.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use super::{Capabilities, ClientError, ClientEvent};
use crate::address::Address;
use crate::clock::{Mono, Now};
use crate::envelope::{BodyType, Envelope};
use crate::ids::TransactionToken;
use crate::message;
use crate::phase::Phase;
use crate::smtp::reply::{Reply, ReplyView};
use crate::status::EnhancedStatus;

/// A message to send over one connection.
#[derive(Clone, Debug)]
pub struct OutboundTransaction {
    /// Given back with the results; means nothing here.
    pub token: TransactionToken,
    /// The message's, with all its recipients.
    pub envelope: Arc<Envelope>,
    /// The places among them of those that are meant here, at least one.
    pub recipients: Vec<u16>,
    /// Lines end with CRLF, no dot-stuffing.
    pub content: Rc<Vec<u8>>,
}

impl OutboundTransaction {
    /// The forward-paths without angle brackets.
    pub fn forward_paths(&self) -> impl ExactSizeIterator<Item = &str> {
        (self.recipients.iter()).map(|place| self.envelope.recipients[usize::from(*place)].as_str())
    }

    fn forward_path(&self, index: usize) -> &str {
        let place = usize::from(self.recipients[index]);
        self.envelope.recipients[place].as_str()
    }
}

/// What became of one recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecipientOutcome {
    /// The server took responsibility.
    Delivered,
    /// Worth another try.
    Deferred,
    /// The same, as the session broke before it was decided: the connection was lost, or the server
    /// broke the protocol.
    Lost,
    /// Not to be tried again.
    Failed,
}

/// The outcome for one recipient and the reply that decided it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientResult {
    /// What became of it.
    pub outcome: RecipientOutcome,
    /// The step at which it was decided.
    pub phase: Phase,
    /// The server's words, or ours ([`Reply::synthetic`]) where it said none.
    pub reply: Reply,
}

/// When a transaction happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionTimes {
    /// [`super::ClientConnection::start`].
    pub started: Mono,
    /// The last reply, or the end of the connection.
    pub finished: Mono,
}

/// The command whose reply comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Rset,
    Mail,
    /// Of the recipient at that index.
    Rcpt(usize),
    Data,
    EndOfData,
    Done,
}

impl Step {
    pub(super) const fn phase(self) -> Phase {
        match self {
            Self::Rset | Self::Mail => Phase::Mail,
            Self::Rcpt(_) => Phase::Rcpt,
            Self::Data => Phase::Data,
            Self::EndOfData | Self::Done => Phase::EndOfData,
        }
    }
}

/// A reply of a kind that does not fit the command.
#[derive(Debug)]
pub(super) struct Unexpected;

#[derive(Debug)]
pub(super) struct Active {
    transaction: OutboundTransaction,
    /// Differs from the transaction's if it had to be converted for this server.
    content: Rc<Vec<u8>>,
    smtputf8: bool,
    recipients: Vec<Recipient>,
    accepted: usize,
    step: Step,
    pipelined: bool,
    mail_answered: bool,
    mail_accepted: bool,
    content_due: bool,
    content_ended: bool,
    started: Mono,
}

#[derive(Debug)]
enum Recipient {
    Pending,
    Accepted,
    /// Decided without asking the server.
    Unsendable(RecipientResult),
    Decided(RecipientResult),
}

impl Active {
    /// Fits a transaction to what the server offers.
    ///
    /// # Errors
    /// The final event, if no recipient can be sent to.
    pub(super) fn new(
        transaction: OutboundTransaction,
        offered: &Capabilities,
        now: Now,
    ) -> Result<Self, ClientEvent> {
        let count = transaction.recipients.len();
        let mut active = Self {
            content: Rc::clone(&transaction.content),
            smtputf8: transaction.envelope.smtputf8 && offered.smtputf8,
            transaction,
            recipients: Vec::with_capacity(count),
            accepted: 0,
            step: Step::Mail,
            pipelined: false,
            mail_answered: false,
            mail_accepted: false,
            content_due: false,
            content_ended: false,
            started: now.mono,
        };
        let hindrance = active.fit_to(offered);
        for text in active.transaction.forward_paths() {
            // Of both, the address is what the sender can change: its status goes before the content's.
            let hindrance = match on_the_wire(text, active.smtputf8) {
                Some(_) => hindrance.clone(),
                None => Some(non_ascii_address()),
            };
            active.recipients.push(match hindrance {
                None => Recipient::Pending,
                Some(reply) => Recipient::Unsendable(RecipientResult {
                    outcome: RecipientOutcome::Failed,
                    phase: Phase::Mail,
                    reply,
                }),
            });
        }
        if active.next_recipient(0).is_none() {
            Err(active.finish(now))
        } else {
            Ok(active)
        }
    }

    /// Converts the content if it must be; why the whole message cannot be sent, if so.
    fn fit_to(&mut self, offered: &Capabilities) -> Option<Reply> {
        let reverse_path = self.transaction.envelope.reverse_path_text();
        if on_the_wire(reverse_path, self.smtputf8).is_none() {
            return Some(non_ascii_address());
        }
        if self.transaction.envelope.smtputf8 && !offered.smtputf8 {
            let content = &self.content[..];
            let header_end = memchr::memmem::find(content, b"\r\n\r\n").unwrap_or(content.len());
            if !content[..header_end].is_ascii() {
                return Some(Reply::synthetic(
                    554,
                    EnhancedStatus::new(5, 6, 9),
                    "The message has a UTF-8 header section, but the server offers no SMTPUTF8",
                ));
            }
        }
        if !offered.eight_bit_mime && !self.content.is_ascii() {
            match message::downgrade(&self.content) {
                Ok(seven_bit) => self.content = Rc::new(seven_bit),
                Err(error) => {
                    let text = format!("The server offers no 8BITMIME, and {error}");
                    return Some(Reply::synthetic(554, EnhancedStatus::new(5, 6, 3), &text));
                }
            }
        }
        if let Some(Some(limit)) = offered.size
            && self.content.len() as u64 > limit
        {
            let text = format!(
                "The message has {} octets, the server takes {limit} at most",
                self.content.len()
            );
            return Some(Reply::synthetic(552, EnhancedStatus::new(5, 3, 4), &text));
        }
        None
    }

    pub(super) const fn step(&self) -> Step {
        self.step
    }

    /// Whether the server has said anything about this transaction.
    pub(super) const fn was_answered(&self) -> bool {
        self.mail_answered
    }

    /// Whether the server was left with a transaction that no end of data has closed.
    pub(super) const fn needs_rset(&self) -> bool {
        self.mail_accepted && !self.content_ended
    }

    pub(super) fn into_transaction(self) -> OutboundTransaction {
        self.transaction
    }

    /// Writes the first commands: all up to DATA with pipelining, else one.
    pub(super) fn write_commands(
        &mut self,
        out: &mut Vec<u8>,
        offered: &Capabilities,
        pipelining: bool,
        rset: bool,
    ) {
        self.pipelined = pipelining;
        if rset {
            out.extend_from_slice(b"RSET\r\n");
            self.step = Step::Rset;
            if !pipelining {
                return;
            }
        }
        self.write_mail(out, offered);
        if pipelining {
            let mut next = self.next_recipient(0);
            while let Some(index) = next {
                self.write_rcpt(out, index);
                next = self.next_recipient(index + 1);
            }
            out.extend_from_slice(b"DATA\r\n");
        }
    }

    /// Writes the command of the current step, without pipelining.
    pub(super) fn write_next(&self, out: &mut Vec<u8>, offered: &Capabilities) {
        match self.step {
            Step::Mail => self.write_mail(out, offered),
            Step::Rcpt(index) => self.write_rcpt(out, index),
            Step::Data => out.extend_from_slice(b"DATA\r\n"),
            Step::Rset | Step::EndOfData | Step::Done => {}
        }
    }

    fn write_mail(&self, out: &mut Vec<u8>, offered: &Capabilities) {
        let path = self.transaction.envelope.reverse_path_text();
        out.extend_from_slice(b"MAIL FROM:<");
        write_address(out, path, self.smtputf8);
        out.push(b'>');
        if offered.size.is_some() {
            out.extend_from_slice(b" SIZE=");
            write_decimal(out, self.content.len());
        }
        // Content that came without its label needs it all the same (RFC 6152 §3).
        let eight_bit = self.transaction.envelope.body == BodyType::EightBitMime;
        if offered.eight_bit_mime && (eight_bit || !self.content.is_ascii()) {
            out.extend_from_slice(b" BODY=8BITMIME");
        }
        if self.smtputf8 {
            out.extend_from_slice(b" SMTPUTF8");
        }
        out.extend_from_slice(b"\r\n");
    }

    fn write_rcpt(&self, out: &mut Vec<u8>, index: usize) {
        out.extend_from_slice(b"RCPT TO:<");
        write_address(out, self.transaction.forward_path(index), self.smtputf8);
        out.extend_from_slice(b">\r\n");
    }

    /// The first recipient from `from` on that the server is asked for.
    fn next_recipient(&self, from: usize) -> Option<usize> {
        let rest = self.recipients.get(from..)?;
        let sendable = rest
            .iter()
            .position(|r| !matches!(r, Recipient::Unsendable(_)))?;
        Some(from + sendable)
    }

    /// Takes the reply to the current step and goes to the next.
    pub(super) fn reply(&mut self, view: &ReplyView<'_>) -> Result<(), Unexpected> {
        let (positive, code) = (view.code.is_positive(), view.code.get());
        if code / 100 == 3 && (code != 354 || self.step != Step::Data) {
            return Err(Unexpected);
        }
        match self.step {
            Step::Rset => {
                if !positive {
                    return Err(Unexpected);
                }
                self.step = Step::Mail;
            }
            Step::Mail => {
                self.mail_answered = true;
                self.mail_accepted = positive;
                if !positive {
                    self.decide_open(&view.to_reply(), Phase::Mail);
                }
                self.step = match self.next_recipient(0) {
                    Some(first) if positive || self.pipelined => Step::Rcpt(first),
                    _ => Step::Done,
                };
            }
            Step::Rcpt(index) => {
                self.rcpt_reply(index, view);
                self.step = match self.next_recipient(index + 1) {
                    Some(next) => Step::Rcpt(next),
                    None if self.accepted > 0 || self.pipelined => Step::Data,
                    None => Step::Done,
                };
            }
            Step::Data => {
                if positive {
                    return Err(Unexpected);
                }
                if code == 354 {
                    self.content_due = true;
                    self.step = Step::EndOfData;
                } else {
                    self.decide_open(&view.to_reply(), Phase::Data);
                    self.step = Step::Done;
                }
            }
            Step::EndOfData => {
                self.content_ended = true;
                if self.accepted > 0 {
                    self.decide_open(&view.to_reply(), Phase::EndOfData);
                }
                self.step = Step::Done;
            }
            Step::Done => return Err(Unexpected),
        }
        Ok(())
    }

    fn rcpt_reply(&mut self, index: usize, view: &ReplyView<'_>) {
        if !matches!(self.recipients[index], Recipient::Pending) {
            return;
        }
        if view.code.is_positive() {
            self.recipients[index] = Recipient::Accepted;
            self.accepted += 1;
            return;
        }
        let reply = view.to_reply();
        let mut outcome = outcome_of(&reply);
        // 552 at RCPT once meant too many recipients (RFC 5321 §4.5.3.1.10): the rest may be sent
        // in another transaction. A status code that says otherwise, 5.2.2 say, is believed.
        let too_many = match reply.enhanced {
            None => self.accepted > 0,
            Some(status) => (status.subject, status.detail) == (5, 3),
        };
        if reply.code.get() == 552 && too_many {
            outcome = RecipientOutcome::Deferred;
        }
        self.recipients[index] = Recipient::Decided(RecipientResult {
            outcome,
            phase: Phase::Rcpt,
            reply,
        });
    }

    /// One reply decides for every recipient not yet decided.
    fn decide_open(&mut self, reply: &Reply, phase: Phase) {
        self.settle_open(outcome_of(reply), reply, phase);
    }

    fn settle_open(&mut self, outcome: RecipientOutcome, reply: &Reply, phase: Phase) {
        for recipient in &mut self.recipients {
            if matches!(recipient, Recipient::Pending | Recipient::Accepted) {
                let reply = reply.clone();
                *recipient = Recipient::Decided(RecipientResult {
                    outcome,
                    phase,
                    reply,
                });
            }
        }
    }

    /// True once, when the server asked for content. It must be ended by a dot even if no recipient
    /// is left and the content therefore empty (RFC 2920 §3.1).
    pub(super) const fn take_content_due(&mut self) -> bool {
        std::mem::replace(&mut self.content_due, false)
    }

    pub(super) fn content_to_send(&self) -> Rc<Vec<u8>> {
        if self.accepted > 0 {
            Rc::clone(&self.content)
        } else {
            Rc::default()
        }
    }

    /// The connection is gone: whoever is undecided has to be tried again.
    pub(super) fn connection_ended(&mut self, error: &ClientError) {
        let phase = self.step.phase();
        let reply = match error {
            ClientError::Refused(reply) if reply.code.is_transient() => {
                return self.decide_open(reply, phase);
            }
            ClientError::Protocol(_) | ClientError::UnexpectedReply(_) => {
                Reply::synthetic(451, EnhancedStatus::new(4, 5, 0), &error.to_string())
            }
            _ => {
                let text = format!("{error} ({})", waiting_for(phase));
                Reply::synthetic(421, EnhancedStatus::new(4, 4, 2), &text)
            }
        };
        self.settle_open(RecipientOutcome::Lost, &reply, phase);
    }

    /// The event that ends the transaction; every recipient has been decided.
    pub(super) fn finish(self, now: Now) -> ClientEvent {
        let results = self
            .recipients
            .into_iter()
            .map(|recipient| match recipient {
                Recipient::Unsendable(result) | Recipient::Decided(result) => result,
                Recipient::Pending | Recipient::Accepted => RecipientResult {
                    outcome: RecipientOutcome::Deferred,
                    phase: Phase::EndOfData,
                    reply: Reply::synthetic(451, EnhancedStatus::new(4, 3, 0), "no outcome"),
                },
            });
        ClientEvent::TransactionDone {
            token: self.transaction.token,
            results: results.collect(),
            times: TransactionTimes {
                started: self.started,
                finished: now.mono,
            },
        }
    }
}

const fn outcome_of(reply: &Reply) -> RecipientOutcome {
    if reply.code.is_positive() {
        RecipientOutcome::Delivered
    } else if reply.code.is_permanent() {
        RecipientOutcome::Failed
    } else {
        RecipientOutcome::Deferred
    }
}

const fn waiting_for(phase: Phase) -> &'static str {
    match phase {
        Phase::Mail => "while waiting for the reply to MAIL",
        Phase::Rcpt => "while waiting for the reply to RCPT",
        Phase::Data => "while waiting for the reply to DATA",
        _ => "while sending the content or waiting for its reply",
    }
}

fn non_ascii_address() -> Reply {
    Reply::synthetic(
        553,
        EnhancedStatus::new(5, 6, 7),
        "The address cannot be sent without SMTPUTF8, which the message or the server lacks",
    )
}

/// The form in which an address can be sent, if there is one.
fn on_the_wire(text: &str, smtputf8: bool) -> Option<Cow<'_, str>> {
    // Addresses were parsed long ago; should one not have been, it must not become a command.
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        return None;
    }
    if smtputf8 || text.is_ascii() {
        return Some(Cow::Borrowed(text));
    }
    let address = Address::parse(text).ok()?;
    Some(Cow::Owned(address.to_ascii()?.into_owned()))
}

fn write_address(out: &mut Vec<u8>, text: &str, smtputf8: bool) {
    // That there is such a form was made sure of when the transaction began.
    let wire = on_the_wire(text, smtputf8).unwrap_or_default();
    out.extend_from_slice(wire.as_bytes());
}

fn write_decimal(out: &mut Vec<u8>, mut value: usize) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}
