//! A whole core, driven by hand: the disk takes everything at once, a script answers DNS and peers.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::{
    Action, Cause, DiskError, Event, IDLE_DESTINATIONS_MAX, PartMessage, QUESTION_MS_MAX,
    SITES_MAX, Settings, ShardCore, ShardMessage, Stored, Submission,
};
use crate::address::Address;
use crate::bounce::Classifier;
use crate::clock::{Mono, Now, UnixMs};
use crate::counters::Counter;
use crate::delivery_log::read_batch;
use crate::dns::{Answer, DnsPolicy, MxRecord, Question};
use crate::dsn::DsnReturn;
use crate::envelope::Envelope;
use crate::ids::{SegmentId, ShardId};
use crate::keys::{KeyRing, MasterKey};
use crate::net::IpFamily;
use crate::phase::Phase;
use crate::pool::{ConnId, PeerInfo};
use crate::queue::cipher::Stream;
use crate::schedule::Binding;
use crate::schedule::retry::RetrySchedule;
use crate::smtp::client::{ClientError, RecipientOutcome, RecipientResult};
use crate::smtp::reply::Reply;
use crate::status::EnhancedStatus;
use crate::store::StorageSetup;

const START_MS: u64 = 1_800_000_000_000;

fn settings() -> Settings {
    Settings {
        hostname: "relay.example".into(),
        own: Default::default(),
        routes: Default::default(),
        retry: RetrySchedule {
            delays_s: vec![60],
            jitter_percent: 0,
            expire_after_s: 86_400,
        },
        dns_policy: DnsPolicy {
            mx_port: 25,
            mx_hosts_max: 10,
            family: IpFamily::Any,
            allowed: Vec::new(),
        },
        sessions_per_site_max: 2,
        messages_per_session_max: 100,
        recipients_per_message_max: 100,
        connection_ms_max: 300_000,
        connection_idle_ms_max: 0,
        site_backoff_s: (30, 60),
        source_addresses: Vec::new(),
        dsn: false,
        dsn_return: DsnReturn::Headers,
        content_bytes_max: 256 << 20,
        memory_bytes_max: 64 << 20,
        queued_entries_max: 1_000_000,
        disk_reserve_bytes: 0,
        outcome_sync_ms_max: 0,
        dns_entries_max: 1000,
        dns_ttl_s_max: (86_400, 900),
        questions_max: 1000,
        segment_bytes: 1 << 20,
        log_segment_bytes: 1 << 20,
        log_rotate_ms: 3_600_000,
        counter_domains_max: 100,
        counter_groups_max: 10,
        counter_save_ms: 10_000,
        classifier: Arc::new(Classifier::builtin()),
    }
}

/// What a peer does with a connection.
#[derive(Clone)]
enum Peer {
    Takes,
    Refuses(Cause),
    /// Greets, and is lost within each transaction.
    Breaks,
}

struct World {
    core: ShardCore,
    now: Now,
    peer: Peer,
    /// Queue segments as they were written.
    disk: HashMap<SegmentId, Vec<u8>>,
    /// Delivery log segments that were begun.
    logs: Vec<SegmentId>,
    connects: Vec<(ConnId, Option<std::net::IpAddr>, std::net::SocketAddr)>,
    /// Questions stay where they are, in `questions`.
    resolver_hangs: bool,
    questions: Vec<Question>,
    delivered: usize,
    /// How often a leap of the wall clock was reported.
    leaps: usize,
    next_message: u64,
    /// How many of the next writes of the queue fail.
    failing_writes: u32,
    /// What sessions were told, in order.
    answers: Vec<Stored>,
    /// What other shards were told of what they gave us, in order.
    told: Vec<Stored>,
}

impl World {
    fn new(settings: Settings) -> Self {
        let now = Now {
            mono: Mono(0),
            unix: UnixMs(START_MS),
        };
        let mut nonce = 0_u128;
        let setup = StorageSetup {
            keys: Arc::new(KeyRing::new(MasterKey::from_bytes(&mut [7; 32]))),
            nonces: Box::new(move || {
                nonce += 1;
                nonce.to_le_bytes()
            }),
            next_segment: SegmentId(1),
            next_log_segment: SegmentId(1),
            next_counters_segment: SegmentId(1),
        };
        let mut core = ShardCore::new(ShardId(0), 1, Rc::new(settings), setup, 1, now);
        core.replay_done();
        Self {
            core,
            now,
            peer: Peer::Takes,
            disk: HashMap::new(),
            logs: Vec::new(),
            connects: Vec::new(),
            resolver_hangs: false,
            questions: Vec::new(),
            delivered: 0,
            leaps: 0,
            next_message: 0,
            failing_writes: 0,
            answers: Vec::new(),
            told: Vec::new(),
        }
    }

