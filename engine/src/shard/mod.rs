//! One shard: everything between an accepted transaction and its last outcome.
//!
//! [`ShardCore::handle`] takes an [`Event`] and the time; [`ShardCore::take_actions`] gives what is to
//! be done about it. The daemon carries actions out on real disks and sockets, the simulation on fake
//! ones; neither decides anything.
//!
//! A message's way through the files here:
//! - `admit`: whether it is taken, which may have to wait;
//! - `accept`: recipients to their owner shards, and one answer when all have stored theirs;
//! - `peer`: what shards tell each other;
//! - `waiter`: who waits for that;
//! - `records`: messages and notes into records, messages out of records;
//! - `streams`, `durable`: when they are written ([`crate::store`]), and what is done when they are durable;
//! - `ready`: mail that may be sent, and its destination's turns at a site;
//! - `lookup`: a destination to its site, by DNS;
//! - `content`: octets kept in memory, read back, waiting for room;
//! - `deliver`: sites to connections, connections to transactions;
//! - `unconnected`: mail that no connection was found for;
//! - `settle`: each recipient's outcome into the queue log, the delivery log and the counters;
//! - `judge`: what reply rules make of what a peer said;
//! - `notice`: the notification to the sender of what failed;
//! - `idle`: destinations that have no mail, and how many of them are kept;
//! - `replay`: the index after a restart;
//! - `compact`: segments that may go, and what of them is copied forward;
//! - `unread`: segments that replay could not read yet;
//! - `handover`: mail that leaves for the shards that own it now;
//! - `adopt`: the mail of shards that are no more;
//! - `window`: destinations whose delivery window is closed;
//! - `view`: what an operator may ask;
//! - `stops`: mail that an operator has stopped;
//! - `command`: what an operator has done over all of the queue, so much a turn.

mod accept;
mod admit;
pub mod adopt;
mod check;
pub mod command;
mod compact;
mod content;
mod deliver;
mod durable;
mod event;
mod handover;
mod idle;
mod judge;
mod lookup;
mod message;
mod notice;
mod peer;
mod policy;
mod ready;
mod records;
mod replay;
mod settle;
pub mod stops;
mod streams;
mod unconnected;
mod unread;
mod view;
mod waiter;
mod window;

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

pub use crate::queue::survivors::NotedHandovers;
pub use crate::store::{BatchId, Begin, DiskError};
pub use accept::PartMessage;
pub use event::{Action, Cause, Event, ReadId, Stored};
pub use handover::HandoverMessage;
pub use message::{Message, MessageWith, Submission};
pub use peer::ShardMessage;
pub use unread::UnreadSegment;
pub use view::{DestinationView, ShardStatus, Why};

use crate::clock::{Now, UnixMs};
use crate::counters::{Counter, Counters};
use crate::dns::{DnsPolicy, OwnNames};
use crate::dsn::DsnReturn;
use crate::ids::{QueueId, QueueIds, ShardId, TransactionToken};
use crate::memory::Permit;
use crate::policy::{Policy, ReplyRules};
use crate::pool::Pool;
use crate::random::Random;
use crate::route::RouteTable;
use crate::schedule::destination::DestinationId;
use crate::schedule::index::EntryId;
use crate::schedule::mail::Mail;
use crate::store::StorageSetup;

/// [`Event::Tick`] comes at least this often.
pub const TICK_MS: u64 = 100;
/// Questions that are with the resolver at a time.
pub const QUESTIONS_MAX: usize = 1024;
/// A question that the resolver has not answered for so long is taken for timed out, milliseconds. The
/// resolver gives up much sooner by itself; this is for one that has died or hangs.
pub const QUESTION_MS_MAX: u64 = 120_000;
/// Destinations kept although they have no mail, for their lookups.
pub const IDLE_DESTINATIONS_MAX: usize = 65_536;
/// Entries taken out of the retry wheel, swept, failed or handed over in one turn.
pub const ENTRIES_PER_TURN_MAX: usize = 4096;
/// Reads of records on behalf of no connection (expiry, DNS failure) at a time.
pub const READS_MAX: usize = 64;

