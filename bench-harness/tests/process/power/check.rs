//! What a cut has left, and whether it holds what is owed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use datadir::segments::{self, Go};
use engine::ids::{HandoverId, QueueId, SegmentId, ShardId};
use engine::keys::KeyRing;
use engine::queue::cipher::Stream;
use engine::queue::record::{About, Message, OutcomeState, Record};
use engine::queue::replay::Contents;
use engine::queue::segment::parse_handover_folder_name;
use hikyaku_bench::daemon::Daemon;

use super::far_end::{Delivery, FarEnd, number};
use super::life::{INSTALLATION, Life, secret, settings};
use super::model::Disk;
use crate::common::within;

/// A message's record, with what was noted of it.
struct Copy {
    shard: ShardId,
    queue_id: QueueId,
    /// Where it stood and stands.
    segments: Vec<SegmentId>,
    number: Option<u64>,
    /// Each with whether it is done.
    recipients: Vec<(String, bool)>,
    is_void: bool,
}

enum Note {
    State(OutcomeState),
    Cancel,
}

/// A queue as its files say it is.
#[derive(Default)]
struct Queue {
    noted: BTreeSet<HandoverId>,
    copies: Vec<Copy>,
    notes: Vec<(ShardId, About, Note)>,
}

impl Queue {
    fn read(data_dir: &Path, keys: &KeyRing) -> Result<Self, String> {
        let mut queue = Self::default();
        for shard in segments::shards(data_dir).map_err(|error| error.to_string())? {
            for entry in fs::read_dir(segments::shard_dir(data_dir, shard)).unwrap() {
                let name = entry.unwrap().file_name();
                let handover = name.to_str().and_then(parse_handover_folder_name);
                queue.noted.extend(handover);
            }
        }
        let files = segments::list_all(data_dir).map_err(|error| error.to_string())?;
        for file in files {
            if file.name.stream != Stream::Queue {
                continue;
            }
            let (shard, segment) = (file.name.shard, file.name.segment);
            let take = |found: engine::queue::replay::Found<'_>| {
                queue.take(shard, segment, &found.record);
                Go::On
            };
            let summary = segments::scan(&file, keys, Contents::Read, take, |_| {});
            let fault = |why: String| format!("{}: {why}", file.path.display());
            let summary = summary.map_err(|error| fault(error.to_string()))?;
            if let Some(damage) = summary.as_ref().and_then(|summary| summary.damage.first()) {
                return Err(fault(format!("{damage:?} where only power was cut")));
            }
        }
        queue.settle();
        Ok(queue)
    }

    fn take(&mut self, shard: ShardId, segment: SegmentId, record: &Record<'_>) {
        match record {
            Record::Message(message) => self.message(shard, segment, None, message),
            Record::Moved(moved) => {
                let queue_id = moved.message.queue_id;
                self.message(shard, segment, Some(moved.from), &moved.message);
                let about = About { queue_id, segment };
                let states = moved.states.iter();
                self.notes
                    .extend(states.map(|state| (shard, about, Note::State(state))));
            }
            Record::Outcome(outcome) => {
                self.notes
                    .push((shard, outcome.about, Note::State(outcome.state)));
            }
            Record::Cancel(about) => self.notes.push((shard, *about, Note::Cancel)),
            Record::Commit(_) | Record::Blob { .. } | Record::Seal(_) => {}
        }
    }

    fn message(
        &mut self,
        shard: ShardId,
        segment: SegmentId,
        from: Option<SegmentId>,
        message: &Message<'_>,
    ) {
        let is_void = (message.handover).is_some_and(|handover| !self.noted.contains(&handover));
        let recipients = message.recipients.iter();
        self.copies.push(Copy {
            shard,
            queue_id: message.queue_id,
            segments: from.into_iter().chain([segment]).collect(),
            number: number(message.reverse_path, message.content),
            recipients: recipients
                .map(|to| (to.address.to_owned(), false))
                .collect(),
            is_void,
        });
    }

    /// Applies the notes, to every copy that stood where they say.
    fn settle(&mut self) {
        for (shard, about, note) in std::mem::take(&mut self.notes) {
            for copy in &mut self.copies {
                let is_it = copy.shard == shard
                    && copy.queue_id == about.queue_id
                    && copy.segments.contains(&about.segment);
                match &note {
                    _ if !is_it => {}
                    Note::Cancel => copy.is_void = true,
                    Note::State(state) => {
                        let counts = (state.handover())
                            .is_none_or(|handover| self.noted.contains(&handover));
                        if state.kind.is_final() && counts {
                            let range = copy.recipients.get_mut(state.recipients());
                            range
                                .into_iter()
                                .flatten()
                                .for_each(|(_, done)| *done = true);
                        }
                    }
                }
            }
        }
    }

    /// Who is in the queue.
    fn open(&self) -> BTreeSet<Delivery> {
        let copies = self.copies.iter().filter(|copy| !copy.is_void);
        copies
            .filter_map(|copy| Some((copy.number?, &copy.recipients)))
            .flat_map(|(number, recipients)| {
                let open = recipients.iter().filter(|(_, done)| !done);
                open.map(move |(address, _)| (number, address.clone()))
            })
            .collect()
    }
}

