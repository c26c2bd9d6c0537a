//! Simulation: whole shards on a simulated disk, network and clock, from one seed.
//!
//! One process runs up to four [`ShardCore`](engine::shard::ShardCore)s. Clients send some dozens of
//! messages; meanwhile writes and syncs fail, the disk is full for a while, connections break before
//! and after the peer has taken a message, DNS times out, the daemon is stopped, killed, or loses its
//! power at some step of some write, and starts again with another number of shards or another key.
//! Then there is calm, and [`ledger`] holds what was promised against what happened:
//!
//! - what was answered 250 was durable then, and is delivered, failed or expired in the end for each
//!   recipient as its peer says, never lost;
//! - a recipient recorded as done is never sent to again; one that is sent to again was under way when
//!   power, process or connection went, not merely on its way from one shard's folder to another's;
//! - what a shard was handed is not sent before the handover is noted;
//! - nothing of what an operator has stopped is sent from then on, whatever is cut, until it is set going;
//! - what was answered 451 or 452 is not sent, unless power went before that could be noted;
//! - a failure is recorded only when the sender's notification is durable; a null reverse-path gets none;
//! - no nonce and no piece of keystream is used twice, no segment opens with another key or name;
//! - a part whose write failed is cancelled, whatever the disk kept of it;
//! - nothing begins while its domain's delivery window is closed, whichever way the wall clock is set;
//! - what was damaged is reported, its file kept, and nothing else lost by it; nothing else is reported;
//! - over all shards a site has never more sessions than its limit, and is in no span of time sent more than its
//!   rate and depth, though messages about leases are lost, late, doubled and out of order;
//! - the books of a shard agree at any moment: states with lists, lengths, levels and deliveries
//!   (`ShardCore::assert_consistent`);
//! - counters agree: nothing is queued, deferred or delivering in the end, in total, by domain and by
//!   group, and as many are counted, over all starts, as have a durable outcome;
//! - in the end the queue is empty, the disk holds two segments a shard at most, and a restart brings
//!   nothing back.
//!
//! `make sim` runs a thousand seeds, `make sim SEED=7` one of them, with a trace. In `cargo test`,
//! `HIKYAKU_SIM_SEEDS` says how many (100 unless set).
//!
//! Files: `world` the clock, the daemon's starts and ends; `plan` what a seed has in store, `clients` its mail, `actions` what shards ask for, carried out in `jobs`
//! (disk), `reading` and `peers`; `stops` an operator's; `damage` bad sectors, `process` what a running daemon has open, `disk`, `net`, `ledger` and `limits` the checks.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

mod actions;
mod checks;
mod clients;
mod damage;
mod disk;
mod jobs;
mod ledger;
mod limits;
mod net;
mod peers;
mod plan;
mod process;
mod reading;
mod stops;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::{Sabotage, Summary, World};

/// A number from the environment; empty counts as unset.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
    )
}

fn run(seed: u64, verbose: bool, sabotage: Sabotage) -> Result<Summary, String> {
    let run = || {
        let mut world = World::new(seed, verbose, sabotage);
        world.run().map(|()| world.summary)
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", text.unwrap_or("without a word")))
    })
}

#[test]
fn promises_are_kept_on_every_seed() {
    if let Some(seed) = number("HIKYAKU_SIM_SEED") {
        match run(seed, true, Sabotage::None) {
            Ok(summary) => println!("seed {seed}: {summary:?}"),
            Err(why) => panic!("seed {seed}: {why}"),
        }
        return;
    }
    let first = number("HIKYAKU_SIM_FIRST").unwrap_or(1);
    let seeds = number("HIKYAKU_SIM_SEEDS").unwrap_or(100);
    let mut total = Summary::default();
    let mut failed = Vec::new();
    for seed in first..first + seeds {
        match run(seed, false, Sabotage::None) {
            Ok(summary) => total.add(&summary),
            Err(why) => {
                println!("seed {seed} fails: {why}\n  see it happen: make sim SEED={seed}");
                failed.push(seed);
                if number("HIKYAKU_SIM_STOP").is_some() {
                    break;
                }
            }
        }
    }
    println!("{seeds} seeds: {total:?}");
    assert!(
        failed.is_empty(),
        "{} of {seeds} seeds fail: {failed:?}",
        failed.len()
    );
    // A simulation in which nothing happens proves nothing.
    if seeds >= 100 {
        assert!(total.cuts > 50 && total.failed_writes > 50 && total.compactions > 20);
        assert!(total.adoptions > 5 && total.transfers > 5 && total.excused > 5);
        assert!(total.durable * 2 > total.clients && total.notices > 0);
        assert!(total.passed_stops > 100);
        assert!(total.windowed > 100);
    }
}

/// Checks that never fail prove nothing.
#[test]
fn a_lying_disk_is_noticed() {
    for sabotage in [
        Sabotage::NoSync,
        Sabotage::EarlyAnswer,
        Sabotage::SwallowedErrors,
        Sabotage::EarlyHandover,
    ] {
        let noticed = (1..=60).find_map(|seed| Some((seed, run(seed, false, sabotage).err()?)));
        let Some((seed, why)) = noticed else {
            panic!("{sabotage:?} goes unnoticed")
        };
        println!("{sabotage:?} is noticed at seed {seed}: {why}");
    }
}
