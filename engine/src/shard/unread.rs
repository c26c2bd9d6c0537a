//! Segments of earlier runs that the disk does not give out at the moment.
//!
//! One failed read must not strand mail until a restart. Reading is tried again where it stopped, by whoever
//! has the files, with longer and longer rests; here stands what is unread, why, and what that means for
//! the mail:
//! - At first replay waits: outcomes of older mail may stand there.
//! - If the disk goes on failing, the segment is *passed over* and the rest of the queue is set going. What was
//!   read of it stays as it is (`Replayed`), since its outcomes may stand in the part that was not.
//! - Read at last, its mail is found in three steps: the rest of it ([`ShardCore::replay_late`]), what later
//!   segments have to say of it ([`ShardCore::replay_late_note`]), and
//!   [`ShardCore::replay_late_done`], which sets it going.
//!
//! Nothing is removed or compacted meanwhile, as copies and outcomes of its mail would go: for
//! [`KEPT_MS`]; a disk that fails for longer may cost duplicates, but must not fill up.

use super::ShardCore;
use crate::clock::{Mono, Now, UnixMs};
use crate::ids::{SegmentId, ShardId};
use crate::queue::record::{Moved, Record};
use crate::queue::segment::Placement;
use crate::schedule::index::{EntryId, State};

/// How long everything is kept that a segment which cannot be read may need, milliseconds.
const KEPT_MS: u64 = 60 * 60 * 1000;

/// A segment that is to be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadSegment {
    /// In whose folder: this shard's, or that of one which is no more.
    pub folder: ShardId,
    /// The segment.
    pub segment: SegmentId,
    /// What the disk said last.
    pub cause: Box<str>,
    /// When it is tried again.
    pub retry_at: UnixMs,
    /// Since when.
    since: Mono,
    /// Its own part in the accounting of disk was given up.
    is_written_off: bool,
}

impl ShardCore {
    /// A segment could not be read; it is tried again after `rest_ms`.
    pub fn unread(
        &mut self,
        folder: ShardId,
        segment: SegmentId,
        why: &str,
        rest_ms: u64,
        now: Now,
    ) {
        self.report(format!(
            "queue segment {:08} of shard {} cannot be read: {why}; its mail waits, next try in {} ms",
            segment.0, folder.0, rest_ms
        ));
        let list = &mut self.moves.unread;
        let known = list.iter_mut().find(|unread| unread.is(folder, segment));
        let retry_at = UnixMs(now.unix.0.saturating_add(rest_ms));
        if let Some(unread) = known {
            unread.cause = why.into();
            unread.retry_at = retry_at;
        } else {
            list.push(UnreadSegment {
                folder,
                segment,
                cause: why.into(),
                retry_at,
                since: now.mono,
                is_written_off: false,
            });
        }
    }

    /// It was read at last, or is no longer tried.
    pub fn no_longer_unread(&mut self, folder: ShardId, segment: SegmentId) {
        let list = &mut self.moves.unread;
        let before = list.len();
        list.retain(|unread| !unread.is(folder, segment));
        if list.len() < before {
            self.report(format!(
                "queue segment {:08} of shard {} can be read again",
                segment.0, folder.0
            ));
            self.tell_broken();
        }
    }

    /// What is unread, the one that is tried next first.
    pub fn unread_segments(&self) -> Vec<UnreadSegment> {
        let mut list = self.moves.unread.clone();
        list.sort_by_key(|unread| unread.retry_at);
        list
    }

    /// Bytes of the files that are unread; how many messages that is, nobody knows.
    pub(super) fn unread_bytes(&self) -> u64 {
        let ours = |segment| (self.moves.unread.iter()).any(|u| u.is(self.me, segment));
        let usage = self.store.queue.set.usage();
        usage
            .filter(|usage| ours(usage.segment))
            .map(|usage| usage.file_bytes)
            .sum()
    }

    /// Whether an entry that stands there must wait for the rest of its segment.
    pub(super) fn is_unread(&self, segment: SegmentId) -> bool {
        (self.moves.unread.iter()).any(|unread| unread.is(self.me, segment))
    }

    /// Whether segments are kept whatever is in them.
    pub(super) fn keeps_for_unread(&mut self, now: Now) -> bool {
        let me = self.me;
        let mut keeps = false;
        for unread in &mut self.moves.unread {
            if unread.folder != me || unread.is_written_off {
                continue;
            }
            if now.mono.ms_since(unread.since) < KEPT_MS {
                keeps = true;
            } else {
                unread.is_written_off = true;
                self.store.queue.set.unreadable(unread.segment);
            }
        }
        keeps
    }

    /// One record of a segment that was passed over and can be read after all, in the order of the disk.
    pub fn replay_late(&mut self, placement: Placement, record: &Record<'_>) {
        if let Record::Moved(Moved { from, message, .. }) = record {
            let is_original = |id: EntryId| {
                let entry = self.mail.get(id);
                entry.placement.segment == *from && entry.state != State::Replayed
            };
            if self.mail.siblings(message.queue_id).any(is_original) {
                // The original is under way: this copy was to take its place, and is done again.
                return self.store.queue.set.moved_from(*from);
            }
        }
        self.replay(placement, record);
    }

    /// One record of a segment behind the `late` one: what it says about mail there.
    pub fn replay_late_note(&mut self, late: SegmentId, record: &Record<'_>) {
        match record {
            Record::Message(message) | Record::Moved(Moved { message, .. })
                if self.moves.handovers.is_void(message.handover) => {}
            Record::Moved(moved) => {
                let gone = self.forget_replayed(moved.message.queue_id, late);
                if moved.from == late || !gone.is_empty() {
                    self.store.queue.set.moved_from(late);
                }
            }
            Record::Outcome(outcome) if self.moves.handovers.is_void(outcome.state.handover()) => {}
            Record::Outcome(outcome) if outcome.about.segment == late => {
                self.replay_outcome(outcome, false);
            }
            Record::Cancel(about) if about.segment == late => {
                self.forget_replayed(about.queue_id, late);
            }
            _ => {}
        }
    }

    /// All that concerns the `late` segment is read: its mail is scheduled from the next tick on.
    pub fn replay_late_done(&mut self, late: SegmentId) {
        self.no_longer_unread(self.me, late);
        self.moves.replay_from = Some(0);
    }
}

impl UnreadSegment {
    fn is(&self, folder: ShardId, segment: SegmentId) -> bool {
        (self.folder, self.segment) == (folder, segment)
    }
}