    fn send(&mut self, domain: &str) {
        let submission = Box::new(self.submission(domain));
        let ticket = self.next_message;
        self.handle(Event::Accepted { ticket, submission });
    }

    fn submission(&mut self, domain: &str) -> Submission {
        self.next_message += 1;
        Submission {
            queue_id: self.core.next_queue_id(self.now),
            accepted: self.now.unix,
            envelope: Arc::new(Envelope::new(
                Some(Address::parse("sender@from.example").unwrap()),
                vec![Address::parse(&format!("to@{domain}")).unwrap().into()],
            )),
            group: None,
            tags: Vec::new(),
            message_id: None,
            peer: None,
            options: Box::default(),
            content: b"Subject: test\r\n\r\nbody of the message\r\n".to_vec(),
        }
    }

    fn handle(&mut self, event: Event) {
        self.core.handle(event, self.now);
        self.settle();
    }

    fn advance(&mut self, ms: u64) {
        self.now.mono = self.now.mono.plus_ms(ms);
        self.now.unix.0 += ms;
        self.handle(Event::Tick);
    }

    /// Carries out what is asked until nothing is.
    fn settle(&mut self) {
        let mut actions = Vec::new();
        loop {
            self.core.flush(self.now);
            self.core.take_actions(&mut actions);
            if actions.is_empty() {
                return;
            }
            for action in actions.drain(..) {
                self.carry_out(action);
            }
        }
    }

