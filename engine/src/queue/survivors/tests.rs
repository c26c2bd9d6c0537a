use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::envelope::BodyType;
use crate::ids::Offset;
use crate::queue::record::{Options, OutcomeKind, OutcomeStates, RecipientsBuf};

const RECIPIENTS: u16 = 2;

/// A record, as short as can be.
#[derive(Clone, Debug)]
enum Rec {
    Message(u64),
    Moved {
        id: u64,
        from: u32,
        done: BTreeSet<u16>,
    },
    Done {
        id: u64,
        about: u32,
        recipient: u16,
    },
    Cancel {
        id: u64,
        about: u32,
    },
}

impl Rec {
    /// The segment that a note names.
    fn about(&self) -> Option<u32> {
        match self {
            Self::Done { about, .. } | Self::Cancel { about, .. } => Some(*about),
            Self::Message(_) | Self::Moved { .. } => None,
        }
    }
}

fn done(recipient: u16) -> OutcomeState {
    OutcomeState {
        first: recipient,
        count: 1,
        kind: OutcomeKind::Delivered,
        attempts: 1,
        next_retry_s: 0,
    }
}

fn about(id: u64, segment: u32) -> About {
    About {
        queue_id: QueueId(id),
        segment: SegmentId(segment),
    }
}

/// Segments that are there, by number.
type Segments = BTreeMap<u32, Vec<Rec>>;

/// Reads them as a start does; gives the survivors and what would be written again.
fn read(segments: &Segments) -> (Survivors, Vec<Outcome>) {
    let mut survivors = Survivors::new(NotedHandovers::default());
    let mut strays = Vec::new();
    for (segment, records) in segments {
        for (n, record) in records.iter().enumerate() {
            let placement = Placement {
                segment: SegmentId(*segment),
                offset: Offset(n as u32),
                bytes: 1,
            };
            let effects = read_one(&mut survivors, placement, record);
            strays.extend(effects.strays);
        }
    }
    (survivors, strays)
}

fn read_one(survivors: &mut Survivors, placement: Placement, record: &Rec) -> Effects {
    let mut recipients = RecipientsBuf::new();
    for domain in ["a.example", "b.example"] {
        recipients.domain(domain, &format!("x@{domain}")).unwrap();
    }
    let message = |id| Message {
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
        content: b"",
        content_bytes: 0,
    };
    match record {
        Rec::Message(id) => survivors.read(placement, &Record::Message(message(*id))),
        Rec::Moved {
            id,
            from,
            done: states,
        } => {
            let states: Vec<_> = states.iter().map(|n| done(*n)).collect();
            let moved = Moved {
                from: SegmentId(*from),
                states: OutcomeStates::new(&states),
                message: message(*id),
            };
            survivors.read(placement, &Record::Moved(moved))
        }
        Rec::Done {
            id,
            about: segment,
            recipient,
        } => {
            let about = about(*id, *segment);
            let state = done(*recipient);
            survivors.read(placement, &Record::Outcome(Outcome { about, state }))
        }
        Rec::Cancel { id, about: segment } => {
            survivors.read(placement, &Record::Cancel(about(*id, *segment)))
        }
    }
}

/// What is open: message and recipient.
fn open(survivors: &Survivors) -> BTreeSet<(u64, u16)> {
    let mail = survivors.mail().iter();
    mail.flat_map(|((id, _), one)| {
        let open = (0..RECIPIENTS).filter(|n| !one.is_done_for(*n));
        open.map(|n| (id.0, n))
    })
    .collect()
}

/// A queue that does what it should: what it wrote, and the truth.
#[derive(Default)]
struct Model {
    segments: Segments,
    current: u32,
    next_id: u64,
    /// Messages that are not done: where they stand, and which recipients are done.
    live: BTreeMap<u64, (u32, BTreeSet<u16>)>,
    /// A segment that was compacted and is still there.
    unfinished: Option<u32>,
}

impl Model {
    fn put(&mut self, record: Rec) {
        self.segments.entry(self.current).or_default().push(record);
    }

    fn pick(&self, choice: u8) -> Option<u64> {
        let ids: Vec<u64> = self.live.keys().copied().collect();
        ids.get(usize::from(choice) % ids.len().max(1)).copied()
    }

    fn step(&mut self, what: u8, choice: u8, detail: u8) {
        match what % 8 {
            0..=2 => {
                self.next_id += 1;
                self.put(Rec::Message(self.next_id));
                self.live
                    .insert(self.next_id, (self.current, BTreeSet::new()));
            }
            3 | 4 => self.deliver(choice, u16::from(detail) % RECIPIENTS),
            5 => self.cancel(choice),
            6 => self.current += 1,
            _ => self.compact(choice, detail.is_multiple_of(2)),
        }
    }

