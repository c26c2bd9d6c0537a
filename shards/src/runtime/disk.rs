//! Segment files of one shard: made, written, synced, read back, disposed of.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use datadir::segments::irregular;
use engine::ids::{HandoverId, SegmentId, ShardId};
use engine::queue::cipher::Stream;
use engine::queue::segment::{
    Placement, SEGMENT_HEADER_BYTES, file_name, free_file_name, handover_folder_name,
    parse_file_name, parse_free_file_name,
};
use engine::queue::set::Disposal;
use engine::shard::{Begin, DiskError};
use glommio::io::{Directory, DmaFile, OpenOptions};
use rustix::fs::OFlags;

/// What is read of a file to find out how its device completes reads, bytes.
const PROBE_BYTES: usize = 4096;
/// The reserve is made when it is less than this part of what is free.
const RESERVE_SHARE: u64 = 4;
/// Beside the streams' folders: room for one queue segment on a disk that is full.
const RESERVE_NAME: &str = "reserve";
/// Files kept open for reading and writing, per shard.
pub(crate) const OPEN_FILES_MAX: usize = 64;

/// What stands in a stream's folder.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Segments with their sizes in bytes, oldest first.
    pub(crate) segments: Vec<(SegmentId, u64)>,
    /// Free files with their sizes.
    pub(crate) free: Vec<(SegmentId, u64)>,
    /// Above every number in use.
    pub(crate) next: SegmentId,
}

/// Reads a stream's folder.
///
/// # Errors
/// As the system says, with the path.
pub(crate) fn list(folder: &Path) -> Result<Listing, String> {
    let fault = |error: io::Error| format!("{}: {error}", folder.display());
    let mut listing = Listing::default();
    for entry in std::fs::read_dir(folder).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let metadata = entry.metadata().map_err(fault)?;
        // Something else is told when it is to be read.
        let is_file = metadata.is_file();
        let bytes = if is_file { metadata.len() } else { 0 };
        // A quarantined file keeps its number taken.
        let digits = name.split(|c: char| !c.is_ascii_digit()).next();
        let number = digits
            .filter(|digits| digits.len() >= 8)
            .and_then(|digits| digits.parse().ok())
            .map(SegmentId);
        if let Some(number) = number {
            listing.next = listing.next.max(SegmentId(number.0 + 1));
        }
        if let Some(segment) = parse_file_name(name) {
            listing.segments.push((segment, bytes));
        } else if let Some(segment) = parse_free_file_name(name)
            && is_file
        {
            listing.free.push((segment, bytes));
        }
    }
    listing.segments.sort_unstable();
    listing.free.sort_unstable();
    Ok(listing)
}

/// The folder of a shard's stream below the data directory.
pub(crate) fn stream_folder(data_dir: &Path, shard: ShardId, stream: Stream) -> PathBuf {
    data_dir
        .join(format!("shard-{:02}", shard.0))
        .join(stream.as_str())
}

type Files = HashMap<(Stream, SegmentId), Rc<DmaFile>>;

/// One shard's files.
#[derive(Debug)]
pub(crate) struct Disk {
    data_dir: PathBuf,
    shard: ShardId,
    files: RefCell<Files>,
    free: RefCell<Vec<SegmentId>>,
    segment_bytes: u32,
    /// A file of the size of a queue segment, its room taken, stands by.
    has_reserve: Cell<bool>,
    /// It is being made.
    is_reserving: Cell<bool>,
    /// The data directory was not found when it was looked for last.
    is_missing: Cell<bool>,
}

impl Disk {
    /// The shard's part of `data_dir`; `free` files are for new queue segments.
    pub(crate) fn new(
        data_dir: PathBuf,
        shard: ShardId,
        free: Vec<SegmentId>,
        segment_bytes: u32,
    ) -> Self {
        Self {
            data_dir,
            shard,
            files: RefCell::default(),
            free: RefCell::new(free),
            segment_bytes,
            has_reserve: Cell::new(false),
            is_reserving: Cell::new(false),
            is_missing: Cell::new(false),
        }
    }

