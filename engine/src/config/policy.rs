//! `[policy]`: where the sending policy stands.

use std::path::PathBuf;

use super::reader::{Reader, TextDefault};

/// `[policy]`: rows over `[delivery]`, for providers and domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTable {
    /// The operator's file.
    pub file: Option<PathBuf>,
    /// Reply rules that go before the shipped ones.
    pub rules: Option<PathBuf>,
    /// Whether the table that comes with the program holds where the file says nothing else.
    pub shipped: bool,
}

pub(super) fn read(r: &mut Reader<'_, '_>) -> PolicyTable {
    PolicyTable {
        file: r.path("file", TextDefault::Absent("none")),
        rules: r.path("rules", TextDefault::Absent("none")),
        shipped: r.boolean("shipped", true),
    }
}
