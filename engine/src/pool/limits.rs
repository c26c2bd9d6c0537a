//! What a site may be sent: sessions, what happens in them, and rates.

use std::collections::HashMap;
use std::rc::Rc;

use crate::clock::Mono;
use crate::policy::adapt::PaceBounds;
use crate::policy::bucket::{Bucket, Rate};
use crate::policy::{Effective, Key, Policy};

/// Time whose units may come at once, milliseconds: sites that wait are looked at each tick, so that a
/// bucket of less depth would lose what a tick takes.
const BURST_MS: u64 = 200;
/// Time whose units another shard is lent at a time, milliseconds: a tick's.
const LOT_MS: u64 = 100;

/// Least pace of a site where the policy says nothing, messages a minute.
pub(crate) const PACE_FLOOR_PER_MIN: u64 = 6;
/// What a site's pace wins a minute where the policy says nothing, percent.
const PACE_INCREASE_PERCENT: u64 = 30;

/// The limits of one site.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Default))]
pub(crate) struct Limits {
    /// Connections to one receiving site, all shards together.
    pub(crate) sessions_max: u32,
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
    /// Within what its pace moves.
    pub(crate) pace: PaceBounds,
}

/// A rate, and how it was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateLimit {
    /// All shards together.
    rate: Rate,
    /// Units of it.
    pub(crate) units: u64,
    /// Units that another shard is lent at a time, at most.
    lot: u32,
    pub(crate) key: Key,
}

impl RateLimit {
    fn new(key: Key, units: u64) -> Self {
        let seconds = match key {
            Key::MessagesPerSecond => 1,
            Key::MessagesPerMinute | Key::ConnectionsPerMinute => 60,
            Key::MessagesPerHour => 3600,
            _ => 86_400,
        };
        let burst = units * BURST_MS / (1000 * seconds) + 1;
        Self {
            rate: Rate::new(units, seconds, burst),
            units,
            lot: u32::try_from(units * LOT_MS / (1000 * seconds) + 1).unwrap_or(u32::MAX),
            key,
        }
    }
}

impl Limits {
    /// What `effective` sets; each of `shards` finds its own pace.
    fn new(effective: &Effective<'_>, site_backoff_ms: (u64, u64), shards: u16) -> Self {
        let count = |key| effective.count(key).and_then(|n| u32::try_from(n).ok());
        let number = |key| u32::try_from(effective.number(key)).unwrap_or(u32::MAX);
        let rate = |key| Some(RateLimit::new(key, effective.count(key)?));
        let rates = [
            Key::MessagesPerSecond,
            Key::MessagesPerMinute,
            Key::MessagesPerHour,
            Key::MessagesPerDay,
        ];
        Self {
            sessions_max: number(Key::SessionsMax),
            sessions_per_mta: count(Key::SessionsPerMta),
            messages_per_session_max: number(Key::MessagesPerSession),
            connection_ms_max: effective.number(Key::SessionTimeMax),
            connection_idle_ms_max: effective.number(Key::IdleTimeout),
            site_backoff_ms,
            messages: rates.map(rate),
            connections: rate(Key::ConnectionsPerMinute),
            pace: pace_bounds(effective, shards),
        }
    }
}

/// Of this shard: each finds its own pace, by its own mail.
fn pace_bounds(effective: &Effective<'_>, shards: u16) -> PaceBounds {
    let shards = u64::from(shards.max(1));
    let per_h = |(key, each): (Key, u64)| Some(effective.count(key)?.saturating_mul(each) / shards);
    let limits = [
        (Key::MessagesPerSecond, 3600),
        (Key::MessagesPerMinute, 60),
        (Key::MessagesPerHour, 1),
    ];
    let of = |key, default| effective.count(key).unwrap_or(default);
    PaceBounds {
        floor_per_h: of(Key::AdaptiveFloor, PACE_FLOOR_PER_MIN) * 60 / shards,
        ceiling_per_h: limits.into_iter().filter_map(per_h).min(),
        decrease_percent: of(Key::AdaptiveDecreasePercent, 0),
        increase_percent: of(Key::AdaptiveIncreasePercent, PACE_INCREASE_PERCENT),
    }
}

/// The limits of every site: by its provider.
#[derive(Debug)]
pub(crate) struct LimitsTable {
    default: Rc<Limits>,
    of_provider: HashMap<Box<str>, Rc<Limits>>,
}

