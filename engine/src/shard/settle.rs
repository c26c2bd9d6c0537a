//! Each recipient's outcome: into the queue log, the delivery log and the counters, and to the sender
//! if it failed (`notice`).
//!
//! A failure is recorded only when the notification that tells the sender of it is durable; until
//! then a restart would try the recipient again rather than forget the sender.

use std::fmt::Write;
use std::rc::Rc;

use super::content::{Given, Purpose};
use super::judge::{Again, Context, Settled, class_of};
use super::notice::Notice;
use super::unconnected::Unconnected;
use super::waiter::Origin;
use super::{Delivery, Message, ShardCore};
use crate::bounce::Reason;
use crate::clock::{Now, UnixMs};
use crate::counters::Counter;
use crate::delivery_log::LogRecord;
use crate::pool::ConnId;
use crate::queue::record::{OutcomeKind, OutcomeState};
use crate::schedule::destination::{DestinationId, Lookup};
use crate::schedule::index::EntryId;
use crate::schedule::mail::Done;
use crate::smtp::client::{RecipientOutcome, RecipientResult};
use crate::smtp::reply::Reply;
use crate::status::EnhancedStatus;

/// How long a message whose failure notification could not be stored waits, milliseconds.
const NOTICE_RETRY_MS: u64 = 60_000;

/// Kept of a reply for the operator, bytes.
const LAST_REPLY_BYTES_MAX: usize = 256;

impl ShardCore {
    /// A transaction is through.
    pub(super) fn settle(
        &mut self,
        conn: ConnId,
        delivery: Delivery,
        results: &[RecipientResult],
        context: Context,
        now: Now,
    ) {
        let (settled, again) = self.judge_results(conn, &delivery, results, &context, now);
        let recipients = delivery.recipients.len() as u32;
        self.mail
            .answered(delivery.entry, recipients, &mut self.counters);
        if results
            .iter()
            .any(|result| result.outcome == RecipientOutcome::Lost)
        {
            self.count(delivery.entry, Counter::SessionError, 1);
        }
        self.log_outcomes(&delivery, &settled, &context, now);
        self.note_reply(delivery.destination, &settled, &context);
        let remote_mta = context.target.as_ref().map(|target| &*target.host);
        let id = delivery.entry;
        self.conclude(id, &delivery.message, &settled, remote_mta, again, now);
    }

    /// Settles all open recipients of an entry in flight that no connection was found for.
    pub(super) fn settle_without_connection(
        &mut self,
        id: EntryId,
        unconnected: Unconnected,
        now: Now,
    ) {
        let for_all = Purpose::Settle(unconnected.clone());
        if let Given::Here(held) = self.content_for(id, for_all) {
            self.settle_unconnected(id, &held.message, unconnected, now);
        }
    }

    pub(super) fn settle_unconnected(
        &mut self,
        id: EntryId,
        message: &Rc<Message>,
        unconnected: Unconnected,
        now: Now,
    ) {
        if !matches!(unconnected, Unconnected::Expired) {
            self.mail.attempted(id);
        }
        let destination = self.mail.get(id).destination;
        let reply = self.unconnected_reply(destination, &unconnected);
        match unconnected {
            Unconnected::DnsTrouble(_) => self.count(id, Counter::DnsTempfail, 1),
            Unconnected::DnsFailure(_) => self.count(id, Counter::DnsFail, 1),
            Unconnected::NoConnection {
                connecting: true, ..
            } => {
                self.count(id, Counter::ConnectFail, 1);
            }
            Unconnected::NoConnection { .. } => self.count(id, Counter::SessionError, 1),
            Unconnected::Expired => {}
        }
        let recipients = self.mail.open_places(id);
        let mut settled = recipients
            .iter()
            .map(|recipient| Settled {
                recipient: *recipient,
                kind: unconnected.outcome(),
                phase: unconnected.phase(),
                reply: reply.clone(),
                reason: None,
            })
            .collect::<Vec<_>>();
        for one in &mut settled {
            self.judge_unconnected(destination, one);
        }
        let delivery = Delivery {
            entry: id,
            recipients,
            message: Rc::clone(message),
            destination,
            started: now,
            ready_since: message.accepted,
            _permit: None,
        };
        let target = match unconnected {
            Unconnected::NoConnection { target, .. } => target,
            _ => None,
        };
        let context = Context {
            site: None,
            peer: None,
            target,
        };
        self.log_outcomes(&delivery, &settled, &context, now);
        self.note_reply(destination, &settled, &context);
        let again = settled.first().and_then(|one| one.reason).map(class_of);
        let again = Again::Scheduled(again.unwrap_or_default());
        self.conclude(id, message, &settled, None, again, now);
    }

