//! One shard's thread: what it starts from, and the commands it takes until it ends.

use std::cell::RefCell;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use datadir::segments::{Go, list as list_segments, scan};
use engine::config::{Config, Listen};
use engine::ids::ShardId;
use engine::keys::KeyRing;
use engine::operator::{Answer, LogEnd, Query};
use engine::policy::ReplyRules;
use engine::policy::stop::{Selector, StopBook};
use engine::queue::cipher::{NONCE_BYTES, Stream};
use engine::queue::record::Record;
use engine::queue::replay::Contents;
use engine::shard::command::Search;
use engine::shard::stops::{Counting, Selected};
use engine::shard::{Event, ShardCore};
use engine::store::{BLOB_COUNTERS, StorageSetup};
use glommio::net::TcpListener;
use rustix::net::sockopt::set_socket_reuseport;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind as bind_socket, ipproto, socket_with,
};

use crate::runtime::accept::{ClientSessions, Door, accept_task, bind};
use crate::runtime::disk::{Disk, Listing, list, stream_folder};
use crate::runtime::mailbox::{Mailbox, mailbox};
use crate::runtime::mesh::MeshEnd;
use crate::runtime::resolver::{Answered, ResolverThread};
use crate::runtime::{Shard, adopt_all, give_way, noted_handovers, now, replay_all, spawn};
use crate::settings;

/// How long what was delivered may take to be on disk, where an end cuts the rest short.
const RECORD_MAX: Duration = Duration::from_secs(2);

/// Rest between two looks whether everything has come to its end.
const DRAIN_REST: Duration = Duration::from_millis(10);

/// How long a listener on one of our addresses may take to answer.
const PROBE_MAX: Duration = Duration::from_millis(200);

/// How long the listeners of a daemon that was killed may linger.
const LINGER_MAX: Duration = Duration::from_secs(2);

/// What other threads tell a shard.
pub(crate) enum Command {
    /// An operator's question.
    Ask { query: Query, reply: Sender<Answer> },
    /// New segments under this ring's current key.
    Rekey {
        keys: Arc<KeyRing>,
        done: Sender<()>,
    },
    /// The configuration was read anew: do all of it that can fail, and change nothing yet.
    Prepare {
        config: Arc<Config>,
        rules: Arc<ReplyRules>,
        done: Sender<Result<(), String>>,
    },
    /// Every shard is ready: take up what was prepared.
    Apply { done: Sender<()> },
    /// Some shard is not: throw away what was prepared.
    Abandon,
    /// Finish what is in flight, for `longest`, and end; a second one may say less.
    Stop { longest: Duration },
}

/// Everything a shard's thread starts from.
pub(crate) struct Start {
    pub(crate) id: ShardId,
    pub(crate) shards: u16,
    pub(crate) config: Arc<Config>,
    pub(crate) keys: Arc<KeyRing>,
    pub(crate) rules: Arc<ReplyRules>,
    /// What an operator has stopped.
    pub(crate) stops: Arc<StopBook>,
    pub(crate) resolver: ResolverThread,
    pub(crate) sessions: Arc<ClientSessions>,
    /// Connections out of this shard at most.
    pub(crate) connections_max: usize,
    pub(crate) mesh: MeshEnd,
    pub(crate) commands: Mailbox<Command>,
    /// Told once when the shard accepts mail, or why it cannot.
    pub(crate) ready: Sender<Result<(), String>>,
}

/// Runs a shard until it is told to stop.
pub(crate) async fn run(start: Start) {
    let ready = start.ready.clone();
    let id = start.id;
    match open(start).await {
        Ok((running, commands)) => {
            let _ = ready.send(Ok(()));
            serve(&running, &commands).await;
        }
        Err(why) => {
            let _ = ready.send(Err(format!("shard {}: {why}", id.0)));
        }
    }
}

struct Running {
    shard: Rc<Shard>,
    shards: u16,
    sessions: Arc<ClientSessions>,
    doors: RefCell<Vec<Rc<Door>>>,
    prepared: RefCell<Option<Prepared>>,
}

/// A configuration that can be taken up without anything going wrong.
struct Prepared {
    config: Arc<Config>,
    rules: Arc<ReplyRules>,
    /// Listeners that are new in it.
    listeners: Vec<(Listen, TcpListener)>,
}

