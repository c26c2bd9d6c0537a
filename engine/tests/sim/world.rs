//! The world of one seed: a clock that jumps from moment to moment, and what happens at each.
//!
//! [`World::run`] lives through a seed: mail comes in while disk, network and power misbehave; then
//! there is calm, and in the end every queue must be empty, every promise kept, the disk bounded, and
//! nothing may come back after one more restart.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use engine::clock::{Mono, Now, UnixMs};
use engine::ids::{SegmentId, SessionTicket, ShardId};
use engine::keys::{KeyRing, MasterKey};
use engine::policy::stop::StopBook;
use engine::queue::cipher::Stream;
use engine::random::Random;
use engine::schedule::steady::{LEAP_MS_MIN, TRIAL_MS};
use engine::shard::{NotedHandovers, Settings, ShardCore};
use engine::store::StorageSetup;

use super::disk::Disk;
use super::ledger::{Ages, Checked, Ledger};
use super::limits::Limits;
use super::plan::{Faults, faults, open_minutes, settings};
use super::process::{Moment, Process, Reading, Shard, Why};

pub(crate) const START_MS: u64 = 1_800_000_000_000;
pub(crate) const SECOND_US: u64 = 1_000_000;
/// A world that has not come to rest by then never will.
const END_US: u64 = 20_000 * SECOND_US;
const MOMENTS_MAX: u64 = 3_000_000;
/// Moments between full looks at the books of all shards, which take long.
const BOOKS_EVERY: u64 = 101;
pub(crate) const EXPIRE_AFTER_MS: u64 = 1_800_000;

/// A fault of the machinery that no shard can make up for: the ledger has to notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    None,
    /// A sync says that it is done and keeps nothing.
    NoSync,
    /// Writes are said to be done before they are begun.
    EarlyAnswer,
    /// A failed write is said to have worked.
    SwallowedErrors,
    /// A handover is said to be noted before it is.
    EarlyHandover,
}

/// What a seed came to.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) clients: usize,
    pub(crate) durable: usize,
    pub(crate) notices: usize,
    pub(crate) deliveries: u64,
    pub(crate) excused: u64,
    pub(crate) cuts: u32,
    pub(crate) failed_writes: u64,
    pub(crate) compactions: u64,
    pub(crate) adoptions: u64,
    pub(crate) transfers: u64,
    pub(crate) moments: u64,
    /// Entries that one turn over the queue touched at most.
    pub(crate) most_touched: u64,
    /// Transactions that waited for a window or found it open.
    pub(crate) windowed: u64,
    /// Transactions that began while something else was stopped.
    pub(crate) passed_stops: u64,
}

impl Summary {
    pub(crate) fn add(&mut self, other: &Self) {
        self.clients += other.clients;
        self.durable += other.durable;
        self.notices += other.notices;
        self.deliveries += other.deliveries;
        self.excused += other.excused;
        self.cuts += other.cuts;
        self.failed_writes += other.failed_writes;
        self.compactions += other.compactions;
        self.adoptions += other.adoptions;
        self.transfers += other.transfers;
        self.moments += other.moments;
        self.passed_stops += other.passed_stops;
        self.most_touched = self.most_touched.max(other.most_touched);
        self.windowed += other.windowed;
    }
}

