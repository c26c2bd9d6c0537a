//! Authoritative DNS for the domains and hosts of a [`World`], on loopback, UDP and TCP.
//!
//! Answers MX, A, AAAA and CNAME from a table built once; fails as the world says: NXDOMAIN, SERVFAIL,
//! REFUSED, silence, delay. Negative answers carry an SOA, so that resolvers may cache them
//! (RFC 2308).

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Edns, Header, HeaderCounts, Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, MX, SOA};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

use crate::failure::{Context, Failure};
use crate::thread::{Stop, runtime, spawn};
use crate::world::{DnsFault, World};

/// Aliases followed within one answer.
const CNAME_HOPS_MAX: usize = 8;
/// Idle TCP connections are closed after this.
const TCP_IDLE: Duration = Duration::from_secs(30);
/// Response buffer of a TCP connection, in messages.
const TCP_RESPONSES: usize = 64;
/// How long negative answers may be kept, in seconds.
const NEGATIVE_TTL_S: u32 = 60;
/// UDP answers larger than this are truncated, whatever the client says.
const UDP_BYTES_MAX: u16 = 1232;

#[derive(Debug, Default)]
struct Entry {
    records: Vec<Record>,
    fault: Option<DnsFault>,
    delay: Duration,
}

/// Everything this server knows, and what it was asked.
#[derive(Debug)]
struct Zone {
    entries: HashMap<String, Entry>,
    soa: Record,
    asked: Arc<AtomicU64>,
}

/// A running DNS server. Dropping it leaves it running; call [`Dns::stop`].
#[derive(Debug)]
pub struct Dns {
    /// Where it answers, UDP and TCP.
    pub address: SocketAddr,
    /// Questions answered so far.
    pub asked: Arc<AtomicU64>,
    stop: Stop,
    thread: JoinHandle<()>,
}

impl Dns {
    /// Serves `world`'s names at `address` (port 0: any free one) on a thread of its own.
    ///
    /// # Errors
    /// [`Failure::Io`] when the address cannot be bound, [`Failure::Setup`] when a name is no name.
    pub fn start(world: &World, address: SocketAddr) -> Result<Self, Failure> {
        let asked = Arc::new(AtomicU64::new(0));
        let zone = Zone::new(world, Arc::clone(&asked))?;
        let (udp, tcp) =
            bind(address).context(|| format!("cannot serve DNS on {address} (UDP and TCP)"))?;
        let address = tcp.local_addr().context(|| "local address".to_owned())?;
        let stop = Stop::default();
        let ends = stop.clone();
        let thread = spawn("dns", move || async move {
            let mut server = Server::new(zone);
            if let (Ok(udp), Ok(tcp)) = (UdpSocket::from_std(udp), TcpListener::from_std(tcp)) {
                server.register_socket(udp);
                server.register_listener(tcp, TCP_IDLE, TCP_RESPONSES);
                ends.wait().await;
            }
        })?;
        Ok(Self {
            address,
            asked,
            stop,
            thread,
        })
    }

    /// Stops answering and waits for the thread.
    pub fn stop(self) {
        self.stop.stop();
        let _ = self.thread.join();
    }
}

