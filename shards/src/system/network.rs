//! Addresses, names and DNS.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use engine::address::Domain;
use engine::config::Config;
use engine::dns::{Answer, Question};
use engine::net::{DomainPattern, NextHop};

use super::{Ask, Said, Subject, bad, good, warning};
use crate::runtime::resolver::{ResolverSetup, ask_once};
use crate::shard_main::probe;

/// How long the servers of a check may take together; the system's are three at most.
const DNS_MAX: Duration = Duration::from_millis(1_500);
const SYSTEM_SERVERS_MAX: u32 = 3;

/// A check for each address that mail comes in at.
pub(super) fn listeners(config: &Config) -> Vec<(&'static str, Ask)> {
    let one = |address: SocketAddr| -> (&'static str, Ask) {
        let ask = Box::new(move |subject: &Subject| listener(subject, address));
        ("listen", ask)
    };
    config
        .listen
        .iter()
        .map(|listen| one(listen.address))
        .collect()
}

fn listener(subject: &Subject, address: SocketAddr) -> Said {
    if subject.installation.in_use_by().is_some() {
        return good(format!("{address}: not tried beside the daemon that runs"));
    }
    match probe(address) {
        Ok(()) => good(format!("{address} is free")),
        Err(why) => bad(why),
    }
}

pub(super) fn sources(subject: &Subject) -> Said {
    let sources = &subject.config.delivery.source_addresses;
    if sources.is_empty() {
        return good("the system's choice");
    }
    let is_ours = |ip: &&IpAddr| UdpSocket::bind(SocketAddr::new(**ip, 0)).is_ok();
    let (ours, others): (Vec<&IpAddr>, Vec<&IpAddr>) = sources.iter().partition(is_ours);
    let Some(first) = others.first() else {
        return good(format!("{} addresses of this host", sources.len()));
    };
    let remedy = "add it to an interface or change delivery.source_addresses";
    let text = format!("{first} is no address of this host; {remedy}");
    match others.len() {
        1 if !ours.is_empty() => warning(text),
        n if !ours.is_empty() => warning(format!("{text} ({n} in all are not)")),
        _ => bad(format!("{text}: no mail can leave")),
    }
}

pub(super) fn hostname(subject: &Subject) -> Said {
    let name = &subject.config.server.hostname;
    let remedy = "set server.hostname to this relay's name in DNS, which many receivers look up";
    let is_local = name == "localhost" || name.ends_with(".localdomain");
    if is_local || !name.contains('.') || name.parse::<IpAddr>().is_ok() {
        return warning(format!("{name} is no fully qualified name; {remedy}"));
    }
    match ask(subject, &Question::Addresses(name.as_str().into())) {
        Ok(Answer::Addresses(found)) if !found.is_empty() => {
            good(format!("{name} has {} addresses in DNS", found.len()))
        }
        Ok(Answer::NxDomain | Answer::Addresses(_) | Answer::Mx(_)) => {
            warning(format!("{name} has no address in DNS; {remedy}"))
        }
        Ok(Answer::Trouble(_)) | Err(_) => warning(format!(
            "whether {name} is in DNS is not known: no resolver answers"
        )),
    }
}

pub(super) fn resolver(subject: &Subject) -> Said {
    let servers = &subject.config.dns.servers;
    let whom = match servers.as_slice() {
        [] => "the servers of /etc/resolv.conf".to_owned(),
        servers => servers
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    };
    let why = match Domain::parse(&subject.config.server.hostname) {
        Ok(domain) => match ask(subject, &Question::Mx(domain)) {
            Ok(Answer::Trouble(trouble)) => trouble.as_str().to_owned(),
            Ok(_) => return good(format!("{whom}: answered")),
            Err(why) => why,
        },
        Err(error) => error.to_string(),
    };
    let text = format!(
        "{whom}: {why}; a recursive resolver must run there: see [dns] servers and /etc/resolv.conf"
    );
    if every_route_is_an_address(&subject.config) {
        return warning(format!("{text}; every domain has a route without it"));
    }
    bad(text)
}

fn every_route_is_an_address(config: &Config) -> bool {
    let is_address = |hop: &NextHop| matches!(hop, NextHop::Address(_));
    let all = config
        .routes
        .iter()
        .position(|route| route.domain == DomainPattern::Any);
    all.is_some_and(|last| {
        let mut routes = config.routes[..=last].iter();
        routes.all(|route| route.to.iter().all(is_address))
    })
}

fn ask(subject: &Subject, question: &Question) -> Result<Answer, String> {
    let servers = subject.config.dns.servers.clone();
    let count = match servers.len() {
        0 => SYSTEM_SERVERS_MAX,
        n => n as u32,
    };
    let setup = ResolverSetup {
        servers,
        timeout: DNS_MAX / count,
        attempts: 1,
        in_flight_max: 1,
    };
    ask_once(&setup, question, DNS_MAX)
}
