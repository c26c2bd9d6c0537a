//! One session at an MX host of the fleet: reads commands, misbehaves on request, counts.
//!
//! All complete commands in the buffer are answered with one write: a pipelining client costs one
//! read and one write a step.

use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::Site;
use crate::message::id_of_path;
use crate::world::{Answer, Phase, ReplyStyle};

/// Longest command line taken.
const LINE_BYTES_MAX: usize = 4096;
/// Most bytes taken with one read.
const READ_BYTES: usize = 64 << 10;
/// A silent client is dropped after this.
const IDLE_S_MAX: u64 = 330;
/// Recipients of one transaction.
const RECIPIENTS_MAX: usize = 1000;

/// What the session does after a command.
enum Next {
    Go,
    Content,
    Close,
    Reset,
    Stall,
}

pub(super) struct Session {
    stream: TcpStream,
    site: Rc<Site>,
    input: Vec<u8>,
    /// Start of what was not looked at yet.
    at: usize,
    out: Vec<u8>,
    has_mail: bool,
    recipients: Vec<Option<u64>>,
    messages: u64,
    esmtp: bool,
}

/// Serves one connection to its end. Errors of the connection end it, they are the client's affair.
pub(super) async fn serve(stream: TcpStream, site: Rc<Site>) {
    site.counts.sessions.fetch_add(1, Relaxed);
    let open = site.counts.open.fetch_add(1, Relaxed) + 1;
    let mut session = Session {
        stream,
        site: Rc::clone(&site),
        input: Vec::with_capacity(READ_BYTES),
        at: 0,
        out: Vec::with_capacity(4096),
        has_mail: false,
        recipients: Vec::new(),
        messages: 0,
        esmtp: false,
    };
    let ended = session.run(open).await;
    site.counts.open.fetch_sub(1, Relaxed);
    match ended {
        Ok(Next::Reset) => {
            let _ = session.stream.set_zero_linger();
        }
        Ok(Next::Stall) => {
            // Holds the connection open without a word, until the client has enough.
            let mut sink = [0u8; 1024];
            while let Ok(Ok(n)) = tokio::time::timeout(
                Duration::from_secs(IDLE_S_MAX),
                session.stream.read(&mut sink),
            )
            .await
            {
                if n == 0 {
                    break;
                }
            }
        }
        _ => {
            let _ = session.stream.shutdown().await;
        }
    }
}

impl Session {
    async fn run(&mut self, open: u64) -> io::Result<Next> {
        let host = Rc::clone(&self.site);
        self.delay(Phase::Connect).await?;
        if let Some(next) = self.fault(Phase::Connect, b"") {
            return self.finish(next).await;
        }
        if host.host.sessions_max.is_some_and(|max| open > max as u64) {
            self.reply(421, "4.7.0 Too many sessions from you");
            return self.finish(Next::Close).await;
        }
        self.delay(Phase::Greeting).await?;
        if let Some(next) = self.fault(Phase::Greeting, b"") {
            if !matches!(next, Next::Go) {
                return self.finish(next).await;
            }
            // A refusing greeting (554): the client may only quit.
        } else {
            let name = format!("{} ESMTP bench", host.host.name);
            self.reply(220, &name);
        }
        loop {
            while let Some(line) = self.line()? {
                match self.command(line).await? {
                    Next::Go => {}
                    Next::Content => {
                        self.flush().await?;
                        match self.content().await? {
                            Next::Go => {}
                            next => return self.finish(next).await,
                        }
                    }
                    next => return self.finish(next).await,
                }
            }
            self.flush().await?;
            if self.read().await? == 0 {
                return Ok(Next::Close);
            }
        }
    }

    async fn finish(&mut self, next: Next) -> io::Result<Next> {
        if !matches!(next, Next::Reset) {
            self.flush().await?;
        }
        Ok(next)
    }

    /// The next complete command line, without its end, as a range of the input.
    fn line(&mut self) -> io::Result<Option<std::ops::Range<usize>>> {
        let rest = &self.input[self.at..];
        let Some(length) = memchr::memchr(b'\n', rest) else {
            if rest.len() > LINE_BYTES_MAX {
                return Err(io::Error::other("command line too long"));
            }
            return Ok(None);
        };
        let start = self.at;
        self.at += length + 1;
        let end = start + length - usize::from(rest[..length].ends_with(b"\r"));
        Ok(Some(start..end))
    }