async fn open(start: Start) -> Result<(Running, Mailbox<Command>), String> {
    let Start {
        id,
        shards,
        config,
        keys,
        rules,
        stops,
        resolver,
        sessions,
        connections_max,
        mesh,
        commands,
        ..
    } = start;
    let data_dir = &config.server.data_dir;
    let queue = folder(data_dir, id, Stream::Queue)?;
    let log = folder(data_dir, id, Stream::DeliveryLog)?;
    let counters = folder(data_dir, id, Stream::Counters)?;
    let free = queue.free.iter().map(|(segment, _)| *segment).collect();
    let disk = Rc::new(Disk::new(
        data_dir.clone(),
        id,
        free,
        config.queue.segment_bytes as u32,
    ));
    disk.probe_device(&queue)
        .await
        .map_err(|error| format!("{}: {error}", data_dir.display()))?;
    disk.keep_reserve().await;
    let shard_settings = Rc::new(settings::shard(&config, shards, &rules));
    let setup = StorageSetup {
        keys: Arc::clone(&keys),
        nonces: Box::new(random_nonce),
        next_segment: queue.next,
        next_log_segment: log.next,
        next_counters_segment: counters.next,
    };
    let mut core = ShardCore::new(id, shards, shard_settings, setup, seed(), now());
    let free_sizes: Vec<u64> = queue.free.iter().map(|(_, bytes)| *bytes).collect();
    core.found_files(&queue.segments, &free_sizes);
    let noted = noted_handovers(data_dir)?;
    core.noted_handovers(Rc::clone(&noted));
    core.restore_stops(stops, now());
    restore_counters(&mut core, data_dir, id, &keys);
    let (answers_in, answers) = mailbox::<Answered>(engine::shard::QUESTIONS_MAX);
    let client = settings::client(&config, connections_max);
    let resolver = resolver.handle(answers_in);
    let shard = Shard::new(id, core, disk, resolver, mesh.boxes, client);
    shard.start_tasks(mesh.inbox);
    {
        let shard = Rc::clone(&shard);
        spawn(async move {
            while let Some(Answered {
                question,
                answer,
                ttl_s,
            }) = answers.recv().await
            {
                shard.handle(Event::Answered {
                    question,
                    answer,
                    ttl_s,
                });
            }
        });
    }
    let doors = RefCell::default();
    let running = Running {
        shard,
        shards,
        sessions,
        doors,
        prepared: RefCell::default(),
    };
    let listeners = running.new_listeners(&config)?;
    running.listen(&config, listeners);
    let shard = Rc::clone(&running.shard);
    let data_dir = data_dir.clone();
    spawn(async move {
        replay_all(&shard, queue.segments).await;
        adopt_all(&shard, &data_dir, shards, noted).await;
    });
    Ok((running, commands))
}

/// Counts since ever, from the newest segment that can be read.
fn restore_counters(core: &mut ShardCore, data_dir: &Path, id: ShardId, keys: &KeyRing) {
    let Ok(mut files) = list_segments(data_dir, id, Stream::Counters) else {
        return;
    };
    files.sort_by_key(|file| file.name.segment);
    let mut restored = false;
    for file in files.iter().rev() {
        if restored {
            // Left behind by a crash between writing the next and deleting this one.
            let _ = std::fs::remove_file(&file.path);
            continue;
        }
        let mut saved = Vec::new();
        let read = scan(
            file,
            keys,
            Contents::Read,
            |found| {
                if let Record::Blob {
                    kind: BLOB_COUNTERS,
                    bytes,
                } = found.record
                {
                    saved = bytes.to_vec();
                }
                Go::On
            },
            |_| {},
        );
        if read.is_ok() && !saved.is_empty() {
            match core.restore_counters(file.name.segment, &saved) {
                Ok(()) => restored = true,
                Err(why) => crate::say!("{}: counters: {why}", file.path.display()),
            }
        }
    }
}

impl Running {
    /// Opens the listeners of `config` that are new.
    fn new_listeners(&self, config: &Config) -> Result<Vec<(Listen, TcpListener)>, String> {
        let doors = self.doors.borrow();
        let is_new = |listen: &&Listen| !doors.iter().any(|door| door.address() == listen.address);
        config
            .listen
            .iter()
            .filter(is_new)
            .map(|listen| Ok((listen.clone(), bind(listen.address)?)))
            .collect()
    }

