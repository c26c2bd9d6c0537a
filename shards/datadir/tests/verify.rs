//! Damage is found with its place, and what is none is not called so.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use datadir::segments::{self, Go, ScanError};
use datadir::verify::verify_segment;
use engine::ids::{Offset, SegmentId, ShardId};
use engine::keys::{KeyRing, MasterKey};
use engine::queue::cipher::Stream;
use engine::queue::replay::Contents;
use engine::queue::segment::BLOCK_BYTES;

use support::{Written, keys};

fn flip(path: &std::path::Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_whole_segment_is_good_and_every_record_counted() {
    let directory = tempfile::tempdir().unwrap();
    let keys = keys();
    let mut written = Written::begin(directory.path(), &keys, Stream::Queue, 0, 1);
    written.blobs(3);
    written.blobs(2);
    written.seal();
    let files = segments::list_all(directory.path()).unwrap();
    assert_eq!(files.len(), 1);
    let mut read = 0;
    let verified = verify_segment(&files[0], &keys, |bytes| read += bytes);
    assert_eq!(
        (verified.records, verified.sealed, verified.faults.len()),
        (5, true, 0)
    );
    assert_eq!(read, files[0].bytes);
    assert!(segments::peek(&files[0]).is_ok());
}

#[test]
fn a_flipped_bit_is_found_in_its_segment_at_its_offset() {
    let directory = tempfile::tempdir().unwrap();
    let keys = keys();
    for segment in 1..=2 {
        let mut written = Written::begin(directory.path(), &keys, Stream::Queue, 3, segment);
        written.blobs(3);
        written.blobs(3);
        written.seal();
    }
    let files = segments::list_all(directory.path()).unwrap();
    let mut offsets = Vec::new();
    let visit = |found: engine::queue::replay::Found<'_>| {
        offsets.push(found.placement.offset.0);
        Go::On
    };
    segments::scan(&files[1], &keys, Contents::Read, visit, |_| {}).unwrap();
    let at = offsets[1];
    flip(&files[1].path, u64::from(at) + 20);
    assert!(verify_segment(&files[0], &keys, |_| {}).faults.is_empty());
    let verified = verify_segment(&files[1], &keys, |_| {});
    assert_eq!(verified.faults.len(), 1, "{:?}", verified.faults);
    let fault = &verified.faults[0];
    assert_eq!(
        (fault.offset, fault.resync),
        (Offset(at), Some(Offset(offsets[2])))
    );
    assert_eq!(fault.file.name.shard, ShardId(3));
    assert_eq!(fault.file.name.segment, SegmentId(2));
    assert_eq!(verified.records, 5, "the rest is still read");
}

#[test]
fn a_torn_tail_is_no_damage() {
    let directory = tempfile::tempdir().unwrap();
    let keys = keys();
    let mut written = Written::begin(directory.path(), &keys, Stream::Queue, 0, 1);
    written.blobs(3);
    written.blobs(3);
    let path = written.path().to_owned();
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - BLOCK_BYTES / 2]).unwrap();
    let files = segments::list_all(directory.path()).unwrap();
    let verified = verify_segment(&files[0], &keys, |_| {});
    assert!(!verified.sealed);
    assert!(verified.faults.is_empty(), "{:?}", verified.faults);
}

#[test]
fn a_segment_under_another_key_or_in_the_wrong_place_is_a_fault() {
    let directory = tempfile::tempdir().unwrap();
    let keys = keys();
    let mut written = Written::begin(directory.path(), &keys, Stream::Queue, 0, 1);
    written.blobs(1);
    written.seal();
    let files = segments::list_all(directory.path()).unwrap();
    let other = KeyRing::new(MasterKey::from_bytes(&mut [8; 32]));
    let verified = verify_segment(&files[0], &other, |_| {});
    assert!(
        verified.faults[0].reason.contains("was not given"),
        "{:?}",
        verified.faults
    );
    fs::rename(&files[0].path, files[0].path.with_file_name("00000009.seg")).unwrap();
    let gone = verify_segment(&files[0], &keys, |_| {});
    assert!(
        gone.gone && gone.faults.is_empty(),
        "the daemon removes segments while we look"
    );
    let moved = segments::list_all(directory.path()).unwrap();
    let verified = verify_segment(&moved[0], &keys, |_| {});
    assert!(
        verified.faults[0].reason.contains("move it back"),
        "{:?}",
        verified.faults
    );
}

