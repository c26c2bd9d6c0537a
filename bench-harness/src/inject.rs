//! The injector: many SMTP sessions at once, each message remembered with what it was answered.
//!
//! One thread, one buffer pair a session. With pipelining the envelope of the next message goes out
//! together with the content of this one (RFC 2920 allows commands behind the final dot), so a
//! message costs one write and about one read.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::domains::{DomainMix, Spread, expand};
use crate::failure::{Context, Failure};
use crate::message::{RECIPIENTS_MAX, Template, now_us};
use crate::random::Random;
use crate::report;
use crate::thread::{Stop, spawn};

/// Longest reply taken, in bytes.
const REPLY_BYTES_MAX: usize = 64 << 10;
/// A reply must come within this.
const REPLY_TIMEOUT: Duration = Duration::from_secs(300);
/// Wait before connecting again after a failure.
const RECONNECT: Duration = Duration::from_millis(20);

/// What to send.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The relay.
    pub target: SocketAddr,
    /// Sessions at once.
    pub sessions: usize,
    /// Messages in all; `u64::MAX` to go on until stopped.
    pub messages: u64,
    /// Recipients a message, each an id of its own.
    pub recipients: usize,
    /// Content bytes a message.
    pub size_bytes: usize,
    /// Messages a connection.
    pub per_connection: u64,
    /// Pipeline where the relay offers it.
    pub pipelining: bool,
    /// Messages a second over all sessions; `None`: flat out.
    pub rate_per_s: Option<f64>,
    /// Where messages go.
    pub domains: DomainMix,
    /// Run number put into each message.
    pub run: u32,
    /// Seed of the domain choice.
    pub seed: u64,
    /// Extra header lines, without CRLF.
    pub headers: Vec<String>,
    /// Go on after lost connections (the relay is killed on purpose); otherwise a failure ends it.
    pub reconnect: bool,
    /// First id to use.
    pub first_id: u64,
}

impl Plan {
    /// 1 KB messages over 100 sessions to `domains` at `target`, flat out, until stopped.
    pub fn new(target: SocketAddr, domains: DomainMix, run: u32) -> Self {
        Self {
            target,
            sessions: 100,
            messages: u64::MAX,
            recipients: 1,
            size_bytes: 1024,
            per_connection: u64::MAX,
            pipelining: true,
            rate_per_s: None,
            domains,
            run,
            seed: 1,
            headers: vec![],
            reconnect: false,
            first_id: 0,
        }
    }
}

/// How one recipient's message ended at the relay's door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// When its content was sent, µs since 1970; 0: not at all.
    pub sent_us: u64,
    /// From the content's write to the final reply; with a rate, from when its turn was.
    pub latency_us: u32,
    /// The final reply code; 0: none came.
    pub code: u16,
    /// Its domain, as an index into the mix.
    pub domain: u32,
}

/// Counts a reporter may read while the injector runs.
#[derive(Debug, Default)]
pub struct Progress {
    /// Recipients' messages answered 250.
    pub accepted: AtomicU64,
    /// Answered 4xx.
    pub deferred: AtomicU64,
    /// Answered 5xx.
    pub refused: AtomicU64,
    /// Connections that could not be had or broke.
    pub broken: AtomicU64,
}

/// What the injector did.
#[derive(Debug)]
pub struct Injected {
    /// Outcome by id, from [`Plan::first_id`] on.
    pub outcomes: Vec<Outcome>,
    /// Acceptance latency in µs: content sent to 250 seen. With a rate it begins when the message's turn
    /// was: a relay that stalls is charged for what it kept from being sent, too.
    pub latency_us: Histogram<u64>,
    /// First connect to last reply.
    pub elapsed: Duration,
    /// Why a session gave up, if one did.
    pub failure: Option<String>,
    first_id: u64,
}

impl Injected {
    /// Ids that were answered 250.
    pub fn accepted(&self) -> impl Iterator<Item = u64> + '_ {
        let ids = self
            .outcomes
            .iter()
            .enumerate()
            .filter(|(_, outcome)| outcome.code == 250);
        ids.map(|(index, _)| index as u64 + self.first_id)
    }

    /// How many were answered 250.
    pub fn accepted_count(&self) -> u64 {
        self.accepted().count() as u64
    }

    /// Sent in whole or part, but never answered.
    pub fn unanswered_count(&self) -> u64 {
        self.outcomes
            .iter()
            .filter(|o| o.code == 0 && o.sent_us > 0)
            .count() as u64
    }
}

