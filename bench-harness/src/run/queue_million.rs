//! `make bench-queue`: a million messages for a route that is dead.
//!
//! 1. Injects them; nobody listens at the far end. Memory at the end is the bar's figure.
//! 2. Restarts the daemon: how long until it takes mail again, and how fast the replay goes.
//! 3. The route comes back: everything arrives, checked by id.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::{Common, WorkDir, fresh_run, lost, print_machine, wait_until};
use crate::daemon::{Daemon, Programs, Settings, free_address};
use crate::domains::{DomainMix, Spread, expand};
use crate::failure::Failure;
use crate::fleet::Fleet;
use crate::fleet::tally::Tally;
use crate::inject::{Injected, Injector, Plan};
use crate::report;
use crate::world::World;

/// The bars of the issue.
const RESIDENT_MIB_MAX: u64 = 250;
const ACCEPTING_MAX: Duration = Duration::from_secs(1);
const REPLAY_PER_S_MIN: f64 = 200_000.0;
/// Nothing changing for so long is a failure.
const PATIENCE: Duration = Duration::from_secs(300);

/// Queue a million messages to a dead route, restart, and let them go.
#[derive(Debug, clap::Args)]
pub struct QueueMillionArgs {
    #[command(flatten)]
    common: Common,
    /// Messages to queue.
    #[arg(long, short = 'm', default_value_t = 1_000_000)]
    messages: u64,
    /// Sessions at once.
    #[arg(long, short = 's', default_value_t = 100)]
    sessions: usize,
    /// Content bytes a message.
    #[arg(long, short = 'l', default_value_t = 1024)]
    size: usize,
    /// Recipient domains.
    #[arg(long, short = 'd', default_value_t = 1000)]
    domains: u32,
    /// Fail unless all bars are met.
    #[arg(long)]
    strict: bool,
}

/// Runs `hikyaku-bench queue-million`.
///
/// # Errors
/// [`Failure::Broken`] when a message is lost; with `--strict`, when a bar is missed.
pub fn run(args: &QueueMillionArgs) -> Result<(), Failure> {
    let programs = Programs::find()?;
    let work = WorkDir::new(&args.common)?;
    let run_id = fresh_run();
    let far_end = free_address()?;
    let mut settings = Settings::new(work.path())?;
    settings.shards = args.common.shards;
    settings.routes.push(("*".to_owned(), far_end.to_string()));
    let mut daemon = Daemon::start(settings, &programs)?;
    print_machine(work.path());
    let empty_mib = daemon.resident_bytes() >> 20;
    let mix = DomainMix::spread(
        &expand(&format!("d{{0..{}}}.queue.test", args.domains))?,
        Spread::Uniform,
    )?;
    let plan = Plan {
        sessions: args.sessions,
        messages: args.messages,
        size_bytes: args.size,
        ..Plan::new(daemon.settings.listen, mix, run_id)
    };
    let injected = fill(&daemon, plan.clone())?;
    let accepted = injected.accepted_count();
    let rate = accepted as f64 / injected.elapsed.as_secs_f64();
    println!(
        "queued     {} at {rate:.0}/s to a dead route",
        report::thousands(accepted)
    );
    let resident_mib = settled_resident_bytes(&daemon) >> 20;
    let mut met = bar(
        "resident",
        format!("{resident_mib} MiB in all ({empty_mib} MiB when empty)"),
        resident_mib <= RESIDENT_MIB_MAX,
        format!("≤ {RESIDENT_MIB_MAX} MiB"),
    );

    let stopping = daemon.terminate()?;
    println!("stopping   {}", report::seconds(stopping));
    let started = Instant::now();
    daemon.relaunch()?;
    daemon.wait_until_it_greets()?;
    let greeting = started.elapsed();
    take_one_more(args.messages, plan)?;
    let accepting = started.elapsed();
    met &= bar(
        "accepting",
        format!(
            "{} after the start (greets after {}), key derivation included",
            report::seconds(accepting),
            report::seconds(greeting)
        ),
        accepting <= ACCEPTING_MAX,
        format!("≤ {} after unlock", report::seconds(ACCEPTING_MAX)),
    );
    let replay = wait_for_replay(&daemon, accepted, started)?;
    let per_s = accepted as f64 / replay.as_secs_f64();
    met &= bar(
        "replay",
        format!("{per_s:.0} messages/s ({} in all)", report::seconds(replay)),
        per_s >= REPLAY_PER_S_MIN,
        format!("≥ {REPLAY_PER_S_MIN:.0}/s"),
    );
    println!(
        "resident   {} MiB after the replay",
        settled_resident_bytes(&daemon) >> 20
    );

    drain(&daemon, far_end, run_id, &injected)?;
    if args.strict && !met {
        return Err(Failure::Broken("a bar was missed".to_owned()));
    }
    Ok(())
}

