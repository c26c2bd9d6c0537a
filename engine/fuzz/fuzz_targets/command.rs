//! Any octets as a whole session: the server never panics, says the same however the octets are
//! cut, sends only whole lines, and hands out only clean content.
#![no_main]

use std::rc::Rc;

use engine::clock::{Mono, Now, UnixMs};
use engine::ids::QueueId;
use engine::message::header::WatchedHeaders;
use engine::smtp::dot::BareNewline;
use engine::smtp::server::{
    Acceptance, AcceptedMessage, Greeting, Host, Overload, Peer, ServerEvent, ServerSession, ServerSettings,
};
use libfuzzer_sys::fuzz_target;

struct CountingHost(u64);

impl Host for CountingHost {
    fn next_queue_id(&mut self, _: Now) -> QueueId {
        self.0 += 1;
        QueueId(self.0)
    }

    fn overload(&self) -> Option<Overload> {
        None
    }
}

const NOW: Now = Now {
    mono: Mono(0),
    unix: UnixMs(1_795_502_969_000),
};

fn run(
    input: &[u8],
    piece_bytes: usize,
    bare_newline: BareNewline,
) -> (Vec<u8>, Vec<AcceptedMessage>) {
    let settings = ServerSettings {
        bare_newline,
        size_max_bytes: 2000,
        recipients_max: 3,
        line_bytes_max: 200,
        hops_max: 2,
        watched: WatchedHeaders {
            group: Some("X-Group".into()),
            tags: vec!["X-Tag".into()],
            strip: true,
        },
        ..ServerSettings::default()
    };
    let peer = Peer {
        ip: [127, 0, 0, 1].into(),
        port: 1,
        local_ip: [127, 0, 0, 1].into(),
        may_relay: true,
    };
    let mut session = ServerSession::new(Rc::new(settings), peer, NOW);
    let mut host = CountingHost(0);
    let (mut replies, mut messages) = (Vec::new(), Vec::new());
    // Saves the fuzzer from finding the opening each time.
    session.greet(Greeting::Welcome, &mut host, NOW);
    session.handle_input(b"EHLO a\r\n", &mut host, NOW);
    for piece in input.chunks(piece_bytes.max(1)) {
        session.handle_input(piece, &mut host, NOW);
        while let Some(event) = session.poll_event() {
            if let ServerEvent::Message(message) = event {
                messages.push(*message);
                session.finish(Acceptance::Accepted, &mut host, NOW);
            }
        }
    }
    while session.poll_transmit(&mut replies) {}
    (replies, messages)
}

/// Replies with the reason for refusing content left out: of several reasons that one is told which
/// was found first, and that depends on the cuts.
fn alike(replies: &[u8]) -> Vec<&str> {
    let lines = std::str::from_utf8(replies).unwrap().lines();
    let refusals = ["550 5.5.2 ", "552 5.3.4 ", "554 5.4.6 "];
    let refused = |line: &str| refusals.iter().any(|start| line.starts_with(start));
    lines
        .map(|line| {
            if refused(line) {
                "content refused"
            } else {
                line
            }
        })
        .collect()
}

fuzz_target!(|data: &[u8]| {
    let [first, input @ ..] = data else { return };
    let policy = if first & 1 == 0 {
        BareNewline::Reject
    } else {
        BareNewline::Normalise
    };
    let (replies, messages) = run(input, usize::MAX, policy);
    let (cut_replies, cut_messages) = run(input, usize::from(first >> 1), policy);
    assert_eq!(alike(&replies), alike(&cut_replies));
    assert_eq!(messages, cut_messages);

    assert!(replies.ends_with(b"\r\n"));
    for line in replies.split(|&byte| byte == b'\n') {
        assert!(line.is_empty() || line.len() >= 4 && line[..3].iter().all(u8::is_ascii_digit));
    }
    for message in messages {
        assert!(!message.envelope.recipients.is_empty());
        assert!(message.content.starts_with(b"Received: from "));
        let newlines = message
            .content
            .iter()
            .filter(|byte| matches!(byte, b'\r' | b'\n'))
            .count();
        let pairs = message
            .content
            .windows(2)
            .filter(|pair| *pair == b"\r\n")
            .count();
        assert_eq!(newlines, 2 * pairs, "a bare CR or LF got through");
        assert!(message.content.ends_with(b"\r\n"));
    }
});
