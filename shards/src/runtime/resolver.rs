//! DNS questions to the resolver library, on a thread of its own.
//!
//! hickory-resolver's futures are `Send` and run on tokio; glommio's are not and do not. One thread
//! with a bounded queue answers all shards; what they know already they find in their own caches
//! (`engine::dns`), so a delivery waits for this thread only when an answer is missing or has expired.
//! docs/decisions/002 says what was weighed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::dns::{Answer, DnsTrouble, MxRecord, Question};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::sync::{Semaphore, mpsc};

use super::mailbox::MailboxSender;

/// Questions waiting for the thread, from all shards.
const WAITING_MAX: usize = 8192;
/// How long the absence of an answer is kept where no SOA says it, seconds.
const NEGATIVE_TTL_S: u32 = 60;

/// An answer on its way to the shard that asked.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) question: Question,
    pub(crate) answer: Answer,
    pub(crate) ttl_s: u32,
}

struct Asked {
    question: Question,
    reply_to: MailboxSender<Answered>,
}

/// A shard's way to the resolver.
#[derive(Clone)]
pub(crate) struct ResolverHandle {
    asked: mpsc::Sender<Asked>,
    reply_to: MailboxSender<Answered>,
}

impl ResolverHandle {
    /// Asks; gives the question back if too many wait.
    pub(crate) fn ask(&self, question: Question) -> Option<Question> {
        let asked = Asked {
            question,
            reply_to: self.reply_to.clone(),
        };
        self.asked
            .try_send(asked)
            .err()
            .map(|error| error.into_inner().question)
    }
}

/// The resolver thread, to be shared out to shards.
#[derive(Clone)]
pub(crate) struct ResolverThread {
    asked: mpsc::Sender<Asked>,
}

/// How to ask.
#[derive(Clone, Debug)]
pub(crate) struct ResolverSetup {
    /// Empty: the system's.
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) timeout: Duration,
    pub(crate) attempts: usize,
    /// Questions with the servers at a time.
    pub(crate) in_flight_max: usize,
}

impl ResolverThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// One line for the operator: the system's configuration cannot be read, or no thread be made.
    pub(crate) fn start(setup: &ResolverSetup) -> Result<Self, String> {
        let resolver = Arc::new(build(setup)?);
        let in_flight_max = setup.in_flight_max;
        let (asked, mut questions) = mpsc::channel::<Asked>(WAITING_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start the resolver thread: {error}"))?;
        std::thread::Builder::new()
            .name("resolver".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    let slots = Arc::new(Semaphore::new(in_flight_max));
                    while let Some(Asked { question, reply_to }) = questions.recv().await {
                        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                            return;
                        };
                        let resolver = Arc::clone(&resolver);
                        tokio::spawn(async move {
                            let (answer, ttl_s) = resolve(&resolver, &question).await;
                            // The shard has room for every question it asks; if it is gone, nobody waits.
                            let _ = reply_to.try_send(Answered {
                                question,
                                answer,
                                ttl_s,
                            });
                            drop(slot);
                        });
                    }
                });
            })
            .map_err(|error| format!("cannot start the resolver thread: {error}"))?;
        Ok(Self { asked })
    }

    /// A shard's handle; answers come to `reply_to`.
    pub(crate) fn handle(&self, reply_to: MailboxSender<Answered>) -> ResolverHandle {
        ResolverHandle {
            asked: self.asked.clone(),
            reply_to,
        }
    }
}

/// Asks one question and waits for the answer, at most `longest`.
///
/// # Errors
/// One line for the operator, as [`ResolverThread::start`].
pub(crate) fn ask_once(
    setup: &ResolverSetup,
    question: &Question,
    longest: Duration,
) -> Result<Answer, String> {
    let resolver = build(setup)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot ask: {error}"))?;
    // The library tries every server by UDP and TCP, each for its time.
    let answer = async { tokio::time::timeout(longest, resolve(&resolver, question)).await };
    Ok(runtime
        .block_on(answer)
        .map_or(Answer::Trouble(DnsTrouble::Timeout), |(answer, _)| answer))
}

