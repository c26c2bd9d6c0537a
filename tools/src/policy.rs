//! `hikyaku policy`: what each destination gets, and why. Reads the files; needs no daemon.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use engine::config::Config;
use engine::net::NextHop;
use engine::policy::{self, Row, SHIPPED_TOML, Subject};
use engine::settings;

use crate::site::{Failure, Site};
use crate::table::{Format, Rows};

#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Every row that holds, least specific first
    Show {
        /// The table that comes with the program, as it is written
        #[arg(long)]
        shipped: bool,
    },
    /// Each value for a domain: where it comes from and what it overrode
    Explain(ExplainArgs),
    /// Faults of a policy file, contradictions in it, and rows that never apply
    Check {
        /// The file; the one of the configuration if none is given
        file: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct ExplainArgs {
    /// The recipient domain
    domain: String,
    /// An MX host of it, by which its provider is known; may be given several times
    #[arg(long, value_name = "HOST")]
    mx: Vec<String>,
}

pub(crate) fn run(site: Site, args: &PolicyArgs, format: Format) -> Result<(), Failure> {
    let mut config = site.config;
    match &args.command {
        PolicyCommand::Show { shipped: true } => {
            Ok(io::stdout().lock().write_all(SHIPPED_TOML.as_bytes())?)
        }
        PolicyCommand::Show { shipped: false } => {
            load(&mut config)?;
            show(&config, format)
        }
        PolicyCommand::Explain(args) => {
            load(&mut config)?;
            explain(&config, args, format)
        }
        PolicyCommand::Check { file } => {
            if let Some(file) = file {
                config.policy.file = Some(file.clone());
            }
            check(config)
        }
    }
}

fn load(config: &mut Config) -> Result<(), Failure> {
    config
        .load_policy(datadir::text::read_text)
        .map_err(|lines| Failure(lines.join("\nhikyaku: ")))
}

fn show(config: &Config, format: Format) -> Result<(), Failure> {
    let policy = settings::policy(config);
    let mut rows = Rows::new(&["layer", "row", "key", "value", "from"]);
    for row in policy.rows() {
        for (key, value) in row.values() {
            rows.push(vec![
                row.layer().name().into(),
                row.name.to_string(),
                key.spec().name.into(),
                value.to_string(),
                row.origin.to_string(),
            ]);
        }
    }
    Ok(rows.print(format)?)
}

fn explain(config: &Config, args: &ExplainArgs, format: Format) -> Result<(), Failure> {
    let policy = settings::policy(config);
    let domain = engine::address::Domain::parse(&args.domain)
        .map_err(|error| Failure(format!("`{}` is no domain: {error}", args.domain)))?;
    let mx: Vec<String> = args
        .mx
        .iter()
        .map(|host| host.trim_end_matches('.').to_ascii_lowercase())
        .collect();
    // Where a route leads, its hosts count and not the domain, as for the daemon.
    let route = config
        .routes
        .iter()
        .find(|route| route.domain.matches(domain.as_str()));
    let mx = route.map_or(mx, |route| route.to.iter().map(host_of).collect());
    let mx_hosts: Vec<&str> = mx.iter().map(String::as_str).collect();
    let subject = Subject {
        domain: if route.is_some() { "" } else { domain.as_str() },
        mx_hosts: &mx_hosts,
    };
    let called = |row: &Row| format!("{} {} ({})", row.layer().name(), row.name, row.origin);
    let mut rows = Rows::new(&["key", "value", "from", "overrode"]);
    for (key, from) in policy.of(&subject).explain() {
        let overrode: Vec<_> = from
            .overrode
            .iter()
            .filter_map(|row| Some(format!("{} of {}", row.value(key)?, called(row))))
            .collect();
        rows.push(vec![
            key.spec().name.into(),
            from.value.to_string(),
            called(from.row),
            overrode.join("; "),
        ]);
    }
    Ok(rows.print(format)?)
}

fn host_of(hop: &NextHop) -> String {
    match hop {
        NextHop::Address(address) => address.ip().to_string(),
        NextHop::Host(host, _) => host.to_string(),
    }
}

fn check(mut config: Config) -> Result<(), Failure> {
    let Some(file) = config.policy.file.clone() else {
        let hint = "name one: hikyaku policy check FILE, or `file` in [policy]";
        return Err(Failure(format!("there is no policy file; {hint}")));
    };
    load(&mut config)?;
    let findings = policy::check(&settings::policy(&config));
    let mut out = io::stdout().lock();
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    if findings.is_empty() {
        let rows = config.policy_rows.len();
        writeln!(out, "{}: {rows} rows, nothing to mend", file.display())?;
        return Ok(());
    }
    Err(Failure(format!("{} findings", findings.len())))
}
