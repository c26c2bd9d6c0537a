//! Every rule of mail that Hikyaku knows, as values and state machines.
//!
//! Nothing here opens a socket or a file, starts a thread or reads a clock: bytes and [`clock::Now`]
//! come in, actions and bytes go out. `shards` carries the actions out; the simulation carries the
//! same ones out on a fake disk and network.
//!
//! Modules stand in the order in which a message meets them: accept → route → queue → schedule →
//! deliver → log.
#![forbid(unsafe_code)]

pub mod clock;
pub mod file_error;
pub mod ids;
pub mod key_wrap;
pub mod keys;
pub mod limits;
pub mod memory;
pub mod net;
pub mod phase;
pub mod random;
mod slots;
pub mod status;
pub mod units;

pub mod address;
pub mod envelope;
pub mod message;
pub mod smtp;

pub mod route;

pub mod queue;
pub mod store;

pub mod policy;

pub mod dns;
pub mod operator;
pub mod pool;
pub mod schedule;
pub mod shard;

pub mod dsn;

pub mod counters;
pub mod delivery_log;

pub mod bounce;
pub mod compose;

pub mod config;
pub mod settings;
