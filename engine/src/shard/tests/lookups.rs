//! Mail waits for DNS.

use super::super::QUESTION_MS_MAX;
use super::relay::Relay;
use crate::dns::Question;
use crate::phase::Phase;

#[test]
fn a_resolver_that_never_answers_costs_an_attempt_and_a_late_answer_is_used() {
    let mut relay = Relay::new();
    relay.resolver_hangs();
    relay.accept("a.example");
    assert_eq!(relay.questions.len(), 1);
    relay.after_ms(QUESTION_MS_MAX - 1);
    assert_eq!(relay.open_questions(), 1);
    relay.after_ms(1);
    assert_eq!(relay.open_questions(), 0, "the question has a deadline");
    let lines = relay.log();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].phase, Some(Phase::Dns));
    assert_eq!(lines[0].enhanced.map(|status| status.class), Some(4));

    // It was slow, not dead.
    let late = relay.questions.remove(0);
    relay.resolver_answers();
    relay.answer(late);
    relay.after_s(200);
    assert_eq!(relay.delivered, 1);
    let asked_anew = relay.questions.iter().any(|q| matches!(q, Question::Mx(_)));
    assert!(
        !asked_anew,
        "the late answer was kept: {:?}",
        relay.questions
    );
}

#[test]
fn a_herd_of_messages_for_one_domain_asks_once() {
    let mut relay = Relay::new();
    relay.resolver_hangs();
    relay.accept_many(10_000, "a.example");
    assert_eq!(relay.questions.len(), 1, "while the first is open");
    relay.resolver_answers();
    relay.answer(relay.questions[0].clone());
    assert_eq!(relay.delivered, 10_000);
    assert_eq!(relay.questions.len(), 2, "MX, then its addresses");
    // When the TTL has passed, the next herd asks once more.
    relay.after_ms(301_000);
    relay.accept_many(1000, "a.example");
    assert_eq!((relay.delivered, relay.questions.len()), (11_000, 4));
}

#[test]
fn many_domains_behind_one_host_share_its_question_and_its_site() {
    const DOMAINS: usize = 20_000;
    let mut relay = Relay::with(|settings| {
        settings.questions_max = 1000;
        settings.dns_entries_max = 200_000;
    });
    relay.resolver_hangs();
    let mut addresses_asked = 0;
    for n in 0..DOMAINS {
        relay.accept(&format!("d{n}.hosted.example"));
        for question in std::mem::take(&mut relay.questions) {
            match question {
                Question::Mx(_) => relay.answer(question),
                Question::Addresses(_) => addresses_asked += 1,
            }
        }
    }
    assert_eq!(addresses_asked, 1, "all wait for the same answer");
    relay.resolver_answers();
    relay.answer(Question::Addresses("mx.hosted.example".into()));
    for _ in 0..DOMAINS / 1000 {
        relay.after_ms(100);
    }
    assert_eq!(relay.delivered, DOMAINS);
    assert_eq!(relay.sites().0, 1);
    // A second round that waits at the site while every answer expires is looked up anew in time.
    relay.peers_refuse("connection refused");
    relay.after_ms(1000);
    relay.accept_each(DOMAINS, "hosted.example");
    relay.peers_take();
    for _ in 0..2000 {
        relay.after_ms(1000);
        if relay.delivered == 2 * DOMAINS {
            return;
        }
    }
    panic!("{} of {} delivered", relay.delivered, 2 * DOMAINS);
}

#[test]
fn a_dns_backlog_keeps_one_mark_a_domain_and_plans_as_many_as_may_ask() {
    const DOMAINS: usize = 20_000;
    const AT_A_TIME: usize = 400;
    const OPEN_MAX: usize = 1000;
    let mut relay = Relay::with(|settings| {
        settings.questions_max = OPEN_MAX;
        settings.dns_entries_max = 200_000;
    });
    relay.resolver_hangs();
    relay.accept_each(DOMAINS, "three.example");
    let mut asked = 0;
    for _ in 0..1000 {
        relay.after_ms(100);
        assert!(relay.questions.len() <= OPEN_MAX);
        assert!(relay.domains_waiting_to_ask() <= DOMAINS, "once each");
        let rest = relay
            .questions
            .split_off(AT_A_TIME.min(relay.questions.len()));
        for question in std::mem::replace(&mut relay.questions, rest) {
            asked += 1;
            relay.answer(question);
        }
        if relay.delivered == DOMAINS {
            break;
        }
    }
    assert_eq!(relay.delivered, DOMAINS);
    assert_eq!(
        asked,
        4 * DOMAINS,
        "each question once: MX, and three hosts"
    );
}

#[test]
fn domains_and_sites_without_mail_do_not_pile_up() {
    use super::super::IDLE_DESTINATIONS_MAX;
    use crate::pool::SITES_MAX;
    let mut relay = Relay::new();
    for n in 0..200_000 {
        relay.accept(&format!("d{n}.example"));
        if n % 1000 == 0 {
            relay.after_ms(60_000);
        }
    }
    relay.after_ms(1000);
    assert_eq!(relay.delivered, 200_000);
    let (domains, slots) = relay.domains();
    assert!(domains <= IDLE_DESTINATIONS_MAX);
    assert!(slots <= IDLE_DESTINATIONS_MAX + 1000, "{slots}");
    let (sites, slots) = relay.sites();
    assert!(
        sites <= SITES_MAX + 1000 && slots <= SITES_MAX + 1000,
        "{slots}"
    );
    assert!(
        domains > IDLE_DESTINATIONS_MAX / 2,
        "those that fit are kept"
    );
    assert_eq!(relay.tended_sites(), 0, "nothing is left to be looked at");
}
