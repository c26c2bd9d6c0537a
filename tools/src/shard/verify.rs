//! `hikyaku shard verify`: every record of a data directory.

use datadir::segments::SegmentFile;
use datadir::verify::verify_segment;
use indicatif::{ProgressBar, ProgressStyle};

use crate::site::{Failure, Site};
use crate::table::{Format, Rows};

pub(crate) fn run(site: &Site, files: &[SegmentFile], format: Format) -> Result<(), Failure> {
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
        damaged += u64::from(!verified.faults.is_empty());
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
