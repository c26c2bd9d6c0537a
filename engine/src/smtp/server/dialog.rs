//! Carrying commands out: which reply each command gets in which state (RFC 5321 §4.1, §4.3).

use super::content::Receiving;
use super::{
    BareNewline, Hello, Host, IDLE_COMMANDS_MAX, Overload, ServerSession, State, Transaction,
};
use crate::address::{Address, Domain};
use crate::clock::Now;
use crate::smtp::command::{self, Command, CommandError, ForwardPath, MailCommand};
use crate::smtp::received::ReceivedField;

impl ServerSession {
    /// Carries out one line, given with its LF.
    pub(super) fn command_line(&mut self, line: &[u8], host: &mut impl Host, now: Now) {
        if line.len() > self.settings.line_bytes_max {
            return self.reject("500 5.5.2 Line too long");
        }
        let normalise = self.settings.bare_newline == BareNewline::Normalise;
        let line = match line {
            [line @ .., b'\r', b'\n'] => line,
            [line @ .., b'\n'] if normalise => line,
            _ => return self.reject("500 5.5.2 Bare LF: lines must end with CRLF"),
        };
        if memchr::memchr(b'\r', line).is_some() {
            return self.reject("500 5.5.2 Bare CR in a command line");
        }
        match command::parse(line) {
            Ok(command) => self.command(command, host, now),
            Err(error) => {
                self.reject(error.reply());
                if error == CommandError::BdatSyntax {
                    // Where the chunk ends is unknown, so its octets must not be read as commands.
                    self.close();
                }
            }
        }
    }

    fn command(&mut self, command: Command<'_>, host: &mut impl Host, now: Now) {
        match command {
            Command::Mail(mail) => self.mail(mail, host),
            Command::Rcpt(path) => self.rcpt(path, host),
            Command::Data => self.data(host, now),
            Command::Bdat { bytes, last } => self.bdat(bytes, last, host, now),
            Command::Ehlo(name) => self.ehlo(name),
            Command::Helo(name) => self.helo(name),
            Command::Rset => {
                self.transaction = None;
                self.idle_command("250 2.0.0 Ok");
            }
            Command::Noop => self.idle_command("250 2.0.0 Ok"),
            Command::Vrfy => {
                self.idle_command("252 2.5.2 Cannot verify the user, but will take mail for it");
            }
            Command::Help => self.idle_command(
                "214 2.0.0 Commands: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT",
            ),
            Command::Quit => {
                self.reply_with_hostname("221 2.0.0 ", " Bye");
                self.close();
            }
        }
    }

    /// Answers a command that moves no mail; a client that sends nothing else is let go in the end.
    fn idle_command(&mut self, text: &str) {
        self.idle_commands += 1;
        if self.idle_commands > IDLE_COMMANDS_MAX {
            self.reject(text);
        } else {
            self.reply(text);
        }
    }

    fn hello(&mut self, name: &str, extended: bool) {
        self.transaction = None;
        let received = ReceivedField::new(name, self.peer.ip, &self.settings.hostname);
        self.hello = Some(Hello { extended, received });
    }

    fn helo(&mut self, name: &str) {
        self.hello(name, false);
        let hostname = self.settings.hostname.clone();
        self.idle_command(&format!("250 {hostname}"));
    }

    fn ehlo(&mut self, name: &str) {
        self.hello(name, true);
        let (hostname, size) = (&self.settings.hostname, self.settings.size_max_bytes);
        let text = format!(
            "250-{hostname}\r\n250-PIPELINING\r\n250-SIZE {size}\r\n250-8BITMIME\r\n\
             250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250 SMTPUTF8"
        );
        self.idle_command(&text);
    }

    fn mail(&mut self, mail: MailCommand, host: &impl Host) {
        let Some(hello) = &self.hello else {
            return self.reject("503 5.5.1 Send EHLO first");
        };
        if self.transaction.is_some() {
            return self.reject("503 5.5.1 A mail transaction is open already");
        }
        if mail.has_parameters && !hello.extended {
            return self.reject("555 5.5.4 Parameters need EHLO");
        }
        if !mail.smtputf8
            && mail
                .reverse_path
                .as_ref()
                .is_some_and(|path| !path.is_ascii())
        {
            return self.reject("553 5.6.7 Non-ASCII reverse-path without SMTPUTF8");
        }
        if self.messages >= self.settings.messages_per_session_max {
            self.reply_with_hostname(
                "421 4.3.2 ",
                " Message limit of a session reached, reconnect",
            );
            return self.close();
        }
        if mail
            .size
            .is_some_and(|size| size > self.settings.size_max_bytes)
        {
            return self.reject("552 5.3.4 Message size exceeds the maximum announced");
        }
        if self.refused_for_overload(host) {
            return;
        }
        self.transaction = Some(Transaction {
            reverse_path: mail.reverse_path,
            recipients: Vec::new(),
            declared_bytes: mail.size,
            body: mail.body,
            smtputf8: mail.smtputf8,
            chunks: None,
            chunk_failed: false,
        });
        self.reply("250 2.1.0 Ok");
    }

