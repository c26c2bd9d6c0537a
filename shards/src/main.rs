//! `hikyakud`, the daemon: pinned shards that carry out what the engine decides.

mod arguments;
mod check;
mod control;
mod daemon;
mod descriptors;
mod own_log;
mod preflight;
mod rings;
mod runtime;
mod settings;
mod shard_main;
mod supervisor;
mod system;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use engine::config::Config;

use arguments::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let _log = own_log::OwnLog::start();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(lines) => {
            for line in lines {
                say!("{line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Vec<String>> {
    let file_name = arguments.config.display().to_string();
    let text = datadir::text::read_text(&arguments.config)
        .map_err(|error| vec![format!("cannot read {file_name}: {error}")])?;
    let mut config = Config::parse(&file_name, &text)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    config.load_policy(datadir::text::read_text)?;
    // Their faults are told before anything is started.
    engine::settings::reply_rules(&config, &engine::settings::policy(&config))?;
    for warning in engine::settings::warnings(&config) {
        say!("warning: {warning}");
    }
    if arguments.check {
        // Whoever asked may have closed standard output.
        let _ = writeln!(std::io::stdout(), "{file_name}: configuration is valid");
        if arguments.system {
            if system::report(&arguments.config, &config, &mut std::io::stdout()) {
                return Ok(());
            }
            let why = "this host is not fit yet: see the lines marked bad";
            return Err(vec![why.to_owned()]);
        }
        for line in check::obstacles(&config) {
            say!("a start would fail: {line}");
        }
        return Ok(());
    }
    // The shards open files by path, from folders they open themselves.
    config.server.data_dir = std::path::absolute(&config.server.data_dir)
        .map_err(|error| vec![format!("server.data_dir: {error}")])?;
    daemon::run(arguments.config.clone(), config).map_err(|line| vec![line])
}
