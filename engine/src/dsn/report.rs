//! The part for programs (RFC 3464 §2): fields of the message, then of each recipient.

use std::fmt::Write;

use super::text::{date, in_charset, typed_address, wrapped};
use super::{Action, Diagnostic, DsnRequest};

/// Writes the part.
pub(super) fn write(request: &DsnRequest<'_>, utf8: bool, boundary: &str, out: &mut String) {
    let (kind, encoding) = if utf8 {
        ("message/global-delivery-status", "8bit")
    } else {
        ("message/delivery-status", "7bit")
    };
    let _ = write!(
        out,
        "\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\
         \r\nReporting-MTA: dns; {}\r\nX-Hikyaku-Queue-ID: {}\r\nArrival-Date: {}\r\n",
        request.reporting_mta,
        request.original_id,
        date(request.arrival),
    );
    for recipient in request.recipients {
        let (action, until) = match recipient.action {
            Action::Failed => ("failed", None),
            Action::Delayed { until } => ("delayed", Some(until)),
        };
        let _ = write!(
            out,
            "\r\nFinal-Recipient: {}\r\nAction: {action}\r\nStatus: {}\r\n",
            typed_address(recipient.final_recipient, utf8),
            recipient.status,
        );
        if let Some(host) = recipient.remote_mta {
            let _ = write!(out, "Remote-MTA: dns; {}\r\n", in_charset(host, utf8));
        }
        let diagnostic = match recipient.diagnostic {
            Diagnostic::Reply(reply) => format!("smtp; {reply}"),
            Diagnostic::Text(text) => format!("x-hikyaku; {text}"),
        };
        out.push_str("Diagnostic-Code:");
        for line in wrapped(&in_charset(&diagnostic, utf8), 76) {
            let _ = write!(out, " {line}\r\n");
        }
        if let Some(time) = recipient.last_attempt {
            let _ = write!(out, "Last-Attempt-Date: {}\r\n", date(time));
        }
        if let Some(time) = until {
            let _ = write!(out, "Will-Retry-Until: {}\r\n", date(time));
        }
    }
}
