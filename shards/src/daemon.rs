//! The daemon's life: data directory, key, shards, signals, the end.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use datadir::installation::Installation;
use engine::bounce::Classifier;
use engine::config::Config;
use engine::ids::ShardId;
use engine::keys::KeyRing;
use engine::queue::cipher::{NONCE_BYTES, Stream};
use engine::shard::ShardCore;
use engine::shard::storage::StorageSetup;
use glommio::channels::channel_mesh::{FullMesh, MeshBuilder};
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};

use crate::runtime::accept::{ClientSessions, Door, accept_task, bind};
use crate::runtime::connect::ClientSetup;
use crate::runtime::disk::{Disk, Listing, list, stream_folder};
use crate::runtime::mailbox::{Mailbox, MailboxSender, mailbox};
use crate::runtime::resolver::{Answered, ResolverThread};
use crate::runtime::{Shard, now, replay_all, spawn};
use crate::settings;

/// Messages between two shards that wait to be read.
const MESH_MESSAGES_MAX: usize = 4096;
/// Commands to a shard that wait to be read.
const COMMANDS_MAX: usize = 256;
/// Longest time deliveries in flight are waited for at the end.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Locked memory of an executor's ring, bytes: within the common RLIMIT_MEMLOCK for many shards.
const IO_MEMORY_BYTES: usize = 256 * 1024;

/// What other threads tell a shard.
pub(crate) enum Command {
    /// Finish what is in flight and end.
    Stop,
}

/// Everything a shard's thread starts from.
struct Start {
    id: ShardId,
    shards: u16,
    config: Arc<Config>,
    keys: KeyRing,
    classifier: Arc<Classifier>,
    resolver: ResolverThread,
    sessions: Arc<ClientSessions>,
    mesh: FullMesh<engine::shard::ShardMessage>,
    commands: Mailbox<Command>,
}

/// Runs the shards until told to stop.
///
/// # Errors
/// One line for the operator.
pub(crate) fn run(config: Config) -> Result<(), String> {
    datadir::process_not_dumpable()
        .map_err(|error| format!("cannot forbid core dumps: {error}"))?;
    let installation = Installation::new(&config.server.data_dir, &config.key.secret);
    installation.check().map_err(|error| error.to_string())?;
    let _lock = installation.lock().map_err(|error| error.to_string())?;
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
    let passphrase =
        datadir::source::passphrase(&config.key, credentials).map_err(|error| error.to_string())?;
    let keys = installation
        .unlock(&passphrase)
        .map_err(|error| error.to_string())?;
    let config = Arc::new(config);
    let (handles, commands) = start_shards(&config, &keys)?;
    let mut signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGINT,
    ])
    .map_err(|error| format!("cannot wait for signals: {error}"))?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            for shard in &commands {
                let _ = shard.try_send(Command::Stop);
            }
        }
    });
    for handle in handles {
        handle
            .join()
            .map_err(|error| format!("a shard ended: {error}"))??;
    }
    Ok(())
}

type Handles = Vec<ExecutorJoinHandle<Result<(), String>>>;

fn start_shards(
    config: &Arc<Config>,
    keys: &KeyRing,
) -> Result<(Handles, Vec<MailboxSender<Command>>), String> {
    let cpus = available_cpus();
    let shards = config.server.shards.unwrap_or(cpus.len() as u16).max(1);
    let resolver = ResolverThread::start(&settings::resolver_setup(config))?;
    let sessions = ClientSessions::new(
        config.limits.sessions_max,
        config.limits.sessions_per_client_max,
    );
    let classifier = Arc::new(Classifier::builtin());
    let mesh: FullMesh<_> = MeshBuilder::full(usize::from(shards), MESH_MESSAGES_MAX);
    let (mut handles, mut senders) = (Vec::new(), Vec::new());
    for id in 0..shards {
        let (sender, commands) = mailbox(COMMANDS_MAX);
        senders.push(sender);
        let start = Start {
            id: ShardId(id),
            shards,
            config: Arc::clone(config),
            keys: keys.clone(),
            classifier: Arc::clone(&classifier),
            resolver: resolver.clone(),
            sessions: Arc::clone(&sessions),
            mesh: mesh.clone(),
            commands,
        };
        let placement = match cpus.get(usize::from(id)) {
            Some(cpu) => Placement::Fixed(*cpu),
            None => Placement::Unbound,
        };
        let handle = LocalExecutorBuilder::new(placement)
            .name(&format!("shard-{id}"))
            .io_memory(IO_MEMORY_BYTES)
            .spawn(move || run_shard(start))
            .map_err(|error| format!("cannot start shard {id}: {error}"))?;
        handles.push(handle);
    }
    Ok((handles, senders))
}

