//! Runs tests/dialogs/client: scripted servers against [`ClientConnection`].
//!
//! Directives: `set pipelining no` before the first step; `content TEXT` (escaped), `body 8BITMIME`
//! and `smtputf8` describe the transactions started behind them; `start TOKEN FROM TO…` (`<>` for
//! the null reverse-path); `can_start yes|no`; `after 30s`; `hangup`; `quit`;
//! `transmits N` the number of pieces sent since the last count. Expected events, in order:
//! `ready`, `result TOKEN OUTCOME PHASE REPLY` for each recipient, `returned TOKEN`,
//! `closed PHASE ERROR`. `idle` says that no event is left.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use engine::address::Address;
use engine::clock::Now;
use engine::envelope::{BodyType, Envelope};
use engine::ids::TransactionToken;
use engine::smtp::client::{
    ClientConnection, ClientEvent, ClientSettings, Disconnect, OutboundTransaction,
};

use crate::dialog::{Dialog, Kind, fits, milliseconds, read_all, unescape};
use crate::server_dialogs::START;

/// Without parameters; addresses are taken as they stand.
pub(crate) fn envelope<'a>(from: Option<&str>, to: impl IntoIterator<Item = &'a str>) -> Envelope {
    let address = |text: &str| {
        let domain = text.rsplit_once('@').map_or("", |(_, domain)| domain);
        Address::from_stored(text, domain)
    };
    let recipients = to.into_iter().map(|text| address(text).into());
    Envelope::new(from.map(address), recipients.collect())
}

/// A message without content to all recipients of an envelope.
pub(crate) fn outbound(token: TransactionToken, envelope: Envelope) -> OutboundTransaction {
    OutboundTransaction {
        token,
        recipients: (0..envelope.recipients.len() as u16).collect(),
        envelope: Arc::new(envelope),
        content: Rc::default(),
    }
}

struct Run<'a> {
    dialog: &'a Dialog,
    line: usize,
    piece_bytes: usize,
    connection: ClientConnection,
    now: Now,
    said: Vec<u8>,
    sent: String,
    transmits: usize,
    events: VecDeque<String>,
    content: Rc<Vec<u8>>,
    body: BodyType,
    smtputf8: bool,
}

