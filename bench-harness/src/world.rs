//! The mail world around the relay, as a TOML file says it: MX hosts with their manners and faults
//! ([`crate::fleet`] plays them), and domains with their DNS ([`crate::dns`] answers for them).
//!
//! ```toml
//! port = 25                          # of every MX host
//!
//! [[host]]
//! name = "mx{0..4}.fast.example"     # four hosts, on four addresses in a row
//! address = "127.0.1.1"
//! delay_ms = { rcpt = 5, end-of-data = 20 }
//! messages_per_session_max = 50
//! greylist_s = 3.0
//!
//! [[host.fault]]
//! at = "rcpt"                        # a phase of the session
//! answer = "452 4.2.2 Mailbox full"  # or reset, close, stall, garbage
//! odds = 0.02
//!
//! [[domain]]
//! name = "d{0..40}.example"
//! mx = ["10 mx{n%4}.fast.example"]
//! weight = 1.0                       # its share of the injected mail
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::Path;

use serde::Deserialize;

use crate::domains::{DomainMix, expand};
use crate::failure::{Context, Failure};

/// Hosts a world may have: each is a listener on an address of its own.
pub const HOSTS_MAX: usize = 4096;

/// Where in a session something happens; the words of the policy rules of the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The connection was accepted, nothing is said yet.
    Connect,
    /// The 220 is due.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The final dot.
    EndOfData,
}

/// What a fault does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This reply, and the session goes on (a 421 closes it).
    Reply(u16, String),
    /// A TCP reset.
    Reset,
    /// A close without a word.
    Close,
    /// No answer at all, the connection stays open.
    Stall,
    /// Bytes that are no SMTP reply.
    Garbage,
}

impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(match text.as_str() {
            "reset" => Self::Reset,
            "close" => Self::Close,
            "stall" => Self::Stall,
            "garbage" => Self::Garbage,
            _ => {
                let code = text.get(..3).and_then(|code| code.parse::<u16>().ok());
                let code = code
                    .filter(|code| (200..600).contains(code))
                    .ok_or_else(|| {
                        serde::de::Error::custom(format!(
                            "{text:?} is neither reset, close, stall, garbage nor a reply such as \
                         \"452 4.2.2 Mailbox full\""
                        ))
                    })?;
                Self::Reply(code, text)
            }
        })
    }
}

/// Something that goes wrong, always or now and then.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The phase it strikes in.
    pub at: Phase,
    /// What happens.
    pub answer: Answer,
    /// The probability that it strikes, 0 to 1.
    #[serde(default = "one")]
    pub odds: f64,
    /// Strikes only so many times.
    pub first: Option<u64>,
    /// Strikes only from so many seconds after the fleet's start.
    #[serde(default)]
    pub from_s: f64,
    /// Strikes only until so many seconds after the fleet's start.
    pub until_s: Option<f64>,
    /// Strikes only forward-paths (or reverse-paths, at `mail`) that contain this.
    pub path_contains: Option<String>,
}

/// How replies are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplyStyle {
    /// `250 2.0.0 OK`, CRLF.
    #[default]
    Full,
    /// `250`, CRLF: no text at all (RFC 5321 §4.2 allows it).
    Bare,
    /// `250 2.0.0 OK` ended by a bare LF, as broken servers do.
    Lf,
}

/// An MX host: its manners and faults.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Its name in the greeting and in DNS; `{0..n}` makes n hosts.
    pub name: String,
    /// Its (first) address, on loopback.
    pub address: Ipv4Addr,
    /// False: the name resolves, but nobody listens.
    #[serde(default = "yes")]
    pub listens: bool,
    /// Milliseconds to wait before answering, by phase.
    #[serde(default)]
    pub delay_ms: BTreeMap<Phase, u64>,
    /// Sessions at once; the next ones are told 421.
    pub sessions_max: Option<usize>,
    /// Messages a session; then 421 and close.
    pub messages_per_session_max: Option<u64>,
    /// First attempts of a recipient are told 451 until it comes back after so many seconds.
    pub greylist_s: Option<f64>,
    /// Content is read no faster than this.
    pub read_bytes_per_s: Option<u64>,
    /// How replies are written.
    #[serde(default)]
    pub reply_style: ReplyStyle,
    /// Offers PIPELINING.
    #[serde(default = "yes")]
    pub pipelining: bool,
    /// Offers 8BITMIME.
    #[serde(default = "yes")]
    pub eight_bit_mime: bool,
    /// Offers SMTPUTF8.
    #[serde(default)]
    pub smtputf8: bool,
    /// Knows no EHLO.
    #[serde(default)]
    pub helo_only: bool,
    /// Largest content it takes, in bytes.
    #[serde(default = "size_bytes_max")]
    pub size_bytes_max: u64,
    /// What goes wrong.
    #[serde(default)]
    pub fault: Vec<Fault>,
}

