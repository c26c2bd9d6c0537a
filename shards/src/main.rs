//! The daemon hikyakud: pinned shards that carry out what the engine decides.

fn main() {}
