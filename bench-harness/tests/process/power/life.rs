//! One life of the relay on the model, from `hikyaku init` or from what a cut has left.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use engine::keys::KeyRing;
use engine::random::Random;
use hikyaku_bench::daemon::{Daemon, Programs, Settings, initialise};

use super::far_end::{Delivery, FarEnd, address, message};
use super::model::{Disk, Op};
use super::mount::{Faults, Mounted, Shared};
use crate::common::{Client, FAST_RETRY, programs, within};

/// Clients that send at the same time.
const CLIENTS: u64 = 8;
/// Messages of each.
const MESSAGES: u64 = 30;
/// Files that make a folder a data directory.
pub(crate) const INSTALLATION: [&str; 2] = ["format", "keys/current"];

/// What a life is to be like.
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) shards: usize,
    pub(crate) faults: Faults,
}

impl Plan {
    pub(crate) fn new(seed: u64, shards: usize) -> Self {
        Self {
            seed,
            shards,
            faults: Faults::default(),
        }
    }
}

/// What was done to the disk in a life, and what was promised when.
pub(crate) struct Life {
    /// Configuration, passphrase and installation secret, which are on another disk.
    _dir: tempfile::TempDir,
    pub(crate) settings: Settings,
    pub(crate) programs: Programs,
    pub(crate) start: Disk,
    pub(crate) ops: Vec<Op>,
    /// How many operations `init` had done when it was done.
    pub(crate) initialised: usize,
    pub(crate) installation: Vec<Vec<u8>>,
    pub(crate) keys: KeyRing,
    /// When a client had heard 250.
    pub(crate) accepted: BTreeMap<Delivery, usize>,
    /// When the far end had it.
    pub(crate) settled: BTreeMap<Delivery, usize>,
    pub(crate) failures: u64,
}

impl Life {
    /// Lives; `start` is an earlier life and where it was cut off. `None` (with a note) where no file
    /// system can be mounted.
    pub(crate) fn live(plan: Plan, start: Option<(&Self, usize)>) -> Option<Self> {
        let programs = programs()?;
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("disk");
        fs::create_dir(&at).unwrap();
        let disk = start.map_or_else(Disk::default, |(life, at)| {
            let disk = life.start.clone().after(&life.ops[..at]);
            disk.after_cut(&mut Random::new(plan.seed))
        });
        let mounted = match Mounted::mount(disk.clone(), &at, plan.seed) {
            Ok(mounted) => mounted,
            Err(error) => {
                println!("note: skipped: no file system can be mounted: {error}");
                return None;
            }
        };
        let shared = mounted.shared.clone();
        let position = {
            let shared = shared.clone();
            move || shared.position()
        };
        let far_end = FarEnd::start(false, position);
        let mut settings = settings(dir.path().to_owned(), plan.shards, &far_end);
        settings.data_dir = Some(at.join("data"));
        settings.write().unwrap();
        if let Some((life, _)) = start {
            fs::copy(secret(&life.settings), secret(&settings)).unwrap();
        }
        initialise(&settings, &programs).unwrap();
        let initialised = shared.position();
        let read = |name: &&str| fs::read(settings.data_dir().join(name)).unwrap();
        let installation = INSTALLATION.iter().map(read).collect();
        let keys = keys(&settings);
        let mut daemon = Daemon::launch(settings.clone(), &programs).unwrap();
        daemon.wait_until_it_greets().unwrap();
        shared.lock().faults = plan.faults;
        let mut accepted = send(&settings, &shared, &plan);
        let is_over = || {
            let settled = far_end.settled();
            let goes = |delivery: &Delivery| delivery.1.contains("-ok@");
            accepted
                .keys()
                .filter(|delivery| goes(delivery))
                .all(|delivery| settled.contains_key(delivery))
        };
        assert!(
            within(Duration::from_secs(60), is_over),
            "what was accepted is not delivered\n{}",
            daemon.log_tail()
        );
        daemon.kill();
        let mut settled = far_end.settled();
        if let Some((life, at)) = start {
            accepted.extend(life.owed(at).map(|delivery| (delivery.clone(), 0)));
            let before = life.settled.iter().filter(|(_, then)| **then <= at);
            settled.extend(before.map(|(delivery, _)| (delivery.clone(), 0)));
        }
        let mut state = shared.lock();
        Some(Self {
            settings,
            programs,
            start: disk,
            ops: std::mem::take(&mut state.ops),
            initialised,
            installation,
            keys,
            accepted,
            settled,
            failures: state.failures,
            _dir: dir,
        })
    }

