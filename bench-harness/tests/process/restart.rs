//! Restarts: nothing is lost, whatever the number of shards, however the daemon ended.

use std::net::Ipv4Addr;
use std::sync::Arc;

use hikyaku_bench::daemon::{Daemon, Settings, free_address};
use hikyaku_bench::domains::{DomainMix, Spread, expand};
use hikyaku_bench::fleet::Fleet;
use hikyaku_bench::fleet::tally::Tally;
use hikyaku_bench::inject::{Injector, Plan};
use hikyaku_bench::world::World;

use crate::common::{FAST_RETRY, eventually, programs};

/// Queues mail to a dead route under one shard count after the other, ends the daemon in different
/// ways between, also while mail moves to its new owners, then opens the route.
#[test]
fn queue_survives_kills_and_other_shard_counts() {
    let Some(programs) = programs() else { return };
    let dir = tempfile::tempdir().unwrap();
    let far_end = free_address().unwrap();
    let mut settings = Settings::new(dir.path()).unwrap();
    settings.routes.push(("*".to_owned(), far_end.to_string()));
    settings.delivery = FAST_RETRY.to_owned();
    let mix = DomainMix::spread(&expand("d{0..50}.test").unwrap(), Spread::Uniform).unwrap();
    let mut next_id = 0;
    for (shards, kill) in [(1, true), (2, false), (3, true), (2, true), (1, false)] {
        settings.shards = Some(shards);
        let mut daemon = Daemon::start(settings.clone(), &programs).unwrap();
        let plan = Plan {
            messages: 150,
            recipients: 3,
            sessions: 10,
            first_id: next_id,
            ..Plan::new(settings.listen, mix.clone(), 1)
        };
        let injected = Injector::start(plan).unwrap().join();
        assert_eq!(injected.accepted_count(), 450, "{:?}", injected.failure);
        next_id += 450;
        if kill {
            daemon.kill();
        } else {
            daemon.terminate().unwrap();
        }
    }
    let tally = Arc::new(Tally::new(1));
    let world = World::single(Ipv4Addr::LOCALHOST, far_end.port());
    let fleet = Fleet::start(&world, Arc::clone(&tally)).unwrap();
    settings.shards = Some(2);
    let daemon = Daemon::start(settings, &programs).unwrap();
    let all = eventually(|| tally.totals().distinct == next_id);
    let totals = tally.totals();
    assert!(all, "{totals:?} of {next_id}\n{}", daemon.log_tail());
    assert_eq!(
        (totals.duplicates, totals.altered, totals.mixed_up),
        (0, 0, 0),
        "{totals:?}"
    );
    fleet.stop();
}

#[test]
fn sigterm_under_load_loses_and_doubles_nothing() {
    let Some(programs) = programs() else { return };
    let dir = tempfile::tempdir().unwrap();
    let tally = Arc::new(Tally::new(2));
    let fleet = Fleet::start(&World::single(Ipv4Addr::LOCALHOST, 0), Arc::clone(&tally)).unwrap();
    let mut settings = Settings::new(dir.path()).unwrap();
    settings
        .routes
        .push(("*".to_owned(), fleet.hosts[0].1.to_string()));
    settings.delivery = FAST_RETRY.to_owned();
    let mut daemon = Daemon::start(settings, &programs).unwrap();
    let mix = DomainMix::spread(&expand("d{0..20}.test").unwrap(), Spread::Uniform).unwrap();
    let plan = Plan {
        sessions: 20,
        rate_per_s: Some(2000.0),
        reconnect: true,
        ..Plan::new(daemon.settings.listen, mix, 2)
    };
    let injector = Injector::start(plan).unwrap();
    for _ in 0..3 {
        let before = tally.received();
        assert!(
            eventually(|| tally.received() > before + 500),
            "{}",
            daemon.log_tail()
        );
        daemon.terminate().unwrap();
        daemon.relaunch().unwrap();
        daemon.wait_until_it_greets().unwrap();
    }
    injector.stop();
    let injected = injector.join();
    let accepted: Vec<u64> = injected.accepted().collect();
    let all = eventually(|| {
        let times = tally.times();
        accepted
            .iter()
            .all(|id| times.get(*id as usize).is_some_and(|times| *times > 0))
    });
    let totals = tally.totals();
    assert!(
        all,
        "{totals:?} of {}\n{}",
        accepted.len(),
        daemon.log_tail()
    );
    assert_eq!(totals.duplicates, 0, "an orderly end records every outcome");
    fleet.stop();
}
