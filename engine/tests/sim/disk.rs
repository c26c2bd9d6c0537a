//! A disk that keeps what was synced and of the rest what it likes.
//!
//! Files have a live state and a durable one, told apart by sectors of 512 bytes; a folder's names
//! too. A sync copies live to durable. When power goes, each sector written since is old or new, in
//! any combination, and of a folder's changes any number is kept, in order.

use std::collections::{BTreeMap, BTreeSet};

use engine::ids::{HandoverId, SegmentId};
use engine::queue::cipher::Stream;
use engine::queue::segment::{parse_file_name, parse_free_file_name};
use engine::random::Random;

pub(crate) const SECTOR_BYTES: usize = 512;

/// A shard's stream.
pub(crate) type FolderName = (u16, Stream);

#[derive(Default)]
struct File {
    live: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

impl File {
    fn survive(&mut self, keep_percent: u64, random: &mut Random) {
        if self.dirty.is_empty() && self.live.len() == self.durable.len() {
            return;
        }
        if random.below(100) < keep_percent {
            self.durable.resize(self.live.len(), 0);
        }
        for sector in std::mem::take(&mut self.dirty) {
            if random.below(100) < keep_percent {
                let from = sector * SECTOR_BYTES;
                let to = (from + SECTOR_BYTES).min(self.live.len());
                let longer = self.durable.len().max(to);
                self.durable.resize(longer, 0);
                self.durable[from..to].copy_from_slice(&self.live[from..to]);
            }
        }
        self.live.clone_from(&self.durable);
    }
}

#[derive(Clone)]
enum Change {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

#[derive(Default)]
struct Folder {
    names: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    changes: Vec<Change>,
}

impl Folder {
    fn change(&mut self, change: Change) {
        apply(&mut self.names, &change);
        self.changes.push(change);
    }
}

fn apply(names: &mut BTreeMap<String, usize>, change: &Change) {
    match change {
        Change::Create(name, file) => {
            names.insert(name.clone(), *file);
        }
        Change::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        Change::Remove(name) => {
            names.remove(name);
        }
    }
}

/// What a folder holds.
#[derive(Default)]
pub(crate) struct Listing {
    pub(crate) segments: Vec<(SegmentId, u64)>,
    pub(crate) free: Vec<(SegmentId, u64)>,
    pub(crate) next: SegmentId,
}

/// The one disk of all shards.
#[derive(Default)]
pub(crate) struct Disk {
    files: Vec<File>,
    folders: BTreeMap<(u16, u8), Folder>,
    handovers: BTreeSet<HandoverId>,
    /// Notes that are not durable, each with the queue folder that was renamed for it.
    unsynced_handovers: Vec<(HandoverId, Option<(u16, Folder)>)>,
}

impl Disk {
    fn folder(&mut self, folder: FolderName) -> &mut Folder {
        self.folders.entry((folder.0, folder.1 as u8)).or_default()
    }

    fn file(&mut self, folder: FolderName, name: &str) -> Option<&mut File> {
        let file = *self.folder(folder).names.get(name)?;
        Some(&mut self.files[file])
    }

    /// Makes an empty file of `bytes`; false if the name is taken.
    pub(crate) fn create(&mut self, folder: FolderName, name: &str, bytes: usize) -> bool {
        if self.folder(folder).names.contains_key(name) {
            return false;
        }
        self.files.push(File {
            live: vec![0; bytes],
            ..File::default()
        });
        let file = self.files.len() - 1;
        self.folder(folder)
            .change(Change::Create(name.into(), file));
        true
    }

    /// Writes sectors for which `takes` says so; false if there is no such file.
    pub(crate) fn write(
        &mut self,
        folder: FolderName,
        name: &str,
        at: usize,
        bytes: &[u8],
        mut takes: impl FnMut() -> bool,
    ) -> bool {
        let Some(file) = self.file(folder, name) else {
            return false;
        };
        let end = at + bytes.len();
        let longer = file.live.len().max(end);
        file.live.resize(longer, 0);
        for (n, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
            if takes() {
                let from = at + n * SECTOR_BYTES;
                file.live[from..from + sector.len()].copy_from_slice(sector);
                file.dirty.insert(from / SECTOR_BYTES);
            }
        }
        true
    }

    pub(crate) fn sync(&mut self, folder: FolderName, name: &str) -> bool {
        let Some(file) = self.file(folder, name) else {
            return false;
        };
        file.durable.resize(file.live.len(), 0);
        for sector in std::mem::take(&mut file.dirty) {
            let from = sector * SECTOR_BYTES;
            let to = (from + SECTOR_BYTES).min(file.live.len());
            file.durable[from..to].copy_from_slice(&file.live[from..to]);
        }
        true
    }

    /// A sector goes bad.
    pub(crate) fn spoil(&mut self, folder: FolderName, name: &str, sector: usize) {
        if let Some(file) = self.file(folder, name) {
            let to = ((sector + 1) * SECTOR_BYTES).min(file.live.len());
            for byte in &mut file.live[sector * SECTOR_BYTES..to] {
                *byte = !*byte;
            }
            file.durable.clone_from(&file.live);
        }
    }

