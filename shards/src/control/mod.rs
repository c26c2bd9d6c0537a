//! The control plane: HTTP on a Unix socket, for `hikyaku`, monitoring and the page.
//!
//! [`serve`] owns a few threads that are not pinned to a core. They ask the shards through
//! [`Daemon`] and share no state with them. Clients are met by [`front`], which bounds them and hands
//! whole requests ([`head`]) to tiny_http. [`paths`] is the table of all there is to ask, by which a
//! request is admitted ([`caller`]), taken apart ([`request`]) and answered: [`view`] tells, [`change`]
//! changes, [`log`] is the delivery log, [`page`] the page for a browser; [`answer`] writes rows as
//! TSV or JSON.
//!
//! Who may open the socket is the operator: it has mode 0600, and that is all there is of
//! authentication. HTTPS with tokens, in front of the same routes, is not part of this version. The
//! API is described in docs/operations.md.

mod answer;
mod ask;
mod caller;
mod change;
mod front;
mod head;
mod log;
mod metrics;
mod page;
mod paths;
mod request;
mod stops;
#[cfg(test)]
mod tests;
mod view;

pub(crate) use ask::ask_all;

use std::fmt;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Receiver;
use datadir::LockedBytes;
use engine::clock::UnixMs;
use engine::ids::ShardId;
use engine::keys::{KeyId, KeyRing};
use engine::operator::{Answer, Query};
use engine::policy::stop::StopBook;
use tiny_http::{Request, Server};

/// Threads that answer requests; a question waits for the slowest shard. What takes longer has a
/// thread of its own.
const THREADS: usize = 4;

/// Requests that read the delivery log at the same time; each has a thread of its own.
const LOG_READERS_MAX: usize = 8;

/// Descriptors of the control plane at most: its clients, and what reads the log for them.
pub(crate) const CONTROL_DESCRIPTORS_MAX: usize = front::DESCRIPTORS_MAX + 2 * LOG_READERS_MAX;

/// Rest before the library is started anew.
const LIBRARY_REST: Duration = Duration::from_millis(100);

/// The daemon as the control plane sees it.
pub(crate) trait Daemon: Send + Sync + 'static {
    /// What it is doing.
    fn state(&self) -> State;

    /// When it was started.
    fn started(&self) -> UnixMs;
    /// How long ago that was, whatever the wall clock says since.
    fn uptime(&self) -> Duration;

    /// Its name in greetings.
    fn hostname(&self) -> String;

    /// The data directory.
    fn data_dir(&self) -> PathBuf;

    /// How many shards there are to ask; 0 while locked.
    fn shards(&self) -> u16;

    /// Asks one shard; the answer comes over the channel, if it comes.
    fn ask(&self, shard: ShardId, query: Query) -> Result<Receiver<Answer>, AskError>;

    /// How long answers of shards are waited for (`[control] answer_timeout`).
    fn answer_timeout(&self) -> Duration;

    /// Names of the control plane beside the usual ones, for the `Host` of requests.
    fn hosts(&self) -> Vec<String>;

    /// The keys, to read the delivery log with; `None` while locked.
    fn keys(&self) -> Option<Arc<KeyRing>>;

    /// Derives the key from a passphrase and starts the shards.
    fn unlock(&self, passphrase: LockedBytes) -> Result<(), Refusal>;

    /// Starts a new key for new segments, if `old` is the passphrase so far.
    fn rekey(&self, old: LockedBytes, new: LockedBytes) -> Result<KeyId, Refusal>;

    /// Reads the configuration again; the lines say what was applied and what needs a restart.
    fn reload(&self) -> Result<Vec<String>, Refusal>;

    /// What is stopped.
    fn stops(&self) -> Arc<StopBook>;

    /// Changes what is stopped: durable, and in force at every shard, when it returns.
    fn change_stops(
        &self,
        change: &dyn Fn(&StopBook) -> Result<StopBook, Refusal>,
    ) -> Result<Arc<StopBook>, Refusal>;

    /// Writes a line into the daemon's own log: who reads mail or changes something leaves a trace.
    fn note(&self, line: &str);
}

/// What the daemon is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It waits for the key, and serves the control socket only.
    Locked,
    /// It accepts and delivers mail.
    Running,
    /// It finishes what it has begun and then ends.
    Stopping,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Locked => "locked",
            Self::Running => "running",
            Self::Stopping => "stopping",
        }
    }
}

/// A shard gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AskError {
    /// Its channel is full.
    Busy,
    /// It did not answer in time.
    TimedOut,
    /// It has ended.
    Gone,
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "has too many questions waiting; ask again",
            Self::TimedOut => "did not answer in time (see [control] answer_timeout)",
            Self::Gone => "has ended; see the daemon's log",
        })
    }
}

