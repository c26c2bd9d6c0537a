//! How many returned messages a core reads in a second, and what one classification costs.
//!
//! Over the corpus beside the checkout where it is there, else over generated notices of its kinds.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::bounce::{Classifier, Reader};
use engine::phase::Phase;
use engine::status::{EnhancedStatus, ReplyCode};

fn messages() -> Vec<Vec<u8>> {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/bounces");
    let mut out = Vec::new();
    let entries = std::fs::read_dir(corpus).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == "eml") {
            out.extend(read(&path));
        }
    }
    if out.is_empty() {
        println!("note: {corpus} is not there; generated notices are read instead");
        out.extend((0..500).map(generated));
    }
    out
}

#[expect(clippy::disallowed_methods, reason = "a benchmark, not the engine")]
fn read(path: &std::path::Path) -> Option<Vec<u8>> {
    std::fs::read(path).ok()
}

fn generated(number: usize) -> Vec<u8> {
    let notice = format!(
        "This is the mail system at host mx{number}.example.jp.\n\n<u{number}@example.net>: host \
         in.example.net[192.0.2.1] said: 550 5.1.1 User unknown (in reply to RCPT TO command)\n"
    );
    let status = format!(
        "Reporting-MTA: dns; mx.example.jp\n\nFinal-Recipient: rfc822; u{number}@example.net\n\
         Action: failed\nStatus: 5.1.1\nDiagnostic-Code: smtp; 550 5.1.1 User unknown\n"
    );
    let original = "Received: from a by b\nMessage-ID: <1@example.jp>\nSubject: x\n".repeat(20);
    format!(
        "From: MAILER-DAEMON@mx.example.jp\nSubject: Undelivered Mail Returned to Sender\n\
         MIME-Version: 1.0\nContent-Type: multipart/report; report-type=delivery-status; \
         boundary=b\n\n--b\n\n{notice}\n--b\nContent-Type: message/delivery-status\n\n{status}\n\
         --b\nContent-Type: message/rfc822\n\n{original}\n--b--\n"
    )
    .into_bytes()
}

fn reading(c: &mut Criterion) {
    let messages = messages();
    let reader = Reader::new(Classifier::builtin());
    let mut group = c.benchmark_group("bounce");
    group.throughput(Throughput::Elements(messages.len() as u64));
    group.bench_function("read", |b| {
        b.iter(|| {
            messages
                .iter()
                .map(|m| reader.read(m).failures.len())
                .sum::<usize>()
        });
    });
    group.throughput(Throughput::Elements(1));
    let classifier = Classifier::builtin();
    let text = "5.1.1 The email account that you tried to reach does not exist. Please try \
                double-checking the recipient's email address for typos or unnecessary spaces.";
    let code = ReplyCode::new(550);
    let status = EnhancedStatus::parse("5.1.1");
    group.bench_function("classify", |b| {
        b.iter(|| classifier.classify(code, status, text, Some(Phase::Rcpt), Some("google")));
    });
    group.finish();
}

criterion_group!(benches, reading);
criterion_main!(benches);
