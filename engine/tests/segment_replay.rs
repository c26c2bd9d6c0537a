//! A segment read back: whole, cut at every byte, damaged at every bit, recycled.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use engine::envelope::BodyType;
use engine::ids::{Offset, QueueId, SegmentId, ShardId};
use engine::keys::{KeyRing, MasterKey};
use engine::queue::cipher::{SegmentCipher, SegmentName, Stream};
use engine::queue::record::{
    About, Message, Options, Outcome, OutcomeKind, OutcomeState, RecipientsBuf, Record,
};
use engine::queue::replay::{Contents, SegmentEnd, SegmentReader, Summary, read_one};
use engine::queue::segment::{
    AppendError, BLOCK_BYTES, HeaderError, Placement, SegmentHeader, SegmentWriter,
};
use proptest::prelude::*;

const SEGMENT_BYTES: u32 = 64 * 1024;

fn keys() -> KeyRing {
    KeyRing::new(MasterKey::from_bytes(&mut [7; 32]))
}

fn name(segment: u32) -> SegmentName {
    SegmentName {
        stream: Stream::Queue,
        shard: ShardId(3),
        segment: SegmentId(segment),
    }
}

fn header(segment: u32, nonce: u8) -> SegmentHeader {
    SegmentHeader {
        name: name(segment),
        segment_bytes: SEGMENT_BYTES,
        created_ms: 1_700_000_000_000,
        key_id: keys().current_id(),
        nonce: [nonce; 16],
    }
}

/// A file as the disk holds it, and a writer for it.
struct Written {
    file: Vec<u8>,
    writer: SegmentWriter,
}

impl Written {
    fn new(header: SegmentHeader, over: Vec<u8>) -> Self {
        let keys = keys();
        let mut file = over;
        file.resize(SEGMENT_BYTES as usize, 0);
        file[..BLOCK_BYTES].copy_from_slice(&header.encode(keys.current()));
        Self {
            file,
            writer: SegmentWriter::new(keys.current(), header),
        }
    }

    fn message(&mut self, id: u64, content: &[u8]) -> Placement {
        let mut recipients = RecipientsBuf::new();
        recipients
            .domain("example.jp", "someone@example.jp")
            .unwrap();
        self.writer
            .append(&Record::Message(Message {
                queue_id: QueueId(id),
                accepted_ms: id,
                body: BodyType::SevenBit,
                smtputf8: false,
                pending: false,
                handover: None,
                reverse_path: Some("list@example.com"),
                recipients: recipients.recipients(),
                group: None,
                tags: "",
                message_id: None,
                peer: None,
                options: Options::NONE,
                content,
                content_bytes: content.len() as u32,
            }))
            .unwrap()
    }

    fn outcome(&mut self, id: u64) -> Placement {
        let about = About {
            queue_id: QueueId(id),
            segment: self.writer.segment(),
        };
        let state = OutcomeState {
            first: 0,
            count: 1,
            kind: OutcomeKind::Delivered,
            attempts: 1,
            next_retry_s: 0,
        };
        self.writer
            .append(&Record::Outcome(Outcome { about, state }))
            .unwrap()
    }

    /// Writes the batch; `synced`: and waits for it.
    fn write(&mut self, synced: bool) {
        if let Some(batch) = self.writer.take_batch() {
            let at = batch.file_offset as usize;
            self.file[at..at + batch.bytes.len()].copy_from_slice(&batch.bytes);
            if synced {
                self.writer.durable(batch.end());
            }
        }
    }

    fn seal(&mut self) {
        let batch = self.writer.seal().unwrap();
        let at = batch.file_offset as usize;
        self.file[at..at + batch.bytes.len()].copy_from_slice(&batch.bytes);
    }
}

fn read_in(
    file: &[u8],
    chunk_bytes: usize,
    contents: Contents,
) -> (Vec<(u64, Placement)>, Summary) {
    let mut reader = SegmentReader::open(file, &keys(), name(1), contents).unwrap();
    let mut found = Vec::new();
    let mut chunks = file.chunks(chunk_bytes);
    loop {
        while let Some(record) = reader.next() {
            found.push((record.record.queue_id().unwrap().0, record.placement));
        }
        match chunks.next() {
            Some(chunk) => reader.push(chunk),
            None => break,
        }
    }
    reader.close_input();
    while let Some(record) = reader.next() {
        found.push((record.record.queue_id().unwrap().0, record.placement));
    }
    (found, reader.into_summary())
}

fn read(file: &[u8]) -> (Vec<u64>, Summary) {
    let (found, summary) = read_in(file, 8192, Contents::Skip);
    (found.into_iter().map(|(id, _)| id).collect(), summary)
}

