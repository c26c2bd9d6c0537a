//! A full disk: 452 4.3.1 at the door, nothing lost, and recovery without a restart.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use hikyaku_bench::daemon::{Daemon, Settings, free_address};
use hikyaku_bench::fleet::Fleet;
use hikyaku_bench::fleet::tally::Tally;
use hikyaku_bench::inject::{Injected, Injector, Plan};
use hikyaku_bench::world::World;

use crate::common::{self, Client, FAST_RETRY, mix, within};

/// A file system of its own in memory; unmounted at the end.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// Mounts one of `mib`; `None` with a note where that is not allowed.
    fn mount(at: &'a Path, mib: u32) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let options = format!("size={mib}m,mode=0700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "hikyaku-test"])
            .arg(at)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(at)),
            refused => {
                println!("note: skipped: no small file system can be mounted: {refused:?}");
                None
            }
        }
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// Everything on a small disk, for one route.
fn settings(dir: &Path, disk: &Path, route: &str) -> Settings {
    let mut settings = Settings::new(dir).unwrap();
    settings.data_dir = Some(disk.to_owned());
    settings.shards = Some(2);
    settings.routes.push(("*".to_owned(), route.to_owned()));
    settings.delivery = FAST_RETRY.to_owned();
    settings.extra = "[limits]\ndisk_reserve_bytes = \"24MiB\"\nmessage_bytes_max = \"1MiB\"\n\
                      [queue]\nsegment_bytes = \"4MiB\"\n"
        .to_owned();
    settings
}

/// Sends until 4xx has come some hundred times.
fn fill(daemon: &Daemon, run: u32, first_id: u64) -> Injected {
    use std::sync::atomic::Ordering::Relaxed;
    let plan = Plan {
        sessions: 10,
        size_bytes: 8 << 10,
        // Free space is measured every second: the reserve must outlast what comes in between.
        rate_per_s: Some(1000.0),
        first_id,
        reconnect: true,
        ..Plan::new(daemon.settings.listen, mix("d.test"), run)
    };
    let injector = Injector::start(plan).unwrap();
    let refused = within(Duration::from_secs(40), || {
        injector.progress.deferred.load(Relaxed) > 300
    });
    injector.stop();
    let injected = injector.join();
    assert!(refused, "the disk never got full\n{}", daemon.log_tail());
    injected
}

fn refusal(daemon: &Daemon) -> Option<String> {
    let mut client = Client::hello(daemon.settings.listen);
    for command in ["MAIL FROM:<a@sender.example>", "RCPT TO:<b@d.test>", "DATA"] {
        let (code, text) = client.command(command);
        if code >= 400 {
            return Some(text);
        }
    }
    client.send(b"Subject: x\r\n\r\nhello\r\n").unwrap();
    let (code, text) = client.command(".");
    (code != 250).then_some(text)
}

fn refuses_with_452(daemon: &Daemon) {
    let mut said = None;
    let refused = within(Duration::from_secs(5), || {
        said = refusal(daemon);
        said.as_ref()
            .is_some_and(|text| text.starts_with("452 4.3.1"))
    });
    assert!(refused, "answered {said:?}\n{}", daemon.log_tail());
}

fn mail_is_taken_again(daemon: &Daemon) {
    let again = within(Duration::from_secs(20), || refusal(daemon).is_none());
    assert!(
        again,
        "still refused: {:?}\n{}",
        refusal(daemon),
        daemon.log_tail()
    );
}

/// All that was accepted reaches the far end.
fn all_arrive(accepted: &[u64], tally: &Tally, daemon: &Daemon) {
    let missing = || {
        let times = tally.times();
        let is_missing = |id: &&u64| times.get(**id as usize).is_none_or(|times| *times == 0);
        accepted.iter().filter(is_missing).count()
    };
    let arrived = within(Duration::from_secs(60), || missing() == 0);
    assert!(
        arrived,
        "{} of {} lost, {:?}\n{}",
        missing(),
        accepted.len(),
        tally.totals(),
        daemon.log_tail()
    );
}

