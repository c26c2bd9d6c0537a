use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::envelope::BodyType;
use crate::ids::HandoverId;

fn round_trip(record: &Record<'_>) {
    let body_bytes = record.body_bytes(0).unwrap();
    let mut out = Vec::new();
    record.encode(body_bytes, &[], &mut out);
    assert_eq!(out.len(), record_bytes(body_bytes));
    let header = Header::parse(out.first_chunk().unwrap()).unwrap();
    assert_eq!(
        header,
        Header {
            kind: record.kind(),
            body_bytes
        }
    );
    let body = &out[RECORD_HEADER_BYTES..][..body_bytes];
    assert_eq!(Record::decode(header.kind, body).as_ref(), Ok(record));
    for cut in 0..body_bytes.min(200) {
        // Shorter content or blob is still one; anything else must be refused.
        if let Ok(cut) = Record::decode(header.kind, &body[..cut]) {
            assert!(matches!(
                cut,
                Record::Message(_) | Record::Moved(_) | Record::Blob { .. }
            ));
        }
    }
}

fn recipients(domains: &[(String, Vec<String>)]) -> RecipientsBuf {
    let mut buf = RecipientsBuf::new();
    for (domain, locals) in domains {
        for (i, local) in locals.iter().enumerate() {
            let address = format!("{local}@{domain}");
            if i == 0 {
                buf.domain(domain, &address)
            } else {
                buf.recipient(&address)
            }
            .unwrap();
        }
    }
    buf
}

fn states() -> impl Strategy<Value = Vec<OutcomeState>> {
    let state = (0..3u16, 1..3u16, 1..8u8, any::<u16>(), any::<u32>()).prop_map(
        |(first, count, kind, attempts, next_retry_s)| OutcomeState {
            first,
            count,
            kind: OutcomeKind::from_number(kind).unwrap(),
            attempts,
            next_retry_s,
        },
    );
    prop::collection::vec(state, 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn message_reads_back(
        queue_id in any::<u64>(),
        accepted_ms in any::<u64>(),
        flags in any::<(bool, bool, bool)>(),
        reverse_path in prop::option::of("[a-z]{1,9}@[a-z]{1,9}"),
        texts in ("\\PC{0,40}", prop::option::of("\\PC{0,40}"), prop::option::of("\\PC{0,40}")),
        domains in prop::collection::vec(
            ("[a-z.]{1,30}", prop::collection::vec("\\PC{1,20}", 1..4)), 1..5),
        peer in prop::option::of(any::<IpAddr>()),
        content in prop::collection::vec(any::<u8>(), 0..3000),
        states in states(),
    ) {
        let buf = recipients(&domains);
        let message = Message {
            queue_id: QueueId(queue_id),
            accepted_ms,
            body: if flags.0 { BodyType::EightBitMime } else { BodyType::SevenBit },
            smtputf8: flags.1,
            pending: flags.2,
            handover: flags.2.then(|| HandoverId::from_random(content.len() as u64)),
            reverse_path: reverse_path.as_deref(),
            recipients: buf.recipients(),
            group: texts.1.as_deref(),
            tags: &texts.0,
            message_id: texts.2.as_deref(),
            peer,
            options: Options::NONE,
            content: &content,
            content_bytes: content.len() as u32,
        };
        round_trip(&Record::Message(message));

        let given: Vec<_> =
            domains.iter().flat_map(|(d, l)| l.iter().map(move |l| format!("{l}@{d}"))).collect();
        let read: Vec<_> = message.recipients.iter().map(|r| r.address).collect();
        prop_assert_eq!(read, given);
        for (i, recipient) in message.recipients.iter().enumerate() {
            prop_assert_eq!(usize::from(recipient.index), i);
            prop_assert!(recipient.address.ends_with(recipient.domain));
        }
        let states: Vec<_> = states
            .into_iter()
            .filter(|state| state.recipients().end <= message.recipients.len())
            .collect();
        round_trip(&Record::Moved(Moved {
            from: SegmentId(7),
            states: OutcomeStates::new(&states),
            message,
        }));
    }

    #[test]
    fn notes_read_back(queue_id in any::<u64>(), segment in any::<u32>(), states in states()) {
        let about = About { queue_id: QueueId(queue_id), segment: SegmentId(segment) };
        round_trip(&Record::Commit(about));
        round_trip(&Record::Cancel(about));
        round_trip(&Record::Seal(Seal { records: segment, record_bytes: !segment }));
        for state in states {
            round_trip(&Record::Outcome(Outcome { about, state }));
        }
    }

    #[test]
    fn blob_reads_back(kind in any::<u16>(), bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        round_trip(&Record::Blob { kind, bytes: &bytes });
    }

    #[test]
    fn decoding_never_panics(
        kind in 1u8..9,
        mut body in prop::collection::vec(any::<u8>(), 0..200),
        head in 4u32..200,
        flags in any::<u8>(),
    ) {
        let kind = Kind::from_number(kind).unwrap();
        let _ = Record::decode(kind, &body);
        // Once more with the first fields plausible, to get beyond them.
        if body.len() > 24 {
            body[..4].copy_from_slice(&head.to_le_bytes());
            body[20] = flags;
            body[21] = 0;
        }
        if let Ok(Record::Message(message)) = Record::decode(kind, &body) {
            prop_assert_eq!(message.recipients.iter().count(), message.recipients.len());
        }
    }

    #[test]
    fn states_merge_in_any_order(states in states()) {
        let merged = |states: &mut dyn Iterator<Item = OutcomeState>| {
            states.reduce(OutcomeState::merge).map(|s| (s.kind, s.attempts, s.next_retry_s))
        };
        let forward = merged(&mut states.iter().copied());
        let backward = merged(&mut states.iter().rev().copied());
        let twice = merged(&mut states.iter().chain(&states).copied());
        prop_assert_eq!(forward, backward);
        prop_assert_eq!(forward, twice);
    }
}

#[test]
fn fields_over_their_bounds_are_refused() {
    let mut buf = RecipientsBuf::new();
    buf.domain("example.jp", "a@example.jp").unwrap();
    let long = "x".repeat(9000);
    let plain = Message {
        queue_id: QueueId(1),
        accepted_ms: 0,
        body: BodyType::SevenBit,
        smtputf8: false,
        pending: false,
        handover: None,
        reverse_path: None,
        recipients: buf.recipients(),
        group: None,
        tags: "",
        message_id: None,
        peer: None,
        options: Options::NONE,
        content: b"",
        content_bytes: 0,
    };
    let refused = |message: Message<'_>, extra| match Record::Message(message).body_bytes(extra) {
        Err(EncodeError::TooLong { field, .. }) => field,
        Ok(_) => "",
    };
    assert_eq!(refused(plain, 0), "");
    assert_eq!(
        refused(
            Message {
                reverse_path: Some(&long),
                ..plain
            },
            0
        ),
        "reverse-path"
    );
    assert_eq!(
        refused(
            Message {
                group: Some(&long),
                ..plain
            },
            0
        ),
        "group"
    );
    assert_eq!(
        refused(
            Message {
                tags: &long,
                ..plain
            },
            0
        ),
        "tags"
    );
    assert_eq!(
        refused(
            Message {
                message_id: Some(&long),
                ..plain
            },
            0
        ),
        "Message-ID"
    );
    assert_eq!(refused(plain, message::CONTENT_BYTES_MAX), "");
    assert_eq!(refused(plain, message::CONTENT_BYTES_MAX + 1), "content");
}