/// What a shard is told by the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `[server] hostname`.
    pub hostname: Box<str>,
    /// How MX records would name us.
    pub own: OwnNames,
    /// `[[route]]`.
    pub routes: RouteTable,
    /// What mail is sent how fast, tried again when, and kept how long.
    pub policy: Arc<Policy>,
    /// Port of MX hosts, how many of them, and which of their addresses.
    pub dns_policy: DnsPolicy,
    /// Recipients of one transaction, at most
    /// [`RECIPIENTS_PER_TRANSACTION_MAX`](crate::limits::RECIPIENTS_PER_TRANSACTION_MAX).
    pub recipients_per_message_max: u16,
    /// Shortest and longest time a site is left alone after no target would have us, milliseconds.
    pub site_backoff_ms: (u64, u64),
    /// Our addresses for outgoing connections, taken in turn among those of the target's family; the
    /// system chooses where there are none.
    pub source_addresses: Vec<IpAddr>,
    /// Whether senders are told of failures.
    pub dsn: bool,
    /// What such a report carries of the message.
    pub dsn_return: DsnReturn,
    /// Content in memory, whoever holds it, bytes.
    pub content_bytes_max: usize,
    /// The part of it that may keep messages for their first delivery, bytes.
    pub memory_bytes_max: usize,
    /// Entries in the queue at which no more mail is accepted.
    pub queued_entries_max: usize,
    /// Free space below which no more mail is accepted, bytes.
    pub disk_reserve_bytes: u64,
    /// Entries that one task over the whole queue may touch in a turn: [`ENTRIES_PER_TURN_MAX`], or fewer.
    pub entries_per_turn_max: usize,
    /// Longest time an outcome waits for its sync, milliseconds.
    pub outcome_sync_ms_max: u64,
    /// DNS answers kept.
    pub dns_entries_max: usize,
    /// Longest time an answer, and one that there is nothing, is used, seconds.
    pub dns_ttl_s_max: (u32, u32),
    /// Questions with the resolver at a time, at most [`QUESTIONS_MAX`].
    pub questions_max: usize,
    /// Segment size, bytes.
    pub segment_bytes: u32,
    /// Delivery log file size, bytes.
    pub log_segment_bytes: u32,
    /// A delivery log file ends at each multiple of this, milliseconds since the epoch.
    pub log_rotate_ms: u64,
    /// Rows of counters by domain, and by group.
    pub counter_domains_max: u32,
    /// Most groups that have a row of their own.
    pub counter_groups_max: u32,
    /// How often counts are made durable, milliseconds.
    pub counter_save_ms: u64,
    /// What replies mean, and what is done about them.
    pub rules: Arc<ReplyRules>,
}

/// A delivery that is on its way: with a connection, or waiting for its record.
#[derive(Debug)]
struct Delivery {
    entry: EntryId,
    /// Places of the recipients tried, within the entry.
    recipients: Vec<u16>,
    message: Rc<Message>,
    destination: DestinationId,
    started: Now,
    ready_since: UnixMs,
    /// The memory taken for its content, if it was read back.
    _permit: Option<Permit>,
}

/// One shard.
#[derive(Debug)]
pub struct ShardCore {
    me: ShardId,
    shards: u16,
    settings: Rc<Settings>,
    actions: Vec<Action>,
    random: Random,
    ids: QueueIds,

    admission: admit::Admission,
    splits: accept::Splits,
    store: streams::Streams,
    mail: Mail,
    content: content::Content,
    names: lookup::Names,
    pool: Pool,
    windows: window::Windows,
    deliveries: HashMap<TransactionToken, Delivery>,
    last_token: TransactionToken,
    notices: notice::Notices,
    moves: replay::Moves,
    retrying: Option<command::Retrying>,
    stops: stops::Stops,
    draining: bool,
    counters: Counters,
    /// Entries that changed in this turn.
    touched: usize,
}

impl ShardCore {
    /// A shard with an empty queue.
    ///
    /// `shards`: how many there are. `keys`: for new segments. `nonce`: 16 fresh random bytes at each
    /// call. `seed`: for jitter and shuffling.
    pub fn new(
        me: ShardId,
        shards: u16,
        settings: Rc<Settings>,
        storage: StorageSetup,
        seed: u64,
        now: Now,
    ) -> Self {
        let mut random = Random::new(seed);
        let mut store = streams::Streams::new(me, &settings, storage);
        let moves = replay::Moves::new(store.queue.random_handover(), now);
        Self {
            me,
            shards: shards.max(1),
            actions: Vec::new(),
            ids: QueueIds::new(me, random.next()),
            random,
            admission: admit::Admission::default(),
            splits: accept::Splits::default(),
            store,
            mail: Mail::new(now),
            content: content::Content::new(settings.content_bytes_max),
            names: lookup::Names::new(&settings),
            pool: Pool::new(deliver::limits(&settings, shards), me, shards),
            windows: window::Windows::new(&settings.policy),
            deliveries: HashMap::new(),
            last_token: TransactionToken::default(),
            notices: notice::Notices::default(),
            moves,
            retrying: None,
            stops: stops::Stops::new(),
            draining: false,
            touched: 0,
            counters: Counters::new(
                now.unix,
                settings.counter_domains_max,
                settings.counter_groups_max,
            ),
            settings,
        }
    }

