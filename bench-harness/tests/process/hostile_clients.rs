//! Clients that mean harm, or are broken: each costs a bounded amount and harms nobody else.

use std::time::{Duration, Instant};

use hikyaku_bench::inject::Plan;

use crate::common::{Client, Relay, eventually};

/// What a hostile client may cost in resident memory.
const COST_BYTES_MAX: u64 = 96 << 20;

fn relay(run: u32) -> Option<Relay> {
    Relay::start(run, |_| {})
}

/// A good client's messages are taken and delivered.
fn others_are_well(relay: &Relay, first_id: u64) {
    relay.inject(Plan {
        first_id,
        ..relay.plan(200)
    });
    relay.wait_for(first_id + 200);
}

#[test]
fn trickling_clients_harm_nobody_and_are_dropped() {
    let limits = "[limits]\ncommand_timeout = \"2s\"\nmessage_time_max = \"10s\"\n\
                  data_timeout = \"2s\"\nidle_timeout = \"2s\"\n";
    let Some(relay) = Relay::start(1, |s| s.extra = limits.to_owned()) else {
        return;
    };
    let before = relay.daemon.resident_bytes();
    let mut in_command: Vec<_> = (0..150).map(|_| Client::connect(relay.address())).collect();
    let mut in_content: Vec<_> = (0..150).map(|_| Client::hello(relay.address())).collect();
    for client in &mut in_content {
        assert_eq!(client.command("MAIL FROM:<a@sender.example>").0, 250);
        assert_eq!(client.command("RCPT TO:<b@far.example>").0, 250);
        assert_eq!(client.command("DATA").0, 354);
    }
    others_are_well(&relay, 0);
    // A byte each now and then; meanwhile the others go on.
    let started = Instant::now();
    let mut dropped = 0;
    while dropped < in_command.len() && started.elapsed() < Duration::from_secs(15) {
        dropped = in_command
            .iter_mut()
            .filter_map(|c| c.send(b"N").err())
            .count();
        for client in &mut in_content {
            let _ = client.send(b"x");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(
        dropped,
        in_command.len(),
        "a command may take two seconds, however it trickles"
    );
    others_are_well(&relay, 200);
    assert!(relay.daemon.resident_bytes() < before + COST_BYTES_MAX);
    let closed = eventually(|| {
        in_content
            .iter_mut()
            .all(|client| client.send(b"x").is_err())
    });
    assert!(closed, "content may take ten seconds, however it trickles");
    assert_eq!(
        relay.fleet.tally.totals().unmarked,
        0,
        "nothing of theirs was delivered"
    );
}

#[test]
fn gigabyte_line_is_refused_early() {
    let Some(relay) = relay(2) else { return };
    let before = relay.daemon.resident_bytes();
    let block = vec![b'a'; 1 << 20];
    for in_content in [false, true] {
        let mut client = Client::hello(relay.address());
        if in_content {
            client.command("MAIL FROM:<a@sender.example>");
            client.command("RCPT TO:<b@far.example>");
            assert_eq!(client.command("DATA").0, 354);
        }
        let mut peak = 0;
        for _ in 0..1024 {
            if client.send(&block).is_err() {
                break;
            }
            peak = peak.max(relay.daemon.resident_bytes());
        }
        assert!(
            peak < before + COST_BYTES_MAX,
            "{} MiB at the peak",
            peak >> 20
        );
        // If it took all of it to keep the dialog in step, it still refuses at the end.
        let _ = client.send(b"\r\n.\r\n");
        let (code, text) = client.reply();
        assert!(code == 0 || code >= 400, "{code} {text}");
    }
    others_are_well(&relay, 0);
    assert_eq!(relay.fleet.tally.totals().unmarked, 0);
}

#[test]
fn a_line_of_more_than_998_octets_is_refused() {
    let Some(relay) = relay(6) else { return };
    let mut client = Client::hello(relay.address());
    for (octets, code) in [(998, 250), (999, 550), (100_000, 550)] {
        let content = format!("Subject: x\r\n\r\n{}\r\n", "x".repeat(octets));
        assert_eq!(
            client.transaction("b@far.example", &content),
            code,
            "{octets}"
        );
    }
    others_are_well(&relay, 0);
    assert_eq!(
        relay.fleet.tally.totals().unmarked,
        1,
        "998 octets were delivered"
    );
}

#[test]
fn ten_thousand_recipients_are_bounded() {
    let Some(relay) = relay(3) else { return };
    let mut client = Client::hello(relay.address());
    assert_eq!(client.command("MAIL FROM:<a@sender.example>").0, 250);
    let (mut accepted, mut later) = (0, 0);
    for batch in 0..100 {
        let commands: String = (0..100)
            .map(|n| format!("RCPT TO:<r{}@far.example>\r\n", batch * 100 + n))
            .collect();
        client.send(commands.as_bytes()).unwrap();
        for _ in 0..100 {
            match client.reply() {
                (250, _) => accepted += 1,
                (452, text) => {
                    assert!(text.contains("4.5.3"), "{text}");
                    later += 1;
                }
                (code, text) => {
                    // The session may also be ended for its many refusals.
                    assert!(code == 421 || code == 0, "{code} {text}");
                    others_are_well(&relay, 0);
                    return;
                }
            }
        }
    }
    assert_eq!((accepted, later), (1000, 9000));
    assert_eq!(client.command("DATA").0, 354);
    client.send(b"Subject: many\r\n\r\nhello\r\n").unwrap();
    assert_eq!(client.command(".").0, 250);
    others_are_well(&relay, 0);
}

#[test]
fn drop_amid_content_leaves_nothing() {
    let Some(relay) = relay(4) else { return };
    for n in 0..200 {
        let mut client = Client::hello(relay.address());
        client.command("MAIL FROM:<a@sender.example>");
        client.command("RCPT TO:<b@far.example>");
        assert_eq!(client.command("DATA").0, 354);
        let piece = "x".repeat(70) + "\r\n";
        client.send(piece.repeat(n * 10).as_bytes()).unwrap();
        if n % 2 == 0 {
            // Half a final dot.
            client.send(b"\r\n.").unwrap();
        }
    }
    others_are_well(&relay, 0);
    let totals = relay.fleet.tally.totals();
    assert_eq!(
        totals.unmarked, 0,
        "no torn message was delivered: {totals:?}"
    );
}

#[test]
fn bare_line_ends_are_refused_and_smuggle_nothing() {
    let Some(relay) = relay(5) else { return };
    let smuggled = "MAIL FROM:<evil@sender.example>\r\nRCPT TO:<b@far.example>\r\nDATA\r\n\
                    Subject: smuggled\r\n\r\nevil\r\n.\r\n";
    for end in ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r"] {
        let mut client = Client::hello(relay.address());
        client.command("MAIL FROM:<a@sender.example>");
        client.command("RCPT TO:<b@far.example>");
        assert_eq!(client.command("DATA").0, 354);
        client
            .send(format!("Subject: x\r\n\r\nhello{end}{smuggled}").as_bytes())
            .unwrap();
        let (code, text) = client.reply();
        assert!(
            code == 0 || code >= 500,
            "{end:?} was answered {code} {text}"
        );
    }
    others_are_well(&relay, 0);
    assert_eq!(relay.fleet.tally.totals().unmarked, 0);
}

const MEMORY_LIMITS: &str = "[limits]\nmemory_bytes_max = \"64MiB\"\n\
     content_cache_bytes_max = \"16MiB\"\nmessage_bytes_max = \"30MiB\"\n";

/// Beside the limit: code, buffers of sockets, queue and log batches.
const OVERHEAD_BYTES_MAX: u64 = 128 << 20;

/// Forty sessions with 8 MiB of content each, none of it ended: nothing bound them but their number.
#[test]
fn content_coming_in_stays_within_memory() {
    let Some(relay) = Relay::start(31, |s| s.extra = MEMORY_LIMITS.to_owned()) else {
        return;
    };
    let block = b"0123456789012345678901234567890123456789\r\n".repeat(25_000);
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = Client::hello(relay.address());
        if client.command("MAIL FROM:<a@sender.example>").0 == 250 {
            assert_eq!(client.command("RCPT TO:<b@far.example>").0, 250);
            let (code, text) = client.command("DATA");
            if code == 354 {
                clients.push(client);
            } else {
                assert!(text.starts_with("421 4.3.2"), "{text}");
            }
        }
    }
    for _ in 0..8 {
        for client in &mut clients {
            // One that was refused and went on was let go.
            let _ = client.send(&block);
        }
    }
    let resident = relay.daemon.resident_bytes();
    assert!(
        resident < (64 << 20) + OVERHEAD_BYTES_MAX,
        "{} MiB",
        resident >> 20
    );
    drop(clients);
    assert!(eventually(|| {
        relay.daemon.status("memory_bytes").as_deref() == Some("0")
    }));
    others_are_well(&relay, 0);
}

