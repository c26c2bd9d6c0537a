//! Command lines as values (RFC 5321 §4.1.1, RFC 1870, 3030, 6152, 6531).
//!
//! [`parse`] reads one line in place; only addresses are copied. Whether a command fits the state
//! of the session is [`super::server`]'s business.

use crate::address::{Address, AddressError};
use crate::envelope::BodyType;

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `EHLO` with the client's name, as it gave it.
    Ehlo(&'a str),
    /// `HELO` with the client's name, as it gave it.
    Helo(&'a str),
    /// `MAIL FROM:`.
    Mail(MailCommand),
    /// `RCPT TO:`.
    Rcpt(ForwardPath),
    /// `DATA`.
    Data,
    /// `BDAT`: that many octets follow the line (RFC 3030 §2).
    Bdat {
        /// Octets in the chunk.
        bytes: u64,
        /// The message ends with this chunk.
        last: bool,
    },
    /// `RSET`.
    Rset,
    /// `NOOP`, its argument ignored.
    Noop,
    /// `QUIT`.
    Quit,
    /// `VRFY`, its argument ignored.
    Vrfy,
    /// `HELP`, its argument ignored.
    Help,
}

/// What a MAIL command says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailCommand {
    /// `None` for `<>`.
    pub reverse_path: Option<Address>,
    /// SIZE, octets; `u64::MAX` if the number is larger.
    pub size: Option<u64>,
    /// BODY.
    pub body: BodyType,
    /// SMTPUTF8 was given.
    pub smtputf8: bool,
    /// At least one parameter was given.
    pub has_parameters: bool,
}

/// Whom a RCPT command names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardPath {
    /// `<Postmaster>` without a domain: this host's own (RFC 5321 §4.5.1).
    Postmaster,
    /// Any other mailbox.
    Mailbox(Address),
}

/// Why a line is no command. [`Self::reply`] is what the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// No such verb.
    Unrecognised,
    /// A verb of an extension not offered, or of the past.
    NotImplemented,
    /// EHLO or HELO without a usable name.
    HeloName,
    /// DATA, RSET or QUIT with an argument.
    UnexpectedArgument,
    /// Not `MAIL FROM:<…>`.
    MailSyntax,
    /// Not `RCPT TO:<…>`.
    RcptSyntax,
    /// The reverse-path is no address.
    ReversePath(AddressError),
    /// The forward-path is no address.
    ForwardPath(AddressError),
    /// SIZE is no number.
    SizeValue,
    /// BODY is neither 7BIT nor 8BITMIME.
    BodyValue,
    /// A parameter given twice.
    RepeatedParameter,
    /// A parameter that was not offered.
    UnknownParameter,
    /// Not `BDAT size [LAST]`: where the chunk would end is not known.
    BdatSyntax,
}

impl CommandError {
    /// Reply code, enhanced status code and text, without CRLF.
    pub const fn reply(self) -> &'static str {
        match self {
            Self::Unrecognised => "500 5.5.2 Command not recognised",
            Self::NotImplemented => "502 5.5.1 Command not implemented",
            Self::HeloName => "501 5.5.4 A host name or address literal must follow",
            Self::UnexpectedArgument => "501 5.5.4 This command takes no argument",
            Self::MailSyntax => "501 5.5.4 Syntax: MAIL FROM:<address> [parameters]",
            Self::RcptSyntax => "501 5.5.4 Syntax: RCPT TO:<address>",
            Self::ReversePath(error) => match error {
                AddressError::Empty => "501 5.1.7 Reverse-path: the address is empty",
                AddressError::TooLong => {
                    "501 5.1.7 Reverse-path: the address is longer than 254 octets"
                }
                AddressError::NoDomain => "501 5.1.7 Reverse-path: the address has no domain",
                AddressError::LocalPart | AddressError::QuotedString => {
                    "501 5.1.7 Reverse-path: the local part is not valid"
                }
                AddressError::Domain | AddressError::Literal => {
                    "501 5.1.7 Reverse-path: the domain is not valid"
                }
            },
            Self::ForwardPath(error) => match error {
                AddressError::Empty => "501 5.1.3 Forward-path: the address is empty",
                AddressError::TooLong => {
                    "501 5.1.3 Forward-path: the address is longer than 254 octets"
                }
                AddressError::NoDomain => "501 5.1.3 Forward-path: the address has no domain",
                AddressError::LocalPart | AddressError::QuotedString => {
                    "501 5.1.3 Forward-path: the local part is not valid"
                }
                AddressError::Domain | AddressError::Literal => {
                    "501 5.1.3 Forward-path: the domain is not valid"
                }
            },
            Self::SizeValue => "501 5.5.4 SIZE must be a decimal number of octets",
            Self::BodyValue => "501 5.5.4 BODY must be 7BIT or 8BITMIME",
            Self::RepeatedParameter => "501 5.5.4 Parameter given twice",
            Self::UnknownParameter => "555 5.5.4 Parameter not recognised or not implemented",
            Self::BdatSyntax => "501 5.5.4 Syntax: BDAT octets [LAST]",
        }
    }
}

