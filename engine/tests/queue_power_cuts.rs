//! A small queue on a fake disk, with power cuts at its syncs: what was acknowledged is there, and
//! what was recorded as done does not come back, through compaction, removal and recycling.
//!
//! The disk keeps a live and a durable state, of each file's sectors and of the directory. A sync
//! copies live to durable; a cut leaves each sector written since in either state, and any number
//! of the directory's changes, in order.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use std::collections::{BTreeMap, BTreeSet};

use engine::envelope::BodyType;
use engine::ids::{QueueId, SegmentId, ShardId};
use engine::keys::{KeyRing, MasterKey};
use engine::queue::cipher::{SegmentName, Stream};
use engine::queue::record::{
    About, Message, Moved, Options, Outcome, OutcomeKind, OutcomeState, OutcomeStates,
    RecipientsBuf, Record,
};
use engine::queue::replay::{Contents, SegmentReader};
use engine::queue::segment::{
    AppendError, Placement, SegmentHeader, SegmentWriter, file_name, free_file_name,
    parse_file_name, parse_free_file_name,
};
use engine::queue::set::{Disposal, SegmentSet, Task};
use engine::queue::survivors::{NotedHandovers, Survivors};

const SEGMENT_BYTES: u32 = 32 * 1024;
const SECTOR_BYTES: usize = 512;
const RECIPIENTS: usize = 2;

/// xorshift64*: seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }
}

struct PowerCut;

#[derive(Clone, Default)]
struct File {
    live: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Clone)]
enum DirectoryChange {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

#[derive(Default)]
struct Disk {
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    changes: Vec<DirectoryChange>,
    syncs_left: u64,
}

impl Disk {
    fn change(&mut self, change: DirectoryChange) {
        Self::apply(&mut self.names, &change);
        self.changes.push(change);
    }

    fn apply(names: &mut BTreeMap<String, usize>, change: &DirectoryChange) {
        match change {
            DirectoryChange::Create(name, file) => {
                names.insert(name.clone(), *file);
            }
            DirectoryChange::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            DirectoryChange::Remove(name) => {
                names.remove(name);
            }
        }
    }

    fn create(&mut self, name: &str) {
        self.files.push(File::default());
        self.change(DirectoryChange::Create(name.into(), self.files.len() - 1));
    }

    fn write(&mut self, name: &str, at: usize, bytes: &[u8]) {
        let file = &mut self.files[self.names[name]];
        let end = at + bytes.len();
        file.live.resize(file.live.len().max(end), 0);
        file.live[at..end].copy_from_slice(bytes);
    }

    fn spend(&mut self) -> Result<(), PowerCut> {
        self.syncs_left = self.syncs_left.checked_sub(1).ok_or(PowerCut)?;
        Ok(())
    }

    fn sync(&mut self, name: &str) -> Result<(), PowerCut> {
        self.spend()?;
        let file = &mut self.files[self.names[name]];
        file.durable.clone_from(&file.live);
        Ok(())
    }

    fn sync_directory(&mut self) -> Result<(), PowerCut> {
        self.spend()?;
        self.durable_names.clone_from(&self.names);
        self.changes.clear();
        Ok(())
    }

