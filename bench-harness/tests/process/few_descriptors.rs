//! Clients that hold every socket they can get: the daemon lives, and its operator is answered.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use hikyaku_bench::daemon::{Daemon, Settings};

use crate::common::{Client, Relay, SOON, eventually, programs};

/// Open files that the daemon is allowed.
const OPEN_FILES: u32 = 600;

/// How long an operator waits for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

fn relay(run: u32) -> Option<Relay> {
    Relay::start(run, |settings| {
        settings.shards = Some(1);
        settings.prelude = format!("ulimit -n {OPEN_FILES}");
    })
}

fn answers(relay: &mut Relay) {
    let asked = Instant::now();
    for path in ["/api/v1/status", "/metrics", "/api/v1/shards"] {
        let (code, text) = relay.daemon.control(path).unwrap();
        assert_eq!(code, 200, "{path}: {text}");
    }
    assert!(asked.elapsed() < ANSWER_MAX, "{:?}", asked.elapsed());
    assert!(relay.daemon.is_running(), "{}", relay.daemon.log_tail());
}

#[test]
fn sockets_held_on_both_doors_leave_the_control_plane_answering() {
    let Some(mut relay) = relay(81) else { return };
    let mut first = Client::hello(relay.address());
    // More than the limit on the mail side; those beyond the sessions that fit are refused or wait.
    let mail: Vec<_> = (0..OPEN_FILES + 100)
        .map(|_| Client::connect_only(relay.address()))
        .collect();
    answers(&mut relay);
    // And on the control socket: silent, in mid-head, in mid-body.
    let mut control = Vec::new();
    for number in 0..300 {
        let path = relay.daemon.settings.control_path();
        let mut stream = UnixStream::connect(path).unwrap();
        let begun = match number % 3 {
            0 => "",
            1 => "GET /api/v1/status HTTP/1.1\r\nHost: hik",
            _ => "POST /api/v1/retry HTTP/1.1\r\nHost: hikyaku\r\nContent-Length: 9\r\n\r\nhalf",
        };
        // Those that make room for the next may be gone already.
        let _ = stream.write_all(begun.as_bytes());
        control.push(stream);
        if number % 100 == 50 {
            answers(&mut relay);
        }
    }
    answers(&mut relay);
    // Who was let in is served, and mail still goes out.
    let content = "From: <a@sender.example>\r\nSubject: x\r\n\r\nhello\r\n";
    assert_eq!(first.transaction("b@far.example", content), 250);
    let tally = &relay.fleet.tally;
    assert!(eventually(|| tally.totals().unmarked == 1));
    drop((mail, control));
    assert!(eventually(|| {
        Client::connect_only(relay.daemon.settings.listen).reply().0 == 220
    }));
    relay.inject(relay.plan(100));
    relay.wait_for(100);
    assert!(relay.daemon.is_running());
}

#[test]
fn a_client_that_does_not_send_its_request_is_let_go() {
    let Some(relay) = relay(82) else { return };
    let path = relay.daemon.settings.control_path();
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut text = Vec::new();
    assert_eq!(stream.read_to_end(&mut text).unwrap(), 0, "closed");
}

#[test]
fn what_the_limit_takes_away_is_told_and_too_little_is_no_start() {
    let Some(relay) = relay(83) else { return };
    let told = eventually(|| relay.daemon.log_tail().contains("limits.sessions_max is"));
    assert!(told, "{}", relay.daemon.log_tail());
    drop(relay);
    let Some(programs) = programs() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings::new(dir.path()).unwrap();
    settings.shards = Some(2);
    settings.prelude = "ulimit -n 256".to_owned();
    let why = Daemon::start(settings, &programs).unwrap_err().to_string();
    assert!(why.contains("open files are allowed"), "{why}");
}
