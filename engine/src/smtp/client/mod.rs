//! One SMTP connection on the client's side: greeting, EHLO, then one transaction after another.
//!
//! Feed [`ClientConnection`] what the server sends, take out what is to be sent and what happened,
//! as with [`super::server`]. After [`ClientEvent::Ready`], and whenever
//! [`ClientConnection::can_start`] says so, [`ClientConnection::start`] a transaction; it ends with
//! [`ClientEvent::TransactionDone`], or comes back with [`ClientEvent::TransactionReturned`].
//!
//! With PIPELINING (RFC 2920) MAIL, RCPT and DATA leave in one piece, and a transaction started
//! before the reply to the content ahead of it leaves behind that content: a busy connection costs
//! one send and one receive a message. So call `can_start` between `handle_input` and
//! `poll_transmit`.
//!
//! This file holds the connection; `transaction` turns replies into outcomes, `capabilities` reads
//! EHLO. Left out: TLS, authentication, and which host to connect to.

mod capabilities;
mod transaction;

use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

pub use self::capabilities::Capabilities;
use self::transaction::{Active, Step};
pub use self::transaction::{
    OutboundTransaction, RecipientOutcome, RecipientResult, TransactionTimes,
};
use super::dot;
use super::reply::{Reply, ReplyError, ReplyParser, ReplyView};
use crate::clock::{Mono, Now};
use crate::ids::TransactionToken;
use crate::phase::Phase;

/// Most octets of content put out by one [`ClientConnection::poll_transmit`], dots not counted.
pub const TRANSMIT_BYTES_MAX: usize = 64 * 1024;

/// How long to wait for each reply, ms (RFC 5321 §4.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTimeouts {
    /// The 220 greeting.
    pub greeting_ms: u64,
    /// EHLO and HELO.
    pub ehlo_ms: u64,
    /// MAIL and RSET.
    pub mail_ms: u64,
    /// RCPT.
    pub rcpt_ms: u64,
    /// DATA, up to 354.
    pub data_ms: u64,
    /// Each block of content until it has been sent.
    pub data_block_ms: u64,
    /// The content, once all of it is sent.
    pub end_of_data_ms: u64,
    /// QUIT.
    pub quit_ms: u64,
}

impl Default for ClientTimeouts {
    fn default() -> Self {
        Self {
            greeting_ms: 300_000,
            ehlo_ms: 300_000,
            mail_ms: 300_000,
            rcpt_ms: 300_000,
            data_ms: 120_000,
            data_block_ms: 180_000,
            end_of_data_ms: 600_000,
            quit_ms: 5_000,
        }
    }
}

/// How connections of one kind behave.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Our name for EHLO.
    pub helo_name: Box<str>,
    /// Use PIPELINING where it is offered.
    pub pipelining: bool,
    /// How long to wait.
    pub timeouts: ClientTimeouts,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            helo_name: "localhost".into(),
            pipelining: true,
            timeouts: ClientTimeouts::default(),
        }
    }
}

/// Something the runtime has to know.
#[derive(Debug)]
pub enum ClientEvent {
    /// The connection takes transactions now.
    Ready {
        /// The 220 reply.
        greeting: Reply,
        /// What EHLO offered.
        capabilities: Capabilities,
    },
    /// Every recipient has an outcome.
    TransactionDone {
        /// From [`OutboundTransaction::token`].
        token: TransactionToken,
        /// One result for each recipient, in their order.
        results: Vec<RecipientResult>,
        /// When it began and ended.
        times: TransactionTimes,
    },
    /// The connection ended before anything was said about this transaction, and had delivered
    /// others before: give it to another connection, at no cost to it.
    TransactionReturned(Box<OutboundTransaction>),
    /// Nothing more will come. Send what there is to be sent, then close.
    Closed {
        /// What was waited for.
        phase: Phase,
        /// Why it ended.
        error: ClientError,
    },
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// We said QUIT.
    Quit,
    /// The server refused the session (greeting, EHLO) or ended it (421).
    Refused(Reply),
    /// The server broke the protocol.
    Protocol(ReplyError),
    /// The server sent a reply that nothing had asked for, or one of a kind that does not fit.
    UnexpectedReply(Reply),
    /// No reply came in time.
    TimedOut,
    /// The connection was lost.
    Disconnected(Disconnect),
}

