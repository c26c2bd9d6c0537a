//! Mail and its receiving site: sessions, refusals, back-off.

use std::collections::BTreeMap;

use super::relay::{Relay, set_default};
use crate::counters::Counter;
use crate::phase::Phase;
use crate::policy::{Key, Value};
use crate::schedule::Binding;
use crate::status::EnhancedStatus;

#[test]
fn mail_for_a_site_whose_last_session_ended_while_others_were_refused_waits_for_a_stated_time() {
    let mut relay = Relay::new();
    relay.peers_hold();
    relay.accept("busy.example");
    relay.accept("busy.example");
    relay.peers_refuse_with(421, EnhancedStatus::new(4, 7, 0), "busy");
    // They have waited for a tick: other sessions are tried, at each address of the host.
    relay.accept("busy.example");
    relay.after_ms(1);
    relay.after_ms(1);
    assert_eq!(relay.connects.len(), 3);
    relay.peers_end_sessions();
    let delivered = relay.delivered;
    assert!(delivered < 3, "something waits");
    let Some(Binding::SiteBackoff { cause, retry_in_s }) = relay.binding("busy.example") else {
        panic!("{:?}", relay.binding("busy.example"));
    };
    assert!(cause.contains("421"), "{cause}");
    assert!((30..=36).contains(&retry_in_s), "{retry_in_s}");
    relay.peers_take();
    relay.after_ms(retry_in_s * 1000);
    assert_eq!(relay.delivered, 3);
}

#[test]
fn a_refused_session_is_logged_with_the_reply_of_the_peer() {
    let mut relay = Relay::new();
    let (status, text) = (
        EnhancedStatus::new(4, 7, 0),
        "too many connections from your host",
    );
    relay.peers_refuse_with(421, status, text);
    relay.accept("refusing.example");
    let lines = relay.log();
    assert_eq!(lines.len(), 1, "one message says so for all");
    let line = &lines[0];
    assert_eq!((line.code, line.enhanced), (Some(421), Some(status)));
    assert_eq!(line.reply, text);
    assert_eq!(line.phase, Some(Phase::Greeting));
    assert_eq!(line.dest_host, "mx.refusing.example");
    assert_ne!(line.class, "", "{line:?}");

    relay.peers_refuse("connection refused");
    relay.accept("dead.example");
    let line = &relay.log()[0];
    assert_eq!(line.code, Some(450));
    assert_eq!(line.enhanced, Some(EnhancedStatus::new(4, 4, 1)));
}

#[test]
fn a_greeted_session_that_breaks_counts_as_a_session_error() {
    let mut relay = Relay::new();
    relay.peers_break();
    relay.accept("broken.example");
    assert_eq!(relay.counted(Counter::SessionError), 1);
    assert_eq!(relay.counted(Counter::Tempfail), 1);
    assert_eq!(relay.counted(Counter::ConnectFail), 0);
    assert_eq!(
        relay.last_reply("broken.example"),
        "mx.broken.example said: 421 4.4.2 lost"
    );

    relay.peers_refuse("connection refused");
    relay.accept("dead.example");
    assert_eq!(relay.counted(Counter::SessionError), 1);
    assert_eq!(relay.counted(Counter::ConnectFail), 1);
}

#[test]
fn a_site_is_tended_while_it_has_ready_mail_behind_a_back_off() {
    let mut relay = Relay::new();
    relay.peers_refuse("connection refused");
    relay.accept_many(3, "later.example");
    assert_eq!(relay.tended_sites(), 1);
    relay.peers_take();
    relay.after_ms(120_000);
    relay.after_ms(1000);
    assert_eq!(relay.delivered, 3);
    relay.after_ms(1000);
    assert_eq!(relay.tended_sites(), 0);
}

#[test]
fn connections_come_from_our_addresses_of_the_right_family_in_turn() {
    let mut relay = Relay::with(|settings| {
        let ours = ["127.0.0.5", "::1", "127.0.0.6"].map(|ip| ip.parse().unwrap());
        settings.source_addresses = ours.to_vec();
    });
    relay.accept_each(40, "example");
    let mut used = BTreeMap::new();
    for connect in &relay.connects {
        let source = connect.source.expect("there is one of each family");
        assert_eq!(source.is_ipv4(), connect.target.is_ipv4());
        *used.entry(source).or_insert(0_u32) += 1;
    }
    assert_eq!(used.len(), 3, "{used:?}");
}

#[test]
fn a_session_gets_no_more_mail_when_its_time_is_up_or_its_address_has_gone() {
    let mut relay = Relay::with(|settings| {
        set_default(settings, Key::IdleTimeout, Value::Duration(60_000));
        set_default(settings, Key::SessionTimeMax, Value::Duration(10_000));
    });
    relay.ttl_s = 5;
    relay.accept_many(2, "a.example");
    assert_eq!(relay.connects.len(), 1, "used again");
    relay.after_ms(10_000);
    relay.accept("a.example");
    assert_eq!((relay.connects.len(), relay.delivered), (2, 3));
    // By the next lookup the host has the other address only; the session would last longer.
    let gone = relay.connects[1].target;
    relay.addresses.retain(|address| *address != gone.ip());
    relay.after_ms(5001);
    relay.accept("a.example");
    assert_eq!((relay.connects.len(), relay.delivered), (3, 4));
    assert_ne!(relay.connects[2].target, gone);
}
