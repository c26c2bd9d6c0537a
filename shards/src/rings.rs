//! What glommio 0.9 asks of the kernel, bettered: flags of its rings, and a barrier.
//!
//! glommio makes its rings through `io_uring_queue_init_params` of the liburing that its build
//! compiles. The linker leads that call here (`--wrap`, see build.rs), so no copy of glommio is
//! kept (decision 115). What the flags do: without them each completion interrupts the shard's
//! core, and that was a third of the cost of a message. What glommio submits to its rings is in
//! `held`.

#![allow(unsafe_code, reason = "the linker's names and liburing's structs")]

mod held;

use std::cell::RefCell;
use std::ffi::{c_int, c_long, c_uint};
#[cfg(target_arch = "x86_64")]
use std::sync::atomic::{Ordering, fence};

/// The ring is polled for completions; the flags below say how interrupts are handled.
const IORING_SETUP_IOPOLL: u32 = 1 << 0;
/// Completions are posted when the thread enters the kernel anyway, not by an interrupt. One that
/// computes only is still told at the next timer interrupt, so glommio's preemption works.
const IORING_SETUP_COOP_TASKRUN: u32 = 1 << 8;
/// Only the thread that made the ring submits to it. glommio makes an executor's rings on the
/// executor's thread, and its handles are not `Send`.
const IORING_SETUP_SINGLE_ISSUER: u32 = 1 << 12;

/// What is asked of the kernel, one after the other: the first needs Linux 6.0, the second 5.19.
const WISHES: [u32; 3] = [
    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
    IORING_SETUP_COOP_TASKRUN,
    0,
];

const EINVAL: c_int = 22;
const EINTR: c_int = 4;

pub(crate) use held::{count_event, end_turn};

/// `struct io_uring_params` (linux/io_uring.h): 120 bytes since the first release.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Params {
    entries: [u32; 2],
    flags: u32,
    rest: [u32; 27],
}

impl Params {
    /// `features`, which the kernel fills in.
    fn features(&self) -> u32 {
        self.rest[2]
    }
}

const _: () = assert!(size_of::<Params>() == 120);

thread_local! {
    /// The flags of each ring made on this thread, as the kernel took them.
    static GRANTED: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

unsafe extern "C" {
    /// liburing's own; the linker knows it by this name.
    fn __real_io_uring_queue_init_params(
        entries: c_uint,
        ring: *mut held::Ring,
        params: *mut Params,
    ) -> c_int;
}

/// What glommio calls in place of liburing's function.
///
/// # Safety
/// `ring` and `params` are as liburing's `io_uring_queue_init_params` wants them: pointers to a
/// ring to fill and to parameters, neither shared.
// SAFETY (the name): nobody else defines this symbol, it is the linker's for a wrapped function.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_io_uring_queue_init_params(
    entries: c_uint,
    ring: *mut held::Ring,
    params: *mut Params,
) -> c_int {
    // SAFETY: by this function's contract `params` points to parameters that nobody else uses.
    let params = unsafe { &mut *params };
    let result = set_up(params, |params| {
        // SAFETY: the caller's pointers, under the same contract.
        unsafe { __real_io_uring_queue_init_params(entries, ring, params) }
    });
    if result == 0 {
        // SAFETY: liburing has filled the ring.
        held::made(unsafe { (*ring).fd }, params.flags, params.features());
    }
    result
}

/// Makes a ring by `make`, with as many of our flags as the kernel takes. What it refuses with
/// `EINVAL` is asked again without; any other failure is the caller's.
fn set_up(params: &mut Params, mut make: impl FnMut(&mut Params) -> c_int) -> c_int {
    let asked = *params;
    let wishes: &[u32] = match asked.flags & IORING_SETUP_IOPOLL {
        0 => &WISHES,
        _ => &[0],
    };
    let mut result = -EINVAL;
    for wish in wishes {
        *params = asked;
        params.flags |= wish;
        result = make(params);
        if result != -EINVAL {
            break;
        }
    }
    if result == 0 {
        GRANTED.with_borrow_mut(|granted| granted.push(params.flags));
    }
    result
}

