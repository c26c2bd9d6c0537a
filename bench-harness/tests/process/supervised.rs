//! The daemon under a supervisor: systemd's protocol (sd_notify(3)) and the files that are installed.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hikyaku_bench::daemon::{Daemon, Settings, initialise};

use crate::common::{SOON, peer, programs};

/// What a supervisor hears.
struct Supervisor {
    socket: UnixDatagram,
}

impl Supervisor {
    fn new(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Self { socket }
    }

    /// The next message that has this line.
    fn hears(&self, line: &str) -> String {
        let mut heard = String::new();
        loop {
            let mut bytes = [0; 4096];
            let Ok(len) = self.socket.recv(&mut bytes) else {
                panic!("not told {line:?}, but {heard}");
            };
            let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
            if text.lines().any(|found| found == line) {
                return text;
            }
            heard.push_str(&text);
        }
    }

    /// Whether anything was said so far.
    fn has_heard(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let heard = self.socket.recv(&mut [0; 4096]).is_ok();
        self.socket.set_nonblocking(false).unwrap();
        heard
    }
}

#[test]
fn a_supervisor_is_told_of_start_life_and_end() {
    let Some(programs) = programs() else { return };
    let dir = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::new(&dir.path().join("notify"));
    let mut settings = Settings::new(dir.path()).unwrap();
    settings.prelude = format!(
        "export NOTIFY_SOCKET={}/notify WATCHDOG_USEC=400000",
        dir.path().display()
    );
    settings.write().unwrap();
    initialise(&settings, &programs).unwrap();
    let mut daemon = Daemon::launch(settings.clone(), &programs).unwrap();
    let said = supervisor.hears("READY=1");
    assert!(said.contains("STATUS=ready: "), "{said}");
    assert!(said.contains(&settings.listen.to_string()), "{said}");
    assert!(
        std::net::TcpStream::connect(settings.listen).is_ok(),
        "it listens by then"
    );
    for _ in 0..3 {
        supervisor.hears("WATCHDOG=1");
    }
    daemon.terminate().unwrap();
    let said = supervisor.hears("STOPPING=1");
    assert!(said.contains("EXTEND_TIMEOUT_USEC=50000000"), "{said}");
}

#[test]
fn a_locked_daemon_is_ready_and_says_what_it_waits_for() {
    let Some(programs) = programs() else { return };
    let dir = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::new(&dir.path().join("notify"));
    let mut settings = Settings::new(dir.path()).unwrap();
    // Without a terminal to ask at, whoever runs the tests.
    settings.prelude = format!(
        "export NOTIFY_SOCKET={}/notify; exec setsid \"$0\" \"$@\"",
        dir.path().display()
    );
    settings.write().unwrap();
    initialise(&settings, &programs).unwrap();
    let config = std::fs::read_to_string(settings.config_path()).unwrap();
    let source = format!("source = \"file\"\npath = {:?}", dir.path().join("key"));
    assert!(config.contains(&source), "{config}");
    let asked = config.replace(&source, "source = \"prompt\"");
    std::fs::write(settings.config_path(), asked).unwrap();
    let daemon = Daemon::launch(settings, &programs).unwrap();
    let said = supervisor.hears("READY=1");
    assert!(
        said.contains("STATUS=locked: ") && said.contains("hikyaku unlock"),
        "{said}"
    );
    drop(daemon);
}

#[test]
fn a_start_that_fails_is_never_ready() {
    let Some(programs) = programs() else { return };
    let dir = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::new(&dir.path().join("notify"));
    let mut settings = Settings::new(dir.path()).unwrap();
    settings.prelude = format!("export NOTIFY_SOCKET={}/notify", dir.path().display());
    settings.write().unwrap();
    initialise(&settings, &programs).unwrap();
    std::fs::write(dir.path().join("key"), "another passphrase\n").unwrap();
    let mut daemon = Daemon::launch(settings, &programs).unwrap();
    let ended = crate::common::within(Duration::from_secs(20), || !daemon.is_running());
    assert!(ended, "{}", daemon.log_tail());
    assert!(!supervisor.has_heard());
}

#[test]
fn what_is_installed_is_whole_and_hardened() {
    let Some(programs) = programs() else { return };
    if peer("make").is_none() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let installed = Command::new("make")
        .arg("-C")
        .arg(&repository)
        .args(["install", "PREFIX=/usr"])
        .arg(format!("DESTDIR={}", root.path().display()))
        .arg(format!(
            "BIN={}",
            programs.hikyakud.parent().unwrap().display()
        ))
        .output()
        .unwrap();
    assert!(
        installed.status.success(),
        "{}",
        String::from_utf8_lossy(&installed.stderr)
    );
    for file in [
        "sbin/hikyakud",
        "bin/hikyaku",
        "lib/systemd/system/hikyakud.service",
        "lib/sysusers.d/hikyaku.conf",
        "lib/tmpfiles.d/hikyaku.conf",
        "share/doc/hikyaku/hikyaku.toml",
        "share/man/man1/hikyakud.1",
        "share/man/man1/hikyaku.1",
        "share/man/man1/hikyaku-why.1",
        "share/bash-completion/completions/hikyaku",
        "share/bash-completion/completions/hikyakud",
        "share/zsh/site-functions/_hikyaku",
        "share/zsh/site-functions/_hikyakud",
        "share/fish/vendor_completions.d/hikyaku.fish",
        "share/fish/vendor_completions.d/hikyakud.fish",
    ] {
        let path = root.path().join("usr").join(file);
        assert!(path.metadata().is_ok_and(|found| found.len() > 0), "{file}");
    }
    let unit = root.path().join("usr/lib/systemd/system/hikyakud.service");
    let text = std::fs::read_to_string(&unit).unwrap();
    assert!(text.contains("ExecStart=/usr/sbin/hikyakud "), "{text}");
    the_sample_is_valid(&root.path().join("usr"));
    if peer("systemd-analyze").is_some() {
        let judged = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold=20"])
            .arg(&unit)
            .output()
            .unwrap();
        assert!(
            judged.status.success(),
            "{}",
            String::from_utf8_lossy(&judged.stdout)
        );
    }
}

/// The installed sample configuration, as it stands, is one that the installed CLI and daemon take.
fn the_sample_is_valid(prefix: &Path) {
    let sample = prefix.join("share/doc/hikyaku/hikyaku.toml");
    let output = Command::new(prefix.join("sbin/hikyakud"))
        .arg("--config")
        .arg(&sample)
        .arg("--check")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && said.contains("is valid"),
        "{output:?}"
    );
}
