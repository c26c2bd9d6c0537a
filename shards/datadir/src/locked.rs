//! Memory for secrets: locked into RAM, left out of core dumps, zeroed when dropped.
//!
//! The only file of this crate with `unsafe`: the system's memory calls take raw addresses.
#![allow(unsafe_code, reason = "mmap, mlock and madvise take raw addresses")]

use std::ffi::c_void;
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::{NonNull, null_mut};

use rustix::mm::{
    Advice, MapFlags, MlockAllFlags, ProtFlags, madvise, mlock, mlockall, mmap_anonymous, munmap,
};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{CapabilitySet, capabilities};
use zeroize::Zeroize;

/// Most bytes of one secret.
pub const LOCKED_BYTES_MAX: usize = 1 << 20;

/// Bytes on pages of their own that are locked, not dumped, not inherited by a forked child, and
/// zeroed on drop.
pub struct LockedBytes {
    start: NonNull<u8>,
    mapped: usize,
    len: usize,
}

// SAFETY: the mapping is owned by this value alone, and is reached through `&self` and `&mut self`
// only, as with a `Vec<u8>`.
unsafe impl Send for LockedBytes {}
// SAFETY: as above; `&LockedBytes` gives only `&[u8]`.
unsafe impl Sync for LockedBytes {}

impl LockedBytes {
    /// `len` zero bytes, at most [`LOCKED_BYTES_MAX`].
    ///
    /// # Errors
    /// If the system will not map or lock so much; the message says which limit to raise.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        if len > LOCKED_BYTES_MAX {
            return Err(io::Error::other(format!(
                "a secret of {len} bytes is longer than {LOCKED_BYTES_MAX}"
            )));
        }
        let page = rustix::param::page_size();
        let mapped = len.max(1).next_multiple_of(page);
        // SAFETY: a new private mapping at an address of the system's choice overlaps nothing.
        let start = unsafe {
            mmap_anonymous(
                null_mut(),
                mapped,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };
        let start =
            NonNull::new(start.cast::<u8>()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        // From here on the mapping is unmapped by `drop`, also on the error paths.
        let bytes = Self { start, mapped, len };
        // SAFETY: exactly the pages mapped above, which stay mapped as long as `bytes` lives.
        unsafe { protect(start.as_ptr().cast(), mapped)? };
        // SAFETY: as above. A child forked by accident then finds zeros.
        unsafe { madvise(start.as_ptr().cast(), mapped, Advice::LinuxWipeOnFork)? };
        Ok(bytes)
    }

    /// A locked copy; the caller's bytes are zeroed.
    ///
    /// # Errors
    /// As [`Self::zeroed`].
    pub fn take(bytes: &mut [u8]) -> io::Result<Self> {
        let copy = Self::zeroed(bytes.len()).map(|mut locked| {
            locked.copy_from_slice(bytes);
            locked
        });
        bytes.zeroize();
        copy
    }

    /// Forgets, and zeroes, what is behind the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            self[len..].zeroize();
            self.len = len;
        }
    }
}

