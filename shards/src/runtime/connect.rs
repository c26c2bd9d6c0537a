//! Connections out: one task each, from connect to close.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use engine::clock::{Mono, Now};
use engine::dns::Target;
use engine::phase::Phase;
use engine::pool::{ConnId, PeerInfo};
use engine::shard::{Cause, Event};
use engine::smtp::client::{
    ClientConnection, ClientEvent, ClientSettings, Disconnect, OutboundTransaction,
};
use futures_lite::future::poll_fn;
use glommio::net::TcpStream;

use super::accept::TURN_BYTES;
use super::transport::Transport;
use super::{Bell, Shard, give_way, now, socket, spawn};

/// What all connections of a shard share.
#[derive(Clone, Debug)]
pub(crate) struct ClientSetup {
    pub(crate) settings: Rc<ClientSettings>,
    pub(crate) connect_timeout: Duration,
    /// Connections at a time: as many as the shard may have descriptors for.
    pub(crate) connections_max: usize,
}

/// Where the core leaves word for a connection's task.
#[derive(Debug, Default)]
pub(crate) struct ConnSlot {
    inbox: RefCell<Option<OutboundTransaction>>,
    quit: Cell<bool>,
    deadline: Cell<Option<Mono>>,
    timed_out: Cell<bool>,
    bell: Bell,
}

impl ConnSlot {
    pub(crate) fn start(&self, transaction: OutboundTransaction) {
        let before = self.inbox.replace(Some(transaction));
        debug_assert!(
            before.is_none(),
            "the core starts a transaction only where it is asked to"
        );
        self.bell.ring();
    }

    pub(crate) fn quit(&self) {
        self.quit.set(true);
        self.bell.ring();
    }

    pub(crate) fn check_deadline(&self, at: Mono) {
        if self.deadline.get().is_some_and(|deadline| deadline <= at) {
            self.timed_out.set(true);
            self.bell.ring();
        }
    }
}

/// Opens a connection; the core hears of it by events.
pub(crate) fn open(shard: &Rc<Shard>, id: ConnId, target: Target, source: Option<IpAddr>) {
    let slot = Rc::new(ConnSlot::default());
    let full = shard.conns.borrow().len() >= shard.client.borrow().connections_max;
    shard.conns.borrow_mut().insert(id, Rc::clone(&slot));
    let shard = Rc::clone(shard);
    spawn(async move {
        let begun = now();
        let setup = shard.client.borrow().clone();
        let connected = if full {
            // The site is tried again after its back-off; what is open is used and closed meanwhile.
            let why = "all connections that the limit of open files allows are in use";
            Err(io::Error::other(why))
        } else {
            connect(&target, source, setup.connect_timeout).await
        };
        let (phase, cause) = match connected {
            Ok(stream) => {
                let machine = ClientConnection::new(setup.settings, now());
                let mut connection = Connection {
                    shard: Rc::clone(&shard),
                    id,
                    slot: Rc::clone(&slot),
                    transport: Transport::plain(stream),
                    machine,
                    out: Vec::new(),
                    begun,
                    offered: false,
                };
                connection.run().await
            }
            Err(error) => (Phase::Connect, error.to_string().as_str().into()),
        };
        shard.conns.borrow_mut().remove(&id);
        // A transaction given to a connection that was just ending has not been tried.
        if let Some(transaction) = slot.inbox.take() {
            shard.handle(Event::Returned {
                conn: id,
                token: transaction.token,
            });
        }
        shard.handle(Event::Closed {
            conn: id,
            phase,
            cause,
        });
    });
}

async fn connect(
    target: &Target,
    source: Option<IpAddr>,
    longest: Duration,
) -> io::Result<TcpStream> {
    match source {
        Some(source) => {
            let connecting = socket::connect_from(source, target.address);
            glommio::timer::timeout(longest, async { Ok(connecting.await) })
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        }
        None => TcpStream::connect_timeout(target.address, longest)
            .await
            .map_err(Into::into),
    }
}

struct Connection {
    shard: Rc<Shard>,
    id: ConnId,
    slot: Rc<ConnSlot>,
    transport: Transport,
    machine: ClientConnection,
    out: Vec<u8>,
    begun: Now,
    /// The core knows that another transaction would be taken.
    offered: bool,
}

