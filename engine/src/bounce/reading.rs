//! What one message says: by its fields, else by its words, and if it is no bounce, what it is.
//!
//! Reports of other kinds name themselves by their MIME type; then delivery-status fields
//! ([`super::dsn`]); then words: [`super::kind`] whether it is a bounce at all, [`super::notice`]
//! whom it could not reach. Why each recipient failed is asked in [`super::why`].

use super::classifier::Classifier;
use super::dsn::{self, DeliveryStatus};
use super::events;
use super::kind::Clues;
use super::mime::{Mail, Role};
use super::notice::{self, Mention};
use super::original;
use super::reason::{Reason, Verdict};
use super::report::{Action, Decided, Failure, Original, Report};
use super::scan;
use super::signals::{Signal, Signals};
use super::why::{self, Source, push_mention, quoted_reply, says_final, squeeze};
use crate::status::EnhancedStatus;

/// The source named when the recipient is a guess: nobody is named in the notice.
pub(super) const GUESSED: &str = "guess";

/// One message, taken apart.
pub(super) struct Reading<'r> {
    pub(super) classifier: &'r Classifier,
    pub(super) signals: &'r Signals,
    pub(super) mail: &'r Mail,
    pub(super) notice: &'r str,
    pub(super) inline_original: bool,
    pub(super) status: DeliveryStatus,
    pub(super) original: Original,
}

