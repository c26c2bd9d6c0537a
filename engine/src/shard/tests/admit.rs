//! Mail at the door: what waits there, for how long, and what is turned away.

use super::super::admit::{WAIT_MS_MAX, WAITING_MAX};
use super::super::{Event, Stored};
use super::relay::Relay;
use crate::ids::SessionTicket;

/// Whose last writes failed, and the next would.
fn failing() -> Relay {
    let mut relay = Relay::new();
    relay.failing_writes = u32::MAX;
    relay.accept("a.example");
    assert_eq!(relay.answers.pop(), Some(Stored::Failed));
    relay
}

#[test]
fn mail_that_comes_while_writing_fails_is_taken_when_it_works_again() {
    let mut relay = failing();
    relay.accept_many(3, "a.example");
    assert_eq!(relay.answers, [], "they wait");
    assert_eq!(relay.given("b.example", false), None, "and so do parts");
    assert!(!relay.core.is_drained());
    // What failed is written again first, and shows whether writing works: no other mail fails with it.
    relay.failing_writes = 2;
    relay.after_s(4);
    assert_eq!(relay.failing_writes, 0);
    assert_eq!(relay.answers, [Stored::Durable; 3]);
    assert_eq!(relay.told.pop(), Some(Stored::Durable));
    assert_eq!(relay.delivered, 3);
}

#[test]
fn mail_waits_so_long_and_is_then_told_to_come_again() {
    let mut relay = failing();
    relay.accept("a.example");
    relay.after_ms(WAIT_MS_MAX - 1);
    assert_eq!(relay.answers, []);
    relay.after_ms(1);
    assert_eq!(relay.answers, [Stored::Failed]);
    assert_eq!(relay.core.status().memory_bytes, 0);
}

#[test]
fn mail_of_a_session_that_has_gone_is_not_taken() {
    let mut relay = failing();
    relay.accept("a.example");
    let ticket = SessionTicket(2);
    relay.accept("a.example");
    relay.handle(Event::Gone { ticket });
    relay.failing_writes = 0;
    relay.after_ms(1000);
    assert_eq!(relay.answers, [Stored::Durable]);
    assert_eq!(relay.delivered, 1);
    assert_eq!(relay.core.status().memory_bytes, 0);
}

#[test]
fn as_many_messages_and_bytes_wait_as_may() {
    let mut relay = failing();
    relay.accept_many(WAITING_MAX, "a.example");
    assert_eq!(relay.answers, []);
    relay.accept("a.example");
    assert_eq!(relay.answers, [Stored::NoSpace]);

    let mut relay = Relay::with(|settings| settings.content_bytes_max = 4 << 20);
    relay.failing_writes = u32::MAX;
    relay.accept("a.example");
    relay.answers.clear();
    let content = vec![b'x'; 600 << 10];
    relay.accept_with("a.example", &content);
    assert_eq!(relay.answers, []);
    assert!(relay.core.status().memory_bytes >= 600 << 10);
    relay.accept_with("a.example", &content);
    assert_eq!(relay.answers, [Stored::NoSpace], "a quarter of the memory");
}

#[test]
fn mail_waits_for_a_disk_that_is_behind() {
    let mut relay = Relay::with(|settings| settings.content_bytes_max = 1 << 20);
    let content = vec![b'x'; 200 << 10];
    relay.disk_is_slow = true;
    for _ in 0..3 {
        relay.accept_with("a.example", &content);
    }
    // Half of the memory may be on its way to the disk: two messages, and not the third.
    let waiting = relay.core.status().waiting_bytes;
    assert!((400 << 10..512 << 10).contains(&waiting), "{waiting}");
    relay.accept("b.example");
    assert_eq!(relay.answers, [], "a small one does not overtake");
    relay.disk_is_slow = false;
    relay.settle();
    relay.after_ms(100);
    assert_eq!(relay.answers, [Stored::Durable; 4]);
    assert_eq!(relay.delivered, 4);
}

#[test]
fn mail_that_finds_the_queue_full_when_it_is_complete_is_turned_away() {
    let mut relay = Relay::with(|settings| settings.queued_entries_max = 1);
    relay.resolver_hangs();
    relay.accept("a.example");
    relay.accept("a.example");
    assert_eq!(relay.answers, [Stored::Durable, Stored::NoSpace]);
}
