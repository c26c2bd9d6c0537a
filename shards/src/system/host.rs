//! Kernel, limits, cores and clock.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Said, Subject, bad, good, warning};
use crate::descriptors::{self, Descriptors};
use crate::preflight;

/// The first kernel with all that the rings need.
const KERNEL_MIN: (u32, u32) = (5, 8);

/// Locked memory that a shard's ring takes, bytes.
const LOCKED_BYTES_PER_SHARD: u64 = 512 * 1024;

/// Bit of CAP_IPC_LOCK in a set of capabilities.
const CAP_IPC_LOCK: u32 = 14;

/// 2026-01-01: no clock that is right shows less.
const CLOCK_MIN: Duration = Duration::from_secs(1_767_225_600);

/// A clock this far behind what was written before is wrong beyond a doubt.
const CLOCK_BEHIND_MAX: Duration = Duration::from_secs(24 * 3600);

/// Clocks differ by so little, and so do disks of other hosts.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

pub(super) fn kernel(_: &Subject) -> Said {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return warning("its version is not to be found in /proc; Linux 5.8 or later is needed");
    };
    if (major, minor) < KERNEL_MIN {
        return bad(format!("Linux {release}; Linux 5.8 or later is needed"));
    }
    good(format!("Linux {release}"))
}

pub(super) fn io_uring(_: &Subject) -> Said {
    match preflight::may_use_io_uring() {
        Ok(()) => good("allowed"),
        Err(why) => bad(why),
    }
}

pub(super) fn locked_memory(subject: &Subject) -> Said {
    let bytes = match preflight::locked_bytes() {
        Ok(bytes) => bytes,
        Err(why) => return bad(why),
    };
    if bytes == u64::MAX || has_capability(CAP_IPC_LOCK) {
        return good("without limit: mail and keys stay out of swap");
    }
    let limit = format!("limited to {} KiB", bytes / 1024);
    let needed = u64::from(subject.shards) * LOCKED_BYTES_PER_SHARD;
    let remedy = "set LimitMEMLOCK=infinity in the unit (ulimit -Hl unlimited)";
    if bytes < needed {
        let needed = needed / 1024;
        return warning(format!(
            "{limit}, {} shards may need {needed} KiB; {remedy}",
            subject.shards
        ));
    }
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    if swaps.lines().count() <= 1 {
        return good(format!("{limit}; this host has no swap"));
    }
    warning(format!(
        "{limit}: mail in memory may be written to swap; {remedy}, or run without swap \
         (MemorySwapMax=0)"
    ))
}

/// Whether this process has a capability now.
fn has_capability(bit: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set >> bit & 1 == 1)
}

pub(super) fn open_files(subject: &Subject) -> Said {
    let limit = descriptors::raise_limit();
    let wanted = subject.config.limits.sessions_max;
    match Descriptors::share(limit, subject.shards, wanted) {
        Err(why) => bad(why),
        Ok(share) if share.sessions_max < wanted => warning(format!(
            "{limit} allow {} sessions in, limits.sessions_max is {wanted}; raise the hard limit \
             (LimitNOFILE=, ulimit -Hn)",
            share.sessions_max
        )),
        Ok(share) => good(format!(
            "{limit}: {wanted} sessions in, {} connections out of each shard",
            share.connections_max
        )),
    }
}

pub(super) fn cores(subject: &Subject) -> Said {
    let cores = crate::daemon::available_cpus().len();
    let nodes = numa_nodes(Path::new("/sys/devices/system/node"));
    let shards = usize::from(subject.shards);
    let sizes = format!("{shards} shards, {cores} cores, {nodes} memory nodes");
    if shards > cores {
        return warning(format!(
            "{sizes}: shards share cores and hold each other up; set server.shards to {cores} or less"
        ));
    }
    good(sizes)
}

/// Memory nodes that have processors; 1 where the kernel names none.
fn numa_nodes(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let with_cores = entries.filter(|entry| {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("node"));
        number.is_some_and(|n| n.parse::<u32>().is_ok())
            && fs::read_to_string(entry.path().join("cpulist"))
                .is_ok_and(|list| !list.trim().is_empty())
    });
    with_cores.count().max(1)
}

pub(super) fn clock(subject: &Subject) -> Said {
    let data_dir = subject.installation.data_dir();
    judge_clock(SystemTime::now(), newest_below(data_dir))
}

/// `written`: when the relay last wrote a file, by this host's clock then.
fn judge_clock(now: SystemTime, written: Option<SystemTime>) -> Said {
    let remedy = "set it, and keep it set (chrony, systemd-timesyncd)";
    if now < UNIX_EPOCH + CLOCK_MIN {
        return bad(format!("it stands before 2026; {remedy}"));
    }
    let behind = written.and_then(|written| written.duration_since(now).ok());
    match behind {
        Some(behind) if behind > CLOCK_SLACK => {
            let text = format!(
                "{} min behind what the relay last wrote; {remedy}",
                behind.as_secs() / 60
            );
            if behind > CLOCK_BEHIND_MAX {
                bad(text)
            } else {
                warning(text)
            }
        }
        _ => good("not behind what was written before"),
    }
}

/// When the newest of the relay's files was written, as far as we may look.
fn newest_below(data_dir: &Path) -> Option<SystemTime> {
    let mut newest = None;
    let mut folders = vec![data_dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            // Not followed: a link may lead anywhere.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                folders.push(entry.path());
            } else {
                newest = newest.max(meta.modified().ok());
            }
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_clock_is_judged_by_what_was_written() {
        let now = UNIX_EPOCH + CLOCK_MIN + Duration::from_secs(90 * 24 * 3600);
        let after = |s: u64| Some(now + Duration::from_secs(s));
        for (written, verdict) in [
            (None, Verdict::Good),
            (Some(now - Duration::from_secs(500)), Verdict::Good),
            (after(30), Verdict::Good),
            (after(3600), Verdict::Warning),
            (after(3 * 24 * 3600), Verdict::Bad),
        ] {
            assert_eq!(judge_clock(now, written).0, verdict, "{written:?}");
        }
        assert_eq!(judge_clock(UNIX_EPOCH, None).0, Verdict::Bad);
    }

    #[test]
    fn memory_nodes_are_those_with_cores() {
        let dir = tempfile::tempdir().unwrap();
        for (node, cores) in [("node0", "0-3\n"), ("node1", "4-7\n"), ("node2", "\n")] {
            fs::create_dir(dir.path().join(node)).unwrap();
            fs::write(dir.path().join(node).join("cpulist"), cores).unwrap();
        }
        fs::write(dir.path().join("online"), "0-2\n").unwrap();
        assert_eq!(numa_nodes(dir.path()), 2);
        assert_eq!(numa_nodes(Path::new("/nonexistent")), 1);
    }
}
