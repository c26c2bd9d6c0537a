//! Bytes taken for records, headers and verifiers: none may panic, and what decodes is written and
//! read back as the same.
#![no_main]

use engine::ids::{SegmentId, ShardId};
use engine::keys::{KeyRing, MasterKey, Verifier};
use engine::queue::cipher::{SegmentName, Stream};
use engine::queue::record::{Header, Kind, Record};
use engine::queue::replay::{Contents, SegmentReader};
use engine::queue::segment::{SegmentHeader, SegmentWriter};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&kind, body)) = data.split_first() else {
        return;
    };
    if let Some(kind) = Kind::from_number(kind) {
        if let Ok(record) = Record::decode(kind, body) {
            walk(&record);
            write_and_read_back(&record);
        }
        return;
    }
    if let Some(header) = body.first_chunk().and_then(Header::parse) {
        assert!(header.record_bytes() > header.body_bytes);
    }
    let mut front = body.to_vec();
    front.resize(4096, 0);
    front[..8].copy_from_slice(b"Hikyaku\0");
    let _ = SegmentHeader::peek(&front);
    if let Ok(text) = std::str::from_utf8(body)
        && let Ok(verifier) = Verifier::parse(text)
    {
        assert_eq!(Verifier::parse(&verifier.encode()), Ok(verifier));
    }
    garbled(body);
});

fn walk(record: &Record<'_>) {
    if let Record::Message(message) = record {
        let recipients = message.recipients;
        assert_eq!(recipients.iter().count(), recipients.len());
        assert_eq!(recipients.domains().count(), recipients.domains_len());
        let in_order = recipients.iter().enumerate().all(|(i, r)| usize::from(r.index) == i);
        assert!(in_order);
    }
    if let Record::Moved(moved) = record {
        assert_eq!(moved.states.iter().count(), moved.states.len());
    }
}

fn header(keys: &KeyRing) -> SegmentHeader {
    SegmentHeader {
        name: SegmentName { stream: Stream::Queue, shard: ShardId(0), segment: SegmentId(1) },
        segment_bytes: 1024 * 1024,
        created_ms: 0,
        key_id: keys.current_id(),
        nonce: [3; 16],
    }
}

fn write_and_read_back(record: &Record<'_>) {
    let keys = KeyRing::new(MasterKey::from_bytes(&mut [5; 32]));
    let header = header(&keys);
    let mut file = header.encode(keys.current());
    let mut writer = SegmentWriter::new(keys.current(), header);
    // A field over the writer's bound cannot be written, however it came to be.
    let Ok(placement) = writer.append(record) else {
        return;
    };
    file.extend(writer.take_batch().map(|batch| batch.bytes).unwrap_or_default());
    let mut reader =
        SegmentReader::open(&file, &keys, header.name, Contents::Read).expect("our own header");
    reader.push(&file);
    reader.close_input();
    if matches!(record, Record::Seal(_)) {
        assert!(reader.next().is_none());
        return;
    }
    let found = reader.next().expect("what was written");
    assert_eq!(found.placement, placement);
    assert_eq!(found.record, *record);
}

/// A segment with `bytes` laid over its second block.
fn garbled(bytes: &[u8]) {
    let keys = KeyRing::new(MasterKey::from_bytes(&mut [5; 32]));
    let header = header(&keys);
    let mut file = header.encode(keys.current());
    let mut writer = SegmentWriter::new(keys.current(), header);
    for blob in [&b"first"[..], &[7; 3000], &[8; 3000], b"last"] {
        writer.append(&Record::Blob { kind: 1, bytes: blob }).expect("there is room");
    }
    file.extend(writer.take_batch().map(|batch| batch.bytes).unwrap_or_default());
    let at = 4096;
    for (old, new) in file[at..].iter_mut().zip(bytes) {
        *old ^= new;
    }
    let mut reader =
        SegmentReader::open(&file, &keys, header.name, Contents::Read).expect("our own header");
    let mut found = 0;
    for chunk in file.chunks(1000) {
        reader.push(chunk);
        while let Some(next) = reader.next() {
            assert!(matches!(next.record, Record::Blob { kind: 1, .. }));
            found += 1;
        }
    }
    reader.close_input();
    while reader.next().is_some() {
        found += 1;
    }
    assert_eq!(reader.into_summary().records, found);
}