impl Host {
    /// A host that takes everything at once.
    pub fn new(name: &str, address: Ipv4Addr) -> Self {
        Self {
            name: name.to_owned(),
            address,
            listens: true,
            delay_ms: BTreeMap::new(),
            sessions_max: None,
            messages_per_session_max: None,
            greylist_s: None,
            read_bytes_per_s: None,
            reply_style: ReplyStyle::Full,
            pipelining: true,
            eight_bit_mime: true,
            smtputf8: false,
            helo_only: false,
            size_bytes_max: size_bytes_max(),
            fault: Vec::new(),
        }
    }
}

/// How DNS fails for a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DnsFault {
    /// NXDOMAIN: there is no such domain.
    Nxdomain,
    /// SERVFAIL.
    Servfail,
    /// REFUSED.
    Refused,
    /// No answer ever.
    Timeout,
}

/// A mail domain and its DNS.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Domain {
    /// Its name; `{0..n}` makes n domains.
    pub name: String,
    /// `"10 mx.example"`; `{n}` and `{n%4}` stand for the number of an expanded domain.
    #[serde(default)]
    pub mx: Vec<String>,
    /// Addresses of the name itself.
    #[serde(default)]
    pub a: Vec<Ipv4Addr>,
    /// IPv6 addresses of the name itself.
    #[serde(default)]
    pub aaaa: Vec<std::net::Ipv6Addr>,
    /// The name is an alias of this one.
    pub cname: Option<String>,
    /// The domain says it takes no mail (RFC 7505).
    #[serde(default)]
    pub null_mx: bool,
    /// DNS fails.
    pub dns: Option<DnsFault>,
    /// Milliseconds before DNS answers.
    #[serde(default)]
    pub dns_delay_ms: u64,
    /// Time to live of its records, in seconds.
    #[serde(default = "ttl_s")]
    pub ttl_s: u32,
    /// Its share of the injected mail.
    #[serde(default = "one")]
    pub weight: f64,
}

impl Domain {
    /// A domain without records.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            mx: vec![],
            a: vec![],
            aaaa: vec![],
            cname: None,
            null_mx: false,
            dns: None,
            dns_delay_ms: 0,
            ttl_s: ttl_s(),
            weight: 1.0,
        }
    }
}

/// All hosts and domains.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    /// The TCP port of all MX hosts.
    #[serde(default = "port")]
    pub port: u16,
    /// Seed of the faults' dice.
    #[serde(default)]
    pub seed: u64,
    /// MX hosts.
    #[serde(default)]
    pub host: Vec<Host>,
    /// Mail domains.
    #[serde(default)]
    pub domain: Vec<Domain>,
}

fn one() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

fn port() -> u16 {
    25
}

fn ttl_s() -> u32 {
    300
}

fn size_bytes_max() -> u64 {
    64 << 20
}

impl World {
    /// Reads a world from TOML and expands its ranges.
    ///
    /// # Errors
    /// [`Failure::Setup`] with line and column when the text is wrong.
    pub fn parse(text: &str, named: &str) -> Result<Self, Failure> {
        let world: Self = toml::from_str(text).map_err(|error| {
            Failure::setup(format!("{named}: {}", error.to_string().trim_end()))
        })?;
        world.expanded()
    }

    /// Reads a world from a file.
    ///
    /// # Errors
    /// [`Failure::Io`] when it cannot be read, [`Failure::Setup`] when it is wrong.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path)
            .context(|| format!("cannot read the world file {}", path.display()))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// One host that takes everything, on `address`:`port`, and no DNS: the far end of a route.
    pub fn single(address: Ipv4Addr, port: u16) -> Self {
        Self {
            port,
            seed: 1,
            host: vec![Host::new("mx.bench.example", address)],
            domain: vec![],
        }
    }

    /// The mix of its domains by weight.
    ///
    /// # Errors
    /// [`Failure::Setup`] when no domain has a weight.
    pub fn mix(&self) -> Result<DomainMix, Failure> {
        let weighted: Vec<_> = self
            .domain
            .iter()
            .map(|d| (d.name.clone(), d.weight))
            .collect();
        DomainMix::weighted(&weighted)
    }

