//! Runs an async part (fleet, DNS, injector) on a thread of its own, so that parts do not share
//! their time and each one's cost can be seen.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tokio::sync::Notify;

use crate::failure::{Context, Failure};

/// A flag that ends tasks, and wakes those that sleep.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    set: AtomicBool,
    notify: Notify,
}

impl Stop {
    /// Asks everybody who watches this flag to end.
    pub fn stop(&self) {
        self.0.set.store(true, Ordering::SeqCst);
        self.0.notify.notify_waiters();
    }

    /// Whether the end was asked for.
    pub fn is_set(&self) -> bool {
        self.0.set.load(Ordering::Relaxed)
    }

    /// Resolves when the end is asked for.
    pub async fn wait(&self) {
        loop {
            let notified = self.0.notify.notified();
            if self.0.set.load(Ordering::SeqCst) {
                return;
            }
            notified.await;
        }
    }
}

/// A single-threaded runtime.
///
/// # Errors
/// When the operating system gives no poller.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Starts a thread called `name` that runs the future `make` yields, `!Send` parts and all.
///
/// # Errors
/// [`Failure::Io`] when no thread or runtime can be had.
pub fn spawn<F, T, R>(name: &str, make: F) -> Result<JoinHandle<R>, Failure>
where
    F: FnOnce() -> T + Send + 'static,
    T: Future<Output = R>,
    R: Send + 'static,
{
    let runtime = runtime().context(|| format!("cannot start a runtime for {name}"))?;
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || tokio::task::LocalSet::new().block_on(&runtime, make()))
        .context(|| format!("cannot start the thread {name}"))
}