pub(crate) struct World {
    pub(crate) verbose: bool,
    pub(crate) sabotage: Sabotage,
    pub(crate) random: Random,
    pub(crate) now_us: u64,
    sequence: u64,
    agenda: BTreeMap<(u64, u64), Moment>,
    pub(crate) disk: Disk,
    pub(crate) ledger: Ledger,
    pub(crate) keys: KeyRing,
    nonces: Rc<RefCell<Random>>,
    pub(crate) settings: Rc<Settings>,
    /// What an operator has stopped: written down, and in force at every shard.
    pub(crate) stops: Arc<StopBook>,
    pub(crate) process: Option<Process>,
    pub(crate) faults: Faults,
    /// Minutes of each hour in which some domains' mail may begin.
    pub(crate) open_minutes: Range<u64>,
    pub(crate) calm: bool,
    pub(crate) shards: u16,
    /// The fewest there were at any start.
    pub(crate) shards_least: u16,
    /// Power goes when so many disk steps are done.
    pub(crate) steps_to_cut: Option<u64>,
    pub(crate) full_until_us: u64,
    /// Segments with a bad sector; and those whose damage is to be reported at this start.
    pub(crate) spoiled: BTreeSet<(u16, SegmentId)>,
    pub(crate) unreported: BTreeSet<(u16, SegmentId)>,
    /// How far the wall clock is off, milliseconds.
    wall_off_ms: i64,
    /// How far that was believed to be right at the last start, or set right on trial since.
    believed_ms: i64,
    trial_ends_us: u64,
    /// How far it was off at the start, and what time it was by itself.
    boot_off_ms: i64,
    begun_ms: i64,
    /// How long the machine was off in all, milliseconds.
    days_off_ms: u64,
    /// Handovers that were noted before the start.
    pub(crate) noted: NotedHandovers,
    pub(crate) to_inject: usize,
    pub(crate) tickets: HashMap<SessionTicket, usize>,
    /// Those whose client did not wait for its answer.
    pub(crate) gone: HashMap<SessionTicket, usize>,
    pub(crate) next_number: u64,
    pub(crate) limits: Limits,
    quiet_since_us: Option<u64>,
    pub(crate) summary: Summary,
}

pub(crate) fn random_key(random: &mut Random) -> MasterKey {
    let mut bytes = [0; 32];
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes());
    }
    MasterKey::from_bytes(&mut bytes)
}

