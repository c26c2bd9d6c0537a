//! Messages and notes into records, messages out of records.
//!
//! [`ShardCore::store`] appends a message and enters it into the index; outcomes, commits and cancels
//! are appended after it. What becomes of the batch they are in: `durable`.

use std::rc::Rc;
use std::sync::Arc;

use super::waiter::{Hold, Ticket, Waiter};
use super::{Action, Message, ShardCore, Stored, Submission};
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
use crate::schedule::index::EntryId;
use crate::schedule::mail::NewEntry;

/// A message out of its record's bytes as they lie on disk.
pub(super) fn message_from(
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
    /// A message read back; `bytes` are its record's as they lie on disk.
    pub(super) fn decode_message(
        &mut self,
        placement: Placement,
        mut bytes: Vec<u8>,
    ) -> Result<Message, String> {
        let cipher = self.store.queue.cipher(placement.segment);
        let cipher = cipher.ok_or_else(|| "its segment is unknown".to_owned())?;
        message_from(cipher, placement, &mut bytes)
    }

    /// Appends a message that we own; `waiter` is told when it is durable.
    pub(super) fn store(
        &mut self,
        mut submission: Submission,
        waiter: Waiter,
        hold: Hold,
        now: Now,
    ) {
        if self.store.queue.is_failing() {
            // Its batch would wait for the disk, and its client with it.
            return self.tell_waiter(waiter, self.not_stored(), now);
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
        let ticket = Ticket { waiter, hold };
        self.store.queue.await_message(queue_id, placement, ticket);
        let envelope = Arc::clone(&submission.envelope);
        let group = submission.group.as_deref().unwrap_or("");
        let group = self.counters.group(group).number();
        // What is held for long is read back when its time comes.
        let kept = if matches!(hold, Hold::Handover(_)) {
            None
        } else {
            self.content
                .keepable(submission.into_message(), self.settings.memory_bytes_max)
        };
        let mut first = 0;
        for run in (envelope.recipients).chunk_by(|a, b| a.domain() == b.domain()) {
            let entry = NewEntry {
                queue_id,
                placement,
                destination: self.destination_of(run[0].domain()),
                group,
                recipient_first: first,
                recipient_count: run.len() as u16,
            };
            first += run.len() as u16;
            let id = self.mail.stored(entry, &mut self.counters);
            if let Some(kept) = &kept {
                self.content.keep(id, kept);
            }
        }
    }

    fn append_message(
        &mut self,
        submission: &Submission,
        hold: Hold,
        now: Now,
    ) -> Result<Placement, String> {
        let mut recipients = std::mem::take(&mut self.store.recipients);
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
        self.store.recipients = recipients;
        result
    }

    pub(super) fn append_outcome(
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
        if let Err(error) = self.store.queue.append_outcome(outcome, now) {
            self.report(format!("outcome of {queue_id} cannot be written: {error}"));
        }
    }

    fn about(&self, id: EntryId) -> About {
        let entry = self.mail.get(id);
        About {
            queue_id: entry.queue_id,
            segment: entry.placement.segment,
        }
    }

    /// Every owner has stored the message: note so, and deliver it.
    pub(super) fn confirm(&mut self, queue_id: QueueId, now: Now) {
        let Some(id) = self.mail.find(queue_id) else {
            return;
        };
        let about = self.about(id);
        if let Err(error) = self.store.queue.append_commit(about, now) {
            self.note_fault(queue_id, &error);
        }
        self.stored_ready(queue_id, now);
    }

    /// Another owner failed: the message was never accepted.
    pub(super) fn cancel_stored(&mut self, queue_id: QueueId, now: Now) {
        let Some(id) = self.mail.find(queue_id) else {
            return;
        };
        let about = self.about(id);
        self.forget_message(queue_id);
        if let Err(error) = self.store.queue.append_cancel(about, now) {
            self.note_fault(queue_id, &error);
        }
    }
}
