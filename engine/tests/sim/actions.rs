//! What the shards ask for, carried out late, badly or not at all: disk, network, each other.

use std::collections::VecDeque;
use std::rc::Rc;

use engine::dns::{Answer, DnsTrouble};
use engine::ids::{SegmentId, ShardId};
use engine::phase::Phase;
use engine::pool::{ConnId, PeerInfo};
use engine::queue::cipher::{SegmentName, Stream};
use engine::queue::replay::{Contents, SegmentReader};
use engine::queue::segment::{Placement, SEGMENT_HEADER_BYTES, file_name, free_file_name};
use engine::queue::set::Disposal;
use engine::shard::adopt::Adoption;
use engine::shard::{Action, Begin, DiskError, Event, ReadId, Stored};
use engine::smtp::client::{OutboundTransaction, RecipientOutcome};

use super::ledger::Checked;
use super::net;
use super::process::{Adopting, Conn, Job, Moment, Reading, Shard, Step, Then, Why};
use super::world::{Sabotage, World};

const MS: u64 = 1000;

fn io(why: &str) -> DiskError {
    DiskError::Io(why.to_owned())
}

impl World {
    fn shard(&mut self, shard: usize) -> &mut Shard {
        &mut self.process.as_mut().unwrap().shards[shard]
    }

    pub(crate) fn in_process(&mut self, moment: Moment) -> Checked {
        match moment {
            Moment::Tick(shard) => self.tick(shard),
            Moment::Space(shard) => {
                let full = self.now_us < self.full_until_us && !self.calm;
                let free_bytes = if full && self.random.below(2) == 0 {
                    0
                } else {
                    1 << 40
                };
                let at = self.now_us + 1000 * MS;
                self.at(at, Moment::Space(shard));
                self.event(shard, Event::DiskSpace { free_bytes })
            }
            Moment::Flush(shard) => self.flush(shard),
            Moment::Adopt(shard) => self.adopt_more(shard),
            Moment::Event(shard, event) => {
                if let Event::Closed { conn, .. } = *event {
                    self.shard(shard).conns.remove(&conn);
                }
                self.event(shard, *event)
            }
            Moment::Step(job) => self.step(job),
            Moment::ReadRecord(shard, read, placement) => self.read_record(shard, read, placement),
            Moment::ReadAdopted(shard, key, placement) => self.read_adopted(shard, key, placement),
            Moment::Chunk(reading) => self.chunk(reading),
            Moment::Peer(shard, conn) => self.peer(shard, conn),
            Moment::Offer(shard, conn) => self.offer(shard, conn),
            Moment::Reply {
                shard,
                conn,
                token,
                results,
                broken,
            } => {
                let finished = Event::Finished {
                    conn,
                    token,
                    results,
                };
                if broken {
                    return self.break_off(shard, conn, finished);
                }
                self.event(shard, finished)?;
                self.offer(shard, conn)?;
                self.next_transaction(shard, conn);
                Ok(())
            }
            Moment::PeerClose(shard, conn) => {
                let idle = self
                    .shard(shard)
                    .conns
                    .get(&conn)
                    .is_some_and(|c| c.waiting.is_empty());
                if idle {
                    self.closed(shard, conn, Phase::Mail, "idle too long")
                } else {
                    Ok(())
                }
            }
            Moment::Inject(..) | Moment::Cut | Moment::Boot | Moment::Calm | Moment::Stop => Ok(()),
        }
    }

    fn tick(&mut self, shard: usize) -> Checked {
        let busy = self.now_us < self.shard(shard).last_event_us + 1000 * MS;
        let at = self.now_us
            + if busy {
                50 + self.random.below(50)
            } else {
                1000
            } * MS;
        self.at(at, Moment::Tick(shard));
        let now = self.now();
        self.shard(shard).core.handle(Event::Tick, now);
        self.carry_out(shard)
    }