/// The daemon will not do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// HTTP status: 4xx if the operator can put it right, 5xx if not.
    pub(crate) status: u16,
    /// What is wrong and what to do, one line.
    pub(crate) message: String,
    /// The methods that would do, if that is what is wrong.
    allow: Option<&'static str>,
}

impl Refusal {
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            allow: None,
        }
    }

    /// 405 with the methods that there are.
    fn method(allow: &'static str, message: impl Into<String>) -> Self {
        Self {
            allow: Some(allow),
            ..Self::new(405, message)
        }
    }
}

/// Opens the socket, mode 0600. A socket left by a daemon that is gone is replaced.
///
/// # Errors
/// [`io::Error`] with a sentence that says what to do: another daemon answers there, the path is
/// something else, or the directory cannot be made.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    let say = |error: io::Error, what: &str| {
        io::Error::new(
            error.kind(),
            format!("control socket {}: {what}: {error}", path.display()),
        )
    };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| say(error, "cannot make its directory"))?;
    }
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(say(error, "cannot look at it")),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::other(format!(
                "control socket {}: there is something else of that name; set [control] \
                 socket to another path",
                path.display()
            )));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(io::Error::other(format!(
                "control socket {}: a daemon answers there already; stop it, or set \
                 [control] socket to another path",
                path.display()
            )));
        }
        Ok(_) => std::fs::remove_file(path).map_err(|error| say(error, "cannot replace it"))?,
    }
    // Bound under a name of our own first: nobody can connect before the mode is set.
    let new = name_while_made(path);
    let _ = std::fs::remove_file(&new);
    let listener = make_socket(&new).map_err(|error| say(error, "cannot open it"))?;
    std::fs::rename(&new, path).map_err(|error| say(error, "cannot name it"))?;
    Ok(listener)
}

/// What the control socket is called until it may be connected to; longer than its own name.
pub(crate) fn name_while_made(path: &Path) -> PathBuf {
    path.with_extension(format!("new-{}", std::process::id()))
}

/// A listening socket of mode 0600.
fn make_socket(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until the process ends, from threads of its own.
///
/// # Errors
/// [`io::Error`] if a thread cannot be started.
pub(crate) fn serve(listener: UnixListener, daemon: Arc<dyn Daemon>) -> io::Result<()> {
    let bound = listener.local_addr()?;
    let beside = bound
        .as_pathname()
        .ok_or_else(|| io::Error::other("the control socket has no path"))?;
    let (inner_listener, inner) = front::inner(beside)?;
    let library = Arc::new(Library::start(inner_listener)?);
    let plane = paths::Plane {
        daemon: Arc::clone(&daemon),
        readers: Arc::new(log::Places::new(LOG_READERS_MAX)),
        slow: Arc::new(log::Places::new(1)),
    };
    for number in 0..THREADS {
        let (library, plane) = (library.clone(), plane.clone());
        thread::Builder::new()
            .name(format!("control-{number}"))
            .spawn(move || {
                let mut server = library.current();
                loop {
                    let request = library.next(&mut server, &*plane.daemon);
                    paths::answer(request, &plane);
                }
            })?;
    }
    front::start(listener, &inner, daemon)
}

/// The HTTP library. Its accepting thread ends at its first error, so it can be started again.
struct Library {
    listener: UnixListener,
    server: Mutex<Arc<Server>>,
}

impl Library {
    fn start(listener: UnixListener) -> io::Result<Self> {
        let server = Self::server(&listener)?;
        Ok(Self {
            listener,
            server: Mutex::new(Arc::new(server)),
        })
    }

    fn server(listener: &UnixListener) -> io::Result<Server> {
        Server::from_listener(listener.try_clone()?, None).map_err(io::Error::other)
    }

    fn current(&self) -> Arc<Server> {
        Arc::clone(&self.server.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The next request; `server` is exchanged if it has to be started anew.
    fn next(&self, server: &mut Arc<Server>, daemon: &dyn Daemon) -> Request {
        loop {
            let error = match server.recv() {
                Ok(request) => return request,
                Err(error) => error,
            };
            let mut current = self.server.lock().unwrap_or_else(PoisonError::into_inner);
            if Arc::ptr_eq(&current, server) {
                daemon.note(&format!("control plane: {error}; started anew"));
                thread::sleep(LIBRARY_REST);
                if let Ok(new) = Self::server(&self.listener) {
                    *current = Arc::new(new);
                    // The other threads wait for requests that never come to the old one.
                    for _ in 1..THREADS {
                        server.unblock();
                    }
                }
            }
            *server = Arc::clone(&current);
        }
    }
}
