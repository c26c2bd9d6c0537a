//! A shard with a scripted outside: what may happen to it, and what is to be seen of it. The disk takes
//! everything at once unless it is told to fail; DNS and peers do as they are told (`outside`).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use super::super::unconnected::Unconnected;
use super::super::{
    Cause, ENTRIES_PER_TURN_MAX, Event, PartMessage, Settings, ShardCore, Stored, Submission,
};
use crate::address::{Address, Domain};
use crate::clock::{Mono, Now, UnixMs};
use crate::counters::Counter;
use crate::delivery_log::read_batch;
use crate::dns::{DnsPolicy, Question};
use crate::dsn::DsnReturn;
use crate::envelope::Envelope;
use crate::ids::{HandoverId, SegmentId, SessionTicket, ShardId, SplitId};
use crate::keys::{KeyRing, MasterKey};
use crate::net::IpFamily;
use crate::phase::Phase;
use crate::policy::{Key, Policy, ReplyRules, Row, Value};
use crate::pool::ConnId;
use crate::schedule::Binding;
use crate::smtp::client::{ClientError, OutboundTransaction};
use crate::smtp::reply::Reply;
use crate::status::EnhancedStatus;
use crate::store::StorageSetup;

/// When the shard starts: on an hour.
pub(super) const START_MS: u64 = 1_800_000_000_000;

/// What peers do with connections and transactions.
#[derive(Clone)]
pub(super) enum Peers {
    Take,
    /// Transactions are taken when [`Relay::peers_end_sessions`] says so, and the session then ends.
    Hold,
    Refuse(Cause),
    /// They greet, and are lost within each transaction.
    Break,
    /// They greet, and say this to each transaction; those at other addresses than this one take it.
    Say(Said),
}

/// What a peer says to a transaction.
#[derive(Clone)]
pub(super) struct Said {
    pub(super) phase: Phase,
    pub(super) code: u16,
    pub(super) text: String,
    /// Who of them says it; the others take what they are given.
    pub(super) only: Option<IpAddr>,
}

/// A connection that was asked for.
#[derive(Clone, Copy)]
pub(super) struct Connect {
    pub(super) source: Option<IpAddr>,
    pub(super) target: SocketAddr,
}

/// A line of the delivery log, as far as the tests ask.
#[derive(Debug)]
pub(super) struct LogLine {
    pub(super) phase: Option<Phase>,
    pub(super) code: Option<u16>,
    pub(super) enhanced: Option<EnhancedStatus>,
    pub(super) reply: String,
    pub(super) dest_host: String,
    pub(super) class: String,
}

/// One shard and all that is outside of it.
pub(super) struct Relay {
    pub(super) core: ShardCore,
    pub(super) now: Now,
    pub(super) peers: Peers,
    pub(super) held: Vec<(ConnId, OutboundTransaction)>,
    /// Queue segments as they were written.
    pub(super) disk: HashMap<SegmentId, Vec<u8>>,
    pub(super) resolver_hangs: bool,
    /// Peers offer 8BITMIME.
    pub(super) peers_take_eight_bit: bool,
    /// Nothing is written for now.
    pub(super) disk_is_slow: bool,
    /// How many of the next writes of the queue fail.
    pub(super) failing_writes: u32,
    /// What each host has.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ttl_s: u32,
    pub(super) next_message: u64,

    /// Delivery log segments that were begun.
    pub(super) logs: Vec<SegmentId>,
    pub(super) connects: Vec<Connect>,
    /// Where each leads and from where.
    pub(super) ends: HashMap<ConnId, Connect>,
    /// How many recipients each transaction had.
    pub(super) sent: Vec<usize>,
    /// What an operator was told, but for leaps and failing writes.
    pub(super) alerts: Vec<String>,
    /// What the resolver was asked; what it has not answered, as long as it hangs.
    pub(super) questions: Vec<Question>,
    /// Recipients taken by peers.
    pub(super) delivered: usize,
    /// How often a leap of the wall clock was reported.
    pub(super) leaps: usize,
    /// What sessions were told, in order.
    pub(super) answers: Vec<Stored>,
    /// What other shards were told of what they gave us, in order.
    pub(super) told: Vec<Stored>,
    /// What they were given and have not answered.
    pub(super) given_away: Vec<SplitId>,
    /// How many entries one turn has touched at most.
    pub(super) most_touched: usize,
}