impl Connection {
    /// Runs the dialog to its end; says where it ended and why.
    async fn run(&mut self) -> (Phase, Cause) {
        loop {
            if let Some(end) = self.drain_events() {
                let _ = self.transmit().await;
                return end;
            }
            self.offer();
            // A transaction that this server cannot take is over before anything is sent.
            if self.machine.has_event() {
                glommio::yield_if_needed().await;
                continue;
            }
            let transmitted = self.transmit().await;
            if let Ok(true) = transmitted {
                continue;
            }
            if let Err(error) = transmitted {
                // A server that says why and closes makes writing fail before its words are read; a
                // connection that was reset is readable at once.
                let reset = matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                );
                while reset && !self.machine.is_closed() {
                    poll_fn(|cx| self.poll_reply(cx)).await;
                }
                let reason = Disconnect::Failed(error.to_string().into());
                self.machine.handle_closed(reason, now());
                continue;
            }
            self.slot.deadline.set(self.machine.poll_timeout());
            poll_fn(|cx| self.poll_input(cx)).await;
        }
    }

    fn drain_events(&mut self) -> Option<(Phase, Cause)> {
        let conn = self.id;
        while let Some(event) = self.machine.poll_event() {
            match event {
                ClientEvent::Ready {
                    greeting,
                    capabilities,
                } => {
                    let connect_ms = now().mono.ms_since(self.begun.mono);
                    let peer = Rc::new(PeerInfo {
                        source_ip: self.transport.local_ip(),
                        greeting: greeting.text,
                        tls: self.transport.security().into(),
                        eight_bit_mime: capabilities.eight_bit_mime,
                        connect_ms: u32::try_from(connect_ms).unwrap_or(u32::MAX),
                    });
                    self.offered = true;
                    self.shard.handle(Event::Connected { conn, peer });
                }
                ClientEvent::TransactionDone { token, results, .. } => {
                    self.shard.handle(Event::Finished {
                        conn,
                        token,
                        results,
                    });
                }
                ClientEvent::TransactionReturned(transaction) => {
                    self.shard.handle(Event::Returned {
                        conn,
                        token: transaction.token,
                    });
                }
                ClientEvent::Closed { phase, error } => {
                    return Some((phase, error.into()));
                }
            }
        }
        None
    }

    /// Asks the core for the next transaction as soon as the dialog would take one, before anything
    /// is transmitted: then it leaves in one piece with the content ahead of it.
    fn offer(&mut self) {
        if !self.offered && self.machine.can_start() {
            self.offered = true;
            self.shard.handle(Event::CanStart { conn: self.id });
        }
        self.take_inbox();
    }

    fn take_inbox(&mut self) {
        if let Some(transaction) = self.slot.inbox.take() {
            self.machine.start(transaction, now());
            self.offered = false;
        }
        if self.slot.quit.take() {
            self.machine.quit(now());
        }
    }

    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.slot.bell.listen(cx.waker());
        if self.slot.inbox.borrow().is_some() || self.slot.quit.get() {
            return Poll::Ready(());
        }
        if self.slot.timed_out.take() {
            self.machine.handle_timeout(now());
            return Poll::Ready(());
        }
        self.poll_reply(cx)
    }

    /// Takes what the server has said, or that it is gone, to the machine.
    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = self.shard.scratch.borrow_mut();
        match self.transport.poll_read(cx, &mut scratch) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0)) => self.machine.handle_closed(Disconnect::Eof, now()),
            Poll::Ready(Ok(octets)) => self.machine.handle_input(&scratch[..octets], now()),
            Poll::Ready(Err(error)) => {
                let reason = Disconnect::Failed(error.to_string().into());
                self.machine.handle_closed(reason, now());
            }
        }
        Poll::Ready(())
    }

    /// Sends what there is to be sent. Content may be long: its server is listened to meanwhile, so
    /// that one which refuses it early, and perhaps reads no further, gets no more of it.
    /// True if something was heard.
    async fn transmit(&mut self) -> io::Result<bool> {
        // What a machine that has ended still gives out, QUIT, is sent whatever is heard.
        let parting = self.machine.is_closed();
        let (mut pieces, mut heard, mut turn_bytes) = (0, false, 0);
        loop {
            self.out.clear();
            if !self.machine.poll_transmit(&mut self.out) {
                return Ok(heard);
            }
            if pieces > 0 {
                heard |= poll_fn(|cx| Poll::Ready(self.poll_reply(cx).is_ready())).await;
            }
            pieces += 1;
            turn_bytes += self.out.len();
            if turn_bytes >= TURN_BYTES {
                turn_bytes = 0;
                give_way().await;
            }
            let (mut sent, length) = (0, self.out.len());
            while sent < length {
                if self.machine.is_closed() && !parting {
                    return Ok(heard);
                }
                self.slot.deadline.set(self.machine.poll_timeout());
                match poll_fn(|cx| self.poll_send(cx, sent)).await? {
                    0 => heard = true,
                    octets => sent += octets,
                }
            }
            while poll_fn(|cx| self.poll_flush(cx)).await? {
                heard = true;
                if self.machine.is_closed() && !parting {
                    return Ok(heard);
                }
            }
            self.machine.handle_sent(now());
        }
    }

    /// False once all that was written has left; true if a reply came instead.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if let Poll::Ready(done) = self.transport.poll_flush(cx) {
            return Poll::Ready(done.map(|()| false));
        }
        self.slot.bell.listen(cx.waker());
        if self.slot.timed_out.take() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.poll_reply(cx).map(|()| Ok(true))
    }

    /// Octets written; 0 if a reply came instead.
    fn poll_send(&mut self, cx: &mut Context<'_>, sent: usize) -> Poll<io::Result<usize>> {
        self.slot.bell.listen(cx.waker());
        if self.slot.timed_out.take() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        match self.transport.poll_write(cx, &self.out[sent..]) {
            Poll::Pending => self.poll_reply(cx).map(|()| Ok(0)),
            written => written,
        }
    }
}
