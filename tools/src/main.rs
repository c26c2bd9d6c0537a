//! `hikyaku`, the operator's command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Operate a Hikyaku mail relay.
#[derive(Debug, Parser)]
#[command(name = "hikyaku", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {}
}
