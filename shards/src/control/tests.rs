//! The control plane over a real socket, with a daemon that has no shards of its own.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Sender, bounded};
use datadir::Installation;
use datadir::installation::KdfCost;
use engine::counters::{Counter, Counters};
use engine::delivery_log::{LogBatch, LogRecord};
use engine::ids::{QueueId, SegmentId};
use engine::operator::LogEnd;
use engine::queue::cipher::{SegmentName, Stream};
use engine::queue::record::{OutcomeKind, Record};
use engine::queue::segment::{BLOCK_BYTES, SegmentHeader, SegmentWriter, file_name};
use engine::schedule::Binding;
use engine::shard::{DestinationView, ShardStatus, Why};

use super::*;

#[path = "tests/stops.rs"]
mod stops;

struct FakeDaemon {
    installation: Installation,
    keys: Mutex<Option<Arc<KeyRing>>>,
    notes: Mutex<Vec<String>>,
    log_written: AtomicU64,
    silent: Mutex<bool>,
    unanswered: Mutex<Vec<Sender<Answer>>>,
    /// An unlock waits until the far end of this is gone.
    unlocking: Mutex<Option<Receiver<()>>>,
    stops: Mutex<Arc<StopBook>>,
}

impl Daemon for FakeDaemon {
    fn state(&self) -> State {
        if self.keys.lock().unwrap().is_some() {
            State::Running
        } else {
            State::Locked
        }
    }
    fn started(&self) -> UnixMs {
        UnixMs(1_700_000_000_000)
    }

