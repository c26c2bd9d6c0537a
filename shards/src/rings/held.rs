//! Entries that glommio gives to its rings, held until there is a reason to enter the kernel.
//!
//! Each time an executor of glommio 0.9 wakes, it enters the kernel some ten times, mostly to arm timers
//! and to disarm them again. Here all that its main ring and its latency ring are given goes into the main
//! ring's submission queue and stays there until the executor sleeps, which then is the one call that
//! submits and waits, or is about to run tasks, or the queue is half full (decision 145).
//!
//! What glommio asks for and what becomes of it:
//!
//! | entry | why | here |
//! | --- | --- | --- |
//! | time-out, latency ring, 100 ms | preemption of tasks | [`end_turn`] |
//! | time-out, latency ring, else | wake at the next timer | time limit of the wait |
//! | time-out and a linked write, main ring | preemption when much is complete | left out |
//! | poll of the latency ring by the main ring | wake for what is in the other ring | there is nothing in it |
//! | cancellation of one of these | | left out |
//! | anything of the latency ring | | in the main ring |
//!
//! glommio frees what stands for an entry when its completion comes, so an entry that is left out and has
//! a name becomes one that does nothing and is complete at once.

use std::cell::RefCell;
use std::ffi::{c_int, c_long, c_uint, c_void};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{__real_syscall, EINTR, IORING_SETUP_IOPOLL};

const OP_NOP: u8 = 0;
const OP_POLL_ADD: u8 = 6;
const OP_TIMEOUT: u8 = 11;
const OP_ASYNC_CANCEL: u8 = 14;
const OP_WRITE: u8 = 23;

const SYS_IO_URING_ENTER: c_long = 426;
const ENTER_GETEVENTS: usize = 1 << 0;
const ENTER_EXT_ARG: usize = 1 << 3;
/// `IORING_FEAT_EXT_ARG` (5.11): a wait can have a time limit.
const FEATURE_EXT_ARG: u32 = 1 << 8;

const EBUSY: c_int = 16;
const ETIME: c_int = 62;

/// glommio's default preemption timer, which the daemon leaves as it is.
const PREEMPT: Timespec = Timespec {
    seconds: 0,
    nanoseconds: 100_000_000,
};

/// Events of a shard in one turn before it looks at its rings again.
const TURN_EVENTS_MAX: u32 = 4096;

/// More than glommio will ever count down: completions come out of the main ring that were given to the
/// other, and it counts, without using it, how many of each are in the kernel.
const COUNTED_AHEAD: c_int = 1 << 30;

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

/// `struct io_uring_sqe` (linux/io_uring.h), as far as it is looked at.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Entry {
    opcode: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    length: u32,
    op_flags: u32,
    user_data: u64,
    rest: [u64; 3],
}

impl Entry {
    /// Does nothing, and completes under this name.
    fn nothing(user_data: u64) -> Self {
        Self {
            opcode: OP_NOP,
            flags: 0,
            priority: 0,
            fd: -1,
            offset: 0,
            address: 0,
            length: 0,
            op_flags: 0,
            user_data,
            rest: [0; 3],
        }
    }
}

/// `struct io_uring_cqe`.
#[repr(C)]
struct Completion {
    user_data: u64,
    result: i32,
    flags: u32,
}

/// `struct io_uring_sq` of the liburing in glommio 0.9.
#[repr(C)]
struct Submissions {
    head: *const AtomicU32,
    tail: *mut u32,
    mask: *const u32,
    entries: *const u32,
    flags: *const u32,
    dropped: *const u32,
    array: *mut u32,
    sqes: *mut Entry,
    sqe_head: u32,
    sqe_tail: u32,
    ring_bytes: usize,
    ring: *mut c_void,
    pad: [u32; 4],
}