    /// Lets glommio find out, on a file with data in it, whether the device completes reads by polling.
    ///
    /// It finds out at the first file it opens on a device, by reading it. Of an empty file or a hole
    /// the kernel reads without asking the device, so polling would be taken for possible where it is
    /// not, and every later read fail with EOPNOTSUPP.
    ///
    /// # Errors
    /// [`DiskError`].
    pub(crate) async fn probe_device(&self, queue: &Listing) -> Result<(), DiskError> {
        // Any file with data will do, and one that is there needs no room: on a full disk the queue
        // must still start, or it could never drain.
        let of_queue = (queue.segments.iter())
            .filter(|(_, bytes)| *bytes >= PROBE_BYTES as u64)
            .map(|(segment, _)| self.folder(Stream::Queue).join(file_name(*segment)));
        for path in std::iter::once(self.reserve_path()).chain(of_queue) {
            if file_bytes(&path) >= PROBE_BYTES as u64 {
                return open_dma(&path, false).await.map(drop);
            }
        }
        self.begin_reserve().map_err(|error| {
            let _ = std::fs::remove_file(self.reserve_path());
            io_error(error)
        })?;
        open_dma(&self.reserve_path(), false).await.map(drop)
    }

    fn reserve_path(&self) -> PathBuf {
        let folder = self.folder(Stream::Queue);
        folder.with_file_name(RESERVE_NAME)
    }