    /// Serves the new listeners, changes those that stay, closes those that are gone.
    fn listen(&self, config: &Config, new: Vec<(Listen, TcpListener)>) {
        let settings = Rc::new(engine::settings::server(config));
        let mut doors = self.doors.borrow_mut();
        doors.retain(|door| {
            let stays = config
                .listen
                .iter()
                .find(|listen| listen.address == door.address());
            match stays {
                Some(listen) => door.change(listen.clone(), Rc::clone(&settings)),
                None => door.close(),
            }
            stays.is_some()
        });
        for (listen, listener) in new {
            let sessions = Arc::clone(&self.sessions);
            let door = Rc::new(Door::new(listen, Rc::clone(&settings), sessions));
            spawn(accept_task(
                Rc::clone(&self.shard),
                listener,
                Rc::clone(&door),
            ));
            doors.push(door);
        }
    }

    fn prepare(&self, config: Arc<Config>, rules: Arc<ReplyRules>) -> Result<(), String> {
        // What an earlier attempt left behind is closed first: its addresses may be wanted again.
        self.prepared.take();
        let listeners = self.new_listeners(&config)?;
        *self.prepared.borrow_mut() = Some(Prepared {
            config,
            rules,
            listeners,
        });
        Ok(())
    }

    fn apply(&self) {
        let Some(Prepared {
            config,
            rules,
            listeners,
        }) = self.prepared.take()
        else {
            return;
        };
        self.listen(&config, listeners);
        let settings = Rc::new(settings::shard(&config, self.shards, &rules));
        let connections_max = self.shard.client.borrow().connections_max;
        *self.shard.client.borrow_mut() = settings::client(&config, connections_max);
        self.shard.with_core(|core, _| core.reload(settings));
    }

    async fn search(&self, domain: Option<&str>, rows_max: usize) -> Answer {
        let mut search = Search::new(domain, rows_max);
        while !self
            .shard
            .with_core(|core, now| core.search_some(&mut search, now))
        {
            give_way().await;
        }
        Answer::Messages(search.into_found())
    }

    async fn count(&self, selector: Selector) -> Answer {
        let mut counting = Counting::new(selector);
        while !self
            .shard
            .with_core(|core, _| core.count_some(&mut counting))
        {
            give_way().await;
        }
        Answer::Counted(counting.selected())
    }

    async fn retry(&self, domain: Option<&str>) -> Answer {
        self.shard.with_core(|core, _| core.retry(domain));
        loop {
            if let Some(count) = self.shard.with_core(|core, now| core.retry_some(now)) {
                return Answer::Retried(count);
            }
            give_way().await;
        }
    }

    fn answer(&self, query: Query) -> Answer {
        self.shard.with_core(|core, now| match query {
            Query::Status => Answer::Status(Box::new(core.status())),
            Query::Counters(by, window) => Answer::Counters(core.counters().table(by, window)),
            Query::Destinations { rows_max } => {
                Answer::Destinations(core.destinations(rows_max, now))
            }
            Query::Destination(domain) => {
                Answer::Destinations(core.destination(&domain, now).into_iter().collect())
            }
            Query::Message(queue_id) => Answer::Messages(core.why(queue_id, now)),
            Query::Stops(book) => {
                core.set_stops(book, now);
                Answer::Stopped
            }
            // Those that go through all of the queue take more than one turn: see `search`, `retry` and `count`.
            Query::Search { .. } => Answer::Messages(Vec::new()),
            Query::Retry { .. } => Answer::Retried(0),
            Query::Count(_) => Answer::Counted(Selected::default()),
            Query::LogEnd => Answer::LogEnd(core.log_end().map(|(segment, offset)| LogEnd {
                shard: self.shard.id,
                segment,
                offset,
            })),
        })
    }
}

async fn serve(running: &Running, commands: &Mailbox<Command>) {
    while let Some(command) = commands.recv().await {
        if let Command::Stop { longest } = command {
            return end(running, commands, longest).await;
        }
        obey(running, command).await;
    }
}