    fn uptime(&self) -> Duration {
        Duration::from_secs(90)
    }
    fn hostname(&self) -> String {
        "relay.example.jp".into()
    }
    fn data_dir(&self) -> PathBuf {
        self.installation.data_dir().to_owned()
    }
    fn shards(&self) -> u16 {
        if self.state() == State::Locked { 0 } else { 2 }
    }
    fn answer_timeout(&self) -> Duration {
        Duration::from_millis(if *self.silent.lock().unwrap() {
            50
        } else {
            10_000
        })
    }
    fn hosts(&self) -> Vec<String> {
        vec!["control".into()]
    }
    fn ask(&self, shard: ShardId, query: Query) -> Result<Receiver<Answer>, AskError> {
        let (reply, answer) = bounded(1);
        if *self.silent.lock().unwrap() {
            // Kept, as a shard that is busy keeps it.
            self.unanswered.lock().unwrap().push(reply);
            return Ok(answer);
        }
        let queue_id = QueueId(u64::from(shard.0) + 7);
        let why = Why {
            queue_id,
            domain: "example.com".into(),
            recipients: 2,
            attempts: 3,
            binding: Binding::Retry {
                attempts: 3,
                retry_in_s: 60,
            },
        };
        let told = match query {
            Query::Status => Answer::Status(Box::new(ShardStatus {
                shard,
                replaying: shard.0 == 1,
                queued: 10,
                deferred: 4,
                delivering: 1,
                queued_messages: 6,
                delivered: 5,
                failed: 0,
                expired: 0,
                destinations: 1,
                connections: 2,
                memory_bytes: 1_000,
                waiting_bytes: 0,
                segments: 1,
                unread: Vec::new(),
                broken_segments: 0,
                unread_bytes: 0,
                log_dropped_lines: 0,
                overload: "",
            })),
            Query::Counters(by, window) => {
                let mut counters = Counters::new(UnixMs(1_700_000_000_000), 10, 10);
                let (domain, group) = (counters.domain("example.com"), counters.group("news"));
                counters.count(domain, group, Counter::Delivered, 5);
                Answer::Counters(counters.table(by, window))
            }
            Query::Destination(domain) if domain != "example.com" => Answer::Destinations(vec![]),
            Query::Destinations { .. } | Query::Destination(_) => {
                Answer::Destinations(vec![DestinationView {
                    domain: "example.com".into(),
                    site: "mx.example.com".into(),
                    ready: u64::from(shard.0),
                    deferred: 4,
                    busy: 0,
                    suspended: 0,
                    connections: 2,
                    binding: Some(Binding::SessionsMax { sessions: 2 }),
                    pace_per_min: 0,
                    last_reply: "mx.example.com said: 450 4.2.0 later".into(),
                }])
            }
            Query::Message(id) if id != queue_id => Answer::Messages(vec![]),
            Query::Message(_) | Query::Search { .. } => Answer::Messages(vec![why]),
            Query::Retry { domain } => Answer::Retried(if domain.is_some() { 1 } else { 4 }),
            Query::Stops(_) => Answer::Stopped,
            Query::Count(_) => Answer::Counted(engine::shard::stops::Selected {
                messages: 3,
                recipients: 4,
                in_flight: 1,
                unknown: 0,
            }),
            Query::LogEnd => Answer::LogEnd((shard.0 == 0).then(|| LogEnd {
                shard,
                segment: SegmentId(1),
                offset: self.log_written.load(Ordering::SeqCst),
            })),
        };
        reply.send(told).unwrap();
        Ok(answer)
    }
    fn keys(&self) -> Option<Arc<KeyRing>> {
        self.keys.lock().unwrap().clone()
    }
    fn unlock(&self, passphrase: LockedBytes) -> Result<(), Refusal> {
        let unlocking = self.unlocking.lock().unwrap().take();
        if let Some(unlocking) = unlocking {
            let _ = unlocking.recv();
        }
        let ring = self
            .installation
            .unlock(&passphrase)
            .map_err(|error| Refusal::new(403, error.to_string()))?;
        *self.keys.lock().unwrap() = Some(Arc::new(ring));
        Ok(())
    }
    fn rekey(&self, old: LockedBytes, new: LockedBytes) -> Result<KeyId, Refusal> {
        let ring = self.keys().unwrap();
        self.installation
            .unlock(&old)
            .map_err(|error| Refusal::new(403, error.to_string()))?;
        let ring = self
            .installation
            .rekey(&ring, &new, KdfCost::Least)
            .map_err(|error| Refusal::new(500, error.to_string()))?;
        Ok(ring.current_id())
    }
    fn reload(&self) -> Result<Vec<String>, Refusal> {
        Ok(vec!["server.shards takes effect after a restart".into()])
    }
    fn stops(&self) -> Arc<StopBook> {
        Arc::clone(&self.stops.lock().unwrap())
    }
    fn change_stops(
        &self,
        change: &dyn Fn(&StopBook) -> Result<StopBook, Refusal>,
    ) -> Result<Arc<StopBook>, Refusal> {
        let mut stops = self.stops.lock().unwrap();
        *stops = Arc::new(change(&stops)?);
        Ok(Arc::clone(&stops))
    }
    fn note(&self, line: &str) {
        self.notes.lock().unwrap().push(line.to_owned());
    }
}

struct Bench {
    _directory: tempfile::TempDir,
    socket: PathBuf,
    daemon: Arc<FakeDaemon>,
}

