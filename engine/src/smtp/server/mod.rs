//! One SMTP session on the server's side, from greeting to close (RFC 5321).
//!
//! A session begins in silence, waiting for [`ServerSession::greet`]: whoever runs it may first have to
//! find out who the client is, or whether there is room for it. From then on,
//! feed [`ServerSession`] what the client sends with [`ServerSession::handle_input`], and after
//! each call take out what is to be sent ([`ServerSession::poll_transmit`]) and what happened
//! ([`ServerSession::poll_event`]). A whole message comes out as [`ServerEvent::Message`]; the
//! session then waits for [`ServerSession::finish`] before it answers and goes on. Call
//! [`ServerSession::handle_timeout`] when [`ServerSession::poll_timeout`] has passed.
//!
//! This file holds the types and the byte pump; `dialog` carries commands out, `content` takes
//! content in. Which extension is offered: PIPELINING, SIZE, 8BITMIME, ENHANCEDSTATUSCODES,
//! CHUNKING, SMTPUTF8. Left out: TLS, authentication, delivery status options.
//!
//! What a client can make the session hold is bounded: one line, one message, the recipients, and
//! [`BACKLOG_BYTES_MAX`] of commands sent ahead.

mod content;
mod dialog;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;

use memchr::memchr;

use self::content::Receiving;
use super::dot::{BareNewline, NulOctets};
use super::received::ReceivedField;
use crate::address::Address;
use crate::clock::{Mono, Now};
use crate::envelope::{BodyType, Envelope, Recipient};
use crate::ids::QueueId;
use crate::message::header::WatchedHeaders;

/// Octets kept of what a client sends ahead while its message waits for [`ServerSession::finish`].
/// [`ServerSession::wants_input`] is false from here on.
pub const BACKLOG_BYTES_MAX: usize = 64 * 1024;
/// The session is closed if the backlog grows beyond this all the same.
const BACKLOG_BYTES_LIMIT: usize = 1024 * 1024;
/// Octets of replies not yet taken out, above which [`ServerSession::wants_input`] is false.
const REPLIES_BYTES_MAX: usize = 64 * 1024;
/// Octets of one line that is too long after which the session is closed.
const LONG_LINE_BYTES_MAX: usize = 256 * 1024;
/// NOOP, RSET, VRFY, HELP and EHLO between two messages, beyond which each counts as an error.
const IDLE_COMMANDS_MAX: u32 = 100;

/// What a session needs of the world around it.
pub trait Host {
    /// A fresh id for a message whose content is about to come.
    fn next_queue_id(&mut self, now: Now) -> QueueId;

    /// Why no new message can be taken at the moment, if so. Asked at MAIL and before content.
    fn overload(&self) -> Option<Overload>;

    /// Whether mail to `recipient` ends at this system, and so is taken from any client.
    fn is_local(&self, recipient: &Address) -> bool {
        let _ = recipient;
        false
    }
}

/// What there is too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overload {
    /// Content held in memory. Answered 421 4.3.2, and the session is closed to free its own.
    Memory,
    /// The disk reserve is touched. Answered 452 4.3.1.
    Disk,
    /// The queue holds as many messages as it may. Answered 452 4.3.1.
    Queue,
}

/// How sessions of one listener behave.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Our name in greeting, replies and trace fields.
    pub hostname: Box<str>,
    /// Longest content, octets as received; announced as SIZE.
    pub size_max_bytes: u64,
    /// Longest line of content, octets, CRLF not counted (RFC 5321 §4.5.3.1.6 allows 998).
    pub content_line_bytes_max: usize,
    /// Most recipients of one transaction; further ones get 452 4.5.3.
    pub recipients_max: usize,
    /// Longest command line, CRLF included.
    pub line_bytes_max: usize,
    /// Rejected commands without a message in between, after which the session is closed.
    pub errors_max: u32,
    /// Received fields above which a message is taken to loop.
    pub hops_max: u32,
    /// Messages taken in one session.
    pub messages_per_session_max: u32,
    /// Add a Date field where there is none.
    pub add_date: bool,
    /// Add a Message-ID field where there is none.
    pub add_message_id: bool,
    /// Group and tag fields, and whether to take them out.
    pub watched: WatchedHeaders,
    /// What a CR or LF of its own leads to.
    pub bare_newline: BareNewline,
    /// What a NUL octet in content leads to.
    pub nul_octets: NulOctets,
    /// Where mail to `<Postmaster>` goes, taken from any client; `None`: to
    /// `postmaster@hostname`, and only from clients that may relay.
    pub postmaster: Option<Address>,
    /// Longest silence, ms.
    pub idle_ms_max: u64,
    /// Longest silence within content, ms.
    pub data_idle_ms_max: u64,
    /// Longest time from the first octet of a command line to its end, ms.
    pub command_ms_max: u64,
    /// Longest time for the content of one message, ms.
    pub data_ms_max: u64,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            hostname: "localhost".into(),
            size_max_bytes: 32 * 1024 * 1024,
            content_line_bytes_max: 998,
            recipients_max: 1000,
            line_bytes_max: 2048,
            errors_max: 100,
            hops_max: 100,
            messages_per_session_max: 1_000_000,
            add_date: true,
            add_message_id: true,
            watched: WatchedHeaders::default(),
            bare_newline: BareNewline::Reject,
            nul_octets: NulOctets::Refuse,
            postmaster: None,
            // RFC 5321 §4.5.3.2.7: a server should wait five minutes for the next command.
            idle_ms_max: 300_000,
            data_idle_ms_max: 180_000,
            command_ms_max: 300_000,
            data_ms_max: 1_800_000,
        }
    }
}

