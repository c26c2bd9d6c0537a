//! The queue folders of shards that are no more: read through, stored at today's owners, removed.
//!
//! What is live in them and who owns it is `engine::shard::adopt`'s part.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::rc::Rc;

use engine::ids::{SegmentId, ShardId};
use engine::queue::cipher::{SegmentName, Stream};
use engine::queue::replay::{Contents, SegmentReader};
use engine::queue::segment::{handover_folder_name, parse_handover_folder_name};
use engine::shard::NotedHandovers;
use engine::shard::adopt::Adoption;

use super::disk::{Disk, list, stream_folder, sync_parent};
use super::replay::{CHUNK_BYTES, Rest};
use super::{Shard, give_way};

/// How long to wait for stored messages to become durable before asking again.
const STORED_POLL: std::time::Duration = std::time::Duration::from_millis(5);

/// How long to wait after the disk has failed.
const DISK_REST: std::time::Duration = std::time::Duration::from_secs(1);

/// The handovers that were noted by earlier runs, in the folders of all shards. They are made durable
/// first: a run that was killed may not have come to that, and they are relied on from now on.
///
/// # Errors
/// What could not be read or synced.
pub(crate) fn noted_handovers(data_dir: &Path) -> Result<NotedHandovers, String> {
    let mut noted = BTreeSet::new();
    for shard in datadir::segments::shards(data_dir).map_err(|error| error.to_string())? {
        let folder = datadir::segments::shard_dir(data_dir, shard);
        let fault = |error: std::io::Error| format!("{}: {error}", folder.display());
        fs::File::open(&folder)
            .and_then(|folder| folder.sync_all())
            .map_err(fault)?;
        for entry in fs::read_dir(&folder).map_err(fault)? {
            let name = entry.map_err(fault)?.file_name();
            noted.extend(name.to_str().and_then(parse_handover_folder_name));
        }
    }
    Ok(Rc::new(noted))
}

/// Adopts, one after the other, the folders that fall to this shard of `shards`. A folder that cannot
/// be read whole stays for the next start.
pub(crate) async fn adopt_all(
    shard: &Rc<Shard>,
    data_dir: &Path,
    shards: u16,
    noted: NotedHandovers,
) {
    let there = datadir::segments::shards(data_dir).unwrap_or_default();
    let gone = there
        .into_iter()
        .filter(|id| id.0 >= shards && Adoption::adopter(*id, shards) == shard.id);
    for gone in gone {
        let folder = stream_folder(data_dir, gone, Stream::Queue);
        if !folder.is_dir() {
            continue;
        }
        // Nothing is given away before all of the folder is read: a failed read begins it anew.
        let mut rest = Rest::new(gone, SegmentId(0));
        while let Err(fault) = adopt(shard, data_dir, gone, shards, Rc::clone(&noted)).await {
            match fault {
                Fault::Unread { segment, why } if !shard.stopping.get() => {
                    rest.of(shard, segment);
                    rest.after(shard, &why).await;
                }
                Fault::Unread { why, .. } | Fault::Blocked(why) => {
                    crate::say!(shard: shard.id, "{}: {why}; its mail stays there until the next start", folder.display()
                    );
                    break;
                }
            }
        }
        rest.over(shard);
    }
}

/// Why a folder was not adopted.
enum Fault {
    /// The disk did not give out a segment: another try may.
    Unread { segment: SegmentId, why: String },
    /// Nothing will change that before the next start.
    Blocked(String),
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        Self::Blocked(why)
    }
}