impl Deref for LockedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` ≤ `mapped` bytes from `start` are mapped, readable and initialised (zero at
        // first), and are not written while this borrow lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for LockedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes this the only borrow.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for LockedBytes {
    fn drop(&mut self) {
        self.zeroize();
        // SAFETY: the mapping of `zeroed`, to which no borrow is left. Unmapping unlocks it.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.mapped) };
        debug_assert!(unmapped.is_ok(), "munmap: {unmapped:?}");
    }
}

impl fmt::Debug for LockedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LockedBytes({} bytes)", self.len)
    }
}

/// Locks the pages that hold `bytes` and leaves them out of core dumps, for as long as the process
/// lives: for keys that other code keeps on the heap.
///
/// # Errors
/// If the system will not lock more; the message says which limit to raise.
pub fn lock_pages_of(bytes: &[u8]) -> io::Result<()> {
    let page = rustix::param::page_size();
    let start = bytes.as_ptr() as usize;
    let first = start - start % page;
    let len = (start + bytes.len().max(1)).next_multiple_of(page) - first;
    // SAFETY: the pages hold at least one byte of a live borrow, so they are mapped. Locking and
    // leaving out of dumps changes nothing about their content, whoever else has data on them.
    unsafe { protect(first as *mut c_void, len) }
}

/// Locks pages and leaves them out of core dumps.
///
/// # Safety
/// `start` is page-aligned, and all `len` bytes from it are mapped.
unsafe fn protect(start: *mut c_void, len: usize) -> io::Result<()> {
    // SAFETY: the caller's promise; neither call changes content.
    unsafe { mlock(start, len) }.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!(
                "{error}: cannot lock memory for keys; raise the limit (LimitMEMLOCK=, ulimit -l)"
            ),
        )
    })?;
    // SAFETY: as above.
    unsafe { madvise(start, len, Advice::LinuxDontDump)? };
    Ok(())
}

/// Locks all of this process's memory, also what it will ask for: content in clear and keys of segments
/// stay out of swap. Pages are locked as they are touched, so it takes no more of them.
///
/// # Errors
/// Why not. Then nothing has changed; under a limit that does not cover everything, later requests for
/// memory would fail, so it is not even tried.
pub fn lock_all_memory() -> Result<(), String> {
    let limit = getrlimit(Resource::Memlock).current;
    if let Some(bytes) = limit
        && !may_lock_beyond_limits()
    {
        return Err(format!("only {} KiB may be locked", bytes / 1024));
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
        .map_err(|error| format!("memory cannot be locked: {error}"))
}

/// Whether CAP_IPC_LOCK counts: the kernel asks for it in the first user namespace, which a container
/// may not be in.
fn may_lock_beyond_limits() -> bool {
    let has = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    has && map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Makes this process write no core dump, and lets no process of the same user attach to it.
///
/// # Errors
/// If the system refuses.
pub fn process_not_dumpable() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The `VmFlags` of the mapping that `address` lies in.
    fn flags_at(address: usize) -> String {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in smaps.lines() {
            let range = line
                .split(' ')
                .next()
                .and_then(|range| range.split_once('-'));
            let bounds = range.and_then(|(from, to)| {
                Some((
                    usize::from_str_radix(from, 16).ok()?,
                    usize::from_str_radix(to, 16).ok()?,
                ))
            });
            match bounds {
                Some((from, to)) => inside = (from..to).contains(&address),
                None if inside && line.starts_with("VmFlags:") => return line.to_owned(),
                None => {}
            }
        }
        panic!("no mapping at {address:x}");
    }

    fn is_protected(address: usize) -> bool {
        let flags = flags_at(address);
        // lo: locked, dd: do not dump.
        flags.contains(" lo") && flags.contains(" dd")
    }

    #[test]
    fn locked_bytes_are_locked_not_dumped_and_hold_what_was_taken() {
        let mut secret = *b"open sesame";
        let mut locked = LockedBytes::take(&mut secret).unwrap();
        assert_eq!(secret, [0; 11]);
        assert_eq!(&*locked, b"open sesame");
        assert!(
            is_protected(locked.as_ptr() as usize),
            "{}",
            flags_at(locked.as_ptr() as usize)
        );
        assert!(
            flags_at(locked.as_ptr() as usize).contains(" wf"),
            "wiped on fork"
        );
        locked.truncate(4);
        assert_eq!(&*locked, b"open");
        assert!(!format!("{locked:?}").contains("open"));
        assert!(LockedBytes::zeroed(LOCKED_BYTES_MAX + 1).is_err());
        assert!(LockedBytes::zeroed(0).unwrap().is_empty());
    }

    #[test]
    fn pages_of_the_heap_can_be_locked() {
        let key = Box::new([7u8; 32]);
        lock_pages_of(&key[..]).unwrap();
        assert!(is_protected(key.as_ptr() as usize));
        // Also where a secret crosses a page.
        let page = rustix::param::page_size();
        let long = vec![1u8; 2 * page];
        lock_pages_of(&long).unwrap();
        assert!(is_protected(long.as_ptr() as usize));
        assert!(is_protected(long.as_ptr() as usize + long.len() - 1));
    }
}