impl Bench {
    fn locked() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let installation = Installation::new(
            &directory.path().join("data"),
            &directory.path().join("secret"),
        );
        installation.init(b"open sesame", KdfCost::Least).unwrap();
        let daemon = Arc::new(FakeDaemon {
            installation,
            keys: Mutex::new(None),
            notes: Mutex::default(),
            log_written: AtomicU64::new(0),
            silent: Mutex::new(false),
            unanswered: Mutex::default(),
            unlocking: Mutex::default(),
            stops: Mutex::default(),
        });
        let socket = directory.path().join("run/control.sock");
        serve(listen(&socket).unwrap(), daemon.clone()).unwrap();
        Self {
            _directory: directory,
            socket,
            daemon,
        }
    }

    fn running() -> Self {
        let bench = Self::locked();
        let ring = bench.daemon.installation.unlock(b"open sesame").unwrap();
        *bench.daemon.keys.lock().unwrap() = Some(Arc::new(ring));
        bench
    }

    fn send(&self, method: &str, target: &str, headers: &str, body: &str) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        write!(
            stream,
            "{method} {target} HTTP/1.1\r\nHost: control\r\nConnection: close\r\n{headers}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        stream
    }

    fn ask(&self, method: &str, target: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = self.send(method, target, headers, body);
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        (
            head.split(' ').nth(1).unwrap().parse().unwrap(),
            body.to_owned(),
        )
    }

    /// The whole answer, head and all, to a request with fields of one's own.
    fn raw(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    }

    fn get(&self, target: &str) -> (u16, String) {
        self.ask("GET", target, "", "")
    }

    fn notes(&self) -> String {
        self.daemon.notes.lock().unwrap().join("\n")
    }
}

#[test]
fn the_socket_is_private_and_a_stale_one_is_replaced() {
    let bench = Bench::locked();
    let mode = std::fs::metadata(&bench.socket)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let error = listen(&bench.socket).unwrap_err().to_string();
    assert!(error.contains("a daemon answers there already"), "{error}");
    let stale = bench.socket.with_file_name("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    listen(&stale).unwrap();
    let file = bench.socket.with_file_name("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(
        listen(&file)
            .unwrap_err()
            .to_string()
            .contains("something else")
    );
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

#[test]
fn a_locked_daemon_serves_status_and_unlock_only() {
    let bench = Bench::locked();
    let (status, body) = bench.get("/api/v1/status");
    assert_eq!(status, 200);
    assert!(
        body.starts_with("state\thostname\tversion\t")
            && body.contains("\nlocked\trelay.example.jp\t")
    );
    for path in [
        "/healthz",
        "/api/v1/counters",
        "/api/v1/shards",
        "/api/v1/log",
    ] {
        let (status, body) = bench.get(path);
        assert_eq!(
            (status, body.as_str()),
            (503, "error\tthe daemon is locked; run: hikyaku unlock\n")
        );
    }
    let (status, body) = bench.ask("POST", "/api/v1/unlock", "", "wrong");
    assert_eq!(status, 403);
    assert!(body.starts_with("error\twrong key: "), "{body}");
    assert_eq!(bench.ask("POST", "/api/v1/unlock", "", "").0, 400);
    assert_eq!(bench.get("/api/v1/unlock").0, 405);
    let unlocked = bench.ask("POST", "/api/v1/unlock", "", "open sesame\n");
    assert_eq!(unlocked, (200, "result\nunlocked\n".to_owned()));
    assert_eq!(
        bench.ask("POST", "/api/v1/unlock", "", "open sesame").0,
        409
    );
    assert_eq!(bench.get("/healthz"), (200, "ok\n".to_owned()));
    assert!(bench.notes().contains("unlocked"));
    assert!(!bench.notes().contains("sesame"));
}

#[test]
fn answers_of_all_shards_are_put_together() {
    let bench = Bench::running();
    let (_, body) = bench.get("/api/v1/status?format=json");
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status[0]["queued"], 20);
    assert_eq!(status[0]["queued_messages"], 12);
    let (_, body) = bench.get("/api/v1/why?domain=example.com&format=json");
    let rows: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        rows[0]["last_reply"],
        "mx.example.com said: 450 4.2.0 later"
    );
    assert_eq!(status[0]["replaying"], 1);
    let (_, body) = bench.get("/api/v1/counters?by=domain&window=all");
    let lines: Vec<&str> = body.lines().collect();
    assert!(
        lines[0].starts_with("domain\tqueued\tdeferred\tdelivering\tdelivered\t"),
        "{body}"
    );
    assert!(lines[1].starts_with("example.com\t0\t0\t0\t10\t"), "{body}");
    let (_, body) = bench.get("/api/v1/shards");
    assert_eq!(body.lines().count(), 3);
    assert!(body.contains("\n1\treplaying\t10\t"), "{body}");
    let (_, body) = bench.get("/api/v1/destinations?limit=1");
    assert_eq!(
        body.lines().nth(1).unwrap().split('\t').nth(2),
        Some("1"),
        "the one with more first"
    );
    let (_, body) = bench.get("/metrics");
    assert!(body.contains("hikyaku_delivered_total 10\n"), "{body}");
    assert!(body.contains("hikyaku_shard_queued{shard=\"1\"} 10\n") && body.ends_with("# EOF\n"));
    let (_, page) = bench.get("/");
    assert!(page.contains("<title>Hikyaku</title>"));
    assert!(
        !page.contains("http://") || page.matches("http://").count() == 1,
        "only the SVG name space"
    );
}

