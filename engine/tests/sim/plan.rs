//! What a seed has in store: its settings, what goes wrong how often, when mail comes and power goes.

use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use engine::dns::DnsPolicy;
use engine::dsn::DsnReturn;
use engine::net::IpFamily;
use engine::policy::{Key, Policy, ReplyRules, Row, Value};
use engine::random::Random;
use engine::schedule::steady::TRIAL_MS;
use engine::shard::Settings;

use super::ledger::Checked;
use super::limits::POLICY;
use super::net;
use super::process::Moment;
use super::world::{EXPIRE_AFTER_MS, SECOND_US, World};

/// How often what goes wrong, per mille of its occasions.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) write: u64,
    pub(crate) read: u64,
    pub(crate) full: u64,
    pub(crate) slow: u64,
    pub(crate) refuse: u64,
    pub(crate) reset: u64,
    pub(crate) reply_lost: u64,
    pub(crate) whole_4xx: u64,
    /// A reply that the operator's rules are about.
    pub(crate) ruled: u64,
    pub(crate) dns: u64,
    /// The resolver never answers.
    pub(crate) dns_lost: u64,
    /// A message about leases is lost, doubled, or overtaken.
    pub(crate) lease: u64,
    /// Power goes soon after a compaction has begun.
    pub(crate) compaction: u64,
    /// A sector is bad at a start.
    pub(crate) sector: u64,
}

pub(crate) fn rules() -> Arc<ReplyRules> {
    static BUILTIN: OnceLock<Arc<ReplyRules>> = OnceLock::new();
    Arc::clone(BUILTIN.get_or_init(|| {
        Arc::new(ReplyRules::with_overrides("sim", &net::own_rules(), &[]).unwrap())
    }))
}

/// Minutes of each hour in which mail for [`net::WINDOW_DOMAINS`] may begin: it waits for an opening, or several,
/// and expires meanwhile. All of the hour in every other seed.
pub(crate) fn open_minutes(random: &mut Random) -> Range<u64> {
    if random.below(2) == 0 {
        return 0..60;
    }
    let from = random.below(40);
    from..from + 5 + random.below(15)
}

/// Every other world finds a pace for each site.
const PACE: &str = "[[provider]]\nname = \"all\"\ndomains = [\"*\"]\n\
     adaptive_decrease_percent = 50\nadaptive_floor = 30\n";

fn policy(random: &mut Random, open: &Range<u64>) -> Arc<Policy> {
    let steps = [2000, 10_000, 30_000, 60_000, 300_000];
    let default = vec![
        (Key::SessionsMax, Value::Count(1 + random.below(4))),
        (Key::MessagesPerSession, Value::Count(1 + random.below(20))),
        (Key::SessionTimeMax, Value::Duration(20_000)),
        (Key::IdleTimeout, Value::Duration(5000)),
        (Key::RetrySchedule, Value::Durations(steps.into())),
        (Key::RetryJitterPercent, Value::Count(20)),
        (Key::ExpireAfter, Value::Duration(EXPIRE_AFTER_MS)),
    ];
    let mut text = POLICY.to_owned();
    if random.below(2) == 0 {
        text += PACE;
    }
    if *open != (0..60) {
        text += &windows(open);
    }
    let rows = Row::parse_file("sim", &text).unwrap();
    Arc::new(Policy::new(default, Vec::new(), rows))
}

fn windows(minutes: &Range<u64>) -> String {
    let Range { start, end } = minutes;
    let spans: Vec<String> = (0..24)
        .map(|hour| format!("\"{hour:02}:{start:02}-{hour:02}:{end:02}\""))
        .collect();
    format!(
        "[[domain]]\ndomain = {:?}\nwindow_spread = \"30s\"\nwindow = [{}]\n",
        net::WINDOW_DOMAINS,
        spans.join(", ")
    )
}

