//! Which segment to compact or remove next: accounting over one stream's segments.
//!
//! Events in (a record became live, a record is dead, …), decisions out ([`Task`]). The caller does
//! the reading, copying, renaming and syncing.
//!
//! # What must be kept
//! A message while it is live. A note (outcome, commit, cancel) while the segment of the message it
//! is about exists: without the note, the message would come back to life at the next replay. So
//! compaction copies live messages forward as [`super::record::Moved`], with their state, and
//! needed notes as they are; [`SegmentSet::is_needed`] tells which those are.
//!
//! # Order of removal
//! One task at a time, and its removal durable before the next task: a message copied out of a
//! segment gets its later notes about the copy, which do not protect the original. If a crash comes
//! between copy and removal, replay finds the copy ([`SegmentSet::moved_from`]), and that
//! segment is finished before any other may go.
//!
//! # How much disk
//! At most twice what is kept, and two segments (the one being written, and a free one or one that
//! is dying). Above that the segment with the most to gain is compacted; as more than half of the
//! closed segments' bytes are dead then, copying never costs more than it frees.

use std::collections::{BTreeMap, BTreeSet};

use super::segment::Placement;
use crate::ids::SegmentId;

/// Free files kept for writing over, at most: one is taken while the next dies.
pub const FREE_FILES_MAX: usize = 1;
/// Segments' worth of disk on top of twice what is kept.
pub const SLACK_SEGMENTS: u64 = 2;

/// What to do next; then call [`SegmentSet::disposal`] and [`SegmentSet::removed`], or for a free
/// file [`SegmentSet::free_deleted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Nothing in the segment is needed: remove it.
    Remove(SegmentId),
    /// Copy forward what is needed, wait until the copies are durable, then remove it.
    Compact(SegmentId),
    /// Delete one of the free files.
    DeleteFree,
}

/// What becomes of a segment's file that holds nothing needed. Whichever it is, it must be durable
/// (a sync of the directory) before [`SegmentSet::removed`] is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposal {
    /// Rename to [`super::segment::free_file_name`]; to be written over.
    Free,
    /// Delete.
    Delete,
    /// It has damage: rename it to keep it for inspection, outside of the queue's accounting.
    Quarantine,
}

#[derive(Clone, Debug, Default)]
struct Usage {
    /// On disk, whatever is in it.
    file_bytes: u64,
    live_records: u32,
    live_bytes: u64,
    /// Notes about messages of other segments, by that segment.
    notes: BTreeMap<SegmentId, u64>,
    note_bytes: u64,
    damaged: bool,
    /// Cannot be read: never chosen.
    unreadable: bool,
    /// Its file may never have been made.
    is_given_up: bool,
}

impl Usage {
    const fn kept_bytes(&self) -> u64 {
        self.live_bytes + self.note_bytes
    }
}

/// What one segment holds, for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentUsage {
    /// The segment.
    pub segment: SegmentId,
    /// Of the file.
    pub file_bytes: u64,
    /// Messages (and other records) that are live.
    pub live_records: u32,
    /// Their bytes.
    pub live_bytes: u64,
    /// Bytes of notes that must be kept for messages of other segments.
    pub note_bytes: u64,
    /// Part of it could not be read.
    pub damaged: bool,
}

/// The segments of one stream of one shard.
#[derive(Clone, Debug)]
pub struct SegmentSet {
    segment_bytes: u64,
    segments: BTreeMap<SegmentId, Usage>,
    writing: Option<SegmentId>,
    /// Segments some of whose messages were copied forward: these go before any other.
    finishing: BTreeSet<SegmentId>,
    task: Option<Task>,
    /// Bytes of each free file.
    free: Vec<u64>,
    disk_bytes: u64,
    kept_bytes: u64,
}

impl SegmentSet {
    /// No segment yet; new ones are of `segment_bytes`.
    pub const fn new(segment_bytes: u32) -> Self {
        Self {
            segment_bytes: segment_bytes as u64,
            segments: BTreeMap::new(),
            writing: None,
            finishing: BTreeSet::new(),
            task: None,
            free: Vec::new(),
            disk_bytes: 0,
            kept_bytes: 0,
        }
    }

    /// A segment file was found at start. Name all of them before any record of theirs.
    pub fn found(&mut self, segment: SegmentId, file_bytes: u64) {
        self.disk_bytes += file_bytes;
        self.segments.insert(
            segment,
            Usage {
                file_bytes,
                ..Usage::default()
            },
        );
    }