/// A running injector on a thread of its own.
#[derive(Debug)]
pub struct Injector {
    /// Counts so far.
    pub progress: Arc<Progress>,
    stop: Stop,
    thread: std::thread::JoinHandle<Injected>,
}

impl Injector {
    /// Starts sending.
    ///
    /// # Errors
    /// [`Failure::Setup`] when the plan cannot be, [`Failure::Io`] when no thread can be had.
    pub fn start(plan: Plan) -> Result<Self, Failure> {
        if plan.recipients == 0 || plan.recipients > RECIPIENTS_MAX {
            return Err(Failure::setup(format!(
                "recipients must be 1 to {RECIPIENTS_MAX}"
            )));
        }
        let (progress, stop) = (Arc::new(Progress::default()), Stop::default());
        let (theirs, ends) = (Arc::clone(&progress), stop.clone());
        let thread = spawn("injector", move || run_plan(plan, theirs, ends))?;
        Ok(Self {
            progress,
            stop,
            thread,
        })
    }

    /// Whether it has sent everything.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Asks it to end after the messages in flight.
    pub fn stop(&self) {
        self.stop.stop();
    }

    /// Waits for its end.
    pub fn join(self) -> Injected {
        match self.thread.join() {
            Ok(injected) => injected,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

struct State {
    plan: Plan,
    template: Template,
    progress: Arc<Progress>,
    stop: Stop,
    sent: Cell<u64>,
    outcomes: RefCell<Vec<Outcome>>,
    latency_us: RefCell<Histogram<u64>>,
    random: RefCell<Random>,
    next_slot: Cell<Instant>,
    failure: RefCell<Option<String>>,
}

/// One message to be sent: its ids are `first..first + recipients`.
struct Letter {
    first: u64,
    domain: String,
    /// When it should have been sent, if there is a rate.
    due: Option<Instant>,
    content_at: Option<Instant>,
    /// Reply code by recipient.
    rcpt: Vec<u16>,
}

async fn run_plan(plan: Plan, progress: Arc<Progress>, stop: Stop) -> Injected {
    let started = Instant::now();
    let latency_us = Histogram::new_with_bounds(1, 600_000_000, 3)
        .expect("bounds of a histogram are constants that fit");
    let (sessions, first_id) = (plan.sessions, plan.first_id);
    let state = Rc::new(State {
        template: Template::new(plan.run, plan.size_bytes, &plan.headers),
        random: RefCell::new(Random::new(plan.seed)),
        plan,
        progress,
        stop,
        sent: Cell::new(0),
        outcomes: RefCell::default(),
        latency_us: RefCell::new(latency_us),
        next_slot: Cell::new(started),
        failure: RefCell::default(),
    });
    let tasks: Vec<_> = (0..sessions)
        .map(|_| tokio::task::spawn_local(sessions_in_turn(Rc::clone(&state))))
        .collect();
    for task in tasks {
        let _ = task.await;
    }
    let latency_us = state.latency_us.borrow().clone();
    Injected {
        outcomes: state.outcomes.take(),
        latency_us,
        elapsed: started.elapsed(),
        failure: state.failure.take(),
        first_id,
    }
}

/// Connects and sends until there is nothing left to send.
async fn sessions_in_turn(state: Rc<State>) {
    while state.more() {
        let ended = Connection::run(&state).await;
        if let Err(error) = ended {
            state.progress.broken.fetch_add(1, Relaxed);
            if !state.plan.reconnect {
                let text = format!("session with {}: {error}", state.plan.target);
                state.failure.borrow_mut().get_or_insert(text);
                state.stop.stop();
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(RECONNECT) => {}
                () = state.stop.wait() => return,
            }
        }
    }
}

impl State {
    fn more(&self) -> bool {
        !self.stop.is_set() && self.sent.get() < self.plan.messages
    }

    /// The next message, unless the plan is fulfilled.
    fn next(&self) -> Option<Letter> {
        if !self.more() {
            return None;
        }
        let recipients = self.plan.recipients as u64;
        let index = self.sent.get() * recipients;
        self.sent.set(self.sent.get() + 1);
        let grown = (index + recipients) as usize;
        let (number, domain) = self.plan.domains.pick(&mut self.random.borrow_mut());
        let blank = Outcome {
            domain: number,
            ..Outcome::default()
        };
        self.outcomes.borrow_mut().resize(grown, blank);
        Some(Letter {
            first: self.plan.first_id + index,
            domain: domain.to_owned(),
            due: None,
            content_at: None,
            rcpt: Vec::with_capacity(self.plan.recipients),
        })
    }

    /// Waits for this message's turn when there is a rate; says when it was.
    async fn pace(&self) -> Option<Instant> {
        let rate = self.plan.rate_per_s?;
        let slot = self.next_slot.get();
        self.next_slot
            .set(slot + Duration::from_secs_f64(1.0 / rate.max(0.001)));
        tokio::select! {
            () = tokio::time::sleep_until(slot.into()) => {}
            () = self.stop.wait() => {}
        }
        Some(slot)
    }

    fn settle(&self, letter: &Letter, code: u16) {
        let begun = letter.due.or(letter.content_at);
        let latency = begun.map_or(Duration::ZERO, |at| at.elapsed());
        let latency_us = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        if code == 250 {
            self.latency_us
                .borrow_mut()
                .saturating_record(u64::from(latency_us).max(1));
        }
        let mut outcomes = self.outcomes.borrow_mut();
        for n in 0..self.plan.recipients {
            let refused = letter.rcpt.get(n).copied().filter(|code| *code >= 400);
            let code = refused.unwrap_or(code);
            let outcome = &mut outcomes[(letter.first - self.plan.first_id) as usize + n];
            outcome.code = code;
            outcome.latency_us = latency_us;
            let counter = match code {
                200..=299 => &self.progress.accepted,
                400..=499 => &self.progress.deferred,
                _ => &self.progress.refused,
            };
            counter.fetch_add(1, Relaxed);
        }
    }
}

struct Connection<'a> {
    state: &'a State,
    stream: TcpStream,
    input: Vec<u8>,
    at: usize,
    out: Vec<u8>,
}

impl<'a> Connection<'a> {
    async fn run(state: &'a State) -> io::Result<()> {
        let stream = TcpStream::connect(state.plan.target).await?;
        stream.set_nodelay(true)?;
        let (input, out) = (Vec::with_capacity(4096), Vec::with_capacity(8192));
        let mut connection = Connection {
            state,
            stream,
            input,
            at: 0,
            out,
        };
        connection.expect(220, "greeting").await?;
        connection.out.extend_from_slice(b"EHLO bench.example\r\n");
        connection.flush().await?;
        let (code, offers) = connection.reply().await?;
        if code != 250 {
            return Err(unexpected("EHLO", code));
        }
        let offered = memmem::find(&connection.input[offers], b"PIPELINING").is_some();
        let pipelining = state.plan.pipelining && offered;
        connection.messages(pipelining).await?;
        connection.out.extend_from_slice(b"QUIT\r\n");
        connection.flush().await?;
        connection.expect(221, "QUIT").await
    }

    async fn messages(&mut self, pipelining: bool) -> io::Result<()> {
        let ahead = pipelining && self.state.plan.rate_per_s.is_none();
        let mut left = self.state.plan.per_connection;
        let mut waiting: Option<Letter> = None;
        while left > 0 {
            left -= 1;
            let mut letter = match waiting.take() {
                Some(letter) => letter,
                None => {
                    let due = self.state.pace().await;
                    let Some(mut letter) = self.state.next() else {
                        return Ok(());
                    };
                    letter.due = due;
                    self.envelope(&letter, pipelining).await?;
                    letter
                }
            };
            let code = self.envelope_replies(&mut letter, pipelining).await?;
            if code != 354 {
                self.state.settle(&letter, code);
                self.reset().await?;
                continue;
            }
            self.content(&mut letter);
            let next = if ahead && left > 0 {
                self.state.next()
            } else {
                None
            };
            if let Some(next) = &next {
                self.write_envelope(next);
            }
            self.flush().await?;
            let (code, _) = self.reply().await?;
            self.state.settle(&letter, code);
            waiting = next;
            if code == 421 {
                return Ok(());
            }
        }
        Ok(())
    }

    fn write_envelope(&mut self, letter: &Letter) {
        self.out
            .extend_from_slice(b"MAIL FROM:<bench@sender.example>\r\n");
        for n in 0..self.state.plan.recipients as u64 {
            self.write_recipient(letter, n);
        }
        self.out.extend_from_slice(b"DATA\r\n");
    }

    fn write_recipient(&mut self, letter: &Letter, n: u64) {
        use std::io::Write as _;
        // Writing to a Vec cannot fail.
        let _ = write!(
            self.out,
            "RCPT TO:<u{:x}@{}>\r\n",
            letter.first + n,
            letter.domain
        );
    }

    /// Sends the envelope: all of it with pipelining, else its first command.
    async fn envelope(&mut self, letter: &Letter, pipelining: bool) -> io::Result<()> {
        if pipelining {
            self.write_envelope(letter);
        } else {
            self.out
                .extend_from_slice(b"MAIL FROM:<bench@sender.example>\r\n");
        }
        self.flush().await
    }

    /// Reads (and without pipelining goes on sending) up to DATA's reply. The code that decides: 354,
    /// or the refusal of MAIL, of all recipients or of DATA.
    async fn envelope_replies(&mut self, letter: &mut Letter, pipelining: bool) -> io::Result<u16> {
        let (mail, _) = self.reply().await?;
        for n in 0..self.state.plan.recipients as u64 {
            if !pipelining {
                self.write_recipient(letter, n);
                self.flush().await?;
            }
            letter.rcpt.push(self.reply().await?.0);
        }
        if !pipelining {
            self.out.extend_from_slice(b"DATA\r\n");
            self.flush().await?;
        }
        let (data, _) = self.reply().await?;
        if mail >= 400 {
            // What was answered to the recipients of a refused MAIL says nothing (503).
            letter.rcpt.clear();
            return Ok(mail);
        }
        let refused = letter.rcpt.iter().all(|code| *code >= 400);
        Ok(match data {
            354 => 354,
            _ if refused => letter.rcpt[0],
            _ => data,
        })
    }

    fn content(&mut self, letter: &mut Letter) {
        let at_us = now_us();
        letter.content_at = Some(Instant::now());
        let mut outcomes = self.state.outcomes.borrow_mut();
        let index = (letter.first - self.state.plan.first_id) as usize;
        for outcome in &mut outcomes[index..index + self.state.plan.recipients] {
            outcome.sent_us = at_us;
        }
        let to = format!("u{:x}@{}", letter.first, letter.domain);
        let from = "bench@sender.example";
        self.state
            .template
            .write(&mut self.out, letter.first, from, &to, at_us);
        self.out.extend_from_slice(b".\r\n");
    }

    async fn reset(&mut self) -> io::Result<()> {
        self.out.extend_from_slice(b"RSET\r\n");
        self.flush().await?;
        self.reply().await.map(drop)
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    async fn expect(&mut self, wanted: u16, to: &str) -> io::Result<()> {
        let (code, _) = self.reply().await?;
        if code == wanted {
            Ok(())
        } else {
            Err(unexpected(to, code))
        }
    }

    /// One reply: its code, and where its bytes are until the next read.
    async fn reply(&mut self) -> io::Result<(u16, std::ops::Range<usize>)> {
        let mut line = self.at;
        loop {
            if let Some(length) = memchr::memchr(b'\n', &self.input[line..]) {
                let text = &self.input[line..line + length];
                line += length + 1;
                if text.get(3) == Some(&b'-') {
                    continue;
                }
                let code = text.get(..3).and_then(|c| std::str::from_utf8(c).ok());
                let code = code.and_then(|code| code.parse().ok()).ok_or_else(|| {
                    let text = String::from_utf8_lossy(text).into_owned();
                    io::Error::new(io::ErrorKind::InvalidData, format!("no reply: {text:?}"))
                })?;
                let whole = self.at..line;
                self.at = line;
                return Ok((code, whole));
            }
            if self.at == self.input.len() {
                self.input.clear();
                line = 0;
                self.at = 0;
            }
            if self.input.len() > REPLY_BYTES_MAX {
                self.input.drain(..self.at);
                line -= self.at;
                self.at = 0;
                if self.input.len() > REPLY_BYTES_MAX {
                    return Err(io::Error::other("endless reply"));
                }
            }
            let read = self.stream.read_buf(&mut self.input);
            if tokio::time::timeout(REPLY_TIMEOUT, read).await?? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn unexpected(to: &str, code: u16) -> io::Error {
    io::Error::other(format!("{to} was answered {code}"))
}

/// Send messages and report what they were answered.
#[derive(Debug, clap::Args)]
pub struct InjectArgs {
    /// The relay.
    #[arg(default_value = "127.0.0.1:2525")]
    target: SocketAddr,
    /// Messages in all.
    #[arg(long, short = 'm', default_value_t = 100_000)]
    messages: u64,
    /// Stop after so many seconds at the latest.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// Sessions at once.
    #[arg(long, short = 's', default_value_t = 100)]
    sessions: usize,
    /// Content bytes a message.
    #[arg(long, short = 'l', default_value_t = 1024)]
    size: usize,
    /// Recipients a message.
    #[arg(long, short = 'r', default_value_t = 1)]
    recipients: usize,
    /// Messages a connection.
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    per_connection: u64,
    /// One command at a time, even where the relay offers PIPELINING.
    #[arg(long)]
    no_pipelining: bool,
    /// Messages a second; flat out without.
    #[arg(long)]
    rate: Option<f64>,
    /// Recipient domains; {0..100} makes a hundred.
    #[arg(long, short = 'd', default_value = "d{0..10}.example")]
    domains: String,
    /// How messages spread over the domains.
    #[arg(long, value_enum, default_value_t = Spread::Uniform)]
    spread: Spread,
    /// Extra header line, may be repeated.
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// Seed of the domain choice.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run number in the messages' ids.
    #[arg(long, default_value_t = 1)]
    run: u32,
    /// Go on after lost connections.
    #[arg(long)]
    reconnect: bool,
    /// Write one line per id here: id, sent (µs since 1970), reply code, latency in µs.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// Runs `hikyaku-bench inject`.
///
/// # Errors
/// When the plan is wrong, the relay cannot be reached, or the record cannot be written.
pub fn run(args: &InjectArgs) -> Result<(), Failure> {
    let domains = DomainMix::spread(&expand(&args.domains)?, args.spread)?;
    let plan = Plan {
        sessions: args.sessions,
        messages: args.messages,
        recipients: args.recipients,
        size_bytes: args.size,
        per_connection: args.per_connection,
        pipelining: !args.no_pipelining,
        rate_per_s: args.rate,
        seed: args.seed,
        headers: args.header.clone(),
        reconnect: args.reconnect,
        ..Plan::new(args.target, domains, args.run)
    };
    let (messages, recipients) = (plan.messages, plan.recipients as u64);
    let injector = Injector::start(plan)?;
    let bar = report::bar(messages.saturating_mul(recipients), "accepted");
    let started = Instant::now();
    while !injector.is_finished() {
        std::thread::sleep(Duration::from_millis(100));
        bar.set_position(injector.progress.accepted.load(Relaxed));
        if args
            .seconds
            .is_some_and(|end| started.elapsed().as_secs_f64() >= end)
        {
            injector.stop();
        }
    }
    bar.finish_and_clear();
    let progress = Arc::clone(&injector.progress);
    let injected = injector.join();
    if let Some(path) = &args.record {
        write_record(path, &injected)?;
    }
    let accepted = injected.accepted_count();
    let rate = accepted as f64 / injected.elapsed.as_secs_f64() / recipients as f64;
    println!(
        "recipients: accepted {accepted}, 4xx {}, 5xx {}, unanswered {}, broken connections {}",
        progress.deferred.load(Relaxed),
        progress.refused.load(Relaxed),
        injected.unanswered_count(),
        progress.broken.load(Relaxed),
    );
    println!(
        "{:.1} s, {rate:.0} messages/s, {}",
        injected.elapsed.as_secs_f64(),
        report::hour(rate)
    );
    println!("acceptance {}", report::percentiles(&injected.latency_us));
    match injected.failure {
        Some(text) => Err(Failure::setup(text)),
        None => Ok(()),
    }
}

fn write_record(path: &PathBuf, injected: &Injected) -> Result<(), Failure> {
    use std::io::Write as _;
    let what = || format!("cannot write the record {}", path.display());
    let mut file = io::BufWriter::new(std::fs::File::create(path).context(what)?);
    writeln!(file, "id\tsent_us\tcode\tlatency_us").context(what)?;
    for (n, outcome) in injected.outcomes.iter().enumerate() {
        let id = injected.first_id + n as u64;
        let Outcome {
            sent_us,
            latency_us,
            code,
            ..
        } = outcome;
        writeln!(file, "{id}\t{sent_us}\t{code}\t{latency_us}").context(what)?;
    }
    file.flush().context(what)
}