/// The policy of [`settings`], under the operator's `rows`.
pub(super) fn policy(rows: Vec<Row>) -> Arc<Policy> {
    let default = vec![
        (Key::SessionsMax, Value::Count(2)),
        (Key::MessagesPerSession, Value::Count(100)),
        (Key::SessionTimeMax, Value::Duration(300_000)),
        (Key::IdleTimeout, Value::Duration(0)),
        (Key::RetrySchedule, Value::Durations([60_000].into())),
        (Key::RetryJitterPercent, Value::Count(0)),
        (Key::ExpireAfter, Value::Duration(86_400_000)),
    ];
    Arc::new(Policy::new(default, Vec::new(), rows))
}

/// Sets a value of the policy's default layer.
pub(super) fn set_default(settings: &mut Settings, key: Key, value: Value) {
    Arc::make_mut(&mut settings.policy).set_default(key, value);
}

/// Settings under which nothing is in the way.
pub(super) fn settings() -> Settings {
    Settings {
        hostname: "relay.example".into(),
        own: Default::default(),
        routes: Default::default(),
        policy: policy(Vec::new()),
        dns_policy: DnsPolicy {
            mx_port: 25,
            mx_hosts_max: 10,
            family: IpFamily::Any,
            allowed: Vec::new(),
        },
        recipients_per_message_max: 100,
        site_backoff_ms: (30_000, 60_000),
        source_addresses: Vec::new(),
        dsn: false,
        dsn_return: DsnReturn::Headers,
        content_bytes_max: 256 << 20,
        memory_bytes_max: 64 << 20,
        queued_entries_max: 1_000_000,
        disk_reserve_bytes: 0,
        entries_per_turn_max: ENTRIES_PER_TURN_MAX,
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
        rules: Arc::new(ReplyRules::builtin()),
    }
}

/// A shard whose segments begin at `next`, and that has read nothing yet.
pub(super) fn shard(
    me: ShardId,
    shards: u16,
    settings: Settings,
    next: SegmentId,
    now: Now,
) -> ShardCore {
    let mut nonce = u128::from(next.0) << 64;
    let setup = StorageSetup {
        keys: Arc::new(KeyRing::new(MasterKey::from_bytes(&mut [7; 32]))),
        nonces: Box::new(move || {
            nonce += 1;
            nonce.to_le_bytes()
        }),
        next_segment: next,
        next_log_segment: SegmentId(1),
        next_counters_segment: SegmentId(1),
    };
    ShardCore::new(me, shards, Rc::new(settings), setup, 1, now)
}

/// The relay as a test finds it.
impl Relay {
    /// With [`settings`].
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    /// With settings of its own.
    pub(super) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings();
        change(&mut settings);
        let now = Now {
            mono: Mono(0),
            unix: UnixMs(START_MS),
        };
        let mut core = shard(ShardId(0), 1, settings, SegmentId(1), now);
        core.replay_done();
        Self {
            core,
            now,
            peers: Peers::Take,
            held: Vec::new(),
            disk: HashMap::new(),
            resolver_hangs: false,
            peers_take_eight_bit: true,
            disk_is_slow: false,
            failing_writes: 0,
            addresses: ["192.0.2.1", "2001:db8::1"]
                .map(|ip| ip.parse().unwrap())
                .into(),
            ttl_s: 300,
            next_message: 0,
            logs: Vec::new(),
            connects: Vec::new(),
            ends: HashMap::new(),
            sent: Vec::new(),
            alerts: Vec::new(),
            questions: Vec::new(),
            delivered: 0,
            leaps: 0,
            answers: Vec::new(),
            told: Vec::new(),
            given_away: Vec::new(),
            most_touched: 0,
        }
    }

    /// With one message for each domain that was tried and waits for its retry, behind the back-off of its
    /// site; by now peers would take it.
    pub(super) fn with_deferred(domains: &[&str]) -> Self {
        let mut relay = Self::new();
        relay.peers_refuse("connection refused");
        for domain in domains {
            relay.accept(domain);
        }
        relay.peers_take();
        assert_eq!(relay.core.status().deferred, domains.len() as u64);
        relay
    }
}

/// What happens.
impl Relay {
    /// A message for one recipient comes in.
    pub(super) fn accept(&mut self, domain: &str) {
        self.accept_for(domain, 1);
    }

    /// A message for so many recipients of a domain does.
    pub(super) fn accept_for(&mut self, domain: &str, recipients: usize) {
        let submission = Box::new(self.submission(domain, recipients));
        let ticket = SessionTicket(self.next_message);
        self.handle(Event::Accepted { ticket, submission });
    }