#[test]
fn why_tells_of_a_domain_or_a_message() {
    let bench = Bench::running();
    let (status, body) = bench.get("/api/v1/why?domain=Example.com");
    assert_eq!(status, 200);
    assert!(body.starts_with(
        "domain\tsite\tready\tdeferred\tbusy\tconnections\tbinding\tlast_reply\tunbound_by\tsuspended\tpace_per_min\n"
    ));
    assert!(body.contains("\ta transaction that ends; "), "{body}");
    assert_eq!(body.lines().count(), 3);
    for spelled in ["example.com.", "EXAMPLE.COM.", "%65xample%E3%80%82com"] {
        let (status, body) = bench.get(&format!("/api/v1/why?domain={spelled}"));
        assert_eq!(
            (status, body.lines().count()),
            (200, 3),
            "{spelled}: {body}"
        );
    }
    let (status, body) = bench.get("/api/v1/why?domain=%E6%97%A5%E6%9C%AC.example");
    assert_eq!(status, 404);
    assert!(body.contains("xn--wgv71a.example"), "{body}");
    assert_eq!(bench.get("/api/v1/why?domain=other.example").0, 404);
    let (_, body) = bench.get("/api/v1/why?queue_id=0000000000008");
    assert_eq!(body.lines().count(), 2, "one shard has it: {body}");
    let (status, body) = bench.get("/api/v1/why?queue_id=0000000000000");
    assert_eq!(status, 404);
    assert!(
        body.contains("hikyaku log --queue-id 0000000000000"),
        "{body}"
    );
    for bad in [
        "/api/v1/why",
        "/api/v1/why?queue_id=7",
        "/api/v1/why?domain=a&queue_id=b",
    ] {
        assert_eq!(bench.get(bad).0, 400, "{bad}");
    }
    assert_eq!(
        bench
            .get("/api/v1/queue?domain=example.com")
            .1
            .lines()
            .count(),
        3
    );
}

#[test]
fn errors_have_a_status_and_one_line() {
    let bench = Bench::running();
    for (target, status, part) in [
        ("/api/v1/nothing", 404, "/api/v1/status"),
        (
            "/api/v1/counters?by=colour",
            400,
            "must be total, domain or group",
        ),
        ("/api/v1/counters?window=days", 400, "all, hours or minutes"),
        ("/api/v1/counters?bi=domain", 400, "unknown parameter `bi`"),
        ("/api/v1/log?sinse=1h", 400, "unknown parameter `sinse`"),
        ("/api/v1/log?outcome=lost", 400, "delivered"),
        ("/api/v1/destinations?limit=x", 400, "limit `x`"),
    ] {
        let (found, body) = bench.get(target);
        assert_eq!(found, status, "{target}: {body}");
        assert!(
            body.starts_with("error\t") && body.contains(part),
            "{target}: {body}"
        );
        assert_eq!(body.lines().count(), 1);
        let (_, json) = bench.get(&format!(
            "{target}{}format=json",
            if target.contains('?') { '&' } else { '?' }
        ));
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert!(json["error"].as_str().unwrap().contains(part));
    }
    *bench.daemon.silent.lock().unwrap() = true;
    let (status, body) = bench.get("/api/v1/counters");
    assert_eq!(status, 504);
    assert!(body.contains("shard 0 did not answer in time"), "{body}");
}