    /// A free file was found at start.
    pub fn free_found(&mut self, file_bytes: u64) {
        self.disk_bytes += file_bytes;
        self.free.push(file_bytes);
    }

    /// Writing goes on in the new `segment`, of which `file_bytes` are taken on disk; the one
    /// written so far is closed. `reused`: its file is one of the free ones.
    pub fn began(&mut self, segment: SegmentId, file_bytes: u64, reused: bool) {
        if reused && let Some(bytes) = self.free.pop() {
            self.disk_bytes -= bytes;
        }
        self.found(segment, file_bytes);
        self.writing = Some(segment);
    }

    /// The message (or blob) at `placement` is needed.
    pub fn live(&mut self, placement: Placement) {
        if let Some(usage) = self.segments.get_mut(&placement.segment) {
            usage.live_records += 1;
            usage.live_bytes += u64::from(placement.bytes);
            self.kept_bytes += u64::from(placement.bytes);
        }
    }

    /// The message at `placement`, once [`Self::live`], is done or stands elsewhere now.
    pub fn dead(&mut self, placement: Placement) {
        if let Some(usage) = self.segments.get_mut(&placement.segment) {
            debug_assert!(usage.live_records > 0, "dead before live: {placement:?}");
            usage.live_records = usage.live_records.saturating_sub(1);
            let bytes = u64::from(placement.bytes).min(usage.live_bytes);
            usage.live_bytes -= bytes;
            self.kept_bytes -= bytes;
        }
    }

    /// A note stands at `placement`, about a message in segment `about`.
    pub fn note(&mut self, placement: Placement, about: SegmentId) {
        if !self.is_needed(placement.segment, about) {
            return;
        }
        if let Some(usage) = self.segments.get_mut(&placement.segment) {
            let bytes = u64::from(placement.bytes);
            *usage.notes.entry(about).or_default() += bytes;
            usage.note_bytes += bytes;
            self.kept_bytes += bytes;
        }
    }

    /// Whether a note in segment `holder` about a message in segment `about` must outlive `holder`.
    pub fn is_needed(&self, holder: SegmentId, about: SegmentId) -> bool {
        holder != about && self.segments.contains_key(&about)
    }

    /// Replay found a message copied out of `from`: if that segment still exists, its compaction was
    /// cut short, and is done again before anything else.
    pub fn moved_from(&mut self, from: SegmentId) {
        if self.segments.contains_key(&from) {
            self.finishing.insert(from);
        }
    }

    /// Part of `segment` could not be read: its file is kept aside when it goes.
    pub fn damaged(&mut self, segment: SegmentId) {
        if let Some(usage) = self.segments.get_mut(&segment) {
            usage.damaged = true;
        }
    }

    /// Nothing in `segment` was ever durable, and all of it is written again elsewhere: its file, if
    /// there is one, may go.
    pub fn given_up(&mut self, segment: SegmentId) {
        if let Some(usage) = self.segments.get_mut(&segment) {
            usage.is_given_up = true;
            self.kept_bytes -= usage.note_bytes;
            usage.note_bytes = 0;
            usage.notes.clear();
        }
    }

    /// Copies of messages may stand in `segment` that nobody relies on, since their write failed. It
    /// goes before any other: later notes protect the originals and later copies, but not these.
    pub fn copies_given_up(&mut self, segment: SegmentId) {
        self.moved_from(segment);
    }

    /// `segment` cannot be read at all (header damaged, key missing): it stays where it is, and so
    /// do all notes about it.
    pub fn unreadable(&mut self, segment: SegmentId) {
        if let Some(usage) = self.segments.get_mut(&segment) {
            usage.unreadable = true;
            // All of it may be needed, so all of it counts as kept.
            self.kept_bytes += usage.file_bytes - usage.live_bytes.min(usage.file_bytes);
            usage.live_bytes = usage.live_bytes.max(usage.file_bytes);
        }
    }

    /// What to do next, if anything; nothing while a task is under way. Ask again after each
    /// [`Self::removed`], and after replay, roll-over and deliveries.
    pub fn next_task(&mut self) -> Option<Task> {
        if self.task.is_some() {
            return None;
        }
        self.task = self.choose();
        self.task
    }

