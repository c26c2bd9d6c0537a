//! `make crash`: kill -9 under load, again and again; nothing accepted may be lost.
//!
//! The injector goes on through every kill and remembers which ids were answered 250; the fleet never
//! stops and counts every id. At the end the daemon drains its queue, and then:
//!
//! - every id answered 250 has arrived: 0 lost;
//! - a duplicate is allowed only where the outcome may not have been durable yet: the id had arrived
//!   within the last [`OUTCOME_MS_MAX`] before a kill (delivered, and the record of it waited for its
//!   group commit). All others are a broken promise.
//!
//! Each kill's moment comes from the seed: some fall into the start and the replay, most under load.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::{Common, WorkDir, fresh_run, lost, print_machine, wait_until};
use crate::daemon::{Daemon, Programs, Settings};
use crate::domains::{DomainMix, Spread, expand};
use crate::failure::Failure;
use crate::fleet::Fleet;
use crate::fleet::tally::{Duplicate, Tally, Totals};
use crate::inject::{Injected, Injector, Plan};
use crate::random::Random;
use crate::report;
use crate::world::{Phase, World};

/// An outcome is durable this long after the far end's reply was read.
const OUTCOME_MS_MAX: u32 = 100;
/// Allowed on top: the reply's way, and a machine whose cores are all busy.
const SCHEDULING_MS_MAX: u32 = 150;
/// Nothing arriving for so long at the end is a loss.
const PATIENCE: Duration = Duration::from_secs(90);
/// One kill in so many falls into the start of the daemon: key, replay, first sessions.
const EARLY_ONE_IN: u64 = 4;

/// Kill -9 the daemon under load and count every message.
#[derive(Debug, clap::Args)]
pub struct CrashArgs {
    #[command(flatten)]
    common: Common,
    /// Kills.
    #[arg(long, short = 'n', default_value_t = 100, env = "CYCLES")]
    cycles: u32,
    /// Seed of the kills' moments and the load; printed, so that a run can be repeated.
    #[arg(long, env = "SEED")]
    seed: Option<u64>,
    /// Messages a second.
    #[arg(long, default_value_t = 4000.0)]
    rate: f64,
    /// Sessions at once.
    #[arg(long, short = 's', default_value_t = 50)]
    sessions: usize,
    /// Recipients a message: more than one spreads it over the shards.
    #[arg(long, short = 'r', default_value_t = 2)]
    recipients: usize,
    /// Content bytes a message.
    #[arg(long, short = 'l', default_value_t = 1024)]
    size: usize,
    /// Longest time under load between a start and its kill, in milliseconds.
    #[arg(long, default_value_t = 900)]
    load_ms_max: u64,
}

/// One kill: when it was asked for, and when the daemon was started again (ms of the tally's clock).
#[derive(Debug, Clone, Copy)]
struct Kill {
    at_ms: u32,
    again_ms: u32,
    early: bool,
}

