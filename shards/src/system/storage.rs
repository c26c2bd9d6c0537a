//! The data directory and the disk below it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use datadir::KeysError;
use engine::units::format_size_bytes;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Said, Subject, Verdict, bad, good, warning};

/// Alignment and length of the writes that are tried, bytes.
const BLOCK_BYTES: usize = 4096;

/// Syncs that are measured, and for how long at most.
const SYNCS_MAX: usize = 16;
const SYNCS_TIME_MAX: Duration = Duration::from_millis(1_500);

/// A sync dearer than this makes every client wait for it.
const SYNC_GOOD_MAX: Duration = Duration::from_millis(20);

/// Of a file system that is gone with the next boot: tmpfs, ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

pub(super) fn data_dir(subject: &Subject) -> Said {
    let path = subject.installation.data_dir();
    let shown = path.display();
    let own = rustix::process::geteuid().as_raw();
    match fs::metadata(path) {
        Ok(meta) if !meta.is_dir() => {
            return bad(format!("{shown} is no directory; set server.data_dir"));
        }
        Ok(meta) if own != 0 && meta.uid() != own => {
            return bad(format!(
                "{shown} belongs to user {}, and this runs as user {own}; run it as that user, or: \
                 chown -R {own} {shown}",
                meta.uid()
            ));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return bad(format!(
                "{shown} is no data directory yet; run: hikyaku init"
            ));
        }
        Err(error) => return bad(format!("cannot open {shown}: {}", with_remedy(&error))),
    }
    match subject.installation.check() {
        Ok(()) => good(format!("{shown}, closed to other users")),
        Err(KeysError::Io { doing, path, error }) => {
            let path = path.display();
            bad(format!("cannot {doing} {path}: {}", with_remedy(&error)))
        }
        Err(error) => bad(error.to_string()),
    }
}

fn with_remedy(error: &io::Error) -> String {
    let remedy = match Errno::from_io_error(error) {
        Some(Errno::LOOP) => "a symbolic link leads back to itself; set server.data_dir",
        Some(Errno::ACCESS) => "run this as the user the data directory belongs to",
        Some(Errno::ROFS) => "mount it for writing",
        _ => "see server.data_dir",
    };
    format!("{error}; {remedy}")
}

pub(super) fn in_use(subject: &Subject) -> Said {
    match subject.installation.in_use_by() {
        None => good("by no other daemon"),
        Some(pid) => bad(KeysError::InUse {
            data_dir: subject.installation.data_dir().to_owned(),
            pid,
        }
        .to_string()),
    }
}

pub(super) fn direct_writes(subject: &Subject) -> Said {
    let path = subject.installation.data_dir();
    let shown = path.display();
    if data_dir(subject).0 == Verdict::Bad {
        return warning("not tried: see the data directory");
    }
    if let Err(error) = write_block(path, OFlags::DIRECT) {
        return match Errno::from_io_error(&error) {
            Some(Errno::INVAL | Errno::OPNOTSUPP) => bad(format!(
                "the file system of {shown} takes no direct writes (O_DIRECT); put it on ext4, XFS or \
                 btrfs"
            )),
            // The queue that is there can drain, and makes room.
            Some(Errno::NOSPC | Errno::DQUOT) if has_queue(path) => warning(format!(
                "{shown} is full: mail is refused until queued mail has gone out; make room"
            )),
            Some(Errno::NOSPC | Errno::DQUOT) => bad(format!(
                "{shown} is full; make room, or set server.data_dir"
            )),
            _ => bad(format!("cannot write in {shown}: {}", with_remedy(&error))),
        };
    }
    let kind = rustix::fs::statfs(path).map_or(0, |found| found.f_type as u64);
    if IN_MEMORY.contains(&kind) {
        return warning(format!(
            "{shown} is in memory (tmpfs): accepted mail is lost with the machine; set server.data_dir \
             to a disk"
        ));
    }
    good(format!("{shown} takes them"))
}

