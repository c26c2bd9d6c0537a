//! hikyaku-bench: load injector, fake MX fleet, DNS and reports.

fn main() {}
