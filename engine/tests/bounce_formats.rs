//! Notices of servers that follow no standard, written after how they word them: who and why.

use engine::bounce::{Classifier, Reader, Reason};

struct Case {
    server: &'static str,
    head: &'static str,
    body: &'static str,
    recipients: &'static [&'static str],
    reason: Reason,
}

const CASES: &[Case] = &[
    Case {
        server: "au, account disabled",
        head: "From: Postmaster@ezweb.ne.jp\nSubject: Mail System Error - Returned Mail",
        body: "The user(s) account is disabled.\n\n    <neko@ezweb.ne.jp>\n",
        recipients: &["neko@ezweb.ne.jp"],
        reason: Reason::MailboxSuspended,
    },
    Case {
        server: "au, refused by a remote server",
        head: "From: Postmaster@ezweb.ne.jp\nSubject: Mail System Error - Returned Mail",
        body: "Each of the following recipients was rejected by a remote\nmail server.\n\n    Recipient: <neko@ezweb.ne.jp>\n    \
               >>> RCPT TO:<neko@ezweb.ne.jp>\n    <<< 550 <neko@ezweb.ne.jp>: User unknown\n",
        recipients: &["neko@ezweb.ne.jp"],
        reason: Reason::UserUnknown,
    },
    Case {
        server: "au, out of time",
        head: "From: Postmaster@ezweb.ne.jp\nSubject: Mail System Error - Returned Mail",
        body: "Your message was not delivered within 0 days and 6 hours.\nHost ezweb.ne.jp is not responding.\n\n\
               The following recipients did not receive this message:\n\n    <neko@ezweb.ne.jp>\n",
        recipients: &["neko@ezweb.ne.jp"],
        reason: Reason::Expired,
    },
    Case {
        server: "KDDI, mailbox full",
        head: "From: no-reply@app.auone-net.jp\nReturn-Path: <>\nSubject: Mail Delivery Failure",
        body: "Your mail sent on: Thu, 29 Apr 2010 11:04:47 +0900\n    Could not be delivered to: <neko@msmx.au.com>\n    \
               As their mailbox is full.\n",
        recipients: &["neko@msmx.au.com"],
        reason: Reason::MailboxFull,
    },
    Case {
        server: "Biglobe",
        head: "From: postmaster@biglobe.ne.jp\nSubject: Returned mail: mailbox full",
        body: "   ----- The following addresses had delivery problems -----\nneko@mta.biglobe.ne.jp\n\n   \
               ----- Non-delivered information -----\nThe number of messages in recipient's mailbox exceeded the local limit.\n",
        recipients: &["neko@mta.biglobe.ne.jp"],
        reason: Reason::MailboxFull,
    },
    Case {
        server: "MailMarshal, the reason before the address",
        head: "From: postmaster@example.com\nTo: cat@example.com\nSubject: Undeliverable Mail: \"hello\"",
        body: "Your message:\n   From:    cat@example.com\n   Subject: hello\n\nCould not be delivered because of\n\n\
               550 5.1.1 User unknown\n\nThe following recipients were affected: \n    neko@example.jp\n\n\
               Additional Information\n======================\nOriginal Sender:    <cat@example.com>\n",
        recipients: &["neko@example.jp"],
        reason: Reason::UserUnknown,
    },
    Case {
        server: "IMail, unknown user",
        head: "From: Postmaster@example.com\nSubject: Undeliverable Mail",
        body: "Unknown user: neko@example.jp\n\nOriginal message follows.\n\nReceived: from a by b\nMessage-Id: <1@a>\n",
        recipients: &["neko@example.jp"],
        reason: Reason::UserUnknown,
    },
    Case {
        server: "IMail, mailbox too large",
        head: "From: Postmaster@example.com\nSubject: Undeliverable Mail",
        body: "User mailbox exceeds allowed size: neko@example.jp\n\nOriginal message follows.\n\nReceived: from a by b\n",
        recipients: &["neko@example.jp"],
        reason: Reason::MailboxFull,
    },
    Case {
        server: "James",
        head: "From: postmaster@james.example.jp\nTo: cat@example.jp\nSubject: [BOUNCE]",
        body: "Hi. This is the James mail server at mx5.example.jp.\nI'm afraid I wasn't able to deliver your message to the following addresses.\n\
               This is a permanent error; I've given up. Sorry it didn't work out.\n\nMessage details:\n  Subject: Nyaan\n  \
               MAIL FROM: cat@example.jp\n  RCPT TO: neko@example.org\n  From: Cat <cat@example.jp>\n\n\
               Error message below:\n550 - Requested action not taken: no such user here\n",
        recipients: &["neko@example.org"],
        reason: Reason::UserUnknown,
    },
    Case {
        server: "m-FILTER",
        head: "From: \"MAILER DAEMON\" <postmaster@mfilter.example.jp>\nSubject: failure notice",
        body: "-------server message\n550 5.1.1 unknown user <neko@example.jp>\n\n-------original mail info\nDate: Thu, 29 Apr 2010\n\
               From: cat@example.com\nSubject: hello\n",
        recipients: &["neko@example.jp"],
        reason: Reason::UserUnknown,
    },
    Case {
        server: "Zoho",
        head: "From: mailer-daemon@mail.zoho.com\nSubject: Undelivered Mail Returned to Sender",
        body: "This message was created automatically by mail delivery software.\nA message that you sent could not be delivered to one or more of its recipients. \
               This is a permanent error. \n\nneko@example.jp Invalid Address, ERROR_CODE :550, ERROR_CODE :5.1.1 <neko@example.jp>: \
               Recipient address rejected: User unknown in virtual alias table\n",
        recipients: &["neko@example.jp"],
        reason: Reason::UserUnknown,
    },
    Case {
        server: "Sun and Oracle Messaging Server, the header quoted first",
        head: "From: Internet Mail Delivery <postmaster@ms.example.jp>\nSubject: Delivery Notification: Delivery has failed",
        body: "This report relates to a message you sent with the following header fields:\n\n  Return-path: <cat@example.com>\n  \
               Received: from a by b; Thu, 29 Apr 2010\n  Message-id: <1@example.com>\n  From: Cat <cat@example.com>\n  To: neko@example.jp\n\n\
               Your message cannot be delivered to the following recipients:\n\n  Recipient address: neko@example.jp\n  \
               Reason: Remote SMTP server has rejected address\n  Diagnostic code: smtp;550 5.1.1 <neko@example.jp>... User Unknown\n",
        recipients: &["neko@example.jp"],
        reason: Reason::UserUnknown,
    },
    Case {
        server: "CommuniGate Pro",
        head: "From: <MAILER-DAEMON@cgp.example.com>\nSubject: Undeliverable mail: hello",
        body: "Failed to deliver to '<neko@example.jp>'\nSMTP module(domain example.jp) reports:\n host mx.example.jp says:\n 550 5.1.1 unknown user\n",
        recipients: &["neko@example.jp"],
        reason: Reason::UserUnknown,
    },
    Case {
        server: "MDaemon, a transcript with times",
        head: "From: MDaemon@example.com\nSubject: Permanent Delivery Failure",
        body: "The attached message had PERMANENT fatal delivery errors!\n\nAfter one or more unsuccessful delivery attempts the attached message has\nbeen removed from the mail queue.\n\n\
               --- Session Transcript ---\n Wed 2008-06-18 14:12:06: --> MAIL From:<cat@example.com>\n Wed 2008-06-18 14:12:06: <-- 250 ok\n \
               Wed 2008-06-18 14:12:06: --> RCPT To:<neko@example.jp>\n Wed 2008-06-18 14:12:06: <-- 550 5.1.1 no such user\n--- End Transcript ---\n",
        recipients: &["neko@example.jp"],
        reason: Reason::UserUnknown,
    },
    Case {
        server: "MailEnable",
        head: "From: MailEnable Postmaster <postmaster@example.com>\nSubject: MailEnable: Message could not be delivered",
        body: "Message could not be delivered to some recipients.\nThe following recipient(s) could not be reached:\n\n    Recipient: [SMTP:neko@example.jp]\n    \
               Reason: Remote SMTP Server Returned: 552 Mailbox quota exceeded\n",
        recipients: &["neko@example.jp"],
        reason: Reason::MailboxFull,
    },
    Case {
        server: "Notes, the reason before the address",
        head: "From: postmaster@notes.example.com\nSubject: DELIVERY FAILURE: User not listed",
        body: "------- Failure Reasons  --------\n\nUser not listed in public Name & Address Book\nneko@notes.example.jp\n\n------- Returned Message --------\n",
        recipients: &["neko@notes.example.jp"],
        reason: Reason::UserUnknown,
    },
    Case {
        server: "qmail, two recipients with two reasons",
        head: "From: MAILER-DAEMON@mx.example.com\nSubject: failure notice",
        body: "Hi. This is the qmail-send program at mx.example.com.\nI'm afraid I wasn't able to deliver your message to the following addresses.\n\
               This is a permanent error; I've given up. Sorry it didn't work out.\n\n<neko@example.jp>:\nSorry, no mailbox here by that name. (#5.1.1)\n\n\
               <mike@example.jp>:\n192.0.2.1 failed after I sent the message.\nRemote host said: 552 over quota\n\n\
               --- Below this line is a copy of the message.\n\nReturn-Path: <cat@example.com>\nReceived: from a by b\n",
        recipients: &["neko@example.jp", "mike@example.jp"],
        reason: Reason::UserUnknown,
    },
];

#[test]
fn every_format_tells_who_and_why() {
    let reader = Reader::new(Classifier::builtin());
    let mut wrong = Vec::new();
    for case in CASES {
        let message = format!("{}\n\n{}", case.head, case.body);
        let report = reader.read(message.as_bytes());
        let got: Vec<&str> = report.failures.iter().map(|f| &*f.recipient).collect();
        if got != case.recipients || report.reason != case.reason {
            wrong.push(format!(
                "{}: {got:?} {} by {:?}",
                case.server, report.reason, report.decided
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_recipient_has_its_own_reason() {
    let reader = Reader::new(Classifier::builtin());
    let case = CASES.last().unwrap();
    let report = reader.read(format!("{}\n\n{}", case.head, case.body).as_bytes());
    let reasons: Vec<Reason> = report.failures.iter().map(|f| f.reason).collect();
    assert_eq!(reasons, [Reason::UserUnknown, Reason::MailboxFull]);
}
