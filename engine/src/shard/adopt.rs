//! The mail of shards that are no more.
//!
//! Started with fewer shards than before, the folders of those beyond are read by nobody. A shard that
//! is there adopts such a folder: [`Adoption`] replays its segments (under their own names) into a
//! small index of its own, then gives out each live message to be read, and the submissions that take
//! it to its owners. When all are durable there, the folder goes, and only then is any of it sent
//! ([`handover`](super::handover)): a crash in between begins the adoption anew. Nothing is written to it.
//!
//! How it is driven, by whoever has the files:
//! 1. every segment, oldest first: [`Adoption::segment`], [`Adoption::record`] for each record, or
//!    [`Adoption::unreadable`]; then [`Adoption::replayed`];
//! 2. while [`Adoption::next_to_read`] gives a message: read its bytes, [`Adoption::message`], each submission
//!    to [`ShardCore::adopt`](super::ShardCore::adopt);
//! 3. each result of [`ShardCore::take_adopted`](super::ShardCore::take_adopted) to
//!    [`Adoption::stored`], until [`Adoption::is_done`];
//! 4. rename the folder to the name that notes [`Adoption::handover`]
//!    ([`handover_folder_name`](crate::queue::segment::handover_folder_name)) and sync the folder it is
//!    in; then [`ShardCore::handed_over`](super::ShardCore::handed_over), and remove what is in it, if
//!    no [`Adoption::damaged`] segments are to be kept for inspection. The empty folder stays: it is
//!    what makes the copies count.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::handover::is_void;
use super::message::{Message, Submission};
use super::records::message_from;
use super::{NotedHandovers, Stored};
use crate::envelope::Recipient;
use crate::ids::{HandoverId, QueueId, SegmentId, ShardId};
use crate::keys::KeyRing;
use crate::queue::cipher::SegmentCipher;
use crate::queue::record::{About, Moved, OutcomeState, Record};
use crate::queue::replay::Summary;
use crate::queue::segment::{HeaderError, Placement, SegmentHeader};
use crate::route::owner;

/// Messages being read or stored at a time.
pub const ADOPTING_MAX: usize = 64;

/// A message's id and the segment it stands in: an id alone may name two parts of one message.
type Name = (QueueId, SegmentId);

#[derive(Debug)]
struct Foreign {
    placement: Placement,
    /// The earliest segment that notes about it may name.
    earliest: SegmentId,
    recipients: u16,
    done: HashSet<u16>,
}

impl Foreign {
    fn apply(&mut self, state: &OutcomeState) {
        if state.kind.is_final() {
            let recipients = usize::from(self.recipients);
            let run = state.recipients();
            self.done
                .extend((run.start..run.end.min(recipients)).map(|n| n as u16));
        }
    }

    fn is_done(&self) -> bool {
        self.done.len() >= usize::from(self.recipients)
    }
}

/// The adoption of one shard's queue folder.
#[derive(Debug)]
pub struct Adoption {
    shards: u16,
    handover: HandoverId,
    noted: NotedHandovers,
    ciphers: HashMap<SegmentId, SegmentCipher>,
    mail: BTreeMap<Name, Foreign>,
    queue: VecDeque<Name>,
    reading: HashMap<u64, Name>,
    parts: HashMap<u64, (Name, Vec<u16>)>,
    /// Messages that were given out, with how many of their parts are not answered.
    given: HashMap<Name, usize>,
    next_key: u64,
    damaged: Vec<SegmentId>,
    blocked: Option<String>,
    is_replayed: bool,
}

impl Adoption {
    /// Of the folder of shard `gone`, which nobody has read yet, under a `handover` of its own.
    /// `shards`: how many there are now. `noted`: as the shards were told at this start.
    pub fn new(gone: ShardId, shards: u16, handover: HandoverId, noted: NotedHandovers) -> Self {
        Self {
            shards: shards.max(1),
            handover,
            noted,
            ciphers: HashMap::new(),
            mail: BTreeMap::new(),
            queue: VecDeque::new(),
            reading: HashMap::new(),
            parts: HashMap::new(),
            given: HashMap::new(),
            // An adoption that was given up may leave answers behind: none may fit the next one.
            next_key: (u64::from(gone.0) + 1) << 48,
            damaged: Vec::new(),
            blocked: None,
            is_replayed: false,
        }
    }

    /// Under which the mail is given to its owners.
    pub const fn handover(&self) -> HandoverId {
        self.handover
    }

    /// The shard that adopts the folder of shard `gone`, when there are `shards` now.
    pub fn adopter(gone: ShardId, shards: u16) -> ShardId {
        ShardId(gone.0 % shards.max(1))
    }