/// Who is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Address of the client.
    pub ip: IpAddr,
    /// Port of the client.
    pub port: u16,
    /// Our address that it connected to.
    pub local_ip: IpAddr,
    /// The client may send to any domain.
    pub may_relay: bool,
}

/// A message whose content is in and final, not yet answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedMessage {
    /// The id that its Received field names.
    pub queue_id: QueueId,
    /// Sender and recipients.
    pub envelope: Envelope,
    /// Final octets: our Received field first, CRLF line ends, no dot-stuffing.
    pub content: Vec<u8>,
    /// Value of the group field.
    pub group: Option<Box<str>>,
    /// Names and values of the tag fields.
    pub tags: Vec<(Box<str>, Box<str>)>,
    /// Message-ID, angle brackets included.
    pub message_id: Option<Box<str>>,
    /// Who sent it.
    pub peer: Peer,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// Durable at every owner: 250.
    Accepted,
    /// Not durable everywhere: 451 4.3.0.
    TemporaryFailure,
    /// No room on disk: 452 4.3.1.
    InsufficientStorage,
}

/// How a client is greeted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Its session begins: 220.
    Welcome,
    /// It, or all clients, have as many sessions as they may: 421 4.7.0, and closed.
    TooManySessions,
    /// No session begins any more: 421 4.3.2, and closed.
    ShuttingDown,
}

/// Something the runtime has to act on.
#[derive(Debug)]
pub enum ServerEvent {
    /// Make this durable and call [`ServerSession::finish`].
    Message(Box<AcceptedMessage>),
    /// Send what there is to be sent, then close the connection.
    Close,
}

/// A session. See the module's text for how to drive it.
#[derive(Debug)]
pub struct ServerSession {
    settings: Rc<ServerSettings>,
    peer: Peer,
    state: State,
    hello: Option<Hello>,
    transaction: Option<Transaction>,
    /// Start of a command line whose end has not come.
    line: Vec<u8>,
    /// Octets of the current line dropped because it is too long.
    line_bytes_dropped: usize,
    backlog: Vec<u8>,
    replies: Vec<u8>,
    events: VecDeque<ServerEvent>,
    errors: u32,
    idle_commands: u32,
    messages: u32,
    shutting_down: bool,
    last_input: Mono,
    line_started: Option<Mono>,
}

#[derive(Debug)]
enum State {
    /// The client is not greeted yet. What it sends ahead all the same is kept.
    Opening,
    /// The next octet belongs to a command line.
    Command,
    /// The next octet belongs to content, or to a chunk that is thrown away.
    Content(Box<Receiving>),
    /// A message was handed out.
    Awaiting(QueueId),
    Closed,
}

#[derive(Debug)]
struct Hello {
    extended: bool,
    received: ReceivedField,
}

#[derive(Debug)]
struct Transaction {
    reverse_path: Option<Address>,
    recipients: Vec<Recipient>,
    declared_bytes: Option<u64>,
    body: BodyType,
    smtputf8: bool,
    /// The content so far, once the first BDAT came.
    chunks: Option<Box<Receiving>>,
    /// A chunk was refused: only RSET helps (RFC 3030 §2).
    chunk_failed: bool,
}

impl ServerSession {
    /// A session with a client that has just connected and is still to be greeted.
    pub fn new(settings: Rc<ServerSettings>, peer: Peer, now: Now) -> Self {
        Self {
            settings,
            peer,
            state: State::Opening,
            hello: None,
            transaction: None,
            line: Vec::new(),
            line_bytes_dropped: 0,
            backlog: Vec::new(),
            replies: Vec::with_capacity(256),
            events: VecDeque::new(),
            errors: 0,
            idle_commands: 0,
            messages: 0,
            shutting_down: false,
            last_input: now.mono,
            line_started: None,
        }
    }

