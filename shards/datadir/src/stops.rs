//! What an operator has stopped, in a file of its own: one for all shards, read before any of them starts.
//!
//! It is a segment of the stream [`Stream::Stops`] in the folder of shard 0, with one record, the book. A
//! change writes a new one beside it and then removes the old; after a crash the newest counts.

use std::path::Path;

use engine::ids::{SegmentId, ShardId};
use engine::keys::KeyRing;
use engine::limits::SEGMENT_BYTES_MIN;
use engine::policy::stop::StopBook;
use engine::queue::cipher::{NONCE_BYTES, SegmentName, Stream};
use engine::queue::record::Record;
use engine::queue::replay::Contents;
use engine::queue::segment::{BLOCK_BYTES, SegmentHeader, SegmentWriter, file_name};
use engine::store::BLOB_STOPS;

use crate::private::{make_closed_directory, make_directory, replace};
use crate::segments::{Go, list, scan, shard_dir, stream_dir};

const SHARD: ShardId = ShardId(0);

/// The book of earlier runs; an empty one if nothing was ever stopped.
///
/// # Errors
/// One line for the operator. Whoever went on without the book would send what was stopped.
pub fn read(data_dir: &Path, keys: &KeyRing) -> Result<StopBook, String> {
    let files = list(data_dir, SHARD, Stream::Stops).map_err(|error| error.to_string())?;
    let Some(newest) = files.iter().max_by_key(|file| file.name.segment) else {
        return Ok(StopBook::default());
    };
    let fault = |why: &str| {
        let shown = newest.path.display();
        format!(
            "{shown}: what was suspended cannot be read ({why}); move the file away to start without"
        )
    };
    let mut book = None;
    let visit = |found: engine::queue::replay::Found<'_>| {
        if let Record::Blob {
            kind: BLOB_STOPS,
            bytes,
        } = found.record
        {
            book = Some(StopBook::decode(bytes));
        }
        Go::On
    };
    scan(newest, keys, Contents::Read, visit, |_| {}).map_err(|error| fault(&error.to_string()))?;
    match book {
        Some(Ok(book)) => Ok(book),
        Some(Err(error)) => Err(fault(&error.to_string())),
        None => Err(fault("there is no book in it")),
    }
}

/// Makes a book durable in the place of the one before.
///
/// # Errors
/// One line for the operator; then the one before still counts.
pub fn write(
    data_dir: &Path,
    keys: &KeyRing,
    book: &StopBook,
    created_ms: u64,
) -> Result<(), String> {
    let directory = stream_dir(data_dir, SHARD, Stream::Stops);
    make_closed_directory(&shard_dir(data_dir, SHARD)).map_err(|error| error.to_string())?;
    make_directory(&directory).map_err(|error| error.to_string())?;
    let before = list(data_dir, SHARD, Stream::Stops).map_err(|error| error.to_string())?;
    let last = before.iter().map(|file| file.name.segment.0).max();
    let segment = SegmentId(last.map_or(1, |last| last + 1));
    let bytes = book.encode();
    let room = (bytes.len() + 8 * BLOCK_BYTES).next_multiple_of(BLOCK_BYTES);
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(|error| error.to_string())?;
    let header = SegmentHeader {
        name: SegmentName {
            stream: Stream::Stops,
            shard: SHARD,
            segment,
        },
        segment_bytes: room.max(SEGMENT_BYTES_MIN as usize) as u32,
        created_ms,
        key_id: keys.current_id(),
        nonce,
    };
    let mut writer = SegmentWriter::new(keys.current(), header);
    let record = Record::Blob {
        kind: BLOB_STOPS,
        bytes: &bytes,
    };
    writer.append(&record).map_err(|error| error.to_string())?;
    let batch = writer.take_batch().ok_or("the book takes no room")?;
    let path = directory.join(file_name(segment));
    let mut file = header.encode(keys.current());
    file.extend_from_slice(&batch.bytes);
    replace(&path, 0o600, &file).map_err(|error| error.to_string())?;
    for file in before {
        // Left there it is only older.
        let _ = std::fs::remove_file(file.path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::clock::UnixMs;
    use engine::keys::MasterKey;
    use engine::policy::stop::{NewStop, Selector};

    fn keys(byte: u8) -> KeyRing {
        KeyRing::new(MasterKey::from_bytes(&mut [byte; 32]))
    }

    fn book(groups: &[&str]) -> StopBook {
        groups.iter().fold(StopBook::default(), |book, group| {
            let selector = Selector {
                group: Some((*group).into()),
                ..Selector::default()
            };
            let new = NewStop {
                selector,
                ..NewStop::default()
            };
            book.with(new, UnixMs(1)).unwrap()
        })
    }

    #[test]
    fn the_last_book_written_is_read_back_and_no_other_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let (data_dir, keys) = (root.path(), keys(7));
        assert_eq!(read(data_dir, &keys), Ok(StopBook::default()));
        for groups in [&["news"][..], &["news", "orders"], &[]] {
            write(data_dir, &keys, &book(groups), 5).unwrap();
            assert_eq!(read(data_dir, &keys), Ok(book(groups)));
        }
        let files = list(data_dir, SHARD, Stream::Stops).unwrap();
        assert_eq!(files.len(), 1);
    }

    #[test]
    fn a_book_that_cannot_be_read_is_an_error_and_not_an_empty_one() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &keys(7), &book(&["news"]), 5).unwrap();
        assert!(read(root.path(), &keys(8)).is_err());
        let file = list(root.path(), SHARD, Stream::Stops).unwrap().remove(0);
        let mut bytes = std::fs::read(&file.path).unwrap();
        let middle = bytes.len() - BLOCK_BYTES + 80;
        bytes[middle] ^= 1;
        std::fs::write(&file.path, bytes).unwrap();
        assert!(read(root.path(), &keys(7)).is_err());
    }
}
