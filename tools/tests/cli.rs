//! `hikyaku` as an operator meets it, without a daemon.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use datadir::Installation;
use datadir::segments::stream_dir;
use engine::clock::UnixMs;
use engine::delivery_log::{LogBatch, LogRecord};
use engine::envelope::BodyType;
use engine::ids::{QueueId, SegmentId, ShardId};
use engine::keys::KeyRing;
use engine::queue::cipher::{SegmentName, Stream};
use engine::queue::record::{
    About, Message, Options, Outcome, OutcomeKind, OutcomeState, RecipientsBuf, Record,
};
use engine::queue::segment::{BLOCK_BYTES, SegmentHeader, SegmentWriter, file_name};

struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let bench = Self { directory };
        bench.write_config("");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write_config(&self, more: &str) {
        let text = format!(
            "[server]\nhostname = \"relay.example.jp\"\ndata_dir = \"data\"\n\
             [[listen]]\naddress = \"127.0.0.1:2525\"\n\
             [control]\nsocket = \"control.sock\"\n\
             [key]\nsource = \"file\"\npath = \"key\"\n{more}"
        );
        fs::write(self.path("hikyaku.toml"), text).unwrap();
    }

    fn run_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hikyaku"))
            .arg("--config")
            .arg(self.path("hikyaku.toml"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that reads nothing may have ended already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with_input(arguments, "")
    }

    /// Standard output of a command that must succeed.
    fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Standard error of a command that must fail with exit code 1.
    fn bad(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{arguments:?}: {}",
            text(&output.stdout)
        );
        text(&output.stderr)
    }

    fn initialised() -> Self {
        let bench = Self::new();
        bench.good(&["init", "--generate-key"]);
        bench
    }

    fn ring(&self) -> KeyRing {
        let mut passphrase = fs::read(self.path("key")).unwrap();
        assert_eq!(passphrase.pop(), Some(b'\n'));
        self.installation().unlock(&passphrase).unwrap()
    }

    fn installation(&self) -> Installation {
        Installation::new(&self.path("data"), &self.path("installation.secret"))
    }

    /// Writes one sealed segment of the records, as the daemon would.
    fn segment(&self, stream: Stream, segment: u32, records: &[Record<'_>]) -> PathBuf {
        let ring = self.ring();
        let name = SegmentName {
            stream,
            shard: ShardId(0),
            segment: SegmentId(segment),
        };
        let header = SegmentHeader {
            name,
            segment_bytes: 256 * BLOCK_BYTES as u32,
            created_ms: 1_700_000_000_000,
            key_id: ring.current_id(),
            nonce: [segment as u8; 16],
        };
        let mut bytes = header.encode(ring.current());
        let mut writer = SegmentWriter::new(ring.current(), header);
        for record in records {
            writer.append(record).unwrap();
            let batch = writer.take_batch().unwrap();
            bytes.extend_from_slice(&batch.bytes);
            writer.durable(batch.end());
        }
        bytes.extend_from_slice(&writer.seal().unwrap().bytes);
        let directory = stream_dir(&self.path("data"), ShardId(0), stream);
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join(file_name(name.segment));
        fs::write(&path, bytes).unwrap();
        path
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

const ID: QueueId = QueueId(0x0123_4567_89ab);

fn with_message<T>(then: impl FnOnce(Record<'_>) -> T) -> T {
    let mut recipients = RecipientsBuf::new();
    recipients
        .domain("example.com", "someone@example.com")
        .unwrap();
    recipients.recipient("other@example.com").unwrap();
    then(Record::Message(Message {
        queue_id: ID,
        accepted_ms: 1_700_000_000_000,
        body: BodyType::SevenBit,
        smtputf8: false,
        pending: false,
        handover: None,
        reverse_path: Some("sender@example.jp"),
        recipients: recipients.recipients(),
        group: Some("news"),
        tags: "",
        message_id: Some("<1@example.jp>"),
        peer: None,
        options: Options::NONE,
        content: b"Subject: hello\r\n\r\nworld\r\n",
        content_bytes: 0,
    }))
}

fn deferred() -> Record<'static> {
    Record::Outcome(Outcome {
        about: About {
            queue_id: ID,
            segment: SegmentId(1),
        },
        state: OutcomeState {
            first: 0,
            count: 2,
            kind: OutcomeKind::Deferred,
            attempts: 3,
            next_retry_s: 1_700_000_600,
        },
    })
}

#[test]
fn init_makes_everything_private_and_refuses_to_overwrite() {
    let bench = Bench::new();
    let out = bench.good(&["init", "--generate-key"]);
    assert!(out.contains("Keep a copy"), "{out}");
    assert_eq!(mode(&bench.path("data")), 0o700);
    assert_eq!(mode(&bench.path("key")), 0o400);
    assert_eq!(mode(&bench.path("installation.secret")), 0o400);
    let key = fs::read(bench.path("key")).unwrap();
    assert_eq!(key.len(), 33);
    bench.ring();
    let error = bench.bad(&["init"]);
    assert!(
        error.contains("exists already and is never overwritten"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1);
    assert_eq!(fs::read(bench.path("key")).unwrap(), key);
}

#[test]
fn init_takes_a_typed_passphrase_from_standard_input() {
    let bench = Bench::new();
    let config = fs::read_to_string(bench.path("hikyaku.toml")).unwrap();
    let config = config.replace(
        "source = \"file\"\npath = \"key\"\n",
        "source = \"prompt\"\n",
    );
    fs::write(bench.path("hikyaku.toml"), config).unwrap();
    assert!(
        bench
            .run_with_input(&["init"], "open sesame\n")
            .status
            .success()
    );
    bench.installation().unlock(b"open sesame").unwrap();
    let bench = Bench::new();
    let prompted = fs::read_to_string(bench.path("hikyaku.toml")).unwrap();
    let prompted = prompted.replace("source = \"file\"\npath = \"key\"\n", "");
    fs::write(bench.path("hikyaku.toml"), prompted).unwrap();
    let output = bench.run_with_input(&["init"], "open sesame\nclose sesame\n");
    assert!(text(&output.stderr).contains("more than one line"));
    assert!(!bench.path("data").exists());
    let output = bench.run_with_input(&["init"], "open sesame\nopen sesame\n");
    assert!(output.status.success(), "{}", text(&output.stderr));
    bench.installation().unlock(b"open sesame").unwrap();
    let bench = Bench::new();
    let error = bench.bad(&["init"]);
    assert!(
        error.contains("cannot open") && error.contains("/key"),
        "{error}"
    );
    assert!(!bench.path("data").exists());
}

#[test]
fn who_has_read_enough_gets_no_error() {
    let bench = Bench::initialised();
    with_message(|message| bench.segment(Stream::Queue, 1, &[message]));
    let mut child = Command::new(env!("CARGO_BIN_EXE_hikyaku"))
        .arg("--config")
        .arg(bench.path("hikyaku.toml"))
        .args(["shard", "records"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn man_pages_and_completions_of_both_programs_are_written() {
    let bench = Bench::new();
    let pages = bench.path("pages");
    bench.good(&["pages", pages.to_str().unwrap()]);
    for name in [
        "hikyaku.1",
        "hikyakud.1",
        "hikyaku-queue.1",
        "hikyaku.bash",
        "_hikyaku",
        "hikyakud.fish",
    ] {
        assert!(pages.join(name).exists(), "{name}");
    }
}

#[test]
fn errors_are_one_clear_line() {
    let bench = Bench::new();
    let error = bench.bad(&["shard", "list"]);
    assert!(
        error.contains("is no data directory yet; run: hikyaku init"),
        "{error}"
    );
    for command in [
        &["status"][..],
        &["counters"],
        &["why", "example.jp"],
        &["unlock"],
        &["reload"],
    ] {
        let error = bench.bad(command);
        assert!(
            error.starts_with("hikyaku: no hikyakud answers at "),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1);
    }
    fs::write(
        bench.path("hikyaku.toml"),
        "[server]\nhostnmae = \"a.example\"\n",
    )
    .unwrap();
    let error = bench.bad(&["status"]);
    assert!(
        error.contains("hikyaku.toml:2:1: unknown key `hostnmae`"),
        "{error}"
    );
    fs::remove_file(bench.path("hikyaku.toml")).unwrap();
    assert!(bench.bad(&["status"]).contains("--config"));
}

#[test]
fn a_key_that_others_can_read_and_a_wrong_key_are_refused() {
    let bench = Bench::initialised();
    fs::set_permissions(bench.path("key"), fs::Permissions::from_mode(0o644)).unwrap();
    let error = bench.bad(&["shard", "verify"]);
    assert!(error.contains("run: chmod 0600 "), "{error}");
    fs::write(bench.path("key"), "something else\n").unwrap();
    fs::set_permissions(bench.path("key"), fs::Permissions::from_mode(0o400)).unwrap();
    let error = bench.bad(&["shard", "verify"]);
    assert!(error.contains("wrong key"), "{error}");
}

#[test]
fn a_data_directory_of_another_format_is_refused() {
    let bench = Bench::initialised();
    fs::write(bench.path("data/format"), "hikyaku data 7\n").unwrap();
    let error = bench.bad(&["shard", "list"]);
    assert!(
        error.contains("which this program does not read"),
        "{error}"
    );
}

#[test]
fn shard_commands_show_what_is_in_the_files() {
    let bench = Bench::initialised();
    with_message(|message| bench.segment(Stream::Queue, 1, &[message, deferred()]));
    let list = bench.good(&["shard", "list"]);
    assert!(list.contains("\n0\t1\t"), "{list}");
    let segments = bench.good(&["shard", "segments", "--format", "json"]);
    let segments: serde_json::Value = serde_json::from_str(&segments).unwrap();
    assert_eq!(segments[0]["stream"], "queue");
    assert_eq!(segments[0]["created"], "2023-11-14T22:13:20.000Z");
    assert_eq!(segments[0]["key_id"], bench.ring().current_id().to_string());
    let records = bench.good(&["shard", "records", "--stream", "queue"]);
    let lines: Vec<&str> = records.lines().collect();
    assert_eq!(lines.len(), 3, "{records}");
    assert!(lines[1].contains(&format!(
        "message\t{ID}\t<sender@example.jp> to someone@example.com, other"
    )));
    assert!(
        lines[2].contains("deferred, 3 attempts, next 2023-11-14T22:23:20.000Z"),
        "{records}"
    );
    let id = ID.to_string();
    let show = bench.good(&["shard", "show", &id]);
    for part in [
        "reverse_path\t<sender@example.jp>",
        "recipient 1\t<other@example.com>",
        "group\tnews",
        "outcome of 0-1\tdeferred",
    ] {
        assert!(show.contains(part), "{part}: {show}");
    }
    assert_eq!(
        bench.good(&["shard", "show", &id, "--content"]),
        "Subject: hello\r\n\r\nworld\r\n"
    );
    assert!(
        bench
            .bad(&["shard", "show", "0000000000000"])
            .contains("hikyaku log --queue-id")
    );
    assert!(
        bench
            .bad(&["shard", "records", "--segment", "9"])
            .contains("no such segment")
    );
}

#[test]
fn verify_reports_damage_by_segment_and_offset() {
    let bench = Bench::initialised();
    let good = with_message(|message| bench.segment(Stream::Queue, 1, &[message, deferred()]));
    let output = bench.run(&["shard", "verify"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("2 records in 1 segments"));
    let records = bench.good(&["shard", "records"]);
    let offset = records
        .lines()
        .nth(1)
        .unwrap()
        .split('\t')
        .nth(3)
        .unwrap()
        .to_owned();
    let mut bytes = fs::read(&good).unwrap();
    bytes[offset.parse::<usize>().unwrap() + 30] ^= 0x10;
    fs::write(&good, bytes).unwrap();
    let output = bench.run(&["shard", "verify"]);
    assert_eq!(output.status.code(), Some(1));
    let table = text(&output.stdout);
    assert!(
        table.contains(&format!("\n0\tqueue\t1\t{offset}\t")),
        "{table}"
    );
    assert!(text(&output.stderr).contains("1 segments are damaged"));
}

#[test]
fn the_log_is_read_from_its_files() {
    let bench = Bench::initialised();
    let mut batch = LogBatch::new();
    for (n, outcome) in [OutcomeKind::Deferred, OutcomeKind::Delivered]
        .into_iter()
        .enumerate()
    {
        batch.push(&LogRecord {
            forward_path: b"someone@example.com",
            domain: b"example.com",
            reply: b"250 2.0.0 ok",
            ..LogRecord::new(
                UnixMs(1_700_000_000_000 + n as u64),
                ID,
                outcome,
                ShardId(0),
            )
        });
    }
    let bytes = batch.take();
    let path = bench.segment(
        Stream::DeliveryLog,
        1,
        &[Record::Blob {
            kind: 1,
            bytes: &bytes,
        }],
    );
    let all = bench.good(&["log"]);
    assert_eq!(all.lines().count(), 3, "{all}");
    assert!(all.starts_with("time\tqueue_id\t"));
    let one = bench.good(&["log", "--outcome", "delivered", "--format", "json"]);
    let line: serde_json::Value = serde_json::from_str(&one).unwrap();
    assert_eq!(line["queue_id"], ID.to_string());
    let brief = bench.good(&["log", "--format", "table", "--limit", "1"]);
    assert!(
        brief.lines().nth(1).unwrap().contains("deferred"),
        "{brief}"
    );
    assert_eq!(
        bench
            .good(&["log", "--domain", "other.example"])
            .lines()
            .count(),
        1
    );
    assert!(
        bench
            .bad(&["log", "--since", "yesterday"])
            .contains("--since: `yesterday` is no time")
    );
    assert!(
        bench
            .bad(&["log", "--follow"])
            .contains("no hikyakud answers")
    );
    // Nothing of it is readable without the key.
    let stored = fs::read(path).unwrap();
    assert!(!stored.windows(11).any(|bytes| bytes == b"example.com"));
}

#[test]
fn files_can_be_read_beside_a_running_daemon_which_is_then_mentioned() {
    let bench = Bench::initialised();
    let _lock = bench.installation().lock().unwrap();
    let output = bench.run(&["shard", "list"]);
    assert!(output.status.success());
    let note = format!("hikyakud (process {}) is running", std::process::id());
    assert!(
        text(&output.stderr).contains(&note),
        "{}",
        text(&output.stderr)
    );
    assert!(bench.bad(&["rekey"]).contains("in use by process"));
}

#[test]
fn rekey_without_a_daemon_changes_the_passphrase() {
    let bench = Bench::initialised();
    with_message(|message| bench.segment(Stream::Queue, 1, &[message]));
    let output = bench.run_with_input(&["rekey", "--new-key", "-"], "a new passphrase\n");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("Put the new passphrase into"));
    assert!(bench.bad(&["shard", "verify"]).contains("wrong key"));
    fs::remove_file(bench.path("key")).unwrap();
    fs::write(bench.path("key"), "a new passphrase\n").unwrap();
    fs::set_permissions(bench.path("key"), fs::Permissions::from_mode(0o400)).unwrap();
    bench.good(&["shard", "verify"]);
}

#[test]
fn man_pages_and_completions_are_written() {
    let bench = Bench::new();
    let pages = bench.path("pages");
    bench.good(&["pages", pages.to_str().unwrap()]);
    assert!(pages.join("hikyaku.1").exists() && pages.join("hikyaku.bash").exists());
    let shard = fs::read_to_string(pages.join("hikyaku-shard-verify.1")).unwrap();
    assert!(shard.contains("exit code 1"), "{shard}");
}

#[test]
fn a_reader_that_has_gone_is_no_failure_of_init_and_rekey() {
    let bench = Bench::new();
    let new_key = bench.path("new-key");
    fs::write(&new_key, "quite another passphrase\n").unwrap();
    fs::set_permissions(&new_key, fs::Permissions::from_mode(0o600)).unwrap();
    let new_key = new_key.display().to_string();
    for arguments in [
        &["init", "--generate-key"][..],
        &["rekey", "--new-key", &new_key],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        command.arg("--config").arg(bench.path("hikyaku.toml"));
        command.args(arguments).current_dir(bench.directory.path());
        let child = command.stdin(Stdio::null()).stdout(writer);
        let child = child.stderr(Stdio::piped()).spawn().unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
}

/// A pipe that nobody reads any more.
fn gone() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// `eprintln!` and `println!` panic where they cannot write: exit code 101 and a backtrace.
#[test]
fn nothing_panics_where_nobody_reads() {
    let bench = Bench::initialised();
    let full = || {
        Stdio::from(
            fs::OpenOptions::new()
                .write(true)
                .open("/dev/full")
                .unwrap(),
        )
    };
    let missing = bench.path("missing").display().to_string();
    for (arguments, code) in [
        (&["status"][..], 1),
        // It said what is missing, and its answers have no reader.
        (&["bounce", "classify", &missing], 0),
        (&["template", "check", &missing], 2),
        (&["shard", "list"], 0),
        (&["shard", "verify"], 0),
        (&["log", "--offline"], 0),
        (&["policy", "show"], 0),
        (&["--help"], 0),
    ] {
        for stderr in [gone(), full()] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
            let command = command.arg("--config").arg(bench.path("hikyaku.toml"));
            let ended = command
                .args(arguments)
                .stdout(gone())
                .stderr(stderr)
                .status();
            assert_eq!(ended.unwrap().code(), Some(code), "{arguments:?}");
        }
    }
}