    pub(crate) fn rename(&mut self, folder: FolderName, from: &str, to: &str) -> bool {
        let folder = self.folder(folder);
        if !folder.names.contains_key(from) {
            return false;
        }
        folder.change(Change::Rename(from.into(), to.into()));
        true
    }

    pub(crate) fn remove(&mut self, folder: FolderName, name: &str) -> bool {
        let folder = self.folder(folder);
        if !folder.names.contains_key(name) {
            return false;
        }
        folder.change(Change::Remove(name.into()));
        true
    }

    pub(crate) fn sync_folder(&mut self, folder: FolderName) {
        let folder = self.folder(folder);
        folder.durable.clone_from(&folder.names);
        folder.changes.clear();
    }

    /// A handover is noted, by a new folder or by renaming the queue folder of shard `out_of`.
    pub(crate) fn note_handover(&mut self, handover: HandoverId, out_of: Option<u16>) {
        if !self.handovers.insert(handover) {
            return;
        }
        let folder = out_of.and_then(|shard| {
            let folder = self.folders.remove(&(shard, Stream::Queue as u8))?;
            Some((shard, folder))
        });
        self.unsynced_handovers.push((handover, folder));
    }

    pub(crate) fn sync_handover(&mut self, handover: HandoverId) {
        self.unsynced_handovers
            .retain(|(other, _)| *other != handover);
    }

    /// The notes there are, all durable from now on, as a start makes them.
    pub(crate) fn sync_handovers(&mut self) -> BTreeSet<HandoverId> {
        self.unsynced_handovers.clear();
        self.handovers.clone()
    }

    /// Up to `bytes` of a file from `at`.
    pub(crate) fn read(
        &mut self,
        folder: FolderName,
        name: &str,
        at: usize,
        bytes: usize,
    ) -> Option<&[u8]> {
        let file = self.file(folder, name)?;
        let at = at.min(file.live.len());
        let end = (at + bytes).min(file.live.len());
        Some(&file.live[at..end])
    }

    pub(crate) fn list(&mut self, folder: FolderName) -> Listing {
        let mut listing = Listing::default();
        let names: Vec<(String, usize)> = self
            .folder(folder)
            .names
            .iter()
            .map(|(name, file)| (name.clone(), *file))
            .collect();
        for (name, file) in names {
            let bytes = self.files[file].live.len() as u64;
            let number: u32 = name[..8].parse().unwrap();
            listing.next = listing.next.max(SegmentId(number + 1));
            if let Some(segment) = parse_file_name(&name) {
                listing.segments.push((segment, bytes));
            } else if let Some(segment) = parse_free_file_name(&name) {
                listing.free.push((segment, bytes));
            }
        }
        listing.segments.sort_unstable();
        listing.free.sort_unstable();
        listing
    }

    /// Shards that have a queue folder with anything in it.
    pub(crate) fn shards(&self) -> Vec<u16> {
        let is_queue = |(name, folder): &(&(u16, u8), &Folder)| {
            name.1 == Stream::Queue as u8 && !folder.names.is_empty()
        };
        self.folders
            .iter()
            .filter(is_queue)
            .map(|(name, _)| name.0)
            .collect()
    }

    /// Bytes of all files of a folder but those kept for inspection.
    pub(crate) fn bytes(&mut self, folder: FolderName) -> u64 {
        let names = self.folder(folder).names.iter();
        let files: Vec<usize> = names
            .filter(|(name, _)| !name.ends_with(".damaged"))
            .map(|(_, file)| *file)
            .collect();
        files
            .iter()
            .map(|file| self.files[*file].live.len() as u64)
            .sum()
    }

    pub(crate) const fn handovers(&self) -> &BTreeSet<HandoverId> {
        &self.handovers
    }

    /// Power goes and comes back.
    pub(crate) fn cut(&mut self, random: &mut Random) {
        let keep_percent = [0, 10, 50, 90, 100][random.below(5) as usize];
        for (handover, folder) in std::mem::take(&mut self.unsynced_handovers) {
            if random.below(2) == 0 {
                self.handovers.remove(&handover);
                if let Some((shard, folder)) = folder {
                    self.folders.insert((shard, Stream::Queue as u8), folder);
                }
            }
        }
        for file in &mut self.files {
            file.survive(keep_percent, random);
        }
        for folder in self.folders.values_mut() {
            let kept = random.below(folder.changes.len() as u64 + 1) as usize;
            for change in folder.changes.drain(..).take(kept) {
                apply(&mut folder.durable, &change);
            }
            folder.names.clone_from(&folder.durable);
        }
        self.forget_unnamed();
    }

    fn forget_unnamed(&mut self) {
        let named: BTreeSet<usize> = self
            .folders
            .values()
            .flat_map(|folder| folder.names.values().copied())
            .collect();
        for (n, file) in self.files.iter_mut().enumerate() {
            if !named.contains(&n) {
                *file = File::default();
            }
        }
    }
}
