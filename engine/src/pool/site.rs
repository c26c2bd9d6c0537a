//! A receiving site: what several domains with the same MX hosts share. Its targets in order of
//! preference, its books of connections, its round of destinations with ready mail, its back-off.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use super::conns::ConnId;
use super::lease::{Lease, LeaseKey};
use super::limits::{Limits, Used};
use super::rests::Rests;
use crate::clock::{Mono, Now};
use crate::dns::{Target, Targets};
use crate::policy::adapt::{Adapt, PaceView};
use crate::schedule::destination::DestinationId;
use crate::smtp::reply::Reply;

/// How long an address that refused or failed is passed over, milliseconds.
pub const TARGET_COOLDOWN_MS: u64 = 60_000;

/// What makes two domains share a site: MX hosts and port, as in [`Targets::site`], and the provider whose
/// limits hold.
///
/// A security level that mail demands of its site (DANE, MTA-STS, `[[route]] tls`) belongs in here too:
/// [`Self::of`] is the one place where a key is made, so that a connection opened for less is never
/// found by mail that demands more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SiteKey {
    mx: Rc<str>,
    provider: Option<Rc<str>>,
}

impl SiteKey {
    /// Of what a lookup gave.
    pub(crate) fn of(targets: &Targets, provider: Option<&str>) -> Self {
        Self {
            mx: Rc::clone(&targets.site),
            provider: provider.map(Rc::from),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.mx
    }

    /// As another shard is to know it.
    pub(super) fn to_lease(&self) -> LeaseKey {
        LeaseKey {
            mx: self.as_str().into(),
            provider: self.provider().map(Into::into),
        }
    }

    /// As another shard names it.
    pub(super) fn of_lease(key: &LeaseKey) -> Self {
        Self {
            mx: Rc::from(&*key.mx),
            provider: key.provider.as_deref().map(Rc::from),
        }
    }

    pub(super) fn provider(&self) -> Option<&str> {
        self.provider.as_deref()
    }

    /// The same at every shard (FNV-1a).
    pub(super) fn hash(&self) -> u32 {
        self.mx.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        })
    }
}

/// What was seen of a target that would not have us.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// In words, for the operator.
    pub(crate) text: Box<str>,
    /// Where.
    pub(crate) target: Target,
    /// What the peer said there, if it refused the session.
    pub(crate) refusal: Option<Reply>,
}

/// Whether a site waits to be looked at when the turn ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    #[default]
    None,
    /// Connections are wanted, if the mail is worth them.
    Due,
    /// One more connection is wanted even if the mail is little.
    Eager,
}

/// A receiving site. Its books are changed by [`Pool`](super::Pool) only.
#[derive(Debug)]
pub(crate) struct Site {
    pub(super) key: SiteKey,
    pub(super) hash: u32,
    pub(super) limits: Rc<Limits>,
    /// What has been used of their rates.
    pub(super) used: Used,
    /// Whose they are.
    pub(super) lease: Lease,
    pub(super) is_lease_due: bool,
    /// Its owner: since when sessions that it has work for are with others.
    pub(super) lent_since: Option<Mono>,
    /// What reply rules take from them; few sites have any.
    pub(super) rests: Option<Box<Rests>>,
    /// How fast it takes mail, as was found by trying.
    pub(super) adapt: Adapt,
    /// From the newest lookup.
    pub(super) targets: Vec<Target>,
    /// Addresses passed over until a time.
    pub(super) cooling: Vec<(SocketAddr, Mono)>,
    /// Connections that wait for mail.
    pub(super) idle: Vec<ConnId>,
    /// All connections, opening and quitting ones too.
    pub(super) conns: u32,
    pub(super) opening: u32,
    pub(super) quitting: u32,
    /// Destinations with ready mail, served in turn.
    pub(super) round: VecDeque<DestinationId>,
    /// Ready entries of those destinations.
    pub(super) ready_len: u64,
    /// Destinations whose lookup led here.
    pub(super) bound: u32,
    pub(super) mark: Mark,
    /// Every tick looks at it: it has idle connections, ready mail or a back-off.
    pub(super) is_tended: bool,
    /// The slot is free.
    pub(super) is_vacant: bool,
    /// No connection before this.
    pub(super) backoff_until: Option<Mono>,
    /// Connections in a row that were greeted and then lost without an answer.
    pub(super) broken: u16,
    /// Times in a row that no target would have us.
    pub(super) failures: u16,
    pub(super) last_failure: Option<Failure>,
}

impl Site {
    /// A site nobody has connected to.
    pub(super) fn new(key: SiteKey, targets: &[Target], limits: Rc<Limits>, lease: Lease) -> Self {
        Self {
            hash: key.hash(),
            key,
            limits,
            used: Used::default(),
            lease,
            is_lease_due: false,
            lent_since: None,
            rests: None,
            adapt: Adapt::default(),
            targets: targets.to_vec(),
            cooling: Vec::new(),
            idle: Vec::new(),
            conns: 0,
            opening: 0,
            quitting: 0,
            round: VecDeque::new(),
            ready_len: 0,
            bound: 0,
            mark: Mark::None,
            is_tended: false,
            is_vacant: false,
            backoff_until: None,
            broken: 0,
            failures: 0,
            last_failure: None,
        }
    }

