//! Recorded segments of each released format still read back, and the writer still writes them.
//!
//! `segments/v2-*.seg` are under the master key of 32 bytes 0x76. When the format changes, they
//! stay as they are, the reader goes on reading them, and files of the new version come beside
//! them: `RECORD_SEGMENTS=1 cargo test -p hikyaku-engine --test segment_samples` writes files that
//! do not exist yet or are empty.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use engine::address::Address;
use engine::envelope::{BodyType, Notify, Recipient};
use engine::ids::{Offset, QueueId, SegmentId, ShardId};
use engine::keys::{KeyError, KeyRing, MasterKey, Verifier, derive};
use engine::queue::cipher::{SegmentName, Stream};
use engine::queue::record::options::put_recipient;
use engine::queue::record::{
    About, Message, Moved, Options, Outcome, OutcomeKind, OutcomeState, OutcomeStates,
    RecipientsBuf, Record,
};
use engine::queue::replay::{Contents, SegmentEnd, SegmentReader, Summary};
use engine::queue::segment::{BLOCK_BYTES, SegmentHeader, SegmentWriter};

const SEALED: &[u8] = include_bytes!("segments/v2-sealed.seg");
const TORN: &[u8] = include_bytes!("segments/v2-torn.seg");
const RECYCLED: &[u8] = include_bytes!("segments/v2-recycled.seg");

const CONTENT: &[u8] = b"Subject: =?utf-8?B?5pel5pys?=\r\n\r\nOnce upon a time\r\n";

/// RET=HDRS, ENVID=QQ314159, and an option of a later version.
const OPTIONS: &[u8] = b"\x01\x01\x00\x02\x02\x08\x00QQ314159\x20\x01\x00x";

fn keys() -> KeyRing {
    KeyRing::new(MasterKey::from_bytes(&mut [0x76; 32]))
}

fn header(segment: u32) -> SegmentHeader {
    SegmentHeader {
        name: SegmentName {
            stream: Stream::Queue,
            shard: ShardId(2),
            segment: SegmentId(segment),
        },
        segment_bytes: 32 * 1024,
        created_ms: 1_764_000_000_000,
        key_id: keys().current_id(),
        nonce: [segment as u8; 16],
    }
}

fn recipients() -> RecipientsBuf {
    let mut recipients = RecipientsBuf::new();
    recipients
        .domain("example.com", "first@example.com")
        .unwrap();
    let mut options = Vec::new();
    let second = Recipient {
        notify: Notify::SUCCESS.with(Notify::FAILURE),
        orcpt: Some("rfc822;Second@EXAMPLE.com".into()),
        ..Recipient::from(Address::parse("Second@EXAMPLE.com").unwrap())
    };
    put_recipient(&second, &mut options);
    recipients
        .recipient_with(second.as_str(), Options::decode(&options).unwrap())
        .unwrap();
    recipients
        .domain(
            "xn--wgv71a119e.example",
            "\u{65e5}\u{672c}@\u{65e5}\u{672c}\u{8a9e}.example",
        )
        .unwrap();
    recipients
}

const STATES: [OutcomeState; 2] = [
    OutcomeState {
        first: 0,
        count: 1,
        kind: OutcomeKind::Delivered,
        attempts: 1,
        next_retry_s: 0,
    },
    OutcomeState {
        first: 1,
        count: 2,
        kind: OutcomeKind::Deferred,
        attempts: 4,
        next_retry_s: 1_764_003_600,
    },
];

/// One record of each kind, and messages with everything and with nothing.
fn records(recipients: &RecipientsBuf) -> Vec<Record<'_>> {
    let full = Message {
        queue_id: QueueId(0x0123_4567_89ab_cdef),
        accepted_ms: 1_764_000_000_123,
        body: BodyType::EightBitMime,
        smtputf8: true,
        pending: true,
        handover: None,
        reverse_path: Some("bounce+1@lists.example.jp"),
        recipients: recipients.recipients(),
        group: Some("newsletter"),
        tags: "X-Campaign=42;X-User=u-7;",
        message_id: Some("<20251124.1@lists.example.jp>"),
        peer: Some([192, 0, 2, 25].into()),
        options: Options::decode(OPTIONS).unwrap(),
        content: CONTENT,
        content_bytes: CONTENT.len() as u32,
    };
    let plain = Message {
        queue_id: QueueId(2),
        accepted_ms: 1,
        body: BodyType::SevenBit,
        smtputf8: false,
        pending: false,
        handover: None,
        reverse_path: None,
        group: None,
        tags: "",
        message_id: None,
        peer: Some("2001:db8::25".parse().unwrap()),
        options: Options::NONE,
        content: b"",
        content_bytes: 0,
        ..full
    };
    let about = About {
        queue_id: full.queue_id,
        segment: SegmentId(7),
    };
    let mut records = vec![
        Record::Message(full),
        Record::Message(Message {
            peer: None,
            ..plain
        }),
        Record::Message(plain),
        Record::Commit(about),
        Record::Cancel(About {
            queue_id: QueueId(2),
            segment: SegmentId(6),
        }),
        Record::Moved(Moved {
            from: SegmentId(3),
            states: OutcomeStates::new(&STATES),
            message: full,
        }),
        Record::Blob {
            kind: 513,
            bytes: b"some other state",
        },
    ];
    records.extend(OutcomeKind::ALL.map(|kind| {
        Record::Outcome(Outcome {
            about,
            state: OutcomeState { kind, ..STATES[1] },
        })
    }));
    records
}

