//! `[control]`: where operators' questions come in.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::listen::socket_address;
use super::reader::{Reader, TextDefault};
use super::{M, S};

/// `[control]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The Unix socket that `hikyaku` talks to.
    pub socket: PathBuf,
    /// Names under which browsers and monitoring reach it, beside local ones.
    pub hosts: Vec<String>,
    /// HTTPS for the page and API; not served by this version.
    pub https: Option<SocketAddr>,
    /// How long a shard may take to answer a question, ms.
    pub answer_timeout_ms: u64,
}

pub(super) fn read(r: &mut Reader<'_, '_>) -> Control {
    let socket = r.at_start("socket", |r, key| {
        r.path(key, TextDefault::Text("/run/hikyaku/control.sock"))
    });
    let https = r.text(
        "https",
        "IP address and port",
        TextDefault::Absent("none"),
        socket_address,
    );
    let hosts = r.list("hosts", "list of host names", &[], 64, |text| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._[]:".contains(&b);
        if text.is_empty() || !text.bytes().all(fits) {
            return Err(format!("`{text}` is no host name"));
        }
        Ok(text.to_ascii_lowercase())
    });
    let answer_timeout_ms = r.duration_ms("answer_timeout", 10 * S, 100..=5 * M);
    // A path that is wrong has been reported, and the file is refused for it.
    Control {
        socket: socket.unwrap_or_default(),
        hosts,
        https,
        answer_timeout_ms,
    }
}
