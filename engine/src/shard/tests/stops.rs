//! Mail that an operator has stopped is held until it is set going again.

use std::sync::Arc;

use super::relay::Relay;
use crate::clock::UnixMs;
use crate::counters::Counter;
use crate::policy::stop::{NewStop, Selector, StopBook};
use crate::schedule::Binding;
use crate::shard::stops::{Counting, Selected};

fn of_group(group: &str) -> Selector {
    Selector {
        group: Some(group.into()),
        ..Selector::default()
    }
}

impl Relay {
    fn suspend_until(&mut self, selector: Selector, until: Option<UnixMs>) {
        let new = NewStop {
            selector,
            reason: "wrong link".into(),
            author: "user 0".into(),
            until,
        };
        let book = self.core.stop_book().with(new, self.now.unix).unwrap();
        self.core.set_stops(Arc::new(book), self.now);
        self.settle();
    }

    fn suspend(&mut self, selector: Selector) {
        self.suspend_until(selector, None);
    }

    fn resume_all(&mut self) {
        self.core.set_stops(Arc::new(StopBook::default()), self.now);
        self.after_ms(100);
        self.after_ms(100);
    }

    fn selected(&self, selector: Selector) -> Selected {
        let mut counting = Counting::new(selector);
        while !self.core.count_some(&mut counting) {}
        counting.selected()
    }
}

#[test]
fn a_stopped_group_is_held_and_the_mail_behind_it_is_not() {
    let mut relay = Relay::with_deferred(&[]);
    relay.resolver_hangs();
    for _ in 0..50 {
        relay.accept_of("a.example", "news");
    }
    relay.accept_of("a.example", "orders");
    relay.suspend(of_group("news"));
    relay.resolver_answers();
    for question in std::mem::take(&mut relay.questions) {
        relay.answer(question);
    }
    relay.after_ms(100);
    assert_eq!(relay.delivered, 1, "the order goes");
    assert_eq!(relay.counted(Counter::Suspended), 50);
    let binding = relay.binding("a.example");
    assert!(
        matches!(binding, Some(Binding::Suspended { .. })),
        "{binding:?}"
    );
    let connects = relay.connects.len();
    relay.accept_of("a.example", "news");
    relay.accept_of("b.example", "news");
    relay.after_s(120);
    assert_eq!(relay.delivered, 1);
    assert_eq!(
        relay.connects.len(),
        connects,
        "nobody is called for held mail"
    );
    assert_eq!(relay.counted(Counter::Suspended), 52);
    relay.resume_all();
    assert_eq!(relay.delivered, 53);
}

#[test]
fn a_stop_by_what_only_the_record_shows_holds_as_well() {
    for selector in [
        Selector {
            sender: Some("sender@from.example".into()),
            ..Selector::default()
        },
        Selector {
            source: Selector::parse_source("192.0.2.0/24"),
            ..Selector::default()
        },
        Selector {
            tag: Some("Campaign=7".into()),
            ..Selector::default()
        },
    ] {
        let mut relay = Relay::new();
        relay.suspend(selector);
        relay.accept_of("a.example", "news");
        relay.accept_of("b.example", "orders");
        relay.after_s(2);
        assert_eq!(relay.delivered, 0);
        assert_eq!(relay.counted(Counter::Suspended), 2);
        let binding = relay.binding("a.example");
        assert!(
            matches!(binding, Some(Binding::Suspended { .. })),
            "{binding:?}"
        );
        relay.resume_all();
        assert_eq!(relay.delivered, 2);
    }
}

#[test]
fn a_stop_of_a_domain_or_a_site_leaves_others_alone() {
    let mut relay = Relay::new();
    relay.accept("a.example");
    let seen = relay.core.destination("a.example", relay.now).unwrap();
    for selector in [
        Selector {
            domain: Some("a.example".into()),
            ..Selector::default()
        },
        Selector {
            site: Some(seen.site.into()),
            ..Selector::default()
        },
    ] {
        relay.delivered = 0;
        relay.suspend(selector.clone());
        relay.accept("a.example");
        relay.accept("b.example");
        relay.after_s(2);
        assert_eq!(relay.delivered, 1, "{selector}");
        relay.resume_all();
        assert_eq!(relay.delivered, 2, "{selector}");
    }
}

