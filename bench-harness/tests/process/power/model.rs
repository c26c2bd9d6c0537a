//! A file system in memory that keeps nothing but what it was told to sync.
//!
//! POSIX promises no more, so this is the worst that a file system may do when power goes: of a file
//! nothing but the sectors and the size that a sync has covered, and of a folder no name that was made,
//! changed or removed since the folder itself was synced. Of the rest a cut keeps what chance will:
//! each sector of a file in one of the states it went through, of each folder's changes the first few.
//!
//! All there is to know is a list of [`Op`]s: whoever applies the first so many of them has the disk
//! as it was then.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File as SystemFile, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use engine::random::Random;

/// What is written or lost as one.
pub(crate) const SECTOR_BYTES: u64 = 512;
/// The folder that everything is in.
pub(crate) const ROOT: Node = 1;

/// The number of a file or folder.
pub(crate) type Node = u64;
type Sector = Arc<[u8]>;
/// A folder and a name in it.
pub(crate) type Place = (Node, String);

/// What was done to the disk. A failed operation has none, but for what it did all the same.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Make {
        at: Place,
        node: Node,
        is_folder: bool,
        mode: u32,
    },
    Remove(Place),
    Rename(Place, Place),
    Write {
        file: Node,
        at: u64,
        bytes: Sector,
    },
    Resize {
        file: Node,
        bytes: u64,
    },
    /// A write is durable by itself (O_DSYNC), from here to there; its file's size only so far.
    SyncRange {
        file: Node,
        from: u64,
        to: u64,
    },
    SyncFile(Node),
    SyncFolder(Node),
    /// A sync has failed: what it was for can be read until power goes, and no later sync writes it.
    SyncFailed(Node),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    sectors: BTreeMap<u64, Sector>,
    bytes: u64,
    durable: BTreeMap<u64, Sector>,
    durable_bytes: u64,
    /// What each sector has been since it was last synced.
    unsynced: BTreeMap<u64, Vec<Sector>>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Folder {
    names: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    File(File),
    Folder(Folder),
}

/// A change of names that is not durable.
#[derive(Clone, Debug)]
struct Change {
    node: Node,
    from: Option<Place>,
    to: Option<Place>,
}

impl Change {
    /// Whether syncing `folder` makes it durable.
    fn is_in(&self, folder: Node) -> bool {
        let places = [&self.from, &self.to];
        places.into_iter().flatten().any(|place| place.0 == folder)
    }

    /// The folder it is a change of, in the first place.
    fn folder(&self) -> Node {
        let place = self.to.as_ref().or(self.from.as_ref());
        place.map_or(ROOT, |place| place.0)
    }
}

/// The disk.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    nodes: BTreeMap<Node, (u32, Kind)>,
    changes: Vec<Change>,
}

impl Default for Disk {
    fn default() -> Self {
        let root = (0o755, Kind::Folder(Folder::default()));
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            changes: Vec::new(),
        }
    }
}

fn zeros() -> Sector {
    Arc::from([0; SECTOR_BYTES as usize])
}

