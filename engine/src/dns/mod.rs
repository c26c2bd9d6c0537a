//! From a recipient domain to the addresses of its MX hosts (RFC 5321 §5, RFC 7505).
//!
//! [`plan`] is a pure function over the shard's [`Cache`]: either everything needed is cached and the
//! targets come out in the order in which to try them, or it says which questions to ask. Asking is
//! `shards`' part; when an answer has come, put it into the cache and plan again.

mod cache;
mod policy;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

pub use cache::Cache;
pub use policy::{DnsPolicy, OwnNames, is_never_public};

use crate::address::Domain;
use crate::clock::Mono;
use crate::net::NextHop;
use crate::random::Random;

/// Addresses of one MX host that are looked at.
pub const ADDRESSES_PER_HOST_MAX: usize = 16;

/// What to ask of the resolver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// The MX records of a domain.
    Mx(Domain),
    /// The A and AAAA records of a host, CNAMEs followed.
    Addresses(Box<str>),
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mx(domain) => write!(f, "MX {}", domain.as_str()),
            Self::Addresses(host) => write!(f, "A/AAAA {host}"),
        }
    }
}

/// One MX record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MxRecord {
    /// Lower is tried first.
    pub preference: u16,
    /// The exchange, lower case, no trailing dot; empty for `.` (RFC 7505).
    pub host: Box<str>,
}

/// Why there is no answer yet: asking again later may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsTrouble {
    /// SERVFAIL or another rcode that is not about the name.
    ServFail,
    /// No server answered in time.
    Timeout,
    /// The resolver was too busy to be asked.
    Busy,
}

impl DnsTrouble {
    /// The word in log and status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServFail => "SERVFAIL",
            Self::Timeout => "timeout",
            Self::Busy => "resolver busy",
        }
    }
}

/// What the resolver says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// MX records in any order; empty if the name exists and has none.
    Mx(Vec<MxRecord>),
    /// Addresses in any order; empty if the name exists and has none.
    Addresses(Vec<IpAddr>),
    /// The name does not exist.
    NxDomain,
    /// No answer.
    Trouble(DnsTrouble),
}

/// One address to try, and the name it was found under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// MX host, or the domain or route itself.
    pub host: Rc<str>,
    /// Where to connect.
    pub address: SocketAddr,
    /// MX preference; 0 without MX records.
    pub preference: u16,
}

/// Where a domain's mail may go, most preferred first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// Domains with the same key are one receiving site.
    pub site: Rc<str>,
    /// In the order in which to try them; not empty.
    pub list: Vec<Target>,
    /// The answer used, for the delivery log: MX list, addresses, from cache or not.
    pub text: Rc<str>,
    /// When the answers this was made from must be asked again.
    pub expires: Mono,
}

/// A domain that can take no mail, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsFailure {
    /// NXDOMAIN.
    NoSuchDomain,
    /// `MX 0 .`: the domain accepts no mail (RFC 7505).
    NullMx,
    /// Neither the MX hosts nor the domain have an address.
    NoAddress,
    /// The addresses are such as no host elsewhere has: loopback, link-local, multicast.
    NeverPublic,
    /// We are the most preferred MX host ourselves (RFC 5321 §5.1).
    LoopsToSelf,
}

impl DnsFailure {
    /// Enhanced status code: RFC 3463, for the null MX RFC 7505 §4.2.
    pub const fn status(self) -> crate::status::EnhancedStatus {
        use crate::status::EnhancedStatus;
        match self {
            Self::NoSuchDomain => EnhancedStatus::new(5, 1, 2),
            Self::NullMx => EnhancedStatus::new(5, 1, 10),
            Self::NoAddress | Self::NeverPublic => EnhancedStatus::new(5, 4, 4),
            Self::LoopsToSelf => EnhancedStatus::new(5, 4, 6),
        }
    }

    /// One line for log and DSN.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSuchDomain => "domain does not exist (NXDOMAIN)",
            Self::NullMx => "domain accepts no mail (null MX)",
            Self::NoAddress => "no MX host of the domain has an address",
            Self::NeverPublic => {
                "the domain's MX hosts have only addresses that mail is not sent to (loopback, \
                 link-local, multicast)"
            }
            Self::LoopsToSelf => "mail for the domain loops back to this host",
        }
    }
}

/// What [`plan`] makes of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Try these.
    Targets(Targets),
    /// Ask these first.
    Ask(Vec<Question>),
    /// Try again later.
    Trouble(DnsTrouble),
    /// Fail the mail.
    Failure(DnsFailure),
}

