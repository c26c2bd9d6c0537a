//! `/api/v1/log`: the delivery log as it was, and, with `follow=1`, as it grows.
//!
//! Lines are read from the segments by a thread of the request's own and sent as chunks, so neither
//! memory nor the other requests feel how many there are. While following, an empty line every few
//! seconds tells whether anybody is still listening.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use datadir::log::{Follow, read_all};
use datadir::segments::Go;
use engine::delivery_log::text::escape_tsv;
use engine::delivery_log::{
    LogFilter, LogRecord, write_json_line, write_tsv_header, write_tsv_line,
};
use engine::keys::KeyRing;
use engine::operator::{Answer, LogEnd, Query};
use tiny_http::Request;

use super::answer::{JSON_LINES, TSV};
use super::ask::ask_each;
use super::caller::Caller;
use super::request::{Format, Target};
use super::view::unix_now;
use super::{Daemon, Refusal, State};

/// How often a followed log is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);

/// After so long without a line an empty one is sent.
const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(5);

/// Text gathered before it is sent, bytes.
const CHUNK_BYTES: usize = 32 * 1024;

/// Lines of one answer, unless `limit` says otherwise; and at most.
const LINES_DEFAULT: usize = 10_000;
const LINES_MAX: usize = 1_000_000_000;

/// Bounds how many requests do one kind of thing at a time.
#[derive(Debug)]
pub(super) struct Places {
    busy: AtomicUsize,
    max: usize,
}

impl Places {
    pub(super) const fn new(max: usize) -> Self {
        Self {
            busy: AtomicUsize::new(0),
            max,
        }
    }

    /// A place, kept until it is dropped; `None` if all are taken.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
        let more = |busy| (busy < self.max).then_some(busy + 1);
        self.busy
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .ok()?;
        Some(Place(self.clone()))
    }
}

/// One request's place among them.
pub(super) struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What was asked for.
struct Wanted {
    filter: LogFilter,
    format: Format,
    lines_max: usize,
    follow: bool,
    /// The filter as it was asked for, for the daemon's log.
    asked: String,
}

/// Answers the request from a thread of its own, or gives it back with the reason why not.
pub(super) fn answer(
    request: Request,
    target: Target,
    caller: &Caller,
    daemon: &Arc<dyn Daemon>,
    readers: &Arc<Places>,
) -> Result<(), Box<(Request, Refusal)>> {
    let wanted = match wanted(target) {
        Ok(wanted) => wanted,
        Err(refusal) => return Err(Box::new((request, refusal))),
    };
    let Some(keys) = daemon.keys() else {
        let why = match daemon.state() {
            State::Stopping => "the daemon is stopping",
            State::Locked | State::Running => "the daemon is locked; run: hikyaku unlock",
        };
        return Err(Box::new((request, Refusal::new(503, why))));
    };
    let Some(reading) = readers.enter() else {
        let why = format!(
            "{} requests read the log already; try again later",
            readers.max
        );
        return Err(Box::new((request, Refusal::new(503, why))));
    };
    let follow = if wanted.follow { " and follows it" } else { "" };
    daemon.note(&format!(
        "{caller} reads the delivery log{follow}: {}",
        wanted.asked
    ));
    let daemon = daemon.clone();
    let spawned = thread::Builder::new()
        .name("control-log".into())
        .spawn(move || {
            let _reading = reading;
            // The client went away: nothing to tell anybody.
            let _ = send(request, &wanted, &*daemon, keys);
        });
    // The request went with the thread; if that could not be started it was answered 500 when
    // dropped.
    drop(spawned);
    Ok(())
}

fn wanted(target: Target) -> Result<Wanted, Refusal> {
    let mut target = target;
    let format = target.format;
    let lines_max = target.take_limit(LINES_DEFAULT, LINES_MAX)?;
    let follow = match target.take("follow").as_deref() {
        None | Some("0") => false,
        Some("1" | "") => true,
        Some(other) => {
            return Err(Refusal::new(
                400,
                format!("follow `{other}` must be 0 or 1"),
            ));
        }
    };
    let mut filter = LogFilter::default();
    let mut asked = String::new();
    for (name, value) in target.take_rest() {
        filter
            .set(&name, &value, unix_now())
            .map_err(|why| Refusal::new(400, format!("{name}: {why}")))?;
        let space = if asked.is_empty() { "" } else { " " };
        asked.push_str(space);
        asked.push_str(&name);
        asked.push('=');
        escape_tsv(&value, &mut asked);
    }
    if asked.is_empty() {
        asked.push_str("all of it");
    }
    Ok(Wanted {
        filter,
        format,
        lines_max,
        follow,
        asked,
    })
}