impl File {
    fn write(&mut self, at: u64, bytes: &[u8]) {
        let end = at + bytes.len() as u64;
        for sector in at / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let begin = sector * SECTOR_BYTES;
            let mut new = self
                .sectors
                .get(&sector)
                .map_or_else(|| vec![0; SECTOR_BYTES as usize], |old| old.to_vec());
            let (from, to) = (begin.max(at), (begin + SECTOR_BYTES).min(end));
            new[(from - begin) as usize..(to - begin) as usize]
                .copy_from_slice(&bytes[(from - at) as usize..(to - at) as usize]);
            let new = Sector::from(new);
            self.sectors.insert(sector, Arc::clone(&new));
            self.unsynced.entry(sector).or_default().push(new);
        }
        self.bytes = self.bytes.max(end);
    }

    fn resize(&mut self, bytes: u64) {
        if bytes < self.bytes {
            let first = bytes.div_ceil(SECTOR_BYTES);
            for (sector, _) in self.sectors.split_off(&first) {
                self.unsynced.entry(sector).or_default().push(zeros());
            }
            let rest = bytes % SECTOR_BYTES;
            if rest > 0 && self.sectors.contains_key(&(bytes / SECTOR_BYTES)) {
                let blank = vec![0; (SECTOR_BYTES - rest) as usize];
                self.write(bytes, &blank);
            }
        }
        self.bytes = bytes;
    }

    fn sync_range(&mut self, from: u64, to: u64) {
        for sector in from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES) {
            if self.unsynced.remove(&sector).is_some() {
                let now = self.sectors.get(&sector).cloned();
                self.durable.insert(sector, now.unwrap_or_else(zeros));
            }
        }
        self.durable_bytes = self.durable_bytes.max(to.min(self.bytes));
    }

    fn sync(&mut self) {
        for sector in std::mem::take(&mut self.unsynced).into_keys() {
            let now = self.sectors.get(&sector).cloned();
            self.durable.insert(sector, now.unwrap_or_else(zeros));
        }
        self.durable_bytes = self.bytes;
    }

    /// What is left of it.
    fn after_cut(&self, kept_percent: u64, random: &mut Random) -> Self {
        let mut left = self.durable.clone();
        for (sector, states) in &self.unsynced {
            if random.below(100) < kept_percent {
                let state = &states[random.below(states.len() as u64) as usize];
                left.insert(*sector, Arc::clone(state));
            }
        }
        let bytes = if random.below(100) < kept_percent {
            self.bytes
        } else {
            self.durable_bytes
        };
        left.split_off(&bytes.div_ceil(SECTOR_BYTES));
        Self {
            sectors: left.clone(),
            bytes,
            durable: left,
            durable_bytes: bytes,
            unsynced: BTreeMap::new(),
        }
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether all of a range has room on the disk already.
    pub(crate) fn has_room(&self, from: u64, to: u64) -> bool {
        (from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES))
            .all(|sector| self.sectors.contains_key(&sector))
    }

    pub(crate) fn read(&self, at: u64, bytes: u64) -> Vec<u8> {
        let end = (at + bytes).min(self.bytes).max(at);
        let mut out = vec![0; (end - at) as usize];
        for (sector, content) in self
            .sectors
            .range(at / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES))
        {
            let begin = sector * SECTOR_BYTES;
            let (from, to) = (begin.max(at), (begin + SECTOR_BYTES).min(end));
            out[(from - at) as usize..(to - at) as usize]
                .copy_from_slice(&content[(from - begin) as usize..(to - begin) as usize]);
        }
        out
    }

    fn write_to(&self, path: &Path) -> std::io::Result<()> {
        let file = SystemFile::create(path)?;
        file.set_len(self.bytes)?;
        for (sector, content) in &self.sectors {
            let at = sector * SECTOR_BYTES;
            let bytes = SECTOR_BYTES.min(self.bytes - at) as usize;
            // What is blank stays a hole.
            if content.iter().any(|byte| *byte != 0) {
                file.write_all_at(&content[..bytes], at)?;
            }
        }
        Ok(())
    }
}

