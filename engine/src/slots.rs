//! Tables whose slots are used again.

/// Slots looked at for each one that is added: more than one, so that what is idle shrinks to its
/// bound beside what is not.
const SLOTS_PER_STEP: usize = 4;

/// Free slots of a table, and where the hand stands that finds more.
#[derive(Debug, Default)]
pub(crate) struct Free {
    slots: Vec<u32>,
    hand: usize,
}

impl Free {
    /// The next slots to be looked at, of a table with `len`.
    pub(crate) fn step(&mut self, len: usize) -> impl Iterator<Item = u32> + use<> {
        let from = self.hand;
        self.hand = (from + SLOTS_PER_STEP) % len.max(1);
        (from..from + SLOTS_PER_STEP.min(len)).map(move |slot| (slot % len) as u32)
    }

    /// The slot is free from now on.
    pub(crate) fn give(&mut self, slot: u32) {
        self.slots.push(slot);
    }
}

/// Puts `item` into a free slot, or a new one.
pub(crate) fn put<T>(table: &mut Vec<T>, free: &mut Free, item: T) -> u32 {
    match free.slots.pop() {
        Some(slot) => {
            table[slot as usize] = item;
            slot
        }
        None => {
            table.push(item);
            table.len() as u32 - 1
        }
    }
}
