//! `make bench`: how fast the daemon is on this machine, against three million messages an hour.
//!
//! Two parts on one daemon, with encryption and delivery log on as always. Flat out: 100 sessions
//! push as hard as they can, and the clock stops when the last accepted message has arrived at the
//! fleet. At the goal's rate: messages come evenly, and latencies mean something.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::{Common, WorkDir, fresh_run, loopback_block, lost, print_machine, wait_until};
use crate::daemon::{Daemon, Programs, Settings, free_address};
use crate::dns::Dns;
use crate::domains::{DomainMix, Spread};
use crate::failure::Failure;
use crate::fleet::Fleet;
use crate::fleet::tally::Tally;
use crate::inject::{Injected, Injector, Plan};
use crate::report::{self, GOAL_PER_HOUR};
use crate::results;
use crate::world::{Domain, Host, World};

/// Nothing arriving for so long while mail is missing is a loss.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measure the daemon against 3,000,000 messages an hour.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(flatten)]
    common: Common,
    /// Messages of the flat-out part.
    #[arg(long, short = 'm', default_value_t = 300_000)]
    messages: u64,
    /// Seconds of the part at the goal's rate; 0 leaves it out.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Rate of that part, messages an hour.
    #[arg(long, default_value_t = GOAL_PER_HOUR)]
    goal: f64,
    /// Sessions at once.
    #[arg(long, short = 's', default_value_t = 100)]
    sessions: usize,
    /// Content bytes a message.
    #[arg(long, short = 'l', default_value_t = 1024)]
    size: usize,
    /// Recipient domains, spread evenly over eight MX hosts.
    #[arg(long, short = 'd', default_value_t = 100)]
    domains: usize,
    /// Deliver by a [[route]] to one host instead of MX lookups.
    #[arg(long)]
    route: bool,
    /// One command at a time on the injector's side.
    #[arg(long)]
    no_pipelining: bool,
}

/// The far end: a fleet, and DNS for it unless everything goes by a route.
pub(super) struct FarEnd {
    pub(super) fleet: Fleet,
    pub(super) dns: Option<Dns>,
    pub(super) routes: Vec<(String, String)>,
    pub(super) mix: DomainMix,
}

impl FarEnd {
    /// Eight hosts with MX records, or one behind a route.
    pub(super) fn new(domains: usize, route: bool, run: u32) -> Result<Self, Failure> {
        let tally = Arc::new(Tally::new(run));
        let names: Vec<String> = (0..domains.max(1))
            .map(|n| format!("d{n}.bench.test"))
            .collect();
        let mix = DomainMix::spread(&names, Spread::Uniform)?;
        if route {
            let fleet = Fleet::start(&World::single(Ipv4Addr::LOCALHOST, 0), tally)?;
            let routes = vec![("*".to_owned(), fleet.hosts[0].1.to_string())];
            return Ok(Self {
                fleet,
                dns: None,
                routes,
                mix,
            });
        }
        let hosts = (0..8u8).map(|n| {
            Host::new(
                &format!("mx{n}.bench.test"),
                Ipv4Addr::new(127, 0, 1, n + 1),
            )
        });
        let domain = names.iter().enumerate().map(|(n, name)| {
            let mx = vec![format!("10 mx{}.bench.test", n % 8)];
            Domain {
                mx,
                ..Domain::new(name)
            }
        });
        let port = free_address()?.port();
        let world = World {
            port,
            seed: 1,
            host: hosts.collect(),
            domain: domain.collect(),
        };
        let world = world.moved_to_block(loopback_block());
        let fleet = Fleet::start(&world, tally)?;
        let dns = Dns::start(&world, free_address()?)?;
        Ok(Self {
            fleet,
            dns: Some(dns),
            routes: vec![],
            mix,
        })
    }

    /// Settings of a daemon in `dir` that delivers to this far end.
    pub(super) fn settings(&self, dir: &Path) -> Result<Settings, Failure> {
        let mut settings = Settings::new(dir)?;
        settings.dns = self.dns.as_ref().map(|dns| dns.address);
        settings.mx_port = self
            .fleet
            .hosts
            .first()
            .map(|(_, address, _)| address.port());
        settings.routes.clone_from(&self.routes);
        Ok(settings)
    }

    pub(super) fn stop(self) {
        self.fleet.stop();
        if let Some(dns) = self.dns {
            dns.stop();
        }
    }
}

