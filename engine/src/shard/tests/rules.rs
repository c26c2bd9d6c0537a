//! What reply rules do to mail and its site.

use std::collections::HashSet;
use std::sync::Arc;

use super::relay::{Relay, set_default};
use crate::counters::Counter;
use crate::phase::Phase;
use crate::policy::{Key, ReplyRules, Value};
use crate::schedule::Binding;
use crate::status::EnhancedStatus;

/// A relay with one rule of the operator's: for replies that hold `busy here`.
fn relay(action: &str) -> Relay {
    relay_with(action, |_| {})
}

fn relay_with(action: &str, change: impl FnOnce(&mut crate::shard::Settings)) -> Relay {
    let rule = format!("rate-limited\t-\t-\t-\tbusy here\tbusy here\tus\t{action}\n");
    let rules = ReplyRules::with_overrides("own.tsv", &rule, &[]).unwrap();
    Relay::with(|settings| {
        settings.rules = Arc::new(rules);
        change(settings);
    })
}

fn busy(relay: &mut Relay) {
    relay.peers_say(Phase::Mail, 451, "4.7.1 busy here");
}

#[test]
fn site_rests_as_long_as_the_rule_says_and_says_so() {
    let mut relay = relay("rest-site 10m");
    busy(&mut relay);
    relay.accept_many(3, "d.example");
    assert_eq!(
        relay.sent.len(),
        1,
        "the reply to the first has the others wait"
    );
    let binding = relay.binding("d.example").unwrap();
    let Binding::RuleRest {
        rule, rest_in_s, ..
    } = &binding
    else {
        panic!("{binding:?}");
    };
    assert_eq!((&**rule, *rest_in_s), ("own.tsv:1", 600));
    assert!(binding.to_string().contains("busy here"), "{binding}");
    relay.accept("other.example");
    assert_eq!(relay.sent.len(), 2, "it is the site's rest alone");

    relay.peers_take();
    relay.after_s(598);
    assert_eq!(relay.delivered, 0);
    relay.after_s(3);
    assert_eq!(relay.delivered, 4);
}

/// The last word of several connections is not the one that counts.
#[test]
fn shorter_rest_does_not_end_a_longer_one() {
    let rule =
        |text: &str, action: &str| format!("rate-limited\t-\t-\t-\t{text}\t{text}\tus\t{action}\n");
    for shorter in ["rest-site 10s", "other-source 10s"] {
        let rules = rule("long rest", "rest-site 10m") + &rule("short rest", shorter);
        let rules = ReplyRules::with_overrides("own.tsv", &rules, &[]).unwrap();
        let mut relay = Relay::with(|settings| settings.rules = Arc::new(rules));
        relay.peers_hold();
        relay.accept("d.example");
        relay.accept_many(9, "d.example");
        let under_way = relay.held.len();
        assert!(under_way >= 2, "{under_way}");
        relay.first_held_says(451, "4.7.1 long rest");
        relay.first_held_says(451, "4.7.1 short rest");
        let binding = relay.binding("d.example").unwrap();
        let Binding::RuleRest { rest_in_s, .. } = &binding else {
            panic!("{binding:?}");
        };
        assert_eq!(*rest_in_s, 600, "{shorter}");
    }
}

#[test]
fn operator_who_retries_ends_a_rest() {
    let mut relay = relay("rest-site 1d");
    busy(&mut relay);
    relay.accept("d.example");
    relay.peers_take();
    relay.after_s(100);
    assert_eq!(
        relay.delivered, 0,
        "its retry time has come, the site's has not"
    );
    relay.retry(Some("d.example"));
    relay.after_s(1);
    assert_eq!(relay.delivered, 1);
}

/// After a reload no destination has a site until it is looked up again, and the retry was lost.
#[test]
fn operator_who_retries_just_after_a_reload_ends_a_rest() {
    let mut relay = relay("rest-site 1d");
    busy(&mut relay);
    relay.accept("d.example");
    relay.peers_take();
    relay.reload();
    relay.retry(Some("d.example"));
    relay.after_s(1);
    assert_eq!(relay.delivered, 1);
}

#[test]
fn rest_begins_with_the_reply_it_says_to_wait_for() {
    let mut relay = relay("rest-site 10m after 3/30s");
    busy(&mut relay);
    relay.accept_many(2, "d.example");
    assert_eq!(relay.sent.len(), 2);
    // It is counted anew by the time of the retries.
    relay.after_s(61);
    let so_far = relay.sent.len();
    assert!(relay.binding("d.example").is_none() && so_far >= 3);
    relay.accept("d.example");
    assert!(matches!(
        relay.binding("d.example"),
        Some(Binding::RuleRest { .. })
    ));
}