    fn carry_out(&mut self, action: Action) {
        let event = match action {
            Action::Write {
                batch,
                stream,
                segment,
                offset,
                bytes,
                begin,
            } => {
                if stream == Stream::Queue {
                    let file = self.disk.entry(segment).or_default();
                    file.resize(file.len().max(offset as usize + bytes.len()), 0);
                    file[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
                }
                if stream == Stream::DeliveryLog && begin.is_some() {
                    self.logs.push(segment);
                }
                let fails = stream == Stream::Queue && self.failing_writes > 0;
                let result = if fails {
                    self.failing_writes -= 1;
                    Err(DiskError::Io("Input/output error".into()))
                } else {
                    Ok(())
                };
                Event::Written { batch, result }
            }
            Action::Retire { segment, disposal } => {
                self.disk.remove(&segment);
                Event::Retired {
                    segment,
                    disposal,
                    result: Ok(()),
                }
            }
            Action::NoteHandover { handover } => {
                let result = Ok(());
                Event::HandoverNoted { handover, result }
            }
            Action::DeleteFree => Event::FreeDeleted { result: Ok(()) },
            Action::Resolve { question } => {
                self.questions.push(question.clone());
                if self.resolver_hangs {
                    return;
                }
                answered(question)
            }
            Action::Connect {
                conn,
                target,
                source,
            } => {
                self.connects.push((conn, source, target.address));
                match self.peer.clone() {
                    Peer::Takes | Peer::Breaks => Event::Connected {
                        conn,
                        peer: Rc::new(PeerInfo::default()),
                    },
                    Peer::Refuses(cause) => Event::Closed {
                        conn,
                        phase: Phase::Greeting,
                        cause,
                    },
                }
            }
            Action::Start { conn, transaction } if matches!(self.peer, Peer::Breaks) => {
                let (phase, token) = (Phase::Data, transaction.token);
                let result = RecipientResult {
                    outcome: RecipientOutcome::Lost,
                    phase,
                    reply: Reply::synthetic(421, EnhancedStatus::new(4, 4, 2), "lost"),
                };
                let results = vec![result; transaction.recipients.len()];
                let finished = Event::Finished {
                    conn,
                    token,
                    results,
                };
                self.core.handle(finished, self.now);
                Event::Closed {
                    conn,
                    phase,
                    cause: "lost".into(),
                }
            }
            Action::Start { conn, transaction } => {
                self.delivered += transaction.recipients.len();
                let result = RecipientResult {
                    outcome: RecipientOutcome::Delivered,
                    phase: Phase::EndOfData,
                    reply: Reply::synthetic(250, EnhancedStatus::new(2, 0, 0), "ok"),
                };
                let results = vec![result; transaction.recipients.len()];
                let token = transaction.token;
                self.core.handle(
                    Event::Finished {
                        conn,
                        token,
                        results,
                    },
                    self.now,
                );
                Event::CanStart { conn }
            }
            Action::Quit { conn } => Event::Closed {
                conn,
                phase: Phase::Quit,
                cause: "quit".into(),
            },
            Action::Compact { segment } => {
                // Nothing is alive there in these tests.
                self.core.compact_read(segment, Ok(()), self.now);
                return;
            }
            Action::Read { read, placement } => {
                let from = placement.offset.0 as usize;
                let file = &self.disk[&placement.segment];
                let result = Ok(file[from..from + placement.bytes as usize].to_vec());
                Event::Read { read, result }
            }
            Action::Report { line } if line.contains("wall clock has leapt") => {
                self.leaps += 1;
                return;
            }
            Action::Report { line } if line.starts_with("queue write failed") => return,
            Action::Report { line } => panic!("{line}"),
            Action::Answer { result, .. } => return self.answers.push(result),
            Action::Tell { message, .. } => {
                if let ShardMessage::Part(PartMessage::Stored { result, .. }) = message {
                    self.told.push(result);
                }
                return;
            }
            Action::Delete { .. } => return,
        };
        self.core.handle(event, self.now);
    }
}

fn answered(question: Question) -> Event {
    let (answer, ttl_s) = (answer(&question), 300);
    Event::Answered {
        question,
        answer,
        ttl_s,
    }
}

/// Every domain has an MX host of its own with an address of each family; those below hosted.example
/// share one, those below three.example have three each.
fn answer(question: &Question) -> Answer {
    match question {
        Question::Mx(domain) if domain.as_str().ends_with(".three.example") => {
            let record = |n: u16| MxRecord {
                preference: n,
                host: format!("mx{n}.{}", domain.as_str()).into(),
            };
            Answer::Mx((1..=3).map(record).collect())
        }
        Question::Mx(domain) => Answer::Mx(vec![MxRecord {
            preference: 10,
            host: match domain.as_str().strip_suffix(".hosted.example") {
                Some(_) => "mx.hosted.example".into(),
                None => format!("mx.{}", domain.as_str()).into(),
            },
        }]),
        Question::Addresses(_) => Answer::Addresses(vec![
            "192.0.2.1".parse().unwrap(),
            "2001:db8::1".parse().unwrap(),
        ]),
    }
}

#[test]
fn mail_for_a_site_whose_last_session_ended_while_others_were_refused_waits_for_a_stated_time() {
    let mut world = World::new(settings());
    world.send("busy.example");
    // The session has nothing more to do and ends.
    world.advance(1);
    let now = world.now.mono;
    let site = &mut world.core.pool.sites[0];
    assert_eq!(site.conns, 0);
    for target in site.targets.clone() {
        site.cool(target.address, now);
    }
    site.last_failure = "mx.busy.example greeting: 421 busy".into();
    world.send("busy.example");
    assert_eq!(world.delivered, 1);
    let rows = world.core.destinations(10, world.now);
    let Binding::SiteBackoff { cause, retry_in_s } = &rows[0].binding else {
        panic!("{:?}", rows[0].binding);
    };
    assert!(cause.contains("421 busy"), "{cause}");
    assert!((30..=36).contains(retry_in_s), "{retry_in_s}");
    let wait_ms = retry_in_s * 1000;
    world.advance(wait_ms);
    assert_eq!(world.delivered, 2);
}

#[test]
fn a_refused_session_is_logged_with_the_reply_of_the_peer() {
    let mut world = World::new(settings());
    let reply = Reply {
        code: crate::smtp::reply::known(421),
        enhanced: Some(EnhancedStatus::new(4, 7, 0)),
        text: "too many connections from your host".into(),
    };
    world.peer = Peer::Refuses(ClientError::Refused(reply).into());
    world.send("refusing.example");
    let bytes = world.core.store.log.take_batch();
    let (_, records) = read_batch(&bytes).unwrap();
    let records: Vec<_> = records.map(Result::unwrap).collect();
    assert_eq!(records.len(), 1, "one message says so for all");
    let record = &records[0];
    assert_eq!(record.code.map(|code| code.get()), Some(421));
    assert_eq!(record.enhanced, Some(EnhancedStatus::new(4, 7, 0)));
    assert_eq!(record.reply, b"too many connections from your host");
    assert_eq!(record.phase, Some(Phase::Greeting));
    assert_eq!(record.dest_host, b"mx.refusing.example");
    assert_ne!(record.class, b"", "{record:?}");

    world.peer = Peer::Refuses("connection refused".into());
    world.send("dead.example");
    let bytes = world.core.store.log.take_batch();
    let (_, mut records) = read_batch(&bytes).unwrap();
    let record = records.next().unwrap().unwrap();
    assert_eq!(record.code.map(|code| code.get()), Some(450));
    assert_eq!(record.enhanced, Some(EnhancedStatus::new(4, 4, 1)));
}

#[test]
fn delivery_log_files_end_with_the_hour() {
    let mut world = World::new(settings());
    for minute in 0..150 {
        world.send("a.example");
        world.advance(1000);
        assert!(minute == 0 || !world.logs.is_empty());
        world.advance(59_000);
    }
    // The start lies on an hour: 0 to 60, 60 to 120, 120 to 150.
    assert_eq!(START_MS % 3_600_000, 0);
    assert_eq!(world.logs, [SegmentId(1), SegmentId(2), SegmentId(3)]);
    assert_eq!(world.delivered, 150);
}

#[test]
fn destinations_and_sites_without_mail_do_not_pile_up() {
    let mut world = World::new(settings());
    for n in 0..200_000 {
        world.send(&format!("d{n}.example"));
        if n % 1000 == 0 {
            world.advance(60_000);
        }
    }
    world.advance(1000);
    assert_eq!(world.delivered, 200_000);
    let core = &world.core;
    core.assert_consistent();
    let known = core.status().destinations as usize;
    assert!(known <= IDLE_DESTINATIONS_MAX);
    assert!(core.mail.destination_ids().count() <= IDLE_DESTINATIONS_MAX + 1000);
    assert!(core.pool.by_key.len() <= SITES_MAX + 1000);
    assert!(
        core.pool.sites.len() <= SITES_MAX + 1000,
        "{}",
        core.pool.sites.len()
    );
    assert!(known > IDLE_DESTINATIONS_MAX / 2, "those that fit are kept");
    for (key, id) in &core.pool.by_key {
        let site = &core.pool.sites[*id as usize];
        assert!(site.key == *key && !site.is_vacant);
    }
    assert!(
        core.pool.tended.is_empty(),
        "nothing is left to be looked at"
    );
}

#[test]
fn a_site_is_tended_while_it_has_ready_mail_behind_a_back_off() {
    let mut world = World::new(settings());
    world.peer = Peer::Refuses("connection refused".into());
    for _ in 0..3 {
        world.send("later.example");
    }
    assert_eq!(world.core.pool.tended.len(), 1);
    world.peer = Peer::Takes;
    world.advance(120_000);
    world.advance(1000);
    assert_eq!(world.delivered, 3);
    world.advance(1000);
    assert!(world.core.pool.tended.is_empty());
}

#[test]
fn connections_come_from_our_addresses_of_the_right_family_in_turn() {
    let mut settings = settings();
    let ours = ["127.0.0.5", "::1", "127.0.0.6"].map(|ip| ip.parse().unwrap());
    settings.source_addresses = ours.to_vec();
    let mut world = World::new(settings);
    for n in 0..40 {
        world.send(&format!("d{n}.example"));
    }
    let mut used = std::collections::BTreeMap::new();
    for (_, source, target) in &world.connects {
        let source = source.expect("there is one of each family");
        assert_eq!(source.is_ipv4(), target.is_ipv4());
        *used.entry(source).or_insert(0_u32) += 1;
    }
    assert_eq!(used.len(), 3, "{used:?}");
}

#[test]
fn a_resolver_that_never_answers_costs_an_attempt_and_a_late_answer_is_used() {
    let mut world = World::new(settings());
    world.resolver_hangs = true;
    world.send("a.example");
    assert_eq!(world.questions.len(), 1);
    world.advance(QUESTION_MS_MAX - 1);
    assert_eq!(world.core.names.lookups.open_len(), 1);
    world.advance(1);
    assert!(
        world.core.names.lookups.open_len() == 0,
        "the question has a deadline"
    );
    let bytes = world.core.store.log.take_batch();
    let (_, records) = read_batch(&bytes).unwrap();
    let records: Vec<_> = records.map(Result::unwrap).collect();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].phase, Some(Phase::Dns));
    assert_eq!(records[0].enhanced.map(|status| status.class), Some(4));

    // It was slow, not dead.
    let late = answered(world.questions.remove(0));
    world.resolver_hangs = false;
    world.handle(late);
    for _ in 0..200 {
        world.advance(1000);
    }
    assert_eq!(world.delivered, 1);
    let asked_anew = world.questions.iter().any(|q| matches!(q, Question::Mx(_)));
    assert!(
        !asked_anew,
        "the late answer was kept: {:?}",
        world.questions
    );
}