    fn begin_reserve(&self) -> io::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.reserve_path())?;
        io::Write::write_all(&mut file, &[0x5a; PROBE_BYTES])?;
        file.sync_all()
    }

    /// Keeps room for one queue segment, if the disk has some to spare: on a full disk
    /// nothing could be noted as delivered, so nothing would be, and no room would ever come free.
    ///
    /// To find that room may take a busy disk seconds: others of the shard have their turn meanwhile.
    pub(crate) async fn keep_reserve(&self) {
        if self.has_reserve.get() || self.is_reserving.replace(true) {
            return;
        }
        let bytes = u64::from(self.segment_bytes);
        let kept = if file_bytes(&self.reserve_path()) == bytes {
            true
        } else if self.free_bytes() / RESERVE_SHARE < bytes {
            false
        } else {
            // Where it cannot be had the disk is no worse off than without it; the next call tries again.
            self.reserve(bytes).await.is_ok()
        };
        self.has_reserve.set(kept);
        self.is_reserving.set(false);
    }

    async fn reserve(&self, bytes: u64) -> Result<(), DiskError> {
        let path = self.reserve_path();
        let file = open_dma(&path, !path.exists()).await?;
        write_synced(&file, &[0x5a; PROBE_BYTES], 0).await?;
        file.pre_allocate(bytes, false).await.map_err(disk_error)?;
        file.fdatasync().await.map_err(disk_error)?;
        file.close().await.map_err(disk_error)
    }

    fn folder(&self, stream: Stream) -> PathBuf {
        stream_folder(&self.data_dir, self.shard, stream)
    }

    /// Writes and syncs; makes the file first where `begin` says so.
    ///
    /// # Errors
    /// [`DiskError`]; what is on the disk then is unknown.
    pub(crate) async fn write(
        &self,
        stream: Stream,
        segment: SegmentId,
        offset: u64,
        bytes: &[u8],
        begin: Option<Begin>,
    ) -> Result<(), DiskError> {
        let file = match begin {
            Some(begin) => self.make(stream, segment, begin, bytes).await?,
            None => self.open(stream, segment).await?,
        };
        write_synced(&file, bytes, offset).await
    }

    /// Makes a segment's file out of a free one, or of nothing: under the name of a free file until
    /// its header, the first block of `bytes`, is durable. So no crash leaves a segment without one
    /// (docs/decisions/013).
    async fn make(
        &self,
        stream: Stream,
        segment: SegmentId,
        begin: Begin,
        bytes: &[u8],
    ) -> Result<Rc<DmaFile>, DiskError> {
        let folder = self.folder(stream);
        let reused = if begin.reuse {
            self.free.borrow_mut().pop()
        } else {
            None
        };
        let free = reused.unwrap_or(segment);
        let mut made = self
            .make_from(&folder, free, reused.is_some(), segment, begin, bytes)
            .await;
        if matches!(made, Err(DiskError::Full))
            && stream == Stream::Queue
            && self.has_reserve.take()
        {
            let path = folder.join(free_file_name(free));
            std::fs::rename(self.reserve_path(), path).map_err(io_error)?;
            made = self
                .make_from(&folder, free, true, segment, begin, bytes)
                .await;
        }
        if made.is_err() {
            // Half made. The core counts the free file as used, so it does not go back to those at
            // hand; if it cannot be removed, the next start finds it.
            let _ = std::fs::remove_file(folder.join(free_file_name(free)));
        }
        let file = Rc::new(made?);
        self.remember(stream, segment, &file);
        Ok(file)
    }

    async fn make_from(
        &self,
        folder: &Path,
        free: SegmentId,
        is_there: bool,
        segment: SegmentId,
        begin: Begin,
        bytes: &[u8],
    ) -> Result<DmaFile, DiskError> {
        let path = folder.join(free_file_name(free));
        let file = open_dma(&path, !is_there).await?;
        if !is_there {
            // The size is set once, so that no later sync has to change it. With its room taken, too, a write
            // need not wait for blocks to be found, which the kernel would have a thread of its own do.
            // That is for the queue, whose files are filled and used again: a log's may never be.
            let bytes = u64::from(begin.segment_bytes);
            let is_queue = *folder == self.folder(Stream::Queue);
            if !is_queue || file.pre_allocate(bytes, false).await.is_err() {
                // No room for all of it, or a file system that cannot: what there is room for is used.
                file.truncate(bytes).await.map_err(disk_error)?;
            }
        }
        let header = bytes.get(..SEGMENT_HEADER_BYTES).unwrap_or(bytes);
        write_synced(&file, header, 0).await?;
        // The size, too.
        file.fdatasync().await.map_err(disk_error)?;
        std::fs::rename(&path, folder.join(file_name(segment))).map_err(io_error)?;
        sync_folder(folder).await?;
        Ok(file)
    }

    async fn open(&self, stream: Stream, segment: SegmentId) -> Result<Rc<DmaFile>, DiskError> {
        if let Some(file) = self.files.borrow().get(&(stream, segment)) {
            return Ok(Rc::clone(file));
        }
        let path = self.folder(stream).join(file_name(segment));
        let file = Rc::new(open_dma(&path, false).await?);
        self.remember(stream, segment, &file);
        Ok(file)
    }

    fn remember(&self, stream: Stream, segment: SegmentId, file: &Rc<DmaFile>) {
        let mut files = self.files.borrow_mut();
        if files.len() >= OPEN_FILES_MAX
            && let Some(oldest) = files.keys().min_by_key(|(_, segment)| *segment).copied()
        {
            files.remove(&oldest);
        }
        files.insert((stream, segment), Rc::clone(file));
    }

    /// What stands in the place of a queue segment's file instead of one, if so, and whether it is a link:
    /// what that leads to may come.
    pub(crate) fn irregular(&self, segment: SegmentId) -> Option<(String, bool)> {
        let path = self.folder(Stream::Queue).join(file_name(segment));
        let why = irregular(&path)?;
        Some((why, path.is_symlink()))
    }

    /// Reads a queue record's bytes as they lie on disk.
    ///
    /// # Errors
    /// [`DiskError`], also if the file ends before the record does.
    pub(crate) async fn read(&self, placement: Placement) -> Result<Vec<u8>, DiskError> {
        let file = self.open(Stream::Queue, placement.segment).await?;
        let (offset, bytes, within) = placement.blocks();
        let read = file
            .read_at_aligned(offset, bytes)
            .await
            .map_err(disk_error)?;
        read.get(within..within + placement.bytes as usize)
            .map(<[u8]>::to_vec)
            .ok_or_else(|| DiskError::Io(format!("the file ends within the {bytes} bytes to read")))
    }

    /// Makes durable what a run that ended may have written to a queue segment and not synced: it can be
    /// read all the same, and is relied on from now on.
    ///
    /// # Errors
    /// [`DiskError`].
    pub(crate) async fn sync(&self, segment: SegmentId) -> Result<(), DiskError> {
        let file = self.open(Stream::Queue, segment).await?;
        file.fdatasync().await.map_err(disk_error)
    }

    /// Reads `bytes` of a queue segment from `offset`, fewer at its end.
    ///
    /// # Errors
    /// [`DiskError`].
    pub(crate) async fn read_chunk(
        &self,
        segment: SegmentId,
        offset: u64,
        bytes: usize,
    ) -> Result<glommio::io::ReadResult, DiskError> {
        let file = self.open(Stream::Queue, segment).await?;
        file.read_at_aligned(offset, bytes)
            .await
            .map_err(disk_error)
    }

    /// Disposes of a queue segment's file, durably.
    ///
    /// # Errors
    /// [`DiskError`].
    pub(crate) async fn retire(
        &self,
        segment: SegmentId,
        disposal: Disposal,
    ) -> Result<(), DiskError> {
        self.files.borrow_mut().remove(&(Stream::Queue, segment));
        let folder = self.folder(Stream::Queue);
        let path = folder.join(file_name(segment));
        let done = match disposal {
            Disposal::Free => std::fs::rename(&path, folder.join(free_file_name(segment))),
            Disposal::Delete => std::fs::remove_file(&path),
            Disposal::Quarantine => std::fs::rename(&path, path.with_extension("damaged")),
        };
        let is_there = match done {
            // Its making failed: it never came to be.
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            other => other.map(|()| true).map_err(io_error)?,
        };
        sync_folder(&folder).await?;
        if disposal == Disposal::Free && is_there {
            self.free.borrow_mut().push(segment);
        }
        Ok(())
    }

    /// Deletes a segment's file; not worth a sync, as coming back after a crash does no harm.
    ///
    /// # Errors
    /// [`DiskError`].
    pub(crate) fn delete(&self, stream: Stream, segment: SegmentId) -> Result<(), DiskError> {
        self.files.borrow_mut().remove(&(stream, segment));
        match std::fs::remove_file(self.folder(stream).join(file_name(segment))) {
            // Its making failed, on a full disk say: it never came to be.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(io_error),
        }
    }

    /// Deletes one free file; if that fails it stays at hand.
    ///
    /// # Errors
    /// [`DiskError`].
    pub(crate) async fn delete_free(&self) -> Result<(), DiskError> {
        let Some(free) = self.free.borrow_mut().pop() else {
            return Ok(());
        };
        let folder = self.folder(Stream::Queue);
        let deleted = match std::fs::remove_file(folder.join(free_file_name(free))) {
            // An earlier attempt went as far.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(io_error),
        };
        let done = match deleted {
            Ok(()) => sync_folder(&folder).await,
            Err(error) => Err(error),
        };
        if done.is_err() {
            self.free.borrow_mut().push(free);
        }
        done
    }

    /// Notes a handover of mail out of this shard's folder, durably, by a folder of its name.
    ///
    /// # Errors
    /// [`DiskError`]; it may be noted all the same, and is not if the next start does not find it.
    pub(crate) async fn note_handover(&self, handover: HandoverId) -> Result<(), DiskError> {
        let queue = self.folder(Stream::Queue);
        match std::fs::create_dir(queue.with_file_name(handover_folder_name(handover))) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(io_error)?,
        }
        sync_parent(&queue).await
    }

    /// Bytes free for us on the file system; none where the data directory is not to be found: what would
    /// be written there, nobody would find again.
    pub(crate) fn free_bytes(&self) -> u64 {
        match rustix::fs::statvfs(&self.data_dir) {
            Ok(stat) => {
                self.is_missing.set(false);
                stat.f_bavail.saturating_mul(stat.f_frsize)
            }
            Err(error) => {
                if !self.is_missing.replace(true) {
                    let dir = self.data_dir.display();
                    crate::say!(
                        "{dir} cannot be found ({error}): mail is refused until it is back"
                    );
                }
                0
            }
        }
    }
}