    /// Takes in what happened. Ask [`Self::take_actions`] afterwards; several events may come first.
    pub fn handle(&mut self, event: Event, now: Now) {
        self.touched = 0;
        self.observe(now);
        match event {
            Event::Accepted { ticket, submission } => {
                let whence = admit::Whence::Session(ticket);
                self.admit(admit::Arrival { whence, submission }, now);
            }
            Event::Gone { ticket } => self.gone(ticket),
            Event::Written { batch, result } => self.written(batch, result, now),
            Event::Read { read, result } => self.record_read(read, result, now),
            Event::Answered {
                question,
                answer,
                ttl_s,
            } => {
                self.answered(question, answer, ttl_s, now);
            }
            Event::Connected { conn, peer } => self.connected(conn, peer, now),
            Event::CanStart { conn } => self.can_start(conn, now),
            Event::Finished {
                conn,
                token,
                results,
            } => self.finished(conn, token, results, now),
            Event::Returned { conn, token } => self.returned(conn, token, now),
            Event::Closed { conn, phase, cause } => self.closed(conn, phase, cause, now),
            Event::Retired {
                segment,
                disposal,
                result,
            } => self.retired(segment, disposal, result),
            Event::FreeDeleted { result } => self.free_deleted(result),
            Event::HandoverNoted { handover, result } => {
                self.handover_noted(handover, result, now);
            }
            Event::FromShard { from, message } => self.told_by_shard(from, message, now),
            Event::DiskSpace { free_bytes } => {
                self.store.disk_free_bytes = free_bytes;
            }
            Event::Tick => self.tick(now),
        }
        self.admit_waiting(now);
        self.plan_some(lookup::PLANS_PER_TURN_MAX, now);
        self.pump_marked(now);
        self.settle_leases(now);
    }

    /// What is to be done, in order; ask after each event.
    pub fn take_actions(&mut self, into: &mut Vec<Action>) {
        into.append(&mut self.actions);
    }

    /// Entries that became ready, were scheduled or left the queue in the turn of the last event.
    pub const fn entries_touched(&self) -> usize {
        self.touched
    }

    /// The next queue id for a message accepted here.
    pub fn next_queue_id(&mut self, now: Now) -> QueueId {
        self.ids.next(self.mail.unix(now).0)
    }

    /// Takes in the time; a leap of the wall clock is told, and nothing expires or waits by it.
    fn observe(&mut self, now: Now) {
        let leap = self.mail.observe(now);
        self.counters.observe(self.mail.unix(now), now.unix);
        if let Some(leap_ms) = leap {
            self.windows.leapt();
            let way = if leap_ms > 0 { "ahead" } else { "back" };
            self.report(format!(
                "the wall clock has leapt {way} by {} s; retry times and ages of new mail go on without it",
                leap_ms.unsigned_abs() / 1000
            ));
        }
    }

    /// A session holds `after` bytes of content and no longer `before`; `false` if it has to give its
    /// content up, as memory is short.
    pub fn receiving(&mut self, before: usize, after: usize) -> bool {
        let waiting = self.store.queue.waiting_bytes();
        self.content.receive(before, after, waiting)
    }

    /// New settings from the configuration; lookups are made anew where routes changed.
    pub fn reload(&mut self, settings: Rc<Settings>) {
        self.settings = settings;
        let limits = deliver::limits(&self.settings, self.shards);
        self.pool.set_limits(limits);
        self.store.log.reload(&self.settings);
        let (ttl_s_max, negative_ttl_s_max) = self.settings.dns_ttl_s_max;
        self.names.cache.set_ttl_max(ttl_s_max, negative_ttl_s_max);
        self.forget_lookups();
    }

    /// Start no more deliveries; outcomes are synced at once from now on.
    pub const fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether, after [`Self::drain`], everything is on disk and no transaction is in flight.
    pub fn is_drained(&self) -> bool {
        self.admission.is_empty()
            && self.deliveries.is_empty()
            && self.splits.open.is_empty()
            && self.is_recorded()
    }

    /// Whether, after [`Self::drain`], everything that has happened so far is on disk.
    pub fn is_recorded(&self) -> bool {
        self.store.queue.is_idle() && self.store.log.is_idle() && self.store.counts.is_closed()
    }

    fn tick(&mut self, now: Now) {
        self.retry_write(now);
        self.schedule_replayed(now);
        self.transfer_some(now);
        self.note_handover(now);
        self.settle_handovers(now);
        self.retry_some(now);
        self.tend_stops(now);
        self.wake_deferred(now);
        self.open_windows(now);
        self.fail_ready(now);
        self.wake_for_memory(now);
        self.sweep(now);
        self.retry_dns(now);
        self.tend_sites(now);
        self.clean_segments(now);
        self.flush_log(now);
        self.save_counters(now);
    }

    fn report(&mut self, line: String) {
        self.actions.push(Action::Report { line });
    }

    /// Counts something that happened to an entry's mail.
    fn count(&mut self, id: EntryId, counter: Counter, n: u32) {
        let (row, group) = self.mail.rows(id, &self.counters);
        self.counters.count(row, group, counter, n);
    }

    /// The counters, for an operator's question.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }
}

#[cfg(test)]
mod tests;