#[test]
fn recipients_over_their_bounds_are_refused() {
    let mut buf = RecipientsBuf::new();
    assert_eq!(
        buf.recipient("a@example.jp"),
        Err(RecipientsError::NoDomain)
    );
    assert_eq!(buf.domain("", "a@"), Err(RecipientsError::BadLength));
    assert_eq!(
        buf.domain("example.jp", ""),
        Err(RecipientsError::BadLength)
    );
    let long = "x".repeat(message::ADDRESS_BYTES_MAX + 1);
    assert_eq!(
        buf.domain("example.jp", &long),
        Err(RecipientsError::BadLength)
    );
    assert!(
        buf.recipients().is_empty(),
        "what was refused left nothing behind"
    );
    buf.domain("example.jp", "0@example.jp").unwrap();
    for n in 1..message::RECIPIENTS_MAX {
        buf.recipient(&format!("{n}@example.jp")).unwrap();
    }
    assert_eq!(
        buf.recipient("last@example.jp"),
        Err(RecipientsError::TooMany)
    );
    assert_eq!(
        buf.domain("example.com", "last@example.com"),
        Err(RecipientsError::TooMany)
    );
    assert_eq!(buf.recipients().len(), message::RECIPIENTS_MAX);
    assert_eq!(buf.recipients().domains_len(), 1);
    buf.clear();
    assert_eq!(
        buf.recipient("a@example.jp"),
        Err(RecipientsError::NoDomain)
    );
}

#[test]
fn header_of_another_kind_length_or_check_is_none() {
    let good = header_bytes(Kind::Seal, 8);
    assert!(Header::parse(&good).is_some());
    for (at, value) in [(4, 0), (4, 9), (5, 1), (6, 0), (7, 0), (3, 0xff)] {
        let mut bad = good;
        bad[at] = value;
        assert_eq!(Header::parse(&bad), None, "byte {at} set to {value}");
    }
}
