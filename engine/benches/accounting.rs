//! What the accounts of one delivery cost a shard: its log record and its counts.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use engine::clock::UnixMs;
use engine::counters::{Counter, Counters};
use engine::delivery_log::{LogBatch, LogRecord};
use engine::ids::{QueueId, ShardId};
use engine::phase::Phase;
use engine::queue::record::OutcomeKind;
use engine::status::{EnhancedStatus, ReplyCode};

fn delivery_log(c: &mut Criterion) {
    let mut batch = LogBatch::new();
    let mut id = 0;
    c.bench_function("pack one log record into its batch", |bencher| {
        bencher.iter(|| {
            id += 1;
            batch.push(black_box(&LogRecord {
                message_id: b"<20261124065700.1234@app.example.jp>",
                group: b"newsletter",
                tags: b"X-Hikyaku-Tag=campaign 7;",
                reverse_path: b"bounce+123456@news.example.jp",
                forward_path: b"someone@example.com",
                domain: b"example.com",
                site: b"mx1.example.com",
                phase: Some(Phase::EndOfData),
                code: ReplyCode::new(250),
                enhanced: Some(EnhancedStatus::new(2, 0, 0)),
                reply: b"250 2.0.0 Ok: queued as 4Z1XyZ0abcz1234",
                dns: b"MX 10 mx1.example.com, 20 mx2.example.com; A 192.0.2.1; NOERROR cached",
                source_ip: Some([198, 51, 100, 7].into()),
                dest_ip: Some([192, 0, 2, 1].into()),
                dest_host: b"mx1.example.com",
                greeting: b"220 mx1.example.com ESMTP Postfix",
                tls: b"TLSv1.3 TLS_AES_256_GCM_SHA384",
                delay_queue_ms: 12,
                delay_send_ms: Some(35),
                size: 1024,
                ..LogRecord::new(
                    UnixMs(1_795_503_420_123),
                    QueueId(id),
                    OutcomeKind::Delivered,
                    ShardId(1),
                )
            }));
            if batch.is_due(UnixMs(1_795_503_420_123)) {
                let bytes = batch.take();
                batch.reuse(black_box(bytes));
            }
        });
    });
}

fn counters(c: &mut Criterion) {
    let now = UnixMs(1_795_503_420_123);
    let mut counters = Counters::new(now, 20_000, 2_000);
    let domains: Vec<_> = (0..10_000)
        .map(|n| counters.domain(&format!("domain-{n}.example.jp")))
        .collect();
    let groups: Vec<_> = (0..100)
        .map(|n| counters.group(&format!("group-{n}")))
        .collect();
    let mut n: usize = 0;
    for (name, spread) in [
        ("one count, one domain", 1),
        ("one count, 10,000 domains", 10_000),
    ] {
        c.bench_function(name, |bencher| {
            bencher.iter(|| {
                n = n.wrapping_add(7919);
                counters.count(domains[n % spread], groups[n % 100], Counter::Delivered, 1);
            });
        });
    }
}

criterion_group!(benches, delivery_log, counters);
criterion_main!(benches);
