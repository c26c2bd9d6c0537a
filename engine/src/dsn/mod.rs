//! Delivery status notifications: what a sender is told when a message fails or waits long.
//!
//! [`build`] writes the content: a multipart/report (RFC 6522) of a text for people, a
//! machine-readable part (RFC 3464) and the header section of the message, its body left out. All of
//! it is ASCII, so that it passes every server, unless the sender's own address is not: then the
//! parts of RFC 6533 are used.
//! [`DsnRequest::envelope`] has the null reverse-path (RFC 5321 §4.5.5), and a request cannot be
//! made without a sender to tell: nothing with a null reverse-path is ever answered. When a
//! notification is due is the schedule's business.

use std::fmt::Write;

use crate::address::Address;
use crate::clock::UnixMs;
use crate::envelope::{BodyType, Envelope};
use crate::ids::QueueId;
use crate::message::date::rfc5322_date;
use crate::message::downgrade::quoted_printable;
use crate::smtp::reply::Reply;
use crate::status::EnhancedStatus;

/// Most octets of the original header section that are sent back; cut at a line end.
pub const RETURNED_HEADER_BYTES_MAX: usize = 64 * 1024;

/// What a notification carries of the message it reports on (RFC 3464 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DsnReturn {
    /// The header section.
    Headers,
    /// All of it.
    Full,
}

/// A notification to be written.
#[derive(Clone, Debug)]
pub struct DsnRequest<'a> {
    /// Our hostname.
    pub reporting_mta: &'a str,
    /// The notification's own queue id; makes Message-ID and boundary unique.
    pub id: QueueId,
    /// Queue id of the message it is about.
    pub original_id: QueueId,
    /// When that message was accepted.
    pub arrival: UnixMs,
    /// The reverse-path of that message.
    pub to: &'a Address,
    /// Whom it is about, at least one.
    pub recipients: &'a [DsnRecipient<'a>],
    /// The message's header section ([`crate::message::header::section`]), or all of its content.
    pub header_section: &'a [u8],
    /// All of its content, to be returned instead if it is 7-bit.
    pub whole: Option<&'a [u8]>,
    /// The time of writing.
    pub now: UnixMs,
}

/// What happened to one recipient.
#[derive(Clone, Debug)]
pub struct DsnRecipient<'a> {
    /// The address delivery was tried to, without angle brackets.
    pub final_recipient: &'a str,
    /// Whether it is over.
    pub action: Action,
    /// Why (RFC 3463).
    pub status: EnhancedStatus,
    /// The server's words or ours.
    pub diagnostic: Diagnostic<'a>,
    /// Host that gave the reply.
    pub remote_mta: Option<&'a str>,
    /// When it was last tried.
    pub last_attempt: Option<UnixMs>,
}

/// The Action field (RFC 3464 §2.3.3), as far as a relay needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Delivery was given up.
    Failed,
    /// Delivery is still tried.
    Delayed {
        /// When it will be given up.
        until: UnixMs,
    },
}

/// Where the explanation comes from.
#[derive(Clone, Copy, Debug)]
pub enum Diagnostic<'a> {
    /// A reply of the remote host.
    Reply(&'a Reply),
    /// No reply: what we found ourselves.
    Text(&'a str),
}

impl DsnRequest<'_> {
    /// The envelope to queue the notification with.
    pub fn envelope(&self) -> Envelope {
        let utf8 = self.needs_utf8();
        let recipients = vec![self.to.clone().into()];
        Envelope {
            body: if utf8 {
                BodyType::EightBitMime
            } else {
                BodyType::SevenBit
            },
            smtputf8: utf8,
            ..Envelope::new(None, recipients)
        }
    }

    /// Whether the parts of RFC 6533 are used: only where the report goes nowhere without SMTPUTF8. That
    /// the sender spoke SMTPUTF8 to us says nothing of the server that takes its reports.
    fn needs_utf8(&self) -> bool {
        self.to.to_ascii().is_none()
    }

    /// All of the message, if it is to be returned and can go into a 7-bit part: a message within a
    /// message must not be encoded (RFC 2046 §5.2.1).
    fn returned_whole(&self) -> Option<&[u8]> {
        self.whole.filter(|whole| whole.is_ascii())
    }

    fn returned_header(&self) -> &[u8] {
        let section = crate::message::header::section(self.header_section);
        if section.len() <= RETURNED_HEADER_BYTES_MAX {
            return section;
        }
        let cut = memchr::memrchr(b'\n', &section[..RETURNED_HEADER_BYTES_MAX]);
        &section[..cut.map_or(RETURNED_HEADER_BYTES_MAX, |n| n + 1)]
    }
}

