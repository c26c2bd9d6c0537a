//! SMTP sessions in: listeners on every shard (SO_REUSEPORT), one task a session.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use engine::clock::{Mono, Now};
use engine::config::Listen;
use engine::ids::{QueueId, SessionTicket};
use engine::shard::{Event, Stored, Submission};
use engine::smtp::server::{
    Acceptance, Greeting, Host, Overload, Peer, ServerEvent, ServerSession, ServerSettings,
};
use futures_lite::future::poll_fn;
use glommio::net::{TcpListener, TcpStream};

use super::transport::Transport;
use super::{Bell, Shard, give_way, now, spawn};

/// One part in so many of the sessions is kept for clients that may relay: outsiders, however many,
/// must not shut out the systems we work for.
const RELAY_SHARE: u32 = 4;

/// How many sessions each client has, on all shards. Touched when a session begins and ends, never in
/// between.
#[derive(Debug)]
pub(crate) struct ClientSessions {
    counts: Mutex<Counts>,
    sessions_max: u32,
    outsiders_max: u32,
    per_client_max: u32,
}

#[derive(Debug, Default)]
struct Counts {
    all: u32,
    outsiders: u32,
    by_client: HashMap<IpAddr, u32>,
}

/// What counts as one client: an IPv4 address, or the 64 bits of an IPv6 one that a network is given;
/// within them anybody has addresses without end.
fn client_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
    }
}

impl ClientSessions {
    /// No sessions yet.
    pub(crate) fn new(sessions_max: u32, per_client_max: u32) -> Arc<Self> {
        Arc::new(Self {
            counts: Mutex::default(),
            sessions_max,
            outsiders_max: sessions_max - sessions_max / RELAY_SHARE,
            per_client_max,
        })
    }

    fn enter(self: &Arc<Self>, ip: IpAddr, may_relay: bool) -> Option<Admission> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.all >= self.sessions_max || !may_relay && counts.outsiders >= self.outsiders_max {
            return None;
        }
        let client = client_of(ip);
        let of_client = counts.by_client.entry(client).or_insert(0);
        if *of_client >= self.per_client_max {
            return None;
        }
        *of_client += 1;
        counts.all += 1;
        counts.outsiders += u32::from(!may_relay);
        Some(Admission {
            sessions: Arc::clone(self),
            client,
            may_relay,
        })
    }
}

/// A session's place among those of its client; given back when dropped.
struct Admission {
    sessions: Arc<ClientSessions>,
    client: IpAddr,
    may_relay: bool,
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut counts = self
            .sessions
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        counts.all -= 1;
        counts.outsiders -= u32::from(!self.may_relay);
        if let Some(count) = counts.by_client.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.by_client.remove(&self.client);
            }
        }
    }
}

/// Where others leave word for a session's task.
#[derive(Debug, Default)]
pub(crate) struct SessionSlot {
    result: Cell<Option<Stored>>,
    deadline: Cell<Option<Mono>>,
    timed_out: Cell<bool>,
    shutdown: Cell<bool>,
    bell: Bell,
}

impl SessionSlot {
    pub(crate) fn answer(&self, result: Stored) {
        self.result.set(Some(result));
        self.bell.ring();
    }

    pub(crate) fn check_deadline(&self, at: Mono) {
        if self.deadline.get().is_some_and(|deadline| deadline <= at) {
            self.timed_out.set(true);
            self.bell.ring();
        }
    }

    pub(crate) fn shut_down(&self) {
        self.shutdown.set(true);
        self.bell.ring();
    }
}

struct ShardHost<'a>(&'a Rc<Shard>);

impl Host for ShardHost<'_> {
    fn next_queue_id(&mut self, at: Now) -> QueueId {
        self.0.core.borrow_mut().next_queue_id(at)
    }

    fn overload(&self) -> Option<Overload> {
        self.0.overload.get()
    }
}

/// A listener's settings, exchanged on reload.
pub(crate) struct Door {
    listen: RefCell<Listen>,
    settings: RefCell<Rc<ServerSettings>>,
    sessions: Arc<ClientSessions>,
    closed: Cell<bool>,
    bell: Bell,
}

impl Door {
    /// A listener and how its sessions behave.
    pub(crate) fn new(
        listen: Listen,
        settings: Rc<ServerSettings>,
        sessions: Arc<ClientSessions>,
    ) -> Self {
        let (listen, settings) = (RefCell::new(listen), RefCell::new(settings));
        Self {
            listen,
            settings,
            sessions,
            closed: Cell::new(false),
            bell: Bell::default(),
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listen.borrow().address
    }

    /// For sessions that begin from now on.
    pub(crate) fn change(&self, listen: Listen, settings: Rc<ServerSettings>) {
        *self.listen.borrow_mut() = listen;
        *self.settings.borrow_mut() = settings;
    }

    /// Accepts nobody any more; sessions there are go on.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.bell.ring();
    }

