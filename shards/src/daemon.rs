//! The daemon's life: data directory, key, shards, signals, the end.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::bounce::Classifier;
use engine::config::Config;
use engine::ids::{SegmentId, ShardId};
use engine::keys::KeyRing;
use engine::queue::cipher::Stream;
use engine::shard::ShardCore;
use engine::shard::storage::StorageSetup;
use glommio::channels::channel_mesh::{FullMesh, MeshBuilder};
use glommio::{LocalExecutorPoolBuilder, PoolPlacement};

use crate::runtime::accept::{ClientSessions, Door, accept_task, bind};
use crate::runtime::disk::{Disk, Listing, list, stream_folder};
use crate::runtime::mailbox::mailbox;
use crate::runtime::resolver::{Answered, ResolverThread};
use crate::runtime::{ClientSetup, Shard, now, replay_all, spawn};
use crate::settings;

/// Messages between two shards that wait to be read.
const MESH_MESSAGES_MAX: usize = 4096;
/// Answers of the resolver that wait to be read: as many as a shard may ask questions.
const ANSWERS_MAX: usize = engine::shard::QUESTIONS_MAX;
/// Longest time deliveries in flight are waited for at the end.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Locked memory of an executor's ring, bytes; the default asks for more than RLIMIT_MEMLOCK allows.
const IO_MEMORY_BYTES: usize = 1024 * 1024;

/// What is found of a shard's earlier runs.
struct Found {
    queue: Listing,
    log: Listing,
}

/// Runs the shards until SIGTERM or SIGINT.
///
/// # Errors
/// One line for the operator.
pub(crate) fn run(config: Config, keys: KeyRing) -> Result<(), String> {
    let shards = shard_count(&config);
    let mut found = Vec::new();
    for shard in 0..shards {
        found.push(prepare(&config.server.data_dir, ShardId(shard))?);
    }
    let resolver = ResolverThread::start(&settings::resolver_setup(&config))?;
    let sessions =
        ClientSessions::new(config.limits.sessions_max, config.limits.sessions_per_client_max);
    let classifier = Arc::new(Classifier::builtin());
    let (stop_sender, stop) = async_stop();
    let mesh: FullMesh<_> = MeshBuilder::full(usize::from(shards), MESH_MESSAGES_MAX);
    let config = Arc::new(config);
    let found = Arc::new(std::sync::Mutex::new(found.into_iter().map(Some).collect::<Vec<_>>()));
    let keys = Arc::new(keys);
    let placement = if shards == 1 {
        PoolPlacement::Unbound(1)
    } else {
        PoolPlacement::MaxSpread(usize::from(shards), None)
    };
    let pool = LocalExecutorPoolBuilder::new(placement)
        .name("shard")
        .io_memory(IO_MEMORY_BYTES)
        .on_all_shards(move || async move {
            let id = ShardId((glommio::executor().id() - 1) as u16);
            let _ = (&mesh, &found, &keys, &config, &resolver, &sessions, &classifier, &stop, id);
            Ok::<(), String>(())
        })
        .map_err(|error| format!("cannot start the shards: {error}"))?;
    let _ = stop_sender;
    for result in pool.join_all() {
        result.map_err(|error| format!("a shard ended: {error}"))??;
    }
    Ok(())
}