    async fn command(&mut self, line: std::ops::Range<usize>) -> io::Result<Next> {
        let line = self.input[line].to_vec();
        let verb = line
            .split(|b| *b == b' ')
            .next()
            .unwrap_or_default()
            .to_ascii_uppercase();
        match verb.as_slice() {
            b"EHLO" | b"HELO" | b"LHLO" => {
                self.delay(Phase::Ehlo).await?;
                if let Some(next) = self.fault(Phase::Ehlo, b"") {
                    return Ok(next);
                }
                self.hello(verb != b"HELO");
            }
            b"MAIL" => {
                self.delay(Phase::Mail).await?;
                if let Some(next) = self.fault(Phase::Mail, &line) {
                    return Ok(next);
                }
                self.has_mail = true;
                self.recipients.clear();
                self.reply(250, "2.1.0 OK");
            }
            b"RCPT" => {
                self.delay(Phase::Rcpt).await?;
                if let Some(next) = self.fault(Phase::Rcpt, &line) {
                    return Ok(next);
                }
                self.recipient(&line);
            }
            b"DATA" => {
                self.delay(Phase::Data).await?;
                if let Some(next) = self.fault(Phase::Data, b"") {
                    return Ok(next);
                }
                if self.recipients.is_empty() {
                    self.reply(503, "5.5.1 No valid recipients");
                } else {
                    self.reply(354, "End with a dot");
                    return Ok(Next::Content);
                }
            }
            b"RSET" => {
                self.has_mail = false;
                self.recipients.clear();
                self.reply(250, "2.0.0 OK");
            }
            b"NOOP" => self.reply(250, "2.0.0 OK"),
            b"QUIT" => {
                self.reply(221, "2.0.0 Bye");
                return Ok(Next::Close);
            }
            _ => self.reply(500, "5.5.2 Unknown command"),
        }
        Ok(Next::Go)
    }

    fn hello(&mut self, extended: bool) {
        let site = Rc::clone(&self.site);
        let host = &site.host;
        if extended && host.helo_only {
            self.reply(500, "5.5.1 EHLO?");
            return;
        }
        self.esmtp = extended;
        if !extended {
            self.reply(250, &host.name);
            return;
        }
        let size = format!("SIZE {}", host.size_bytes_max);
        let mut lines = vec![host.name.as_str(), size.as_str()];
        let offers = [
            (host.pipelining, "PIPELINING"),
            (host.eight_bit_mime, "8BITMIME"),
            (host.smtputf8, "SMTPUTF8"),
        ];
        lines.extend(
            offers
                .iter()
                .filter(|(offered, _)| *offered)
                .map(|(_, word)| *word),
        );
        for line in lines {
            self.out.extend_from_slice(b"250-");
            self.out.extend_from_slice(line.as_bytes());
            self.out.extend_from_slice(b"\r\n");
        }
        self.out.extend_from_slice(b"250 ENHANCEDSTATUSCODES\r\n");
    }

    fn recipient(&mut self, line: &[u8]) {
        if !self.has_mail {
            self.reply(503, "5.5.1 MAIL first");
            return;
        }
        if self.recipients.len() >= RECIPIENTS_MAX {
            self.reply(452, "4.5.3 Too many recipients");
            return;
        }
        let path = path_of(line);
        if let Some(wait_s) = self.site.host.greylist_s
            && !self.site.greylist_passes(path, wait_s)
        {
            self.reply(451, "4.7.1 Greylisted, please come back");
            return;
        }
        self.recipients.push(id_of_path(path));
        self.reply(250, "2.1.5 OK");
    }