    /// A message of a group does, of a client at 192.0.2.7, with a tag.
    pub(super) fn accept_of(&mut self, domain: &str, group: &str) {
        let mut submission = Box::new(self.submission(domain, 1));
        submission.group = Some(group.into());
        submission.peer = Some(IpAddr::from([192, 0, 2, 7]));
        submission.tags = vec![("Campaign".into(), "7".into())];
        let ticket = SessionTicket(self.next_message);
        self.handle(Event::Accepted { ticket, submission });
    }

    /// A message with this content does.
    pub(super) fn accept_with(&mut self, domain: &str, content: &[u8]) {
        let mut submission = Box::new(self.submission(domain, 1));
        submission.content = content.to_vec();
        let ticket = SessionTicket(self.next_message);
        self.handle(Event::Accepted { ticket, submission });
    }

    /// Another shard has stored what it was given.
    pub(super) fn other_has_stored(&mut self, split: SplitId) {
        let result = Stored::Durable;
        let (from, message) = (ShardId(1), PartMessage::Stored { split, result }.into());
        self.handle(Event::FromShard { from, message });
    }

    /// So many do.
    pub(super) fn accept_many(&mut self, messages: usize, domain: &str) {
        for _ in 0..messages {
            self.accept(domain);
        }
    }

    /// One for each of so many domains does.
    pub(super) fn accept_each(&mut self, domains: usize, below: &str) {
        for n in 0..domains {
            self.accept(&format!("d{n}.{below}"));
        }
    }

    /// Another shard gives a message; what it is told.
    pub(super) fn given(&mut self, domain: &str, is_notice: bool) -> Option<Stored> {
        self.given_under(None, domain, is_notice)
    }

    /// One does so under a handover.
    pub(super) fn given_under(
        &mut self,
        handover: Option<HandoverId>,
        domain: &str,
        is_notice: bool,
    ) -> Option<Stored> {
        let submission = Box::new(self.submission(domain, 1));
        let message = PartMessage::Store {
            split: SplitId(1),
            submission,
            pending: handover.is_none(),
            handover,
            is_notice,
        };
        let (from, message) = (ShardId(1), message.into());
        self.handle(Event::FromShard { from, message });
        self.told.pop()
    }

    fn submission(&mut self, domain: &str, recipients: usize) -> Submission {
        self.next_message += 1;
        let to = |n| Address::parse(&format!("to{n}@{domain}")).unwrap().into();
        Submission {
            queue_id: self.core.next_queue_id(self.now),
            accepted: self.now.unix,
            envelope: Arc::new(Envelope::new(
                Some(Address::parse("sender@from.example").unwrap()),
                (0..recipients).map(to).collect(),
            )),
            group: None,
            tags: Vec::new(),
            message_id: None,
            peer: None,
            options: Box::default(),
            content: b"Subject: test\r\n\r\nbody of the message\r\n".to_vec(),
        }
    }

    /// Time passes, and a tick comes.
    pub(super) fn after_ms(&mut self, ms: u64) {
        self.now.mono = self.now.mono.plus_ms(ms);
        self.now.unix.0 += ms;
        self.handle(Event::Tick);
    }

    /// Time passes, with a tick each second.
    pub(super) fn after_s(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.after_ms(1000);
        }
    }

    /// Somebody sets the wall clock.
    pub(super) fn wall_clock_leaps(&mut self, ms: i64) {
        self.now.unix.0 = self.now.unix.0.saturating_add_signed(ms);
    }

    /// From now on.
    pub(super) fn peers_take(&mut self) {
        self.peers = Peers::Take;
    }

    /// From now on.
    pub(super) fn peers_hold(&mut self) {
        self.peers = Peers::Hold;
    }

    /// From now on.
    pub(super) fn peers_refuse(&mut self, cause: &str) {
        self.peers = Peers::Refuse(cause.into());
    }

    /// From now on, with this reply to the connection.
    pub(super) fn peers_refuse_with(&mut self, code: u16, status: EnhancedStatus, text: &str) {
        let reply = Reply {
            code: crate::smtp::reply::known(code),
            enhanced: Some(status),
            text: text.into(),
        };
        self.peers = Peers::Refuse(ClientError::Refused(reply).into());
    }

    /// From now on, to each transaction.
    pub(super) fn peers_say(&mut self, phase: Phase, code: u16, text: &str) {
        self.peers = Peers::Say(Said {
            phase,
            code,
            text: text.to_owned(),
            only: None,
        });
    }

    /// From now on, of those at this address.
    pub(super) fn peer_says(&mut self, only: &str, phase: Phase, code: u16, text: &str) {
        self.peers = Peers::Say(Said {
            phase,
            code,
            text: text.to_owned(),
            only: Some(only.parse().unwrap()),
        });
    }

    /// From now on.
    pub(super) fn peers_break(&mut self) {
        self.peers = Peers::Break;
    }

    /// The transactions that peers hold are taken, and their sessions end.
    pub(super) fn peers_end_sessions(&mut self) {
        for (conn, transaction) in std::mem::take(&mut self.held) {
            self.take(conn, &transaction);
            self.handle(Event::Closed {
                conn,
                phase: Phase::Mail,
                cause: "421 closing".into(),
            });
        }
    }

    /// Questions stay with the resolver from now on.
    pub(super) fn resolver_hangs(&mut self) {
        self.resolver_hangs = true;
    }

    /// Questions are answered at once from now on; those that it has are not.
    pub(super) fn resolver_answers(&mut self) {
        self.resolver_hangs = false;
    }

    /// An answer comes to a question that the resolver has.
    pub(super) fn answer(&mut self, question: Question) {
        let event = self.answered(question);
        self.handle(event);
    }

    /// An operator has mail tried again at once; how much that was.
    pub(super) fn retry(&mut self, domain: Option<&str>) -> Option<u64> {
        self.core.retry(domain);
        self.core.retry_some(self.now)
    }

    /// The settings are read again.
    pub(super) fn reload(&mut self) {
        self.core.reload(Rc::new(settings()));
        self.settle();
    }
}

