//! A `hikyakud` under test: its configuration, its process, its figures.
//!
//! [`Daemon`] owns a directory with everything the relay needs (configuration, key, data, socket),
//! so that a run leaves nothing behind and touches nothing of the machine.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::failure::{Context, Failure};
use crate::machine;

/// A daemon must greet within this after its start.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// A daemon must end within this after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// The discard port of loopback, where no DNS server is.
const NO_DNS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);
/// How often a state is looked at while waiting for it.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Where the built programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The daemon.
    pub hikyakud: PathBuf,
    /// The operator's CLI.
    pub hikyaku: PathBuf,
}

impl Programs {
    /// Finds `hikyakud` and `hikyaku`: in the directory `HIKYAKU_BIN_DIR` names, else beside this
    /// program, else in `target/release`.
    ///
    /// # Errors
    /// [`Failure::Setup`] when there is no daemon to be found.
    pub fn find() -> Result<Self, Failure> {
        let mut places = Vec::new();
        if let Some(named) = std::env::var_os("HIKYAKU_BIN_DIR") {
            places.push(PathBuf::from(named));
        } else {
            if let Ok(own) = std::env::current_exe() {
                // Tests run in target/PROFILE/deps and want the release build; the installed or
                // built hikyaku-bench has the others beside it.
                let in_deps = own.parent().is_some_and(|dir| dir.ends_with("deps"));
                let up = if in_deps {
                    own.ancestors().nth(3)
                } else {
                    own.parent()
                };
                let tail = if in_deps { "release" } else { "" };
                places.extend(up.map(|dir| dir.join(tail)));
            }
            places.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release"));
        }
        for place in &places {
            let hikyakud = place.join("hikyakud");
            if hikyakud.is_file() {
                return Ok(Self {
                    hikyakud,
                    hikyaku: place.join("hikyaku"),
                });
            }
        }
        Err(Failure::setup(format!(
            "no hikyakud in {}: run `make build` first, or set HIKYAKU_BIN_DIR",
            places
                .iter()
                .map(|p| p.display().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        )))
    }
}

/// What a test or benchmark wants of the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Directory for everything; made when missing.
    pub dir: PathBuf,
    /// Data directory; default: `data` in [`Settings::dir`].
    pub data_dir: Option<PathBuf>,
    /// Number of shards; default: the daemon's.
    pub shards: Option<usize>,
    /// Where mail comes in.
    pub listen: SocketAddr,
    /// DNS server for MX lookups; default: none that answers.
    pub dns: Option<SocketAddr>,
    /// Port of MX hosts; default: the daemon's 25.
    pub mx_port: Option<u16>,
    /// Networks that MX hosts may be in although they are this machine's; default: 127.0.0.0/8,
    /// where the fleet is.
    pub allow_addresses: Vec<String>,
    /// `(domain pattern, destination)` pairs that override MX lookups.
    pub routes: Vec<(String, String)>,
    /// Lines put into `[delivery]`.
    pub delivery: String,
    /// Lines put at the end of the configuration: tables of their own.
    pub extra: String,
    /// A POSIX shell's line before the daemon takes the shell's place, such as `ulimit -n 100` or
    /// `exec 2>/dev/full`.
    pub prelude: String,
}

