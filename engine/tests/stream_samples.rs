//! Recorded segments of the other streams, and of a handover, still read back, and are still written so.
//!
//! As `segment_samples.rs`, which has the queue's records: files under the master key of 32 bytes 0x76 that
//! stay as they are; `RECORD_SEGMENTS=1 cargo test -p hikyaku-engine --test stream_samples` writes those
//! that are empty.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use engine::clock::UnixMs;
use engine::counters::{By, Counter, Counters, Window};
use engine::delivery_log::{LogBatch, LogRecord, read_batch};
use engine::envelope::BodyType;
use engine::ids::{HandoverId, Offset, QueueId, SegmentId, ShardId};
use engine::keys::{KeyRing, MasterKey};
use engine::phase::Phase;
use engine::queue::cipher::{SegmentName, Stream};
use engine::queue::record::{
    About, Message, Options, Outcome, OutcomeKind, OutcomeState, RecipientsBuf, Record,
};
use engine::queue::replay::{Contents, SegmentReader};
use engine::queue::segment::{
    SegmentHeader, SegmentWriter, file_name, free_file_name, handover_folder_name,
    parse_free_file_name, parse_handover_folder_name,
};
use engine::status::EnhancedStatus;
use engine::store::{BLOB_COUNTERS, BLOB_LOG_BATCH};

const COUNTERS: &[u8] = include_bytes!("segments/v2-counters.seg");
const LOG: &[u8] = include_bytes!("segments/v2-log.seg");
const HANDOVER: &[u8] = include_bytes!("segments/v2-handover.seg");

const START_MS: u64 = 1_764_000_000_000;

fn keys() -> KeyRing {
    KeyRing::new(MasterKey::from_bytes(&mut [0x76; 32]))
}

fn header(stream: Stream) -> SegmentHeader {
    SegmentHeader {
        name: SegmentName {
            stream,
            shard: ShardId(2),
            segment: SegmentId(11),
        },
        segment_bytes: 16 * 1024,
        created_ms: START_MS,
        key_id: keys().current_id(),
        nonce: [stream as u8; 16],
    }
}

