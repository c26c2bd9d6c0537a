//! Notices in the languages and charsets they come in, and the mail that only looks like them.

use engine::bounce::{Classifier, Reader, Reason, Report, Verdict};

fn read(message: &[u8]) -> Report {
    Reader::new(Classifier::builtin()).read(message)
}

fn notice(subject: &str, charset: &str, body: &[u8]) -> Vec<u8> {
    let mut message = format!(
        "From: MAILER-DAEMON@mx.example.jp\nTo: sender@example.com\nSubject: {subject}\n\
         MIME-Version: 1.0\nContent-Type: text/plain; charset={charset}\n\n"
    )
    .into_bytes();
    message.extend(body);
    message
}

fn told(report: &Report) -> (Vec<&str>, Verdict, Reason) {
    (
        report.failures.iter().map(|f| &*f.recipient).collect(),
        report.verdict,
        report.reason,
    )
}

#[test]
fn notices_are_understood_in_many_languages() {
    let cases: [(&str, Reason); 16] = [
        (
            "Your message could not be delivered to:\n\n<x@example.jp>:\nUser unknown",
            Reason::UserUnknown,
        ),
        (
            "次の宛先にメールを配信できませんでした:\n\n<x@example.jp>:\n宛先のメールアドレスが見つかりませんでした",
            Reason::UserUnknown,
        ),
        (
            "次の宛先にメールを配信できませんでした:\n\n<x@example.jp>:\nメールボックスが一杯です",
            Reason::MailboxFull,
        ),
        (
            "Ihre Nachricht konnte nicht zugestellt werden:\n\n<x@example.jp>:\nDiese E-Mail-Adresse existiert nicht",
            Reason::UserUnknown,
        ),
        (
            "Ihre Nachricht konnte nicht zugestellt werden:\n\n<x@example.jp>:\nDas Postfach des Empfängers ist voll",
            Reason::MailboxFull,
        ),
        (
            "Votre message n'a pas pu être remis :\n\n<x@example.jp>:\nDestinataire inconnu",
            Reason::UserUnknown,
        ),
        (
            "Votre message n'a pas pu être remis :\n\n<x@example.jp>:\nLa boite du destinataire est pleine",
            Reason::MailboxFull,
        ),
        (
            "Su mensaje no pudo ser entregado:\n\n<x@example.jp>:\nUsuario desconocido",
            Reason::UserUnknown,
        ),
        (
            "Su mensaje no pudo ser entregado:\n\n<x@example.jp>:\nEl buzón está lleno",
            Reason::MailboxFull,
        ),
        (
            "Il messaggio non è stato consegnato:\n\n<x@example.jp>:\nUtente sconosciuto",
            Reason::UserUnknown,
        ),
        (
            "A sua mensagem não pôde ser entregue:\n\n<x@example.jp>:\nA caixa postal está cheia",
            Reason::MailboxFull,
        ),
        (
            "Невозможно доставить сообщение:\n\n<x@example.jp>:\nПользователь не найден",
            Reason::UserUnknown,
        ),
        (
            "Невозможно доставить сообщение:\n\n<x@example.jp>:\nПочтовый ящик переполнен",
            Reason::MailboxFull,
        ),
        (
            "您的邮件无法送达:\n\n<x@example.jp>:\n收件人邮箱不存在",
            Reason::UserUnknown,
        ),
        (
            "您的邮件无法送达:\n\n<x@example.jp>:\n收件人邮箱已满",
            Reason::MailboxFull,
        ),
        (
            "Wiadomość nie została dostarczona:\n\n<x@example.jp>:\nTaki użytkownik nie istnieje",
            Reason::UserUnknown,
        ),
    ];
    for (body, reason) in cases {
        let report = read(&notice("Undeliverable", "utf-8", body.as_bytes()));
        assert_eq!(
            told(&report),
            (vec!["x@example.jp"], reason.verdict(false), reason),
            "{body}"
        );
    }
}

#[test]
fn japanese_charsets_named_and_unnamed() {
    // 宛先不明 in each of them.
    let jis: &[u8] = b"<x@example.jp>:\n\x1b$B08@hITL@\x1b(B\n";
    let sjis: &[u8] = b"<x@example.jp>:\n\x88\xb6\x90\xe6\x95\x73\x96\xbe\n";
    let euc: &[u8] = b"<x@example.jp>:\n\xb0\xb8\xc0\xe8\xc9\xd4\xcc\xc0\n";
    let wanted = (vec!["x@example.jp"], Verdict::Hard, Reason::UserUnknown);
    for (charset, body) in [
        ("iso-2022-jp", jis),
        ("us-ascii", jis),
        ("shift_jis", sjis),
        ("us-ascii", sjis),
        ("euc-jp", euc),
        ("us-ascii", euc),
    ] {
        let report = read(&notice("failure notice", charset, body));
        assert_eq!(told(&report), wanted, "{charset} {body:?}");
    }
}

