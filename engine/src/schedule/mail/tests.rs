use super::*;
use crate::clock::Mono;
use crate::counters::Counter;
use crate::ids::{Offset, SegmentId};
use crate::queue::segment::Placement;
use crate::random::Random;
use crate::schedule::index::State;

const START_S: u32 = 1_800_000_000;

struct World {
    mail: Mail,
    counters: Counters,
    now_s: u32,
    next: u64,
}

impl World {
    fn new() -> Self {
        let now = Now {
            mono: Mono(0),
            unix: UnixMs(u64::from(START_S) * 1000),
        };
        Self {
            mail: Mail::new(now),
            // Fewer rows than domains: some are counted under (other).
            counters: Counters::new(now.unix, 5, 2),
            now_s: START_S,
            next: 0,
        }
    }

    fn new_entry(&mut self, domain: &str, recipients: u16) -> NewEntry {
        let name = Domain::from_stored(domain);
        let destination = match self.mail.find_destination(&name) {
            Some(id) => id,
            None => self.mail.add_destination(&name),
        };
        self.next += 1;
        NewEntry {
            queue_id: QueueId(self.next),
            placement: placement(self.next as u32),
            destination,
            group: self.counters.group("letters").number(),
            recipient_first: 0,
            recipient_count: recipients,
        }
    }

    fn stored(&mut self, domain: &str, recipients: u16) -> EntryId {
        let new = self.new_entry(domain, recipients);
        self.mail.stored(new, &mut self.counters)
    }

    /// Of one in flight.
    fn taken(&mut self, domain: &str) -> Option<EntryId> {
        let id = self.mail.find_destination(&Domain::from_stored(domain))?;
        Some(self.mail.taken(id, 100)?.entry)
    }

    fn wake(&mut self, ahead_s: u32) -> usize {
        self.now_s += ahead_s;
        self.mail
            .woken(self.now_s, usize::MAX, &mut self.counters)
            .len()
    }

    fn levels(&self) -> [u64; 3] {
        [Counter::Queued, Counter::Deferred, Counter::Delivering]
            .map(|counter| self.counters.total(counter))
    }
}

const fn placement(segment: u32) -> Placement {
    Placement {
        segment: SegmentId(segment),
        offset: Offset(0),
        bytes: 100,
    }
}

#[test]
fn levels_follow_a_message_from_stored_to_done() {
    let mut world = World::new();
    let id = world.stored("a.example", 3);
    assert_eq!(world.levels(), [3, 0, 0]);
    let listed = world.mail.ready(id);
    assert_eq!(listed.round, None, "no site yet");
    assert_eq!(world.taken("a.example"), Some(id));
    world.mail.sending(id, 3, &mut world.counters);
    assert_eq!(world.levels(), [3, 0, 3]);
    world.mail.answered(id, 3, &mut world.counters);
    world.mail.recipients_done(id, 0b101, &mut world.counters);
    world.mail.deferred(id, START_S + 60, &mut world.counters);
    assert_eq!(world.levels(), [1, 1, 0]);
    assert_eq!((world.wake(59), world.wake(1)), (0, 1));
    assert_eq!(world.levels(), [1, 0, 0]);
    assert_eq!(world.taken("a.example"), Some(id));
    world.mail.assert_consistent(&world.counters);
    let done = world.mail.done(id, &mut world.counters);
    assert!(done.is_last);
    assert_eq!(world.levels(), [0, 0, 0]);
    assert_eq!(world.mail.len(), 0);
    world.mail.assert_consistent(&world.counters);
}

