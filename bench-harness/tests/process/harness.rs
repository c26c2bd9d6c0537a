//! The harness itself: injector against fleet, Postfix of our own. Needs no relay.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::common::{eventually, mix};
use hikyaku_bench::fleet::Fleet;
use hikyaku_bench::fleet::tally::Tally;
use hikyaku_bench::inject::{Injector, Plan};
use hikyaku_bench::run::peers::postfix::Postfix;
use hikyaku_bench::world::World;

fn fleet(toml: &str, run: u32) -> Fleet {
    let text = format!("port = 0\n[[host]]\nname = \"mx.test\"\naddress = \"127.0.0.1\"\n{toml}");
    Fleet::start(
        &World::parse(&text, "test").unwrap(),
        Arc::new(Tally::new(run)),
    )
    .unwrap()
}

fn plan(fleet: &Fleet, run: u32) -> Plan {
    let to = fleet.hosts[0].1;
    Plan {
        messages: 300,
        sessions: 7,
        ..Plan::new(to, mix("d.test"), run)
    }
}

#[test]
fn every_message_is_counted_in_all_styles_of_session() {
    for (pipelining, recipients, per_connection) in [
        (true, 1, u64::MAX),
        (false, 1, 3),
        (true, 5, 7),
        (false, 3, u64::MAX),
    ] {
        let fleet = fleet("", 1);
        let plan = Plan {
            pipelining,
            recipients,
            per_connection,
            ..plan(&fleet, 1)
        };
        let injected = Injector::start(plan).unwrap().join();
        assert_eq!(injected.failure, None);
        let ids = 300 * recipients as u64;
        assert_eq!(injected.accepted_count(), ids);
        let totals = fleet.tally.totals();
        assert_eq!(totals.distinct, ids);
        assert_eq!(
            totals,
            hikyaku_bench::fleet::tally::Totals {
                distinct: ids,
                ..totals
            }
        );
        assert_eq!(
            (totals.duplicates, totals.altered, totals.mixed_up),
            (0, 0, 0)
        );
        assert_eq!(injected.latency_us.len(), 300);
        fleet.stop();
    }
}

#[test]
fn refused_recipients_are_not_taken_for_accepted() {
    let faults = "[[host.fault]]\nat = \"rcpt\"\nanswer = \"452 4.2.2 Full\"\nodds = 0.3\n\
                  [[host.fault]]\nat = \"end-of-data\"\nanswer = \"550 5.6.0 No\"\nodds = 0.2\n";
    for pipelining in [true, false] {
        let fleet = fleet(faults, 2);
        let plan = Plan {
            pipelining,
            recipients: 2,
            ..plan(&fleet, 2)
        };
        let injector = Injector::start(plan).unwrap();
        let progress = Arc::clone(&injector.progress);
        let injected = injector.join();
        let accepted = injected.accepted_count();
        assert_eq!(accepted, fleet.tally.totals().distinct);
        assert!((200..450).contains(&accepted), "{accepted} accepted");
        let (deferred, refused) = (
            progress.deferred.load(Relaxed),
            progress.refused.load(Relaxed),
        );
        assert!(
            deferred > 100 && refused > 20,
            "{deferred} deferred, {refused} refused"
        );
        assert_eq!(accepted + deferred + refused, 600);
        fleet.stop();
    }
}

#[test]
fn broken_connections_leave_unanswered_messages() {
    let fleet = fleet(
        "[[host.fault]]\nat = \"end-of-data\"\nanswer = \"reset\"\nfirst = 5\n",
        3,
    );
    let injected = Injector::start(Plan {
        reconnect: true,
        ..plan(&fleet, 3)
    })
    .unwrap()
    .join();
    assert_eq!(injected.unanswered_count(), 5);
    assert_eq!(injected.accepted_count(), fleet.tally.totals().distinct);
    fleet.stop();
}

#[test]
fn odd_manners_are_kept() {
    let manners = "reply_style = \"bare\"\npipelining = false\nmessages_per_session_max = 4\n\
                   delay_ms = { rcpt = 1 }\nread_bytes_per_s = 500000\n";
    let fleet = fleet(manners, 4);
    let plan = Plan {
        messages: 20,
        reconnect: true,
        ..plan(&fleet, 4)
    };
    let injected = Injector::start(plan).unwrap().join();
    assert_eq!(injected.accepted_count(), fleet.tally.totals().distinct);
    assert!(
        fleet.hosts[0].2.sessions.load(Relaxed) >= 5,
        "a new session after four messages"
    );
    fleet.stop();
}

#[test]
fn postfix_of_our_own_relays_every_message() {
    if !Postfix::is_possible() {
        assert!(
            !crate::common::required("HIKYAKU_REQUIRE_ORACLES"),
            "Postfix cannot be run here"
        );
        println!("note: skipped: Postfix is not installed, or we are not root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let fleet = Fleet::start(
        &World::single(Ipv4Addr::LOCALHOST, 0),
        Arc::new(Tally::new(5)),
    )
    .unwrap();
    let to = fleet.hosts[0].1;
    let postfix = Postfix::start(&dir.path().join("postfix"), to, ("warm.test", to)).unwrap();
    let plan = Plan {
        messages: 200,
        ..Plan::new(postfix.address, mix("d.test"), 5)
    };
    let injected = Injector::start(plan).unwrap().join();
    assert_eq!(injected.accepted_count(), 200, "{:?}", injected.failure);
    assert!(
        eventually(|| fleet.tally.totals().distinct == 200),
        "{:?}",
        fleet.tally.totals()
    );
    assert!(postfix.cpu_time().as_millis() > 0);
    postfix.stop();
    fleet.stop();
}