    pub(crate) fn event(&mut self, shard: usize, event: Event) -> Checked {
        let (now, now_us) = (self.now(), self.now_us);
        let shard_now = self.shard(shard);
        if !matches!(event, Event::DiskSpace { .. }) {
            shard_now.last_event_us = now_us;
        }
        shard_now.core.handle(event, now);
        self.carry_out(shard)
    }

    fn flush(&mut self, shard: usize) -> Checked {
        let now = self.now();
        let shard_now = self.shard(shard);
        shard_now.flush_due = false;
        shard_now.core.flush(now);
        self.perform_all(shard)
    }

    /// Does what the core asks; its next batch leaves a little later.
    pub(crate) fn carry_out(&mut self, shard: usize) -> Checked {
        self.perform_all(shard)?;
        self.take_adopted(shard)?;
        if !std::mem::replace(&mut self.shard(shard).flush_due, true) {
            let within = [1, 200, 5000][self.random.below(3) as usize];
            self.soon(within, Moment::Flush(shard));
        }
        Ok(())
    }

    fn perform_all(&mut self, shard: usize) -> Checked {
        let mut actions = Vec::new();
        self.shard(shard).core.take_actions(&mut actions);
        for action in actions {
            self.perform(shard, action)?;
        }
        Ok(())
    }

