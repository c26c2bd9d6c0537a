//! Starts on systems that deny what the shards need: one line with the remedy, and an end.

use std::collections::BTreeMap;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use hikyaku_bench::daemon::{Programs, Settings, initialise};
use seccompiler::{SeccompAction, SeccompFilter, apply_filter};

use crate::common::{programs, within};

/// `io_uring_setup`, the same number on every architecture.
const IO_URING_SETUP: i64 = 425;

/// Starts `hikyakud` by `command` on a new data directory and expects it to end by itself.
fn refused(programs: &Programs, command: impl FnOnce(&Programs) -> Command) -> String {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::new(dir.path()).unwrap();
    settings.write().unwrap();
    initialise(&settings, programs).unwrap();
    let mut child = command(programs)
        .arg("--config")
        .arg(settings.config_path())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ended = within(Duration::from_secs(20), || {
        matches!(child.try_wait(), Ok(Some(_)))
    });
    if !ended {
        let _ = child.kill();
    }
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert!(ended, "it runs, and serves nobody: {said}");
    assert_eq!(status.code(), Some(1), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "one line: {said}");
    said
}

#[test]
fn denied_io_uring_is_told_with_the_remedy() {
    let Some(programs) = programs() else { return };
    for (errno, words) in [(1, "seccomp profile and by sysctl"), (38, "Linux 5.8")] {
        let programs = programs.clone();
        // The filter is the thread's alone, and its children's.
        let said = std::thread::spawn(move || {
            let filter = SeccompFilter::new(
                BTreeMap::from([(IO_URING_SETUP, vec![])]),
                SeccompAction::Allow,
                SeccompAction::Errno(errno),
                std::env::consts::ARCH.try_into().unwrap(),
            );
            let program: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
            apply_filter(&program).unwrap();
            refused(&programs, |programs| Command::new(&programs.hikyakud))
        })
        .join()
        .unwrap();
        assert!(said.contains("io_uring") && said.contains(words), "{said}");
    }
}

#[test]
fn short_locked_memory_is_told_with_the_remedy() {
    let Some(programs) = programs() else { return };
    let said = refused(&programs, |programs| {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "ulimit -l 256 && exec \"$0\" \"$@\""])
            .arg(&programs.hikyakud);
        shell
    });
    assert!(
        said.contains("256 KiB") && said.contains("LimitMEMLOCK="),
        "{said}"
    );
}
