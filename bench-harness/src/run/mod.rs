//! The runs: each puts injector, fleet, DNS and daemon together, measures, and checks a promise.