/// `struct io_uring_cq` of the same.
#[repr(C)]
struct Completions {
    head: *const u32,
    tail: *const AtomicU32,
    mask: *const u32,
    entries: *const u32,
    flags: *const u32,
    overflow: *const u32,
    cqes: *mut Completion,
    ring_bytes: usize,
    ring: *mut c_void,
    pad: [u32; 4],
}

/// `struct io_uring` of the same.
#[repr(C)]
pub(super) struct Ring {
    sq: Submissions,
    cq: Completions,
    flags: c_uint,
    pub(super) fd: c_int,
    features: c_uint,
    pad: [c_uint; 3],
}

const _: () = assert!(size_of::<Entry>() == 64 && size_of::<Completion>() == 16);
const _: () = assert!(size_of::<Submissions>() == 104 && size_of::<Ring>() == 216);

/// `struct io_uring_getevents_arg`.
#[repr(C)]
struct WaitArgument {
    signals: u64,
    signals_bytes: u32,
    min_wait_us: u32,
    time_limit: u64,
}

unsafe extern "C" {
    fn __real_io_uring_submit(ring: *mut Ring) -> c_int;
    fn __real_io_uring_wait_cqes(
        ring: *mut Ring,
        completion: *mut *mut Completion,
        wait_nr: c_uint,
        time_limit: *mut Timespec,
        signals: *mut c_void,
    ) -> c_int;
    fn __real_rust_io_uring_sq_ready(ring: *mut Ring) -> c_uint;
    /// liburing's own: shows the kernel what was prepared, and says how much that is.
    fn __io_uring_flush_sq(ring: *mut Ring) -> c_int;
}

