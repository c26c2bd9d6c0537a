//! Segments read through: after a start, and to compact.
//!
//! A read that fails is tried again where it stopped; what that means for the mail is
//! `engine::shard`'s part (its `unread`).

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use engine::ids::{SegmentId, ShardId};
use engine::queue::cipher::{SegmentName, Stream};
use engine::queue::replay::{Contents, SegmentReader};
use engine::queue::segment::SEGMENT_HEADER_BYTES;
use engine::shard::DiskError;
use engine::store::BATCH_BYTES_FULL;
use glommio::timer::sleep;

use super::{Shard, give_way, spawn};

/// Bytes read at a time; other tasks of the shard have their turn in between.
pub(super) const CHUNK_BYTES: usize = 512 * 1024;

/// Rest after the first failed read of a segment; each further one doubles it.
const READ_AGAIN_MIN: Duration = Duration::from_millis(100);
/// Longest such rest.
const READ_AGAIN_MAX: Duration = Duration::from_secs(300);
/// Once the rest is this long, the rest of the queue goes on without the segment.
const PASSED_OVER_AT: Duration = Duration::from_secs(4);

/// Replays every segment of an earlier run, oldest first. One that the disk does not give out goes on being
/// tried, and is replayed when it can be read.
pub(crate) async fn replay_all(shard: &Rc<Shard>, segments: Vec<(SegmentId, u64)>) {
    let segments: Vec<SegmentId> = segments.into_iter().map(|(segment, _)| segment).collect();
    let mut late = Vec::new();
    for segment in &segments {
        let mut reading = Reading::new(*segment, Contents::Skip);
        let mut rest = Rest::new(shard.id, *segment);
        while let Err(fault) = replay(shard, &mut reading).await {
            match fault {
                Fault::Unreadable(why) => {
                    shard.with_core(|core, _| core.replay_unreadable(*segment, &why));
                    break;
                }
                Fault::Disk(why) => rest.after(shard, &why).await,
            }
            if shard.stopping.get() {
                return;
            }
            if rest.is_long() {
                late.push((reading, rest));
                break;
            }
        }
        if shard.stopping.get() {
            return;
        }
    }
    shard.with_core(|core, _| core.replay_done());
    for (reading, rest) in late {
        let later = segments.iter().filter(|other| **other > reading.segment);
        let later = later.copied().collect();
        spawn(replay_late(Rc::clone(shard), reading, rest, later));
    }
}

async fn replay(shard: &Rc<Shard>, reading: &mut Reading) -> Result<(), Fault> {
    let take = |shard: &Rc<Shard>, reader: &mut SegmentReader| {
        shard.with_core(|core, _| {
            while let Some(found) = reader.next() {
                core.replay(found.placement, &found.record);
            }
            0
        })
    };
    reading.go_on(shard, take).await?;
    shard.disk.sync(reading.segment).await?;
    reading.done(shard);
    shard.with_core(|core, _| core.no_longer_unread(shard.id, reading.segment));
    Ok(())
}

/// Replays a segment that was passed over as soon as it can be read; `later` are those behind it, which
/// may have notes about its mail.
async fn replay_late(
    shard: Rc<Shard>,
    mut reading: Reading,
    mut rest: Rest,
    later: Vec<SegmentId>,
) {
    let (late, folder) = (reading.segment, shard.id);
    while let Err(fault) = read_late(&shard, &mut reading, &later).await {
        if shard.stopping.get() {
            return;
        }
        match fault {
            Fault::Unreadable(why) => {
                return shard.with_core(|core, _| {
                    core.replay_unreadable(late, &why);
                    core.no_longer_unread(folder, late);
                });
            }
            Fault::Disk(why) => rest.after(&shard, &why).await,
        }
    }
    reading.done(&shard);
    shard.with_core(|core, _| core.replay_late_done(late));
}

