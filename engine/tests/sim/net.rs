//! The rest of the world: domains, their DNS, and what their MX hosts answer.
//!
//! What an address does is written in its local part, what a domain does in the table below; on top
//! come faults at random while there is no calm.

use std::net::IpAddr;

use engine::dns::{Answer, DnsTrouble, MxRecord, Question};
use engine::phase::Phase;
use engine::random::Random;
use engine::smtp::client::{RecipientOutcome, RecipientResult};
use engine::smtp::reply::Reply;
use engine::status::EnhancedStatus;

/// How a domain takes mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As its recipients say.
    Good,
    /// Each recipient is put off once.
    Greylisting,
    /// NXDOMAIN.
    NoSuchDomain,
    /// RFC 7505.
    NullMx,
    /// No connection, ever.
    Dead,
    /// No answer from DNS, ever.
    NoDns,
}

/// Name, kind, MX hosts.
pub(crate) const DOMAINS: [(&str, Kind, &[u8]); 16] = [
    ("alpha.example", Kind::Good, &[1]),
    ("beta.example", Kind::Good, &[1]),
    ("gamma.example", Kind::Good, &[2, 3]),
    ("delta.example", Kind::Greylisting, &[4]),
    ("epsilon.example", Kind::Good, &[5]),
    ("zeta.example", Kind::Good, &[5]),
    ("eta.example", Kind::NoSuchDomain, &[]),
    ("theta.example", Kind::NullMx, &[]),
    ("iota.example", Kind::Dead, &[6]),
    ("kappa.example", Kind::NoDns, &[]),
    ("lambda.example", Kind::Good, &[7]),
    ("mu.example", Kind::Good, &[8]),
    ("nu.example", Kind::Good, &[9]),
    ("xi.example", Kind::Greylisting, &[9]),
    // Of senders.
    ("sender.example", Kind::Good, &[10]),
    ("gone-sender.example", Kind::NoSuchDomain, &[]),
];

/// Domains of [`DOMAINS`] that mail is sent to.
pub(crate) const RECIPIENT_DOMAINS: u64 = 14;

/// Domains with a delivery window, in seeds that have one: one shares its site with another domain.
pub(crate) const WINDOW_DOMAINS: [&str; 3] = ["beta.example", "delta.example", "lambda.example"];

pub(crate) fn has_window(address: &str) -> bool {
    let domain = address.rsplit('@').next().unwrap();
    WINDOW_DOMAINS.contains(&domain)
}

pub(crate) fn kind(address: &str) -> Kind {
    let domain = address.rsplit('@').next().unwrap();
    DOMAINS.iter().find(|(name, ..)| *name == domain).unwrap().1
}

/// What an address does: the end of its local part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    Take,
    /// 550.
    Refuse,
    /// 450 so many times, then taken.
    PutOff(u32),
    /// 450 until it expires.
    PutOffAlways,
}

pub(crate) fn plan(address: &str) -> Plan {
    let local = address.split('@').next().unwrap();
    match local.rsplit('-').next().unwrap() {
        "no" => Plan::Refuse,
        "never" => Plan::PutOffAlways,
        "later1" => Plan::PutOff(1),
        "later2" => Plan::PutOff(2),
        _ => Plan::Take,
    }
}

pub(crate) fn random_plan(random: &mut Random) -> &'static str {
    [
        "ok", "ok", "ok", "ok", "ok", "no", "later1", "later2", "never",
    ][random.below(9) as usize]
}

/// What peers say that the operator's rules of the simulation are about.
pub(crate) const RULED: [&str; 8] = [
    REST,
    "sim slow",
    "sim source",
    "sim fewer",
    "sim next",
    "sim sessions",
    "sim greylisted",
    "sim taken for later",
];
/// What has a site rest.
pub(crate) const REST: &str = "sim rest";
/// For how long, seconds.
pub(crate) const REST_S: u64 = 5;