#[test]
fn slowed_site_is_sent_no_more_than_the_rule_allows() {
    let mut relay = relay("slow 6/1m 10m");
    busy(&mut relay);
    relay.accept("d.example");
    relay.peers_take();
    relay.accept_many(100, "d.example");
    relay.after_s(1);
    let Some(Binding::RuleSlow { units, per_s, .. }) = relay.binding("d.example") else {
        panic!("{:?}", relay.binding("d.example"));
    };
    assert_eq!((units, per_s), (6, 60));
    relay.after_s(120);
    assert!((12..=14).contains(&relay.delivered), "{}", relay.delivered);
    relay.after_s(600);
    assert_eq!(relay.delivered, 101, "the rule has ended");
}

#[test]
fn site_has_the_sessions_and_the_messages_that_rules_leave_it() {
    let mut relay = relay("sessions 1 10m");
    busy(&mut relay);
    relay.accept("d.example");
    relay.peers_hold();
    relay.accept_many(20, "d.example");
    relay.after_s(5);
    assert_eq!(
        relay.held.len(),
        1,
        "one session, which holds its transaction"
    );

    let mut relay = relay_with("fewer-messages 1d", |settings| {
        set_default(settings, Key::MessagesPerSession, Value::Count(8));
    });
    relay.accept_many(5, "d.example");
    busy(&mut relay);
    relay.accept("d.example");
    relay.peers_take();
    relay.connects.clear();
    relay.accept_many(30, "d.example");
    relay.after_s(90);
    assert_eq!(relay.delivered, 36);
    assert!(
        relay.connects.len() >= 9,
        "of at most half of 6 messages each"
    );
}

#[test]
fn transactions_have_half_the_recipients_of_the_refused_one() {
    let mut relay = relay("deferred, fewer-recipients 1h, retry 1m");
    relay.peers_say(Phase::Rcpt, 552, "busy here");
    relay.accept_for("d.example", 40);
    assert_eq!(
        relay.counted(Counter::Failed),
        0,
        "a 552 that is no failure"
    );
    relay.peers_take();
    relay.after_s(120);
    assert_eq!((relay.delivered, &relay.sent[..]), (40, &[40, 20, 20][..]));
}

#[test]
fn message_is_taken_for_what_the_rule_says() {
    for (action, code, counter) in [
        ("delivered", 550, Counter::Delivered),
        ("failed", 450, Counter::Failed),
        ("deferred", 550, Counter::Tempfail),
    ] {
        let mut relay = relay(action);
        relay.peers_say(Phase::EndOfData, code, "busy here");
        relay.accept("d.example");
        assert_eq!(relay.counted(counter), 1, "{action}");
        let is_queued = relay.core.status().queued == 1;
        assert_eq!(is_queued, action == "deferred", "{action}");
    }
}

#[test]
fn refused_source_rests_at_the_site_and_others_go_on() {
    let ours = ["198.51.100.1", "198.51.100.2"].map(|ip| ip.parse().unwrap());
    let mut relay = relay_with("other-source 10m", |settings| {
        settings.source_addresses = ours.into();
        set_default(settings, Key::SessionsMax, Value::Count(1));
    });
    relay.addresses.truncate(1);
    busy(&mut relay);
    relay.accept("d.example");
    let refused = relay.connects[0].source;
    relay.peers_take();
    relay.after_s(3);
    assert_eq!(relay.delivered, 1, "at once, from the other one");
    assert_ne!(relay.connects[1].source, refused);
    relay.accept_many(5, "other.example");
    relay.after_s(1);
    let elsewhere: HashSet<_> = relay.connects[2..].iter().map(|c| c.source).collect();
    assert!(elsewhere.contains(&refused) || relay.connects.len() == 3);

    // The last of them rests too: so does the site, until the first has rested.
    busy(&mut relay);
    relay.accept("d.example");
    assert!(matches!(
        relay.binding("d.example"),
        Some(Binding::RuleRest { rest_in_s, .. }) if rest_in_s < 600
    ));
    relay.peers_take();
    relay.after_s(601);
    assert_eq!(relay.connects.last().unwrap().source, refused);
}