async fn read_late(
    shard: &Rc<Shard>,
    reading: &mut Reading,
    later: &[SegmentId],
) -> Result<(), Fault> {
    let take = |shard: &Rc<Shard>, reader: &mut SegmentReader| {
        shard.with_core(|core, _| {
            while let Some(found) = reader.next() {
                core.replay_late(found.placement, &found.record);
            }
            0
        })
    };
    reading.go_on(shard, take).await?;
    shard.disk.sync(reading.segment).await?;
    let late = reading.segment;
    for segment in later {
        // Notes may be applied twice: after a failure all of them are read again.
        let mut notes = Reading::new(*segment, Contents::Skip);
        let take = |shard: &Rc<Shard>, reader: &mut SegmentReader| {
            shard.with_core(|core, _| {
                while let Some(found) = reader.next() {
                    core.replay_late_note(late, &found.record);
                }
                0
            })
        };
        match notes.go_on(shard, take).await {
            // It was reported when it was replayed.
            Ok(()) | Err(Fault::Unreadable(_)) => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

/// Gives a segment's records to the core to be copied forward.
pub(crate) async fn compact(shard: &Rc<Shard>, segment: SegmentId) {
    let mut reading = Reading::new(segment, Contents::Read);
    let take = |shard: &Rc<Shard>, reader: &mut SegmentReader| {
        shard.with_core(|core, now| {
            let mut waiting = 0;
            while let Some(found) = reader.next() {
                waiting = core.compact(found.placement, &found.record, now);
            }
            waiting
        })
    };
    let result = reading.go_on(shard, take).await;
    let result = result.map_err(|fault| fault.to_string());
    shard.with_core(|core, now| core.compact_read(segment, result, now));
}

/// Why a segment was not read through.
#[derive(Debug)]
enum Fault {
    /// The disk did not give it: another try may.
    Disk(String),
    /// It is no segment that we can read.
    Unreadable(String),
}

impl From<DiskError> for Fault {
    fn from(error: DiskError) -> Self {
        Self::Disk(error.to_string())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Disk(why) | Self::Unreadable(why)) = self;
        f.write_str(why)
    }
}

/// The rests between one try to read a segment and the next.
#[derive(Debug)]
pub(super) struct Rest {
    folder: ShardId,
    segment: SegmentId,
    next: Duration,
}

impl Rest {
    pub(super) const fn new(folder: ShardId, segment: SegmentId) -> Self {
        let next = READ_AGAIN_MIN;
        Self {
            folder,
            segment,
            next,
        }
    }

    /// Has the core tell what failed, and rests.
    pub(super) async fn after(&mut self, shard: &Rc<Shard>, why: &str) {
        let (folder, segment) = (self.folder, self.segment);
        let rest_ms = self.next.as_millis() as u64;
        shard.with_core(|core, now| core.unread(folder, segment, why, rest_ms, now));
        sleep(self.next).await;
        self.next = (self.next * 2).min(READ_AGAIN_MAX);
    }

    /// Another segment of the folder is the one that fails now.
    pub(super) fn of(&mut self, shard: &Rc<Shard>, segment: SegmentId) {
        if segment != self.segment {
            self.over(shard);
            self.segment = segment;
        }
    }

    /// There is nothing more to be tried again.
    pub(super) fn over(&self, shard: &Rc<Shard>) {
        let (folder, segment) = (self.folder, self.segment);
        shard.with_core(|core, _| core.no_longer_unread(folder, segment));
    }

    fn is_long(&self) -> bool {
        self.next >= PASSED_OVER_AT
    }
}

/// A segment that is being read, chunk by chunk.
#[derive(Debug)]
struct Reading {
    segment: SegmentId,
    contents: Contents,
    /// Up to here the reader has it.
    offset: u64,
    reader: Option<SegmentReader>,
    is_read: bool,
}

impl Reading {
    const fn new(segment: SegmentId, contents: Contents) -> Self {
        Self {
            segment,
            contents,
            offset: 0,
            reader: None,
            is_read: false,
        }
    }

    /// Reads to the end, from where an earlier call stopped; `take` is called after each chunk and says how many
    /// bytes wait to be written because of it.
    async fn go_on(
        &mut self,
        shard: &Rc<Shard>,
        mut take: impl FnMut(&Rc<Shard>, &mut SegmentReader) -> usize,
    ) -> Result<(), Fault> {
        if self.reader.is_none()
            && let Some((why, is_link)) = shard.disk.irregular(self.segment)
        {
            return Err(if is_link {
                Fault::Disk(why)
            } else {
                Fault::Unreadable(why)
            });
        }
        while !self.is_read {
            let chunk = shard
                .disk
                .read_chunk(self.segment, self.offset, CHUNK_BYTES)
                .await?;
            let reader = match &mut self.reader {
                Some(reader) => reader,
                None => {
                    let opened = open(shard, self.segment, self.contents, &chunk)?;
                    self.reader.insert(opened)
                }
            };
            self.offset += chunk.len() as u64;
            let last = chunk.len() < CHUNK_BYTES;
            reader.push(&chunk);
            drop(chunk);
            if last {
                reader.close_input();
            }
            let waiting = take(shard, reader);
            if last || reader.is_done() {
                reader.close_input();
                take(shard, reader);
                self.is_read = true;
                return Ok(());
            }
            give_way().await;
            if waiting > BATCH_BYTES_FULL {
                while shard.with_core(|core, _| core.waiting_bytes()) > BATCH_BYTES_FULL {
                    sleep(Duration::from_millis(1)).await;
                }
            }
        }
        Ok(())
    }

    /// Tells the core how it ended, once it is read through.
    fn done(&mut self, shard: &Rc<Shard>) {
        if let Some(reader) = self.reader.take() {
            let summary = reader.into_summary();
            shard.with_core(|core, _| core.replay_segment_done(self.segment, &summary));
        }
    }
}

fn open(
    shard: &Rc<Shard>,
    segment: SegmentId,
    contents: Contents,
    chunk: &[u8],
) -> Result<SegmentReader, Fault> {
    if chunk.len() < SEGMENT_HEADER_BYTES {
        let why = format!("only {} bytes: not even a header", chunk.len());
        return Err(Fault::Unreadable(why));
    }
    let name = SegmentName {
        stream: Stream::Queue,
        shard: shard.id,
        segment,
    };
    shard.with_core(|core, _| {
        let reader = SegmentReader::open(chunk, core.keys(), name, contents)
            .map_err(|error| Fault::Unreadable(error.to_string()))?;
        core.replay_segment(reader.header());
        Ok(reader)
    })
}
