//! `hikyaku log`: the delivery log, through the daemon or from its files.

use std::fmt::Write as _;
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
use crate::table::{self, Format, INDENT, NARROWEST, clean, width, wrapped};

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
    let mut brief = Brief::new(table::terminal_columns());
    for (number, line) in lines.lines().enumerate() {
        let line = line?;
        if line.is_empty() {
            // A sign of life.
            continue;
        }
        match format {
            Format::Tsv | Format::Json => writeln!(out, "{line}")?,
            Format::Table => {
                let mut text = String::new();
                if number == 0 {
                    brief.write_header(&mut text);
                } else {
                    let fields: Vec<String> = line.split('\t').map(unescape_tsv).collect();
                    brief.write(|column| field(&fields, column), &mut text);
                }
                out.write_all(text.as_bytes())?;
            }
        }
        if follow {
            out.flush()?;
        }
    }
    out.flush()
}

/// What a person wants of a line at a glance, drawn for one terminal: a line under a heading, or
/// name and value beneath each other where that has no room.
struct Brief {
    terminal: Option<usize>,
    /// Records that were written.
    written: usize,
}

/// The columns of a brief line and how wide they are; the reply behind them takes the rest.
const BRIEF: [(&str, usize); 6] = [
    ("time", 24),
    ("queue_id", 13),
    ("outcome", 10),
    ("attempt", 7),
    ("forward_path", 32),
    ("phase", 11),
];

impl Brief {
    fn new(terminal: Option<usize>) -> Self {
        let written = 0;
        Self { terminal, written }
    }

    /// Columns before the reply.
    fn before() -> usize {
        BRIEF.iter().map(|(_, columns)| columns + 2).sum()
    }

    fn is_upright(&self) -> bool {
        self.terminal
            .is_some_and(|columns| columns < Self::before() + NARROWEST)
    }

    fn write_header(&self, out: &mut String) {
        if !self.is_upright() {
            for (name, columns) in BRIEF {
                let _ = write!(out, "{name:<columns$}  ");
            }
            out.push_str("reply\n");
        }
    }

    fn write<'f>(&mut self, field: impl Fn(&str) -> &'f str, out: &mut String) {
        let (code, enhanced, reply) = (field("code"), field("enhanced"), field("reply"));
        // Most replies begin with both already.
        let mut said = String::new();
        if !code.is_empty() && !reply.starts_with(code) {
            said = format!("{code} {enhanced} ");
        }
        said.push_str(&clean(reply));
        if self.is_upright() {
            out.push_str(if self.written == 0 { "" } else { "\n" });
            let values = BRIEF.map(|(name, _)| (name, clean(field(name))));
            let pairs = values.iter().map(|(name, value)| (*name, value.as_str()));
            let pairs = pairs.chain([("reply", said.as_str())]);
            table::write_upright(pairs, self.terminal, out);
        } else {
            self.write_line(field, &said, out);
        }
        self.written += 1;
    }

    fn write_line<'f>(&self, field: impl Fn(&str) -> &'f str, said: &str, out: &mut String) {
        let mut line = String::new();
        for (name, columns) in BRIEF {
            let value = clean(field(name));
            let pad = columns.saturating_sub(width(&value));
            line.push_str(&value);
            line.push_str(&" ".repeat(pad + 2));
        }
        // A long path has pushed the reply aside: it gets lines of its own.
        let beneath = width(&line) > Self::before() && self.terminal.is_some();
        let lead = if beneath {
            INDENT.len()
        } else {
            Self::before()
        };
        let room = self.terminal.map_or(usize::MAX, |columns| columns - lead);
        if beneath {
            out.push_str(line.trim_end());
            out.push('\n');
            line = INDENT.to_owned();
        }
        for (number, part) in wrapped(said, room).iter().enumerate() {
            if number > 0 {
                line = " ".repeat(lead);
            }
            line.push_str(part);
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
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
    let mut brief = Brief::new(table::terminal_columns());
    match format {
        Format::Tsv => write_tsv_header(&mut text),
        Format::Table => brief.write_header(&mut text),
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
            put_line(record, format, &mut brief, &mut text);
            result = out.write_all(text.as_bytes());
            text.clear();
            if result.is_ok() { Go::On } else { Go::Stop }
        },
    )?;
    result?;
    out.write_all(text.as_bytes())?;
    out.flush()?;
    for damage in &damage {
        tell!("hikyaku: damaged: {}", damage.text);
    }
    match damage.len() {
        0 => Ok(()),
        places => Err(Failure(format!(
            "the log is damaged at {places} places, the lines above are the rest; see: \
             hikyaku shard verify"
        ))),
    }
}

fn put_line(record: &LogRecord<'_>, format: Format, brief: &mut Brief, text: &mut String) {
    match format {
        Format::Tsv => write_tsv_line(record, text),
        Format::Json => write_json_line(record, text),
        Format::Table => {
            let mut line = String::new();
            write_tsv_line(record, &mut line);
            let fields: Vec<String> = line.trim_end().split('\t').map(unescape_tsv).collect();
            brief.write(|column| field(&fields, column), text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLY: &str = "450 4.2.0 <reader@example.jp>: Recipient address rejected: Greylisted, see \
                         http://grey.example/a";

    fn value(path: &'static str) -> impl Fn(&str) -> &'static str {
        move |column| match column {
            "time" => "2026-11-24T06:57:00.123Z",
            "queue_id" => "0G4X7RZ1N2K3M",
            "outcome" => "deferred",
            "attempt" => "3",
            "forward_path" => path,
            "phase" => "end-of-data",
            "code" => "450",
            "enhanced" => "4.2.0",
            "reply" => REPLY,
            _ => "",
        }
    }

    fn drawn(terminal: Option<usize>, paths: &[&'static str]) -> String {
        let mut brief = Brief::new(terminal);
        let mut text = String::new();
        brief.write_header(&mut text);
        for path in paths {
            brief.write(value(path), &mut text);
        }
        text
    }

    #[test]
    fn a_line_of_the_log_fits_the_terminal_and_loses_nothing() {
        let long = "a.reader.with.a.very.long.local.part@subdomain.example.jp";
        for columns in [80, 120, 133, 160, 200] {
            let text = drawn(Some(columns), &["reader@example.jp", long]);
            let widest = text.lines().map(width).max().unwrap();
            assert!(widest <= columns, "{widest} of {columns}:\n{text}");
            let words: Vec<_> = text.split_whitespace().collect();
            let text = words.join(" ");
            assert_eq!(text.matches(REPLY).count(), 2, "{columns}: {text}");
            assert!(text.contains(long), "{columns}: {text}");
        }
    }

    #[test]
    fn records_stand_upright_where_a_line_has_no_room() {
        let text = drawn(Some(80), &["a@example.jp", "b@example.jp"]);
        assert!(
            text.starts_with("time          2026-11-24T06:57:00.123Z\n"),
            "{text}"
        );
        assert_eq!(text.matches("\n\n").count(), 1, "a line between: {text}");
        assert_eq!(drawn(None, &["a@example.jp"]).lines().count(), 2);
    }
}
