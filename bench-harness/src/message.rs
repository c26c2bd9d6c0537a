//! What a message of the harness looks like, and how its id is read back at the other end.
//!
//! Each recipient of a run has an id: a number counted from 0. A message for n recipients takes n
//! ids in a row and carries the first one in its header; each forward-path carries its own:
//!
//! ```text
//! RCPT TO:<u1a2b@domain>                                   id 0x1a2b of this run
//! X-Bench-Id: 0badcafe-00000000000019f0 at=... sum=...     run, first id, µs since 1970, body sum
//! ```
//!
//! So the fleet can tell a message that came twice, one whose content belongs to another envelope,
//! and one whose body was altered on the way. The marker has a fixed width: it is found with one
//! search and read in place.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use memchr::memmem;

/// Recipients a message may have at most, bytes of the ids' arithmetic included.
pub const RECIPIENTS_MAX: usize = 1000;

const MARKER: &[u8] = b"\r\nX-Bench-Id: ";
/// `rrrrrrrr-iiiiiiiiiiiiiiii at=tttttttttttttttt sum=ssssssssssssssss`
const MARKER_BYTES: usize = 8 + 1 + 16 + 4 + 16 + 5 + 16;

/// Microseconds since 1970, the clock that both ends of a run share.
pub fn now_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The parts of a message that stay the same for a whole run.
#[derive(Debug, Clone)]
pub struct Template {
    run: u32,
    headers: Vec<u8>,
    body: Vec<u8>,
    body_sum: u64,
}

impl Template {
    /// A template for messages of about `size_bytes` of content in all (the header alone takes
    /// some 400 bytes), with `extra_headers` as complete lines without CRLF.
    pub fn new(run: u32, size_bytes: usize, extra_headers: &[String]) -> Self {
        let mut headers = Vec::new();
        headers.extend_from_slice(b"Date: Tue, 24 Nov 2026 09:00:00 +0900\r\n");
        headers.extend_from_slice(b"Subject: Bench\r\nMIME-Version: 1.0\r\n");
        headers.extend_from_slice(b"Content-Type: text/plain; charset=us-ascii\r\n");
        for line in extra_headers {
            headers.extend_from_slice(line.as_bytes());
            headers.extend_from_slice(b"\r\n");
        }
        // The lines added per message (From, To, Message-ID, X-Bench-Id) take some 180 bytes.
        let body_bytes = size_bytes.saturating_sub(headers.len() + 180).max(2);
        let mut body = Vec::with_capacity(body_bytes + 80);
        let mut line = 0u32;
        while body.len() < body_bytes {
            let rest = body_bytes - body.len();
            let mut text = format!("{line:06} ");
            while text.len() < 72 {
                text.push(char::from(b'a' + ((text.len() as u32 + line) % 26) as u8));
            }
            text.truncate(rest.saturating_sub(2));
            body.extend_from_slice(text.as_bytes());
            body.extend_from_slice(b"\r\n");
            line += 1;
        }
        let body_sum = sum(&body);
        Self {
            run,
            headers,
            body,
            body_sum,
        }
    }

    /// The run this template marks its messages with.
    pub fn run(&self) -> u32 {
        self.run
    }

    /// Appends a message's content, without the final dot, sent at `at_us`.
    pub fn write(&self, out: &mut Vec<u8>, first_id: u64, from: &str, to: &str, at_us: u64) {
        let mut lines = String::with_capacity(320);
        let run = self.run;
        // Writing to a String cannot fail.
        let _ = write!(
            lines,
            "From: <{from}>\r\nTo: <{to}>\r\nMessage-ID: <{run:08x}.{first_id:x}@bench.example>\r\n\
             X-Bench-Id: {run:08x}-{first_id:016x} at={at_us:016x} sum={:016x}\r\n",
            self.body_sum
        );
        out.extend_from_slice(lines.as_bytes());
        out.extend_from_slice(&self.headers);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.body);
    }
}

/// The marker of a received message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// The run it was sent in.
    pub run: u32,
    /// The id of its first recipient.
    pub first_id: u64,
    /// When it was sent, in µs since 1970.
    pub at_us: u64,
    /// Sum of the body as it was sent.
    pub body_sum: u64,
}

impl Marker {
    /// Reads the marker of `content` (all of it, as on the wire without the final dot), and the sum of
    /// the body that came with it. `None` when it has no marker.
    pub fn read(content: &[u8]) -> Option<(Self, u64)> {
        let header_end = memmem::find(content, b"\r\n\r\n")?;
        let start = memmem::find(&content[..header_end], MARKER)? + MARKER.len();
        let text = content.get(start..start + MARKER_BYTES)?;
        let marker = Self {
            run: u32::try_from(hex(&text[..8])?).ok()?,
            first_id: hex(&text[9..25])?,
            at_us: hex(&text[29..45])?,
            body_sum: hex(&text[50..66])?,
        };
        Some((marker, sum(&content[header_end + 4..])))
    }
}

/// The id in a forward-path `<u1a2b@domain>`, or `None` if it is not one of ours.
pub fn id_of_path(path: &[u8]) -> Option<u64> {
    let at = memchr::memchr(b'@', path)?;
    let local = path[..at].strip_prefix(b"u")?;
    (!local.is_empty() && local.len() <= 16)
        .then(|| hex(local))
        .flatten()
}

fn hex(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0u64, |value, byte| {
        let digit = char::from(*byte).to_digit(16)?;
        Some((value << 4) | u64::from(digit))
    })
}

/// A quick sum over bytes, eight at a time: catches altered, missing and doubled bytes.
fn sum(bytes: &[u8]) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325u64 ^ bytes.len() as u64;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = [0u8; 8];
        word.copy_from_slice(chunk);
        state = (state ^ u64::from_le_bytes(word))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(23);
    }
    for byte in chunks.remainder() {
        state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marker_is_read_back() {
        for size in [0, 400, 1024, 100_000] {
            let template = Template::new(0x0bad_cafe, size, &["X-Hikyaku-Group: g".into()]);
            let mut content = b"Received: by relay\r\n".to_vec();
            template.write(
                &mut content,
                0x1a2b,
                "a@b.example",
                "u1a2b@c.example",
                12_345,
            );
            let (marker, sum) = Marker::read(&content).expect("has a marker");
            assert_eq!(marker.run, 0x0bad_cafe);
            assert_eq!((marker.first_id, marker.at_us), (0x1a2b, 12_345));
            assert_eq!(marker.body_sum, sum, "body of {size} bytes is unaltered");
        }
    }

    #[test]
    fn size_is_met() {
        let mut content = Vec::new();
        Template::new(1, 1024, &[]).write(
            &mut content,
            9,
            "bench@sender.example",
            "u9@d0.example",
            1,
        );
        assert!(
            (1000..=1048).contains(&content.len()),
            "{} bytes",
            content.len()
        );
    }

    #[test]
    fn altered_body_has_another_sum() {
        let mut content = Vec::new();
        Template::new(1, 1024, &[]).write(&mut content, 9, "a@b.example", "u9@c.example", 1);
        let last = content.len() - 5;
        content[last] ^= 1;
        let (marker, sum) = Marker::read(&content).expect("has a marker");
        assert_ne!(marker.body_sum, sum);
    }

    #[test]
    fn ids_of_paths() {
        assert_eq!(id_of_path(b"u1a2b@d.example"), Some(0x1a2b));
        assert_eq!(id_of_path(b"postmaster@d.example"), None);
        assert_eq!(id_of_path(b"u@d.example"), None);
        assert_eq!(id_of_path(b"u12"), None);
    }
}
