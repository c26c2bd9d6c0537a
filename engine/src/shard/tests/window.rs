//! Delivery windows. The relay's clock starts on Friday 2027-01-15 at 08:00 UTC.

use super::relay::{Relay, START_MS, policy};
use crate::clock::UnixMs;
use crate::counters::Counter;
use crate::policy::Row;
use crate::schedule::Binding;

const HOUR_MS: i64 = 3_600_000;

fn relay(text: &str) -> Relay {
    let rows = Row::parse_file("policy.toml", text).unwrap_or_else(|errors| panic!("{errors:?}"));
    Relay::with(|settings| settings.policy = policy(rows))
}

/// With a window for `w.example` and what is below it.
fn relay_open(hours: &str, spread: &str) -> Relay {
    relay(&format!(
        "[[domain]]\ndomain = [\"w.example\", \"*.w.example\"]\nwindow = \"{hours}\"\nwindow_spread = \"{spread}\"\n"
    ))
}

#[test]
fn mail_waits_for_the_opening_and_says_so() {
    let mut relay = relay_open("fri 09:00-10:00", "0s");
    relay.accept_many(3, "w.example");
    relay.accept("other.example");
    assert_eq!((relay.delivered, relay.connects.len()), (1, 1));
    let opens = UnixMs(START_MS + 3_600_000);
    let binding = relay.binding("w.example").unwrap();
    let opens_in_s = 3600;
    assert_eq!(binding, Binding::Window { opens, opens_in_s });
    let text = "delivery window closed, opens in 3600 s: 2027-01-15T09:00:00Z";
    assert_eq!(binding.to_string(), text);
    relay.after_s(3599);
    assert_eq!(relay.delivered, 1);
    relay.after_s(2);
    assert_eq!(relay.delivered, 4);
    relay.accept("w.example");
    assert_eq!(relay.delivered, 5, "open is open");
}

#[test]
fn openings_are_spread() {
    let mut relay = relay_open("09:00-12:00", "10m");
    relay.accept_each(200, "w.example");
    relay.after_s(3600);
    let mut before = relay.delivered;
    assert!(before <= 2, "{before} at the opening");
    for minute in 1..=10 {
        relay.after_s(60);
        let begun = relay.delivered - before;
        assert!((5..=40).contains(&begun), "{begun} in minute {minute}");
        before = relay.delivered;
    }
    relay.after_s(1);
    assert_eq!(relay.delivered, 200);
}

#[test]
fn spread_leaves_a_short_window_time_to_send() {
    let mut relay = relay_open("09:00-09:10", "1h");
    relay.accept_each(50, "w.example");
    relay.after_s(3600 + 301);
    assert_eq!(relay.delivered, 50, "in the first half");
}

#[test]
fn what_is_in_flight_at_closing_finishes_and_nothing_begins() {
    let mut relay = relay_open("07:00-08:01", "0s");
    relay.peers_hold();
    relay.accept_many(10, "w.example");
    let begun = relay.held.len();
    assert!((1..10).contains(&begun), "{begun}");
    relay.after_s(61);
    let connects = relay.connects.len();
    relay.peers_end_sessions();
    relay.peers_take();
    relay.after_s(600);
    assert_eq!(relay.delivered, begun);
    assert_eq!(relay.connects.len(), connects);
    let binding = relay.binding("w.example").unwrap();
    assert!(matches!(binding, Binding::Window { .. }), "{binding}");
}

#[test]
fn window_of_a_provider_holds_once_it_is_known_whose_hosts_they_are() {
    let mut relay = relay(
        "[[provider]]\nname = \"p\"\nmx = \"mx.hosted.example\"\nwindow = \"09:00-10:00\"\nwindow_spread = \"0s\"\n\
         [[domain]]\ndomain = \"vip.hosted.example\"\nwindow = \"daily\"\n",
    );
    relay.accept("d.hosted.example");
    relay.accept("vip.hosted.example");
    assert_eq!(relay.delivered, 1, "the domain's row is nearer");
    relay.after_s(3601);
    assert_eq!(relay.delivered, 2);
}

/// An hour ahead it is open; set back, it is closed again.
#[test]
fn clock_that_is_set_by_an_hour_opens_and_closes() {
    let mut relay = relay_open("09:00-10:00", "0s");
    relay.accept("w.example");
    relay.wall_clock_leaps(HOUR_MS);
    relay.after_s(1);
    assert_eq!(relay.delivered, 1);
    relay.wall_clock_leaps(-HOUR_MS);
    relay.accept("w.example");
    relay.after_s(10);
    assert_eq!(relay.delivered, 1);
    // Past its end, the next opening is tomorrow's; an hour back, it is now.
    relay.wall_clock_leaps(2 * HOUR_MS);
    relay.after_s(10);
    assert_eq!(relay.delivered, 1);
    relay.wall_clock_leaps(-HOUR_MS);
    relay.after_s(1);
    assert_eq!(relay.delivered, 2);
}

#[test]
fn mail_expires_while_the_window_is_closed() {
    let mut relay = relay(
        "[[domain]]\ndomain = \"w.example\"\nwindow = \"12:00-13:00\"\nexpire_after = \"30m\"\n",
    );
    relay.accept("w.example");
    relay.after_s(1790);
    assert_eq!(relay.core.status().queued, 1);
    relay.after_s(20);
    assert_eq!(relay.core.status().queued, 0);
    assert_eq!(relay.core.counters().total(Counter::Expired), 1);
    assert_eq!(relay.connects.len(), 0);
}

#[test]
fn closed_destinations_are_not_looked_at_before_the_opening() {
    let mut relay = relay_open("12:00-13:00", "0s");
    relay.accept_each(500, "w.example");
    let asked = relay.questions.len();
    relay.after_s(3600);
    relay.accept_each(500, "w.example");
    relay.after_s(10);
    assert_eq!(relay.core.pool.tended_len(), 0);
    assert_eq!(relay.core.pool.marked_len(), 0);
    assert_eq!(relay.questions.len(), asked, "no question for what waits");
    relay.core.assert_consistent();
}

#[test]
fn reload_that_takes_the_window_away_lets_mail_go() {
    let mut relay = relay_open("12:00-13:00", "0s");
    relay.accept_each(20, "w.example");
    assert_eq!(relay.delivered, 0);
    relay.reload();
    relay.after_s(2);
    assert_eq!(relay.delivered, 20);
    relay.core.assert_consistent();
}
