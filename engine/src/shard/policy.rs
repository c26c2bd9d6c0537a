//! What the sending policy says of a destination's mail: when it is tried again, and how long.
//!
//! What a site may be sent is the pool's: [`LimitsTable`](crate::pool::LimitsTable).

use super::ShardCore;
use super::judge::Again;
use crate::dns::Targets;
use crate::policy::{Key, Subject};
use crate::schedule::destination::DestinationId;
use crate::schedule::retry::{ASKED_MS_MAX, RetryClass, RetrySchedule};

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

    /// How old a destination's mail becomes, milliseconds.
    pub(super) fn expire_after_ms(&self, id: DestinationId) -> u64 {
        let policy = &self.settings.policy;
        // Asked for each message that is taken: most policies have nothing to say here.
        if !policy.is_set(Key::ExpireAfter) {
            return policy.default_number(Key::ExpireAfter);
        }
        let destination = self.mail.destination(id);
        let domain = destination.domain.as_str();
        let effective = policy.of_domain(destination.provider.as_deref(), domain);
        // Nothing expires by the time of all others before it is known whose it is.
        let least_ms = if destination.is_provider_known {
            0
        } else {
            policy.provider_expiry_ms_max(domain)
        };
        effective.number(Key::ExpireAfter).max(least_ms)
    }

    /// Milliseconds until a destination's mail is tried again, after so many attempts.
    pub(super) fn wait_ms(&mut self, id: DestinationId, attempts: u16, again: Again) -> u64 {
        let (class, least_ms) = match again {
            Again::Scheduled(class) => (class, 0),
            Again::Greylisted(asked_ms) => (RetryClass::Greylisted, asked_ms),
            Again::AfterMs(wait_ms) => {
                let retry = self.retry_of(id);
                return retry.spread_ms(wait_ms, &mut self.random);
            }
        };
        let mut retry = self.retry_of(id);
        match self.class_delays_ms(id, class) {
            Some(delays_ms) => retry.delays_ms = delays_ms,
            None if class == RetryClass::Greylisted => retry = retry.greylisted(),
            None => {}
        }
        retry.delay_ms(attempts, &mut self.random).max(least_ms)
    }

    /// Delays that the policy has for such failures alone.
    fn class_delays_ms(&self, id: DestinationId, class: RetryClass) -> Option<Vec<u64>> {
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
        effective.durations_ms(key).map(<[u64]>::to_vec)
    }

    /// The longest that any mail may have been told to wait for its next attempt, milliseconds, or more:
    /// whose mail it is, and why it waits, is not known after a start.
    pub(super) fn longest_retry_ms(&self) -> u64 {
        let policy = &self.settings.policy;
        let of_all = policy.of_provider(None).steps_ms(Key::RetrySchedule);
        let of_all_ms = of_all.iter().copied().max().unwrap_or(0);
        let delay_ms = (self.settings.rules.retry_ms_max())
            .max(policy.retry_ms_max())
            .max(of_all_ms)
            .max(ASKED_MS_MAX);
        delay_ms.saturating_mul(2)
    }

    /// Retry delays of a destination's mail.
    pub(super) fn retry_of(&self, id: DestinationId) -> RetrySchedule {
        let policy = &self.settings.policy;
        let destination = self.mail.destination(id);
        let effective =
            policy.of_domain(destination.provider.as_deref(), destination.domain.as_str());
        let jitter = effective.number(Key::RetryJitterPercent);
        RetrySchedule {
            delays_ms: effective.steps_ms(Key::RetrySchedule).into_owned(),
            jitter_percent: u8::try_from(jitter).unwrap_or(0),
        }
    }
}
