use super::*;
use crate::smtp::reply::{Reply, ReplyParser};

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
