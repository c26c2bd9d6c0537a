//! `make demo`: the whole relay on loopback for some seconds, and what happened.
//!
//! Starts the daemon, a fleet of MX hosts with every kind of trouble, and their DNS; injects for some
//! seconds; shows live counters; then checks received = accepted by id, and draws where mail waits
//! and why.

mod picture;

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::{Common, WorkDir, fresh_run, loopback_block, print_machine};
use crate::daemon::{Daemon, Programs, Settings, free_address};
use crate::dns::Dns;
use crate::failure::Failure;
use crate::fleet::Fleet;
use crate::fleet::tally::Tally;
use crate::inject::{Injector, Plan};
use crate::report;
use crate::world::World;

/// The demo's mail world: most of it well, the rest ill in every way.
pub const WORLD: &str = include_str!("demo/world.toml");
/// Nothing arriving for so long: what is left waits for a retry.
const QUIET: Duration = Duration::from_secs(3);

/// Run the relay on loopback for some seconds and show what happens.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    #[command(flatten)]
    common: Common,
    /// Seconds of injecting.
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// Messages a second; 0: flat out.
    #[arg(long, default_value_t = 3000.0)]
    rate: f64,
    /// Wait at most so many seconds for the rest to arrive.
    #[arg(long, default_value_t = 20.0)]
    drain: f64,
}

/// Runs `hikyaku-bench demo`.
///
/// # Errors
/// [`Failure::Broken`] when a message for a healthy domain did not arrive.
pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    let programs = Programs::find()?;
    let work = WorkDir::new(&args.common)?;
    let run_id = fresh_run();
    let tally = Arc::new(Tally::new(run_id));
    let mut world = World::parse(WORLD, "demo/world.toml")?.moved_to_block(loopback_block());
    world.port = free_address()?.port();
    let fleet = Fleet::start(&world, Arc::clone(&tally))?;
    let dns = Dns::start(&world, free_address()?)?;
    let mut settings = Settings::new(work.path())?;
    settings.shards = args.common.shards;
    settings.dns = Some(dns.address);
    settings.mx_port = Some(world.port);
    // So that a demo of some seconds shows second attempts as well.
    settings.delivery =
        "retry_schedule = [\"3s\", \"5s\", \"10s\", \"1m\"]\ngreeting_timeout = \"10s\"".to_owned();
    let daemon = Daemon::start(settings, &programs)?;
    print_machine(work.path());
    print_where(&daemon);
    let mix = world.mix()?;
    let injector = Injector::start(Plan {
        rate_per_s: (args.rate > 0.0).then_some(args.rate),
        reconnect: true,
        headers: vec!["X-Hikyaku-Group: demo".to_owned()],
        ..Plan::new(daemon.settings.listen, mix.clone(), run_id)
    })?;
    let cpu_before = daemon.cpu_time();
    watch(args, &injector, &tally, &fleet, &daemon, &dns);
    let progress = Arc::clone(&injector.progress);
    let injected = injector.join();
    let cpu = daemon.cpu_time().saturating_sub(cpu_before);
    println!();
    let by_kind = picture::Kinds::new(&world, &mix, &injected, &tally);
    println!("{}", by_kind.draw(&daemon));
    let accepted = injected.accepted_count();
    println!(
        "accepted   {}   (4xx {}, 5xx {}, no answer {})",
        report::thousands(accepted),
        progress.deferred.load(Relaxed),
        progress.refused.load(Relaxed),
        injected.unanswered_count()
    );
    let totals = tally.totals();
    println!(
        "received   {} of them, {} twice (a host that resets after the final dot asks for it), {} DSNs",
        report::thousands(totals.distinct),
        totals.duplicates,
        totals.unmarked
    );
    println!("acceptance {}", report::percentiles(&injected.latency_us));
    println!("transit    {}", report::percentiles(&tally.transit_us()));
    println!(
        "daemon CPU {:.1} µs a message, {} MiB resident",
        cpu.as_secs_f64() * 1e6 / accepted.max(1) as f64,
        daemon.resident_bytes() >> 20
    );
    println!("dns        {} questions", dns.asked.load(Relaxed));
    let missing = by_kind.missing_of_healthy();
    drop(daemon);
    fleet.stop();
    dns.stop();
    if accepted == 0 {
        return Err(Failure::Broken("nothing was accepted".to_owned()));
    }
    if missing > 0 {
        return Err(Failure::Broken(format!(
            "{missing} messages for healthy domains are missing"
        )));
    }
    if totals.altered + totals.mixed_up > 0 {
        return Err(Failure::Broken(format!(
            "messages arrived altered or mixed up: {totals:?}"
        )));
    }
    println!("\nreceived = accepted for every healthy domain, checked by id");
    Ok(())
}

/// How to look at the relay while it runs.
fn print_where(daemon: &Daemon) {
    println!(
        "relay      {} (pid {})",
        daemon.settings.listen,
        daemon.pid()
    );
    println!(
        "control    {}   (hikyaku --config {} status)",
        daemon.settings.control_path().display(),
        daemon.settings.config_path().display()
    );
    println!(
        "page       curl --unix-socket {} http://localhost/\n",
        daemon.settings.control_path().display()
    );
}

/// Draws until the injector is through and nothing comes any more, or the time is up.
fn watch(
    args: &DemoArgs,
    injector: &Injector,
    tally: &Tally,
    fleet: &Fleet,
    daemon: &Daemon,
    dns: &Dns,
) {
    let mut screen = Screen::new();
    let started = Instant::now();
    let mut quiet_since = Instant::now();
    let mut last = 0;
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let elapsed = started.elapsed().as_secs_f64();
        if elapsed >= args.seconds {
            injector.stop();
        }
        let received = tally.received();
        if received != last || !injector.is_finished() {
            (last, quiet_since) = (received, Instant::now());
        }
        screen.draw(&picture::live(
            elapsed,
            &injector.progress,
            tally,
            fleet,
            daemon,
            dns,
        ));
        let drained = injector.is_finished() && quiet_since.elapsed() >= QUIET;
        if drained || elapsed >= args.seconds + args.drain {
            break;
        }
    }
}

/// Redraws a block of lines in place on a terminal; elsewhere prints it every few seconds.
struct Screen {
    terminal: bool,
    lines: usize,
    printed: Option<Instant>,
}

impl Screen {
    fn new() -> Self {
        Self {
            terminal: std::io::stdout().is_terminal(),
            lines: 0,
            printed: None,
        }
    }

    fn draw(&mut self, block: &str) {
        let mut out = std::io::stdout().lock();
        if self.terminal {
            if self.lines > 0 {
                let _ = write!(out, "\x1b[{}A\x1b[J", self.lines);
            }
            let _ = out.write_all(block.as_bytes());
            self.lines = block.lines().count();
        } else if self
            .printed
            .is_none_or(|at| at.elapsed() >= Duration::from_secs(2))
        {
            let _ = out.write_all(block.as_bytes());
            self.printed = Some(Instant::now());
        }
        let _ = out.flush();
    }
}