#[test]
fn full_disk_is_answered_452_and_recovers_when_mail_has_gone() {
    let Some(programs) = common::programs() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let disk_path = dir.path().join("disk");
    let Some(_disk) = SmallDisk::mount(&disk_path, 96) else {
        return;
    };
    let far_end = free_address().unwrap();
    let settings = settings(dir.path(), &disk_path, &far_end.to_string());
    let daemon = Daemon::start(settings, &programs).unwrap();
    let injected = fill(&daemon, 1, 0);
    refuses_with_452(&daemon);
    // The route comes back, mail goes out, there is room again.
    let tally = Arc::new(Tally::new(1));
    let world = World::single(Ipv4Addr::LOCALHOST, far_end.port());
    let fleet = Fleet::start(&world, Arc::clone(&tally)).unwrap();
    let accepted: Vec<u64> = injected.accepted().collect();
    assert!(accepted.len() > 1000, "only {} fitted", accepted.len());
    all_arrive(&accepted, &tally, &daemon);
    mail_is_taken_again(&daemon);
    fleet.stop();
}

#[test]
fn disk_filled_by_others_is_survived() {
    let Some(programs) = common::programs() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let disk_path = dir.path().join("disk");
    let Some(_disk) = SmallDisk::mount(&disk_path, 96) else {
        return;
    };
    let tally = Arc::new(Tally::new(2));
    let fleet = Fleet::start(&World::single(Ipv4Addr::LOCALHOST, 0), Arc::clone(&tally)).unwrap();
    let settings = settings(dir.path(), &disk_path, &fleet.hosts[0].1.to_string());
    let mut daemon = Daemon::start(settings, &programs).unwrap();
    assert_eq!(refusal(&daemon), None);
    // Somebody else takes all the room there is.
    let ballast = disk_path.join("ballast");
    let _ = Command::new("dd")
        .args([
            "if=/dev/zero",
            &format!("of={}", ballast.display()),
            "bs=1M",
            "count=200",
        ])
        .output();
    let injected = fill(&daemon, 2, 0);
    assert!(daemon.is_running(), "{}", daemon.log_tail());
    refuses_with_452(&daemon);
    std::fs::remove_file(&ballast).unwrap();
    mail_is_taken_again(&daemon);
    let accepted: Vec<u64> = injected.accepted().collect();
    all_arrive(&accepted, &tally, &daemon);
    fleet.stop();
}

/// What is queued on a full disk is delivered by a daemon that was started on it: nothing else would
/// ever make room.
#[test]
fn daemon_starts_on_a_full_disk_and_drains_it() {
    let Some(programs) = common::programs() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let disk_path = dir.path().join("disk");
    let Some(_disk) = SmallDisk::mount(&disk_path, 96) else {
        return;
    };
    let far_end = free_address().unwrap();
    let settings = settings(dir.path(), &disk_path, &far_end.to_string());
    let mut daemon = Daemon::start(settings, &programs).unwrap();
    let injected = fill(&daemon, 3, 0);
    daemon.terminate().unwrap();
    let ballast = disk_path.join("ballast");
    let _ = Command::new("dd")
        .args([
            "if=/dev/zero",
            &format!("of={}", ballast.display()),
            "bs=4k",
            "count=200000",
        ])
        .output();
    daemon.relaunch().unwrap();
    daemon.wait_until_it_greets().unwrap();
    refuses_with_452(&daemon);
    let tally = Arc::new(Tally::new(3));
    let world = World::single(Ipv4Addr::LOCALHOST, far_end.port());
    let fleet = Fleet::start(&world, Arc::clone(&tally)).unwrap();
    let accepted: Vec<u64> = injected.accepted().collect();
    all_arrive(&accepted, &tally, &daemon);
    mail_is_taken_again(&daemon);
    fleet.stop();
}

#[test]
fn mail_is_refused_when_the_data_directory_is_gone() {
    let Some(relay) = common::Relay::start(9, |_| {}) else {
        return;
    };
    // It greets before its start is through, which needs the directory.
    let is_ready = common::eventually(|| relay.daemon.log_tail().contains("ready: "));
    assert!(is_ready, "{}", relay.daemon.log_tail());
    let dir = relay.daemon.settings.data_dir();
    std::fs::rename(&dir, dir.with_extension("taken-away")).unwrap();
    let refused = common::eventually(|| {
        let mut client = Client::hello(relay.address());
        client.command("MAIL FROM:<a@sender.example>").0 == 452
    });
    assert!(refused, "{}", relay.daemon.log_tail());
    assert!(relay.daemon.log_tail().contains("cannot be found"));
    std::fs::rename(dir.with_extension("taken-away"), &dir).unwrap();
    let taken = common::eventually(|| {
        let mut client = Client::hello(relay.address());
        client.command("MAIL FROM:<a@sender.example>").0 == 250
    });
    assert!(taken, "{}", relay.daemon.log_tail());
}
