//! The model as a file system of this machine (FUSE), for the built programs to run on.
//!
//! Everything a program does to it is written down before the program hears of it. A fault does what a
//! failing disk does: part of a write is done and an error told, or all of it and less is told; a sync
//! fails and keeps nothing; for a while there is no room for what has none yet.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engine::random::Random;
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::OFlags;

use super::model::{Disk, Node, Op, SECTOR_BYTES};

/// Only the program changes anything, and the system sees all of that.
const NAMES_VALID: Duration = Duration::from_secs(60);
/// Sizes of files that fail half-way are asked for each time.
const SIZES_VALID: Duration = Duration::ZERO;
/// The most of one write.
const WRITE_BYTES_MAX: u32 = 256 << 10;
/// A slow operation takes so long.
const SLOW: Duration = Duration::from_millis(10);
/// How many operations the disk is full for.
const FULL_OPS: u64 = 30;

/// What goes wrong, per mille of its occasions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// A write or sync fails (EIO).
    pub(crate) failed: u64,
    /// A write is cut short.
    pub(crate) short: u64,
    /// The disk gets full (ENOSPC) for a while.
    pub(crate) full: u64,
    /// A name cannot be made or changed (EIO).
    pub(crate) name: u64,
    /// It takes its time.
    pub(crate) slow: u64,
}

/// The disk, and all that was done to it.
pub(crate) struct State {
    pub(crate) disk: Disk,
    pub(crate) ops: Vec<Op>,
    /// None until they are wanted.
    pub(crate) faults: Faults,
    /// How many operations failed or did less than they should.
    pub(crate) failures: u64,
    random: Random,
    full_for: u64,
    next_node: Node,
}

impl State {
    fn done(&mut self, op: Op) {
        self.disk.apply(&op);
        self.ops.push(op);
    }

    fn strikes(&mut self, per_mille: u64) -> bool {
        let struck = self.random.below(1000) < per_mille;
        self.failures += u64::from(struck);
        struck
    }

    fn is_full(&mut self) -> bool {
        if self.full_for > 0 {
            self.full_for -= 1;
        } else if self.strikes(self.faults.full) {
            self.full_for = FULL_OPS;
        }
        self.full_for > 0
    }