#[test]
fn what_changes_something_needs_post_and_no_foreign_origin() {
    let bench = Bench::running();
    let retry = "/api/v1/retry?domain=example.com";
    assert_eq!(bench.get(retry).0, 405);
    assert_eq!(
        bench.ask("POST", retry, "", ""),
        (200, "retried\n2\n".to_owned())
    );
    for nothing in ["", "?domain=", "?all=0", "?all=1&domain=example.com"] {
        let (status, body) = bench.ask("POST", &format!("/api/v1/retry{nothing}"), "", "");
        assert_eq!(status, 400, "{nothing}");
        assert!(body.contains("domain=, all="), "{body}");
    }
    assert_eq!(
        bench.ask("POST", "/api/v1/retry?all=1", "", "").1,
        "retried\n8\n"
    );
    assert_eq!(
        bench.ask("GET", retry, "Authorization: Bearer x\r\n", "").0,
        200
    );
    assert_eq!(
        bench
            .ask("POST", retry, "Origin: https://evil.example\r\n", "")
            .0,
        403
    );
    assert_eq!(
        bench.ask("POST", retry, "Origin: http://control\r\n", "").0,
        200
    );
    let (_, body) = bench.ask("POST", "/api/v1/reload", "", "");
    assert_eq!(
        body,
        "result\nreloaded\nserver.shards takes effect after a restart\n"
    );
    assert_eq!(bench.ask("POST", "/api/v1/status", "", "").0, 405);
    for site in ["cross-site", "same-site"] {
        let led = format!("Sec-Fetch-Site: {site}\r\n");
        assert_eq!(bench.ask("POST", retry, &led, "").0, 403, "{site}");
    }
    let own = "Sec-Fetch-Site: same-origin\r\n";
    assert_eq!(bench.ask("POST", retry, own, "").0, 200);
}

