//! The shards as they run: pinned executors that pump completions into the engine.
//!
//! Every file here carries out one kind of action and decides nothing: `accept` SMTP sessions in,
//! `connect` connections out (both over a `transport`), `disk` segment files, `replay` the files of earlier runs, `resolver` DNS,
//! `mailbox` what comes from other threads. [`Shard`] joins them to the engine's [`ShardCore`].

pub(crate) mod accept;
mod adopt;
pub(crate) mod connect;
pub(crate) mod disk;
pub(crate) mod mailbox;
pub(crate) mod mesh;
mod replay;
pub(crate) mod resolver;
mod socket;
mod transport;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use engine::clock::{Mono, Now, UnixMs};
use engine::ids::{SessionTicket, ShardId};
use engine::pool::ConnId;
use engine::shard::{Action, Event, ShardCore, ShardMessage, TICK_MS};
use engine::smtp::server::Overload;
use futures_lite::future::poll_fn;
use glommio::timer::sleep;

use self::accept::SessionSlot;
use self::connect::ConnSlot;
use self::disk::Disk;
use self::mailbox::Mailbox;
use self::mesh::MeshBoxes;
use self::resolver::ResolverHandle;

/// Octets read from a socket at a time, into one buffer a shard has for all.
pub(crate) const READ_BYTES_MAX: usize = 64 * 1024;

/// Messages of other shards taken in one turn.
const INBOX_TURN_MAX: usize = 256;
/// When a full box of another shard is tried again.
const POST_AGAIN: Duration = Duration::from_millis(1);

/// Reads the clocks; the only place that does.
pub(crate) fn now() -> Now {
    thread_local! {
        static START: Instant = Instant::now();
    }
    let mono = START.with(|start| start.elapsed());
    let unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    // One microsecond ahead, so that no deadline is ever 0.
    Now {
        mono: Mono(mono.as_micros() as u64 + 1),
        unix: UnixMs(unix.as_millis() as u64),
    }
}

/// Something a task may be waiting for besides its socket.
#[derive(Debug, Default)]
pub(crate) struct Bell(RefCell<Option<Waker>>);

impl Bell {
    /// The current task is woken at the next [`Self::ring`].
    pub(crate) fn listen(&self, waker: &Waker) {
        let mut slot = self.0.borrow_mut();
        match &mut *slot {
            Some(old) => old.clone_from(waker),
            None => *slot = Some(waker.clone()),
        }
    }

