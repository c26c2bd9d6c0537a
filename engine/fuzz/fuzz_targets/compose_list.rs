//! Any bytes as a recipient list: every record is an entry or an error, lines only rise.
#![no_main]

use engine::compose::list::List;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(list) = List::open(bytes) else { return };
    let mut last = 0;
    for entry in list {
        let line = match entry {
            Ok(entry) => entry.line,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                error.line
            }
        };
        assert!(line > last);
        last = line;
    }
});