    fn attributes(&self, node: Node) -> Option<FileAttr> {
        self.disk.kind(node)?;
        let (kind, size) = match self.disk.file(node) {
            Some(file) => (FileType::RegularFile, file.bytes()),
            None => (FileType::Directory, 0),
        };
        Some(FileAttr {
            ino: INodeNo(node),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: (self.disk.mode(node) & 0o7777) as u16,
            nlink: 1,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn make(
        &mut self,
        folder: Node,
        name: &OsStr,
        is_folder: bool,
        mode: u32,
    ) -> Result<FileAttr, Errno> {
        let name = name.to_str().ok_or(Errno::EINVAL)?;
        if self.disk.find(folder, name).is_some() {
            return Err(Errno::EEXIST);
        }
        if self.strikes(self.faults.name) {
            return Err(Errno::EIO);
        }
        let node = self.next_node;
        self.next_node += 1;
        self.done(Op::Make {
            at: (folder, name.to_owned()),
            node,
            is_folder,
            mode,
        });
        self.attributes(node).ok_or(Errno::EIO)
    }

    fn remove(&mut self, folder: Node, name: &OsStr) -> Result<(), Errno> {
        let name = name.to_str().ok_or(Errno::EINVAL)?;
        let node = self.disk.find(folder, name).ok_or(Errno::ENOENT)?;
        if self.disk.names(node).is_some_and(|names| !names.is_empty()) {
            return Err(Errno::ENOTEMPTY);
        }
        if self.strikes(self.faults.name) {
            return Err(Errno::EIO);
        }
        self.done(Op::Remove((folder, name.to_owned())));
        Ok(())
    }

    /// Writes what it will; how many bytes it says it wrote.
    fn write(&mut self, file: Node, at: u64, bytes: &[u8], synced: bool) -> Result<usize, Errno> {
        let end = at + bytes.len() as u64;
        let has_room = (self.disk.file(file)).is_some_and(|file| file.has_room(at, end));
        if !has_room && self.is_full() {
            self.failures += 1;
            return Err(Errno::ENOSPC);
        }
        let fails = self.strikes(self.faults.failed);
        let is_short = !fails && self.strikes(self.faults.short);
        let mut written = bytes.len();
        if fails || is_short {
            let sectors = bytes.len() as u64 / SECTOR_BYTES;
            written = (self.random.below(sectors + 1) * SECTOR_BYTES) as usize;
        }
        if is_short && written == 0 {
            return Err(Errno::EIO);
        }
        if written > 0 {
            self.done(Op::Write {
                file,
                at,
                bytes: bytes[..written].into(),
            });
        }
        if fails {
            return Err(Errno::EIO);
        }
        if synced {
            let to = at + written as u64;
            self.done(Op::SyncRange { file, from: at, to });
        }
        Ok(written)
    }

    fn sync(&mut self, node: Node, op: Op) -> Result<(), Errno> {
        if self.strikes(self.faults.failed) {
            self.done(Op::SyncFailed(node));
            return Err(Errno::EIO);
        }
        self.done(op);
        Ok(())
    }
}

/// A handle on the state; the mount and the test each have one.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<State>>);

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Operations so far: all that has been answered is among them.
    pub(crate) fn position(&self) -> usize {
        self.lock().ops.len()
    }
}

/// A mounted disk.
pub(crate) struct Mounted {
    pub(crate) shared: Shared,
    _session: BackgroundSession,
}

impl Mounted {
    /// Mounts `disk` at `at`; it is unmounted when this is dropped.
    ///
    /// # Errors
    /// Where that is not allowed.
    pub(crate) fn mount(disk: Disk, at: &Path, seed: u64) -> io::Result<Self> {
        let next_node = disk.next_node();
        let shared = Shared(Arc::new(Mutex::new(State {
            disk,
            ops: Vec::new(),
            faults: Faults::default(),
            failures: 0,
            random: Random::new(seed),
            full_for: 0,
            next_node,
        })));
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("hikyaku-power".to_owned()),
            MountOption::DefaultPermissions,
        ];
        let session = fuser::spawn_mount(Volume(shared.clone()), at, &config)?;
        Ok(Self {
            shared,
            _session: session,
        })
    }
}

struct Volume(Shared);

impl Volume {
    /// The state, late where the disk is slow.
    fn slowly(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.lock();
        let per_mille = state.faults.slow;
        if per_mille > 0 && state.random.below(1000) < per_mille {
            drop(state);
            std::thread::sleep(SLOW);
            state = self.0.lock();
        }
        state
    }
}

fn answer(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn entry(result: Result<FileAttr, Errno>, reply: ReplyEntry) {
    match result {
        Ok(found) => reply.entry(&NAMES_VALID, &found, Generation(0)),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Volume {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let _ = config.set_max_write(WRITE_BYTES_MAX);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.0.lock();
        let node = name
            .to_str()
            .and_then(|name| state.disk.find(parent.0, name));
        let found = node.and_then(|node| state.attributes(node));
        entry(found.ok_or(Errno::ENOENT), reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.lock().attributes(ino.0) {
            Some(found) => reply.attr(&SIZES_VALID, &found),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.slowly();
        if let Some(bytes) = size {
            state.done(Op::Resize { file: ino.0, bytes });
        }
        if let Some(mode) = mode {
            state.disk.set_mode(ino.0, mode);
        }
        match state.attributes(ino.0) {
            Some(found) => reply.attr(&SIZES_VALID, &found),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        entry(
            self.slowly().make(parent.0, name, true, mode & !umask),
            reply,
        );
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.slowly().remove(parent.0, name), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.slowly().remove(parent.0, name), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut state = self.slowly();
        let (Some(name), Some(newname)) = (name.to_str(), newname.to_str()) else {
            return reply.error(Errno::EINVAL);
        };
        if state.disk.find(parent.0, name).is_none() {
            return reply.error(Errno::ENOENT);
        }
        let per_mille = state.faults.name;
        if state.strikes(per_mille) {
            return reply.error(Errno::EIO);
        }
        state.done(Op::Rename(
            (parent.0, name.to_owned()),
            (newparent.0, newname.to_owned()),
        ));
        reply.ok();
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(handle(flags.0)), FopenFlags::empty());
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        match self.slowly().make(parent.0, name, false, mode & !umask) {
            Ok(found) => reply.created(
                &NAMES_VALID,
                &found,
                Generation(0),
                FileHandle(handle(flags)),
                FopenFlags::empty(),
            ),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = self.0.lock();
        match state.disk.file(ino.0) {
            Some(file) => reply.data(&file.read(offset, size.into())),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.slowly().write(ino.0, offset, data, fh.0 == SYNCED) {
            Ok(written) => reply.written(written as u32),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(self.slowly().sync(ino.0, Op::SyncFile(ino.0)), reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(self.slowly().sync(ino.0, Op::SyncFolder(ino.0)), reply);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let state = self.0.lock();
        let Some(names) = state.disk.names(ino.0) else {
            return reply.error(Errno::ENOTDIR);
        };
        for (n, (name, node)) in names.iter().enumerate().skip(offset as usize) {
            let kind = if state.disk.file(*node).is_some() {
                FileType::RegularFile
            } else {
                FileType::Directory
            };
            if reply.add(INodeNo(*node), n as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let state = self.0.lock();
        let blocks = 1 << 20;
        // Now and then the room that is missing is not even told.
        let free = if state.full_for > FULL_OPS / 2 {
            0
        } else {
            blocks
        };
        reply.statfs(blocks, free, free, 1 << 20, 1 << 20, 4096, 255, 4096);
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        _: i32,
        reply: ReplyEmpty,
    ) {
        let mut state = self.slowly();
        let end = offset + length;
        if state.is_full() {
            return reply.error(Errno::ENOSPC);
        }
        if state
            .disk
            .file(ino.0)
            .is_some_and(|file| file.bytes() < end)
        {
            state.done(Op::Resize {
                file: ino.0,
                bytes: end,
            });
        }
        reply.ok();
    }
}

/// The handle of a file whose writes are to be durable when they are done.
const SYNCED: u64 = 1;

fn handle(flags: i32) -> u64 {
    let flags = OFlags::from_bits_retain(flags as u32);
    if flags.contains(OFlags::DSYNC) {
        SYNCED
    } else {
        0
    }
}