/// What is to be seen.
impl Relay {
    /// What the mail for a domain waits for; `None`: there is none.
    pub(super) fn binding(&self, domain: &str) -> Option<Binding> {
        let rows = self.core.destinations(usize::MAX, self.now);
        let row = rows.into_iter().find(|row| row.domain == domain)?;
        row.binding
    }

    /// What a peer said of the mail for a domain, or of the session, last.
    pub(super) fn last_reply(&self, domain: &str) -> String {
        let row = self.core.destination(domain, self.now).unwrap();
        row.last_reply.to_string()
    }

    /// What the delivery log and the sender's notification would say, were its mail to expire now.
    pub(super) fn reply_if_expired(&self, domain: &str) -> String {
        let domain = Domain::parse(domain).unwrap();
        let id = self.core.mail.find_destination(&domain).unwrap();
        let reply = self.core.unconnected_reply(id, &Unconnected::Expired);
        reply.text.to_string()
    }

    /// What the delivery log says since it was asked last.
    pub(super) fn log(&mut self) -> Vec<LogLine> {
        let bytes = self.core.store.log.take_batch();
        let (_, records) = read_batch(&bytes).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        records
            .map(Result::unwrap)
            .map(|record| LogLine {
                phase: record.phase,
                code: record.code.map(|code| code.get()),
                enhanced: record.enhanced,
                reply: text(record.reply),
                dest_host: text(record.dest_host),
                class: text(record.class),
            })
            .collect()
    }

    /// One of the twelve counters.
    pub(super) fn counted(&self, counter: Counter) -> u64 {
        self.core.counters().total(counter)
    }

    /// How many messages for a domain, or for any, a search of the whole queue finds, and in how many
    /// slices.
    pub(super) fn searched(&self, domain: Option<&str>) -> (usize, usize) {
        let mut search = super::super::command::Search::new(domain, usize::MAX);
        let mut slices = 1;
        while !self.core.search_some(&mut search, self.now) {
            slices += 1;
        }
        (search.into_found().len(), slices)
    }

    /// Domains that are known, and slots that were ever taken for them.
    pub(super) fn domains(&self) -> (usize, usize) {
        let known = self.core.status().destinations as usize;
        (known, self.core.mail.destination_ids().count())
    }

    /// Sites that are known, and slots that were ever taken for them.
    pub(super) fn sites(&self) -> (usize, usize) {
        self.core.pool.checked_len()
    }

    /// Sites that every tick looks at.
    pub(super) fn tended_sites(&self) -> usize {
        self.core.pool.tended_len()
    }

    /// Whether the domain's mail is of that shard.
    pub(super) fn is_of(&self, domain: &str, shard: u16) -> bool {
        let domain = crate::address::Domain::from_stored(domain);
        crate::route::owner(&domain, self.core.shards) == ShardId(shard)
    }

    /// Questions that the shard has open.
    pub(super) fn open_questions(&self) -> usize {
        self.core.names.lookups.open_len()
    }

    /// Domains that wait for room to ask.
    pub(super) fn domains_waiting_to_ask(&self) -> usize {
        self.core.names.lookups.queued_len()
    }
}

/// The books agree when a test is over.
impl Drop for Relay {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.core.assert_consistent();
        }
    }
}
