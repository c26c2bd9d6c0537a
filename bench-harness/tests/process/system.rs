//! `hikyakud --check --system` and starts in environments that are wrong in one way: one clear line
//! that names the remedy, soon, exit code 1, no backtrace.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use hikyaku_bench::daemon::{Daemon, Programs, Settings, free_address, initialise};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use crate::common::{peer, programs, within};

/// The answer is there within 3 s; twice that for builds without optimisation on a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(6);

/// What a start does in a wrong environment.
#[derive(Clone, Copy, PartialEq)]
enum Start {
    /// Ends by itself with the same words.
    Refused,
    /// Goes on: mail can be taken in, or the trouble may pass.
    GoesOn,
}

struct Ground {
    _dir: tempfile::TempDir,
    settings: Settings,
    programs: Programs,
}

/// A fresh copy of an initialised installation for which every domain has a route, so that it needs no
/// DNS, and no server answers DNS.
fn ground() -> Option<Ground> {
    static MODEL: OnceLock<tempfile::TempDir> = OnceLock::new();
    let programs = programs()?;
    let model = MODEL.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings::new(dir.path()).unwrap();
        settings.write().unwrap();
        initialise(&settings, &programs).unwrap();
        dir
    });
    let dir = tempfile::tempdir().unwrap();
    for name in ["data", "key", "installation.secret"] {
        let copied = Command::new("cp")
            .arg("-a")
            .args([model.path().join(name), dir.path().join(name)])
            .status();
        assert!(copied.unwrap().success());
    }
    let mut settings = Settings::new(dir.path()).unwrap();
    settings.shards = Some(1);
    settings.dns = Some(free_address().unwrap());
    settings.routes.push(("*".into(), "127.0.0.1:2600".into()));
    settings.write().unwrap();
    Some(Ground {
        _dir: dir,
        settings,
        programs,
    })
}

impl Ground {
    /// The daemon with these arguments, by a shell that runs `prelude` first.
    fn run(&self, prelude: &str, arguments: &[&str]) -> Output {
        let line = format!("{prelude}exec \"$0\" \"$@\"");
        let mut child = Command::new("sh")
            .args(["-c", &line])
            .arg(&self.programs.hikyakud)
            .arg("--config")
            .arg(self.settings.config_path())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let ended = within(Duration::from_secs(20), || {
            matches!(child.try_wait(), Ok(Some(_)))
        });
        if !ended {
            let _ = child.kill();
        }
        let output = child.wait_with_output().unwrap();
        assert!(ended, "it runs: {output:?}");
        output
    }

    /// Expects `--check --system` to have one bad line, with these words, and a start to end with them
    /// too if it is to be refused.
    fn is_bad(&self, prelude: &str, start: Start, words: &[&str]) {
        let begun = Instant::now();
        let output = self.run(prelude, &["--check", "--system"]);
        let took = begun.elapsed();
        let said = both(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(took < ANSWER_MAX, "{took:?}: {said}");
        let bad: Vec<&str> = said
            .lines()
            .filter(|line| line.starts_with("bad "))
            .collect();
        let [bad] = bad.as_slice() else {
            // A configuration that cannot be read is all there is to say.
            assert!(bad.is_empty(), "one bad line: {said}");
            let told: Vec<&str> = said.lines().collect();
            assert_eq!(told.len(), 1, "one line: {said}");
            return has(words, told[0]);
        };
        has(words, bad);
        assert!(!said.contains("panicked"), "{said}");
        if start == Start::Refused {
            let output = self.run(prelude, &[]);
            let said = both(&output);
            assert_eq!(output.status.code(), Some(1), "{said}");
            let lines = said.lines().filter(|line| !line.contains("warning:"));
            assert_eq!(lines.count(), 1, "one line: {said}");
            has(words, &said);
        }
    }

    fn rewrite(&self, from: &str, to: &str) {
        let path = self.settings.config_path();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from:?} in {text}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.settings.dir.join(name)
    }
}

