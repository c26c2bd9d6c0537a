//! What reply rules have done to a site, until when and why: rests, a lower rate, fewer sessions, smaller
//! transactions.
//!
//! A site has one of these only once a rule has met it ([`Pool::obey`]); `gate` asks it beside the
//! site's limits. Everything here ends by itself, since what asks compares times.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use super::{Pool, SiteId};
use crate::clock::Mono;
use crate::phase::Phase;
use crate::policy::adapt::Sign;
use crate::policy::bucket::{Bucket, Rate};
use crate::policy::rules::{Deed, RuleId, Step};
use crate::schedule::Binding;

/// Rules of one site whose replies are counted, or whose alerts were given, at a time; the oldest make room.
pub const COUNTED_RULES_MAX: usize = 16;
/// Source and receiving addresses that rest at one site at a time; the oldest make room.
pub const RESTING_ADDRESSES_MAX: usize = 64;
/// An alert of one rule about one site is not given again for so long, milliseconds.
const ALERT_AGAIN_MS: u64 = 3_600_000;
/// How long an address is passed over that a rule has mail turn away from, milliseconds.
const NEXT_MX_MS: u64 = super::TARGET_COOLDOWN_MS;
/// Kept of a reply, bytes.
const SAID_BYTES_MAX: usize = 256;

/// Something a rule has set, until it ends.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    /// The rule: file and line.
    rule: Rc<str>,
    /// What it was about.
    said: Rc<str>,
    until: Mono,
}

impl Hold {
    fn is_on(&self, now: Mono) -> bool {
        self.until > now
    }

    fn left_s(&self, now: Mono) -> u64 {
        self.until.ms_since(now).div_ceil(1000)
    }
}

#[derive(Debug)]
struct Slow {
    hold: Hold,
    units: u32,
    per_s: u32,
    rate: Rate,
    used: Bucket,
}

/// How often a rule's reply came.
#[derive(Debug)]
struct Count {
    rule: usize,
    step: usize,
    first: Mono,
    count: u16,
}

/// What rules have done to a site.
#[derive(Debug, Default)]
pub(super) struct Rests {
    site: Option<Hold>,
    slow: Option<Slow>,
    sessions: Option<(Hold, u32)>,
    messages: Option<(Hold, u32)>,
    recipients: Option<(Hold, u16)>,
    sources: Vec<(IpAddr, Hold)>,
    targets: Vec<(SocketAddr, Hold)>,
    counts: Vec<Count>,
    alerts: Vec<(usize, Mono)>,
}

fn value_of<T: Copy>(held: Option<&(Hold, T)>, now: Mono) -> Option<T> {
    held.filter(|(hold, _)| hold.is_on(now))
        .map(|(_, value)| *value)
}

impl Rests {
    /// Whether the site rests.
    pub(super) fn rest(&self, now: Mono) -> Option<Binding> {
        let hold = self.site.as_ref().filter(|hold| hold.is_on(now))?;
        Some(Binding::RuleRest {
            rule: (&*hold.rule).into(),
            reply: (&*hold.said).into(),
            rest_in_s: hold.left_s(now),
        })
    }

    /// Whether the lower rate allows a transaction; else what is in the way.
    pub(super) fn may_send(&self, now: Mono) -> Result<(), Binding> {
        let Some(slow) = self.slow.as_ref().filter(|slow| slow.hold.is_on(now)) else {
            return Ok(());
        };
        slow.used
            .may_take(slow.rate, now)
            .map_err(|wait_us| Binding::RuleSlow {
                rule: (&*slow.hold.rule).into(),
                reply: (&*slow.hold.said).into(),
                units: slow.units,
                per_s: slow.per_s,
                next_in_ms: wait_us.div_ceil(1000),
                ends_in_s: slow.hold.left_s(now),
            })
    }

    /// A transaction begins.
    pub(super) fn send(&mut self, now: Mono) {
        if let Some(slow) = &mut self.slow {
            slow.used.take(slow.rate, 1, now);
        }
    }

    /// Sessions that a rule leaves the site.
    pub(super) fn sessions_max(&self, now: Mono) -> Option<u32> {
        value_of(self.sessions.as_ref(), now)
    }

    /// The same for transactions of a session.
    pub(super) fn messages_max(&self, now: Mono) -> Option<u32> {
        value_of(self.messages.as_ref(), now)
    }

    /// The same for recipients of a transaction.
    pub(super) fn recipients_max(&self, now: Mono) -> Option<u16> {
        value_of(self.recipients.as_ref(), now)
    }

    /// Whether a connection between these two is to be given no more.
    pub(super) fn is_passed_over(
        &self,
        source: Option<IpAddr>,
        target: SocketAddr,
        now: Mono,
    ) -> bool {
        self.is_source_resting(source, now) || self.is_target_resting(target, now)
    }

    /// Whether mail turns away from a receiving address.
    pub(super) fn is_target_resting(&self, target: SocketAddr, now: Mono) -> bool {
        self.targets
            .iter()
            .any(|(other, hold)| *other == target && hold.is_on(now))
    }