impl Disk {
    /// The disk after these operations.
    pub(crate) fn after<'a>(mut self, ops: impl IntoIterator<Item = &'a Op>) -> Self {
        for op in ops {
            self.apply(op);
        }
        self
    }

    pub(crate) fn kind(&self, node: Node) -> Option<&Kind> {
        self.nodes.get(&node).map(|(_, kind)| kind)
    }

    pub(crate) fn mode(&self, node: Node) -> u32 {
        self.nodes.get(&node).map_or(0, |(mode, _)| *mode)
    }

    pub(crate) fn set_mode(&mut self, node: Node, new: u32) {
        if let Some((mode, _)) = self.nodes.get_mut(&node) {
            *mode = new;
        }
    }

    /// A number nothing has.
    pub(crate) fn next_node(&self) -> Node {
        self.nodes.keys().last().map_or(ROOT, |last| last + 1)
    }

    pub(crate) fn names(&self, folder: Node) -> Option<&BTreeMap<String, Node>> {
        match self.kind(folder)? {
            Kind::Folder(folder) => Some(&folder.names),
            Kind::File(_) => None,
        }
    }

    pub(crate) fn find(&self, folder: Node, name: &str) -> Option<Node> {
        self.names(folder)?.get(name).copied()
    }

    /// Every folder, and its path below the root.
    pub(crate) fn folders(&self) -> Vec<(Node, String)> {
        let mut found = vec![(ROOT, "/".to_owned())];
        let mut next = 0;
        while let Some((folder, path)) = found.get(next).cloned() {
            for (name, node) in self.names(folder).into_iter().flatten() {
                if self.names(*node).is_some() {
                    found.push((*node, format!("{path}{name}/")));
                }
            }
            next += 1;
        }
        found
    }

    pub(crate) fn file(&self, file: Node) -> Option<&File> {
        match self.kind(file)? {
            Kind::File(file) => Some(file),
            Kind::Folder(_) => None,
        }
    }

    fn with_file(&mut self, file: Node, change: impl FnOnce(&mut File)) {
        if let Some((_, Kind::File(file))) = self.nodes.get_mut(&file) {
            change(file);
        }
    }

    pub(crate) fn apply(&mut self, op: &Op) {
        match op {
            Op::Make {
                at,
                node,
                is_folder,
                mode,
            } => {
                let kind = if *is_folder {
                    Kind::Folder(Folder::default())
                } else {
                    Kind::File(File::default())
                };
                self.nodes.insert(*node, (*mode, kind));
                self.rename(*node, None, Some(at.clone()));
            }
            Op::Remove(at) => {
                if let Some(node) = self.find(at.0, &at.1) {
                    self.rename(node, Some(at.clone()), None);
                }
            }
            Op::Rename(from, to) => {
                if let Some(node) = self.find(from.0, &from.1) {
                    self.rename(node, Some(from.clone()), Some(to.clone()));
                }
            }
            Op::Write { file, at, bytes } => self.with_file(*file, |file| file.write(*at, bytes)),
            Op::Resize { file, bytes } => self.with_file(*file, |file| file.resize(*bytes)),
            Op::SyncRange { file, from, to } => {
                self.with_file(*file, |file| file.sync_range(*from, *to));
            }
            Op::SyncFile(file) => self.with_file(*file, File::sync),
            Op::SyncFailed(file) => self.with_file(*file, |file| file.unsynced.clear()),
            Op::SyncFolder(folder) => {
                let changes = std::mem::take(&mut self.changes);
                let (durable, rest): (Vec<_>, Vec<_>) = changes
                    .into_iter()
                    .partition(|change| change.is_in(*folder));
                self.changes = rest;
                durable.iter().for_each(|change| self.make_durable(change));
            }
        }
    }

    fn rename(&mut self, node: Node, from: Option<Place>, to: Option<Place>) {
        let change = Change { node, from, to };
        self.change(&change, |folder| &mut folder.names);
        self.changes.push(change);
    }

    fn make_durable(&mut self, change: &Change) {
        self.change(change, |folder| &mut folder.durable);
    }

    fn change(
        &mut self,
        change: &Change,
        which: impl Fn(&mut Folder) -> &mut BTreeMap<String, Node>,
    ) {
        if let Some((folder, name)) = &change.from
            && let Some((_, Kind::Folder(folder))) = self.nodes.get_mut(folder)
            && which(folder).get(name) == Some(&change.node)
        {
            which(folder).remove(name);
        }
        if let Some((folder, name)) = &change.to
            && let Some((_, Kind::Folder(folder))) = self.nodes.get_mut(folder)
        {
            which(folder).insert(name.clone(), change.node);
        }
    }

    /// What is left when power goes now.
    pub(crate) fn after_cut(&self, random: &mut Random) -> Self {
        let kept_percent = [0, 0, 10, 50, 90, 100][random.below(6) as usize];
        let mut left = self.clone();
        let mut changed: BTreeMap<Node, u64> = BTreeMap::new();
        for change in &self.changes {
            *changed.entry(change.folder()).or_default() += 1;
        }
        for count in changed.values_mut() {
            // Nothing at all is what a program that forgot a sync is least ready for.
            *count = match random.below(2) {
                0 => 0,
                _ => random.below(*count + 1),
            };
        }
        for change in std::mem::take(&mut left.changes) {
            if let Some(count) = changed.get_mut(&change.folder())
                && *count > 0
            {
                *count -= 1;
                left.make_durable(&change);
            }
        }
        for (_, kind) in left.nodes.values_mut() {
            match kind {
                Kind::File(file) => *file = file.after_cut(kept_percent, random),
                Kind::Folder(folder) => folder.names.clone_from(&folder.durable),
            }
        }
        left.forget_unnamed();
        left
    }

    fn forget_unnamed(&mut self) {
        let mut named = BTreeSet::from([ROOT]);
        for (folder, _) in self.folders() {
            named.extend(
                self.names(folder)
                    .into_iter()
                    .flatten()
                    .map(|(_, node)| *node),
            );
        }
        self.nodes.retain(|node, _| named.contains(node));
    }

    /// Puts it all into a folder of this machine.
    pub(crate) fn write_to(&self, path: &Path) -> std::io::Result<()> {
        self.write_folder(ROOT, path)
    }

    fn write_folder(&self, folder: Node, path: &Path) -> std::io::Result<()> {
        fs::create_dir_all(path)?;
        for (name, node) in self.names(folder).into_iter().flatten() {
            let at = path.join(name);
            match self.file(*node) {
                Some(file) => file.write_to(&at)?,
                None => self.write_folder(*node, &at)?,
            }
            fs::set_permissions(&at, Permissions::from_mode(self.mode(*node) & 0o7777))?;
        }
        Ok(())
    }
}

