//! `make bench-peers`: Hikyaku, Postfix, and Postfix's own load tools talking straight to each other.
//!
//! All three get the same load from smtp-source (1 KB, 100 sessions, several recipient domains, one process
//! each, so that every shard has mail of its own) and hand it to the same smtp-sink; a run ends when the
//! sink has counted the last message, and a daemon that then counts another number of deliveries has
//! sent something twice: that run is an error, no figure. The direct
//! run is the floor: what SMTP itself costs on this machine. Rounds are interleaved, so that a change
//! in the machine's mood meets all three, and medians are compared.
//!
//! Relays start anew each round and get a warm-up that goes to another far end, so that neither is
//! measured while it makes its first files. The system's own Postfix is never touched: ours has its
//! own configuration, queue and port below the work directory.

pub mod postfix;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::postfix::Postfix;
use super::{Common, WorkDir, fresh_run, print_machine, wait_until};
use crate::daemon::{Daemon, Programs, Settings, free_address, greets};
use crate::domains::DomainMix;
use crate::failure::{Context, Failure};
use crate::fleet::Fleet;
use crate::fleet::tally::Tally;
use crate::inject::{Injector, Plan};
use crate::machine;
use crate::report::{self, median};
use crate::results;
use crate::world::World;

/// The bars of the issue that this run checks.
const DIRECT_RATIO_MIN: f64 = 0.60;
const POSTFIX_RATIO_MIN: f64 = 22.0;
const CPU_RATIO_MAX: f64 = 0.95;
/// Domain of the warm-up; its route leads to our own fleet.
const WARM_DOMAIN: &str = "warm.test";
/// A relay that delivers nothing for so long has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Compare Hikyaku with Postfix and with the direct smtp-source → smtp-sink run.
#[derive(Debug, clap::Args)]
pub struct PeersArgs {
    #[command(flatten)]
    common: Common,
    /// Messages of a direct and of a Hikyaku run.
    #[arg(long, short = 'm', default_value_t = 100_000)]
    messages: u64,
    /// Messages of a Postfix run (it takes longer).
    #[arg(long, default_value_t = 15_000)]
    postfix_messages: u64,
    /// Messages of a relay's warm-up; a fifth of it for Postfix.
    #[arg(long, default_value_t = 50_000)]
    warm_up: u64,
    /// Rounds; medians are compared.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Sessions at once.
    #[arg(long, short = 's', default_value_t = 100)]
    sessions: usize,
    /// Message length, as smtp-source counts it.
    #[arg(long, short = 'l', default_value_t = 1024)]
    size: usize,
    /// Recipient domains, each with an smtp-source of its own.
    #[arg(long, default_value_t = 8)]
    domains: usize,
    /// Run only these.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "direct,hikyaku,postfix"
    )]
    only: Vec<Peer>,
    /// Leave out the last round, with one connection a message.
    #[arg(long)]
    no_reconnect_round: bool,
    /// Fail unless all bars are met.
    #[arg(long)]
    strict: bool,
}

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Peer {
    /// smtp-source straight into smtp-sink.
    Direct,
    /// The daemon.
    Hikyaku,
    /// A tuned Postfix.
    Postfix,
}

/// One run's figures.
#[derive(Debug, Clone, Copy)]
struct Figure {
    rate: f64,
    cpu_us: f64,
}

/// Figures of several rounds.
#[derive(Debug, Default)]
struct Rounds(Vec<Figure>);

impl Rounds {
    fn rate(&self) -> f64 {
        median(&self.0.iter().map(|f| f.rate).collect::<Vec<_>>())
    }

    fn cpu_us(&self) -> f64 {
        median(&self.0.iter().map(|f| f.cpu_us).collect::<Vec<_>>())
    }
}

/// The load of one run.
#[derive(Debug, Clone, Copy)]
struct Load<'a> {
    args: &'a PeersArgs,
    messages: u64,
    /// `-d`: many messages a connection.
    keep_connection: bool,
}