/// Writes the content of a notification, CRLF line ends.
pub fn build(request: &DsnRequest<'_>) -> Vec<u8> {
    let utf8 = request.needs_utf8();
    let header = request.returned_header();
    let whole = request.returned_whole();
    let boundary = boundary(request, whole.unwrap_or(header));
    let mut text = String::with_capacity(2048 + 256 * request.recipients.len());
    message_header(request, utf8, &boundary, &mut text);
    explanation(request, utf8, &boundary, &mut text);
    delivery_status(request, utf8, &boundary, &mut text);
    let mut content = text.into_bytes();
    content.reserve(whole.unwrap_or(header).len() + 256);
    match whole {
        Some(whole) => returned_whole(whole, &boundary, &mut content),
        None => returned_header(header, utf8, &boundary, &mut content),
    }
    content
}

/// A boundary that occurs nowhere else; the queue id alone makes that all but certain.
fn boundary(request: &DsnRequest<'_>, header: &[u8]) -> String {
    let mut boundary = format!("=_hikyaku_{}", request.id);
    while memchr::memmem::find(header, boundary.as_bytes()).is_some() {
        boundary.push('_');
    }
    boundary
}

fn message_header(request: &DsnRequest<'_>, utf8: bool, boundary: &str, out: &mut String) {
    let failed = request
        .recipients
        .iter()
        .any(|r| r.action == Action::Failed);
    let subject = if failed {
        "Undelivered mail returned to sender"
    } else {
        "Delivery delayed, still trying"
    };
    let host = request.reporting_mta;
    let to = address_text(request.to, utf8);
    let _ = write!(
        out,
        "Date: {date}\r\nFrom: Mail Delivery System <MAILER-DAEMON@{host}>\r\nTo: <{to}>\r\n\
         Subject: {subject}\r\nMessage-ID: <{id}@{host}>\r\nAuto-Submitted: auto-replied\r\n\
         MIME-Version: 1.0\r\nContent-Type: multipart/report; report-type={report_type};\r\n\
         \tboundary=\"{boundary}\"\r\n{transfer}\r\n\
         This is a delivery status notification in MIME format.\r\n",
        date = date(request.now),
        id = request.id,
        report_type = if utf8 {
            "global-delivery-status"
        } else {
            "delivery-status"
        },
        transfer = if utf8 {
            "Content-Transfer-Encoding: 8bit\r\n"
        } else {
            ""
        },
    );
}

