//! A standard error that fails, is closed or takes nothing: mail goes on, and the end is not held up.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::common::{Relay, eventually};

/// More lines than the log's queue holds.
const LINES: u64 = 1_500;

/// A relay whose standard error is what `to` names to a shell, with something to say on each shard.
fn relay(run: u32, to: &str) -> Option<Relay> {
    let prelude = format!("exec 2>{to}");
    Relay::start(run, |settings| settings.prelude = prelude)
}

/// Delivers, lets the daemon speak of reloads, delivers again, and ends it.
fn mail_goes_on(mut relay: Relay) {
    relay.inject(relay.plan(100));
    relay.wait_for(100);
    for _ in 0..LINES {
        let (code, text) = relay.daemon.command("/api/v1/reload").unwrap();
        assert_eq!(code, 200, "{text}");
    }
    relay.inject(hikyaku_bench::inject::Plan {
        first_id: 100,
        ..relay.plan(100)
    });
    relay.wait_for(200);
    assert!(relay.daemon.is_running());
    relay.daemon.terminate().unwrap();
}

#[test]
fn a_full_log_disk_stops_nothing() {
    let Some(relay) = relay(71, "/dev/full") else {
        return;
    };
    mail_goes_on(relay);
}

#[test]
fn a_closed_stderr_stops_nothing() {
    let Some(relay) = relay(72, "&-") else { return };
    mail_goes_on(relay);
}

fn fifo(path: &Path) -> (File, File) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
    let mut options = OpenOptions::new();
    options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    let reader = options.clone().read(true).open(path).unwrap();
    let writer = options.write(true).open(path).unwrap();
    (reader, writer)
}

#[test]
fn a_log_pipe_whose_reader_is_gone_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    if crate::common::programs().is_none() {
        return;
    }
    let (reader, writer) = fifo(&path);
    let Some(relay) = relay(73, path.to_str().unwrap()) else {
        return;
    };
    drop((reader, writer));
    mail_goes_on(relay);
}

#[test]
fn a_log_pipe_that_nobody_reads_stops_nothing_and_what_is_lost_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    if crate::common::programs().is_none() {
        return;
    }
    let (mut reader, mut writer) = fifo(&path);
    let filled = std::iter::repeat_with(|| writer.write(&[b'x'; 4096]));
    let refused = filled.into_iter().find_map(Result::err).unwrap();
    assert_eq!(refused.kind(), ErrorKind::WouldBlock);
    let Some(relay) = relay(74, path.to_str().unwrap()) else {
        return;
    };
    mail_goes_on(relay);

    // The next one finds a reader again after having lost lines.
    let Some(mut relay) = self::relay(75, path.to_str().unwrap()) else {
        return;
    };
    for _ in 0..LINES {
        assert_eq!(relay.daemon.command("/api/v1/reload").unwrap().0, 200);
    }
    let mut text = Vec::new();
    let told = eventually(|| {
        let mut part = vec![0; 1 << 16];
        while let Ok(bytes @ 1..) = reader.read(&mut part) {
            text.extend_from_slice(&part[..bytes]);
        }
        let _ = relay.daemon.command("/api/v1/reload");
        String::from_utf8_lossy(&text).contains("lines of this log could not be written")
    });
    assert!(told, "{}", String::from_utf8_lossy(&text));
    assert!(relay.daemon.terminate().unwrap() < Duration::from_secs(20));
}
