//! Any text through every character set, and any bytes back: no panic, no kanji on emoji codes, and what
//! was not lost reads back.
#![no_main]

use engine::compose::charset::{Wire, decode, encode_body};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for wire in Wire::ALL {
        let _ = decode(wire, bytes);
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for wire in Wire::ALL {
        let mut out = Vec::new();
        let lost = encode_body(wire, text, &mut out);
        if wire == Wire::Jis {
            assert!(out.is_ascii());
        }
        // Reading back and writing again settles: all that stands for something else did so at once.
        let mut again = Vec::new();
        let back = decode(wire, &out);
        if lost.count == 0 && !back.contains('\u{FFFD}') && !text.contains('\u{1b}') {
            encode_body(wire, &back, &mut again);
            assert_eq!(out, again, "{wire:?} {text:?}");
        }
    }
});
