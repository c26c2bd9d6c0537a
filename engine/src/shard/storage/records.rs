//! Messages and notes into records, messages out of records.
//!
//! [`ShardCore::store`] appends a message and enters it into the index; outcomes, commits and cancels
//! are appended beside the lists that would write them again after a failure. What becomes of the
//! batch they are in: `commit`.

use std::rc::Rc;
use std::sync::Arc;

use super::{Hold, Note, Waiter};
use crate::address::Address;
use crate::clock::{Now, UnixMs};
use crate::envelope::{Envelope, Recipient};
use crate::ids::{QueueId, SegmentId};
use crate::queue::cipher::SegmentCipher;
use crate::queue::record::options::{put_message, put_recipient};
use crate::queue::record::{
    About, Message as MessageRecord, Options, Outcome, OutcomeState, Record,
};
use crate::queue::replay::read_one;
use crate::queue::segment::Placement;
use crate::schedule::mail::NewEntry;
use crate::shard::{Action, Message, ShardCore, Stored, Submission};

/// A message out of its record's bytes as they lie on disk.
pub(in crate::shard) fn message_from(
    cipher: &mut SegmentCipher,
    placement: Placement,
    bytes: &mut [u8],
) -> Result<Message, String> {
    match read_one(cipher, placement, bytes).map_err(|error| error.to_string())? {
        Record::Message(message) => Ok(message_of(&message)),
        Record::Moved(moved) => Ok(message_of(&moved.message)),
        other => Err(format!(
            "a {} record where a message was written",
            other.kind()
        )),
    }
}

fn message_of(record: &MessageRecord<'_>) -> Message {
    let mut options = Vec::new();
    record.options.other_of_message(&mut options);
    Message {
        queue_id: record.queue_id,
        accepted: UnixMs(record.accepted_ms),
        envelope: Arc::new(envelope_of(record)),
        group: record.group.map(Into::into),
        tags: tags_of(record.tags),
        message_id: record.message_id.map(Into::into),
        peer: record.peer,
        options: options.into(),
        content: Rc::new(record.content.to_vec()),
    }
}

fn envelope_of(record: &MessageRecord<'_>) -> Envelope {
    Envelope {
        reverse_path: record.reverse_path.map(Address::reverse_path_from_stored),
        ret: record.options.ret(),
        envid: record.options.envid().map(Into::into),
        body: record.body,
        smtputf8: record.smtputf8,
        recipients: record
            .recipients
            .iter()
            .map(|recipient| Recipient {
                address: Address::from_stored(recipient.address, recipient.domain),
                notify: recipient.options.notify(),
                orcpt: recipient.options.orcpt().map(Into::into),
            })
            .collect(),
    }
}

/// Tags as the record has them: `name=value` lines joined by LF.
fn tags_of(text: &str) -> Vec<(Box<str>, Box<str>)> {
    text.split('\n')
        .filter_map(|tag| tag.split_once('='))
        .map(|(n, v)| (n.into(), v.into()))
        .collect()
}

fn tags_text(tags: &[(Box<str>, Box<str>)]) -> String {
    let lines: Vec<String> = tags
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    lines.join("\n")
}

impl ShardCore {
    /// Appends a message that we own; `waiter` is told when it is durable.
    pub(in crate::shard) fn store(
        &mut self,
        mut submission: Submission,
        waiter: Waiter,
        hold: Hold,
        now: Now,
    ) {
        if self.store.queue.is_failing() {
            // Its batch would wait for the disk, and its client with it.
            let result = if self.store.queue.full {
                Stored::NoSpace
            } else {
                Stored::Failed
            };
            return self.tell_waiter(waiter, result, now);
        }
        submission.group_by_domain();
        let placement = match self.append_message(&submission, hold, now) {
            Ok(placement) => placement,
            Err(why) => {
                let line = format!("message {} cannot be stored: {why}", submission.queue_id);
                self.actions.push(Action::Report { line });
                return self.tell_waiter(waiter, Stored::Failed, now);
            }
        };
        let queue_id = submission.queue_id;
        self.store.queue.filling.notes.push(Note {
            queue_id,
            placement,
            hold,
            waiter,
        });
        self.store.queue.set.live(placement);
        self.store.queue.close_full_batch();
        let message = Rc::new(submission.into_message());
        // What is held for long is read back when its time comes.
        let keep = !matches!(hold, Hold::Handover(_))
            && self.content.kept_bytes + message.memory_bytes() <= self.settings.memory_bytes_max
            && !self
                .content
                .ledger
                .is_full(self.content.kept_bytes + message.memory_bytes());
        let group = self
            .counters
            .group(message.group.as_deref().unwrap_or(""))
            .number();
        let mut first = 0;
        for run in message
            .recipients()
            .chunk_by(|a, b| a.domain() == b.domain())
        {
            let destination = self.destination_of(run[0].domain());
            for part in run.chunks(self.settings.recipients_per_message_max) {
                let entry = NewEntry {
                    queue_id,
                    placement,
                    destination,
                    group,
                    recipient_first: first,
                    recipient_count: part.len() as u8,
                };
                first += part.len() as u16;
                let id = self.mail.stored(entry, &mut self.counters);
                if keep {
                    self.content.kept_bytes += message.memory_bytes();
                    self.content.kept.insert(id, Rc::clone(&message));
                }
            }
        }
    }

