//! Reads one returned message: delivery-status fields where there are any, else the notice itself.
//!
//! Here the message is taken apart ([`super::mime`]), its notice told from what it returns
//! ([`super::returned`]), and messages that merely carry others are opened. What one message says is
//! read in [`super::reading`].

use super::classifier::Classifier;
use super::dsn::{self, DeliveryStatus};
use super::mime::{Mail, Opener, Role, html_lines};
use super::normal::clip;
use super::reading::{GUESSED, Reading};
use super::reason::{Reason, Verdict};
use super::report::Report;
use super::signals::Signals;
use super::{original, returned};

/// Messages inside messages that are looked into.
const NESTED_DEPTH_MAX: usize = 3;
/// Messages in one message that are looked into.
const NESTED_MESSAGES_MAX: usize = 16;
/// Bytes of notice.
const NOTICE_BYTES_MAX: usize = 64 << 10;
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
        let (cut, original_at) = returned::original_start(&text, &self.signals);
        let end = returned::footer_start(&text[..cut], &self.signals);
        let reading = Reading {
            classifier: &self.classifier,
            signals: &self.signals,
            original: original::read(&mail, &text[original_at..], &self.opener),
            notice: &text[..end],
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
        if wraps
            && depth < NESTED_DEPTH_MAX
            && let Some(inner) = self.read_carried(&mail, depth)
        {
            return inner;
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
        if status.recipients.is_empty()
            && let Some(fields) = fields_in_text(text)
        {
            let more = dsn::parse(fields);
            if more.recipients.iter().any(|r| r.final_recipient.is_some()) {
                return more;
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
                let html;
                let plain = if role == Role::Html {
                    html = html_lines(&part.text);
                    &html
                } else {
                    &part.text
                };
                text.push_str(clip(plain, NOTICE_BYTES_MAX - text.len()));
                text.push('\n');
            }
        }
        if !text.trim().is_empty() {
            break;
        }
    }
    text
}
