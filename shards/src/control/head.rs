//! A request as it comes over the wire, before the HTTP library sees it.
//!
//! What is passed on is written anew from the parsed head: one length, no chunks, one request a
//! connection, and one field of our own that says who asks. Two readers of the same octets then
//! have nothing to disagree about.

use httparse::{EMPTY_HEADER, Request, Status};

use super::Refusal;

/// Longest head, bytes.
pub(super) const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Longest body, bytes.
pub(super) const BODY_BYTES_MAX: usize = 512 * 1024;
/// Fields of a head.
const FIELDS_MAX: usize = 64;

/// The field that names the caller; whatever a client sends under this name is left out.
pub(super) const CALLER: &str = "Hikyaku-Caller";

/// Fields about the connection to the client, which end with it.
const HOP_BY_HOP: [&str; 8] = [
    "Connection",
    "Keep-Alive",
    "Proxy-Connection",
    "TE",
    "Trailer",
    "Upgrade",
    "Expect",
    "Content-Length",
];

/// A head that has come as a whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// What the library is given in its place.
    pub(super) rewritten: Vec<u8>,
    /// Bytes of it on the wire.
    pub(super) bytes: usize,
    /// Bytes of the body behind it.
    pub(super) body_bytes: usize,
    /// The client waits for `100 Continue` before it sends the body.
    pub(super) expects: bool,
}

/// Takes the head at the start of `input`; `None` until all of it is there. `caller` goes into the
/// field [`CALLER`].
///
/// # Errors
/// What the client is to be told; the connection is of no more use.
pub(super) fn parse(input: &[u8], caller: &str) -> Result<Option<Head>, Refusal> {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut request = Request::new(&mut fields);
    let bytes = match request.parse(input) {
        Ok(Status::Complete(bytes)) if bytes <= HEAD_BYTES_MAX => bytes,
        Ok(Status::Partial) if input.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            let why = format!("the head is over {HEAD_BYTES_MAX} bytes or {FIELDS_MAX} fields");
            return Err(Refusal::new(431, why));
        }
        Err(error) => return Err(Refusal::new(400, format!("this is not HTTP/1.1: {error}"))),
    };
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(Refusal::new(400, "the request line is not whole"));
    };
    let is = |field: &httparse::Header<'_>, name: &str| field.name.eq_ignore_ascii_case(name);
    let mut body_bytes = None;
    let mut expects = false;
    let mut rewritten = format!("{method} {target} HTTP/1.{version}\r\n").into_bytes();
    for field in request.headers.iter() {
        if is(field, "Transfer-Encoding") {
            return Err(Refusal::new(411, "send the body with a Content-Length"));
        }
        if is(field, "Content-Length") {
            let length = std::str::from_utf8(field.value)
                .ok()
                .filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|text| text.parse().ok());
            if length.is_none() || body_bytes.is_some_and(|first| Some(first) != length) {
                return Err(Refusal::new(400, "the Content-Length is no number"));
            }
            body_bytes = length;
        }
        expects |= is(field, "Expect");
        if is(field, CALLER) || HOP_BY_HOP.iter().any(|name| is(field, name)) {
            continue;
        }
        rewritten.extend_from_slice(field.name.as_bytes());
        rewritten.extend_from_slice(b": ");
        rewritten.extend_from_slice(field.value);
        rewritten.extend_from_slice(b"\r\n");
    }
    let body_bytes = body_bytes.unwrap_or(0);
    if body_bytes > BODY_BYTES_MAX {
        let why = format!("the body is longer than {BODY_BYTES_MAX} bytes");
        return Err(Refusal::new(413, why));
    }
    let ours =
        format!("Content-Length: {body_bytes}\r\nConnection: close\r\n{CALLER}: {caller}\r\n\r\n");
    rewritten.extend_from_slice(ours.as_bytes());
    if !rewritten.is_ascii() {
        return Err(Refusal::new(400, "the head is not ASCII"));
    }
    Ok(Some(Head {
        rewritten,
        bytes,
        body_bytes,
        expects,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(input: &str) -> u16 {
        parse(input.as_bytes(), "unix 0").unwrap_err().status
    }

    #[test]
    fn a_head_is_written_anew_with_the_caller_we_know() {
        let input = "POST /api/v1/retry?all=1 HTTP/1.1\r\nHost: localhost\r\nhikyaku-caller: root\r\n\
                     Connection: keep-alive\r\nContent-Length: 4\r\nX-Y: z\r\n\r\nbody";
        let head = parse(input.as_bytes(), "unix 7").unwrap().unwrap();
        assert_eq!(&input.as_bytes()[head.bytes..], b"body");
        assert_eq!((head.body_bytes, head.expects), (4, false));
        assert_eq!(
            String::from_utf8(head.rewritten).unwrap(),
            "POST /api/v1/retry?all=1 HTTP/1.1\r\nHost: localhost\r\nX-Y: z\r\nContent-Length: 4\r\n\
             Connection: close\r\nHikyaku-Caller: unix 7\r\n\r\n"
        );
        for end in 0..input.len() - 4 {
            assert_eq!(parse(&input.as_bytes()[..end], "").unwrap(), None, "{end}");
        }
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let head = "POST / HTTP/1.1\r\n";
        for (fields, wanted) in [
            ("Content-Length: 1\r\nContent-Length: 2\r\n", 400),
            ("Content-Length: +1\r\n", 400),
            ("Content-Length: 1, 1\r\n", 400),
            ("Content-Length: 99999999999999999999999\r\n", 400),
            ("Transfer-Encoding: chunked\r\n", 411),
            ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", 411),
            ("Content-Length: 524289\r\n", 413),
            ("X: \u{e9}\r\n", 400),
            ("X : y\r\n", 400),
            ("no colon\r\n", 400),
        ] {
            assert_eq!(status(&format!("{head}{fields}\r\n")), wanted, "{fields}");
        }
        assert_eq!(status("EHLO example.com\r\n"), 400);
        assert_eq!(status(&format!("{head}{}\r\n", "X: y\r\n".repeat(65))), 431);
        assert_eq!(
            status(&format!("{head}X: {}", "y".repeat(HEAD_BYTES_MAX))),
            431
        );
    }
}
