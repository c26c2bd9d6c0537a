//! The twelve counters (contract: their names and order), in total, by domain and by group.
//!
//! [`Counters`] is a shard's own set: it is counted on every event, so a count costs three rows of
//! array increments and no hashing. [`row`] keeps one row since ever, by the hour and by 5 minutes;
//! [`table`] is an answer that can be merged across shards and written as TSV, JSON or OpenMetrics;
//! [`codec`] is what survives a restart.

mod codec;
mod row;
mod table;

use std::collections::HashMap;
use std::fmt;

use crate::clock::UnixMs;
use crate::queue::record::OutcomeKind;

pub use codec::{CountersDecodeError, Covered};
pub use table::{CounterTable, TableMismatch};

use row::{Periods, Row};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counter {
    /// Level: not yet delivered.
    Queued,
    /// Level: waiting for a retry.
    Deferred,
    /// Level: in flight.
    Delivering,
    /// Taken by the receiving site.
    Delivered,
    /// Refused for good.
    Failed,
    /// Temporary failures met.
    Tempfail,
    /// Temporary failures of DNS.
    DnsTempfail,
    /// No connection, or no greeting.
    ConnectFail,
    /// A session broke after its greeting, or the far side broke the protocol, and a message felt it.
    SessionError,
    /// Permanent failures of DNS.
    DnsFail,
    /// Not delivered in time, given up.
    Expired,
    /// Messages stopped by an operator.
    Suspended,
}

/// How many counters there are.
pub const COUNTERS: usize = 12;

/// One value of each, in the order of [`Counter::ALL`].
pub type Values = [u64; COUNTERS];

impl Counter {
    /// All, in the order that holds everywhere.
    pub const ALL: [Self; COUNTERS] = [
        Self::Queued,
        Self::Deferred,
        Self::Delivering,
        Self::Delivered,
        Self::Failed,
        Self::Tempfail,
        Self::DnsTempfail,
        Self::ConnectFail,
        Self::SessionError,
        Self::DnsFail,
        Self::Expired,
        Self::Suspended,
    ];

    /// What is counted of a recipient when this is recorded of it, if it is final.
    pub const fn of_final(kind: OutcomeKind) -> Option<Self> {
        match kind {
            OutcomeKind::Delivered => Some(Self::Delivered),
            OutcomeKind::Failed => Some(Self::Failed),
            OutcomeKind::Expired => Some(Self::Expired),
            OutcomeKind::Deferred
            | OutcomeKind::Suspended
            | OutcomeKind::Cancelled
            | OutcomeKind::Suppressed => None,
        }
    }

    /// The first so many are levels, which fall again; the others only rise.
    pub(crate) const LEVELS: usize = 3;

    /// Whether it goes up and down.
    pub const fn is_level(self) -> bool {
        (self as usize) < Self::LEVELS
    }

    /// The name in TSV, JSON and on the page.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Deferred => "deferred",
            Self::Delivering => "delivering",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Tempfail => "tempfail",
            Self::DnsTempfail => "dns_tempfail",
            Self::ConnectFail => "connect_fail",
            Self::SessionError => "session_error",
            Self::DnsFail => "dns_fail",
            Self::Expired => "expired",
            Self::Suspended => "suspended",
        }
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// By what the rows of an answer are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// One row.
    Total,
    /// A row a recipient domain.
    Domain,
    /// A row a group.
    Group,
}

impl By {
    /// The word in a request, and the name of the first column.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Domain => "domain",
            Self::Group => "group",
        }
    }

    /// The value of that word.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Total, Self::Domain, Self::Group]
            .into_iter()
            .find(|by| by.as_str() == name)
    }
}

/// The time that an answer covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Since ever.
    All,
    /// The last 6 hours by the hour; the last row is the hour that runs.
    Hours,
    /// The last hour by 5 minutes; the last row is the 5 minutes that run.
    Minutes,
}

