//! Segments that should be there: what each says of those before it.
//!
//! A segment's records cannot be altered or moved, but a whole file can be taken away, or an older copy of it
//! put back. So the first batch of a segment has a *manifest*: which other segments there were when it
//! was begun, and where the one before it ended. That a segment may go is noted in the stream before
//! it goes. [`Chain`] takes both in at replay and knows at the end what is missing or cut off.
//!
//! Not noticed: that the newest segments are gone, or that the whole folder is an older copy; nothing
//! in the folder is newer than they.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::replay::SegmentEnd;
use crate::ids::SegmentId;

/// Blob kind of a note that a segment may go: its number, `u32`.
pub const BLOB_MAY_GO: u16 = 2;
/// Blob kind of a manifest.
pub const BLOB_MANIFEST: u16 = 6;

/// Runs of segments that a manifest lists, the newest.
const RUNS_MAX: usize = 256;

/// The bytes of a manifest: `segment u32, end u32` of the segment written before and how far (0: not known),
/// then for each run of segments `first u32, count u32`, rising. Of segments before the first run
/// it says nothing, if there are as many runs as may be.
///
/// `there`: rising.
pub fn manifest(
    before: Option<(SegmentId, u32)>,
    there: impl Iterator<Item = SegmentId>,
) -> Vec<u8> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for SegmentId(segment) in there {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == segment => *count += 1,
            _ => runs.push((segment, 1)),
        }
    }
    let (segment, end) = before.map_or((0, 0), |(segment, end)| (segment.0, end));
    let listed = &runs[runs.len().saturating_sub(RUNS_MAX)..];
    std::iter::once((segment, end))
        .chain(listed.iter().copied())
        .flat_map(|(a, b)| [a.to_le_bytes(), b.to_le_bytes()])
        .flatten()
        .collect()
}

/// A segment that is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It should be there.
    Missing(SegmentId),
    /// It ends before its end.
    Cut {
        /// The one that is too short.
        segment: SegmentId,
        /// Where it ends.
        found: u32,
        /// Where it ended once.
        end: u32,
    },
}

impl Broken {
    /// Which segment.
    pub const fn segment(&self) -> SegmentId {
        let (Self::Missing(segment) | Self::Cut { segment, .. }) = self;
        *segment
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(_) => f.write_str("is missing, and nothing says that it was done with"),
            Self::Cut { found, end, .. } => write!(
                f,
                "ends at {found}, but reached to {end} once: cut off, or an older copy"
            ),
        }
    }
}

/// What segments say of each other, in whichever order they are read.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    there: BTreeSet<SegmentId>,
    /// Of the newest manifest: in which segment, and the runs that it lists.
    newest: SegmentId,
    runs: Vec<(u32, u32)>,
    /// Segments that may go, with the one that says so, which is not older than the newest manifest.
    may_go: BTreeSet<(SegmentId, SegmentId)>,
    /// Where those ended that have no seal.
    cut_at: BTreeMap<SegmentId, u32>,
    /// Where they should have ended.
    ends: BTreeMap<SegmentId, u32>,
    has_gap: bool,
}

impl Chain {
    /// There is a file of this segment.
    pub fn found(&mut self, segment: SegmentId) {
        self.there.insert(segment);
    }