    fn perform(&mut self, shard: usize, action: Action) -> Checked {
        match action {
            Action::Answer { ticket, result } => self.answer(ticket, result)?,
            Action::Write {
                batch,
                stream,
                segment,
                offset,
                bytes,
                begin,
            } => {
                if stream == Stream::Queue {
                    self.trace(|_| {
                        format!(
                            "shard {shard}: write segment {} at {offset}, {} bytes",
                            segment.0,
                            bytes.len()
                        )
                    });
                    let now_s = self.now_s();
                    self.ledger
                        .issued(shard as u16, batch.0, segment, offset, &bytes, now_s)?;
                }
                if self.sabotage == Sabotage::EarlyAnswer {
                    let event = Event::Written {
                        batch,
                        result: Ok(()),
                    };
                    self.soon(1, Moment::Event(shard, Box::new(event)));
                }
                let then = Then::Written {
                    batch,
                    stream,
                    segment,
                };
                self.start_write(shard, then, stream, segment, offset, bytes, begin);
            }
            Action::Read { read, placement } => {
                self.soon(20 * MS, Moment::ReadRecord(shard, read, placement));
            }
            Action::Retire { segment, disposal } => {
                self.trace(|_| format!("shard {shard}: segment {} goes: {disposal:?}", segment.0));
                self.ledger.retired(shard as u16, segment);
                let from = file_name(segment);
                let first = match disposal {
                    Disposal::Free => Step::Rename {
                        from,
                        to: free_file_name(segment),
                    },
                    Disposal::Delete => Step::Remove { name: from },
                    Disposal::Quarantine => {
                        return Err(format!(
                            "shard {shard}: segment {} is quarantined",
                            segment.0
                        ));
                    }
                };
                let steps = VecDeque::from([first, Step::SyncFolder]);
                self.start_job(
                    shard,
                    (shard as u16, Stream::Queue),
                    steps,
                    Then::Retired { segment, disposal },
                );
            }
            Action::Delete { stream, segment } => {
                let steps = [
                    Step::Remove {
                        name: file_name(segment),
                    },
                    Step::SyncFolder,
                ];
                self.start_job(shard, (shard as u16, stream), steps.into(), Then::Deleted);
            }
            Action::DeleteFree => {
                let free = self.shard(shard).free.pop();
                let steps = match free {
                    Some(free) => vec![
                        Step::Remove {
                            name: free_file_name(free),
                        },
                        Step::SyncFolder,
                    ],
                    None => Vec::new(),
                };
                let folder = (shard as u16, Stream::Queue);
                let job = self.start_job(shard, folder, steps.into(), Then::FreeDeleted);
                if let Some(job) = self.process.as_mut().unwrap().jobs.get_mut(&job) {
                    job.free = free;
                }
            }
            Action::NoteHandover { handover } => {
                self.trace(|_| format!("shard {shard}: handover {handover} is complete"));
                let out_of = None;
                let steps = [
                    Step::NoteHandover { handover, out_of },
                    Step::SyncHandover { handover },
                ];
                let folder = (shard as u16, Stream::Queue);
                self.start_job(
                    shard,
                    folder,
                    steps.into(),
                    Then::HandoverNoted { handover },
                );
            }
            Action::Compact { segment } => {
                self.trace(|world| {
                    let core = &world.process.as_ref().unwrap().shards[shard].core;
                    let usage = core.segments().find(|usage| usage.segment == segment);
                    format!("shard {shard}: compact segment {}: {usage:?}", segment.0)
                });
                self.summary.compactions += 1;
                self.read_through(shard, shard as u16, Why::Compact, [segment].into());
            }
            Action::Resolve { question } => {
                if self.strikes(self.faults.dns_lost) {
                    return Ok(());
                }
                let answer = if self.strikes(self.faults.dns) {
                    Answer::Trouble(DnsTrouble::Timeout)
                } else {
                    net::resolve(&question)
                };
                let ttl_s = 1 + self.random.below(300) as u32;
                let event = Event::Answered {
                    question,
                    answer,
                    ttl_s,
                };
                self.soon(200 * MS, Moment::Event(shard, Box::new(event)));
            }
            Action::Connect { conn, target, .. } => {
                let refused = self.strikes(self.faults.refuse) || net::is_dead(target.address.ip());
                let event = if refused {
                    let cause = "connection refused".into();
                    Event::Closed {
                        conn,
                        phase: Phase::Connect,
                        cause,
                    }
                } else {
                    self.shard(shard).conns.insert(
                        conn,
                        Conn {
                            offered: true,
                            ..Conn::default()
                        },
                    );
                    Event::Connected {
                        conn,
                        peer: Rc::new(PeerInfo::default()),
                    }
                };
                self.soon(100 * MS, Moment::Event(shard, Box::new(event)));
            }
            Action::Start { conn, transaction } => self.start(shard, conn, transaction)?,
            Action::Quit { conn } => {
                let event = Event::Closed {
                    conn,
                    phase: Phase::Quit,
                    cause: "quit".into(),
                };
                self.soon(20 * MS, Moment::Event(shard, Box::new(event)));
            }
            Action::Tell { to, message } => {
                let to = usize::from(to.0);
                let within_ms = if self.random.below(10) == 0 { 500 } else { 3 };
                let latest = self.now_us + self.random.below(within_ms * MS);
                let arrivals = &mut self.process.as_mut().unwrap().arrivals;
                // A channel keeps the order of its messages; two channels have none.
                let at = arrivals.entry((shard, to)).or_default();
                *at = latest.max(*at + 1);
                let at = *at;
                let from = ShardId(shard as u16);
                if let engine::shard::ShardMessage::Store {
                    handover: Some(_), ..
                } = &message
                {
                    self.summary.transfers += 1;
                }
                self.at(
                    at,
                    Moment::Event(to, Box::new(Event::FromShard { from, message })),
                );
            }
            Action::Report { line } => {
                self.trace(|_| format!("shard {shard} reports: {line}"));
                let is_wrong = [
                    "damaged",
                    "out of the queue",
                    "cannot be read:",
                    "cannot be stored",
                ];
                if is_wrong.iter().any(|word| line.contains(word)) {
                    return Err(format!(
                        "shard {shard} reports what was not done to it: {line}"
                    ));
                }
            }
        }
        Ok(())
    }

    // The disk.

