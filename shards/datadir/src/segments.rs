//! Segments of a data directory, read through plain files.
//!
//! The daemon may be running: a segment can grow, and can vanish, while it is read. A file that is
//! gone is left out; what stands behind the last good batch of a segment that is being written is
//! its tail, not damage.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use engine::ids::{SegmentId, ShardId};
use engine::keys::{KeyId, KeyRing};
use engine::queue::cipher::{SegmentName, Stream};
use engine::queue::replay::{Contents, Found, SegmentReader, Summary};
use engine::queue::segment::{
    HeaderError, SEGMENT_HEADER_BYTES, SegmentHeader, parse_file_name, parse_free_file_name,
};

use rustix::fs::OFlags;

/// Bytes read at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// Shards that are looked for, whatever the configuration says: earlier starts may have had more.
const SHARDS_MAX: u16 = engine::limits::SHARDS_MAX;

/// The directory of a shard.
pub fn shard_dir(data_dir: &Path, shard: ShardId) -> PathBuf {
    data_dir.join(format!("shard-{:02}", shard.0))
}

/// The directory of one stream of a shard.
pub fn stream_dir(data_dir: &Path, shard: ShardId, stream: Stream) -> PathBuf {
    shard_dir(data_dir, shard).join(stream.as_str())
}

/// The shards that have a directory, in order.
///
/// # Errors
/// [`io::Error`] if the data directory cannot be listed.
pub fn shards(data_dir: &Path) -> io::Result<Vec<ShardId>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(data_dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("shard-"));
        let number = number
            .and_then(|number| number.parse().ok())
            .filter(|&n| n < SHARDS_MAX);
        if let Some(number) = number {
            found.push(ShardId(number));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// One file of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    /// What its place says it is.
    pub name: SegmentName,
    /// Where it is.
    pub path: PathBuf,
    /// Its size, bytes.
    pub bytes: u64,
    /// It holds nothing and waits to become a segment.
    pub free: bool,
}

/// The segments of one stream of a shard, in order; empty if it has none.
///
/// # Errors
/// [`io::Error`] if the directory is there but cannot be listed.
pub fn list(data_dir: &Path, shard: ShardId, stream: Stream) -> io::Result<Vec<SegmentFile>> {
    let directory = stream_dir(data_dir, shard, stream);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let file_name = entry.file_name();
        let Some(text) = file_name.to_str() else {
            continue;
        };
        let (segment, free) = match (parse_file_name(text), parse_free_file_name(text)) {
            (Some(segment), _) => (segment, false),
            (None, Some(segment)) => (segment, true),
            (None, None) => continue,
        };
        let bytes = match entry.metadata() {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let name = SegmentName {
            stream,
            shard,
            segment,
        };
        found.push(SegmentFile {
            name,
            path: entry.path(),
            bytes,
            free,
        });
    }
    found.sort_by_key(|file| (file.free, file.name.segment));
    Ok(found)
}

/// All segments of all shards and streams that hold something, in order.
///
/// # Errors
/// As [`shards`] and [`list`].
pub fn list_all(data_dir: &Path) -> io::Result<Vec<SegmentFile>> {
    let mut found = Vec::new();
    for shard in shards(data_dir)? {
        for stream in Stream::ALL {
            found.extend(
                list(data_dir, shard, stream)?
                    .into_iter()
                    .filter(|file| !file.free),
            );
        }
    }
    Ok(found)
}