    async fn closed(&self) {
        poll_fn(|cx| {
            if self.closed.get() {
                return Poll::Ready(());
            }
            self.bell.listen(cx.waker());
            Poll::Pending
        })
        .await;
    }
}

/// Accepts on one listener until it is closed or the shard stops.
pub(crate) async fn accept_task(shard: Rc<Shard>, listener: TcpListener, door: Rc<Door>) {
    loop {
        let accepted = async { Some(listener.accept().await) };
        let closed = async {
            door.closed().await;
            None
        };
        let Some(accepted) = futures_lite::future::or(accepted, closed).await else {
            return;
        };
        match accepted {
            Ok(stream) => welcome(&shard, stream, &door),
            Err(error) => {
                // Out of descriptors or memory: what is open must first be closed.
                crate::say!(shard: shard.id, "accept failed: {error}");
                glommio::timer::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// Begins a session with a client that has connected, or refuses it.
fn welcome(shard: &Rc<Shard>, stream: TcpStream, door: &Rc<Door>) {
    let transport = Transport::plain(stream);
    let Some((peer, local)) = transport.addresses() else {
        return;
    };
    let (ip, local_ip) = (peer.ip().to_canonical(), local.ip().to_canonical());
    let may_relay = door.listen.borrow().may_relay(ip);
    let peer = Peer {
        ip,
        port: peer.port(),
        local_ip,
        may_relay,
    };
    let machine = ServerSession::new(Rc::clone(&door.settings.borrow()), peer, now());
    let shard = Rc::clone(shard);
    if shard.stopping.get() {
        return spawn(refuse(shard, transport, machine, Greeting::ShuttingDown));
    }
    let Some(admission) = door.sessions.enter(ip, may_relay) else {
        return spawn(refuse(shard, transport, machine, Greeting::TooManySessions));
    };
    spawn(async move {
        let mut ticket = shard.last_ticket.get();
        shard.last_ticket.set(ticket.next());
        let slot = Rc::new(SessionSlot::default());
        shard.sessions.borrow_mut().insert(ticket, Rc::clone(&slot));
        let mut session = Session {
            shard,
            ticket,
            slot,
            transport,
            machine,
            out: Vec::new(),
            held: 0,
            read_bytes: 0,
            heard_all: false,
        };
        session.run().await;
        session.shard.sessions.borrow_mut().remove(&ticket);
        drop(admission);
    });
}

/// Tells a client why it gets no session. One that does not even take this is not waited for.
async fn refuse(
    shard: Rc<Shard>,
    mut transport: Transport,
    mut machine: ServerSession,
    why: Greeting,
) {
    machine.greet(why, &mut ShardHost(&shard), now());
    let mut line = Vec::new();
    machine.poll_transmit(&mut line);
    poll_fn(|cx| {
        let _ = transport.poll_write(cx, &line);
        let _ = transport.poll_flush(cx);
        Poll::Ready(())
    })
    .await;
}

/// Octets that a session takes, or a connection out sends, before the shard's other tasks have their turn: a client that sends
/// as fast as we read would have the shard to itself.
pub(super) const TURN_BYTES: usize = 256 * 1024;

struct Session {
    shard: Rc<Shard>,
    ticket: SessionTicket,
    slot: Rc<SessionSlot>,
    transport: Transport,
    machine: ServerSession,
    out: Vec<u8>,
    /// What the shard's ledger holds for this session, bytes.
    held: usize,
    /// Octets read since others had their turn.
    read_bytes: usize,
    /// The client has closed its side. What it sent is answered still.
    heard_all: bool,
}

enum Step {
    Transmit,
    End,
}

impl Session {
    async fn run(&mut self) {
        let mut host = ShardHost(&self.shard);
        self.machine.greet(Greeting::Welcome, &mut host, now());
        loop {
            if self.transmit().await.is_err() || self.drain_events() {
                break;
            }
            self.slot.deadline.set(self.machine.poll_timeout());
            match poll_fn(|cx| self.poll_input(cx)).await {
                Step::Transmit => {}
                Step::End => break,
            }
            if self.read_bytes >= TURN_BYTES {
                self.read_bytes = 0;
                give_way().await;
            }
        }
        if self.machine.awaits_finish() {
            let ticket = self.ticket;
            self.shard.handle(Event::Gone { ticket });
        }
        let _ = self.transmit().await;
        let _ = poll_fn(|cx| Poll::Ready(self.transport.poll_close(cx))).await;
        self.shard.core.borrow_mut().receiving(self.held, 0);
    }

    /// Passes finished messages on; whether the session is over.
    fn drain_events(&mut self) -> bool {
        while let Some(event) = self.machine.poll_event() {
            match event {
                ServerEvent::Message(message) => {
                    let message = *message;
                    let submission = Box::new(Submission {
                        queue_id: message.queue_id,
                        accepted: now().unix,
                        envelope: Arc::new(message.envelope),
                        group: message.group,
                        tags: message.tags,
                        message_id: message.message_id,
                        peer: Some(message.peer.ip),
                        options: Box::default(),
                        content: message.content,
                    });
                    self.shard.handle(Event::Accepted {
                        ticket: self.ticket,
                        submission,
                    });
                }
                ServerEvent::Close => return true,
            }
        }
        false
    }

    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        self.slot.bell.listen(cx.waker());
        let mut host = ShardHost(&self.shard);
        if let Some(result) = self.slot.result.take() {
            let result = match result {
                Stored::Durable => Acceptance::Accepted,
                Stored::Failed => Acceptance::TemporaryFailure,
                Stored::NoSpace => Acceptance::InsufficientStorage,
            };
            self.machine.finish(result, &mut host, now());
            return Poll::Ready(Step::Transmit);
        }
        if self.slot.timed_out.take() {
            self.machine.handle_timeout(now());
            return Poll::Ready(Step::Transmit);
        }
        if self.slot.shutdown.take() {
            self.machine.shutdown();
            return Poll::Ready(Step::Transmit);
        }
        if self.heard_all && !self.machine.awaits_finish() {
            return Poll::Ready(Step::End);
        }
        if self.heard_all || !self.machine.wants_input() {
            return Poll::Pending;
        }
        let mut scratch = self.shard.scratch.borrow_mut();
        match self.transport.poll_read(cx, &mut scratch) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) if self.machine.awaits_finish() => {
                self.heard_all = true;
                Poll::Pending
            }
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Step::End),
            Poll::Ready(Ok(octets)) => {
                self.read_bytes += octets;
                self.machine
                    .handle_input(&scratch[..octets], &mut host, now());
                let held = self.machine.buffered_bytes();
                if !(self.shard.core.borrow_mut()).receiving(self.held, held) {
                    self.machine.refuse_for_memory();
                    let left = self.machine.buffered_bytes();
                    self.shard.core.borrow_mut().receiving(held, left);
                    self.held = left;
                } else {
                    self.held = held;
                }
                Poll::Ready(Step::Transmit)
            }
        }
    }

    async fn transmit(&mut self) -> io::Result<()> {
        while self.machine.poll_transmit(&mut self.out) {}
        if !self.out.is_empty() {
            // A client that never reads would keep its place for good, once its message is answered.
            let deadline = self.machine.send_deadline(now());
            self.slot.deadline.set(Some(deadline));
        }
        let result = self.send_all().await;
        self.out.clear();
        result
    }

    async fn send_all(&mut self) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.out.len() {
            sent += poll_fn(|cx| {
                self.slot.bell.listen(cx.waker());
                if self.slot.timed_out.take() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                self.transport.poll_write(cx, &self.out[sent..])
            })
            .await?;
        }
        poll_fn(|cx| {
            let flushed = self.transport.poll_flush(cx);
            self.slot.bell.listen(cx.waker());
            if flushed.is_pending() && self.slot.timed_out.take() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            flushed
        })
        .await
    }
}