/// Those rules.
pub(crate) fn own_rules() -> String {
    let actions = [
        &format!("rest-site {REST_S}s"),
        "slow 60/1m 10s",
        "rest-source 3s",
        "fewer-recipients 20s, fewer-messages 20s, retry 2s",
        "next-mx",
        "sessions 1 20s, rest-site 1s after 3/10s",
        "greylisted",
        "deferred, other-source 2s",
    ];
    let rows = RULED.iter().zip(actions);
    rows.map(|(words, action)| format!("rate-limited\t-\t-\t-\t{words}\t{words}\tsim\t{action}\n"))
        .collect()
}

/// The first host of the site that an address is of.
pub(crate) fn site_of(ip: IpAddr) -> Option<u8> {
    let hosts = DOMAINS.iter().map(|(_, _, hosts)| *hosts);
    let mut with = hosts.filter(|hosts| hosts.iter().any(|host| address_of(*host) == ip));
    with.next().and_then(|hosts| hosts.first().copied())
}

fn address_of(host: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, host])
}

/// Whether connections to an address can be opened at all.
pub(crate) fn is_dead(ip: IpAddr) -> bool {
    DOMAINS.iter().any(|(_, kind, hosts)| {
        *kind == Kind::Dead && hosts.iter().any(|host| address_of(*host) == ip)
    })
}

pub(crate) fn resolve(question: &Question) -> Answer {
    match question {
        Question::Mx(domain) => {
            let Some((_, kind, hosts)) = DOMAINS.iter().find(|(name, ..)| *name == domain.as_str())
            else {
                return Answer::NxDomain;
            };
            match kind {
                Kind::NoSuchDomain => Answer::NxDomain,
                Kind::NullMx => Answer::Mx(vec![MxRecord {
                    preference: 0,
                    host: "".into(),
                }]),
                Kind::NoDns => Answer::Trouble(DnsTrouble::ServFail),
                _ => Answer::Mx(
                    hosts
                        .iter()
                        .map(|host| MxRecord {
                            preference: 10,
                            host: format!("mx{host}.example").into(),
                        })
                        .collect(),
                ),
            }
        }
        Question::Addresses(host) => {
            let number = host
                .strip_prefix("mx")
                .and_then(|rest| rest.split('.').next());
            match number.and_then(|number| number.parse().ok()) {
                Some(number) => Answer::Addresses(vec![address_of(number)]),
                None => Answer::NxDomain,
            }
        }
    }
}

pub(crate) fn result(
    outcome: RecipientOutcome,
    phase: Phase,
    code: u16,
    enhanced: (u8, u16, u16),
    text: &str,
) -> RecipientResult {
    let enhanced = EnhancedStatus::new(enhanced.0, enhanced.1, enhanced.2);
    RecipientResult {
        outcome,
        phase,
        reply: Reply::synthetic(code, enhanced, text),
    }
}

pub(crate) fn lost() -> RecipientResult {
    result(
        RecipientOutcome::Lost,
        Phase::EndOfData,
        421,
        (4, 4, 2),
        "connection lost",
    )
}

/// What the peer says to a recipient that was tried `tries` times before.
pub(crate) fn verdict(address: &str, tries: u32) -> RecipientResult {
    let put_off = || {
        result(
            RecipientOutcome::Deferred,
            Phase::Rcpt,
            450,
            (4, 2, 0),
            "mailbox busy, later please",
        )
    };
    let offset = match kind(address) {
        Kind::Greylisting if tries == 0 => return put_off(),
        Kind::Greylisting => 1,
        _ => 0,
    };
    match plan(address) {
        Plan::Refuse => result(
            RecipientOutcome::Failed,
            Phase::Rcpt,
            550,
            (5, 1, 1),
            "no such mailbox",
        ),
        Plan::PutOffAlways => put_off(),
        Plan::PutOff(times) if tries < times + offset => put_off(),
        _ => result(
            RecipientOutcome::Delivered,
            Phase::EndOfData,
            250,
            (2, 0, 0),
            "taken",
        ),
    }
}
