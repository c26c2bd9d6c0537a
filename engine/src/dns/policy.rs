//! Which of the addresses that DNS gives are used, and which are ourselves.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::net::{Cidr, IpFamily};

/// Ourselves, as an MX record would name us.
#[derive(Clone, Debug, Default)]
pub struct OwnNames {
    /// `[server] hostname`, lower case.
    pub hostname: Box<str>,
    /// Addresses and ports we listen on, wildcards expanded.
    pub listening: Vec<SocketAddr>,
}

impl OwnNames {
    pub(super) fn is_host(&self, host: &str) -> bool {
        !self.hostname.is_empty() && *host == *self.hostname
    }
}

/// What the operator says of which hosts and addresses are used.
#[derive(Clone, Debug)]
pub struct DnsPolicy {
    /// Port of MX hosts.
    pub mx_port: u16,
    /// MX hosts of one domain that are tried; the least preferred beyond are left out.
    pub mx_hosts_max: usize,
    /// Addresses that are found by lookup; those that are given are used as they are.
    pub family: IpFamily,
    /// Networks that mail goes to although they are [`is_never_public`].
    pub allowed: Vec<Cidr>,
}

impl DnsPolicy {
    /// Whether the family of an address that was looked up is wanted.
    pub(super) const fn has_family(&self, address: IpAddr) -> bool {
        match self.family {
            IpFamily::Any => true,
            IpFamily::Ipv4 => address.is_ipv4(),
            IpFamily::Ipv6 => address.is_ipv6(),
        }
    }

    /// Whether mail may go to an address that strangers chose: by their DNS, or in a literal.
    pub(super) fn may_reach(&self, address: IpAddr) -> bool {
        !is_never_public(address) || self.allowed.iter().any(|net| net.contains(address))
    }
}

/// Whether no host elsewhere can have `address`: this host (127/8, 0/8, ::1, ::), its link
/// (169.254/16, fe80::/10) and groups (multicast, broadcast), IPv4 within IPv6 as well. A connection
/// there would reach services of ours that trust it for where it comes from.
pub fn is_never_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_never_public_v4(v4),
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || v6.to_ipv4().is_some_and(is_never_public_v4)
        }
    }
}

const fn is_never_public_v4(v4: Ipv4Addr) -> bool {
    v4.is_loopback()
        || v4.octets()[0] == 0
        || v4.is_link_local()
        || v4.is_multicast()
        || v4.is_broadcast()
}