#[test]
fn what_is_no_bounce_is_told_apart() {
    let mail = |head: &str, body: &str| {
        let text = format!(
            "To: us@example.com\nContent-Type: text/plain; charset=utf-8\n{head}\n\n{body}\n"
        );
        let report = read(text.as_bytes());
        assert_eq!(report.verdict, Verdict::NotABounce, "{text}");
        report.reason
    };
    let person = "From: a@example.jp\n";
    let of = |head: &str, body: &str| mail(&format!("{person}{head}"), body);
    assert_eq!(
        of("Subject: Re: the plan", "Looks good.\n> What do you say?"),
        Reason::Message
    );
    assert_eq!(
        of(
            "Subject: Fwd: Undelivered Mail Returned to Sender",
            "What does this mean?\n> <x@y.jp>: user unknown"
        ),
        Reason::Message
    );
    assert_eq!(
        of(
            "Subject: Out of office: the plan",
            "I am out of the office until Monday."
        ),
        Reason::Vacation
    );
    assert_eq!(
        of(
            "Auto-Submitted: auto-replied\nSubject: Re: the plan",
            "I am on vacation and will be back on 3 May."
        ),
        Reason::Vacation
    );
    assert_eq!(
        of("Subject: 自動返信: 計画", "ただいま不在にしております。"),
        Reason::Vacation
    );
    assert_eq!(
        of(
            "Subject: 不在のお知らせ",
            "夏季休業をいただいております。休暇中のご連絡は月曜以降にお返事いたします。"
        ),
        Reason::Vacation
    );
    assert_eq!(
        of(
            "Auto-Submitted: auto-replied\nSubject: お問い合わせありがとうございます",
            "お問い合わせを受け付けました。"
        ),
        Reason::AutoReply
    );
    assert_eq!(
        of(
            "Auto-Submitted: auto-replied\nSubject: Please confirm your message",
            "To release your message click the link. You are not a spammer?"
        ),
        Reason::AutoReply
    );
    let report = "Content-Type: multipart/report; report-type=disposition-notification; boundary=b\nSubject: Read: the plan";
    let parts = "--b\nContent-Type: text/plain\n\nYour message was read.\n--b\nContent-Type: message/disposition-notification\n\nFinal-Recipient: rfc822;a@example.jp\nDisposition: manual-action/MDN-sent-manually; displayed\n--b--";
    let receipt = read(format!("{person}To: us@example.com\n{report}\n\n{parts}\n").as_bytes());
    assert_eq!(
        (receipt.verdict, receipt.reason),
        (Verdict::NotABounce, Reason::Receipt)
    );
}

fn dsn(fields: &str) -> Report {
    let text = format!(
        "From: MAILER-DAEMON@mx.example.jp\nSubject: Delivery Status Notification\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\n\nAs follows.\n\n\
         --b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example.jp\n\n{fields}\n\
         --b\nContent-Type: text/rfc822-headers\n\nReceived: from a by relay.example.com with ESMTP id\n 01J9Z3K8Q0ABC; today\n\
         Message-ID: <1@example.com>\nSubject: =?utf-8?B?44OG44K544OI?=\nFrom: us@example.com\nTo: x@example.net\n\n--b--\n"
    );
    read(text.as_bytes())
}

#[test]
fn fields_tell_delay_and_success_from_failure() {
    let delayed = dsn("Final-Recipient: rfc822;x@example.net\nAction: delayed\nStatus: 4.4.1\n");
    assert_eq!(
        told(&delayed),
        (vec!["x@example.net"], Verdict::Soft, Reason::Expired)
    );
    let done = dsn("Final-Recipient: rfc822;x@example.net\nAction: delivered\nStatus: 2.0.0\n");
    assert_eq!(
        (done.verdict, done.reason),
        (Verdict::NotABounce, Reason::Delivered)
    );
    let both = dsn(
        "Final-Recipient: rfc822;x@example.net\nAction: relayed\nStatus: 2.0.0\n\n\
         Final-Recipient: rfc822;y@example.net\nAction: failed\nStatus: 5.2.2\n",
    );
    assert_eq!(
        told(&both),
        (vec!["y@example.net"], Verdict::Soft, Reason::MailboxFull)
    );
}

#[test]
fn codes_alone_decide_where_nothing_is_said() {
    for (status, reason) in [
        ("5.1.1", Reason::UserUnknown),
        ("5.1.2", Reason::HostUnknown),
        ("5.2.2", Reason::MailboxFull),
        ("5.3.4", Reason::MessageTooLarge),
        ("5.4.7", Reason::Expired),
        ("5.7.26", Reason::AuthFailure),
    ] {
        let report = dsn(&format!(
            "Final-Recipient: rfc822;x@example.net\nAction: failed\nStatus: {status}\n"
        ));
        assert_eq!(report.reason, reason, "{status}");
    }
}

#[test]
fn the_returned_message_is_identified() {
    let report = dsn("Final-Recipient: rfc822;x@example.net\nAction: failed\nStatus: 5.1.1\n");
    assert_eq!(report.original.message_id.as_deref(), Some("1@example.com"));
    assert_eq!(report.original.subject.as_deref(), Some("テスト"));
    assert_eq!(report.original.queue_id.as_deref(), Some("01J9Z3K8Q0ABC"));
    assert_eq!(report.reporting_host.as_deref(), Some("mx.example.jp"));
}

#[test]
fn cloud_events_in_json_are_read() {
    let body = r#"{"notificationType":"Bounce","bounce":{"bounceType":"Permanent","reportingMTA":"dns; mta.example.com",
        "bouncedRecipients":[{"emailAddress":"x@example.net","status":"5.1.1","action":"failed",
        "diagnosticCode":"smtp; 550 5.1.1 user unknown"}]},"mail":{"destination":["x@example.net"]}}"#;
    let report = read(format!("From: a@example.com\nSubject: notification\n\n{body}\n").as_bytes());
    assert_eq!(
        told(&report),
        (vec!["x@example.net"], Verdict::Hard, Reason::UserUnknown)
    );
}
