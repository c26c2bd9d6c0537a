//! The trace field a relay puts in front of each message (RFC 5321 §4.4).
//!
//! Everything but queue id, recipient and time is the same for a whole session, so
//! [`ReceivedField`] keeps it ready.

use std::io::Write;
use std::net::IpAddr;

use crate::clock::UnixMs;
use crate::ids::QueueId;
use crate::message::date::{DATE_BYTES, rfc5322_date};

/// How the message came in (RFC 3848, RFC 6531 §3.7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HELO.
    Smtp,
    /// EHLO.
    Esmtp,
    /// MAIL with SMTPUTF8.
    Utf8Smtp,
}

impl Protocol {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Smtp => "SMTP",
            Self::Esmtp => "ESMTP",
            Self::Utf8Smtp => "UTF8SMTP",
        }
    }
}

/// The part of a session's Received fields that does not change.
#[derive(Clone, Debug, Default)]
pub struct ReceivedField {
    origin: Vec<u8>,
}

impl ReceivedField {
    /// For mail from a client that called itself `helo_name` and sits at `ip`, taken by `hostname`.
    pub fn new(helo_name: &str, ip: IpAddr, hostname: &str) -> Self {
        let mut origin = Vec::with_capacity(64 + helo_name.len() + hostname.len());
        let tag = if ip.is_ipv6() { "IPv6:" } else { "" };
        write!(
            origin,
            "Received: from {helo_name} ([{tag}{ip}])\r\n\tby {hostname} with "
        )
        .expect("writing to a Vec cannot fail");
        Self { origin }
    }

    /// Appends the field for one message, CRLF included.
    ///
    /// `recipient` is only to be given if it is the only one, lest one recipient learn of another
    /// (RFC 5321 §7.6).
    pub fn write(
        &self,
        out: &mut Vec<u8>,
        protocol: Protocol,
        id: QueueId,
        recipient: Option<&str>,
        time: UnixMs,
    ) {
        let recipient_bytes = recipient.map_or(0, str::len);
        out.reserve(self.origin.len() + recipient_bytes + DATE_BYTES + 48);
        out.extend_from_slice(&self.origin);
        out.extend_from_slice(protocol.as_str().as_bytes());
        out.extend_from_slice(b" id ");
        out.extend_from_slice(&id.text());
        if let Some(recipient) = recipient {
            out.extend_from_slice(b"\r\n\tfor <");
            out.extend_from_slice(recipient.as_bytes());
            out.extend_from_slice(b">");
        }
        out.extend_from_slice(b";\r\n\t");
        out.extend_from_slice(&rfc5322_date(time));
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_names_who_when_and_for_whom() {
        let field =
            ReceivedField::new("client.example", "192.0.2.1".parse().unwrap(), "mx.example");
        let mut out = Vec::new();
        let id: QueueId = "0000000000ABC".parse().unwrap();
        let time = UnixMs(1_795_502_969_000);
        field.write(&mut out, Protocol::Esmtp, id, Some("a@b.example"), time);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "Received: from client.example ([192.0.2.1])\r\n\tby mx.example with ESMTP id \
             0000000000ABC\r\n\tfor <a@b.example>;\r\n\tTue, 24 Nov 2026 06:49:29 +0000\r\n"
        );
        let field = ReceivedField::new("[IPv6:::1]", "::1".parse().unwrap(), "mx.example");
        let mut out = Vec::new();
        field.write(&mut out, Protocol::Smtp, id, None, time);
        assert!(out.starts_with(
            b"Received: from [IPv6:::1] ([IPv6:::1])\r\n\tby mx.example with SMTP id "
        ));
    }
}
