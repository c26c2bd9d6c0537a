//! Memory with mail and keys stays out of swap where the system allows it, and where not, the daemon
//! says what to change and runs all the same.

use hikyaku_bench::daemon::{Daemon, Settings};

use crate::common::{eventually, peer, programs};

/// Runs the daemon without CAP_IPC_LOCK, whoever runs the tests.
const WITHOUT_CAPABILITY: &str =
    "exec setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock -- \"$0\" \"$@\"";

fn start(prelude: &str) -> Option<(tempfile::TempDir, Daemon)> {
    let programs = programs()?;
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings::new(dir.path()).unwrap();
    prelude.clone_into(&mut settings.prelude);
    let daemon = Daemon::start(settings, &programs).unwrap();
    Some((dir, daemon))
}

/// A figure of /proc/PID/status, KiB.
fn figure(daemon: &Daemon, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.unwrap().parse().unwrap()
}

#[test]
fn all_memory_is_locked_where_that_is_allowed() {
    let Some((_dir, daemon)) = start("ulimit -l unlimited 2>/dev/null") else {
        return;
    };
    if daemon.log_tail().contains("written to swap") {
        println!("note: skipped: this system locks no more memory than a limit");
        return;
    }
    // VmLck counts what may be locked as it is touched, stacks and all.
    let (locked, mapped) = (figure(&daemon, "VmLck"), figure(&daemon, "VmSize"));
    assert!(locked > mapped / 2, "{locked} KiB of {mapped}");
    let resident = figure(&daemon, "VmRSS");
    assert!(
        resident < 200 * 1024,
        "only what is touched: {resident} KiB"
    );
}

#[test]
fn a_limit_on_locked_memory_is_told_and_the_daemon_runs() {
    if peer("setpriv").is_none() {
        return;
    }
    let prelude = format!("ulimit -l 4096; {WITHOUT_CAPABILITY}");
    let Some((_dir, daemon)) = start(&prelude) else {
        return;
    };
    let told = eventually(|| daemon.log_tail().contains("LimitMEMLOCK=infinity"));
    assert!(told, "{}", daemon.log_tail());
    let lines = daemon.log_tail();
    let about = lines.lines().filter(|line| line.contains("swap")).count();
    assert_eq!(about, 1, "{lines}");
    assert!(lines.contains("4096 KiB"), "{lines}");
    // The keys are locked all the same.
    let locked = figure(&daemon, "VmLck");
    assert!((4..4096).contains(&locked), "{locked} KiB");
}
