//! Content: kept in memory, in its record, or on its way back from there.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use super::deliver::Reading;
use super::{Message, ReadId};
use crate::memory::Ledger;
use crate::schedule::index::EntryId;

/// Where the content of queued mail is, and the memory it takes.
#[derive(Debug)]
pub(super) struct Content {
    /// Messages kept for their first delivery.
    pub(super) kept: HashMap<EntryId, Rc<Message>>,
    /// What they take, bytes.
    pub(super) kept_bytes: usize,
    pub(super) ledger: Ledger,
    /// Entries taken for a connection whose content has to wait for memory.
    pub(super) waiting: VecDeque<EntryId>,
    pub(super) reads: HashMap<ReadId, Reading>,
}

impl Content {
    pub(super) fn new(content_bytes_max: usize) -> Self {
        Self {
            kept: HashMap::new(),
            kept_bytes: 0,
            ledger: Ledger::new(content_bytes_max),
            waiting: VecDeque::new(),
            reads: HashMap::new(),
        }
    }
}