/// Reads one command line, given without its CRLF.
///
/// # Errors
/// What to answer instead of carrying the command out.
pub fn parse(line: &[u8]) -> Result<Command<'_>, CommandError> {
    let verb_end = line.iter().position(|&b| b == b' ').unwrap_or(line.len());
    let (verb, argument) = line.split_at(verb_end);
    let argument = argument.trim_ascii();
    let &[a, b, c, d] = verb else {
        return Err(
            if NOT_IMPLEMENTED
                .iter()
                .any(|known| verb.eq_ignore_ascii_case(known))
            {
                CommandError::NotImplemented
            } else {
                CommandError::Unrecognised
            },
        );
    };
    let no_argument = |command| {
        if argument.is_empty() {
            Ok(command)
        } else {
            Err(CommandError::UnexpectedArgument)
        }
    };
    match &[a, b, c, d].map(|b| b.to_ascii_uppercase()) {
        b"MAIL" => mail(argument).map(Command::Mail),
        b"RCPT" => rcpt(argument).map(Command::Rcpt),
        b"DATA" => no_argument(Command::Data),
        b"BDAT" => bdat(argument).ok_or(CommandError::BdatSyntax),
        b"EHLO" => helo_name(argument).map(Command::Ehlo),
        b"HELO" => helo_name(argument).map(Command::Helo),
        b"RSET" => no_argument(Command::Rset),
        b"QUIT" => no_argument(Command::Quit),
        b"NOOP" => Ok(Command::Noop),
        b"VRFY" => Ok(Command::Vrfy),
        b"HELP" => Ok(Command::Help),
        b"EXPN" | b"TURN" | b"ETRN" | b"ATRN" | b"SEND" | b"SOML" | b"SAML" | b"AUTH" => {
            Err(CommandError::NotImplemented)
        }
        _ => Err(CommandError::Unrecognised),
    }
}

const NOT_IMPLEMENTED: [&[u8]; 2] = [b"STARTTLS", b"BURL"];

/// Longest client name taken, octets: a domain name, or a literal, has no more.
const HELO_NAME_BYTES_MAX: usize = 255;

/// The name goes into a Received field, so it is held to characters that cannot end a token there.
/// Devices call themselves all sorts of things, so it need be neither a domain nor resolvable.
fn helo_name(argument: &[u8]) -> Result<&str, CommandError> {
    let fits = |b: &u8| {
        b.is_ascii_graphic() && !matches!(b, b'(' | b')' | b'<' | b'>' | b'"' | b'\\' | b',' | b';')
    };
    if argument.is_empty() || argument.len() > HELO_NAME_BYTES_MAX || !argument.iter().all(fits) {
        return Err(CommandError::HeloName);
    }
    std::str::from_utf8(argument).map_err(|_| CommandError::HeloName)
}

fn mail(argument: &[u8]) -> Result<MailCommand, CommandError> {
    let path = after_keyword(argument, b"FROM").ok_or(CommandError::MailSyntax)?;
    let (mailbox, parameters) = split_path(path).ok_or(CommandError::MailSyntax)?;
    let reverse_path = if mailbox.is_empty() {
        None
    } else {
        Some(address(mailbox).map_err(CommandError::ReversePath)?)
    };
    let mut command = MailCommand {
        reverse_path,
        size: None,
        body: BodyType::SevenBit,
        smtputf8: false,
        has_parameters: false,
    };
    let mut body_given = false;
    for parameter in words(parameters) {
        command.has_parameters = true;
        let equals = parameter.iter().position(|&b| b == b'=');
        let (name, value) = match equals {
            Some(equals) => (&parameter[..equals], Some(&parameter[equals + 1..])),
            None => (parameter, None),
        };
        if name.eq_ignore_ascii_case(b"SIZE") {
            let size = value.and_then(decimal).ok_or(CommandError::SizeValue)?;
            if command.size.replace(size).is_some() {
                return Err(CommandError::RepeatedParameter);
            }
        } else if name.eq_ignore_ascii_case(b"BODY") {
            command.body = match value {
                Some(value) if value.eq_ignore_ascii_case(b"7BIT") => BodyType::SevenBit,
                Some(value) if value.eq_ignore_ascii_case(b"8BITMIME") => BodyType::EightBitMime,
                _ => return Err(CommandError::BodyValue),
            };
            if std::mem::replace(&mut body_given, true) {
                return Err(CommandError::RepeatedParameter);
            }
        } else if name.eq_ignore_ascii_case(b"SMTPUTF8") && value.is_none() {
            if std::mem::replace(&mut command.smtputf8, true) {
                return Err(CommandError::RepeatedParameter);
            }
        } else {
            return Err(CommandError::UnknownParameter);
        }
    }
    Ok(command)
}

