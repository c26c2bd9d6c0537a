//! Messages for many recipients, and for recipients of several shards.

use super::relay::{Relay, set_default};
use crate::counters::Counter;
use crate::ids::SplitId;
use crate::policy::{Key, Value};

#[test]
fn many_recipients_of_a_domain_are_one_entry_and_leave_in_transactions_side_by_side() {
    let mut relay = Relay::with(|settings| {
        set_default(settings, Key::SessionsMax, Value::Count(5));
    });
    relay.resolver_hangs();
    relay.accept_for("a.example", 1000);
    assert_eq!(
        (relay.core.status().queued, relay.searched(None).0),
        (1000, 1)
    );
    relay.peers_hold();
    relay.resolver_answers();
    for question in std::mem::take(&mut relay.questions) {
        relay.answer(question);
    }
    for _ in 0..10 {
        relay.after_ms(100);
    }
    let mut seen: Vec<usize> = relay.held.iter().map(|(_, t)| t.recipients.len()).collect();
    seen.dedup();
    assert_eq!((relay.held.len(), seen), (5, vec![100]), "one a session");
    while !relay.held.is_empty() {
        relay.peers_end_sessions();
        relay.after_ms(100);
    }
    assert_eq!(relay.delivered, 1000);
    assert_eq!(relay.counted(Counter::Delivered), 1000);
    assert_eq!(relay.core.status().queued, 0);
}

#[test]
fn a_site_that_does_not_answer_defers_a_message_with_all_its_recipients() {
    let mut relay = Relay::new();
    relay.peers_refuse("connection refused");
    relay.accept_for("a.example", 1000);
    assert_eq!(relay.counted(Counter::Deferred), 1000);
    assert_eq!(relay.searched(None).0, 1, "still one entry");
    relay.peers_take();
    relay.after_s(120);
    assert_eq!(relay.delivered, 1000);
}

#[test]
fn copies_for_other_shards_take_memory_until_they_are_stored() {
    let mut relay = Relay::with(|settings| settings.content_bytes_max = 1 << 20);
    relay.core.shards = 2;
    let others: Vec<String> = (0..100)
        .map(|n| format!("d{n}.example"))
        .filter(|domain| relay.is_of(domain, 1))
        .collect();
    let before = relay.core.status().memory_bytes;
    let mut asked = 0;
    while relay.core.overload().is_none() {
        relay.accept_with(&others[asked % others.len()], &vec![b'a'; 64 * 1024]);
        asked += 1;
        assert!(asked < 100, "what is on its way to others is not counted");
    }
    assert_eq!(asked, 13, "three quarters of it");
    for split in 1..=asked as u64 {
        relay.other_has_stored(SplitId(split));
    }
    assert_eq!(relay.core.status().memory_bytes, before);
    assert!(relay.core.overload().is_none());
}
