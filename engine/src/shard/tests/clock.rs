//! The wall clock leaps.

use super::relay::{Relay, set_default};
use crate::counters::{By, Counter, Window};
use crate::policy::{Key, Value};
use crate::status::EnhancedStatus;

#[test]
fn nothing_expires_while_the_wall_clock_is_wrong() {
    let mut relay = Relay::with_deferred(&["a.example"]);
    let two_days_ms = 2 * 86_400_000;
    relay.wall_clock_leaps(two_days_ms);
    relay.after_ms(100);
    relay.wall_clock_leaps(-two_days_ms);
    relay.after_ms(100);
    assert_eq!(relay.leaps, 2, "each is reported");
    assert_eq!(relay.core.status().expired, 0);
    assert_eq!(relay.core.status().queued, 1);
    relay.after_s(200);
    assert_eq!(relay.delivered, 1);
}

#[test]
fn a_wall_clock_set_back_delays_no_retry() {
    let mut relay = Relay::with_deferred(&["a.example"]);
    relay.wall_clock_leaps(-3_600_000);
    relay.after_s(70);
    assert_eq!((relay.delivered, relay.leaps), (1, 1));
}

#[test]
fn counts_stay_in_their_windows_while_the_wall_clock_is_wrong() {
    let mut relay = Relay::new();
    relay.accept("a.example");
    let two_days_ms = 2 * 86_400_000;
    relay.wall_clock_leaps(two_days_ms);
    relay.after_ms(100);
    relay.wall_clock_leaps(-two_days_ms);
    relay.after_ms(100);
    relay.accept("a.example");
    let table = relay.core.counters().table(By::Total, Window::Minutes);
    let delivered = table.newest().unwrap()[Counter::Delivered as usize];
    assert_eq!(delivered, 2, "all in the 5 minutes that run");
}

#[test]
fn expired_mail_of_a_campaign_is_settled_a_bounded_part_at_a_time() {
    let mut relay = Relay::with(|settings| {
        set_default(settings, Key::ExpireAfter, Value::Duration(100_000));
    });
    relay.peers_refuse("nobody there");
    relay.accept_many(20_000, "a.example");
    relay.after_s(99);
    relay.peers_take();
    let mut before = relay.counted(Counter::Expired);
    let mut turns = 0;
    while relay.counted(Counter::Expired) < 20_000 {
        relay.after_ms(1000);
        let expired = relay.counted(Counter::Expired);
        // A tick sweeps, and a connection that opens looks for mail: each its part.
        assert!(
            expired - before <= 3 * 4096,
            "{} in one turn",
            expired - before
        );
        before = expired;
        turns += 1;
        assert!(
            turns < 400,
            "{expired} expired, {} delivered",
            relay.delivered
        );
        if relay.delivered > 0 {
            break;
        }
    }
    assert!(turns > 1);
}

#[test]
fn line_of_an_expired_message_has_the_last_reply() {
    let mut relay = Relay::new();
    relay.peers_refuse_with(450, EnhancedStatus::new(4, 2, 2), "mailbox is full");
    relay.accept("a.example");
    relay.after_s(1);
    let reply = relay.reply_if_expired("a.example");
    assert!(
        reply.contains("expired") && reply.contains("mailbox is full"),
        "{reply}"
    );
}
