//! Whole messages in shapes that no standard foresees, each written after how some server or
//! service writes them, and the mail that talks of bounces without being one.

use engine::bounce::{Classifier, Reader, Reason, Verdict};

struct Case {
    name: &'static str,
    message: &'static str,
    recipients: &'static [&'static str],
    reason: Reason,
}

const BOUNCES: &[Case] = &[
    Case {
        name: "address and text on one line",
        message: "From: postmaster@mx.example.org\nSubject: Mail could not be delivered\n\n\
            Your message could not be delivered.\n\n<neko@example.jp>: mailbox is full, try later\n",
        recipients: &["neko@example.jp"],
        reason: Reason::MailboxFull,
    },
    Case {
        name: "failed recipient as a field of the text",
        message: "From: postmaster@mx.example.org\nSubject: Delivery failure\n\nDelivery of your message failed.\n\n\
            Failed recipient: neko@example.jp\nReason: 550 5.1.1 no such mailbox\n",
        recipients: &["neko@example.jp"],
        reason: Reason::UserUnknown,
    },
    Case {
        name: "addresses that failed, one with its reply below",
        message: "From: Mail Delivery System <Mailer-Daemon@mx.example.org>\nSubject: Mail delivery failed: returning message to sender\n\n\
            A message that you sent could not be delivered to one or more of its\nrecipients. This is a permanent error. The following address(es) failed:\n\n  \
            neko@example.jp\n    host mx.example.jp [192.0.2.7]\n    SMTP error from remote mail server after RCPT TO:<neko@example.jp>:\n    \
            550 5.1.1 user does not exist\n  mike@example.jp\n    quota exceeded for this mailbox\n",
        recipients: &["neko@example.jp", "mike@example.jp"],
        reason: Reason::UserUnknown,
    },
    Case {
        name: "HTML alone",
        message: "From: Microsoft Outlook <postmaster@example.org>\nSubject: Undeliverable: plan\nMIME-Version: 1.0\nContent-Type: text/html; charset=utf-8\n\n\
            <html><body><h2>Your message to <b>neko@example.jp</b> couldn't be delivered.</h2><p>neko wasn't found at example.jp.</p>\
            <table><tr><td>Status code:</td><td>550 5.1.10</td></tr></table></body></html>\n",
        recipients: &["neko@example.jp"],
        reason: Reason::UserUnknown,
    },
    Case {
        name: "HTML in quoted-printable, unescaped brackets",
        message: "From: mailer-daemon@example.org\nSubject: Undelivered mail\nMIME-Version: 1.0\nContent-Type: text/html; charset=utf-8\n\
            Content-Transfer-Encoding: quoted-printable\n\n<p>Delivery has failed to these recipients:</p><p><neko@example.jp></p>\
            <p>The recipient=E2=80=99s mailbox is full.</p>\n",
        recipients: &["neko@example.jp"],
        reason: Reason::MailboxFull,
    },
    Case {
        name: "base64 in KOI8-R",
        message: "From: MAILER-DAEMON@mx.example.ru\nSubject: Undelivered\nMIME-Version: 1.0\nContent-Type: text/plain; charset=koi8-r\n\
            Content-Transfer-Encoding: base64\n\n7sXXz9rNz9bOzyDEz9PUwdfJ1NgKCjxuZWtvQGV4YW1wbGUucnU+OiDQz8zY2s/XwdTFzNggzsUgzsHKxMXOCg==\n",
        recipients: &["neko@example.ru"],
        reason: Reason::UserUnknown,
    },
    Case {
        name: "fields without the report type, and a blank line too many",
        message: "From: MAILER-DAEMON@mx.example.org\nSubject: Returned mail\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=q\n\n\
            --q\nContent-Type: text/plain\n\nSee below.\n\n--q\nContent-Type: message/delivery-status\n\n\nReporting-MTA: dns;mx.example.org\n\n\n\
            Final-Recipient: rfc822;neko@example.jp\n\nAction: failed\nStatus: 5.2.2\n--q--\n",
        recipients: &["neko@example.jp"],
        reason: Reason::MailboxFull,
    },
    Case {
        name: "a report inside a forwarded message",
        message: "From: admin@example.org\nTo: bounces@example.com\nSubject: Fwd: Undelivered Mail\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=o\n\n\
            --o\nContent-Type: message/rfc822\n\nFrom: MAILER-DAEMON@mx.example.net\nSubject: Undelivered Mail Returned to Sender\nMIME-Version: 1.0\n\
            Content-Type: multipart/report; report-type=delivery-status; boundary=i\n\n--i\n\nfailed\n--i\nContent-Type: message/delivery-status\n\n\
            Reporting-MTA: dns; mx.example.net\n\nFinal-Recipient: rfc822; neko@example.jp\nAction: failed\nStatus: 5.1.1\n\n--i--\n--o--\n",
        recipients: &["neko@example.jp"],
        reason: Reason::UserUnknown,
    },
    Case {
        name: "a cut report: the closing boundary and the original are missing",
        message: "From: MAILER-DAEMON@mx.example.org\nSubject: Delivery Status Notification (Failure)\nMIME-Version: 1.0\n\
            Content-Type: multipart/report; report-type=delivery-status; boundary=q\n\n--q\n\nfailed\n\n--q\nContent-Type: message/delivery-status\n\n\
            Reporting-MTA: dns;mx.example.org\n\nFinal-Recipient: rfc822;neko@example.jp\nAction: failed\nStatus: 5.0.0\n\
            Diagnostic-Code: smtp;550 the mailbox of this user is full",
        recipients: &["neko@example.jp"],
        reason: Reason::MailboxFull,
    },
    Case {
        name: "the text says more than a generic code",
        message: "From: MAILER-DAEMON@mx.example.org\nSubject: Delivery Status Notification (Failure)\nMIME-Version: 1.0\n\
            Content-Type: multipart/report; report-type=delivery-status; boundary=q\n\n--q\n\nfailed\n\n--q\nContent-Type: message/delivery-status\n\n\
            Final-Recipient: rfc822;neko@example.jp\nAction: failed\nStatus: 5.1.1\n\
            Diagnostic-Code: smtp;550 5.1.1 recipient over quota\n\n--q--\n",
        recipients: &["neko@example.jp"],
        reason: Reason::MailboxFull,
    },
    Case {
        name: "German text",
        message: "From: Mailzustellung <postmaster@example.de>\nSubject: Unzustellbar: Plan\nContent-Type: text/plain; charset=utf-8\n\n\
            Ihre Nachricht konnte an folgende Empfänger nicht zugestellt werden:\n\n  neko@example.de\n  Der Empfänger ist unbekannt.\n",
        recipients: &["neko@example.de"],
        reason: Reason::UserUnknown,
    },
    Case {
        name: "French text",
        message: "From: postmaster@example.fr\nSubject: Échec de la remise\nContent-Type: text/plain; charset=utf-8\n\n\
            Votre message n'a pas pu être remis aux destinataires suivants :\n\nneko@example.fr\nLa boîte aux lettres du destinataire est pleine\n",
        recipients: &["neko@example.fr"],
        reason: Reason::MailboxFull,
    },
    Case {
        name: "Japanese text, the address after its label",
        message: "From: postmaster@example.jp\nSubject: メール配信エラー\nContent-Type: text/plain; charset=utf-8\n\n\
            以下の宛先へメールを配信できませんでした。\n\n宛先: neko@example.jp\n理由: ユーザーが見つかりません\n",
        recipients: &["neko@example.jp"],
        reason: Reason::UserUnknown,
    },
    Case {
        name: "Korean text",
        message: "From: postmaster@example.kr\nSubject: 메일 전송 실패\nContent-Type: text/plain; charset=utf-8\n\n\
            메일을 전송하지 못했습니다.\n\n<neko@example.kr>: 존재하지 않는 사용자입니다\n",
        recipients: &["neko@example.kr"],
        reason: Reason::UserUnknown,
    },
    Case {
        name: "a delay of Exim's",
        message: "From: Mail Delivery System <Mailer-Daemon@mx.example.org>\nSubject: Warning: message 1abc-2 delayed 24 hours\n\n\
            A message that you sent has not yet been delivered to one or more of its\nrecipients after more than 24 hours on the queue.\n\n\
            The address to which the message has not yet been delivered is:\n\n  neko@example.jp\n\nNo action is required on your part. Delivery attempts will continue.\n",
        recipients: &["neko@example.jp"],
        reason: Reason::Expired,
    },
    Case {
        name: "only the SMTP dialog",
        message: "From: postmaster@mail.example.org\nSubject: Undeliverable mail\n\nTranscript:\n\n>>> RCPT TO:<neko@example.jp>\n<<< 550 no mailbox by that name\n",
        recipients: &["neko@example.jp"],
        reason: Reason::UserUnknown,
    },
];