/// How a connection was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// The server closed it.
    Eof,
    /// Reading or writing failed; the error in words.
    Failed(Box<str>),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quit => f.write_str("connection closed by QUIT"),
            Self::Refused(reply) => write!(f, "the server refused the session: {reply}"),
            Self::Protocol(error) => error.fmt(f),
            Self::UnexpectedReply(reply) => {
                write!(f, "the server sent an unexpected reply: {reply}")
            }
            Self::TimedOut => f.write_str("timed out"),
            Self::Disconnected(Disconnect::Eof) => f.write_str("the server closed the connection"),
            Self::Disconnected(Disconnect::Failed(error)) => {
                write!(f, "the connection was lost: {error}")
            }
        }
    }
}

impl std::error::Error for ClientError {}

/// A connection. See the module's text for how to drive it.
#[derive(Debug)]
pub struct ClientConnection {
    settings: Rc<ClientSettings>,
    state: State,
    greeting: Option<Reply>,
    capabilities: Capabilities,
    parser: ReplyParser,
    /// Commands that may leave at once.
    out: Vec<u8>,
    /// Content on its way out, behind `out`.
    content: Option<ContentOut>,
    /// Commands of the next transaction, behind `content`.
    out_behind: Vec<u8>,
    /// The transaction whose replies come next, and the one behind it.
    active: VecDeque<Active>,
    events: VecDeque<ClientEvent>,
    /// The server holds a half transaction that must be reset first.
    needs_rset: bool,
    transactions_done: u32,
    /// When the wait for the next reply, or for room to send, is over.
    deadline: Option<Mono>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    Ehlo,
    Helo,
    Ready,
    Quitting,
    Closed,
}

#[derive(Debug)]
struct ContentOut {
    content: Rc<Vec<u8>>,
    sent: usize,
}

impl ClientConnection {
    /// A connection that has just been established; the server speaks first.
    pub fn new(settings: Rc<ClientSettings>, now: Now) -> Self {
        let deadline = now.mono.plus_ms(settings.timeouts.greeting_ms);
        Self {
            settings,
            state: State::Greeting,
            greeting: None,
            capabilities: Capabilities::default(),
            parser: ReplyParser::default(),
            out: Vec::new(),
            content: None,
            out_behind: Vec::new(),
            active: VecDeque::with_capacity(2),
            events: VecDeque::new(),
            needs_rset: false,
            transactions_done: 0,
            deadline: Some(deadline),
        }
    }

    /// Takes in what the server sent. Poll for transmits, events and the timeout afterwards.
    pub fn handle_input(&mut self, mut input: &[u8], now: Now) {
        // The parser's view borrows it, so it is put aside while a reply is acted upon.
        let mut parser = std::mem::take(&mut self.parser);
        while self.state != State::Closed {
            match parser.next(&mut input) {
                Ok(Some(view)) => self.reply(&view, now),
                Ok(None) => break,
                Err(error) => self.end(ClientError::Protocol(error), now),
            }
        }
        self.parser = parser;
    }

    /// The connection was closed by the server, or failed.
    pub fn handle_closed(&mut self, reason: Disconnect, now: Now) {
        match self.state {
            State::Closed => {}
            State::Quitting => self.end(ClientError::Quit, now),
            _ => self.end(ClientError::Disconnected(reason), now),
        }
    }

    /// Some of what [`Self::poll_transmit`] gave out has gone. Grants more time for the rest of the
    /// content (RFC 5321 §4.5.3.2.5), so call it when content leaves in more than one piece.
    pub fn handle_sent(&mut self, now: Now) {
        if self.content.is_some() {
            self.deadline = Some(now.mono.plus_ms(self.settings.timeouts.data_block_ms));
        }
    }

