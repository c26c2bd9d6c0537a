//! `hikyaku shard`: what lies in the files of a data directory, with or without a running daemon.
//!
//! Files are only read. `list` and `segments` look at headers and need no key; `records`, `show`
//! and `verify` do.

mod show;
mod verify;

use std::collections::BTreeMap;

use clap::{Args, Subcommand, ValueEnum};
use datadir::segments::{self, Go, SegmentFile};
use engine::clock::UnixMs;
use engine::delivery_log::utc;
use engine::ids::{QueueId, SegmentId, ShardId};
use engine::queue::cipher::Stream;
use engine::queue::record::Record;
use engine::queue::replay::Contents;

use crate::site::{Failure, Site};
use crate::table::{Format, Rows};

#[derive(Debug, Args)]
pub(crate) struct ShardArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The shards and how many files they have
    List,
    /// The segment files, from their headers
    Segments(SelectArgs),
    /// The records of segments
    Records(RecordsArgs),
    /// One message with all that is recorded about it
    Show(show::ShowArgs),
    /// Check every record; exit code 1 if anything is damaged
    Verify(SelectArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SelectArgs {
    /// Only this shard
    #[arg(long, value_name = "NUMBER")]
    shard: Option<u16>,
    /// Only this stream
    #[arg(long, value_enum)]
    stream: Option<StreamName>,
    /// Only the segment of this number
    #[arg(long, value_name = "NUMBER")]
    segment: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StreamName {
    /// Messages and outcomes
    Queue,
    /// The delivery log
    Log,
    /// Counters
    Counters,
    /// Error addresses
    Errors,
    /// Templates
    Templates,
    /// What an operator has stopped
    Stops,
}

impl StreamName {
    fn stream(self) -> Stream {
        match self {
            Self::Queue => Stream::Queue,
            Self::Log => Stream::DeliveryLog,
            Self::Counters => Stream::Counters,
            Self::Errors => Stream::ErrorAddresses,
            Self::Templates => Stream::Templates,
            Self::Stops => Stream::Stops,
        }
    }
}

impl SelectArgs {
    fn files(&self, site: &Site) -> Result<Vec<SegmentFile>, Failure> {
        let all = list_all(site)?;
        let wanted = |file: &SegmentFile| {
            self.shard
                .is_none_or(|shard| file.name.shard == ShardId(shard))
                && self
                    .stream
                    .is_none_or(|stream| file.name.stream == stream.stream())
                && self
                    .segment
                    .is_none_or(|segment| file.name.segment == SegmentId(segment))
        };
        let files: Vec<_> = all.into_iter().filter(wanted).collect();
        let narrowed = self.shard.is_some() || self.stream.is_some() || self.segment.is_some();
        if files.is_empty() && narrowed {
            return Err(Failure(
                "no such segment; see: hikyaku shard segments".into(),
            ));
        }
        Ok(files)
    }
}

#[derive(Debug, Args)]
pub(crate) struct RecordsArgs {
    #[command(flatten)]
    select: SelectArgs,
    /// Only records about this message
    #[arg(long, value_name = "ID")]
    queue_id: Option<QueueId>,
    /// Rows at most
    #[arg(long, value_name = "ROWS", default_value_t = 1_000)]
    limit: usize,
}

pub(crate) fn run(site: &Site, args: &ShardArgs, format: Format) -> Result<(), Failure> {
    site.installation.check()?;
    site.note_if_running();
    match &args.command {
        Command::List => list(site, format),
        Command::Segments(select) => segment_rows(site, select, format),
        Command::Records(records) => record_rows(site, records, format),
        Command::Show(show) => show::run(site, show, format),
        Command::Verify(select) => {
            verify::run(site, &select.files(site)?, &list_all(site)?, format)
        }
    }
}

fn list_all(site: &Site) -> Result<Vec<SegmentFile>, Failure> {
    let data_dir = site.installation.data_dir();
    segments::list_all(data_dir)
        .map_err(|error| Failure(format!("cannot list {}: {error}", data_dir.display())))
}

fn list(site: &Site, format: Format) -> Result<(), Failure> {
    let data_dir = site.installation.data_dir();
    let mut shards: BTreeMap<ShardId, [(u64, u64); 3]> = BTreeMap::new();
    for shard in segments::shards(data_dir)? {
        let counts = shards.entry(shard).or_default();
        for stream in Stream::ALL {
            for file in segments::list(data_dir, shard, stream)? {
                let kind = match (file.free, stream) {
                    (true, _) => 2,
                    (false, Stream::Queue) => 0,
                    (false, _) => 1,
                };
                counts[kind].0 += 1;
                counts[kind].1 += file.bytes;
            }
        }
    }
    let mut rows = Rows::new(&[
        "shard",
        "queue_segments",
        "queue_bytes",
        "other_segments",
        "other_bytes",
        "free_segments",
        "free_bytes",
    ]);
    for (shard, counts) in shards {
        let mut row = vec![shard.0.to_string()];
        row.extend(
            counts
                .iter()
                .flat_map(|(n, bytes)| [n.to_string(), bytes.to_string()]),
        );
        rows.push(row);
    }
    Ok(rows.print(format)?)
}

fn segment_rows(site: &Site, select: &SelectArgs, format: Format) -> Result<(), Failure> {
    let mut rows = Rows::new(&[
        "shard",
        "stream",
        "segment",
        "bytes",
        "segment_bytes",
        "created",
        "key_id",
        "problem",
    ]);
    for file in select.files(site)? {
        let mut row = vec![
            file.name.shard.0.to_string(),
            file.name.stream.to_string(),
            file.name.segment.0.to_string(),
            file.bytes.to_string(),
        ];
        match segments::peek(&file) {
            Ok(header) => row.extend([
                header.segment_bytes.to_string(),
                time(header.created_ms),
                header.key_id.to_string(),
                String::new(),
            ]),
            Err(error) => {
                row.extend([
                    String::new(),
                    String::new(),
                    String::new(),
                    error.to_string(),
                ]);
            }
        }
        rows.push(row);
    }
    Ok(rows.print(format)?)
}

fn record_rows(site: &Site, args: &RecordsArgs, format: Format) -> Result<(), Failure> {
    let files = args.select.files(site)?;
    let keys = site.unlock()?;
    let mut rows = Rows::new(&[
        "shard", "stream", "segment", "offset", "bytes", "kind", "queue_id", "what",
    ]);
    let mut left = args.limit;
    let mut problems = 0;
    for file in files {
        if left == 0 {
            break;
        }
        let result = segments::scan(
            &file,
            &keys,
            Contents::Skip,
            |found| {
                let id = found.record.queue_id();
                if args.queue_id.is_some() && id != args.queue_id {
                    return Go::On;
                }
                rows.push(vec![
                    file.name.shard.0.to_string(),
                    file.name.stream.to_string(),
                    file.name.segment.0.to_string(),
                    found.placement.offset.0.to_string(),
                    found.placement.bytes.to_string(),
                    found.record.kind().to_string(),
                    id.map_or_else(String::new, |id| id.to_string()),
                    summary(&found.record),
                ]);
                left -= 1;
                if left == 0 { Go::Stop } else { Go::On }
            },
            |_| {},
        );
        let found = match result {
            Ok(Some(summary)) => summary
                .damage
                .iter()
                .map(|damage| format!("{}: {damage}", file.name))
                .collect(),
            Ok(None) => Vec::new(),
            Err(error) => vec![format!("{}: {error}", file.name)],
        };
        for problem in &found {
            tell!("hikyaku: damaged: {problem}");
        }
        problems += found.len();
    }
    rows.print(format)?;
    if left == 0 {
        tell!(
            "hikyaku: note: these are the first {} records; see --limit",
            args.limit
        );
    }
    match problems {
        0 => Ok(()),
        _ => Err(Failure(format!(
            "damaged at {problems} places; see: hikyaku shard verify"
        ))),
    }
}

/// A record in a few words.
fn summary(record: &Record<'_>) -> String {
    match record {
        Record::Message(message) => message_summary(message),
        Record::Moved(moved) => {
            format!(
                "from segment {}: {}",
                moved.from.0,
                message_summary(&moved.message)
            )
        }
        Record::Outcome(outcome) => format!(
            "segment {}, recipients {}: {}",
            outcome.about.segment.0,
            range(&outcome.state.recipients()),
            state_words(&outcome.state)
        ),
        Record::Commit(about) | Record::Cancel(about) => format!("segment {}", about.segment.0),
        Record::Blob { kind, bytes } => format!("kind {kind}, {} bytes", bytes.len()),
        Record::Seal(seal) => format!("{} records of {} bytes", seal.records, seal.record_bytes),
    }
}

fn message_summary(message: &engine::queue::record::Message<'_>) -> String {
    let recipients: Vec<&str> = message
        .recipients
        .iter()
        .take(3)
        .map(|r| r.address)
        .collect();
    let more = message.recipients.len().saturating_sub(recipients.len());
    let more = if more == 0 {
        String::new()
    } else {
        format!(" and {more} more")
    };
    format!(
        "<{}> to {}{more}, {} bytes",
        message.reverse_path.unwrap_or_default(),
        recipients.join(", "),
        message.content_bytes
    )
}

fn state_words(state: &engine::queue::record::OutcomeState) -> String {
    let mut words = format!("{}, {} attempts", state.kind.as_str(), state.attempts);
    if state.next_retry_s > 0 {
        words.push_str(", next ");
        words.push_str(&time(u64::from(state.next_retry_s) * 1000));
    }
    words
}

fn range(recipients: &std::ops::Range<usize>) -> String {
    if recipients.len() == 1 {
        recipients.start.to_string()
    } else {
        format!("{}-{}", recipients.start, recipients.end - 1)
    }
}

fn time(unix_ms: u64) -> String {
    utc::text(UnixMs(unix_ms)).map(char::from).iter().collect()
}
