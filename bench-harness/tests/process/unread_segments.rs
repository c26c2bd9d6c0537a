//! A disk that does not give out a segment at a start: it is tried again, and its mail is delivered
//! when it comes, without a restart.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use hikyaku_bench::daemon::{Daemon, Programs, Settings, free_address, run_cli};
use hikyaku_bench::fleet::Fleet;
use hikyaku_bench::fleet::tally::Tally;
use hikyaku_bench::inject::{Injector, Plan};
use hikyaku_bench::world::World;

use crate::common::{FAST_RETRY, eventually, mix, programs};

const EACH: u64 = 60;

/// A queue of mail for three domains, in two segments: the first has the mail of a.test and b.test, the
/// second that of c.test, and notes that b.test's was delivered.
struct Ground {
    _dir: tempfile::TempDir,
    settings: Settings,
    programs: Programs,
    fleet: Fleet,
    tally: Arc<Tally>,
}

fn inject(daemon: &Daemon, domain: &str, first_id: u64) {
    let plan = Plan {
        messages: EACH,
        sessions: 4,
        first_id,
        ..Plan::new(daemon.settings.listen, mix(domain), 1)
    };
    let injected = Injector::start(plan).unwrap().join();
    assert_eq!(injected.accepted_count(), EACH, "{:?}", injected.failure);
}

fn ground() -> Option<Ground> {
    let programs = programs()?;
    let dir = tempfile::tempdir().unwrap();
    let tally = Arc::new(Tally::new(1));
    let world = World::single(Ipv4Addr::LOCALHOST, 0);
    let fleet = Fleet::start(&world, Arc::clone(&tally)).unwrap();
    let (dead, alive) = (free_address().unwrap(), fleet.hosts[0].1);
    let mut settings = Settings::new(dir.path()).unwrap();
    settings.shards = Some(1);
    settings.delivery = FAST_RETRY.to_owned();
    settings.routes = vec![("*".to_owned(), dead.to_string())];
    let mut daemon = Daemon::start(settings.clone(), &programs).unwrap();
    inject(&daemon, "a.test", 0);
    inject(&daemon, "b.test", EACH);
    daemon.kill();
    (settings.routes).insert(0, ("b.test".to_owned(), alive.to_string()));
    let mut daemon = Daemon::start(settings.clone(), &programs).unwrap();
    inject(&daemon, "c.test", 2 * EACH);
    assert!(eventually(|| tally.totals().distinct == EACH));
    // What is not noted when it is killed would be sent again.
    daemon.terminate().unwrap();
    settings.routes = vec![("*".to_owned(), alive.to_string())];
    Some(Ground {
        _dir: dir,
        settings,
        programs,
        fleet,
        tally,
    })
}

impl Ground {
    /// The oldest segment, put away, with a name in its place that leads nowhere.
    fn hide_oldest(&self) -> (PathBuf, PathBuf) {
        let queue = self.settings.data_dir().join("shard-00/queue");
        let segments = fs::read_dir(&queue).unwrap().map(|e| e.unwrap().path());
        let is_segment = |path: &PathBuf| path.extension().is_some_and(|e| e == "seg");
        let oldest = segments.filter(is_segment).min().unwrap();
        let aside = queue.join("aside");
        fs::rename(&oldest, &aside).unwrap();
        symlink("nowhere", &oldest).unwrap();
        (oldest, aside)
    }

    fn expect_all(self, daemon: &Daemon) {
        let all = eventually(|| self.tally.totals().distinct == 3 * EACH);
        let totals = self.tally.totals();
        assert!(all, "{totals:?}\n{}", daemon.log_tail());
        assert_eq!((totals.duplicates, totals.altered), (0, 0), "{totals:?}");
        let none = eventually(|| daemon.status("unread_segments").as_deref() == Some("0"));
        assert!(none, "{:?}", daemon.status("unread_segments"));
        self.fleet.stop();
    }
}

fn give_back(oldest: &Path, aside: &Path) {
    fs::rename(aside, oldest).unwrap();
}

#[test]
fn replay_waits_for_a_segment_that_cannot_be_read_for_a_moment() {
    let Some(ground) = ground() else { return };
    let (oldest, aside) = ground.hide_oldest();
    let daemon = Daemon::start(ground.settings.clone(), &ground.programs).unwrap();
    let told = eventually(|| daemon.status("unread_segments").as_deref() == Some("1"));
    assert!(told, "{}", daemon.log_tail());
    let cause = daemon.status("unread_cause").unwrap();
    assert!(cause.contains("is a symbolic link"), "{cause}");
    assert!(daemon.status("unread_next_try").unwrap().contains('T'));
    assert!(daemon.log_tail().contains("cannot be read"));
    give_back(&oldest, &aside);
    ground.expect_all(&daemon);
}

#[test]
fn a_segment_that_is_passed_over_is_delivered_when_it_can_be_read() {
    let Some(ground) = ground() else { return };
    let (oldest, aside) = ground.hide_oldest();
    let daemon = Daemon::start(ground.settings.clone(), &ground.programs).unwrap();
    // What stands in the other segment does not wait for ever.
    let others = eventually(|| ground.tally.totals().distinct == 2 * EACH);
    assert!(others, "{}", daemon.log_tail());
    assert_eq!(daemon.status("unread_segments").as_deref(), Some("1"));
    assert_eq!(daemon.status("replaying").as_deref(), Some("0"));
    give_back(&oldest, &aside);
    ground.expect_all(&daemon);
}

#[test]
fn what_is_named_like_a_segment_and_is_no_file_holds_nothing_up() {
    let Some(ground) = ground() else { return };
    let queue = ground.settings.data_dir().join("shard-00/queue");
    let fifo = |name: &str| {
        let made = Command::new("mkfifo").arg(queue.join(name)).status();
        assert!(made.unwrap().success());
    };
    fifo("00000089.seg");
    fifo("00000091.free");
    fs::create_dir(queue.join("00000090.seg")).unwrap();
    let verify = ["shard", "verify"];
    let output = run_cli(&ground.programs, &ground.settings, &verify).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && said.contains("FIFO"), "{said}");
    let daemon = Daemon::start(ground.settings.clone(), &ground.programs).unwrap();
    assert!(eventually(|| ground.tally.totals().distinct == 3 * EACH));
    let log = daemon.log_tail();
    for words in ["00000089.seg is a FIFO", "00000090.seg is a directory"] {
        assert!(log.contains(words), "{log}");
    }
    ground.expect_all(&daemon);
}
