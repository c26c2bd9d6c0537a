//! What a message costs in the SMTP machines: 1 KB, one recipient, as a busy connection sees it.
//!
//! `cargo bench -p hikyaku-engine --bench smtp`. The bar is 5 µs for both machines together.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "criterion's macros; a benchmark may panic"
)]

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::address::Address;
use engine::clock::{Mono, Now, UnixMs};
use engine::envelope::{BodyType, Envelope};
use engine::ids::{QueueId, QueueIds, ShardId, TransactionToken};
use engine::message::header::{HeaderScanner, WatchedHeaders};
use engine::smtp::client::{ClientConnection, ClientEvent, ClientSettings, OutboundTransaction};
use engine::smtp::dot::{BareNewline, ContentDecoder, stuff};
use engine::smtp::server::{
    Acceptance, Greeting, Host, Overload, Peer, ServerEvent, ServerSession, ServerSettings,
};

const NOW: Now = Now {
    mono: Mono(0),
    unix: UnixMs(1_795_502_969_000),
};

struct BenchHost(QueueIds);

impl Host for BenchHost {
    fn next_queue_id(&mut self, now: Now) -> QueueId {
        self.0.next(now.unix.0)
    }

    fn overload(&self) -> Option<Overload> {
        None
    }
}

/// A message as smtp-source -l 1000 or a mailing program would send it.
fn content() -> Vec<u8> {
    let mut content = b"Received: from app.example (app.example [192.0.2.7])\r\n\
        \tby mailer.example with ESMTP id ABC123; Tue, 24 Nov 2026 06:49:29 +0000\r\n\
        From: Example Shop <news@shop.example>\r\nTo: customer@example.jp\r\n\
        Subject: Your order has been sent\r\nDate: Tue, 24 Nov 2026 06:49:29 +0000\r\n\
        Message-ID: <20261124064929.12345@shop.example>\r\nMIME-Version: 1.0\r\n\
        X-Hikyaku-Group: shop-17\r\nX-Hikyaku-Tag: 4711\r\n\
        Content-Type: text/plain; charset=utf-8\r\n\r\n"
        .to_vec();
    while content.len() < 1000 {
        content.extend_from_slice(b"A line of text as people write it, with some words on it.\r\n");
    }
    content
}

fn settings() -> ServerSettings {
    ServerSettings {
        hostname: "relay.example.jp".into(),
        watched: WatchedHeaders {
            group: Some("X-Hikyaku-Group".into()),
            tags: vec!["X-Hikyaku-Tag".into()],
            strip: true,
        },
        ..ServerSettings::default()
    }
}

fn session() -> ServerSession {
    let peer = Peer {
        ip: "192.0.2.1".parse().unwrap(),
        port: 40_000,
        local_ip: "192.0.2.25".parse().unwrap(),
        may_relay: true,
    };
    let mut session = ServerSession::new(Rc::new(settings()), peer, NOW);
    let mut host = BenchHost(QueueIds::new(ShardId(0), 0));
    session.greet(Greeting::Welcome, &mut host, NOW);
    session
}

/// Feeds pieces to a session, accepts what comes and throws the replies away.
fn feed(session: &mut ServerSession, host: &mut BenchHost, pieces: &[&[u8]], out: &mut Vec<u8>) {
    for piece in pieces {
        session.handle_input(piece, host, NOW);
        while let Some(event) = session.poll_event() {
            match event {
                ServerEvent::Message(message) => {
                    black_box(&message);
                    session.finish(Acceptance::Accepted, host, NOW);
                }
                ServerEvent::Close => panic!("the session has closed"),
            }
        }
        out.clear();
        session.poll_transmit(out);
    }
}

