//! Checks every record of a data directory, and says where it is damaged.

use std::io;

use engine::delivery_log::read_batch;
use engine::ids::Offset;
use engine::keys::KeyRing;
use engine::queue::chain::Chain;
use engine::queue::cipher::Stream;
use engine::queue::record::Record;
use engine::queue::replay::{Contents, Found, SegmentEnd};

use crate::segments::{Go, ScanError, SegmentFile, scan};

/// What is wrong at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The segment.
    pub file: SegmentFile,
    /// The first byte at fault.
    pub offset: Offset,
    /// The next good byte, if there is one.
    pub resync: Option<Offset>,
    /// What was found.
    pub reason: String,
}

/// How a segment stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Good records.
    pub records: u64,
    /// Bytes of them.
    pub record_bytes: u64,
    /// It ends with a seal.
    pub sealed: bool,
    /// Everything that is wrong, in order.
    pub faults: Vec<Fault>,
    /// It vanished while it was looked at: the daemon has removed it.
    pub gone: bool,
}

/// Takes in what a queue segment says of others. Segments of one shard in rising order; nothing is said
/// for one that cannot be read, which [`verify_segment`] tells.
pub fn link(chain: &mut Chain, file: &SegmentFile, keys: &KeyRing) {
    chain.found(file.name.segment);
    let take = |found: Found<'_>| {
        if let Record::Blob { kind, bytes } = found.record {
            chain.blob(file.name.segment, kind, bytes);
        }
        Go::On
    };
    if let Ok(Some(summary)) = scan(file, keys, Contents::Skip, take, |_| {}) {
        chain.ended(file.name.segment, &summary.end);
    }
}

/// Checks one segment: header, every MAC, every record's form, and the seal's totals. `progress` is
/// told of bytes read.
pub fn verify_segment(file: &SegmentFile, keys: &KeyRing, progress: impl FnMut(u64)) -> Verified {
    let mut verified = Verified::default();
    let fault = |offset, resync, reason: String| Fault {
        file: file.clone(),
        offset,
        resync,
        reason,
    };
    let mut malformed = Vec::new();
    let scanned = scan(
        file,
        keys,
        Contents::Read,
        |found| {
            if let Err(reason) = check_payload(file.name.stream, &found.record) {
                let Offset(at) = found.placement.offset;
                let resync = Offset(at.saturating_add(found.placement.bytes));
                malformed.push(fault(found.placement.offset, Some(resync), reason));
            }
            Go::On
        },
        progress,
    );
    match scanned {
        Err(ScanError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            verified.gone = true
        }
        Err(error) => verified
            .faults
            .push(fault(Offset(0), None, error.to_string())),
        Ok(None) => {}
        Ok(Some(summary)) => {
            verified.records = summary.records.into();
            verified.record_bytes = summary.record_bytes.into();
            verified.sealed = summary.end == SegmentEnd::Sealed;
            for damage in &summary.damage {
                let reason = damage.reason.to_string();
                verified
                    .faults
                    .push(fault(damage.offset, Some(damage.resync), reason));
            }
            verified.faults.append(&mut malformed);
            let found = (summary.records, summary.record_bytes);
            let lost = summary
                .seal
                .filter(|seal| (seal.records, seal.record_bytes) != found);
            if let (Some(seal), true) = (lost, verified.faults.is_empty()) {
                let reason = format!(
                    "the seal counts {} records of {} bytes, found are {} of {}",
                    seal.records, seal.record_bytes, found.0, found.1
                );
                verified.faults.push(fault(Offset(0), None, reason));
            }
            verified.faults.sort_by_key(|fault| fault.offset);
        }
    }
    verified
}

/// What a stream's own format asks of a record beyond its envelope.
fn check_payload(stream: Stream, record: &Record<'_>) -> Result<(), String> {
    if let (Stream::DeliveryLog, Record::Blob { bytes, .. }) = (stream, record) {
        let (_, records) = read_batch(bytes).map_err(|error| error.to_string())?;
        for record in records {
            record.map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}