    #[expect(clippy::too_many_arguments, reason = "they are Action::Write's")]
    fn start_write(
        &mut self,
        shard: usize,
        then: Then,
        stream: Stream,
        segment: SegmentId,
        offset: u64,
        bytes: Vec<u8>,
        begin: Option<Begin>,
    ) {
        let name = file_name(segment);
        let mut steps = VecDeque::new();
        let mut free = None;
        if let Some(begin) = begin {
            let reused = if begin.reuse {
                self.shard(shard).free.pop()
            } else {
                None
            };
            let made = free_file_name(reused.unwrap_or(segment));
            if reused.is_none() {
                steps.push_back(Step::Create {
                    name: made.clone(),
                    bytes: begin.segment_bytes as usize,
                });
            }
            let header = bytes[..SEGMENT_HEADER_BYTES].to_vec();
            steps.push_back(Step::Write {
                name: made.clone(),
                at: 0,
                bytes: header,
            });
            steps.push_back(Step::Sync { name: made.clone() });
            steps.push_back(Step::Rename {
                from: made,
                to: name.clone(),
            });
            steps.push_back(Step::SyncFolder);
            free = reused;
        }
        steps.push_back(Step::Write {
            name: name.clone(),
            at: offset as usize,
            bytes,
        });
        steps.push_back(Step::Sync { name });
        let job = self.start_job(shard, (shard as u16, stream), steps, then);
        if let Some(job) = self.process.as_mut().unwrap().jobs.get_mut(&job) {
            job.free = free;
        }
    }

    fn start_job(
        &mut self,
        shard: usize,
        folder: super::disk::FolderName,
        steps: VecDeque<Step>,
        then: Then,
    ) -> u64 {
        self.next_number += 1;
        let number = self.next_number;
        let job = Job {
            shard,
            folder,
            steps,
            then,
            free: None,
        };
        self.process.as_mut().unwrap().jobs.insert(number, job);
        self.schedule_step(number);
        number
    }

    fn schedule_step(&mut self, job: u64) {
        let within = if self.strikes(self.faults.slow) {
            2000 * MS
        } else {
            8 * MS
        };
        self.soon(within, Moment::Step(job));
    }

    fn step(&mut self, number: u64) -> Checked {
        if let Some(left) = &mut self.steps_to_cut {
            *left -= 1;
            if *left == 0 {
                self.steps_to_cut = (self.random.below(2) == 0).then(|| 1 + self.random.below(200));
                return self.power_cut();
            }
        }
        let mut job = self.process.as_mut().unwrap().jobs.remove(&number).unwrap();
        let result = match job.steps.pop_front() {
            Some(step) => self.do_step(&mut job, step),
            None => Ok(()),
        };
        if result.is_ok() && !job.steps.is_empty() {
            self.process.as_mut().unwrap().jobs.insert(number, job);
            self.schedule_step(number);
            return Ok(());
        }
        self.job_done(job, result)
    }

    fn do_step(&mut self, job: &mut Job, step: Step) -> Result<(), DiskError> {
        let folder = job.folder;
        let full = !self.calm && self.now_us < self.full_until_us;
        let there = match step {
            Step::Create { .. } if full => return Err(DiskError::Full),
            Step::Create { name, bytes } => self.disk.create(folder, &name, bytes),
            Step::Write { name, at, bytes } => {
                let fails = self.strikes(self.faults.write);
                let random = &mut self.random;
                if fails || full && random.below(4) > 0 {
                    // Who knows what of it is there.
                    self.disk
                        .write(folder, &name, at, &bytes, || random.below(2) == 0);
                    return Err(if full {
                        DiskError::Full
                    } else {
                        io("input/output error")
                    });
                }
                self.disk.write(folder, &name, at, &bytes, || true)
            }
            Step::Sync { .. } if self.strikes(self.faults.write) => {
                return Err(io("input/output error"));
            }
            Step::Sync { .. } if self.sabotage == Sabotage::NoSync => true,
            Step::Sync { name } => self.disk.sync(folder, &name),
            Step::Rename { .. } | Step::Remove { .. } if self.strikes(self.faults.write) => {
                return Err(io("input/output error"));
            }
            Step::Rename { from, to } => {
                let there = self.disk.rename(folder, &from, &to);
                if there && matches!(job.then, Then::Written { .. }) {
                    job.free = None;
                }
                let is_retired = matches!(job.then, Then::Retired { .. });
                if let Then::Retired {
                    segment,
                    disposal: Disposal::Free,
                } = job.then
                    && there
                {
                    job.free = Some(segment);
                }
                // A file whose making failed is not there to be retired.
                there || is_retired
            }
            Step::Remove { name } => {
                let there = self.disk.remove(folder, &name);
                there || matches!(job.then, Then::Retired { .. } | Then::Deleted)
            }
            Step::SyncFolder => {
                self.disk.sync_folder(folder);
                true
            }
            Step::NoteHandover { .. } | Step::SyncHandover { .. }
                if self.strikes(self.faults.write) =>
            {
                return Err(io("input/output error"));
            }
            Step::NoteHandover { handover, out_of } => {
                self.disk.note_handover(handover, out_of);
                true
            }
            Step::SyncHandover { handover } => {
                self.disk.sync_handover(handover);
                true
            }
        };
        if there {
            Ok(())
        } else {
            Err(io("no such file"))
        }
    }