    /// A segment is about to be read through.
    pub fn segment(&mut self, header: &SegmentHeader, keys: &KeyRing) {
        if let Some(key) = keys.find(header.key_id) {
            let cipher = SegmentCipher::new(key, header.name, &header.nonce);
            self.ciphers.insert(header.name.segment, cipher);
        }
    }

    /// One record, in the order of the disk; contents may be left out.
    pub fn record(&mut self, placement: Placement, record: &Record<'_>) {
        match record {
            // Given to the shard by a handover that was cut short: it comes from where it was.
            Record::Message(message) | Record::Moved(Moved { message, .. })
                if is_void(&self.noted, message.handover) => {}
            Record::Message(message) => {
                self.insert(
                    placement,
                    placement.segment,
                    message.queue_id,
                    message.recipients.len(),
                );
            }
            Record::Moved(moved) => {
                let queue_id = moved.message.queue_id;
                self.forget(queue_id, placement.segment);
                self.insert(
                    placement,
                    moved.from,
                    queue_id,
                    moved.message.recipients.len(),
                );
                for state in moved.states.iter() {
                    self.outcome(
                        About {
                            queue_id,
                            segment: placement.segment,
                        },
                        &state,
                    );
                }
            }
            Record::Outcome(outcome) => self.outcome(outcome.about, &outcome.state),
            Record::Cancel(about) => self.forget(about.queue_id, about.segment),
            Record::Commit(_) | Record::Blob { .. } | Record::Seal(_) => {}
        }
    }

    fn insert(
        &mut self,
        placement: Placement,
        earliest: SegmentId,
        id: QueueId,
        recipients: usize,
    ) {
        let recipients = recipients as u16;
        let foreign = Foreign {
            placement,
            earliest,
            recipients,
            done: HashSet::new(),
        };
        self.mail.insert((id, placement.segment), foreign);
    }

    /// What stands in `segment` or before it.
    fn forget(&mut self, queue_id: QueueId, segment: SegmentId) {
        let range = (queue_id, SegmentId(0))..=(queue_id, segment);
        let names: Vec<Name> = self.mail.range(range).map(|(name, _)| *name).collect();
        for name in names {
            self.mail.remove(&name);
        }
    }

    fn outcome(&mut self, about: About, state: &OutcomeState) {
        if is_void(&self.noted, state.handover()) {
            return;
        }
        let range = (about.queue_id, SegmentId(0))..=(about.queue_id, SegmentId(u32::MAX));
        // If it names where one part stands, it is not about another part of the same message.
        let exact = self.mail.contains_key(&(about.queue_id, about.segment));
        let mut done = Vec::new();
        for (name, foreign) in self.mail.range_mut(range) {
            let is_meant = if exact {
                name.1 == about.segment
            } else {
                foreign.earliest <= about.segment
            };
            if is_meant {
                foreign.apply(state);
                if foreign.is_done() {
                    done.push(*name);
                }
            }
        }
        for name in done {
            self.mail.remove(&name);
        }
    }

    /// A segment was read through.
    pub fn segment_done(&mut self, segment: SegmentId, summary: &Summary) {
        if !summary.damage.is_empty() {
            self.damaged.push(segment);
        }
    }

    /// A segment cannot be read. If that may change (a key that was not given, a newer format),
    /// nothing of the folder is adopted: notes would be lost that its mail needs.
    pub fn unreadable(&mut self, segment: SegmentId, error: &HeaderError) {
        match error {
            HeaderError::UnknownKey { .. } | HeaderError::OtherFormat { .. } => {
                self.blocked
                    .get_or_insert(format!("queue segment {:08}: {error}", segment.0));
            }
            _ => self.damaged.push(segment),
        }
    }

    /// Why the folder has to stay as it is until the next start, if so.
    pub fn blocked(&self) -> Option<&str> {
        self.blocked.as_deref()
    }

    /// Everything there was is read.
    pub fn replayed(&mut self) {
        self.is_replayed = true;
        if self.blocked.is_none() {
            let mut names: Vec<(Placement, Name)> = self
                .mail
                .iter()
                .map(|(name, foreign)| (foreign.placement, *name))
                .collect();
            names.sort_unstable();
            self.queue = names.into_iter().map(|(_, name)| name).collect();
        }
    }

    /// Messages that are not durable at their owners yet.
    pub fn len(&self) -> usize {
        self.mail.len()
    }

    /// Whether every message is.
    pub fn is_empty(&self) -> bool {
        self.mail.is_empty()
    }