/// `membarrier(2)` with `MEMBARRIER_CMD_PRIVATE_EXPEDITED`, where a fence does.
#[cfg(target_arch = "x86_64")]
const SYS_MEMBARRIER: c_long = 324;
#[cfg(target_arch = "x86_64")]
const PRIVATE_EXPEDITED: c_int = 1 << 3;

unsafe extern "C" {
    fn __real_syscall(
        number: c_long,
        a: usize,
        b: usize,
        c: usize,
        d: usize,
        e: usize,
        f: usize,
    ) -> c_long;
}

/// What this program calls in place of libc's `syscall`: the same, but for the barrier that glommio
/// asks for whenever a shard goes to sleep, which interrupts every other core that runs one.
///
/// glommio needs it to order "I sleep" before its last look at its channels, while others put a
/// message in before they look who sleeps. They look by a compare-and-exchange
/// (`SleepNotifier::notify`), which on x86-64 is a full barrier of its own, so a fence on this side
/// is all that is missing (decision 116). Other processors keep the system call.
///
/// # Safety
/// As of the system call. On x86-64 and AArch64 Linux a variadic call passes these seven in the same
/// places, and arguments that the caller did not give are read as whatever stands there and ignored
/// by the kernel, as in libc's own.
// SAFETY (the name): nobody else defines this symbol, it is the linker's for a wrapped function.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    #[cfg(target_arch = "x86_64")]
    if number == SYS_MEMBARRIER && a as c_int == PRIVATE_EXPEDITED {
        fence(Ordering::SeqCst);
        #[cfg(test)]
        FENCES.with(|fences| fences.set(fences.get() + 1));
        return 0;
    }
    // SAFETY: the caller's arguments, under the same contract.
    unsafe { __real_syscall(number, a, b, c, d, e, f) }
}

