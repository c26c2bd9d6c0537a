//! Starts that must not be: one clear line, an exit code other than 0, nothing changed on disk.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use hikyaku_bench::daemon::{Daemon, Programs, Settings, initialise};

use crate::common::{files, programs, within};

struct Ground {
    dir: tempfile::TempDir,
    settings: Settings,
    programs: Programs,
}

/// An initialised data directory that a daemon has used before.
fn ground() -> Option<Ground> {
    let programs = programs()?;
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::new(dir.path()).unwrap();
    let mut daemon = Daemon::start(settings.clone(), &programs).unwrap();
    daemon.terminate().unwrap();
    Some(Ground {
        dir,
        settings,
        programs,
    })
}

impl Ground {
    /// Starts the daemon and expects it to end by itself with a failure.
    fn refused(&self, words: &[&str]) {
        let before = self.data();
        let output = self.run();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "it started: {said}");
        assert!(
            output.status.code().is_some(),
            "ended by a signal: {:?}",
            output.status
        );
        assert_eq!(said.trim_end().lines().count(), 1, "one line: {said}");
        assert!(!said.contains("panicked"), "{said}");
        for word in words {
            assert!(
                said.to_lowercase().contains(&word.to_lowercase()),
                "{word:?} in {said}"
            );
        }
        let after = self.data();
        let names = |list: &[(std::path::PathBuf, Vec<u8>)]| -> Vec<_> {
            list.iter()
                .map(|(path, content)| (path.clone(), content.len()))
                .collect()
        };
        assert_eq!(names(&before), names(&after), "nothing is made or removed");
        assert!(before == after, "nothing is changed");
    }

    /// The data directory's files, but for the lock, which names the process that held it last.
    fn data(&self) -> Vec<(std::path::PathBuf, Vec<u8>)> {
        let mut found = files(&self.settings.data_dir());
        found.retain(|(path, _)| !path.ends_with("lock"));
        found
    }

    fn run(&self) -> Output {
        let mut child = Command::new(&self.programs.hikyakud)
            .arg("--config")
            .arg(self.settings.config_path())
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
        assert!(
            ended,
            "it runs: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }

    fn rewrite(&self, from: &str, to: &str) {
        let path = self.settings.config_path();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from:?} in {text}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
    }
}

#[test]
fn unknown_key_names_line_and_nearest_key() {
    let Some(ground) = ground() else { return };
    ground.rewrite("[[listen]]", "[limits]\nrecipient_max = 500\n[[listen]]");
    ground.refused(&["hikyaku.toml:", "recipient_max", "recipients_max"]);
}

#[test]
fn value_out_of_bounds_is_told() {
    let Some(ground) = ground() else { return };
    ground.rewrite("[[listen]]", "[limits]\nrecipients_max = 5\n[[listen]]");
    ground.refused(&["recipients_max", "100"]);
}

#[test]
fn missing_configuration_is_told() {
    let Some(ground) = ground() else { return };
    fs::remove_file(ground.settings.config_path()).unwrap();
    ground.refused(&["hikyaku.toml"]);
}

#[test]
fn wrong_key_is_refused() {
    let Some(ground) = ground() else { return };
    let key = ground.dir.path().join("key");
    fs::write(&key, "another passphrase altogether\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    ground.refused(&["key"]);
}

#[test]
fn readable_key_file_is_refused() {
    let Some(ground) = ground() else { return };
    let key = ground.dir.path().join("key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    ground.refused(&["key"]);
}

#[test]
fn missing_secret_is_told() {
    let Some(ground) = ground() else { return };
    fs::remove_file(ground.dir.path().join("installation.secret")).unwrap();
    ground.refused(&["installation.secret"]);
}

#[test]
fn another_format_is_refused() {
    let Some(ground) = ground() else { return };
    fs::write(
        ground.settings.data_dir().join("format"),
        "hikyaku data 99\n",
    )
    .unwrap();
    ground.refused(&["99", "does not read"]);
}

#[test]
fn port_in_use_is_told() {
    let Some(ground) = ground() else { return };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    ground.rewrite(&ground.settings.listen.to_string(), &address);
    ground.refused(&[&address, "in use"]);
}

#[test]
fn data_directory_has_one_master() {
    let Some(ground) = ground() else { return };
    let first = Daemon::start(ground.settings.clone(), &ground.programs).unwrap();
    let mut second = ground.settings.clone();
    second.dir = ground.dir.path().join("second");
    second.data_dir = Some(ground.settings.data_dir());
    second.listen = hikyaku_bench::daemon::free_address().unwrap();
    second.write().unwrap();
    let secret = ground.dir.path().join("installation.secret");
    fs::copy(&secret, second.dir.join("installation.secret")).unwrap();
    let output = Command::new(&ground.programs.hikyakud)
        .arg("--config")
        .arg(second.config_path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && output.status.code().is_some(),
        "{said}"
    );
    assert_eq!(said.trim_end().lines().count(), 1, "one line: {said}");
    assert!(
        said.contains(&*ground.settings.data_dir().to_string_lossy()),
        "{said}"
    );
    drop(first);
}

#[test]
fn uninitialised_data_directory_is_told() {
    let Some(programs) = programs() else { return };
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::new(dir.path()).unwrap();
    settings.write().unwrap();
    let ground = Ground {
        dir,
        settings,
        programs,
    };
    ground.refused(&["hikyaku init"]);
}

#[test]
fn second_init_changes_nothing() {
    let Some(ground) = ground() else { return };
    let before = files(ground.dir.path());
    initialise(&ground.settings, &ground.programs).unwrap();
    let output =
        hikyaku_bench::daemon::run_cli(&ground.programs, &ground.settings, &["init"]).unwrap();
    assert!(!output.status.success(), "a second init is refused");
    assert!(before == files(ground.dir.path()), "nothing is changed");
}