thread_local! {
    static RINGS: RefCell<Rings> = const { RefCell::new(Rings::NONE) };
    #[cfg(test)]
    static ENTERS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// How often this thread's rings were entered.
#[cfg(test)]
pub(super) fn enters() -> u32 {
    ENTERS.with(std::cell::Cell::get)
}

fn count_enter() {
    #[cfg(test)]
    ENTERS.with(|enters| enters.set(enters.get() + 1));
}

/// The rings of this thread's executor.
struct Rings {
    /// The last two that were made.
    made: [Option<Made>; 2],
    /// Descriptors of main and latency ring, if these are held back.
    held: Option<(c_int, c_int)>,
    /// Where they are; glommio moves them about until it runs.
    main: *mut Ring,
    latency: *mut Ring,
    /// The tails up to which glommio has been told that all is submitted.
    main_told: u32,
    latency_told: u32,
    counted_ahead: bool,
    /// The next timer, as glommio said just before going to sleep.
    time_limit: Option<Timespec>,
    /// By name: what glommio was last told under it does nothing.
    nothing: Vec<bool>,
    turn_events: u32,
    turn_ended: bool,
}

#[derive(Clone, Copy)]
struct Made {
    fd: c_int,
    polled: bool,
}

/// A ring was made on this thread. glommio makes three for an executor: main, polled, latency.
pub(super) fn made(fd: c_int, flags: u32, features: u32) {
    let polled = flags & IORING_SETUP_IOPOLL != 0;
    RINGS.with_borrow_mut(|rings| {
        let before = rings.made;
        *rings = Rings::NONE;
        rings.made = [before[1], Some(Made { fd, polled })];
        if let [Some(main), Some(Made { polled: true, .. })] = before
            && !main.polled
            && !polled
            && features & FEATURE_EXT_ARG != 0
        {
            rings.held = Some((main.fd, fd));
        }
    });
}

/// Lets the shard look at its rings as soon as the task that runs now waits or yields.
pub(crate) fn end_turn() {
    RINGS.with_borrow_mut(Rings::end_turn);
}

/// Counts an event of the shard; after many the turn ends, lest tasks that wake each other keep the
/// shard from its rings.
pub(crate) fn count_event() {
    RINGS.with_borrow_mut(|rings| {
        rings.turn_events += 1;
        if rings.turn_events >= TURN_EVENTS_MAX {
            rings.end_turn();
        }
    });
}

impl Rings {
    const NONE: Self = Self {
        made: [None; 2],
        held: None,
        main: std::ptr::null_mut(),
        latency: std::ptr::null_mut(),
        main_told: 0,
        latency_told: 0,
        counted_ahead: false,
        time_limit: None,
        nothing: Vec::new(),
        turn_events: 0,
        turn_ended: false,
    };

    fn is_main(&self, fd: c_int) -> bool {
        self.held.is_some_and(|(main, _)| main == fd)
    }

    fn is_latency(&self, fd: c_int) -> bool {
        self.held.is_some_and(|(_, latency)| latency == fd)
    }

    /// What to do in place of an entry; none: nothing, and nobody waits for its completion.
    fn screen(&mut self, entry: Entry) -> Option<Entry> {
        let links = entry.opcode == OP_POLL_ADD && self.is_latency(entry.fd);
        if entry.opcode == OP_TIMEOUT || links {
            self.note(entry.user_data, true);
            return Some(Entry::nothing(entry.user_data));
        }
        let of_nothing = || self.nothing.get(entry.address as usize) == Some(&true);
        match entry.opcode {
            OP_WRITE if entry.user_data == 0 => None,
            OP_ASYNC_CANCEL if entry.user_data == 0 && of_nothing() => None,
            _ => {
                self.note(entry.user_data, false);
                Some(entry)
            }
        }
    }

    fn note(&mut self, user_data: u64, is_nothing: bool) {
        let name = user_data as usize;
        if name >= self.nothing.len() {
            if !is_nothing {
                return;
            }
            self.nothing.resize(name + 1, false);
        }
        self.nothing[name] = is_nothing;
    }

    /// Screens what glommio has prepared in the main ring since; how much that was.
    fn take_in(&mut self) -> u32 {
        // SAFETY: `main` was given to liburing's functions on this thread, and is where its executor keeps it.
        let sq = unsafe { &mut (*self.main).sq };
        let (from, end) = (self.main_told, sq.sqe_tail);
        let mut to = from;
        for n in 0..end.wrapping_sub(from) {
            let at = from.wrapping_add(n);
            // SAFETY: between the heads and the tail the queue's entries are this thread's.
            let entry = unsafe { *sq.entry(at) };
            if let Some(entry) = self.screen(entry) {
                // SAFETY: the same; `to` is not ahead of `at`.
                unsafe { *sq.entry(to) = entry };
                to = to.wrapping_add(1);
            }
        }
        sq.sqe_tail = to;
        self.main_told = to;
        end.wrapping_sub(from)
    }

    fn submit_main(&mut self, ring: *mut Ring) -> c_int {
        self.main = ring;
        let mut told = self.take_in() as c_int;
        // SAFETY: as in `take_in`.
        let sq = unsafe { &(*ring).sq };
        if sq.waiting() >= sq.entries() / 2 {
            let result = self.enter();
            if result < 0 {
                // What was taken in stays and is entered later.
                return if told > 0 { told } else { result };
            }
        }
        if !self.counted_ahead {
            self.counted_ahead = true;
            told += COUNTED_AHEAD;
        }
        told
    }

    fn enter(&self) -> c_int {
        count_enter();
        // SAFETY: as in `take_in`; all up to the tail is screened.
        unsafe { __real_io_uring_submit(self.main) }
    }

    fn submit_latency(&mut self, ring: *mut Ring) -> c_int {
        self.latency = ring;
        // SAFETY: as in `take_in`, for the other ring.
        let sq = unsafe { &mut (*ring).sq };
        let told = sq.sqe_tail.wrapping_sub(self.latency_told) as c_int;
        if self.main.is_null() {
            self.latency_told = sq.sqe_tail;
            return told;
        }
        self.take_in();
        // SAFETY: as in `take_in`. The two rings are not the same.
        let main = unsafe { &mut (*self.main).sq };
        let count = sq.sqe_tail.wrapping_sub(sq.sqe_head);
        if main.room() < count {
            self.enter();
            if main.room() < count {
                return -EBUSY;
            }
        }
        let mut turn_begins = false;
        for n in 0..count {
            // SAFETY: prepared and not shown to the kernel, so this thread's.
            let entry = unsafe { *sq.entry(sq.sqe_head.wrapping_add(n)) };
            if entry.opcode == OP_TIMEOUT {
                // SAFETY: a time-out's address is that of its timespec, which glommio keeps until it is complete.
                let after = unsafe { *(entry.address as *const Timespec) };
                turn_begins |= after == PREEMPT;
                self.time_limit = (after != PREEMPT).then_some(after);
            }
            if let Some(entry) = self.screen(entry) {
                // SAFETY: there is room, so the entry at the tail is free.
                unsafe { *main.entry(main.sqe_tail) = entry };
                main.sqe_tail = main.sqe_tail.wrapping_add(1);
            }
        }
        self.main_told = main.sqe_tail;
        // None of it was shown to the kernel: the places are free again.
        sq.sqe_tail = sq.sqe_head;
        self.latency_told = sq.sqe_tail;
        if turn_begins {
            (self.turn_events, self.turn_ended) = (0, false);
            if main.kinds().1 {
                self.enter();
            }
        }
        told
    }

    /// Enters with all that is held, and sleeps until something else than that is complete, or it is
    /// time for the next timer.
    fn wait(&mut self, ring: *mut Ring, completion: &mut *mut Completion, count: u32) -> c_int {
        self.main = ring;
        self.take_in();
        // SAFETY: as in `take_in`.
        let (sq, cq, fd) = unsafe { (&(*ring).sq, &(*ring).cq, (*ring).fd) };
        // Each that does nothing is complete before the wait begins.
        let enough = count + sq.kinds().0;
        let limit = self.time_limit.take();
        let argument = WaitArgument {
            signals: 0,
            signals_bytes: 8,
            min_wait_us: 0,
            time_limit: (limit.as_ref()).map_or(0, |limit| std::ptr::from_ref(limit) as u64),
        };
        count_enter();
        // SAFETY: the ring is this thread's, and `argument` and what it points to outlive the call.
        let result = unsafe {
            let submit = __io_uring_flush_sq(ring);
            __real_syscall(
                SYS_IO_URING_ENTER,
                fd as usize,
                submit as usize,
                enough as usize,
                ENTER_GETEVENTS | ENTER_EXT_ARG,
                std::ptr::from_ref(&argument) as usize,
                size_of::<WaitArgument>(),
            )
        };
        let error = std::io::Error::last_os_error().raw_os_error();
        if let Some(first) = cq.first() {
            *completion = first;
            return 0;
        }
        match error {
            Some(error) if result < 0 && error != ETIME => -error,
            _ => -EINTR,
        }
    }

    /// Preemption is asked for by anything that is complete in the latency ring.
    fn end_turn(&mut self) {
        if self.turn_ended || self.latency.is_null() {
            return;
        }
        self.turn_ended = true;
        self.submit_latency(self.latency);
        // SAFETY: as in `take_in`; the ring's own queue is empty, so there is room for one.
        unsafe {
            let sq = &mut (*self.latency).sq;
            if sq.sqe_tail != sq.sqe_head {
                return;
            }
            *sq.entry(sq.sqe_tail) = Entry::nothing(0);
            sq.sqe_tail = sq.sqe_tail.wrapping_add(1);
            self.latency_told = sq.sqe_tail;
            count_enter();
            __real_io_uring_submit(self.latency);
        }
    }
}

impl Submissions {
    fn entry(&self, at: u32) -> *mut Entry {
        // SAFETY: liburing mapped as many entries as the mask can name.
        unsafe { self.sqes.add((at & *self.mask) as usize) }
    }

    fn entries(&self) -> u32 {
        // SAFETY: a word of the ring that liburing mapped.
        unsafe { *self.entries }
    }

    /// Prepared and not taken by the kernel yet.
    fn waiting(&self) -> u32 {
        // SAFETY: the same.
        let head = unsafe { (*self.head).load(Ordering::Acquire) };
        self.sqe_tail.wrapping_sub(head)
    }

    fn room(&self) -> u32 {
        self.entries() - self.waiting()
    }

    /// Of those waiting: how many do nothing, and whether others are among them.
    fn kinds(&self) -> (u32, bool) {
        let count = self.waiting();
        let nothings = (1..=count)
            // SAFETY: they are this thread's until it enters.
            .filter(
                |back| unsafe { (*self.entry(self.sqe_tail.wrapping_sub(*back))).opcode } == OP_NOP,
            )
            .count() as u32;
        (nothings, nothings < count)
    }
}

impl Completions {
    fn first(&self) -> Option<*mut Completion> {
        // SAFETY: words and entries of the ring that liburing mapped; this thread moves the head.
        unsafe {
            let head = *self.head;
            (head != (*self.tail).load(Ordering::Acquire))
                .then(|| self.cqes.add((head & *self.mask) as usize))
        }
    }
}

/// What glommio calls in place of liburing's function.
///
/// # Safety
/// As liburing's `io_uring_submit`.
// SAFETY (the name): nobody else defines this symbol, it is the linker's for a wrapped function.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_io_uring_submit(ring: *mut Ring) -> c_int {
    // SAFETY: by this function's contract the ring is there and its descriptor set.
    let fd = unsafe { (*ring).fd };
    let held = RINGS.with_borrow_mut(|rings| {
        if rings.is_main(fd) {
            Some(rings.submit_main(ring))
        } else if rings.is_latency(fd) {
            Some(rings.submit_latency(ring))
        } else {
            None
        }
    });
    // SAFETY: the caller's ring, under the same contract.
    held.unwrap_or_else(|| unsafe { __real_io_uring_submit(ring) })
}