impl Window {
    /// The word in a request.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Hours => "hours",
            Self::Minutes => "minutes",
        }
    }

    /// The value of that word.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::All, Self::Hours, Self::Minutes]
            .into_iter()
            .find(|window| window.as_str() == name)
    }

    /// Rows of time in an answer.
    pub const fn buckets(self) -> usize {
        match self {
            Self::All => 1,
            Self::Hours => row::HOURS,
            Self::Minutes => row::FIVES,
        }
    }
}

/// The row for all that has no room for a row of its own.
pub const OTHER: &str = "(other)";

/// The row for messages without a group.
pub const NO_GROUP: &str = "(none)";

/// Longest name of a row, bytes; a longer one is cut. A domain has at most 255.
pub const NAME_BYTES_MAX: usize = 255;

/// A row of domains, got once per domain from [`Counters::domain`].
///
/// It stays good while the row has anything queued, or was used within the last 6 hours; after that
/// the row may be given to another domain, and counts with the old handle go to `(other)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainRow(RowId);

/// A row of groups; see [`DomainRow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupRow(RowId);

impl DomainRow {
    /// `(other)`: before a row was asked for.
    pub const NONE: Self = Self(RowId {
        index: 0,
        generation: 0,
    });

    /// The row's number, for an index entry that has 32 bits to spare; back with
    /// [`Counters::domain_row`].
    pub const fn number(self) -> u32 {
        self.0.index
    }
}

