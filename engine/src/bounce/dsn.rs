//! Delivery status fields (RFC 3464), read from where they stand: a part of that type, or a notice
//! that holds such lines without saying so.
//!
//! Lenient, since much software gets them wrong: blank lines in the wrong places or none, folding
//! without white space, several spellings of one field. A recipient begins where a recipient field
//! stands and the last recipient has one already, or after a blank line.

use super::report::Action;
use super::scan;
use crate::status::EnhancedStatus;

/// Recipients of one report.
pub(super) const RECIPIENTS_MAX: usize = 512;
/// Bytes of one field's value.
const VALUE_BYTES_MAX: usize = 4096;

/// The fields of one recipient.
#[derive(Debug, Default, Clone)]
pub(super) struct Recipient {
    pub(super) final_recipient: Option<String>,
    pub(super) original_recipient: Option<String>,
    pub(super) actual_recipient: Option<String>,
    pub(super) action: Option<Action>,
    pub(super) status: Option<EnhancedStatus>,
    /// What stands after the status code: Sendmail says there what it means.
    pub(super) status_text: String,
    pub(super) diagnostic: String,
    pub(super) remote_mta: Option<String>,
}

/// A whole report.
#[derive(Debug, Default)]
pub(super) struct DeliveryStatus {
    pub(super) reporting_mta: Option<String>,
    pub(super) envelope_id: Option<String>,
    pub(super) queue_id: Option<String>,
    pub(super) recipients: Vec<Recipient>,
}

/// Reads the fields in `text`.
pub(super) fn parse(text: &str) -> DeliveryStatus {
    let mut report = DeliveryStatus::default();
    let mut group = Recipient::default();
    let mut field: Option<(String, String)> = None;
    for line in text.lines() {
        let line = line.trim_end().trim_start_matches('>');
        if line.trim().is_empty() {
            take(&mut field, &mut group, &mut report);
            if has_recipient(&group) {
                push(&mut group, &mut report);
            }
            continue;
        }
        let folded = line.starts_with([' ', '\t']);
        match split_field(line.trim_start()) {
            Some((name, value)) if !folded || is_known(&name) => {
                take(&mut field, &mut group, &mut report);
                field = Some((name, value.to_owned()));
            }
            _ => {
                if let Some((_, value)) = &mut field
                    && value.len() + line.len() < VALUE_BYTES_MAX
                {
                    value.push(' ');
                    value.push_str(line.trim());
                }
            }
        }
    }
    take(&mut field, &mut group, &mut report);
    push(&mut group, &mut report);
    report
}

fn has_recipient(group: &Recipient) -> bool {
    group.final_recipient.is_some() || group.original_recipient.is_some()
}

fn push(group: &mut Recipient, report: &mut DeliveryStatus) {
    let group = std::mem::take(group);
    let says = has_recipient(&group)
        || group.actual_recipient.is_some()
        || group.action.is_some()
        || group.status.is_some()
        || !group.diagnostic.is_empty();
    if !says {
        return;
    }
    // Fields of one recipient, torn apart by a blank line.
    if !has_recipient(&group)
        && let Some(last) = report.recipients.last_mut()
    {
        last.action = last.action.or(group.action);
        last.status = last.status.or(group.status);
        if last.diagnostic.is_empty() {
            last.diagnostic = group.diagnostic;
        }
        last.remote_mta = last.remote_mta.take().or(group.remote_mta);
        return;
    }
    if report.recipients.len() < RECIPIENTS_MAX {
        report.recipients.push(group);
    }
}

fn split_field(line: &str) -> Option<(String, &str)> {
    let (name, value) = line.split_once(':')?;
    let name = name.trim_end();
    let plain = !name.is_empty()
        && name.len() <= 40
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    plain.then(|| (name.to_ascii_lowercase(), value.trim()))
}

const KNOWN: [&str; 12] = [
    "final-recipient",
    "original-recipient",
    "action",
    "status",
    "diagnostic-code",
    "remote-mta",
    "reporting-mta",
    "last-attempt-date",
    "arrival-date",
    "x-actual-recipient",
    "will-retry-until",
    "received-from-mta",
];