fn both(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

fn has(words: &[&str], said: &str) {
    for word in words {
        assert!(said.contains(word), "{word:?} in {said}");
    }
}

/// Whether a namespace of our own with these programs can be had here.
fn namespace() -> bool {
    peer("unshare").is_some() && {
        let made = Command::new("unshare").args(["-Urmn", "true"]).status();
        let made = made.is_ok_and(|status| status.success());
        if !made {
            println!("note: skipped: this system allows no user namespaces");
        }
        made
    }
}

/// The rest of a line for `sh` in namespaces of its own, as their root.
fn in_namespace(script: &str) -> String {
    format!("exec unshare -Urmn sh -c '{script}; exec \"$0\" \"$@\"' \"$0\" \"$@\"; ")
}

#[test]
fn a_fit_host_has_no_bad_line_and_tells_of_everything() {
    let Some(ground) = ground() else { return };
    let output = ground.run("", &["--check", "--system"]);
    let said = both(&output);
    assert!(output.status.success(), "{said}");
    for about in [
        "kernel",
        "io_uring",
        "locked memory",
        "open files",
        "cores",
        "clock",
        "data directory",
        "in use",
        "direct writes",
        "free space",
        "sync",
        "passphrase",
        "secret",
        "readable",
        "control socket",
        "source address",
        "hostname",
        "resolver",
        "listen",
    ] {
        let lines = said.lines().filter(|line| {
            let rest = line
                .strip_prefix("good     ")
                .or(line.strip_prefix("warning  "));
            rest.is_some_and(|rest| rest.starts_with(about))
        });
        assert_eq!(lines.count(), 1, "{about}: {said}");
    }
}

#[test]
fn little_locked_memory() {
    let Some(ground) = ground() else { return };
    ground.is_bad(
        "ulimit -l 256; ",
        Start::Refused,
        &["256 KiB", "LimitMEMLOCK="],
    );
}

#[test]
fn io_uring_denied_by_seccomp() {
    let Some(ground) = ground() else { return };
    // The filter is the thread's alone, and its children's.
    std::thread::spawn(move || {
        let filter = SeccompFilter::new(
            BTreeMap::from([(425, vec![])]),
            SeccompAction::Allow,
            SeccompAction::Errno(1),
            std::env::consts::ARCH.try_into().unwrap(),
        );
        let program: BpfProgram = filter.unwrap().try_into().unwrap();
        apply_filter(&program).unwrap();
        ground.is_bad("", Start::Refused, &["io_uring", "seccomp profile"]);
    })
    .join()
    .unwrap();
}

#[test]
fn a_full_disk() {
    let Some(ground) = ground() else { return };
    if !namespace() {
        return;
    }
    let data = ground.settings.data_dir();
    let data = data.display();
    let script = format!(
        "cp -a {data} {data}.kept; mount -t tmpfs -o size=64k,mode=700 tmpfs {data}; \
         cp -a {data}.kept/. {data}/; cat /dev/zero > {data}/filler 2>/dev/null; rm -rf {data}.kept"
    );
    ground.is_bad(
        &in_namespace(&script),
        Start::Refused,
        &["is full", "make room"],
    );
}

#[test]
fn a_file_system_without_direct_writes() {
    let Some(ground) = ground() else { return };
    if !namespace() {
        return;
    }
    let data = ground.settings.data_dir();
    let data = data.display();
    let script = format!(
        "cp -a {data} {data}.kept; mount -t ramfs ramfs {data}; chmod 700 {data}; \
         cp -a {data}.kept/. {data}/; rm -rf {data}.kept"
    );
    ground.is_bad(
        &in_namespace(&script),
        Start::Refused,
        &["O_DIRECT", "ext4"],
    );
}

#[test]
fn a_disk_mounted_for_reading_only() {
    let Some(ground) = ground() else { return };
    if !namespace() {
        return;
    }
    let data = ground.settings.data_dir();
    let data = data.display();
    let script = format!("mount --bind {data} {data}; mount -o remount,bind,ro {data}");
    ground.is_bad(
        &in_namespace(&script),
        Start::Refused,
        &["cannot write", "mount it for writing"],
    );
}

#[test]
fn a_data_directory_of_another_user() {
    let Some(ground) = ground() else { return };
    if !rustix::process::geteuid().is_root() || peer("setpriv").is_none() {
        println!("note: skipped: only root can give a directory away");
        return;
    }
    let all = Command::new("chown")
        .args(["-R", "65534"])
        .arg(&ground.settings.dir)
        .status();
    assert!(all.unwrap().success());
    let data = Command::new("chown")
        .arg("65533")
        .arg(ground.settings.data_dir())
        .status();
    assert!(data.unwrap().success());
    // Other users may not enter the folders of a root's build.
    let copy = ground.path("hikyakud");
    fs::copy(&ground.programs.hikyakud, &copy).unwrap();
    let as_nobody = format!(
        "exec setpriv --reuid=65534 --regid=65534 --clear-groups {} \"$@\"; ",
        copy.display()
    );
    ground.is_bad(
        &as_nobody,
        Start::Refused,
        &["belongs to user 65533", "chown -R 65534"],
    );
}

#[test]
fn a_configuration_that_the_daemons_user_may_not_read() {
    let Some(ground) = ground() else { return };
    if !rustix::process::geteuid().is_root() {
        println!("note: skipped: only root can give a directory away");
        return;
    }
    for name in [".", "data", "key", "installation.secret"] {
        let given = Command::new("chown")
            .args(["-R", "65534"])
            .arg(ground.path(name))
            .status();
        assert!(given.unwrap().success());
    }
    let config = ground.settings.config_path();
    assert!(
        Command::new("chown")
            .arg("0")
            .arg(&config)
            .status()
            .unwrap()
            .success()
    );
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let chown = format!("chown 65534 {}", config.display());
    ground.is_bad("", Start::GoesOn, &["user 65534", "may not read", &chown]);
}

#[test]
fn a_port_in_use() {
    let Some(ground) = ground() else { return };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    ground.rewrite(&ground.settings.listen.to_string(), &address);
    ground.is_bad(
        "",
        Start::Refused,
        &[&address, "in use", "change [[listen]]"],
    );
}

#[test]
fn an_address_to_listen_on_that_is_not_ours() {
    let Some(ground) = ground() else { return };
    ground.rewrite(&ground.settings.listen.to_string(), "192.0.2.1:2525");
    ground.is_bad(
        "",
        Start::Refused,
        &["192.0.2.1:2525", "no address of this host"],
    );
}

#[test]
fn a_host_without_ipv6() {
    let Some(ground) = ground() else { return };
    if !namespace() || peer("ip").is_none() {
        return;
    }
    ground.rewrite(&ground.settings.listen.to_string(), "[::1]:2525");
    let script = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; ip link set lo up";
    ground.is_bad(
        &in_namespace(script),
        Start::Refused,
        &["[::1]:2525", "no IPv6"],
    );
}

#[test]
fn a_clock_behind_what_was_written() {
    let Some(ground) = ground() else { return };
    let file = File::options()
        .write(true)
        .open(ground.settings.data_dir().join("format"));
    let later = SystemTime::now() + Duration::from_secs(3 * 24 * 3600);
    file.unwrap().set_modified(later).unwrap();
    ground.is_bad("", Start::GoesOn, &["clock", "4319 min behind", "chrony"]);
}

#[test]
fn no_data_directory() {
    let Some(ground) = ground() else { return };
    fs::remove_dir_all(ground.settings.data_dir()).unwrap();
    ground.is_bad("", Start::Refused, &["hikyaku init"]);
}

#[test]
fn a_data_directory_that_is_open_to_others() {
    let Some(ground) = ground() else { return };
    let data = ground.settings.data_dir();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    ground.is_bad("", Start::Refused, &["chmod 0700"]);
}

#[test]
fn a_data_directory_that_leads_back_to_itself() {
    let Some(ground) = ground() else { return };
    let data = ground.settings.data_dir();
    fs::remove_dir_all(&data).unwrap();
    symlink(&data, &data).unwrap();
    ground.is_bad("", Start::Refused, &["symbolic link", "server.data_dir"]);
}

#[test]
fn a_data_directory_that_another_daemon_has() {
    let Some(ground) = ground() else { return };
    let mut first = Daemon::launch(ground.settings.clone(), &ground.programs).unwrap();
    first.wait_until_it_greets().unwrap();
    let pid = first.pid().to_string();
    ground.is_bad(
        "",
        Start::Refused,
        &["in use by process", &pid, "stop that hikyakud"],
    );
}

#[test]
fn a_configuration_that_is_a_directory() {
    let Some(ground) = ground() else { return };
    let path = ground.settings.config_path();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    ground.is_bad("", Start::Refused, &["hikyaku.toml", "no regular file"]);
}

#[test]
fn no_key_file() {
    let Some(ground) = ground() else { return };
    fs::remove_file(ground.path("key")).unwrap();
    ground.is_bad("", Start::GoesOn, &["[key] path", "--generate-key"]);
    let output = ground.run("", &[]);
    has(&["cannot open", "key"], &both(&output));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_key_file_that_others_may_read() {
    let Some(ground) = ground() else { return };
    let key = ground.path("key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    ground.is_bad("", Start::Refused, &["open to other users", "chmod 0"]);
}

#[test]
fn no_installation_secret() {
    let Some(ground) = ground() else { return };
    fs::remove_file(ground.path("installation.secret")).unwrap();
    ground.is_bad("", Start::Refused, &["installation.secret"]);
}

#[test]
fn a_key_program_that_is_not_there() {
    let Some(ground) = ground() else { return };
    let path = format!("source = \"file\"\npath = {:?}", ground.path("key"));
    ground.rewrite(
        &path,
        "source = \"command\"\ncommand = [\"/no/such/program\"]",
    );
    ground.is_bad("", Start::Refused, &["/no/such/program", "run"]);
}

#[test]
fn an_empty_hostname() {
    let Some(ground) = ground() else { return };
    ground.rewrite("relay.bench.example", "");
    ground.is_bad("", Start::Refused, &["hikyaku.toml:2", "host"]);
}

#[test]
fn a_resolver_that_is_down() {
    let Some(ground) = ground() else { return };
    ground.rewrite("domain = \"*\"", "domain = \"example.jp\"");
    let server: SocketAddr = ground.settings.dns.unwrap();
    ground.is_bad(
        "",
        Start::GoesOn,
        &["resolver", &server.to_string(), "[dns] servers"],
    );
}

#[test]
fn a_resolver_that_is_silent() {
    let Some(ground) = ground() else { return };
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    ground.rewrite(&ground.settings.dns.unwrap().to_string(), &address);
    ground.rewrite("domain = \"*\"", "domain = \"example.jp\"");
    ground.is_bad("", Start::GoesOn, &["resolver", &address, "[dns] servers"]);
}

#[test]
fn a_source_address_that_is_not_ours() {
    let Some(ground) = ground() else { return };
    ground.rewrite(
        "[delivery]\n",
        "[delivery]\nsource_addresses = [\"192.0.2.9\"]\n",
    );
    ground.is_bad("", Start::GoesOn, &["192.0.2.9", "add it to an interface"]);
}

#[test]
fn few_open_files() {
    let Some(ground) = ground() else { return };
    ground.is_bad(
        "ulimit -n 64; ",
        Start::Refused,
        &["only 64 open files", "LimitNOFILE="],
    );
}

#[test]
fn two_listeners_on_one_address() {
    let Some(ground) = ground() else { return };
    let again = format!(
        "[[listen]]\naddress = \"{}\"\n[control]",
        ground.settings.listen
    );
    ground.rewrite("[control]", &again);
    ground.is_bad("", Start::Refused, &["two [[listen]]", "remove one"]);
}

#[test]
fn a_control_socket_with_a_long_path() {
    let Some(ground) = ground() else { return };
    let long = format!("{}.sock", "x".repeat(120));
    ground.rewrite("control.sock", &long);
    ground.is_bad(
        "",
        Start::Refused,
        &["too long for a socket", "control.socket"],
    );
}

#[test]
fn a_control_socket_where_no_folder_can_be() {
    let Some(ground) = ground() else { return };
    let path = format!("{:?}", ground.settings.control_path());
    let below_a_file = ground.path("key").join("control.sock");
    ground.rewrite(&path, &format!("{below_a_file:?}"));
    ground.is_bad(
        "",
        Start::Refused,
        &["key cannot be written to", "control.socket"],
    );
}

#[test]
fn a_control_socket_that_is_something_else() {
    let Some(ground) = ground() else { return };
    fs::write(ground.settings.control_path(), "mine\n").unwrap();
    ground.is_bad("", Start::Refused, &["something else of that name"]);
    assert_eq!(fs::read(ground.settings.control_path()).unwrap(), b"mine\n");
}
