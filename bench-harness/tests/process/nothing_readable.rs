//! Nothing of a message, an address or a key can be read on disk, nor dumped from memory.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use hikyaku_bench::daemon::free_address;

use crate::common::{Client, Relay, eventually, files, programs};

const MARKER: &str = "XYZZY-plover-4711";
const DOMAIN: &str = "plugh-domain.example";

#[test]
fn data_dir_shows_no_content_address_or_key() {
    // One message is delivered, one waits for a route that is dead: queue, outcomes and log are used.
    let dead = free_address().unwrap().to_string();
    let Some(mut relay) = Relay::start(1, |s| s.routes.insert(0, (format!("dead.{DOMAIN}"), dead)))
    else {
        return;
    };
    for to in [
        format!("recipient-{MARKER}@{DOMAIN}"),
        format!("r@dead.{DOMAIN}"),
    ] {
        let mut client = Client::hello(relay.address());
        let content = format!(
            "Subject: {MARKER}\r\nX-Hikyaku-Group: group-{MARKER}\r\nX-Hikyaku-Tag: tag-{MARKER}\r\n\
             \r\n{}\r\n",
            MARKER.repeat(30)
        );
        assert_eq!(client.transaction(&to, &content), 250);
    }
    assert!(
        eventually(|| relay.fleet.tally.received() == 1),
        "{}",
        relay.daemon.log_tail()
    );
    // While it runs, and after everything was written out.
    for stopped in [false, true] {
        if stopped {
            relay.daemon.terminate().unwrap();
        }
        let files = files(&relay.daemon.settings.data_dir());
        let bytes: usize = files.iter().map(|(_, content)| content.len()).sum();
        assert!(bytes > 2000, "the data directory holds {bytes} bytes");
        for (path, content) in &files {
            for secret in [MARKER, DOMAIN, "sender.example", "correct horse battery"] {
                let found = memchr::memmem::find(content, secret.as_bytes());
                assert_eq!(found, None, "{secret:?} can be read in {}", path.display());
            }
        }
    }
}

#[test]
fn abort_leaves_no_core_dump() {
    let Some(programs) = programs() else { return };
    let dir = tempfile::tempdir().unwrap();
    let control = Command::new("sh")
        .args(["-c", "ulimit -c unlimited; kill -ABRT $$"])
        .current_dir(dir.path())
        .status();
    if !control.is_ok_and(|status| status.core_dumped()) {
        println!("note: this system dumps no core of anybody; the test still runs");
    }
    let settings = hikyaku_bench::daemon::Settings::new(dir.path()).unwrap();
    settings.write().unwrap();
    hikyaku_bench::daemon::initialise(&settings, &programs).unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -c unlimited; exec \"$0\" --config \"$1\""])
        .arg(&programs.hikyakud)
        .arg(settings.config_path())
        .current_dir(dir.path())
        .spawn()
        .unwrap();
    assert!(eventually(|| hikyaku_bench::daemon::greets(
        settings.listen
    )));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::ABORT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(6));
    assert!(!status.core_dumped(), "the daemon is not dumpable");
}
