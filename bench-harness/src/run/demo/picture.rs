//! What the demo draws: live counters, and where mail waits and why.

use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;

use crate::daemon::Daemon;
use crate::dns::Dns;
use crate::domains::DomainMix;
use crate::fleet::Fleet;
use crate::fleet::tally::Tally;
use crate::inject::{Injected, Progress};
use crate::report::thousands;
use crate::world::World;

/// Longest bar, in characters.
const BAR_CHARS: usize = 30;
/// Domains whose mail must all arrive within the demo.
const HEALTHY: [&str; 6] = [
    "fast.test",
    "slow.test",
    "picky.test",
    "alias.test",
    "no-mx.test",
    "backup.test",
];

/// What became of mail that neither arrived nor waits.
const REPORTED: &str = "failed for good, reported to the sender (DSN)";

/// The live block: one line for what came in, one a host for what went out.
pub(super) fn live(
    elapsed_s: f64,
    progress: &Progress,
    tally: &Tally,
    fleet: &Fleet,
    daemon: &Daemon,
    dns: &Dns,
) -> String {
    let mut out = String::new();
    let accepted = progress.accepted.load(Relaxed);
    let distinct = tally.totals().distinct;
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{elapsed_s:5.1} s   accepted {:>9}   received {:>9}   waiting or failed {:>7}   RSS {} MiB   DNS {}",
        thousands(accepted),
        thousands(distinct),
        thousands(accepted.saturating_sub(distinct)),
        daemon.resident_bytes() >> 20,
        thousands(dns.asked.load(Relaxed)),
    );
    let _ = writeln!(
        out,
        "          {:<18}{:>6}{:>10}{:>10}{:>8}{:>8}{:>8}",
        "MX host", "open", "sessions", "messages", "4xx", "5xx", "broken"
    );
    for (name, _, counts) in &fleet.hosts {
        let _ = writeln!(
            out,
            "          {name:<18}{:>6}{:>10}{:>10}{:>8}{:>8}{:>8}",
            counts.open.load(Relaxed),
            counts.sessions.load(Relaxed),
            counts.messages.load(Relaxed),
            counts.deferred.load(Relaxed),
            counts.refused.load(Relaxed),
            counts.broken.load(Relaxed),
        );
    }
    out
}

/// Accepted and arrived by kind of domain (all of `dN.fast.test` are one kind).
#[derive(Debug)]
pub(super) struct Kinds(Vec<Kind>);

#[derive(Debug)]
struct Kind {
    name: String,
    /// One of its domains, to ask the daemon about.
    domain: String,
    accepted: u64,
    arrived: u64,
}

impl Kinds {
    pub(super) fn new(world: &World, mix: &DomainMix, injected: &Injected, tally: &Tally) -> Self {
        let mut kinds: Vec<Kind> = Vec::new();
        let mut kind_of = Vec::new();
        for domain in &world.domain {
            // The kind's name is the last two labels: d7.fast.test → fast.test.
            let dot = domain
                .name
                .rmatch_indices('.')
                .nth(1)
                .map_or(0, |(at, _)| at + 1);
            let name = &domain.name[dot..];
            let known = kinds.iter().position(|kind| kind.name == name);
            kind_of.push(known.unwrap_or_else(|| {
                let (name, domain) = (name.to_owned(), domain.name.clone());
                kinds.push(Kind {
                    name,
                    domain,
                    accepted: 0,
                    arrived: 0,
                });
                kinds.len() - 1
            }));
        }
        debug_assert_eq!(kind_of.len(), mix.names().len());
        let times = tally.times();
        for (id, outcome) in injected.outcomes.iter().enumerate() {
            if outcome.code == 250 {
                let kind = &mut kinds[kind_of[outcome.domain as usize]];
                kind.accepted += 1;
                kind.arrived += u64::from(times.get(id).is_some_and(|times| *times > 0));
            }
        }
        kinds.retain(|kind| kind.accepted > 0);
        Self(kinds)
    }

    pub(super) fn missing_of_healthy(&self) -> u64 {
        let healthy = self
            .0
            .iter()
            .filter(|kind| HEALTHY.contains(&kind.name.as_str()));
        healthy.map(|kind| kind.accepted - kind.arrived).sum()
    }

    /// One line a kind: arrived `█`, not arrived `░`, and the daemon's own words why.
    pub(super) fn draw(&self, daemon: &Daemon) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{:<16}{:>9}{:>9}{:>9}  where mail is: █ arrived ░ waits or failed",
            "domain", "accepted", "arrived", "not"
        );
        for kind in &self.0 {
            let left = kind.accepted - kind.arrived;
            let full = (kind.arrived as usize * BAR_CHARS) / kind.accepted.max(1) as usize;
            let full = if left > 0 {
                full.min(BAR_CHARS - 1)
            } else {
                full
            };
            let bar = "█".repeat(full) + &"░".repeat(BAR_CHARS - full);
            let why = if left > 0 {
                why(daemon, &kind.domain)
            } else {
                String::new()
            };
            let _ = writeln!(
                out,
                "{:<16}{:>9}{:>9}{:>9}  {bar}  {why}",
                kind.name, kind.accepted, kind.arrived, left
            );
        }
        out
    }
}

/// The daemon's answer to "why does mail for this domain wait", on one line.
fn why(daemon: &Daemon, domain: &str) -> String {
    match daemon.control(&format!("/api/v1/why?domain={domain}")) {
        Ok((200, body)) => {
            let mut lines = body.lines();
            let names: Vec<_> = lines.next().unwrap_or_default().split('\t').collect();
            let values: Vec<_> = lines.next().unwrap_or_default().split('\t').collect();
            let value = |wanted: &str| {
                let at = names.iter().position(|name| *name == wanted)?;
                values.get(at).copied()
            };
            let waits = ["ready", "deferred", "busy"]
                .iter()
                .any(|level| value(level).is_some_and(|count| count != "0"));
            if waits {
                value("binding").unwrap_or_default()
            } else {
                REPORTED
            }
            .to_owned()
        }
        Ok((404, _)) => REPORTED.to_owned(),
        Ok((code, body)) => format!("({code} {})", body.trim().replace('\t', " ")),
        Err(failure) => failure.to_string(),
    }
}
