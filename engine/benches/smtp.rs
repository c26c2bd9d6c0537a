//! Benchmarks of the SMTP machines.
fn main() {}