/// Runs `hikyaku-bench bench`.
///
/// # Errors
/// [`Failure::Broken`] when an accepted message did not arrive, or something arrived altered.
pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    let programs = Programs::find()?;
    let work = WorkDir::new(&args.common)?;
    let run_id = fresh_run();
    let far = FarEnd::new(args.domains, args.route, run_id)?;
    let mut settings = far.settings(work.path())?;
    settings.shards = args.common.shards;
    let daemon = Daemon::start(settings, &programs)?;
    print_machine(work.path());
    print_settings(args, &far);
    let plan = Plan {
        sessions: args.sessions,
        size_bytes: args.size,
        pipelining: !args.no_pipelining,
        ..Plan::new(daemon.settings.listen, far.mix.clone(), run_id)
    };
    let flat = part(
        &daemon,
        &far,
        Plan {
            messages: args.messages,
            ..plan.clone()
        },
    )?;
    println!("\nflat out");
    flat.print();
    let transit = far.fleet.tally.transit_us();
    println!("  transit     {}", report::percentiles(&transit));
    let per_hour = flat.rate() * 3600.0;
    println!(
        "  GOAL        {} an hour is {:.1} x the {} of the goal",
        report::thousands(per_hour as u64),
        per_hour / GOAL_PER_HOUR,
        report::thousands(GOAL_PER_HOUR as u64),
    );
    let size = format!("flat out, {} B", args.size);
    let mut figures = vec![
        (format!("{size}: delivered"), flat.rate(), "messages/s"),
        (format!("{size}: daemon CPU a message"), flat.cpu_us(), "µs"),
    ];
    if args.seconds > 0 {
        let rate = args.goal / 3600.0;
        // A tally of its own would need a fleet of its own: the ids go on where the first part ended.
        let even = part(
            &daemon,
            &far,
            Plan {
                messages: (rate * args.seconds as f64) as u64,
                rate_per_s: Some(rate),
                first_id: args.messages,
                ..plan
            },
        )?;
        println!("\nat {} an hour", report::thousands(args.goal as u64));
        even.print();
        let name = format!("{rate:.0} messages/s: daemon CPU a message");
        figures.push((name, even.cpu_us(), "µs"));
        let mut transit_even = far.fleet.tally.transit_us();
        if transit_even.subtract(&transit).is_ok() {
            println!("  transit     {}", report::percentiles(&transit_even));
        }
    }
    let figures: Vec<_> = (figures.iter())
        .map(|(name, value, unit)| (name.as_str(), *value, *unit))
        .collect();
    results::record(args.common.record.as_deref(), &figures)?;
    println!("\nresident   {} MiB", daemon.resident_bytes() >> 20);
    drop(daemon);
    far.stop();
    Ok(())
}

fn print_settings(args: &BenchArgs, far: &FarEnd) {
    println!(
        "settings   {} sessions, {} B, {} domains {}, {}, encryption and delivery log on, \
         fdatasync before 250",
        args.sessions,
        args.size,
        args.domains,
        if far.dns.is_some() {
            "by MX over 8 hosts"
        } else {
            "by route to one host"
        },
        if args.no_pipelining {
            "no pipelining"
        } else {
            "pipelining"
        },
    );
}

/// One part's figures.
struct Part {
    injected: Injected,
    accepted: u64,
    elapsed: Duration,
    cpu: Duration,
    duplicates: u64,
}

impl Part {
    fn rate(&self) -> f64 {
        self.accepted as f64 / self.elapsed.as_secs_f64()
    }

    fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.accepted.max(1) as f64
    }

    fn print(&self) {
        let cpu_us = self.cpu_us();
        println!(
            "  accepted    {} = received, {} duplicates",
            report::thousands(self.accepted),
            self.duplicates
        );
        let accepting = self.accepted as f64 / self.injected.elapsed.as_secs_f64();
        println!(
            "  accepting   {accepting:.0} messages/s, {}",
            report::hour(accepting)
        );
        println!(
            "  delivered   {:.0} messages/s, {}",
            self.rate(),
            report::hour(self.rate())
        );
        println!("  daemon CPU  {cpu_us:.1} µs a message");
        println!(
            "  acceptance  {}",
            report::percentiles(&self.injected.latency_us)
        );
    }
}

/// Injects by `plan`, waits until all of it has arrived, and checks it by id.
fn part(daemon: &Daemon, far: &FarEnd, plan: Plan) -> Result<Part, Failure> {
    let tally = &far.fleet.tally;
    let (before, cpu_before) = (tally.totals(), daemon.cpu_time());
    let started = Instant::now();
    let total = plan.messages;
    let injector = Injector::start(plan)?;
    let bar = report::bar(total, "accepted");
    while !injector.is_finished() {
        bar.set_position(injector.progress.accepted.load(Relaxed));
        std::thread::sleep(Duration::from_millis(20));
    }
    let injected = injector.join();
    if let Some(failure) = &injected.failure {
        return Err(Failure::setup(format!("{failure}\n{}", daemon.log_tail())));
    }
    let accepted = injected.accepted_count();
    bar.set_length(accepted);
    bar.set_message("delivered");
    let arrived = || tally.totals().distinct - before.distinct;
    wait_until(
        PATIENCE,
        || {
            bar.set_position(arrived());
            arrived() >= accepted
        },
        arrived,
    );
    bar.finish_and_clear();
    let elapsed = started.elapsed();
    // What belongs to these messages but comes after them (outcome records, log) is theirs too.
    std::thread::sleep(Duration::from_millis(150));
    let cpu = daemon.cpu_time().saturating_sub(cpu_before);
    let lost = lost(&injected, tally);
    let totals = tally.totals();
    if !lost.is_empty() {
        let some: Vec<_> = lost.iter().take(5).collect();
        return Err(Failure::Broken(format!(
            "{} of {accepted} accepted messages did not arrive, ids {some:?}",
            lost.len()
        )));
    }
    if totals.altered + totals.mixed_up > 0 {
        return Err(Failure::Broken(format!(
            "messages arrived altered or mixed up: {totals:?}"
        )));
    }
    let duplicates = totals.duplicates - before.duplicates;
    Ok(Part {
        injected,
        accepted,
        elapsed,
        cpu,
        duplicates,
    })
}
