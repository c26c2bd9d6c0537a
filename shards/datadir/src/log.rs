//! Reads the delivery log, also while the daemon writes it.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::clock::UnixMs;
use engine::delivery_log::{LogFilter, LogRecord, SealedLog, expired_segments, read_batch};
use engine::ids::{SegmentId, ShardId};
use engine::keys::KeyRing;
use engine::operator::LogEnd;
use engine::queue::cipher::Stream;
use engine::queue::record::Record;
use engine::queue::replay::{Contents, SegmentReader};
use engine::queue::segment::SEGMENT_HEADER_BYTES;

use crate::segments::{Go, ScanError, SegmentFile, fill, list, open_regular, peek, scan, shards};

/// Something of the log that could not be read; the rest is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogDamage {
    /// Where, and what.
    pub text: String,
}

/// Reads what is wanted out of all segments, shard by shard in the order of writing, and gives each
/// record to `visit`. Lines of several shards are in the order of time only within a shard.
///
/// `ends`: nothing behind these is read, as it is followed ([`Follow`]); a shard without one is
/// read whole.
///
/// Returns damage met.
///
/// # Errors
/// [`io::Error`] if the data directory cannot be listed.
pub fn read_all(
    data_dir: &Path,
    keys: &KeyRing,
    filter: &LogFilter,
    ends: &[LogEnd],
    mut visit: impl FnMut(&LogRecord<'_>) -> Go,
) -> io::Result<Vec<LogDamage>> {
    let mut damage = Vec::new();
    for shard in shards(data_dir)? {
        let files = list(data_dir, shard, Stream::DeliveryLog)?;
        let end = ends.iter().find(|end| end.shard == shard);
        let is_behind = |segment: SegmentId, offset: u64| {
            end.is_some_and(|end| (segment, offset) >= (end.segment, end.offset))
        };
        for (index, file) in files.iter().enumerate() {
            if file.free
                || is_behind(file.name.segment, 0)
                || began_before(files.get(index + 1), filter.since)
            {
                continue;
            }
            let mut stopped = false;
            let result = scan(
                file,
                keys,
                Contents::Read,
                |found| {
                    if is_behind(file.name.segment, found.placement.offset.0.into()) {
                        return Go::Stop;
                    }
                    let go = match found.record {
                        Record::Blob { bytes, .. } => {
                            visit_batch(bytes, filter, &mut visit, |text| {
                                damage.push(LogDamage {
                                    text: format!(
                                        "{} at {}: {text}",
                                        file.name, found.placement.offset.0
                                    ),
                                });
                            })
                        }
                        _ => Go::On,
                    };
                    stopped |= go == Go::Stop;
                    go
                },
                |_| {},
            );
            match result {
                Ok(Some(summary)) => damage.extend(summary.damage.iter().map(|d| LogDamage {
                    text: format!("{}: {d}", file.name),
                })),
                Ok(None) => {}
                Err(ScanError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    damage.push(LogDamage {
                        text: format!("{}: {error}", file.name),
                    });
                }
            }
            if stopped {
                return Ok(damage);
            }
        }
    }
    Ok(damage)
}

/// Deletes log segments that are older than `keep_age_ms`, and the oldest above `keep_bytes` in all.
///
/// The newest segment of each of the `shards` that run is left alone, as it may be being written;
/// shards of earlier starts write nothing. Returns what was deleted. Call it now and then: each call
/// lists directories only.
///
/// # Errors
/// [`io::Error`] if a directory cannot be listed or a file not deleted.
pub fn remove_expired(
    data_dir: &Path,
    shards_running: u16,
    now: UnixMs,
    keep_age_ms: u64,
    keep_bytes: u64,
) -> io::Result<Vec<SegmentFile>> {
    let mut closed = Vec::new();
    let mut open_bytes = 0;
    for shard in shards(data_dir)? {
        let mut files = list(data_dir, shard, Stream::DeliveryLog)?;
        files.retain(|file| !file.free);
        if shard.0 < shards_running
            && let Some(newest) = files.pop()
        {
            open_bytes += allocated_bytes(&std::fs::metadata(&newest.path)?);
        }
        closed.append(&mut files);
    }
    let mut sealed = Vec::new();
    for file in &closed {
        // The time of the last batch written is that of the file.
        let metadata = std::fs::metadata(&file.path)?;
        let last = metadata
            .modified()?
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        sealed.push(SealedLog {
            shard: file.name.shard,
            segment: file.name.segment,
            last: UnixMs(last.as_millis() as u64),
            bytes: allocated_bytes(&metadata),
        });
    }
    let keep_bytes = keep_bytes.saturating_sub(open_bytes);
    let expired = expired_segments(sealed, now, keep_age_ms, keep_bytes);
    let is_expired = |file: &SegmentFile| {
        let name = (file.name.shard, file.name.segment);
        expired.iter().any(|log| (log.shard, log.segment) == name)
    };
    closed.retain(is_expired);
    for file in &closed {
        match std::fs::remove_file(&file.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(closed)
}

/// What a file takes on the disk: one that was sealed by the clock is mostly a hole.
fn allocated_bytes(metadata: &std::fs::Metadata) -> u64 {
    metadata.blocks() * 512
}

/// Whether the segment after the one in question was begun before `since`: then the one in question
/// holds nothing that is wanted.
fn began_before(next: Option<&SegmentFile>, since: Option<UnixMs>) -> bool {
    let (Some(next), Some(since)) = (next.filter(|next| !next.free), since) else {
        return false;
    };
    peek(next).is_ok_and(|header| header.created_ms < since.0)
}

fn visit_batch(
    bytes: &[u8],
    filter: &LogFilter,
    visit: &mut impl FnMut(&LogRecord<'_>) -> Go,
    mut damaged: impl FnMut(String),
) -> Go {
    let (header, records) = match read_batch(bytes) {
        Ok(batch) => batch,
        Err(error) => {
            damaged(error.to_string());
            return Go::On;
        }
    };
    if !filter.may_match(&header) {
        return Go::On;
    }
    for record in records {
        match record {
            Ok(record) if filter.matches(&record) => {
                if visit(&record) == Go::Stop {
                    return Go::Stop;
                }
            }
            Ok(_) => {}
            Err(error) => damaged(error.to_string()),
        }
    }
    Go::On
}

/// Follows the log of one shard from some point on: reads each byte once.
#[derive(Debug)]
pub struct Follow {
    data_dir: PathBuf,
    keys: Arc<KeyRing>,
    shard: ShardId,
    open: Option<Open>,
    /// Segments before this are not looked at.
    first: SegmentId,
    /// Nor is what stands before this in the first one.
    skip_to: u64,
}

#[derive(Debug)]
struct Open {
    segment: SegmentId,
    file: File,
    reader: SegmentReader,
    /// Bytes of the file given to the reader.
    read: u64,
}

impl Follow {
    /// Follows what stands behind `from`.
    pub fn new(data_dir: &Path, keys: Arc<KeyRing>, from: LogEnd) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            keys,
            shard: from.shard,
            open: None,
            first: from.segment,
            skip_to: from.offset,
        }
    }

    /// The shard it follows.
    pub const fn shard(&self) -> ShardId {
        self.shard
    }

    /// Reads up to `end` and gives each wanted record to `visit`.
    ///
    /// # Errors
    /// [`ScanError`]; the next call tries again.
    pub fn read_to(
        &mut self,
        end: LogEnd,
        filter: &LogFilter,
        mut visit: impl FnMut(&LogRecord<'_>) -> Go,
    ) -> Result<Go, ScanError> {
        loop {
            let Some(open) = &mut self.open else {
                if !self.open_next(end)? {
                    return Ok(Go::On);
                }
                continue;
            };
            let is_last = open.segment >= end.segment;
            if !open.feed(if is_last { Some(end.offset) } else { None })? && is_last {
                return Ok(Go::On);
            }
            let skip_to = if open.segment == self.first {
                self.skip_to
            } else {
                0
            };
            while let Some(found) = open.reader.next() {
                if let Record::Blob { bytes, .. } = found.record
                    && u64::from(found.placement.offset.0) >= skip_to
                    && visit_batch(bytes, filter, &mut visit, |_| {}) == Go::Stop
                {
                    return Ok(Go::Stop);
                }
            }
            if is_last && open.read >= end.offset {
                return Ok(Go::On);
            }
            if !is_last && (open.reader.is_done() || open.at_end()?) {
                self.first = SegmentId(open.segment.0 + 1);
                self.skip_to = 0;
                self.open = None;
            }
        }
    }

    /// Opens the next segment; false if there is none yet.
    fn open_next(&mut self, end: LogEnd) -> Result<bool, ScanError> {
        let files = list(&self.data_dir, self.shard, Stream::DeliveryLog)?;
        let next = files.iter().find(|file| {
            !file.free && file.name.segment >= self.first && file.name.segment <= end.segment
        });
        let Some(next) = next else { return Ok(false) };
        let mut file = open_regular(&next.path)?;
        let mut front = vec![0; SEGMENT_HEADER_BYTES];
        let filled = fill(&mut file, &mut front)?;
        front.truncate(filled);
        let mut reader = SegmentReader::open(&front, &self.keys, next.name, Contents::Read)
            .map_err(ScanError::Header)?;
        reader.push(&front);
        self.open = Some(Open {
            segment: next.name.segment,
            file,
            reader,
            read: filled as u64,
        });
        Ok(true)
    }
}

impl Open {
    /// Gives the reader the next bytes, up to `end` if that is known; false if there are none.
    fn feed(&mut self, end: Option<u64>) -> io::Result<bool> {
        const CHUNK_BYTES: u64 = 256 * 1024;
        let left = end.map_or(CHUNK_BYTES, |end| {
            end.saturating_sub(self.read).min(CHUNK_BYTES)
        });
        if left == 0 {
            return Ok(false);
        }
        let mut chunk = vec![0; left as usize];
        self.file.seek(SeekFrom::Start(self.read))?;
        let filled = fill(&mut self.file, &mut chunk)?;
        self.reader.push(&chunk[..filled]);
        self.read += filled as u64;
        Ok(filled > 0)
    }

    fn at_end(&self) -> io::Result<bool> {
        Ok(self.read >= self.file.metadata()?.len())
    }
}