#[test]
fn mail_that_is_done_while_it_waits_is_passed_over_and_its_slot_used_again() {
    let mut world = World::new();
    let ids: Vec<EntryId> = (0..6).map(|_| world.stored("a.example", 1)).collect();
    for id in &ids {
        let _ = world.mail.ready(*id);
    }
    for id in [0, 1, 3] {
        assert!(world.mail.done(ids[id], &mut world.counters).is_last);
        world.mail.assert_consistent(&world.counters);
    }
    assert_eq!(world.levels(), [3, 0, 0]);
    // What comes meanwhile must not take a slot that the list still links.
    let late = world.stored("b.example", 1);
    world.mail.assert_consistent(&world.counters);
    for id in [2, 4] {
        assert_eq!(world.taken("a.example"), Some(ids[id]));
        world
            .mail
            .deferred(ids[id], START_S + 10, &mut world.counters);
    }
    let _ = world.mail.done(ids[2], &mut world.counters);
    world.mail.assert_consistent(&world.counters);
    assert_eq!((world.levels(), world.mail.deferred_len), ([3, 1, 0], 1));
    assert_eq!(world.wake(10), 1);
    assert_eq!(world.taken("a.example"), Some(ids[5]));
    assert_eq!(world.taken("a.example"), Some(ids[4]));
    assert_eq!(world.taken("a.example"), None);
    let _ = world.mail.done(late, &mut world.counters);
    world.mail.assert_consistent(&world.counters);
}

#[test]
fn a_record_is_needed_as_long_as_an_entry_stands_in_it() {
    let mut world = World::new();
    let first = world.new_entry("a.example", 1);
    let second = NewEntry {
        recipient_first: 1,
        ..first
    };
    let elsewhere = NewEntry {
        placement: placement(99),
        ..first
    };
    let ids = [first, second, elsewhere].map(|new| world.mail.restored(new, &mut world.counters));
    let is_last = ids.map(|id| world.mail.done(id, &mut world.counters).is_last);
    assert_eq!(is_last, [false, true, true]);
}

#[test]
fn notes_of_earlier_runs_count_by_the_number_of_attempts() {
    let mut world = World::new();
    let new = world.new_entry("a.example", 1);
    let id = world.mail.restored(new, &mut world.counters);
    assert!(world.mail.attempts_restored(id, 2, 500));
    assert!(!world.mail.attempts_restored(id, 1, 900), "copied forward");
    let entry = world.mail.get(id);
    assert_eq!((entry.attempts, entry.retry_at_s), (2, 500));
}

#[test]
#[should_panic(expected = "Deferred mail is InFlight")]
#[cfg(debug_assertions)]
fn a_change_that_no_state_allows_is_noticed() {
    let mut world = World::new();
    let new = world.new_entry("a.example", 1);
    let id = world.mail.restored(new, &mut world.counters);
    world.mail.deferred(id, START_S + 60, &mut world.counters);
    world.mail.leaving(id);
}

#[test]
fn books_agree_after_each_of_many_changes() {
    const DOMAINS: [&str; 8] = [
        "a.example",
        "b.example",
        "c.example",
        "d.example",
        "e.example",
        "f.example",
        "g.example",
        "h.example",
    ];
    for seed in 0..20 {
        let mut rng = Random::new(seed);
        let mut world = World::new();
        let mut ids: Vec<EntryId> = Vec::new();
        for _ in 0..400 {
            let domain = DOMAINS[rng.below(8) as usize];
            if ids.is_empty() || rng.below(4) == 0 {
                ids.push(world.stored(domain, 1 + rng.below(300) as u16));
            } else {
                let at = rng.below(ids.len() as u64) as usize;
                match change(&mut world, ids[at], domain, &mut rng) {
                    Change::Gone => {
                        ids.swap_remove(at);
                    }
                    Change::Split(part) => ids.push(part),
                    Change::Same => {}
                }
            }
            world.mail.assert_consistent(&world.counters);
        }
        for id in ids {
            if world.mail.get(id).state == State::Sending {
                let open = world.mail.open_recipients(id);
                world.mail.returned(id, open, &mut world.counters);
            }
            let _ = world.mail.done(id, &mut world.counters);
        }
        world.mail.assert_consistent(&world.counters);
        assert_eq!(world.levels(), [0, 0, 0]);
    }
}

/// What has come of a change.
enum Change {
    Same,
    /// The entry is out of the queue.
    Gone,
    /// There is another entry.
    Split(EntryId),
}