impl Settings {
    /// Settings in `dir` with a free port and nothing else special.
    ///
    /// # Errors
    /// [`Failure::Io`] when no port is free.
    pub fn new(dir: &Path) -> Result<Self, Failure> {
        Ok(Self {
            dir: dir.to_owned(),
            data_dir: None,
            shards: None,
            listen: free_address()?,
            dns: None,
            mx_port: None,
            allow_addresses: vec!["127.0.0.0/8".into()],
            routes: vec![],
            delivery: String::new(),
            extra: String::new(),
            prelude: String::new(),
        })
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir
            .clone()
            .unwrap_or_else(|| self.dir.join("data"))
    }

    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("hikyaku.toml")
    }

    /// The control plane's Unix socket.
    pub fn control_path(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// The configuration as TOML.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "[server]\nhostname = \"relay.bench.example\"");
        let _ = writeln!(out, "data_dir = {:?}", self.data_dir());
        if let Some(shards) = self.shards {
            let _ = writeln!(out, "shards = {shards}");
        }
        let _ = writeln!(
            out,
            "\n[key]\nsource = \"file\"\npath = {:?}",
            self.dir.join("key")
        );
        let _ = writeln!(out, "\n[[listen]]\naddress = \"{}\"", self.listen);
        let _ = writeln!(out, "relay_from = [\"127.0.0.0/8\"]");
        let _ = writeln!(out, "\n[control]\nsocket = {:?}", self.control_path());
        // Without one of its own a run asks nobody: neither the machine's servers nor the world's.
        let dns = self.dns.unwrap_or(NO_DNS);
        let _ = writeln!(out, "\n[dns]\nservers = [\"{dns}\"]");
        out.push_str("\n[delivery]\n");
        if let Some(port) = self.mx_port {
            let _ = writeln!(out, "port = {port}");
        }
        let _ = writeln!(out, "allow_addresses = {:?}", self.allow_addresses);
        let _ = writeln!(out, "{}", self.delivery);
        for (domain, to) in &self.routes {
            let _ = writeln!(out, "\n[[route]]\ndomain = \"{domain}\"\nto = \"{to}\"");
        }
        out.push_str(&self.extra);
        out
    }

    /// Writes configuration and key.
    ///
    /// # Errors
    /// [`Failure::Io`] with the path that could not be written.
    pub fn write(&self) -> Result<(), Failure> {
        let dir = &self.dir;
        fs::create_dir_all(dir).context(|| format!("cannot make {}", dir.display()))?;
        let config = self.config_path();
        fs::write(&config, self.to_toml())
            .context(|| format!("cannot write {}", config.display()))?;
        let key = dir.join("key");
        if !key.exists() {
            fs::write(&key, "correct horse battery staple of the bench\n")
                .context(|| format!("cannot write {}", key.display()))?;
            private(&key, 0o600)?;
        }
        Ok(())
    }
}

fn private(path: &Path, mode: u32) -> Result<(), Failure> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .context(|| format!("cannot set the mode of {}", path.display()))
}

