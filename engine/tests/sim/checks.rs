//! What must be true of shards and disk when all mail is gone.

use engine::counters::{By, Counter, Window};
use engine::ids::ShardId;
use engine::keys::KeyRing;
use engine::queue::cipher::{SegmentName, Stream};
use engine::queue::record::{OutcomeKind, Record};
use engine::queue::replay::{Contents, SegmentReader};
use engine::queue::segment::{SEGMENT_HEADER_BYTES, file_name};
use engine::random::Random;
use engine::shard::ShardCore;
use engine::store::BLOB_COUNTERS;

use super::ledger::{self, Checked};
use super::world::{World, random_key};

impl World {
    /// It has long been calm: nothing waits for the word of another shard any more. A start would set it
    /// free, and hide that the word never came.
    pub(crate) fn nothing_is_forgotten(&self) -> Checked {
        for shard in self.process.iter().flat_map(|process| &process.shards) {
            let storing = shard.core.storing_len();
            if storing > 0 {
                let me = shard.core.status().shard.0;
                return Err(format!("at shard {me} {storing} are still being stored"));
            }
        }
        Ok(())
    }

    /// Nothing is queued, and as many are counted as have a durable outcome, over all starts: in total, by
    /// domain, by group.
    pub(crate) fn check_counters(&self) -> Checked {
        for (shard, number) in self.process.as_ref().unwrap().shards.iter().zip(0..) {
            for by in [By::Total, By::Domain, By::Group] {
                let table = shard.core.counters().table(by, Window::All);
                let sum = |counter: Counter| {
                    let rows = table.rows().values().flatten();
                    rows.map(|values| values[counter as usize]).sum::<u64>()
                };
                let levels = [Counter::Queued, Counter::Deferred, Counter::Delivering];
                let sums = levels.map(sum);
                if sums != [0; 3] {
                    return Err(format!(
                        "{by:?}: the queue is empty and the levels are {sums:?}"
                    ));
                }
                if number >= self.shards_least {
                    // Its folder was emptied by others meanwhile, and the counts in it with it.
                    continue;
                }
                for kind in [
                    OutcomeKind::Delivered,
                    OutcomeKind::Failed,
                    OutcomeKind::Expired,
                ] {
                    let counter = Counter::of_final(kind).unwrap();
                    let Some((least, most)) = self.ledger.recorded(number, kind) else {
                        continue;
                    };
                    if !(least..=most).contains(&sum(counter)) {
                        return Err(format!(
                            "shard {number}, {by:?}: {} {counter} are counted, and {least} to {most} \
                             are recorded",
                            sum(counter)
                        ));
                    }
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

impl World {
    /// Counts of earlier runs, from the newest segment that can be read.
    pub(crate) fn restore_counters(&mut self, core: &mut ShardCore, id: u16) {
        let folder = (id, Stream::Counters);
        for (segment, bytes) in self.disk.list(folder).segments.into_iter().rev() {
            let name = SegmentName {
                stream: Stream::Counters,
                shard: ShardId(id),
                segment,
            };
            let file = self
                .disk
                .read(folder, &file_name(segment), 0, bytes as usize);
            let file = file.unwrap_or_default().to_vec();
            let Ok(mut reader) = SegmentReader::open(&file, &self.keys, name, Contents::Read)
            else {
                continue;
            };
            reader.push(&file);
            reader.close_input();
            let Some(found) = reader.next() else { continue };
            if let Record::Blob {
                kind: BLOB_COUNTERS,
                bytes,
            } = found.record
                && core.restore_counters(segment, bytes).is_ok()
            {
                return;
            }
        }
    }
}
