//! What a shard wants of its disk, step by step: each step late, failing, or cut off by a power cut.

use std::collections::VecDeque;

use engine::ids::SegmentId;
use engine::queue::cipher::Stream;
use engine::queue::segment::{SEGMENT_HEADER_BYTES, file_name, free_file_name};
use engine::queue::set::Disposal;
use engine::shard::{Begin, DiskError, Event};

use super::actions::{MS, io};
use super::disk::{FolderName, SECTOR_BYTES};
use super::ledger::Checked;
use super::process::{Job, Moment, Step, Then};
use super::world::{Sabotage, World};

impl World {
    #[expect(clippy::too_many_arguments, reason = "they are Action::Write's")]
    pub(crate) fn start_write(
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

    pub(crate) fn start_job(
        &mut self,
        shard: usize,
        folder: FolderName,
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

    pub(crate) fn schedule_step(&mut self, job: u64) {
        let within = match self.strikes(self.faults.slow) {
            // A disk that hangs, rather than one that is busy.
            true if self.random.below(10) == 0 => 10_000 * MS,
            true => 2000 * MS,
            false => 8 * MS,
        };
        self.soon(within, Moment::Step(job));
    }

    pub(crate) fn step(&mut self, number: u64) -> Checked {
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

    pub(crate) fn do_step(&mut self, job: &mut Job, step: Step) -> Result<(), DiskError> {
        let folder = job.folder;
        let full = !self.calm && self.now_us < self.full_until_us;
        let there = match step {
            Step::Create { .. } if full => return Err(DiskError::Full),
            Step::Create { name, bytes } => self.disk.create(folder, &name, bytes),
            Step::Write { name, at, bytes } => {
                if self.strikes(self.faults.write) || full && self.random.below(4) > 0 {
                    self.write_in_part(folder, &name, at, &bytes);
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
            Step::SyncHandover { .. } if self.sabotage == Sabotage::NoSync => true,
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

    /// A write that fails: who knows what of it is there; or it is a short one.
    fn write_in_part(&mut self, folder: FolderName, name: &str, at: usize, bytes: &[u8]) {
        let random = &mut self.random;
        let sectors = bytes.len().div_ceil(SECTOR_BYTES) as u64;
        let short = (random.below(2) == 0).then(|| random.below(sectors));
        let mut sector = 0;
        self.disk.write(folder, name, at, bytes, || {
            sector += 1;
            match short {
                Some(written) => sector <= written,
                None => random.below(2) == 0,
            }
        });
    }

    pub(crate) fn job_done(&mut self, job: Job, result: Result<(), DiskError>) -> Checked {
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
}