/// Binds UDP and TCP to the same port.
fn bind(address: SocketAddr) -> io::Result<(std::net::UdpSocket, std::net::TcpListener)> {
    let tries = if address.port() == 0 { 20 } else { 1 };
    let mut last = io::Error::other("no port");
    for _ in 0..tries {
        let tcp = std::net::TcpListener::bind(address)?;
        match std::net::UdpSocket::bind(tcp.local_addr()?) {
            Ok(udp) => {
                tcp.set_nonblocking(true)?;
                udp.set_nonblocking(true)?;
                return Ok((udp, tcp));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Zone {
    fn new(world: &World, asked: Arc<AtomicU64>) -> Result<Self, Failure> {
        let mut entries: HashMap<String, Entry> = HashMap::new();
        for host in &world.host {
            let record = Record::from_rdata(name(&host.name)?, 300, a(host.address));
            entries
                .entry(host.name.clone())
                .or_default()
                .records
                .push(record);
        }
        for domain in &world.domain {
            let owner = name(&domain.name)?;
            let entry = entries.entry(domain.name.clone()).or_default();
            entry.fault = domain.dns;
            entry.delay = Duration::from_millis(domain.dns_delay_ms);
            let mut add = |data| {
                entry
                    .records
                    .push(Record::from_rdata(owner.clone(), domain.ttl_s, data));
            };
            for mx in &domain.mx {
                let (preference, host) = mx.split_once(' ').unwrap_or(("10", mx));
                let preference = preference.trim().parse().map_err(|_| {
                    Failure::setup(format!("{}: {mx:?} is not \"10 mx.example\"", domain.name))
                })?;
                add(RData::MX(MX::new(preference, name(host.trim())?)));
            }
            if domain.null_mx {
                add(RData::MX(MX::new(0, Name::root())));
            }
            domain.a.iter().for_each(|address| add(a(*address)));
            domain
                .aaaa
                .iter()
                .for_each(|address| add(RData::AAAA(AAAA(*address))));
            if let Some(target) = &domain.cname {
                add(RData::CNAME(CNAME(name(target)?)));
            }
        }
        let soa = SOA::new(
            name("ns.bench.example")?,
            name("hostmaster.bench.example")?,
            1,
            3600,
            600,
            86_400,
            NEGATIVE_TTL_S,
        );
        let soa = Record::from_rdata(Name::root(), NEGATIVE_TTL_S, RData::SOA(soa));
        Ok(Self {
            entries,
            soa,
            asked,
        })
    }

    /// The records for a question, aliases followed; the fault and delay met on the way.
    fn look_up(&self, asked: &str, kind: RecordType) -> Found<'_> {
        let mut found = Found {
            records: vec![],
            fault: None,
            delay: Duration::ZERO,
        };
        let mut owner = asked.to_owned();
        for _ in 0..CNAME_HOPS_MAX {
            let Some(entry) = self.entries.get(&owner) else {
                if found.records.is_empty() {
                    found.fault = Some(DnsFault::Nxdomain);
                }
                return found;
            };
            found.delay = found.delay.max(entry.delay);
            if entry.fault.is_some() {
                found.fault = entry.fault;
                return found;
            }
            found
                .records
                .extend(entry.records.iter().filter(|r| r.record_type() == kind));
            let alias = entry
                .records
                .iter()
                .find(|r| r.record_type() == RecordType::CNAME);
            match alias {
                Some(record) if kind != RecordType::CNAME => {
                    found.records.push(record);
                    let RData::CNAME(target) = &record.data else {
                        return found;
                    };
                    owner = plain(&target.0);
                }
                _ => return found,
            }
        }
        found
    }
}

struct Found<'a> {
    records: Vec<&'a Record>,
    fault: Option<DnsFault>,
    delay: Duration,
}

#[async_trait::async_trait]
impl RequestHandler for Zone {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut out: R,
    ) -> ResponseInfo {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = true;
        let silent = ResponseInfo::from(Header {
            metadata,
            counts: HeaderCounts::default(),
        });
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_BYTES_MAX);
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if request.edns.is_some() {
            builder.edns(&edns);
        }
        let Ok(info) = request.request_info() else {
            metadata.response_code = ResponseCode::FormErr;
            let response = builder.build_no_records(metadata);
            return out.send_response(response).await.unwrap_or(silent);
        };
        let asked = plain(&Name::from(info.query.name()));
        let found = self.look_up(&asked, info.query.query_type());
        if !found.delay.is_zero() {
            tokio::time::sleep(found.delay).await;
        }
        metadata.response_code = match found.fault {
            Some(DnsFault::Timeout) => return silent,
            Some(DnsFault::Nxdomain) => ResponseCode::NXDomain,
            Some(DnsFault::Servfail) => ResponseCode::ServFail,
            Some(DnsFault::Refused) => ResponseCode::Refused,
            None => ResponseCode::NoError,
        };
        let negative = found.records.is_empty()
            && matches!(
                metadata.response_code,
                ResponseCode::NoError | ResponseCode::NXDomain
            );
        let soa = negative.then_some(&self.soa);
        let none: [&Record; 0] = [];
        let response = builder.build(metadata, found.records, none, soa, none);
        out.send_response(response).await.unwrap_or(silent)
    }
}

