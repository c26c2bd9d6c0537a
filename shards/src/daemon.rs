//! The daemon's life: data directory, control socket, key, shards, signals, the end.

mod stop;
mod stops;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, unbounded};
use datadir::installation::KdfCost;
use datadir::{Installation, KeysError, LockedBytes};
use engine::clock::UnixMs;
use engine::config::Config;
use engine::ids::ShardId;
use engine::keys::{KeyId, KeyRing};
use engine::operator::{Answer, Query};
use engine::policy::ReplyRules;
use engine::policy::stop::StopBook;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::control::{self, AskError, Daemon, Refusal, State};
use crate::descriptors::{self, Descriptors};
use crate::runtime::accept::ClientSessions;
use crate::runtime::mailbox::{MailboxSender, mailbox};
use crate::runtime::mesh::mesh;
use crate::runtime::now;
use crate::runtime::resolver::ResolverThread;
use crate::settings;
use crate::shard_main::{self, Command, Start, probe};
use crate::{supervisor, system};

/// Messages between two shards that wait to be read.
const MESH_MESSAGES_MAX: usize = 4096;
/// Commands to a shard that wait to be read.
const COMMANDS_MAX: usize = 256;
/// Locked memory of an executor's ring, bytes: within the common RLIMIT_MEMLOCK for many shards.
const IO_MEMORY_BYTES: usize = 256 * 1024;
/// How long a shard may take to open its files and listeners, or to change them.
const SHARD_START_MAX: Duration = Duration::from_secs(60);

/// Rest while a shard has too many commands waiting.
const COMMAND_REST: Duration = Duration::from_millis(5);

/// How often expired segments of the delivery log are looked for.
const LOG_RETENTION_EVERY: Duration = Duration::from_secs(300);

struct Shards {
    handles: Vec<ExecutorJoinHandle<()>>,
    commands: Vec<MailboxSender<Command>>,
    keys: Arc<KeyRing>,
    /// Every shard writes under the current key; one that was not told of it does not.
    all_rekeyed: bool,
}

/// The daemon, as its own threads share it.
pub(crate) struct Hikyakud {
    file: PathBuf,
    config: Mutex<Arc<Config>>,
    installation: Installation,
    shards: Mutex<Option<Shards>>,
    /// Held while keys are derived, changed or retired. `shards` is not, so that the daemon tells how
    /// it is, and ends, meanwhile.
    keys_change: Mutex<()>,
    /// Held while a new configuration is brought to the shards.
    reloading: Mutex<()>,
    stopping: Mutex<bool>,
    stops: stops::Stops,
    started: UnixMs,
    begun: Instant,
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// One line for the operator; nothing was changed on disk then.
pub(crate) fn run(file: PathBuf, config: Config) -> Result<(), String> {
    datadir::process_not_dumpable()
        .map_err(|error| format!("cannot forbid core dumps: {error}"))?;
    system::obstacle(&file, &config)?;
    let installation = Installation::new(&config.server.data_dir, &config.key.secret);
    installation.check().map_err(|error| error.to_string())?;
    let _lock = installation.lock().map_err(|error| error.to_string())?;
    for listen in &config.listen {
        probe(listen.address)?;
    }
    let listener = control::listen(&config.control.socket).map_err(|error| error.to_string())?;
    let socket = config.control.socket.clone();
    let daemon = Arc::new(Hikyakud {
        file,
        config: Mutex::new(Arc::new(config)),
        installation,
        shards: Mutex::default(),
        keys_change: Mutex::default(),
        reloading: Mutex::default(),
        stopping: Mutex::new(false),
        stops: stops::Stops::default(),
        started: now().unix,
        begun: Instant::now(),
    });
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|error| format!("cannot wait for signals: {error}"))?;
    control::serve(listener, Arc::clone(&daemon) as Arc<dyn Daemon>)
        .map_err(|error| format!("cannot serve the control socket: {error}"))?;
    let (events, happened) = unbounded();
    if let Some(passphrase) = daemon.first_passphrase()? {
        let (daemon, events) = (Arc::clone(&daemon), events.clone());
        spawn_thread("unlock", move || {
            let _ = events.send(Happened::Unlocked(daemon.unlock(passphrase)));
        })?;
    }
    spawn_thread("signals", move || {
        for signal in signals.forever() {
            let _ = events.send(Happened::Signal(signal));
        }
    })?;
    let janitor = Arc::clone(&daemon);
    spawn_thread("log-retention", move || janitor.remove_expired_logs())?;
    if let Some(every) = supervisor::wants_to_hear() {
        let alive = Arc::clone(&daemon);
        spawn_thread("watchdog", move || supervisor::keep_saying(&*alive, every))?;
    }
    for what in &happened {
        match what {
            Happened::Unlocked(Ok(())) => {}
            Happened::Unlocked(Err(refusal)) => return Err(refusal.message),
            Happened::Signal(SIGHUP) => match daemon.reload() {
                Ok(lines) => lines.iter().for_each(|line| daemon.note(line)),
                Err(refusal) => daemon.note(&format!("not reloaded: {}", refusal.message)),
            },
            Happened::Signal(_) => break,
        }
    }
    daemon.stop(happened);
    let _ = std::fs::remove_file(socket);
    Ok(())
}

