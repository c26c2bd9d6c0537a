//! What a site may be sent: sessions, what happens in them, and rates.

use std::collections::HashMap;
use std::rc::Rc;

use crate::clock::{Mono, UnixMs};
use crate::ids::ShardId;
use crate::policy::bucket::{Bucket, Rate};
use crate::policy::{Effective, Key, Policy};

/// Time whose units may come at once, milliseconds: sites that wait are looked at each tick, so that a
/// bucket of less depth would lose what a tick takes.
const BURST_MS: u64 = 200;

/// This shard's part of the sessions that all shards together may have to a site. Whoever lends
/// sessions by demand answers the same question: how many of this site's are ours now.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(test, derive(Default))]
pub(crate) struct SessionsShare {
    /// Connections to one receiving site, in all shards.
    pub(crate) sessions_max: u32,
    pub(crate) shards: u16,
    pub(crate) me: ShardId,
}

/// How long the sessions of a site are with the same shards where there are fewer of them, milliseconds.
const TURN_MS: u64 = 60_000;
/// The end of a turn, in which nothing is begun, milliseconds.
const TURN_REST_MS: u64 = 20_000;

impl SessionsShare {
    /// How many of the sessions to the site with this `hash` are ours: over all shards they add up to
    /// `sessions_max`. Where there are fewer sessions than shards they go round by the minute.
    pub(crate) fn of(&self, hash: u32, now: UnixMs) -> u32 {
        let shards = u32::from(self.shards.max(1));
        let (each, rest) = (self.sessions_max / shards, self.sessions_max % shards);
        if rest == 0 {
            return each;
        }
        let turn = if each == 0 {
            (now.0 / TURN_MS) as u32
        } else {
            0
        };
        let place = (hash % shards + u32::from(self.me.0) + turn % shards) % shards;
        // Places move up by one a turn: the last one's is over next, and another's begins.
        let is_last = each == 0 && place + 1 == rest;
        let is_resting = is_last && now.0 % TURN_MS >= TURN_MS - TURN_REST_MS;
        each + u32::from(place < rest && !is_resting)
    }
}

/// The limits of one site.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Default))]
pub(crate) struct Limits {
    pub(crate) sessions: SessionsShare,
    /// Sessions for each receiving address, all shards together.
    pub(crate) sessions_per_mta: Option<u32>,
    /// Transactions over one connection.
    pub(crate) messages_per_session_max: u32,
    /// How long a connection is given new transactions, milliseconds.
    pub(crate) connection_ms_max: u64,
    /// How long a connection is kept without mail, milliseconds.
    pub(crate) connection_idle_ms_max: u64,
    /// Shortest and longest time a site is left alone after no target would have us, milliseconds.
    pub(crate) site_backoff_ms: (u64, u64),
    /// Transactions a second, a minute, an hour, a day; those that are limited.
    pub(crate) messages: [Option<RateLimit>; 4],
    /// New connections a minute.
    pub(crate) connections: Option<RateLimit>,
}

/// A rate, and how it was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateLimit {
    /// This shard's part.
    rate: Rate,
    /// Units, all shards together.
    pub(crate) units: u64,
    pub(crate) key: Key,
}

impl RateLimit {
    fn new(key: Key, units: u64, shards: u16) -> Self {
        let seconds = match key {
            Key::MessagesPerSecond => 1,
            Key::MessagesPerMinute | Key::ConnectionsPerMinute => 60,
            Key::MessagesPerHour => 3600,
            _ => 86_400,
        };
        // Of the whole: its depth is the same time for each part.
        let burst = units * BURST_MS / (1000 * seconds) + 1;
        Self {
            rate: Rate::new(units, seconds, burst).part(u64::from(shards.max(1))),
            units,
            key,
        }
    }
}

impl Limits {
    /// What `effective` sets for this shard, which has its part of what all have together.
    fn new(effective: &Effective<'_>, base: &LimitsBase) -> Self {
        let count = |key| effective.count(key).and_then(|n| u32::try_from(n).ok());
        let number = |key| u32::try_from(effective.number(key)).unwrap_or(u32::MAX);
        let rate = |key| {
            let units = effective.count(key)?;
            Some(RateLimit::new(key, units, base.shards))
        };
        let rates = [
            Key::MessagesPerSecond,
            Key::MessagesPerMinute,
            Key::MessagesPerHour,
            Key::MessagesPerDay,
        ];
        Self {
            sessions: SessionsShare {
                sessions_max: number(Key::SessionsMax),
                shards: base.shards,
                me: base.me,
            },
            sessions_per_mta: count(Key::SessionsPerMta),
            messages_per_session_max: number(Key::MessagesPerSession),
            connection_ms_max: effective.number(Key::SessionTimeMax),
            connection_idle_ms_max: effective.number(Key::IdleTimeout),
            site_backoff_ms: base.site_backoff_ms,
            messages: rates.map(rate),
            connections: rate(Key::ConnectionsPerMinute),
        }
    }
}

/// What limits are made of beside the policy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LimitsBase {
    pub(crate) me: ShardId,
    pub(crate) shards: u16,
    /// As in [`Limits`].
    pub(crate) site_backoff_ms: (u64, u64),
}

/// The limits of every site: by its provider.
#[derive(Debug)]
pub(crate) struct LimitsTable {
    default: Rc<Limits>,
    of_provider: HashMap<Box<str>, Rc<Limits>>,
}