impl GroupRow {
    /// As [`DomainRow::number`]; back with [`Counters::group_row`].
    pub const fn number(self) -> u32 {
        self.0.index
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RowId {
    index: u32,
    generation: u32,
}

/// The counters of one shard.
#[derive(Debug)]
pub struct Counters {
    /// Those that run. They never go back, and leap with no clock.
    periods: Periods,
    /// The same as the wall clock names them.
    named: Periods,
    /// When the counts were saved that were restored.
    restored: Periods,
    total: Row,
    domains: Rows,
    groups: Rows,
}

impl Counters {
    /// All zero, with room for so many rows of each kind beside `(other)`.
    pub fn new(now: UnixMs, domains_max: u32, groups_max: u32) -> Self {
        let mut groups = Rows::new(groups_max.max(1));
        groups.find_or_add(NO_GROUP, Periods::at(now));
        Self {
            periods: Periods::at(now),
            named: Periods::at(now),
            restored: Periods::at(now),
            total: Row::new(),
            domains: Rows::new(domains_max),
            groups,
        }
    }

    /// Sets the time of what is counted next, by a wall clock that has never leapt.
    pub fn advance(&mut self, now: UnixMs) {
        self.observe(now, now);
    }

    /// Sets the time of what is counted next; call it once per turn of the event loop. `steady`: a clock
    /// without leaps; `wall`: what the wall clock says.
    pub fn observe(&mut self, steady: UnixMs, wall: UnixMs) {
        let leap_ms = wall.0.cast_signed() - steady.0.cast_signed();
        let Periods { hour, five } = Periods::aligned(steady, leap_ms);
        // A clock that was set back must not reopen buckets that are past.
        self.periods.five = self.periods.five.max(five);
        self.periods.hour = self.periods.hour.max(hour);
        self.named = Periods::at(wall);
    }

    /// The row of a domain (A-labels, lower case); that of `(other)` if there is no room.
    pub fn domain(&mut self, name: &str) -> DomainRow {
        DomainRow(self.domains.find_or_add(name, self.periods))
    }

    /// The row of a group; an empty name is that of messages without a group.
    pub fn group(&mut self, name: &str) -> GroupRow {
        let name = if name.is_empty() { NO_GROUP } else { name };
        GroupRow(self.groups.find_or_add(name, self.periods))
    }

    /// The domain row of that number. Only good as long as something queued has kept the row: then
    /// it cannot have been given to another domain.
    pub fn domain_row(&self, number: u32) -> DomainRow {
        DomainRow(self.domains.numbered(number))
    }

    /// As [`Self::domain_row`], of a group.
    pub fn group_row(&self, number: u32) -> GroupRow {
        GroupRow(self.groups.numbered(number))
    }

    /// The name of the group row of that number; `None` if that is no one group's.
    pub fn group_name(&self, number: u32) -> Option<&str> {
        let slot = self
            .groups
            .rows
            .get(number as usize)
            .filter(|_| number > 0)?;
        // A longer name was cut.
        Some(&*slot.name).filter(|name| name.len() < NAME_BYTES_MAX)
    }

    /// Counts `n` more of a counter that is no level.
    #[inline]
    pub fn count(&mut self, domain: DomainRow, group: GroupRow, counter: Counter, n: u32) {
        debug_assert!(!counter.is_level(), "{counter} is a level");
        let periods = self.periods;
        self.total.count(periods, counter, n);
        self.domains.row(domain.0).count(periods, counter, n);
        self.groups.row(group.0).count(periods, counter, n);
    }

    /// Counts what happened soon after the counts that were restored were saved; when, is not known, so
    /// it goes into that time's buckets.
    pub fn recount(&mut self, domain: DomainRow, group: GroupRow, counter: Counter, n: u32) {
        debug_assert!(!counter.is_level(), "{counter} is a level");
        let (then, now) = (self.restored, self.periods);
        self.total.count_late(then, now, counter, n);
        self.domains.row(domain.0).count_late(then, now, counter, n);
        self.groups.row(group.0).count_late(then, now, counter, n);
    }

    /// How much was counted since ever, of whatever.
    pub fn counted(&self) -> u64 {
        self.total.ever()[Counter::LEVELS..].iter().sum()
    }

    /// Raises a level by `n`.
    #[inline]
    pub fn raise(&mut self, domain: DomainRow, group: GroupRow, counter: Counter, n: u32) {
        debug_assert!(counter.is_level(), "{counter} is no level");
        let periods = self.periods;
        self.total.raise(periods, counter, n);
        self.domains.row(domain.0).raise(periods, counter, n);
        self.groups.row(group.0).raise(periods, counter, n);
    }

    /// Lowers a level by `n`, which must have been raised before with the same rows.
    #[inline]
    pub fn lower(&mut self, domain: DomainRow, group: GroupRow, counter: Counter, n: u32) {
        debug_assert!(counter.is_level(), "{counter} is no level");
        let periods = self.periods;
        self.total.lower(periods, counter, n);
        self.domains.row(domain.0).lower(periods, counter, n);
        self.groups.row(group.0).lower(periods, counter, n);
    }

    /// One value since ever, or the level, in total.
    pub const fn total(&self, counter: Counter) -> u64 {
        self.total.ever()[counter as usize]
    }

    /// A level of one domain's row.
    pub(crate) fn domain_level(&self, row: DomainRow, counter: Counter) -> u64 {
        self.domains.get(row.0).ever()[counter as usize]
    }

    /// As [`Self::domain_level`], of a group.
    pub(crate) fn group_level(&self, row: GroupRow, counter: Counter) -> u64 {
        self.groups.get(row.0).ever()[counter as usize]
    }

    /// An answer. Windows have a row only for what was active in them.
    pub fn table(&self, by: By, window: Window) -> CounterTable {
        let mut table = CounterTable::new(by, window, self.named);
        let now = self.periods;
        match by {
            By::Total => table.add(String::new(), &self.total, now),
            By::Domain => self
                .domains
                .each(|name, row| table.add(name.to_owned(), row, now)),
            By::Group => self
                .groups
                .each(|name, row| table.add(name.to_owned(), row, now)),
        }
        table
    }

    /// Bytes of memory taken, about.
    pub fn memory_bytes(&self) -> usize {
        self.domains.memory_bytes() + self.groups.memory_bytes() + size_of::<Self>()
    }
}

/// Rows with names, at most so many; row 0 is `(other)`.
#[derive(Debug)]
struct Rows {
    rows: Vec<Slot>,
    by_name: HashMap<Box<str>, u32>,
    rows_max: u32,
    /// Where the search for a row to give away goes on.
    hand: u32,
}

#[derive(Debug)]
struct Slot {
    name: Box<str>,
    generation: u32,
    row: Row,
}

/// Rows looked at for one that can be given away, per new name, so that a flood of names costs
/// little each.
const EVICTION_STEPS_MAX: u32 = 64;

impl Rows {
    fn new(rows_max: u32) -> Self {
        let other = Slot {
            name: OTHER.into(),
            generation: 0,
            row: Row::new(),
        };
        Self {
            rows: vec![other],
            by_name: HashMap::new(),
            rows_max,
            hand: 1,
        }
    }

    #[inline]
    fn row(&mut self, id: RowId) -> &mut Row {
        let at = self.place(id);
        &mut self.rows[at].row
    }

    fn get(&self, id: RowId) -> &Row {
        &self.rows[self.place(id)].row
    }

    #[inline]
    fn place(&self, id: RowId) -> usize {
        let place = id.index as usize;
        let slot = self.rows.get(place);
        let is_current = slot.is_some_and(|slot| slot.generation == id.generation);
        if is_current { place } else { 0 }
    }

    /// The row of that number as it is now; `(other)` if there is none.
    fn numbered(&self, number: u32) -> RowId {
        match self.rows.get(number as usize) {
            Some(slot) => RowId {
                index: number,
                generation: slot.generation,
            },
            None => RowId {
                index: 0,
                generation: 0,
            },
        }
    }

    fn find_or_add(&mut self, name: &str, now: Periods) -> RowId {
        let name = cut(name);
        if let Some(&index) = self.by_name.get(name) {
            let slot = &mut self.rows[index as usize];
            slot.row.touch(now);
            return RowId {
                index,
                generation: slot.generation,
            };
        }
        if name == OTHER {
            return RowId {
                index: 0,
                generation: 0,
            };
        }
        let index = if self.rows.len() <= self.rows_max as usize {
            self.rows.push(Slot {
                name: name.into(),
                generation: 0,
                row: Row::new(),
            });
            self.rows.len() as u32 - 1
        } else {
            let Some(index) = self.give_away(now) else {
                return RowId {
                    index: 0,
                    generation: 0,
                };
            };
            self.rows[index as usize].name = name.into();
            index
        };
        self.by_name.insert(name.into(), index);
        let slot = &mut self.rows[index as usize];
        slot.row.touch(now);
        RowId {
            index,
            generation: slot.generation,
        }
    }

    /// Frees a row that has been quiet for longer than the windows reach; its counts go to
    /// `(other)`.
    fn give_away(&mut self, now: Periods) -> Option<u32> {
        let named = self.rows.len() as u32 - 1;
        for _ in 0..EVICTION_STEPS_MAX.min(named) {
            if self.hand as usize >= self.rows.len() {
                self.hand = 1;
            }
            let index = self.hand;
            self.hand += 1;
            let slot = &mut self.rows[index as usize];
            if slot.row.is_quiet(now) && *slot.name != *NO_GROUP {
                slot.generation = slot.generation.wrapping_add(1);
                let row = std::mem::replace(&mut slot.row, Row::new());
                let name = std::mem::take(&mut slot.name);
                self.by_name.remove(&name);
                self.rows[0].row.absorb(&row);
                return Some(index);
            }
        }
        None
    }

    /// Every row with anything in it, `(other)` included.
    fn each(&self, mut visit: impl FnMut(&str, &Row)) {
        for slot in self
            .rows
            .iter()
            .filter(|slot| slot.row.ever().iter().any(|&n| n > 0))
        {
            visit(&slot.name, &slot.row);
        }
    }

    fn memory_bytes(&self) -> usize {
        let windows = self
            .rows
            .iter()
            .map(|slot| slot.row.window_bytes())
            .sum::<usize>();
        let names = self
            .rows
            .iter()
            .map(|slot| 2 * slot.name.len())
            .sum::<usize>();
        windows + names + self.rows.capacity() * size_of::<Slot>() + self.by_name.capacity() * 32
    }
}

fn cut(name: &str) -> &str {
    let mut end = name.len().min(NAME_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

#[cfg(test)]
mod tests;