#[test]
fn a_herd_of_messages_for_one_domain_asks_once() {
    let mut world = World::new(settings());
    world.resolver_hangs = true;
    for _ in 0..10_000 {
        world.send("a.example");
    }
    assert_eq!(world.questions.len(), 1, "while the first is open");
    world.resolver_hangs = false;
    let first = world.questions[0].clone();
    world.handle(answered(first));
    assert_eq!(world.delivered, 10_000);
    assert_eq!(world.questions.len(), 2, "MX, then its addresses");
    // When the TTL has passed, the next herd asks once more.
    world.advance(301_000);
    for _ in 0..1000 {
        world.send("a.example");
    }
    assert_eq!((world.delivered, world.questions.len()), (11_000, 4));
}

#[test]
fn many_domains_behind_one_host_share_its_question_and_its_site() {
    const DOMAINS: usize = 20_000;
    let mut world = World::new(Settings {
        questions_max: 1000,
        dns_entries_max: 200_000,
        ..settings()
    });
    world.resolver_hangs = true;
    let mut addresses_asked = 0;
    for n in 0..DOMAINS {
        world.send(&format!("d{n}.hosted.example"));
        for question in std::mem::take(&mut world.questions) {
            match question {
                Question::Mx(_) => world.handle(answered(question)),
                Question::Addresses(_) => addresses_asked += 1,
            }
        }
    }
    assert_eq!(addresses_asked, 1, "all wait for the same answer");
    world.resolver_hangs = false;
    world.handle(answered(Question::Addresses("mx.hosted.example".into())));
    for _ in 0..DOMAINS / 1000 {
        world.advance(100);
    }
    assert_eq!(world.delivered, DOMAINS);
    assert_eq!(world.core.pool.by_key.len(), 1);
    // A second round that waits at the site while every answer expires is looked up anew in time.
    world.peer = Peer::Refuses("connection refused".into());
    world.advance(1000);
    for n in 0..DOMAINS {
        world.send(&format!("d{n}.hosted.example"));
    }
    world.peer = Peer::Takes;
    for _ in 0..2000 {
        world.advance(1000);
        if world.delivered == 2 * DOMAINS {
            return;
        }
    }
    panic!("{} of {} delivered", world.delivered, 2 * DOMAINS);
}