    pub(super) fn unconnected_reply(
        &self,
        destination: DestinationId,
        unconnected: &Unconnected,
    ) -> Reply {
        match unconnected {
            Unconnected::Expired => {
                let destination = self.mail.destination(destination);
                let failure = match &destination.lookup {
                    Lookup::Site { site, .. } => self.pool.site(*site).last_failure(),
                    _ => "",
                };
                // What the sender can act on is what was said to it, or at least to its domain.
                let text = match (destination.last_reply.as_str(), failure) {
                    ("", "") => "message expired: not delivered in time".to_owned(),
                    ("", failure) => {
                        format!("message expired: not delivered in time; last failure: {failure}")
                    }
                    (reply, _) => {
                        format!("message expired: not delivered in time; last reply: {reply}")
                    }
                };
                Reply::synthetic(450, EnhancedStatus::new(4, 4, 7), &text)
            }
            Unconnected::DnsTrouble(trouble) => {
                let text = format!("no DNS answer: {}", trouble.as_str());
                Reply::synthetic(450, EnhancedStatus::new(4, 4, 3), &text)
            }
            Unconnected::DnsFailure(failure) => {
                Reply::synthetic(550, failure.status(), failure.as_str())
            }
            // The peer's own words: a 421 greeting is something else than a dead host.
            Unconnected::NoConnection {
                refusal: Some(reply),
                ..
            } => reply.clone(),
            Unconnected::NoConnection {
                cause, connecting, ..
            } => {
                let status = if *connecting { (4, 4, 1) } else { (4, 4, 2) };
                Reply::synthetic(
                    450,
                    EnhancedStatus::new(status.0, status.1, status.2),
                    cause,
                )
            }
        }
    }

    /// Tells the sender of failures first, if there are any it wants to know of; else records at once.
    fn conclude(
        &mut self,
        id: EntryId,
        message: &Rc<Message>,
        settled: &[Settled],
        remote_mta: Option<&str>,
        again: Again,
        now: Now,
    ) {
        let outcomes: Vec<(u16, OutcomeKind)> = settled
            .iter()
            .map(|one| (one.recipient, one.kind))
            .collect();
        let failed: Vec<&Settled> = settled
            .iter()
            .filter(|one| matches!(one.kind, OutcomeKind::Failed | OutcomeKind::Expired))
            .collect();
        let notice = if failed.is_empty() || !self.settings.dsn {
            None
        } else {
            self.notification(id, message, &failed, remote_mta, now)
        };
        match notice {
            Some(submission) => {
                let notice = self.notices.add(Notice {
                    entry: id,
                    outcomes,
                    again,
                });
                self.route(Origin::Notice(notice), submission, now);
            }
            None => self.record(id, &outcomes, again, now),
        }
    }

    /// Writes outcomes to the queue log and moves the entry on: out of the queue, or to its retry.
    pub(super) fn record(
        &mut self,
        id: EntryId,
        outcomes: &[(u16, OutcomeKind)],
        again: Again,
        now: Now,
    ) {
        let entry = self.mail.get(id);
        let (queue_id, segment) = (entry.queue_id, entry.placement.segment);
        let (first, attempts) = (entry.recipient_first, entry.attempts);
        // Most mail is through, and has no retry to be reckoned.
        let retry_at_s = if outcomes.iter().all(|(_, kind)| kind.is_final()) {
            0
        } else {
            let wait_ms = match attempts {
                0 => NOTICE_RETRY_MS,
                _ => self.wait_ms(entry.destination, attempts, again),
            };
            self.mail.seconds_after(wait_ms, now)
        };
        for run in outcomes.chunk_by(|a, b| a.1 == b.1 && a.0 + 1 == b.0) {
            let kind = run[0].1;
            let state = OutcomeState {
                first: first + run[0].0,
                count: run.len() as u16,
                kind,
                attempts,
                next_retry_s: if kind.is_final() { 0 } else { retry_at_s },
            };
            self.append_outcome(queue_id, segment, state, now);
            // With its record, so that after a crash the one is counted from the other.
            if let Some(counter) = Counter::of_final(kind) {
                self.count(id, counter, run.len() as u32);
            }
        }
        self.content.forget(id);
        // Outcomes are of all that were open, each once. Those of more than a transaction has are alike.
        let finals = || outcomes.iter().filter(|(_, kind)| kind.is_final());
        if finals().count() as u32 == self.mail.open_recipients(id) {
            self.finish_entry(id);
            return;
        }
        let done = finals().fold(0, |done, (recipient, _)| done | 1_u128 << recipient);
        self.mail.recipients_done(id, done, &mut self.counters);
        self.mail.deferred(id, retry_at_s, &mut self.counters);
    }