/// The processors this process may run on.
fn available_cpus() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else {
        return vec![0];
    };
    (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|cpu| set.is_set(*cpu))
        .collect()
}

async fn run_shard(start: Start) -> Result<(), String> {
    let Start {
        id,
        shards,
        config,
        keys,
        classifier,
        resolver,
        sessions,
        mesh,
        commands,
    } = start;
    let queue = folder(&config.server.data_dir, id, Stream::Queue)?;
    let log = folder(&config.server.data_dir, id, Stream::DeliveryLog)?;
    let listeners = config
        .listen
        .iter()
        .map(|listen| bind(listen.address))
        .collect::<Result<Vec<_>, _>>()?;
    let (senders, receivers) = mesh.join().await.map_err(|error| error.to_string())?;
    let free = queue.free.iter().map(|(segment, _)| *segment).collect();
    let disk = Rc::new(Disk::new(config.server.data_dir.clone(), id, free));
    let shard_settings = Rc::new(settings::shard_settings(&config, shards, &classifier));
    let setup = StorageSetup {
        keys,
        nonces: Box::new(random_nonce),
        next_segment: queue.next,
        next_log_segment: log.next,
    };
    let mut core = ShardCore::new(id, shards, shard_settings, setup, seed(), now());
    let free_sizes: Vec<u64> = queue.free.iter().map(|(_, bytes)| *bytes).collect();
    core.found_files(&queue.segments, &free_sizes);
    let (answers_in, answers) = mailbox::<Answered>(engine::shard::QUESTIONS_MAX);
    let (client_settings, connect_timeout) = settings::client_settings(&config);
    let client = ClientSetup {
        settings: client_settings,
        connect_timeout,
    };
    let receiving_bytes_max = (config.limits.memory_bytes_max
        - config
            .limits
            .content_cache_bytes_max
            .min(config.limits.memory_bytes_max)) as usize
        / usize::from(shards);
    let shard = Shard::new(
        id,
        shards,
        core,
        disk,
        resolver.handle(answers_in),
        client,
        receiving_bytes_max,
    );
    shard.start_tasks(senders, receivers);
    {
        let shard = Rc::clone(&shard);
        spawn(async move {
            while let Some(Answered {
                question,
                answer,
                ttl_s,
            }) = answers.recv().await
            {
                shard.handle(engine::shard::Event::Answered {
                    question,
                    answer,
                    ttl_s,
                });
            }
        });
    }
    for (listen, listener) in config.listen.iter().zip(listeners) {
        let door = Rc::new(Door {
            listen: RefCell::new(listen.clone()),
            settings: RefCell::new(settings::server_settings(&config)),
            sessions: Arc::clone(&sessions),
        });
        spawn(accept_task(Rc::clone(&shard), listener, door));
    }
    {
        let shard = Rc::clone(&shard);
        spawn(async move { replay_all(&shard, queue.segments).await });
    }
    while let Some(command) = commands.recv().await {
        match command {
            Command::Stop => {
                if !shard.drained(DRAIN_MAX).await {
                    eprintln!(
                        "hikyakud: shard {}: deliveries in flight were cut short",
                        id.0
                    );
                }
                return Ok(());
            }
        }
    }
    Ok(())
}

fn folder(data_dir: &Path, id: ShardId, stream: Stream) -> Result<Listing, String> {
    let folder = stream_folder(data_dir, id, stream);
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
