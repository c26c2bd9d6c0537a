//! Queue segments taken away, or put back from an older copy, are told at the next start and by
//! `hikyaku shard verify`; segments that were done with are not missed.

use std::fs;
use std::path::{Path, PathBuf};

use hikyaku_bench::daemon::{Daemon, Programs, Settings, free_address, run_cli};
use hikyaku_bench::inject::{Injector, Plan};

use crate::common::{FAST_RETRY, eventually, mix, programs};

struct Ground {
    _dir: tempfile::TempDir,
    settings: Settings,
    programs: Programs,
}

/// Several segments of mail for a host that is down, and others that were emptied; the daemon has ended.
fn ground() -> Option<Ground> {
    let programs = programs()?;
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings::new(dir.path()).unwrap();
    settings.shards = Some(1);
    settings.delivery = FAST_RETRY.to_owned();
    settings.extra =
        "[limits]\nmessage_bytes_max = \"1MiB\"\n[queue]\nsegment_bytes = \"5MiB\"\n".to_owned();
    settings.routes = vec![("*".to_owned(), free_address().unwrap().to_string())];
    let mut daemon = Daemon::start(settings.clone(), &programs).unwrap();
    let plan = Plan {
        messages: 300,
        sessions: 4,
        size_bytes: 64 << 10,
        ..Plan::new(daemon.settings.listen, mix("a.test"), 1)
    };
    let injected = Injector::start(plan).unwrap().join();
    assert_eq!(injected.accepted_count(), 300, "{:?}", injected.failure);
    daemon.terminate().unwrap();
    Some(Ground {
        _dir: dir,
        settings,
        programs,
    })
}

impl Ground {
    fn segments(&self) -> Vec<PathBuf> {
        let queue = self.settings.data_dir().join("shard-00/queue");
        let paths = fs::read_dir(queue).unwrap().map(|e| e.unwrap().path());
        let mut segments: Vec<PathBuf> = paths
            .filter(|path| path.extension().is_some_and(|e| e == "seg"))
            .collect();
        segments.sort();
        assert!(segments.len() >= 4, "{segments:?}");
        segments
    }

    fn verify(&self) -> (bool, String) {
        let arguments = ["shard", "verify", "--format", "tsv"];
        let output = run_cli(&self.programs, &self.settings, &arguments).unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), said)
    }

    /// What a start and `shard verify` have to say of a segment.
    fn expect(&self, segment: &Path, words: &str) {
        let number = segment.file_stem().unwrap().to_str().unwrap();
        let (good, said) = self.verify();
        assert!(!good && said.contains(words), "{said}");
        let daemon = Daemon::start(self.settings.clone(), &self.programs).unwrap();
        let told = eventually(|| daemon.status("replaying").as_deref() == Some("0"));
        assert!(told, "{}", daemon.log_tail());
        assert_eq!(daemon.status("broken_segments").as_deref(), Some("1"));
        let log = daemon.log_tail();
        assert!(log.contains(number) && log.contains(words), "{log}");
    }
}

#[test]
fn a_segment_taken_away_is_missed() {
    let Some(ground) = ground() else { return };
    assert!(ground.verify().0, "all is there");
    let taken = ground.segments().remove(1);
    fs::remove_file(&taken).unwrap();
    ground.expect(&taken, "is missing");
}

#[test]
fn an_older_copy_of_a_segment_is_noticed() {
    let Some(ground) = ground() else { return };
    let old = ground.segments().remove(1);
    // As it was after its first batches.
    let whole = fs::read(&old).unwrap();
    let mut copy = vec![0; whole.len()];
    let kept = whole.len() / 2 / 4096 * 4096;
    copy[..kept].copy_from_slice(&whole[..kept]);
    fs::write(&old, copy).unwrap();
    ground.expect(&old, "an older copy");
}

#[test]
fn segments_that_were_emptied_are_not_missed() {
    let Some(mut ground) = ground() else { return };
    let before = ground.segments().len();
    let tally = std::sync::Arc::new(hikyaku_bench::fleet::tally::Tally::new(1));
    let world = hikyaku_bench::world::World::single(std::net::Ipv4Addr::LOCALHOST, 0);
    let fleet = hikyaku_bench::fleet::Fleet::start(&world, tally).unwrap();
    ground.settings.routes = vec![("*".to_owned(), fleet.hosts[0].1.to_string())];
    let mut daemon = Daemon::start(ground.settings.clone(), &ground.programs).unwrap();
    let emptied = eventually(|| {
        let left = daemon.status("segments").and_then(|n| n.parse().ok());
        left.is_some_and(|left: usize| left < before / 2)
    });
    assert!(emptied, "{:?}", daemon.status("segments"));
    daemon.kill();
    daemon.relaunch().unwrap();
    let told = eventually(|| daemon.status("replaying").as_deref() == Some("0"));
    assert!(told, "{}", daemon.log_tail());
    assert_eq!(daemon.status("broken_segments").as_deref(), Some("0"));
    assert!(
        !daemon.log_tail().contains("is missing"),
        "{}",
        daemon.log_tail()
    );
    fleet.stop();
}