#[test]
fn reloaded_routes_send_waiting_mail_to_its_lookup_again() {
    let mut world = World::new(settings());
    world.peer = Peer::Refuses("connection refused".into());
    for n in 0..100 {
        world.send(&format!("d{n}.hosted.example"));
        world.send(&format!("d{n}.hosted.example"));
    }
    world.core.reload(Rc::new(settings()));
    world.settle();
    world.peer = Peer::Takes;
    for _ in 0..300 {
        world.advance(1000);
    }
    assert_eq!(world.delivered, 200);
}

#[test]
fn a_dns_backlog_keeps_one_mark_a_domain_and_plans_as_many_as_may_ask() {
    const DOMAINS: usize = 20_000;
    const AT_A_TIME: usize = 400;
    const OPEN_MAX: usize = 1000;
    let mut world = World::new(Settings {
        questions_max: OPEN_MAX,
        dns_entries_max: 200_000,
        ..settings()
    });
    world.resolver_hangs = true;
    for n in 0..DOMAINS {
        world.send(&format!("d{n}.three.example"));
    }
    let mut asked = 0;
    for _ in 0..1000 {
        world.advance(100);
        assert!(world.questions.len() <= OPEN_MAX);
        assert!(
            world.core.names.lookups.queued_len() <= DOMAINS,
            "once each"
        );
        let rest = world
            .questions
            .split_off(AT_A_TIME.min(world.questions.len()));
        for question in std::mem::replace(&mut world.questions, rest) {
            asked += 1;
            world.handle(answered(question));
        }
        if world.delivered == DOMAINS {
            break;
        }
    }
    assert_eq!(world.delivered, DOMAINS);
    assert_eq!(
        asked,
        4 * DOMAINS,
        "each question once: MX, and three hosts"
    );
}