    /// MX hosts and port.
    pub(crate) fn name(&self) -> &str {
        self.key.as_str()
    }

    /// The policy's provider.
    pub(crate) fn provider(&self) -> Option<&str> {
        self.key.provider()
    }

    /// Its pace, if it has one.
    pub(crate) fn pace(&self) -> Option<PaceView> {
        self.adapt.view()
    }

    /// Connections, opening and quitting ones too.
    pub(crate) const fn conns(&self) -> u32 {
        self.conns
    }

    /// The last failure to connect, in words, or empty.
    pub(crate) fn last_failure(&self) -> &str {
        self.last_failure
            .as_ref()
            .map_or("", |failure| &failure.text)
    }

    /// Whether there is ready mail.
    pub(crate) fn has_mail(&self) -> bool {
        !self.round.is_empty()
    }

    /// Whether time alone may change what is to be done about it.
    pub(super) fn needs_tending(&self) -> bool {
        !self.idle.is_empty()
            || self.has_mail()
            || self.backoff_until.is_some()
            || !self.lease.is_idle()
    }

    /// When its back-off ends, if there is one.
    pub(super) fn backoff_at(&self, now: Now) -> Option<Mono> {
        self.backoff_until.filter(|until| *until > now.mono)
    }

    fn is_cooling(&self, address: SocketAddr, now: Mono) -> bool {
        let rests = self.rests.as_ref();
        self.cooling
            .iter()
            .any(|(other, until)| *other == address && *until > now)
            || rests.is_some_and(|rests| rests.is_target_resting(address, now))
    }

    /// The target for a new connection: among the most preferred that are not cooling, the one
    /// `turn` points at, so that equal ones share the load. `None` if all are cooling.
    pub(super) fn choose(&self, turn: usize, now: Mono) -> Option<&Target> {
        let is_usable = |target: &&Target| !self.is_cooling(target.address, now);
        let best = self.targets.iter().find(is_usable)?.preference;
        let equal = || {
            self.targets
                .iter()
                .filter(is_usable)
                .filter(|target| target.preference == best)
        };
        equal().nth(turn % equal().count())
    }

    pub(super) const fn has_targets(&self) -> bool {
        !self.targets.is_empty()
    }

    /// Addresses that new connections go to: the most preferred that are not passed over.
    pub(super) fn addresses_in_use(&self, now: Mono) -> u32 {
        let is_usable = |target: &&Target| !self.is_cooling(target.address, now);
        let mut usable = self.targets.iter().filter(is_usable);
        let Some(first) = usable.next() else {
            return 1;
        };
        let equal = usable.filter(|target| target.preference == first.preference);
        1 + equal.count() as u32
    }

    /// When the first address that is passed over may be tried again.
    pub(super) fn cool_until(&self, now: Mono) -> Option<Mono> {
        let rests = self.rests.as_ref();
        let by_rule = rests.and_then(|rests| rests.target_rests_until(now));
        let cooling = self.cooling.iter().map(|(_, until)| *until);
        cooling.chain(by_rule).min()
    }

    /// Passes `address` over for a while.
    pub(super) fn cool(&mut self, address: SocketAddr, now: Mono) {
        self.cooling
            .retain(|(other, until)| *other != address && *until > now);
        self.cooling
            .push((address, now.plus_ms(TARGET_COOLDOWN_MS)));
    }

    /// Whether mail may still go to `address`, by the newest lookup.
    pub(super) fn has_target(&self, address: SocketAddr) -> bool {
        self.targets.iter().any(|target| target.address == address)
    }

    /// Whether every target is being passed over.
    pub(super) fn all_cooling(&self, now: Mono) -> bool {
        self.choose(0, now).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;

    fn site(preferences: &[u16]) -> Site {
        let list: Vec<Target> = preferences
            .iter()
            .enumerate()
            .map(|(n, preference)| Target {
                host: format!("m{n}").into(),
                address: format!("127.0.0.{}:25", n + 1).parse().unwrap(),
                preference: *preference,
            })
            .collect();
        let key = SiteKey {
            mx: "s".into(),
            provider: None,
        };
        let lease = Lease::of(0, ShardId(0), 1, 0);
        Site::new(key, &list, Rc::new(Limits::default()), lease)
    }

    #[test]
    fn next_preference_is_used_when_the_first_cools() {
        let mut site = site(&[10, 10, 20]);
        let now = Mono(0);
        let hosts = |site: &Site, now| {
            let mut names: Vec<_> = (0..4)
                .filter_map(|turn| site.choose(turn, now))
                .map(|target| target.host.clone())
                .collect();
            names.sort();
            names.dedup();
            names.join(" ")
        };
        assert_eq!(hosts(&site, now), "m0 m1");
        site.cool("127.0.0.1:25".parse().unwrap(), now);
        assert_eq!(hosts(&site, now), "m1");
        site.cool("127.0.0.2:25".parse().unwrap(), now);
        assert_eq!(hosts(&site, now), "m2");
        site.cool("127.0.0.3:25".parse().unwrap(), now);
        assert!(site.all_cooling(now));
        assert_eq!(hosts(&site, now.plus_ms(TARGET_COOLDOWN_MS)), "m0 m1");
    }
}