    fn append_message(
        &mut self,
        submission: &Submission,
        hold: Hold,
        now: Now,
    ) -> Result<Placement, String> {
        let mut recipients = std::mem::take(&mut self.store.queue.recipients);
        recipients.clear();
        let mut fault = Ok(());
        let envelope = &submission.envelope;
        let mut options = Vec::new();
        for run in (envelope.recipients).chunk_by(|a, b| a.domain() == b.domain()) {
            let domain = run[0].domain().as_str();
            for (n, recipient) in run.iter().enumerate() {
                options.clear();
                put_recipient(recipient, &mut options);
                let address = recipient.as_str();
                fault = fault.and_then(|()| {
                    let options = Options::decode(&options).unwrap_or_default();
                    if n == 0 {
                        recipients.domain_with(domain, address, options)
                    } else {
                        recipients.recipient_with(address, options)
                    }
                });
            }
        }
        options.clear();
        let envid = envelope.envid.as_deref();
        put_message(envelope.ret, envid, &submission.options, &mut options);
        let tags = tags_text(&submission.tags);
        let record = Record::Message(MessageRecord {
            queue_id: submission.queue_id,
            accepted_ms: submission.accepted.0,
            body: envelope.body,
            smtputf8: envelope.smtputf8,
            pending: matches!(hold, Hold::Pending),
            handover: match hold {
                Hold::Handover(handover) => Some(handover),
                Hold::No | Hold::Pending => None,
            },
            reverse_path: envelope.reverse_path.as_ref().map(Address::as_str),
            recipients: recipients.recipients(),
            group: submission.group.as_deref(),
            tags: &tags,
            message_id: submission.message_id.as_deref(),
            peer: submission.peer,
            options: Options::decode(&options).unwrap_or_default(),
            content: &submission.content,
            content_bytes: submission.content.len() as u32,
        });
        let result = match fault {
            Ok(()) => self
                .store
                .queue
                .append(&record, now)
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        self.store.queue.recipients = recipients;
        result
    }

    pub(in crate::shard) fn append_outcome(
        &mut self,
        queue_id: QueueId,
        segment: SegmentId,
        state: OutcomeState,
        now: Now,
    ) {
        let outcome = Outcome {
            about: About { queue_id, segment },
            state,
        };
        if self.store.queue.is_failing() {
            self.store.queue.filling.outcomes.push(outcome);
            return;
        }
        match self.store.queue.append(&Record::Outcome(outcome), now) {
            Ok(placement) => {
                self.store.queue.set.note(placement, segment);
                self.store.queue.filling.outcomes.push(outcome);
                self.store.queue.close_full_batch();
            }
            Err(error) => self.report(format!("outcome of {queue_id} cannot be written: {error}")),
        }
    }

    /// Every owner has stored the message: note so, and deliver it.
    pub(in crate::shard) fn confirm(&mut self, queue_id: QueueId, now: Now) {
        let Some(id) = self.mail.find(queue_id) else {
            return;
        };
        let about = About {
            queue_id,
            segment: self.mail.get(id).placement.segment,
        };
        self.append_note(&Record::Commit(about), about, now);
        self.store.queue.filling.commits.push(about);
        self.stored_ready(queue_id, now);
    }

    /// Another owner failed: the message was never accepted.
    pub(in crate::shard) fn cancel_stored(&mut self, queue_id: QueueId, now: Now) {
        let Some(id) = self.mail.find(queue_id) else {
            return;
        };
        let about = About {
            queue_id,
            segment: self.mail.get(id).placement.segment,
        };
        self.forget_message(queue_id);
        self.append_note(&Record::Cancel(about), about, now);
        self.store.queue.filling.cancels.push(about);
    }

    pub(super) fn append_note(&mut self, record: &Record<'_>, about: About, now: Now) {
        if self.store.queue.is_failing() {
            return;
        }
        match self.store.queue.append(record, now) {
            Ok(placement) => self.store.queue.set.note(placement, about.segment),
            Err(error) => self.report(format!("note on {} not written: {error}", about.queue_id)),
        }
    }
}