/// All that is queued has been tried once, and waits for its retry.
fn world_of_deferred(domains: &[&str]) -> World {
    let mut world = World::new(settings());
    world.peer = Peer::Refuses("connection refused".into());
    for domain in domains {
        world.send(domain);
    }
    world.peer = Peer::Takes;
    assert_eq!(world.core.status().deferred, domains.len() as u64);
    world
}

#[test]
fn nothing_expires_while_the_wall_clock_is_wrong() {
    let mut world = world_of_deferred(&["a.example"; 1]);
    let two_days_ms = 2 * 86_400_000;
    world.now.unix.0 += two_days_ms;
    world.advance(100);
    world.now.unix.0 -= two_days_ms;
    world.advance(100);
    assert_eq!(world.leaps, 2, "each is reported");
    assert_eq!(world.core.status().expired, 0);
    assert_eq!(world.core.status().queued, 1);
    for _ in 0..200 {
        world.advance(1000);
    }
    assert_eq!(world.delivered, 1);
}

#[test]
fn a_wall_clock_set_back_delays_no_retry() {
    let mut world = world_of_deferred(&["a.example"]);
    world.now.unix.0 -= 3_600_000;
    for _ in 0..70 {
        world.advance(1000);
    }
    assert_eq!((world.delivered, world.leaps), (1, 1));
}

#[test]
fn a_retry_of_one_domain_leaves_the_others_and_their_back_off() {
    let mut world = world_of_deferred(&["a.example", "b.example"]);
    world.core.retry(Some("a.example"));
    assert_eq!(world.core.retry_some(world.now), Some(1));
    world.advance(100);
    world.advance(100);
    assert_eq!(world.delivered, 1);
    let rows = world.core.destinations(10, world.now);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].domain, "b.example");
    let Binding::SiteBackoff { .. } = rows[0].binding else {
        panic!("{:?}", rows[0].binding);
    };
    world.core.retry(Some("nowhere.example"));
    assert_eq!(world.core.retry_some(world.now), Some(0));
    world.core.retry(None);
    assert_eq!(world.core.retry_some(world.now), Some(1));
    world.advance(100);
    world.advance(100);
    assert_eq!(world.delivered, 2);
}

#[test]
fn retry_and_search_over_a_large_queue_take_slices() {
    const MESSAGES: usize = 20_000;
    let mut world = World::new(settings());
    world.resolver_hangs = true;
    for n in 0..MESSAGES {
        world.send(&format!("d{}.example", n % 4));
    }
    let mut search = super::command::Search::new(Some("d1.example"), MESSAGES);
    let mut slices = 1;
    while !world.core.search_some(&mut search, world.now) {
        slices += 1;
    }
    assert!(slices >= MESSAGES / super::ENTRIES_PER_TICK_MAX, "{slices}");
    assert_eq!(search.into_found().len(), MESSAGES / 4);
}

#[test]
fn a_session_gets_no_more_mail_when_its_time_is_up_or_its_address_has_gone() {
    let mut world = World::new(Settings {
        connection_idle_ms_max: 60_000,
        connection_ms_max: 10_000,
        ..settings()
    });
    world.send("a.example");
    world.send("a.example");
    assert_eq!(world.connects.len(), 1, "used again");
    world.advance(10_000);
    world.send("a.example");
    assert_eq!((world.connects.len(), world.delivered), (2, 3));
    let (_, _, address) = world.connects[1];
    world.core.pool.sites[0]
        .targets
        .retain(|target| target.address != address);
    world.send("a.example");
    assert_eq!((world.connects.len(), world.delivered), (3, 4));
    assert_ne!(world.connects[2].2, address);
}