#[test]
fn only_names_of_ours_are_answered() {
    let bench = Bench::running();
    let status = |request: String| -> u16 {
        let reply = bench.raw(&request);
        reply.split(' ').nth(1).unwrap().parse().unwrap()
    };
    for (host, wanted) in [
        ("localhost:8080", 200),
        ("127.0.0.1", 200),
        ("[::1]:9", 200),
        ("hikyaku", 200),
        ("CONTROL", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:80", 403),
        ("", 403),
    ] {
        for (method, path) in [("GET", "/api/v1/status"), ("POST", "/api/v1/retry?all=1")] {
            let found = status(format!(
                "{method} {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n\r\n"
            ));
            assert_eq!(found, wanted, "{method} {host}");
        }
    }
    let rebound = "POST /api/v1/rekey HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 25\r\n\r\n\
                   old=open+sesame&new=mine!";
    assert_eq!(status(rebound.to_owned()), 403);
    bench.daemon.installation.unlock(b"open sesame").unwrap();
}

#[test]
fn rekey_takes_the_passphrase_so_far() {
    let bench = Bench::running();
    for (body, status) in [
        ("a new passphrase", 400),
        ("new=mine", 400),
        ("old=&new=mine", 400),
        ("old=wrong&new=mine", 403),
    ] {
        assert_eq!(
            bench.ask("POST", "/api/v1/rekey", "", body).0,
            status,
            "{body}"
        );
    }
    assert!(bench.notes().contains("refused"), "{}", bench.notes());
    let body = "old=open+sesame&new=%61%20new%2Bpass%26phrase%ff%0A";
    let (status, answer) = bench.ask("POST", "/api/v1/rekey", "", body);
    assert_eq!(status, 200, "{answer}");
    bench
        .daemon
        .installation
        .unlock(b"a new+pass&phrase\xff")
        .unwrap();
    let too_long = format!("old=open+sesame&new={}", "x".repeat(PASSPHRASE_TOO_LONG));
    assert_eq!(bench.ask("POST", "/api/v1/rekey", "", &too_long).0, 413);
    assert!(!bench.notes().contains("sesame"));
}

#[test]
fn unknown_paths_and_methods_say_what_there_is() {
    let bench = Bench::running();
    for method in ["GET", "POST", "DELETE"] {
        let (status, body) = bench.ask(method, "/api/v1/nothing", "", "");
        assert_eq!(status, 404, "{method}");
        assert!(
            body.starts_with("error\tno such path; there are: / /healthz"),
            "{body}"
        );
    }
    for (method, path, allow) in [
        ("DELETE", "/api/v1/status", "GET, HEAD"),
        ("POST", "/api/v1/log", "GET, HEAD"),
        ("PUT", "/api/v1/retry?all=1", "POST"),
        ("GET", "/api/v1/rekey", "POST"),
    ] {
        let reply = bench.raw(&format!(
            "{method} {path} HTTP/1.1\r\nHost: hikyaku\r\n\r\n"
        ));
        assert!(
            reply.starts_with("HTTP/1.1 405 "),
            "{method} {path}: {reply}"
        );
        assert!(reply.contains(&format!("Allow: {allow}\r\n")), "{reply}");
    }
}

#[test]
fn an_unlock_that_takes_long_holds_nobody_up() {
    let bench = Bench::locked();
    let (finish, unlocking) = bounded::<()>(0);
    *bench.daemon.unlocking.lock().unwrap() = Some(unlocking);
    let mut first = bench.send("POST", "/api/v1/unlock", "", "open sesame");
    // Taken: the unlock is under way.
    while bench.daemon.unlocking.lock().unwrap().is_some() {
        thread::yield_now();
    }
    for _ in 0..2 * THREADS {
        let (status, _) = bench.ask("POST", "/api/v1/unlock", "", "open sesame");
        assert_eq!(status, 503, "one at a time");
        assert_eq!(bench.get("/api/v1/status").0, 200);
        assert_eq!(bench.get("/healthz").0, 503, "still locked");
    }
    drop(finish);
    let mut reply = String::new();
    first.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
    assert_eq!(bench.get("/healthz").0, 200);
}

#[test]
fn whoever_claims_to_be_somebody_is_who_the_kernel_says() {
    let bench = Bench::running();
    let (status, _) = bench.ask(
        "POST",
        "/api/v1/retry?all=1",
        "Hikyaku-Caller: unix 4242\r\n",
        "",
    );
    assert_eq!(status, 200);
    let own = rustix::process::getuid().as_raw();
    assert!(
        bench.notes().contains(&format!("by user {own}")),
        "{}",
        bench.notes()
    );
    assert!(!bench.notes().contains("4242"));
}

#[test]
fn every_path_and_parameter_is_described() {
    let text = include_str!("../../../docs/operations.md");
    for path in &paths::PATHS {
        let begins = format!("{}{}", if path.changes { "POST " } else { "" }, path.path);
        let line = text
            .lines()
            .find(|line| {
                let ends = |rest: &str| rest.starts_with(['`', '?']);
                line.starts_with('|')
                    && line
                        .split_once(&format!("`{begins}"))
                        .is_some_and(|(_, rest)| ends(rest))
            })
            .unwrap_or_else(|| panic!("`{begins}` has no row"));
        assert!(line.contains(path.scope.as_str()), "{begins}: {line}");
        for name in path.parameters {
            assert!(line.contains(name), "{begins}: {name} in {line}");
        }
    }
}

const PASSPHRASE_TOO_LONG: usize = engine::keys::PASSPHRASE_BYTES_MAX + 1;

/// Writes the delivery log of shard 0 as the daemon would.
struct LogFile {
    writer: SegmentWriter,
    path: PathBuf,
}

impl LogFile {
    fn begin(bench: &Bench) -> Self {
        let ring = bench.daemon.keys().unwrap();
        let name = SegmentName {
            stream: Stream::DeliveryLog,
            shard: ShardId(0),
            segment: SegmentId(1),
        };
        let header = SegmentHeader {
            name,
            segment_bytes: 64 * BLOCK_BYTES as u32,
            created_ms: 1_700_000_000_000,
            key_id: ring.current_id(),
            nonce: [9; 16],
        };
        let path = datadir::segments::stream_dir(
            &bench.daemon.data_dir(),
            ShardId(0),
            Stream::DeliveryLog,
        );
        std::fs::create_dir_all(&path).unwrap();
        let path = path.join(file_name(name.segment));
        std::fs::write(&path, header.encode(ring.current())).unwrap();
        Self {
            writer: SegmentWriter::new(ring.current(), header),
            path,
        }
    }

    fn append(&mut self, bench: &Bench, first: u64, lines: u64) {
        let mut batch = LogBatch::new();
        for id in first..first + lines {
            batch.push(&LogRecord {
                domain: b"example.com",
                ..LogRecord::new(
                    UnixMs(1_700_000_000_000 + id),
                    QueueId(id),
                    OutcomeKind::Delivered,
                    ShardId(0),
                )
            });
        }
        self.writer
            .append(&Record::Blob {
                kind: 1,
                bytes: &batch.take(),
            })
            .unwrap();
        let batch = self.writer.take_batch().unwrap();
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(&self.path)
            .unwrap();
        file.write_all(&batch.bytes).unwrap();
        bench
            .daemon
            .log_written
            .store(batch.end(), Ordering::SeqCst);
    }
}

#[test]
fn the_log_is_read_with_filters_and_the_reading_is_noted() {
    let bench = Bench::running();
    let mut log = LogFile::begin(&bench);
    log.append(&bench, 1, 3);
    log.append(&bench, 4, 2);
    let unchunked = |body: String| -> Vec<String> {
        body.lines()
            .filter(|line| line.contains('\t') || line.starts_with('{'))
            .map(str::to_owned)
            .collect()
    };
    let lines = unchunked(bench.get("/api/v1/log").1);
    assert_eq!(lines.len(), 6);
    assert!(lines[0].starts_with("time\tqueue_id\t"));
    let lines = unchunked(
        bench
            .get("/api/v1/log?queue_id=0000000000004&format=json")
            .1,
    );
    assert_eq!(lines.len(), 1);
    let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(
        (&line["queue_id"], &line["domain"]),
        (&"0000000000004".into(), &"example.com".into())
    );
    assert_eq!(unchunked(bench.get("/api/v1/log?limit=2").1).len(), 3);
    assert!(bench.notes().contains("reads the delivery log"));
}

#[test]
fn a_followed_log_shows_each_line_once() {
    let bench = Bench::running();
    let mut log = LogFile::begin(&bench);
    log.append(&bench, 1, 2);
    let mut stream = bench.send(
        "GET",
        "/api/v1/log?follow=1&since=2000-01-01&limit=5&format=json",
        "",
        "",
    );
    let mut text = String::new();
    let mut buffer = [0; 4096];
    // The old lines come first; what is appended after they were seen must follow.
    while text.matches("queue_id").count() < 2 {
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0, "{text}");
        text.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    log.append(&bench, 3, 2);
    log.append(&bench, 5, 2);
    stream.read_to_string(&mut text).unwrap();
    let ids: Vec<&str> = text
        .split("\"queue_id\":\"")
        .skip(1)
        .map(|rest| &rest[12..13])
        .collect();
    assert_eq!(ids, ["1", "2", "3", "4", "5"], "{text}");
    assert!(text.ends_with("\r\n0\r\n\r\n"));
}
