//! What an operator asks for and is told.

use super::super::ENTRIES_PER_TURN_MAX;
use super::relay::Relay;
use crate::schedule::Binding;

#[test]
fn a_retry_of_one_domain_leaves_the_others_and_their_back_off() {
    let mut relay = Relay::with_deferred(&["a.example", "b.example"]);
    assert_eq!(relay.retry(Some("a.example")), Some(1));
    relay.after_ms(100);
    relay.after_ms(100);
    assert_eq!(relay.delivered, 1);
    assert_eq!(relay.binding("a.example"), None);
    let binding = relay.binding("b.example");
    assert!(
        matches!(binding, Some(Binding::SiteBackoff { .. })),
        "{binding:?}"
    );
    assert_eq!(relay.retry(Some("nowhere.example")), Some(0));
    assert_eq!(relay.retry(None), Some(1));
    relay.after_ms(100);
    relay.after_ms(100);
    assert_eq!(relay.delivered, 2);
}

#[test]
fn a_search_over_a_large_queue_takes_slices() {
    const MESSAGES: usize = 20_000;
    let mut relay = Relay::new();
    relay.resolver_hangs();
    for n in 0..MESSAGES {
        relay.accept(&format!("d{}.example", n % 4));
    }
    let (found, slices) = relay.searched(Some("d1.example"));
    assert!(slices >= MESSAGES / ENTRIES_PER_TURN_MAX, "{slices}");
    assert_eq!(found, MESSAGES / 4);
}

#[test]
fn mail_that_waits_while_stopping_says_so() {
    let mut relay = Relay::new();
    relay.core.drain();
    relay.accept("a.example");
    assert_eq!(relay.binding("a.example"), Some(Binding::Stopping));
}

#[test]
fn reloaded_routes_send_waiting_mail_to_its_lookup_again() {
    let mut relay = Relay::new();
    relay.peers_refuse("connection refused");
    relay.accept_each(100, "hosted.example");
    relay.accept_each(100, "hosted.example");
    relay.reload();
    relay.peers_take();
    relay.after_s(300);
    assert_eq!(relay.delivered, 200);
}

#[test]
fn levels_count_recipients_and_messages_are_named_so() {
    let mut relay = Relay::new();
    relay.peers_refuse("connection refused");
    relay.accept_for("dead.example", 2);
    let status = relay.core.status();
    assert_eq!((status.queued, status.deferred), (2, 2));
    assert_eq!(status.queued_messages, 1);
}
