//! What an operator has done over all of the queue: in slices, so that no turn is long however much
//! mail there is.

use super::{ShardCore, Why};
use crate::address::Domain;
use crate::clock::Now;
use crate::schedule::destination::{DestinationId, Lookup};

/// A search through the queue, as far as it has come.
#[derive(Debug)]
pub struct Search {
    domain: Option<Domain>,
    rows_max: usize,
    from: Option<usize>,
    found: Vec<Why>,
}

impl Search {
    /// For queued messages of one domain or of all, at most `rows_max`.
    pub fn new(domain: Option<&str>, rows_max: usize) -> Self {
        Self {
            domain: domain.map(Domain::from_stored),
            rows_max,
            from: Some(0),
            found: Vec::new(),
        }
    }

    /// What was found.
    pub fn into_found(self) -> Vec<Why> {
        self.found
    }
}

/// A retry under way.
#[derive(Debug)]
pub(super) struct Retrying {
    /// Of this destination only; `Some(None)`: of one that there is none of.
    only: Option<Option<DestinationId>>,
    count: u64,
    is_done: bool,
}

impl ShardCore {
    /// Searches a bounded part of the queue; `true` when all is searched, or enough found.
    pub fn search_some(&self, search: &mut Search, now: Now) -> bool {
        let Some(from) = search.from else { return true };
        let only = search
            .domain
            .as_ref()
            .map(|domain| self.mail.find_destination(domain));
        let (live, next) = self.mail.sweep(from, self.settings.entries_per_turn_max);
        search.from = next;
        for id in live {
            if search.found.len() >= search.rows_max {
                search.from = None;
                break;
            }
            let destination = self.mail.get(id).destination;
            if only.is_none_or(|only| only == Some(destination)) {
                search.found.push(self.why_entry(id, now));
            }
        }
        search.from.is_none()
    }

    /// Begins to make deferred mail ready at once, all of it or that of one domain, and lifts the
    /// back-off of every site, or of that domain's. Ask [`Self::retry_some`] until it is through, and then
    /// only begin another.
    pub fn retry(&mut self, domain: Option<&str>) {
        let only = domain.map(|domain| self.mail.find_destination(&Domain::from_stored(domain)));
        self.retrying = Some(Retrying {
            only,
            count: 0,
            is_done: false,
        });
        match only {
            None => self.pool.lift_back_offs(),
            Some(Some(id)) => match &self.mail.destination(id).lookup {
                Lookup::Site { site, .. } => self.pool.lift_back_off(*site),
                Lookup::Trouble { .. } => self.look_up_soon(id),
                // Its site may rest all the same, and is known again when it is looked up.
                _ => self.mail.destination_mut(id).lifts_back_off = true,
            },
            Some(None) => {}
        }
        self.mail.hasten();
    }

    /// Goes on with a retry, a bounded number of entries; how many were made ready, once it is through.
    pub fn retry_some(&mut self, now: Now) -> Option<u64> {
        let now_s = self.mail.seconds(now);
        let retrying = self.retrying.as_mut()?;
        let only = retrying.only;
        let is_wanted = |id| only.is_none_or(|only| only == Some(id));
        let (count, is_through) =
            self.mail
                .hasten_some(now_s, self.settings.entries_per_turn_max, is_wanted);
        retrying.count += count;
        retrying.is_done |= is_through;
        retrying.is_done.then_some(retrying.count)
    }
}