/// Runs `hikyaku-bench peers`.
///
/// # Errors
/// When a program is missing or a run fails; with `--strict`, when a bar is missed.
pub fn run(args: &PeersArgs) -> Result<(), Failure> {
    let (source, sink) = (tool("smtp-source")?, tool("smtp-sink")?);
    let work = WorkDir::new(&args.common)?;
    print_machine(work.path());
    println!(
        "load       smtp-source -s {} -l {} (with -d: many messages a connection), {} domains, \
         smtp-sink; {} rounds",
        args.sessions, args.size, args.domains, args.rounds
    );
    println!("programs   {} {}", source.display(), sink.display());
    let mut keep = [Rounds::default(), Rounds::default(), Rounds::default()];
    for round in 0..args.rounds {
        println!("\nround {} (-d)", round + 1);
        one_round(args, true, &work, &mut keep)?;
    }
    let met = print_ratios("-d, many messages a connection (headline)", true, &keep);
    record(args, &keep)?;
    if !args.no_reconnect_round {
        println!("\none round without -d");
        let mut anew = [Rounds::default(), Rounds::default(), Rounds::default()];
        one_round(args, false, &work, &mut anew)?;
        print_ratios("without -d, one connection a message", false, &anew);
    }
    if args.strict && !met {
        return Err(Failure::Broken("a bar was missed".to_owned()));
    }
    Ok(())
}

/// Adds the medians to the table of `--record`.
fn record(args: &PeersArgs, [direct, hikyaku, postfix]: &[Rounds; 3]) -> Result<(), Failure> {
    let mut figures = Vec::new();
    if !hikyaku.0.is_empty() && !direct.0.is_empty() {
        figures.push(("peers: Hikyaku", hikyaku.rate(), "messages/s"));
        figures.push((
            "peers: Hikyaku / direct",
            hikyaku.rate() / direct.rate(),
            "×",
        ));
        let cpu = hikyaku.cpu_us() / direct.cpu_us();
        figures.push(("peers: CPU Hikyaku / both tools", cpu, "×"));
    }
    if !hikyaku.0.is_empty() && !postfix.0.is_empty() {
        figures.push((
            "peers: Hikyaku / Postfix",
            hikyaku.rate() / postfix.rate(),
            "×",
        ));
    }
    results::record(args.common.record.as_deref(), &figures)
}

/// Direct, Hikyaku, Postfix, in this order.
fn one_round(
    args: &PeersArgs,
    keep_connection: bool,
    work: &WorkDir,
    rounds: &mut [Rounds; 3],
) -> Result<(), Failure> {
    let load = Load {
        args,
        messages: args.messages,
        keep_connection,
    };
    let say = |name: &str, figure: Figure| {
        println!(
            "  {name:<9}{:>9.0} messages/s  {:>7.1} µs CPU a message",
            figure.rate, figure.cpu_us
        );
        figure
    };
    for peer in [Peer::Direct, Peer::Hikyaku, Peer::Postfix] {
        if !args.only.contains(&peer) {
            continue;
        }
        match peer {
            Peer::Direct => rounds[0].0.push(say("direct", direct(load)?)),
            Peer::Hikyaku => rounds[1].0.push(say("Hikyaku", hikyaku(load, work)?)),
            Peer::Postfix if Postfix::is_possible() => {
                let load = Load {
                    messages: args.postfix_messages,
                    ..load
                };
                rounds[2].0.push(say("Postfix", run_postfix(load, work)?));
            }
            Peer::Postfix => println!("  Postfix  left out (needs root and the package postfix)"),
        }
    }
    Ok(())
}

/// Prints the medians' ratios, beside the bars where they apply; true when all bars are met.
fn print_ratios(title: &str, bars: bool, [direct, hikyaku, postfix]: &[Rounds; 3]) -> bool {
    let check = |name: &str, value: f64, met: bool, bar: String| {
        let verdict = match (bars, met) {
            (false, _) => String::new(),
            (true, true) => format!("   bar {bar}: met"),
            (true, false) => format!("   bar {bar}: MISSED"),
        };
        println!("  {name:<26}{value:>7.2}{verdict}");
        met
    };
    println!("\nmedians, {title}");
    if direct.0.is_empty() || hikyaku.0.is_empty() {
        println!("  no ratios without a direct and a Hikyaku run");
        return false;
    }
    let ratio = hikyaku.rate() / direct.rate();
    let bar = format!("≥ {DIRECT_RATIO_MIN}");
    let mut all = check("Hikyaku / direct", ratio, ratio >= DIRECT_RATIO_MIN, bar);
    let cpu = hikyaku.cpu_us() / direct.cpu_us();
    let bar = format!("≤ {CPU_RATIO_MAX}");
    all &= check("CPU Hikyaku / both tools", cpu, cpu <= CPU_RATIO_MAX, bar);
    if !postfix.0.is_empty() {
        let ratio = hikyaku.rate() / postfix.rate();
        let bar = format!("≥ {POSTFIX_RATIO_MIN}");
        all &= check("Hikyaku / Postfix", ratio, ratio >= POSTFIX_RATIO_MIN, bar);
        let cpu = postfix.cpu_us() / hikyaku.cpu_us();
        println!("  {:<26}{cpu:>7.2}", "CPU Postfix / Hikyaku");
    }
    println!("  Hikyaku: {}", report::hour(hikyaku.rate()));
    all
}

