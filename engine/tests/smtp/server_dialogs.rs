//! Runs tests/dialogs/server: scripted clients against [`ServerSession`].
//!
//! Directives: `set KEY VALUE` before the first step; `greet welcome|too-many|shutting-down`, without
//! which, first of all, the client is welcomed at once; `host accepts|fails|full|waits` what becomes
//! of messages; `host finish accepts|fails|full`; `overload memory|disk|queue|none`;
//! `after 30s` lets time pass; `shutdown`; `closes` the session must have closed; `open` it must
//! not; `message KEY VALUE` checks the last message (`from`, `to`, `content`, `has`, `lacks`,
//! `group`, `tag`, `id`, `body`, `count`).

use std::collections::VecDeque;
use std::rc::Rc;

use engine::address::Address;
use engine::clock::{Mono, Now, UnixMs};
use engine::envelope::BodyType;
use engine::ids::QueueId;
use engine::smtp::dot::{BareNewline, NulOctets};
use engine::smtp::server::{
    Acceptance, AcceptedMessage, Greeting, Host, Overload, Peer, ServerEvent, ServerSession,
    ServerSettings,
};

use crate::dialog::{Dialog, Kind, Step, fits, milliseconds, read_all, unescape};

/// A host that counts ids up from 1.
#[derive(Debug, Default)]
pub(crate) struct TestHost {
    pub(crate) ids: u64,
    pub(crate) overload: Option<Overload>,
}

impl Host for TestHost {
    fn next_queue_id(&mut self, _: Now) -> QueueId {
        self.ids += 1;
        QueueId(self.ids)
    }

    fn overload(&self) -> Option<Overload> {
        self.overload
    }

    fn is_local(&self, recipient: &Address) -> bool {
        recipient.domain().as_str() == "local.example"
    }
}

pub(crate) fn peer(may_relay: bool) -> Peer {
    Peer {
        ip: "192.0.2.1".parse().unwrap(),
        port: 40_000,
        local_ip: "192.0.2.25".parse().unwrap(),
        may_relay,
    }
}

/// 2026-11-24T06:49:29Z, and the monotonic clock at 0.
pub(crate) const START: Now = Now {
    mono: Mono(0),
    unix: UnixMs(1_795_502_969_000),
};

struct Run<'a> {
    dialog: &'a Dialog,
    line: usize,
    piece_bytes: usize,
    session: ServerSession,
    host: TestHost,
    now: Now,
    answer: Option<Acceptance>,
    said: Vec<u8>,
    replies: VecDeque<String>,
    messages: Vec<AcceptedMessage>,
    closed: bool,
}

impl Run<'_> {
    fn fail(&self, what: &str) -> ! {
        panic!(
            "{}:{}: {what} (input in pieces of {})\nreplies not yet expected: {:#?}",
            self.dialog.path.display(),
            self.line,
            self.piece_bytes,
            self.replies,
        )
    }

    /// Delivers what the client said and collects what the session did.
    fn pump(&mut self) {
        let said = std::mem::take(&mut self.said);
        for piece in said.chunks(self.piece_bytes) {
            self.session.handle_input(piece, &mut self.host, self.now);
            self.collect();
        }
        self.collect();
    }

    fn collect(&mut self) {
        while let Some(event) = self.session.poll_event() {
            match event {
                ServerEvent::Message(message) => {
                    self.messages.push(*message);
                    if let Some(answer) = self.answer {
                        self.session.finish(answer, &mut self.host, self.now);
                    }
                }
                ServerEvent::Close => self.closed = true,
            }
        }
        let mut out = Vec::new();
        while self.session.poll_transmit(&mut out) {}
        let text = String::from_utf8(out).unwrap();
        for line in text.split_terminator("\r\n") {
            assert!(!line.contains(['\r', '\n']), "bare newline in {line:?}");
            self.replies.push_back(line.to_owned());
        }
    }

    fn directive(&mut self, word: &str, rest: &str) {
        match word {
            "host" => match rest.strip_prefix("finish ") {
                Some(answer) => {
                    let answer = acceptance(answer).unwrap();
                    self.session.finish(answer, &mut self.host, self.now);
                    self.collect();
                }
                None => self.answer = acceptance(rest),
            },
            "overload" => {
                self.host.overload = match rest {
                    "memory" => Some(Overload::Memory),
                    "disk" => Some(Overload::Disk),
                    "queue" => Some(Overload::Queue),
                    _ => None,
                }
            }
            "after" => {
                let ms = milliseconds(rest);
                self.now.mono = self.now.mono.plus_ms(ms);
                self.now.unix.0 += ms;
                self.session.handle_timeout(self.now);
                self.collect();
            }
            "greet" => {
                let greeting = match rest {
                    "welcome" => Greeting::Welcome,
                    "too-many" => Greeting::TooManySessions,
                    "shutting-down" => Greeting::ShuttingDown,
                    other => panic!("unknown greeting {other}"),
                };
                self.session.greet(greeting, &mut self.host, self.now);
                self.collect();
            }
            "shutdown" => {
                self.session.shutdown();
                self.collect();
            }
            "closes" if self.closed => {}
            "closes" => self.fail("the session is still open"),
            "open" if !self.closed => {}
            "open" => self.fail("the session has closed"),
            "message" => self.check_message(rest),
            other => self.fail(&format!("unknown directive {other}")),
        }
    }

    fn check_message(&self, rest: &str) {
        let (key, value) = rest.split_once(' ').unwrap_or((rest, ""));
        if key == "count" {
            if self.messages.len().to_string() != value {
                self.fail(&format!("{} messages came", self.messages.len()));
            }
            return;
        }
        let Some(message) = self.messages.last() else {
            self.fail("no message came")
        };
        let content = String::from_utf8_lossy(&message.content);
        let path = |a: &Option<Address>| a.as_ref().map_or("<>".to_owned(), |a| a.to_string());
        let listed = |texts: Vec<&str>| texts.join(" ");
        let found = match key {
            "from" => path(&message.envelope.reverse_path),
            "to" => listed(
                message
                    .envelope
                    .recipients
                    .iter()
                    .map(|a| a.as_str())
                    .collect(),
            ),
            "domains" => listed(
                message
                    .envelope
                    .recipients
                    .iter()
                    .map(|a| a.domain().as_str())
                    .collect(),
            ),
            "group" => message.group.as_deref().unwrap_or("-").to_owned(),
            "id" => message.message_id.as_deref().unwrap_or("-").to_owned(),
            "tag" => message
                .tags
                .iter()
                .map(|(n, v)| format!("{n}={v};"))
                .collect(),
            "body" => match message.envelope.body {
                BodyType::SevenBit => "7BIT".to_owned(),
                BodyType::EightBitMime => "8BITMIME".to_owned(),
            },
            "content" => {
                let wanted = String::from_utf8(unescape(value)).unwrap();
                if content != wanted {
                    self.fail(&format!("content is {content:?}"));
                }
                return;
            }
            "has" | "lacks" => {
                let wanted = String::from_utf8(unescape(value)).unwrap();
                if content.contains(&wanted) != (key == "has") {
                    self.fail(&format!("content is {content:?}"));
                }
                return;
            }
            other => self.fail(&format!("unknown key {other}")),
        };
        if found != value {
            self.fail(&format!("{key} is {found}"));
        }
    }
}