/// A disk after a cut, in a folder of this machine.
pub(crate) struct Survivors {
    dir: tempfile::TempDir,
    open: BTreeSet<Delivery>,
}

impl Survivors {
    /// Reads what is left.
    ///
    /// # Errors
    /// If the installation is not there, or more is damaged than an end.
    pub(crate) fn of(left: &Disk, life: &Life, at: usize) -> Result<Self, String> {
        // In memory where there is some: the disk of the machine is not under test.
        let shared_memory = Path::new("/dev/shm");
        let place = if shared_memory.is_dir() {
            shared_memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let dir = tempfile::Builder::new()
            .prefix("hikyaku-power-")
            .tempdir_in(place)
            .map_err(|error| error.to_string())?;
        left.write_to(dir.path())
            .map_err(|error| error.to_string())?;
        let mut survivors = Self {
            dir,
            open: BTreeSet::new(),
        };
        let data_dir = survivors.data_dir();
        if at < life.initialised {
            return Ok(survivors);
        }
        for (name, content) in INSTALLATION.iter().zip(&life.installation) {
            let there = fs::read(data_dir.join(name)).unwrap_or_default();
            if there != *content {
                return Err(format!("{name} is not as `hikyaku init` left it"));
            }
        }
        survivors.open = Queue::read(&data_dir, &life.keys)?.open();
        Ok(survivors)
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// # Errors
    /// What is not there.
    pub(crate) fn hold_what_is_owed(&self, life: &Life, at: usize) -> Result<(), String> {
        let owed: Vec<_> = life.owed(at).collect();
        let lost: Vec<_> = (owed.iter())
            .filter(|delivery| !self.open.contains(**delivery))
            .collect();
        match lost.first() {
            None => Ok(()),
            Some(first) => Err(format!(
                "{} of {} recipients owed are lost, the first of them {first:?}",
                lost.len(),
                owed.len()
            )),
        }
    }

    /// Starts the daemon on it.
    ///
    /// # Errors
    /// If it does not start, or does not deliver what is owed.
    pub(crate) fn are_delivered(&self, life: &Life, at: usize) -> Result<(), String> {
        let far_end = FarEnd::start(true, || 0);
        let etc = self.dir.path().join("etc");
        let shards = life.settings.shards.unwrap_or(1);
        let mut settings = settings(etc, shards, &far_end);
        settings.data_dir = Some(self.data_dir());
        settings.write().map_err(|failure| failure.to_string())?;
        fs::copy(secret(&life.settings), secret(&settings)).map_err(|error| error.to_string())?;
        let mut daemon = Daemon::launch(settings, &life.programs).map_err(|f| f.to_string())?;
        daemon
            .wait_until_it_greets()
            .map_err(|failure| failure.to_string())?;
        let missing = || {
            let settled = far_end.settled();
            let owed: BTreeMap<&Delivery, ()> = life.owed(at).map(|d| (d, ())).collect();
            owed.into_keys()
                .filter(|delivery| !settled.contains_key(*delivery))
                .count()
        };
        if within(Duration::from_secs(60), || missing() == 0) {
            return Ok(());
        }
        Err(format!(
            "{} recipients owed are not delivered\n{}",
            missing(),
            daemon.log_tail()
        ))
    }
}
