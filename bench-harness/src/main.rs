//! `hikyaku-bench`: load, fake far ends and reports for Hikyaku. See the library for the parts.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hikyaku_bench::{adapt, dns, fleet, inject, results, run};

/// Load, fake far ends and reports for the Hikyaku mail relay.
#[derive(Debug, Parser)]
#[command(name = "hikyaku-bench", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Inject(inject::InjectArgs),
    Fleet(fleet::FleetArgs),
    Dns(dns::DnsArgs),
    Demo(run::demo::DemoArgs),
    Bench(run::bench::BenchArgs),
    Peers(run::peers::PeersArgs),
    Crash(run::crash::CrashArgs),
    QueueMillion(run::queue_million::QueueMillionArgs),
    Chart(results::ChartArgs),
    Adapt(adapt::AdaptArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Inject(args) => inject::run(&args),
        Command::Fleet(args) => fleet::run(&args),
        Command::Dns(args) => dns::run(&args),
        Command::Demo(args) => run::demo::run(&args),
        Command::Bench(args) => run::bench::run(&args),
        Command::Peers(args) => run::peers::run(&args),
        Command::Crash(args) => run::crash::run(&args),
        Command::QueueMillion(args) => run::queue_million::run(&args),
        Command::Chart(args) => results::chart(&args),
        Command::Adapt(args) => adapt::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("hikyaku-bench: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
