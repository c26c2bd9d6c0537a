//! The shipped reply rules against what receivers were seen to say.
//!
//! Each case names the words of the shared table of facts that it stands for; where the table is not at
//! hand the rules are tried all the same, and only whether the words are still in it is not.

#![allow(clippy::unwrap_used)]

use engine::bounce::{Evidence, Reason};
use engine::phase::Phase;
use engine::policy::ReplyRules;
use engine::status::{EnhancedStatus, ReplyCode};

const FACTS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../shared/shaping-facts.tsv"
);

/// Words of the table; provider, phase and reply; what is made of it, and what of what is done.
type Case = (
    &'static str,
    &'static str,
    Phase,
    &'static str,
    Reason,
    &'static str,
);

#[rustfmt::skip]
const CASES: &[Case] = &[
    ("temporarily deferred", "outlook", Phase::Mail, "451 4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation.", Reason::BadReputation, "slow 1/1m 90m"),
    ("421 4.7.28 \"unusual rate of mail\"", "google", Phase::EndOfData, "421-4.7.28 Gmail has detected an unusual rate of mail originating from your DKIM domain. To protect 421-4.7.28 our users, mail is rate limited. 421 4.7.28", Reason::RateLimited, "slow 10/1m 30m"),
    ("same Message-ID", "google", Phase::EndOfData, "421 4.7.28 Our system has detected that this message has exceeded its quota for sending messages with the same Message-ID. To best protect our users, the message has been temporarily rejected.", Reason::Content, "alert"),
    ("421 4.7.23", "google", Phase::EndOfData, "421-4.7.23 The sending IP address for this message doesn't have a PTR record", Reason::RequiresPtr, "rest-source 1h"),
    ("550 5.7.25", "google", Phase::EndOfData, "550-5.7.25 The IP address sending this message does not have a PTR record setup", Reason::RequiresPtr, "rest-source 1h"),
    ("450 4.2.1 ReceivingRate", "google", Phase::Rcpt, "450-4.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages from being delivered. 450 4.2.1 ReceivingRate", Reason::RateLimited, "retry 15m, normal"),
    ("452 4.2.2 / 552 5.2.2", "google", Phase::Rcpt, "452-4.2.2 The recipient's inbox is out of storage space", Reason::MailboxFull, "normal"),
    ("452 4.2.2 / 552 5.2.2", "google", Phase::Rcpt, "552-5.2.2 The email account that you tried to reach is over quota", Reason::MailboxFull, "normal"),
    ("550 5.7.26", "google", Phase::EndOfData, "550-5.7.26 This mail is unauthenticated, which poses a security risk", Reason::AuthFailure, "alert"),
    ("WITHOUT an error code", "yahoo", Phase::Mail, "the server closed the connection (waiting for the reply to MAIL)", Reason::NetworkError, "normal"),
    ("421 4.7.0 [TSS04]", "yahoo", Phase::Mail, "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints", Reason::BadReputation, "rest-source 2h after 2/1h"),
    ("[TSS0", "yahoo", Phase::Mail, "421 4.7.0 [TSS02] Messages from 192.0.2.1 temporarily deferred", Reason::BadReputation, "rest-source 2h after 2/1h"),
    ("553 5.7.2 [TSS09]", "yahoo", Phase::Mail, "553 5.7.2 [TSS09] All messages from 192.0.2.1 will be permanently deferred", Reason::BadReputation, "rest-source 1d"),
    ("[TSS11] permanently", "yahoo", Phase::Mail, "553 5.7.2 [TSS11] All messages from 192.0.2.1 will be permanently deferred", Reason::BadReputation, "rest-source 1d"),
    ("mailbox not found", "yahoo", Phase::EndOfData, "552 1 Requested mail action aborted, mailbox not found", Reason::UserUnknown, ""),
    ("This user doesn't have", "yahoo", Phase::EndOfData, "554 delivery error: dd This user doesn't have a yahoo.com account (x@yahoo.com)", Reason::UserUnknown, ""),
    ("VS98-IP0 deferred", "yahoo.co.jp", Phase::Mail, "421 VS98-IP0 deferred", Reason::BadReputation, "rest-source 1h after 2/1h"),
    ("421 [IPTS04]", "yahoo.co.jp", Phase::Mail, "421 4.7.0 [IPTS04] Messages from 192.0.2.1 temporarily deferred due to user complaints", Reason::BadReputation, "rest-source 1h after 2/1h"),
    ("Timeout waiting for command", "yahoo.co.jp", Phase::Mail, "421 Timeout waiting for command", Reason::RateLimited, "rest-site 30m after 2/1h"),
    ("421 Message from (IP) temporarily deferred - 4.16.50", "yahoo.co.jp", Phase::Greeting, "421 Message from (192.0.2.1) temporarily deferred - 4.16.50. Please refer to http://help.yahoo.co.jp/", Reason::BadReputation, "next-mx"),
    ("554 Transaction failed", "docomo", Phase::Rcpt, "554 Transaction failed", Reason::RateLimited, "deferred, retry 1m, fewer-recipients 1h"),
    ("connections temporarily refused", "docomo", Phase::Connect, "Connection refused (os error 111)", Reason::RateLimited, "sessions 1 1h"),
    ("500 Line Too Long", "docomo", Phase::EndOfData, "500 Line Too Long", Reason::Content, ""),
    ("550 Unknown user at RCPT", "docomo", Phase::Rcpt, "550 Unknown user a@docomo.ne.jp", Reason::UserUnknown, "slow"),
    ("550 Unknown user after end of DATA", "docomo", Phase::EndOfData, "550 Unknown user a@docomo.ne.jp", Reason::Filtered, ""),
    ("552 Too much mail data", "docomo", Phase::Rcpt, "552 Too much mail data a@docomo.ne.jp", Reason::MailboxFull, ""),
    ("552 Too many recipients", "docomo", Phase::Rcpt, "552 Too many recipients", Reason::RateLimited, "fewer-recipients 1h"),
    ("TCP RESET", "au", Phase::Rcpt, "the connection was lost: Connection reset by peer (os error 104) (waiting for the reply to RCPT)", Reason::RateLimited, "rest-site 5m after 3/5m"),
    ("TCP RESET", "au", Phase::Connect, "Connection reset by peer (os error 104)", Reason::RateLimited, "slow 1/2s 10m"),
    ("550 <addr>: User unknown", "au", Phase::Rcpt, "550 <a@au.com>: User unknown", Reason::UserUnknown, "slow"),
    ("550 : User unknown", "au", Phase::EndOfData, "550 : User unknown", Reason::Filtered, ""),
    ("554 <addr>: Relay access denied", "au", Phase::Rcpt, "554 <a..b@au.com>: Relay access denied", Reason::RelayingDenied, ""),
    ("550 Invalid recipient: <addr>", "softbank", Phase::Rcpt, "550 Invalid recipient: <a@softbank.ne.jp>", Reason::UserUnknown, "slow"),
    ("553 <domain> does not exist", "softbank", Phase::Mail, "553 <example.jp> does not exist", Reason::SenderRejected, "alert"),
    ("421 #4.x.2 Too many messages", "jcom", Phase::Mail, "421 #4.x.2 Too many messages for this session", Reason::RateLimited, "fewer-messages 1d"),
    ("550 Invalid recipient; 553", "jcom", Phase::Rcpt, "550 Invalid recipient: <a@jcom.home.ne.jp>", Reason::UserUnknown, ""),
    ("421 4.7.1 excessive volume", "icloud", Phase::EndOfData, "421 4.7.1 Messages to a@icloud.com deferred due to excessive volume. Try again later", Reason::RateLimited, "rest-source 15m after 3/1h"),
    ("451 4.7.1 try again later", "icloud", Phase::Rcpt, "451 4.7.1 Please try again later (top of the hour)", Reason::RateLimited, "rest-source 15m after 3/1h"),
    ("[HCM1] [BS02] 421/451", "icloud", Phase::Rcpt, "451 4.7.1 [HCM1] Message deferred", Reason::RateLimited, "rest-source 15m after 3/1h"),
    ("550 5.7.1 [CS01]", "icloud", Phase::EndOfData, "550 5.7.1 [CS01] Message rejected due to local policy.", Reason::Blocked, "alert"),
    ("5.7.1 [HM08]", "icloud", Phase::EndOfData, "550 5.7.1 [HM08] Message rejected due to local policy.", Reason::Blocked, "alert"),
    ("554 5.7.1 [CS02]", "icloud", Phase::EndOfData, "554 5.7.1 [CS02] Message rejected", Reason::Blocked, "alert"),
    ("[HME1] SPF+DKIM fail", "icloud", Phase::EndOfData, "554 5.7.1 [HME1] This message was blocked for failing both SPF and DKIM", Reason::AuthFailure, "alert"),
    ("451 4.7.652 exceeded maximum connections (S3115)", "outlook", Phase::Mail, "451 4.7.652 The mail server [192.0.2.1] has exceeded the maximum number of connections. (S3115)", Reason::RateLimited, "sessions 1 1h"),
    ("block list (S3140/S3150)", "outlook", Phase::Mail, "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3140).", Reason::Blocked, "rest-source 2h"),
    ("550 5.7.515", "outlook", Phase::EndOfData, "550 5.7.515 Access denied, sending domain example.jp does not meet the required authentication level.", Reason::AuthFailure, "alert"),
    ("RL000010", "comcast", Phase::Mail, "421 4.2.0 Throttled - try again later. RL000010", Reason::RateLimited, "rest-site 5m"),
    ("RL0000 ->", "comcast", Phase::Mail, "421 4.2.0 Throttled - try again later. RL000003", Reason::RateLimited, "slow 10000/1h 2h"),
    ("Trop de connexions", "orange", Phase::Greeting, "421 mwinf5c10 ME Trop de connexions, veuillez verifier votre configuration.", Reason::RateLimited, "sessions 1 1h"),
    ("Service refuse", "orange", Phase::Mail, "550 5.7.1 Service refuse. Veuillez essayer plus tard.", Reason::Blocked, "rest-source 1h"),
    ("\"Too many connections\" -> 1 conn 30m", "gmx", Phase::Greeting, "421 Too many connections", Reason::RateLimited, "sessions 1 30m"),
    ("frequency limited", "qq", Phase::Mail, "550 Domain frequency limited [abc IP: 192.0.2.1]", Reason::RateLimited, "deferred, rest-source 1h"),
    ("451 DT:SPM", "netease", Phase::EndOfData, "451 DT:SPM 163 smtp11", Reason::Spam, ""),
    ("550 RP:ORQ", "netease", Phase::Rcpt, "550 RP:ORQ 163 smtp12", Reason::RateLimited, "deferred, rest-source 1h"),
    ("554 HL:ITC", "netease", Phase::Mail, "554 HL:ITC 163 smtp12", Reason::RateLimited, "deferred, rest-source 1h"),
    ("Internal resource temporarily unavailable", "mimecast", Phase::Greeting, "451 Internal resource temporarily unavailable", Reason::SystemError, "rest-site 30m"),
    ("Server busy", "office365", Phase::Connect, "451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (S77719)", Reason::RateLimited, "sessions 1 1h"),
    ("no public guideline found", "rakuten", Phase::Mail, "421 4.3.2 Service not available", Reason::RateLimited, "slow 1/1s 10m after 2/10m"),
];

