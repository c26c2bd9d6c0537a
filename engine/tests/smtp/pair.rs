//! Client machine against server machine, over a fake network and clock.
//!
//! Whatever way the octets are cut, and whether pipelined or not, every transaction must come to
//! the same end on both sides.

use std::collections::BTreeMap;
use std::rc::Rc;

use engine::clock::Now;
use engine::ids::TransactionToken;
use engine::smtp::client::{
    ClientConnection, ClientEvent, ClientSettings, OutboundTransaction, RecipientOutcome,
};
use engine::smtp::server::{
    Acceptance, AcceptedMessage, Greeting, Peer, ServerEvent, ServerSession, ServerSettings,
};
use proptest::prelude::*;

use crate::client_dialogs::{envelope, outbound};
use crate::server_dialogs::{START, TestHost, peer};

/// Cuts streams into pieces; xorshift, so that a case can be run again.
struct Cuts(u64);

impl Cuts {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Takes a piece off the front of `wire`: all of it, or a few octets.
    fn take(&mut self, wire: &mut Vec<u8>) -> Vec<u8> {
        let length = match self.next() % 4 {
            0 => wire.len(),
            1 => 1,
            _ => self.next() as usize % 200 + 1,
        };
        wire.drain(..length.min(wire.len())).collect()
    }
}

/// Both ends of a connection and the octets between them.
struct Pair {
    client: ClientConnection,
    server: ServerSession,
    host: TestHost,
    now: Now,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    cuts: Cuts,
    answers: Vec<Acceptance>,
    accepted: Vec<AcceptedMessage>,
    events: Vec<ClientEvent>,
    sends: usize,
    closed: bool,
}

impl Pair {
    fn new(client: ClientSettings, server: ServerSettings, peer: Peer, seed: u64) -> Self {
        let mut host = TestHost::default();
        let mut server = ServerSession::new(Rc::new(server), peer, START);
        server.greet(Greeting::Welcome, &mut host, START);
        Self {
            client: ClientConnection::new(Rc::new(client), START),
            server,
            host,
            now: START,
            to_server: Vec::new(),
            to_client: Vec::new(),
            cuts: Cuts(seed | 1),
            answers: Vec::new(),
            accepted: Vec::new(),
            events: Vec::new(),
            sends: 0,
            closed: false,
        }
    }

    /// Moves octets and events until nothing moves, starting transactions as soon as allowed.
    fn run(&mut self, work: &mut std::vec::IntoIter<OutboundTransaction>) {
        loop {
            let mut moved = false;
            while let Some(event) = self.client.poll_event() {
                self.events.push(event);
                moved = true;
            }
            while self.client.can_start()
                && let Some(transaction) = work.next()
            {
                self.client.start(transaction, self.now);
                moved = true;
            }
            while let Some(event) = self.server.poll_event() {
                moved = true;
                match event {
                    ServerEvent::Message(message) => {
                        let n = self.accepted.len() % self.answers.len().max(1);
                        let answer = self.answers.get(n).copied().unwrap_or(Acceptance::Accepted);
                        self.accepted.push(*message);
                        self.server.finish(answer, &mut self.host, self.now);
                    }
                    ServerEvent::Close => self.closed = true,
                }
            }
            let sends = self.to_server.len();
            if self.client.poll_transmit(&mut self.to_server) {
                assert!(self.to_server.len() > sends);
                self.sends += 1;
                self.client.handle_sent(self.now);
                moved = true;
            }
            moved |= self.server.poll_transmit(&mut self.to_client);
            if !self.to_server.is_empty() && self.server.wants_input() {
                let piece = self.cuts.take(&mut self.to_server);
                self.server.handle_input(&piece, &mut self.host, self.now);
                moved = true;
            }
            if !self.to_client.is_empty() {
                let piece = self.cuts.take(&mut self.to_client);
                self.client.handle_input(&piece, self.now);
                moved = true;
            }
            if !moved {
                return;
            }
        }
    }