#[test]
fn only_segments_are_listed_and_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let keys = keys();
    for (stream, shard, segment) in [
        (Stream::DeliveryLog, 1, 4),
        (Stream::Queue, 10, 2),
        (Stream::Queue, 1, 11),
        (Stream::Queue, 1, 3),
    ] {
        Written::begin(directory.path(), &keys, stream, shard, segment).seal();
    }
    let queue = segments::stream_dir(directory.path(), ShardId(1), Stream::Queue);
    fs::write(queue.join("00000012.free"), "").unwrap();
    fs::write(queue.join("notes.txt"), "").unwrap();
    fs::create_dir(directory.path().join("keys")).unwrap();
    fs::create_dir(directory.path().join("shard-999")).unwrap();
    let found: Vec<_> = segments::list_all(directory.path())
        .unwrap()
        .iter()
        .map(|file| {
            (
                file.name.shard.0,
                file.name.stream.as_str(),
                file.name.segment.0,
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            (1, "queue", 3),
            (1, "queue", 11),
            (1, "log", 4),
            (10, "queue", 2)
        ]
    );
    let with_free = segments::list(directory.path(), ShardId(1), Stream::Queue).unwrap();
    assert!(with_free.last().unwrap().free);
    let lost = segments::find(directory.path(), ShardId(1), Stream::Queue, SegmentId(12)).unwrap();
    assert_eq!(lost, None, "a free file is no segment");
}

#[test]
fn what_is_no_segment_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let keys = keys();
    let written = Written::begin(directory.path(), &keys, Stream::Queue, 0, 1);
    fs::write(written.path(), "not a segment").unwrap();
    let files = segments::list_all(directory.path()).unwrap();
    let scanned = segments::scan(&files[0], &keys, Contents::Read, |_| Go::On, |_| {});
    assert!(matches!(scanned, Err(ScanError::Header(_))));
    assert_eq!(verify_segment(&files[0], &keys, |_| {}).faults.len(), 1);
}

#[test]
fn keys_in_use_are_those_of_all_segments_also_of_damaged_ones() {
    let directory = tempfile::tempdir().unwrap();
    let keys = keys();
    assert!(segments::key_ids(directory.path()).unwrap().is_empty());
    let mut written = Written::begin(directory.path(), &keys, Stream::DeliveryLog, 0, 1);
    written.blobs(1);
    written.seal();
    let used: Vec<_> = segments::key_ids(directory.path())
        .unwrap()
        .into_iter()
        .collect();
    assert_eq!(used, [keys.current_id()]);
    let path = segments::list_all(directory.path()).unwrap()[0]
        .path
        .clone();
    fs::rename(&path, path.with_extension("damaged")).unwrap();
    assert_eq!(segments::key_ids(directory.path()).unwrap().len(), 1);
    fs::rename(path.with_extension("damaged"), path.with_extension("free")).unwrap();
    assert!(segments::key_ids(directory.path()).unwrap().is_empty());
}

#[test]
fn what_is_named_like_a_segment_and_is_no_file_is_a_fault_and_holds_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let keys = keys();
    let mut written = Written::begin(directory.path(), &keys, Stream::Queue, 0, 1);
    written.blobs(1);
    written.seal();
    let queue = segments::stream_dir(directory.path(), ShardId(0), Stream::Queue);
    let fifo = queue.join("00000002.seg");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    fs::create_dir(queue.join("00000003.seg")).unwrap();
    symlink("00000001.seg", queue.join("00000004.seg")).unwrap();
    let files = segments::list_all(directory.path()).unwrap();
    let whats = ["FIFO", "directory", "symbolic link"];
    for (file, what) in files[1..].iter().zip(whats) {
        let faults = verify_segment(file, &keys, |_| {}).faults;
        let reason = &faults[0].reason;
        assert!(
            reason.contains(what) && reason.contains("move it"),
            "{reason}"
        );
        assert!(segments::peek(file).is_err());
    }
    assert!(verify_segment(&files[0], &keys, |_| {}).faults.is_empty());
}