fn is_known(name: &str) -> bool {
    KNOWN.contains(&name)
}

fn take(field: &mut Option<(String, String)>, group: &mut Recipient, report: &mut DeliveryStatus) {
    let Some((name, value)) = field.take() else {
        return;
    };
    match &*name {
        "reporting-mta" => report.reporting_mta = after_type(&value),
        "original-envelope-id" => report.envelope_id = Some(value),
        "x-hikyaku-queue-id" => report.queue_id = Some(value),
        "final-recipient" => {
            if group.final_recipient.is_some() {
                push(group, report);
            }
            group.final_recipient = scan::field_address(&value);
        }
        "original-recipient" => {
            if group.original_recipient.is_some() {
                push(group, report);
            }
            group.original_recipient = scan::field_address(&value);
        }
        "x-actual-recipient" => group.actual_recipient = scan::field_address(&value),
        "action" => group.action = action(&value),
        "status" => {
            group.status = scan::enhanced(&value);
            if let Some((_, text)) = value.split_once('(') {
                text.trim_end_matches(')')
                    .clone_into(&mut group.status_text);
            }
        }
        "diagnostic-code" => {
            let text = value.split_once(';').map_or(&*value, |(kind, text)| {
                if kind.trim().contains(' ') {
                    &value
                } else {
                    text.trim()
                }
            });
            text.clone_into(&mut group.diagnostic);
        }
        "remote-mta" => group.remote_mta = after_type(&value),
        _ => {}
    }
}

fn after_type(value: &str) -> Option<String> {
    let host = value.split_once(';').map_or(value, |(_, host)| host).trim();
    let host = host.split([' ', '(']).next().unwrap_or_default();
    (!host.is_empty()).then(|| host.trim_end_matches('.').to_ascii_lowercase())
}

fn action(value: &str) -> Option<Action> {
    let word = value.trim().to_ascii_lowercase();
    let starts = |prefix: &str| word.starts_with(prefix);
    if starts("fail") || starts("error") || starts("expired") || starts("bounce") {
        Some(Action::Failed)
    } else if starts("delay") || starts("deferred") {
        Some(Action::Delayed)
    } else if starts("deliver") {
        Some(Action::Delivered)
    } else if starts("relay") {
        Some(Action::Relayed)
    } else if starts("expand") {
        Some(Action::Expanded)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_report_is_read() {
        let report = parse(
            "Reporting-MTA: dns; MX.example.jp\n\nOriginal-Recipient: rfc822;a@example.jp\n\
             Final-Recipient: rfc822; b@example.jp\nAction: failed\nStatus: 5.1.1 (bad)\n\
             Remote-MTA: DNS; in.example.jp\nDiagnostic-Code: smtp; 550 5.1.1 No\n  such user\n",
        );
        assert_eq!(report.reporting_mta.as_deref(), Some("mx.example.jp"));
        let [recipient] = &report.recipients[..] else {
            panic!("{report:?}")
        };
        assert_eq!(recipient.final_recipient.as_deref(), Some("b@example.jp"));
        assert_eq!(
            recipient.original_recipient.as_deref(),
            Some("a@example.jp")
        );
        assert_eq!(recipient.action, Some(Action::Failed));
        assert_eq!(recipient.status, EnhancedStatus::parse("5.1.1"));
        assert_eq!(recipient.diagnostic, "550 5.1.1 No such user");
        assert_eq!(recipient.remote_mta.as_deref(), Some("in.example.jp"));
    }

    #[test]
    fn missing_and_extra_blank_lines_do_no_harm() {
        let report = parse(
            "Reporting-MTA: dns; a.b\nFinal-Recipient: <x@a.b>\nAction: failed\n\n\n\
             Status: 5.0.0\nFinal-Recipient: rfc822;y@a.b\nAction: delayed\n\n",
        );
        let read: Vec<_> = report
            .recipients
            .iter()
            .map(|r| r.final_recipient.as_deref())
            .collect();
        assert_eq!(read, [Some("x@a.b"), Some("y@a.b")]);
        assert_eq!(report.recipients[1].action, Some(Action::Delayed));
    }
}
