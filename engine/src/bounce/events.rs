//! Notifications of cloud senders that come as JSON in the mail's text (`"notificationType"`,
//! `"eventType"`): the few string members that matter, read without a JSON tree.

use super::dsn::{DeliveryStatus, RECIPIENTS_MAX, Recipient};
use super::reason::Reason;
use super::report::Action;
use super::scan;

/// What a notification is about.
#[derive(Debug)]
pub(super) enum Event {
    /// Failures, as delivery-status fields.
    Bounce(DeliveryStatus),
    /// No failure.
    Other(Reason, Vec<String>),
}

/// Reads a notification; `None` if the text is none.
pub(super) fn read(text: &str) -> Option<Event> {
    const NAMES: [&str; 3] = [
        "\"notificationType\"",
        "\"eventType\"",
        "\\\"notificationType\\\"",
    ];
    if !NAMES.iter().any(|name| text.contains(name)) {
        return None;
    }
    let mut kind = String::new();
    let mut bounce = false;
    let mut status = DeliveryStatus::default();
    let mut others = Vec::new();
    for (name, value) in members(text) {
        match name {
            "notificationType" | "eventType" => kind = value.to_ascii_lowercase(),
            "bounceType" => bounce = true,
            "reportingMTA" => {
                status.reporting_mta = value.rsplit(';').next().map(|h| h.trim().to_owned())
            }
            "emailAddress" if status.recipients.len() < RECIPIENTS_MAX => {
                let address = scan::field_address(&value);
                others.extend(address.clone());
                status.recipients.push(Recipient {
                    final_recipient: address,
                    action: Some(Action::Failed),
                    ..Recipient::default()
                });
            }
            "status" | "diagnosticCode" | "action" => {
                if let Some(last) = status.recipients.last_mut() {
                    match name {
                        "status" => last.status = scan::enhanced(&value),
                        "diagnosticCode" => {
                            last.diagnostic = value
                                .split_once(';')
                                .map_or(&*value, |(_, t)| t)
                                .trim()
                                .to_owned();
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    match &*kind {
        "complaint" => Some(Event::Other(Reason::Feedback, others)),
        "delivery" | "send" | "open" | "click" => Some(Event::Other(Reason::Delivered, others)),
        "bounce" => Some(Event::Bounce(status)),
        _ if bounce => Some(Event::Bounce(status)),
        _ => None,
    }
}

/// `"name":"value"` members in their order, at whatever depth, with escapes undone.
fn members(text: &str) -> impl Iterator<Item = (&str, String)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let open = rest.find('"')? + 1;
            let after = &rest[open..];
            let close = after.find('"')?;
            let name = after[..close].trim_end_matches('\\');
            rest = &after[close + 1..];
            let Some(value) = rest.trim_start().strip_prefix(':') else {
                continue;
            };
            let value = value.trim_start().trim_start_matches('\\');
            let Some(value) = value.strip_prefix('"') else {
                continue;
            };
            let mut out = String::new();
            let mut escaped = false;
            let mut end = value.len();
            for (index, c) in value.char_indices() {
                if escaped {
                    escaped = false;
                    out.push(if c == 'n' || c == 't' { ' ' } else { c });
                } else if c == '\\' {
                    escaped = true;
                    if value[index + 1..].starts_with('"')
                        && value[index + 2..].starts_with([',', '}'])
                    {
                        end = index + 1;
                        break;
                    }
                } else if c == '"' {
                    end = index;
                    break;
                } else if c != '\n' && c != '\r' {
                    out.push(c);
                }
            }
            rest = value.get(end + 1..).unwrap_or_default();
            return Some((name, out));
        }
    })
}