async fn adopt(
    shard: &Rc<Shard>,
    data_dir: &Path,
    gone: ShardId,
    shards: u16,
    noted: NotedHandovers,
) -> Result<(), Fault> {
    let folder = stream_folder(data_dir, gone, Stream::Queue);
    let listing = list(&folder)?;
    // Nothing is written there.
    let disk = Disk::new(data_dir.to_owned(), gone, Vec::new(), 0);
    let handover = shard.with_core(|core, _| core.new_handover());
    let mut adoption = Adoption::new(gone, shards, handover, noted);
    for (segment, _) in listing.segments {
        if let Err(why) = read_segment(shard, &disk, gone, segment, &mut adoption).await {
            return Err(Fault::Unread { segment, why });
        }
    }
    adoption.replayed();
    if let Some(why) = adoption.blocked() {
        return Err(Fault::Blocked(why.to_owned()));
    }
    let messages = adoption.len();
    let mut stored = Vec::new();
    while !adoption.is_done() {
        if shard.stopping.get() {
            let why = "stopped while its mail was being moved";
            return Err(Fault::Blocked(why.to_owned()));
        }
        while let Some((read, placement)) = adoption.next_to_read() {
            match disk.read(placement).await {
                Ok(bytes) => match adoption.message(read, bytes) {
                    Ok(submissions) => shard.with_core(|core, now| {
                        for (part, submission) in submissions {
                            core.adopt(part, handover, submission, now);
                        }
                    }),
                    Err(why) => crate::say!(shard: shard.id, "{why}", ),
                },
                Err(error) => {
                    // What was stored so far is held until all is: giving up now would keep it back.
                    adoption.not_read(read);
                    crate::say!(shard: shard.id, "{}: {error}; trying again", folder.display()
                    );
                    glommio::timer::sleep(DISK_REST).await;
                    break;
                }
            }
        }
        shard.with_core(|core, _| core.take_adopted(&mut stored));
        if stored.is_empty() {
            glommio::timer::sleep(STORED_POLL).await;
        }
        for (part, result) in stored.drain(..) {
            adoption.stored(part, result);
        }
    }
    // By this rename, all at once, the mail is its new owners' and no longer the folder's.
    let aside = folder.with_file_name(handover_folder_name(handover));
    while let Err(why) = hand_over(&folder, &aside).await {
        if shard.stopping.get() {
            return Err(Fault::Blocked(why));
        }
        crate::say!(shard: shard.id, "{}: {why}; the mail taken over waits, trying again", folder.display()
        );
        glommio::timer::sleep(DISK_REST).await;
    }
    shard.with_core(|core, now| core.handed_over(handover, now));
    // Damaged segments are kept in it for inspection. The folder itself has to stay.
    if adoption.damaged().is_empty() {
        empty_folder(&aside).map_err(|error| format!("{}: {error}", aside.display()))?;
    }
    crate::say!(shard: shard.id, "took over {messages} messages of shard {}, which is no more", gone.0
    );
    Ok(())
}

async fn hand_over(folder: &Path, aside: &Path) -> Result<(), String> {
    if !aside.is_dir() {
        fs::rename(folder, aside).map_err(|error| error.to_string())?;
    }
    sync_parent(aside).await.map_err(|error| error.to_string())
}

fn empty_folder(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

async fn read_segment(
    shard: &Rc<Shard>,
    disk: &Disk,
    gone: ShardId,
    segment: SegmentId,
    adoption: &mut Adoption,
) -> Result<(), String> {
    let name = SegmentName {
        stream: Stream::Queue,
        shard: gone,
        segment,
    };
    if let Some((why, _)) = disk.irregular(segment) {
        return Err(why);
    }
    let mut offset = 0;
    let mut reader: Option<SegmentReader> = None;
    loop {
        let chunk = disk
            .read_chunk(segment, offset, CHUNK_BYTES)
            .await
            .map_err(|error| error.to_string())?;
        if reader.is_none() {
            let opened = shard.with_core(|core, _| {
                let opened = SegmentReader::open(&chunk, core.keys(), name, Contents::Skip);
                match &opened {
                    Ok(reader) => adoption.segment(reader.header(), core.keys()),
                    Err(error) => adoption.unreadable(segment, error),
                }
                opened
            });
            match opened {
                Ok(opened) => reader = Some(opened),
                Err(_) => return Ok(()),
            }
        }
        let Some(reading) = &mut reader else {
            return Ok(());
        };
        offset += chunk.len() as u64;
        let last = chunk.len() < CHUNK_BYTES;
        reading.push(&chunk);
        if last {
            reading.close_input();
        }
        while let Some(found) = reading.next() {
            adoption.record(found.placement, &found.record);
        }
        if last || reading.is_done() {
            break;
        }
        give_way().await;
    }
    if let Some(mut reading) = reader {
        reading.close_input();
        while let Some(found) = reading.next() {
            adoption.record(found.placement, &found.record);
        }
        adoption.segment_done(segment, &reading.into_summary());
    }
    Ok(())
}