    /// Jumps to the next deadline of either end.
    fn time_out(&mut self) {
        let deadlines = [self.client.poll_timeout(), self.server.poll_timeout()];
        let next = deadlines
            .into_iter()
            .flatten()
            .min()
            .expect("somebody waits for something");
        self.now.mono = self.now.mono.max(next);
        self.client.handle_timeout(self.now);
        self.server.handle_timeout(self.now);
    }
}

/// Outcome and code of each recipient, by token.
fn outcomes(events: &[ClientEvent]) -> BTreeMap<TransactionToken, Vec<(RecipientOutcome, u16)>> {
    let mut found = BTreeMap::new();
    for event in events {
        if let ClientEvent::TransactionDone { token, results, .. } = event {
            let results = results
                .iter()
                .map(|r| (r.outcome, r.reply.code.get()))
                .collect();
            assert_eq!(
                found.insert(*token, results),
                None,
                "transaction {token:?} ended twice"
            );
        }
    }
    found
}

/// What the server took: recipients and content behind its own Received field.
fn taken(messages: &[AcceptedMessage]) -> Vec<(Vec<String>, Vec<u8>)> {
    let without_trace = |content: &[u8]| {
        let end = memchr::memmem::find(content, b" +0000\r\n").unwrap() + 8;
        content[end..].to_vec()
    };
    let recipients = |m: &AcceptedMessage| {
        m.envelope
            .recipients
            .iter()
            .map(|a| a.as_str().to_owned())
            .collect()
    };
    messages
        .iter()
        .map(|m| (recipients(m), without_trace(&m.content)))
        .collect()
}

fn transaction() -> impl Strategy<Value = OutboundTransaction> {
    let recipient = prop_oneof![
        8 => "[a-z]{1,8}@example\\.(jp|com)",
        1 => "[a-z]{1,8}@local\\.example",
    ];
    let line = prop_oneof![
        "[ -~]{0,30}",
        "\\.{0,3}",
        "\\.[a-z]{0,3}",
        "[a-z.]{900,2000}"
    ];
    let lines = prop::collection::vec(line, 0..60);
    (prop::collection::vec(recipient, 1..6), lines, any::<bool>()).prop_map(
        |(recipients, lines, bounce)| {
            let mut content = String::from("Subject: x\r\n\r\n");
            for line in lines {
                content.push_str(&line);
                content.push_str("\r\n");
            }
            let from = (!bounce).then_some("sender@example.com");
            let envelope = envelope(from, recipients.iter().map(|one| &**one));
            OutboundTransaction {
                content: Rc::new(content.into_bytes()),
                ..outbound(TransactionToken(0), envelope)
            }
        },
    )
}

fn server_settings() -> ServerSettings {
    ServerSettings {
        hostname: "mx.example".into(),
        add_date: false,
        add_message_id: false,
        recipients_max: 4,
        errors_max: 1_000_000,
        ..ServerSettings::default()
    }
}

type Ends = (
    BTreeMap<TransactionToken, Vec<(RecipientOutcome, u16)>>,
    Vec<(Vec<String>, Vec<u8>)>,
);

