//! SIGTERM while a server is silent: waited for so long as the configuration says, and a second one is
//! obeyed at once. What was accepted is delivered after the next start.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hikyaku_bench::daemon::Settings;
use rustix::process::Signal;

use crate::common::{Client, Relay, eventually};

/// A server that takes the content of a message and says nothing to it until `speaks`; then it says
/// 250 to that of every connection from then on.
struct Mute {
    address: SocketAddr,
    /// Contents that were taken.
    taken: Arc<AtomicU32>,
    speaks: Arc<AtomicBool>,
}

impl Mute {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (taken, speaks) = (Arc::<AtomicU32>::default(), Arc::<AtomicBool>::default());
        let shared = (Arc::clone(&taken), Arc::clone(&speaks));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (taken, speaks) = shared.clone();
                // A client that goes away is what the tests are about.
                thread::spawn(move || drop(dialog(BufReader::new(stream), &taken, &speaks)));
            }
        });
        Self {
            address,
            taken,
            speaks,
        }
    }

    fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }
}

fn dialog(
    mut stream: BufReader<TcpStream>,
    taken: &AtomicU32,
    speaks: &AtomicBool,
) -> std::io::Result<()> {
    stream.get_mut().write_all(b"220 mute.test\r\n")?;
    let mut content = false;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let reply = match line.trim_end() {
            "." if content => {
                content = false;
                taken.fetch_add(1, Ordering::Relaxed);
                if !speaks.load(Ordering::Relaxed) {
                    return stream.read_to_end(&mut Vec::new()).map(drop);
                }
                "250 taken\r\n"
            }
            _ if content => continue,
            "DATA" => {
                content = true;
                "354 go on\r\n"
            }
            _ => "250 ok\r\n",
        };
        stream.get_mut().write_all(reply.as_bytes())?;
    }
}

/// A relay with one message of each shard's in the hands of the silent server.
fn waiting(run: u32, change: impl FnOnce(&mut Settings)) -> Option<(Relay, Mute)> {
    let server = Mute::start();
    let route = ("mute.test".to_owned(), server.address.to_string());
    let relay = Relay::start(run, |settings| {
        settings.routes.insert(0, route);
        change(settings);
    })?;
    let mut client = Client::hello(relay.address());
    let content = "From: <a@sender.example>\r\nSubject: x\r\n\r\nhello\r\n";
    assert_eq!(client.transaction("d@mute.test", content), 250);
    assert!(
        eventually(|| server.taken() == 1),
        "{}",
        relay.daemon.log_tail()
    );
    Some((relay, server))
}

/// After the next start, mail that was cut short arrives.
fn arrives_after_a_start(mut relay: Relay, server: &Mute) {
    let log = relay.daemon.log_tail();
    assert!(
        log.contains("cut short") && log.contains("stopped"),
        "{log}"
    );
    server.speaks.store(true, Ordering::Relaxed);
    relay.daemon.relaunch().unwrap();
    relay.daemon.wait_until_it_greets().unwrap();
    let delivered = || relay.daemon.counter("delivered") == Some(1);
    assert!(eventually(delivered), "{}", relay.daemon.log_tail());
    assert_eq!(server.taken(), 2);
}

#[test]
fn a_silent_server_holds_the_end_up_no_longer_than_configured() {
    let change = |settings: &mut Settings| settings.delivery.push_str("stop_timeout = \"1s\"\n");
    let Some((mut relay, server)) = waiting(191, change) else {
        return;
    };
    let took = relay.daemon.terminate().unwrap();
    let bounds = Duration::from_secs(1)..Duration::from_secs(10);
    assert!(bounds.contains(&took), "{took:?}");
    arrives_after_a_start(relay, &server);
}

#[test]
fn a_second_sigterm_ends_at_once_and_an_operator_is_answered_till_then() {
    let change = |settings: &mut Settings| settings.delivery.push_str("stop_timeout = \"10m\"\n");
    let Some((mut relay, server)) = waiting(192, change) else {
        return;
    };
    relay.daemon.signal(Signal::TERM);
    let state = || relay.daemon.status("state");
    assert!(
        eventually(|| state().as_deref() == Some("stopping")),
        "{:?}",
        state()
    );
    assert!(relay.daemon.is_running(), "the first one waits");
    let asked = Instant::now();
    relay.daemon.terminate().unwrap();
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );
    arrives_after_a_start(relay, &server);
}