fn server(c: &mut Criterion) {
    let mut group = c.benchmark_group("server");
    group.throughput(Throughput::Elements(1));
    let commands: [&[u8]; 3] = [
        b"MAIL FROM:<news@shop.example>\r\n",
        b"RCPT TO:<customer@example.jp>\r\n",
        b"DATA\r\n",
    ];
    let mut stuffed = content();
    stuffed.extend_from_slice(b".\r\n");

    let mut host = BenchHost(QueueIds::new(ShardId(0), 0));
    let mut out = Vec::new();
    let mut lock_step = session();
    feed(
        &mut lock_step,
        &mut host,
        &[b"EHLO client.example\r\n"],
        &mut out,
    );
    group.bench_function("message, lock-step", |b| {
        let pieces = [commands[0], commands[1], commands[2], &stuffed];
        b.iter(|| feed(&mut lock_step, &mut host, &pieces, &mut out));
    });

    let mut pipelined = session();
    feed(
        &mut pipelined,
        &mut host,
        &[b"EHLO client.example\r\n"],
        &mut out,
    );
    group.bench_function("message, pipelined", |b| {
        let piece = [&stuffed, &commands.concat()[..]].concat();
        feed(&mut pipelined, &mut host, &[&commands.concat()], &mut out);
        b.iter(|| feed(&mut pipelined, &mut host, &[&piece], &mut out));
    });

    group.bench_function("session of one message", |b| {
        b.iter(|| {
            let mut session = session();
            let pieces = [
                b"EHLO client.example\r\n",
                commands[0],
                commands[1],
                commands[2],
                &stuffed,
            ];
            feed(&mut session, &mut host, &pieces, &mut out);
        });
    });
    group.finish();
}

fn client(c: &mut Criterion) {
    let mut group = c.benchmark_group("client");
    group.throughput(Throughput::Elements(1));
    let mut connection = ClientConnection::new(Rc::new(ClientSettings::default()), NOW);
    let mut out = Vec::new();
    connection.handle_input(b"220 mx.example ESMTP\r\n", NOW);
    connection.handle_input(
        b"250-mx.example\r\n250-PIPELINING\r\n250-SIZE 50000000\r\n250 8BITMIME\r\n",
        NOW,
    );
    while connection.poll_event().is_some() {}
    let content = Rc::new(content());
    let address = |text: &str| Address::parse(text).unwrap();
    let from = Some(address("news@shop.example"));
    let envelope = Arc::new(Envelope {
        body: BodyType::EightBitMime,
        ..Envelope::new(from, vec![address("customer@example.jp").into()])
    });
    let transaction = || OutboundTransaction {
        token: TransactionToken(1),
        envelope: Arc::clone(&envelope),
        recipients: vec![0],
        content: Rc::clone(&content),
    };
    connection.start(transaction(), NOW);
    connection.handle_input(b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 go\r\n", NOW);
    group.bench_function("message, pipelined one ahead", |b| {
        b.iter(|| {
            assert!(connection.can_start());
            connection.start(transaction(), NOW);
            out.clear();
            while connection.poll_transmit(&mut out) {}
            connection.handle_input(
                b"250 2.0.0 Ok: queued as ABCDEF\r\n250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 go\r\n",
                NOW,
            );
            let Some(ClientEvent::TransactionDone { results, .. }) = connection.poll_event() else {
                panic!("the transaction is not done");
            };
            black_box(results);
        });
    });
    group.finish();
}

fn parts(c: &mut Criterion) {
    let mut group = c.benchmark_group("parts");
    let content = content();
    group.throughput(Throughput::Bytes(content.len() as u64));
    let mut out = Vec::with_capacity(4096);
    group.bench_function("stuff", |b| {
        b.iter(|| {
            out.clear();
            black_box(stuff(black_box(&content), 0, &mut out, usize::MAX))
        });
    });
    group.bench_function("decode", |b| {
        b.iter(|| {
            out.clear();
            let mut decoder = ContentDecoder::data(BareNewline::Reject, 998);
            black_box(decoder.decode(black_box(&content), &mut out))
        });
    });
    let watched = settings().watched;
    group.bench_function("scan header", |b| {
        b.iter(|| black_box(HeaderScanner::new(0).advance(black_box(&content), &watched, true)));
    });
    group.finish();
}

criterion_group!(benches, server, client, parts);
criterion_main!(benches);