/// Lets deliveries in flight come to their ends, for `longest`, or less if that is said meanwhile.
///
/// Whatever is cut short, nothing is lost by it: it is sent again after the next start. What has been
/// delivered is not, once its record is on disk; so that is waited for in any case.
async fn end(running: &Running, commands: &Mailbox<Command>, mut longest: Duration) {
    let shard = &running.shard;
    let begun = Instant::now();
    shard.begin_drain();
    while !shard.with_core(|core, _| core.is_drained()) {
        if begun.elapsed() >= longest {
            crate::say!(shard: shard.id, "deliveries in flight were cut short");
            let cut = Instant::now();
            while !shard.with_core(|core, _| core.is_recorded()) && cut.elapsed() < RECORD_MAX {
                glommio::timer::sleep(DRAIN_REST).await;
            }
            return;
        }
        match commands.try_recv() {
            Some(Command::Stop { longest: less }) => longest = longest.min(less),
            Some(command) => obey(running, command).await,
            None => glommio::timer::sleep(DRAIN_REST).await,
        }
    }
}

/// Who asked may have given up waiting; then nobody reads the answer.
async fn obey(running: &Running, command: Command) {
    match command {
        Command::Ask { query, reply } => {
            let answer = match query {
                Query::Search { domain, rows_max } => {
                    running.search(domain.as_deref(), rows_max).await
                }
                Query::Retry { domain } => running.retry(domain.as_deref()).await,
                Query::Count(selector) => running.count(selector).await,
                query => running.answer(query),
            };
            let _ = reply.send(answer);
        }
        Command::Rekey { keys, done } => {
            running.shard.with_core(|core, _| core.rekey(keys));
            let _ = done.send(());
        }
        Command::Prepare {
            config,
            rules,
            done,
        } => {
            let _ = done.send(running.prepare(config, rules));
        }
        Command::Apply { done } => {
            running.apply();
            let _ = done.send(());
        }
        Command::Abandon => drop(running.prepared.take()),
        // `serve` and `end` see to it.
        Command::Stop { .. } => {}
    }
}

fn folder(data_dir: &Path, id: ShardId, stream: Stream) -> Result<Listing, String> {
    let folder = stream_folder(data_dir, id, stream);
    datadir::private::make_closed_directory(&datadir::segments::shard_dir(data_dir, id))
        .map_err(|error| error.to_string())?;
    datadir::private::make_directory(&folder).map_err(|error| error.to_string())?;
    list(&folder)
}

/// Fresh bytes from the system for every segment.
fn random_nonce() -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    // Without random bytes no segment may be written; the kernel never refuses them once it is up.
    getrandom::fill(&mut nonce).expect("getrandom works after boot");
    nonce
}

fn seed() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("getrandom works after boot");
    u64::from_le_bytes(bytes)
}

/// Finds out before anything is touched whether an address can be listened on.
///
/// Shards share their listeners by SO_REUSEPORT, which would let us in beside another daemon of the
/// same user, so whether somebody answers there is asked too. Connections of a daemon that was killed
/// may linger, and do not keep the next one from starting.
///
/// # Errors
/// One line for the operator.
pub(crate) fn probe(address: SocketAddr) -> Result<(), String> {
    let fault = |error: std::io::Error| {
        let advice = match error.kind() {
            _ if address.is_ipv6() && !host_has_ipv6() => {
                "this host has no IPv6; listen on an IPv4 address, or turn it on (sysctl \
                 net.ipv6.conf.all.disable_ipv6=0)"
            }
            std::io::ErrorKind::AddrNotAvailable => {
                "it is no address of this host; change [[listen]]"
            }
            std::io::ErrorKind::PermissionDenied => {
                "ports below 1024 need root or CAP_NET_BIND_SERVICE (docs/hikyakud.service)"
            }
            _ => "stop what listens there or change [[listen]]",
        };
        format!("cannot listen on {address}: {error}; {advice}")
    };
    let reached = match address.ip() {
        ip if ip.is_unspecified() && ip.is_ipv4() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        ip if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    };
    // The kernel closes the listeners of a killed daemon a moment after its end: what its rings hold
    // is let go of in the background.
    let asked = Instant::now();
    while TcpStream::connect_timeout(&reached, PROBE_MAX).is_ok() {
        if asked.elapsed() > LINGER_MAX {
            return Err(fault(std::io::ErrorKind::AddrInUse.into()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(
        family,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        Some(ipproto::TCP),
    )
    .map_err(|error| fault(error.into()))?;
    set_socket_reuseport(&socket, true)
        .and_then(|()| bind_socket(&socket, &address))
        .map_err(|error| fault(error.into()))
}

/// Whether any interface has an address of that family.
fn host_has_ipv6() -> bool {
    std::fs::read_to_string("/proc/net/if_inet6").is_ok_and(|text| !text.trim().is_empty())
}