/// One message more, all the way to its 250, while the replay runs.
fn take_one_more(first_id: u64, plan: Plan) -> Result<(), Failure> {
    let probe = Plan {
        messages: 1,
        sessions: 1,
        first_id,
        ..plan
    };
    match Injector::start(probe)?.join().failure {
        None => Ok(()),
        Some(failure) => Err(Failure::Broken(format!(
            "no mail taken after the restart: {failure}"
        ))),
    }
}

fn bar(name: &str, value: String, met: bool, bar: String) -> bool {
    println!(
        "{name:<10} {value}   bar {bar}: {}",
        if met { "met" } else { "MISSED" }
    );
    met
}

fn fill(daemon: &Daemon, plan: Plan) -> Result<Injected, Failure> {
    let bar = report::bar(plan.messages, "queued");
    let injector = Injector::start(plan)?;
    while !injector.is_finished() {
        bar.set_position(injector.progress.accepted.load(Relaxed));
        std::thread::sleep(Duration::from_millis(50));
    }
    bar.finish_and_clear();
    let injected = injector.join();
    match &injected.failure {
        Some(failure) => Err(Failure::setup(format!("{failure}\n{}", daemon.log_tail()))),
        None => Ok(injected),
    }
}

/// Resident memory once it has stopped moving.
fn settled_resident_bytes(daemon: &Daemon) -> u64 {
    let mut last = daemon.resident_bytes();
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(250));
        let now = daemon.resident_bytes();
        if now.abs_diff(last) < 1 << 20 {
            return now;
        }
        last = now;
    }
    last
}

/// Waits until the daemon counts all `accepted` messages as queued. The time since `started`.
fn wait_for_replay(daemon: &Daemon, accepted: u64, started: Instant) -> Result<Duration, Failure> {
    let queued = || number(daemon, "queued_messages").unwrap_or(0);
    let done = || number(daemon, "replaying") == Some(0) && queued() >= accepted;
    if wait_until(PATIENCE, done, queued) {
        return Ok(started.elapsed());
    }
    Err(Failure::Broken(format!(
        "{} of {accepted} messages are back after the replay",
        queued()
    )))
}

fn number(daemon: &Daemon, column: &str) -> Option<u64> {
    daemon.status(column)?.parse().ok()
}

/// Brings the far end up and waits for everything.
fn drain(
    daemon: &Daemon,
    far_end: SocketAddr,
    run_id: u32,
    injected: &Injected,
) -> Result<(), Failure> {
    let tally = Arc::new(Tally::new(run_id));
    let fleet = Fleet::start(
        &World::single(Ipv4Addr::LOCALHOST, far_end.port()),
        Arc::clone(&tally),
    )?;
    let accepted = injected.accepted_count();
    let started = Instant::now();
    // Retry times may be far away: an operator who knows that the route is back says so.
    let (code, said) = daemon.command("/api/v1/retry?all=1")?;
    if code != 200 {
        println!("note       retry was answered {code}: {}", said.trim());
    }
    let bar = report::bar(accepted, "delivered");
    let arrived = || tally.totals().distinct;
    wait_until(
        PATIENCE,
        || {
            bar.set_position(arrived());
            arrived() >= accepted && lost(injected, &tally).is_empty()
        },
        arrived,
    );
    bar.finish_and_clear();
    let elapsed = started.elapsed();
    let lost = lost(injected, &tally);
    let rate = arrived() as f64 / elapsed.as_secs_f64();
    println!(
        "delivered  {} in {} ({rate:.0}/s) once the route was back; lost {}, twice {}",
        report::thousands(arrived()),
        report::seconds(elapsed),
        lost.len(),
        tally.totals().duplicates
    );
    fleet.stop();
    if lost.is_empty() {
        return Ok(());
    }
    let some: Vec<_> = lost.iter().take(5).collect();
    Err(Failure::Broken(format!(
        "{} of {accepted} messages lost, ids {some:?}",
        lost.len()
    )))
}