/// Where to deliver mail for `domain` (or to `route`, which overrides its MX lookup).
///
/// MX hosts in order of preference, equal ones shuffled, each with its addresses shuffled; without MX
/// records the domain's own addresses (implicit MX). Hosts at our own preference or beyond are left
/// out, so mail never comes back to us. A host without an answer is passed over as long as another
/// has one. Addresses that strangers chose are used only if [`DnsPolicy`] lets mail go there.
pub fn plan(
    cache: &mut Cache,
    domain: &Domain,
    route: Option<&[NextHop]>,
    policy: &DnsPolicy,
    own: &OwnNames,
    random: &mut Random,
    now: Mono,
) -> Plan {
    if let Some(route) = route {
        return to_route(cache, route, policy, own, random, now);
    }
    if let Some(address) = address_literal(domain) {
        let lookup = Lookup::of_address(domain, address, policy.mx_port);
        return to_hosts(lookup, policy, own, random);
    }
    let question = Question::Mx(domain.clone());
    let Some((answer, expires)) = cache.get(&question, now) else {
        return Plan::Ask(vec![question]);
    };
    let mut records = match &*answer {
        Answer::Mx(records) => records.clone(),
        Answer::NxDomain => return Plan::Failure(DnsFailure::NoSuchDomain),
        Answer::Trouble(trouble) => return Plan::Trouble(*trouble),
        Answer::Addresses(_) => return Plan::Trouble(DnsTrouble::ServFail),
    };
    let implicit = records.is_empty();
    if implicit {
        records.push(MxRecord {
            preference: 0,
            host: domain.as_str().into(),
        });
    }
    if records.iter().all(|record| record.host.is_empty()) {
        return Plan::Failure(DnsFailure::NullMx);
    }
    records.retain(|record| !record.host.is_empty());
    records.sort_by(|a, b| (a.preference, &a.host).cmp(&(b.preference, &b.host)));
    records.truncate(policy.mx_hosts_max);
    match Lookup::of_hosts(cache, records, From::Mx, policy.mx_port, expires, now) {
        Ok(mut lookup) => {
            if implicit {
                lookup.label = "implicit mx";
            }
            to_hosts(lookup, policy, own, random)
        }
        Err(questions) => Plan::Ask(questions),
    }
}

fn address_literal(domain: &Domain) -> Option<IpAddr> {
    let inner = domain.as_str().strip_prefix('[')?.strip_suffix(']')?;
    match inner.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("ipv6:") => inner[5..].parse().ok().map(IpAddr::V6),
        _ => inner.parse().ok().map(IpAddr::V4),
    }
}

/// Next hops of a route, tried in their order; hosts among them are looked up, addresses are not.
fn to_route(
    cache: &mut Cache,
    route: &[NextHop],
    policy: &DnsPolicy,
    own: &OwnNames,
    random: &mut Random,
    now: Mono,
) -> Plan {
    let mut missing = Vec::new();
    let mut whole = Lookup {
        hosts: Vec::new(),
        label: "route",
        expires: Mono(u64::MAX),
    };
    for (rank, hop) in route.iter().enumerate() {
        let preference = rank as u16;
        match hop {
            NextHop::Address(address) => {
                let record = MxRecord {
                    preference,
                    host: address.ip().to_string().into(),
                };
                let found = Found::Addresses(vec![address.ip()]);
                whole.hosts.push(Host {
                    record,
                    found,
                    port: address.port(),
                    from: From::RouteAddress,
                });
            }
            NextHop::Host(host, port) => {
                let records = vec![MxRecord {
                    preference,
                    host: host.clone(),
                }];
                match Lookup::of_hosts(cache, records, From::RouteName, *port, whole.expires, now) {
                    Ok(lookup) => {
                        whole.expires = lookup.expires;
                        whole.hosts.extend(lookup.hosts);
                    }
                    Err(questions) => missing.extend(questions),
                }
            }
        }
    }
    if !missing.is_empty() {
        return Plan::Ask(missing);
    }
    // The operator may route to a host of our own name on purpose; only an exact listener of ours
    // would loop.
    to_hosts(
        whole,
        policy,
        &OwnNames {
            hostname: "".into(),
            ..own.clone()
        },
        random,
    )
}

/// Who says that mail goes there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    /// The operator, by a route to an address.
    RouteAddress,
    /// The operator, by a route to a name.
    RouteName,
    /// Who wrote the recipient's address.
    Literal,
    /// Who keeps the domain's DNS.
    Mx,
}

impl From {
    fn uses(self, address: IpAddr, policy: &DnsPolicy) -> bool {
        match self {
            Self::RouteAddress => true,
            Self::RouteName => policy.has_family(address),
            Self::Literal => policy.may_reach(address),
            Self::Mx => policy.has_family(address) && policy.may_reach(address),
        }
    }
}

enum Found {
    Addresses(Vec<IpAddr>),
    Nothing,
    Trouble(DnsTrouble),
}

struct Host {
    record: MxRecord,
    found: Found,
    port: u16,
    from: From,
}

/// All that is known of a domain's hosts once every question is answered.
struct Lookup {
    /// Sorted by preference.
    hosts: Vec<Host>,
    label: &'static str,
    expires: Mono,
}

