use super::*;
use crate::phase::Phase;
use crate::status::{EnhancedStatus, ReplyCode};

fn steps(text: &str) -> Vec<String> {
    let steps = Step::parse_all(text).unwrap();
    steps.iter().map(ToString::to_string).collect()
}

/// What the rules say of a reply as it stands on the wire.
fn judge<'r>(rules: &'r ReplyRules, provider: &str, phase: Phase, reply: &str) -> Judgement<'r> {
    let code = reply.get(..3).and_then(|code| code.parse().ok());
    rules.judge(&Evidence {
        reply: code.and_then(ReplyCode::new),
        enhanced: reply.split_whitespace().find_map(EnhancedStatus::parse),
        text: reply,
        phase: Some(phase),
        provider: Some(provider),
        policy_provider: None,
    })
}

fn written(judgement: &Judgement<'_>) -> String {
    let steps = judgement.steps.iter().map(ToString::to_string);
    steps.collect::<Vec<_>>().join(", ")
}

#[test]
fn actions_are_read_and_shown_as_they_are_written() {
    let all = "slow 10/1m 30m, sessions 1 1h, fewer-messages 1d, rest-source 2h after 2/1h, alert";
    assert_eq!(steps(all).join(", "), all);
    let rest = "rest-site 5m after 3/5m, fewer-recipients 1h, other-source 10m, next-mx, retry 1m, deferred";
    assert_eq!(steps(rest).join(", "), rest);
    assert!(Step::parse_all("").unwrap().is_empty());
}

#[test]
fn faults_of_actions_say_what_would_be_right() {
    for (text, hint) in [
        ("rest 5m", "known: slow"),
        ("rest-site", "known: slow"),
        ("rest-site 8d", "1s to 7d"),
        ("slow 0/1m 5m", "is no rate"),
        ("rest-site 5m after 0/1h", "write how many"),
        ("delivered, failed", "only be one of"),
        ("normal after 2/1h", "cannot depend"),
        (
            "alert, alert, alert, alert, alert, alert, alert",
            "at most 6",
        ),
    ] {
        let why = Step::parse_all(text).unwrap_err();
        assert!(why.contains(hint), "{text}: {why}");
    }
}

#[test]
fn operators_action_goes_before_the_shipped_one_and_its_fault_names_the_line() {
    let own = "# mine\nrate-limited\tqq,own-row\t-\t-\tfrequency limited\t-\tus\tslow 1/1m 10m\n";
    let rules = ReplyRules::with_overrides("own.tsv", own, &["own-row"]).unwrap();
    for provider in ["qq", "own-row"] {
        let judgement = judge(&rules, provider, Phase::Mail, "550 Ip frequency limited");
        assert_eq!(written(&judgement), "slow 1/1m 10m", "{provider}");
        assert_eq!(judgement.rule.unwrap().to_string(), "own.tsv:2");
    }
    let bad = own.replace("slow 1/1m 10m", "sloow");
    let faults = ReplyRules::with_overrides("own.tsv", &bad, &["own-row"]).unwrap_err();
    assert_eq!((faults.len(), faults[0].line), (1, 2));
    assert!(ReplyRules::with_overrides("own.tsv", own, &[]).is_err());
}

#[test]
fn one_sentence_means_and_does_what_its_phase_and_provider_say() {
    let rules = ReplyRules::builtin();
    let ask = |provider, phase, reply| {
        let judgement = judge(&rules, provider, phase, reply);
        (judgement.reason, judgement.verdict, written(&judgement))
    };
    let unknown = "550 Unknown user a@docomo.ne.jp";
    let (reason, verdict, _) = ask("docomo", Phase::Rcpt, unknown);
    assert_eq!((reason, verdict), (Reason::UserUnknown, Verdict::Hard));
    let (reason, verdict, _) = ask("docomo", Phase::EndOfData, unknown);
    assert_eq!((reason, verdict), (Reason::Filtered, Verdict::Soft));
    let (reason, verdict, _) = ask("au", Phase::EndOfData, "550 : User unknown");
    assert_eq!((reason, verdict), (Reason::Filtered, Verdict::Soft));

    let reset = "the connection was lost: Connection reset by peer (os error 104) (waiting for the reply to RCPT)";
    let (reason, _, steps) = ask("au", Phase::Rcpt, reset);
    assert_eq!(reason, Reason::RateLimited);
    assert_eq!(steps, "slow 1/2s 10m, rest-site 5m after 3/5m");
    assert_eq!(ask("ocn", Phase::Rcpt, reset).2, "");

    let closed = "the server closed the connection (waiting for the reply to MAIL)";
    assert_eq!(ask("yahoo", Phase::Mail, closed).2, "normal");
    assert_eq!(ask("nifty", Phase::Mail, closed).2, "");
}
