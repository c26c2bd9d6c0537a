//! Hostile mail costs little: bounded memory beyond the message, bounded time, no panic.
#![allow(unsafe_code)] // The counting allocator below is the only way to see what a call allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use engine::bounce::{Classifier, Reader, Verdict};

/// What the issue allows beyond the message itself.
const MEMORY_BYTES_MAX: usize = 1 << 20;

struct Counting;

thread_local! {
    /// Bytes in use by this thread's calls, and the most there were; tests run side by side.
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

fn count(change: isize) {
    // A thread that is ending has no counters any more, and nothing to count.
    let live = LIVE.try_with(|live| {
        live.set(live.get().wrapping_add_signed(change));
        live.get()
    });
    if let Ok(live) = live {
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live)));
    }
}

// SAFETY: every call goes to the system allocator unchanged; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: `pointer` came from `alloc` above with the same `layout`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Reads `message` and returns the verdict and the most memory that was in use, in bytes.
fn cost(name: &str, message: &[u8]) -> Verdict {
    let reader = Reader::new(Classifier::builtin());
    let before = LIVE.get();
    PEAK.set(before);
    let report = reader.read(message);
    let used = PEAK.get() - before;
    println!("{name}: {} bytes read with {used} bytes", message.len());
    assert!(
        used <= MEMORY_BYTES_MAX,
        "{name}: {used} bytes beyond the message"
    );
    report.verdict
}

fn nested(depth: usize, open: &str) -> Vec<u8> {
    let mut message = b"From: MAILER-DAEMON@example.jp\nSubject: Returned mail\n".to_vec();
    for level in 0..depth {
        message.extend(open.replace("{}", &level.to_string()).as_bytes());
    }
    message.extend(b"\nText at the bottom: user unknown\n");
    message
}

#[test]
fn mime_nested_a_thousand_deep() {
    let parts = "Content-Type: multipart/mixed; boundary=\"b{}\"\n\n--b{}\n";
    cost("multiparts", &nested(1000, parts));
    cost(
        "messages",
        &nested(1000, "Content-Type: message/rfc822\n\n"),
    );
    cost(
        "digests",
        &nested(
            1000,
            "Content-Type: multipart/digest; boundary=\"b{}\"\n\n--b{}\n\n",
        ),
    );
    cost(
        "spaced",
        &nested(5000, "Content-Type: message / rfc822\n\n"),
    );
}

#[test]
fn a_hundred_megabytes_of_header_fields() {
    let mut message = Vec::new();
    while message.len() < 100 << 20 {
        message.extend(b"X-A: b\nReceived: from a by b\n");
    }
    cost("short fields", &message);
    let mut message = b"Subject: ".to_vec();
    message.resize(100 << 20, b'a');
    cost("one long field", &message);
    let mut message = b"Subject: ".to_vec();
    while message.len() < 1 << 20 {
        message.extend(b"=?utf-8?B?w4k=?= ");
    }
    cost("encoded words", &message);
    cost("nameless fields", &b":\n".repeat(1 << 20));
    cost("tiny fields", &b"a:\n".repeat(1 << 20));
}

#[test]
fn charsets_that_swell() {
    for charset in [
        "iso-2022-jp",
        "utf-7",
        "utf-16",
        "gb18030",
        "shift_jis",
        "koi8-r",
        "big5",
    ] {
        for byte in [
            b"\x1b$B!!",
            b"+AAAA",
            b"\xff\xff\xff\xff\xff",
            b"\x81\x30\x81\x30\x80",
        ] {
            let head =
                format!("From: MAILER-DAEMON@a.b\nContent-Type: text/html; charset={charset}\n\n");
            let mut message = head.into_bytes();
            while message.len() < 1 << 20 {
                message.extend(byte.iter());
            }
            cost(charset, &message);
        }
    }
}

#[test]
fn endless_lists_of_addresses() {
    let mut message = b"From: MAILER-DAEMON@a.b\nSubject: failure notice\n\nfailed to deliver to the following recipients:\n".to_vec();
    for number in 0..100_000 {
        message.extend(format!("<u{number}@example.jp>: 550 user unknown\n").as_bytes());
    }
    assert_eq!(cost("notice", &message), Verdict::Hard);
    let mut message = b"From: a@b.c\nContent-Type: message/delivery-status\n\n".to_vec();
    for number in 0..100_000 {
        message.extend(
            format!("Final-Recipient: rfc822;u{number}@a.jp\nAction: failed\nStatus: 5.1.1\n\n")
                .as_bytes(),
        );
    }
    assert_eq!(cost("fields", &message), Verdict::Hard);
    cost(
        "at signs",
        &b"From: MAILER-DAEMON@a.b\n\n"
            .iter()
            .copied()
            .chain(b"@a".repeat(1 << 19))
            .collect::<Vec<_>>(),
    );
    cost("nothing", b"");
}

/// The MIME parser counted HTML parts where it meant text parts, and indexed past the end of the
/// list: found by fuzzing on 24 November 2026.
#[test]
fn alternatives_with_more_html_than_text() {
    let html = "--a\nContent-Type: text/html\n\n<p>x\n";
    for name in [
        "alternative",
        "ALTERNATIVE",
        " alternative",
        "(c)alternative",
    ] {
        let message = format!(
            "From: a@b.c\nContent-Type: multipart/mixed; boundary=m\n\n\
             --m\nContent-Type: multipart/{name}; boundary=a\n\n\
             --a\nContent-Type: text/plain\n\nx\n{html}{html}{html}--a--\n\
             --m\nContent-Type: multipart/{name}; boundary=b\n\n\
             --b\nContent-Type: text/plain\n\nx\n--b--\n--m--\n"
        );
        assert_eq!(cost(name, message.as_bytes()), Verdict::NotABounce);
    }
}
