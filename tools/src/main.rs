//! `hikyaku`, the operator's command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bounce;
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
    /// Read returned mail: who failed and why
    Bounce(bounce::BounceArgs),
    /// Preview, check and render message templates
    Template(template::TemplateArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Command::Bounce(args) => bounce::run(&args),
        Command::Template(args) => template::run(&args),
    }
}