impl LimitsTable {
    pub(crate) fn new(base: &LimitsBase, policy: &Policy) -> Self {
        let of = |name: Option<&str>| Rc::new(Limits::new(&policy.of_provider(name), base));
        let providers = policy.providers();
        Self {
            default: of(None),
            of_provider: providers
                .map(|name| (name.into(), of(Some(name))))
                .collect(),
        }
    }

    pub(super) fn of(&self, provider: Option<&str>) -> &Rc<Limits> {
        provider
            .and_then(|name| self.of_provider.get(name))
            .unwrap_or(&self.default)
    }
}

/// What has been used of a site's rates.
#[derive(Debug, Default)]
pub(super) struct Used {
    messages: [Bucket; 4],
    connections: Bucket,
}

impl Used {
    /// Whether a transaction may begin; else the limit that is in the way, and milliseconds until it is
    /// not.
    pub(super) fn may_send(&self, limits: &Limits, now: Mono) -> Result<(), (RateLimit, u64)> {
        for (bucket, limit) in self.messages.iter().zip(&limits.messages) {
            if let Some(limit) = limit
                && let Err(wait_us) = bucket.may_take(limit.rate, now)
            {
                return Err((*limit, wait_us.div_ceil(1000)));
            }
        }
        Ok(())
    }

    /// Limits have changed: what was used of a rate that is another now says nothing of that.
    pub(super) fn forget_changed(&mut self, before: &Limits, after: &Limits) {
        let is_changed = |before: Option<RateLimit>, after: Option<RateLimit>| {
            before.map(|limit| limit.rate) != after.map(|limit| limit.rate)
        };
        for (n, bucket) in self.messages.iter_mut().enumerate() {
            if is_changed(before.messages[n], after.messages[n]) {
                *bucket = Bucket::default();
            }
        }
        if is_changed(before.connections, after.connections) {
            self.connections = Bucket::default();
        }
    }

    pub(super) fn send(&mut self, limits: &Limits, now: Mono) {
        for (bucket, limit) in self.messages.iter_mut().zip(&limits.messages) {
            if let Some(limit) = limit {
                bucket.take(limit.rate, 1, now);
            }
        }
    }

    /// The same for a connection.
    pub(super) fn may_connect(&self, limits: &Limits, now: Mono) -> Result<(), (RateLimit, u64)> {
        let Some(limit) = limits.connections else {
            return Ok(());
        };
        self.connections
            .may_take(limit.rate, now)
            .map_err(|wait_us| (limit, wait_us.div_ceil(1000)))
    }

    pub(super) fn connect(&mut self, limits: &Limits, now: Mono) {
        if let Some(limit) = limits.connections {
            self.connections.take(limit.rate, 1, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asked at each tick only, a shard of many got a third of its part.
    #[test]
    fn shard_that_waits_for_ticks_gets_its_part_of_a_rate() {
        let messages = RateLimit::new(Key::MessagesPerSecond, 1000, 8);
        let limits = Limits {
            messages: [Some(messages), None, None, None],
            ..Limits::default()
        };
        let (mut used, mut sent) = (Used::default(), 0);
        for tick in 10..110 {
            let now = Mono(tick * 100_000);
            while used.may_send(&limits, now).is_ok() {
                used.send(&limits, now);
                sent += 1;
            }
        }
        assert!((1240..=1280).contains(&sent), "{sent} of 1250");
    }

    /// An operator who had raised one message a day to a thousand waited for the next day.
    #[test]
    fn rate_that_was_raised_holds_at_once() {
        let limits = |units| Limits {
            messages: [
                None,
                None,
                None,
                Some(RateLimit::new(Key::MessagesPerDay, units, 1)),
            ],
            ..Limits::default()
        };
        let (mut used, now) = (Used::default(), Mono(1_000_000));
        used.send(&limits(1), now);
        used.forget_changed(&limits(1), &limits(1));
        assert!(used.may_send(&limits(1), now).is_err());
        used.forget_changed(&limits(1), &limits(1000));
        assert!(used.may_send(&limits(1000), now).is_ok());
    }

    #[test]
    fn shares_of_a_site_add_up_to_its_sessions_and_every_shard_has_its_turn() {
        for (sessions_max, shards) in [(3, 2), (20, 8), (7, 3), (8, 8), (1, 4), (3, 8)] {
            for hash in [0x811c_9dc5, 7, u32::MAX] {
                let mut served = vec![false; usize::from(shards)];
                for second in 0..60 * u64::from(shards) {
                    let shares: Vec<u32> = (0..shards)
                        .map(|me| {
                            let share = SessionsShare {
                                sessions_max,
                                shards,
                                me: ShardId(me),
                            };
                            share.of(hash, UnixMs(second * 1000))
                        })
                        .collect();
                    let sum: u32 = shares.iter().sum();
                    assert!(sum <= sessions_max, "{shares:?}");
                    let is_turn_over = sessions_max < u32::from(shards) && second % 60 >= 40;
                    let least = sessions_max - u32::from(is_turn_over);
                    assert!(sum >= least, "only one shard's turn is over: {shares:?}");
                    for (served, share) in served.iter_mut().zip(shares) {
                        *served |= share > 0;
                    }
                }
                assert!(
                    served.iter().all(|served| *served),
                    "{sessions_max} {shards}"
                );
            }
        }
    }
}
