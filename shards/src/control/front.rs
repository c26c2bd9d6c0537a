//! The control plane's front: accepts, bounds and reads requests, and passes whole ones on.
//!
//! tiny_http starts a thread for each connection, waits on it for ever, and ends the process if it
//! meets its last descriptor. So it never sees a client: it listens on a socket that only this
//! process can reach, and gets one whole request a connection from here. One thread waits for all
//! clients at once; a few others carry a request to the library and its answer back.
//!
//! A client that has not sent its request within [`REQUEST_MAX`] is let go; if too many are at it, the
//! oldest is. So whoever holds sockets open keeps nobody else out.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zeroize::{Zeroize, Zeroizing};

use super::answer::error;
use super::head::{self, Head};
use super::request::Format;
use super::{Daemon, Refusal, make_socket};

/// Clients whose request has not come as a whole.
const READING_MAX: usize = 32;
/// Whole requests that wait for a carrier.
const WAITING_MAX: usize = 16;
/// Requests under way, those that read the log included.
pub(super) const CARRIERS: usize = 16;

/// Descriptors of a request under way: the client's, both ends of the way to the library, and the
/// library's copy.
const CARRIED_DESCRIPTORS: usize = 4;

/// Descriptors of all this: those above, and one for each that waits or is being read.
pub(super) const DESCRIPTORS_MAX: usize =
    READING_MAX + WAITING_MAX + CARRIERS * CARRIED_DESCRIPTORS + 4;

/// How long a client may take to send a request, and a whole request may wait.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// How long a client may take no octet of its answer.
const STALLED_MAX: Duration = Duration::from_secs(60);
/// Rest after a failure that only others can end, such as too many open files.
const REST: Duration = Duration::from_millis(100);

/// A client and what it has sent so far.
struct Reading {
    stream: UnixStream,
    caller: String,
    since: Instant,
    /// May hold a passphrase.
    input: Zeroizing<Vec<u8>>,
    head: Option<Head>,
}

/// A whole request on its way to the library.
struct Whole {
    client: UnixStream,
    since: Instant,
    request: Zeroizing<Vec<u8>>,
}

enum Step {
    More,
    Gone,
    Whole,
}

/// A listener for the library that nobody but this process can reach, and the way to it.
///
/// # Errors
/// As the system's calls may.
pub(super) fn inner(beside: &Path) -> io::Result<(UnixListener, Inner)> {
    let path = beside.with_extension(format!("http-{}", std::process::id()));
    let listener = make_socket(&path)?;
    // The name goes at once; this handle is the way to the socket from now on.
    let handle = rustix::fs::open(
        &path,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    );
    std::fs::remove_file(&path)?;
    Ok((listener, Inner(Arc::new(handle?))))
}

/// The way to the library.
#[derive(Clone)]
pub(super) struct Inner(Arc<OwnedFd>);

impl Inner {
    fn connect(&self) -> io::Result<UnixStream> {
        use std::os::fd::AsRawFd;
        // The library aborts the process if it gets no descriptor for its end.
        let _spare: Vec<OwnedFd> = (0..2 * CARRIED_DESCRIPTORS)
            .map(|_| self.0.try_clone())
            .collect::<io::Result<_>>()?;
        UnixStream::connect(PathBuf::from(format!(
            "/proc/self/fd/{}",
            self.0.as_raw_fd()
        )))
    }
}

/// Starts the threads.
///
/// # Errors
/// If one cannot be started.
pub(super) fn start(
    listener: UnixListener,
    inner: &Inner,
    daemon: Arc<dyn Daemon>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let (whole, waiting) = bounded(WAITING_MAX);
    for number in 0..CARRIERS {
        let (waiting, inner) = (waiting.clone(), inner.clone());
        std::thread::Builder::new()
            .name(format!("control-carry-{number}"))
            .spawn(move || carry_all(&waiting, &inner))?;
    }
    std::thread::Builder::new()
        .name("control-front".into())
        .spawn(move || Front::new(listener, whole, daemon).run())?;
    Ok(())
}

