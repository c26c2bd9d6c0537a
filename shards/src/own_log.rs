//! The daemon's own log: lines on standard error, for the operator or the journal.
//!
//! Lines are written with `tracing`, under the target `hikyakud`; [`crate::say`] is the short form. They go
//! through a bounded queue to a thread that writes them: whoever has something to say, a shard above
//! all, never waits for standard error and does not care whether it works. What does not fit, or
//! could not be written (a closed pipe, a full disk), is dropped and counted, and the number is said
//! as soon as lines get through again.

use std::fmt::{self, Write as _};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

/// The target of our own lines; those of libraries are left out.
pub(crate) const TARGET: &str = "hikyakud";

/// Lines that wait for standard error.
const LINES_MAX: usize = 1024;

/// Longest line, bytes; the rest of it is cut off.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// How long the end of the process waits for a standard error that takes nothing.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Says one line, of a shard (`say!(shard: id, "…")`) or of the daemon.
#[macro_export]
macro_rules! say {
    (shard: $shard:expr, $($text:tt)+) => {
        ::tracing::info!(target: $crate::own_log::TARGET, shard = u64::from($shard.0), $($text)+)
    };
    ($($text:tt)+) => { ::tracing::info!(target: $crate::own_log::TARGET, $($text)+) };
}

enum Order {
    Line(Vec<u8>),
    /// Everything said so far is to be written, then the sender dropped.
    Flush(Sender<()>),
}

/// The log's near end; the last thing to be dropped in `main`.
pub(crate) struct OwnLog(Queue);