/// Runs `hikyaku-bench crash`.
///
/// # Errors
/// [`Failure::Broken`] when an accepted message is lost or a duplicate is not explained by a kill.
pub fn run(args: &CrashArgs) -> Result<(), Failure> {
    let programs = Programs::find()?;
    let work = WorkDir::new(&args.common)?;
    let run_id = fresh_run();
    let seed = args.seed.unwrap_or(u64::from(run_id));
    let mut random = Random::new(seed);
    let tally = Arc::new(Tally::new(run_id));
    let mut world = World::single(Ipv4Addr::LOCALHOST, 0);
    // Far ends take a moment, so that deliveries are in flight when the kill comes.
    world.host[0].delay_ms.insert(Phase::EndOfData, 2);
    let fleet = Fleet::start(&world, Arc::clone(&tally))?;
    let mut settings = Settings::new(work.path())?;
    settings.shards = args.common.shards;
    settings
        .routes
        .push(("*".to_owned(), fleet.hosts[0].1.to_string()));
    settings.delivery = "retry_schedule = [\"1s\"]".to_owned();
    let mut daemon = Daemon::start(settings, &programs)?;
    print_machine(work.path());
    println!(
        "settings   {} kills, seed {seed}, {} messages/s of {} B with {} recipients",
        args.cycles, args.rate, args.size, args.recipients
    );
    let injector = Injector::start(Plan {
        sessions: args.sessions,
        recipients: args.recipients,
        size_bytes: args.size,
        rate_per_s: Some(args.rate),
        reconnect: true,
        seed,
        ..Plan::new(
            daemon.settings.listen,
            DomainMix::spread(&expand("d{0..200}.crash.test")?, Spread::Zipf)?,
            run_id,
        )
    })?;
    let kills = kill_again_and_again(args, &mut daemon, &injector, &tally, &mut random)?;
    injector.stop();
    let injected = injector.join();
    let accepted = injected.accepted_count();
    let bar = report::bar(accepted, "drained");
    let drained = wait_until(
        PATIENCE,
        || {
            bar.set_position(tally.totals().distinct);
            tally.totals().distinct >= accepted && lost(&injected, &tally).is_empty()
        },
        || tally.totals().distinct,
    );
    bar.finish_and_clear();
    let lost = lost(&injected, &tally);
    let explained = Explained::new(&tally.duplicates(), &kills);
    let totals = tally.totals();
    print_result(&kills, &injected, &totals, &lost, &explained);
    drop(daemon);
    fleet.stop();
    let again = format!("repeat with SEED={seed} CYCLES={}", args.cycles);
    judged(drained, &totals, &lost, &explained, &again)
}

fn print_result(
    kills: &[Kill],
    injected: &Injected,
    totals: &Totals,
    lost: &[u64],
    explained: &Explained,
) {
    println!(
        "\nkills      {} ({} while it started)",
        kills.len(),
        early(kills)
    );
    println!(
        "accepted   {} recipients; {} sent without an answer; {} refused for now",
        report::thousands(injected.accepted_count()),
        injected.unanswered_count(),
        injected
            .outcomes
            .iter()
            .filter(|o| (400..500).contains(&o.code))
            .count(),
    );
    println!("arrived    {} distinct", report::thousands(totals.distinct));
    println!("lost       {}", lost.len());
    println!(
        "duplicates {}: {} arrived within {OUTCOME_MS_MAX} ms before a kill, {} within \
         {} ms, {} unexplained; at most {} after one kill",
        totals.duplicates,
        explained.strict,
        explained.late,
        OUTCOME_MS_MAX + SCHEDULING_MS_MAX,
        explained.unexplained.len(),
        explained.per_kill_max,
    );
    println!("acceptance {}", report::percentiles(&injected.latency_us));
}

fn judged(
    drained: bool,
    totals: &Totals,
    lost: &[u64],
    explained: &Explained,
    again: &str,
) -> Result<(), Failure> {
    if !drained || !lost.is_empty() {
        let some: Vec<_> = lost.iter().take(10).collect();
        return Err(Failure::Broken(format!(
            "{} messages lost, {some:?}; {again}",
            lost.len()
        )));
    }
    if !explained.unexplained.is_empty() {
        let some: Vec<_> = explained.unexplained.iter().take(5).collect();
        return Err(Failure::Broken(format!(
            "duplicates without a cause: {some:?}; {again}"
        )));
    }
    if totals.altered + totals.mixed_up > 0 {
        return Err(Failure::Broken(format!(
            "content altered or mixed up: {totals:?}; {again}"
        )));
    }
    Ok(())
}

fn early(kills: &[Kill]) -> usize {
    kills.iter().filter(|kill| kill.early).count()
}

