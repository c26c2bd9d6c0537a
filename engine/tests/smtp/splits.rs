//! A session answers and stores the same, however the network cuts up what the client sends.

use std::rc::Rc;

use engine::smtp::server::{
    Acceptance, AcceptedMessage, Greeting, ServerEvent, ServerSession, ServerSettings,
};
use proptest::prelude::*;

use crate::server_dialogs::{START, TestHost, peer};

/// What the client hears, what is stored, and whether it is closed.
type Heard = (String, Vec<AcceptedMessage>, bool);

/// A session that is sent `input` in pieces that end at `cuts`.
fn session(input: &[u8], cuts: &[usize]) -> Heard {
    let settings = Rc::new(ServerSettings::default());
    let mut session = ServerSession::new(settings, peer(true), START);
    let mut host = TestHost::default();
    session.greet(Greeting::Welcome, &mut host, START);
    let (mut out, mut stored, mut closed) = (Vec::new(), Vec::new(), false);
    let mut from = 0;
    for to in cuts.iter().copied().chain([input.len()]) {
        if closed {
            break;
        }
        session.handle_input(&input[from..to], &mut host, START);
        from = to;
        while let Some(event) = session.poll_event() {
            match event {
                ServerEvent::Message(message) => {
                    stored.push(*message);
                    session.finish(Acceptance::Accepted, &mut host, START);
                }
                ServerEvent::Close => closed = true,
            }
        }
        session.poll_transmit(&mut out);
    }
    (String::from_utf8(out).unwrap(), stored, closed)
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[a-z .]{0,12}\r\n",
        1 => "\\.{1,3}[a-z]{0,3}\r\n",
        1 => "[a-z]{0,3}\r[a-z]{0,3}\r\n",
        1 => "[a-z]{0,3}\n\\.?\r\n",
        1 => "X-Field: [a-z]{0,5}\r\n",
        1 => "\r\n",
    ]
    .prop_map(String::into_bytes)
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(line(), 0..8).prop_map(|lines| lines.concat())
}

/// BDAT chunks: a CRLF may lie across two of them.
fn chunks() -> impl Strategy<Value = Vec<u8>> {
    (content(), any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(content, at, empty_last)| {
            let at = at.index(content.len() + 1);
            let (first, rest) = content.split_at(at);
            let mut out = format!("BDAT {}\r\n", first.len()).into_bytes();
            out.extend_from_slice(first);
            let last = if empty_last { "" } else { " LAST" };
            out.extend_from_slice(format!("BDAT {}{last}\r\n", rest.len()).as_bytes());
            out.extend_from_slice(rest);
            if empty_last {
                out.extend_from_slice(b"BDAT 0 LAST\r\n");
            }
            out
        },
    )
}

fn transaction() -> impl Strategy<Value = Vec<u8>> {
    let data = content().prop_map(|content| [b"DATA\r\n", &content[..], b".\r\n"].concat());
    (prop_oneof![data, chunks()], 0..3_usize).prop_map(|(content, recipients)| {
        let mut out = b"MAIL FROM:<a@sender.example>\r\n".to_vec();
        for n in 0..recipients {
            out.extend_from_slice(format!("RCPT TO:<r{n}@d.example>\r\n").as_bytes());
        }
        out.extend_from_slice(&content);
        out
    })
}

fn input() -> impl Strategy<Value = Vec<u8>> {
    let other = prop_oneof![
        Just("NOOP\r\n"),
        Just("RSET\r\n"),
        Just("RCPT TO:<too@early.example>\r\n"),
        Just("WHAT?\r\n"),
        Just("bare\nLF\r\n"),
        Just("\r\n"),
    ]
    .prop_map(|text| text.as_bytes().to_vec());
    let item = prop_oneof![2 => transaction(), 1 => other];
    prop::collection::vec(item, 1..6)
        .prop_map(|items| [b"EHLO client.example\r\n".to_vec(), items.concat()].concat())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_session_does_not_depend_on_how_its_input_is_split(
        input in input(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let whole = session(&input, &[]);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len())).collect();
        cuts.sort_unstable();
        prop_assert_eq!(&session(&input, &cuts), &whole);
        let every: Vec<usize> = (1..input.len()).collect();
        prop_assert_eq!(&session(&input, &every), &whole);
    }
}
