//! Which log segments go, and that the open ones never do.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, UNIX_EPOCH};

use datadir::log::remove_expired;
use datadir::segments::list_all;
use engine::clock::UnixMs;
use engine::queue::cipher::Stream;

use support::{Written, keys};

const DAY_MS: u64 = 86_400_000;

/// Shard 0 has log segments 1 to 3, last written a day apart; shard 5 is of an earlier start.
fn logs() -> (tempfile::TempDir, u64) {
    let directory = tempfile::tempdir().unwrap();
    let keys = keys();
    let mut bytes = 0;
    for (shard, segment, day) in [(0, 1, 1), (0, 2, 2), (0, 3, 3), (5, 1, 2)] {
        let mut written =
            Written::begin(directory.path(), &keys, Stream::DeliveryLog, shard, segment);
        written.blobs(4);
        let file = fs::File::options()
            .append(true)
            .open(written.path())
            .unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_millis(day * DAY_MS))
            .unwrap();
        bytes = file.metadata().unwrap().blocks() * 512;
    }
    Written::begin(directory.path(), &keys, Stream::Queue, 0, 1).seal();
    (directory, bytes)
}

fn left(directory: &tempfile::TempDir) -> Vec<(u16, u32)> {
    list_all(directory.path())
        .unwrap()
        .iter()
        .filter(|file| file.name.stream == Stream::DeliveryLog)
        .map(|file| (file.name.shard.0, file.name.segment.0))
        .collect()
}

#[test]
fn old_segments_go_and_the_open_one_stays() {
    let (directory, _) = logs();
    let gone = remove_expired(directory.path(), 1, UnixMs(3 * DAY_MS), DAY_MS, u64::MAX).unwrap();
    assert_eq!(gone.len(), 1);
    assert_eq!(left(&directory), [(0, 2), (0, 3), (5, 1)]);
    remove_expired(directory.path(), 1, UnixMs(100 * DAY_MS), DAY_MS, u64::MAX).unwrap();
    assert_eq!(left(&directory), [(0, 3)]);
    let queue = list_all(directory.path()).unwrap();
    assert!(
        queue.iter().any(|file| file.name.stream == Stream::Queue),
        "only the log expires"
    );
}

#[test]
fn above_the_size_the_oldest_go_first() {
    let (directory, bytes) = logs();
    let now = UnixMs(3 * DAY_MS);
    remove_expired(directory.path(), 1, now, 10 * DAY_MS, 3 * bytes).unwrap();
    assert_eq!(left(&directory), [(0, 2), (0, 3), (5, 1)]);
    remove_expired(directory.path(), 1, now, 10 * DAY_MS, 0).unwrap();
    assert_eq!(left(&directory), [(0, 3)]);
}