impl Run<'_> {
    fn fail(&self, what: &str) -> ! {
        panic!(
            "{}:{}: {what} (input in pieces of {})\nsent, not yet expected: {:?}\nevents: {:#?}",
            self.dialog.path.display(),
            self.line,
            self.piece_bytes,
            self.sent,
            self.events,
        )
    }

    fn pump(&mut self) {
        let said = std::mem::take(&mut self.said);
        for piece in said.chunks(self.piece_bytes) {
            self.connection.handle_input(piece, self.now);
        }
        while let Some(event) = self.connection.poll_event() {
            match event {
                ClientEvent::Ready { .. } => self.events.push_back("ready".to_owned()),
                ClientEvent::TransactionDone { token, results, .. } => {
                    for result in results {
                        let outcome = format!("{:?}", result.outcome).to_lowercase();
                        let (phase, reply) = (result.phase, result.reply);
                        let line = format!("result {} {outcome} {phase} {reply}", token.0);
                        self.events.push_back(line);
                    }
                }
                ClientEvent::TransactionReturned(transaction) => {
                    self.events
                        .push_back(format!("returned {}", transaction.token.0));
                }
                ClientEvent::Closed { phase, error } => {
                    self.events.push_back(format!("closed {phase} {error}"));
                }
            }
        }
    }

    fn transmit(&mut self) {
        let mut out = Vec::new();
        while self.connection.poll_transmit(&mut out) {
            self.sent.push_str(std::str::from_utf8(&out).unwrap());
            self.transmits += 1;
            self.connection.handle_sent(self.now);
            out.clear();
        }
    }

    fn expect(&mut self, expected: &str) {
        self.transmit();
        let Some((line, rest)) = self.sent.split_once("\r\n") else {
            self.fail(&format!("nothing was sent, expected {expected:?}"));
        };
        if !fits(line, expected) {
            self.fail(&format!("sent {line:?}, expected {expected:?}"));
        }
        self.sent = rest.to_owned();
    }

    fn directive(&mut self, word: &str, rest: &str) {
        match word {
            "content" => self.content = Rc::new(unescape(rest)),
            "body" => self.body = BodyType::EightBitMime,
            "smtputf8" => self.smtputf8 = true,
            "start" => {
                let mut words = rest.split(' ');
                let token = TransactionToken(words.next().unwrap().parse().unwrap());
                let from = words.next().unwrap();
                let transaction = OutboundTransaction {
                    content: Rc::clone(&self.content),
                    ..outbound(
                        token,
                        Envelope {
                            body: self.body,
                            smtputf8: self.smtputf8,
                            ..envelope((from != "<>").then_some(from), words)
                        },
                    )
                };
                self.connection.start(transaction, self.now);
                self.pump();
            }
            "can_start" => {
                if self.connection.can_start() != (rest == "yes") {
                    self.fail("the connection thinks otherwise");
                }
            }
            "after" => {
                self.now.mono = self.now.mono.plus_ms(milliseconds(rest));
                self.connection.handle_timeout(self.now);
                self.pump();
            }
            "hangup" => {
                self.connection.handle_closed(Disconnect::Eof, self.now);
                self.pump();
            }
            "quit" => self.connection.quit(self.now),
            "transmits" => {
                self.transmit();
                if self.transmits.to_string() != rest {
                    self.fail(&format!("{} pieces were sent", self.transmits));
                }
                self.transmits = 0;
            }
            "idle" if self.events.is_empty() => {}
            "ready" | "result" | "returned" | "closed" => {
                let expected = format!("{word} {rest}");
                match self.events.pop_front() {
                    Some(event) if fits(&event, expected.trim_end()) => {}
                    other => self.fail(&format!("got {other:?}, expected {expected:?}")),
                }
            }
            other => self.fail(&format!("does not hold, or is unknown: {other}")),
        }
    }
}

fn run(dialog: &Dialog, piece_bytes: usize) {
    let mut settings = ClientSettings {
        helo_name: "relay.example".into(),
        ..ClientSettings::default()
    };
    settings.pipelining = !dialog
        .steps
        .iter()
        .any(|s| matches!(&s.kind, Kind::Directive(w, r) if w == "set" && r == "pipelining no"));
    let mut run = Run {
        dialog,
        line: 0,
        piece_bytes,
        connection: ClientConnection::new(Rc::new(settings), START),
        now: START,
        said: Vec::new(),
        sent: String::new(),
        transmits: 0,
        events: VecDeque::new(),
        content: Rc::new(b"Subject: x\r\n\r\nhello\r\n".to_vec()),
        body: BodyType::SevenBit,
        smtputf8: false,
    };
    for step in &dialog.steps {
        if !matches!(step.kind, Kind::Say(_)) {
            run.pump();
        }
        run.line = step.line;
        match &step.kind {
            Kind::Say(bytes) => {
                if run.said.is_empty() {
                    run.transmit();
                }
                if !run.sent.is_empty() {
                    run.fail("something was sent that nobody expected");
                }
                run.said.extend_from_slice(bytes);
            }
            Kind::Expect(expected) => run.expect(expected),
            Kind::Directive(word, _) if word == "set" => {}
            Kind::Directive(word, rest) => run.directive(word, rest),
        }
    }
    run.pump();
    run.transmit();
    if !run.sent.is_empty() || !run.events.is_empty() {
        run.fail("something is left that nobody expected");
    }
}

#[test]
fn client_dialogs_run_as_written_however_the_input_is_cut() {
    for dialog in read_all("client") {
        for piece_bytes in [usize::MAX, 1, 2, 3, 7, 64] {
            run(&dialog, piece_bytes);
        }
    }
}