impl OwnLog {
    /// Starts the writing thread and takes every line of the process from now on, panics too.
    pub(crate) fn start() -> Self {
        let (orders, received) = bounded(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let queue = Queue {
            orders,
            dropped: Arc::clone(&dropped),
        };
        let written = std::thread::Builder::new()
            .name("own-log".into())
            .spawn(move || write_lines(&received, &dropped, &mut std::io::stderr()));
        // Without the thread the queue is disconnected: lines are dropped, and mail still goes.
        drop(written);
        let lines = tracing_subscriber::fmt::layer()
            .event_format(Line)
            .with_writer(queue.clone());
        let ours = Targets::new().with_target(TARGET, LevelFilter::INFO);
        let _ = tracing::subscriber::set_global_default(
            tracing_subscriber::registry().with(ours).with(lines),
        );
        let last_words = queue.clone();
        std::panic::set_hook(Box::new(move |panic| {
            // The usual hook would wait for a standard error that nobody reads, with the other
            // shards going on beside.
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("?").to_owned();
            let trace = std::backtrace::Backtrace::capture();
            last_words.put(format!("hikyakud: thread {name} {panic}\n{trace}\n").into_bytes());
            last_words.flush();
        }));
        Self(queue)
    }
}

impl Drop for OwnLog {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// The way to the writing thread.
#[derive(Clone)]
struct Queue {
    orders: Sender<Order>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    fn put(&self, line: Vec<u8>) {
        let mut line = line;
        if line.len() > LINE_BYTES_MAX {
            line.truncate(LINE_BYTES_MAX);
            line.push(b'\n');
        }
        if self.orders.try_send(Order::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was said is written, or for [`FLUSH_MAX`].
    fn flush(&self) {
        let (done, written) = bounded(0);
        if self
            .orders
            .send_timeout(Order::Flush(done), FLUSH_MAX)
            .is_ok()
        {
            let _ = written.recv_timeout(FLUSH_MAX);
        }
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Pending;

    fn make_writer(&'a self) -> Pending {
        Pending {
            queue: self.clone(),
            line: Vec::new(),
        }
    }
}

/// A line in the making; queued when dropped.
struct Pending {
    queue: Queue,
    line: Vec<u8>,
}

impl Write for Pending {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.queue.put(std::mem::take(&mut self.line));
    }
}

/// Writes lines until the last sender is gone. An error costs the line, not the thread.
fn write_lines(orders: &Receiver<Order>, dropped: &AtomicU64, out: &mut dyn Write) {
    let mut torn = false;
    for order in orders {
        let line = match order {
            Order::Line(line) => line,
            Order::Flush(done) => {
                let _ = out.flush();
                drop(done);
                continue;
            }
        };
        let missed = dropped.swap(0, Ordering::Relaxed);
        let mut text = Vec::with_capacity(line.len() + 64);
        if torn {
            text.push(b'\n');
        }
        if missed > 0 {
            let note = format!("hikyakud: {missed} lines of this log could not be written\n");
            text.extend_from_slice(note.as_bytes());
        }
        text.extend_from_slice(&line);
        match write_all(out, &text) {
            Ok(()) => torn = false,
            Err(written) => {
                torn = written > 0 || torn;
                dropped.fetch_add(missed + 1, Ordering::Relaxed);
            }
        }
    }
}

/// Writes all of it, or says how many bytes went before it failed.
fn write_all(out: &mut dyn Write, text: &[u8]) -> Result<(), usize> {
    let mut written = 0;
    while written < text.len() {
        match out.write(&text[written..]) {
            Ok(0) => return Err(written),
            Ok(bytes) => written += bytes,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return Err(written),
        }
    }
    Ok(())
}

/// `hikyakud: shard 1: what there is to say`; the time is the journal's business.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> fmt::Result {
        let mut said = Said::default();
        event.record(&mut said);
        out.write_str("hikyakud: ")?;
        if let Some(shard) = said.shard {
            write!(out, "shard {shard}: ")?;
        }
        // Text of peers and paths is in it: one line stays one line.
        for (index, line) in said.message.lines().enumerate() {
            out.write_str(if index == 0 { "" } else { "; " })?;
            out.write_str(line)?;
        }
        out.write_char('\n')
    }
}

#[derive(Default)]
struct Said {
    shard: Option<u64>,
    message: String,
}

impl Visit for Said {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "shard" {
            self.shard = Some(value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `room` bytes, then fails until it is emptied.
    struct Disk {
        text: Vec<u8>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let fits = bytes.len().min(self.room);
            if fits == 0 {
                // Room is made after each failure, so that the next line finds some.
                self.room = 100;
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            self.room -= fits;
            self.text.extend_from_slice(&bytes[..fits]);
            Ok(fits)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_failed_write_costs_a_line_and_is_said_later() {
        let (orders, received) = bounded(8);
        for line in ["first\n", "second, which is torn\n", "third\n"] {
            orders.send(Order::Line(line.into())).unwrap();
        }
        drop(orders);
        let mut disk = Disk {
            text: Vec::new(),
            room: 12,
        };
        write_lines(&received, &AtomicU64::new(0), &mut disk);
        assert_eq!(
            String::from_utf8(disk.text).unwrap(),
            "first\nsecond\nhikyakud: 1 lines of this log could not be written\nthird\n"
        );
    }

    #[test]
    fn a_full_queue_drops_lines_and_never_waits() {
        let (orders, received) = bounded(2);
        let queue = Queue {
            orders,
            dropped: Arc::default(),
        };
        for _ in 0..5 {
            queue.put(vec![b'x'; LINE_BYTES_MAX * 2]);
        }
        let dropped = Arc::clone(&queue.dropped);
        assert_eq!(dropped.load(Ordering::Relaxed), 3);
        drop(queue);
        let mut out = Vec::new();
        write_lines(&received, &dropped, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("hikyakud: 3 lines of this log could not be written\n"));
        assert_eq!(
            text.lines().count(),
            3,
            "two lines and what is said of three"
        );
        assert!(text.len() < 3 * LINE_BYTES_MAX, "long lines are cut");
    }

    #[test]
    fn lines_name_their_shard_and_stay_one_line() {
        let (orders, received) = bounded(8);
        let queue = Queue {
            orders,
            dropped: Arc::default(),
        };
        let lines = tracing_subscriber::fmt::layer()
            .event_format(Line)
            .with_writer(queue);
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, || {
            crate::say!(shard: engine::ids::ShardId(1), "a reply\r\nof two lines");
            crate::say!("ready: {} shards", 2);
        });
        let mut text = Vec::new();
        for order in received.try_iter() {
            if let Order::Line(line) = order {
                text.extend(line);
            }
        }
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "hikyakud: shard 1: a reply; of two lines\nhikyakud: ready: 2 shards\n"
        );
    }
}
