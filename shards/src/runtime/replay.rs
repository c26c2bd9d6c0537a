//! Segments read through: after a start, and to compact.

use std::rc::Rc;

use engine::ids::SegmentId;
use engine::queue::cipher::{SegmentName, Stream};
use engine::queue::replay::{Contents, SegmentReader};
use engine::queue::segment::SEGMENT_HEADER_BYTES;
use engine::shard::storage::BATCH_BYTES_FULL;

use super::Shard;

/// Bytes read at a time; other tasks of the shard have their turn in between.
pub(super) const CHUNK_BYTES: usize = 512 * 1024;

/// Replays every segment of an earlier run, oldest first.
pub(crate) async fn replay_all(shard: &Rc<Shard>, segments: Vec<(SegmentId, u64)>) {
    for (segment, _) in segments {
        if shard.stopping.get() {
            return;
        }
        if let Err(why) = replay(shard, segment).await {
            shard.with_core(|core, _| core.replay_unreadable(segment, &why));
        }
    }
    shard.with_core(|core, _| core.replay_done());
}

async fn replay(shard: &Rc<Shard>, segment: SegmentId) -> Result<(), String> {
    let summary = read_through(shard, segment, Contents::Skip, |shard, reader| {
        shard.with_core(|core, _| {
            while let Some(found) = reader.next() {
                core.replay(found.placement, &found.record);
            }
            0
        })
    })
    .await?;
    shard
        .disk
        .sync(segment)
        .await
        .map_err(|error| error.to_string())?;
    shard.with_core(|core, _| core.replay_segment_done(segment, &summary));
    Ok(())
}

/// Gives a segment's records to the core to be copied forward.
pub(crate) async fn compact(shard: &Rc<Shard>, segment: SegmentId) {
    let result = read_through(shard, segment, Contents::Read, |shard, reader| {
        shard.with_core(|core, now| {
            let mut waiting = 0;
            while let Some(found) = reader.next() {
                waiting = core.compact(found.placement, &found.record, now);
            }
            waiting
        })
    })
    .await;
    shard.with_core(|core, now| core.compact_read(segment, result.map(|_| ()), now));
}

/// Reads a segment chunk by chunk; `take` is called after each and says how many bytes wait to be
/// written because of it.
async fn read_through(
    shard: &Rc<Shard>,
    segment: SegmentId,
    contents: Contents,
    mut take: impl FnMut(&Rc<Shard>, &mut SegmentReader) -> usize,
) -> Result<engine::queue::replay::Summary, String> {
    let name = SegmentName {
        stream: Stream::Queue,
        shard: shard.id,
        segment,
    };
    let mut offset = 0;
    let mut reader: Option<SegmentReader> = None;
    loop {
        let chunk = shard
            .disk
            .read_chunk(segment, offset, CHUNK_BYTES)
            .await
            .map_err(|error| error.to_string())?;
        let reader = match &mut reader {
            Some(reader) => reader,
            None => {
                if chunk.len() < SEGMENT_HEADER_BYTES {
                    return Err(format!("only {} bytes: not even a header", chunk.len()));
                }
                let opened = shard.with_core(|core, _| {
                    let reader = SegmentReader::open(&chunk, core.keys(), name, contents);
                    if let Ok(reader) = &reader {
                        core.replay_segment(reader.header());
                    }
                    reader
                });
                reader.insert(opened.map_err(|error| error.to_string())?)
            }
        };
        offset += chunk.len() as u64;
        let last = chunk.len() < CHUNK_BYTES;
        reader.push(&chunk);
        drop(chunk);
        if last {
            reader.close_input();
        }
        let waiting = take(shard, reader);
        if last || reader.is_done() {
            break;
        }
        glommio::executor().yield_task_queue_now().await;
        if waiting > BATCH_BYTES_FULL {
            while shard.with_core(|core, _| core.waiting_bytes()) > BATCH_BYTES_FULL {
                glommio::timer::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
    }
    let mut reader = reader.ok_or("the file is empty")?;
    reader.close_input();
    take(shard, &mut reader);
    Ok(reader.into_summary())
}