    /// When the first of those takes mail again.
    pub(super) fn target_rests_until(&self, now: Mono) -> Option<Mono> {
        let on = self.targets.iter().filter(|(_, hold)| hold.is_on(now));
        on.map(|(_, hold)| hold.until).min()
    }

    /// Whether nothing of it holds any more.
    pub(super) fn is_over(&self, now: Mono) -> bool {
        let sessions = self.sessions.as_ref().map(|(hold, _)| hold);
        let messages = self.messages.as_ref().map(|(hold, _)| hold);
        let recipients = self.recipients.as_ref().map(|(hold, _)| hold);
        let slow = self.slow.as_ref().map(|slow| &slow.hold);
        let sources = self.sources.iter().map(|(_, hold)| hold);
        let holds = [self.site.as_ref(), slow, sessions, messages, recipients];
        !holds
            .into_iter()
            .flatten()
            .chain(sources)
            .any(|hold| hold.is_on(now))
    }

    fn is_source_resting(&self, source: Option<IpAddr>, now: Mono) -> bool {
        self.sources
            .iter()
            .any(|(other, hold)| Some(*other) == source && hold.is_on(now))
    }

    /// The site rests until then, or for longer if another rule said so.
    fn rest_site(&mut self, hold: Hold) {
        if self
            .site
            .as_ref()
            .is_none_or(|held| held.until < hold.until)
        {
            self.site = Some(hold);
        }
    }

    /// An operator wants the site tried at once.
    pub(super) fn lift(&mut self) {
        self.site = None;
        self.sources.clear();
        self.targets.clear();
    }

    /// Rules are numbered anew.
    pub(super) fn renumber(&mut self) {
        self.counts.clear();
        self.alerts.clear();
    }

    /// Counts a step's reply; whether it is to be done.
    fn is_due(&mut self, rule: usize, step: usize, after: Option<(u16, u64)>, now: Mono) -> bool {
        let Some((least, within_ms)) = after else {
            return true;
        };
        let found = self
            .counts
            .iter()
            .position(|count| (count.rule, count.step) == (rule, step));
        let at = found.unwrap_or_else(|| {
            if self.counts.len() >= COUNTED_RULES_MAX {
                self.counts.remove(0);
            }
            self.counts.push(Count {
                rule,
                step,
                first: now,
                count: 0,
            });
            self.counts.len() - 1
        });
        let count = &mut self.counts[at];
        if now.ms_since(count.first) > within_ms {
            count.first = now;
            count.count = 0;
        }
        count.count = count.count.saturating_add(1);
        let is_due = count.count >= least;
        if is_due {
            self.counts.remove(at);
        }
        is_due
    }

    fn is_alert_due(&mut self, rule: usize, now: Mono) -> bool {
        self.alerts
            .retain(|(_, given)| now.ms_since(*given) < ALERT_AGAIN_MS);
        if self.alerts.iter().any(|(other, _)| *other == rule) {
            return false;
        }
        if self.alerts.len() >= COUNTED_RULES_MAX {
            self.alerts.remove(0);
        }
        self.alerts.push((rule, now));
        true
    }
}

fn hold_address<A: PartialEq>(list: &mut Vec<(A, Hold)>, address: A, hold: Hold, now: Mono) {
    list.retain(|(other, held)| *other != address && held.is_on(now));
    if list.len() >= RESTING_ADDRESSES_MAX {
        list.remove(0);
    }
    list.push((address, hold));
}

/// A reply that a rule with steps has met.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told<'a> {
    pub(crate) rule: RuleId<'a>,
    pub(crate) steps: &'a [Step],
    pub(crate) said: &'a str,
    pub(crate) phase: Phase,
    /// Between whom.
    pub(crate) source: Option<IpAddr>,
    pub(crate) target: SocketAddr,
    /// Our addresses that could have been the source.
    pub(crate) sources: &'a [IpAddr],
    /// Recipients of the transaction.
    pub(crate) recipients: u16,
    /// Transactions of the session.
    pub(crate) messages: u32,
    /// No other address of the site is left to be tried.
    pub(crate) is_last: bool,
}

/// What remains to be done by who asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Obeyed {
    /// The message may go out at once another way.
    pub(crate) goes_again: bool,
    /// An operator is to be told.
    pub(crate) is_alert: bool,
}