    fn rcpt(&mut self, path: ForwardPath, host: &impl Host) {
        let recipients_max = self.settings.recipients_max;
        let Some(transaction) = &self.transaction else {
            return self.reject("503 5.5.1 Send MAIL first");
        };
        if transaction.chunks.is_some() || transaction.chunk_failed {
            return self.reject("503 5.5.1 RCPT after BDAT");
        }
        let smtputf8 = transaction.smtputf8;
        if transaction.recipients.len() >= recipients_max {
            // Not counted as an error: RFC 5321 §4.5.3.1.10 has the client send the rest later.
            return self.reply("452 4.5.3 Too many recipients");
        }
        let (address, open_to_all) = match path {
            ForwardPath::Mailbox(address) => {
                let local = host.is_local(&address);
                (address, local)
            }
            ForwardPath::Postmaster => match self.postmaster() {
                Some(address) => (address, self.settings.postmaster.is_some()),
                None => return self.reject("550 5.1.1 No postmaster is configured"),
            },
        };
        if !smtputf8 && !address.is_ascii() {
            return self.reject("553 5.6.7 Non-ASCII forward-path without SMTPUTF8");
        }
        if !self.peer.may_relay && !open_to_all {
            return self.reject("550 5.7.1 Relaying denied");
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.recipients.push(address.into());
            self.reply("250 2.1.5 Ok");
        }
    }

    /// The mailbox behind `<Postmaster>`; `None` only if the hostname is no domain.
    fn postmaster(&self) -> Option<Address> {
        if let Some(address) = &self.settings.postmaster {
            return Some(address.clone());
        }
        let domain = Domain::parse(&self.settings.hostname).ok()?;
        Address::parse(&format!("postmaster@{domain}")).ok()
    }

    fn data(&mut self, host: &mut impl Host, now: Now) {
        let Some(transaction) = &self.transaction else {
            return self.reject("503 5.5.1 Send MAIL first");
        };
        if transaction.chunks.is_some() || transaction.chunk_failed {
            return self.reject("503 5.5.1 DATA after BDAT");
        }
        if transaction.recipients.is_empty() {
            return self.reject("554 5.5.1 No valid recipients");
        }
        if self.refused_for_overload(host) {
            return;
        }
        let Some(receiving) = self.start_content(host, now, false) else {
            return;
        };
        self.state = State::Content(Box::new(receiving));
        self.reply("354 End data with <CR><LF>.<CR><LF>");
    }

    fn bdat(&mut self, bytes: u64, last: bool, host: &mut impl Host, now: Now) {
        let refusal = match &self.transaction {
            None => Some("503 5.5.1 Send MAIL first"),
            Some(t) if t.chunk_failed => Some("503 5.5.1 Send RSET after a refused chunk"),
            Some(t) if t.recipients.is_empty() => Some("554 5.5.1 No valid recipients"),
            Some(t) => match (&t.chunks, host.overload()) {
                (None, Some(Overload::Disk | Overload::Queue)) => Some(STORAGE),
                (None, Some(Overload::Memory)) => {
                    self.refused_for_overload(host);
                    return;
                }
                _ => None,
            },
        };
        let receiving = match refusal {
            None => {
                let chunks = self.transaction.as_mut().and_then(|t| t.chunks.take());
                chunks.or_else(|| self.start_content(host, now, true).map(Box::new))
            }
            Some(_) => None,
        };
        // The octets follow whatever the answer will be, so they have to be taken off (RFC 3030 §2).
        let mut receiving = receiving.unwrap_or_else(|| Box::new(Receiving::refused(refusal, now)));
        receiving.start_chunk(bytes, last);
        receiving.refuse_beyond(self.settings.size_max_bytes);
        self.state = State::Content(receiving);
        self.content_octets(&[], now);
    }

    /// Answers for an overload, if there is one.
    fn refused_for_overload(&mut self, host: &impl Host) -> bool {
        match host.overload() {
            None => return false,
            Some(Overload::Disk | Overload::Queue) => self.reply(STORAGE),
            Some(Overload::Memory) => {
                self.reply_with_hostname("421 4.3.2 ", " Too busy, try again later");
                self.close();
            }
        }
        true
    }
}

pub(super) const STORAGE: &str = "452 4.3.1 Insufficient system storage; try again later";