    fn choose(&self) -> Option<Task> {
        let closed = || {
            self.segments
                .iter()
                .filter(|(id, usage)| Some(**id) != self.writing && !usage.unreadable)
        };
        let is_dead = |usage: &Usage| usage.live_records == 0 && usage.note_bytes == 0;
        if let Some((unfinished, usage)) = closed().find(|(id, _)| self.finishing.contains(id)) {
            // Its file may never have been made: there is nothing to read then.
            return Some(if is_dead(usage) {
                Task::Remove(*unfinished)
            } else {
                Task::Compact(*unfinished)
            });
        }
        if let Some((dead, _)) = closed().find(|(_, usage)| is_dead(usage)) {
            return Some(Task::Remove(*dead));
        }
        if self.free.len() > FREE_FILES_MAX {
            return Some(Task::DeleteFree);
        }
        if self.disk_bytes <= self.disk_bytes_max() {
            return None;
        }
        if !self.free.is_empty() {
            return Some(Task::DeleteFree);
        }
        let gain = |usage: &Usage| usage.file_bytes.saturating_sub(usage.kept_bytes());
        closed()
            .max_by_key(|(_, usage)| gain(usage))
            .filter(|(_, usage)| gain(usage) > usage.kept_bytes())
            .map(|(id, _)| Task::Compact(*id))
    }

    /// How to dispose of the file of the segment whose task is under way; for a compaction, ask when
    /// all copies are durable.
    pub fn disposal(&self, segment: SegmentId) -> Disposal {
        let usage = self.segments.get(&segment);
        if usage.is_some_and(|usage| usage.damaged) {
            return Disposal::Quarantine;
        }
        let whole = usage.is_some_and(|usage| usage.file_bytes == self.segment_bytes);
        let within = self.disk_bytes <= self.disk_bytes_max();
        if whole && within && self.free.len() < FREE_FILES_MAX {
            Disposal::Free
        } else {
            Disposal::Delete
        }
    }

    /// Nothing live is left in `segment`: it may be removed. A compaction that could not copy some
    /// message (its acceptance is not settled yet, a write failed) leaves it there; then call
    /// [`Self::task_failed`] instead.
    pub fn is_drained(&self, segment: SegmentId) -> bool {
        self.segments
            .get(&segment)
            .is_none_or(|usage| usage.live_records == 0)
    }

    /// The segment is gone, durably; its task is done.
    pub fn removed(&mut self, segment: SegmentId, disposal: Disposal) {
        let Some(usage) = self.segments.remove(&segment) else {
            return;
        };
        debug_assert!(
            usage.live_records == 0,
            "segment {} still holds mail",
            segment.0
        );
        self.disk_bytes -= usage.file_bytes;
        self.kept_bytes -= usage.kept_bytes();
        if disposal == Disposal::Free {
            self.free_found(usage.file_bytes);
        }
        for other in self.segments.values_mut() {
            let bytes = other.notes.remove(&segment).unwrap_or(0);
            other.note_bytes -= bytes;
            self.kept_bytes -= bytes;
        }
        self.finishing.remove(&segment);
        if matches!(self.task, Some(Task::Remove(id) | Task::Compact(id)) if id == segment) {
            self.task = None;
        }
    }

    /// A free file was deleted.
    pub fn free_deleted(&mut self) {
        if let Some(bytes) = self.free.pop() {
            self.disk_bytes -= bytes;
        }
        if self.task == Some(Task::DeleteFree) {
            self.task = None;
        }
    }

    /// The task under way failed (the disk is full, a read failed). A compaction may have copied
    /// some messages already, so it will be offered again before anything else.
    pub fn task_failed(&mut self) {
        if let Some(Task::Compact(segment)) = self.task.take() {
            self.finishing.insert(segment);
        }
    }

    /// The task was not begun: what is to be done is chosen anew.
    pub const fn task_dropped(&mut self) {
        self.task = None;
    }

    /// The task under way.
    pub const fn task(&self) -> Option<Task> {
        self.task
    }

    /// The segment being written.
    pub const fn writing(&self) -> Option<SegmentId> {
        self.writing
    }