fn rcpt(argument: &[u8]) -> Result<ForwardPath, CommandError> {
    let path = after_keyword(argument, b"TO").ok_or(CommandError::RcptSyntax)?;
    let (mailbox, parameters) = split_path(path).ok_or(CommandError::RcptSyntax)?;
    let forward_path = if mailbox.eq_ignore_ascii_case(b"postmaster") {
        ForwardPath::Postmaster
    } else {
        ForwardPath::Mailbox(address(mailbox).map_err(CommandError::ForwardPath)?)
    };
    if words(parameters).next().is_some() {
        return Err(CommandError::UnknownParameter);
    }
    Ok(forward_path)
}

fn address(mailbox: &[u8]) -> Result<Address, AddressError> {
    let text = std::str::from_utf8(mailbox).map_err(|_| AddressError::LocalPart)?;
    Address::parse(text)
}

/// What follows `keyword:`. Blanks around the colon are against §4.1.1.2 but common in devices.
fn after_keyword<'a>(argument: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = argument.split_at_checked(keyword.len())?;
    if !head.eq_ignore_ascii_case(keyword) {
        return None;
    }
    Some(
        rest.trim_ascii_start()
            .strip_prefix(b":")?
            .trim_ascii_start(),
    )
}

/// Splits `<path> parameters` into the mailbox, its source route dropped (RFC 5321 appendix C),
/// and the parameters.
fn split_path(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.strip_prefix(b"<")?;
    let (mut quoted, mut escaped) = (false, false);
    let close = text.iter().position(|&b| {
        match b {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return true,
            _ => {}
        }
        false
    })?;
    let parameters = &text[close + 1..];
    if !matches!(parameters.first(), None | Some(b' ')) {
        return None;
    }
    let mut mailbox = &text[..close];
    if mailbox.first() == Some(&b'@') {
        let colon = mailbox.iter().position(|&b| b == b':')?;
        mailbox = &mailbox[colon + 1..];
        if mailbox.is_empty() {
            return None;
        }
    }
    Some((mailbox, parameters))
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&b| b == b' ').filter(|word| !word.is_empty())
}

fn bdat(argument: &[u8]) -> Option<Command<'static>> {
    let mut words = words(argument);
    let bytes = decimal(words.next()?)?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case(b"LAST") => true,
        Some(_) => return None,
    };
    if words.next().is_some() || bytes == u64::MAX {
        return None;
    }
    Some(Command::Bdat { bytes, last })
}

