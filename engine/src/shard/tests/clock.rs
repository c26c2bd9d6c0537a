//! The wall clock leaps.

use super::relay::Relay;

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
