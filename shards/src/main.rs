//! The daemon hikyakud: pinned shards that carry out what the engine decides.

#[cfg_attr(not(test), expect(dead_code, reason = "served once the daemon starts it"))]
mod control;

fn main() {}