fn kill_again_and_again(
    args: &CrashArgs,
    daemon: &mut Daemon,
    injector: &Injector,
    tally: &Tally,
    random: &mut Random,
) -> Result<Vec<Kill>, Failure> {
    let mut kills = Vec::new();
    // How long a start takes here, from the start of the process to the greeting.
    let mut start_us = 100_000;
    let mut launched = Instant::now();
    let bar = report::bar(u64::from(args.cycles), "kills");
    for cycle in 0..args.cycles {
        let early = cycle > 0 && random.below(EARLY_ONE_IN) == 0;
        let due = if early {
            launched + Duration::from_micros(random.below(start_us * 5 / 4))
        } else {
            daemon.wait_until_it_greets()?;
            if cycle > 0 {
                start_us = launched.elapsed().as_micros() as u64;
            }
            Instant::now() + Duration::from_millis(10 + random.below(args.load_ms_max))
        };
        while Instant::now() < due {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        if !daemon.is_running() {
            return Err(Failure::Broken(format!(
                "hikyakud ended by itself in cycle {cycle}:\n{}",
                daemon.log_tail()
            )));
        }
        let at_ms = tally.elapsed_ms();
        daemon.kill();
        let again_ms = tally.elapsed_ms();
        launched = Instant::now();
        daemon.relaunch()?;
        kills.push(Kill {
            at_ms,
            again_ms,
            early,
        });
        bar.inc(1);
        let accepted = injector.progress.accepted.load(Relaxed);
        let totals = tally.totals();
        bar.set_message(format!(
            "kills, {accepted} accepted, {} arrived, {} twice",
            totals.distinct, totals.duplicates
        ));
    }
    bar.finish_and_clear();
    daemon.wait_until_it_greets()?;
    Ok(kills)
}

/// Duplicates sorted by what explains them.
#[derive(Debug, Default)]
struct Explained {
    /// Arrived within [`OUTCOME_MS_MAX`] before a kill, or after it out of the sockets' buffers.
    strict: usize,
    /// Within the scheduling allowance as well.
    late: usize,
    /// Most duplicates one kill made.
    per_kill_max: usize,
    unexplained: Vec<Duplicate>,
}

impl Explained {
    fn new(duplicates: &[Duplicate], kills: &[Kill]) -> Self {
        let mut explained = Self::default();
        let mut per_kill = vec![0usize; kills.len()];
        for duplicate in duplicates {
            // Kills that fall between the two arrivals; the nearest to the first one forgot it.
            let nearest = kills
                .iter()
                .enumerate()
                .filter(|(_, kill)| kill.at_ms <= duplicate.again_ms)
                .filter(|(_, kill)| duplicate.before_ms <= kill.again_ms + SCHEDULING_MS_MAX)
                .map(|(n, kill)| (kill.at_ms.saturating_sub(duplicate.before_ms), n))
                .min();
            match nearest {
                Some((age_ms, n)) if age_ms <= OUTCOME_MS_MAX => {
                    explained.strict += 1;
                    per_kill[n] += 1;
                }
                Some((age_ms, n)) if age_ms <= OUTCOME_MS_MAX + SCHEDULING_MS_MAX => {
                    explained.late += 1;
                    per_kill[n] += 1;
                }
                _ => explained.unexplained.push(*duplicate),
            }
        }
        explained.per_kill_max = per_kill.into_iter().max().unwrap_or(0);
        explained
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_need_a_kill_that_explains_them() {
        let kill = |at_ms| Kill {
            at_ms,
            again_ms: at_ms + 20,
            early: false,
        };
        let kills = [kill(1000), kill(2000), kill(2100)];
        let duplicate = |before_ms, again_ms| Duplicate {
            id: 1,
            before_ms,
            again_ms,
        };
        let sort = |before_ms, again_ms| {
            let sorted = Explained::new(&[duplicate(before_ms, again_ms)], &kills);
            (sorted.strict, sorted.late, sorted.unexplained.len())
        };
        assert_eq!(sort(950, 1100), (1, 0, 0), "just before the kill");
        assert_eq!(
            sort(1010, 1100),
            (1, 0, 0),
            "out of the buffers after the kill"
        );
        assert_eq!(sort(800, 1100), (0, 1, 0), "a busy machine");
        assert_eq!(sort(500, 1100), (0, 0, 1), "long recorded");
        assert_eq!(sort(1300, 1400), (0, 0, 1), "no kill between");
        assert_eq!(
            sort(1990, 2500),
            (1, 0, 0),
            "forgotten by the second kill, seen by the third"
        );
    }
}