impl World {
    pub(crate) fn new(seed: u64, verbose: bool, sabotage: Sabotage) -> Self {
        let mut random = Random::new(seed);
        let keys = KeyRing::new(random_key(&mut random));
        let open_minutes = open_minutes(&mut random);
        let settings = settings(&mut random, &open_minutes);
        let faults = faults(&mut random);
        let nonces = Rc::new(RefCell::new(Random::new(random.next())));
        let mut world = Self {
            verbose,
            sabotage,
            now_us: 0,
            sequence: 0,
            agenda: BTreeMap::new(),
            disk: Disk::default(),
            ledger: Ledger::new(keys.clone(), EXPIRE_AFTER_MS, verbose),
            keys,
            nonces,
            settings: Rc::new(settings),
            stops: Arc::default(),
            process: None,
            faults,
            open_minutes,
            calm: false,
            shards: 1 + random.below(4) as u16,
            shards_least: u16::MAX,
            steps_to_cut: None,
            full_until_us: 0,
            spoiled: BTreeSet::new(),
            unreported: BTreeSet::new(),
            wall_off_ms: 0,
            believed_ms: 0,
            trial_ends_us: 0,
            boot_off_ms: 0,
            begun_ms: 0,
            days_off_ms: 0,
            noted: NotedHandovers::default(),
            to_inject: 0,
            tickets: HashMap::new(),
            gone: HashMap::new(),
            next_number: 0,
            limits: Limits::default(),
            quiet_since_us: None,
            summary: Summary::default(),
            random,
        };
        world.trace(|world| {
            let s = &world.settings;
            format!(
                "segments {} B, memory {} B, recipients {}, outcomes {} ms, {:?}",
                s.segment_bytes,
                s.memory_bytes_max,
                s.recipients_per_message_max,
                s.outcome_sync_ms_max,
                world.faults
            )
        });
        world.ledger.has_windows = world.open_minutes != (0..60);
        world.plan();
        world
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            mono: Mono(self.now_us + 1),
            unix: UnixMs(
                (START_MS + self.days_off_ms + self.now_us / 1000)
                    .saturating_add_signed(self.wall_off_ms),
            ),
        }
    }

    /// What time it is as far as ages go.
    pub(crate) const fn ages(&self) -> Ages {
        let now_ms = self.now_us as i64 / 1000 + self.days_off_ms as i64;
        Ages {
            new_ms: now_ms + self.boot_off_ms,
            earlier_ms: now_ms + self.believed_ms,
            begun_ms: self.begun_ms,
        }
    }

    pub(crate) fn at(&mut self, at_us: u64, moment: Moment) {
        self.sequence += 1;
        self.agenda.insert((at_us, self.sequence), moment);
    }

    /// So many microseconds from now, at random below `within_us`.
    pub(crate) fn soon(&mut self, within_us: u64, moment: Moment) {
        let at = self.now_us + self.random.below(within_us.max(1));
        self.at(at, moment);
    }

    pub(crate) fn trace(&self, text: impl FnOnce(&Self) -> String) {
        if self.verbose {
            println!(
                "{:>12.6} {}",
                self.now_us as f64 / SECOND_US as f64,
                text(self)
            );
        }
    }

    /// Whether something goes wrong that does so in `per_mille` of a thousand cases.
    pub(crate) fn strikes(&mut self, per_mille: u64) -> bool {
        !self.calm && self.random.below(1000) < per_mille
    }

    /// Lives through it all.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        self.live()?;
        self.all_are_answered()?;
        self.ledger.settled()?;
        self.check_disk()?;
        self.check_counters()?;
        self.trace(|_| "drain, stop and start once more".into());
        self.drain_all();
        let limit_us = self.now_us + 120 * SECOND_US;
        self.live_until(limit_us, |world| {
            world
                .process
                .as_ref()
                .unwrap()
                .shards
                .iter()
                .all(|shard| shard.core.is_drained())
        })?;
        self.ledger.nothing_open()?;
        let shards = &self.process.as_ref().unwrap().shards;
        if let Some(shard) = shards
            .iter()
            .find(|shard| shard.core.status().memory_bytes > 0)
        {
            return Err(format!(
                "memory is held for nothing: {:?}",
                shard.core.status()
            ));
        }
        let delivered = self.ledger.deliveries;
        self.stop(false);
        self.at(self.now_us, Moment::Boot);
        let limit_us = self.now_us + 30 * SECOND_US;
        self.live_until(limit_us, |world| world.now_us + SECOND_US >= limit_us)?;
        // Also what was delivered at once had been forgotten in memory and not on disk: a part that
        // nobody confirmed or cancelled.
        let again = self.ledger.deliveries - delivered;
        if !self.is_empty() || again > 0 {
            return Err(format!(
                "mail came back after a clean stop, {again} delivered: {}",
                self.why_not_empty()
            ));
        }
        let (clients, durable, notices) = self.ledger.counts();
        let (deliveries, excused) = (self.ledger.deliveries, self.ledger.excused);
        let summary = &mut self.summary;
        (summary.clients, summary.durable, summary.notices) = (clients, durable, notices);
        (summary.deliveries, summary.excused) = (deliveries, excused);
        Ok(())
    }

    /// Until there is nothing left to do.
    fn live(&mut self) -> Checked {
        self.live_until(END_US, |world| {
            if !(world.calm && world.to_inject == 0 && world.is_empty()) {
                world.quiet_since_us = None;
                return false;
            }
            let since = *world.quiet_since_us.get_or_insert(world.now_us);
            world.now_us >= since + 150 * SECOND_US
        })
    }

    fn live_until(&mut self, limit_us: u64, mut is_over: impl FnMut(&mut Self) -> bool) -> Checked {
        while !is_over(self) {
            let Some(((at_us, _), moment)) = self.agenda.pop_first() else {
                return Err("nothing is ever going to happen again".into());
            };
            self.now_us = at_us;
            self.summary.moments += 1;
            if at_us > limit_us || self.summary.moments > MOMENTS_MAX {
                return Err(format!(
                    "it does not come to rest: {}",
                    self.why_not_empty()
                ));
            }
            self.happen(moment)?;
            if self.summary.moments.is_multiple_of(BOOKS_EVERY) {
                self.hold_books();
            }
        }
        self.hold_books();
        Ok(())
    }

    /// The books of every shard agree with each other, whatever has just happened.
    fn hold_books(&self) {
        for shard in self.process.iter().flat_map(|process| &process.shards) {
            shard.core.assert_consistent();
        }
    }

    fn is_empty(&self) -> bool {
        let Some(process) = &self.process else {
            return false;
        };
        process.readings.is_empty()
            && process.shards.iter().all(|shard| {
                let status = shard.core.status();
                status.queued == 0
                    && !status.replaying
                    && shard.gone.is_empty()
                    && shard.adopting.is_none()
            })
    }

    fn believe(&mut self) {
        self.believed_ms = self.wall_off_ms;
        self.trial_ends_us = self.now_us + TRIAL_MS * 1000;
    }

    fn happen(&mut self, moment: Moment) -> Checked {
        match moment {
            Moment::Boot => self.boot(),
            Moment::Calm => {
                self.trace(|_| "calm".into());
                self.calm = true;
                self.steps_to_cut = None;
                self.resume_all()
            }
            Moment::Cut => self.cut(),
            Moment::Command => self.command(),
            // Whether it is a leap at all is a matter of a shard's rounding there.
            Moment::Leap(off_ms)
                if (off_ms - self.wall_off_ms).unsigned_abs() < 2 * LEAP_MS_MIN =>
            {
                Ok(())
            }
            Moment::Leap(off_ms) => {
                self.trace(|_| format!("the wall clock is off by {off_ms} ms"));
                self.wall_off_ms = off_ms;
                if self.now_us < self.trial_ends_us {
                    self.believe();
                }
                Ok(())
            }
            Moment::DaysOff => {
                if !self.is_empty() {
                    self.nothing_is_forgotten()?;
                    self.trace(|_| "the machine is off for three days".into());
                    self.stop(false);
                    self.days_off_ms += 3 * 86_400_000;
                    self.at(self.now_us, Moment::Boot);
                }
                Ok(())
            }
            Moment::Stop => {
                if self
                    .process
                    .as_ref()
                    .is_some_and(|process| process.draining)
                {
                    self.stop(false);
                    self.soon(3 * SECOND_US, Moment::Boot);
                }
                Ok(())
            }
            Moment::Inject(n, tries) => self.inject(n, tries),
            moment => self.in_process(moment),
        }
    }

    /// Power goes, or the process alone, or it is told to stop, or a new key is made.
    fn cut(&mut self) -> Checked {
        if self.calm || self.process.is_none() {
            return Ok(());
        }
        match self.random.below(10) {
            0 | 1 => {
                self.trace(|_| "told to stop".into());
                self.drain_all();
                let at = self.now_us + 3 * SECOND_US;
                self.at(at, Moment::Stop);
                Ok(())
            }
            2 | 3 => {
                self.stop(false);
                self.soon(3 * SECOND_US, Moment::Boot);
                Ok(())
            }
            4 | 5 => self.rekey(),
            _ => self.power_cut(),
        }
    }

    fn rekey(&mut self) -> Checked {
        self.trace(|_| "a new key".into());
        let key = random_key(&mut self.random);
        self.keys
            .rekey(key.clone())
            .map_err(|error| error.to_string())?;
        self.ledger
            .keys_mut()
            .rekey(key)
            .map_err(|error| error.to_string())?;
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        process
            .shards
            .iter_mut()
            .for_each(|shard| shard.core.rekey(Arc::new(self.keys.clone())));
        (0..process.shards.len()).try_for_each(|shard| self.carry_out(shard))
    }

    pub(crate) fn power_cut(&mut self) -> Checked {
        self.stop(true);
        self.soon(3 * SECOND_US, Moment::Boot);
        Ok(())
    }

    fn drain_all(&mut self) {
        if let Some(process) = &mut self.process {
            process.draining = true;
            process
                .shards
                .iter_mut()
                .for_each(|shard| shard.core.drain());
        }
    }

    fn stop(&mut self, power: bool) {
        self.trace(|_| {
            if power {
                "power is cut".into()
            } else {
                "the process ends".to_owned()
            }
        });
        self.summary.cuts += 1;
        self.process = None;
        self.tickets.clear();
        self.gone.clear();
        self.limits = Limits::default();
        self.agenda.retain(|_, moment| moment.outlives_process());
        if power {
            self.disk.cut(&mut self.random);
        }
        for handover in self.disk.handovers() {
            self.ledger.noted(*handover);
        }
        self.ledger.cut();
    }

    fn boot(&mut self) -> Checked {
        if self.process.is_some() {
            return Ok(());
        }
        if !self.calm && self.summary.cuts > 0 && self.random.below(2) == 0 {
            self.shards = 1 + self.random.below(4) as u16;
        }
        if !self.calm && self.random.below(3) == 0 {
            self.rekey()?;
        }
        self.shards_least = self.shards_least.min(self.shards);
        self.trace(|world| format!("start with {} shards", world.shards));
        self.boot_off_ms = self.wall_off_ms;
        self.ledger.started_wrong |= self.wall_off_ms != 0;
        self.begun_ms = self.ages().new_ms;
        self.believe();
        self.noted = Rc::new(self.disk.sync_handovers());
        if self.strikes(self.faults.sector) {
            self.spoil_sector()?;
        }
        self.expect_reports();
        let gone: Vec<u16> = self
            .disk
            .shards()
            .into_iter()
            .filter(|shard| *shard >= self.shards)
            .collect();
        self.process = Some(Process {
            shards: Vec::new(),
            jobs: BTreeMap::new(),
            readings: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            draining: false,
        });
        for id in 0..self.shards {
            let shard = self.boot_shard(id, &gone);
            self.process.as_mut().unwrap().shards.push(shard);
            let number = usize::from(id);
            self.soon(100_000, Moment::Tick(number));
            self.soon(1000, Moment::Space(number));
            let segments = self.disk.list((id, Stream::Queue)).segments;
            self.read_through(
                number,
                id,
                Why::Replay,
                segments.iter().map(|s| s.0).collect(),
            );
        }
        Ok(())
    }

    fn boot_shard(&mut self, id: u16, gone: &[u16]) -> Shard {
        let queue = self.disk.list((id, Stream::Queue));
        let log = self.disk.list((id, Stream::DeliveryLog));
        let nonces = Rc::clone(&self.nonces);
        let setup = StorageSetup {
            keys: Arc::new(self.keys.clone()),
            nonces: Box::new(move || {
                let mut random = nonces.borrow_mut();
                let (high, low) = (random.next(), random.next());
                (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
            }),
            next_segment: queue.next,
            next_log_segment: log.next,
            next_counters_segment: self.disk.list((id, Stream::Counters)).next,
        };
        let (seed, now) = (self.random.next(), self.now());
        let settings = Rc::clone(&self.settings);
        let mut core = ShardCore::new(ShardId(id), self.shards, settings, setup, seed, now);
        let free: Vec<u64> = queue.free.iter().map(|(_, bytes)| *bytes).collect();
        core.found_files(&queue.segments, &free);
        core.noted_handovers(Rc::clone(&self.noted));
        core.restore_stops(Arc::clone(&self.stops), now);
        self.restore_counters(&mut core, id);
        let adopts = |gone: &&u16| {
            engine::shard::adopt::Adoption::adopter(ShardId(**gone), self.shards).0 == id
        };
        Shard {
            core,
            free: queue.free.iter().map(|(segment, _)| *segment).collect(),
            flush_due: false,
            conns: HashMap::new(),
            gone: gone.iter().filter(adopts).copied().collect(),
            adopting: None,
            last_event_us: self.now_us,
            resting: BTreeMap::new(),
            lifts: false,
        }
    }

    pub(crate) fn read_through(
        &mut self,
        shard: usize,
        folder: u16,
        why: Why,
        segments: VecDeque<SegmentId>,
    ) {
        self.next_number += 1;
        let number = self.next_number;
        let reading = Reading {
            shard,
            folder,
            why,
            segments,
            reader: None,
            offset: 0,
        };
        self.process
            .as_mut()
            .unwrap()
            .readings
            .insert(number, reading);
        self.soon(20_000, Moment::Chunk(number));
    }
}
