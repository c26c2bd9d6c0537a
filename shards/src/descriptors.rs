//! Open files: how many this process may have, and who may have how many of them.
//!
//! A process that runs out of descriptors can neither accept nor connect nor open a segment, and its
//! control plane falls silent just when it is wanted. So the limit is raised as far as it goes, what
//! files and the control plane need at most is set aside, and SMTP sessions get what is left. Each
//! part keeps to its own bound; nobody asks here while running.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::control::CONTROL_DESCRIPTORS_MAX;
use crate::runtime::disk::OPEN_FILES_MAX;

/// More is not asked for: programs that a key source starts may close every number up to the limit.
const LIMIT_MAX: u64 = 1 << 20;

/// Of the process: standard streams, locks, signals, the resolver's and the library's own.
const PROCESS_DESCRIPTORS: u64 = 64;

/// Of a shard beside its segment files: rings, wake-ups, listeners, folders, files being renamed.
const SHARD_DESCRIPTORS: u64 = 32;

/// Sockets of one DNS question: A and AAAA are asked at the same time.
const DNS_DESCRIPTORS: u64 = 2;

/// DNS questions with the servers at a time, where there is room.
const DNS_IN_FLIGHT_MAX: u64 = 1024;

/// Fewer sessions than this are not worth a start.
const SESSIONS_MIN: u64 = 32;

/// What each part may have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptors {
    /// SMTP sessions in, in all.
    pub(crate) sessions_max: u32,
    /// Connections out, of each shard.
    pub(crate) connections_max: usize,
    /// DNS questions with the servers at a time.
    pub(crate) dns_in_flight_max: usize,
}

impl Descriptors {
    /// Shares `limit` open files out: `sessions_wanted` sessions in if there is room, at most half
    /// of what the others leave; the rest is for connections out.
    ///
    /// # Errors
    /// One line for the operator if so few are left that no mail would get through.
    pub(crate) fn share(limit: u64, shards: u16, sessions_wanted: u32) -> Result<Self, String> {
        let shards = u64::from(shards.max(1));
        let dns = (limit / 16).clamp(16, DNS_IN_FLIGHT_MAX);
        let aside = PROCESS_DESCRIPTORS
            + CONTROL_DESCRIPTORS_MAX as u64
            + shards * (SHARD_DESCRIPTORS + OPEN_FILES_MAX as u64)
            + DNS_DESCRIPTORS * dns;
        let left = limit.saturating_sub(aside);
        if left < 2 * SESSIONS_MIN {
            let least = aside + 2 * SESSIONS_MIN;
            return Err(format!(
                "only {limit} open files are allowed, {shards} shards need {least}: raise the hard limit \
                 (LimitNOFILE= in the unit, ulimit -Hn) or set server.shards lower"
            ));
        }
        let sessions = u64::from(sessions_wanted).min(left / 2);
        Ok(Self {
            sessions_max: sessions as u32,
            connections_max: usize::try_from((left - sessions) / shards).unwrap_or(usize::MAX),
            dns_in_flight_max: dns as usize,
        })
    }
}

/// Raises the soft limit of open files to the hard one; how many are allowed now.
pub(crate) fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(u64::MAX).min(LIMIT_MAX);
    if current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            maximum,
        };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            return wanted;
        }
    }
    current.unwrap_or(LIMIT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybodys_share_together_stays_within_the_limit() {
        for (limit, shards, wanted) in [
            (600, 1, 10_000),
            (1_024, 4, 10_000),
            (65_536, 8, 10_000),
            (1 << 20, 64, 1_000_000),
        ] {
            let share = Descriptors::share(limit, shards, wanted).unwrap();
            let all = PROCESS_DESCRIPTORS
                + CONTROL_DESCRIPTORS_MAX as u64
                + u64::from(shards)
                    * (SHARD_DESCRIPTORS + (OPEN_FILES_MAX + share.connections_max) as u64)
                + DNS_DESCRIPTORS * share.dns_in_flight_max as u64
                + u64::from(share.sessions_max);
            assert!(all <= limit, "{limit}: {share:?}");
            assert!(share.sessions_max >= SESSIONS_MIN as u32 && share.connections_max > 0);
        }
        let roomy = Descriptors::share(65_536, 8, 10_000).unwrap();
        assert_eq!(roomy.sessions_max, 10_000, "as configured where it fits");
        assert_eq!(roomy.dns_in_flight_max, 1_024);
    }

    #[test]
    fn too_few_say_what_to_raise() {
        let why = Descriptors::share(256, 8, 100).unwrap_err();
        assert!(why.contains("256") && why.contains("LimitNOFILE="), "{why}");
    }
}
