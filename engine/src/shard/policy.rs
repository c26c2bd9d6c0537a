//! What the sending policy says of a destination's mail: when it is tried again, and how long.
//!
//! What a site may be sent is the pool's: [`LimitsTable`](crate::pool::LimitsTable).

use std::borrow::Cow;

use super::ShardCore;
use super::judge::Again;
use crate::dns::Targets;
use crate::policy::{Key, Subject};
use crate::schedule::destination::DestinationId;
use crate::schedule::retry::{ASKED_S_MAX, RetryClass, RetrySchedule};

fn seconds(ms: u64) -> u32 {
    u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX)
}

impl ShardCore {
    /// The provider that a destination's mail goes to by way of `targets`. Where a route leads, it is the
    /// route's hosts that count, not whose domain it is.
    pub(super) fn provider_of(&self, id: DestinationId, targets: &Targets) -> Option<Box<str>> {
        let domain = &self.mail.destination(id).domain;
        let is_routed = self.settings.routes.find(domain).is_some();
        let mx_hosts: Vec<&str> = targets.list.iter().map(|target| &*target.host).collect();
        let subject = Subject {
            domain: if is_routed { "" } else { domain.as_str() },
            mx_hosts: &mx_hosts,
        };
        self.settings.policy.provider_of(&subject).map(Box::from)
    }

    /// How old a destination's mail becomes, seconds.
    pub(super) fn expire_after_s(&self, id: DestinationId) -> u32 {
        let policy = &self.settings.policy;
        let default_s = self.settings.retry.expire_after_s;
        // Asked for each message that is taken: most policies have nothing to say here.
        if !policy.is_set(Key::ExpireAfter) {
            return default_s;
        }
        let destination = self.mail.destination(id);
        let domain = destination.domain.as_str();
        let effective = policy.of_domain(destination.provider.as_deref(), domain);
        let expire = effective.duration_ms(Key::ExpireAfter);
        // Nothing expires by the time of all others before it is known whose it is.
        let least_s = if destination.is_provider_known {
            0
        } else {
            seconds(policy.provider_expiry_ms_max(domain))
        };
        expire.map_or(default_s, seconds).max(least_s)
    }

    /// Seconds until a destination's mail is tried again, after so many attempts.
    pub(super) fn wait_s(&mut self, id: DestinationId, attempts: u16, again: Again) -> u32 {
        let (class, least_s) = match again {
            Again::Scheduled(class) => (class, 0),
            Again::Greylisted(asked_s) => (RetryClass::Greylisted, asked_s),
            Again::After(wait_s) => {
                let retry = self.retry_of(id).into_owned();
                return retry.spread_s(wait_s, &mut self.random);
            }
        };
        let mut retry = self.retry_of(id).into_owned();
        match self.class_delays_s(id, class) {
            Some(delays_s) => retry.delays_s = delays_s,
            None if class == RetryClass::Greylisted => retry = retry.greylisted(),
            None => {}
        }
        retry.delay_s(attempts, &mut self.random).max(least_s)
    }

    /// Delays that the policy has for such failures alone.
    fn class_delays_s(&self, id: DestinationId, class: RetryClass) -> Option<Vec<u32>> {
        let key = match class {
            RetryClass::Greylisted => Key::RetryGreylisted,
            RetryClass::Mailbox => Key::RetryMailbox,
            RetryClass::Transient => Key::RetryTransient,
            RetryClass::Policy => Key::RetryPolicy,
            RetryClass::Other => return None,
        };
        let policy = &self.settings.policy;
        if !policy.is_set(key) {
            return None;
        }
        let destination = self.mail.destination(id);
        let effective =
            policy.of_domain(destination.provider.as_deref(), destination.domain.as_str());
        let delays = effective.durations_ms(key)?;
        Some(delays.iter().map(|ms| seconds(*ms)).collect())
    }

    /// The longest that any mail may have been told to wait for its next attempt, seconds, or more: whose
    /// mail it is, and why it waits, is not known after a start.
    pub(super) fn longest_retry_s(&self) -> u32 {
        let of_rules_ms = self.settings.rules.retry_ms_max();
        let of_policy_ms = self.settings.policy.retry_ms_max();
        let delay_s = seconds(of_rules_ms.max(of_policy_ms)).max(ASKED_S_MAX);
        (self.settings.retry.longest_s()).max(delay_s.saturating_mul(2))
    }

    /// Retry delays of a destination's mail, and its expiry.
    pub(super) fn retry_of(&self, id: DestinationId) -> Cow<'_, RetrySchedule> {
        let (policy, retry) = (&self.settings.policy, &self.settings.retry);
        let keys = [
            Key::RetrySchedule,
            Key::RetryJitterPercent,
            Key::ExpireAfter,
        ];
        if !keys.into_iter().any(|key| policy.is_set(key)) {
            return Cow::Borrowed(retry);
        }
        let destination = self.mail.destination(id);
        let effective =
            policy.of_domain(destination.provider.as_deref(), destination.domain.as_str());
        let delays = effective.durations_ms(Key::RetrySchedule);
        let jitter = effective.count(Key::RetryJitterPercent);
        Cow::Owned(RetrySchedule {
            delays_s: delays.map_or_else(
                || retry.delays_s.clone(),
                |delays| delays.iter().map(|ms| seconds(*ms)).collect(),
            ),
            jitter_percent: jitter
                .and_then(|percent| u8::try_from(percent).ok())
                .unwrap_or(retry.jitter_percent),
            expire_after_s: self.expire_after_s(id),
        })
    }
}