    fn job_done(&mut self, job: Job, result: Result<(), DiskError>) -> Checked {
        let Job {
            shard, then, free, ..
        } = job;
        let event = match then {
            Then::Written {
                batch,
                stream,
                segment,
            } => {
                if let Err(error) = &result {
                    self.trace(|_| {
                        format!("shard {shard}: write of segment {}: {error}", segment.0)
                    });
                    self.summary.failed_writes += 1;
                    if *error == io("no such file") {
                        return Err(format!(
                            "segment {} is written and its file is gone",
                            segment.0
                        ));
                    }
                    // Half made: as the runtime does, whatever it was made of.
                    let made = free_file_name(free.unwrap_or(segment));
                    self.disk.remove((shard as u16, stream), &made);
                }
                if stream == Stream::Queue {
                    self.ledger
                        .written(shard as u16, batch.0, segment, result.is_ok())?;
                }
                match self.sabotage {
                    Sabotage::EarlyAnswer => return Ok(()),
                    Sabotage::SwallowedErrors => Event::Written {
                        batch,
                        result: Ok(()),
                    },
                    _ => Event::Written { batch, result },
                }
            }
            Then::Retired { segment, disposal } => {
                if result.is_ok() {
                    self.shard(shard).free.extend(free);
                }
                Event::Retired {
                    segment,
                    disposal,
                    result,
                }
            }
            Then::FreeDeleted => {
                if result.is_err() {
                    self.shard(shard).free.extend(free);
                }
                Event::FreeDeleted { result }
            }
            Then::Deleted => return Ok(()),
            Then::Adopted { .. } if result.is_err() => {
                self.soon(1000 * MS, Moment::Adopt(shard));
                return Ok(());
            }
            Then::Adopted { gone, handover } => {
                self.trace(|_| format!("shard {shard}: folder of shard {gone} is adopted"));
                self.summary.adoptions += 1;
                self.ledger.noted(handover);
                let now = self.now();
                self.shard(shard).core.handed_over(handover, now);
                self.carry_out(shard)?;
                return self.adopt_next_folder(shard);
            }
            Then::HandoverNoted { handover } => {
                if result.is_ok() {
                    self.ledger.noted(handover);
                }
                Event::HandoverNoted { handover, result }
            }
        };
        self.event(shard, event)
    }

    fn record_bytes(&mut self, folder: u16, placement: Placement) -> Result<Vec<u8>, DiskError> {
        if self.strikes(self.faults.read) {
            return Err(io("input/output error"));
        }
        let name = file_name(placement.segment);
        let (at, bytes) = (placement.offset.0 as usize, placement.bytes as usize);
        let read = self.disk.read((folder, Stream::Queue), &name, at, bytes);
        read.map(<[u8]>::to_vec).ok_or_else(|| io("no such file"))
    }

    fn read_record(&mut self, shard: usize, read: ReadId, placement: Placement) -> Checked {
        let result = self.record_bytes(shard as u16, placement);
        self.event(shard, Event::Read { read, result })
    }

    // Segments read through.