/// A running daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    /// Its settings.
    pub settings: Settings,
    programs: Programs,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Writes the settings, initialises a new data directory, starts the daemon and waits until it
    /// greets.
    ///
    /// # Errors
    /// When a file cannot be written, or the daemon ends or stays silent: its output is in the text.
    pub fn start(settings: Settings, programs: &Programs) -> Result<Self, Failure> {
        settings.write()?;
        initialise(&settings, programs)?;
        let mut daemon = Self::launch(settings, programs)?;
        daemon.wait_until_it_greets()?;
        Ok(daemon)
    }

    /// Starts the daemon on settings already written, without waiting for anything.
    ///
    /// # Errors
    /// [`Failure::Io`] when it cannot be started.
    pub fn launch(settings: Settings, programs: &Programs) -> Result<Self, Failure> {
        let log = settings.dir.join("hikyakud.log");
        let open = || fs::OpenOptions::new().create(true).append(true).open(&log);
        let (out, err) = match (open(), open()) {
            (Ok(out), Ok(err)) => (out, err),
            (Err(error), _) | (_, Err(error)) => {
                return Err(Failure::Io(format!("cannot open {}", log.display()), error));
            }
        };
        let mut command = if settings.prelude.is_empty() {
            Command::new(&programs.hikyakud)
        } else {
            let mut shell = Command::new("sh");
            let line = format!("{}; exec \"$0\" \"$@\"", settings.prelude);
            shell.args(["-c", &line]).arg(&programs.hikyakud);
            shell
        };
        let child = command
            .arg("--config")
            .arg(settings.config_path())
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .context(|| format!("cannot start {}", programs.hikyakud.display()))?;
        Ok(Self {
            settings,
            programs: programs.clone(),
            child,
            log,
        })
    }

    /// Waits for the 220 of its first listener.
    ///
    /// # Errors
    /// [`Failure::Setup`] with the end of its output when it ends or stays silent.
    pub fn wait_until_it_greets(&mut self) -> Result<(), Failure> {
        let started = Instant::now();
        while started.elapsed() < START_TIMEOUT {
            if greets(self.settings.listen) {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(Failure::setup(format!(
                    "hikyakud ended at its start with {status}:\n{}",
                    self.log_tail()
                )));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Err(Failure::setup(format!(
            "hikyakud did not greet on {} within {} s:\n{}",
            self.settings.listen,
            START_TIMEOUT.as_secs(),
            self.log_tail()
        )))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The part of [`Self::cpu_time`] that the kernel's io_uring workers used.
    pub fn worker_cpu_time(&self) -> Duration {
        machine::worker_cpu_time(self.pid())
    }

    /// One of the twelve counters, in total and since ever; `None` when the daemon does not tell.
    pub fn counter(&self, name: &str) -> Option<u64> {
        let (code, body) = self.control("/api/v1/counters?by=total&window=all").ok()?;
        let mut lines = body.lines();
        let at = lines
            .next()?
            .split('\t')
            .position(|column| column == name)?;
        let value = lines.next()?.split('\t').nth(at)?;
        (code == 200).then(|| value.parse().ok())?
    }

    /// CPU time it has used so far.
    pub fn cpu_time(&self) -> Duration {
        machine::cpu_time(self.pid()).unwrap_or_default()
    }

    /// Its resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        machine::resident_bytes(self.pid()).unwrap_or(0)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The last lines it wrote.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again after [`Daemon::kill`] or [`Daemon::terminate`], without waiting.
    ///
    /// # Errors
    /// [`Failure::Io`] when it cannot be started.
    pub fn relaunch(&mut self) -> Result<(), Failure> {
        let new = Self::launch(self.settings.clone(), &self.programs)?;
        // The old one's drop does nothing: it is gone already.
        *self = new;
        Ok(())
    }

    /// Ends it with SIGTERM. How long it took.
    ///
    /// # Errors
    /// [`Failure::Broken`] when it does not end in time.
    pub fn terminate(&mut self) -> Result<Duration, Failure> {
        let started = Instant::now();
        self.signal(rustix::process::Signal::TERM);
        while started.elapsed() < STOP_TIMEOUT {
            if !self.is_running() {
                return Ok(started.elapsed());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        self.kill();
        let text = format!("hikyakud did not end within {} s", STOP_TIMEOUT.as_secs());
        Err(Failure::Broken(format!(
            "{text} of SIGTERM:\n{}",
            self.log_tail()
        )))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = i32::try_from(self.pid())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Asks the control plane: `GET path`. The status code and the body.
    ///
    /// # Errors
    /// [`Failure::Io`] when the socket does not answer.
    pub fn control(&self, path: &str) -> Result<(u16, String), Failure> {
        self.request("GET", path)
    }

    /// Tells the control plane to do something: `POST path`. The status code and the body.
    ///
    /// # Errors
    /// [`Failure::Io`] when the socket does not answer.
    pub fn command(&self, path: &str) -> Result<(u16, String), Failure> {
        self.request("POST", path)
    }

    /// One value of `/api/v1/status`; `None` when the daemon does not tell.
    pub fn status(&self, column: &str) -> Option<String> {
        let (code, body) = self.control("/api/v1/status").ok()?;
        let mut lines = body.lines();
        let at = lines.next()?.split('\t').position(|name| name == column)?;
        (code == 200).then(|| lines.next()?.split('\t').nth(at).map(str::to_owned))?
    }

    fn request(&self, method: &str, path: &str) -> Result<(u16, String), Failure> {
        let socket = self.settings.control_path();
        let what = || format!("no answer from {} to {method} {path}", socket.display());
        let mut stream = UnixStream::connect(&socket).context(what)?;
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .context(what)?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: hikyaku\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).context(what)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).context(what)?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .unwrap_or((answer.as_str(), ""));
        let code = head
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or(0);
        let chunked = head
            .to_ascii_lowercase()
            .contains("transfer-encoding: chunked");
        Ok((
            code,
            if chunked {
                dechunk(body)
            } else {
                body.to_owned()
            },
        ))
    }

    /// Runs the CLI against this daemon.
    ///
    /// # Errors
    /// [`Failure::Io`] when it cannot be started.
    pub fn cli(&self, args: &[&str]) -> Result<Output, Failure> {
        run_cli(&self.programs, &self.settings, args)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs `hikyaku --config FILE ARGS`.
///
/// # Errors
/// [`Failure::Io`] when it cannot be started.
pub fn run_cli(programs: &Programs, settings: &Settings, args: &[&str]) -> Result<Output, Failure> {
    Command::new(&programs.hikyaku)
        .arg("--config")
        .arg(settings.config_path())
        .args(args)
        .stdin(Stdio::null())
        .output()
        .context(|| format!("cannot run {}", programs.hikyaku.display()))
}

/// Runs `hikyaku init` unless it was run in this directory before.
///
/// # Errors
/// [`Failure::Setup`] with the CLI's words when it fails.
pub fn initialise(settings: &Settings, programs: &Programs) -> Result<(), Failure> {
    if settings.dir.join("installation.secret").exists() {
        return Ok(());
    }
    let output = run_cli(programs, settings, &["init"])?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::setup(format!(
        "hikyaku init failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

/// Whether a server at `address` says 220.
pub fn greets(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let mut start = [0u8; 3];
    let greeted = stream.read_exact(&mut start).is_ok() && &start == b"220";
    let _ = stream.write_all(b"QUIT\r\n");
    greeted
}

/// Ports below those that systems give to outgoing connections, so many for each process in turn.
const PORTS: std::ops::Range<u32> = 10_000..32_000;
const PORTS_OF_A_PROCESS: u32 = 10;

/// A loopback address with a port that is free now, and that no other process is given meanwhile: daemons
/// share a port that both are told (`SO_REUSEPORT`), and take each other's clients.
///
/// # Errors
/// [`Failure::Io`] when there is none.
pub fn free_address() -> Result<SocketAddr, Failure> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let what = || "no free port on 127.0.0.1".to_owned();
    let ports = PORTS.end - PORTS.start;
    let first = std::process::id() % (ports / PORTS_OF_A_PROCESS) * PORTS_OF_A_PROCESS;
    let mut last = None;
    for _ in 0..ports {
        let n = (first + GIVEN.fetch_add(1, Ordering::Relaxed)) % ports;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, (PORTS.start + n) as u16));
        match TcpListener::bind(address) {
            Ok(_) => return Ok(address),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into())).context(what)
}

/// Undoes chunked transfer coding.
fn dechunk(body: &str) -> String {
    let mut out = String::new();
    let mut rest = body;
    while let Some((size, after)) = rest.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else {
            break;
        };
        let Some(chunk) = after.get(..size).filter(|_| size > 0) else {
            break;
        };
        out.push_str(chunk);
        rest = after.get(size + 2..).unwrap_or_default();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_toml() {
        let mut settings = Settings::new(Path::new("/tmp/some where")).unwrap();
        settings.shards = Some(2);
        settings.dns = Some(([127, 0, 0, 1], 53).into());
        settings.routes.push(("*".into(), "127.0.0.1:2600".into()));
        let table: toml::Table = settings.to_toml().parse().unwrap();
        assert_eq!(table["server"]["shards"].as_integer(), Some(2));
        assert_eq!(table["route"][0]["to"].as_str(), Some("127.0.0.1:2600"));
    }

    #[test]
    fn chunks_are_joined() {
        assert_eq!(dechunk("4\r\nabcd\r\n3\r\nefg\r\n0\r\n\r\n"), "abcdefg");
    }
}