fn deliver(
    work: &[OutboundTransaction],
    may_relay: bool,
    answers: &[Acceptance],
    pipelining: bool,
    seed: u64,
) -> Ends {
    let client = ClientSettings {
        pipelining,
        ..ClientSettings::default()
    };
    let mut pair = Pair::new(client, server_settings(), peer(may_relay), seed);
    pair.answers = answers.to_vec();
    let work = work
        .iter()
        .cloned()
        .zip(0..)
        .map(|(t, n)| OutboundTransaction {
            token: TransactionToken(n),
            ..t
        });
    pair.run(&mut work.collect::<Vec<_>>().into_iter());
    assert!(pair.client.is_idle() && !pair.closed);
    (outcomes(&pair.events), taken(&pair.accepted))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn both_ends_agree_however_the_octets_are_cut(
        work in prop::collection::vec(transaction(), 1..8),
        may_relay in prop::bool::weighted(0.8),
        answers in prop::collection::vec(prop_oneof![
            3 => Just(Acceptance::Accepted),
            1 => Just(Acceptance::TemporaryFailure),
            1 => Just(Acceptance::InsufficientStorage),
        ], 1..4),
        seeds in prop::array::uniform2(any::<u64>()),
    ) {
        let pipelined = deliver(&work, may_relay, &answers, true, seeds[0]);
        let again = deliver(&work, may_relay, &answers, true, seeds[1]);
        prop_assert_eq!(&pipelined, &again);
        let lock_step = deliver(&work, may_relay, &answers, false, seeds[0]);
        prop_assert_eq!(&pipelined.1, &lock_step.1);
        prop_assert_eq!(&pipelined.0, &lock_step.0);

        // Content arrives as it was sent, for exactly those recipients the client heard 2xx about.
        let mut arrived = pipelined.1.iter();
        for (token, results) in &pipelined.0 {
            let sent = &work[token.0 as usize];
            prop_assert_eq!(results.len(), sent.recipients.len());
            let passed: Vec<String> = sent.forward_paths().zip(results)
                .filter(|(_, (_, code))| !matches!(code, 550 | 452) || *code == 452 && answers.contains(&Acceptance::InsufficientStorage))
                .map(|(recipient, _)| recipient.to_string())
                .collect();
            if results.iter().any(|(outcome, _)| *outcome == RecipientOutcome::Delivered) {
                let (recipients, _) = arrived
                    .find(|(_, content)| *content == *sent.content)
                    .expect("what was delivered has arrived");
                for recipient in recipients {
                    prop_assert!(passed.contains(recipient));
                }
            }
        }
        prop_assert_eq!(pipelined.0.len(), work.len());
    }
}

fn message(token: u64) -> OutboundTransaction {
    let envelope = envelope(Some("sender@example.com"), ["rcpt@example.jp"]);
    OutboundTransaction {
        content: Rc::new(b"Subject: x\r\n\r\nhello\r\n".to_vec()),
        ..outbound(TransactionToken(token), envelope)
    }
}

#[test]
fn a_busy_connection_costs_one_send_a_message() {
    let mut pair = Pair::new(
        ClientSettings::default(),
        server_settings(),
        peer(true),
        0x5eed,
    );
    pair.run(&mut Vec::new().into_iter());
    let sends_before = pair.sends;
    let work: Vec<_> = (0..100).map(message).collect();
    pair.cuts = Cuts(0); // xorshift stays at 0: every piece is all there is
    pair.run(&mut work.into_iter());
    assert_eq!(outcomes(&pair.events).len(), 100);
    assert_eq!(pair.sends - sends_before, 101);
}

#[test]
fn large_content_leaves_in_bounded_pieces() {
    let mut pair = Pair::new(ClientSettings::default(), server_settings(), peer(true), 7);
    let content = Rc::new(b".0123456789abcde\r\n".repeat(100_000));
    let large = OutboundTransaction {
        content: Rc::clone(&content),
        ..message(1)
    };
    pair.run(&mut vec![large, message(2)].into_iter());
    assert_eq!(outcomes(&pair.events).len(), 2);
    assert!(
        taken(&pair.accepted)[0]
            .1
            .ends_with(&content[content.len() - 1000..])
    );
    assert!(pair.sends > content.len() / (64 * 1024));
}

#[test]
fn a_server_that_falls_silent_is_given_up_in_no_time_at_all() {
    let mut pair = Pair::new(ClientSettings::default(), server_settings(), peer(true), 9);
    pair.run(&mut Vec::new().into_iter());
    pair.client.start(message(1), pair.now);
    let mut lost = Vec::new();
    pair.client.poll_transmit(&mut lost); // never arrives
    while !pair.client.is_closed() || !pair.closed {
        pair.time_out();
        pair.run(&mut Vec::new().into_iter());
    }
    let outcomes = outcomes(&pair.events);
    assert_eq!(
        outcomes[&TransactionToken(1)],
        [(RecipientOutcome::Lost, 421)]
    );
}