    /// Segments that have a file, rising.
    pub fn with_file(&self) -> impl Iterator<Item = SegmentId> + '_ {
        let with_file = self.segments.iter().filter(|(_, usage)| !usage.is_given_up);
        with_file.map(|(segment, _)| *segment)
    }

    /// Whether `segment` is the newest: then no other says that it should be there.
    pub fn is_newest(&self, segment: SegmentId) -> bool {
        self.segments.last_key_value().map(|(newest, _)| *newest) == Some(segment)
    }

    /// Free files at hand.
    pub const fn free_files(&self) -> usize {
        self.free.len()
    }

    /// Bytes of all files, free ones included.
    pub const fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Bytes of all records that must be kept.
    pub const fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    /// Compaction keeps [`Self::disk_bytes`] below this, but for the work under way.
    pub const fn disk_bytes_max(&self) -> u64 {
        2 * self.kept_bytes + SLACK_SEGMENTS * self.segment_bytes
    }

    /// Segments, but for the one being written, in which no message is live.
    pub fn dead_segments(&self) -> BTreeSet<SegmentId> {
        self.segments
            .iter()
            .filter(|(id, usage)| usage.live_records == 0 && Some(**id) != self.writing)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Every segment, oldest first.
    pub fn usage(&self) -> impl Iterator<Item = SegmentUsage> + '_ {
        self.segments.iter().map(|(segment, usage)| SegmentUsage {
            segment: *segment,
            file_bytes: usage.file_bytes,
            live_records: usage.live_records,
            live_bytes: usage.live_bytes,
            note_bytes: usage.note_bytes,
            damaged: usage.damaged,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Offset;

    const SEGMENT_BYTES: u32 = 64 * 1024;
    const FULL: u64 = SEGMENT_BYTES as u64;

    fn at(segment: u32, bytes: u32) -> Placement {
        Placement {
            segment: SegmentId(segment),
            offset: Offset(4096),
            bytes,
        }
    }

    fn remove(set: &mut SegmentSet, segment: u32) -> Disposal {
        let disposal = set.disposal(SegmentId(segment));
        set.removed(SegmentId(segment), disposal);
        disposal
    }

    #[test]
    fn dead_segment_is_removed_and_its_file_written_over() {
        let mut set = SegmentSet::new(SEGMENT_BYTES);
        set.began(SegmentId(1), FULL, false);
        set.live(at(1, 1000));
        set.began(SegmentId(2), FULL, false);
        assert_eq!(set.next_task(), None, "it is live");
        set.dead(at(1, 1000));
        assert_eq!(set.next_task(), Some(Task::Remove(SegmentId(1))));
        assert_eq!(set.next_task(), None, "one task at a time");
        assert_eq!(remove(&mut set, 1), Disposal::Free);
        assert_eq!((set.free_files(), set.disk_bytes()), (1, 2 * FULL));
        set.began(SegmentId(3), FULL, true);
        assert_eq!((set.free_files(), set.disk_bytes()), (0, 2 * FULL));
    }

    #[test]
    fn segment_being_written_is_never_chosen() {
        let mut set = SegmentSet::new(SEGMENT_BYTES);
        set.began(SegmentId(1), 10 * FULL, false);
        assert!(set.disk_bytes() > set.disk_bytes_max());
        assert_eq!(set.next_task(), None);
    }

    #[test]
    fn note_keeps_its_segment_while_the_message_it_is_about_has_one() {
        let mut set = SegmentSet::new(SEGMENT_BYTES);
        set.began(SegmentId(1), FULL, false);
        set.live(at(1, 60_000));
        set.live(at(1, 1000));
        set.began(SegmentId(2), FULL, false);
        set.note(at(2, 48), SegmentId(1));
        set.note(at(2, 48), SegmentId(2));
        set.dead(at(1, 1000));
        set.began(SegmentId(3), FULL, false);
        assert_eq!(set.kept_bytes(), 60_048);
        assert_eq!(
            set.next_task(),
            None,
            "segment 2 holds a note about one in segment 1"
        );
        assert!(set.is_needed(SegmentId(2), SegmentId(1)));
        assert!(!set.is_needed(SegmentId(2), SegmentId(2)));

        set.dead(at(1, 60_000));
        assert_eq!(set.next_task(), Some(Task::Remove(SegmentId(1))));
        remove(&mut set, 1);
        assert_eq!(set.next_task(), Some(Task::Remove(SegmentId(2))));
        assert!(!set.is_needed(SegmentId(2), SegmentId(1)));
        assert_eq!(set.kept_bytes(), 0);
    }

    #[test]
    fn compaction_cut_short_is_finished_before_anything_else() {
        let mut set = SegmentSet::new(SEGMENT_BYTES);
        for segment in 1..=4 {
            set.found(SegmentId(segment), FULL);
        }
        set.moved_from(SegmentId(9));
        set.live(at(3, 50_000));
        set.moved_from(SegmentId(3));
        set.began(SegmentId(5), FULL, false);
        assert_eq!(
            set.next_task(),
            Some(Task::Compact(SegmentId(3))),
            "though 1 and 2 are dead"
        );
        set.task_failed();
        assert_eq!(set.next_task(), Some(Task::Compact(SegmentId(3))));
        assert!(!set.is_drained(SegmentId(3)));
        set.dead(at(3, 50_000));
        assert!(set.is_drained(SegmentId(3)));
        remove(&mut set, 3);
        assert_eq!(set.next_task(), Some(Task::Remove(SegmentId(1))));
    }

    #[test]
    fn segment_with_copies_that_were_given_up_goes_before_those_with_notes() {
        let mut set = SegmentSet::new(SEGMENT_BYTES);
        set.found(SegmentId(1), FULL);
        set.found(SegmentId(2), FULL);
        set.live(at(2, 1000));
        set.began(SegmentId(3), FULL, false);
        set.copies_given_up(SegmentId(2));
        assert_eq!(
            set.next_task(),
            Some(Task::Compact(SegmentId(2))),
            "though 1 is dead"
        );
        set.task_failed();
        // Nothing is left to be read: its file may never have been made.
        set.dead(at(2, 1000));
        assert_eq!(set.next_task(), Some(Task::Remove(SegmentId(2))));
        remove(&mut set, 2);
        assert_eq!(set.next_task(), Some(Task::Remove(SegmentId(1))));
    }

    #[test]
    fn task_that_was_not_begun_leaves_nothing_to_be_finished() {
        let mut set = SegmentSet::new(SEGMENT_BYTES);
        for segment in 1..=4 {
            set.found(SegmentId(segment), FULL);
            set.live(at(segment, 500));
        }
        set.began(SegmentId(5), FULL, false);
        assert_eq!(set.next_task(), Some(Task::Compact(SegmentId(4))));
        set.task_dropped();
        set.dead(at(1, 500));
        assert_eq!(set.next_task(), Some(Task::Remove(SegmentId(1))));
    }

    #[test]
    fn emptiest_segment_is_compacted_when_the_disk_bound_is_passed() {
        let mut set = SegmentSet::new(SEGMENT_BYTES);
        for (segment, live) in [(1, 30_000), (2, 500), (3, 20_000)] {
            set.found(SegmentId(segment), FULL);
            set.live(at(segment, live));
        }
        set.began(SegmentId(4), FULL, false);
        assert!(set.disk_bytes() > set.disk_bytes_max());
        assert_eq!(set.next_task(), Some(Task::Compact(SegmentId(2))));
        set.dead(at(2, 500));
        set.live(at(4, 500));
        // Above the bound its file is deleted rather than kept.
        assert_eq!(remove(&mut set, 2), Disposal::Delete);
        assert!(set.disk_bytes() <= set.disk_bytes_max());
        assert_eq!(set.next_task(), None);
    }

    #[test]
    fn damaged_segment_is_kept_aside_and_unreadable_one_is_left_alone() {
        let mut set = SegmentSet::new(SEGMENT_BYTES);
        set.found(SegmentId(1), FULL);
        set.found(SegmentId(2), FULL);
        set.began(SegmentId(3), FULL, false);
        set.unreadable(SegmentId(1));
        assert_eq!(set.kept_bytes(), FULL);
        set.damaged(SegmentId(2));
        assert_eq!(set.next_task(), Some(Task::Remove(SegmentId(2))));
        assert_eq!(remove(&mut set, 2), Disposal::Quarantine);
        assert_eq!(set.next_task(), None);
        set.note(at(3, 48), SegmentId(1));
        set.began(SegmentId(4), FULL, false);
        assert_eq!(
            set.usage().map(|u| u.note_bytes).collect::<Vec<_>>(),
            [0, 48, 0]
        );
        assert_eq!(
            set.next_task(),
            None,
            "the note about the unreadable segment is kept"
        );
    }

    #[test]
    fn free_files_beyond_the_bound_are_deleted() {
        let mut set = SegmentSet::new(SEGMENT_BYTES);
        set.free_found(FULL);
        set.free_found(FULL);
        assert_eq!(set.next_task(), Some(Task::DeleteFree));
        set.free_deleted();
        assert_eq!(
            (set.next_task(), set.free_files(), set.disk_bytes()),
            (None, 1, FULL)
        );
    }
}