/// A decimal number of 1 to 20 digits (RFC 1870 §3), `u64::MAX` if it does not fit.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0_u64, |value, digit| {
        value
            .saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail_of(line: &str) -> MailCommand {
        match parse(line.as_bytes()) {
            Ok(Command::Mail(mail)) => mail,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn rcpt_of(line: &str) -> String {
        match parse(line.as_bytes()) {
            Ok(Command::Rcpt(ForwardPath::Mailbox(address))) => address.as_str().to_owned(),
            Ok(Command::Rcpt(ForwardPath::Postmaster)) => "(postmaster)".to_owned(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn verbs_are_read_in_any_case() {
        for (line, command) in [
            ("ehlo client.example", Command::Ehlo("client.example")),
            (
                "HELO [IPv6:2001:db8::1]",
                Command::Helo("[IPv6:2001:db8::1]"),
            ),
            ("EHLO pc_1+a@b'c", Command::Ehlo("pc_1+a@b'c")),
            ("Data", Command::Data),
            ("DATA  ", Command::Data),
            ("rset", Command::Rset),
            ("QUIT", Command::Quit),
            ("NOOP whatever", Command::Noop),
            ("VRFY user", Command::Vrfy),
            ("HELP MAIL", Command::Help),
            (
                "BDAT 100",
                Command::Bdat {
                    bytes: 100,
                    last: false,
                },
            ),
            (
                "bdat 0 last",
                Command::Bdat {
                    bytes: 0,
                    last: true,
                },
            ),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(command), "{line}");
        }
    }

    #[test]
    fn mail_parameters_are_read() {
        let mail = mail_of("MAIL FROM:<a@b.example> SIZE=1000 body=8bitmime SMTPUTF8");
        assert_eq!(mail.reverse_path.unwrap().as_str(), "a@b.example");
        assert_eq!((mail.size, mail.body), (Some(1000), BodyType::EightBitMime));
        assert!(mail.smtputf8 && mail.has_parameters);
        let bounce = mail_of("mail from: <>");
        assert_eq!((bounce.reverse_path, bounce.has_parameters), (None, false));
        assert_eq!(
            mail_of("MAIL FROM:<> SIZE=99999999999999999999").size,
            Some(u64::MAX)
        );
    }

    #[test]
    fn paths_lose_brackets_and_source_route() {
        for (line, mailbox) in [
            ("RCPT TO:<user@example.jp>", "user@example.jp"),
            (
                "rcpt to:<@a.example,@b.example:user@c.example>",
                "user@c.example",
            ),
            (r#"RCPT TO:<"a>b\">"@example.jp>"#, r#""a>b\">"@example.jp"#),
            ("RCPT TO:<a..b@docomo.ne.jp>", "a..b@docomo.ne.jp"),
            ("RCPT TO:<PostMaster>", "(postmaster)"),
            (
                "RCPT TO : <postmaster@example.jp> ",
                "postmaster@example.jp",
            ),
        ] {
            assert_eq!(rcpt_of(line), mailbox);
        }
    }

    #[test]
    fn errors_name_the_fault() {
        use CommandError::*;
        for (line, error) in [
            ("", Unrecognised),
            ("XYZZ", Unrecognised),
            ("MAILFROM:<a@b>", Unrecognised),
            ("\0\u{7f}", Unrecognised),
            ("STARTTLS", NotImplemented),
            ("EXPN list", NotImplemented),
            ("AUTH PLAIN", NotImplemented),
            ("EHLO", HeloName),
            ("EHLO a b", HeloName),
            ("EHLO a(b", HeloName),
            ("EHLO a;b", HeloName),
            ("EHLO \u{e9}", HeloName),
            ("HELO ", HeloName),
            ("DATA now", UnexpectedArgument),
            ("QUIT now", UnexpectedArgument),
            ("MAIL", MailSyntax),
            ("MAIL FROM", MailSyntax),
            ("MAIL TO:<a@b>", MailSyntax),
            ("MAIL FROM:a@b", MailSyntax),
            ("MAIL FROM:<a@b", MailSyntax),
            ("MAIL FROM:<a@b>SIZE=1", MailSyntax),
            ("MAIL FROM:<a>", ReversePath(AddressError::NoDomain)),
            ("MAIL FROM:<a@b> SIZE", SizeValue),
            ("MAIL FROM:<a@b> SIZE=1x", SizeValue),
            ("MAIL FROM:<a@b> SIZE=111111111111111111111", SizeValue),
            ("MAIL FROM:<a@b> SIZE=1 SIZE=2", RepeatedParameter),
            ("MAIL FROM:<a@b> SMTPUTF8 SMTPUTF8", RepeatedParameter),
            ("MAIL FROM:<a@b> BODY=BINARYMIME", BodyValue),
            ("MAIL FROM:<a@b> BODY", BodyValue),
            ("MAIL FROM:<a@b> RET=HDRS", UnknownParameter),
            ("MAIL FROM:<a@b> SMTPUTF8=1", UnknownParameter),
            ("RCPT TO:<>", ForwardPath(AddressError::Empty)),
            ("RCPT TO:<@a:>", RcptSyntax),
            ("RCPT TO:<a@b c>", ForwardPath(AddressError::Domain)),
            ("RCPT TO:<a@b> NOTIFY=NEVER", UnknownParameter),
            ("BDAT", BdatSyntax),
            ("BDAT -1", BdatSyntax),
            ("BDAT 1 FIRST", BdatSyntax),
            ("BDAT 1 LAST x", BdatSyntax),
            ("BDAT 99999999999999999999", BdatSyntax),
        ] {
            assert_eq!(parse(line.as_bytes()), Err(error), "{line:?}");
            assert!(error.reply().len() < 500);
        }
        let not_utf8 = parse(b"RCPT TO:<\xff@example.jp>");
        assert_eq!(not_utf8, Err(ForwardPath(AddressError::LocalPart)));
    }
}