fn build(setup: &ResolverSetup) -> Result<TokioResolver, String> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = if setup.servers.is_empty() {
        TokioResolver::builder(provider)
            .map_err(|error| format!("cannot read the system's DNS configuration: {error}"))?
    } else {
        let servers = setup
            .servers
            .iter()
            .map(|address| {
                let mut server = NameServerConfig::udp_and_tcp(address.ip());
                for connection in &mut server.connections {
                    connection.port = address.port();
                }
                server
            })
            .collect();
        TokioResolver::builder_with_config(
            ResolverConfig::from_parts(None, vec![], servers),
            provider,
        )
    };
    let options: &mut ResolverOpts = builder.options_mut();
    options.timeout = setup.timeout;
    options.attempts = setup.attempts;
    // The shards keep answers, as long as their TTLs say.
    options.cache_size = 0;
    options.ndots = 0;
    options.use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
    options.server_ordering_strategy =
        hickory_resolver::config::ServerOrderingStrategy::UserProvidedOrder;
    builder
        .build()
        .map_err(|error| format!("cannot set up the resolver: {error}"))
}

async fn resolve(resolver: &TokioResolver, question: &Question) -> (Answer, u32) {
    match question {
        Question::Mx(domain) => resolve_mx(resolver, domain.as_str()).await,
        Question::Addresses(host) => resolve_addresses(resolver, host).await,
    }
}

/// The name, marked as complete: no search domain is ever tried.
fn absolute(name: &str) -> String {
    format!("{name}.")
}

async fn resolve_mx(resolver: &TokioResolver, domain: &str) -> (Answer, u32) {
    match resolver.mx_lookup(absolute(domain)).await {
        Ok(lookup) => {
            let ttl_s = ttl_of(lookup.valid_until());
            let records = lookup
                .answers()
                .iter()
                .filter_map(|record| match &record.data {
                    RData::MX(mx) => Some(MxRecord {
                        preference: mx.preference,
                        host: host_name(&mx.exchange.to_ascii()),
                    }),
                    _ => None,
                })
                .collect();
            (Answer::Mx(records), ttl_s)
        }
        Err(error) => failure(&error, Answer::Mx(Vec::new())),
    }
}

async fn resolve_addresses(resolver: &TokioResolver, host: &str) -> (Answer, u32) {
    let (v4, v6) = tokio::join!(
        resolver.lookup(absolute(host), RecordType::A),
        resolver.lookup(absolute(host), RecordType::AAAA),
    );
    let mut addresses = Vec::new();
    let mut ttl_s = u32::MAX;
    let mut failures = Vec::new();
    for result in [v4, v6] {
        match result {
            Ok(lookup) => {
                ttl_s = ttl_s.min(ttl_of(lookup.valid_until()));
                addresses.extend(
                    lookup
                        .answers()
                        .iter()
                        .filter_map(|record| record.data.ip_addr()),
                );
            }
            Err(error) => failures.push(failure(&error, Answer::Addresses(Vec::new()))),
        }
    }
    if !addresses.is_empty() {
        return (Answer::Addresses(addresses), ttl_s);
    }
    // A missing answer to either question may hide an address.
    let trouble = failures
        .iter()
        .position(|(answer, _)| matches!(answer, Answer::Trouble(_)));
    let chosen = trouble.unwrap_or(0);
    failures
        .into_iter()
        .nth(chosen)
        .unwrap_or((Answer::Addresses(addresses), NEGATIVE_TTL_S))
}

fn ttl_of(valid_until: Instant) -> u32 {
    let seconds = valid_until
        .saturating_duration_since(Instant::now())
        .as_secs_f64();
    seconds.round() as u32
}

/// Lower case, without the trailing dot; empty for the root.
fn host_name(name: &str) -> Box<str> {
    name.strip_suffix('.')
        .unwrap_or(name)
        .to_ascii_lowercase()
        .into()
}

/// `none`: the answer if the name exists but has no such record.
fn failure(error: &NetError, none: Answer) -> (Answer, u32) {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(found)) => {
            let ttl_s = found.negative_ttl.unwrap_or(NEGATIVE_TTL_S);
            match found.response_code {
                ResponseCode::NoError => (none, ttl_s),
                ResponseCode::NXDomain => (Answer::NxDomain, ttl_s),
                _ => (Answer::Trouble(DnsTrouble::ServFail), 0),
            }
        }
        NetError::Timeout => (Answer::Trouble(DnsTrouble::Timeout), 0),
        _ => (Answer::Trouble(DnsTrouble::ServFail), 0),
    }
}