/// Three batches with a seal.
fn sealed() -> Vec<u8> {
    let keys = keys();
    let recipients = recipients();
    let mut writer = SegmentWriter::new(keys.current(), header(7));
    let mut file = header(7).encode(keys.current());
    for (i, record) in records(&recipients).iter().enumerate() {
        writer.append(record).unwrap();
        if i == 4 {
            let batch = writer.take_batch().unwrap();
            writer.durable(batch.end());
            file.extend(batch.bytes);
        }
    }
    let batch = writer.take_batch().unwrap();
    writer.durable(batch.end());
    file.extend(batch.bytes);
    file.extend(writer.seal().unwrap().bytes);
    file
}

/// Two batches, the second cut within its third record.
fn torn() -> Vec<u8> {
    let keys = keys();
    let recipients = recipients();
    let mut writer = SegmentWriter::new(keys.current(), header(8));
    let mut file = header(8).encode(keys.current());
    for record in &records(&recipients)[..3] {
        writer.append(record).unwrap();
    }
    let batch = writer.take_batch().unwrap();
    writer.durable(batch.end());
    file.extend(batch.bytes);
    let mut cut = 0;
    for record in &records(&recipients)[3..6] {
        cut = writer.append(record).unwrap().offset.0 as usize + 40;
    }
    file.extend(writer.take_batch().unwrap().bytes);
    file[cut..].fill(0);
    file
}

/// A new segment over the sealed one: one batch, and stale records behind.
fn recycled() -> Vec<u8> {
    let keys = keys();
    let mut file = sealed();
    file[..BLOCK_BYTES].copy_from_slice(&header(9).encode(keys.current()));
    let mut writer = SegmentWriter::new(keys.current(), header(9));
    writer
        .append(&Record::Blob {
            kind: 1,
            bytes: b"new",
        })
        .unwrap();
    let batch = writer.take_batch().unwrap().bytes;
    file[BLOCK_BYTES..BLOCK_BYTES + batch.len()].copy_from_slice(&batch);
    file
}

/// Calls `each` with the number and value of each record.
fn read(file: &[u8], segment: u32, mut each: impl FnMut(usize, Record<'_>)) -> Summary {
    let mut reader =
        SegmentReader::open(file, &keys(), header(segment).name, Contents::Read).unwrap();
    assert_eq!(reader.header(), &header(segment));
    reader.push(file);
    reader.close_input();
    let mut count = 0;
    while let Some(found) = reader.next() {
        each(count, found.record);
        count += 1;
    }
    reader.into_summary()
}

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "records the samples, when asked to"
)]
fn writer_still_writes_the_recorded_bytes() {
    for (name, recorded, written) in [
        ("v2-sealed.seg", SEALED, sealed()),
        ("v2-torn.seg", TORN, torn()),
        ("v2-recycled.seg", RECYCLED, recycled()),
    ] {
        if recorded.is_empty() && std::env::var_os("RECORD_SEGMENTS").is_some() {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/segments/");
            std::fs::write(format!("{folder}{name}"), &written).unwrap();
            continue;
        }
        assert!(
            recorded == written,
            "{name}: the format has changed without a new version"
        );
    }
}

#[test]
fn sealed_sample_holds_every_kind_of_record() {
    let recipients = recipients();
    let expected = records(&recipients);
    let mut count = 0;
    let summary = read(SEALED, 7, |i, record| {
        assert_eq!(record, expected[i]);
        count += 1;
    });
    assert_eq!(count, expected.len());
    assert_eq!(summary.end, SegmentEnd::Sealed);
    assert_eq!(summary.damage, []);
    let seal = summary.seal.unwrap();
    assert_eq!(
        (seal.records, seal.record_bytes),
        (summary.records, summary.record_bytes)
    );
}

#[test]
fn torn_sample_ends_where_it_was_cut() {
    let recipients = recipients();
    let expected = records(&recipients);
    let mut count = 0;
    let summary = read(TORN, 8, |i, record| {
        assert_eq!(record, expected[i]);
        count += 1;
    });
    assert_eq!(count, 5);
    assert_eq!(summary.damage, []);
    let moved_at = 2 * BLOCK_BYTES as u32 + 48 + 48 + 48;
    assert_eq!(
        summary.end,
        SegmentEnd::TornTail {
            offset: Offset(moved_at)
        }
    );
}

#[test]
fn recycled_sample_holds_only_what_is_new() {
    let mut count = 0;
    let summary = read(RECYCLED, 9, |_, record| {
        assert_eq!(
            record,
            Record::Blob {
                kind: 1,
                bytes: b"new"
            }
        );
        count += 1;
    });
    assert_eq!(count, 1);
    assert_eq!(summary.damage, []);
    let end = 2 * BLOCK_BYTES as u32;
    assert_eq!(
        summary.end,
        SegmentEnd::TornTail {
            offset: Offset(end)
        }
    );
}

/// The derivation is part of the format too: a change would lock everyone out of their queue.
#[test]
fn recorded_verifier_still_knows_its_passphrase() {
    let text = include_str!("segments/v1-verifier.txt");
    let secret: Vec<u8> = (0..32).collect();
    let verifier = Verifier::parse(text).unwrap();
    let key = derive(
        "correct horse \u{99ac}".as_bytes(),
        &secret,
        verifier.params(),
    )
    .unwrap();
    verifier.check(&key).unwrap();
    let other = derive(b"incorrect horse", &secret, verifier.params()).unwrap();
    assert!(matches!(
        verifier.check(&other),
        Err(KeyError::WrongKey { .. })
    ));
    assert_eq!(verifier.encode(), text);
}