impl Reading<'_> {
    /// What it says.
    pub(super) fn report(mut self) -> Report {
        if let Some(part) = self.part(Role::Feedback) {
            let recipients = original::feedback_recipients(&part.text);
            return self.no_bounce(Reason::Feedback, "feedback-report", recipients);
        }
        if self.part(Role::Disposition).is_some() && self.status.recipients.is_empty() {
            return self.no_bounce(Reason::Receipt, "disposition-notification", Vec::new());
        }
        if self.status.recipients.is_empty()
            && let Some(event) = events::read(self.notice)
        {
            match event {
                events::Event::Bounce(status) => self.status = status,
                events::Event::Other(reason, to) => return self.no_bounce(reason, "event", to),
            }
        }
        if self
            .status
            .recipients
            .iter()
            .any(|r| r.final_recipient.is_some() || r.original_recipient.is_some())
        {
            return self.by_fields();
        }
        let clues = Clues::gather(self.mail, self.notice, self.inline_original, self.signals);
        let header = &self.mail.header;
        let has_status = !self.status.recipients.is_empty();
        if has_status || clues.is_bounce(header) {
            return self.by_words(&clues);
        }
        let reason = clues.other_kind(header, self.notice);
        self.no_bounce(reason, "header", Vec::new())
    }

    fn part(&self, role: Role) -> Option<&super::mime::Part> {
        self.mail.parts.iter().find(|part| part.role == role)
    }

    fn no_bounce(self, reason: Reason, source: &'static str, recipients: Vec<String>) -> Report {
        let action = Action::Delivered;
        let failures = recipients
            .into_iter()
            .map(|recipient| Failure {
                recipient,
                original_recipient: None,
                action,
                verdict: Verdict::NotABounce,
                reason,
                reply: None,
                enhanced: None,
                phase: None,
                diagnostic: String::new(),
                remote_host: None,
                decided: Decided {
                    source,
                    ..Decided::default()
                },
            })
            .collect();
        let text = self.mail.header.text("subject").to_owned();
        Report {
            verdict: Verdict::NotABounce,
            reason,
            failures,
            reporting_host: None,
            original: self.original,
            decided: Decided {
                source,
                text,
                rule: String::new(),
            },
        }
    }

    fn finish(self, failures: Vec<Failure>, whole: (Reason, Verdict), decided: Decided) -> Report {
        let (reason, verdict) = failures.first().map_or(whole, |f| (f.reason, f.verdict));
        let from = self.mail.header.text("from");
        let host = scan::addresses(from)
            .next()
            .and_then(|found| from[found.start..found.end].rsplit_once('@'))
            .map(|(_, domain)| domain.to_ascii_lowercase());
        Report {
            verdict,
            reason,
            failures,
            reporting_host: self.status.reporting_mta.or(host),
            original: self.original,
            decided,
        }
    }

    /// RFC 3464 fields say who; their diagnostics, else the notice, say why.
    fn by_fields(mut self) -> Report {
        let recipients = std::mem::take(&mut self.status.recipients);
        let is_success = |r: &dsn::Recipient| {
            r.action.map_or_else(
                || r.status.is_some_and(|s| s.class == 2),
                Action::is_success,
            )
        };
        let all_succeeded = recipients.iter().all(is_success);
        if all_succeeded {
            let to = recipients
                .into_iter()
                .filter_map(|r| r.final_recipient)
                .collect();
            return self.no_bounce(Reason::Delivered, "delivery-status", to);
        }
        let failed: Vec<dsn::Recipient> =
            recipients.into_iter().filter(|r| !is_success(r)).collect();
        let mut failures: Vec<Failure> = Vec::new();
        let alone = failed.len() == 1;
        for (index, recipient) in failed.into_iter().enumerate() {
            let search = index < notice::SEARCHES_MAX;
            let failure = self.field_failure(recipient, alone, search);
            let known = failures
                .iter()
                .any(|f| f.recipient.eq_ignore_ascii_case(&failure.recipient));
            if !known && !failure.recipient.is_empty() {
                failures.push(failure);
            }
        }
        let decided = failures
            .first()
            .map_or_else(Decided::default, |f| f.decided.clone());
        self.finish(failures, (Reason::Unknown, Verdict::Soft), decided)
    }

    fn field_failure(&self, fields: dsn::Recipient, alone: bool, search: bool) -> Failure {
        let (mut recipient, original_recipient) = recipients_of(&fields);
        if search && !recipient.contains('@') {
            // A file, a program or a local name: the address is where people look for it.
            if let Some(mention) = self.who().0.into_iter().next() {
                recipient = mention.address;
            }
        }
        let action = fields.action.unwrap_or(Action::Failed);
        let mention = search
            .then(|| self.mention(&recipient, original_recipient.as_deref()))
            .flatten();
        let specific = |s: &EnhancedStatus| s.subject != 0;
        let said = scan::enhanced(&fields.diagnostic);
        let enhanced = said
            .filter(specific)
            .or(fields.status.filter(specific))
            .or(said)
            .or(fields.status);
        let mut sources = vec![
            Source {
                name: "quoted-reply",
                text: quoted_reply(&fields.diagnostic),
            },
            Source {
                name: "diagnostic-code",
                text: &fields.diagnostic,
            },
        ];
        sources.push(Source {
            name: "status",
            text: &fields.status_text,
        });
        push_mention(&mut sources, mention.as_ref());
        if alone || (search && mention.is_none()) {
            sources.push(Source {
                name: "notice",
                text: self.notice,
            });
        }
        let mut failure = why::decide(
            self.classifier,
            &recipient,
            &sources,
            enhanced,
            fields.remote_mta.as_deref(),
            action,
        );
        failure.original_recipient = original_recipient;
        if !fields.diagnostic.is_empty() {
            failure.diagnostic = squeeze(&fields.diagnostic);
        }
        failure
    }

    fn mention(&self, recipient: &str, original: Option<&str>) -> Option<Mention> {
        notice::about(self.notice, recipient)
            .or_else(|| original.and_then(|original| notice::about(self.notice, original)))
    }

    /// No fields: the notice says who and why.
    fn by_words(self, clues: &Clues) -> Report {
        let delayed = clues.text.has(Signal::Delay) && !says_final(self.notice)
            || self
                .mail
                .header
                .text("subject")
                .to_ascii_lowercase()
                .contains("(delay)");
        let action = if delayed {
            Action::Delayed
        } else {
            Action::Failed
        };
        let (mentions, guessed) = self.who();
        let whole = format!("{}\n{}", self.notice, self.mail.header.text("subject"));
        let alone = mentions.len() == 1;
        let status = self.status.recipients.first().and_then(|r| r.status);
        let field = self
            .status
            .recipients
            .first()
            .map_or("", |r| &*r.diagnostic);
        let mut failures = Vec::new();
        for mention in &mentions {
            let mut sources = vec![Source {
                name: "diagnostic-code",
                text: field,
            }];
            push_mention(&mut sources, Some(mention));
            if alone || mention.block.trim().is_empty() {
                sources.push(Source {
                    name: "notice",
                    text: &whole,
                });
            }
            failures.push(why::decide(
                self.classifier,
                &mention.address,
                &sources,
                status,
                None,
                action,
            ));
        }
        if failures.is_empty() {
            let sources = [
                Source {
                    name: "diagnostic-code",
                    text: field,
                },
                Source {
                    name: "notice",
                    text: &whole,
                },
            ];
            let nobody = why::decide(self.classifier, "", &sources, status, None, action);
            let decided = Decided {
                source: GUESSED,
                ..nobody.decided
            };
            return self.finish(failures, (nobody.reason, nobody.verdict), decided);
        }
        let mut decided = failures[0].decided.clone();
        if guessed {
            decided.source = GUESSED;
        }
        self.finish(failures, (Reason::Unknown, Verdict::Soft), decided)
    }

    /// The failed addresses by the notice, else by what else the message carries.
    /// The flag tells a guess.
    fn who(&self) -> (Vec<Mention>, bool) {
        let header = &self.mail.header;
        let bare = |address: &str| Mention {
            address: address.to_owned(),
            head: String::new(),
            block: String::new(),
            replies: String::new(),
        };
        let listed = |text: &str| -> Vec<String> {
            scan::addresses(text)
                .map(|f| text[f.start..f.end].to_owned())
                .collect()
        };
        let named = listed(header.text("x-failed-recipients"));
        if !named.is_empty() {
            let found = named
                .iter()
                .map(|address| notice::about(self.notice, address).unwrap_or_else(|| bare(address)))
                .collect();
            return (found, false);
        }
        let mut senders = listed(header.text("from"));
        senders.extend(listed(header.text("to")));
        senders.extend(
            self.original
                .from
                .as_deref()
                .map(listed)
                .unwrap_or_default(),
        );
        let senders: Vec<&str> = senders.iter().map(|s| &**s).collect();
        let found = notice::mentions(self.notice, &senders, self.signals);
        if !found.is_empty() {
            return (found, false);
        }
        let field = ["original-recipient", "x-original-to"]
            .into_iter()
            .find_map(|name| {
                listed(header.text(name))
                    .into_iter()
                    .next()
                    .filter(|a| !senders.contains(&&**a))
            });
        if let Some(address) = field {
            return (vec![bare(&address)], true);
        }
        // A local name completed by the daemon's domain, as old AOL wrote it; else whom the
        // returned message was for, if that was one person.
        let to = self.original.to.as_deref().map(listed).unwrap_or_default();
        if let [only] = &to[..] {
            return (vec![bare(only)], true);
        }
        let domain = header
            .text("from")
            .rsplit_once('@')
            .map(|(_, d)| d.trim_end_matches('>').trim());
        match (notice::listed_name(self.notice), domain) {
            (Some(name), Some(domain)) => (vec![bare(&format!("{name}@{domain}"))], false),
            _ => (Vec::new(), true),
        }
    }
}

/// The failed address and, where it differs, the one written to.
fn recipients_of(fields: &dsn::Recipient) -> (String, Option<String>) {
    let whole = |a: &&String| a.contains('@');
    let last = fields.final_recipient.as_ref();
    let first = fields.original_recipient.as_ref();
    let chosen = last
        .filter(whole)
        .or(first.filter(whole))
        .or(fields.actual_recipient.as_ref().filter(whole))
        .or(last)
        .or(first);
    let chosen = chosen.cloned().unwrap_or_default();
    let other = first.filter(|a| !a.eq_ignore_ascii_case(&chosen)).cloned();
    (chosen, other)
}
