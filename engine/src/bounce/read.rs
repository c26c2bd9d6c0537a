//! Reads one returned message: delivery-status fields where there are any, else the notice itself.
//!
//! The order of a reading: take it apart ([`super::mime`]); reports of other kinds name themselves
//! by their MIME type; then fields ([`super::dsn`]); then words ([`super::kind`] whether it is a
//! bounce at all, [`super::notice`] whom it could not reach); then, if it merely carries other
//! messages, those. Why each recipient failed is asked of the [`Classifier`], of the most specific
//! text first.

use super::classifier::{Classifier, Decision, Evidence, is_temporary};
use super::dsn::{self, DeliveryStatus};
use super::events;
use super::kind::Clues;
use super::mime::{Mail, Opener, Role};
use super::normal::clip;
use super::notice::{self, Mention};
use super::original;
use super::reason::{Reason, Verdict};
use super::report::{Action, Decided, Failure, Original, Report};
use super::scan;
use super::signals::{Signal, Signals};
use crate::status::{EnhancedStatus, ReplyCode};

/// Messages inside messages that are looked into.
const NESTED_DEPTH_MAX: usize = 3;
/// Messages in one message that are looked into.
const NESTED_MESSAGES_MAX: usize = 16;
/// Bytes of notice.
const NOTICE_BYTES_MAX: usize = 64 << 10;
/// Bytes of a diagnostic that the answer carries.
const DIAGNOSTIC_BYTES_MAX: usize = 1024;
/// The source named when the recipient is a guess: nobody is named in the notice.
const GUESSED: &str = "guess";
/// Characters of its own that a message may have and still be only a wrapper of others.
const WRAPPER_TEXT_BYTES_MAX: usize = 400;

/// Reads returned mail. Built once; reading borrows it.
#[derive(Debug)]
pub struct Reader {
    classifier: Classifier,
    signals: Signals,
    opener: Opener,
}

impl Reader {
    /// A reader that asks `classifier` for reasons.
    pub fn new(classifier: Classifier) -> Self {
        Self {
            classifier,
            signals: Signals::builtin(),
            opener: Opener::new(),
        }
    }

    /// The classifier it asks.
    pub const fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    /// Who failed and why, by one returned message (RFC 5322, LF or CRLF).
    ///
    /// Never fails and never panics, whatever the bytes are; at most
    /// [`READ_BYTES_MAX`](super::READ_BYTES_MAX) of them are read.
    pub fn read(&self, message: &[u8]) -> Report {
        self.read_nested(message, 0)
    }

    fn read_nested(&self, message: &[u8], depth: usize) -> Report {
        let mail = self.opener.open(message);
        let text = notice_text(&mail);
        let (cut, original_at) = notice::original_start(&text, &self.signals);
        let reading = Reading {
            reader: self,
            original: original::read(&mail, &text[original_at..], &self.opener),
            notice: &text[..cut],
            inline_original: cut < text.len(),
            status: self.delivery_status(&mail, &text),
            mail: &mail,
        };
        let own_text = text[..cut].trim().len();
        let report = reading.report();
        // A wrapper, or a bounce that a gateway passed on without a word of its own.
        let wraps = match report.decided.source {
            "header" => {
                matches!(report.reason, Reason::Message | Reason::AutoReply)
                    && own_text <= WRAPPER_TEXT_BYTES_MAX
            }
            source => source == GUESSED,
        };
        if wraps && depth < NESTED_DEPTH_MAX {
            if let Some(inner) = self.read_carried(&mail, depth) {
                return inner;
            }
        }
        report
    }

    /// The bounces that a message carries as attachments.
    fn read_carried(&self, mail: &Mail, depth: usize) -> Option<Report> {
        let carried = mail.parts.iter().filter(|part| part.role == Role::Message);
        let mut found: Option<Report> = None;
        for part in carried.take(NESTED_MESSAGES_MAX) {
            let inner = self.read_nested(part.text.as_bytes(), depth + 1);
            if inner.verdict == Verdict::NotABounce {
                continue;
            }
            match &mut found {
                None => found = Some(inner),
                Some(report) => report.failures.extend(inner.failures),
            }
        }
        found
    }

