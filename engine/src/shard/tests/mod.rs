//! What becomes of mail in a shard whose outside is scripted (`relay`).

mod admit;
mod clock;
mod disk;
mod lookups;
mod memory;
mod operator;
mod outside;
mod policy;
mod recipients;
mod relay;
mod restart;
mod rules;
mod sites;
mod stops;
mod window;
