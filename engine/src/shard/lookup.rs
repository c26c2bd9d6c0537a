//! From a destination with ready mail to its site: questions to the resolver, answers out of the cache.
//!
//! [`ShardCore::look_up`] plans a destination; what it lacks is asked, and when answers have come it is
//! planned anew. How many plans a turn makes is bounded, however many domains wait for one answer.
//! Who waits for what: [`crate::schedule::lookups`].

use std::rc::Rc;

use super::unconnected::Unconnected;
use super::{Action, QUESTION_MS_MAX, QUESTIONS_MAX, Settings, ShardCore};
use crate::clock::{Mono, Now};
use crate::dns::{self, Answer, Cache, DnsTrouble, Plan, Question, Targets};
use crate::schedule::destination::{DestinationId, Lookup, WindowOf};
use crate::schedule::lookups::{Asked, Lookups};

/// First wait after a DNS failure; doubles up to [`DNS_RETRY_MS_MAX`].
const DNS_RETRY_MS_MIN: u64 = 15_000;
/// Longest wait between questions.
const DNS_RETRY_MS_MAX: u64 = 600_000;
/// Destinations planned in a turn that something else began.
pub(super) const PLANS_PER_TURN_MAX: usize = 128;
/// Destinations planned in a tick.
pub(super) const PLANS_PER_TICK_MAX: usize = 1024;

/// Answers from DNS, and the questions that are open.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) cache: Cache,
    pub(super) lookups: Lookups,
}

impl Names {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut cache = Cache::new(settings.dns_entries_max);
        cache.set_ttl_max(settings.dns_ttl_s_max.0, settings.dns_ttl_s_max.1);
        Self {
            cache,
            lookups: Lookups::default(),
        }
    }
}

impl ShardCore {
    fn questions_max(&self) -> usize {
        self.settings.questions_max.clamp(1, QUESTIONS_MAX)
    }

    fn look_up(&mut self, id: DestinationId, has_begun: bool, now: Now) {
        let destination = self.mail.destination(id);
        let settings = Rc::clone(&self.settings);
        let plan = dns::plan(
            &mut self.names.cache,
            &destination.domain,
            settings.routes.find(&destination.domain),
            &settings.dns_policy,
            &settings.own,
            &mut self.random,
            now.mono,
        );
        match plan {
            Plan::Targets(targets) => self.resolved(id, targets, now),
            Plan::Ask(questions) => self.ask(id, questions, has_begun, now),
            Plan::Trouble(trouble) => self.dns_trouble(id, trouble, now),
            Plan::Failure(failure) => {
                self.set_lookup(id, Lookup::Failed(failure));
                self.mail.fail_soon(id);
                self.fail_ready(now);
            }
        }
    }

    /// Asks what is missing, up to the first question that finds no room: the destination comes again
    /// when there is some.
    fn ask(&mut self, id: DestinationId, questions: Vec<Question>, has_begun: bool, now: Now) {
        let open_max = self.questions_max();
        self.set_lookup(id, Lookup::Asking);
        for question in questions {
            match self.names.lookups.ask(&question, id, open_max, now.mono) {
                Asked::New => self.actions.push(Action::Resolve { question }),
                Asked::Open => {}
                Asked::NoRoom => {
                    self.set_lookup(id, Lookup::Queued);
                    self.names.lookups.queue(id, has_begun);
                    return;
                }
            }
        }
    }

    /// Has a destination planned anew, in this turn or one of the next.
    pub(super) fn look_up_soon(&mut self, id: DestinationId) {
        self.plan_soon(id, true);
    }

    /// The same; `has_begun`: some of what it needs may be known or asked already.
    pub(super) fn plan_soon(&mut self, id: DestinationId, has_begun: bool) {
        self.set_lookup(id, Lookup::Due);
        self.names.lookups.put_due(id, has_begun);
    }

    /// Plans destinations that are due, and those that wait for room as long as there is some, at most
    /// so many.
    pub(super) fn plan_some(&mut self, plans_max: usize, now: Now) {
        let open_max = self.questions_max();
        for _ in 0..plans_max {
            let next = self.names.lookups.take_due();
            let queued = || Some((self.names.lookups.take_queued(open_max)?, true));
            let Some((id, has_begun)) = next.or_else(queued) else {
                return;
            };
            if self.mail.destination(id).ready_len() > 0 {
                self.look_up(id, has_begun, now);
            } else {
                self.set_lookup(id, Lookup::Unknown);
            }
        }
    }

    /// An answer goes into the cache, and who asked is planned anew: it finds there what is still to be
    /// asked, if anything.
    pub(super) fn answered(&mut self, question: Question, answer: Answer, ttl_s: u32, now: Now) {
        let waiting = self.names.lookups.answered(&question);
        self.names.cache.put(question, answer, ttl_s, now.mono);
        for id in waiting {
            if matches!(self.mail.destination(id).lookup, Lookup::Asking) {
                self.look_up_soon(id);
            }
        }
    }

    fn resolved(&mut self, id: DestinationId, targets: Targets, now: Now) {
        let targets = Rc::new(targets);
        let provider = self.provider_of(id, &targets);
        let site = self.pool.resolved(&targets, provider.as_deref(), now);
        let destination = self.mail.destination_mut(id);
        destination.dns_failures = 0;
        destination.provider = provider;
        destination.is_provider_known = true;
        destination.window = WindowOf::Unknown;
        if std::mem::take(&mut destination.lifts_back_off) {
            self.pool.lift_back_off(site);
        }
        self.set_lookup(id, Lookup::Site { site, targets });
        self.enrol(id, site, now);
    }

    /// No answer: one message is deferred and says so, for all of its domain.
    fn dns_trouble(&mut self, id: DestinationId, trouble: DnsTrouble, now: Now) {
        let destination = self.mail.destination_mut(id);
        let exponent = u32::from(destination.dns_failures.min(10));
        destination.dns_failures = destination.dns_failures.saturating_add(1);
        let wait_ms = (DNS_RETRY_MS_MIN << exponent).min(DNS_RETRY_MS_MAX);
        let until = now.mono.plus_ms(wait_ms);
        self.set_lookup(id, Lookup::Trouble { trouble, until });
        if self.content.may_read()
            && let Some(entry) = self.pop_ready(id, now)
        {
            self.settle_without_connection(entry, Unconnected::DnsTrouble(trouble), now);
        }
    }

    pub(super) fn retry_dns(&mut self, now: Now) {
        self.give_up_questions(now);
        for _ in 0..PLANS_PER_TICK_MAX {
            let Some(id) = self.names.lookups.next_troubled(now.mono) else {
                break;
            };
            self.look_up_soon(id);
        }
        self.plan_some(PLANS_PER_TICK_MAX, now);
    }

    /// Takes questions that nobody has answered in [`QUESTION_MS_MAX`] for timed out. Should the answer
    /// come after all, it goes into the cache, where the next attempt finds it.
    fn give_up_questions(&mut self, now: Now) {
        let Some(since) = now.mono.0.checked_sub(QUESTION_MS_MAX * 1000) else {
            return;
        };
        for question in self.names.lookups.older_than(Mono(since)) {
            self.answered(question, Answer::Trouble(DnsTrouble::Timeout), 0, now);
        }
    }
}