/// A file whose every write is durable when it is done (O_DSYNC): one request to the kernel and one
/// wake-up a batch, where a write and an fdatasync would take two of each (docs/decisions/080).
async fn open_dma(path: &Path, create: bool) -> Result<DmaFile, DiskError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(create)
        .mode(0o600)
        .custom_flags((OFlags::DSYNC | OFlags::NOFOLLOW).bits().cast_signed())
        .dma_open(path)
        .await
        .map_err(disk_error)
}

/// Writes to a file of [`open_dma`].
async fn write_synced(file: &DmaFile, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
    let mut buffer = file.alloc_dma_buffer(bytes.len());
    buffer.as_bytes_mut()[..bytes.len()].copy_from_slice(bytes);
    let written = file.write_at(buffer, offset).await.map_err(disk_error)?;
    if written != bytes.len() {
        return Err(DiskError::Io(format!(
            "wrote {written} of {} bytes",
            bytes.len()
        )));
    }
    Ok(())
}

/// Makes names in the folder that `path` is in durable.
///
/// # Errors
/// [`DiskError`].
pub(crate) async fn sync_parent(path: &Path) -> Result<(), DiskError> {
    match path.parent() {
        Some(folder) => sync_folder(folder).await,
        None => Ok(()),
    }
}

async fn sync_folder(folder: &Path) -> Result<(), DiskError> {
    let directory = Directory::open(folder).await.map_err(disk_error)?;
    let result = directory.sync().await.map_err(disk_error);
    directory.close().await.map_err(disk_error)?;
    result
}

fn file_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Without the path: that is the one under which the file was opened, and a queue segment's file has
/// another name since. Who reports the error knows the segment.
fn disk_error(error: glommio::GlommioError<()>) -> DiskError {
    match error {
        glommio::GlommioError::EnhancedIoError { source, op, .. } => match io_error(source) {
            DiskError::Io(why) => DiskError::Io(format!("{why} ({op})")),
            full => full,
        },
        other => io_error(other.into()),
    }
}

fn io_error(error: io::Error) -> DiskError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskError::Full,
        _ => DiskError::Io(error.to_string()),
    }
}