    /// A blob of `segment`.
    pub fn blob(&mut self, segment: SegmentId, kind: u16, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return;
        }
        let mut numbers = words.iter().map(|bytes| u32::from_le_bytes(*bytes));
        match (kind, numbers.len()) {
            (BLOB_MAY_GO, 1) if segment >= self.newest => {
                let gone = numbers.next().map(SegmentId);
                self.may_go.extend(gone.map(|gone| (segment, gone)));
            }
            (BLOB_MANIFEST, 2..) => self.manifest(segment, &mut numbers),
            _ => {}
        }
    }

    fn manifest(&mut self, segment: SegmentId, numbers: &mut impl Iterator<Item = u32>) {
        let mut pair = || Some((numbers.next()?, numbers.next()?));
        if let Some((before, end)) = pair()
            && end > 0
        {
            self.ends.insert(SegmentId(before), end);
        }
        if segment < self.newest {
            return;
        }
        self.runs = std::iter::from_fn(pair).collect();
        self.newest = segment;
        self.may_go.retain(|(holder, _)| *holder >= segment);
    }

    /// A segment is read through.
    pub fn ended(&mut self, segment: SegmentId, end: &SegmentEnd) {
        if let SegmentEnd::TornTail { offset } = end {
            self.cut_at.insert(segment, offset.0);
        }
    }

    /// Part of a segment, or all of it, cannot be read: what it says of others is not known.
    pub const fn gap(&mut self) {
        self.has_gap = true;
    }

    /// Whether what is found missing may have been said to go where that cannot be read.
    pub const fn has_gap(&self) -> bool {
        self.has_gap
    }

    /// What is not as it should be, once all is read.
    pub fn broken(&self) -> Vec<Broken> {
        let gone: BTreeSet<SegmentId> = self.may_go.iter().map(|(_, gone)| *gone).collect();
        // A manifest is authentic, so this many segments there were.
        let runs = self.runs.iter();
        let listed = runs.flat_map(|(first, count)| *first..first.saturating_add(*count));
        let is_missing = |s: &SegmentId| !self.there.contains(s) && !gone.contains(s);
        let missing = listed.map(SegmentId).filter(is_missing);
        let cut = self.ends.iter().filter_map(|(segment, end)| {
            let found = *self.cut_at.get(segment)?;
            (found < *end).then_some(Broken::Cut {
                segment: *segment,
                found,
                end: *end,
            })
        });
        let mut broken: Vec<Broken> = missing.map(Broken::Missing).chain(cut).collect();
        broken.sort_by_key(Broken::segment);
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Offset;

    fn list(segments: &[u32]) -> impl Iterator<Item = SegmentId> + '_ {
        segments.iter().map(|segment| SegmentId(*segment))
    }

    #[test]
    fn manifest_is_written_as_documented() {
        let bytes = manifest(Some((SegmentId(7), 0x1_2000)), list(&[2, 3, 4, 7]));
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "0700000000200100020000000300000007000000\
             01000000"
        );
    }

    #[test]
    fn what_was_not_said_to_go_is_missed() {
        let mut chain = Chain::default();
        for segment in list(&[2, 7, 8]) {
            chain.found(segment);
        }
        chain.blob(
            SegmentId(7),
            BLOB_MANIFEST,
            &manifest(None, list(&[1, 2, 3, 4])),
        );
        chain.blob(SegmentId(7), BLOB_MAY_GO, &4_u32.to_le_bytes());
        // The newest manifest counts: 1 went meanwhile, as some segment said that is gone itself.
        let newest = manifest(Some((SegmentId(7), 8192)), list(&[2, 3, 7]));
        chain.blob(SegmentId(8), BLOB_MANIFEST, &newest);
        assert_eq!(chain.broken(), [Broken::Missing(SegmentId(3))]);
        chain.blob(SegmentId(8), BLOB_MAY_GO, &3_u32.to_le_bytes());
        assert_eq!(chain.broken(), []);
        let offset = Offset(4096);
        chain.ended(SegmentId(7), &SegmentEnd::TornTail { offset });
        let cut = Broken::Cut {
            segment: SegmentId(7),
            found: 4096,
            end: 8192,
        };
        assert_eq!(chain.broken(), [cut]);
    }

    #[test]
    fn a_long_list_speaks_of_the_newest_only() {
        let holes: Vec<u32> = (0..2000).map(|n| 2 * n).collect();
        let bytes = manifest(None, list(&holes));
        assert_eq!(bytes.len(), 8 + 8 * RUNS_MAX);
        let mut chain = Chain::default();
        chain.blob(SegmentId(5000), BLOB_MANIFEST, &bytes);
        chain.found(SegmentId(5000));
        assert_eq!(chain.broken().len(), RUNS_MAX);
    }

    #[test]
    fn bytes_that_are_no_manifest_do_no_harm() {
        let mut chain = Chain::default();
        chain.found(SegmentId(1));
        for bytes in [&[][..], &[1], &[1; 7], &[0; 9]] {
            chain.blob(SegmentId(1), BLOB_MANIFEST, bytes);
            chain.blob(SegmentId(1), BLOB_MAY_GO, bytes);
        }
    }
}
