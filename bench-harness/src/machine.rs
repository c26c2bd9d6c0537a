//! The machine a figure was measured on, and what `/proc` says about processes.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// One line: processor, cores, memory, kernel.
pub fn describe() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = field(&cpuinfo, "model name").unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory_kb: u64 = first_number(field(&meminfo, "MemTotal").unwrap_or_default());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{model}, {cores} cores, {} GiB, Linux {}",
        memory_kb.div_ceil(1 << 20),
        kernel.trim()
    )
}

/// The file system under `path` (`ext4 on /dev/vda`), as `/proc/mounts` tells.
pub fn file_system(path: &Path) -> String {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let best = mounts
        .lines()
        .filter_map(|line| {
            let mut parts = line.split(' ');
            Some((parts.next()?, parts.next()?, parts.next()?))
        })
        .filter(|(_, point, _)| path.starts_with(point))
        .max_by_key(|(_, point, _)| point.len());
    best.map_or_else(
        || "?".to_owned(),
        |(device, _, kind)| format!("{kind} on {device}"),
    )
}

/// CPU time (user and system, all threads) a process has used; `None` when it is gone.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    stat_ticks(&format!("/proc/{pid}/stat"), 11).map(ticks)
}

/// The part of [`cpu_time`] that kernel workers of io_uring (`iou-wrk`, threads of the process) have
/// used, of those that still live.
pub fn worker_cpu_time(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let of_workers = tasks.into_iter().flatten().filter_map(|task| {
        let path = task.ok()?.path();
        let name = fs::read_to_string(path.join("comm")).ok()?;
        let stat = path.join("stat");
        if name.starts_with("iou-wrk") {
            stat_ticks(stat.to_str()?, 11)
        } else {
            None
        }
    });
    ticks(of_workers.sum())
}

/// CPU time of all children of this process that ended and were waited for.
pub fn children_cpu_time() -> Duration {
    stat_ticks("/proc/self/stat", 13).map_or(Duration::ZERO, ticks)
}

/// CPU time of the processes whose parent (or parent's parent, …) is `pid`, and of `pid`.
pub fn tree_cpu_time(pid: u32) -> Duration {
    let mut total = Duration::ZERO;
    let mut parents = vec![(pid, cpu_time(pid).unwrap_or_default())];
    let processes: Vec<(u32, u32)> = processes();
    let mut n = 0;
    while n < parents.len() {
        let (parent, own) = parents[n];
        let ended = stat_ticks(&format!("/proc/{parent}/stat"), 13).map_or(Duration::ZERO, ticks);
        total += own + ended;
        for (child, its_parent) in &processes {
            if *its_parent == parent {
                parents.push((*child, cpu_time(*child).unwrap_or_default()));
            }
        }
        n += 1;
    }
    total
}

/// Resident memory of a process in bytes; `None` when it is gone.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(first_number(field(&status, "VmRSS")?) << 10)
}

/// All processes as (pid, parent).
fn processes() -> Vec<(u32, u32)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return vec![];
    };
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let parent = stat
                .rsplit_once(')')?
                .1
                .split_whitespace()
                .nth(1)?
                .parse()
                .ok()?;
            Some((pid, parent))
        })
        .collect()
}

/// The sum of two neighbouring fields of a stat file, counted from after the command's name.
fn stat_ticks(path: &str, field: usize) -> Option<u64> {
    let stat = fs::read_to_string(path).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(field);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Clock ticks are a hundredth of a second on every Linux of today (`getconf CLK_TCK`).
fn ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 10)
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_measured() {
        let pid = std::process::id();
        assert!(resident_bytes(pid).is_some_and(|bytes| bytes > 100_000));
        assert!(cpu_time(pid).is_some());
        assert!(tree_cpu_time(pid) >= cpu_time(pid).unwrap_or_default());
        assert!(cpu_time(u32::MAX).is_none());
        assert_ne!(file_system(Path::new("/")), "?");
    }
}
