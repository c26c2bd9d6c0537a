//! What was promised, what happened, and whether the two agree.
//!
//! The ledger reads along: every batch that a shard writes is decoded here as well, with the keys,
//! so that it knows by itself what is durable. For each copy of a message in some shard's queue there
//! is a [`Part`]; for each recipient of each message a *budget*: how many more deliveries there may be.
//! It begins with one. A delivery takes one, unless its reply was lost. When power or process goes,
//! it becomes the number of parts on disk in which the recipient is not done: what was under way may
//! come again, what was recorded may not.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use engine::ids::{HandoverId, QueueId, SegmentId, ShardId};
use engine::keys::KeyRing;
use engine::queue::cipher::{SegmentName, Stream};
use engine::queue::record::{About, Message, Outcome, OutcomeKind, Record};
use engine::queue::replay::{Contents, SegmentReader};
use engine::shard::Stored;

use super::world::START_MS;

mod audit;
mod mail;

pub(crate) use audit::is_sealed;
use mail::{Fate, Mail, Part, fails_in_dns};

/// Mail is written at most so long after it was given its id, milliseconds.
const DATED_SLACK_MS: i64 = 60_000;

/// What time it is for mail of this run and of earlier ones, and when this one began: a wall clock that
/// was wrong at a start and has not been set right since makes ages wrong (decision 151).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ages {
    pub(crate) new_ms: i64,
    pub(crate) earlier_ms: i64,
    pub(crate) begun_ms: i64,
}

impl Ages {
    /// The age of mail that was dated so, milliseconds.
    fn of(&self, dated_ms: i64) -> u64 {
        let is_to_come = dated_ms > self.new_ms + 60_000;
        let is_new = dated_ms + 60_000 >= self.begun_ms && !is_to_come;
        let now_ms = if is_new { self.new_ms } else { self.earlier_ms };
        // Milliseconds are rounded at either end.
        (now_ms - dated_ms + 1).max(0).cast_unsigned()
    }
}

/// When a message was taken in, by its id and the clock of the shard that gave it.
const fn dated(queue_id: QueueId) -> i64 {
    queue_id.accepted_ms().cast_signed() - START_MS.cast_signed()
}

/// A rule was broken.
pub(crate) type Checked = Result<(), String>;

/// What the client heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing yet.
    Waits,
    Told(Stored),
    /// The process went before it answered.
    Nothing,
}

/// What a batch holds, until it is durable.
#[derive(Debug)]
enum Item {
    Message { mail: usize, part: usize },
    Outcome(Outcome),
    Cancel(About),
}

struct Writing {
    reader: SegmentReader,
    end: u64,
}

pub(crate) struct Ledger {
    /// Print each record that is written.
    verbose: bool,
    keys: KeyRing,
    expire_after_ms: u64,
    /// Some start was under a wrong clock: mail may expire that would have been delivered yet.
    pub(crate) started_wrong: bool,
    /// Some domains' mail may begin at some times only.
    pub(crate) has_windows: bool,
    mails: Vec<Mail>,
    by_text: HashMap<Vec<u8>, usize>,
    by_id: HashMap<(u16, QueueId), Vec<(usize, usize)>>,
    writing: HashMap<(u16, SegmentId), Writing>,
    batches: BTreeMap<(u16, u64), Vec<Item>>,
    /// What was in writes that failed.
    unknown: Vec<(u16, Item)>,
    nonces: BTreeSet<[u8; 16]>,
    retired: BTreeSet<(u16, SegmentId)>,
    /// Handovers that were noted.
    noted: BTreeSet<HandoverId>,
    /// The shards whose folders they empty.
    adopting: HashMap<HandoverId, u16>,
    pub(crate) deliveries: u64,
    pub(crate) excused: u64,
}

impl Ledger {
    pub(crate) fn new(keys: KeyRing, expire_after_ms: u64, verbose: bool) -> Self {
        Self {
            verbose,
            keys,
            expire_after_ms,
            started_wrong: false,
            has_windows: false,
            mails: Vec::new(),
            by_text: HashMap::new(),
            by_id: HashMap::new(),
            writing: HashMap::new(),
            batches: BTreeMap::new(),
            unknown: Vec::new(),
            nonces: BTreeSet::new(),
            retired: BTreeSet::new(),
            noted: BTreeSet::new(),
            adopting: HashMap::new(),
            deliveries: 0,
            excused: 0,
        }
    }

    pub(crate) fn keys_mut(&mut self) -> &mut KeyRing {
        &mut self.keys
    }