    /// The same world with its hosts moved from 127.0.x.y to 127.`block`.x.y, so that runs beside
    /// each other do not meet on a port.
    pub fn moved_to_block(mut self, block: u8) -> Self {
        let moved = |address: Ipv4Addr| {
            let [_, _, c, d] = address.octets();
            Ipv4Addr::new(127, block, c, d)
        };
        for host in &mut self.host {
            host.address = moved(host.address);
        }
        for domain in &mut self.domain {
            domain
                .a
                .iter_mut()
                .for_each(|address| *address = moved(*address));
        }
        self
    }

    fn expanded(mut self) -> Result<Self, Failure> {
        let mut hosts = Vec::new();
        for host in &self.host {
            for (n, name) in expand(&host.name)?.into_iter().enumerate() {
                let number = u32::from(host.address) + n as u32;
                let address = Ipv4Addr::from(number);
                if !address.is_loopback() {
                    return Err(Failure::setup(format!(
                        "host {name}: {address} is no loopback address (127.0.0.0/8)"
                    )));
                }
                hosts.push(Host {
                    name: name.to_ascii_lowercase(),
                    address,
                    ..host.clone()
                });
            }
        }
        if hosts.len() > HOSTS_MAX {
            return Err(Failure::setup(format!(
                "{} hosts, at most {HOSTS_MAX}",
                hosts.len()
            )));
        }
        let mut domains = Vec::new();
        for domain in &self.domain {
            let names = expand(&domain.name)?;
            let weight = domain.weight / names.len().max(1) as f64;
            for (n, name) in names.into_iter().enumerate() {
                let mx = domain.mx.iter().map(|mx| numbered(mx, n)).collect();
                let name = name.to_ascii_lowercase();
                domains.push(Domain {
                    name,
                    mx,
                    weight,
                    ..domain.clone()
                });
            }
        }
        self.host = hosts;
        self.domain = domains;
        Ok(self)
    }
}

/// Puts the number of an expanded domain into `{n}` and `{n%4}`.
fn numbered(text: &str, n: usize) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{n") {
        let Some((modulus, after)) = after.split_once('}') else {
            break;
        };
        let modulus = modulus
            .strip_prefix('%')
            .and_then(|m| m.parse::<usize>().ok());
        let value = modulus.filter(|m| *m > 0).map_or(n, |m| n % m);
        out.push_str(before);
        out.push_str(&value.to_string());
        rest = after;
    }
    out.push_str(rest);
    out
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Ehlo => "ehlo",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::EndOfData => "end-of-data",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        [[host]]
        name = "mx{0..4}.Fast.example"
        address = "127.0.1.254"
        delay_ms = { rcpt = 5, end-of-data = 20 }
        [[host.fault]]
        at = "rcpt"
        answer = "452 4.2.2 Mailbox full"
        odds = 0.5
        [[domain]]
        name = "d{0..10}.example"
        mx = ["10 mx{n%4}.fast.example", "20 backup{n}.example"]
        weight = 5.0
    "#;

    #[test]
    fn ranges_expand() {
        let world = World::parse(TEXT, "test").unwrap();
        assert_eq!(world.host.len(), 4);
        assert_eq!(world.host[2].name, "mx2.fast.example");
        assert_eq!(world.host[2].address, Ipv4Addr::new(127, 0, 2, 0));
        assert_eq!(
            world.domain[6].mx,
            ["10 mx2.fast.example", "20 backup6.example"]
        );
        assert!((world.domain[6].weight - 0.5).abs() < 1e-9);
        assert_eq!(world.host[0].delay_ms[&Phase::EndOfData], 20);
        let Answer::Reply(code, _) = &world.host[0].fault[0].answer else {
            panic!("a reply")
        };
        assert_eq!(*code, 452);
    }

    #[test]
    fn mistakes_are_told() {
        let wrong = |from: &str, to: &str| {
            World::parse(&TEXT.replace(from, to), "w.toml")
                .expect_err("is wrong")
                .to_string()
        };
        assert!(wrong("odds", "ods").contains("ods"));
        assert!(wrong("452 4.2.2 Mailbox full", "ouch").contains("ouch"));
        assert!(wrong("127.0.1.254", "10.0.0.1").contains("loopback"));
    }
}
