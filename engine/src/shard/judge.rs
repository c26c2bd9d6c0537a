//! What the reply rules make of what a peer said: why something failed, what the message becomes and
//! when it is tried again, and what its site is sent from now on.
//!
//! A transaction is judged when it is settled; a connection that ended with words that no transaction
//! has told, when it is closed.

use std::rc::Rc;

use super::{Cause, Delivery, Settings, ShardCore};
use crate::bounce::{Evidence, Group, Reason};
use crate::clock::Now;
use crate::dns::Target;
use crate::phase::Phase;
use crate::policy::adapt::Sign;
use crate::policy::rules::{Deed, Judgement, Step, Treat};
use crate::pool::{Closed, ConnId, PeerInfo, SiteId, Told};
use crate::queue::record::OutcomeKind;
use crate::schedule::destination::{DestinationId, Lookup};
use crate::schedule::retry::{RetryClass, asked_wait_ms};
use crate::smtp::client::{RecipientOutcome, RecipientResult};
use crate::smtp::reply::Reply;
use crate::status::EnhancedStatus;

/// Wait of a message that may go out another way, milliseconds.
const OTHER_WAY_MS: u64 = 1000;

/// When a message that was deferred is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// By the schedule of its destination for such failures.
    Scheduled(RetryClass),
    /// Soon: it was greylisted, and this is what the receiver asked for, milliseconds.
    Greylisted(u64),
    /// After so many milliseconds, as a rule says.
    AfterMs(u64),
}

impl Again {
    /// By the schedule.
    pub(super) const USUAL: Self = Self::Scheduled(RetryClass::Other);
}

impl Again {
    /// The sooner of both.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::AfterMs(a), Self::AfterMs(b)) => Self::AfterMs(a.min(b)),
            (Self::AfterMs(_), _) => self,
            (_, Self::AfterMs(_)) => other,
            (Self::Greylisted(a), Self::Greylisted(b)) => Self::Greylisted(a.min(b)),
            (Self::Greylisted(_), _) => self,
            (_, Self::Greylisted(_)) => other,
            (Self::Scheduled(a), Self::Scheduled(b)) => Self::Scheduled(a.min(b)),
        }
    }
}

/// The connection an outcome came over.
#[derive(Debug, Default)]
pub(super) struct Context {
    pub(super) site: Option<SiteId>,
    pub(super) peer: Option<Rc<PeerInfo>>,
    pub(super) target: Option<Target>,
}

/// One recipient's outcome.
pub(super) struct Settled {
    /// Its place within the entry.
    pub(super) recipient: u16,
    pub(super) kind: OutcomeKind,
    pub(super) phase: Option<Phase>,
    pub(super) reply: Reply,
    /// Why it was not delivered.
    pub(super) reason: Option<Reason>,
}

/// By what names rules know who receives.
#[derive(Clone, Copy, Debug, Default)]
struct Names<'a> {
    provider: Option<&'a str>,
    policy_provider: Option<&'a str>,
}

fn treated(kind: OutcomeKind, steps: &[Step]) -> OutcomeKind {
    let treat = steps.iter().find_map(|step| match step.deed {
        Deed::Treat(treat) => Some(treat),
        _ => None,
    });
    match treat {
        Some(Treat::Delivered) => OutcomeKind::Delivered,
        Some(Treat::Failed) => OutcomeKind::Failed,
        Some(Treat::Deferred) => OutcomeKind::Deferred,
        None => kind,
    }
}

fn sooner(so_far: Option<Again>, one: Again) -> Option<Again> {
    Some(so_far.map_or(one, |so_far| so_far.or(one)))
}

/// When a recipient that was deferred is tried again.
fn again(judgement: &Judgement<'_>, reply: &Reply) -> Again {
    let wished = judgement.steps.iter().find_map(|step| match step.deed {
        Deed::Retry { after_ms } if step.after.is_none() => Some(Again::AfterMs(after_ms)),
        Deed::Greylisted => Some(Again::Greylisted(asked_wait_ms(&reply.text).unwrap_or(0))),
        _ => None,
    });
    wished.unwrap_or_else(|| Again::Scheduled(class_of(judgement.reason)))
}

