//! Any octets as the original header section, and any text as what a server said: the report
//! keeps its structure. Any octets as content to be made 7-bit.
#![no_main]

use engine::address::Address;
use engine::clock::UnixMs;
use engine::dsn::{Action, Diagnostic, DsnRecipient, DsnRequest, build};
use engine::ids::QueueId;
use engine::message::downgrade;
use engine::smtp::reply::ReplyParser;
use engine::status::EnhancedStatus;
use libfuzzer_sys::fuzz_target;

fn report(data: &[u8], to: &str) {
    let said = String::from_utf8_lossy(data);
    let wire = [b"550 5.1.1 ", data, b"\r\n"].concat();
    let mut parser = ReplyParser::default();
    let reply = match parser.next(&mut &wire[..]) {
        Ok(Some(view)) => Some(view.to_reply()),
        _ => None,
    };
    let to = Address::parse(to).unwrap();
    let recipient = DsnRecipient {
        final_recipient: &said,
        action: Action::Failed,
        status: EnhancedStatus::new(5, 1, 1),
        diagnostic: reply
            .as_ref()
            .map_or(Diagnostic::Text(&said), Diagnostic::Reply),
        remote_mta: Some(&said),
        last_attempt: None,
    };
    let delayed = DsnRecipient {
        action: Action::Delayed {
            until: UnixMs(data.len() as u64),
        },
        ..recipient.clone()
    };
    let request = DsnRequest {
        reporting_mta: "relay.example",
        id: QueueId(2),
        original_id: QueueId(1),
        arrival: UnixMs(0),
        to: &to,
        recipients: &[recipient, delayed],
        header_section: data,
        whole: None,
        now: UnixMs(u64::MAX),
    };
    let content = build(&request);
    assert!(content.ends_with(b"--\r\n"));
    assert!(request.envelope().smtputf8 || content.is_ascii());
    let text = String::from_utf8_lossy(&content);
    let (_, rest) = text.split_once("boundary=\"").unwrap();
    let delimiter = format!("--{}", rest.split_once('"').unwrap().0);
    let lines = text
        .split("\r\n")
        .filter(|line| line.starts_with(&delimiter))
        .count();
    assert_eq!(lines, 4);
}

fuzz_target!(|data: &[u8]| {
    report(data, "sender@example.jp");
    report(data, "送信者@example.jp");
    if let Ok(seven_bit) = downgrade(data) {
        assert!(seven_bit.len() <= 8 * data.len() + 200);
        assert!(seven_bit.ends_with(b"\r\n"));
    }
});