struct Front {
    listener: UnixListener,
    reading: Vec<Reading>,
    whole: Sender<Whole>,
    daemon: Arc<dyn Daemon>,
    /// Not before then is anybody accepted.
    resting_until: Option<Instant>,
}

impl Front {
    fn new(listener: UnixListener, whole: Sender<Whole>, daemon: Arc<dyn Daemon>) -> Self {
        Self {
            listener,
            reading: Vec::new(),
            whole,
            daemon,
            resting_until: None,
        }
    }

    fn run(mut self) {
        loop {
            let readable = self.wait();
            for index in (0..self.reading.len()).rev() {
                if readable.get(index + 1).copied().unwrap_or(false) {
                    self.read(index);
                }
            }
            let now = Instant::now();
            self.reading
                .retain(|client| now.duration_since(client.since) < REQUEST_MAX);
            if readable.first().copied().unwrap_or(false) {
                self.accept();
            }
        }
    }

    /// Waits until something can be done; whether the listener and each client can be read.
    fn wait(&mut self) -> Vec<bool> {
        let now = Instant::now();
        if self.resting_until.is_some_and(|until| until <= now) {
            self.resting_until = None;
        }
        let listening = match self.resting_until {
            None => PollFlags::IN,
            Some(_) => PollFlags::empty(),
        };
        let next = self
            .reading
            .iter()
            .map(|client| client.since + REQUEST_MAX)
            .chain(self.resting_until)
            .min()
            .map(|at| at.saturating_duration_since(now) + Duration::from_millis(1));
        let mut fds = vec![PollFd::new(&self.listener, listening)];
        fds.extend(
            self.reading
                .iter()
                .map(|client| PollFd::new(&client.stream, PollFlags::IN)),
        );
        let timeout = next.and_then(|next| Timespec::try_from(next).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => fds.iter().map(|fd| !fd.revents().is_empty()).collect(),
            Err(_) => Vec::new(),
        }
    }

    fn accept(&mut self) {
        match self.listener.accept() {
            Ok((stream, _)) => {
                if stream.set_nonblocking(true).is_err() {
                    return;
                }
                if self.reading.len() >= READING_MAX {
                    self.reading.remove(0);
                }
                self.reading.push(Reading {
                    caller: caller_of(&stream),
                    stream,
                    since: Instant::now(),
                    input: Zeroizing::new(Vec::with_capacity(4096)),
                    head: None,
                });
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::Interrupted
                        | io::ErrorKind::ConnectionAborted
                ) => {}
            Err(error) => {
                // Most likely out of descriptors: what is open must be closed first.
                if self.resting_until.is_none() {
                    self.daemon.note(&format!("control socket: {error}"));
                }
                self.resting_until = Some(Instant::now() + REST);
            }
        }
    }

    fn read(&mut self, index: usize) {
        match self.reading[index].read() {
            Ok(Step::More) => {}
            Ok(Step::Gone) => drop(self.reading.remove(index)),
            Ok(Step::Whole) => {
                let whole = self.reading.remove(index).whole();
                if let Err(refused) = self.whole.try_send(whole) {
                    let why = Refusal::new(503, "too many requests are under way; try again");
                    refuse(&refused.into_inner().client, &why);
                }
            }
            Err(refusal) => {
                let mut client = self.reading.remove(index).stream;
                refuse(&client, &refusal);
                // Octets left unread would take the answer with them.
                let _ = client.shutdown(Shutdown::Write);
                let mut rest = [0; 4096];
                for _ in 0..64 {
                    if !matches!(client.read(&mut rest), Ok(1..)) {
                        break;
                    }
                }
            }
        }
    }
}

