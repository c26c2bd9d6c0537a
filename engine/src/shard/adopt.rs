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

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::message::{Message, Submission};
use super::records::message_from;
use super::{NotedHandovers, Stored};
use crate::envelope::Recipient;
use crate::ids::{AdoptedPart, AdoptedRead, HandoverId, SegmentId, ShardId};
use crate::keys::KeyRing;
use crate::queue::cipher::SegmentCipher;
use crate::queue::record::Record;
use crate::queue::replay::Summary;
use crate::queue::segment::{HeaderError, Placement, SegmentHeader};
use crate::queue::survivors::{Name, Survivor, Survivors};
use crate::route::owner;

/// Messages being read or stored at a time.
pub const ADOPTING_MAX: usize = 64;

/// The adoption of one shard's queue folder.
#[derive(Debug)]
pub struct Adoption {
    shards: u16,
    handover: HandoverId,
    ciphers: HashMap<SegmentId, SegmentCipher>,
    mail: Survivors,
    queue: VecDeque<Name>,
    reading: HashMap<AdoptedRead, Name>,
    parts: HashMap<AdoptedPart, (Name, Vec<u16>)>,
    /// Messages that were given out, with how many of their parts are not answered.
    given: HashMap<Name, usize>,
    last_read: AdoptedRead,
    last_part: AdoptedPart,
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
            ciphers: HashMap::new(),
            mail: Survivors::new(noted),
            queue: VecDeque::new(),
            reading: HashMap::new(),
            parts: HashMap::new(),
            given: HashMap::new(),
            last_read: AdoptedRead::default(),
            // An adoption that was given up may leave answers behind: none may fit the next one.
            last_part: AdoptedPart((u64::from(gone.0) + 1) << 48),
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
        // Nothing is written to the folder: what is stray stays so.
        let _ = self.mail.read(placement, record);
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
                .mail()
                .iter()
                .map(|(name, survivor)| (survivor.placement, *name))
                .collect();
            names.sort_unstable();
            self.queue = names.into_iter().map(|(_, name)| name).collect();
        }
    }

    /// Messages that are not durable at their owners yet.
    pub fn len(&self) -> usize {
        self.mail.mail().len()
    }

    /// Whether every message is.
    pub fn is_empty(&self) -> bool {
        self.mail.mail().is_empty()
    }

    /// Whether the folder may go.
    pub fn is_done(&self) -> bool {
        self.is_replayed && self.blocked.is_none() && self.is_empty()
    }

    /// Segments that could not be read in part or in whole: to be kept for inspection.
    pub fn damaged(&self) -> &[SegmentId] {
        &self.damaged
    }

    /// The next message to be read back, with a name for [`Self::message`]; `None`: none, or
    /// [`ADOPTING_MAX`] are on their way.
    pub fn next_to_read(&mut self) -> Option<(AdoptedRead, Placement)> {
        if self.reading.len() + self.given.len() >= ADOPTING_MAX {
            return None;
        }
        let name = self.queue.pop_front()?;
        let placement = self.mail.mail().get(&name)?.placement;
        let read = self.last_read.next();
        self.reading.insert(read, name);
        Some((read, placement))
    }

    /// A message was read: its submissions, one for each owner, with a name for [`Self::stored`].
    ///
    /// # Errors
    /// What is wrong with the record. It is out of the adoption then, and its segment is kept.
    pub fn message(
        &mut self,
        read: AdoptedRead,
        bytes: Vec<u8>,
    ) -> Result<Vec<(AdoptedPart, Submission)>, String> {
        let Some(name) = self.reading.remove(&read) else {
            return Ok(Vec::new());
        };
        let Some(placement) = self.mail.mail().get(&name).map(|one| one.placement) else {
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
    pub fn not_read(&mut self, read: AdoptedRead) {
        self.queue.extend(self.reading.remove(&read));
    }

    fn decode(&mut self, placement: Placement, mut bytes: Vec<u8>) -> Result<Message, String> {
        let cipher = self
            .ciphers
            .get_mut(&placement.segment)
            .ok_or("its segment is unknown")?;
        message_from(cipher, placement, &mut bytes)
    }

    fn give(&mut self, name: Name, message: &Message) -> Vec<(AdoptedPart, Submission)> {
        let Some(survivor) = self.mail.mail().get(&name) else {
            return Vec::new();
        };
        let mut by_owner: BTreeMap<ShardId, (Vec<u16>, Vec<Recipient>)> = BTreeMap::new();
        for (n, recipient) in message.recipients().iter().enumerate() {
            if !survivor.is_done_for(n as u16) {
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
            let part = self.last_part.next();
            self.parts.insert(part, (name, numbers));
            submissions.push((part, message.submission(recipients)));
        }
        submissions
    }

    /// A submission is durable at its owner, or could not be stored: then it comes again.
    pub fn stored(&mut self, part: AdoptedPart, result: Stored) {
        let Some((name, numbers)) = self.parts.remove(&part) else {
            return;
        };
        if result == Stored::Durable
            && let Some(survivor) = self.mail.get_mut(&name)
        {
            survivor.add_done(numbers);
        }
        let Some(awaited) = self.given.get_mut(&name) else {
            return;
        };
        *awaited -= 1;
        if *awaited > 0 {
            return;
        }
        self.given.remove(&name);
        if self.mail.mail().get(&name).is_some_and(Survivor::is_done) {
            self.mail.remove(&name);
        } else {
            self.queue.push_back(name);
        }
    }
}

#[cfg(test)]
mod tests;
