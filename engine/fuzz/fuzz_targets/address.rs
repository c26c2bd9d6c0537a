//! Any text taken for an address or a domain: what parses reads back as the same, and holds nothing
//! that could end a command line or a path.
#![no_main]

use engine::address::{ADDRESS_BYTES_MAX, Address, DOMAIN_BYTES_MAX, Domain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(address) = Address::parse(text) {
        assert_eq!(address.as_str(), text);
        assert!(text.len() <= ADDRESS_BYTES_MAX);
        assert!(!text.bytes().any(|byte| byte.is_ascii_control()));
        let written = format!("{}@{}", address.local_part(), address.domain());
        if written.len() <= ADDRESS_BYTES_MAX {
            assert_eq!(Address::parse(&written).unwrap().domain(), address.domain());
        }
        if let Some(ascii) = address.to_ascii() {
            assert!(ascii.is_ascii());
        }
    }
    if let Ok(domain) = Domain::parse(text) {
        let name = domain.as_str();
        assert!(name.is_ascii() && name.len() <= DOMAIN_BYTES_MAX);
        assert_eq!(Domain::parse(name), Ok(domain.clone()));
        if let Some(ip) = domain.literal_ip() {
            assert_eq!(Domain::from_ip(ip), domain);
        }
    }
});