    /// Greets the client, and goes on with what it sent ahead. Poll for everything afterwards.
    ///
    /// Does nothing if it was greeted before, or the session was closed meanwhile.
    pub fn greet(&mut self, greeting: Greeting, host: &mut impl Host, now: Now) {
        if !matches!(self.state, State::Opening) {
            return;
        }
        self.last_input = now.mono;
        match greeting {
            Greeting::Welcome => {
                self.state = State::Command;
                self.reply_with_hostname("220 ", " ESMTP Hikyaku");
                self.consume_backlog(host, now);
            }
            Greeting::TooManySessions => {
                self.reply("421 4.7.0 Too many sessions, try again later");
                self.close();
            }
            Greeting::ShuttingDown => self.close_for_shutdown(),
        }
    }

    /// Takes in everything the client sent. Poll for transmits, events and the timeout afterwards.
    pub fn handle_input(&mut self, input: &[u8], host: &mut impl Host, now: Now) {
        if matches!(self.state, State::Opening) {
            // Its time is not prolonged: it has nothing to say yet.
            return self.keep(input);
        }
        self.last_input = now.mono;
        if matches!(self.state, State::Awaiting(_)) {
            return self.keep(input);
        }
        let rest = self.consume(input, host, now);
        if !rest.is_empty() {
            self.keep(rest);
        }
    }

    /// Says what became of the message last handed out, and goes on with what the client sent
    /// meanwhile. Poll for everything afterwards.
    ///
    /// Does nothing if no message is waiting (the session may have been closed meanwhile).
    pub fn finish(&mut self, result: Acceptance, host: &mut impl Host, now: Now) {
        let State::Awaiting(id) = self.state else {
            return;
        };
        self.state = State::Command;
        self.last_input = now.mono;
        match result {
            Acceptance::Accepted => {
                self.replies.extend_from_slice(b"250 2.0.0 Ok: queued as ");
                self.replies.extend_from_slice(&id.text());
                self.replies.extend_from_slice(b"\r\n");
            }
            Acceptance::TemporaryFailure => {
                self.reply("451 4.3.0 The message could not be stored; try again later");
            }
            Acceptance::InsufficientStorage => {
                self.reply("452 4.3.1 Insufficient system storage; try again later");
            }
        }
        if self.shutting_down {
            return self.close_for_shutdown();
        }
        self.consume_backlog(host, now);
    }

