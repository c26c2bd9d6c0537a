//! Commands that ask the running daemon: `status`, `counters`, `queue`, `why`, `retry`, `reload`.

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use engine::ids::QueueId;

use crate::client::query;
use crate::site::{Failure, Site};
use crate::table::{Format, Rows};

#[derive(Debug, Args)]
pub(crate) struct CountersArgs {
    /// One row in all, or one for each domain or group
    #[arg(long, value_enum, default_value = "total")]
    by: By,
    /// Since ever, the last 6 hours by the hour, or the last hour by 5 minutes
    #[arg(long, value_enum, default_value = "all")]
    window: Window,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum By {
    Total,
    Domain,
    Group,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Window {
    All,
    Hours,
    Minutes,
}

#[derive(Debug, Args)]
pub(crate) struct QueueArgs {
    /// List the messages for this domain, instead of the domains
    #[arg(long)]
    domain: Option<String>,
    /// Rows at most
    #[arg(long, value_name = "ROWS", default_value_t = 100)]
    limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// A recipient domain or a queue id
    #[arg(value_name = "DOMAIN|QUEUE_ID")]
    what: String,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub(crate) struct RetryArgs {
    /// Only mail for this domain
    #[arg(long, group = "which")]
    domain: Option<String>,
    /// All deferred mail
    #[arg(long, group = "which")]
    all: bool,
}

/// Asks and prints. JSON is passed on as the daemon writes it.
fn show(
    site: &Site,
    path: &str,
    pairs: &[(&str, &str)],
    format: Format,
) -> Result<String, Failure> {
    let mut pairs = pairs.to_vec();
    if format == Format::Json {
        pairs.push(("format", "json"));
    }
    let answer = site
        .client
        .get(&format!("/api/v1/{path}{}", query(pairs)))?;
    match format {
        Format::Table => Rows::from_tsv(&answer).print(format)?,
        Format::Tsv | Format::Json => io::stdout().lock().write_all(answer.as_bytes())?,
    }
    Ok(answer)
}

pub(crate) fn status(site: &Site, format: Format) -> Result<(), Failure> {
    if format != Format::Table {
        return show(site, "status", &[], format).map(drop);
    }
    let answer = site.client.get("/api/v1/status")?;
    Ok(Rows::from_tsv(&answer).print_upright()?)
}

pub(crate) fn counters(site: &Site, args: &CountersArgs, format: Format) -> Result<(), Failure> {
    let by = match args.by {
        By::Total => "total",
        By::Domain => "domain",
        By::Group => "group",
    };
    let window = match args.window {
        Window::All => "all",
        Window::Hours => "hours",
        Window::Minutes => "minutes",
    };
    show(site, "counters", &[("by", by), ("window", window)], format).map(drop)
}

pub(crate) fn queue(site: &Site, args: &QueueArgs, format: Format) -> Result<(), Failure> {
    let limit = args.limit.to_string();
    let answer = match &args.domain {
        Some(domain) => show(
            site,
            "queue",
            &[("domain", domain), ("limit", &limit)],
            format,
        ),
        None => show(site, "destinations", &[("limit", &limit)], format),
    }?;
    if rows_in(&answer, format) >= args.limit as usize {
        tell!("hikyaku: note: {limit} rows is all that was asked for; there may be more: --limit");
    }
    Ok(())
}

fn rows_in(answer: &str, format: Format) -> usize {
    match format {
        Format::Table | Format::Tsv => answer.lines().count().saturating_sub(1),
        Format::Json => {
            serde_json::from_str::<Vec<serde_json::Value>>(answer).map_or(0, |rows| rows.len())
        }
    }
}

pub(crate) fn why(site: &Site, args: &WhyArgs, format: Format) -> Result<(), Failure> {
    let what = args.what.as_str();
    // No domain of 13 characters is without a dot and still gets mail.
    let name = if what.parse::<QueueId>().is_ok() {
        "queue_id"
    } else {
        "domain"
    };
    show(site, "why", &[(name, what)], format).map(drop)
}

pub(crate) fn retry(site: &Site, args: &RetryArgs) -> Result<(), Failure> {
    let selector = match &args.domain {
        Some(domain) => ("domain", domain.as_str()),
        // clap has seen to it that --all was given then.
        None => ("all", "1"),
    };
    let answer = site
        .client
        .post(&format!("/api/v1/retry{}", query([selector])), b"")?;
    writeln!(
        io::stdout(),
        "{} deferred made ready, back-offs of sites lifted",
        answer.lines().nth(1).unwrap_or("0")
    )?;
    Ok(())
}

pub(crate) fn reload(site: &Site) -> Result<(), Failure> {
    // A faulty file is told from here with all its faults, and the daemon is not bothered:
    // `Site::open` has read it already.
    let answer = site.client.post("/api/v1/reload", b"")?;
    for line in answer.lines().skip(1) {
        writeln!(io::stdout(), "{line}")?;
    }
    Ok(())
}