#[test]
fn what_is_not_synced_may_go_and_what_is_synced_stays() {
    let at = |folder, name: &str| (folder, name.to_owned());
    let make = |folder, name, node, is_folder| Op::Make {
        at: at(folder, name),
        node,
        is_folder,
        mode: 0o700,
    };
    let write = |file, text: &[u8]| Op::Write {
        file,
        at: 0,
        bytes: text.into(),
    };
    let disk = Disk::default().after(&[
        make(ROOT, "kept", 2, true),
        Op::SyncFolder(ROOT),
        make(2, "file", 3, false),
        write(3, b"old"),
        Op::SyncFile(3),
        Op::SyncFolder(2),
        write(3, b"new"),
        make(ROOT, "forgotten", 4, true),
        make(4, "file", 5, false),
        write(5, b"synced in a folder without a name"),
        Op::SyncFile(5),
        Op::SyncFolder(4),
        Op::Rename(at(2, "file"), at(2, "renamed")),
    ]);
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let left = disk.after_cut(&mut Random::new(seed));
        let name = ["file", "renamed"].map(|name| left.find(2, name));
        assert_eq!(name.iter().flatten().count(), 1, "a rename is whole");
        let text = left.file(3).unwrap().read(0, 100);
        let forgotten = left.find(ROOT, "forgotten").is_some();
        assert_eq!(left.file(5).is_some(), forgotten);
        seen.insert((text, name[0].is_some(), forgotten));
    }
    let texts: BTreeSet<_> = seen.iter().map(|(text, ..)| text.clone()).collect();
    assert_eq!(texts, BTreeSet::from([b"new".to_vec(), b"old".to_vec()]));
    assert!(seen.len() >= 6, "chance reaches most of it: {seen:?}");
}