    /// Wakes the listening task.
    pub(crate) fn ring(&self) {
        if let Some(waker) = &*self.0.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// One executor's world.
pub(crate) struct Shard {
    pub(crate) id: ShardId,
    core: RefCell<ShardCore>,
    actions: RefCell<Vec<Action>>,
    /// There may be a batch to close.
    dirty: Cell<bool>,
    flush_bell: Bell,
    pub(crate) overload: Cell<Option<Overload>>,
    pub(crate) scratch: RefCell<Box<[u8]>>,
    pub(crate) sessions: RefCell<HashMap<SessionTicket, Rc<SessionSlot>>>,
    pub(crate) last_ticket: Cell<SessionTicket>,
    pub(crate) conns: RefCell<HashMap<ConnId, Rc<ConnSlot>>>,
    pub(crate) client: RefCell<connect::ClientSetup>,
    disk: Rc<Disk>,
    resolver: ResolverHandle,
    outboxes: RefCell<Vec<std::collections::VecDeque<ShardMessage>>>,
    boxes: MeshBoxes,
    /// A box of another shard was full.
    posting_again: Cell<bool>,
    pub(crate) stopping: Cell<bool>,
}

impl Shard {
    /// Joins a core to what carries out its actions.
    pub(crate) fn new(
        id: ShardId,
        core: ShardCore,
        disk: Rc<Disk>,
        resolver: ResolverHandle,
        boxes: MeshBoxes,
        client: connect::ClientSetup,
    ) -> Rc<Self> {
        Rc::new(Self {
            id,
            core: RefCell::new(core),
            actions: RefCell::new(Vec::with_capacity(64)),
            dirty: Cell::new(false),
            flush_bell: Bell::default(),
            overload: Cell::new(None),
            scratch: RefCell::new(vec![0; READ_BYTES_MAX].into_boxed_slice()),
            sessions: RefCell::new(HashMap::new()),
            last_ticket: Cell::default(),
            conns: RefCell::new(HashMap::new()),
            client: RefCell::new(client),
            disk,
            resolver,
            outboxes: RefCell::new(
                (0..boxes.shards())
                    .map(|_| std::collections::VecDeque::new())
                    .collect(),
            ),
            boxes,
            posting_again: Cell::new(false),
            stopping: Cell::new(false),
        })
    }

    /// Hands an event to the core and carries out what it asks, all but writes: those leave once the
    /// tasks that are ready now have run, so that their records share a batch.
    pub(crate) fn handle(self: &Rc<Self>, event: Event) {
        crate::rings::count_event();
        let at = now();
        self.core.borrow_mut().handle(event, at);
        self.carry_out();
    }

    /// Lets `with` use the core, then carries out what it asks.
    pub(crate) fn with_core<T>(self: &Rc<Self>, with: impl FnOnce(&mut ShardCore, Now) -> T) -> T {
        let result = with(&mut self.core.borrow_mut(), now());
        self.carry_out();
        result
    }

    fn carry_out(self: &Rc<Self>) {
        // Actions may lead to events that lead to actions; the vector is taken for that long.
        let mut actions = std::mem::take(&mut *self.actions.borrow_mut());
        self.core.borrow_mut().take_actions(&mut actions);
        for action in actions.drain(..) {
            self.perform(action);
        }
        *self.actions.borrow_mut() = actions;
        if !self.dirty.replace(true) {
            self.flush_bell.ring();
        }
    }

    fn perform(self: &Rc<Self>, action: Action) {
        match action {
            Action::Answer { ticket, result } => {
                if let Some(slot) = self.sessions.borrow().get(&ticket) {
                    slot.answer(result);
                }
            }
            Action::Start { conn, transaction } => {
                if let Some(slot) = self.conns.borrow().get(&conn) {
                    slot.start(transaction);
                }
            }
            Action::Quit { conn } => {
                if let Some(slot) = self.conns.borrow().get(&conn) {
                    slot.quit();
                }
            }
            Action::Tell { to, message } => {
                self.outboxes.borrow_mut()[usize::from(to.0)].push_back(message);
            }
            Action::Report { line } => crate::say!(shard: self.id, "{line}"),
            Action::Connect {
                conn,
                target,
                source,
            } => {
                connect::open(self, conn, target, source);
            }
            Action::Resolve { question } => {
                if let Some(question) = self.resolver.ask(question) {
                    let answer = engine::dns::Answer::Trouble(engine::dns::DnsTrouble::Busy);
                    let shard = Rc::clone(self);
                    spawn(async move {
                        shard.handle(Event::Answered {
                            question,
                            answer,
                            ttl_s: 0,
                        });
                    });
                }
            }
            Action::Write {
                batch,
                stream,
                segment,
                offset,
                bytes,
                begin,
            } => {
                let shard = Rc::clone(self);
                spawn(async move {
                    let result = shard
                        .disk
                        .write(stream, segment, offset, &bytes, begin)
                        .await;
                    shard.with_core(|core, _| core.reuse_batch(bytes));
                    shard.handle(Event::Written { batch, result });
                });
            }
            Action::Read { read, placement } => {
                let shard = Rc::clone(self);
                spawn(async move {
                    let result = shard.disk.read(placement).await;
                    shard.handle(Event::Read { read, result });
                });
            }
            Action::Retire { segment, disposal } => {
                let shard = Rc::clone(self);
                spawn(async move {
                    let result = shard.disk.retire(segment, disposal).await;
                    shard.handle(Event::Retired {
                        segment,
                        disposal,
                        result,
                    });
                });
            }
            Action::Delete { stream, segment } => {
                if let Err(error) = self.disk.delete(stream, segment) {
                    crate::say!(shard: self.id, "{stream}: {error}");
                }
            }
            Action::DeleteFree => {
                let shard = Rc::clone(self);
                spawn(async move {
                    let result = shard.disk.delete_free().await;
                    shard.handle(Event::FreeDeleted { result });
                });
            }
            Action::NoteHandover { handover } => {
                let shard = Rc::clone(self);
                spawn(async move {
                    let result = shard.disk.note_handover(handover).await;
                    shard.handle(Event::HandoverNoted { handover, result });
                });
            }
            Action::Compact { segment } => {
                let shard = Rc::clone(self);
                spawn(async move { replay::compact(&shard, segment).await });
            }
        }
    }

    /// Closes batches and posts to other shards whenever there was an event and every ready task has
    /// had its turn.
    async fn flush_task(self: Rc<Self>) {
        loop {
            poll_fn(|cx| {
                if self.dirty.take() {
                    return std::task::Poll::Ready(());
                }
                self.flush_bell.listen(cx.waker());
                std::task::Poll::Pending
            })
            .await;
            let at = now();
            let mut actions = std::mem::take(&mut *self.actions.borrow_mut());
            {
                let mut core = self.core.borrow_mut();
                core.flush(at);
                core.take_actions(&mut actions);
                self.overload.set(core.overload());
            }
            for action in actions.drain(..) {
                self.perform(action);
            }
            *self.actions.borrow_mut() = actions;
            self.post();
        }
    }

    async fn tick_task(self: Rc<Self>) {
        let mut ticks = 0u64;
        loop {
            sleep(Duration::from_millis(TICK_MS / 2)).await;
            self.handle(Event::Tick);
            ticks += 1;
            if ticks % 10 == 1 {
                let shard = Rc::clone(&self);
                spawn(async move { shard.disk.keep_reserve().await });
                let free_bytes = self.disk.free_bytes();
                self.handle(Event::DiskSpace { free_bytes });
                let at = now().mono;
                for slot in self.sessions.borrow().values() {
                    slot.check_deadline(at);
                }
                for slot in self.conns.borrow().values() {
                    slot.check_deadline(at);
                }
            }
        }
    }

    /// Sends what gathered in the outboxes. What another shard has no room for is tried again soon.
    fn post(self: &Rc<Self>) {
        let mut all_sent = true;
        for (to, outbox) in self.outboxes.borrow_mut().iter_mut().enumerate() {
            all_sent &= self.boxes.send_all(self.id, to, outbox);
        }
        if !all_sent && !self.posting_again.replace(true) {
            let shard = Rc::clone(self);
            spawn(async move {
                sleep(POST_AGAIN).await;
                shard.posting_again.set(false);
                shard.post();
            });
        }
    }

    /// Takes what other shards send, as much as there is before anything else has its turn.
    async fn inbox_task(self: Rc<Self>, inbox: Mailbox<(ShardId, ShardMessage)>) {
        while let Some(first) = inbox.recv().await {
            let more = std::iter::from_fn(|| inbox.try_recv());
            for (from, message) in std::iter::once(first).chain(more.take(INBOX_TURN_MAX)) {
                self.handle(Event::FromShard { from, message });
            }
            glommio::yield_if_needed().await;
        }
    }
}

/// Lets the other tasks have their turn, and the shard look at its rings first.
pub(crate) async fn give_way() {
    crate::rings::end_turn();
    glommio::executor().yield_task_queue_now().await;
}

/// Runs a task to its end, whoever waits.
pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(task).detach();
}

pub(crate) use self::adopt::{adopt_all, noted_handovers};
pub(crate) use self::replay::replay_all;

impl Shard {
    /// Starts the tasks that every shard has.
    pub(crate) fn start_tasks(self: &Rc<Self>, inbox: Mailbox<(ShardId, ShardMessage)>) {
        spawn(Rc::clone(self).flush_task());
        spawn(Rc::clone(self).tick_task());
        spawn(Rc::clone(self).inbox_task(inbox));
    }

    /// Takes no more mail in and begins no more deliveries; what is done from now on is on disk soon.
    pub(crate) fn begin_drain(self: &Rc<Self>) {
        self.stopping.set(true);
        for slot in self.sessions.borrow().values() {
            slot.shut_down();
        }
        self.with_core(|core, _| core.drain());
    }
}