#[test]
fn mail_that_waits_while_stopping_says_so() {
    let mut world = World::new(settings());
    world.core.drain();
    world.send("a.example");
    let rows = world.core.destinations(10, world.now);
    assert!(
        rows.iter().all(|row| row.binding == Binding::Stopping),
        "{rows:?}"
    );
}

#[test]
fn mail_after_one_failed_write_is_accepted_at_once_and_after_several_in_a_row_when_writing_works() {
    let mut world = World::new(settings());
    world.failing_writes = 1;
    world.send("a.example");
    // The clock has not moved: whoever comes next is not told to come again.
    world.send("a.example");
    assert_eq!(world.answers, [Stored::Failed, Stored::Durable]);
    assert_eq!(world.delivered, 1);
    world.answers.clear();
    world.failing_writes = u32::MAX;
    world.send("a.example");
    let mut tries = 0;
    let mut left = world.failing_writes;
    for _ in 0..600 {
        world.advance(100);
        tries += left - world.failing_writes;
        left = world.failing_writes;
    }
    assert!(
        (10..30).contains(&tries),
        "{tries} writes to a dead disk in a minute"
    );
    world.send("a.example");
    assert_eq!(world.answers, [Stored::Failed, Stored::Failed]);
    world.failing_writes = 0;
    world.advance(crate::store::WRITE_RETRY_MS_MAX);
    world.send("a.example");
    assert_eq!(world.answers.last(), Some(&Stored::Durable));
    assert_eq!(world.delivered, 2);
}

#[test]
fn a_full_queue_takes_the_notifications_of_other_shards_up_to_a_reserve() {
    let mut world = World::new(Settings {
        queued_entries_max: 0,
        ..settings()
    });
    world.core.drain();
    let give = |world: &mut World, is_notice| {
        let submission = Box::new(world.submission("a.example"));
        let message = PartMessage::Store {
            key: 1,
            submission,
            pending: true,
            handover: None,
            is_notice,
        };
        let from = ShardId(1);
        let message = message.into();
        world.handle(Event::FromShard { from, message });
        world.told.pop()
    };
    assert_eq!(give(&mut world, false), Some(Stored::NoSpace));
    for _ in 0..super::accept::NOTICES_RESERVE {
        assert_eq!(give(&mut world, true), Some(Stored::Durable));
    }
    assert_eq!(give(&mut world, true), Some(Stored::NoSpace));
}

#[test]
fn a_greeted_session_that_breaks_counts_as_a_session_error() {
    let counted = |world: &World, counter| world.core.counters().total(counter);
    let mut world = World::new(settings());
    world.peer = Peer::Breaks;
    world.send("broken.example");
    assert_eq!(counted(&world, Counter::SessionError), 1);
    assert_eq!(counted(&world, Counter::Tempfail), 1);
    assert_eq!(counted(&world, Counter::ConnectFail), 0);
    let row = world.core.destination("broken.example", world.now).unwrap();
    assert_eq!(&*row.last_reply, "mx.broken.example said: 421 4.4.2 lost");

    world.peer = Peer::Refuses("connection refused".into());
    world.send("dead.example");
    assert_eq!(counted(&world, Counter::SessionError), 1);
    assert_eq!(counted(&world, Counter::ConnectFail), 1);
}

#[test]
fn levels_count_recipients_and_messages_are_named_so() {
    let mut world = World::new(settings());
    world.peer = Peer::Refuses("connection refused".into());
    let mut submission = world.submission("dead.example");
    let envelope = Arc::make_mut(&mut submission.envelope);
    let second = Address::parse("second@dead.example").unwrap();
    envelope.recipients.push(second.into());
    let ticket = world.next_message;
    world.handle(Event::Accepted {
        ticket,
        submission: Box::new(submission),
    });
    let status = world.core.status();
    assert_eq!((status.queued, status.deferred), (2, 2));
    assert_eq!(status.queued_messages, 1);
}
