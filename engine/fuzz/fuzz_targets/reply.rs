//! Any octets as what a server says: the parser reads the same however they are cut, and the client
//! gives every transaction exactly one end.
#![no_main]

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use engine::ids::TransactionToken;
use engine::address::Address;
use engine::clock::{Mono, Now, UnixMs};
use engine::envelope::{BodyType, Envelope};
use engine::smtp::client::{
    ClientConnection, ClientEvent, ClientSettings, Disconnect, OutboundTransaction,
};
use engine::smtp::reply::{REPLY_TEXT_BYTES_MAX, Reply, ReplyError, ReplyParser};
use libfuzzer_sys::fuzz_target;

const NOW: Now = Now {
    mono: Mono(0),
    unix: UnixMs(1_795_502_969_000),
};

fn replies(input: &[u8], piece_bytes: usize) -> (Vec<Reply>, Option<ReplyError>) {
    let (mut parser, mut found) = (ReplyParser::default(), Vec::new());
    for mut piece in input.chunks(piece_bytes.max(1)) {
        loop {
            match parser.next(&mut piece) {
                Ok(Some(view)) => found.push(view.to_reply()),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

fn transaction(token: u64, content: &Rc<Vec<u8>>) -> OutboundTransaction {
    let recipients = ["a@example.jp", "b@例え.jp", "c@example.jp"];
    let recipients = recipients.map(|text| Address::parse(text).unwrap().into());
    let envelope = Envelope {
        body: BodyType::EightBitMime,
        smtputf8: token % 2 == 1,
        ..Envelope::new(None, recipients.into())
    };
    OutboundTransaction {
        token: TransactionToken(token),
        envelope: Arc::new(envelope),
        recipients: vec![0, 1, 2],
        content: Rc::clone(content),
    }
}

/// Outcomes of each transaction, in the order in which they were told.
fn dialog(input: &[u8], piece_bytes: usize) -> BTreeMap<TransactionToken, usize> {
    let content = Rc::new("A: b\r\n\r\n.d\u{e9}\r\n".as_bytes().to_vec());
    let mut connection = ClientConnection::new(Rc::new(ClientSettings::default()), NOW);
    let (mut started, mut ends, mut out) = (0, BTreeMap::new(), Vec::new());
    let mut drain = |connection: &mut ClientConnection| {
        while let Some(event) = connection.poll_event() {
            let token = match event {
                ClientEvent::TransactionDone { token, results, .. } => {
                    assert_eq!(results.len(), 3);
                    token
                }
                ClientEvent::TransactionReturned(transaction) => transaction.token,
                _ => continue,
            };
            *ends.entry(token).or_insert(0) += 1;
        }
    };
    for piece in input.chunks(piece_bytes.max(1)) {
        connection.handle_input(piece, NOW);
        drain(&mut connection);
        while connection.can_start() && started < 1000 {
            connection.start(transaction(started, &content), NOW);
            started += 1;
            drain(&mut connection);
        }
        out.clear();
        while connection.poll_transmit(&mut out) {}
        assert!(out.is_empty() || out.ends_with(b"\r\n"));
    }
    connection.handle_closed(Disconnect::Eof, NOW);
    drain(&mut connection);
    assert!(connection.is_closed());
    assert_eq!(ends.len() as u64, started);
    ends
}

fuzz_target!(|data: &[u8]| {
    let [first, input @ ..] = data else { return };
    let step = usize::from(*first);
    let whole = replies(input, usize::MAX);
    assert_eq!(replies(input, step), whole);
    for reply in whole.0 {
        assert!(reply.text.len() <= REPLY_TEXT_BYTES_MAX);
        assert!(!reply.text.chars().any(|c| c.is_control() && c != '\n'));
    }
    for count in dialog(input, step).into_values() {
        assert_eq!(count, 1);
    }
    dialog(
        &[b"220 mx\r\n250-mx\r\n250-PIPELINING\r\n250 SIZE\r\n", input].concat(),
        usize::MAX,
    );
});
