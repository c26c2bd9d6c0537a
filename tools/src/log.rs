//! `hikyaku log`: the delivery log, through the daemon or from its files.

use std::io::{self, BufRead, BufWriter, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use datadir::segments::Go;
use engine::clock::UnixMs;
use engine::delivery_log::text::unescape_tsv;
use engine::delivery_log::{
    COLUMNS, LogFilter, LogRecord, write_json_line, write_tsv_header, write_tsv_line,
};

use crate::client::{ClientError, query};
use crate::site::{Failure, Site};
use crate::table::Format;

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// Not before: an age such as 2h, or a time such as 2026-11-24T06:57:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before: an age or a time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Of this message
    #[arg(long, value_name = "ID")]
    queue_id: Option<String>,
    /// Of this group
    #[arg(long)]
    group: Option<String>,
    /// To this domain
    #[arg(long)]
    domain: Option<String>,
    /// To this receiving site
    #[arg(long)]
    site: Option<String>,
    /// From or to this address
    #[arg(long)]
    address: Option<String>,
    /// With this outcome: delivered, deferred, failed, expired, suspended, cancelled or suppressed
    #[arg(long)]
    outcome: Option<String>,
    /// With this class of failure, such as user-unknown
    #[arg(long)]
    class: Option<String>,
    /// Lines at most
    #[arg(long, value_name = "LINES")]
    limit: Option<u64>,
    /// Go on with what is logged from now on
    #[arg(long, short)]
    follow: bool,
    /// Read the files, also if the daemon is running
    #[arg(long, conflicts_with = "follow")]
    offline: bool,
}

impl LogArgs {
    fn conditions(&self) -> Vec<(&'static str, &str)> {
        [
            ("since", &self.since),
            ("until", &self.until),
            ("queue_id", &self.queue_id),
            ("group", &self.group),
            ("domain", &self.domain),
            ("site", &self.site),
            ("address", &self.address),
            ("outcome", &self.outcome),
            ("class", &self.class),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_deref()?)))
        .collect()
    }
}

pub(crate) fn run(site: &Site, args: &LogArgs, format: Format) -> Result<(), Failure> {
    if !args.offline {
        match online(site, args, format) {
            Err(Online::Failed(failure)) => return Err(failure),
            Err(Online::NotRunning(failure)) if args.follow => return Err(failure),
            Err(Online::NotRunning(_)) => {}
            Ok(()) => return Ok(()),
        }
    }
    offline(site, args, format)
}

enum Online {
    /// Nothing was printed; the files may serve instead.
    NotRunning(Failure),
    Failed(Failure),
}

fn online(site: &Site, args: &LogArgs, format: Format) -> Result<(), Online> {
    let limit = args.limit.unwrap_or(1_000_000_000).to_string();
    let mut pairs = args.conditions();
    pairs.push(("limit", &limit));
    if args.follow {
        pairs.push(("follow", "1"));
    }
    if format == Format::Json {
        pairs.push(("format", "json"));
    }
    let lines = match site.client.stream(&format!("/api/v1/log{}", query(pairs))) {
        Ok(lines) => lines,
        Err(error @ ClientError::NotRunning(_)) => return Err(Online::NotRunning(error.into())),
        Err(error) => return Err(Online::Failed(error.into())),
    };
    print_lines(lines, format, args.follow).map_err(|error| Online::Failed(error.into()))
}

/// Prints lines as they come; in a table, each by itself.
fn print_lines(lines: impl BufRead, format: Format, follow: bool) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    for (number, line) in lines.lines().enumerate() {
        let line = line?;
        if line.is_empty() {
            // A sign of life.
            continue;
        }
        match format {
            Format::Tsv | Format::Json => writeln!(out, "{line}")?,
            Format::Table if number == 0 => out.write_all(BRIEF_HEADER.as_bytes())?,
            Format::Table => {
                let fields: Vec<String> = line.split('\t').map(unescape_tsv).collect();
                out.write_all(brief(|column| field(&fields, column)).as_bytes())?;
            }
        }
        if follow {
            out.flush()?;
        }
    }
    out.flush()
}

const BRIEF_HEADER: &str = "\
time                      queue_id       outcome     attempt  forward_path                      \
phase        reply\n";

/// What a person wants of a line at a glance.
fn brief<'f>(field: impl Fn(&str) -> &'f str) -> String {
    let code = field("code");
    let (enhanced, reply) = (field("enhanced"), field("reply"));
    // Most replies begin with both already.
    let mut reply_text = String::new();
    if !code.is_empty() && !reply.starts_with(code) {
        reply_text = format!("{code} {enhanced} ");
    }
    let mut shown = String::new();
    engine::delivery_log::text::escape_tsv(reply, &mut shown);
    format!(
        "{:<24}  {:<13}  {:<10}  {:>7}  {:<32}  {:<11}  {reply_text}{shown}\n",
        field("time"),
        field("queue_id"),
        field("outcome"),
        field("attempt"),
        field("forward_path"),
        field("phase"),
    )
}

fn field<'f>(fields: &'f [String], column: &str) -> &'f str {
    let at = COLUMNS.iter().position(|name| *name == column);
    at.and_then(|at| fields.get(at)).map_or("", String::as_str)
}

fn offline(site: &Site, args: &LogArgs, format: Format) -> Result<(), Failure> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = UnixMs(now.as_millis() as u64);
    let mut filter = LogFilter::default();
    for (name, value) in args.conditions() {
        filter
            .set(name, value, now)
            .map_err(|why| Failure(format!("--{}: {why}", name.replace('_', "-"))))?;
    }
    site.note_if_running();
    let keys = site.unlock()?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut text = String::new();
    match format {
        Format::Tsv => write_tsv_header(&mut text),
        Format::Table => text.push_str(BRIEF_HEADER),
        Format::Json => {}
    }
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut result = Ok(());
    let damage = datadir::log::read_all(
        site.installation.data_dir(),
        &keys,
        &filter,
        &[],
        |record| {
            if left == 0 {
                return Go::Stop;
            }
            left -= 1;
            put_line(record, format, &mut text);
            result = out.write_all(text.as_bytes());
            text.clear();
            if result.is_ok() { Go::On } else { Go::Stop }
        },
    )?;
    result?;
    out.write_all(text.as_bytes())?;
    out.flush()?;
    for damage in &damage {
        eprintln!("hikyaku: damaged: {}", damage.text);
    }
    match damage.len() {
        0 => Ok(()),
        places => Err(Failure(format!(
            "the log is damaged at {places} places, the lines above are the rest; see: \
             hikyaku shard verify"
        ))),
    }
}

fn put_line(record: &LogRecord<'_>, format: Format, text: &mut String) {
    match format {
        Format::Tsv => write_tsv_line(record, text),
        Format::Json => write_json_line(record, text),
        Format::Table => {
            let mut line = String::new();
            write_tsv_line(record, &mut line);
            let fields: Vec<String> = line.trim_end().split('\t').map(unescape_tsv).collect();
            text.push_str(&brief(|column| field(&fields, column)));
        }
    }
}
