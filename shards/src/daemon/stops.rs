//! Stops of an operator: written down first, then brought to every shard.

use std::path::Path;
use std::sync::{Arc, Mutex};

use engine::keys::KeyRing;
use engine::operator::Query;
use engine::policy::stop::StopBook;

use super::{Hikyakud, lock, now};
use crate::control::{Daemon, Refusal, ask_all};

/// The book in force, held while it is changed: one command after the other.
#[derive(Default)]
pub(super) struct Stops {
    book: Mutex<Arc<StopBook>>,
}

impl Stops {
    /// The book of earlier runs, before the shards start.
    ///
    /// # Errors
    /// One line for the operator.
    pub(super) fn restore(&self, data_dir: &Path, keys: &KeyRing) -> Result<Arc<StopBook>, String> {
        let book = Arc::new(datadir::stops::read(data_dir, keys)?);
        *lock(&self.book) = Arc::clone(&book);
        Ok(book)
    }

    pub(super) fn book(&self) -> Arc<StopBook> {
        Arc::clone(&lock(&self.book))
    }
}

impl Hikyakud {
    /// When it returns, the change is durable and every shard goes by it.
    pub(super) fn bring_stops(
        &self,
        change: &dyn Fn(&StopBook) -> Result<StopBook, Refusal>,
    ) -> Result<Arc<StopBook>, Refusal> {
        let Some(keys) = self.keys() else {
            let why = "the daemon is locked; run: hikyaku unlock";
            return Err(Refusal::new(503, why));
        };
        let mut book = lock(&self.stops.book);
        let new = Arc::new(change(&book)?);
        datadir::stops::write(&self.data_dir(), &keys, &new, now().unix.0)
            .map_err(|why| Refusal::new(500, format!("nothing was changed: {why}")))?;
        *book = Arc::clone(&new);
        ask_all(self, &Query::Stops(Arc::clone(&new))).map_err(|refusal| {
            let why = &refusal.message;
            let why =
                format!("it is written down, but not in force everywhere yet: {why}; say it again");
            Refusal::new(refusal.status, why)
        })?;
        Ok(new)
    }
}
