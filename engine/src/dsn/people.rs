//! The part in words (RFC 6522 §3, the first part).

use std::fmt::Write;

use super::text::{date, in_charset, wrapped};
use super::{Action, Diagnostic, DsnRecipient, DsnRequest};

/// Writes the part: what failed, what is still tried, and what was said.
pub(super) fn write(request: &DsnRequest<'_>, utf8: bool, boundary: &str, out: &mut String) {
    let (charset, encoding) = if utf8 {
        ("utf-8", "8bit")
    } else {
        ("us-ascii", "7bit")
    };
    let _ = write!(
        out,
        "\r\n--{boundary}\r\nContent-Type: text/plain; charset={charset}\r\n\
         Content-Transfer-Encoding: {encoding}\r\n\r\n\
         This is the mail system at host {}.\r\n",
        request.reporting_mta
    );
    let failed = request
        .recipients
        .iter()
        .any(|r| r.action == Action::Failed);
    let delayed = request
        .recipients
        .iter()
        .any(|r| r.action != Action::Failed);
    if failed {
        out.push_str(
            "\r\nYour message could not be delivered to the recipients below. It will not be\r\n\
             tried again for them. Its header section is attached.\r\n\r\n",
        );
        for recipient in request
            .recipients
            .iter()
            .filter(|r| r.action == Action::Failed)
        {
            explain(recipient, utf8, out);
        }
    }
    if delayed {
        out.push_str(
            "\r\nYour message could not be delivered to the recipients below yet. It is still\r\n\
             being tried, and you need not send it again.\r\n\r\n",
        );
        for recipient in request
            .recipients
            .iter()
            .filter(|r| r.action != Action::Failed)
        {
            explain(recipient, utf8, out);
            if let Action::Delayed { until } = recipient.action {
                let _ = write!(out, "    It will be given up on {}.\r\n", date(until));
            }
        }
    }
}

fn explain(recipient: &DsnRecipient<'_>, utf8: bool, out: &mut String) {
    let _ = write!(out, "<{}>\r\n", in_charset(recipient.final_recipient, utf8));
    let words = match recipient.diagnostic {
        Diagnostic::Reply(reply) => {
            let host = recipient.remote_mta.unwrap_or("the remote host");
            format!("{} said: {reply}", in_charset(host, utf8))
        }
        Diagnostic::Text(text) => text.to_owned(),
    };
    for line in wrapped(&in_charset(&words, utf8), 72) {
        let _ = write!(out, "    {line}\r\n");
    }
}
