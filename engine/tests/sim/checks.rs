//! What must be true of shards and disk when all mail is gone.

use engine::counters::{By, Counter, Window};
use engine::ids::ShardId;
use engine::keys::KeyRing;
use engine::queue::cipher::{SegmentName, Stream};
use engine::queue::segment::{SEGMENT_HEADER_BYTES, file_name};
use engine::random::Random;

use super::ledger::{self, Checked};
use super::world::{World, random_key};

impl World {
    /// Nothing is queued, and as much is delivered as peers have taken: in total, by domain, by group.
    pub(crate) fn check_counters(&self) -> Checked {
        for shard in &self.process.as_ref().unwrap().shards {
            for by in [By::Total, By::Domain, By::Group] {
                let table = shard.core.counters().table(by, Window::All);
                let sum = |counter: Counter| {
                    let rows = table.rows().values().flatten();
                    rows.map(|values| values[counter as usize]).sum::<u64>()
                };
                let levels = [Counter::Queued, Counter::Deferred, Counter::Delivering];
                let sums = levels.map(sum);
                if sums != [0; 3] || sum(Counter::Delivered) != shard.delivered {
                    return Err(format!(
                        "{by:?}: the queue is empty and the levels are {sums:?}; {} delivered are \
                         counted, and peers have taken {}",
                        sum(Counter::Delivered),
                        shard.delivered
                    ));
                }
            }
        }
        Ok(())
    }

    /// Nothing is queued: the disk holds two segments a shard at most, and no file of another key's.
    pub(crate) fn check_disk(&mut self) -> Checked {
        let wrong = KeyRing::new(random_key(&mut Random::new(u64::MAX)));
        for shard in 0..self.shards {
            let folder = (shard, Stream::Queue);
            let (bytes, most) = (
                self.disk.bytes(folder),
                2 * u64::from(self.settings.segment_bytes),
            );
            if bytes > most {
                let usage: Vec<_> = self.process.as_ref().unwrap().shards[usize::from(shard)]
                    .core
                    .segments()
                    .collect();
                return Err(format!(
                    "shard {shard} has {bytes} bytes of nothing on disk: {usage:?}"
                ));
            }
            for (segment, _) in self.disk.list(folder).segments {
                let front = self
                    .disk
                    .read(folder, &file_name(segment), 0, SEGMENT_HEADER_BYTES);
                let name = SegmentName {
                    stream: Stream::Queue,
                    shard: ShardId(shard),
                    segment,
                };
                ledger::is_sealed(front.unwrap(), &self.keys, &wrong, name)?;
            }
        }
        Ok(())
    }

    pub(crate) fn why_not_empty(&self) -> String {
        let Some(process) = &self.process else {
            return "it is not running".into();
        };
        let mut text = format!("{} readings; ", process.readings.len());
        for shard in &process.shards {
            let status = shard.core.status();
            text += &format!(
                "shard {}: {} queued, {} deferred, {} delivering, replaying {}, drained {}, {}, {:?}; ",
                status.shard.0,
                status.queued,
                status.deferred,
                status.delivering,
                status.replaying,
                shard.core.is_drained(),
                status.overload,
                shard.core.destinations(20, self.now()),
            );
        }
        text
    }
}
