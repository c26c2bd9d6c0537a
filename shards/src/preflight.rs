//! What the shards' executors need of the system, asked before the first of them is made: glommio
//! panics where io_uring is denied, and its executors never get ready where too little memory may be
//! locked.
//!
//! [`crate::system`] asks it, with all else that a start needs.
#![allow(
    unsafe_code,
    reason = "io_uring_setup is unsafe to call, whatever is done with it"
)]

use rustix::io::Errno;
use rustix::io_uring::{io_uring_params, io_uring_setup};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Below this limit of locked memory glommio makes no executor, bytes.
const LOCKED_BYTES_MIN: u64 = 512 * 1024;

/// How much memory may be locked, bytes, when the soft limit is raised to the hard one.
///
/// # Errors
/// One line that says what to change, if it is too little for any ring.
pub(crate) fn locked_bytes() -> Result<u64, String> {
    let bytes = raise_locked_limit();
    if bytes < LOCKED_BYTES_MIN {
        return Err(format!(
            "only {} KiB of memory may be locked, io_uring needs {} KiB and more with several shards; \
             raise the limit (LimitMEMLOCK= in the unit, ulimit -Hl)",
            bytes / 1024,
            LOCKED_BYTES_MIN / 1024
        ));
    }
    Ok(bytes)
}

/// Makes a ring and lets it go.
///
/// # Errors
/// One line that says what to change.
pub(crate) fn may_use_io_uring() -> Result<(), String> {
    let mut params = io_uring_params::default();
    // SAFETY: the ring is closed at once; nothing is mapped of it or submitted to it.
    let ring = unsafe { io_uring_setup(1, &mut params) };
    ring.map(drop).map_err(|error| {
        let remedy = match error {
            Errno::NOSYS => {
                "the kernel has none (Linux 5.8 or later is needed), or a seccomp profile hides it"
            }
            Errno::PERM | Errno::ACCESS => {
                "allow it in the container's seccomp profile and by sysctl kernel.io_uring_disabled=0"
            }
            Errno::NOMEM => "raise the limit of locked memory (LimitMEMLOCK=, ulimit -Hl)",
            _ => "see io_uring_setup(2)",
        };
        format!("io_uring cannot be used: {error}; {remedy}")
    })
}

/// Raises the soft limit of locked memory to the hard one; how many bytes are allowed now.
fn raise_locked_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Memlock);
    if current == maximum {
        return current.unwrap_or(u64::MAX);
    }
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    let now = match setrlimit(Resource::Memlock, raised) {
        Ok(()) => maximum,
        Err(_) => current,
    };
    now.unwrap_or(u64::MAX)
}
