//! Folders of earlier runs, replayed and given away.

use super::*;
use crate::address::Address;
use crate::envelope::BodyType;
use crate::ids::{AdoptedPart, QueueId};
use crate::keys::MasterKey;
use crate::queue::cipher::{SegmentName, Stream};
use crate::queue::record::{
    About, Message as MessageRecord, Moved, Options, Outcome, OutcomeKind, OutcomeState,
    OutcomeStates, RecipientsBuf,
};
use crate::queue::replay::{Contents, SegmentReader};
use crate::queue::segment::SegmentWriter;
use std::collections::HashSet;

const GONE: ShardId = ShardId(3);

fn adoption_of(gone: ShardId, shards: u16) -> Adoption {
    let handover = HandoverId::from_random(1);
    Adoption::new(gone, shards, handover, NotedHandovers::default())
}

fn keys() -> KeyRing {
    KeyRing::new(MasterKey::from_bytes(&mut [7; 32]))
}

/// Segments of a folder: their bytes, and where a message was put last.
#[derive(Default)]
struct Folder {
    files: Vec<Vec<u8>>,
}

impl Folder {
    fn segment(&mut self, records: &[Record<'_>]) {
        let keys = keys();
        let segment = SegmentId(self.files.len() as u32);
        let header = SegmentHeader {
            name: SegmentName {
                stream: Stream::Queue,
                shard: GONE,
                segment,
            },
            segment_bytes: 64 * 1024,
            created_ms: 0,
            key_id: keys.current_id(),
            nonce: [segment.0 as u8; 16],
        };
        let mut file = header.encode(keys.current());
        let mut writer = SegmentWriter::new(keys.current(), header);
        for record in records {
            writer.append(record).unwrap();
        }
        file.extend_from_slice(&writer.take_batch().unwrap().bytes);
        self.files.push(file);
    }

    fn replay(&self, adoption: &mut Adoption) {
        for (n, file) in self.files.iter().enumerate() {
            let segment = SegmentId(n as u32);
            let name = SegmentName {
                stream: Stream::Queue,
                shard: GONE,
                segment,
            };
            let mut reader = SegmentReader::open(file, &keys(), name, Contents::Skip).unwrap();
            adoption.segment(reader.header(), &keys());
            reader.push(file);
            reader.close_input();
            while let Some(found) = reader.next() {
                adoption.record(found.placement, &found.record);
            }
            adoption.segment_done(segment, &reader.into_summary());
        }
        adoption.replayed();
    }

    fn read(&self, placement: Placement) -> Vec<u8> {
        let from = placement.offset.0 as usize;
        self.files[placement.segment.0 as usize][from..from + placement.bytes as usize].to_vec()
    }
}

fn recipients(domains: &[&str]) -> RecipientsBuf {
    let mut recipients = RecipientsBuf::new();
    for domain in domains {
        recipients.domain(domain, &format!("a@{domain}")).unwrap();
    }
    recipients
}

fn message(id: u64, recipients: &RecipientsBuf) -> MessageRecord<'_> {
    MessageRecord {
        queue_id: QueueId(id),
        accepted_ms: 5,
        body: BodyType::SevenBit,
        smtputf8: false,
        pending: false,
        handover: None,
        reverse_path: Some("s@sender.example"),
        recipients: recipients.recipients(),
        group: None,
        tags: "",
        message_id: None,
        peer: None,
        options: Options::NONE,
        content: b"Subject: x\r\n\r\ntext\r\n",
        content_bytes: 0,
    }
}

fn outcome(id: u64, segment: u32, first: u16, kind: OutcomeKind) -> Record<'static> {
    let state = OutcomeState {
        first,
        count: 1,
        kind,
        attempts: 1,
        next_retry_s: 9,
    };
    Record::Outcome(Outcome {
        about: About {
            queue_id: QueueId(id),
            segment: SegmentId(segment),
        },
        state,
    })
}

/// Everything that is to be stored, as (key, recipients).
fn given(folder: &Folder, adoption: &mut Adoption) -> Vec<(AdoptedPart, Vec<String>)> {
    let mut all = Vec::new();
    while let Some((key, placement)) = adoption.next_to_read() {
        for (key, submission) in adoption.message(key, folder.read(placement)).unwrap() {
            assert_eq!(submission.envelope.reverse_path_text(), "s@sender.example");
            let names = submission
                .recipients()
                .iter()
                .map(|r| r.as_str().to_owned());
            all.push((key, names.collect()));
        }
    }
    all
}

