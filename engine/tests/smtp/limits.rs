//! What a hostile or broken client can make a session hold, and do.

use std::rc::Rc;

use engine::smtp::server::{
    Acceptance, BACKLOG_BYTES_MAX, Greeting, ServerEvent, ServerSession, ServerSettings,
};

use crate::server_dialogs::{START, TestHost, peer};

struct Client {
    session: ServerSession,
    host: TestHost,
    replies: String,
    messages: usize,
    closed: bool,
    held_max: usize,
}

impl Client {
    fn new(settings: ServerSettings) -> Self {
        let mut client = Self {
            session: ServerSession::new(Rc::new(settings), peer(true), START),
            host: TestHost::default(),
            replies: String::new(),
            messages: 0,
            closed: false,
            held_max: 0,
        };
        (client.session).greet(Greeting::Welcome, &mut client.host, START);
        client.say(b"EHLO client.example\r\n");
        client
    }

    /// Sends octets and takes the replies out; messages are accepted.
    fn say(&mut self, octets: &[u8]) {
        self.session.handle_input(octets, &mut self.host, START);
        self.held_max = self.held_max.max(self.session.buffered_bytes());
        while let Some(event) = self.session.poll_event() {
            match event {
                ServerEvent::Message(_) => {
                    self.messages += 1;
                    self.session
                        .finish(Acceptance::Accepted, &mut self.host, START);
                }
                ServerEvent::Close => self.closed = true,
            }
        }
        let mut out = Vec::new();
        self.session.poll_transmit(&mut out);
        self.replies.push_str(std::str::from_utf8(&out).unwrap());
    }

    fn count(&self, code: &str) -> usize {
        self.replies
            .lines()
            .filter(|line| line.starts_with(code))
            .count()
    }
}

#[test]
fn an_endless_line_ends_the_session_after_a_bounded_read() {
    let mut client = Client::new(ServerSettings::default());
    let piece = vec![b'x'; 16 * 1024];
    let mut sent = 0_usize;
    while !client.closed {
        client.say(&piece);
        sent += piece.len();
        assert!(sent < 1024 * 1024, "still reading after {sent} octets");
    }
    assert!(
        client.held_max < 16 * 1024,
        "held {} octets",
        client.held_max
    );
    assert_eq!(client.count("500 5.5.2"), 1);
    client.say(&piece);
    assert_eq!(
        client.session.buffered_bytes(),
        client.session.buffered_bytes().min(4096)
    );
}

#[test]
fn long_lines_are_refused_one_by_one_and_the_next_command_is_read() {
    let mut client = Client::new(ServerSettings::default());
    for size in [2049, 10_000, 200_000] {
        client.say(&vec![b'x'; size]);
        client.say(b"\r\nNOOP\r\n");
    }
    assert_eq!(client.count("500 5.5.2 Line too long"), 3);
    assert_eq!(client.count("250 2.0.0 Ok"), 3);
}

#[test]
fn ten_thousand_recipients_cost_what_a_thousand_do() {
    let mut client = Client::new(ServerSettings::default());
    client.say(b"MAIL FROM:<>\r\n");
    for n in 0..10_000 {
        client.say(format!("RCPT TO:<user{n}@example.jp>\r\n").as_bytes());
    }
    assert_eq!(client.count("250 2.1.5"), 1000);
    assert_eq!(client.count("452 4.5.3"), 9000);
    client.say(b"DATA\r\n.\r\n");
    assert_eq!(client.messages, 1);
    assert!(!client.closed);
}

#[test]
fn commands_sent_ahead_of_an_unanswered_message_are_kept_within_bounds() {
    let mut client = Client::new(ServerSettings::default());
    let (session, host) = (&mut client.session, &mut client.host);
    let start = b"MAIL FROM:<>\r\nRCPT TO:<a@example.jp>\r\nDATA\r\n.\r\n";
    session.handle_input(start, host, START);
    assert!(session.awaits_finish() && session.wants_input());
    session.handle_input(&vec![b'x'; BACKLOG_BYTES_MAX], host, START);
    assert!(!session.wants_input());
    // A runtime that reads on all the same is cut off.
    for _ in 0..100 {
        session.handle_input(&vec![b'x'; BACKLOG_BYTES_MAX], host, START);
    }
    assert!(!session.awaits_finish());
    assert!(session.buffered_bytes() < 64 * 1024);
    session.finish(Acceptance::Accepted, host, START);
}

#[test]
fn oversized_content_is_dropped_as_it_comes() {
    let settings = ServerSettings {
        size_max_bytes: 100_000,
        ..ServerSettings::default()
    };
    let mut client = Client::new(settings);
    client.say(b"MAIL FROM:<>\r\nRCPT TO:<a@example.jp>\r\nDATA\r\nA: b\r\n\r\n");
    let line = [vec![b'x'; 998], b"\r\n".to_vec()].concat();
    for _ in 0..10_000 {
        client.say(&line);
    }
    client.say(b".\r\n");
    assert_eq!(client.count("552 5.3.4"), 1);
    assert!(client.held_max < 300_000, "held {} octets", client.held_max);
    assert_eq!(client.messages, 0);
}