const OTHERS: &[(&str, &str, &[Reason])] = &[
    (
        "a person forwards a bounce and asks",
        "From: a@example.jp\nTo: help@example.com\nSubject: Fwd: Undelivered Mail Returned to Sender\n\nWhy did this come back?\n\n> <x@y.jp>: 550 5.1.1 user unknown\n",
        &[Reason::Message],
    ),
    (
        "a ticket quotes a bounce",
        "From: Support <support@example.org>\nTo: a@example.com\nSubject: Re: [Ticket#4711] mail delivery failed\nIn-Reply-To: <1@example.com>\n\n\
            Hello, the address is wrong, please check it.\n\n> 550 5.1.1 no such user\n> <x@example.net>\n",
        &[Reason::Message, Reason::AutoReply],
    ),
    (
        "a newsletter on deliverability",
        "From: News <news@example.org>\nTo: a@example.com\nSubject: Why your mail was not delivered: ten tips\nList-Unsubscribe: <mailto:u@example.org>\nList-Id: <news.example.org>\n\n\
            Hard bounces such as 550 5.1.1 user unknown hurt your reputation. Clean your lists.\n",
        &[Reason::Message],
    ),
    (
        "talk on a mailing list",
        "From: b@example.net\nTo: mta@lists.example.org\nSubject: [mta] undeliverable mail and DSN\nList-Id: <mta.lists.example.org>\nIn-Reply-To: <2@example.net>\n\n\
            I see \"<x@example.net>: host said: 550 5.1.1 unknown user\" all day. Any idea?\n",
        &[Reason::Message],
    ),
    (
        "a German absence",
        "From: a@example.de\nTo: us@example.com\nSubject: Automatische Antwort: Plan\nContent-Type: text/plain; charset=utf-8\n\nIch bin bis 3. Mai nicht im Büro.\n",
        &[Reason::Vacation],
    ),
    (
        "a French absence",
        "From: a@example.fr\nTo: us@example.com\nSubject: Réponse automatique : plan\nContent-Type: text/plain; charset=utf-8\n\nJe suis absent jusqu'au 3 mai, de retour le 4.\n",
        &[Reason::Vacation],
    ),
    (
        "a Spanish absence",
        "From: a@example.es\nTo: us@example.com\nSubject: Respuesta automática: plan\nContent-Type: text/plain; charset=utf-8\n\nEstoy de vacaciones hasta el 3 de mayo.\n",
        &[Reason::Vacation],
    ),
    (
        "an Italian absence",
        "From: a@example.it\nTo: us@example.com\nSubject: Risposta automatica: piano\nContent-Type: text/plain; charset=utf-8\n\nSono in ferie fino al 3 maggio.\n",
        &[Reason::Vacation],
    ),
    (
        "a Chinese absence",
        "From: a@example.cn\nTo: us@example.com\nSubject: 自动回复: 计划\nContent-Type: text/plain; charset=utf-8\n\n我正在休假，五月四日回来。\n",
        &[Reason::Vacation],
    ),
    (
        "a Korean absence",
        "From: a@example.kr\nTo: us@example.com\nSubject: 자동 응답: 계획\nContent-Type: text/plain; charset=utf-8\n\n휴가 중입니다. 5월 4일에 돌아옵니다.\n",
        &[Reason::Vacation],
    ),
    (
        "a Russian absence",
        "From: a@example.ru\nTo: us@example.com\nSubject: Автоответ: план\nContent-Type: text/plain; charset=utf-8\n\nЯ в отпуске до 3 мая.\n",
        &[Reason::Vacation],
    ),
    (
        "a Japanese absence",
        "From: a@example.jp\nTo: us@example.com\nSubject: Re: 計画\nAuto-Submitted: auto-replied\nContent-Type: text/plain; charset=utf-8\n\n本日は出張中のため、返信は明日になります。\n",
        &[Reason::Vacation],
    ),
    (
        "a report of success",
        "From: MAILER-DAEMON@mx.example.org\nSubject: Successful Mail Delivery Report\nMIME-Version: 1.0\n\
            Content-Type: multipart/report; report-type=delivery-status; boundary=q\n\n--q\n\nYour message was successfully delivered.\n\n--q\n\
            Content-Type: message/delivery-status\n\nFinal-Recipient: rfc822;neko@example.jp\nAction: delivered\nStatus: 2.0.0\n\n--q--\n",
        &[Reason::Delivered],
    ),
    (
        "a complaint",
        "From: fbl@example.org\nSubject: complaint\nMIME-Version: 1.0\nContent-Type: multipart/report; report-type=feedback-report; boundary=q\n\n--q\n\nabuse\n\n--q\n\
            Content-Type: message/feedback-report\n\nFeedback-Type: abuse\nVersion: 1\n\n--q\nContent-Type: message/rfc822\n\nSubject: offer\n\nbuy\n--q--\n",
        &[Reason::Feedback],
    ),
];

#[test]
fn bounces_of_any_shape_tell_who_and_why() {
    let reader = Reader::new(Classifier::builtin());
    let mut wrong = Vec::new();
    for case in BOUNCES {
        let report = reader.read(case.message.as_bytes());
        let got: Vec<&str> = report.failures.iter().map(|f| &*f.recipient).collect();
        if got != case.recipients || report.reason != case.reason {
            wrong.push(format!(
                "{}: {got:?} {} by {:?}",
                case.name, report.reason, report.decided
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn mail_that_talks_of_bounces_is_none() {
    let reader = Reader::new(Classifier::builtin());
    let mut wrong = Vec::new();
    for (name, message, reasons) in OTHERS {
        let report = reader.read(message.as_bytes());
        if report.verdict != Verdict::NotABounce || !reasons.contains(&report.reason) {
            wrong.push(format!(
                "{name}: {} {} by {:?}",
                report.verdict, report.reason, report.decided
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