/// Binds a listener; the error names the address and what to do.
///
/// # Errors
/// One line for the operator.
pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).map_err(|error| {
        format!("cannot listen on {address}: {error}; is another mail server running there?")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn outsiders_leave_a_share_of_the_sessions_to_relay_clients() {
        let sessions = ClientSessions::new(8, 100);
        let mut outside: Vec<_> = (0..6)
            .map(|_| sessions.enter(ip("192.0.2.1"), false).unwrap())
            .collect();
        assert!(sessions.enter(ip("192.0.2.2"), false).is_none());
        let _inside: Vec<_> = (0..2)
            .map(|_| sessions.enter(ip("10.0.0.1"), true).unwrap())
            .collect();
        outside.pop();
        assert!(sessions.enter(ip("192.0.2.2"), false).is_some());
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_client() {
        let sessions = ClientSessions::new(100, 2);
        let _first = sessions.enter(ip("2001:db8::1"), false).unwrap();
        let _second = sessions.enter(ip("2001:db8::ffff:1"), false).unwrap();
        assert!(sessions.enter(ip("2001:db8::2"), false).is_none());
        assert!(sessions.enter(ip("2001:db8:0:1::2"), false).is_some());
        let _third = sessions.enter(ip("192.0.2.1"), false).unwrap();
        assert!(sessions.enter(ip("192.0.2.2"), false).is_some());
    }
}
