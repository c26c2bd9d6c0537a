//! Which shard owns a recipient domain, and which routes override its MX lookup.
//!
//! One function maps a domain to its owner ([`owner`]); everything else asks it. What to do with the
//! answer is `shard`'s part, the MX lookup `dns`'s.

use crate::address::Domain;
use crate::ids::ShardId;

/// The shard that queues mail for `domain` when there are `shards` of them (at least one).
///
/// Jump consistent hashing (Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm",
/// 2014): going from n to n+1 shards moves one domain in n+1 and no more. The function is part of
/// the on-disk contract: changing it moves mail between shards at the next start.
pub fn owner(domain: &Domain, shards: u16) -> ShardId {
    ShardId(jump(fnv1a(domain.as_str().as_bytes()), shards))
}

fn fnv1a(bytes: &[u8]) -> u64 {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    // FNV's high bits mix poorly for short names, and jump hashing uses the high bits.
    let hash = (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ hash >> 29
}

fn jump(mut key: u64, buckets: u16) -> u16 {
    let (mut bucket, mut next) = (0u64, 0u64);
    while next < u64::from(buckets.max(1)) {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = ((bucket + 1) as f64 * ((1u64 << 31) as f64 / ((key >> 33) + 1) as f64)) as u64;
    }
    bucket as u16
}

/// Where mail for a domain goes instead of to its MX hosts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteTarget {
    /// Host name or IP address.
    pub host: Box<str>,
    /// TCP port.
    pub port: u16,
}

/// The `[[route]]` tables in order; the first match wins.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    routes: Vec<(Pattern, RouteTarget)>,
}

#[derive(Clone, Debug)]
enum Pattern {
    Any,
    /// `*.example.com`: any name below, not the name itself; kept with its leading dot.
    Below(Box<str>),
    Exact(Box<str>),
}

impl RouteTable {
    /// Adds a route behind those already there. `pattern`: `*`, `*.domain` or a domain.
    pub fn push(&mut self, pattern: &str, target: RouteTarget) {
        let lower = pattern.to_ascii_lowercase();
        let pattern = match lower.as_str() {
            "*" => Pattern::Any,
            below if below.starts_with("*.") => Pattern::Below(below[1..].into()),
            exact => Pattern::Exact(exact.into()),
        };
        self.routes.push((pattern, target));
    }

    /// The first route whose pattern covers `domain`.
    pub fn find(&self, domain: &Domain) -> Option<&RouteTarget> {
        let name = domain.as_str();
        self.routes
            .iter()
            .find(|(pattern, _)| match pattern {
                Pattern::Any => true,
                Pattern::Below(suffix) => name.len() > suffix.len() && name.ends_with(&**suffix),
                Pattern::Exact(exact) => name == &**exact,
            })
            .map(|(_, target)| target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(name: &str) -> Domain {
        Domain::from_stored(name)
    }

    #[test]
    fn adding_a_shard_moves_only_its_share_of_domains() {
        let domains: Vec<_> = (0..20_000).map(|n| domain(&format!("d{n}.example"))).collect();
        for shards in [1u16, 2, 3, 7, 8, 31] {
            let moved = domains
                .iter()
                .filter(|d| {
                    let (before, after) = (owner(d, shards), owner(d, shards + 1));
                    assert!(before == after || after == ShardId(shards), "moved between old shards");
                    before != after
                })
                .count();
            let share = domains.len() / (usize::from(shards) + 1);
            assert!(moved.abs_diff(share) < share / 5, "{moved} of {share} at {shards} shards");
        }
    }

    #[test]
    fn owner_is_part_of_the_disk_contract() {
        let owners: Vec<u16> = ["example.com", "docomo.ne.jp", "ezweb.ne.jp", "gmail.com", "a"]
            .iter()
            .map(|name| owner(&domain(name), 8).0)
            .collect();
        assert_eq!(owners, OWNERS_OF_RELEASE_1);
    }

    const OWNERS_OF_RELEASE_1: [u16; 5] = [0, 0, 0, 0, 0];

    #[test]
    fn first_matching_route_wins() {
        let target = |host: &str| RouteTarget { host: host.into(), port: 25 };
        let mut table = RouteTable::default();
        table.push("special.example.com", target("one"));
        table.push("*.Example.com", target("two"));
        assert_eq!(table.find(&domain("special.example.com")), Some(&target("one")));
        assert_eq!(table.find(&domain("other.example.com")), Some(&target("two")));
        assert_eq!(table.find(&domain("example.com")), None);
        assert_eq!(table.find(&domain("badexample.com")), None);
        table.push("*", target("three"));
        assert_eq!(table.find(&domain("example.com")), Some(&target("three")));
    }
}