impl LimitsTable {
    pub(crate) fn new(site_backoff_ms: (u64, u64), shards: u16, policy: &Policy) -> Self {
        let of = |name: Option<&str>| {
            Rc::new(Limits::new(
                &policy.of_provider(name),
                site_backoff_ms,
                shards,
            ))
        };
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

/// Units of messages, of connections: what [`lease`](crate::policy::lease) tells apart.
pub(super) const MESSAGES: usize = 0;
pub(super) const CONNECTIONS: usize = 1;

impl Limits {
    /// The rates that units of a kind count for.
    fn rates(&self, kind: usize) -> &[Option<RateLimit>] {
        if kind == MESSAGES {
            &self.messages
        } else {
            std::slice::from_ref(&self.connections)
        }
    }

    /// The rate with this number among those of its kind.
    pub(super) fn rate(&self, kind: usize, number: u8) -> Option<RateLimit> {
        *self.rates(kind).get(usize::from(number))?
    }

    /// Units that another shard is lent at a time, at most; `None` if they are not limited.
    pub(super) fn lot(&self, kind: usize) -> Option<u32> {
        let lots = self.rates(kind).iter().flatten().map(|limit| limit.lot);
        lots.min()
    }
}

/// What has been used of a site's rates, by all shards: kept by the shard that owns it.
#[derive(Debug, Default)]
pub(super) struct Used {
    messages: [Bucket; 4],
    connections: [Bucket; 1],
}

impl Used {
    fn of(&self, kind: usize) -> &[Bucket] {
        if kind == MESSAGES {
            &self.messages
        } else {
            &self.connections
        }
    }

    fn of_mut(&mut self, kind: usize) -> &mut [Bucket] {
        if kind == MESSAGES {
            &mut self.messages
        } else {
            &mut self.connections
        }
    }

    /// Whether a transaction may begin, or a connection be opened; else the number of the limit that is in the
    /// way, and milliseconds until it is not.
    pub(super) fn may_take(
        &self,
        kind: usize,
        limits: &Limits,
        now: Mono,
    ) -> Result<(), (u8, u64)> {
        for ((bucket, limit), n) in self.of(kind).iter().zip(limits.rates(kind)).zip(0..) {
            if let Some(limit) = limit
                && let Err(wait_us) = bucket.may_take(limit.rate, now)
            {
                return Err((n, wait_us.div_ceil(1000)));
            }
        }
        Ok(())
    }

    pub(super) fn take(&mut self, kind: usize, limits: &Limits, now: Mono) {
        for (bucket, limit) in self.of_mut(kind).iter_mut().zip(limits.rates(kind)) {
            if let Some(limit) = limit {
                bucket.take(limit.rate, 1, now);
            }
        }
    }

    /// Units that were lent have not been used.
    pub(super) fn give_back(&mut self, kind: usize, limits: &Limits, units: u64) {
        for (bucket, limit) in self.of_mut(kind).iter_mut().zip(limits.rates(kind)) {
            if let Some(limit) = limit {
                bucket.give_back(limit.rate, units);
            }
        }
    }

    /// Whether there is nothing to remember of a site.
    pub(super) fn is_over(&self, now: Mono) -> bool {
        let mut buckets = self.messages.iter().chain(&self.connections);
        buckets.all(|bucket| bucket.is_full(now))
    }

    /// Limits have changed: what was used of a rate that is another now says nothing of that.
    pub(super) fn forget_changed(&mut self, before: &Limits, after: &Limits) {
        for kind in [MESSAGES, CONNECTIONS] {
            let rate = |limit: &Option<RateLimit>| limit.map(|limit| limit.rate);
            let pairs = before.rates(kind).iter().zip(after.rates(kind));
            for (bucket, (before, after)) in self.of_mut(kind).iter_mut().zip(pairs) {
                if rate(before) != rate(after) {
                    *bucket = Bucket::default();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asked at each tick only, a bucket of less depth gave a third.
    #[test]
    fn shard_that_waits_for_ticks_gets_all_of_a_rate() {
        let messages = RateLimit::new(Key::MessagesPerSecond, 125);
        let limits = Limits {
            messages: [Some(messages), None, None, None],
            ..Limits::default()
        };
        let (mut used, mut sent) = (Used::default(), 0);
        for tick in 10..110 {
            let now = Mono(tick * 100_000);
            while used.may_take(MESSAGES, &limits, now).is_ok() {
                used.take(MESSAGES, &limits, now);
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
                Some(RateLimit::new(Key::MessagesPerDay, units)),
            ],
            ..Limits::default()
        };
        let (mut used, now) = (Used::default(), Mono(1_000_000));
        used.take(MESSAGES, &limits(1), now);
        used.forget_changed(&limits(1), &limits(1));
        assert!(used.may_take(MESSAGES, &limits(1), now).is_err());
        used.forget_changed(&limits(1), &limits(1000));
        assert!(used.may_take(MESSAGES, &limits(1000), now).is_ok());
    }
}