fn direct(load: Load<'_>) -> Result<Figure, Failure> {
    let before = machine::children_cpu_time();
    // Each source fails unless all its messages were taken. A sink that counts would end with the last
    // message, before every source has said QUIT.
    let sink = Sink::start(None)?;
    let started = Instant::now();
    send(load, sink.address)?;
    let elapsed = started.elapsed();
    drop(sink);
    let cpu = machine::children_cpu_time().saturating_sub(before);
    Ok(figure(load, elapsed, cpu))
}

fn hikyaku(load: Load<'_>, work: &WorkDir) -> Result<Figure, Failure> {
    let dir = work.path().join("hikyaku");
    let (mut sink, warm) = (Sink::start(Some(load.messages))?, WarmEnd::start()?);
    let mut settings = Settings::new(&dir)?;
    settings.shards = load.args.common.shards;
    settings.routes = vec![
        (WARM_DOMAIN.to_owned(), warm.address().to_string()),
        ("*".to_owned(), sink.address.to_string()),
    ];
    let daemon = Daemon::start(settings, &Programs::find()?)?;
    warm.up(daemon.settings.listen, load.args.warm_up)?;
    let delivered = || daemon.counter("delivered").unwrap_or_default();
    let counted = delivered();
    let (before, workers_before) = (daemon.cpu_time(), daemon.worker_cpu_time());
    let started = Instant::now();
    send(load, daemon.settings.listen)?;
    sink.wait_for_the_last()?;
    let elapsed = started.elapsed();
    // Outcome records of the last messages belong to the run.
    std::thread::sleep(Duration::from_millis(150));
    let cpu = daemon.cpu_time().saturating_sub(before);
    let workers = daemon.worker_cpu_time().saturating_sub(workers_before);
    let delivered = delivered() - counted;
    // The sink ends with the last message and does not answer it.
    if !(load.messages - 1..=load.messages).contains(&delivered) {
        return Err(Failure::Broken(format!(
            "the daemon counts {delivered} deliveries of {} messages: not a figure",
            load.messages
        )));
    }
    println!(
        "           of Hikyaku's CPU, kernel workers (iou-wrk): {:.1} µs a message",
        workers.as_secs_f64() * 1e6 / load.messages as f64
    );
    drop(daemon);
    warm.stop();
    remove(&dir)?;
    Ok(figure(load, elapsed, cpu))
}

fn run_postfix(load: Load<'_>, work: &WorkDir) -> Result<Figure, Failure> {
    let dir = work.path().join("postfix");
    let (mut sink, warm) = (Sink::start(Some(load.messages))?, WarmEnd::start()?);
    let postfix = Postfix::start(&dir, sink.address, (WARM_DOMAIN, warm.address()))?;
    warm.up(postfix.address, load.args.warm_up / 5)?;
    let before = postfix.cpu_time();
    let started = Instant::now();
    send(load, postfix.address)?;
    sink.wait_for_the_last()?;
    let elapsed = started.elapsed();
    let cpu = postfix.cpu_time().saturating_sub(before);
    postfix.stop();
    warm.stop();
    remove(&dir)?;
    Ok(figure(load, elapsed, cpu))
}

fn figure(load: Load<'_>, elapsed: Duration, cpu: Duration) -> Figure {
    let messages = load.messages as f64;
    Figure {
        rate: messages / elapsed.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / messages,
    }
}

fn remove(dir: &std::path::Path) -> Result<(), Failure> {
    std::fs::remove_dir_all(dir).context(|| format!("cannot remove {}", dir.display()))
}

/// Runs smtp-source against `to` to its end: one process a recipient domain, at once.
fn send(load: Load<'_>, to: SocketAddr) -> Result<(), Failure> {
    let domains = load.args.domains.clamp(1, load.args.sessions.max(1));
    let what = || "cannot run smtp-source".to_owned();
    let sources = (0..domains)
        .map(|n| source(load, to, n, domains)?.spawn().context(what))
        .collect::<Result<Vec<_>, _>>()?;
    // All are waited for, whatever the first says.
    let outputs: Vec<_> = sources
        .into_iter()
        .map(|source| source.wait_with_output().context(what))
        .collect();
    for output in outputs {
        let output = output?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::setup(format!(
                "smtp-source to {to} failed: {}",
                said.trim()
            )));
        }
    }
    Ok(())
}