#[test]
fn open_recipients_go_to_their_owners_until_durable() {
    let everybody = recipients(&["a.example", "b.example", "c.example", "d.example"]);
    let mut folder = Folder::default();
    folder.segment(&[
        Record::Message(message(1, &everybody)),
        Record::Message(message(2, &everybody)),
        outcome(1, 0, 1, OutcomeKind::Delivered),
        outcome(1, 0, 2, OutcomeKind::Deferred),
    ]);
    let about = About {
        queue_id: QueueId(2),
        segment: SegmentId(0),
    };
    folder.segment(&[Record::Cancel(about)]);
    let mut adoption = adoption_of(GONE, 2);
    folder.replay(&mut adoption);
    assert_eq!(adoption.len(), 1);
    let first = given(&folder, &mut adoption);
    let mut names: Vec<_> = first.iter().flat_map(|(_, names)| names.clone()).collect();
    names.sort();
    assert_eq!(names, ["a@a.example", "a@c.example", "a@d.example"]);
    for (_, names) in &first {
        let owners = names
            .iter()
            .map(|n| owner(Address::parse(n).unwrap().domain(), 2));
        assert!(
            owners.collect::<HashSet<_>>().len() == 1,
            "{names:?} have several owners"
        );
    }
    // What could not be stored comes again, alone.
    let failed = first[0].clone();
    for (key, _) in &first {
        let result = if *key == failed.0 {
            Stored::NoSpace
        } else {
            Stored::Durable
        };
        adoption.stored(*key, result);
    }
    assert!(!adoption.is_done());
    let again = given(&folder, &mut adoption);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].1, failed.1);
    adoption.stored(again[0].0, Stored::Durable);
    assert!(adoption.is_done());
    assert_eq!(adoption.damaged(), []);
}

#[test]
fn a_moved_message_keeps_its_state_and_earlier_notes() {
    let two = recipients(&["a.example", "b.example"]);
    let mut folder = Folder::default();
    folder.segment(&[Record::Message(message(1, &two))]);
    let states = [OutcomeState {
        first: 0,
        count: 1,
        kind: OutcomeKind::Delivered,
        attempts: 1,
        next_retry_s: 0,
    }];
    folder.segment(&[Record::Moved(Moved {
        from: SegmentId(0),
        states: OutcomeStates::new(&states),
        message: message(1, &two),
    })]);
    let mut adoption = adoption_of(GONE, 1);
    folder.replay(&mut adoption);
    assert_eq!(given(&folder, &mut adoption)[0].1, ["a@b.example"]);
    // The copy was given up after a failed write, and the note was written about the original.
    folder.segment(&[outcome(1, 0, 1, OutcomeKind::Failed)]);
    let mut adoption = adoption_of(GONE, 1);
    folder.replay(&mut adoption);
    assert!(adoption.is_done());
}

#[test]
fn notes_about_an_earlier_part_of_the_same_message_do_not_touch_a_later_one() {
    let (one, other) = (recipients(&["a.example"]), recipients(&["b.example"]));
    let mut folder = Folder::default();
    folder.segment(&[Record::Message(message(1, &one))]);
    folder.segment(&[Record::Message(message(1, &other))]);
    folder.segment(&[outcome(1, 0, 0, OutcomeKind::Delivered)]);
    let mut adoption = adoption_of(GONE, 1);
    folder.replay(&mut adoption);
    assert_eq!(given(&folder, &mut adoption)[0].1, ["a@b.example"]);
}

#[test]
fn what_depends_on_a_handover_counts_once_it_is_noted() {
    let one = recipients(&["a.example"]);
    let handover = HandoverId::from_random(7);
    let mut folder = Folder::default();
    folder.segment(&[
        Record::Message(message(1, &one)),
        Record::Message(MessageRecord {
            handover: Some(handover),
            ..message(2, &one)
        }),
        Record::Outcome(Outcome {
            about: About {
                queue_id: QueueId(1),
                segment: SegmentId(0),
            },
            state: OutcomeState::handed_over(0, 1, handover),
        }),
    ]);
    let live = |noted: &[HandoverId]| {
        let noted = NotedHandovers::new(noted.iter().copied().collect());
        let mut adoption = Adoption::new(GONE, 1, HandoverId::from_random(8), noted);
        folder.replay(&mut adoption);
        adoption
            .mail
            .mail()
            .keys()
            .map(|name| name.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(live(&[]), [QueueId(1)]);
    assert_eq!(live(&[HandoverId::from_random(9)]), [QueueId(1)]);
    assert_eq!(live(&[handover]), [QueueId(2)]);
}

#[test]
fn a_segment_under_a_key_not_given_blocks_the_folder_and_a_damaged_one_is_kept() {
    let one = recipients(&["a.example"]);
    let mut folder = Folder::default();
    folder.segment(&[Record::Message(message(1, &one))]);
    let mut adoption = adoption_of(GONE, 1);
    adoption.unreadable(SegmentId(7), &HeaderError::Damaged);
    folder.replay(&mut adoption);
    assert_eq!(adoption.damaged(), [SegmentId(7)]);
    assert!(adoption.next_to_read().is_some());
    let mut adoption = adoption_of(GONE, 1);
    let key_id = crate::keys::KeyId([1; 8]);
    adoption.unreadable(SegmentId(7), &HeaderError::UnknownKey { key_id });
    folder.replay(&mut adoption);
    assert!(
        adoption.blocked().is_some() && adoption.next_to_read().is_none() && !adoption.is_done()
    );
}

#[test]
fn answers_of_another_adoption_fit_nothing() {
    let one = recipients(&["a.example"]);
    let mut folder = Folder::default();
    folder.segment(&[Record::Message(message(1, &one))]);
    let mut adoption = adoption_of(GONE, 1);
    folder.replay(&mut adoption);
    let mut other = adoption_of(ShardId(4), 1);
    folder.replay(&mut other);
    let of_other = given(&folder, &mut other);
    assert_eq!(given(&folder, &mut adoption).len(), 1);
    adoption.stored(of_other[0].0, Stored::Durable);
    assert!(!adoption.is_done());
}