    /// Whether the folder may go.
    pub fn is_done(&self) -> bool {
        self.is_replayed && self.blocked.is_none() && self.mail.is_empty()
    }

    /// Segments that could not be read in part or in whole: to be kept for inspection.
    pub fn damaged(&self) -> &[SegmentId] {
        &self.damaged
    }

    /// The next message to be read back, with a key for [`Self::message`]; `None`: none, or
    /// [`ADOPTING_MAX`] are on their way.
    pub fn next_to_read(&mut self) -> Option<(u64, Placement)> {
        if self.reading.len() + self.given.len() >= ADOPTING_MAX {
            return None;
        }
        let name = self.queue.pop_front()?;
        let placement = self.mail.get(&name)?.placement;
        self.next_key += 1;
        self.reading.insert(self.next_key, name);
        Some((self.next_key, placement))
    }

    /// A message was read: its submissions, one for each owner, with a key for [`Self::stored`].
    ///
    /// # Errors
    /// What is wrong with the record. It is out of the adoption then, and its segment is kept.
    pub fn message(&mut self, key: u64, bytes: Vec<u8>) -> Result<Vec<(u64, Submission)>, String> {
        let Some(name) = self.reading.remove(&key) else {
            return Ok(Vec::new());
        };
        let Some(placement) = self.mail.get(&name).map(|foreign| foreign.placement) else {
            return Ok(Vec::new());
        };
        match self.decode(placement, bytes) {
            Ok(message) => Ok(self.give(name, &message)),
            Err(why) => {
                self.mail.remove(&name);
                self.damaged.push(name.1);
                Err(format!(
                    "message {} in queue segment {:08}: {why}",
                    name.0, name.1.0
                ))
            }
        }
    }

    /// A message could not be read from the disk: it comes again.
    pub fn not_read(&mut self, key: u64) {
        self.queue.extend(self.reading.remove(&key));
    }

    fn decode(&mut self, placement: Placement, mut bytes: Vec<u8>) -> Result<Message, String> {
        let cipher = self
            .ciphers
            .get_mut(&placement.segment)
            .ok_or("its segment is unknown")?;
        message_from(cipher, placement, &mut bytes)
    }

    fn give(&mut self, name: Name, message: &Message) -> Vec<(u64, Submission)> {
        let Some(foreign) = self.mail.get(&name) else {
            return Vec::new();
        };
        let mut by_owner: BTreeMap<ShardId, (Vec<u16>, Vec<Recipient>)> = BTreeMap::new();
        for (n, recipient) in message.recipients().iter().enumerate() {
            if !foreign.done.contains(&(n as u16)) {
                let part = by_owner
                    .entry(owner(recipient.domain(), self.shards))
                    .or_default();
                part.0.push(n as u16);
                part.1.push(recipient.clone());
            }
        }
        self.given.insert(name, by_owner.len());
        let mut submissions = Vec::with_capacity(by_owner.len());
        for (numbers, recipients) in by_owner.into_values() {
            self.next_key += 1;
            self.parts.insert(self.next_key, (name, numbers));
            submissions.push((self.next_key, message.submission(recipients)));
        }
        submissions
    }

    /// A submission is durable at its owner, or could not be stored: then it comes again.
    pub fn stored(&mut self, key: u64, result: Stored) {
        let Some((name, numbers)) = self.parts.remove(&key) else {
            return;
        };
        if result == Stored::Durable
            && let Some(foreign) = self.mail.get_mut(&name)
        {
            foreign.done.extend(numbers);
        }
        let Some(awaited) = self.given.get_mut(&name) else {
            return;
        };
        *awaited -= 1;
        if *awaited > 0 {
            return;
        }
        self.given.remove(&name);
        if self.mail.get(&name).is_some_and(Foreign::is_done) {
            self.mail.remove(&name);
        } else {
            self.queue.push_back(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;
    use crate::envelope::BodyType;
    use crate::keys::MasterKey;
    use crate::queue::cipher::{SegmentName, Stream};
    use crate::queue::record::{
        Message as MessageRecord, Options, Outcome, OutcomeKind, OutcomeStates, RecipientsBuf,
    };
    use crate::queue::replay::{Contents, SegmentReader};
    use crate::queue::segment::SegmentWriter;

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
    fn given(folder: &Folder, adoption: &mut Adoption) -> Vec<(u64, Vec<String>)> {
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
            adoption.mail.keys().map(|name| name.0).collect::<Vec<_>>()
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
            adoption.blocked().is_some()
                && adoption.next_to_read().is_none()
                && !adoption.is_done()
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
}