    /// Takes an entry out of the queue.
    pub(super) fn finish_entry(&mut self, id: EntryId) {
        self.touched += 1;
        self.content.forget(id);
        let Done {
            queue_id,
            placement,
            is_last,
            round,
        } = self.mail.done(id, &mut self.counters);
        if let Some(site) = round {
            self.pool.ready_less(site);
        }
        if is_last {
            self.store.queue.set.dead(placement);
        }
        if queue_id.accepted_ms() < self.moves.begun.0 {
            let past = &mut self.moves.past_ids;
            past.entry(placement.segment).or_default().insert(queue_id);
        }
    }

    /// Keeps for the operator why mail of a destination was deferred last.
    fn note_reply(&mut self, destination: DestinationId, settled: &[Settled], context: &Context) {
        let Some(last) = settled
            .iter()
            .rfind(|one| one.kind == OutcomeKind::Deferred)
        else {
            return;
        };
        // Written over the one before: this is done for each deferral.
        let said = &mut self.mail.destination_mut(destination).last_reply;
        said.clear();
        if let Some(target) = &context.target {
            said.push_str(&target.host);
            // Without a session it is our own account of what went wrong there.
            said.push_str(if context.peer.is_some() {
                " said: "
            } else {
                ": "
            });
        }
        // Writing to a String cannot fail.
        let _ = write!(said, "{}", last.reply);
        said.truncate(said.floor_char_boundary(LAST_REPLY_BYTES_MAX));
    }

    fn log_outcomes(
        &mut self,
        delivery: &Delivery,
        settled: &[Settled],
        context: &Context,
        now: Now,
    ) {
        for one in settled {
            if one.kind == OutcomeKind::Deferred {
                self.count(delivery.entry, Counter::Tempfail, 1);
            }
        }
        let entry = self.mail.get(delivery.entry);
        let message = &*delivery.message;
        let first = usize::from(entry.recipient_first);
        let destination = self.mail.destination(delivery.destination);
        let (site, dns) = match &destination.lookup {
            Lookup::Site { targets, .. } => (crate::net::site_name(&targets.site), &*targets.text),
            Lookup::Trouble { trouble, .. } => ("", trouble.as_str()),
            Lookup::Failed(failure) => ("", failure.as_str()),
            Lookup::Unknown | Lookup::Asking | Lookup::Due | Lookup::Queued => ("", ""),
        };
        let mut tags = String::new();
        for (name, value) in &message.tags {
            // Writing to a String cannot fail.
            let _ = write!(tags, "{name}={value};");
        }
        let peer = context.peer.as_deref();
        for one in settled {
            let recipient = &message.recipients()[first + usize::from(one.recipient)];
            let class = one.reason.map_or("", Reason::as_str);
            self.store.log.push(&LogRecord {
                message_id: message.message_id.as_deref().unwrap_or("").as_bytes(),
                group: message.group.as_deref().unwrap_or("").as_bytes(),
                tags: tags.as_bytes(),
                reverse_path: message.envelope.reverse_path_text().as_bytes(),
                forward_path: recipient.as_str().as_bytes(),
                domain: destination.domain.as_str().as_bytes(),
                site: site.as_bytes(),
                attempt: u32::from(entry.attempts),
                class: class.as_bytes(),
                phase: one.phase,
                code: Some(one.reply.code),
                enhanced: one.reply.enhanced,
                reply: one.reply.text.as_bytes(),
                dns: dns.as_bytes(),
                source_ip: peer.and_then(|peer| peer.source_ip),
                dest_ip: context.target.as_ref().map(|target| target.address.ip()),
                dest_host: context
                    .target
                    .as_ref()
                    .map_or(b"", |target| target.host.as_bytes()),
                greeting: peer.map_or(b"", |peer| peer.greeting.as_bytes()),
                tls: peer.map_or(b"", |peer| peer.tls.as_bytes()),
                delay_queue_ms: ms_between(delivery.ready_since, delivery.started.unix),
                delay_connect_ms: peer.map(|peer| u64::from(peer.connect_ms)),
                delay_send_ms: peer.map(|_| now.mono.ms_since(delivery.started.mono)),
                size: message.content.len() as u64,
                ..LogRecord::new(now.unix, message.queue_id, one.kind, self.me)
            });
        }
    }
}

fn ms_between(from: UnixMs, to: UnixMs) -> u64 {
    to.0.saturating_sub(from.0)
}
