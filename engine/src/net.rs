//! Networks, next hops and domain patterns as values.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// A network in CIDR notation, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr(IpNet);

impl Cidr {
    /// Parses `10.0.0.0/8`, `2001:db8::/32` or a single address.
    ///
    /// # Errors
    /// A sentence that says what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let network: IpAddr = address
            .parse()
            .map_err(|_| format!("`{text}` is not a network; write e.g. `192.0.2.0/24`"))?;
        let Some(prefix) = prefix else {
            return Ok(Self(network.into()));
        };
        let bits_max = if network.is_ipv4() { 32 } else { 128 };
        let net = prefix
            .parse()
            .ok()
            .and_then(|bits| IpNet::new(network, bits).ok())
            .ok_or_else(|| format!("`/{prefix}` must be a number from 0 to {bits_max}"))?;
        if net.trunc() != net {
            return Err(format!(
                "`{text}` has bits set behind its prefix; write `{}`",
                net.trunc()
            ));
        }
        Ok(Self(net))
    }

    /// Whether `address` lies in the network. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// Whether this is every address of its family.
    pub fn is_everyone(&self) -> bool {
        self.0.prefix_len() == 0
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which addresses of an MX host are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpFamily {
    /// Both, in the order of preference.
    Any,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

/// Where a route leads: a host to be looked up, or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NextHop {
    /// A fixed address.
    Address(SocketAddr),
    /// A host name whose A and AAAA records are used (no MX), and a port.
    Host(Box<str>, u16),
}

impl NextHop {
    /// Parses `host`, `host:port`, `192.0.2.1`, `192.0.2.1:2600`, `[2001:db8::1]:25`; port 25
    /// unless given.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 {
                Err(format!("`{text}`: port 0 cannot be connected to"))
            } else {
                Ok(Self::Address(address))
            };
        }
        let bare = text
            .strip_prefix('[')
            .and_then(|t| t.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self::Address(SocketAddr::new(address, 25)));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => {
                let port = port.parse().ok().filter(|&p: &u16| p != 0);
                (
                    host,
                    port.ok_or_else(|| format!("`{text}`: the port must be 1 to 65535"))?,
                )
            }
            None => (text, 25),
        };
        check_host_name(host)?;
        Ok(Self::Host(host.to_ascii_lowercase().into(), port))
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// The name that stands for a receiving site in the delivery log, out of the site's key as `queue`
/// shows it (`mx1.example:25,mx2.example:25`): its first host. A name is its own name.
pub fn site_name(key: &str) -> &str {
    let first = key.split(',').next().unwrap_or(key);
    if first.parse::<IpAddr>().is_ok() {
        return first;
    }
    match first.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => first,
    }
}

/// Which recipient domains a route is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainPattern {
    /// `*`: every domain.
    Any,
    /// One domain.
    Exact(Box<str>),
    /// `*.example.jp`: every domain below `example.jp`, not itself. Kept as `.example.jp`.
    Below(Box<str>),
}

impl DomainPattern {
    /// Parses `*`, `example.jp` or `*.example.jp`.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(below) = text.strip_prefix("*.") {
            check_host_name(below)?;
            return Ok(Self::Below(
                format!(".{}", below.to_ascii_lowercase()).into(),
            ));
        }
        let literal = text.starts_with('[') && text.ends_with(']');
        if !literal {
            check_host_name(text)?;
        }
        Ok(Self::Exact(text.to_ascii_lowercase().into()))
    }

    /// Whether `domain` (A-labels, lower case) is meant.
    pub fn matches(&self, domain: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(name) => **name == *domain,
            Self::Below(suffix) => domain.len() > suffix.len() && domain.ends_with(&**suffix),
        }
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => f.write_str(name),
            Self::Below(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// Checks a host name: labels of 1 to 63 letters, digits, hyphens and underscores, 253 in all.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_host_name(name: &str) -> Result<(), String> {
    if !name.is_ascii() {
        return Err(format!(
            "`{name}` has characters outside ASCII; write its A-label form (xn--…)"
        ));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        Ok(())
    } else {
        Err(format!(
            "`{name}` is not a host name; write e.g. `mail.example.jp`"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_its_addresses_and_no_others() {
        let net = Cidr::parse("192.0.2.0/24").unwrap();
        assert!(net.contains("192.0.2.255".parse().unwrap()));
        assert!(net.contains("::ffff:192.0.2.1".parse().unwrap()));
        assert!(!net.contains("192.0.3.0".parse().unwrap()));
        assert!(!net.contains("2001:db8::1".parse().unwrap()));
        assert!(
            Cidr::parse("0.0.0.0/0")
                .unwrap()
                .contains("8.8.8.8".parse().unwrap())
        );
        assert!(
            Cidr::parse("::/0")
                .unwrap()
                .contains("::1".parse().unwrap())
        );
        let one = Cidr::parse("::1").unwrap();
        assert!(one.contains("::1".parse().unwrap()) && !one.contains("::2".parse().unwrap()));
    }

    #[test]
    fn a_wrong_network_says_what_to_write() {
        assert!(
            Cidr::parse("10.1.2.3/8")
                .unwrap_err()
                .contains("10.0.0.0/8")
        );
        for bad in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "localhost",
            "10.0.0.0/x",
        ] {
            assert!(Cidr::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn next_hops_have_port_25_unless_given() {
        for (text, shown) in [
            ("127.0.0.1:2600", "127.0.0.1:2600"),
            ("127.0.0.1", "127.0.0.1:25"),
            ("[::1]:26", "[::1]:26"),
            ("[::1]", "[::1]:25"),
            ("::1", "[::1]:25"),
            ("MX.example.jp", "mx.example.jp:25"),
            ("mx.example.jp:587", "mx.example.jp:587"),
        ] {
            assert_eq!(NextHop::parse(text).unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "127.0.0.1:0",
            "host:x",
            "host:0",
            "ho st",
            "host:70000",
            "メール.jp",
        ] {
            assert!(NextHop::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_site_is_named_by_its_first_host() {
        for (key, name) in [
            ("mx1.example:25,mx2.example:25", "mx1.example"),
            ("mx1.example", "mx1.example"),
            ("127.0.0.1:2600", "127.0.0.1"),
            ("[ipv6:2001:db8::1]:25", "[ipv6:2001:db8::1]"),
            ("", ""),
        ] {
            assert_eq!(site_name(key), name);
            assert_eq!(site_name(name), name, "a name is its own name");
        }
    }

    #[test]
    fn domain_patterns_match_whole_labels() {
        let below = DomainPattern::parse("*.Example.jp").unwrap();
        assert!(below.matches("a.example.jp") && below.matches("b.a.example.jp"));
        assert!(!below.matches("example.jp") && !below.matches("badexample.jp"));
        assert!(
            DomainPattern::parse("example.jp")
                .unwrap()
                .matches("example.jp")
        );
        assert!(DomainPattern::parse("*").unwrap().matches("[192.0.2.1]"));
        assert!(DomainPattern::parse("*.").is_err());
        assert!(DomainPattern::parse("ex*ample.jp").is_err());
    }
}