#[test]
fn every_reply_of_the_facts_is_understood_and_acted_upon() {
    let facts = std::fs::read_to_string(FACTS).unwrap_or_default();
    if facts.is_empty() {
        println!("note: {FACTS} is not here: whether its words have changed is not looked at");
        assert!(std::env::var_os("HIKYAKU_REQUIRE_SHARED").is_none_or(|v| v != "1"));
    }
    let rules = ReplyRules::builtin();
    let mut wrong = Vec::new();
    for (words, provider, phase, reply, reason, action) in CASES {
        let words = words.replace("Server busy", "Server busy\\.");
        if !facts.is_empty() && !facts.contains(&words) {
            wrong.push(format!("the facts hold no {words:?} any more"));
        }
        let code = reply.get(..3).and_then(|code| code.parse().ok());
        let judgement = rules.judge(&Evidence {
            reply: code.and_then(ReplyCode::new),
            enhanced: reply.split([' ', '-']).find_map(EnhancedStatus::parse),
            text: reply,
            phase: Some(*phase),
            provider: Some(provider),
            policy_provider: None,
        });
        let steps: Vec<String> = judgement.steps.iter().map(ToString::to_string).collect();
        let steps = steps.join(", ");
        if judgement.reason != *reason
            || !steps.contains(action)
            || action.is_empty() && !steps.is_empty()
        {
            wrong.push(format!(
                "{provider} {phase}: {reply}\n  {} [{steps}], not {reason} [{action}]",
                judgement.reason
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_provider_of_the_facts_has_a_shipped_row() {
    let rows = engine::policy::shipped();
    for name in [
        "google",
        "yahoo",
        "yahoo.co.jp",
        "outlook",
        "office365",
        "icloud",
        "docomo",
        "au",
        "softbank",
        "rakuten",
        "jcom",
        "qq",
        "plala",
        "ocn",
        "so-net",
        "biglobe",
        "nifty",
        "comcast",
        "orange",
        "gmx",
        "163",
        "mimecast",
        "barracuda",
        "kpn",
    ] {
        assert!(rows.iter().any(|row| &*row.name == name), "{name}");
    }
}
