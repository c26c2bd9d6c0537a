//! How the shards' rings are set up: flags that glommio 0.9 does not know.
//!
//! glommio makes its rings through `io_uring_queue_init_params` of the liburing that its build
//! compiles. The linker leads that call here (`--wrap`, see build.rs), so no copy of glommio is
//! kept (decision 115). What the flags do: without them each completion interrupts the shard's
//! core, and that was a third of the cost of a message.

#![allow(unsafe_code, reason = "the linker's names and liburing's structs")]

use std::cell::RefCell;
use std::ffi::{c_int, c_uint, c_void};

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

/// `struct io_uring_params` (linux/io_uring.h): 120 bytes since the first release.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Params {
    entries: [u32; 2],
    flags: u32,
    rest: [u32; 27],
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
        ring: *mut c_void,
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
    ring: *mut c_void,
    params: *mut Params,
) -> c_int {
    // SAFETY: by this function's contract `params` points to parameters that nobody else uses.
    let params = unsafe { &mut *params };
    set_up(params, |params| {
        // SAFETY: the caller's pointers, under the same contract.
        unsafe { __real_io_uring_queue_init_params(entries, ring, params) }
    })
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