#[test]
fn message_goes_to_the_next_mx_at_once_and_the_first_is_passed_over() {
    let mut relay = relay("next-mx");
    relay.addresses = vec!["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
    relay.peer_says("192.0.2.1", Phase::Rcpt, 451, "busy here");
    for _ in 0..8 {
        relay.accept("d.example");
        relay.after_s(3);
    }
    assert_eq!(relay.delivered, 8);
    let refused = relay.sent.len() - 8;
    assert!(
        refused <= 1,
        "{refused} went to the one that is passed over"
    );

    // Where there is no other, the schedule holds.
    relay.addresses.truncate(1);
    relay.ttl_s = 1;
    relay.accept("alone.example");
    relay.after_s(3);
    assert_eq!(relay.core.status().deferred, 1);
    assert!(relay.binding("alone.example").is_none());
}

#[test]
fn greeting_421_tries_the_other_addresses_before_the_site_rests() {
    let mut relay = relay("rest-site 10m");
    let code = EnhancedStatus::new(4, 7, 0);
    relay.peers_refuse_with(421, code, "busy here");
    relay.accept("d.example");
    let tried: HashSet<_> = relay.connects.iter().map(|c| c.target).collect();
    assert_eq!(tried.len(), 2, "both addresses of the host");
    assert!(matches!(
        relay.binding("d.example"),
        Some(Binding::RuleRest { rest_in_s: 600, .. })
    ));
}

#[test]
fn operator_is_told_once_an_hour() {
    let mut relay = relay("alert");
    busy(&mut relay);
    relay.accept_many(5, "d.example");
    assert_eq!(relay.alerts.len(), 1);
    assert_eq!(
        relay.alerts[0],
        "mx.d.example: rule own.tsv:1: 451 4.7.1 busy here"
    );
    relay.after_s(3700);
    assert_eq!(relay.alerts.len(), 2);
}

#[test]
fn shipped_rule_takes_a_reset_for_congestion_where_the_receiver_says_so() {
    let mut relay = Relay::with(|settings| settings.site_backoff_ms = (1000, 1000));
    relay.peers_refuse("Connection reset by peer (os error 104)");
    relay.accept("ezweb.ne.jp");
    relay.peers_take();
    relay.accept_many(20, "ezweb.ne.jp");
    relay.after_s(10);
    let binding = relay.binding("ezweb.ne.jp");
    assert!(
        matches!(
            binding,
            Some(Binding::RuleSlow {
                units: 1,
                per_s: 2,
                ..
            })
        ),
        "{binding:?}"
    );
    assert!(relay.delivered <= 6, "{}", relay.delivered);
}

#[test]
fn greylisted_mail_comes_back_when_the_receiver_says() {
    let slow = |settings: &mut crate::shard::Settings| {
        set_default(
            settings,
            Key::RetrySchedule,
            Value::Durations([3_600_000].into()),
        );
    };
    for (text, before_s, after_s) in [
        ("4.7.1 Greylisted", 59, 62),
        ("4.7.1 Greylisted, try again in 4 minutes", 239, 242),
    ] {
        let mut relay = Relay::with(slow);
        relay.peers_say(Phase::Rcpt, 450, text);
        relay.accept("d.example");
        relay.peers_take();
        relay.after_s(before_s);
        assert_eq!(relay.delivered, 0, "{text}");
        relay.after_s(after_s - before_s);
        assert_eq!(relay.delivered, 1, "{text}");
    }
}

#[test]
fn site_with_a_pace_is_sent_what_it_has_shown_to_take() {
    let text = "[[provider]]\nname = \"p\"\ndomains = \"d.example\"\nadaptive_decrease_percent = 50\n\
        adaptive_floor = 12\n";
    let rows = crate::policy::Row::parse_file("policy.toml", text).unwrap();
    let policy = Arc::new(crate::policy::Policy::new(Vec::new(), Vec::new(), rows));
    let mut relay = Relay::with(|settings| settings.policy = policy);
    relay.accept_many(20, "d.example");
    assert_eq!(relay.delivered, 20);
    // What says nothing of too much mail is no reason to be slower.
    relay.peers_say(Phase::Rcpt, 452, "4.2.2 mailbox full");
    relay.accept("d.example");
    relay.peers_take();
    relay.accept_many(20, "d.example");
    assert_eq!(relay.delivered, 40);

    relay.after_s(30);
    relay.peers_say(Phase::Mail, 421, "4.7.0 too many messages from you");
    relay.accept("d.example");
    relay.peers_take();
    relay.accept_many(100, "d.example");
    let binding = relay.binding("d.example");
    assert!(
        matches!(binding, Some(Binding::Paced { per_min: 12, .. })),
        "{binding:?}"
    );
    let before = relay.delivered;
    relay.after_s(20);
    assert!(
        (3..=6).contains(&(relay.delivered - before)),
        "{}",
        relay.delivered - before
    );
    // It rises while mail is taken.
    relay.after_s(400);
    assert_eq!(relay.core.status().queued, 0);
    relay.accept_many(50, "other.example");
    assert!(
        relay.binding("other.example").is_none(),
        "it is the site's own"
    );
}

#[test]
fn failures_of_a_class_have_the_schedule_that_the_policy_gives_them() {
    let text = "[[domain]]\ndomain = \"d.example\"\nretry_schedule_mailbox = \"2h\"\n";
    let rows = crate::policy::Row::parse_file("policy.toml", text).unwrap();
    let policy = super::relay::policy(rows);
    let mut relay = Relay::with(|settings| settings.policy = policy);
    relay.peers_say(Phase::Rcpt, 452, "4.2.2 mailbox full");
    relay.accept("d.example");
    relay.accept("other.example");
    relay.peers_take();
    relay.after_s(70);
    assert_eq!(relay.delivered, 1, "the other domain's");
    relay.after_s(7000);
    assert_eq!(relay.delivered, 1);
    relay.after_s(200);
    assert_eq!(relay.delivered, 2);
}