/// What glommio calls in place of liburing's function.
///
/// # Safety
/// As liburing's `io_uring_wait_cqes`.
// SAFETY (the name): as above.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_io_uring_wait_cqes(
    ring: *mut Ring,
    completion: *mut *mut Completion,
    count: c_uint,
    time_limit: *mut Timespec,
    signals: *mut c_void,
) -> c_int {
    // SAFETY: by this function's contract the ring is there and its descriptor set.
    let fd = unsafe { (*ring).fd };
    let held = RINGS.with_borrow_mut(|rings| {
        // SAFETY: by this function's contract the place is there to be written to.
        rings
            .is_main(fd)
            .then(|| rings.wait(ring, unsafe { &mut *completion }, count))
    });
    held.unwrap_or_else(|| {
        // SAFETY: the caller's arguments, under the same contract.
        unsafe { __real_io_uring_wait_cqes(ring, completion, count, time_limit, signals) }
    })
}

/// What glommio calls in place of its own function: how much is prepared that it must submit.
///
/// # Safety
/// `ring` as of liburing's `io_uring_sq_ready`.
// SAFETY (the name): as above.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_rust_io_uring_sq_ready(ring: *mut Ring) -> c_uint {
    // SAFETY: by this function's contract the ring is there, its descriptor and its tail set.
    let (fd, tail) = unsafe { ((*ring).fd, (*ring).sq.sqe_tail) };
    let held = RINGS.with_borrow(|rings| {
        if rings.is_main(fd) {
            Some(tail.wrapping_sub(rings.main_told))
        } else if rings.is_latency(fd) {
            Some(tail.wrapping_sub(rings.latency_told))
        } else {
            None
        }
    });
    // SAFETY: the caller's ring, under the same contract.
    held.unwrap_or_else(|| unsafe { __real_rust_io_uring_sq_ready(ring) })
}