/// The `n`-th of `domains` sources, with its share of messages and sessions.
fn source(load: Load<'_>, to: SocketAddr, n: usize, domains: usize) -> Result<Command, Failure> {
    let mut command = Command::new(tool("smtp-source")?);
    if load.keep_connection {
        command.arg("-d");
    }
    let messages = share(load.messages, n as u64, domains as u64);
    let sessions = share(load.args.sessions as u64, n as u64, domains as u64);
    command
        .args(["-s", &sessions.to_string(), "-m", &messages.to_string()])
        .args(["-l", &load.args.size.to_string()])
        .args(["-f", "bench@sender.example"])
        .args(["-t", &format!("bench@d{n}.peers.test"), &to.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    Ok(command)
}

/// The `n`-th of `parts` shares of `whole`; all together are the whole.
const fn share(whole: u64, n: u64, parts: u64) -> u64 {
    whole * (n + 1) / parts - whole * n / parts
}

/// A running smtp-sink.
#[derive(Debug)]
struct Sink {
    address: SocketAddr,
    child: Child,
}

impl Sink {
    /// Starts a sink on a free port that ends by itself after `count` messages.
    fn start(count: Option<u64>) -> Result<Self, Failure> {
        let address = free_address()?;
        let mut command = Command::new(tool("smtp-sink")?);
        if rustix::process::geteuid().is_root() {
            command.args(["-u", "nobody"]);
        }
        if let Some(count) = count {
            command.args(["-M", &count.to_string()]);
        }
        let child = command
            .args(["-m", "1000", &address.to_string(), "1000"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // It warns of each connection that is closed without QUIT.
            .stderr(Stdio::null())
            .spawn()
            .context(|| "cannot run smtp-sink".to_owned())?;
        let sink = Self { address, child };
        let started = Instant::now();
        while !greets(address) {
            if started.elapsed() > Duration::from_secs(10) {
                return Err(Failure::setup(format!(
                    "smtp-sink does not greet on {address}"
                )));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(sink)
    }

    /// Waits until it has counted its messages.
    fn wait_for_the_last(&mut self) -> Result<(), Failure> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Ok(Some(_)) = self.child.try_wait() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let text = format!(
            "smtp-sink misses messages {} s after the last",
            PATIENCE.as_secs()
        );
        Err(Failure::Broken(text))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The far end of a warm-up.
struct WarmEnd(Fleet, u32);

impl WarmEnd {
    fn start() -> Result<Self, Failure> {
        let run = fresh_run();
        let world = World::single(Ipv4Addr::LOCALHOST, 0);
        Ok(Self(Fleet::start(&world, Arc::new(Tally::new(run)))?, run))
    }

    fn address(&self) -> SocketAddr {
        self.0.hosts[0].1
    }

    /// Sends `messages` through the relay at `relay` and waits for all of them.
    fn up(&self, relay: SocketAddr, messages: u64) -> Result<(), Failure> {
        if messages == 0 {
            return Ok(());
        }
        let mix = DomainMix::weighted(&[(WARM_DOMAIN.to_owned(), 1.0)])?;
        let plan = Plan {
            messages,
            sessions: 50,
            ..Plan::new(relay, mix, self.1)
        };
        let injected = Injector::start(plan)?.join();
        if let Some(failure) = injected.failure {
            return Err(Failure::setup(format!("warm-up: {failure}")));
        }
        let (accepted, tally) = (injected.accepted_count(), &self.0.tally);
        let arrived = || tally.totals().distinct;
        if wait_until(PATIENCE, || arrived() >= accepted, arrived) {
            return Ok(());
        }
        Err(Failure::Broken(format!(
            "warm-up: {} of {accepted} arrived",
            arrived()
        )))
    }

    fn stop(self) {
        self.0.stop();
    }
}

/// Finds a program in PATH or /usr/sbin.
fn tool(name: &str) -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| {
            Failure::setup(format!(
                "{name} not found: install Debian's package postfix"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        for (whole, parts) in [(100_000, 8), (100, 8), (7, 3), (1, 1)] {
            let sum: u64 = (0..parts).map(|n| share(whole, n, parts)).sum();
            assert_eq!(sum, whole);
        }
    }
}