    fn chunk(&mut self, number: u64) -> Checked {
        let mut reading = self
            .process
            .as_mut()
            .unwrap()
            .readings
            .remove(&number)
            .unwrap();
        let Some(segment) = reading.segments.front().copied() else {
            return self.read_done(reading);
        };
        if reading.why == Why::Compact && self.strikes(self.faults.read) {
            let now = self.now();
            let core = &mut self.shard(reading.shard).core;
            core.compact_read(segment, Err("input/output error".into()), now);
            return self.carry_out(reading.shard);
        }
        let bytes = 8192 << self.random.below(4);
        let folder = (reading.folder, Stream::Queue);
        let chunk = self
            .disk
            .read(folder, &file_name(segment), reading.offset, bytes)
            .ok_or_else(|| format!("segment {} vanished while it was read", segment.0))?
            .to_vec();
        self.open_reader(&mut reading, segment, &chunk)?;
        let Some(mut reader) = reading.reader.take() else {
            return Ok(());
        };
        let is_last = chunk.len() < bytes;
        reading.offset += chunk.len();
        reader.push(&chunk);
        if is_last {
            reader.close_input();
        }
        self.take_records(&reading, &mut reader);
        if is_last || reader.is_done() {
            reader.close_input();
            self.take_records(&reading, &mut reader);
            self.segment_done(&mut reading, segment, reader)?;
        } else {
            reading.reader = Some(reader);
        }
        let shard = reading.shard;
        self.process
            .as_mut()
            .unwrap()
            .readings
            .insert(number, reading);
        self.soon(20 * MS, Moment::Chunk(number));
        self.carry_out(shard)
    }

    fn open_reader(&mut self, reading: &mut Reading, segment: SegmentId, chunk: &[u8]) -> Checked {
        if reading.reader.is_some() {
            return Ok(());
        }
        let name = SegmentName {
            stream: Stream::Queue,
            shard: ShardId(reading.folder),
            segment,
        };
        let contents = if reading.why == Why::Compact {
            Contents::Read
        } else {
            Contents::Skip
        };
        let shard = self.shard(reading.shard);
        let reader = SegmentReader::open(chunk, shard.core.keys(), name, contents)
            .map_err(|error| format!("{name:?} cannot be opened: {error}"))?;
        match &mut shard.adopting {
            Some(adopting) if reading.why == Why::Adopt => {
                adopting
                    .adoption
                    .segment(reader.header(), shard.core.keys());
            }
            _ => shard.core.replay_segment(reader.header()),
        }
        reading.reader = Some(reader);
        Ok(())
    }

    fn take_records(&mut self, reading: &Reading, reader: &mut SegmentReader) {
        let now = self.now();
        let shard = self.shard(reading.shard);
        while let Some(found) = reader.next() {
            match (reading.why, &mut shard.adopting) {
                (Why::Replay, _) => shard.core.replay(found.placement, &found.record),
                (Why::Compact, _) => {
                    shard.core.compact(found.placement, &found.record, now);
                }
                (Why::Adopt, Some(adopting)) => {
                    adopting.adoption.record(found.placement, &found.record)
                }
                (Why::Adopt, None) => {}
            }
        }
    }

    fn segment_done(
        &mut self,
        reading: &mut Reading,
        segment: SegmentId,
        reader: SegmentReader,
    ) -> Checked {
        reading.segments.pop_front();
        reading.offset = 0;
        let summary = reader.into_summary();
        if !summary.damage.is_empty() {
            return Err(format!(
                "segment {} is said to be damaged: {:?}",
                segment.0, summary.damage
            ));
        }
        if matches!(reading.why, Why::Replay) {
            // As the daemon does: what was read need not be durable before it is relied on.
            self.disk
                .sync((reading.folder, Stream::Queue), &file_name(segment));
        }
        let now = self.now();
        let core = &mut self.shard(reading.shard).core;
        match reading.why {
            Why::Replay => core.replay_segment_done(segment, &summary),
            Why::Compact => core.compact_read(segment, Ok(()), now),
            Why::Adopt => {}
        }
        Ok(())
    }