impl Lookup {
    fn of_address(domain: &Domain, address: IpAddr, port: u16) -> Self {
        let record = MxRecord {
            preference: 0,
            host: domain.as_str().into(),
        };
        let found = Found::Addresses(vec![address]);
        let hosts = vec![Host {
            record,
            found,
            port,
            from: From::Literal,
        }];
        Self {
            hosts,
            label: "literal",
            expires: Mono(u64::MAX),
        }
    }

    fn of_hosts(
        cache: &mut Cache,
        records: Vec<MxRecord>,
        from: From,
        port: u16,
        mut expires: Mono,
        now: Mono,
    ) -> Result<Self, Vec<Question>> {
        let mut missing = Vec::new();
        let mut hosts = Vec::with_capacity(records.len());
        for record in records {
            let question = Question::Addresses(record.host.clone());
            let Some((answer, until)) = cache.get(&question, now) else {
                missing.push(question);
                continue;
            };
            expires = expires.min(until);
            let found = match &*answer {
                Answer::Addresses(list) if !list.is_empty() => {
                    Found::Addresses(list.iter().copied().take(ADDRESSES_PER_HOST_MAX).collect())
                }
                Answer::Trouble(trouble) => Found::Trouble(*trouble),
                _ => Found::Nothing,
            };
            hosts.push(Host {
                record,
                found,
                port,
                from,
            });
        }
        if missing.is_empty() {
            Ok(Self {
                hosts,
                label: "mx",
                expires,
            })
        } else {
            Err(missing)
        }
    }

    /// The lowest preference at which a host is ourselves.
    fn own_preference(&self, own: &OwnNames) -> Option<u16> {
        self.hosts
            .iter()
            .filter(|host| own.is_host(&host.record.host) || self.listens(host, own))
            .map(|host| host.record.preference)
            .min()
    }

    fn listens(&self, host: &Host, own: &OwnNames) -> bool {
        let Found::Addresses(list) = &host.found else {
            return false;
        };
        list.iter()
            .any(|ip| own.listening.contains(&SocketAddr::new(*ip, host.port)))
    }

    fn text(&self) -> String {
        use fmt::Write;
        let mut text = String::from(self.label);
        for host in &self.hosts {
            // Writing to a String cannot fail.
            let _ = write!(text, " {} {}", host.record.preference, host.record.host);
            match &host.found {
                Found::Addresses(list) => {
                    let list: Vec<_> = list.iter().map(ToString::to_string).collect();
                    let _ = write!(text, " [{}];", list.join(" "));
                }
                Found::Nothing => text.push_str(" [no address];"),
                Found::Trouble(trouble) => {
                    let _ = write!(text, " [{}];", trouble.as_str());
                }
            }
        }
        text.pop();
        text
    }
}

fn to_hosts(lookup: Lookup, policy: &DnsPolicy, own: &OwnNames, random: &mut Random) -> Plan {
    let text = lookup.text();
    let own_preference = lookup.own_preference(own);
    let usable: Vec<&Host> = lookup
        .hosts
        .iter()
        .filter(|host| own_preference.is_none_or(|own| host.record.preference < own))
        .collect();
    if usable.is_empty() {
        return Plan::Failure(DnsFailure::LoopsToSelf);
    }
    let mut list = Vec::new();
    for group in usable.chunk_by(|a, b| a.record.preference == b.record.preference) {
        let mut hosts: Vec<&&Host> = group.iter().collect();
        random.shuffle(&mut hosts);
        for host in hosts {
            let Found::Addresses(addresses) = &host.found else {
                continue;
            };
            let (name, mut addresses) = (Rc::<str>::from(&*host.record.host), addresses.clone());
            addresses.retain(|ip| host.from.uses(*ip, policy));
            random.shuffle(&mut addresses);
            list.extend(addresses.into_iter().map(|ip| Target {
                host: Rc::clone(&name),
                address: SocketAddr::new(ip, host.port),
                preference: host.record.preference,
            }));
        }
    }
    if list.is_empty() {
        let trouble = usable.iter().find_map(|host| match host.found {
            Found::Trouble(trouble) => Some(trouble),
            _ => None,
        });
        let refused = |host: &&Host| match &host.found {
            Found::Addresses(list) => !list.iter().any(|ip| policy.may_reach(*ip)),
            _ => false,
        };
        let failure = if usable.iter().any(refused) {
            DnsFailure::NeverPublic
        } else {
            DnsFailure::NoAddress
        };
        return trouble.map_or(Plan::Failure(failure), Plan::Trouble);
    }
    let names: Vec<String> = lookup
        .hosts
        .iter()
        .map(|host| format!("{}:{}", host.record.host, host.port))
        .collect();
    let site = names.join(",");
    Plan::Targets(Targets {
        site: site.into(),
        list,
        text: text.into(),
        expires: lookup.expires,
    })
}

#[cfg(test)]
mod tests;
