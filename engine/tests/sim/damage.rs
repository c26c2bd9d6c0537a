//! A sector of a sealed segment goes bad while the daemon is down.
//!
//! What stood there is lost, and nothing beside it: the segment is read before and after, and every
//! record that the sector does not touch must be found again. Replay must report the damage, and the
//! file must be kept. The ledger excuses the mail that the lost records were about.

use engine::ids::{SegmentId, ShardId};
use engine::queue::cipher::{SegmentName, Stream};
use engine::queue::record::{About, Record};
use engine::queue::replay::{Contents, SegmentEnd, SegmentReader, Summary};
use engine::queue::segment::{Placement, file_name};

use super::disk::SECTOR_BYTES;
use super::ledger::Checked;
use super::world::World;

type Records = Vec<(Placement, Option<About>)>;

impl World {
    fn records(
        &mut self,
        shard: u16,
        segment: SegmentId,
        bytes: u64,
    ) -> Option<(Records, Summary)> {
        let folder = (shard, Stream::Queue);
        let file = self
            .disk
            .read(folder, &file_name(segment), 0, bytes as usize)?;
        let name = SegmentName {
            stream: Stream::Queue,
            shard: ShardId(shard),
            segment,
        };
        let mut reader = SegmentReader::open(file, &self.keys, name, Contents::Read).ok()?;
        reader.push(file);
        reader.close_input();
        let mut records = Vec::new();
        while let Some(found) = reader.next() {
            let message = |queue_id| Some(About { queue_id, segment });
            let about = match found.record {
                Record::Message(record) => message(record.queue_id),
                Record::Moved(moved) => message(moved.message.queue_id),
                Record::Outcome(outcome) => Some(outcome.about),
                Record::Commit(about) | Record::Cancel(about) => Some(about),
                Record::Blob { .. } | Record::Seal(_) => None,
            };
            records.push((found.placement, about));
        }
        Some((records, reader.into_summary()))
    }

    pub(crate) fn spoil_sector(&mut self) -> Checked {
        let shard = self.random.below(u64::from(self.shards)) as u16;
        let folder = (shard, Stream::Queue);
        let segments = self.disk.list(folder).segments;
        if segments.is_empty() {
            return Ok(());
        }
        let (segment, bytes) = segments[self.random.below(segments.len() as u64) as usize];
        let Some((before, summary)) = self.records(shard, segment, bytes) else {
            return Ok(());
        };
        // All of a sealed segment was durable once, so all that is lost in it is damage.
        let is_whole = summary.end == SegmentEnd::Sealed && summary.damage.is_empty();
        if !is_whole || before.is_empty() {
            return Ok(());
        }
        let (hit, _) = before[self.random.below(before.len() as u64) as usize];
        let within = hit.offset.0 as usize + self.random.below(u64::from(hit.bytes)) as usize;
        let sector = within / SECTOR_BYTES;
        let (from, to) = (sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES);
        self.trace(|_| format!("shard {shard}: segment {} goes bad at {from}", segment.0));
        self.disk.spoil(folder, &file_name(segment), sector);
        self.spoiled.insert((shard, segment));
        let (lost, whole): (Records, Records) = before.into_iter().partition(|(place, _)| {
            let begin = place.offset.0 as usize;
            begin < to && begin + place.bytes as usize > from
        });
        for about in lost.iter().filter_map(|(_, about)| *about) {
            self.ledger.spoiled(shard, about);
        }
        let (after, summary) = self
            .records(shard, segment, bytes)
            .ok_or("a damaged sector makes a segment unreadable")?;
        if after != whole {
            return Err(format!(
                "of segment {} {} records are found beside a damaged sector, instead of {}",
                segment.0,
                after.len(),
                whole.len()
            ));
        }
        if summary.damage.is_empty() {
            return Err("a damaged sector is taken for a torn tail".into());
        }
        Ok(())
    }

    /// Which damage replay will have to report.
    pub(crate) fn expect_reports(&mut self) {
        let disk = &mut self.disk;
        self.spoiled.retain(|(shard, segment)| {
            let segments = disk.list((*shard, Stream::Queue)).segments;
            segments.iter().any(|(other, _)| other == segment)
        });
        self.unreported.clone_from(&self.spoiled);
    }

    /// What a report says of damage, that was to be reported.
    pub(crate) fn reported(&mut self, shard: usize, line: &str) {
        self.unreported.retain(|(of, segment)| {
            let says_so = line.contains(&format!("{:08}", segment.0)) && line.contains("damaged");
            usize::from(*of) != shard || !says_so
        });
    }

    pub(crate) fn all_reported(&self, shard: usize) -> Checked {
        match self
            .unreported
            .iter()
            .find(|(of, _)| usize::from(*of) == shard)
        {
            Some((_, segment)) => Err(format!(
                "shard {shard} is silent on the damage of segment {}",
                segment.0
            )),
            None => Ok(()),
        }
    }
}
