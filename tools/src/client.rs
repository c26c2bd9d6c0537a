//! A small HTTP/1.1 client over the control socket (RFC 9112): one request a connection.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest wait for the next bytes of an answer: the daemon's own limit for its shards is shorter
/// by default, and a followed log gives a sign of life every few seconds.
const READ_TIMEOUT: Duration = Duration::from_secs(330);

/// Longest line of a reply's head, bytes.
const HEAD_LINE_BYTES_MAX: u64 = 16 * 1024;

/// Headers of one reply at most.
const HEADERS_MAX: usize = 100;

/// Longest answer that is not streamed, bytes.
const BODY_BYTES_MAX: u64 = 1 << 30;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum ClientError {
    /// Nobody listens.
    NotRunning(PathBuf),
    /// We may not open the socket.
    Denied(PathBuf),
    /// The connection broke, or what came is not HTTP.
    Broken(io::Error),
    /// The daemon will not, and says why in one line.
    Refused(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning(socket) => write!(
                f,
                "no hikyakud answers at {}; start it, or name its configuration with --config",
                socket.display()
            ),
            Self::Denied(socket) => write!(
                f,
                "may not open {}; run this as the user hikyakud runs as",
                socket.display()
            ),
            Self::Broken(error) => write!(f, "the answer of hikyakud broke off: {error}"),
            Self::Refused(message) => f.write_str(message),
        }
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// Talks to one daemon.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(crate) fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// The whole answer to a GET.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) fn get(&self, target: &str) -> Result<String, ClientError> {
        self.whole("GET", target, b"")
    }

    /// The whole answer to a POST.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) fn post(&self, target: &str, body: &[u8]) -> Result<String, ClientError> {
        self.whole("POST", target, body)
    }

    /// The answer to a GET as it comes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) fn stream(&self, target: &str) -> Result<impl BufRead + use<>, ClientError> {
        Ok(BufReader::new(self.send("GET", target, b"")?))
    }

    fn whole(&self, method: &str, target: &str, body: &[u8]) -> Result<String, ClientError> {
        let mut text = String::new();
        self.send(method, target, body)?
            .take(BODY_BYTES_MAX)
            .read_to_string(&mut text)?;
        Ok(text)
    }

    fn send(&self, method: &str, target: &str, body: &[u8]) -> Result<Body, ClientError> {
        let mut stream = UnixStream::connect(&self.socket).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(self.socket.clone())
            }
            io::ErrorKind::PermissionDenied => ClientError::Denied(self.socket.clone()),
            _ => ClientError::Broken(error),
        })?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        let length = body.len();
        write!(
            stream,
            "{method} {target} HTTP/1.1\r\nHost: hikyaku\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n"
        )?;
        // Apart from the head, so that a passphrase in it is never copied together with it.
        stream.write_all(body)?;
        let mut body = Body {
            input: BufReader::new(stream),
            left: Left::ToEnd,
        };
        let status = body.read_head()?;
        if status / 100 == 2 {
            return Ok(body);
        }
        let mut text = String::new();
        body.take(64 * 1024).read_to_string(&mut text)?;
        Err(ClientError::Refused(error_message(&text)))
    }
}

/// The sentence in `error<TAB>message` or `{"error":"message"}`.
fn error_message(body: &str) -> String {
    let line = body.lines().next().unwrap_or_default();
    let quoted = || {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(value.get("error")?.as_str()?.to_owned())
    };
    match line.strip_prefix("error\t") {
        Some(message) => engine::delivery_log::text::unescape_tsv(message),
        None => quoted().unwrap_or_else(|| line.to_owned()),
    }
}

/// What is left of a body.
#[derive(Clone, Copy, Debug)]
enum Left {
    Bytes(u64),
    /// Bytes of the current chunk; 0: the next chunk's head comes.
    Chunk {
        bytes: u64,
        first: bool,
    },
    ToEnd,
    Nothing,
}

/// A reply's body, read as it comes.
#[derive(Debug)]
struct Body {
    input: BufReader<UnixStream>,
    left: Left,
}

