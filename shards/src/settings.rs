//! What the daemon itself is told by the configuration, and what it finds out of this host.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::config::Config;
use engine::policy::ReplyRules;
use engine::settings;
use engine::shard::Settings;

use crate::runtime::connect::ClientSetup;
use crate::runtime::resolver::ResolverSetup;

/// What one of `shards` shards is told.
pub(crate) fn shard(config: &Config, shards: u16, rules: &Arc<ReplyRules>) -> Settings {
    settings::shard(config, shards, rules, &host_addresses())
}

/// This host's addresses, as far as the kernel lists them in /proc.
fn host_addresses() -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    // Local IPv4 addresses are the "/32 host LOCAL" leaves of the local routing trie.
    let trie = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let mut last = None;
    for line in trie.lines() {
        let line = line.trim();
        if let Some(leaf) = line.strip_prefix("|-- ") {
            last = leaf.parse().ok().map(IpAddr::V4);
        } else if line.starts_with("/32 host LOCAL") {
            addresses.extend(last);
        }
    }
    let six = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    for line in six.lines() {
        let Some(hex) = line.split_whitespace().next() else {
            continue;
        };
        if let Ok(bits) = u128::from_str_radix(hex, 16) {
            addresses.push(IpAddr::V6(bits.into()));
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// How connections out behave.
pub(crate) fn client(config: &Config, connections_max: usize) -> ClientSetup {
    ClientSetup {
        settings: Rc::new(settings::client(config)),
        connect_timeout: Duration::from_millis(config.delivery.timeouts.connect_ms),
        connections_max,
    }
}

/// How DNS is asked.
pub(crate) fn resolver_setup(config: &Config, in_flight_max: usize) -> ResolverSetup {
    ResolverSetup {
        servers: config.dns.servers.clone(),
        timeout: Duration::from_millis(config.dns.timeout_ms),
        attempts: usize::from(config.dns.attempts),
        in_flight_max,
    }
}