fn name(text: &str) -> Result<Name, Failure> {
    let mut name = Name::from_ascii(text)
        .map_err(|error| Failure::setup(format!("{text:?} is no domain name: {error}")))?;
    name.set_fqdn(true);
    Ok(name)
}

fn a(address: Ipv4Addr) -> RData {
    RData::A(A(address))
}

/// A name as the table's key: lower case, without the final dot.
fn plain(name: &Name) -> String {
    let mut text = name.to_ascii().to_ascii_lowercase();
    text.truncate(text.trim_end_matches('.').len());
    text
}

/// Serve the DNS of a world until interrupted.
#[derive(Debug, clap::Args)]
pub struct DnsArgs {
    /// World file: hosts and domains.
    #[arg(long, value_name = "FILE")]
    world: PathBuf,
    /// Where to answer, UDP and TCP.
    #[arg(long, default_value = "127.0.0.1:5300")]
    listen: SocketAddr,
}

/// Runs `hikyaku-bench dns`.
///
/// # Errors
/// When the world is wrong or the address cannot be bound.
pub fn run(args: &DnsArgs) -> Result<(), Failure> {
    let world = World::load(&args.world)?;
    let dns = Dns::start(&world, args.listen)?;
    eprintln!(
        "DNS for {} domains on {}; ctrl-c ends it",
        world.domain.len(),
        dns.address
    );
    let runtime = runtime().context(|| "cannot start a runtime".to_owned())?;
    let _ = runtime.block_on(tokio::signal::ctrl_c());
    println!("{} questions", dns.asked.load(Ordering::Relaxed));
    dns.stop();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        let text = r#"
            [[host]]
            name = "mx.example"
            address = "127.0.1.1"
            [[domain]]
            name = "plain.example"
            mx = ["10 mx.example"]
            [[domain]]
            name = "alias.example"
            cname = "plain.example"
            [[domain]]
            name = "loop.example"
            cname = "loop.example"
            [[domain]]
            name = "none.example"
            null_mx = true
            [[domain]]
            name = "ill.example"
            dns = "servfail"
        "#;
        Zone::new(&World::parse(text, "test").unwrap(), Arc::default()).unwrap()
    }

    #[test]
    fn looks_up_each_kind() {
        let zone = zone();
        let kinds = |asked, kind| {
            let found = zone.look_up(asked, kind);
            (
                found
                    .records
                    .iter()
                    .map(|r| r.record_type())
                    .collect::<Vec<_>>(),
                found.fault,
            )
        };
        assert_eq!(
            kinds("plain.example", RecordType::MX),
            (vec![RecordType::MX], None)
        );
        assert_eq!(kinds("plain.example", RecordType::A), (vec![], None));
        assert_eq!(
            kinds("mx.example", RecordType::A),
            (vec![RecordType::A], None)
        );
        let aliased = vec![RecordType::CNAME, RecordType::MX];
        assert_eq!(kinds("alias.example", RecordType::MX), (aliased, None));
        assert_eq!(
            kinds("loop.example", RecordType::MX).0.len(),
            CNAME_HOPS_MAX
        );
        assert_eq!(
            kinds("none.example", RecordType::MX),
            (vec![RecordType::MX], None)
        );
        assert_eq!(
            kinds("gone.example", RecordType::MX).1,
            Some(DnsFault::Nxdomain)
        );
        assert_eq!(
            kinds("ill.example", RecordType::MX).1,
            Some(DnsFault::Servfail)
        );
    }
}