/// Three synced batches: ids 1 to 3, 4 to 6, 7 to 9.
fn three_batches() -> Written {
    batches_of(300)
}

/// The same with contents of `bytes` times the id.
fn batches_of(bytes: usize) -> Written {
    let mut written = Written::new(header(1, 1), Vec::new());
    for id in 1..=9 {
        written.message(id, &vec![b'a' + id as u8; bytes * id as usize]);
        if id % 3 == 0 {
            written.write(true);
        }
    }
    written
}

#[test]
fn sealed_segment_reads_back_whole_in_chunks_of_any_size() {
    let mut written = three_batches();
    let placements: Vec<_> = (10..13).map(|id| (id, written.outcome(id))).collect();
    written.write(true);
    written.seal();
    let mut all = Vec::new();
    for chunk_bytes in [1, 100, 4096, 5000, 1 << 20] {
        for contents in [Contents::Read, Contents::Skip] {
            let (found, summary) = read_in(&written.file, chunk_bytes, contents);
            assert_eq!(summary.end, SegmentEnd::Sealed);
            assert_eq!(summary.damage, []);
            let seal = summary.seal.unwrap();
            assert_eq!(
                (seal.records, seal.record_bytes),
                (summary.records, summary.record_bytes)
            );
            assert_eq!(
                found.iter().map(|f| f.0).collect::<Vec<_>>(),
                (1..13).collect::<Vec<_>>()
            );
            assert_eq!(found[9..], placements);
            all.push(found);
        }
    }
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn one_message_reads_back_from_its_placement() {
    let mut written = Written::new(header(1, 1), Vec::new());
    written.message(1, b"first");
    let placement = written.message(2, b"second\r\n");
    written.write(true);
    let (at, bytes, within) = placement.blocks();
    let mut blocks = written.file[at as usize..at as usize + bytes].to_vec();
    let record = &mut blocks[within..within + placement.bytes as usize];
    let mut cipher = SegmentCipher::new(keys().current(), name(1), &[1; 16]);

    let mut elsewhere = placement;
    elsewhere.offset = Offset(placement.offset.0 + 16);
    read_one(&mut cipher, elsewhere, &mut record.to_vec()).unwrap_err();
    let mut altered = record.to_vec();
    altered[40] ^= 1;
    let error = read_one(&mut cipher, placement, &mut altered).unwrap_err();
    assert!(
        error.to_string().contains("MAC of a message record"),
        "{error}"
    );

    let Record::Message(message) = read_one(&mut cipher, placement, record).unwrap() else {
        panic!("not a message");
    };
    assert_eq!(message.queue_id, QueueId(2));
    assert_eq!(message.content, b"second\r\n");
    assert_eq!(message.reverse_path, Some("list@example.com"));
}

#[test]
fn content_in_parts_reads_back_joined() {
    let mut written = Written::new(header(1, 1), Vec::new());
    let mut recipients = RecipientsBuf::new();
    recipients
        .domain("example.jp", "someone@example.jp")
        .unwrap();
    let message = Message {
        queue_id: QueueId(5),
        accepted_ms: 5,
        body: BodyType::EightBitMime,
        smtputf8: true,
        pending: true,
        handover: None,
        reverse_path: None,
        recipients: recipients.recipients(),
        group: Some("news"),
        tags: "campaign=5;",
        message_id: Some("<5@example.com>"),
        peer: Some([192, 0, 2, 1].into()),
        options: Options::NONE,
        content: b"Subject: x\r\n\r\nbody\r\n",
        content_bytes: 0,
    };
    let parts: [&[u8]; 2] = [b"DKIM-Signature: y\r\n", b"Received: z\r\n"];
    let placement = written.writer.append_message(&message, &parts).unwrap();
    written.write(true);
    let from = placement.offset.0 as usize;
    let mut bytes = written.file[from..from + placement.bytes as usize].to_vec();
    let mut cipher = SegmentCipher::new(keys().current(), name(1), &[1; 16]);
    let Record::Message(read) = read_one(&mut cipher, placement, &mut bytes).unwrap() else {
        panic!("not a message");
    };
    let joined = b"DKIM-Signature: y\r\nReceived: z\r\nSubject: x\r\n\r\nbody\r\n";
    assert_eq!(
        read,
        Message {
            content: joined,
            content_bytes: joined.len() as u32,
            ..message
        }
    );
}

#[test]
fn tail_torn_at_any_byte_of_the_last_batch_loses_nothing_acknowledged() {
    let mut written = batches_of(60);
    let (_, whole) = read_in(&written.file, 1 << 20, Contents::Skip);
    let SegmentEnd::TornTail { offset: end } = whole.end else {
        panic!("{whole:?}")
    };
    let (found, _) = read_in(&written.file, 1 << 20, Contents::Skip);
    let batch = found[6].1.offset.0 as usize / BLOCK_BYTES * BLOCK_BYTES;
    written.file.truncate(end.0 as usize + BLOCK_BYTES);
    for cut in batch..end.0 as usize {
        let mut torn = written.file.clone();
        torn[cut..].fill(0);
        let (ids, summary) = read(&torn);
        assert_eq!(ids[..6], [1, 2, 3, 4, 5, 6], "cut at {cut}");
        assert_eq!(summary.damage, [], "cut at {cut}");
        let SegmentEnd::TornTail { offset } = summary.end else {
            panic!("{summary:?}")
        };
        assert!(offset.0 as usize >= batch && offset.0 as usize <= end.0 as usize);
        // The file may also just end there.
        let (shorter, summary) = read(&written.file[..cut]);
        assert_eq!(shorter, ids, "file of {cut} bytes");
        assert_eq!(summary.damage, [], "file of {cut} bytes");
    }
}

#[test]
fn blocks_of_the_last_batch_written_out_of_order_are_a_torn_tail() {
    let written = three_batches();
    let (found, _) = read_in(&written.file, 1 << 20, Contents::Skip);
    let first = found[6].1.offset.0 as usize / BLOCK_BYTES;
    let last = (found[8].1.offset.0 + found[8].1.bytes) as usize / BLOCK_BYTES;
    assert!(last > first, "the batch must span blocks");
    for missing in first..=last {
        let mut torn = written.file.clone();
        torn[missing * BLOCK_BYTES..(missing + 1) * BLOCK_BYTES].fill(0);
        let (ids, summary) = read(&torn);
        assert_eq!(ids[..6], [1, 2, 3, 4, 5, 6]);
        assert_eq!(summary.damage, [], "block {missing}");
        assert!(
            matches!(summary.end, SegmentEnd::TornTail { .. }),
            "block {missing}"
        );
    }
}

#[test]
fn batch_lost_before_its_sync_is_no_damage_though_a_later_one_is_there() {
    let mut written = Written::new(header(1, 1), Vec::new());
    written.message(1, b"durable");
    written.write(true);
    let first = written.message(2, b"in flight");
    written.write(false);
    written.message(3, b"in flight too");
    written.write(false);
    let block = first.offset.0 as usize / BLOCK_BYTES * BLOCK_BYTES;
    written.file[block..block + BLOCK_BYTES].fill(0);
    let (ids, summary) = read(&written.file);
    assert_eq!(ids, [1, 3]);
    assert_eq!(summary.damage, []);
    assert_eq!(
        summary.end,
        SegmentEnd::TornTail {
            offset: Offset(block as u32)
        }
    );
}

#[test]
fn damage_costs_the_record_it_hits_and_is_reported_with_its_place() {
    let mut written = three_batches();
    written.seal();
    let (found, _) = read_in(&written.file, 1 << 20, Contents::Skip);
    for (id, placement) in &found {
        let mut damaged = written.file.clone();
        damaged[placement.offset.0 as usize + 100] ^= 0x10;
        let (ids, summary) = read(&damaged);
        let rest: Vec<_> = (1..=9).filter(|other| other != id).collect();
        assert_eq!(ids, rest);
        assert_eq!(summary.end, SegmentEnd::Sealed);
        let [damage] = summary.damage[..] else {
            panic!("{summary:?}")
        };
        assert_eq!(damage.offset, placement.offset);
        assert!(damage.resync.0 >= placement.offset.0 + placement.bytes);
        assert!(
            damage.to_string().contains("MAC of a message record"),
            "{damage}"
        );
    }
}

#[test]
fn any_bit_flipped_is_detected_or_in_padding() {
    let mut written = Written::new(header(1, 1), Vec::new());
    let mut placements = Vec::new();
    for id in 1..=4 {
        placements.push((id, written.message(id, b"short content")));
        if id % 2 == 0 {
            written.write(true);
        }
    }
    let sealed_at = written.writer.written_to() as usize;
    written.seal();
    let file = &written.file[..sealed_at + BLOCK_BYTES];
    let (found, _) = read_in(file, 1 << 20, Contents::Read);
    assert_eq!(found, placements);
    for offset in BLOCK_BYTES as u32..file.len() as u32 {
        // One bit of each byte, another each time.
        let bit = offset as usize * 8 + offset as usize % 7;
        let in_record = |p: &Placement| (p.offset.0..p.offset.0 + p.bytes).contains(&offset);
        let hit = placements.iter().find(|(_, p)| in_record(p));
        let in_frame = offset as usize % BLOCK_BYTES < 48;
        let in_seal = offset as usize >= sealed_at && (offset as usize) < sealed_at + 48 + 32;
        if hit.is_none() && !in_frame && !in_seal && offset % 97 != 0 {
            // Padding is most of the file: a sample of it is enough.
            continue;
        }
        let mut damaged = file.to_vec();
        damaged[offset as usize] ^= 1 << (bit % 8);
        let (ids, summary) = read(&damaged);
        if let Some((id, placement)) = hit {
            let rest: Vec<_> = (1..=4).filter(|other| other != id).collect();
            assert_eq!(ids, rest, "bit {bit}");
            assert_eq!(summary.damage[0].offset, placement.offset, "bit {bit}");
        } else if in_seal {
            assert_eq!(ids, [1, 2, 3, 4], "bit {bit}");
            assert_ne!(
                (summary.end, summary.damage.len()),
                (SegmentEnd::Sealed, 0),
                "bit {bit}"
            );
        } else if in_frame {
            assert_eq!(ids, [1, 2, 3, 4], "bit {bit}");
            assert_eq!(summary.damage.len(), 1, "bit {bit}");
        } else {
            assert_eq!(ids, [1, 2, 3, 4], "bit {bit}");
            assert_eq!(
                (summary.end, summary.damage),
                (SegmentEnd::Sealed, vec![]),
                "bit {bit}"
            );
        }
    }
}

#[test]
fn record_moved_or_copied_to_another_place_is_not_taken() {
    let mut written = Written::new(header(1, 1), Vec::new());
    let first = written.message(1, b"same length");
    let second = written.message(2, b"same length");
    written.write(true);
    written.seal();
    assert_eq!(first.bytes, second.bytes);
    let range = |p: Placement| p.offset.0 as usize..(p.offset.0 + p.bytes) as usize;
    let mut moved = written.file.clone();
    moved.copy_within(range(first), second.offset.0 as usize);
    let (ids, summary) = read(&moved);
    assert_eq!(ids, [1]);
    assert_eq!(summary.damage.len(), 1);

    // The same place in another segment, under the same master key.
    let mut other = Written::new(header(2, 1), Vec::new());
    other.message(1, b"same length");
    let there = other.message(9, b"same length");
    other.write(true);
    let mut mixed = written.file.clone();
    mixed[range(second)].copy_from_slice(&other.file[range(there)]);
    let (ids, summary) = read(&mixed);
    assert_eq!(ids, [1]);
    assert_eq!(summary.damage.len(), 1);
}

#[test]
fn stale_records_of_a_recycled_segment_never_come_back() {
    let mut old = three_batches();
    old.seal();
    // The same number again, which never happens: the nonce alone must be enough.
    let mut recycled = Written::new(header(1, 2), old.file.clone());
    let (ids, summary) = read(&recycled.file);
    assert_eq!(ids, []);
    assert_eq!(summary.damage, []);
    assert_eq!(
        summary.end,
        SegmentEnd::TornTail {
            offset: Offset(BLOCK_BYTES as u32)
        }
    );

    recycled.message(100, b"new");
    recycled.write(true);
    let (ids, summary) = read(&recycled.file);
    assert_eq!(ids, [100]);
    assert_eq!(summary.damage, []);
    let end = 2 * BLOCK_BYTES as u32;
    assert_eq!(
        summary.end,
        SegmentEnd::TornTail {
            offset: Offset(end)
        }
    );
}

#[test]
fn segment_with_nothing_but_a_header_is_empty() {
    let written = Written::new(header(1, 1), Vec::new());
    for file in [&written.file[..], &written.file[..BLOCK_BYTES]] {
        let (ids, summary) = read(file);
        assert_eq!(ids, []);
        assert_eq!(
            summary.end,
            SegmentEnd::TornTail {
                offset: Offset(BLOCK_BYTES as u32)
            }
        );
    }
}

#[test]
fn header_is_read_from_either_copy_and_refused_when_both_are_bad() {
    let good = Written::new(header(1, 1), Vec::new()).file;
    let open = |file: &[u8], keys: &KeyRing, name| {
        SegmentHeader::open(file, keys, name).map(|(header, _)| header)
    };
    assert_eq!(open(&good, &keys(), name(1)), Ok(header(1, 1)));
    for copy in [0, 2048] {
        for bit in 0..80 * 8 {
            let mut one = good.clone();
            one[copy + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                open(&one, &keys(), name(1)),
                Ok(header(1, 1)),
                "copy {copy} bit {bit}"
            );
            one[2048 - copy + bit / 8] ^= 1 << (bit % 8);
            assert!(
                open(&one, &keys(), name(1)).is_err(),
                "both copies, bit {bit}"
            );
        }
    }
    assert_eq!(
        open(&good[..100], &keys(), name(1)),
        Err(HeaderError::TooShort)
    );
    assert_eq!(
        open(&[0; 4096], &keys(), name(1)),
        Err(HeaderError::NotASegment)
    );
    assert_eq!(
        open(&good, &keys(), name(2)),
        Err(HeaderError::Misplaced { found: name(1) })
    );
    let other = KeyRing::new(MasterKey::from_bytes(&mut [8; 32]));
    let key_id = keys().current_id();
    assert_eq!(
        open(&good, &other, name(1)),
        Err(HeaderError::UnknownKey { key_id })
    );
    let mut newer = good.clone();
    (newer[8], newer[2048 + 8]) = (3, 3);
    assert_eq!(
        open(&newer, &keys(), name(1)),
        Err(HeaderError::OtherFormat { version: 3 })
    );
}

#[test]
fn full_segment_refuses_and_still_has_room_for_its_seal() {
    let mut written = Written::new(header(1, 1), Vec::new());
    let content = vec![b'x'; 1000];
    let mut recipients = RecipientsBuf::new();
    recipients
        .domain("example.jp", "someone@example.jp")
        .unwrap();
    let message = |content| Message {
        queue_id: QueueId(1),
        accepted_ms: 1,
        body: BodyType::SevenBit,
        smtputf8: false,
        pending: false,
        handover: None,
        reverse_path: None,
        recipients: recipients.recipients(),
        group: None,
        tags: "",
        message_id: None,
        peer: None,
        options: Options::NONE,
        content,
        content_bytes: 0,
    };
    let mut count = 0;
    let refused = loop {
        match written.writer.append(&Record::Message(message(&content))) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
        if count % 5 == 0 {
            written.write(true);
        }
    };
    let AppendError::Full { bytes, remaining } = refused else {
        panic!("{refused:?}")
    };
    assert!(bytes > remaining);
    let huge = vec![b'x'; SEGMENT_BYTES as usize];
    let too_large = written.writer.append(&Record::Message(message(&huge)));
    assert!(matches!(too_large, Err(AppendError::TooLarge { .. })));
    // Fill up to the last byte that fits.
    while written
        .writer
        .append(&Record::Blob {
            kind: 0,
            bytes: b"",
        })
        .is_ok()
    {}
    written.write(true);
    written.seal();
    assert!(written.writer.written_to() <= SEGMENT_BYTES);
    assert!(written.writer.seal().is_none());
    assert_eq!(written.writer.remaining(), 0);
    let mut reader = SegmentReader::open(&written.file, &keys(), name(1), Contents::Skip).unwrap();
    reader.push(&written.file);
    reader.close_input();
    let mut messages = 0;
    while let Some(found) = reader.next() {
        messages += u32::from(matches!(found.record, Record::Message(_)));
    }
    assert_eq!(messages, count);
    assert_eq!(reader.into_summary().end, SegmentEnd::Sealed);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..Default::default() })]

    /// Whatever is done to the file, each record that is given was written, at its place.
    #[test]
    fn garbled_segment_gives_only_what_was_written(
        blows in prop::collection::vec((4096usize..40_000, 1usize..3000, any::<u8>()), 1..6),
        chunk_bytes in 1usize..9000,
        seal in any::<bool>(),
    ) {
        let mut written = three_batches();
        if seal {
            written.seal();
        }
        let (all, _) = read_in(&written.file, 1 << 20, Contents::Skip);
        let mut file = written.file.clone();
        for (at, len, value) in &blows {
            file[*at..at + len].fill(*value);
        }
        let (found, summary) = read_in(&file, chunk_bytes, Contents::Skip);
        let mut untouched = all.clone();
        untouched.retain(|(_, p)| {
            let range = p.offset.0 as usize..(p.offset.0 + p.bytes) as usize;
            file[range.clone()] == written.file[range]
        });
        prop_assert_eq!(&found, &untouched, "every untouched record is still delivered");
        prop_assert_eq!(summary.records as usize, found.len());
        let (again, same) = read_in(&file, 4096, Contents::Skip);
        prop_assert_eq!(&again, &found);
        prop_assert_eq!(same, summary);
    }
}