    fn read_done(&mut self, reading: Reading) -> Checked {
        let shard = reading.shard;
        match reading.why {
            Why::Replay => {
                self.trace(|_| format!("shard {shard}: replayed"));
                self.shard(shard).core.replay_done();
                self.adopt_next_folder(shard)
            }
            Why::Compact => Ok(()),
            Why::Adopt => {
                if let Some(adopting) = &mut self.shard(shard).adopting {
                    adopting.adoption.replayed();
                }
                self.adopt_more(shard)
            }
        }
    }

    // Folders of shards that are no more.

    fn adopt_next_folder(&mut self, shard: usize) -> Checked {
        let shards = self.shards;
        self.shard(shard).adopting = None;
        let Some(gone) = self.shard(shard).gone.pop_front() else {
            return Ok(());
        };
        let handover = self.shard(shard).core.new_handover();
        self.trace(|_| format!("shard {shard} adopts the folder of shard {gone}: {handover}"));
        self.ledger.adopts(handover, gone);
        let noted = Rc::clone(&self.noted);
        self.shard(shard).adopting = Some(Adopting {
            gone,
            adoption: Adoption::new(ShardId(gone), shards, handover, noted),
        });
        let segments = self.disk.list((gone, Stream::Queue)).segments;
        self.read_through(
            shard,
            gone,
            Why::Adopt,
            segments.iter().map(|s| s.0).collect(),
        );
        Ok(())
    }

    fn adopt_more(&mut self, shard: usize) -> Checked {
        let Some(adopting) = &mut self.shard(shard).adopting else {
            return Ok(());
        };
        if let Some(why) = adopting.adoption.blocked() {
            return Err(format!("adoption is blocked: {why}"));
        }
        if adopting.adoption.is_done() {
            let (gone, handover) = (adopting.gone, adopting.adoption.handover());
            let out_of = Some(gone);
            let steps = [
                Step::NoteHandover { handover, out_of },
                Step::SyncHandover { handover },
            ];
            let folder = (gone, Stream::Queue);
            self.start_job(
                shard,
                folder,
                steps.into(),
                Then::Adopted { gone, handover },
            );
            return Ok(());
        }
        let mut reads = Vec::new();
        while let Some(read) = adopting.adoption.next_to_read() {
            reads.push(read);
        }
        for (key, placement) in reads {
            // Not at once: what could not be stored would come again without end.
            self.soon(100 * MS, Moment::ReadAdopted(shard, key, placement));
        }
        Ok(())
    }

    fn read_adopted(&mut self, shard: usize, key: u64, placement: Placement) -> Checked {
        let Some(gone) = self.shard(shard).adopting.as_ref().map(|a| a.gone) else {
            return Ok(());
        };
        let bytes = self.record_bytes(gone, placement);
        let now = self.now();
        let shard_now = self.shard(shard);
        let Some(adopting) = &mut shard_now.adopting else {
            return Ok(());
        };
        match bytes {
            Err(_) => adopting.adoption.not_read(key),
            Ok(bytes) => {
                let handover = adopting.adoption.handover();
                for (key, submission) in adopting.adoption.message(key, bytes)? {
                    shard_now.core.adopt(key, handover, submission, now);
                }
            }
        }
        self.carry_out(shard)?;
        self.adopt_more(shard)
    }

    fn take_adopted(&mut self, shard: usize) -> Checked {
        let mut adopted: Vec<(u64, Stored)> = Vec::new();
        let shard_now = self.shard(shard);
        shard_now.core.take_adopted(&mut adopted);
        let Some(adopting) = &mut shard_now.adopting else {
            return Ok(());
        };
        if adopted.is_empty() {
            return Ok(());
        }
        for (key, result) in adopted {
            adopting.adoption.stored(key, result);
        }
        self.adopt_more(shard)
    }

    // The network.

    fn start(&mut self, shard: usize, conn: ConnId, transaction: OutboundTransaction) -> Checked {
        let mail =
            self.ledger
                .started(shard as u16, &transaction.content, &transaction.recipients)?;
        self.trace(|_| {
            format!(
                "shard {shard}: send mail {mail} to {:?}",
                transaction.recipients
            )
        });
        let early = self.random.below(2) == 0;
        let Some(connection) = self.shard(shard).conns.get_mut(&conn) else {
            return Err(format!("mail {mail} is given to a connection that is gone"));
        };
        connection.offered = false;
        connection.waiting.push_back(transaction);
        if connection.waiting.len() == 1 {
            self.soon(100 * MS, Moment::Peer(shard, conn));
        }
        if early {
            self.soon(50 * MS, Moment::Offer(shard, conn));
        }
        Ok(())
    }

