//! Segments read through at replay, for compaction, and out of the folders of shards that are no more.

use std::rc::Rc;

use engine::ids::{AdoptedPart, AdoptedRead, SegmentId, ShardId};
use engine::queue::cipher::{SegmentName, Stream};
use engine::queue::replay::{Contents, SegmentReader};
use engine::queue::segment::{Placement, file_name};
use engine::shard::adopt::Adoption;
use engine::shard::{DiskError, Event, ReadId, Stored};

use super::actions::{MS, io};
use super::ledger::Checked;
use super::process::{Adopting, Moment, Reading, Step, Then, Why};
use super::world::World;

impl World {
    pub(crate) fn record_bytes(
        &mut self,
        folder: u16,
        placement: Placement,
    ) -> Result<Vec<u8>, DiskError> {
        if self.strikes(self.faults.read) {
            return Err(io("input/output error"));
        }
        let name = file_name(placement.segment);
        let (at, bytes) = (placement.offset.0 as usize, placement.bytes as usize);
        let read = self.disk.read((folder, Stream::Queue), &name, at, bytes);
        read.map(<[u8]>::to_vec).ok_or_else(|| io("no such file"))
    }

    pub(crate) fn read_record(
        &mut self,
        shard: usize,
        read: ReadId,
        placement: Placement,
    ) -> Checked {
        let result = self.record_bytes(shard as u16, placement);
        self.event(shard, Event::Read { read, result })
    }

    // Segments read through.

    pub(crate) fn chunk(&mut self, number: u64) -> Checked {
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

    pub(crate) fn open_reader(
        &mut self,
        reading: &mut Reading,
        segment: SegmentId,
        chunk: &[u8],
    ) -> Checked {
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

    pub(crate) fn take_records(&mut self, reading: &Reading, reader: &mut SegmentReader) {
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

    pub(crate) fn segment_done(
        &mut self,
        reading: &mut Reading,
        segment: SegmentId,
        reader: SegmentReader,
    ) -> Checked {
        reading.segments.pop_front();
        reading.offset = 0;
        let summary = reader.into_summary();
        let is_spoiled = self.spoiled.contains(&(reading.folder, segment));
        if !summary.damage.is_empty() && !is_spoiled {
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
            Why::Adopt => {
                if let Some(adopting) = &mut self.shard(reading.shard).adopting {
                    adopting.adoption.segment_done(segment, &summary);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn read_done(&mut self, reading: Reading) -> Checked {
        let shard = reading.shard;
        match reading.why {
            Why::Replay => {
                self.trace(|_| format!("shard {shard}: replayed"));
                self.all_reported(shard)?;
                let core = &mut self.shard(shard).core;
                core.replay_done();
                let broken = core.broken_segments();
                // That a segment may go may have stood where a sector is damaged.
                let is_damaged = core.segments().any(|segment| segment.damaged);
                if !broken.is_empty() && !is_damaged {
                    return Err(format!("nobody took segments away, but: {broken:?}"));
                }
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

    pub(crate) fn adopt_next_folder(&mut self, shard: usize) -> Checked {
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

    pub(crate) fn adopt_more(&mut self, shard: usize) -> Checked {
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
        for (read, placement) in reads {
            // Not at once: what could not be stored would come again without end.
            self.soon(100 * MS, Moment::ReadAdopted(shard, read, placement));
        }
        Ok(())
    }

    pub(crate) fn read_adopted(
        &mut self,
        shard: usize,
        read: AdoptedRead,
        placement: Placement,
    ) -> Checked {
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
            Err(_) => adopting.adoption.not_read(read),
            Ok(bytes) => {
                let handover = adopting.adoption.handover();
                for (part, submission) in adopting.adoption.message(read, bytes)? {
                    shard_now.core.adopt(part, handover, submission, now);
                }
            }
        }
        self.carry_out(shard)?;
        self.adopt_more(shard)
    }

    pub(crate) fn take_adopted(&mut self, shard: usize) -> Checked {
        let mut adopted: Vec<(AdoptedPart, Stored)> = Vec::new();
        let shard_now = self.shard(shard);
        shard_now.core.take_adopted(&mut adopted);
        let Some(adopting) = &mut shard_now.adopting else {
            return Ok(());
        };
        if adopted.is_empty() {
            return Ok(());
        }
        for (part, result) in adopted {
            adopting.adoption.stored(part, result);
        }
        self.adopt_more(shard)
    }

    // The network.
}
