//! `[dns]`: how names are looked up.

use std::net::{IpAddr, SocketAddr};

use super::listen::socket_address;
use super::reader::Reader;
use super::{D, M, S};
use crate::shard::QUESTIONS_MAX;

/// `[dns]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Recursive servers; empty: those of the system.
    pub servers: Vec<SocketAddr>,
    /// Wait for one answer, ms.
    pub timeout_ms: u64,
    /// Tries per server.
    pub attempts: u8,
    /// Cached answers per shard.
    pub cache_entries_max: u32,
    /// Longest time an answer is kept, whatever its TTL, ms.
    pub ttl_ms_max: u64,
    /// Longest time the absence of an answer is kept, ms.
    pub negative_ttl_ms_max: u64,
    /// Questions in flight per shard.
    pub queries_max: u32,
}

pub(super) fn read(r: &mut Reader<'_, '_>) -> Dns {
    Dns {
        servers: r.at_start("servers", |r, key| {
            r.list(
                key,
                "list of IP addresses, port 53 unless given",
                &[],
                16,
                |text| match text.parse::<IpAddr>() {
                    Ok(address) => Ok(SocketAddr::new(address, 53)),
                    Err(_) => socket_address(text),
                },
            )
        }),
        timeout_ms: r.at_start("timeout", |r, key| r.duration_ms(key, 5 * S, 100..=M)),
        attempts: r.at_start("attempts", |r, key| r.number(key, 2, 1..=10)),
        cache_entries_max: r.at_start("cache_entries_max", |r, key| {
            r.number(key, 100_000, 100..=10_000_000)
        }),
        ttl_ms_max: r.duration_ms("ttl_max", D, S..=7 * D),
        negative_ttl_ms_max: r.duration_ms("negative_ttl_max", 15 * M, 0..=D),
        queries_max: r.number("queries_max", 1_000, 1..=QUESTIONS_MAX as u32),
    }
}