/// Whether there is anything of a queue here, which a start can go on with.
fn has_queue(data_dir: &Path) -> bool {
    data_dir.join("shard-00").is_dir()
}

/// Writes a block to a file without a name, which is gone when it is closed.
fn write_block(folder: &Path, flags: OFlags) -> io::Result<()> {
    let file = nameless(folder, flags)?;
    let buffer = Block::new();
    file.write_all_at(buffer.aligned(), 0)
}

fn nameless(folder: &Path, flags: OFlags) -> io::Result<File> {
    let nameless = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC | flags;
    match rustix::fs::open(folder, nameless, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        // Some file systems only know files with names.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => {
            let path = folder.join(format!(".check-{}", std::process::id()));
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .custom_flags(flags.bits().cast_signed())
                .open(&path);
            // Also of one that could be made but not opened so.
            let _ = fs::remove_file(&path);
            file
        }
        Err(error) => Err(error.into()),
    }
}

/// Room for one block at an address that direct writes take.
struct Block(Vec<u8>);

impl Block {
    fn new() -> Self {
        Self(vec![0x5a; 2 * BLOCK_BYTES])
    }

    fn aligned(&self) -> &[u8] {
        let start = self.0.as_ptr().align_offset(BLOCK_BYTES);
        &self.0[start..start + BLOCK_BYTES]
    }
}

pub(super) fn free_space(subject: &Subject) -> Said {
    let path = subject.installation.data_dir();
    let Ok(found) = rustix::fs::statvfs(path) else {
        return warning("not known: there is no data directory");
    };
    let config = &subject.config;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    // A segment to write, one to compact into, and what is kept for a full disk.
    let shards = u64::from(subject.shards);
    let wanted = config.limits.disk_reserve_bytes + 2 * shards * config.queue.segment_bytes;
    let sizes = format!("{} MiB free", free >> 20);
    if free <= config.limits.disk_reserve_bytes {
        return warning(format!(
            "{sizes}, no more than limits.disk_reserve ({}): mail is refused; make room",
            format_size_bytes(config.limits.disk_reserve_bytes)
        ));
    }
    if free < wanted {
        let wanted = wanted >> 20;
        return warning(format!(
            "{sizes}, {wanted} MiB are wanted for {shards} shards; make room or lower \
             queue.segment_bytes"
        ));
    }
    if found.f_files > 0 && found.f_favail < 1_000 {
        return warning(format!(
            "{sizes}, but only {} inodes; make room",
            found.f_favail
        ));
    }
    good(sizes)
}

pub(super) fn sync_cost(subject: &Subject) -> Said {
    let path = subject.installation.data_dir();
    match measure(path) {
        Ok(median) => {
            let text = format!(
                "{:.2} ms for a write that is on disk",
                median.as_secs_f64() * 1e3
            );
            if median > SYNC_GOOD_MAX {
                warning(format!(
                    "{text}: every client waits so long for its 250; use a disk with a write cache \
                     that survives power cuts"
                ))
            } else {
                good(text)
            }
        }
        Err(_) => warning("not measured: nothing can be written to the data directory"),
    }
}

/// The median of some writes of a block each, as the queue does them.
fn measure(folder: &Path) -> io::Result<Duration> {
    let file = nameless(folder, OFlags::DIRECT | OFlags::DSYNC)?;
    let buffer = Block::new();
    let begun = Instant::now();
    let mut took = Vec::with_capacity(SYNCS_MAX);
    // The first takes its block from the file system; the queue writes into blocks it has.
    while took.len() < SYNCS_MAX && begun.elapsed() < SYNCS_TIME_MAX {
        let one = Instant::now();
        file.write_all_at(buffer.aligned(), 0)?;
        took.push(one.elapsed());
    }
    took.sort_unstable();
    Ok(took[took.len() / 2])
}