    /// Reads content up to the final dot, answers and counts it.
    async fn content(&mut self) -> io::Result<Next> {
        // The dot may stand at the very start: then the line end before it is DATA's own.
        let mut searched = self.at;
        let end = loop {
            if self.input[self.at..].starts_with(b".\r\n") {
                break self.at;
            }
            if let Some(found) = memmem::find(&self.input[searched..], b"\r\n.\r\n") {
                break searched + found + 2;
            }
            searched = self.input.len().saturating_sub(4).max(self.at);
            let before = self.at;
            if self.read().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // Reading moves what is kept to the front.
            searched -= before - self.at;
            if self.input.len() as u64 > self.site.host.size_bytes_max + READ_BYTES as u64 {
                self.reply(552, "5.3.4 Message too big");
                return Ok(Next::Close);
            }
        };
        let content = self.at..end;
        self.at = end + 3;
        self.delay(Phase::EndOfData).await?;
        if let Some(next) = self.fault(Phase::EndOfData, b"") {
            self.has_mail = false;
            self.recipients.clear();
            return Ok(next);
        }
        self.site
            .tally
            .receive(&self.input[content], &self.recipients);
        self.site.counts.messages.fetch_add(1, Relaxed);
        self.reply(250, "2.0.0 OK");
        self.has_mail = false;
        self.recipients.clear();
        self.messages += 1;
        if self
            .site
            .host
            .messages_per_session_max
            .is_some_and(|max| self.messages >= max)
        {
            self.reply(421, "4.7.0 Enough for this session");
            return Ok(Next::Close);
        }
        Ok(Next::Go)
    }

    /// Reads more input behind what is still unread. 0: the client has closed.
    async fn read(&mut self) -> io::Result<usize> {
        if self.at == self.input.len() {
            self.input.clear();
            self.at = 0;
        } else if self.at > 0 && self.input.capacity() - self.input.len() < READ_BYTES / 4 {
            self.input.drain(..self.at);
            self.at = 0;
        }
        let idle = Duration::from_secs(IDLE_S_MAX);
        if let Some(rate) = self.site.host.read_bytes_per_s {
            // A tenth of a second's worth at a time.
            let piece = (rate / 10).max(1);
            sleep(Duration::from_millis(100)).await;
            let mut limited = (&mut self.stream).take(piece);
            return tokio::time::timeout(idle, limited.read_buf(&mut self.input)).await?;
        }
        self.input.reserve(READ_BYTES / 4);
        tokio::time::timeout(idle, self.stream.read_buf(&mut self.input)).await?
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out).await?;
            self.out.clear();
        }
        Ok(())
    }

    /// Waits as the host's manners say; what was answered before goes out first.
    async fn delay(&mut self, phase: Phase) -> io::Result<()> {
        if let Some(wait_ms) = self.site.host.delay_ms.get(&phase).copied() {
            self.flush().await?;
            sleep(Duration::from_millis(wait_ms)).await;
        }
        Ok(())
    }

    fn fault(&mut self, phase: Phase, line: &[u8]) -> Option<Next> {
        if self.site.host.fault.is_empty() {
            return None;
        }
        let answer = self.site.fault(phase, path_of(line))?;
        Some(match answer {
            Answer::Reply(code, text) => {
                let rest = text.get(4..).unwrap_or_default().to_owned();
                self.reply(code, &rest);
                if code == 421 { Next::Close } else { Next::Go }
            }
            broken => {
                self.site.counts.broken.fetch_add(1, Relaxed);
                match broken {
                    Answer::Reset => Next::Reset,
                    Answer::Stall => Next::Stall,
                    Answer::Garbage => {
                        self.out.extend_from_slice(b"\x00\xffthis is no reply\r\n");
                        Next::Go
                    }
                    _ => Next::Close,
                }
            }
        })
    }

    fn reply(&mut self, code: u16, text: &str) {
        match code {
            400..=499 => self.site.counts.deferred.fetch_add(1, Relaxed),
            500..=599 => self.site.counts.refused.fetch_add(1, Relaxed),
            _ => 0,
        };
        let style = self.site.host.reply_style;
        self.out.extend_from_slice(code.to_string().as_bytes());
        if style != ReplyStyle::Bare {
            self.out.push(b' ');
            self.out.extend_from_slice(text.as_bytes());
        }
        self.out.extend_from_slice(if style == ReplyStyle::Lf {
            b"\n"
        } else {
            b"\r\n"
        });
    }
}

/// What stands between the angle brackets of MAIL or RCPT.
fn path_of(line: &[u8]) -> &[u8] {
    let start = memchr::memchr(b'<', line).map_or(0, |at| at + 1);
    let end = memchr::memchr(b'>', &line[start..]).map_or(line.len(), |at| start + at);
    &line[start..end]
}
