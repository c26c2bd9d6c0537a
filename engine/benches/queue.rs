//! What a message costs the queue: encoded, encrypted and authenticated; read back at replay.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![allow(clippy::unwrap_used, reason = "a benchmark may stop")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::envelope::BodyType;
use engine::ids::{QueueId, SegmentId, ShardId};
use engine::keys::{KeyRing, MasterKey};
use engine::queue::cipher::{SegmentName, Stream};
use engine::queue::record::{
    About, Message, Options, Outcome, OutcomeKind, OutcomeState, Recipients, RecipientsBuf, Record,
};
use engine::queue::replay::{Contents, SegmentReader};
use engine::queue::segment::{
    AppendError, BLOCK_BYTES, SEGMENT_BYTES_DEFAULT, SegmentHeader, SegmentWriter,
};

/// Appends per group commit.
const BATCH_RECORDS: u64 = 64;

fn keys() -> KeyRing {
    KeyRing::new(MasterKey::from_bytes(&mut [7; 32]))
}

fn header(keys: &KeyRing) -> SegmentHeader {
    let name = SegmentName {
        stream: Stream::Queue,
        shard: ShardId(0),
        segment: SegmentId(1),
    };
    SegmentHeader {
        name,
        segment_bytes: SEGMENT_BYTES_DEFAULT,
        created_ms: 0,
        key_id: keys.current_id(),
        nonce: [9; 16],
    }
}

fn message<'a>(id: u64, recipients: Recipients<'a>, content: &'a [u8]) -> Record<'a> {
    Record::Message(Message {
        queue_id: QueueId(id),
        accepted_ms: id,
        body: BodyType::EightBitMime,
        smtputf8: false,
        pending: false,
        handover: None,
        reverse_path: Some("bounce+campaign-2026@lists.example.jp"),
        recipients,
        group: Some("newsletter"),
        tags: "X-Hikyaku-Tag=campaign-2026;",
        message_id: Some("<20261124.0001@lists.example.jp>"),
        peer: Some([127, 0, 0, 1].into()),
        options: Options::NONE,
        content,
        content_bytes: 0,
    })
}

fn recipients() -> RecipientsBuf {
    let mut recipients = RecipientsBuf::new();
    recipients
        .domain("example.com", "someone.or.other@example.com")
        .unwrap();
    recipients
}

/// Appends until the segment is full; each batch goes to `write` and its memory back.
fn append(c: &mut Criterion) {
    let keys = keys();
    let recipients = recipients();
    let content = vec![b'x'; 1024];
    let large = vec![b'x'; 100 << 10];
    let mut group = c.benchmark_group("append");
    let outcome = Record::Outcome(Outcome {
        about: About {
            queue_id: QueueId(1),
            segment: SegmentId(1),
        },
        state: OutcomeState {
            first: 0,
            count: 1,
            kind: OutcomeKind::Delivered,
            attempts: 1,
            next_retry_s: 0,
        },
    });
    for (name, record) in [
        (
            "message 1 KB",
            message(1, recipients.recipients(), &content),
        ),
        (
            "message 100 KB",
            message(1, recipients.recipients(), &large),
        ),
        ("outcome", outcome),
    ] {
        let mut writer = SegmentWriter::new(keys.current(), header(&keys));
        let mut count = 0;
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |b| {
            b.iter(|| {
                count += 1;
                if count % BATCH_RECORDS == 0
                    && let Some(batch) = writer.take_batch()
                {
                    writer.recycle(black_box(batch).bytes);
                }
                if let Err(AppendError::Full { .. }) = writer.append(black_box(&record)) {
                    writer = SegmentWriter::new(keys.current(), header(&keys));
                }
            });
        });
    }
    group.finish();
}

/// A full segment of 1 KB messages, and how many.
fn full_segment(keys: &KeyRing) -> (Vec<u8>, u64) {
    let recipients = recipients();
    let content = vec![b'x'; 1024];
    let mut file = header(keys).encode(keys.current());
    let mut writer = SegmentWriter::new(keys.current(), header(keys));
    let mut count = 0;
    while writer
        .append(&message(count, recipients.recipients(), &content))
        .is_ok()
    {
        count += 1;
        if count % BATCH_RECORDS == 0 {
            let batch = writer.take_batch().unwrap();
            writer.durable(batch.end());
            file.extend_from_slice(&batch.bytes);
        }
    }
    file.extend(
        writer
            .take_batch()
            .map(|batch| batch.bytes)
            .unwrap_or_default(),
    );
    file.extend(writer.seal().unwrap().bytes);
    assert_eq!(file.len() % BLOCK_BYTES, 0);
    (file, count)
}

fn replay(c: &mut Criterion) {
    let keys = keys();
    let (file, count) = full_segment(&keys);
    let mut group = c.benchmark_group("replay 64 MiB of 1 KB messages");
    group.sample_size(10);
    for (name, throughput, contents) in [
        (
            "messages, envelopes only",
            Throughput::Elements(count),
            Contents::Skip,
        ),
        (
            "bytes, envelopes only",
            Throughput::Bytes(file.len() as u64),
            Contents::Skip,
        ),
        (
            "bytes, contents too",
            Throughput::Bytes(file.len() as u64),
            Contents::Read,
        ),
    ] {
        group.throughput(throughput);
        group.bench_function(name, |b| {
            b.iter(|| {
                let name = header(&keys).name;
                let mut reader = SegmentReader::open(&file, &keys, name, contents).unwrap();
                let mut seen = 0;
                for chunk in file.chunks(1 << 20) {
                    reader.push(chunk);
                    while let Some(found) = reader.next() {
                        seen += u64::from(black_box(found).record.queue_id().is_some());
                    }
                }
                assert_eq!(seen, count);
            });
        });
    }
    group.finish();
}

/// The whole of a recycled segment searched after a crash right at its beginning.
fn search(c: &mut Criterion) {
    let keys = keys();
    let (mut file, _) = full_segment(&keys);
    let again = SegmentHeader {
        nonce: [10; 16],
        ..header(&keys)
    };
    file[..BLOCK_BYTES].copy_from_slice(&again.encode(keys.current()));
    let mut group = c.benchmark_group("search 64 MiB of stale records");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(file.len() as u64));
    group.bench_function("nothing found", |b| {
        b.iter(|| {
            let name = again.name;
            let mut reader = SegmentReader::open(&file, &keys, name, Contents::Skip).unwrap();
            for chunk in file.chunks(1 << 20) {
                reader.push(chunk);
                assert!(reader.next().is_none());
            }
        });
    });
    group.finish();
}

criterion_group!(benches, append, replay, search);
criterion_main!(benches);
