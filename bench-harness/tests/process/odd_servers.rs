//! Servers that answer when nobody expects it, or offer too little.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use crate::common::{Client, Relay, eventually};

/// A server on loopback with these lines in its EHLO reply; `serve` gets each connection behind 354.
fn server(ehlo: &'static str, serve: fn(BufReader<TcpStream>)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                // A client that goes away is what some of the tests are about.
                let _ = dialog(&mut stream, ehlo).map(|()| serve(stream));
            });
        }
    });
    address
}

/// Speaks until 354.
fn dialog(stream: &mut BufReader<TcpStream>, ehlo: &str) -> std::io::Result<()> {
    stream.get_mut().write_all(b"220 odd.test\r\n")?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let reply = match line.get(..4) {
            Some("EHLO") => ehlo,
            Some("DATA") => "354 go on\r\n",
            _ => "250 ok\r\n",
        };
        stream.get_mut().write_all(reply.as_bytes())?;
        if reply.starts_with("354") {
            return Ok(());
        }
    }
}

/// Takes the first 64 KiB of content and says that it is too much.
fn refuse_halfway(stream: &mut BufReader<TcpStream>) {
    stream.read_exact(&mut [0; 64 * 1024]).unwrap();
    let reply = b"552 5.3.4 too long for me\r\n";
    stream.get_mut().write_all(reply).unwrap();
}

/// Sends one message of `bytes` to `d@odd.test`, and expects it to have failed soon.
fn fails_at_once(run: u32, address: SocketAddr, bytes: usize, subject: &str, parameters: &str) {
    let route = ("odd.test".to_owned(), address.to_string());
    let Some(relay) = Relay::start(run, |s| s.routes.insert(0, route)) else {
        return;
    };
    let mut client = Client::hello(relay.address());
    let mail = format!("MAIL FROM:<a@sender.example>{parameters}");
    assert_eq!(client.command(&mail).0, 250);
    assert_eq!(client.command("RCPT TO:<d@odd.test>").0, 250);
    assert_eq!(client.command("DATA").0, 354);
    let line = "0123456789012345678901234567890123456789\r\n";
    let content = format!(
        "Subject: {subject}\r\n\r\n{}",
        line.repeat(bytes / line.len())
    );
    client.send(content.as_bytes()).unwrap();
    assert_eq!(client.command(".").0, 250);
    let failed = eventually(|| relay.daemon.status("failed").as_deref() == Some("1"));
    let waiting = relay.daemon.control("/api/v1/queue").unwrap();
    assert!(failed, "{waiting:?}\n{}", relay.daemon.log_tail());
    // The sender's notification goes to the fleet, which has the route of all other domains.
    assert!(eventually(|| relay.fleet.tally.totals().unmarked == 1));
}

#[test]
fn content_refused_halfway_by_a_server_that_reads_no_further_fails_at_once() {
    let address = server("250-odd.test\r\n250 PIPELINING\r\n", |mut stream| {
        refuse_halfway(&mut stream);
        // Neither reads nor closes: only the reply tells.
        thread::park();
    });
    fails_at_once(21, address, 20 << 20, "long", "");
}

#[test]
fn content_refused_halfway_by_a_server_that_closes_fails_at_once() {
    let address = server("250 odd.test\r\n", |mut stream| {
        refuse_halfway(&mut stream);
    });
    fails_at_once(22, address, 20 << 20, "long", "");
}

#[test]
fn message_longer_than_the_server_takes_fails_without_being_sent() {
    let address = server("250-odd.test\r\n250 SIZE 1000\r\n", |_| {
        panic!("content is not asked for");
    });
    fails_at_once(23, address, 5000, "long", "");
}

#[test]
fn utf8_header_section_for_a_server_without_smtputf8_fails_without_being_sent() {
    let address = server("250-odd.test\r\n250 8BITMIME\r\n", |_| {
        panic!("content is not asked for");
    });
    fails_at_once(24, address, 100, "日本", " SMTPUTF8");
}

#[test]
fn server_that_answers_before_it_is_asked_is_left_alone_for_a_while() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&connections);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::Relaxed);
            thread::spawn(move || {
                // Greeting, and all the replies it will ever give.
                let script = b"220 odd.test\r\n250 a\r\n250 b\r\n250 c\r\n354 d\r\n250 e\r\n";
                let _ = stream.write_all(script);
                let _ = stream.read_to_end(&mut Vec::new());
            });
        }
    });
    let route = ("odd.test".to_owned(), address.to_string());
    let Some(relay) = Relay::start(6, |s| s.routes.insert(0, route)) else {
        return;
    };
    let mut client = Client::hello(relay.address());
    for _ in 0..5 {
        assert_eq!(client.transaction("d@odd.test", "Subject: x\r\n\r\n"), 250);
    }
    let waits = || relay.daemon.control("/api/v1/queue").unwrap();
    let rests = eventually(|| format!("{:?}", waits()).contains("backoff"));
    let connections = connections.load(Ordering::Relaxed);
    assert!(rests, "{connections} connections: {:?}", waits());
    assert!(connections < 40, "{connections} connections");
}