/// Servers that take half of a large message and then nothing: what is read back for them is bounded, and
/// mail for others passes.
#[test]
fn content_read_back_stays_within_memory() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let route = server.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in server.incoming().flatten() {
            std::thread::spawn(move || {
                use std::io::{BufRead, BufReader, Write};
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let _ = stream.write_all(b"220 stalls.test\r\n");
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|octets| octets > 0) {
                    if line.starts_with("DATA") {
                        let _ = stream.write_all(b"354 go on\r\n");
                        // Holds the connection and reads no more.
                        std::thread::park();
                    }
                    let _ = stream.write_all(b"250 ok\r\n");
                    line.clear();
                }
            });
        }
    });
    let Some(relay) = Relay::start(32, |s| {
        s.extra = MEMORY_LIMITS.to_owned();
        // By address and port they are one site, so its sessions have to be many.
        s.delivery = "sessions_max = 60\n".to_owned();
        s.routes.insert(0, ("*.stall.test".to_owned(), route));
    }) else {
        return;
    };
    let line = "0123456789012345678901234567890123456789\r\n";
    let content = format!("Subject: x\r\n\r\n{}", line.repeat(200_000));
    for site in 0..30 {
        let mut client = Client::hello(relay.address());
        assert_eq!(client.command("MAIL FROM:<a@sender.example>").0, 250);
        let rcpt = format!("RCPT TO:<b@s{site}.stall.test>");
        assert_eq!(client.command(&rcpt).0, 250);
        let taken = eventually(|| client.command("DATA").0 == 354);
        assert!(taken);
        client.send(content.as_bytes()).unwrap();
        assert_eq!(client.command(".").0, 250);
    }
    others_are_well(&relay, 0);
    let resident = relay.daemon.resident_bytes();
    assert!(
        resident < (64 << 20) + OVERHEAD_BYTES_MAX,
        "{} MiB",
        resident >> 20
    );
}
