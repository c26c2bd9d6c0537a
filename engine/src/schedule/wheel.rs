//! Retry times: a hierarchical timing wheel over index slots.
//!
//! A waiting message costs nothing here beyond the `next` link its index entry has anyway (Varghese
//! and Lauck, "Hashed and Hierarchical Timing Wheels", 1987, scheme 7). Resolution is a second.

use super::index::{EntryId, Index};

const SLOTS: usize = 256;
const LEVELS: usize = 3;

/// The farthest ahead a retry may be put, in seconds; later ones come up then and are put back.
pub const RETRY_AHEAD_S_MAX: u32 = (SLOTS as u32).pow(LEVELS as u32) - 1;

/// Entries waiting for a time, in seconds since the epoch.
#[derive(Debug)]
pub struct Wheel {
    /// All before this second has been handed out.
    now_s: u32,
    slots: Box<Slots>,
    /// Entries to be placed anew, and how far that has come; they come up late by as long as it takes.
    old: Option<(Box<Slots>, usize)>,
    len: u64,
}

type Slots = [[Option<EntryId>; SLOTS]; LEVELS];

impl Wheel {
    /// An empty wheel that starts at `now_s`.
    pub fn new(now_s: u32) -> Self {
        Self {
            now_s,
            slots: Box::new([[None; SLOTS]; LEVELS]),
            old: None,
            len: 0,
        }
    }

    /// How many entries wait.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing waits.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every entry that waits.
    pub fn iter<'a>(&'a self, index: &'a Index) -> impl Iterator<Item = EntryId> + 'a {
        let old = self.old.iter().flat_map(|(slots, _)| slots.as_flattened());
        let heads = self.slots.as_flattened().iter().chain(old);
        heads.flat_map(|head| std::iter::successors(*head, |id| index.get(*id).next))
    }

    /// Puts `entry`, which is in no list, to come up at its `retry_at_s`.
    pub fn insert(&mut self, index: &mut Index, entry: EntryId) {
        self.len += 1;
        self.place(index, entry);
    }

    fn place(&mut self, index: &mut Index, entry: EntryId) {
        let due_s = index.get(entry).retry_at_s.max(self.now_s);
        let ahead = (due_s - self.now_s).min(RETRY_AHEAD_S_MAX);
        let at = self.now_s.saturating_add(ahead) as usize;
        let (level, slot) = match ahead {
            0..0x100 => (0, at % SLOTS),
            0x100..0x1_0000 => (1, at / SLOTS % SLOTS),
            _ => (2, at / (SLOTS * SLOTS) % SLOTS),
        };
        let head = &mut self.slots[level][slot];
        index.get_mut(entry).next = *head;
        *head = Some(entry);
    }

    /// Hands every entry due at or before `now_s` to `due`, unlinked, oldest second first, at most
    /// `entries_max` of them; `true` if there may be more.
    pub fn advance(
        &mut self,
        index: &mut Index,
        now_s: u32,
        entries_max: usize,
        mut due: impl FnMut(&mut Index, EntryId),
    ) -> bool {
        if self.len == 0 {
            self.now_s = self.now_s.max(now_s);
            return false;
        }
        let mut handed_out = 0;
        loop {
            let slot = self.now_s as usize % SLOTS;
            while let Some(entry) = self.slots[0][slot] {
                if handed_out == entries_max {
                    return true;
                }
                self.slots[0][slot] = index.get_mut(entry).next.take();
                self.len -= 1;
                handed_out += 1;
                due(index, entry);
            }
            if self.now_s >= now_s {
                return false;
            }
            self.now_s += 1;
            self.cascade(index);
        }
    }

    /// Begins to place every entry anew; [`Self::rebuild_some`] goes on with it. Nothing happens if that
    /// is under way.
    pub fn rebuild(&mut self) {
        if self.old.is_none() {
            let old = std::mem::replace(&mut self.slots, Box::new([[None; SLOTS]; LEVELS]));
            self.old = Some((old, 0));
        }
    }

    /// Places at most `entries_max` more entries anew, after `change` has seen each; `true` if all are.
    pub fn rebuild_some(
        &mut self,
        index: &mut Index,
        entries_max: usize,
        mut change: impl FnMut(&mut Index, EntryId),
    ) -> bool {
        let Some((mut old, mut at)) = self.old.take() else {
            return true;
        };
        let mut placed = 0;
        while at < LEVELS * SLOTS {
            let head = &mut old[at / SLOTS][at % SLOTS];
            while let Some(entry) = *head {
                if placed == entries_max {
                    self.old = Some((old, at));
                    return false;
                }
                *head = index.get_mut(entry).next.take();
                change(index, entry);
                self.place(index, entry);
                placed += 1;
            }
            at += 1;
        }
        true
    }

    /// At each turn of a level the next slot of the level above is dealt out again.
    fn cascade(&mut self, index: &mut Index) {
        let now = self.now_s as usize;
        for level in 1..LEVELS {
            if !now.is_multiple_of(SLOTS.pow(level as u32)) {
                return;
            }
            let slot = now / SLOTS.pow(level as u32) % SLOTS;
            let mut chain = self.slots[level][slot].take();
            while let Some(entry) = chain {
                chain = index.get_mut(entry).next.take();
                self.place(index, entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_placed_anew_so_many_at_a_time() {
        let (mut wheel, mut index) = (Wheel::new(1000), Index::default());
        for n in 0..10_000_u32 {
            let entry = index.insert(Entry {
                retry_at_s: 2000 + n * 10,
                ..Entry::new(QueueId(u64::from(n) + 1))
            });
            wheel.insert(&mut index, entry);
        }
        wheel.rebuild();
        let mut seen = 0;
        loop {
            let before = seen;
            let is_done = wheel.rebuild_some(&mut index, 1000, |index, entry| {
                seen += 1;
                index.get_mut(entry).retry_at_s = 1000;
            });
            assert!(seen - before <= 1000);
            if is_done {
                break;
            }
        }
        assert_eq!(seen, 10_000);
        let mut due = 0;
        assert!(!wheel.advance(&mut index, 1000, usize::MAX, |_, _| due += 1));
        assert_eq!((due, wheel.len()), (10_000, 0));
    }
    use crate::ids::QueueId;
    use crate::schedule::index::Entry;

    #[test]
    fn entries_come_up_at_their_second_and_not_before() {
        let start = 1_800_000_123;
        let (mut wheel, mut index) = (Wheel::new(start), Index::default());
        let mut rng = crate::random::Random::new(7);
        let mut expected = Vec::new();
        for id in 0..5_000 {
            let ahead = match id % 4 {
                0 => rng.below(10),
                1 => rng.below(300),
                2 => rng.below(70_000),
                _ => rng.below(400_000),
            } as u32;
            let entry = index.insert(Entry {
                retry_at_s: start + ahead,
                ..Entry::new(QueueId(id))
            });
            wheel.insert(&mut index, entry);
            expected.push(start + ahead);
        }
        expected.sort_unstable();
        let (mut seen, mut now) = (Vec::new(), start);
        while !wheel.is_empty() {
            now += rng.below(900) as u32;
            while wheel.advance(&mut index, now, 100, |index, entry| {
                let due = index.get(entry).retry_at_s;
                assert!(due <= now, "{due} came up at {now}");
                assert_eq!(index.get(entry).next, None);
                seen.push(due);
            }) {}
            assert!(
                expected[seen.len()..].iter().all(|due| *due > now),
                "one is late at {now}"
            );
        }
        seen.sort_unstable();
        assert_eq!(seen, expected);
    }
}