    fn deliver(&mut self, choice: u8, recipient: u16) {
        let Some(id) = self.pick(choice) else { return };
        let (about, done) = self.live.get_mut(&id).unwrap();
        let about = *about;
        done.insert(recipient);
        if done.len() == usize::from(RECIPIENTS) {
            self.live.remove(&id);
        }
        self.put(Rec::Done {
            id,
            about,
            recipient,
        });
    }

    fn cancel(&mut self, choice: u8) {
        let Some(id) = self.pick(choice) else { return };
        let (about, _) = self.live.remove(&id).unwrap();
        self.put(Rec::Cancel { id, about });
    }

    /// `cut`: the power goes before the segment does, which is finished before any other then.
    fn compact(&mut self, choice: u8, cut: bool) {
        let closed: Vec<u32> = self
            .segments
            .range(..self.current)
            .map(|(n, _)| *n)
            .collect();
        let chosen = closed.get(usize::from(choice) % closed.len().max(1));
        let Some(victim) = self.unfinished.or(chosen.copied()) else {
            return;
        };
        for record in self.segments[&victim].clone() {
            let is_needed = |about| about != victim && self.segments.contains_key(&about);
            if record.about().is_some_and(is_needed) {
                self.put(record);
            } else if let Rec::Message(id) | Rec::Moved { id, .. } = record
                && let Some((stands, done)) = self.live.get_mut(&id)
                && *stands == victim
            {
                *stands = self.current;
                let done = done.clone();
                self.put(Rec::Moved {
                    id,
                    from: victim,
                    done,
                });
            }
        }
        self.unfinished = cut.then_some(victim);
        if !cut {
            self.segments.remove(&victim);
        }
    }

    fn truth(&self) -> BTreeSet<(u64, u16)> {
        let live = self.live.iter();
        live.flat_map(|(id, (_, done))| {
            let open = (0..RECIPIENTS).filter(|n| !done.contains(n));
            open.map(|n| (*id, n))
        })
        .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_is_open_survives_whatever_was_compacted_or_cut_short(
        steps in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 1..120),
    ) {
        let mut model = Model::default();
        for (what, choice, detail) in steps {
            model.step(what, choice, detail);
            let (survivors, strays) = read(&model.segments);
            prop_assert_eq!(open(&survivors), model.truth());
            prop_assert_eq!(strays, []);
        }
    }
}

fn segments(records: impl IntoIterator<Item = Vec<Rec>>) -> Segments {
    (1..).zip(records).collect()
}

#[test]
fn an_outcome_about_a_copy_that_was_torn_holds_for_the_original_and_is_written_again() {
    let note = Rec::Done {
        id: 1,
        about: 2,
        recipient: 0,
    };
    let (survivors, strays) = read(&segments([vec![Rec::Message(1)], vec![note]]));
    assert_eq!(open(&survivors), BTreeSet::from([(1, 1)]));
    let again = Outcome {
        about: about(1, 1),
        state: done(0),
    };
    assert_eq!(strays, [again]);
}

#[test]
fn an_outcome_about_the_original_of_a_copy_holds_and_is_written_again() {
    // The copy's write failed, and it is there all the same.
    let moved = Rec::Moved {
        id: 1,
        from: 1,
        done: BTreeSet::new(),
    };
    let note = Rec::Done {
        id: 1,
        about: 1,
        recipient: 1,
    };
    let (survivors, strays) = read(&segments([vec![Rec::Message(1)], vec![moved], vec![note]]));
    assert_eq!(open(&survivors), BTreeSet::from([(1, 0)]));
    assert_eq!(strays.len(), 1);
    assert_eq!(strays[0].about, about(1, 2));
}

#[test]
fn a_part_that_came_later_under_the_same_id_is_not_touched_by_notes_about_the_first() {
    let first = Rec::Done {
        id: 1,
        about: 1,
        recipient: 0,
    };
    let moved = Rec::Moved {
        id: 1,
        from: 1,
        done: BTreeSet::new(),
    };
    // The first part was copied, so that notes about it name segments from 1 on.
    let folder = segments([
        vec![Rec::Message(1)],
        vec![moved],
        vec![Rec::Message(1)],
        vec![first],
    ]);
    let (survivors, _) = read(&folder);
    let of = |segment| {
        let name = (QueueId(1), SegmentId(segment));
        (0..RECIPIENTS)
            .map(|n| survivors.mail()[&name].is_done_for(n))
            .collect::<Vec<_>>()
    };
    assert_eq!((of(2), of(3)), (vec![true, false], vec![false, false]));
}

#[test]
fn states_of_recipients_are_carried_as_runs() {
    let retry = |attempts| OutcomeState {
        kind: OutcomeKind::Deferred,
        attempts,
        next_retry_s: u32::from(attempts),
        ..done(0)
    };
    let runs = runs_of([done(0), done(0), retry(0), retry(3), retry(3), retry(4)]);
    let shape: Vec<_> = runs
        .iter()
        .map(|run| (run.first, run.count, run.attempts))
        .collect();
    assert_eq!(shape, [(0, 2, 1), (3, 2, 3), (5, 1, 4)]);
}