    pub(crate) fn injected(
        &mut self,
        text: &[u8],
        reverse_path: Option<&str>,
        recipients: &[String],
    ) -> usize {
        let fate = |address: &str| Fate {
            budget: 1,
            has_window: self.has_windows && super::net::has_window(address),
            ..Fate::default()
        };
        self.by_text.insert(text.to_vec(), self.mails.len());
        self.mails.push(Mail {
            text: text.to_vec(),
            reverse_path: reverse_path.map(Into::into),
            heard: Heard::Waits,
            is_notice: false,
            spoiled: false,
            fates: recipients
                .iter()
                .map(|recipient| (recipient.clone(), fate(recipient)))
                .collect(),
            parts: Vec::new(),
        });
        self.mails.len() - 1
    }

    /// The session was answered.
    pub(crate) fn answered(&mut self, mail: usize, result: Stored) -> Checked {
        let mail = &mut self.mails[mail];
        if mail.heard != Heard::Waits {
            return Err(format!("answered twice: {:?}, then {result:?}", mail.heard));
        }
        mail.heard = Heard::Told(result);
        for (address, fate) in &mut mail.fates {
            let there = |part: &Part| part.durable && part.addresses.contains(address);
            if result != Stored::Durable {
                fate.budget = 0;
            } else if !mail.parts.iter().any(there) {
                return Err(format!("answered 250 before {address} was durable"));
            }
        }
        Ok(())
    }

    /// A batch is about to be written.
    pub(crate) fn issued(
        &mut self,
        shard: u16,
        batch: u64,
        segment: SegmentId,
        offset: u64,
        bytes: &[u8],
        ages: Ages,
    ) -> Checked {
        let key = (shard, segment);
        if offset == 0 {
            let name = SegmentName {
                stream: Stream::Queue,
                shard: ShardId(shard),
                segment,
            };
            let reader = SegmentReader::open(bytes, &self.keys, name, Contents::Read)
                .map_err(|error| format!("a segment is begun that cannot be read: {error}"))?;
            if !self.nonces.insert(reader.header().nonce) {
                return Err("a nonce is used twice".into());
            }
            self.writing.insert(key, Writing { reader, end: 0 });
        }
        let Some(writing) = self.writing.get_mut(&key) else {
            return Err(format!(
                "segment {} is written after it was given up",
                segment.0
            ));
        };
        if offset != writing.end {
            return Err(format!(
                "segment {} is written at {offset} instead of {}: keystream used twice or a hole",
                segment.0, writing.end
            ));
        }
        writing.end = offset + bytes.len() as u64;
        let mut writing = self.writing.remove(&key).unwrap();
        writing.reader.push(bytes);
        let mut items = Vec::new();
        let mut fault = Ok(());
        while let Some(found) = writing.reader.next() {
            let at = found.placement.segment;
            if self.verbose {
                println!(
                    "{:12} shard {shard}: {} of {:?}",
                    "", found.placement.offset.0, found.record
                );
            }
            let item = match &found.record {
                Record::Message(message) => self.part(shard, at, message, ages).map(Some),
                Record::Moved(moved) => self
                    .moved(shard, at, moved.from, moved.message.queue_id)
                    .map(|()| None),
                Record::Outcome(outcome) => self
                    .check_outcome(shard, outcome, ages)
                    .map(|()| Some(Item::Outcome(*outcome))),
                Record::Cancel(about) => Ok(Some(Item::Cancel(*about))),
                Record::Commit(_) | Record::Blob { .. } | Record::Seal(_) => Ok(None),
            };
            match item {
                Ok(item) => items.extend(item),
                Err(why) => fault = Err(why),
            }
        }
        self.writing.insert(key, writing);
        self.batches.insert((shard, batch), items);
        fault
    }

    fn part(
        &mut self,
        shard: u16,
        segment: SegmentId,
        message: &Message<'_>,
        ages: Ages,
    ) -> Result<Item, String> {
        let addresses: Vec<String> = message
            .recipients
            .iter()
            .map(|recipient| recipient.address.into())
            .collect();
        let mail = match self.by_text.get(message.content) {
            Some(mail) => *mail,
            None => self.notice(message, &addresses)?,
        };
        let is_old = dated(message.queue_id) + DATED_SLACK_MS < ages.new_ms;
        if is_old && message.handover.is_none() {
            return Err(format!("{} is dated in the past", message.queue_id));
        }
        let part = self.mails[mail].parts.len();
        self.mails[mail].parts.push(Part {
            shard,
            segments: vec![segment],
            addresses,
            durable: false,
            certain: false,
            failed: false,
            saw_cut: false,
            handover: message.handover,
            given: BTreeMap::new(),
            void: false,
            let_go: false,
            done: BTreeSet::new(),
            outcomes: BTreeMap::new(),
            perhaps: BTreeMap::new(),
            perhaps_void: false,
        });
        self.by_id
            .entry((shard, message.queue_id))
            .or_default()
            .push((mail, part));
        Ok(Item::Message { mail, part })
    }

