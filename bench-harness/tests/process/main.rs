//! Tests of whole processes: the built daemon with real peers, hostile clients, full disks, restarts.
//!
//! One binary, one module a theme. They need the built programs (`make build`, or `HIKYAKU_BIN_DIR`),
//! and skip with a note without them; `make test` sets `HIKYAKU_REQUIRE_PROGRAMS=1`, which makes
//! their absence a failure. Peers (Postfix, swaks) are skipped the same way unless
//! `HIKYAKU_REQUIRE_ORACLES=1`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

mod bad_starts;
mod delivery;
mod denied;
mod disk_full;
mod few_descriptors;
mod harness;
mod hostile_clients;
mod locked_memory;
mod missing_segments;
mod nothing_readable;
mod odd_servers;
mod own_log;
mod packages;
mod power;
mod real_peers;
mod reload;
mod reply_rules;
mod restart;
mod slow_far_ends;
mod stopping;
mod supervised;
mod system;
mod unread_segments;
