//! An operator's rule file of any content: faults or a classifier, and a bounded answer from it.
#![no_main]

use engine::bounce::Classifier;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(classifier) = Classifier::with_overrides("own.tsv", text) {
        classifier.classify(None, None, text, None, None);
    }
});