/// Whether a temporary failure says that the site has too much of our mail, or may have.
fn is_congestion(judgement: &Judgement<'_>, reply: &Reply) -> bool {
    let is_else = |step: &Step| {
        matches!(
            step.deed,
            Deed::Normal | Deed::Greylisted | Deed::FewerRecipients { .. }
        )
    };
    if judgement.steps.iter().any(is_else) {
        return false;
    }
    match judgement.reason {
        Reason::RateLimited
        | Reason::BadReputation
        | Reason::Blocked
        | Reason::NetworkError
        | Reason::SystemError
        | Reason::Expired => true,
        Reason::Unknown => reply.code.get() == 421,
        _ => false,
    }
}

/// What kind of failure a reason is, for the schedule.
pub(super) const fn class_of(reason: Reason) -> RetryClass {
    match reason.group() {
        Group::Mailbox => RetryClass::Mailbox,
        Group::Transient => RetryClass::Transient,
        Group::Policy => RetryClass::Policy,
        Group::Address | Group::NotABounce | Group::Unknown => RetryClass::Other,
    }
}

/// Judges words; `is_said`: by the peer, and not by us for want of words of its own.
fn judge<'r>(
    settings: &'r Settings,
    reply: &Reply,
    is_said: bool,
    phase: Option<Phase>,
    names: Names<'_>,
) -> Judgement<'r> {
    settings.rules.judge(&Evidence {
        reply: is_said.then_some(reply.code),
        enhanced: reply.enhanced,
        text: &reply.text,
        phase,
        provider: names.provider,
        policy_provider: names.policy_provider,
    })
}

