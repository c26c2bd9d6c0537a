//! Whatever bytes come back as mail: no panic, no endless loop, answers within their bounds.
#![no_main]

use std::sync::OnceLock;

use engine::bounce::{Classifier, Reader, Verdict};
use libfuzzer_sys::fuzz_target;

static READER: OnceLock<Reader> = OnceLock::new();

fuzz_target!(|message: &[u8]| {
    let reader = READER.get_or_init(|| Reader::new(Classifier::builtin()));
    let report = reader.read(message);
    for failure in &report.failures {
        assert!(failure.diagnostic.len() <= 2048);
        assert_eq!(
            failure.verdict == Verdict::NotABounce,
            report.verdict == Verdict::NotABounce
        );
    }
});