    /// The connection would take another transaction.
    fn offer(&mut self, shard: usize, conn: ConnId) -> Checked {
        match self.shard(shard).conns.get_mut(&conn) {
            Some(connection) if !connection.offered => {
                connection.offered = true;
                self.event(shard, Event::CanStart { conn })
            }
            _ => Ok(()),
        }
    }

    fn next_transaction(&mut self, shard: usize, conn: ConnId) {
        let Some(connection) = self.shard(shard).conns.get_mut(&conn) else {
            return;
        };
        if !connection.waiting.is_empty() {
            self.soon(100 * MS, Moment::Peer(shard, conn));
        } else if self.random.below(20) == 0 {
            self.soon(4000 * MS, Moment::PeerClose(shard, conn));
        }
    }

    /// The peer decides on the first waiting transaction.
    fn peer(&mut self, shard: usize, conn: ConnId) -> Checked {
        let Some(connection) = self.shard(shard).conns.get_mut(&conn) else {
            return Ok(());
        };
        let Some(transaction) = connection.waiting.pop_front() else {
            return Ok(());
        };
        let mail =
            self.ledger
                .started(shard as u16, &transaction.content, &transaction.recipients)?;
        let reset = self.strikes(self.faults.reset);
        let reply_lost = !reset && self.strikes(self.faults.reply_lost);
        let put_off = self.strikes(self.faults.whole_4xx);
        let mut results = Vec::with_capacity(transaction.recipients.len());
        for recipient in &transaction.recipients {
            if reset {
                results.push(net::lost());
                continue;
            }
            let tries = self.ledger.tries(mail, recipient);
            let mut result = net::verdict(recipient, tries);
            match result.outcome {
                RecipientOutcome::Delivered if put_off => {
                    let (outcome, phase) = (RecipientOutcome::Deferred, Phase::EndOfData);
                    result = net::result(outcome, phase, 451, (4, 3, 0), "cannot take it now");
                }
                RecipientOutcome::Delivered => {
                    self.ledger.taken(mail, recipient);
                    if reply_lost {
                        self.ledger.reply_lost(mail, recipient);
                        result = net::lost();
                    }
                }
                RecipientOutcome::Failed => self.ledger.refused(mail, recipient),
                RecipientOutcome::Deferred => {}
            }
            results.push(result);
        }
        self.trace(|_| {
            let said: Vec<_> = results
                .iter()
                .map(|result| result.reply.to_string())
                .collect();
            format!("peer on mail {mail}: {said:?}, reset {reset}, reply lost {reply_lost}")
        });
        let broken = reset || reply_lost;
        let token = transaction.token;
        self.soon(
            100 * MS,
            Moment::Reply {
                shard,
                conn,
                token,
                results,
                broken,
            },
        );
        Ok(())
    }

    /// The connection is lost: the transaction under way has its result, those behind come back.
    fn break_off(&mut self, shard: usize, conn: ConnId, finished: Event) -> Checked {
        self.event(shard, finished)?;
        while let Some(connection) = self.shard(shard).conns.get_mut(&conn)
            && let Some(transaction) = connection.waiting.pop_front()
        {
            self.event(
                shard,
                Event::Returned {
                    conn,
                    token: transaction.token,
                },
            )?;
        }
        self.closed(shard, conn, Phase::EndOfData, "connection lost")
    }

    fn closed(&mut self, shard: usize, conn: ConnId, phase: Phase, cause: &str) -> Checked {
        if self.shard(shard).conns.remove(&conn).is_none() {
            return Ok(());
        }
        self.event(
            shard,
            Event::Closed {
                conn,
                phase,
                cause: cause.into(),
            },
        )
    }
}
