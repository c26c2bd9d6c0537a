//! What the sender is told of recipients that failed: a delivery status notification.
//!
//! It is mail as any other, stored at the owner of the sender's domain; the failures are recorded when
//! that is durable (`settle`).

use std::collections::HashMap;
use std::sync::Arc;

use super::judge::{Again, Settled};
use super::{Message, ShardCore, Stored, Submission};
use crate::clock::Now;
use crate::dsn::{self, Diagnostic, DsnRecipient, DsnRequest};
use crate::ids::NoticeId;
use crate::message::downgrade::downgrade;
use crate::queue::record::OutcomeKind;
use crate::schedule::index::EntryId;
use crate::status::EnhancedStatus;

/// Messages returned whole to their sender, bytes; of larger ones it gets the header section.
const RETURNED_BYTES_MAX: usize = 256 * 1024;

/// Failures that are recorded once the sender's notification is durable.
#[derive(Debug)]
pub(super) struct Notice {
    pub(super) entry: EntryId,
    pub(super) outcomes: Vec<(u16, OutcomeKind)>,
    /// When what was deferred beside them is tried again.
    pub(super) again: Again,
}

/// Those whose notification is being stored.
#[derive(Debug, Default)]
pub(super) struct Notices {
    open: HashMap<NoticeId, Notice>,
    last: NoticeId,
}

impl Notices {
    pub(super) fn add(&mut self, notice: Notice) -> NoticeId {
        let id = self.last.next();
        self.open.insert(id, notice);
        id
    }

    pub(super) fn take(&mut self, id: NoticeId) -> Option<Notice> {
        self.open.remove(&id)
    }
}

impl ShardCore {
    /// The delivery status notification for `failed`, unless the reverse-path is null (RFC 5321
    /// §4.5.5: never a notification of a notification).
    pub(super) fn notification(
        &mut self,
        id: EntryId,
        message: &Message,
        failed: &[&Settled],
        remote_mta: Option<&str>,
        now: Now,
    ) -> Option<Submission> {
        let to = message.envelope.reverse_path.as_ref()?;
        let first = usize::from(self.mail.get(id).recipient_first);
        let recipients: Vec<DsnRecipient<'_>> = failed
            .iter()
            .map(|one| DsnRecipient {
                final_recipient: message.recipients()[first + usize::from(one.recipient)].as_str(),
                action: dsn::Action::Failed,
                status: failure_status(one),
                diagnostic: match remote_mta {
                    Some(_) => Diagnostic::Reply(&one.reply),
                    None => Diagnostic::Text(&one.reply.text),
                },
                remote_mta,
                last_attempt: remote_mta.map(|_| now.unix),
            })
            .collect();
        let queue_id = self.next_queue_id(now);
        let whole = match self.settings.dsn_return {
            dsn::DsnReturn::Full if message.content.len() <= RETURNED_BYTES_MAX => {
                downgrade(&message.content).ok()
            }
            _ => None,
        };
        let request = DsnRequest {
            reporting_mta: &self.settings.hostname,
            id: queue_id,
            original_id: message.queue_id,
            arrival: message.accepted,
            to,
            recipients: &recipients,
            header_section: message.header_section(),
            whole: whole.as_deref(),
            now: now.unix,
        };
        let (content, envelope) = (dsn::build(&request), request.envelope());
        Some(Submission {
            queue_id,
            accepted: now.unix,
            envelope: Arc::new(envelope),
            group: message.group.clone(),
            tags: Vec::new(),
            message_id: None,
            peer: None,
            options: Box::default(),
            content,
        })
    }

    /// The notification is stored, or could not be.
    pub(super) fn notice_stored(&mut self, id: NoticeId, result: Stored, now: Now) {
        let Some(notice) = self.notices.take(id) else {
            return;
        };
        if result == Stored::Durable {
            self.record(notice.entry, &notice.outcomes, notice.again, now);
            return;
        }
        // Delivered ones are done all the same; the failed are tried again, and so is the notice.
        let outcomes: Vec<_> = notice
            .outcomes
            .iter()
            .map(|(recipient, kind)| match kind {
                OutcomeKind::Failed | OutcomeKind::Expired => (*recipient, OutcomeKind::Deferred),
                kind => (*recipient, *kind),
            })
            .collect();
        self.record(notice.entry, &outcomes, notice.again, now);
    }
}

/// The status of a failure for the notification: the peer's, if it is a permanent one.
fn failure_status(one: &Settled) -> EnhancedStatus {
    match (one.kind, one.reply.enhanced) {
        (OutcomeKind::Expired, _) => EnhancedStatus::new(4, 4, 7),
        (_, Some(status)) if status.class == 5 => status,
        _ => EnhancedStatus::new(5, 0, 0),
    }
}
