//! A Postfix of our own: tuned, on a loopback port, with everything below one directory.
//!
//! Tuned for this very load: no DNS, no chroot, no per-client counting, many processes, high
//! concurrency towards one destination, a large active queue, connection caching. It still syncs
//! before 250, as Hikyaku does.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::daemon::{free_address, greets};
use crate::failure::{Context, Failure};
use crate::machine;

const DAEMONS: &str = "/usr/lib/postfix/sbin";
const POSTFIX: &str = "/usr/sbin/postfix";

/// A running Postfix.
#[derive(Debug)]
pub struct Postfix {
    /// Where it takes mail.
    pub address: SocketAddr,
    config: PathBuf,
    master: u32,
    stopped: bool,
}

impl Postfix {
    /// Whether Postfix can be run here: installed, and we are root.
    pub fn is_possible() -> bool {
        rustix::process::geteuid().is_root()
            && Path::new(POSTFIX).is_file()
            && Path::new(DAEMONS).join("master").is_file()
    }

    /// Starts one below `dir` that relays everything to `to`, but the domain of `exception` to its
    /// address.
    ///
    /// # Errors
    /// When its files cannot be written, or it does not come up.
    pub fn start(
        dir: &Path,
        to: SocketAddr,
        exception: (&str, SocketAddr),
    ) -> Result<Self, Failure> {
        let (config, spool, lib) = (dir.join("etc"), dir.join("spool"), dir.join("lib"));
        for path in [&config, &spool, &lib] {
            fs::create_dir_all(path).context(|| format!("cannot make {}", path.display()))?;
        }
        // Its unprivileged processes must reach their queue through our private directory.
        for path in dir.ancestors().take(2) {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))
                .context(|| format!("cannot open {}", path.display()))?;
        }
        chown_to_postfix(&lib)?;
        let address = free_address()?;
        write(&config.join("main.cf"), &main_cf(dir, to, exception))?;
        write(&config.join("master.cf"), &master_cf(address))?;
        let started = Command::new(POSTFIX)
            .arg("-c")
            .arg(&config)
            .arg("start")
            .stdin(Stdio::null())
            .output()
            .context(|| format!("cannot run {POSTFIX}"))?;
        if !started.status.success() {
            let said = String::from_utf8_lossy(&started.stderr).into_owned();
            return Err(Failure::setup(format!(
                "postfix start failed: {said}{}",
                log_tail(dir)
            )));
        }
        let since = Instant::now();
        while !greets(address) {
            if since.elapsed() > Duration::from_secs(20) {
                let text = format!("Postfix does not greet on {address}:\n{}", log_tail(dir));
                return Err(Failure::setup(text));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let pid_file = spool.join("pid/master.pid");
        let pid = fs::read_to_string(&pid_file)
            .context(|| format!("cannot read {}", pid_file.display()))?;
        let master = pid.trim().parse().map_err(|_| {
            Failure::setup(format!(
                "{} holds no process id: {pid:?}",
                pid_file.display()
            ))
        })?;
        Ok(Self {
            address,
            config,
            master,
            stopped: false,
        })
    }

    /// CPU time of all its processes, ended ones too.
    pub fn cpu_time(&self) -> Duration {
        machine::tree_cpu_time(self.master)
    }

    /// Stops it and waits until its master is gone.
    pub fn stop(mut self) {
        self.stop_now();
    }

    fn stop_now(&mut self) {
        if self.stopped {
            return;
        }
        self.stopped = true;
        let _ = Command::new(POSTFIX)
            .arg("-c")
            .arg(&self.config)
            .arg("stop")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let since = Instant::now();
        while machine::cpu_time(self.master).is_some() && since.elapsed() < Duration::from_secs(10)
        {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        self.stop_now();
    }
}

fn main_cf(dir: &Path, to: SocketAddr, exception: (&str, SocketAddr)) -> String {
    let hop = |at: SocketAddr| format!("[{}]:{}", at.ip(), at.port());
    let dir = dir.display();
    let (domain, at) = exception;
    format!(
        "compatibility_level = 3.6\n\
         queue_directory = {dir}/spool\n\
         data_directory = {dir}/lib\n\
         maillog_file_prefixes = {dir}\n\
         maillog_file = {dir}/mail.log\n\
         daemon_directory = {DAEMONS}\n\
         myhostname = postfix.bench.example\n\
         mydestination =\n\
         alias_maps =\n\
         local_recipient_maps =\n\
         mynetworks = 127.0.0.0/8\n\
         smtpd_relay_restrictions = permit_mynetworks, reject\n\
         smtpd_recipient_restrictions =\n\
         inet_interfaces = loopback-only\n\
         inet_protocols = ipv4\n\
         disable_dns_lookups = yes\n\
         smtpd_peername_lookup = no\n\
         relayhost = {}\n\
         transport_maps = inline:{{ {{{domain} = smtp:{}}} }}\n\
         default_process_limit = 150\n\
         default_destination_concurrency_limit = 100\n\
         initial_destination_concurrency = 50\n\
         qmgr_message_active_limit = 50000\n\
         qmgr_message_recipient_limit = 50000\n\
         in_flow_delay = 0\n\
         smtp_connection_cache_destinations = {}\n\
         smtpd_client_connection_count_limit = 0\n\
         smtpd_client_connection_rate_limit = 0\n\
         smtpd_tls_security_level = none\n\
         smtp_tls_security_level = none\n\
         smtputf8_enable = no\n\
         biff = no\n",
        hop(to),
        hop(at),
        hop(to),
    )
}

fn master_cf(address: SocketAddr) -> String {
    format!(
        "{address} inet n - n - - smtpd\n\
         pickup unix n - n 60 1 pickup\n\
         cleanup unix n - n - 0 cleanup\n\
         qmgr unix n - n 300 1 qmgr\n\
         rewrite unix - - n - - trivial-rewrite\n\
         bounce unix - - n - 0 bounce\n\
         defer unix - - n - 0 bounce\n\
         trace unix - - n - 0 bounce\n\
         verify unix - - n - 1 verify\n\
         flush unix n - n 1000? 0 flush\n\
         proxymap unix - - n - - proxymap\n\
         smtp unix - - n - - smtp\n\
         relay unix - - n - - smtp\n\
         showq unix n - n - - showq\n\
         error unix - - n - - error\n\
         retry unix - - n - - error\n\
         discard unix - - n - - discard\n\
         local unix - n n - - local\n\
         anvil unix - - n - 1 anvil\n\
         scache unix - - n - 1 scache\n\
         postlog unix-dgram n - n - 1 postlogd\n"
    )
}

fn chown_to_postfix(dir: &Path) -> Result<(), Failure> {
    let status = Command::new("chown").arg("postfix").arg(dir).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        _ => Err(Failure::setup(format!(
            "cannot give {} to the user postfix",
            dir.display()
        ))),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).context(|| format!("cannot write {}", path.display()))
}

fn log_tail(dir: &Path) -> String {
    let text = fs::read_to_string(dir.join("mail.log")).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
