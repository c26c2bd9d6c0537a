//! What the sending policy does to mail.

use std::rc::Rc;
use std::sync::Arc;

use super::relay::{self, Relay, set_default, settings};
use crate::counters::Counter;
use crate::policy::{Key, Policy, Row, Value};
use crate::schedule::Binding;

pub(super) fn policy(text: &str) -> Arc<Policy> {
    let rows = Row::parse_file("policy.toml", text).unwrap_or_else(|errors| panic!("{errors:?}"));
    relay::policy(rows)
}

fn relay(text: &str) -> Relay {
    Relay::with(|settings| settings.policy = policy(text))
}

#[test]
fn provider_has_its_sessions_and_others_theirs() {
    let mut relay =
        relay("[[provider]]\nname = \"p\"\ndomains = \"p.example\"\nsessions_max = 1\n");
    relay.peers_hold();
    relay.accept_many(10, "p.example");
    relay.accept_many(10, "other.example");
    relay.after_s(3);
    assert_eq!(
        relay.connects.len(),
        1 + 2,
        "one, and the two of the settings"
    );
    let binding = relay.binding("p.example");
    assert_eq!(binding, Some(Binding::SessionsMax { sessions: 1 }));
}

#[test]
fn sessions_are_counted_by_receiving_address_too() {
    let text = "[[provider]]\nname = \"p\"\nmx = \"*.three.example\"\nsessions_max = 50\nsessions_per_mta = 2\n";
    let mut relay = relay(text);
    relay.peers_hold();
    relay.accept_many(40, "a.three.example");
    relay.after_s(5);
    // Of three hosts the most preferred, with an address of each family.
    assert_eq!(relay.connects.len(), 2 * 2);
}

#[test]
fn provider_is_known_by_its_mx_hosts_if_all_are_its_own() {
    let text = "[[provider]]\nname = \"p\"\nmx = \"mx.hosted.example\"\nmessages_per_session = 3\n";
    let mut relay = relay(text);
    for n in 0..9 {
        relay.accept(&format!("d{n}.hosted.example"));
    }
    relay.after_s(2);
    assert_eq!(relay.delivered, 9);
    assert!(relay.connects.len() >= 3, "three messages each at most");
}

#[test]
fn rate_is_kept_to_the_message_and_says_what_is_waited_for() {
    let text = "[[provider]]\nname = \"p\"\ndomains = \"p.example\"\nmessages_per_minute = 30\n";
    let mut relay = relay(text);
    relay.accept_many(100, "p.example");
    let at_once = relay.delivered;
    assert_eq!(at_once, 1, "no burst");
    let binding = relay.binding("p.example").unwrap().to_string();
    assert_eq!(binding, "messages_per_minute = 30: the next in 2000 ms");
    relay.after_s(60);
    assert_eq!(relay.delivered - at_once, 30);
    relay.after_s(60);
    assert_eq!(relay.delivered - at_once, 60);
}

#[test]
fn connections_are_opened_no_faster_than_allowed() {
    let text = "[[provider]]\nname = \"p\"\ndomains = \"p.example\"\n\
                messages_per_session = 1\nconnections_per_minute = 6\n";
    let mut relay = relay(text);
    relay.accept_many(100, "p.example");
    assert_eq!(relay.connects.len(), 1);
    relay.after_s(60);
    assert_eq!(relay.connects.len(), 1 + 6);
}

#[test]
fn limits_of_a_reload_hold_at_once_for_sites_that_are_known() {
    let mut relay =
        relay("[[provider]]\nname = \"p\"\ndomains = \"p.example\"\nsessions_max = 1\n");
    relay.peers_hold();
    relay.accept_many(10, "p.example");
    relay.after_s(2);
    assert_eq!(relay.connects.len(), 1);
    let mut new = settings();
    new.policy = policy("[[provider]]\nname = \"p\"\ndomains = \"p.example\"\nsessions_max = 5\n");
    relay.core.reload(Rc::new(new));
    relay.after_s(10);
    assert_eq!(relay.connects.len(), 5);
}

#[test]
fn domain_has_a_retry_schedule_and_an_expiry_of_its_own() {
    let text = "[[domain]]\ndomain = \"slow.example\"\nretry_schedule = \"10m\"\n\
                retry_jitter_percent = 0\nexpire_after = \"25m\"\n";
    let mut relay = relay(text);
    relay.peers_break();
    relay.accept("slow.example");
    relay.accept("plain.example");
    relay.after_s(61);
    relay.peers_take();
    relay.after_s(120);
    assert_eq!(
        relay.delivered, 1,
        "the settings' minute is over, not the ten"
    );
    relay.peers_break();
    relay.after_s(11 * 60);
    relay.after_s(15 * 60);
    assert_eq!(relay.binding("slow.example"), None, "it has expired");
    assert_eq!(relay.delivered, 1);
}

/// After a start no lookup has shown yet whose a domain is: mail that its provider gives ten days was given
/// up after the five of all others.
#[test]
fn nothing_expires_before_it_is_known_whose_it_is() {
    let rows = "[[provider]]\nname = \"p\"\ndomains = \"p.example\"\nexpire_after = \"1d\"\n";
    let mut relay = Relay::with(|settings| {
        settings.policy = policy(rows);
        set_default(settings, Key::ExpireAfter, Value::Duration(600_000));
    });
    relay.resolver_hangs();
    relay.accept("p.example");
    relay.accept("plain.example");
    relay.after_s(1200);
    assert_eq!(relay.counted(Counter::Expired), 0);
    relay.resolver_answers();
    relay.after_s(1200);
    assert_eq!(relay.counted(Counter::Expired), 1, "the one of nobody");
    assert_eq!(relay.delivered, 1);
}