/// Something that may happen to the entry.
fn change(world: &mut World, id: EntryId, domain: &str, rng: &mut Random) -> Change {
    let open = world.mail.open_recipients(id);
    let state = world.mail.get(id).state;
    match (state, rng.below(3)) {
        (State::Sending, 0) => world.mail.returned(id, open, &mut world.counters),
        (State::Sending, _) => world.mail.answered(id, open, &mut world.counters),
        (_, 2) if rng.below(4) == 0 => {
            let _ = world.mail.done(id, &mut world.counters);
            return Change::Gone;
        }
        (State::Storing, 0) => world.mail.held(id),
        (State::Storing | State::Held, _) => {
            let _ = world.mail.ready(id);
        }
        (State::Ready, _) => {
            let destination = world.mail.find_destination(&Domain::from_stored(domain));
            let taken = destination.and_then(|of_domain| world.mail.taken(of_domain, 100));
            if let Some(Taken {
                entry,
                split_from: Some(_),
                ..
            }) = taken
            {
                return Change::Split(entry);
            }
        }
        (State::InFlight, 0) => world.mail.sending(id, open, &mut world.counters),
        (State::InFlight, 1) => {
            let count = world.mail.get(id).recipient_count;
            let bit = 1 << rng.below(u64::from(count));
            if open > 1 || world.mail.done_bits(id) & bit != 0 {
                world.mail.recipients_done(id, bit, &mut world.counters);
            }
            let retry_at_s = world.now_s + rng.below(400) as u32;
            world.mail.deferred(id, retry_at_s, &mut world.counters);
        }
        (State::InFlight, _) if rng.below(2) == 0 => world.mail.suspended(id),
        (State::InFlight, _) => world.mail.handed(id),
        (State::Suspended, _) => {
            let _ = world.mail.ready(id);
        }
        (State::Deferred, 0) => {
            world.wake(rng.below(100) as u32);
        }
        (State::Deferred, _) => {
            world.mail.hasten();
            world
                .mail
                .hasten_some(world.now_s, 1 + rng.below(3) as usize, |_| true);
        }
        (State::Handed | State::Replayed | State::Gone, _) => {}
    }
    Change::Same
}

#[test]
fn an_entry_with_more_recipients_than_a_transaction_takes_is_split_when_it_is_taken() {
    let mut world = World::new();
    let id = world.stored("a.example", 250);
    let _ = world.mail.ready(id);
    let mut taken = Vec::new();
    while let Some(part) = world.taken("a.example") {
        world.mail.assert_consistent(&world.counters);
        let entry = world.mail.get(part);
        taken.push((entry.recipient_first, entry.recipient_count));
    }
    assert_eq!(taken, [(0, 100), (100, 100), (200, 50)]);
    assert_eq!((world.mail.len(), world.levels()), (3, [250, 0, 0]));

    // What is done does not count.
    let id = world.stored("b.example", 120);
    let _ = world.mail.ready(id);
    let destination = world.mail.get(id).destination;
    let whole = world.mail.taken(destination, u16::MAX).unwrap();
    assert_eq!((whole.entry, whole.split_from), (id, None));
    let done = ((1 << 15) - 1) | (1 << 119);
    world.mail.recipients_done(id, done, &mut world.counters);
    let _ = world.mail.ready(id);
    let part = world.mail.taken(destination, 100).unwrap();
    assert_eq!(part.split_from, Some(id));
    assert_eq!(world.mail.open_places(part.entry)[..2], [15, 16]);
    assert_eq!(world.mail.open_places(part.entry).len(), 100);
    assert_eq!(world.mail.open_places(id), [0, 1, 2, 3]);
    world.mail.assert_consistent(&world.counters);
}

#[test]
fn notes_of_an_earlier_run_find_the_recipients_that_went_together() {
    let mut world = World::new();
    let new = world.new_entry("a.example", 1000);
    let id = world.mail.restored(new, &mut world.counters);
    let mut recipients = |id, from, to| {
        let part = world.mail.narrowed(id, from, to, 100);
        world.mail.assert_consistent(&world.counters);
        let entry = world.mail.get(part);
        (part, entry.recipient_first, entry.recipient_count)
    };
    // A part of one transaction, and then the rest of it.
    let (part, first, count) = recipients(id, 330, 331);
    assert_eq!((first, count), (300, 100));
    assert_eq!(recipients(part, 331, 400), (part, 300, 100));
    // All that was left, at once.
    let (rest, first, count) = recipients(id, 400, 1000);
    assert_eq!((first, count), (400, 600));
    assert_eq!(recipients(rest, 400, 1000), (rest, 400, 600));
    assert_eq!(world.mail.len(), 3);
}
