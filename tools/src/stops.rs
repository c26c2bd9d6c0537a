//! `suspend`, `resume`, `stops`: an operator stops mail and sets it going again.

use std::io::{self, Write};

use clap::Args;

use crate::client::query;
use crate::site::{Failure, Site};
use crate::table::{Format, Rows};

/// Which mail: all that meets every condition given.
#[derive(Debug, Args)]
pub(crate) struct Selectors {
    /// Mail of this group; (none) is mail without one
    #[arg(long)]
    group: Option<String>,
    /// Mail to this recipient domain
    #[arg(long)]
    domain: Option<String>,
    /// Mail to this receiving site, as `hikyaku queue` names it
    #[arg(long)]
    site: Option<String>,
    /// Mail of clients at this address or network
    #[arg(long, value_name = "ADDRESS|NETWORK")]
    source: Option<String>,
    /// Mail with this reverse-path; <> is the null one
    #[arg(long)]
    sender: Option<String>,
    /// Mail with this tag
    #[arg(long, value_name = "NAME=VALUE")]
    tag: Option<String>,
    /// Mail accepted longer ago than that
    #[arg(long, value_name = "DURATION")]
    older_than: Option<String>,
    /// This message
    #[arg(long)]
    queue_id: Option<String>,
    /// All mail
    #[arg(long)]
    all: bool,
}

impl Selectors {
    fn pairs(&self) -> Vec<(&'static str, &str)> {
        let given = [
            ("group", self.group.as_deref()),
            ("domain", self.domain.as_deref()),
            ("site", self.site.as_deref()),
            ("source", self.source.as_deref()),
            ("sender", self.sender.as_deref()),
            ("tag", self.tag.as_deref()),
            ("older_than", self.older_than.as_deref()),
            ("queue_id", self.queue_id.as_deref()),
            ("all", self.all.then_some("1")),
        ];
        let given = given.into_iter();
        given
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }
}

#[derive(Debug, Args)]
pub(crate) struct SuspendArgs {
    #[command(flatten)]
    which: Selectors,
    /// Why, for whoever asks later
    #[arg(long)]
    reason: Option<String>,
    /// When it ends by itself: a time, or a duration from now
    #[arg(long, value_name = "TIME|DURATION")]
    until: Option<String>,
    /// Only count what it would be about
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    which: Selectors,
}

fn show(answer: &str, format: Format) -> Result<(), Failure> {
    match format {
        Format::Table => Rows::from_tsv(answer).print(format)?,
        Format::Tsv | Format::Json => io::stdout().lock().write_all(answer.as_bytes())?,
    }
    Ok(())
}

fn as_asked<'a>(mut pairs: Vec<(&'a str, &'a str)>, format: Format) -> String {
    if format == Format::Json {
        pairs.push(("format", "json"));
    }
    query(pairs)
}

pub(crate) fn suspend(site: &Site, args: &SuspendArgs, format: Format) -> Result<(), Failure> {
    let mut pairs = args.which.pairs();
    pairs.extend(args.reason.as_deref().map(|reason| ("reason", reason)));
    pairs.extend(args.until.as_deref().map(|until| ("until", until)));
    pairs.extend(args.dry_run.then_some(("dry_run", "1")));
    let target = format!("/api/v1/suspend{}", as_asked(pairs, format));
    show(&site.client.post(&target, b"")?, format)
}

pub(crate) fn resume(site: &Site, args: &ResumeArgs, format: Format) -> Result<(), Failure> {
    let target = format!("/api/v1/resume{}", as_asked(args.which.pairs(), format));
    show(&site.client.post(&target, b"")?, format)
}

pub(crate) fn stops(site: &Site, format: Format) -> Result<(), Failure> {
    let target = format!("/api/v1/stops{}", as_asked(Vec::new(), format));
    show(&site.client.get(&target)?, format)
}