/// Who is at the other end of a Unix socket; the kernel says so.
fn caller_of(stream: &UnixStream) -> String {
    match rustix::net::sockopt::socket_peercred(stream) {
        Ok(peer) => format!("unix {}", peer.uid.as_raw()),
        Err(_) => String::new(),
    }
}

impl Reading {
    fn read(&mut self) -> Result<Step, Refusal> {
        let mut part = [0; 4096];
        let read = self.stream.read(&mut part);
        let bytes = match read {
            Ok(0) => return Ok(Step::Gone),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Step::More),
            Err(_) => return Ok(Step::Gone),
        };
        self.input.extend_from_slice(&part[..bytes]);
        part.zeroize();
        if self.head.is_none() {
            self.head = head::parse(&self.input, &self.caller)?;
            if let Some(head) = self.head.as_ref().filter(|head| head.expects) {
                // All of it fits: nothing has been sent to this client before.
                if self.input.len() < head.bytes + head.body_bytes {
                    let _ = self.stream.write(b"HTTP/1.1 100 Continue\r\n\r\n");
                }
            }
        }
        Ok(match &self.head {
            Some(head) if self.input.len() >= head.bytes + head.body_bytes => Step::Whole,
            _ => Step::More,
        })
    }

    fn whole(mut self) -> Whole {
        let mut request = Zeroizing::new(Vec::new());
        if let Some(head) = self.head.take() {
            request.reserve_exact(head.rewritten.len() + head.body_bytes);
            request.extend_from_slice(&head.rewritten);
            request.extend_from_slice(&self.input[head.bytes..head.bytes + head.body_bytes]);
        }
        Whole {
            client: self.stream,
            since: self.since,
            request,
        }
    }
}

fn carry_all(waiting: &Receiver<Whole>, inner: &Inner) {
    for whole in waiting {
        // A client that went away is its own affair.
        let _ = carry(&whole, inner);
        let _ = whole.client.shutdown(Shutdown::Both);
    }
}

/// Takes a request to the library, and its answer back as it comes.
fn carry(whole: &Whole, inner: &Inner) -> io::Result<()> {
    let mut client = &whole.client;
    client.set_nonblocking(false)?;
    client.set_write_timeout(Some(STALLED_MAX))?;
    let mut library = loop {
        match inner.connect() {
            Ok(library) => break library,
            Err(error) if whole.since.elapsed() > REQUEST_MAX => {
                let why = format!("too much is open: {error}");
                refuse(client, &Refusal::new(503, why));
                return Ok(());
            }
            Err(_) => std::thread::sleep(REST),
        }
    };
    library.write_all(&whole.request)?;
    let mut part = [0; 16 * 1024];
    let mut first = Vec::new();
    let status_end = loop {
        let bytes = library.read(&mut part)?;
        if bytes == 0 {
            // The library has closed without a word.
            refuse(client, &Refusal::new(400, "the request was not understood"));
            return Ok(());
        }
        first.extend_from_slice(&part[..bytes]);
        if let Some(end) = first.windows(2).position(|two| two == b"\r\n") {
            break end + 2;
        }
    };
    // The library does not say that it closes.
    client.write_all(&first[..status_end])?;
    client.write_all(b"Connection: close\r\n")?;
    client.write_all(&first[status_end..])?;
    loop {
        match library.read(&mut part)? {
            0 => return Ok(()),
            bytes => client.write_all(&part[..bytes])?,
        }
    }
}

/// Answers what never comes to the library. So little fits into any socket's buffer.
fn refuse(client: &UnixStream, refusal: &Refusal) {
    let body = error(refusal, Format::Tsv);
    let mut text = format!("HTTP/1.1 {} Refused\r\n", refusal.status);
    let _ = write!(
        text,
        "Content-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\nCache-Control: no-store\r\n\r\n{}",
        body.content_type,
        body.text.len(),
        body.text
    );
    let mut client = client;
    let _ = client.write_all(text.as_bytes());
}