impl Body {
    /// Reads status line and headers; the status.
    fn read_head(&mut self) -> io::Result<u16> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let status_line = self.line()?;
        let status = status_line
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.split(' ').nth(1)?.parse().ok())
            .ok_or_else(|| bad("it is not HTTP"))?;
        for _ in 0..HEADERS_MAX {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(status);
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| bad("a header has no colon"))?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("Content-Length") {
                let bytes = value.parse().map_err(|_| bad("its length is no number"))?;
                self.left = Left::Bytes(bytes);
            } else if name.eq_ignore_ascii_case("Transfer-Encoding")
                && value.eq_ignore_ascii_case("chunked")
            {
                self.left = Left::Chunk {
                    bytes: 0,
                    first: true,
                };
            }
        }
        Err(bad("it has too many headers"))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        let n = (&mut self.input)
            .take(HEAD_LINE_BYTES_MAX)
            .read_line(&mut line)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// Reads the head of the next chunk: its bytes, 0 at the end.
    fn next_chunk(&mut self, first: bool) -> io::Result<u64> {
        if !first {
            // The line end behind the chunk before.
            self.line()?;
        }
        let head = self.line()?;
        let size = head.split(';').next().unwrap_or_default().trim();
        let bytes = u64::from_str_radix(size, 16).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidData, "a chunk's size is no number")
        })?;
        if bytes == 0 {
            self.left = Left::Nothing;
        }
        Ok(bytes)
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = match self.left {
            Left::Nothing => 0,
            Left::ToEnd => return self.input.read(buffer),
            Left::Bytes(bytes) => bytes,
            Left::Chunk { bytes: 0, first } => self.next_chunk(first)?,
            Left::Chunk { bytes, .. } => bytes,
        };
        if bytes == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let most = usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let n = self.input.read(&mut buffer[..most])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let left = bytes - n as u64;
        self.left = match self.left {
            Left::Chunk { .. } => Left::Chunk {
                bytes: left,
                first: false,
            },
            _ => Left::Bytes(left),
        };
        Ok(n)
    }
}

/// `name=value` pairs as a query, percent-encoded (RFC 3986 §2.1).
pub(crate) fn query<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        out.push(if out.is_empty() { '?' } else { '&' });
        out.push_str(name);
        out.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~@:".contains(&byte) {
                out.push(byte as char);
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// Answers one connection with `reply` and gives back the request.
    fn served(reply: &'static str) -> (tempfile::TempDir, Client, thread::JoinHandle<String>) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 4096];
            let n = stream.read(&mut request).unwrap();
            stream.write_all(reply.as_bytes()).unwrap();
            String::from_utf8(request[..n].to_vec()).unwrap()
        });
        (directory, Client::new(&socket), server)
    }

    #[test]
    fn bodies_of_every_framing_are_read() {
        for reply in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nhello",
        ] {
            let (_directory, client, server) = served(reply);
            assert_eq!(client.get("/api/v1/status").unwrap(), "hello", "{reply}");
            assert!(
                server
                    .join()
                    .unwrap()
                    .starts_with("GET /api/v1/status HTTP/1.1\r\nHost: ")
            );
        }
    }

    #[test]
    fn a_refusal_is_the_daemons_sentence() {
        let (_directory, client, _server) =
            served("HTTP/1.1 503 X\r\nContent-Length: 21\r\n\r\nerror\tlocked; do this\n");
        let error = client.post("/x", b"body").unwrap_err();
        assert!(matches!(error, ClientError::Refused(_)));
        assert_eq!(error.to_string(), "locked; do this");
        assert_eq!(
            error_message("{\"error\":\"`x` is \\\"no\\\" time\"}\n"),
            "`x` is \"no\" time"
        );
    }

    #[test]
    fn what_breaks_off_is_an_error() {
        for reply in [
            "",
            "SMTP",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        ] {
            let (_directory, client, _server) = served(reply);
            assert!(
                matches!(client.get("/").unwrap_err(), ClientError::Broken(_)),
                "{reply}"
            );
        }
        let client = Client::new(Path::new("/nonexistent/control.sock"));
        let error = client.get("/").unwrap_err().to_string();
        assert!(
            error.starts_with("no hikyakud answers at /nonexistent/control.sock;"),
            "{error}"
        );
    }

    #[test]
    fn queries_are_percent_encoded() {
        assert_eq!(query([]), "");
        assert_eq!(
            query([("a", "x y&z"), ("b", "é@example.jp")]),
            "?a=x%20y%26z&b=%C3%A9@example.jp"
        );
    }
}
