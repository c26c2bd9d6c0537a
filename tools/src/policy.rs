//! `hikyaku policy`: what each destination gets, and why. Reads the files; needs no daemon.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use engine::bounce::Evidence;
use engine::config::Config;
use engine::net::NextHop;
use engine::phase::Phase;
use engine::policy::{self, Row, SHIPPED_TOML, Subject};
use engine::settings;
use engine::status::{EnhancedStatus, ReplyCode};

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
    /// Which rule decides about a reply, what it means, and what would be done
    Reply(ReplyArgs),
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

#[derive(Debug, Args)]
struct ReplyArgs {
    /// The reply as it was said, such as "550 5.1.1 User unknown"; or what became of the connection, such as
    /// "Connection reset by peer"
    reply: String,
    /// Who said it: a provider of the rules or of the policy
    #[arg(long, conflicts_with = "domain")]
    provider: Option<String>,
    /// Who said it: a recipient domain or MX host
    #[arg(long)]
    domain: Option<String>,
    /// To what: connect greeting ehlo tls mail rcpt data end-of-data quit
    #[arg(long)]
    phase: Option<String>,
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
        PolicyCommand::Reply(args) => {
            load(&mut config)?;
            reply(&config, args, format)
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
        .map_err(all_lines)
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

fn reply(config: &Config, args: &ReplyArgs, format: Format) -> Result<(), Failure> {
    let policy = settings::policy(config);
    let rules = settings::reply_rules(config, &policy).map_err(all_lines)?;
    let phase = args.phase.as_deref().map(|word| {
        Phase::from_name(word).ok_or_else(|| {
            let known: Vec<&str> = Phase::ALL.iter().map(|phase| phase.as_str()).collect();
            Failure(format!(
                "no phase is called `{word}`; known: {}",
                known.join(", ")
            ))
        })
    });
    let host = args.domain.as_deref().map(str::to_ascii_lowercase);
    let subject = Subject {
        domain: host.as_deref().unwrap_or_default(),
        mx_hosts: &[],
    };
    let code = args.reply.get(..3).and_then(|code| code.parse().ok());
    let judgement = rules.judge(&Evidence {
        reply: code.and_then(ReplyCode::new),
        enhanced: args.reply.split([' ', '-']).find_map(EnhancedStatus::parse),
        text: &args.reply,
        phase: phase.transpose()?,
        provider: match (&args.provider, &host) {
            (Some(provider), _) => Some(provider),
            (None, Some(host)) => rules.classifier().provider_of(host),
            (None, None) => None,
        },
        policy_provider: policy.provider_of(&subject),
    });
    let steps: Vec<String> = judgement.steps.iter().map(ToString::to_string).collect();
    let mut rows = Rows::new(&["rule", "reason", "verdict", "action", "source"]);
    rows.push(vec![
        judgement
            .rule
            .map_or_else(|| "-".into(), |rule| rule.to_string()),
        judgement.reason.to_string(),
        judgement.verdict.to_string(),
        if steps.is_empty() {
            "-".into()
        } else {
            steps.join(", ")
        },
        judgement.rule.map_or("-", |rule| rule.source).into(),
    ]);
    Ok(rows.print(format)?)
}

fn all_lines(lines: Vec<String>) -> Failure {
    Failure(lines.join("\nhikyaku: "))
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
    let policy = settings::policy(&config);
    settings::reply_rules(&config, &policy).map_err(all_lines)?;
    let findings = policy::check(&policy);
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