impl Pool {
    /// Carries out what a rule asks of a site. `shards`: how many share what it is sent.
    pub(crate) fn obey(&mut self, id: SiteId, told: &Told<'_>, shards: u16, now: Mono) -> Obeyed {
        let site = self.site_mut(id);
        let limits = Rc::clone(&site.limits);
        let rests = site.rests.get_or_insert_default();
        let rule: Rc<str> = told.rule.to_string().into();
        let said: Rc<str> = told.said[..told.said.floor_char_boundary(SAID_BYTES_MAX)].into();
        let hold = |for_ms: u64| Hold {
            rule: Rc::clone(&rule),
            said: Rc::clone(&said),
            until: now.plus_ms(for_ms),
        };
        // Before a session the next address may still take it: a host's own greeting is no word of the
        // site's.
        let is_of_site = told.phase > Phase::Tls || told.is_last;
        let (mut obeyed, mut turns_away) = (Obeyed::default(), false);
        for (nth, step) in told.steps.iter().enumerate() {
            if !rests.is_due(told.rule.index, nth, step.after, now) {
                continue;
            }
            match step.deed {
                Deed::Slow {
                    units,
                    per_s,
                    for_ms,
                } => rests.slow_down(hold(for_ms), units, per_s, shards),
                Deed::Sessions { max, for_ms } => rests.sessions = Some((hold(for_ms), max)),
                Deed::FewerMessages { for_ms } => {
                    let most = limits.messages_per_session_max;
                    let so_far = rests.messages_max(now).unwrap_or(most).min(told.messages);
                    rests.messages = Some((hold(for_ms), (so_far / 2).max(1)));
                }
                Deed::FewerRecipients { for_ms } => {
                    rests.recipients = Some((hold(for_ms), (told.recipients / 2).max(1)));
                }
                Deed::RestSite { for_ms } if is_of_site => rests.rest_site(hold(for_ms)),
                Deed::RestSite { .. } => {}
                Deed::RestSource { for_ms } => {
                    rests.rest_source(told, hold(for_ms), now);
                }
                Deed::OtherSource { for_ms } => {
                    obeyed.goes_again |= rests.rest_source(told, hold(for_ms), now);
                }
                Deed::NextMx if told.phase > Phase::Tls => {
                    hold_address(&mut rests.targets, told.target, hold(NEXT_MX_MS), now);
                    turns_away = true;
                }
                Deed::NextMx => {}
                Deed::Alert => obeyed.is_alert |= rests.is_alert_due(told.rule.index, now),
                Deed::Retry { .. } | Deed::Greylisted | Deed::Treat(_) | Deed::Normal => {}
            }
        }
        if turns_away {
            // Where there is no other address, turning away is no use.
            let is_alone = site.all_cooling(now);
            if let Some(rests) = site.rests.as_mut().filter(|_| is_alone) {
                rests.targets.retain(|(target, _)| *target != told.target);
            }
            obeyed.goes_again |= !is_alone;
        }
        self.tend(id);
        obeyed
    }
}

impl Rests {
    fn slow_down(&mut self, hold: Hold, units: u32, per_s: u32, shards: u16) {
        let rate = Rate::new(u64::from(units), u64::from(per_s), 1).part(u64::from(shards.max(1)));
        // The same again goes on counting: a reply more is no reason for another message at once.
        let used = match &self.slow {
            Some(slow) if slow.rate == rate => slow.used,
            _ => Bucket::default(),
        };
        self.slow = Some(Slow {
            hold,
            units,
            per_s,
            rate,
            used,
        });
    }

    /// Rests the source, or the site if there is no other; whether there is.
    fn rest_source(&mut self, told: &Told<'_>, hold: Hold, now: Mono) -> bool {
        let is_v4 = told.target.is_ipv4();
        if let Some(source) = told.source {
            hold_address(&mut self.sources, source, hold.clone(), now);
        }
        let mut usable = told.sources.iter().filter(|ip| ip.is_ipv4() == is_v4);
        let has_other = usable.any(|ip| !self.is_source_resting(Some(*ip), now));
        if !has_other || told.source.is_none() {
            // Until the first of them has rested.
            let first = self.sources.iter().map(|(_, held)| held.until).min();
            let until = first.map_or(hold.until, |first| first.min(hold.until));
            self.rest_site(Hold { until, ..hold });
        }
        has_other
    }
}

/// What is asked of it beside the gate.
impl Pool {
    /// A transaction or a connection has shown how the site takes mail.
    pub(crate) fn learn(&mut self, id: SiteId, sign: Sign, now: Mono) {
        let site = self.site_mut(id);
        if site.limits.pace.decrease_percent > 0 {
            let limits = Rc::clone(&site.limits);
            site.adapt.learn(sign, &limits.pace, now);
        }
    }

    /// Whether a rule has the site rest.
    pub(crate) fn is_resting(&self, id: SiteId, now: Mono) -> bool {
        let rests = self.site(id).rests.as_deref();
        rests.is_some_and(|rests| rests.rest(now).is_some())
    }

    /// Whether `source` rests at the site.
    pub(crate) fn is_source_resting(&self, id: SiteId, source: IpAddr, now: Mono) -> bool {
        let rests = self.site(id).rests.as_deref();
        rests.is_some_and(|rests| rests.is_source_resting(Some(source), now))
    }

    /// Recipients that a transaction to the site may have, if a rule says so.
    pub(crate) fn recipients_max(&self, id: SiteId, now: Mono) -> Option<u16> {
        self.site(id).rests.as_ref()?.recipients_max(now)
    }
}