fn acceptance(word: &str) -> Option<Acceptance> {
    match word {
        "accepts" => Some(Acceptance::Accepted),
        "fails" => Some(Acceptance::TemporaryFailure),
        "full" => Some(Acceptance::InsufficientStorage),
        "waits" => None,
        other => panic!("unknown answer {other}"),
    }
}

fn settings(dialog: &Dialog) -> (ServerSettings, bool) {
    let mut settings = ServerSettings {
        hostname: "relay.example".into(),
        add_date: false,
        add_message_id: false,
        size_max_bytes: 10_000,
        errors_max: 20,
        command_ms_max: 60_000,
        data_idle_ms_max: 300_000,
        ..ServerSettings::default()
    };
    let mut may_relay = true;
    for step in &dialog.steps {
        let Kind::Directive(word, rest) = &step.kind else {
            continue;
        };
        if word != "set" {
            continue;
        }
        let (key, value) = rest.split_once(' ').unwrap();
        match key {
            "relay" => may_relay = value == "yes",
            "size_max" => settings.size_max_bytes = value.parse().unwrap(),
            "recipients_max" => settings.recipients_max = value.parse().unwrap(),
            "line_max" => settings.line_bytes_max = value.parse().unwrap(),
            "errors_max" => settings.errors_max = value.parse().unwrap(),
            "hops_max" => settings.hops_max = value.parse().unwrap(),
            "messages_max" => settings.messages_per_session_max = value.parse().unwrap(),
            "add_missing" => {
                settings.add_date = value == "yes";
                settings.add_message_id = value == "yes";
            }
            "add_date" => settings.add_date = value == "yes",
            "add_message_id" => settings.add_message_id = value == "yes",
            "data_idle_ms" => settings.data_idle_ms_max = value.parse().unwrap(),
            "normalise" => settings.bare_newline = BareNewline::Normalise,
            "nul" => settings.nul_octets = NulOctets::Pass,
            "postmaster" => settings.postmaster = Some(value.parse().unwrap()),
            "group" => settings.watched.group = Some(value.into()),
            "tag" => settings.watched.tags.push(value.into()),
            "strip" => settings.watched.strip = value == "yes",
            other => panic!(
                "{}:{}: unknown setting {other}",
                dialog.path.display(),
                step.line
            ),
        }
    }
    (settings, may_relay)
}

fn run(dialog: &Dialog, piece_bytes: usize) {
    let (settings, may_relay) = settings(dialog);
    let mut run = Run {
        dialog,
        line: 0,
        piece_bytes,
        session: ServerSession::new(Rc::new(settings), peer(may_relay), START),
        host: TestHost::default(),
        now: START,
        answer: Some(Acceptance::Accepted),
        said: Vec::new(),
        replies: VecDeque::new(),
        messages: Vec::new(),
        closed: false,
    };
    let greets = |step: &Step| matches!(&step.kind, Kind::Directive(word, _) if word == "greet");
    if !dialog.steps.iter().any(greets) {
        run.session.greet(Greeting::Welcome, &mut run.host, START);
    }
    for step in &dialog.steps {
        if !matches!(step.kind, Kind::Say(_)) {
            run.pump();
        }
        run.line = step.line;
        match &step.kind {
            Kind::Say(bytes) => {
                if run.said.is_empty() && !run.replies.is_empty() {
                    run.fail("replies nobody expected");
                }
                run.said.extend_from_slice(bytes);
            }
            Kind::Expect(expected) => match run.replies.pop_front() {
                Some(line) if fits(&line, expected) => {}
                Some(line) => run.fail(&format!("got {line:?}, expected {expected:?}")),
                None => run.fail(&format!("got nothing, expected {expected:?}")),
            },
            Kind::Directive(word, _) if word == "set" => {}
            Kind::Directive(word, rest) => run.directive(word, rest),
        }
    }
    run.pump();
    if !run.replies.is_empty() {
        run.fail("replies nobody expected");
    }
}

#[test]
fn server_dialogs_run_as_written_however_the_input_is_cut() {
    for dialog in read_all("server") {
        for piece_bytes in [usize::MAX, 1, 2, 3, 7, 64] {
            run(&dialog, piece_bytes);
        }
    }
}