pub(crate) fn settings(random: &mut Random, open_minutes: &Range<u64>) -> Settings {
    Settings {
        hostname: "relay.example".into(),
        own: Default::default(),
        routes: Default::default(),
        policy: policy(random, open_minutes),
        dns_policy: DnsPolicy {
            mx_port: 25,
            mx_hosts_max: 20,
            family: IpFamily::Any,
            allowed: Vec::new(),
        },
        recipients_per_message_max: [1, 2, 100][random.below(3) as usize],
        site_backoff_ms: (1000, 20_000),
        source_addresses: Vec::new(),
        dsn: true,
        dsn_return: DsnReturn::Headers,
        content_bytes_max: 96 << 10,
        memory_bytes_max: [0, 20_000, 64 << 20][random.below(3) as usize],
        queued_entries_max: 100_000,
        disk_reserve_bytes: 1 << 20,
        entries_per_turn_max: [3, 40, 4096][random.below(3) as usize],
        outcome_sync_ms_max: [0, 50, 1000][random.below(3) as usize],
        dns_entries_max: 1000,
        dns_ttl_s_max: (86_400, 900),
        questions_max: [2, 1000, 1000][random.below(3) as usize],
        segment_bytes: [32, 64, 256][random.below(3) as usize] * 1024,
        log_segment_bytes: 64 * 1024,
        log_rotate_ms: 60_000,
        counter_domains_max: 100,
        counter_groups_max: 100,
        counter_save_ms: 10_000,
        rules: rules(),
    }
}

pub(crate) fn faults(random: &mut Random) -> Faults {
    // Some seeds have none of a kind, so that others are met alone.
    let mut some = |most: u64| {
        if random.below(2) == 0 {
            0
        } else {
            1 + random.below(most)
        }
    };
    Faults {
        write: some(30),
        read: some(50),
        full: some(100),
        slow: some(100),
        refuse: some(200),
        reset: some(100),
        reply_lost: some(100),
        whole_4xx: some(100),
        ruled: some(200),
        dns: some(200),
        dns_lost: some(100),
        lease: some(300),
        compaction: some(300),
        sector: some(400),
    }
}

impl World {
    /// Mail, cuts and calm.
    pub(crate) fn plan(&mut self) {
        self.at(0, Moment::Boot);
        let mails = 30 + self.random.below(31) as usize;
        let span_us = (5 + self.random.below(116)) * SECOND_US;
        for n in 0..mails {
            let at = self.random.below(span_us);
            self.at(at, Moment::Inject(n, 0));
        }
        self.to_inject = mails;
        for _ in 0..self.random.below(6) {
            let at = self.random.below(span_us + 60 * SECOND_US);
            self.at(at, Moment::Cut);
        }
        for _ in 0..self.random.below(6) {
            let at = self.random.below(span_us + 60 * SECOND_US);
            self.at(at, Moment::Command);
        }
        self.plan_leaps(span_us);
        if self.random.below(2) == 0 {
            self.steps_to_cut = Some(1 + self.random.below(200));
        }
        let calm_us = span_us + 90 * SECOND_US;
        self.at(calm_us, Moment::Calm);
        self.at(calm_us + 4000 * SECOND_US, Moment::DaysOff);
    }

    /// The wall clock is days ahead, or back by seconds or an hour, for a moment, a while or for good:
    /// while mail comes in, so that the daemon starts with a wrong clock, and when it has long run.
    fn plan_leaps(&mut self, span_us: u64) {
        let late_us = span_us + 90 * SECOND_US + TRIAL_MS * 1000;
        for (from_us, within_us) in [(0, span_us), (late_us, 600 * SECOND_US)] {
            let at = from_us + self.random.below(within_us);
            let seconds = 2 + self.random.below(60) as i64;
            let off_ms = match self.random.below(6) {
                0 => 2 * 86_400_000,
                1 => -3_600_000,
                2 => -1000 * seconds,
                3 => 1000 * seconds,
                _ => continue,
            };
            self.at(at, Moment::Leap(off_ms));
            let lasts_us = [100_000, 30 * SECOND_US, 0][self.random.below(3) as usize];
            if lasts_us > 0 {
                self.at(at + lasts_us, Moment::Leap(0));
            }
        }
    }

    /// An operator has everything tried again, or one domain's mail, or the configuration read anew.
    pub(crate) fn command(&mut self) -> Checked {
        if self.random.below(2) == 0 {
            return self.stop_or_resume();
        }
        let which = self.random.below(4);
        let domain = net::DOMAINS[self.random.below(net::RECIPIENT_DOMAINS) as usize].0;
        let settings = Rc::clone(&self.settings);
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        for shard in &mut process.shards {
            shard.lifts |= which != 0;
            match which {
                0 => shard.core.reload(Rc::clone(&settings)),
                1 => shard.core.retry(None),
                _ => shard.core.retry(Some(domain)),
            }
        }
        self.trace(|_| format!("an operator's command: {which} {domain}"));
        let shards = self
            .process
            .as_ref()
            .map_or(0, |process| process.shards.len());
        (0..shards).try_for_each(|shard| self.carry_out(shard))
    }
}
