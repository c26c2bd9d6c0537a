//! The runs: each puts injector, fleet, DNS and daemon together, measures, and checks a promise.

pub mod bench;
pub mod crash;
pub mod demo;
pub mod peers;
pub mod queue_million;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::failure::{Context, Failure};
use crate::fleet::tally::Tally;
use crate::inject::Injected;
use crate::machine;

/// Options every run has.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// Work in a new directory below this one (default: the system's temporary directory).
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Leave the directory there at the end.
    #[arg(long)]
    keep: bool,
    /// Add the figures to this table; `hikyaku-bench chart` draws it.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Shards of the daemon (default: its own choice).
    #[arg(long)]
    shards: Option<usize>,
}

/// A directory for one run.
#[derive(Debug)]
struct WorkDir(Option<TempDir>, PathBuf);

impl WorkDir {
    fn new(common: &Common) -> Result<Self, Failure> {
        let below = common.dir.clone().unwrap_or_else(std::env::temp_dir);
        let dir = tempfile::Builder::new()
            .prefix("hikyaku-bench-")
            .tempdir_in(&below)
            .context(|| format!("cannot make a directory in {}", below.display()))?;
        let path = dir.path().to_owned();
        if common.keep {
            println!("directory  {}", path.display());
            let _ = dir.keep();
            return Ok(Self(None, path));
        }
        Ok(Self(Some(dir), path))
    }

    fn path(&self) -> &Path {
        self.0.as_ref().map_or(&self.1, TempDir::path)
    }
}

/// Prints what every report starts with.
fn print_machine(dir: &Path) {
    println!("machine    {}", machine::describe());
    println!(
        "disk       {}, {}",
        machine::file_system(dir),
        sync_cost(dir)
    );
}

/// What one write of 64 KiB with fdatasync costs here, over blocks already written: the floor under
/// every group commit.
fn sync_cost(dir: &Path) -> String {
    use std::os::unix::fs::FileExt as _;
    let path = dir.join("sync-cost");
    let measure = || -> std::io::Result<Duration> {
        let block = vec![0x5au8; 64 << 10];
        let file = std::fs::File::create(&path)?;
        for n in 0..32 {
            file.write_all_at(&block, n << 16)?;
        }
        file.sync_all()?;
        let mut times = Vec::new();
        for n in 0..32 {
            let started = Instant::now();
            file.write_all_at(&block, n << 16)?;
            file.sync_data()?;
            times.push(started.elapsed());
        }
        times.sort();
        Ok(times[times.len() / 2])
    };
    let cost = measure();
    let _ = std::fs::remove_file(&path);
    match cost {
        Ok(cost) => format!(
            "64 KiB write + fdatasync {} (median)",
            crate::report::seconds(cost)
        ),
        Err(error) => format!("sync not measured: {error}"),
    }
}

/// A part of 127.0.0.0/8 for this process's MX hosts.
fn loopback_block() -> u8 {
    (16 + std::process::id() % 200) as u8
}

/// A run number that differs between runs, so that old mail is told from new.
fn fresh_run() -> u32 {
    crate::random::Random::new(crate::message::now_us() ^ u64::from(std::process::id())).bits()
        as u32
}

/// The accepted ids that never arrived.
fn lost(injected: &Injected, tally: &Tally) -> Vec<u64> {
    let times = tally.times();
    let arrived = |id: u64| times.get(id as usize).is_some_and(|times| *times > 0);
    injected.accepted().filter(|id| !arrived(*id)).collect()
}

/// Waits until `done` says so, or nothing has changed in `progress` for `patience`.
/// True when done.
fn wait_until(
    patience: Duration,
    mut done: impl FnMut() -> bool,
    mut progress: impl FnMut() -> u64,
) -> bool {
    let (mut last, mut since) = (progress(), Instant::now());
    loop {
        if done() {
            return true;
        }
        let now = progress();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
