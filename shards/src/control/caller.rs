//! Who asks, what they may do, and whether their browser was sent by somebody else's page.

use std::fmt;

use tiny_http::Request;

use super::Refusal;
use super::head::CALLER;

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Ask what is going on.
    Read,
    /// Change what the relay does.
    Operate,
    /// Hand in mail.
    #[expect(dead_code, reason = "no path takes mail over HTTP yet")]
    Send,
    /// Read what is encrypted on disk, and handle keys.
    Decrypt,
}

impl Scope {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Send => "send",
            Self::Decrypt => "decrypt",
        }
    }
}

/// Whoever sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// A process of this user on the Unix socket. Who can open it has every scope.
    Local {
        /// User id, as the kernel says.
        uid: u32,
    },
    /// Nobody that we know.
    Unknown,
}

impl Caller {
    /// Who the front says it is.
    pub(super) fn of(request: &Request) -> Self {
        let named = header(request, CALLER);
        let uid = named.as_deref().and_then(|name| name.strip_prefix("unix "));
        match uid.and_then(|uid| uid.parse().ok()) {
            Some(uid) => Self::Local { uid },
            None => Self::Unknown,
        }
    }

    /// Refuses what is not in the caller's scopes.
    pub(super) fn must(&self, scope: Scope) -> Result<(), Refusal> {
        match self {
            Self::Local { .. } => Ok(()),
            Self::Unknown => {
                let why = format!("you lack the scope `{}`", scope.as_str());
                Err(Refusal::new(403, why))
            }
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { uid } => write!(f, "user {uid}"),
            Self::Unknown => f.write_str("nobody known"),
        }
    }
}

fn header(request: &Request, name: &'static str) -> Option<String> {
    let found = request
        .headers()
        .iter()
        .find(|header| header.field.equiv(name))?;
    Some(found.value.as_str().to_owned())
}

/// Loopback addresses as a host writes them.
const LOOPBACK: [&str; 2] = ["127.0.0.1", "[::1]"];

/// Whether nobody else can have a page under this name: loopback, or one label (`localhost`, or
/// whatever a client on the Unix socket makes up), which no public DNS answers.
fn is_local(name: &str) -> bool {
    let one_label = !name.is_empty() && !name.contains(['.', ':', '[']);
    one_label || LOOPBACK.contains(&name)
}

/// Refuses a browser that was led here by a page of another origin.
///
/// A browser that reaches the socket through a forwarded port also opens other pages. One of them may
/// post here (`Origin`), or have its own name resolved to our address and be the same origin to the
/// browser (`Host`): so we answer only under names that are ours.
pub(super) fn not_led_by_others(
    request: &Request,
    hosts: &[String],
    changes: bool,
) -> Result<(), Refusal> {
    let host = header(request, "Host");
    // No browser leaves it out.
    if let Some(host) = &host {
        let name = name_of(host);
        let ours = is_local(&name) || hosts.iter().any(|known| known.eq_ignore_ascii_case(&name));
        if !ours {
            let why = format!("`{name}` is no name of this control plane; see [control] hosts");
            return Err(Refusal::new(403, why));
        }
    }
    let foreign = || Refusal::new(403, "a page of another origin is not answered");
    if let Some(origin) = header(request, "Origin") {
        let origin = origin.split_once("://").map_or("", |(_, host)| host);
        if !host.is_some_and(|host| host.eq_ignore_ascii_case(origin)) {
            return Err(foreign());
        }
    }
    match header(request, "Sec-Fetch-Site").as_deref() {
        None | Some("same-origin" | "none") => Ok(()),
        Some(_) if changes => Err(foreign()),
        Some(_) => Ok(()),
    }
}

/// The host without its port, lower case.
fn name_of(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_its_name_without_port() {
        for (host, name) in [
            ("LocalHost:8080", "localhost"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("127.0.0.1", "127.0.0.1"),
            ("relay.example.", "relay.example"),
        ] {
            assert_eq!(name_of(host), name);
        }
    }
}
