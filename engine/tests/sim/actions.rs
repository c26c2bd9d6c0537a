//! What the shards ask for, carried out late, badly or not at all: disk, network, each other.

use std::collections::VecDeque;
use std::rc::Rc;

use engine::dns::{Answer, DnsTrouble};
use engine::ids::ShardId;
use engine::phase::Phase;
use engine::policy::Key;
use engine::pool::{LeaseMessage, PeerInfo};
use engine::queue::cipher::Stream;
use engine::queue::segment::{file_name, free_file_name};
use engine::queue::set::Disposal;
use engine::shard::{
    Action, DiskError, Event, HandoverMessage, PartMessage, READS_MAX, ShardMessage,
};

use super::ledger::Checked;
use super::net;
use super::process::{Conn, Moment, Shard, Step, Then, Why};
use super::world::{Sabotage, World};

pub(crate) const MS: u64 = 1000;
/// Times that power goes because a segment is compacted.
const CUTS_MAX: u32 = 15;

pub(crate) fn io(why: &str) -> DiskError {
    DiskError::Io(why.to_owned())
}

impl World {
    pub(crate) fn shard(&mut self, shard: usize) -> &mut Shard {
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
            Moment::ReadAdopted(shard, read, placement) => {
                self.read_adopted(shard, read, placement)
            }
            Moment::GiveUp(shard, ticket) => self.give_up(shard, ticket),
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
                self.note_rests(shard, conn, &finished);
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
            _ => Ok(()),
        }
    }

    pub(crate) fn tick(&mut self, shard: usize) -> Checked {
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
        // So much for each of some tasks, and 16 times as much to schedule what replay found.
        let touched_max = 24 * self.settings.entries_per_turn_max + READS_MAX;
        self.is_short(shard, "a tick", touched_max)?;
        self.carry_out(shard)
    }

    /// No turn that works through the queue may touch much of it: sessions wait meanwhile.
    fn is_short(&mut self, shard: usize, turn: &str, touched_max: usize) -> Checked {
        let touched = self.shard(shard).core.entries_touched();
        self.summary.most_touched = self.summary.most_touched.max(touched as u64);
        if touched > touched_max {
            return Err(format!(
                "{turn} touched {touched} entries, above {touched_max}"
            ));
        }
        Ok(())
    }

    pub(crate) fn event(&mut self, shard: usize, event: Event) -> Checked {
        let (now, now_us) = (self.now(), self.now_us);
        if let Event::Closed { conn, .. } = event {
            self.limits.closed(shard, conn);
        }
        let shard_now = self.shard(shard);
        if !matches!(event, Event::DiskSpace { .. }) {
            shard_now.last_event_us = now_us;
        }
        let is_handover = matches!(
            event,
            Event::HandoverNoted { .. }
                | Event::FromShard {
                    message: ShardMessage::Handover(_),
                    ..
                }
        );
        shard_now.core.handle(event, now);
        if is_handover {
            // And what idle connections are given at once of what became ready.
            let touched_max = 2 * self.settings.entries_per_turn_max + 8;
            self.is_short(shard, "a handover", touched_max)?;
        }
        self.carry_out(shard)
    }

    /// Leases have to do without a good channel: between machines there is none.
    fn tell_of_leases(&mut self, shard: usize, to: usize, message: LeaseMessage) {
        let from = ShardId(shard as u16);
        let copies = match self.strikes(self.faults.lease) {
            true => 2 * self.random.below(2),
            false => 1,
        };
        for _ in 0..copies {
            let within_ms = if self.strikes(self.faults.lease) {
                4000
            } else {
                3
            };
            let message = ShardMessage::Lease(message.clone());
            let event = Event::FromShard { from, message };
            self.soon(within_ms * MS, Moment::Event(to, Box::new(event)));
        }
    }

    pub(crate) fn flush(&mut self, shard: usize) -> Checked {
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

    pub(crate) fn perform_all(&mut self, shard: usize) -> Checked {
        let mut actions = Vec::new();
        self.shard(shard).core.take_actions(&mut actions);
        for action in actions {
            self.perform(shard, action)?;
        }
        Ok(())
    }

    pub(crate) fn perform(&mut self, shard: usize, action: Action) -> Checked {
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
                    let ages = self.ages();
                    self.ledger
                        .issued(shard as u16, batch.0, segment, offset, &bytes, ages)?;
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
                let is_spoiled = self.spoiled.contains(&(shard as u16, segment));
                if is_spoiled != (disposal == Disposal::Quarantine) {
                    return Err(format!(
                        "shard {shard}: segment {} goes as {disposal:?}, damaged: {is_spoiled}",
                        segment.0
                    ));
                }
                let first = match disposal {
                    Disposal::Free => Step::Rename {
                        from,
                        to: free_file_name(segment),
                    },
                    Disposal::Delete => Step::Remove { name: from },
                    Disposal::Quarantine => Step::Rename {
                        from,
                        to: format!("{:08}.damaged", segment.0),
                    },
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
                if self.sabotage == Sabotage::EarlyHandover {
                    let result = Ok(());
                    let noted = Event::HandoverNoted { handover, result };
                    self.soon(1, Moment::Event(shard, Box::new(noted)));
                    return Ok(());
                }
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
                if self.summary.cuts < CUTS_MAX && self.strikes(self.faults.compaction) {
                    self.steps_to_cut = Some(1 + self.random.below(15));
                }
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
                let policy = self.settings.policy.of_provider(None);
                let most = policy.number(Key::SessionsMax) as u32;
                self.limits
                    .connects(shard, conn, target.address.ip(), most)?;
                let refused = self.strikes(self.faults.refuse) || net::is_dead(target.address.ip());
                let event = if refused {
                    let cause = "connection refused".into();
                    Event::Closed {
                        conn,
                        phase: Phase::Connect,
                        cause,
                    }
                } else {
                    let peer = PeerInfo {
                        eight_bit_mime: self.random.below(2) == 0,
                        ..PeerInfo::default()
                    };
                    self.shard(shard).conns.insert(
                        conn,
                        Conn {
                            offered: true,
                            host: Some(target.address.ip()),
                            ..Conn::default()
                        },
                    );
                    Event::Connected {
                        conn,
                        peer: Rc::new(peer),
                    }
                };
                self.soon(100 * MS, Moment::Event(shard, Box::new(event)));
            }
            Action::Start { conn, transaction } => {
                self.check_stops(&transaction)?;
                self.limits.sends(shard, conn, self.now_us)?;
                self.start(shard, conn, transaction)?;
            }
            Action::Quit { conn } => {
                let event = Event::Closed {
                    conn,
                    phase: Phase::Quit,
                    cause: "quit".into(),
                };
                self.soon(20 * MS, Moment::Event(shard, Box::new(event)));
            }
            Action::Tell {
                to,
                message: ShardMessage::Lease(message),
            } => self.tell_of_leases(shard, usize::from(to.0), message),
            Action::Tell { to, message } => {
                let to = usize::from(to.0);
                if let ShardMessage::Handover(HandoverMessage::Noted { handover }) = &message
                    && self.sabotage == Sabotage::None
                    && !self.ledger.is_noted(*handover)
                {
                    return Err(format!(
                        "shard {shard} says that {handover} is noted; it is not"
                    ));
                }
                let within_ms = if self.random.below(10) == 0 { 500 } else { 3 };
                let latest = self.now_us + self.random.below(within_ms * MS);
                let arrivals = &mut self.process.as_mut().unwrap().arrivals;
                // A channel keeps the order of its messages; two channels have none.
                let at = arrivals.entry((shard, to)).or_default();
                *at = latest.max(*at + 1);
                let at = *at;
                let from = ShardId(shard as u16);
                if let ShardMessage::Part(PartMessage::Store {
                    handover: Some(_), ..
                }) = &message
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
                self.reported(shard, &line);
                if self.spoiled.is_empty() && is_wrong.iter().any(|word| line.contains(word)) {
                    return Err(format!(
                        "shard {shard} reports what was not done to it: {line}"
                    ));
                }
            }
        }
        Ok(())
    }

    // The disk.
}