    fn delivery_status(&self, mail: &Mail, text: &str) -> DeliveryStatus {
        let mut status = DeliveryStatus::default();
        for part in mail
            .parts
            .iter()
            .filter(|part| part.role == Role::DeliveryStatus)
        {
            let more = dsn::parse(&part.text);
            status.recipients.extend(more.recipients);
            status.reporting_mta = status.reporting_mta.or(more.reporting_mta);
            status.envelope_id = status.envelope_id.or(more.envelope_id);
            status.queue_id = status.queue_id.or(more.queue_id);
        }
        if status.recipients.is_empty() {
            if let Some(fields) = fields_in_text(text) {
                let more = dsn::parse(fields);
                if more.recipients.iter().any(|r| r.final_recipient.is_some()) {
                    return more;
                }
            }
        }
        status.recipients.truncate(dsn::RECIPIENTS_MAX);
        status
    }
}

/// Where delivery-status fields stand in a text that is not declared as such.
fn fields_in_text(text: &str) -> Option<&str> {
    const FIELD: &[u8] = b"final-recipient:";
    let bytes = text.as_bytes();
    let at = memchr::memchr2_iter(b'F', b'f', bytes).find(|&at| {
        bytes[at..].len() >= FIELD.len() && bytes[at..at + FIELD.len()].eq_ignore_ascii_case(FIELD)
    })?;
    // The fields of the message and of the first recipient stand before it.
    let paragraph = text[..at].rfind("Reporting-MTA").unwrap_or_else(|| {
        let start = at.saturating_sub(400);
        memchr::memchr_iter(b'\n', &bytes[start..at])
            .next()
            .map_or(at, |line| start + line + 1)
    });
    text.get(paragraph..).or(Some(&text[at..]))
}

/// The words meant for a human, up to the returned message.
fn notice_text(mail: &Mail) -> String {
    let mut text = String::new();
    for role in [Role::Text, Role::Html] {
        for part in &mail.parts {
            if matches!(part.role, Role::Message | Role::MessageHeader) && !text.trim().is_empty() {
                break;
            }
            if part.role == role && text.len() < NOTICE_BYTES_MAX {
                text.push_str(clip(&part.text, NOTICE_BYTES_MAX - text.len()));
                text.push('\n');
            }
        }
        if !text.trim().is_empty() {
            break;
        }
    }
    text
}

struct Reading<'r> {
    reader: &'r Reader,
    mail: &'r Mail,
    notice: &'r str,
    inline_original: bool,
    status: DeliveryStatus,
    original: Original,
}

/// A text to ask the classifier about.
struct Source<'t> {
    name: &'static str,
    text: &'t str,
}