#[test]
fn a_declared_size_reserves_a_bounded_amount() {
    let mut client = Client::new(ServerSettings::default());
    client.say(b"MAIL FROM:<> SIZE=50000000\r\nRCPT TO:<a@example.jp>\r\nDATA\r\nx");
    assert!(
        client.held_max < 512 * 1024,
        "held {} octets",
        client.held_max
    );
}

#[test]
fn an_endless_header_section_is_refused_however_it_is_cut() {
    for piece_bytes in [100_000, 997] {
        let mut client = Client::new(ServerSettings::default());
        client.say(b"MAIL FROM:<>\r\nRCPT TO:<a@example.jp>\r\nDATA\r\n");
        let field = format!("A: {}\r\n", "x".repeat(900));
        let section = field.repeat(2_000_000 / field.len());
        for piece in section.as_bytes().chunks(piece_bytes) {
            client.say(piece);
        }
        client.say(b"\r\n.\r\n");
        assert_eq!(client.count("552 5.3.4"), 1, "by {piece_bytes}");
        assert!(
            client.held_max < 4 * 1024 * 1024,
            "held {} octets",
            client.held_max
        );
    }
}

#[test]
fn a_client_that_sends_no_mail_is_let_go() {
    let mut client = Client::new(ServerSettings::default());
    let mut commands = 0;
    while !client.closed {
        client.say(b"NOOP\r\n");
        commands += 1;
        assert!(commands < 1000);
    }
    assert_eq!(client.count("421 4.7.0"), 1);
}

#[test]
fn a_flood_of_cheap_commands_stops_input_until_replies_are_taken() {
    let settings = ServerSettings {
        recipients_max: 100_000,
        ..ServerSettings::default()
    };
    let mut client = Client::new(settings);
    client.say(b"MAIL FROM:<>\r\n");
    let flood = b"RCPT TO:<a@b.c>\r\n".repeat(6000);
    client.session.handle_input(&flood, &mut client.host, START);
    assert!(!client.session.wants_input());
    let mut out = Vec::new();
    client.session.poll_transmit(&mut out);
    assert!(client.session.wants_input());
}

/// `BDAT 9000000000000000000` with nobody's leave, and then octets for ever: the shard did nothing else.
#[test]
fn refused_chunk_of_any_length_ends_the_connection() {
    let mut client = Client::new(ServerSettings::default());
    client.say(b"BDAT 9000000000000000000 LAST\r\n");
    assert!(client.closed, "{}", client.replies);
    assert_eq!(client.count("503"), 1, "{}", client.replies);
    // A small one is taken off, so that the client reads its answer in step.
    let mut client = Client::new(ServerSettings::default());
    client.say(b"BDAT 20\r\n0123456789abcdefghijNOOP\r\n");
    assert!(!client.closed);
    assert_eq!(
        (client.count("503"), client.count("250 2.0.0 Ok")),
        (1, 1),
        "{}",
        client.replies
    );
}

#[test]
fn chunk_beyond_the_size_limit_is_refused_before_it_comes() {
    let settings = ServerSettings {
        size_max_bytes: 10_000,
        ..ServerSettings::default()
    };
    let mut client = Client::new(settings);
    client.say(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@example.com>\r\nBDAT 90000000\r\n");
    assert!(client.closed);
    assert_eq!(client.count("552 5.3.4"), 1, "{}", client.replies);
}

#[test]
fn refused_content_is_read_for_so_long_and_no_longer() {
    let settings = ServerSettings {
        size_max_bytes: 10_000,
        ..ServerSettings::default()
    };
    let mut client = Client::new(settings);
    client.say(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@example.com>\r\nDATA\r\n");
    let lines = b"0123456789abcdef0123456789abcdef\r\n".repeat(1000);
    let mut sent = 0;
    while !client.closed && sent < 100 << 20 {
        client.say(&lines);
        sent += lines.len();
    }
    assert!(client.closed && sent < 2 << 20, "{sent} octets were read");
    assert_eq!(client.count("552 5.3.4"), 1, "{}", client.replies);
}

/// The CR that ends a read is taken back when it turns out to be bare: the header was looked at beyond
/// the end of what was left.
#[test]
fn chunk_that_ends_in_cr_within_the_header_is_taken() {
    let settings = ServerSettings {
        bare_newline: engine::smtp::dot::BareNewline::Normalise,
        ..ServerSettings::default()
    };
    let content = b"Subject: x\r\nX-Field: y\r\n\r\nbody\r\n";
    for cut in 0..content.len() {
        let mut client = Client::new(settings.clone());
        client.say(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@example.com>\r\n");
        client.say(format!("BDAT {cut}\r\n").as_bytes());
        client.say(&content[..cut]);
        client.say(b"BDAT 0 LAST\r\n");
        assert_eq!(client.messages, 1, "cut at {cut}: {}", client.replies);
    }
}
