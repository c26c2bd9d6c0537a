//! What `hikyakud` may be told. `hikyaku pages` makes its man page of the same definition.

use std::path::PathBuf;

use clap::Parser;

/// The Hikyaku mail relay.
#[derive(Debug, Parser)]
#[command(name = "hikyakud", version)]
pub(crate) struct Arguments {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/hikyaku/hikyaku.toml")]
    pub(crate) config: PathBuf,
    /// Check the configuration, and whether a start would succeed, and end
    #[arg(long)]
    pub(crate) check: bool,
    /// With --check: one line about everything of this host that the relay depends on, good, warning
    /// or bad, with what to do; exit code 1 if something is bad
    #[arg(long, requires = "check")]
    pub(crate) system: bool,
}
