//! Which shard owns a recipient domain, and which routes override its MX lookup.
//!
//! One function maps a domain to its owner ([`owner`]); everything else asks it. What to do with the
//! answer is `shard`'s part, the MX lookup `dns`'s.

use crate::address::Domain;
use crate::ids::ShardId;
use crate::net::{DomainPattern, NextHop};

/// The shard that queues mail for `domain` when there are `shards` of them (at least one).
///
/// Jump consistent hashing (Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm",
/// 2014): going from n to n+1 shards moves one domain in n+1 and no more. The function is part of
/// the on-disk contract: changing it moves mail between shards at the next start.
pub fn owner(domain: &Domain, shards: u16) -> ShardId {
    ShardId(jump(fnv1a(domain.as_str().as_bytes()), shards))
}

fn fnv1a(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
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

/// The `[[route]]` tables in order; the first match wins.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    routes: Vec<(DomainPattern, Vec<NextHop>)>,
}

impl RouteTable {
    /// Adds a route behind those already there; `to`: next hops in the order in which to try them.
    pub fn push(&mut self, domain: DomainPattern, to: Vec<NextHop>) {
        self.routes.push((domain, to));
    }

    /// The next hops of the first route that covers `domain`.
    pub fn find(&self, domain: &Domain) -> Option<&[NextHop]> {
        let covers = |(pattern, _): &&(DomainPattern, _)| pattern.matches(domain.as_str());
        self.routes.iter().find(covers).map(|(_, to)| to.as_slice())
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
        let domains: Vec<_> = (0..20_000)
            .map(|n| domain(&format!("d{n}.example")))
            .collect();
        for shards in [1u16, 2, 3, 7, 8, 31] {
            let moved = domains
                .iter()
                .filter(|d| {
                    let (before, after) = (owner(d, shards), owner(d, shards + 1));
                    assert!(
                        before == after || after == ShardId(shards),
                        "moved between old shards"
                    );
                    before != after
                })
                .count();
            let share = domains.len() / (usize::from(shards) + 1);
            assert!(
                moved.abs_diff(share) < share / 5,
                "{moved} of {share} at {shards} shards"
            );
        }
    }

    #[test]
    fn owner_is_part_of_the_disk_contract() {
        let owners: Vec<u16> = [
            "example.com",
            "docomo.ne.jp",
            "ezweb.ne.jp",
            "gmail.com",
            "a",
        ]
        .iter()
        .map(|name| owner(&domain(name), 8).0)
        .collect();
        assert_eq!(owners, OWNERS_OF_RELEASE_1);
    }

    const OWNERS_OF_RELEASE_1: [u16; 5] = [7, 2, 0, 6, 6];

    #[test]
    fn first_matching_route_wins() {
        let to = |host: &str| vec![NextHop::Host(host.into(), 25)];
        let mut table = RouteTable::default();
        let mut push = |pattern: &str, host| {
            table.push(DomainPattern::parse(pattern).unwrap(), to(host));
        };
        push("special.example.com", "one");
        push("*.example.com", "two");
        push("example.org", "three");
        assert_eq!(
            table.find(&domain("special.example.com")),
            Some(&*to("one"))
        );
        assert_eq!(table.find(&domain("other.example.com")), Some(&*to("two")));
        assert_eq!(table.find(&domain("example.com")), None);
        assert_eq!(table.find(&domain("badexample.com")), None);
    }
}
