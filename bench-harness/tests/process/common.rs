//! What the process tests share: a relay with its far end, and a client that speaks SMTP by hand.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hikyaku_bench::daemon::{Daemon, Programs, Settings};
use hikyaku_bench::domains::DomainMix;
use hikyaku_bench::fleet::Fleet;
use hikyaku_bench::fleet::tally::Tally;
use hikyaku_bench::inject::{Injected, Injector, Plan};
use hikyaku_bench::world::World;

/// Longest wait for something that should happen at once.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The built programs; `None` (with a note) when they are not built and need not be.
pub(crate) fn programs() -> Option<Programs> {
    match Programs::find() {
        Ok(programs) => Some(programs),
        Err(failure) if required("HIKYAKU_REQUIRE_PROGRAMS") => panic!("{failure}"),
        Err(failure) => {
            println!("note: skipped: {failure}");
            None
        }
    }
}

/// Whether the environment forbids skipping.
pub(crate) fn required(name: &str) -> bool {
    std::env::var(name).is_ok_and(|value| value == "1")
}

/// Finds a program of a peer; `None` (with a note) when it is not installed and need not be.
pub(crate) fn peer(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file());
    if found.is_none() {
        assert!(
            !required("HIKYAKU_REQUIRE_ORACLES"),
            "{name} is not installed"
        );
        println!("note: skipped: {name} is not installed");
    }
    found
}

/// A relay and the host it routes everything to.
pub(crate) struct Relay {
    _dir: tempfile::TempDir,
    pub(crate) fleet: Fleet,
    pub(crate) daemon: Daemon,
    pub(crate) run: u32,
}

impl Relay {
    /// Starts both; `change` may alter the settings before.
    pub(crate) fn start(run: u32, change: impl FnOnce(&mut Settings)) -> Option<Self> {
        Self::start_with(run, World::single(Ipv4Addr::LOCALHOST, 0), change)
    }

    /// The same with a far end of one's own; its first host is the route's end.
    pub(crate) fn start_with(
        run: u32,
        world: World,
        change: impl FnOnce(&mut Settings),
    ) -> Option<Self> {
        let programs = programs()?;
        let dir = tempfile::tempdir().unwrap();
        let fleet = Fleet::start(&world, Arc::new(Tally::new(run))).unwrap();
        let mut settings = Settings::new(dir.path()).unwrap();
        settings.delivery = FAST_RETRY.to_owned();
        settings
            .routes
            .push(("*".into(), fleet.hosts[0].1.to_string()));
        change(&mut settings);
        let daemon = Daemon::start(settings, &programs).unwrap();
        Some(Self {
            _dir: dir,
            fleet,
            daemon,
            run,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.daemon.settings.listen
    }

    pub(crate) fn plan(&self, messages: u64) -> Plan {
        Plan {
            messages,
            sessions: 10,
            ..Plan::new(self.address(), mix("d.test"), self.run)
        }
    }

    /// Injects and expects every message to be taken.
    pub(crate) fn inject(&self, plan: Plan) -> Injected {
        let messages = plan.messages * plan.recipients as u64;
        let injected = Injector::start(plan).unwrap().join();
        assert_eq!(injected.failure, None, "{}", self.daemon.log_tail());
        assert_eq!(injected.accepted_count(), messages);
        injected
    }

    /// Waits until so many distinct ids have arrived.
    pub(crate) fn wait_for(&self, ids: u64) {
        let tally = &self.fleet.tally;
        let arrived = eventually(|| tally.totals().distinct >= ids);
        assert!(
            arrived,
            "{:?} of {ids} arrived\n{}",
            tally.totals(),
            self.daemon.log_tail()
        );
        let totals = tally.totals();
        assert_eq!(
            (totals.altered, totals.mixed_up),
            (0, 0),
            "content is as it was sent"
        );
    }
}

/// Retries after a second, so that tests need not wait for the usual minute.
pub(crate) const FAST_RETRY: &str = "retry_schedule = [\"1s\"]\nretry_jitter_percent = 0\n";

/// A mix of one domain.
pub(crate) fn mix(domain: &str) -> DomainMix {
    DomainMix::weighted(&[(domain.to_owned(), 1.0)]).unwrap()
}

/// Whether `condition` holds within [`SOON`].
pub(crate) fn eventually(condition: impl FnMut() -> bool) -> bool {
    within(SOON, condition)
}

/// Whether `condition` holds within `limit`.
pub(crate) fn within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while started.elapsed() < limit {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    condition()
}

/// All files below `dir` with their contents, in order.
pub(crate) fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => dirs.push(path),
                Ok(kind) if kind.is_file() => {
                    let content = std::fs::read(&path).unwrap_or_default();
                    found.push((path, content));
                }
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// An SMTP client by hand.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects and reads the greeting.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let mut client = Self::connect_only(address);
        assert_eq!(client.reply().0, 220);
        client
    }

    /// Connects, greeted or not.
    pub(crate) fn connect_only(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// Connects and says EHLO.
    pub(crate) fn hello(address: SocketAddr) -> Self {
        let mut client = Self::connect(address);
        assert_eq!(client.command("EHLO client.example").0, 250);
        client
    }

    /// One command and its reply.
    pub(crate) fn command(&mut self, line: &str) -> (u16, String) {
        self.send(format!("{line}\r\n").as_bytes()).unwrap();
        self.reply()
    }

    /// Raw bytes.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// The next reply: code and all text. Code 0: the connection is closed.
    pub(crate) fn reply(&mut self) -> (u16, String) {
        let mut text = String::new();
        loop {
            let mut line = Vec::new();
            match self.stream.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return (0, text),
                Ok(_) => {}
            }
            let line = String::from_utf8_lossy(&line).into_owned();
            text.push_str(&line);
            if line.as_bytes().get(3) != Some(&b'-') {
                let code = line
                    .get(..3)
                    .and_then(|code| code.parse().ok())
                    .unwrap_or(0);
                return (code, text);
            }
        }
    }

    /// A whole transaction; the last reply's code.
    pub(crate) fn transaction(&mut self, to: &str, content: &str) -> u16 {
        for command in [
            "MAIL FROM:<a@sender.example>".to_owned(),
            format!("RCPT TO:<{to}>"),
        ] {
            let (code, text) = self.command(&command);
            assert_eq!(code, 250, "{command}: {text}");
        }
        assert_eq!(self.command("DATA").0, 354);
        self.send(content.as_bytes()).unwrap();
        self.command(".").0
    }
}