    /// Ends the connection if its deadline has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.deadline.is_some_and(|deadline| deadline <= now.mono) {
            let quitting = self.state == State::Quitting;
            self.end(
                if quitting {
                    ClientError::Quit
                } else {
                    ClientError::TimedOut
                },
                now,
            );
        }
    }

    /// When to call [`Self::handle_timeout`]; `None` while nothing is waited for.
    pub const fn poll_timeout(&self) -> Option<Mono> {
        self.deadline
    }

    /// Whether [`Self::poll_event`] has something: also [`Self::start`] may bring it about.
    pub fn has_event(&self) -> bool {
        !self.events.is_empty()
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// Appends what is to be sent to `out`, some [`TRANSMIT_BYTES_MAX`] of content at most; false if
    /// there was nothing. Call again once it is sent.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        if out.is_empty() {
            std::mem::swap(out, &mut self.out);
        } else {
            out.append(&mut self.out);
        }
        if let Some(sending) = &mut self.content {
            let content = &sending.content[..];
            let length = TRANSMIT_BYTES_MAX.min(content.len() - sending.sent);
            out.reserve(length + self.out_behind.len() + 32);
            sending.sent = dot::stuff(content, sending.sent, out, TRANSMIT_BYTES_MAX);
            if sending.sent == content.len() {
                let line_end: &[u8] = if content.is_empty() || content.ends_with(b"\n") {
                    b""
                } else {
                    b"\r\n"
                };
                out.extend_from_slice(line_end);
                out.extend_from_slice(b".\r\n");
                out.append(&mut self.out_behind);
                self.content = None;
                // The data block wait becomes the longer one for the final reply.
                if let (Some(deadline), true) = (self.deadline, self.awaits_end_of_data()) {
                    let timeouts = &self.settings.timeouts;
                    let more = timeouts
                        .end_of_data_ms
                        .saturating_sub(timeouts.data_block_ms);
                    self.deadline = Some(deadline.plus_ms(more));
                }
            }
        }
        out.len() > before
    }

    /// Whether [`Self::start`] may be called.
    ///
    /// True when the connection is idle; with PIPELINING also while the content of the transaction
    /// ahead is about to leave with the next [`Self::poll_transmit`], or has left.
    pub fn can_start(&self) -> bool {
        if self.state != State::Ready {
            return false;
        }
        match &self.active.front() {
            None => true,
            Some(ahead) => {
                self.active.len() == 1
                    && self.pipelining()
                    && ahead.step() == Step::EndOfData
                    && self.content.as_ref().is_none_or(|sending| {
                        sending.content.len() - sending.sent <= TRANSMIT_BYTES_MAX
                    })
            }
        }
    }

    /// Starts a transaction. Poll for transmits, events and the timeout afterwards.
    ///
    /// If [`Self::can_start`] is false it comes back as [`ClientEvent::TransactionReturned`].
    pub fn start(&mut self, transaction: OutboundTransaction, now: Now) {
        if !self.can_start() {
            let event = ClientEvent::TransactionReturned(Box::new(transaction));
            return self.events.push_back(event);
        }
        let mut active = match Active::new(transaction, &self.capabilities, now) {
            Ok(active) => active,
            Err(done) => return self.events.push_back(done),
        };
        let pipelining = self.pipelining();
        let out = if self.content.is_some() {
            &mut self.out_behind
        } else {
            &mut self.out
        };
        let rset = std::mem::take(&mut self.needs_rset);
        active.write_commands(out, &self.capabilities, pipelining, rset);
        self.active.push_back(active);
        if self.active.len() == 1 {
            self.set_deadline(now);
        }
    }

    /// Says QUIT, if [`Self::is_idle`]; ends with [`ClientEvent::Closed`].
    pub fn quit(&mut self, now: Now) {
        if self.is_idle() {
            self.out.extend_from_slice(b"QUIT\r\n");
            self.state = State::Quitting;
            self.deadline = Some(now.mono.plus_ms(self.settings.timeouts.quit_ms));
        }
    }

    /// Whether no transaction is under way and none is to be waited for.
    pub fn is_idle(&self) -> bool {
        self.state == State::Ready && self.active.is_empty()
    }

    /// Whether [`ClientEvent::Closed`] has been put out.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Transactions the server has answered to the end.
    pub const fn transactions_done(&self) -> u32 {
        self.transactions_done
    }

    /// What is being waited for.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Greeting => Phase::Greeting,
            State::Ehlo | State::Helo => Phase::Ehlo,
            State::Quitting => Phase::Quit,
            State::Ready | State::Closed => match self.active.front() {
                Some(active) => active.step().phase(),
                None => Phase::Quit,
            },
        }
    }

    fn pipelining(&self) -> bool {
        self.settings.pipelining && self.capabilities.pipelining
    }

    fn awaits_end_of_data(&self) -> bool {
        self.active
            .front()
            .is_some_and(|active| active.step() == Step::EndOfData)
    }

    fn reply(&mut self, view: &ReplyView<'_>, now: Now) {
        if view.code.get() == 421 && self.state != State::Quitting {
            return self.end(ClientError::Refused(view.to_reply()), now);
        }
        match self.state {
            State::Greeting => self.greeting(view, now),
            State::Ehlo | State::Helo => self.hello(view, now),
            State::Ready => self.transaction_reply(view, now),
            State::Quitting => self.end(ClientError::Quit, now),
            State::Closed => {}
        }
    }

    fn greeting(&mut self, view: &ReplyView<'_>, now: Now) {
        if view.code.get() != 220 {
            return self.refused(view, now);
        }
        self.greeting = Some(view.to_reply());
        self.say_hello("EHLO ", State::Ehlo, now);
    }

    fn say_hello(&mut self, verb: &str, state: State, now: Now) {
        self.out.extend_from_slice(verb.as_bytes());
        self.out
            .extend_from_slice(self.settings.helo_name.as_bytes());
        self.out.extend_from_slice(b"\r\n");
        self.state = state;
        self.deadline = Some(now.mono.plus_ms(self.settings.timeouts.ehlo_ms));
    }

    fn hello(&mut self, view: &ReplyView<'_>, now: Now) {
        if !view.code.is_positive() {
            if self.state == State::Ehlo && view.code.is_permanent() {
                return self.say_hello("HELO ", State::Helo, now);
            }
            return self.refused(view, now);
        }
        if self.state == State::Ehlo {
            self.capabilities = Capabilities::read(view);
        }
        let Some(greeting) = self.greeting.take() else {
            return;
        };
        self.state = State::Ready;
        self.deadline = None;
        let capabilities = self.capabilities.clone();
        self.events.push_back(ClientEvent::Ready {
            greeting,
            capabilities,
        });
    }

    /// The session was refused: be polite (RFC 5321 §3.1 wants QUIT) and go.
    fn refused(&mut self, view: &ReplyView<'_>, now: Now) {
        self.out.extend_from_slice(b"QUIT\r\n");
        let error = if view.code.is_positive() || view.code.get() / 100 == 3 {
            ClientError::UnexpectedReply(view.to_reply())
        } else {
            ClientError::Refused(view.to_reply())
        };
        self.finish(error, now);
    }

    fn transaction_reply(&mut self, view: &ReplyView<'_>, now: Now) {
        let pipelining = self.pipelining();
        let Some(active) = self.active.front_mut() else {
            return self.end(ClientError::UnexpectedReply(view.to_reply()), now);
        };
        // A server that will not read on may refuse content while it is still being sent.
        let early = self.content.is_some() && active.step() == Step::EndOfData;
        if early && view.code.is_positive() || active.reply(view).is_err() {
            return self.end(ClientError::UnexpectedReply(view.to_reply()), now);
        }
        match active.step() {
            Step::Done => {
                self.needs_rset |= active.needs_rset();
                self.transactions_done += 1;
                if let Some(done) = self.active.pop_front() {
                    self.events.push_back(done.finish(now));
                }
                if early {
                    return self.end(ClientError::Refused(view.to_reply()), now);
                }
            }
            Step::EndOfData if active.take_content_due() => {
                let content = active.content_to_send();
                self.content = Some(ContentOut { content, sent: 0 });
            }
            _ if !pipelining => active.write_next(&mut self.out, &self.capabilities),
            _ => {}
        }
        self.set_deadline(now);
    }

    /// A new wait begins: something was sent, or a reply came.
    fn set_deadline(&mut self, now: Now) {
        let timeouts = &self.settings.timeouts;
        let ms = match self.active.front().map(Active::step) {
            None | Some(Step::Done) => None,
            Some(Step::Rset | Step::Mail) => Some(timeouts.mail_ms),
            Some(Step::Rcpt(_)) => Some(timeouts.rcpt_ms),
            Some(Step::Data) => Some(timeouts.data_ms),
            Some(Step::EndOfData) if self.content.is_some() => Some(timeouts.data_block_ms),
            Some(Step::EndOfData) => Some(timeouts.end_of_data_ms),
        };
        self.deadline = ms.map(|ms| now.mono.plus_ms(ms));
    }

    /// The connection is of no more use, and what was to be sent neither.
    fn end(&mut self, error: ClientError, now: Now) {
        self.out.clear();
        self.finish(error, now);
    }

    /// Gives every transaction its outcome and says why the connection ended.
    fn finish(&mut self, error: ClientError, now: Now) {
        let phase = self.phase();
        for mut active in std::mem::take(&mut self.active) {
            if self.transactions_done > 0 && !active.was_answered() {
                let transaction = Box::new(active.into_transaction());
                self.events
                    .push_back(ClientEvent::TransactionReturned(transaction));
            } else {
                active.connection_ended(&error);
                self.transactions_done += 1;
                self.events.push_back(active.finish(now));
            }
        }
        self.out_behind = Vec::new();
        self.content = None;
        self.state = State::Closed;
        self.deadline = None;
        self.events.push_back(ClientEvent::Closed { phase, error });
    }
}
