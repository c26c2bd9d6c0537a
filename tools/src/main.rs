//! `hikyaku`, the operator's command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod template;

/// Operate a Hikyaku mail relay.
#[derive(Debug, Parser)]
#[command(name = "hikyaku", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Preview, check and render message templates
    Template(template::TemplateArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Command::Template(args) => template::run(&args),
    }
}