/// The part for people.
fn explanation(request: &DsnRequest<'_>, utf8: bool, boundary: &str, out: &mut String) {
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

/// The part for programs (RFC 3464 §2).
fn delivery_status(request: &DsnRequest<'_>, utf8: bool, boundary: &str, out: &mut String) {
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

/// The header section of the message, and the end.
fn returned_header(header: &[u8], utf8: bool, boundary: &str, out: &mut Vec<u8>) {
    let encode = !utf8 && !header.is_ascii();
    let kind = if utf8 {
        "message/global-headers"
    } else {
        "text/rfc822-headers"
    };
    let encoding = match (utf8, encode) {
        (true, _) => "8bit",
        (false, true) => "quoted-printable",
        (false, false) => "7bit",
    };
    let opening = format!(
        "\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    );
    out.extend_from_slice(opening.as_bytes());
    if encode {
        quoted_printable(header, out);
    } else {
        out.extend_from_slice(header);
    }
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
}

/// The whole message (RFC 3462 §2, "returned content").
fn returned_whole(whole: &[u8], boundary: &str, out: &mut Vec<u8>) {
    let opening = format!(
        "\r\n--{boundary}\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n\r\n"
    );
    out.extend_from_slice(opening.as_bytes());
    out.extend_from_slice(whole);
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
}

fn date(time: UnixMs) -> String {
    String::from_utf8_lossy(&rfc5322_date(time)).into_owned()
}

fn address_text(address: &Address, utf8: bool) -> String {
    match address.to_ascii() {
        Some(ascii) if !utf8 => ascii.into_owned(),
        _ => address.as_str().to_owned(),
    }
}

/// Type and address for Final-Recipient (RFC 3464 §2.3.2, RFC 6533 §3).
fn typed_address(text: &str, utf8: bool) -> String {
    if text.is_ascii() {
        return format!("rfc822; {}", in_charset(text, false));
    }
    if utf8 {
        return format!("utf-8; {}", in_charset(text, true));
    }
    let mut encoded = String::from("utf-8; ");
    for c in text.chars() {
        match c {
            '!'..='~' if !matches!(c, '\\' | '+' | '=') => encoded.push(c),
            c => {
                let _ = write!(encoded, "\\x{{{:X}}}", u32::from(c));
            }
        }
    }
    encoded
}

/// Text that cannot break out of its line, in ASCII unless UTF-8 is allowed.
fn in_charset(text: &str, utf8: bool) -> String {
    let shown = |c: char| match c {
        c if c.is_control() => ' ',
        c if !utf8 && !c.is_ascii() => '?',
        c => c,
    };
    text.chars().map(shown).collect()
}

/// Lines of at most some `columns` octets, broken at spaces, or anywhere in a longer word.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_ascii_whitespace() {
        let mut word = word;
        loop {
            let last = lines.len() - 1;
            let line = &mut lines[last];
            let gap = usize::from(!line.is_empty());
            if line.len() + gap + word.len() <= columns {
                if gap == 1 {
                    line.push(' ');
                }
                line.push_str(word);
                break;
            }
            if line.is_empty() {
                let (head, rest) = word.split_at(word.floor_char_boundary(columns));
                line.push_str(head);
                word = rest;
            }
            lines.push(String::new());
        }
    }
    lines.retain(|line| !line.is_empty());
    if lines.is_empty() {
        lines.push("-".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::reply::ReplyParser;

    fn reply(mut wire: &[u8]) -> Reply {
        ReplyParser::default()
            .next(&mut wire)
            .unwrap()
            .unwrap()
            .to_reply()
    }

    fn recipient<'a>(address: &'a str, reply: &'a Reply) -> DsnRecipient<'a> {
        DsnRecipient {
            final_recipient: address,
            action: Action::Failed,
            status: EnhancedStatus::new(5, 1, 1),
            diagnostic: Diagnostic::Reply(reply),
            remote_mta: Some("mx.example.jp"),
            last_attempt: None,
        }
    }

    fn request<'a>(to: &'a Address, recipients: &'a [DsnRecipient<'a>]) -> DsnRequest<'a> {
        DsnRequest {
            reporting_mta: "relay.example",
            id: "0000000000002".parse().unwrap(),
            original_id: "0000000000001".parse().unwrap(),
            arrival: UnixMs(1_795_502_969_000),
            to,
            recipients,
            header_section: b"Subject: hello\r\nX: y\r\n\r\nbody",
            whole: None,
            now: UnixMs(1_795_503_000_000),
        }
    }

    #[test]
    fn a_failed_recipient_is_reported_in_three_parts() {
        let to = Address::parse("sender@example.com").unwrap();
        let said = reply(b"550-5.1.1 no such\r\n550 5.1.1 user here\r\n");
        let recipients = [recipient("gone@example.jp", &said)];
        let request = request(&to, &recipients);
        let expected = "\
Date: Tue, 24 Nov 2026 06:50:00 +0000
From: Mail Delivery System <MAILER-DAEMON@relay.example>
To: <sender@example.com>
Subject: Undelivered mail returned to sender
Message-ID: <0000000000002@relay.example>
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary=\"=_hikyaku_0000000000002\"

This is a delivery status notification in MIME format.

--=_hikyaku_0000000000002
Content-Type: text/plain; charset=us-ascii
Content-Transfer-Encoding: 7bit

This is the mail system at host relay.example.

Your message could not be delivered to the recipients below. It will not be
tried again for them. Its header section is attached.

<gone@example.jp>
    mx.example.jp said: 550 5.1.1 no such user here

--=_hikyaku_0000000000002
Content-Type: message/delivery-status
Content-Transfer-Encoding: 7bit

Reporting-MTA: dns; relay.example
X-Hikyaku-Queue-ID: 0000000000001
Arrival-Date: Tue, 24 Nov 2026 06:49:29 +0000

Final-Recipient: rfc822; gone@example.jp
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx.example.jp
Diagnostic-Code: smtp; 550 5.1.1 no such user here

--=_hikyaku_0000000000002
Content-Type: text/rfc822-headers
Content-Transfer-Encoding: 7bit

Subject: hello
X: y

--=_hikyaku_0000000000002--
";
        let content = String::from_utf8(build(&request)).unwrap();
        assert_eq!(content, expected.replace('\n', "\r\n"));
        let envelope = request.envelope();
        assert_eq!(envelope.reverse_path, None);
        assert!(!envelope.smtputf8 && envelope.recipients == [to.into()]);
    }

    #[test]
    fn a_delayed_recipient_is_told_until_when() {
        let to = Address::parse("sender@example.com").unwrap();
        let said = reply(b"450 x\r\n");
        let recipients = [DsnRecipient {
            action: Action::Delayed {
                until: UnixMs(1_795_600_000_000),
            },
            status: EnhancedStatus::new(4, 4, 1),
            diagnostic: Diagnostic::Text("no server answers"),
            remote_mta: None,
            last_attempt: Some(UnixMs(1_795_503_000_000)),
            ..recipient("late@example.jp", &said)
        }];
        let content = String::from_utf8(build(&request(&to, &recipients))).unwrap();
        for line in [
            "Subject: Delivery delayed, still trying",
            "Action: delayed",
            "Diagnostic-Code: x-hikyaku; no server answers",
            "Last-Attempt-Date: Tue, 24 Nov 2026 06:50:00 +0000",
            "Will-Retry-Until: Wed, 25 Nov 2026 09:46:40 +0000",
            "    It will be given up on Wed, 25 Nov 2026 09:46:40 +0000.",
        ] {
            assert!(
                content.contains(&format!("\r\n{line}\r\n")),
                "{line}\n{content}"
            );
        }
    }

    #[test]
    fn utf8_is_used_only_where_the_report_needs_it_to_arrive() {
        let to = Address::parse("sender@例え.example").unwrap();
        let said = reply("550 5.1.1 知らない\r\n".as_bytes());
        let recipients = [recipient("用户@例え.jp", &said)];
        let mut request = request(&to, &recipients);
        request.header_section = "Subject: 件名\r\n\r\n".as_bytes();

        // The message came with SMTPUTF8; whether its sender's server offers it, nobody knows.
        let ascii = build(&request);
        assert!(ascii.is_ascii() && !request.envelope().smtputf8);
        let ascii = String::from_utf8(ascii).unwrap();
        assert!(ascii.contains(r"Final-Recipient: utf-8; \x{7528}\x{6237}@\x{4F8B}\x{3048}.jp"));
        assert!(ascii.contains("quoted-printable\r\n\r\nSubject: =E4=BB=B6=E5=90=8D\r\n"));
        assert!(ascii.contains("smtp; 550 5.1.1 ????"));

        let to = Address::parse("送信者@example.com").unwrap();
        request.to = &to;
        let utf8 = String::from_utf8(build(&request)).unwrap();
        assert!(request.envelope().smtputf8);
        for text in [
            "report-type=global-delivery-status",
            "Content-Type: message/global-delivery-status",
            "Content-Type: message/global-headers",
            "Final-Recipient: utf-8; 用户@例え.jp",
            "Diagnostic-Code: smtp; 550 5.1.1 知らない",
            "Subject: 件名",
        ] {
            assert!(utf8.contains(text), "{text}\n{utf8}");
        }
    }

    #[test]
    fn the_whole_message_is_returned_where_it_can_be() {
        let to = Address::parse("sender@example.com").unwrap();
        let said = reply(b"550 5.1.1 gone\r\n");
        let recipients = [recipient("gone@example.jp", &said)];
        let mut request = request(&to, &recipients);
        request.whole = Some(b"Subject: hello\r\n\r\nthe body\r\n--=_hikyaku_0000000000002\r\n");
        let text = String::from_utf8(build(&request)).unwrap();
        let (_, part) = text.split_once("Content-Type: message/rfc822\r\n").unwrap();
        let expected = "Content-Transfer-Encoding: 7bit\r\n\r\nSubject: hello\r\n\r\nthe body\r\n\
                        --=_hikyaku_0000000000002\r\n\r\n--=_hikyaku_0000000000002_--\r\n";
        assert_eq!(part, expected, "the boundary is none that the message has");
        assert!(!text.contains("text/rfc822-headers"));

        request.whole = Some("Subject: hello\r\n\r\n本文\r\n".as_bytes());
        let text = String::from_utf8(build(&request)).unwrap();
        assert!(text.contains("text/rfc822-headers") && !text.contains("本文"));
    }

    #[test]
    fn nothing_a_server_says_breaks_the_report() {
        let to = Address::parse("sender@example.com").unwrap();
        let long = [b"554 ".as_slice(), &[b'x'; 900], b"\r\n"].concat();
        let said = reply(&long);
        let forged = "evil\r\n--=_hikyaku_0000000000002--\r\nX";
        let recipients = [
            DsnRecipient {
                diagnostic: Diagnostic::Text(forged),
                remote_mta: Some(forged),
                ..recipient(forged, &said)
            },
            recipient("a@b.example", &said),
        ];
        let mut request = request(&to, &recipients);
        let header = b"A: --=_hikyaku_0000000000002\r\n".repeat(5000);
        request.header_section = &header;
        let content = String::from_utf8(build(&request)).unwrap();
        let delimiters = content
            .lines()
            .filter(|line| line.starts_with("--=_hikyaku_"));
        assert_eq!(delimiters.count(), 4);
        assert!(content.lines().all(|line| line.len() <= 80));
        assert!(content.len() < RETURNED_HEADER_BYTES_MAX + 6000);
    }
}