impl Reading<'_> {
    fn report(mut self) -> Report {
        if let Some(part) = self.part(Role::Feedback) {
            let recipients = original::feedback_recipients(&part.text);
            return self.no_bounce(Reason::Feedback, "feedback-report", recipients);
        }
        if self.part(Role::Disposition).is_some() && self.status.recipients.is_empty() {
            return self.no_bounce(Reason::Receipt, "disposition-notification", Vec::new());
        }
        if self.status.recipients.is_empty() {
            if let Some(event) = events::read(self.notice) {
                match event {
                    events::Event::Bounce(status) => self.status = status,
                    events::Event::Other(reason, to) => return self.no_bounce(reason, "event", to),
                }
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
        let signals = &self.reader.signals;
        let clues = Clues::gather(self.mail, self.notice, self.inline_original, signals);
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
        for recipient in failed {
            let failure = self.field_failure(recipient, alone);
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

    fn field_failure(&self, fields: dsn::Recipient, alone: bool) -> Failure {
        let (mut recipient, original_recipient) = recipients_of(&fields);
        if !recipient.contains('@') {
            // A file, a program or a local name: the address is where people look for it.
            if let Some(mention) = self.who().0.into_iter().next() {
                recipient = mention.address;
            }
        }
        let action = fields.action.unwrap_or(Action::Failed);
        let mention = notice::about(self.notice, &recipient).or_else(|| {
            original_recipient
                .as_ref()
                .and_then(|original| notice::about(self.notice, original))
        });
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
        if alone || mention.is_none() {
            sources.push(Source {
                name: "notice",
                text: self.notice,
            });
        }
        let mut failure = self.decide(
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
            failures.push(self.decide(&mention.address, &sources, status, None, action));
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
            let nobody = self.decide("", &sources, status, None, action);
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
        let found = notice::mentions(self.notice, &senders, &self.reader.signals);
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

    /// Asks the classifier, most specific text first; a rule about words beats one about codes.
    fn decide(
        &self,
        recipient: &str,
        sources: &[Source<'_>],
        enhanced: Option<EnhancedStatus>,
        remote: Option<&str>,
        action: Action,
    ) -> Failure {
        let classifier = &self.reader.classifier;
        let domain = recipient.rsplit_once('@').map_or("", |(_, domain)| domain);
        let mut best: Option<(Decision<'_>, &Source<'_>)> = None;
        let mut codes: (Option<ReplyCode>, Option<EnhancedStatus>) = (None, enhanced);
        let (mut phase, mut host) = (None, remote.map(str::to_owned));
        for source in sources
            .iter()
            .filter(|source| !source.text.trim().is_empty())
        {
            let text = clip(source.text, super::normal::TEXT_BYTES_MAX);
            let lower = text.to_ascii_lowercase();
            codes.0 = codes.0.or_else(|| scan::reply_code(text));
            codes.1 = match codes.1 {
                Some(known) if known.subject != 0 => Some(known),
                known => scan::enhanced(text).or(known),
            };
            phase = phase.or_else(|| scan::phase(&lower));
            host = host.or_else(|| scan::remote_host(&lower));
            let provider = host
                .as_deref()
                .and_then(|host| classifier.provider_of(host))
                .or_else(|| classifier.provider_of(domain));
            let evidence = Evidence {
                reply: codes.0,
                enhanced: codes.1,
                text,
                phase,
                provider,
            };
            let decision = classifier.decide(&evidence);
            let better = match &best {
                None => true,
                Some((old, _)) => decision.by_text && !old.by_text || old.rule.is_none(),
            };
            if better {
                best = Some((decision, source));
            }
            if decision.by_text {
                break;
            }
        }
        self.failure(recipient, best, codes, action, (phase, host))
    }

    fn failure(
        &self,
        recipient: &str,
        best: Option<(Decision<'_>, &Source<'_>)>,
        codes: (Option<ReplyCode>, Option<EnhancedStatus>),
        action: Action,
        place: (Option<crate::phase::Phase>, Option<String>),
    ) -> Failure {
        let (mut reason, mut verdict) = best
            .as_ref()
            .map_or((Reason::Unknown, Verdict::Soft), |(d, _)| {
                (d.reason, d.verdict)
            });
        if action == Action::Delayed {
            if reason == Reason::Unknown || !best.as_ref().is_some_and(|(d, _)| d.by_text) {
                reason = Reason::Expired;
            }
            verdict = Verdict::Soft;
        } else if reason == Reason::Unknown && is_temporary(codes.0, codes.1) {
            verdict = Verdict::Soft;
        }
        let text = best.as_ref().map_or("", |(_, source)| source.text);
        let diagnostic = squeeze(text);
        let rule = best
            .as_ref()
            .and_then(|(decision, _)| decision.rule)
            .map_or_else(String::new, |rule| format!("{}:{}", rule.file, rule.line));
        let source = best.as_ref().map_or("structure", |(_, source)| source.name);
        Failure {
            recipient: recipient.to_owned(),
            original_recipient: None,
            action,
            verdict,
            reason,
            reply: codes.0,
            enhanced: codes.1,
            phase: place.0,
            diagnostic: diagnostic.clone(),
            remote_host: place.1,
            decided: Decided {
                source,
                text: diagnostic,
                rule,
            },
        }
    }
}

fn push_mention<'t>(sources: &mut Vec<Source<'t>>, mention: Option<&'t Mention>) {
    if let Some(mention) = mention {
        sources.push(Source {
            name: "notice-line",
            text: &mention.head,
        });
        sources.push(Source {
            name: "notice-block",
            text: &mention.block,
        });
        sources.push(Source {
            name: "transcript",
            text: &mention.replies,
        });
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

/// The reply that a diagnostic quotes: `5.1.0 - Unknown address error 550-'…' (delivery attempts: 0)`.
/// What stands around it is the reporting host's own wording and says less.
fn quoted_reply(diagnostic: &str) -> &str {
    let quoted = diagnostic.split_once('\'').and_then(|(before, rest)| {
        let code = before.trim_end_matches('-').rsplit(' ').next()?;
        let is_code = code.len() == 3 && scan::reply_code(code).is_some();
        let (reply, _) = rest.rsplit_once('\'')?;
        is_code.then_some(reply)
    });
    quoted.unwrap_or_default()
}

/// Words by which a notice says that it is the last one.
fn says_final(notice: &str) -> bool {
    const FINAL: [&str; 12] = [
        "failed permanently",
        "permanent error",
        "fatal error",
        "permanent failure",
        "giving up",
        "given up",
        "gave up",
        "going to try again",
        "no further",
        "permanently",
        "not try again",
        "delivery failed",
    ];
    let lower = clip(notice, 6000).to_ascii_lowercase();
    FINAL.iter().any(|words| lower.contains(words))
}

fn squeeze(text: &str) -> String {
    let mut out = String::new();
    for word in clip(text, DIAGNOSTIC_BYTES_MAX).split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}
