//! Writes segments as the daemon would.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use datadir::segments::stream_dir;
use engine::ids::{SegmentId, ShardId};
use engine::keys::{KeyRing, MasterKey};
use engine::queue::cipher::{SegmentName, Stream};
use engine::queue::record::Record;
use engine::queue::segment::{BLOCK_BYTES, Batch, SegmentHeader, SegmentWriter, file_name};

pub(crate) fn keys() -> KeyRing {
    KeyRing::new(MasterKey::from_bytes(&mut [7; 32]))
}

pub(crate) struct Written {
    writer: SegmentWriter,
    path: PathBuf,
}

impl Written {
    pub(crate) fn begin(
        data_dir: &Path,
        keys: &KeyRing,
        stream: Stream,
        shard: u16,
        segment: u32,
    ) -> Self {
        let name = SegmentName {
            stream,
            shard: ShardId(shard),
            segment: SegmentId(segment),
        };
        let header = SegmentHeader {
            name,
            segment_bytes: 256 * BLOCK_BYTES as u32,
            created_ms: 1_700_000_000_000 + u64::from(segment),
            key_id: keys.current_id(),
            nonce: [segment as u8; 16],
        };
        let directory = stream_dir(data_dir, name.shard, stream);
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join(file_name(name.segment));
        fs::write(&path, header.encode(keys.current())).unwrap();
        Self {
            writer: SegmentWriter::new(keys.current(), header),
            path,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends so many records in one batch, and syncs.
    pub(crate) fn blobs(&mut self, records: u8) {
        for n in 0..records {
            self.writer
                .append(&Record::Blob {
                    kind: 9,
                    bytes: &[n; 100],
                })
                .unwrap();
        }
        let batch = self.writer.take_batch().unwrap();
        self.write(&batch);
    }

    pub(crate) fn seal(&mut self) {
        let batch = self.writer.seal().unwrap();
        self.write(&batch);
    }

    fn write(&mut self, batch: &Batch) {
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(&self.path)
            .unwrap();
        file.write_all(&batch.bytes).unwrap();
        self.writer.durable(batch.end());
    }
}
