//! What a site is sent, over all shards: never more sessions than its limit, and in no span of time more
//! messages than its rate and depth allow.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use engine::policy::lease::UNIT_MS_MAX;
use engine::pool::ConnId;

use super::ledger::Checked;
use super::net::DOMAINS;

/// The policy of the one site with rates: `lambda.example`.
pub(crate) const RATE_PER_S: u64 = 2;
pub(crate) const POLICY: &str =
    "[[provider]]\nname = \"slow\"\ndomains = \"lambda.example\"\nmessages_per_second = 2\n";
const SLOW_HOST: u8 = 7;
/// At once: what is due in the 200 ms of a bucket's depth, and one.
const BURST: u64 = RATE_PER_S * 200 / 1000 + 1;

/// Sessions and messages since the start of the process.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    sites: HashMap<(usize, ConnId), u8>,
    sessions: HashMap<u8, u32>,
    /// When messages went to the slow site, microseconds.
    sent: VecDeque<u64>,
}

/// The first of the hosts that share a site with this one.
fn site_of(ip: IpAddr) -> u8 {
    let IpAddr::V4(ip) = ip else { return 0 };
    let host = ip.octets()[3];
    let hosts = DOMAINS.iter().map(|(_, _, hosts)| *hosts);
    let mut of_it = hosts.filter(|hosts| hosts.contains(&host));
    of_it.next().map_or(0, |hosts| hosts[0])
}

impl Limits {
    pub(crate) fn connects(
        &mut self,
        shard: usize,
        conn: ConnId,
        ip: IpAddr,
        most: u32,
    ) -> Checked {
        let site = site_of(ip);
        self.sites.insert((shard, conn), site);
        let sessions = self.sessions.entry(site).or_default();
        *sessions += 1;
        if *sessions > most {
            return Err(format!(
                "{sessions} sessions to the site of host {site}, and {most} are allowed"
            ));
        }
        Ok(())
    }

    pub(crate) fn closed(&mut self, shard: usize, conn: ConnId) {
        if let Some(site) = self.sites.remove(&(shard, conn)) {
            *self.sessions.entry(site).or_default() -= 1;
        }
    }

    pub(crate) fn sends(&mut self, shard: usize, conn: ConnId, now_us: u64) -> Checked {
        if self.sites.get(&(shard, conn)) != Some(&SLOW_HOST) {
            return Ok(());
        }
        self.sent.push_back(now_us);
        // What is lent may be used so much later than it was taken; content may be read back first.
        let depth = BURST + (RATE_PER_S * UNIT_MS_MAX).div_ceil(1000);
        for (first, held) in self.sent.iter().rev().zip(1..) {
            let allowed = (now_us - first) * RATE_PER_S / 1_000_000 + depth + READS;
            if held > allowed {
                return Err(format!(
                    "{held} messages to the slow site in {} us, and {allowed} are allowed",
                    now_us - first
                ));
            }
        }
        Ok(())
    }
}

/// Messages that were counted when their content began to be read back, and are sent later.
const READS: u64 = 4;
