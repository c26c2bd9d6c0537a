//! Sending policy: which traffic each receiving site and recipient domain gets.
//!
//! A policy is rows of values; every value is optional. Rows stand in layers, and the most specific
//! layer that sets a value wins, value by value:
//!
//! ```text
//!   default < provider (shipped) < provider (the operator's) < domain
//! ```
//!
//! The default layer is `[delivery]` of the configuration. Providers are sets of recipient domains and
//! MX hosts; those of [`shipped`] are compiled in, and an operator's row of the same name goes over
//! such a row value by value. What comes of all that for one destination is an [`Effective`], which can
//! say of each value where it comes from and what it overrode.
//!
//! Files: `bucket` rates, `adapt` a pace found by trying, `keys` the values and where each may stand, `row` a row and
//! what it is for, `layers` which rows hold, `defaults` what holds where nobody says, `rules` what is done about a
//! reply, `lease` what several senders share, `file` the operator's file, `check` what in it contradicts or can never
//! hold, `shipped`
//! the table that comes with the program, `window` when mail may begin to be sent.
//!
//! Nothing here knows sites, the queue or a clock.

pub mod adapt;
pub mod bucket;
mod check;
mod defaults;
mod file;
mod keys;
mod layers;
pub mod lease;
#[cfg(test)]
mod lease_tests;
mod row;
pub mod rules;
mod shipped;
pub mod stop;
pub mod window;

pub use check::{Finding, check};
pub use keys::{KEYS, Key, Kind, Spec, Value};
pub use layers::{Effective, From, Policy, Subject};
pub use row::{Layer, Origin, Row};
pub use rules::ReplyRules;
pub use shipped::{SHIPPED_TOML, shipped};

/// Rows of an operator's file at most.
pub const ROWS_MAX: usize = 10_000;
/// Domains or MX patterns of one row at most.
pub const PATTERNS_PER_ROW_MAX: usize = 1_000;

#[cfg(test)]
mod tests;
