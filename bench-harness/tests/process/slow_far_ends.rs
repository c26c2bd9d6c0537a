//! Servers that never answer, and servers that never stop: neither holds up anybody else.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Client, Relay, eventually};

const CONTENT: &str = "From: <a@sender.example>\r\nSubject: x\r\n\r\nhello\r\n";

/// A client is greeted within this, whatever the far end does.
const GREETING_MAX: Duration = Duration::from_secs(2);

/// A server on loopback, each connection on a thread of its own.
fn server(
    serve: impl Fn(BufReader<TcpStream>) -> std::io::Result<()> + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            // That the relay hangs up is what the tests are about.
            thread::spawn(move || drop(serve(BufReader::new(stream))));
        }
    });
    address
}

/// Speaks SMTP until a line begins with `until`, which it leaves unanswered.
fn dialog(stream: &mut BufReader<TcpStream>, until: &str) -> std::io::Result<()> {
    stream.get_mut().write_all(b"220 far.test\r\n")?;
    let mut content = false;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if line.starts_with(until) {
            return Ok(());
        }
        let reply: &[u8] = match line.as_str() {
            ".\r\n" => {
                content = false;
                b"250 taken\r\n"
            }
            _ if content => continue,
            "DATA\r\n" => {
                content = true;
                b"354 go on\r\n"
            }
            _ => b"250 ok\r\n",
        };
        stream.get_mut().write_all(reply)?;
    }
}

#[test]
fn a_reply_that_never_comes_is_waited_for_so_long_and_the_mail_sent_again() {
    for (run, command, key) in [
        (196, "EHLO", "ehlo_timeout"),
        (197, "MAIL", "mail_timeout"),
        (198, "RCPT", "rcpt_timeout"),
        (199, "DATA", "data_timeout"),
        (200, ".\r\n", "end_of_data_timeout"),
    ] {
        let speaks = Arc::new(AtomicBool::new(false));
        let heard = Arc::clone(&speaks);
        let address = server(move |mut stream| {
            let until = if heard.load(Ordering::Relaxed) {
                "QUIT"
            } else {
                command
            };
            dialog(&mut stream, until)?;
            // Silent until the relay hangs up.
            stream.read_to_end(&mut Vec::new()).map(drop)
        });
        let route = ("silent.test".to_owned(), address.to_string());
        let Some(relay) = Relay::start(run, |settings| {
            settings.routes.insert(0, route);
            settings.shards = Some(1);
            let mut short = format!("{key} = \"500ms\"\n");
            if key == "end_of_data_timeout" {
                // It is never shorter than the wait for progress.
                short.push_str("data_block_timeout = \"500ms\"\n");
            }
            settings.delivery.push_str(&short);
        }) else {
            return;
        };
        let mut client = Client::hello(relay.address());
        let sent = Instant::now();
        assert_eq!(client.transaction("a@silent.test", CONTENT), 250);
        let broke = || {
            relay.daemon.counter("session_error") > Some(0)
                || relay.daemon.counter("connect_fail") > Some(0)
        };
        assert!(eventually(broke), "{key}: {}", relay.daemon.log_tail());
        assert!(
            sent.elapsed() > Duration::from_millis(500),
            "{key}: {:?}",
            sent.elapsed()
        );
        speaks.store(true, Ordering::Relaxed);
        assert_eq!(relay.daemon.command("/api/v1/retry?all=1").unwrap().0, 200);
        let delivered = || relay.daemon.counter("delivered") == Some(1);
        assert!(eventually(delivered), "{key}: {}", relay.daemon.log_tail());
    }
}

/// Writes these octets again and again until the relay hangs up; counts those that were taken.
fn flood(
    mut stream: BufReader<TcpStream>,
    octets: &[u8],
    taken: &AtomicU32,
) -> std::io::Result<()> {
    dialog(&mut stream, "EHLO")?;
    let many = octets.repeat(64 * 1024 / octets.len());
    loop {
        stream.get_mut().write_all(&many)?;
        taken.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn replies_without_end_hold_up_nobody_and_end_the_connection() {
    for (run, octets) in [
        (201, &b"250-and on\r\n"[..]),
        (202, b"250 ok\r\n"),
        (203, b"250-x"),
    ] {
        let (connections, taken) = (Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
        let counted = (Arc::clone(&connections), Arc::clone(&taken));
        let address = server(move |stream| {
            counted.0.fetch_add(1, Ordering::Relaxed);
            flood(stream, octets, &counted.1)
        });
        let route = ("*.flood.test".to_owned(), address.to_string());
        // All on one shard: whatever keeps it keeps everybody.
        let Some(relay) = Relay::start(run, |settings| {
            settings.routes.insert(0, route);
            settings.shards = Some(1);
        }) else {
            return;
        };
        let mut client = Client::hello(relay.address());
        for number in 0..20 {
            let to = format!("a@d{number}.flood.test");
            assert_eq!(client.transaction(&to, CONTENT), 250);
        }
        assert!(eventually(|| connections.load(Ordering::Relaxed) > 0));
        for number in 1..=10 {
            let asked = Instant::now();
            let mut other = Client::hello(relay.address());
            assert!(asked.elapsed() < GREETING_MAX, "{:?}", asked.elapsed());
            assert_eq!(other.transaction("b@d.test", CONTENT), 250);
            let arrived = eventually(|| relay.fleet.tally.totals().unmarked == number);
            assert!(arrived, "{}", relay.daemon.log_tail());
        }
        // A bounded part of the flood is read of each connection, then it is closed.
        let ended = eventually(|| relay.daemon.status("connections").as_deref() == Some("0"));
        assert!(ended, "{}", relay.daemon.log_tail());
        let (connections, taken) = (
            connections.load(Ordering::Relaxed),
            taken.load(Ordering::Relaxed),
        );
        assert!(
            taken / connections < 400,
            "{taken} of 64 KiB over {connections} connections"
        );
    }
}