    /// Power goes and comes back.
    fn restart(&mut self, random: &mut Random) {
        for file in &mut self.files {
            let mut survived = file.durable.clone();
            let longer = file.live.len().max(survived.len());
            survived.resize(longer, 0);
            for (old, new) in survived
                .chunks_mut(SECTOR_BYTES)
                .zip(file.live.chunks(SECTOR_BYTES))
            {
                if random.below(2) == 0 {
                    old[..new.len()].copy_from_slice(new);
                }
            }
            *file = File {
                live: survived.clone(),
                durable: survived,
            };
        }
        let kept = random.below(self.changes.len() as u64 + 1) as usize;
        for change in self.changes.drain(..).take(kept) {
            Self::apply(&mut self.durable_names, &change);
        }
        self.names.clone_from(&self.durable_names);
    }
}

/// What the outside was told.
#[derive(Default)]
struct Told {
    acknowledged: BTreeSet<u64>,
    /// Done and durable, by message and recipient.
    done: BTreeSet<(u64, usize)>,
    /// Accepted or done, but maybe not durable.
    maybe: BTreeSet<u64>,
    maybe_done: BTreeSet<(u64, usize)>,
}

struct Entry {
    placement: Placement,
    states: [Option<OutcomeState>; RECIPIENTS],
}

impl Entry {
    fn is_done(&self) -> bool {
        self.states
            .iter()
            .all(|state| state.is_some_and(|state| state.kind.is_final()))
    }
}

/// A shard's queue as small as can be.
struct Queue {
    keys: KeyRing,
    set: SegmentSet,
    writer: SegmentWriter,
    index: BTreeMap<u64, Entry>,
    unsynced: BTreeSet<u64>,
    unsynced_done: BTreeSet<(u64, usize)>,
    nonces: u64,
}

fn name(segment: SegmentId) -> SegmentName {
    SegmentName {
        stream: Stream::Queue,
        shard: ShardId(0),
        segment,
    }
}

fn header(keys: &KeyRing, segment: SegmentId, nonce: u64) -> SegmentHeader {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&nonce.to_le_bytes());
    SegmentHeader {
        name: name(segment),
        segment_bytes: SEGMENT_BYTES,
        created_ms: 0,
        key_id: keys.current_id(),
        nonce: bytes,
    }
}

/// Header first, then the name, then the directory: only then may anything be written.
fn begin(
    disk: &mut Disk,
    keys: &KeyRing,
    set: &mut SegmentSet,
    segment: SegmentId,
    nonce: u64,
) -> Result<SegmentWriter, PowerCut> {
    let free = disk
        .names
        .keys()
        .find(|name| parse_free_file_name(name).is_some())
        .cloned();
    let reused = free.is_some();
    let from = free.unwrap_or_else(|| {
        let name = free_file_name(segment);
        disk.create(&name);
        name
    });
    let header = header(keys, segment, nonce);
    disk.write(&from, 0, &header.encode(keys.current()));
    disk.write(&from, SEGMENT_BYTES as usize, &[]);
    disk.sync(&from)?;
    disk.change(DirectoryChange::Rename(from, file_name(segment)));
    disk.sync_directory()?;
    set.began(segment, SEGMENT_BYTES.into(), reused);
    Ok(SegmentWriter::new(keys.current(), header))
}

impl Queue {
    fn open(disk: &mut Disk, nonces: u64) -> Result<Self, PowerCut> {
        let keys = KeyRing::new(MasterKey::from_bytes(&mut [1; 32]));
        let mut set = SegmentSet::new(SEGMENT_BYTES);
        let mut segments = BTreeSet::new();
        for (name, file) in &disk.names {
            let bytes = disk.files[*file].live.len() as u64;
            if let Some(segment) = parse_file_name(name) {
                set.found(segment, bytes);
                segments.insert(segment);
            } else if parse_free_file_name(name).is_some() {
                set.free_found(bytes);
            }
        }
        let mut survivors = Survivors::new(NotedHandovers::default());
        let mut strays: Vec<Outcome> = Vec::new();
        for segment in &segments {
            let file = &disk.files[disk.names[&file_name(*segment)]].live;
            let mut reader = SegmentReader::open(file, &keys, name(*segment), Contents::Skip)
                .unwrap_or_else(|error| panic!("segment {}: {error}", segment.0));
            reader.push(file);
            reader.close_input();
            while let Some(found) = reader.next() {
                replay(
                    &mut set,
                    &mut survivors,
                    &mut strays,
                    found.placement,
                    &found.record,
                );
            }
            let summary = reader.into_summary();
            assert_eq!(
                summary.damage,
                [],
                "segment {}: a cut is no damage",
                segment.0
            );
        }
        let index = survivors
            .mail()
            .iter()
            .map(|((id, _), survivor)| {
                let done = |recipient| {
                    let is_done = survivor.is_done_for(recipient as u16);
                    is_done.then_some(OutcomeState {
                        first: recipient as u16,
                        count: 1,
                        kind: OutcomeKind::Delivered,
                        attempts: 1,
                        next_retry_s: 0,
                    })
                };
                let placement = survivor.placement;
                let states = std::array::from_fn(done);
                (id.0, Entry { placement, states })
            })
            .collect();
        // A free file may carry the number that was to be next.
        let frees = disk
            .names
            .keys()
            .filter_map(|name| parse_free_file_name(name));
        let next = segments
            .iter()
            .copied()
            .chain(frees)
            .max()
            .map_or(1, |last| last.0 + 1);
        let writer = begin(disk, &keys, &mut set, SegmentId(next), nonces)?;
        let mut queue = Self {
            keys,
            set,
            writer,
            index,
            unsynced: BTreeSet::new(),
            unsynced_done: BTreeSet::new(),
            nonces: nonces + 1,
        };
        for stray in strays {
            let placement = queue.append(disk, &mut Told::default(), &Record::Outcome(stray))?;
            queue.set.note(placement, stray.about.segment);
        }
        queue.commit(disk, &mut Told::default())?;
        Ok(queue)
    }

