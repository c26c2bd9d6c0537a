//! `hikyaku`, the operator's command line.
//!
//! [`daemon`] asks the running daemon over its control socket ([`client`]); [`keys`] makes and
//! opens an installation; [`log`] and [`shard`] read what is on disk; [`template`] needs neither.
//! [`table`] is how rows are shown.

// `println!` and `eprintln!` panic when whoever read us has gone.
#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

/// Says a line on standard error, which may be closed, full or read by nobody.
macro_rules! tell {
    ($($text:tt)+) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)+);
    }};
}

mod bounce;
// One definition of the daemon's arguments, for its man page.
mod client;
mod daemon;
#[allow(dead_code, reason = "only its definition is used")]
#[path = "../../shards/src/arguments.rs"]
mod hikyakud;
mod keys;
mod log;
mod policy;
mod shard;
mod site;
mod stops;
mod table;
mod template;

use site::{Failure, Site};
use table::Format;

/// Operate a Hikyaku mail relay.
#[derive(Debug, Parser)]
#[command(name = "hikyaku", version, arg_required_else_help = true)]
struct Cli {
    /// Configuration file
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        default_value = "/etc/hikyaku/hikyaku.toml"
    )]
    config: PathBuf,
    /// How rows are shown; a table on a terminal, TSV elsewhere
    // Text rather than `Format`: `template preview` has a `--format` of its own, and clap wants one
    // type for one name.
    #[arg(long, global = true, value_parser = ["table", "tsv", "json"])]
    format: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new installation: data directory, installation secret, key verifier
    Init(keys::InitArgs),
    /// Give the passphrase to a daemon that waits for it
    Unlock,
    /// The daemon at a glance
    Status,
    /// The twelve counters
    Counters(daemon::CountersArgs),
    /// Domains with queued mail, or the messages of one
    Queue(daemon::QueueArgs),
    /// Why mail for a domain, or one message, is not being delivered
    Why(daemon::WhyArgs),
    /// The delivery log
    Log(log::LogArgs),
    /// Try deferred mail again now
    Retry(daemon::RetryArgs),
    /// Stop mail at once: no transaction begins after it has returned
    Suspend(stops::SuspendArgs),
    /// Set stopped mail going again
    Resume(stops::ResumeArgs),
    /// What is suspended, by whom and why
    Stops,
    /// What each destination gets, and where that is written
    Policy(policy::PolicyArgs),
    /// Read the configuration again
    Reload,
    /// Start a new key for new segments
    Rekey(keys::RekeyArgs),
    /// What lies in the files of the data directory
    Shard(shard::ShardArgs),
    /// Read returned mail: who failed and why
    Bounce(bounce::BounceArgs),
    /// Preview, check and render message templates
    Template(template::TemplateArgs),
    /// Write man pages and shell completions into a directory
    #[command(hide = true)]
    Pages {
        /// Where to
        directory: PathBuf,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // These two need neither a configuration nor a daemon.
    match &cli.command {
        Command::Bounce(args) => return bounce::run(args),
        Command::Template(args) => return template::run(args),
        _ => {}
    }
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_quiet() => ExitCode::SUCCESS,
        Err(failure) => {
            tell!("hikyaku: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    if let Command::Pages { directory } = &cli.command {
        return pages(directory);
    }
    let format = cli
        .format
        .as_deref()
        .and_then(|name| Format::from_str(name, true).ok());
    let format = Format::or_default(format);
    let site = Site::open(&cli.config)?;
    match &cli.command {
        Command::Init(args) => keys::init(&site, args),
        Command::Unlock => keys::unlock(&site),
        Command::Status => daemon::status(&site, format),
        Command::Counters(args) => daemon::counters(&site, args, format),
        Command::Queue(args) => daemon::queue(&site, args, format),
        Command::Why(args) => daemon::why(&site, args, format),
        Command::Log(args) => log::run(&site, args, format),
        Command::Retry(args) => daemon::retry(&site, args),
        Command::Suspend(args) => stops::suspend(&site, args, format),
        Command::Resume(args) => stops::resume(&site, args, format),
        Command::Stops => stops::stops(&site, format),
        Command::Policy(args) => policy::run(site, args, format),
        Command::Reload => daemon::reload(&site),
        Command::Rekey(args) => keys::rekey(&site, args),
        Command::Shard(args) => shard::run(&site, args, format),
        Command::Bounce(_) | Command::Template(_) | Command::Pages { .. } => Ok(()),
    }
}

/// Writes a man page for every command, and completions, from the definitions above.
fn pages(directory: &std::path::Path) -> Result<(), Failure> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command(), directory)?;
    clap_mangen::generate_to(hikyakud::Arguments::command(), directory)?;
    use clap_complete::Shell::{Bash, Fish, Zsh};
    for shell in [Bash, Zsh, Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "hikyaku", directory)?;
        let daemon = &mut hikyakud::Arguments::command();
        clap_complete::generate_to(shell, daemon, "hikyakud", directory)?;
    }
    Ok(())
}