    /// Moves what is to be sent to the end of `out`; false if there was nothing.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) -> bool {
        if self.replies.is_empty() {
            return false;
        }
        if out.is_empty() {
            std::mem::swap(out, &mut self.replies);
        } else {
            out.append(&mut self.replies);
        }
        true
    }

    /// The next thing to act on.
    pub fn poll_event(&mut self) -> Option<ServerEvent> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`]; `None` while the client is not to blame for silence.
    pub fn poll_timeout(&self) -> Option<Mono> {
        let silence_ms = match &self.state {
            State::Content(_) => self.settings.data_idle_ms_max,
            _ => self.settings.idle_ms_max,
        };
        let idle = self.last_input.plus_ms(silence_ms);
        let content_started = match &self.state {
            State::Awaiting(_) | State::Closed => return None,
            State::Opening => None,
            State::Content(receiving) => Some(receiving.started),
            State::Command => {
                let chunks = self.transaction.as_ref().and_then(|t| t.chunks.as_ref());
                chunks.map(|receiving| receiving.started)
            }
        };
        let content = content_started.map(|started| started.plus_ms(self.settings.data_ms_max));
        let line = self
            .line_started
            .map(|started| started.plus_ms(self.settings.command_ms_max));
        Some([content, line].into_iter().flatten().fold(idle, Mono::min))
    }

    /// Ends the session if its deadline has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        if self
            .poll_timeout()
            .is_some_and(|deadline| deadline <= now.mono)
        {
            self.reply_with_hostname("421 4.4.2 ", " Timeout exceeded, closing connection");
            self.close();
        }
    }

    /// Whether more input is welcome. If not, leave it in the socket.
    pub fn wants_input(&self) -> bool {
        !matches!(self.state, State::Closed)
            && self.backlog.len() < BACKLOG_BYTES_MAX
            && self.replies.len() < REPLIES_BYTES_MAX
    }

    /// Memory is short: content that is coming in is given up, and answered 452 when it has come.
    pub fn refuse_for_memory(&mut self) {
        let receiving = match &mut self.state {
            State::Content(receiving) => Some(receiving),
            _ => self.transaction.as_mut().and_then(|t| t.chunks.as_mut()),
        };
        if let Some(receiving) = receiving {
            receiving.refuse(dialog::STORAGE);
        }
    }

    /// Closes the session with 421 4.3.2: at once, or after the answer to a message handed out.
    pub fn shutdown(&mut self) {
        self.shutting_down = true;
        if !matches!(self.state, State::Awaiting(_) | State::Closed) {
            self.close_for_shutdown();
        }
    }

    /// When to give up on a client that does not take the replies of `now`.
    pub fn send_deadline(&self, now: Now) -> Mono {
        now.mono.plus_ms(self.settings.idle_ms_max)
    }

    /// Whether a message was handed out and awaits [`Self::finish`].
    pub const fn awaits_finish(&self) -> bool {
        matches!(self.state, State::Awaiting(_))
    }

    /// Octets of content, backlog and replies the session holds.
    pub fn buffered_bytes(&self) -> usize {
        let content = match &self.state {
            State::Content(receiving) => receiving.buffered_bytes(),
            _ => 0,
        };
        let chunks = self.transaction.as_ref().and_then(|t| t.chunks.as_ref());
        content
            + chunks.map_or(0, |receiving| receiving.buffered_bytes())
            + self.backlog.capacity()
            + self.line.capacity()
            + self.replies.capacity()
    }

    /// Goes on with what the client sent while it was not listened to.
    fn consume_backlog(&mut self, host: &mut impl Host, now: Now) {
        if !self.backlog.is_empty() {
            let mut backlog = std::mem::take(&mut self.backlog);
            let left = self.consume(&backlog, host, now).len();
            backlog.drain(..backlog.len() - left);
            self.backlog = backlog;
        }
    }

    /// Works through `input` until it is used up or a message has to be waited for; what is left.
    fn consume<'a>(&mut self, mut input: &'a [u8], host: &mut impl Host, now: Now) -> &'a [u8] {
        while !input.is_empty() {
            input = match &self.state {
                State::Command => self.command_octets(input, host, now),
                State::Content(_) => self.content_octets(input, now),
                State::Opening | State::Awaiting(_) => return input,
                State::Closed => return &[],
            };
        }
        input
    }

    fn keep(&mut self, input: &[u8]) {
        if self.backlog.len() + input.len() > BACKLOG_BYTES_LIMIT {
            return self.close();
        }
        self.backlog.extend_from_slice(input);
    }

    /// Carries out the first command line of `input`, in place if all of it is there.
    fn command_octets<'a>(&mut self, input: &'a [u8], host: &mut impl Host, now: Now) -> &'a [u8] {
        let Some(end) = memchr(b'\n', input) else {
            self.keep_partial_line(input, now);
            return &[];
        };
        let (line, rest) = input.split_at(end + 1);
        if self.line.is_empty() && self.line_bytes_dropped == 0 {
            self.command_line(line, host, now);
        } else {
            self.line_started = None;
            if self.line.len() + line.len() > self.settings.line_bytes_max {
                self.line_bytes_dropped += line.len();
            }
            if std::mem::take(&mut self.line_bytes_dropped) > 0 {
                self.line.clear();
                self.reject("500 5.5.2 Line too long");
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                self.command_line(&whole, host, now);
                whole.clear();
                self.line = whole;
            }
        }
        rest
    }

    fn keep_partial_line(&mut self, input: &[u8], now: Now) {
        self.line_started.get_or_insert(now.mono);
        if self.line.len() + input.len() > self.settings.line_bytes_max {
            self.line_bytes_dropped += self.line.len() + input.len();
            self.line = Vec::new();
        } else if self.line_bytes_dropped > 0 {
            self.line_bytes_dropped += input.len();
        } else {
            self.line.extend_from_slice(input);
        }
        if self.line_bytes_dropped > LONG_LINE_BYTES_MAX {
            self.reply("500 5.5.2 Line too long, closing connection");
            self.close();
        }
    }

    /// Puts out a reply, given without CRLF.
    fn reply(&mut self, text: &str) {
        self.replies.extend_from_slice(text.as_bytes());
        self.replies.extend_from_slice(b"\r\n");
    }

    fn reply_with_hostname(&mut self, before: &str, after: &str) {
        self.replies.extend_from_slice(before.as_bytes());
        self.replies
            .extend_from_slice(self.settings.hostname.as_bytes());
        self.reply(after);
    }

    /// Refuses a command, and the client itself once it was refused too often.
    fn reject(&mut self, text: &str) {
        self.reply(text);
        self.errors += 1;
        if self.errors > self.settings.errors_max {
            self.reply_with_hostname("421 4.7.0 ", " Too many errors, closing connection");
            self.close();
        }
    }

    fn close_for_shutdown(&mut self) {
        self.reply_with_hostname("421 4.3.2 ", " Service shutting down, closing connection");
        self.close();
    }

    fn close(&mut self) {
        if !matches!(self.state, State::Closed) {
            self.state = State::Closed;
            self.transaction = None;
            self.backlog = Vec::new();
            self.line = Vec::new();
            self.events.push_back(ServerEvent::Close);
        }
    }
}
