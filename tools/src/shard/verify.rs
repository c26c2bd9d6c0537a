//! `hikyaku shard verify`: every record of a data directory.

use std::collections::BTreeMap;

use datadir::segments::SegmentFile;
use datadir::verify::{link, verify_segment};
use engine::ids::ShardId;
use engine::keys::KeyRing;
use engine::queue::chain::{Broken, Chain};
use engine::queue::cipher::Stream;
use indicatif::{ProgressBar, ProgressStyle};

use crate::site::{Failure, Site};
use crate::table::{Format, Rows};

pub(crate) fn run(
    site: &Site,
    files: &[SegmentFile],
    all: &[SegmentFile],
    format: Format,
) -> Result<(), Failure> {
    let keys = site.unlock()?;
    let bar = ProgressBar::new(files.iter().map(|file| file.bytes).sum());
    let style = ProgressStyle::with_template(
        "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
    );
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    let mut rows = Rows::new(&[
        "shard", "stream", "segment", "offset", "resync", "reason", "file",
    ]);
    let (mut records, mut segments, mut open, mut damaged) = (0, 0, 0, 0);
    for file in files {
        bar.set_message(file.name.to_string());
        let before = bar.position();
        let verified = verify_segment(file, &keys, |bytes| bar.inc(bytes));
        // What lies behind the end of a segment is not read.
        bar.set_position(before + file.bytes);
        if verified.gone {
            continue;
        }
        segments += 1;
        records += verified.records;
        open += u64::from(!verified.sealed && verified.faults.is_empty());
        damaged += usize::from(!verified.faults.is_empty());
        for fault in verified.faults {
            rows.push(vec![
                file.name.shard.0.to_string(),
                file.name.stream.to_string(),
                file.name.segment.0.to_string(),
                fault.offset.0.to_string(),
                fault
                    .resync
                    .map_or_else(String::new, |offset| offset.0.to_string()),
                fault.reason,
                file.path.display().to_string(),
            ]);
        }
    }
    bar.finish_and_clear();
    let broken = broken(files, all, &keys);
    for (shard, broken) in &broken {
        rows.push(vec![
            shard.0.to_string(),
            Stream::Queue.to_string(),
            broken.segment().0.to_string(),
            String::new(),
            String::new(),
            broken.to_string(),
            String::new(),
        ]);
    }
    damaged += broken.len();
    if damaged > 0 || format != Format::Table {
        rows.print(format)?;
    }
    let unsealed = match open {
        0 => String::new(),
        open => format!(", {open} of them without a seal (being written, or cut off: no damage)"),
    };
    tell!("hikyaku: {records} records in {segments} segments{unsealed}");
    match damaged {
        0 => Ok(()),
        _ => Err(Failure(format!(
            "{damaged} segments are damaged at the places above; all other records are good"
        ))),
    }
}

/// Queue segments that are missing or cut off, by what the others say. Only of shards of which `all`
/// segments are among `files`: of others nothing can be said.
fn broken(files: &[SegmentFile], all: &[SegmentFile], keys: &KeyRing) -> Vec<(ShardId, Broken)> {
    let of_queue = |file: &&SegmentFile| file.name.stream == Stream::Queue;
    let mut shards: BTreeMap<ShardId, Vec<&SegmentFile>> = BTreeMap::new();
    for file in all.iter().filter(of_queue) {
        shards.entry(file.name.shard).or_default().push(file);
    }
    shards.retain(|_, segments| segments.iter().all(|file| files.contains(file)));
    let mut found = Vec::new();
    for (shard, mut segments) in shards {
        segments.sort_by_key(|file| file.name.segment);
        let mut chain = Chain::default();
        for file in segments {
            link(&mut chain, file, keys);
        }
        found.extend(chain.broken().into_iter().map(|broken| (shard, broken)));
    }
    found
}