fn send(
    request: Request,
    wanted: &Wanted,
    daemon: &dyn Daemon,
    keys: Arc<KeyRing>,
) -> io::Result<()> {
    let content_type = match wanted.format {
        Format::Tsv => TSV,
        Format::Json => JSON_LINES,
    };
    let mut out = Chunks {
        writer: request.into_writer(),
        text: String::new(),
        lines: 0,
    };
    write!(
        out.writer,
        "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nCache-Control: no-store\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    )?;
    if wanted.format == Format::Tsv {
        write_tsv_header(&mut out.text);
    }
    // Where the log ends is asked first: what is written while the old lines are read is then
    // followed, not lost.
    let ends = if wanted.follow {
        log_ends(daemon)
    } else {
        Vec::new()
    };
    if !wanted.follow || wanted.filter.since.is_some() {
        let mut result = Ok(());
        let data_dir = daemon.data_dir();
        let damage = read_all(&data_dir, &keys, &wanted.filter, &ends, |record| match out
            .line(record, wanted)
        {
            Ok(ControlFlow::Continue(())) => Go::On,
            Ok(ControlFlow::Break(())) => Go::Stop,
            Err(error) => {
                result = Err(error);
                Go::Stop
            }
        })?;
        result?;
        for damage in damage {
            daemon.note(&format!("delivery log: {}", damage.text));
        }
    }
    out.flush()?;
    if wanted.follow {
        let data_dir = daemon.data_dir();
        let mut followed: Vec<Follow> = ends
            .iter()
            .map(|end| Follow::new(&data_dir, keys.clone(), *end))
            .collect();
        follow(&mut out, &mut followed, wanted, daemon, &keys)?;
    }
    out.end()
}

/// The end of each shard's log; a shard that does not answer is left out until it does.
fn log_ends(daemon: &dyn Daemon) -> Vec<LogEnd> {
    ask_each(daemon, &Query::LogEnd)
        .into_iter()
        .filter_map(|(_, answer)| match answer {
            Ok(Answer::LogEnd(end)) => end,
            _ => None,
        })
        .collect()
}

fn follow(
    out: &mut Chunks,
    followed: &mut Vec<Follow>,
    wanted: &Wanted,
    daemon: &dyn Daemon,
    keys: &Arc<KeyRing>,
) -> io::Result<()> {
    let mut last_sent = Instant::now();
    while daemon.state() == State::Running {
        for end in log_ends(daemon) {
            let known = followed
                .iter()
                .position(|follow| follow.shard() == end.shard);
            let index = known.unwrap_or_else(|| {
                // It had logged nothing when the request came, so all that it has now is new.
                let from = LogEnd { offset: 0, ..end };
                followed.push(Follow::new(&daemon.data_dir(), keys.clone(), from));
                followed.len() - 1
            });
            let follow = &mut followed[index];
            let mut result = Ok(ControlFlow::Continue(()));
            let read = follow.read_to(end, &wanted.filter, |record| {
                result = out.line(record, wanted);
                if matches!(result, Ok(ControlFlow::Continue(()))) {
                    Go::On
                } else {
                    Go::Stop
                }
            });
            if result? == ControlFlow::Break(()) {
                return out.flush();
            }
            if let Err(error) = read {
                daemon.note(&format!("delivery log of shard {}: {error}", end.shard.0));
            }
        }
        if !out.text.is_empty() {
            last_sent = Instant::now();
        } else if last_sent.elapsed() >= SIGN_OF_LIFE_EVERY {
            out.text.push('\n');
            last_sent = Instant::now();
        }
        out.flush()?;
        thread::sleep(FOLLOW_EVERY);
    }
    Ok(())
}

/// Lines on their way out as chunks (RFC 9112 §7.1).
struct Chunks {
    writer: Box<dyn Write + Send + 'static>,
    text: String,
    lines: usize,
}

impl Chunks {
    fn line(&mut self, record: &LogRecord<'_>, wanted: &Wanted) -> io::Result<ControlFlow<()>> {
        match wanted.format {
            Format::Tsv => write_tsv_line(record, &mut self.text),
            Format::Json => write_json_line(record, &mut self.text),
        }
        self.lines += 1;
        if self.text.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        let enough = self.lines >= wanted.lines_max;
        Ok(if enough {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.text.is_empty() {
            write!(self.writer, "{:x}\r\n{}\r\n", self.text.len(), self.text)?;
            self.writer.flush()?;
            self.text.clear();
        }
        Ok(())
    }

    fn end(mut self) -> io::Result<()> {
        self.flush()?;
        self.writer.write_all(b"0\r\n\r\n")?;
        self.writer.flush()
    }
}
