//! What is left of the message that came back: its identity, for matching it to what we sent.

use super::mime::{Header, Mail, Opener, Role};
use super::report::Original;
use super::scan;
use crate::ids::QueueId;

/// Bytes of a returned header that are read.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Addresses taken from one feedback report.
const FEEDBACK_RECIPIENTS_MAX: usize = 64;

/// The returned message's header: from its own part, else from where it stands in the notice.
pub(super) fn read(mail: &Mail, inline: &str, opener: &Opener) -> Original {
    let part = mail
        .parts
        .iter()
        .find(|p| matches!(p.role, Role::Message | Role::MessageHeader));
    let text = part.map_or(inline, |part| &part.text);
    let text = super::normal::clip(text.trim_start(), HEADER_BYTES_MAX);
    if text.is_empty() {
        return Original::default();
    }
    // Quoted or indented headers begin at the margin again.
    let indented =
        text.starts_with(['>', '|']) || inline.starts_with([' ', '\t']) && part.is_none();
    let plain;
    let text = if indented {
        plain = text
            .lines()
            .map(|line| line.trim_start_matches(['>', '|', ' ']))
            .collect::<Vec<_>>()
            .join("\n");
        &plain
    } else {
        text
    };
    of(&opener.header(text.as_bytes()))
}

fn of(header: &Header) -> Original {
    let listed = |name| {
        let value: &str = header.get(name)?;
        let found: Vec<&str> = scan::addresses(value)
            .map(|f| &value[f.start..f.end])
            .collect();
        (!found.is_empty()).then(|| found.join(", "))
    };
    Original {
        message_id: header
            .get("message-id")
            .map(|id| id.trim_matches(['<', '>', ' ']).to_owned())
            .filter(|id| !id.is_empty()),
        subject: header.get("subject").map(str::to_owned),
        from: listed("from"),
        to: listed("to"),
        queue_id: header
            .fields
            .iter()
            .filter(|(name, _)| name == "received")
            .find_map(|(_, value)| queue_id(value)),
    }
}

/// Our id in a Received field (`… with ESMTP id 01J9Z3K8Q0ABC; …`).
fn queue_id(received: &str) -> Option<String> {
    let mut words = received.split([' ', ';']);
    while let Some(word) = words.next() {
        if word.eq_ignore_ascii_case("id") {
            let id = words.next()?;
            return id.parse::<QueueId>().is_ok().then(|| id.to_owned());
        }
    }
    None
}

/// `Original-Rcpt-To` and its kin in a feedback report (RFC 5965 §3.2).
pub(super) fn feedback_recipients(report: &str) -> Vec<String> {
    const FIELDS: [&str; 3] = [
        "original-rcpt-to:",
        "removal-recipient:",
        "redacted-address:",
    ];
    let mut out: Vec<String> = Vec::new();
    for line in report.lines() {
        let lower = line.to_ascii_lowercase();
        if FIELDS.iter().any(|field| lower.starts_with(field))
            && out.len() < FEEDBACK_RECIPIENTS_MAX
        {
            out.extend(
                scan::addresses(line)
                    .map(|f| line[f.start..f.end].to_owned())
                    .next(),
            );
        }
    }
    out.dedup();
    out
}