/// A segment cannot be read at all.
#[derive(Debug)]
pub enum ScanError {
    /// The system refused; a vanished file is `NotFound`.
    Io(io::Error),
    /// Its header is no good.
    Header(HeaderError),
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Header(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ScanError {}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Whether a scan goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// To the next record.
    On,
    /// No further; the summary is left out.
    Stop,
}

/// Reads a segment record by record. `progress` is told of bytes read since the last call.
///
/// Returns the summary, or none if `visit` stopped.
///
/// # Errors
/// [`ScanError`].
pub fn scan(
    file: &SegmentFile,
    keys: &KeyRing,
    contents: Contents,
    mut visit: impl FnMut(Found<'_>) -> Go,
    mut progress: impl FnMut(u64),
) -> Result<Option<Summary>, ScanError> {
    let mut input = open_regular(&file.path)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let filled = fill(&mut input, &mut chunk)?;
    let front = &chunk[..filled];
    let mut reader =
        SegmentReader::open(front, keys, file.name, contents).map_err(ScanError::Header)?;
    reader.push(front);
    progress(filled as u64);
    let mut at_end = filled < CHUNK_BYTES;
    loop {
        while let Some(found) = reader.next() {
            if visit(found) == Go::Stop {
                return Ok(None);
            }
        }
        if reader.is_done() || at_end {
            break;
        }
        let filled = fill(&mut input, &mut chunk)?;
        at_end = filled < CHUNK_BYTES;
        reader.push(&chunk[..filled]);
        progress(filled as u64);
    }
    if !reader.is_done() {
        reader.close_input();
        while let Some(found) = reader.next() {
            if visit(found) == Go::Stop {
                return Ok(None);
            }
        }
    }
    Ok(Some(reader.into_summary()))
}

/// What a segment's header says, without a key: it may be forged.
///
/// # Errors
/// [`ScanError`].
pub fn peek(file: &SegmentFile) -> Result<SegmentHeader, ScanError> {
    let mut front = [0; SEGMENT_HEADER_BYTES];
    let filled = fill(&mut open_regular(&file.path)?, &mut front)?;
    SegmentHeader::peek(&front[..filled]).map_err(ScanError::Header)
}

/// The keys that the segments of a data directory were written under, by their headers; those set
/// aside as damaged count too, since somebody may still want to look into them.
///
/// # Errors
/// [`io::Error`] if a folder or file cannot be read: then there may be more.
pub fn key_ids(data_dir: &Path) -> io::Result<HashSet<KeyId>> {
    let mut found = HashSet::new();
    for shard in shards(data_dir)? {
        for stream in Stream::ALL {
            let entries = match fs::read_dir(stream_dir(data_dir, shard, stream)) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let path = entry?.path();
                let extension = path.extension().and_then(|extension| extension.to_str());
                // A free file holds nothing that is needed.
                if !matches!(extension, Some("seg" | "damaged")) {
                    continue;
                }
                let mut front = [0; SEGMENT_HEADER_BYTES];
                let filled = match open_regular(&path) {
                    Ok(mut file) => fill(&mut file, &mut front)?,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                };
                // A header that is no good names no key that could help.
                if let Ok(header) = SegmentHeader::peek(&front[..filled]) {
                    found.insert(header.key_id);
                }
            }
        }
    }
    Ok(found)
}

/// What stands at `path` if it is there and no regular file, and what to do about it: to open a FIFO or a device
/// may take for ever, and a link may lead anywhere.
pub fn irregular(path: &Path) -> Option<String> {
    let kind = fs::symlink_metadata(path).ok()?.file_type();
    let what = if kind.is_file() {
        return None;
    } else if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else {
        "a device or a socket"
    };
    Some(format!(
        "{} is {what}, no regular file: move it out of the folder, and the segment's own file to its \
         place if there is one",
        path.display()
    ))
}

/// Opens a regular file, and nothing else, to read it.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    if let Some(why) = irregular(path) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    // Should another have come to its place meanwhile, this does not wait.
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let mut options = fs::OpenOptions::new();
    options
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

/// Reads until `buffer` is full or the file ends.
pub(crate) fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The file of a segment given by its number, in any state.
///
/// # Errors
/// As [`list`].
pub fn find(
    data_dir: &Path,
    shard: ShardId,
    stream: Stream,
    segment: SegmentId,
) -> io::Result<Option<SegmentFile>> {
    let files = list(data_dir, shard, stream)?;
    Ok(files
        .into_iter()
        .find(|file| file.name.segment == segment && !file.free))
}