    /// A message nobody sent must be a notification.
    fn notice(&mut self, message: &Message<'_>, addresses: &[String]) -> Result<usize, String> {
        if message.reverse_path.is_some() || !is_notice(message.content) {
            return Err(format!("message {} is nobody's", message.queue_id));
        }
        let mail = self.injected(message.content, None, addresses);
        self.mails[mail].is_notice = true;
        self.mails[mail].heard = Heard::Nothing;
        Ok(mail)
    }

    fn moved(&mut self, shard: u16, to: SegmentId, from: SegmentId, id: QueueId) -> Checked {
        let Some((mail, part)) = self.find(
            shard,
            About {
                queue_id: id,
                segment: from,
            },
        ) else {
            return Err(format!("{id} is moved and was never stored"));
        };
        self.mails[mail].parts[part].segments.push(to);
        Ok(())
    }

    fn find(&self, shard: u16, about: About) -> Option<(usize, usize)> {
        let known = self.by_id.get(&(shard, about.queue_id))?;
        let part = |at: &(usize, usize)| &self.mails[at.0].parts[at.1];
        let stood = |at: &&(usize, usize)| part(at).segments.contains(&about.segment);
        known
            .iter()
            .rev()
            .find(|at| stood(at) && !part(at).void)
            // A note copied forward about one that is no more is not about another.
            .or(known.iter().rev().find(stood))
            .or(known.last())
            .copied()
    }

    /// The batch is durable, or who knows.
    pub(crate) fn written(
        &mut self,
        shard: u16,
        batch: u64,
        segment: SegmentId,
        ok: bool,
    ) -> Checked {
        let items = self.batches.remove(&(shard, batch)).unwrap_or_default();
        if !ok {
            self.writing.remove(&(shard, segment));
            for item in &items {
                if let Item::Message { mail, part } = item {
                    self.mails[*mail].parts[*part].failed = true;
                }
            }
            self.unknown
                .extend(items.into_iter().map(|item| (shard, item)));
            return Ok(());
        }
        for item in items {
            match item {
                Item::Message { mail, part } => {
                    let part = &mut self.mails[mail].parts[part];
                    (part.durable, part.certain) = (true, true);
                    self.notified(mail)?;
                }
                Item::Cancel(about) => {
                    if let Some((mail, part)) = self.find(shard, about) {
                        self.mails[mail].parts[part].void = true;
                    }
                }
                Item::Outcome(outcome) => self.outcome(shard, &outcome),
            }
        }
        Ok(())
    }