impl ShardCore {
    /// What became of a transaction's recipients, and when those that are left are tried again. What
    /// rules ask of the site is done.
    pub(super) fn judge_results(
        &mut self,
        conn: ConnId,
        delivery: &Delivery,
        results: &[RecipientResult],
        context: &Context,
        now: Now,
    ) -> (Vec<Settled>, Again) {
        let settings = Rc::clone(&self.settings);
        let (mut settled, mut when) = (Vec::with_capacity(results.len()), None::<Again>);
        let mut told: Option<(&RecipientResult, Judgement<'_>)> = None;
        for (recipient, result) in delivery.recipients.iter().zip(results) {
            let kind = match result.outcome {
                RecipientOutcome::Delivered => OutcomeKind::Delivered,
                RecipientOutcome::Deferred | RecipientOutcome::Lost => OutcomeKind::Deferred,
                RecipientOutcome::Failed => OutcomeKind::Failed,
            };
            let mut one = Settled {
                recipient: *recipient,
                kind,
                phase: Some(result.phase),
                reply: result.reply.clone(),
                reason: None,
            };
            if kind != OutcomeKind::Delivered {
                // One reply that was for all of them is judged and counted once.
                let is_same = told.is_some_and(|(before, _)| {
                    result.phase != Phase::Rcpt && before.reply == result.reply
                });
                let judgement = match told {
                    Some((_, judgement)) if is_same => judgement,
                    _ => {
                        let names = self.names_of(&settings, delivery.destination);
                        let is_said = result.outcome != RecipientOutcome::Lost;
                        judge(&settings, &result.reply, is_said, one.phase, names)
                    }
                };
                if !is_same {
                    let other_way = self.obey(conn, delivery, &judgement, &one, context, now);
                    if other_way && treated(kind, judgement.steps) == OutcomeKind::Deferred {
                        when = sooner(when, Again::AfterMs(OTHER_WAY_MS));
                    }
                }
                told = Some((result, judgement));
                one.kind = treated(kind, judgement.steps);
                one.reason = Some(judgement.reason);
                if one.kind == OutcomeKind::Deferred {
                    when = sooner(when, again(&judgement, &one.reply));
                }
            }
            settled.push(one);
        }
        if told.is_some() {
            self.pool.told(conn);
        }
        let is_trouble = told.is_some_and(|(result, judgement)| {
            result.outcome != RecipientOutcome::Failed && is_congestion(&judgement, &result.reply)
        });
        let is_taken = settled.iter().any(|one| one.kind == OutcomeKind::Delivered);
        if let Some(site) = context.site
            && (is_trouble || is_taken)
        {
            let took_ms = now.mono.ms_since(delivery.started.mono);
            let sign = if is_trouble {
                Sign::Trouble
            } else {
                Sign::Taken(took_ms)
            };
            self.pool.learn(site, sign, now.mono);
        }
        (settled, when.unwrap_or(Again::USUAL))
    }

    /// Why something failed that no connection was found for.
    pub(super) fn judge_unconnected(&self, destination: DestinationId, one: &mut Settled) {
        let names = self.names_of(&self.settings, destination);
        one.reason = Some(judge(&self.settings, &one.reply, true, one.phase, names).reason);
    }

    fn names_of<'a>(&'a self, settings: &'a Settings, id: DestinationId) -> Names<'a> {
        let destination = self.mail.destination(id);
        let classifier = settings.rules.classifier();
        let by_site = match &destination.lookup {
            Lookup::Site { targets, .. } => {
                classifier.provider_of(crate::net::site_name(&targets.site))
            }
            _ => None,
        };
        Names {
            provider: by_site.or_else(|| classifier.provider_of(destination.domain.as_str())),
            policy_provider: destination.provider.as_deref(),
        }
    }

    /// Does to the site what the rule of a recipient's reply asks; whether the message may go out another
    /// way at once.
    fn obey(
        &mut self,
        conn: ConnId,
        delivery: &Delivery,
        judgement: &Judgement<'_>,
        one: &Settled,
        context: &Context,
        now: Now,
    ) -> bool {
        let (Some(rule), Some(target), Some(site)) =
            (judgement.rule, &context.target, context.site)
        else {
            return false;
        };
        if judgement.steps.is_empty() {
            return false;
        }
        let sources = self.settings.source_addresses.clone();
        let said = one.reply.to_string();
        let told = Told {
            rule,
            steps: judgement.steps,
            said: &said,
            phase: one.phase.unwrap_or(Phase::Connect),
            source: context.peer.as_ref().and_then(|peer| peer.source_ip),
            target: target.address,
            sources: &sources,
            recipients: delivery.recipients.len() as u16,
            messages: self.pool.started_on(conn),
            is_last: true,
        };
        self.carry_out(site, &told, now)
    }

    /// Whether the message may go out another way at once.
    fn carry_out(&mut self, site: SiteId, told: &Told<'_>, now: Now) -> bool {
        let obeyed = self.pool.obey(site, told, self.shards, now.mono);
        if obeyed.is_alert {
            let name = crate::net::site_name(self.pool.site(site).name());
            self.report(format!("{name}: rule {}: {}", told.rule, told.said));
        }
        obeyed.goes_again
    }

    /// A connection ended. Judges what it ended with, unless a transaction has told.
    pub(super) fn judge_closed(&mut self, closed: &Closed, phase: Phase, cause: &Cause, now: Now) {
        if closed.is_told {
            return;
        }
        let settings = Rc::clone(&self.settings);
        let site = self.pool.site(closed.site);
        let name = crate::net::site_name(site.name());
        let evidence = Evidence {
            reply: cause.reply.as_ref().map(|reply| reply.code),
            enhanced: cause.reply.as_ref().and_then(|reply| reply.enhanced),
            text: cause
                .reply
                .as_ref()
                .map_or(&*cause.text, |reply| &reply.text),
            phase: Some(phase),
            provider: settings.rules.classifier().provider_of(name),
            policy_provider: site.provider(),
        };
        let judgement = settings.rules.judge(&evidence);
        let said_421 = Reply::synthetic(421, EnhancedStatus::new(4, 4, 2), "");
        let reply = cause.reply.as_ref().unwrap_or(&said_421);
        if reply.code.is_transient() && is_congestion(&judgement, reply) {
            self.pool.learn(closed.site, Sign::Trouble, now.mono);
        }
        let Some(rule) = judgement.rule.filter(|_| !judgement.steps.is_empty()) else {
            return;
        };
        let said = match &cause.reply {
            Some(reply) => reply.to_string(),
            None => cause.text.to_string(),
        };
        let told = Told {
            rule,
            steps: judgement.steps,
            said: &said,
            phase,
            source: closed.source,
            target: closed.target.address,
            sources: &settings.source_addresses,
            recipients: settings.recipients_per_message_max,
            messages: closed.started,
            is_last: closed.has_failed,
        };
        self.carry_out(closed.site, &told, now);
    }
}