#[cfg(test)]
thread_local! {
    static FENCES: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn executor_that_sleeps_makes_a_fence_and_wakes_in_time() {
        let executor = glommio::LocalExecutorBuilder::default()
            .make()
            .expect("io_uring");
        executor.run(async {
            let (sender, receiver) = crate::runtime::mailbox::mailbox(1);
            let thread = std::thread::spawn(move || sender.try_send(7));
            assert_eq!(receiver.recv().await, Some(7));
            thread.join().expect("no panic").expect("room for one");
            glommio::timer::sleep(std::time::Duration::from_millis(1)).await;
        });
        assert!(FENCES.with(std::cell::Cell::get) > 0);
    }

    /// Two executors that sleep between any two messages: a wake that is lost leaves both asleep.
    #[test]
    fn no_wake_is_lost_between_two_that_fall_asleep() {
        const ROUNDS: u32 = 20_000;
        let (to_left, left) = crate::runtime::mailbox::mailbox(1);
        let (to_right, right) = crate::runtime::mailbox::mailbox(1);
        let run = |inbox: crate::runtime::mailbox::Mailbox<u32>,
                   other: crate::runtime::mailbox::MailboxSender<u32>,
                   begins: bool| {
            glommio::LocalExecutorBuilder::default().spawn(move || async move {
                if begins {
                    other.try_send(0).expect("room");
                }
                let mut seen = 0;
                while let Some(n) = inbox.recv().await {
                    seen = n;
                    if n >= ROUNDS || other.try_send(n + 1).is_err() {
                        break;
                    }
                }
                seen
            })
        };
        let one = run(left, to_right, true).expect("io_uring");
        let two = run(right, to_left, false).expect("io_uring");
        let seen = [one.join().expect("ends"), two.join().expect("ends")];
        assert!(seen.iter().any(|n| *n >= ROUNDS), "{seen:?}");
    }

    fn params(flags: u32) -> Params {
        Params {
            entries: [0; 2],
            flags,
            rest: [0; 27],
        }
    }

    #[test]
    fn rings_of_an_executor_have_the_flags_and_the_polled_one_has_not() {
        let executor = glommio::LocalExecutorBuilder::default()
            .make()
            .expect("io_uring");
        executor.run(async { glommio::yield_if_needed().await });
        let granted = GRANTED.with_borrow(Vec::clone);
        let ours = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SINGLE_ISSUER;
        // The first executor of a process makes one more, to see what the kernel can do.
        let of_executor = &granted[granted.len() - 3..];
        assert_eq!(
            of_executor,
            [ours, IORING_SETUP_IOPOLL, ours],
            "main, poll, latency"
        );
    }

    #[test]
    fn flag_the_kernel_refuses_is_left_out() {
        for (known, granted) in [
            (IORING_SETUP_COOP_TASKRUN, IORING_SETUP_COOP_TASKRUN),
            (0, 0),
        ] {
            let mut params = params(0);
            let result = set_up(&mut params, |params| match params.flags & !known {
                0 => 0,
                _ => -EINVAL,
            });
            assert_eq!((result, params.flags), (0, granted));
        }
    }

    #[test]
    fn other_failure_is_not_asked_again() {
        let (mut asked, mut params) = (0, params(0));
        let result = set_up(&mut params, |_| {
            asked += 1;
            -12
        });
        assert_eq!((result, asked), (-12, 1), "ENOMEM");
    }

    /// A task that only yields, with its turn ended, does not keep the shard from its timers.
    #[test]
    fn turn_that_is_ended_lets_the_shard_look_at_its_rings() {
        let executor = glommio::LocalExecutorBuilder::default()
            .make()
            .expect("io_uring");
        executor.run(async {
            let timer =
                glommio::spawn_local(glommio::timer::sleep(std::time::Duration::from_millis(5)));
            let rung = std::rc::Rc::new(std::cell::Cell::new(false));
            let seen = std::rc::Rc::clone(&rung);
            glommio::spawn_local(async move {
                timer.await;
                seen.set(true);
            })
            .detach();
            while !rung.get() {
                crate::runtime::give_way().await;
            }
        });
    }

    #[test]
    fn executor_that_wakes_by_a_timer_enters_the_kernel_once() {
        const SLEEPS: u32 = 50;
        let executor = glommio::LocalExecutorBuilder::default()
            .make()
            .expect("io_uring");
        executor.run(async {
            let pause = std::time::Duration::from_millis(1);
            glommio::timer::sleep(pause).await;
            let (before, start) = (held::enters(), std::time::Instant::now());
            for _ in 0..SLEEPS {
                glommio::timer::sleep(pause).await;
            }
            assert!(start.elapsed() >= pause * SLEEPS, "none ends early");
            let enters = held::enters() - before;
            assert!(enters <= SLEEPS * 3 / 2, "{enters} for {SLEEPS} sleeps");
        });
    }

    /// What waits in the latency ring with glommio, connections made and accepted, and what is given up.
    #[test]
    fn connections_are_made_accepted_and_given_up() {
        use futures_lite::io::{AsyncReadExt as _, AsyncWriteExt as _};
        use glommio::net::{TcpListener, TcpStream};
        use std::time::Duration;
        let executor = glommio::LocalExecutorBuilder::default()
            .make()
            .expect("io_uring");
        executor.run(async {
            for _ in 0..300 {
                let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
                let address = listener.local_addr().expect("bound");
                let silent = TcpListener::bind("127.0.0.1:0").expect("loopback");
                let given_up = glommio::timer::timeout(Duration::from_micros(50), async {
                    silent.accept().await
                });
                assert!(given_up.await.is_err());
                let server = glommio::spawn_local(async move {
                    let mut stream = listener.accept().await.expect("a client");
                    let mut octets = [0; 4];
                    stream.read_exact(&mut octets).await.expect("four octets");
                    stream.write_all(&octets).await.expect("written");
                });
                let longest = Duration::from_secs(5);
                let mut stream = TcpStream::connect_timeout(address, longest)
                    .await
                    .expect("connected");
                stream.write_all(b"ping").await.expect("written");
                let mut octets = [0; 4];
                stream.read_exact(&mut octets).await.expect("answered");
                assert_eq!(&octets, b"ping");
                server.await;
            }
        });
    }
}
