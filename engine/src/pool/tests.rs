use std::rc::Rc;

use super::*;
use crate::clock::{Mono, UnixMs};
use crate::dns::Target;
use crate::ids::ShardId;
use crate::policy::{Key, Policy, Value};
use crate::schedule::Binding;
use crate::schedule::destination::DestinationId;

fn limits(sessions_max: u32) -> LimitsTable {
    let default = vec![
        (Key::SessionsMax, Value::Count(u64::from(sessions_max))),
        (Key::MessagesPerSession, Value::Count(100)),
        (Key::SessionTimeMax, Value::Duration(300_000)),
        (Key::IdleTimeout, Value::Duration(60_000)),
    ];
    LimitsTable::new(
        (30_000, 60_000),
        1,
        &Policy::new(default, Vec::new(), Vec::new()),
    )
}

const fn at(ms: u64) -> Conditions {
    let now = Now {
        mono: Mono(0).plus_ms(ms),
        unix: UnixMs(ms),
    };
    Conditions {
        now,
        halt: None,
        is_memory_short: false,
    }
}

/// A pool with one site, which has ready mail for ever.
fn pool(sessions_max: u32) -> (Pool, SiteId) {
    let mut pool = Pool::new(limits(sessions_max), ShardId(0), 1);
    let target = |n: u8| Target {
        host: format!("mx{n}.a.example").into(),
        address: ([192, 0, 2, n], 25).into(),
        preference: 10,
    };
    let targets = Targets {
        site: "mx.a.example:25".into(),
        list: vec![target(1), target(2)],
        text: "".into(),
        expires: Mono(0),
    };
    let site = pool.resolved(&targets, None, at(0).now);
    pool.enrol(site, DestinationId::new(0), 1000);
    (pool, site)
}

/// What the gate lets begin, until it lets nothing: connections opened, greeted and with a transaction.
fn go(pool: &mut Pool, site: SiteId, at: &Conditions) -> (Vec<ConnId>, Binding) {
    let mut conns = Vec::new();
    loop {
        match pool.may_go(site, false, at) {
            Ok(Go::Open(permit)) => {
                let conn = pool.open(permit, at.now.mono).conn;
                pool.greeted(conn, Rc::default());
                pool.offered(conn);
                let permit = pool.may_start(conn, at).unwrap();
                pool.started(permit);
                conns.push(conn);
            }
            Ok(Go::Start(permit)) => pool.started(permit),
            Ok(Go::Quit(conn)) => assert!(pool.quit(conn)),
            Err(binding) => return (conns, binding),
        }
        pool.assert_consistent();
    }
}

#[test]
fn when_a_share_shrinks_only_the_idle_connections_that_are_too_many_quit() {
    let (mut pool, site) = pool(4);
    let (conns, binding) = go(&mut pool, site, &at(0));
    assert_eq!(conns.len(), 4);
    assert_eq!(binding, Binding::SessionsMax { sessions: 4 });
    for conn in conns {
        pool.finished(conn, true);
        pool.offered(conn);
        pool.rest(conn, Mono(0));
    }
    pool.set_limits(limits(3));
    let mut quits = Vec::new();
    pool.tend_all(&at(100), &mut quits);
    pool.tend_all(&at(200), &mut quits);
    assert_eq!(quits.len(), 1);
    pool.assert_consistent();
}

#[test]
fn when_a_share_shrinks_only_the_busy_connections_that_are_too_many_quit() {
    let (mut pool, site) = pool(4);
    let (conns, _) = go(&mut pool, site, &at(0));
    pool.set_limits(limits(3));
    let mut left = 0;
    for conn in conns {
        pool.finished(conn, true);
        pool.offered(conn);
        match pool.may_start(conn, &at(100)) {
            Ok(permit) => {
                pool.started(permit);
                left += 1;
            }
            Err(NoStart::IsOver) => assert!(pool.quit(conn)),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(left, 3);
    pool.assert_consistent();
}

#[test]
fn what_holds_mail_back_is_what_the_gate_says() {
    let (mut pool, site) = pool(2);
    let stopping = Conditions {
        halt: Some(Halt::Stopping),
        ..at(0)
    };
    assert_eq!(go(&mut pool, site, &stopping).1, Binding::Stopping);
    let failing = Conditions {
        halt: Some(Halt::DiskTrouble),
        ..at(0)
    };
    assert_eq!(go(&mut pool, site, &failing).1, Binding::DiskTrouble);
    let permit = pool.may_open(site, false, &at(0)).unwrap();
    let first = pool.open(permit, Mono(0));
    let permit = pool.may_open(site, false, &at(0)).unwrap();
    let second = pool.open(permit, Mono(0));
    assert_ne!(first.target, second.target, "equal ones take turns");
    assert_eq!(go(&mut pool, site, &at(0)).1, Binding::Connecting);
    let seen = |_: &Target| ("refused".into(), None);
    let closed = pool.closed(first.conn, seen, Mono(0)).unwrap();
    assert!(!closed.has_failed, "one is being opened");
    let binding = go(&mut pool, site, &at(0)).1;
    assert_eq!(binding, Binding::SessionsMax { sessions: 2 });
    pool.assert_consistent();
}

#[test]
fn a_site_marked_often_is_looked_at_once() {
    let (mut pool, site) = pool(2);
    for _ in 0..10 {
        pool.mark(site);
    }
    pool.mark_tended();
    assert_eq!(pool.marked_len(), 1);
    assert_eq!(pool.take_marked(), Some((site, true)));
    assert_eq!(pool.take_marked(), None);
}