/// What the main thread waits for.
enum Happened {
    /// The configured source's passphrase was tried.
    Unlocked(Result<(), Refusal>),
    Signal(i32),
}

fn spawn_thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), String> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map(drop)
        .map_err(|error| format!("cannot start a thread: {error}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hikyakud {
    /// Deletes old segments of the delivery log (`[log] keep_age`, `keep_bytes`), and retires keys, for
    /// as long as the process lives.
    fn remove_expired_logs(&self) {
        let mut unused_keys = HashSet::new();
        loop {
            let config = self.config();
            let (shards, log) = (self.shards(), &config.log);
            let data_dir = self.installation.data_dir();
            // While locked it is not known which segments a shard goes on with: none is, so the
            // newest of every shard is spared.
            let shards = if shards == 0 { u16::MAX } else { shards };
            match datadir::log::remove_expired(
                data_dir,
                shards,
                now().unix,
                log.keep_age_ms,
                log.keep_bytes,
            ) {
                Ok(gone) if gone.is_empty() => {}
                Ok(gone) => self.note(&format!("{} expired log segments deleted", gone.len())),
                Err(error) => self.note(&format!("cannot delete expired log segments: {error}")),
            }
            self.retire_keys(&mut unused_keys);
            std::thread::sleep(LOG_RETENTION_EVERY);
        }
    }

    /// Retires the older keys that no segment is under any more. A key counts as unused when it was
    /// in `unused` already: at the time of the last look, a segment may have been in the making.
    fn retire_keys(&self, unused: &mut HashSet<KeyId>) {
        let Ok(_alone) = self.keys_change.try_lock() else {
            return;
        };
        let keys = match &*lock(&self.shards) {
            Some(shards) if shards.all_rekeyed => Arc::clone(&shards.keys),
            _ => return,
        };
        let mut older: Vec<KeyId> = keys.older_ids().collect();
        if older.is_empty() {
            return;
        }
        let in_use = match datadir::segments::key_ids(self.installation.data_dir()) {
            Ok(in_use) => in_use,
            Err(error) => {
                return self.note(&format!("cannot tell which older keys are needed: {error}"));
            }
        };
        older.retain(|id| !in_use.contains(id));
        for id in &older {
            if !unused.contains(id) {
                continue;
            }
            match self.installation.retire(*id) {
                Ok(()) => {
                    if let Some(shards) = &mut *lock(&self.shards) {
                        let mut keys = (*shards.keys).clone();
                        keys.retire(*id);
                        shards.keys = Arc::new(keys);
                    }
                    self.note(&format!(
                        "key {id} retired: no segment is under it any more"
                    ));
                }
                Err(error) => self.note(&format!("cannot retire key {id}: {error}")),
            }
        }
        *unused = older.into_iter().collect();
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&lock(&self.config))
    }

    /// The configured source's passphrase; none without a terminal to ask on: then `hikyaku unlock` is
    /// waited for.
    fn first_passphrase(&self) -> Result<Option<LockedBytes>, String> {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
        match datadir::source::passphrase(&self.config().key, credentials) {
            Ok(passphrase) => Ok(Some(passphrase)),
            Err(KeysError::NoTerminal) => {
                let status = "locked: give the passphrase with `hikyaku unlock`";
                self.note(status);
                supervisor::ready(status);
                Ok(None)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// Says what of this host could be better, when it is found out. The start does not wait for that.
    fn tell_concerns(&self) {
        let (file, config) = (self.file.clone(), self.config());
        let told = spawn_thread("concerns", move || {
            for concern in system::concerns(&file, &config) {
                crate::say!("warning: {}: {}", concern.about, concern.text);
            }
        });
        if let Err(why) = told {
            self.note(&why);
        }
    }

    /// The ways to the shards; none while locked.
    fn commands(&self) -> Vec<MailboxSender<Command>> {
        lock(&self.shards)
            .as_ref()
            .map_or_else(Vec::new, |shards| shards.commands.clone())
    }

    fn start(&self, keys: &Arc<KeyRing>) -> Result<Shards, String> {
        let config = self.config();
        let cpus = available_cpus();
        let shards = shards(&config);
        let wanted = config.limits.sessions_max;
        let open_files_max = descriptors::raise_limit();
        let descriptors = Descriptors::share(open_files_max, shards, wanted)?;
        if descriptors.sessions_max < wanted {
            self.note(&format!(
                "limits.sessions_max is {wanted}, but {open_files_max} open files allow {} sessions: more are \
                 refused with 421 until the hard limit is raised (LimitNOFILE=, ulimit -Hn)",
                descriptors.sessions_max
            ));
        }
        if let Err(why) = datadir::lock_all_memory() {
            self.note(&format!(
                "warning: mail in memory may be written to swap: {why}; set LimitMEMLOCK=infinity in the unit (ulimit \
                 -l unlimited), or run without swap (MemorySwapMax=0)"
            ));
        }
        let resolver = settings::resolver_setup(&config, descriptors.dns_in_flight_max);
        let resolver = ResolverThread::start(&resolver)?;
        let sessions = ClientSessions::new(
            descriptors.sessions_max,
            config.limits.sessions_per_client_max,
        );
        let rules = reply_rules(&config)?;
        let stops = self.stops.restore(self.installation.data_dir(), keys)?;
        let ends = mesh(shards, MESH_MESSAGES_MAX);
        let (ready, readiness) = bounded(usize::from(shards));
        let (mut handles, mut commands) = (Vec::new(), Vec::new());
        for (id, mesh) in (0..shards).zip(ends) {
            let (sender, receiver) = mailbox(COMMANDS_MAX);
            commands.push(sender);
            let start = Start {
                id: ShardId(id),
                shards,
                config: Arc::clone(&config),
                keys: Arc::clone(keys),
                rules: Arc::clone(&rules),
                stops: Arc::clone(&stops),
                resolver: resolver.clone(),
                sessions: Arc::clone(&sessions),
                connections_max: descriptors.connections_max,
                mesh,
                commands: receiver,
                ready: ready.clone(),
            };
            let placement = match cpus.get(usize::from(id)) {
                Some(cpu) => Placement::Fixed(*cpu),
                None => Placement::Unbound,
            };
            let handle = LocalExecutorBuilder::new(placement)
                .name(&format!("shard-{id}"))
                .io_memory(IO_MEMORY_BYTES)
                .spawn(move || shard_main::run(start))
                .map_err(|error| format!("cannot start shard {id}: {error}"))?;
            handles.push(handle);
        }
        for _ in 0..shards {
            readiness
                .recv_timeout(SHARD_START_MAX)
                .map_err(|_| "a shard did not start in time".to_owned())??;
        }
        let status = status_line(&config, shards);
        self.note(&status);
        supervisor::ready(&status);
        Ok(Shards {
            handles,
            commands,
            keys: Arc::clone(keys),
            all_rekeyed: true,
        })
    }
}

impl Daemon for Hikyakud {
    fn state(&self) -> State {
        if *lock(&self.stopping) {
            State::Stopping
        } else if lock(&self.shards).is_some() {
            State::Running
        } else {
            State::Locked
        }
    }

    fn started(&self) -> UnixMs {
        self.started
    }

    fn uptime(&self) -> Duration {
        self.begun.elapsed()
    }

    fn hostname(&self) -> String {
        self.config().server.hostname.clone()
    }

    fn data_dir(&self) -> PathBuf {
        self.installation.data_dir().to_owned()
    }

    fn shards(&self) -> u16 {
        lock(&self.shards)
            .as_ref()
            .map_or(0, |shards| shards.commands.len() as u16)
    }

    fn ask(&self, shard: ShardId, query: Query) -> Result<Receiver<Answer>, AskError> {
        let commands = lock(&self.shards)
            .as_ref()
            .and_then(|shards| shards.commands.get(usize::from(shard.0)).cloned())
            .ok_or(AskError::Gone)?;
        let (reply, answer) = bounded(1);
        commands
            .try_send(Command::Ask { query, reply })
            .map_err(|_| AskError::Busy)?;
        Ok(answer)
    }

    fn answer_timeout(&self) -> Duration {
        Duration::from_millis(self.config().control.answer_timeout_ms)
    }

    fn hosts(&self) -> Vec<String> {
        let config = self.config();
        let mut hosts = config.control.hosts.clone();
        // `http://control.sock/` is how some clients name a socket.
        let socket = config.control.socket.file_name();
        hosts.extend(socket.map(|name| name.to_string_lossy().into_owned()));
        hosts
    }

    fn keys(&self) -> Option<Arc<KeyRing>> {
        lock(&self.shards)
            .as_ref()
            .map(|shards| Arc::clone(&shards.keys))
    }

    fn unlock(&self, passphrase: LockedBytes) -> Result<(), Refusal> {
        let Ok(_alone) = self.keys_change.try_lock() else {
            return Err(Refusal::new(409, "the daemon is being unlocked already"));
        };
        if lock(&self.shards).is_some() {
            return Err(Refusal::new(409, "already unlocked"));
        }
        let keys = self
            .installation
            .unlock(&passphrase)
            .map_err(|error| Refusal::new(403, error.to_string()))?;
        drop(passphrase);
        let started = self
            .start(&Arc::new(keys))
            .map_err(|why| Refusal::new(500, why))?;
        let mut shards = lock(&self.shards);
        if *lock(&self.stopping) {
            stop::tell(&started.commands, Duration::ZERO);
            return Err(Refusal::new(503, "the daemon is stopping"));
        }
        *shards = Some(started);
        drop(shards);
        self.tell_concerns();
        Ok(())
    }

    fn rekey(&self, old: LockedBytes, new: LockedBytes) -> Result<KeyId, Refusal> {
        let Ok(_alone) = self.keys_change.try_lock() else {
            return Err(Refusal::new(503, "the keys are being changed; try again"));
        };
        let Some(keys) = self.keys() else {
            let why = "locked: unlock with the key so far first";
            return Err(Refusal::new(409, why));
        };
        // The verifier compares in constant time, and only after Argon2.
        let proven = self
            .installation
            .unlock(&old)
            .map_err(|error| Refusal::new(403, format!("the passphrase so far: {error}")))?;
        drop(old);
        if proven.current_id() != keys.current_id() {
            let why = "the data directory has another key than this daemon; restart it first";
            return Err(Refusal::new(409, why));
        }
        let keys = self
            .installation
            .rekey(&keys, &new, KdfCost::Recommended)
            .map_err(|error| Refusal::new(409, error.to_string()))?;
        let keys = Arc::new(keys);
        // Before any segment is under it: who reads the log meanwhile needs it.
        if let Some(shards) = &mut *lock(&self.shards) {
            shards.keys = Arc::clone(&keys);
        }
        for (id, shard) in self.commands().iter().enumerate() {
            let (done, answer) = bounded(1);
            let command = Command::Rekey {
                keys: Arc::clone(&keys),
                done,
            };
            let told =
                shard.try_send(command).is_ok() && answer.recv_timeout(SHARD_START_MAX).is_ok();
            if !told {
                if let Some(shards) = &mut *lock(&self.shards) {
                    shards.all_rekeyed = false;
                }
                // The old key still reads and writes there; a restart takes the new one everywhere.
                self.note(&format!(
                    "shard {id} goes on with the old key until the next start"
                ));
            }
        }
        Ok(keys.current_id())
    }

    fn reload(&self) -> Result<Vec<String>, Refusal> {
        let _alone = lock(&self.reloading);
        let name = self.file.display().to_string();
        let text = datadir::text::read_text(&self.file)
            .map_err(|error| Refusal::new(409, format!("cannot read {name}: {error}")))?;
        let mut new = Config::parse(&name, &text).map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            Refusal::new(409, lines.join("; "))
        })?;
        new.load_policy(datadir::text::read_text)
            .map_err(|lines| Refusal::new(409, lines.join("; ")))?;
        let old = self.config();
        let mut lines: Vec<String> = old
            .needs_restart(&new)
            .into_iter()
            .map(|key| format!("{key} changed: it takes effect at the next start"))
            .collect();
        lines.extend(engine::settings::warnings(&new));
        let rules = reply_rules(&new).map_err(|why| Refusal::new(409, why))?;
        let new = Arc::new(old.reloaded(new));
        let shards = self.commands();
        // First everything that can fail, at every shard; nothing has changed until all are ready.
        if let Err(refusal) = prepare_all(&shards, &new, &rules) {
            for shard in &shards {
                // If it is not told, its next reload throws away what it has prepared.
                let _ = shard.try_send(Command::Abandon);
            }
            return Err(refusal);
        }
        for (id, shard) in shards.iter().enumerate() {
            if !apply(shard) {
                self.note(&format!("shard {id} does not take the configuration up"));
            }
        }
        *lock(&self.config) = new;
        lines.push(format!("{name}: reloaded"));
        Ok(lines)
    }

    fn stops(&self) -> Arc<StopBook> {
        self.stops.book()
    }

    fn change_stops(
        &self,
        change: &dyn Fn(&StopBook) -> Result<StopBook, Refusal>,
    ) -> Result<Arc<StopBook>, Refusal> {
        self.bring_stops(change)
    }

    fn note(&self, line: &str) {
        crate::say!("{line}");
    }
}

/// What replies mean under a configuration.
fn reply_rules(config: &Config) -> Result<Arc<ReplyRules>, String> {
    let policy = engine::settings::policy(config);
    let rules = engine::settings::reply_rules(config, &policy);
    rules.map(Arc::new).map_err(|lines| lines.join("; "))
}

/// What a start came to.
fn status_line(config: &Config, shards: u16) -> String {
    let listeners = config.listen.iter();
    let addresses: Vec<String> = listeners.map(|one| one.address.to_string()).collect();
    format!(
        "ready: {shards} shards, listening on {}",
        addresses.join(", ")
    )
}

/// Has every shard get ready for a configuration; the first reason why one cannot.
fn prepare_all(
    shards: &[MailboxSender<Command>],
    new: &Arc<Config>,
    rules: &Arc<ReplyRules>,
) -> Result<(), Refusal> {
    let mut answers = Vec::with_capacity(shards.len());
    for shard in shards {
        let (done, answer) = bounded(1);
        shard
            .try_send(Command::Prepare {
                config: Arc::clone(new),
                rules: Arc::clone(rules),
                done,
            })
            .map_err(|_| Refusal::new(503, "a shard has too many commands waiting"))?;
        answers.push(answer);
    }
    for answer in answers {
        answer
            .recv_timeout(SHARD_START_MAX)
            .map_err(|_| Refusal::new(503, "a shard did not answer"))?
            .map_err(|why| Refusal::new(409, why))?;
    }
    Ok(())
}

/// Has a shard that is ready take its configuration up, however many commands wait there.
fn apply(shard: &MailboxSender<Command>) -> bool {
    let begun = Instant::now();
    let (done, applied) = bounded(1);
    let mut command = Command::Apply { done };
    while let Err(back) = shard.try_send(command) {
        if begun.elapsed() > SHARD_START_MAX {
            return false;
        }
        command = back;
        std::thread::sleep(COMMAND_REST);
    }
    applied.recv_timeout(SHARD_START_MAX).is_ok()
}

/// How many shards a configuration means on this host.
pub(crate) fn shards(config: &Config) -> u16 {
    let each = || u16::try_from(available_cpus().len()).unwrap_or(u16::MAX);
    config.server.shards.unwrap_or_else(each).max(1)
}

/// The processors this process may run on.
pub(crate) fn available_cpus() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else {
        return vec![0];
    };
    (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|cpu| set.is_set(*cpu))
        .collect()
}
