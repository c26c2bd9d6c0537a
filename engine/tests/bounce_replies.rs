//! What some hundred servers, gateways and services answer, and the reason each answer is given.
//!
//! The texts (`bounce_replies.tsv`) were written down before the rules had seen them, so the first
//! run measured how the table does on words it does not know; it keeps them from being lost again.

use engine::bounce::{Classifier, Evidence, Group, Reason, Verdict};
use engine::phase::Phase;
use engine::status::{EnhancedStatus, ReplyCode};

const REPLIES: &str = include_str!("bounce_replies.tsv");

fn phase(name: &str) -> Option<Phase> {
    Some(match name {
        "connect" => Phase::Connect,
        "greeting" => Phase::Greeting,
        "mail" => Phase::Mail,
        "rcpt" => Phase::Rcpt,
        "end-of-data" => Phase::EndOfData,
        "-" => return None,
        other => panic!("bounce_replies.tsv: no phase {other:?}"),
    })
}

#[test]
fn replies_get_the_reason_a_human_reads_in_them() {
    let classifier = Classifier::builtin();
    let (mut all, mut verdicts) = (0, 0);
    let mut wrong = Vec::new();
    for (index, line) in REPLIES.lines().enumerate() {
        if line.starts_with('#') {
            continue;
        }
        let columns: Vec<&str> = line.split('\t').collect();
        let [reasons, host, when, text] = columns[..] else {
            panic!("bounce_replies.tsv:{}: {line:?}", index + 1);
        };
        let reasons: Vec<Reason> = reasons
            .split('|')
            .map(|word| Reason::from_name(word).unwrap())
            .collect();
        let reply = text.get(..3).and_then(|code| code.parse().ok());
        let decision = classifier.decide(&Evidence {
            policy_provider: None,
            reply: reply.and_then(ReplyCode::new),
            enhanced: text
                .split([' ', '-'])
                .take(2)
                .find_map(EnhancedStatus::parse),
            text,
            phase: phase(when),
            provider: classifier.provider_of(host),
        });
        all += 1;
        let dead = |reason: &Reason| reason.group() == Group::Address;
        let judged = reasons
            .iter()
            .any(|reason| dead(reason) == (decision.verdict == Verdict::Hard));
        verdicts += usize::from(judged);
        if !reasons.contains(&decision.reason) {
            let rule = decision.rule.map_or(0, |rule| rule.line);
            let mark = if judged { "" } else { " VERDICT" };
            wrong.push(format!(
                "{}:{mark} {} by rule {rule}, not {}: {text}",
                index + 1,
                decision.reason,
                columns[0]
            ));
        }
    }
    println!(
        "{all} replies: reason {}, verdict {verdicts}",
        all - wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