    /// Notes whom a durable notification is about.
    fn notified(&mut self, notice: usize) -> Checked {
        if !self.mails[notice].is_notice {
            return Ok(());
        }
        let mut found = false;
        let text = String::from_utf8_lossy(&self.mails[notice].text).into_owned();
        let to: Vec<String> = self.mails[notice].fates.keys().cloned().collect();
        let named: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("Final-Recipient: rfc822; "))
            .map(str::trim)
            .collect();
        for mail in &mut self.mails {
            if mail
                .reverse_path
                .as_ref()
                .is_some_and(|path| to.contains(path))
            {
                for address in &named {
                    if let Some(fate) = mail.fates.get_mut(*address) {
                        fate.notified = true;
                        found = true;
                    }
                }
            }
        }
        if found {
            Ok(())
        } else {
            Err(format!("a notification to {to:?} about nobody of theirs"))
        }
    }

    /// The recipients that an outcome is about.
    fn recipients(
        &self,
        shard: u16,
        outcome: &Outcome,
    ) -> Result<(usize, usize, Vec<String>), String> {
        let Some((mail, part)) = self.find(shard, outcome.about) else {
            return Err(format!(
                "an outcome about {}, which nobody stored",
                outcome.about.queue_id
            ));
        };
        let range = outcome.state.recipients();
        let addresses = &self.mails[mail].parts[part].addresses;
        match addresses.get(range.clone()) {
            Some(addresses) => Ok((mail, part, addresses.to_vec())),
            None => Err(format!(
                "an outcome of recipients {range:?} of {}",
                addresses.len()
            )),
        }
    }

    /// Whether an outcome that is about to be recorded is true.
    fn check_outcome(&self, shard: u16, outcome: &Outcome, ages: Ages) -> Checked {
        let (at, part, addresses) = self.recipients(shard, outcome)?;
        let mail = &self.mails[at];
        if !mail.parts[part].is_its_own(&self.noted) {
            return Err(format!(
                "shard {shard} settles what it only holds: {outcome:?}"
            ));
        }
        if mail.spoiled {
            return Ok(());
        }
        let dated_ms = dated(outcome.about.queue_id);
        let is_early = ages.of(dated_ms) < self.expire_after_ms;
        for address in addresses {
            let fate = &mail.fates[&address];
            let fault = match outcome.state.kind {
                OutcomeKind::Delivered if fate.taken == 0 => "delivered, and no peer took it",
                OutcomeKind::Failed if !fate.refused && !fails_in_dns(&address) => {
                    "failed, and no peer refused it"
                }
                // A copy says again what was true when it was first said.
                OutcomeKind::Expired if is_early && fate.recorded != Some(OutcomeKind::Expired) => {
                    "expired before its time"
                }
                OutcomeKind::Failed | OutcomeKind::Expired
                    if mail.reverse_path.is_some() && !fate.notified =>
                {
                    "out of the queue before its sender's notification was durable"
                }
                _ => continue,
            };
            return Err(format!("{address} is recorded as {fault}"));
        }
        Ok(())
    }

    /// An outcome is durable.
    fn outcome(&mut self, shard: u16, outcome: &Outcome) {
        let kind = outcome.state.kind;
        let Ok((mail, part, addresses)) = self.recipients(shard, outcome) else {
            return;
        };
        if !kind.is_final() {
            return;
        }
        let mail = &mut self.mails[mail];
        if let Some(handover) = outcome.state.handover()
            && !self.noted.contains(&handover)
        {
            for address in addresses {
                let given = mail.parts[part].given.entry(address).or_default();
                given.insert(handover);
            }
            return;
        }
        mail.parts[part].done.extend(addresses.iter().cloned());
        for address in &addresses {
            let outcomes = &mut mail.parts[part].outcomes;
            outcomes.entry(address.clone()).or_insert(kind);
        }
        for address in addresses.iter().filter(|_| kind != OutcomeKind::Cancelled) {
            mail.fates.get_mut(address).unwrap().recorded = Some(kind);
        }
    }

    /// A connection is given a message: how often each of its recipients was tried before.
    pub(crate) fn started(
        &mut self,
        shard: u16,
        text: &[u8],
        recipients: &[Box<str>],
    ) -> Result<usize, String> {
        let Some(at) = self.by_text.get(text).copied() else {
            return Err("a message is sent that nobody stored".into());
        };
        for recipient in recipients.iter().filter(|_| !self.mails[at].spoiled) {
            let Some(fate) = self.mails[at].fates.get(&**recipient) else {
                return Err(format!("sent to {recipient}, who is no recipient of it"));
            };
            let there = |part: &Part| {
                part.shard == shard
                    && part.durable
                    && part.is_its_own(&self.noted)
                    && part.addresses.iter().any(|a| **a == **recipient)
            };
            if !self.mails[at].parts.iter().any(there) {
                return Err(format!(
                    "sent to {recipient} before it was durable and shard {shard}'s own"
                ));
            }
            if fate.budget == 0 {
                return Err(match (self.mails[at].heard, fate.recorded) {
                    (_, Some(kind)) => format!("{recipient} is sent to again after {kind:?}"),
                    (Heard::Told(Stored::Durable) | Heard::Waits, None) => {
                        format!("{recipient} is sent to again though nothing was lost")
                    }
                    (heard, None) => format!("{recipient} is sent to after {heard:?}"),
                });
            }
        }
        Ok(at)
    }

    pub(crate) fn tries(&mut self, mail: usize, address: &str) -> u32 {
        let fate = self.mails[mail].fates.get_mut(address).unwrap();
        fate.tries += 1;
        fate.tries - 1
    }

    pub(crate) fn taken(&mut self, mail: usize, address: &str) {
        self.deliveries += 1;
        let fate = self.mails[mail].fates.get_mut(address).unwrap();
        fate.taken += 1;
        fate.budget = fate.budget.saturating_sub(1);
    }

    /// The peer took it, and the reply never came.
    pub(crate) fn reply_lost(&mut self, mail: usize, address: &str) {
        self.mails[mail].fates.get_mut(address).unwrap().budget += 1;
    }

    pub(crate) fn refused(&mut self, mail: usize, address: &str) {
        self.mails[mail].fates.get_mut(address).unwrap().refused = true;
    }

    /// A record about a message is lost.
    pub(crate) fn spoiled(&mut self, shard: u16, about: About) {
        if let Some((mail, _)) = self.find(shard, about) {
            self.mails[mail].spoiled = true;
        }
    }

    /// Whether a handover was noted, for sure.
    pub(crate) fn is_noted(&self, handover: HandoverId) -> bool {
        self.noted.contains(&handover)
    }

    /// A shard needs nothing of a segment any more.
    pub(crate) fn retired(&mut self, shard: u16, segment: SegmentId) {
        self.retired.insert((shard, segment));
        let retired = &self.retired;
        for part in self.mails.iter_mut().flat_map(|mail| &mut mail.parts) {
            if part.shard == shard && part.segments.contains(&segment) {
                let is_retired = |at: &SegmentId| retired.contains(&(shard, *at));
                part.let_go = part.segments.iter().all(is_retired);
            }
        }
    }

    /// A handover is going to empty the folder of a shard that is no more.
    pub(crate) fn adopts(&mut self, handover: HandoverId, gone: u16) {
        self.adopting.insert(handover, gone);
    }

    /// A handover is noted: what was given away is its new owners'.
    pub(crate) fn noted(&mut self, handover: HandoverId) {
        if !self.noted.insert(handover) {
            return;
        }
        let emptied = self.adopting.remove(&handover);
        self.retired.retain(|(of, _)| Some(*of) != emptied);
        for part in self.mails.iter_mut().flat_map(|mail| &mut mail.parts) {
            part.void |= Some(part.shard) == emptied;
            let given = part.given.iter().filter(|(_, by)| by.contains(&handover));
            part.done.extend(given.map(|(address, _)| address.clone()));
        }
    }

    /// How many recipients a shard has recorded as `kind`: at least, and at most. `None` if records were
    /// damaged.
    pub(crate) fn recorded(&self, shard: u16, kind: OutcomeKind) -> Option<(u64, u64)> {
        let (mut least, mut most) = (0, 0);
        for mail in &self.mails {
            if mail.spoiled {
                return None;
            }
            for part in mail.parts.iter().filter(|part| part.shard == shard) {
                let is_kind = |of: &&OutcomeKind| **of == kind;
                let sure = part.outcomes.values().filter(is_kind).count() as u64;
                let perhaps = part.perhaps.iter();
                let perhaps = perhaps.filter(|(address, of)| {
                    **of == kind && part.outcomes.get(*address) != Some(&kind)
                });
                least += sure;
                most += sure + perhaps.count() as u64;
            }
        }
        Some((least, most))
    }

    /// A batch may be on disk, or part of it, and nobody was told.
    fn perhaps(&mut self, shard: u16, item: &Item) {
        match item {
            Item::Message { .. } => {}
            Item::Cancel(about) => {
                if let Some((mail, part)) = self.find(shard, *about) {
                    self.mails[mail].parts[part].perhaps_void = true;
                }
            }
            // It counts when the handover is noted, and that is done when it is durable for certain.
            Item::Outcome(outcome) if outcome.state.handover().is_some() => {}
            Item::Outcome(outcome) if outcome.state.kind.is_final() => {
                if let Ok((mail, part, addresses)) = self.recipients(shard, outcome) {
                    let kind = outcome.state.kind;
                    let perhaps = addresses.into_iter().map(|address| (address, kind));
                    self.mails[mail].parts[part].perhaps.extend(perhaps);
                }
            }
            Item::Outcome(_) => {}
        }
    }

    /// Power or the process went.
    pub(crate) fn cut(&mut self) {
        self.writing.clear();
        let flying = std::mem::take(&mut self.batches);
        let flying = flying
            .into_iter()
            .flat_map(|((shard, _), items)| items.into_iter().map(move |item| (shard, item)));
        for (shard, item) in std::mem::take(&mut self.unknown).into_iter().chain(flying) {
            self.perhaps(shard, &item);
        }
        for mail in &mut self.mails {
            // What was being written may be there or not.
            for part in &mut mail.parts {
                part.durable = true;
                part.saw_cut = true;
            }
            if mail.heard == Heard::Waits {
                mail.heard = Heard::Nothing;
            }
            for (address, fate) in &mut mail.fates {
                let open = |part: &&Part| {
                    !part.void
                        && part.is_its_own(&self.noted)
                        && part.addresses.contains(address)
                        && !part.done.contains(address)
                };
                let budget = mail.parts.iter().filter(open).count() as u32;
                self.excused += u64::from(budget.saturating_sub(fate.budget));
                fate.budget = budget;
            }
        }
    }

    pub(crate) fn heard(&self, mail: usize) -> Heard {
        self.mails[mail].heard
    }
}

fn is_notice(content: &[u8]) -> bool {
    String::from_utf8_lossy(content).contains("Final-Recipient: rfc822; ")
}
