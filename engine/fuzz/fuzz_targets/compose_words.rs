//! Any text as header words, parameters and addresses: folded, ASCII, never a line too long or empty.
#![no_main]

use engine::compose::charset::Wire;
use engine::compose::{LocalStyle, Mailbox, html, words};
use libfuzzer_sys::fuzz_target;

fn check(field: &[u8]) {
    assert!(field.is_ascii());
    let text = std::str::from_utf8(field).unwrap();
    let lines: Vec<&str> = text.strip_suffix("\r\n").unwrap().split("\r\n").collect();
    for (at, line) in lines.iter().enumerate() {
        assert!(line.len() <= 78, "{line}");
        assert!(!line.contains(['\r', '\n']) && !line.trim().is_empty(), "{text:?}");
        assert_eq!(line.starts_with(' '), at > 0, "{text:?}");
    }
}

fuzz_target!(|text: &str| {
    let clean: String = text.chars().filter(|c| !c.is_control()).take(4000).collect();
    for wire in Wire::ALL {
        let mut out = Vec::new();
        words::unstructured("Subject", &clean, wire, &mut out);
        check(&out);
        let mut out = b"Content-Type: a/b".to_vec();
        words::legacy_parameter("name", &clean, wire, &mut out);
        words::parameter("filename", &clean, &mut out);
        out.extend_from_slice(b"\r\n");
        check(&out);
        let mailbox = Mailbox::parse("a..b@example.jp").unwrap();
        let mut out = Vec::new();
        words::address("To", &clean, &mailbox, LocalStyle::Quoted, wire, &mut out);
        check(&out);
    }
    if let Ok(mailbox) = Mailbox::parse(text) {
        let again = Mailbox::parse(&mailbox.to_text(LocalStyle::Quoted)).unwrap();
        assert_eq!(again, mailbox);
    }
    let mut out = String::new();
    html::to_text(text, &mut out);
});
