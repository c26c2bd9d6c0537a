//! `[[listen]]`: where mail is accepted, and from whom.

use std::net::{IpAddr, SocketAddr};

use super::reader::{Reader, TextDefault};
use crate::net::Cidr;

/// One `[[listen]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Every shard accepts here.
    pub address: SocketAddr,
    /// Clients that may relay to any domain.
    pub relay_from: Vec<Cidr>,
}

impl Listen {
    /// Whether a client at `address` may relay.
    pub fn may_relay(&self, address: IpAddr) -> bool {
        self.relay_from.iter().any(|net| net.contains(address))
    }
}

pub(super) fn read(r: &mut Reader<'_, '_>) -> Option<Listen> {
    let address = r.text(
        "address",
        "IP address and port",
        TextDefault::Required,
        socket_address,
    );
    let relay_from = r.list("relay_from", "list of networks", &[], 4096, Cidr::parse);
    Some(Listen {
        address: address?,
        relay_from,
    })
}

pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(address),
        Ok(_) => Err(format!(
            "`{text}`: port 0 cannot be told to clients; choose one"
        )),
        Err(_) => Err(format!(
            "`{text}` is not an address with port; write e.g. `127.0.0.1:25` or `[::]:25`"
        )),
    }
}