    fn append(
        &mut self,
        disk: &mut Disk,
        told: &mut Told,
        record: &Record<'_>,
    ) -> Result<Placement, PowerCut> {
        loop {
            match self.writer.append(record) {
                Ok(placement) => return Ok(placement),
                Err(AppendError::Full { .. }) => {
                    self.commit(disk, told)?;
                    let batch = self.writer.seal().unwrap();
                    let name = file_name(batch.segment);
                    disk.write(&name, batch.file_offset as usize, &batch.bytes);
                    disk.sync(&name)?;
                    let next = SegmentId(batch.segment.0 + 1);
                    self.nonces += 1;
                    self.writer = begin(disk, &self.keys, &mut self.set, next, self.nonces)?;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn accept(
        &mut self,
        disk: &mut Disk,
        told: &mut Told,
        id: u64,
        bytes: usize,
    ) -> Result<(), PowerCut> {
        let mut recipients = RecipientsBuf::new();
        recipients.domain("a.example", "x@a.example").unwrap();
        recipients.domain("b.example", "x@b.example").unwrap();
        let content = vec![id as u8; bytes];
        told.maybe.insert(id);
        let message = Message {
            queue_id: QueueId(id),
            accepted_ms: 0,
            body: BodyType::SevenBit,
            smtputf8: false,
            pending: false,
            handover: None,
            reverse_path: None,
            recipients: recipients.recipients(),
            group: None,
            tags: "",
            message_id: None,
            peer: None,
            options: Options::NONE,
            content: &content,
            content_bytes: 0,
        };
        let placement = self.append(disk, told, &Record::Message(message))?;
        self.set.live(placement);
        self.index.insert(
            id,
            Entry {
                placement,
                states: [None; RECIPIENTS],
            },
        );
        self.unsynced.insert(id);
        Ok(())
    }

    fn outcome(
        &mut self,
        disk: &mut Disk,
        told: &mut Told,
        id: u64,
        recipient: usize,
        kind: OutcomeKind,
    ) -> Result<(), PowerCut> {
        let entry = &self.index[&id];
        if entry.states[recipient].is_some_and(|state| state.kind.is_final()) {
            return Ok(());
        }
        let attempts = entry.states[recipient].map_or(0, |state| state.attempts) + 1;
        let about = About {
            queue_id: QueueId(id),
            segment: entry.placement.segment,
        };
        let state = OutcomeState {
            first: recipient as u16,
            count: 1,
            kind,
            attempts,
            next_retry_s: 9,
        };
        if kind.is_final() {
            told.maybe_done.insert((id, recipient));
        }
        let placement = self.append(disk, told, &Record::Outcome(Outcome { about, state }))?;
        self.set.note(placement, about.segment);
        let entry = self.index.get_mut(&id).unwrap();
        entry.states[recipient] = Some(state);
        if kind.is_final() {
            self.unsynced_done.insert((id, recipient));
        }
        if entry.is_done() {
            let entry = self.index.remove(&id).unwrap();
            self.set.dead(entry.placement);
        }
        Ok(())
    }

    fn commit(&mut self, disk: &mut Disk, told: &mut Told) -> Result<(), PowerCut> {
        let Some(batch) = self.writer.take_batch() else {
            return Ok(());
        };
        let name = file_name(batch.segment);
        disk.write(&name, batch.file_offset as usize, &batch.bytes);
        disk.sync(&name)?;
        self.writer.durable(batch.end());
        told.acknowledged.append(&mut self.unsynced);
        told.done.append(&mut self.unsynced_done);
        Ok(())
    }

    /// Carries out tasks until there is none. `copies`: stop a compaction after that many, to let
    /// deliveries come in between; it goes on at the next call.
    fn tend(
        &mut self,
        disk: &mut Disk,
        told: &mut Told,
        random: &mut Random,
    ) -> Result<(), PowerCut> {
        while let Some(task) = self.set.next_task() {
            let segment = match task {
                Task::DeleteFree => {
                    let free = disk
                        .names
                        .keys()
                        .find(|name| name.ends_with(".free"))
                        .cloned();
                    disk.change(DirectoryChange::Remove(free.unwrap()));
                    self.set.free_deleted();
                    continue;
                }
                Task::Remove(segment) => segment,
                Task::Compact(segment) => {
                    self.copy_forward(disk, told, random, segment)?;
                    segment
                }
            };
            let disposal = self.set.disposal(segment);
            let name = file_name(segment);
            disk.change(match disposal {
                Disposal::Free => DirectoryChange::Rename(name, free_file_name(segment)),
                Disposal::Delete => DirectoryChange::Remove(name),
                Disposal::Quarantine => panic!("nothing is damaged here"),
            });
            disk.sync_directory()?;
            self.set.removed(segment, disposal);
        }
        Ok(())
    }

    fn copy_forward(
        &mut self,
        disk: &mut Disk,
        told: &mut Told,
        random: &mut Random,
        victim: SegmentId,
    ) -> Result<(), PowerCut> {
        let file = disk.files[disk.names[&file_name(victim)]].live.clone();
        let mut reader =
            SegmentReader::open(&file, &self.keys, name(victim), Contents::Read).unwrap();
        reader.push(&file);
        reader.close_input();
        while let Some(found) = reader.next() {
            match found.record {
                Record::Message(message) | Record::Moved(Moved { message, .. }) => {
                    let id = message.queue_id.0;
                    let here = self.index.get(&id);
                    let Some(entry) = here.filter(|entry| entry.placement == found.placement)
                    else {
                        continue;
                    };
                    let states: Vec<_> = entry.states.iter().copied().flatten().collect();
                    let moved = Moved {
                        from: victim,
                        states: OutcomeStates::new(&states),
                        message,
                    };
                    let placement = self.append(disk, told, &Record::Moved(moved))?;
                    self.set.live(placement);
                    self.set.dead(found.placement);
                    self.index.get_mut(&id).unwrap().placement = placement;
                    // A delivery of the copy while the original is still there.
                    if random.below(3) == 0 {
                        self.outcome(disk, told, id, 0, OutcomeKind::Delivered)?;
                    }
                    if random.below(6) == 0 && self.index.contains_key(&id) {
                        self.outcome(disk, told, id, 1, OutcomeKind::Failed)?;
                    }
                }
                ref note => {
                    let about = note.about().unwrap().segment;
                    if self.set.is_needed(victim, about) {
                        let placement = self.append(disk, told, note)?;
                        self.set.note(placement, about);
                    }
                }
            }
        }
        self.commit(disk, told)
    }
}

/// One record of an earlier run: what of it counts, and what that means for the segments.
fn replay(
    set: &mut SegmentSet,
    survivors: &mut Survivors,
    strays: &mut Vec<Outcome>,
    placement: Placement,
    record: &Record<'_>,
) {
    match record {
        Record::Message(_) => set.live(placement),
        Record::Moved(moved) => {
            set.live(placement);
            set.moved_from(moved.from);
        }
        Record::Outcome(outcome) => set.note(placement, outcome.about.segment),
        other => panic!("{other:?} was never written"),
    }
    let effects = survivors.read(placement, record);
    for gone in effects.gone {
        set.dead(gone);
        if matches!(record, Record::Moved(_)) {
            set.moved_from(gone.segment);
        }
    }
    strays.extend(effects.strays);
}

/// Runs until the power goes or the work is done.
fn work(
    disk: &mut Disk,
    told: &mut Told,
    random: &mut Random,
    run: u64,
    most: &mut u64,
) -> Result<(), PowerCut> {
    let mut queue = Queue::open(disk, run << 32)?;
    check(&queue, told);
    // What was in flight at the cut is settled now, whichever way.
    told.maybe.clear();
    told.maybe_done.clear();
    told.acknowledged = queue.index.keys().copied().collect();
    for (id, entry) in &queue.index {
        for (recipient, state) in entry.states.iter().enumerate() {
            if state.is_some_and(|state| state.kind.is_final()) {
                told.done.insert((*id, recipient));
            }
        }
    }
    for step in 0..120 {
        let some = |queue: &Queue, random: &mut Random| {
            let ids: Vec<_> = queue.index.keys().copied().collect();
            let choice = random.below(ids.len().max(1) as u64) as usize;
            ids.get(choice).copied()
        };
        match random.below(10) {
            0..=3 => {
                let bytes = random.below(3000) as usize;
                queue.accept(disk, told, run << 32 | step, bytes)?;
            }
            4..=7 => {
                if let Some(id) = some(&queue, random) {
                    let kind = match random.below(4) {
                        0 => OutcomeKind::Deferred,
                        1 => OutcomeKind::Failed,
                        _ => OutcomeKind::Delivered,
                    };
                    queue.outcome(disk, told, id, random.below(2) as usize, kind)?;
                }
            }
            _ => {
                queue.commit(disk, told)?;
                queue.tend(disk, told, random)?;
                assert!(
                    queue.set.disk_bytes() <= queue.set.disk_bytes_max(),
                    "{} bytes on disk, {} kept",
                    queue.set.disk_bytes(),
                    queue.set.kept_bytes()
                );
            }
        }
        *most = (*most).max(queue.set.usage().count() as u64);
    }
    queue.commit(disk, told)
}

fn check(queue: &Queue, told: &Told) {
    for id in &told.acknowledged {
        let all_done = (0..RECIPIENTS)
            .all(|r| told.done.contains(&(*id, r)) || told.maybe_done.contains(&(*id, r)));
        assert!(
            queue.index.contains_key(id) || all_done,
            "message {id:x} was lost"
        );
    }
    for (id, entry) in &queue.index {
        assert!(
            told.acknowledged.contains(id) || told.maybe.contains(id),
            "message {id:x} came from nowhere"
        );
        for (recipient, state) in entry.states.iter().enumerate() {
            let is_done = state.is_some_and(|state| state.kind.is_final());
            assert!(
                is_done || !told.done.contains(&(*id, recipient)),
                "message {id:x} to recipient {recipient} would be sent again"
            );
        }
    }
    let kept: u64 = queue
        .index
        .values()
        .map(|entry| u64::from(entry.placement.bytes))
        .sum();
    assert!(queue.set.kept_bytes() >= kept);
}

#[test]
fn power_cut_at_any_sync_loses_nothing_and_repeats_nothing() {
    // SEED=n runs that one alone, SEEDS=n as many from 1 on.
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..number("SEEDS").unwrap_or(60) + 1,
    };
    let (mut cuts, mut most) = (0, 0);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| {
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            let (mut disk, mut told) = (Disk::default(), Told::default());
            let (mut cuts, mut most) = (0, 0);
            for run in 1..=12 {
                disk.syncs_left = random.below(60);
                cuts += u64::from(work(&mut disk, &mut told, &mut random, run, &mut most).is_err());
                disk.restart(&mut random);
            }
            disk.syncs_left = u64::MAX;
            let queue = Queue::open(&mut disk, 99 << 32);
            check(&queue.unwrap_or_else(|_| panic!("no cut is due")), &told);
            (cuts, most)
        });
        match outcome {
            Ok(seen) => (cuts, most) = (cuts + seen.0, most.max(seen.1)),
            Err(_) => panic!("failed with SEED={seed}"),
        }
    }
    assert!(
        cuts > 0 && most > 4,
        "{cuts} cuts, {most} segments: the test has not tested much"
    );
}
