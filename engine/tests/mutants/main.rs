//! Planted bugs: does the simulation find them?
//!
//! [`kinds`] lists bugs a mail queue could have, each as a change to some line of the engine.
//! [`every_anchor_stands_once`] runs with all tests and says which entry of the list has to follow
//! when code moves. `make mutants` runs [`planted_bugs_are_found`]: it plants all of them in a copy
//! of the tree, each behind a switch, builds the simulation there once, sees that it is clean with
//! all switches off, and then lets it look for one bug after the other.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]
#![allow(
    clippy::disallowed_methods,
    reason = "it builds and runs programs, and times them; the engine does neither"
)]

mod kinds;
mod tree;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use kinds::KINDS;
use tree::Tree;

/// Of the listed kinds, so many must be found at least.
const FOUND_MIN: usize = 20;
/// Seeds that must be clean while no bug is switched on.
const SEEDS_CLEAN: u64 = 50;
/// Which bug is switched on; read by what [`tree`] adds to the engine.
const SWITCH: &str = "HIKYAKU_PLANTED";

#[test]
fn every_anchor_stands_once() {
    let faults: Vec<String> = KINDS
        .iter()
        .flat_map(|kind| kind.changes)
        .filter_map(|change| tree::find(change).err())
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// What became of one kind: the seed that found it and how, if any did.
struct Verdict {
    found: Option<(u64, String)>,
    seconds: f64,
}

/// Runs the simulation with one bug switched on (0: none) until a seed fails.
fn hunt(program: &Path, number: usize, seeds: u64) -> Verdict {
    let begun = Instant::now();
    let output = Command::new(program)
        .args(["promises_are_kept_on_every_seed", "--exact", "--nocapture"])
        .env(SWITCH, number.to_string())
        .env("HIKYAKU_SIM_SEEDS", seeds.to_string())
        .env("HIKYAKU_SIM_STOP", "1")
        .env_remove("HIKYAKU_SIM_SEED")
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = text.lines().find_map(|line| {
        let (seed, why) = line.strip_prefix("seed ")?.split_once(" fails: ")?;
        Some((seed.parse().ok()?, why.to_owned()))
    });
    assert!(
        first.is_some() != output.status.success(),
        "the simulation ended in its own way: {}\n{text}",
        output.status
    );
    Verdict {
        found: first,
        seconds: begun.elapsed().as_secs_f64(),
    }
}

fn short(text: &str) -> String {
    let mut line: String = text.chars().take(100).collect();
    if line.len() < text.len() {
        line.push('…');
    }
    line
}

#[test]
#[ignore = "builds a copy of the tree and takes minutes: make mutants"]
fn planted_bugs_are_found() {
    let seeds = std::env::var("SEEDS").ok().filter(|text| !text.is_empty());
    let seeds: u64 = seeds.map_or(1000, |text| text.parse().unwrap());
    let only = std::env::var("ONLY").unwrap_or_default();
    let program = Tree::planted().build();
    let clean = hunt(&program, 0, SEEDS_CLEAN.min(seeds));
    assert!(
        clean.found.is_none(),
        "with no bug switched on: {:?}",
        clean.found
    );

    let wanted: Vec<usize> = (1..=KINDS.len())
        .filter(|number| KINDS[number - 1].name.contains(&only))
        .collect();
    let (waiting, verdicts) = (Mutex::new(wanted.iter()), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(number) = waiting.lock().unwrap().next() else {
                        return;
                    };
                    let verdict = hunt(&program, *number, seeds);
                    let kind = &KINDS[number - 1];
                    let (seed, why) = match &verdict.found {
                        Some((seed, why)) => (format!("seed {seed}"), short(why)),
                        None => ("NOT FOUND".to_owned(), String::new()),
                    };
                    println!(
                        "{number:>2} {:<44} {:<22} {seed:<10} {:>6.1} s  {why}",
                        kind.name, kind.changes[0].file, verdict.seconds
                    );
                    verdicts.lock().unwrap().push(verdict.found.is_some());
                }
            });
        }
    });
    let verdicts = verdicts.into_inner().unwrap();
    let found = verdicts.iter().filter(|found| **found).count();
    println!("{found} of {} planted bugs are found", verdicts.len());
    assert!(
        found >= FOUND_MIN.min(wanted.len()),
        "{found} of {} planted bugs are found, at least {FOUND_MIN} must be",
        wanted.len()
    );
}