fn segment(stream: Stream, records: &[Record<'_>]) -> Vec<u8> {
    let keys = keys();
    let mut writer = SegmentWriter::new(keys.current(), header(stream));
    let mut file = header(stream).encode(keys.current());
    for record in records {
        writer.append(record).unwrap();
    }
    file.extend(writer.take_batch().unwrap().bytes);
    file
}

fn read(file: &[u8], stream: Stream, mut each: impl FnMut(usize, Record<'_>)) {
    let name = header(stream).name;
    let mut reader = SegmentReader::open(file, &keys(), name, Contents::Read).unwrap();
    reader.push(file);
    reader.close_input();
    let mut count = 0;
    while let Some(found) = reader.next() {
        each(count, found.record);
        count += 1;
    }
    assert_eq!(reader.into_summary().damage, []);
}

/// The bytes of the one blob in a segment.
fn blob(file: &[u8], stream: Stream, kind: u16) -> Vec<u8> {
    let mut blob = None;
    read(file, stream, |_, record| match record {
        Record::Blob { kind: is, bytes } if is == kind => blob = Some(bytes.to_vec()),
        other => panic!("{other:?}"),
    });
    blob.unwrap()
}

const COVERED: (SegmentId, Offset) = (SegmentId(5), Offset(81_920));

fn counters() -> Vec<u8> {
    let mut counters = Counters::new(UnixMs(START_MS), 10, 10);
    let domain = counters.domain("example.com");
    let group = counters.group("newsletter");
    counters.raise(domain, group, Counter::Queued, 3);
    for (minutes, n) in [(0, 1), (61, 200), (66, 70_000)] {
        counters.advance(UnixMs(START_MS + minutes * 60_000));
        counters.count(domain, group, Counter::Delivered, n);
        counters.count(domain, group, Counter::Tempfail, 2 * n);
    }
    let mut saved = Vec::new();
    counters.save(COVERED, &mut saved);
    let kind = BLOB_COUNTERS;
    let bytes = &saved;
    segment(Stream::Counters, &[Record::Blob { kind, bytes }])
}

fn log_lines() -> [LogRecord<'static>; 2] {
    let line = |id, kind| LogRecord::new(UnixMs(START_MS), QueueId(id), kind, ShardId(2));
    [
        line(1, OutcomeKind::Delivered),
        LogRecord {
            message_id: b"<20251124.1@lists.example.jp>",
            group: b"newsletter",
            tags: b"X-Campaign=42;",
            reverse_path: b"bounce+1@lists.example.jp",
            forward_path: b"first@example.com",
            domain: b"example.com",
            site: b"mx.example.com",
            attempt: 3,
            class: b"mailbox-full",
            phase: Some(Phase::Rcpt),
            enhanced: Some(EnhancedStatus::new(4, 2, 2)),
            reply: "450 4.2.2 \u{6e80}\u{676f}".as_bytes(),
            dns: b"mx.example.com 10",
            source_ip: Some([192, 0, 2, 1].into()),
            dest_ip: Some("2001:db8::25".parse().unwrap()),
            dest_host: b"mx.example.com",
            greeting: b"220 mx.example.com",
            tls: b"TLS1.3",
            delay_queue_ms: 70_000,
            delay_connect_ms: Some(12),
            delay_send_ms: Some(0),
            size: 1 << 20,
            ..line(2, OutcomeKind::Deferred)
        },
    ]
}

fn log() -> Vec<u8> {
    let mut batch = LogBatch::new();
    for line in log_lines() {
        batch.push(&line);
    }
    let kind = BLOB_LOG_BATCH;
    let bytes = &batch.take();
    segment(Stream::DeliveryLog, &[Record::Blob { kind, bytes }])
}

fn handover() -> HandoverId {
    HandoverId::from_random(0x0123_4567_89ab)
}

/// A message that came by a handover, and an outcome of one that went by it.
fn handed_over(recipients: &RecipientsBuf) -> [Record<'_>; 2] {
    let about = About {
        queue_id: QueueId(3),
        segment: SegmentId(7),
    };
    let state = OutcomeState::handed_over(1, 2, handover());
    [
        Record::Message(Message {
            queue_id: QueueId(0x0123_4567_89ab_cdef),
            accepted_ms: START_MS,
            body: BodyType::SevenBit,
            smtputf8: false,
            pending: false,
            handover: Some(handover()),
            reverse_path: None,
            recipients: recipients.recipients(),
            group: None,
            tags: "",
            message_id: None,
            peer: None,
            options: Options::NONE,
            content: b"Subject: x\r\n\r\n",
            content_bytes: 14,
        }),
        Record::Outcome(Outcome { about, state }),
    ]
}

fn recipients() -> RecipientsBuf {
    let mut recipients = RecipientsBuf::new();
    recipients.domain("example.com", "a@example.com").unwrap();
    recipients
}

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "records the samples, when asked to"
)]
fn streams_are_still_written_as_recorded() {
    let recipients = recipients();
    let handover = segment(Stream::Queue, &handed_over(&recipients));
    for (name, recorded, written) in [
        ("v2-counters.seg", COUNTERS, counters()),
        ("v2-log.seg", LOG, log()),
        ("v2-handover.seg", HANDOVER, handover),
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
fn recorded_counts_come_back_with_their_windows() {
    let saved = blob(COUNTERS, Stream::Counters, BLOB_COUNTERS);
    let mut counters = Counters::new(UnixMs(START_MS + 70 * 60_000), 10, 10);
    assert_eq!(counters.restore(&saved), Ok(COVERED));
    let delivered = |window| {
        let table = counters.table(By::Domain, window);
        let buckets = table.rows()["example.com"].iter();
        buckets
            .map(|values| values[Counter::Delivered as usize])
            .collect::<Vec<_>>()
    };
    assert_eq!(delivered(Window::All), [70_201]);
    assert_eq!(delivered(Window::Hours), [0, 0, 0, 0, 1, 70_200]);
    let minutes = delivered(Window::Minutes);
    assert_eq!(minutes[10..], [70_000, 0]);
    assert_eq!(minutes[9], 200);
    assert_eq!(counters.total(Counter::Tempfail), 140_402);
    assert_eq!(counters.total(Counter::Queued), 0);
}

#[test]
fn recorded_log_lines_come_back() {
    let bytes = blob(LOG, Stream::DeliveryLog, BLOB_LOG_BATCH);
    let (head, lines) = read_batch(&bytes).unwrap();
    assert_eq!(
        (head.records, head.first, head.last),
        (2, UnixMs(START_MS), UnixMs(START_MS))
    );
    let lines: Vec<_> = lines.map(Result::unwrap).collect();
    assert_eq!(lines, log_lines());
}

#[test]
fn recorded_handover_comes_back() {
    let recipients = recipients();
    let expected = handed_over(&recipients);
    let mut count = 0;
    read(HANDOVER, Stream::Queue, |i, record| {
        assert_eq!(record, expected[i]);
        if let Record::Outcome(outcome) = record {
            assert_eq!(outcome.state.handover(), Some(handover()));
        }
        count += 1;
    });
    assert_eq!(count, 2);
}

#[test]
fn names_on_disk_stay_as_they_are() {
    assert_eq!(file_name(SegmentId(41)), "00000041.seg");
    assert_eq!(free_file_name(SegmentId(17)), "00000017.free");
    assert_eq!(parse_free_file_name("00000017.free"), Some(SegmentId(17)));
    let folder = "queue.handover-0123456789ab";
    assert_eq!(handover_folder_name(handover()), folder);
    assert_eq!(parse_handover_folder_name(folder), Some(handover()));
}