    /// What was accepted and not delivered when so many operations were done.
    pub(crate) fn owed(&self, at: usize) -> impl Iterator<Item = &Delivery> {
        let by_then = move |(_, then): &(&Delivery, &usize)| **then <= at;
        let is_settled =
            move |delivery: &&Delivery| self.settled.get(*delivery).is_some_and(|then| *then <= at);
        let accepted = self.accepted.iter().filter(by_then);
        accepted
            .map(|(delivery, _)| delivery)
            .filter(move |delivery| !is_settled(delivery))
    }
}

/// Small segments, so that they fill, are copied forward and go.
pub(crate) fn settings(dir: PathBuf, shards: usize, far_end: &FarEnd) -> Settings {
    let mut settings = Settings::new(&dir).unwrap();
    settings.shards = Some(shards);
    settings.delivery = FAST_RETRY.to_owned();
    settings
        .routes
        .push(("*".to_owned(), far_end.address.to_string()));
    settings.extra = "[limits]\nmessage_bytes_max = \"64KiB\"\nrecipients_max = 100\n\
                      disk_reserve_bytes = \"1MiB\"\n[queue]\nsegment_bytes = \"1MiB\"\n"
        .to_owned();
    settings
}

pub(crate) fn secret(settings: &Settings) -> PathBuf {
    settings.dir.join("installation.secret")
}

fn keys(settings: &Settings) -> KeyRing {
    let passphrase = fs::read_to_string(settings.dir.join("key")).unwrap();
    datadir::Installation::new(&settings.data_dir(), &secret(settings))
        .unlock(passphrase.trim_end().as_bytes())
        .unwrap()
}

/// Clients send their mail; who was accepted, and how far the disk was when they had heard of it.
fn send(settings: &Settings, shared: &Shared, plan: &Plan) -> BTreeMap<Delivery, usize> {
    let accepted = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let accepted = &accepted;
            scope.spawn(move || {
                let mut random = Random::new(plan.seed << 8 | client);
                let first = plan.seed * 1_000_000 + client * MESSAGES;
                for number in first..first + MESSAGES {
                    let recipients = recipients(number, &mut random);
                    let bytes = [500, 3000, 10_000, 40_000][random.below(4) as usize];
                    let content = message(number, bytes);
                    // Refused for now, as mail is while the disk fails: the client comes again.
                    let taken = || send_one(settings, &content, &recipients) == Some(250);
                    if within(Duration::from_secs(5), taken) {
                        let at = shared.position();
                        let mut accepted = accepted.lock().unwrap_or_else(PoisonError::into_inner);
                        accepted.extend(recipients.into_iter().map(|to| ((number, to), at)));
                    }
                }
            });
        }
    });
    accepted
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
}

fn recipients(number: u64, random: &mut Random) -> Vec<String> {
    let count = 1 + random.below(3);
    let one = |n| {
        let plan = ["ok", "ok", "ok", "later", "no"][random.below(5) as usize];
        address(number, n, plan, random.below(12))
    };
    (0..count).map(one).collect()
}

/// One transaction in a session of its own; the reply to its content, if it got as far.
fn send_one(settings: &Settings, content: &str, recipients: &[String]) -> Option<u16> {
    let mut client = Client::connect_only(settings.listen);
    if client.reply().0 != 220 {
        return None;
    }
    let mut commands = vec![
        "EHLO client.example".to_owned(),
        "MAIL FROM:<s@sender.example>".to_owned(),
    ];
    commands.extend(recipients.iter().map(|to| format!("RCPT TO:<{to}>")));
    for command in commands {
        if client.command(&command).0 != 250 {
            return None;
        }
    }
    if client.command("DATA").0 != 354 {
        return None;
    }
    client.send(content.as_bytes()).ok()?;
    Some(client.command(".").0)
}
