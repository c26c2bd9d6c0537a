//! Power cuts: the built programs on a file system that drops whatever was not synced.
//!
//! A *life* begins with `hikyaku init` on an empty disk (or with what a cut has left of an earlier one):
//! the daemon runs on the [`model`], [`mount`]ed as a file system, mail comes in and goes out, and then
//! the daemon is killed. What is left of it is the list of everything that was done to the disk, and the
//! places in that list at which a client heard 250 and the far end had a message. So power can be cut
//! afterwards, anywhere, any number of times: the disk is made up as it was then, the model drops what it
//! may, and [`check`] reads with the daemon's own code what has survived. Some of the disks are given to
//! the daemon as well, which must deliver what is owed.
//!
//! That the check would notice is shown with the same list: with the syncs of one folder left out.
//!
//! It needs FUSE (`/dev/fuse`, and root or `fusermount3`), and skips with a note where there is none.

mod check;
mod far_end;
mod life;
mod model;
mod mount;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use engine::random::Random;

use crate::common::programs;
use check::Survivors;
use life::{Life, Plan};
use model::{Disk, Op};
use mount::Faults;

/// Cuts of each of the three tests, unless `HIKYAKU_POWER_CUTS` says how many.
const CUTS: u64 = 100;
/// Of so many disks one is given to the daemon.
const STARTS_EVERY: u64 = 20;

fn wanted(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn cuts() -> u64 {
    wanted("HIKYAKU_POWER_CUTS").unwrap_or(CUTS)
}

/// Each test has seeds of its own; `HIKYAKU_POWER_SEED` gives it others.
fn seed(number: u64) -> u64 {
    wanted("HIKYAKU_POWER_SEED").unwrap_or(0) * 100 + number
}

/// Where power goes: anywhere, or soon after a client has heard 250.
fn place(life: &Life, random: &mut Random) -> usize {
    let acknowledged: Vec<usize> = life.accepted.values().copied().collect();
    let anywhere = random.below(life.ops.len() as u64 + 1) as usize;
    match acknowledged.get(random.below(2 * acknowledged.len() as u64) as usize) {
        Some(at) => (at + random.below(8) as usize).min(life.ops.len()),
        None => anywhere,
    }
}

/// Cuts a life's power so many times; what was lost by any of it.
fn cut_power(life: &Life, ops: &[Op], cuts: u64, seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let mut places: Vec<usize> = (0..cuts).map(|_| place(life, &mut random)).collect();
    places.sort_unstable();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = places.len().div_ceil(threads).max(1);
    let number = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let parts: Vec<_> = places
            .chunks(share)
            .map(|places| {
                let number = &number;
                scope.spawn(move || -> Result<(), String> {
                    let (mut disk, mut done) = (life.start.clone(), 0);
                    for at in places {
                        disk = disk.after(&ops[done..*at]);
                        done = *at;
                        let seed = seed ^ number.fetch_add(1, Relaxed) << 32;
                        check_cut(life, &disk, *at, seed)?;
                    }
                    Ok(())
                })
            })
            .collect();
        parts.into_iter().try_for_each(|part| part.join().unwrap())
    })
}

fn check_cut(life: &Life, disk: &Disk, at: usize, seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let left = disk.after_cut(&mut random);
    let fault = |why: String| format!("power goes after operation {at}, seed {seed}: {why}");
    let survivors = Survivors::of(&left, life, at).map_err(fault)?;
    survivors.hold_what_is_owed(life, at).map_err(fault)?;
    if random.below(STARTS_EVERY) == 0 && life.initialised < at {
        survivors.are_delivered(life, at).map_err(fault)?;
    }
    Ok(())
}

/// Lives, and is cut off `cuts` times.
fn live_and_cut(plan: Plan, start: Option<(&Life, usize)>, cuts: u64) -> Option<Life> {
    let seed = plan.seed;
    let life = Life::live(plan, start)?;
    println!(
        "seed {seed}: {} operations, {} of them failed, {} recipients accepted, {} settled",
        life.ops.len(),
        life.failures,
        life.accepted.len(),
        life.settled.len()
    );
    assert!(life.accepted.len() > 50, "too little is accepted");
    if let Err(why) = cut_power(&life, &life.ops, cuts, seed) {
        panic!("{why}");
    }
    Some(life)
}

#[test]
fn nothing_is_lost_when_power_goes() {
    if programs().is_none() {
        return;
    }
    for number in [1, 2] {
        let plan = Plan::new(seed(number), 2);
        if live_and_cut(plan, None, cuts() / 2).is_none() {
            return;
        }
    }
}

#[test]
fn nothing_is_lost_when_power_goes_on_a_failing_disk() {
    if programs().is_none() {
        return;
    }
    for number in [11, 12] {
        let mut plan = Plan::new(seed(number), 2);
        plan.faults = Faults {
            failed: 15,
            short: 15,
            full: 3,
            name: 30,
            slow: 10,
        };
        let Some(life) = live_and_cut(plan, None, cuts() / 2) else {
            return;
        };
        assert!(life.failures > 10, "only {} failures", life.failures);
    }
}

/// Each life begins with what a cut has left of the one before, with another number of shards.
#[test]
fn nothing_is_lost_when_power_goes_again_and_again() {
    if programs().is_none() {
        return;
    }
    let mut before: Option<(Life, usize)> = None;
    for (number, shards) in [(21, 2), (22, 1), (23, 3), (24, 2)] {
        let plan = Plan::new(seed(number), shards);
        let start = before.as_ref().map(|(life, at)| (life, *at));
        let Some(life) = live_and_cut(plan, start, cuts() / 4) else {
            return;
        };
        let at = place(&life, &mut Random::new(number));
        before = Some((life, at));
    }
}

/// A check that never fails proves nothing: with the syncs of any one folder left out, or the writes
/// of segments not synced, mail is lost, and that is noticed.
#[test]
fn a_sync_left_out_is_noticed() {
    if programs().is_none() {
        return;
    }
    let Some(life) = Life::live(Plan::new(31, 2), None) else {
        return;
    };
    cut_power(&life, &life.ops, 10, 31).unwrap();
    let folders = life.start.clone().after(&life.ops).folders();
    let needed = |path: &str| path == "/" || path == "/data/" || path.ends_with("/queue/");
    let shard = |path: &str| path.starts_with("/data/shard-") && path.matches('/').count() == 3;
    let wanted = folders
        .iter()
        .filter(|(_, path)| needed(path) || shard(path) || path == "/data/keys/");
    for (folder, path) in wanted {
        let is_left_out = |op: &Op| matches!(op, Op::SyncFolder(node) if node == folder);
        noticed(&life, &format!("syncs of {path}"), is_left_out);
    }
    let installed = life.start.clone().after(&life.ops[..life.initialised]);
    let first = installed.next_node();
    noticed(&life, "syncs of segments", |op| {
        // Of a write that is to be durable by itself, the system may ask for both.
        matches!(op, Op::SyncRange { file, .. } | Op::SyncFile(file) if *file >= first)
    });
}

fn noticed(life: &Life, what: &str, is_left_out: impl Fn(&Op) -> bool) {
    // What was left out keeps its place, so that places in the list stay what they are.
    let nothing = Op::SyncFile(0);
    let kept = |op: &Op| {
        if is_left_out(op) {
            nothing.clone()
        } else {
            op.clone()
        }
    };
    let ops: Vec<Op> = life.ops.iter().map(kept).collect();
    match cut_power(life, &ops, 40, 31) {
        Err(why) => println!("{what} left out: {why}"),
        Ok(()) => panic!("{what} left out, and nobody notices"),
    }
}