#[test]
fn a_stop_ends_by_itself() {
    let mut relay = Relay::new();
    let until = UnixMs(relay.now.unix.0 + 10_000);
    relay.suspend_until(of_group("news"), Some(until));
    relay.accept_of("a.example", "news");
    relay.after_s(9);
    assert_eq!(relay.delivered, 0);
    relay.after_s(3);
    assert_eq!(relay.delivered, 1);
}

#[test]
fn deferred_mail_of_a_stop_is_held_when_its_time_comes() {
    let mut relay = Relay::with_deferred(&["a.example"]);
    relay.suspend(Selector::default());
    relay.after_s(300);
    assert_eq!(relay.delivered, 0);
    assert_eq!(relay.core.status().deferred, 0);
    assert_eq!(relay.counted(Counter::Suspended), 1);
    relay.resume_all();
    relay.after_s(120);
    assert_eq!(relay.delivered, 1);
}

#[test]
fn what_is_in_flight_finishes_and_is_counted_apart() {
    let mut relay = Relay::new();
    relay.peers_hold();
    relay.accept_of("a.example", "news");
    relay.suspend(of_group("news"));
    relay.accept_of("a.example", "news");
    let expected = Selected {
        messages: 2,
        recipients: 2,
        in_flight: 1,
        unknown: 0,
    };
    assert_eq!(relay.selected(of_group("news")), expected);
    relay.peers_end_sessions();
    relay.peers_take();
    relay.after_s(60);
    assert_eq!(relay.delivered, 1);
}

#[test]
fn held_mail_does_not_expire_before_it_is_set_going() {
    let mut relay = Relay::new();
    relay.suspend(of_group("news"));
    relay.accept_of("a.example", "news");
    relay.after_ms(40 * 86_400_000);
    relay.after_s(5);
    assert_eq!(relay.counted(Counter::Expired), 0);
    assert_eq!(relay.searched(None).0, 1);
    relay.resume_all();
    assert_eq!(relay.delivered, 0);
    assert_eq!(relay.counted(Counter::Expired), 1);
}

#[test]
fn a_stop_of_many_is_put_aside_in_slices() {
    const MESSAGES: usize = 40_000;
    let mut relay = Relay::new();
    relay.resolver_hangs();
    for _ in 0..MESSAGES {
        relay.accept_of("a.example", "news");
    }
    relay.accept_of("a.example", "orders");
    relay.suspend(of_group("news"));
    relay.resolver_answers();
    for question in std::mem::take(&mut relay.questions) {
        relay.answer(question);
    }
    let first = relay.counted(Counter::Suspended);
    assert!(first < MESSAGES as u64, "{first} at once");
    relay.after_s(5);
    assert_eq!(relay.counted(Counter::Suspended), MESSAGES as u64);
    assert_eq!(relay.delivered, 1);
}

/// Whatever else is in the way: what the operator did is what the operator can undo.
#[test]
fn a_stopped_domain_says_so_behind_a_site_that_rests() {
    let mut relay = Relay::new();
    relay.peers_refuse("connection refused");
    relay.accept_many(3, "a.example");
    assert!(matches!(
        relay.binding("a.example"),
        Some(Binding::SiteBackoff { .. })
    ));
    relay.suspend(of_group("news"));
    assert!(matches!(
        relay.binding("a.example"),
        Some(Binding::SiteBackoff { .. })
    ));
    relay.suspend(Selector {
        domain: Some("a.example".into()),
        ..Selector::default()
    });
    let binding = relay.binding("a.example");
    assert!(
        matches!(binding, Some(Binding::Suspended { .. })),
        "{binding:?}"
    );
    relay.resume_all();
    assert!(!matches!(
        relay.binding("a.example"),
        Some(Binding::Suspended { .. })
    ));
}
