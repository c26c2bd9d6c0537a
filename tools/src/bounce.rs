//! `hikyaku bounce`: read returned mail, without any daemon or configuration.
//!
//! The reading is `engine::bounce`; here files, mbox files and Maildir folders become messages, and
//! answers become lines. An mbox file is read as a stream, and of no message more is kept than is read.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use engine::bounce::{Classifier, Decided, Failure, READ_BYTES_MAX, Reader, Report};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

/// Bytes of an operator's rule file.
const RULES_BYTES_MAX: u64 = 1 << 20;
/// Folders inside folders that are looked into.
const FOLDER_DEPTH_MAX: usize = 16;
/// Files named on the command line and found in folders.
const FILES_MAX: usize = 10_000_000;

/// Arguments of `hikyaku bounce`.
#[derive(Debug, Args)]
pub(crate) struct BounceArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say of each message who failed and why
    Classify(ClassifyArgs),
}

#[derive(Debug, Args)]
struct ClassifyArgs {
    /// Messages, mbox files, Maildir folders or folders of messages
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A header and one line a message, or one JSON object a line with everything that was read
    // Text, as every `--format` here: clap wants one type for all of one name.
    #[arg(long, value_parser = ["tsv", "json"], default_value = "tsv")]
    format: String,
    /// Show which text and which rule decided
    #[arg(long)]
    explain: bool,
    /// Rules of your own that win over the shipped ones (docs/bounce-rules.md)
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Tsv,
    Json,
}

/// Runs `hikyaku bounce`.
pub(crate) fn run(args: &BounceArgs) -> ExitCode {
    let Command::Classify(args) = &args.command;
    let classifier = match rules(args.rules.as_deref()) {
        Ok(classifier) => classifier,
        Err(why) => {
            tell!("{why}");
            return ExitCode::from(2);
        }
    };
    match classify(args, &Reader::new(classifier)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Whoever reads us has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            tell!("cannot write the answers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn rules(path: Option<&Path>) -> Result<Classifier, String> {
    let Some(path) = path else {
        return Ok(Classifier::builtin());
    };
    let mut text = String::new();
    let shown = path.display();
    File::open(path)
        .and_then(|file| file.take(RULES_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| format!("{shown}: cannot read the rules: {error}"))?;
    Classifier::with_overrides(&shown.to_string(), &text).map_err(|faults| {
        faults
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    })
}

/// `false` if a file could not be read; its name and the reason went to standard error.
fn classify(args: &ClassifyArgs, reader: &Reader) -> io::Result<bool> {
    let mut good = true;
    let mut sources = Vec::new();
    for path in &args.files {
        good &= told(path, list(path, 0, &mut sources));
    }
    let mut answers = Answers {
        out: BufWriter::new(io::stdout().lock()),
        format: if args.format == "json" {
            Format::Json
        } else {
            Format::Tsv
        },
        explain: args.explain,
        bar: progress(sources.iter().map(|source| source.bytes).sum()),
    };
    answers.header()?;
    for source in &sources {
        let read = source.messages(|name, message| {
            let report = reader.read(message);
            answers.message(name, &report)
        });
        match read {
            Ok(()) => {}
            Err(Failed::Writing(error)) => return Err(error),
            Err(Failed::Reading(error)) => good &= told(&source.path, Err(error)),
        }
        answers.bar.inc(source.bytes);
    }
    answers.bar.finish_and_clear();
    answers.out.flush()?;
    Ok(good)
}

fn told(path: &Path, result: io::Result<()>) -> bool {
    if let Err(error) = &result {
        tell!("{}: {error}", path.display());
    }
    result.is_ok()
}

fn progress(bytes: u64) -> ProgressBar {
    // Nothing is drawn where standard error is no terminal.
    let bar = ProgressBar::new(bytes);
    let style = "{elapsed_precise} {bar:40} {bytes}/{total_bytes} {eta} left";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar
}

/// A file with one message or, as an mbox, with many.
struct Source {
    path: PathBuf,
    bytes: u64,
}

enum Failed {
    Reading(io::Error),
    Writing(io::Error),
}

/// Files named by `path`: itself, or those of a folder, Maildir (`cur` and `new`) or other.
fn list(path: &Path, depth: usize, out: &mut Vec<Source>) -> io::Result<()> {
    let about = fs::metadata(path)?;
    if !about.is_dir() {
        if out.len() < FILES_MAX {
            out.push(Source {
                path: path.to_owned(),
                bytes: about.len(),
            });
        }
        return Ok(());
    }
    if depth >= FOLDER_DEPTH_MAX {
        return Err(io::Error::other(format!(
            "folders deeper than {FOLDER_DEPTH_MAX}"
        )));
    }
    let maildir = path.join("cur").is_dir();
    let mut inside: Vec<PathBuf> = fs::read_dir(path)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    inside.sort();
    for entry in inside {
        let name = entry
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        let folder = entry.is_dir();
        // Of a Maildir: the messages, and subfolders (`.Name`), which are Maildirs too.
        let wanted = if maildir {
            folder
                && (name == "cur"
                    || name == "new"
                    || (name.starts_with('.') && entry.join("cur").is_dir()))
        } else {
            !name.starts_with('.')
        };
        if wanted {
            list(&entry, depth + 1, out)?;
        }
    }
    Ok(())
}

impl Source {
    fn name(&self) -> String {
        self.path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// Calls `each` with name and head of every message.
    fn messages(&self, mut each: impl FnMut(&str, &[u8]) -> io::Result<()>) -> Result<(), Failed> {
        let name = self.name();
        let file = File::open(&self.path).map_err(Failed::Reading)?;
        let mut input = BufReader::with_capacity(256 << 10, file);
        let head = input.fill_buf().map_err(Failed::Reading)?;
        let one = self
            .path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("eml"));
        if one || !head.starts_with(b"From ") {
            let mut message = Vec::new();
            let bytes_max = READ_BYTES_MAX as u64;
            input
                .take(bytes_max)
                .read_to_end(&mut message)
                .map_err(Failed::Reading)?;
            return each(&name, &message).map_err(Failed::Writing);
        }
        let mut mbox = Mbox {
            input,
            line: Vec::new(),
        };
        let mut message = Vec::new();
        let mut number = 0;
        while mbox.next(&mut message).map_err(Failed::Reading)? {
            number += 1;
            each(&format!("{name}:{number}"), &message).map_err(Failed::Writing)?;
        }
        Ok(())
    }
}

/// Messages of an mbox file (RFC 4155): each begins with a `From ` line after an empty one.
struct Mbox<R> {
    input: R,
    line: Vec<u8>,
}

impl<R: BufRead> Mbox<R> {
    /// The next message's head into `message`; `false` at the end.
    fn next(&mut self, message: &mut Vec<u8>) -> io::Result<bool> {
        message.clear();
        let mut any = !self.line.is_empty();
        let mut after_empty = false;
        self.line.clear();
        loop {
            self.line.clear();
            // One line, or as much of it as is kept of a message.
            let taken = (&mut self.input)
                .take(READ_BYTES_MAX as u64)
                .read_until(b'\n', &mut self.line)?;
            if taken == 0 {
                return Ok(any);
            }
            if self.line.starts_with(b"From ") && (after_empty || !any) {
                if any {
                    return Ok(true);
                }
                any = true;
                continue;
            }
            any = true;
            after_empty = self.line.iter().all(u8::is_ascii_whitespace);
            if message.len() + self.line.len() <= READ_BYTES_MAX {
                message.extend_from_slice(&self.line);
            }
        }
    }
}

struct Answers<W> {
    out: W,
    format: Format,
    explain: bool,
    bar: ProgressBar,
}

impl<W: Write> Answers<W> {
    fn header(&mut self) -> io::Result<()> {
        match (self.format, self.explain) {
            (Format::Json, _) => Ok(()),
            (Format::Tsv, false) => writeln!(self.out, "file\trecipients\tverdict\treason"),
            (Format::Tsv, true) => {
                writeln!(
                    self.out,
                    "file\trecipients\tverdict\treason\tsource\trule\ttext"
                )
            }
        }
    }

    fn message(&mut self, name: &str, report: &Report) -> io::Result<()> {
        match self.format {
            Format::Json => writeln!(self.out, "{}", to_json(name, report, self.explain)),
            Format::Tsv => self.row(name, report),
        }
    }

    fn row(&mut self, name: &str, report: &Report) -> io::Result<()> {
        let joined = |of: &dyn Fn(&Failure) -> String, whole: String| {
            if report.failures.is_empty() {
                return whole;
            }
            report.failures.iter().map(of).collect::<Vec<_>>().join(",")
        };
        let recipients = joined(&|f| f.recipient.to_lowercase(), String::new());
        let verdict = joined(&|f| f.verdict.to_string(), report.verdict.to_string());
        let reason = joined(&|f| f.reason.to_string(), report.reason.to_string());
        write!(
            self.out,
            "{}\t{}\t{verdict}\t{reason}",
            plain(name),
            plain(&recipients)
        )?;
        if self.explain {
            let whole = &report.decided;
            let source = joined(&|f| f.decided.source.to_owned(), whole.source.to_owned());
            let rule = joined(
                &|f| rule_of(&f.decided).to_owned(),
                rule_of(whole).to_owned(),
            );
            let text = if report.failures.is_empty() {
                whole.text.clone()
            } else {
                let texts = report.failures.iter().map(|f| &*f.decided.text);
                texts.collect::<Vec<_>>().join(" | ")
            };
            write!(self.out, "\t{source}\t{}\t{}", plain(&rule), plain(&text))?;
        }
        writeln!(self.out)
    }
}

/// `-`: no rule, the structure alone told.
fn rule_of(decided: &Decided) -> &str {
    if decided.rule.is_empty() {
        "-"
    } else {
        &decided.rule
    }
}

/// A cell: no tab, no line end, no other control character.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn to_json(name: &str, report: &Report, explain: bool) -> Value {
    let failures: Vec<Value> = report
        .failures
        .iter()
        .map(|failure| {
            let mut value = json!({
                "recipient": failure.recipient,
                "original_recipient": failure.original_recipient,
                "action": failure.action.as_str(),
                "verdict": failure.verdict.as_str(),
                "reason": failure.reason.as_str(),
                "code": failure.reply.map(|code| code.get()),
                "enhanced": failure.enhanced.map(|status| status.to_string()),
                "phase": failure.phase.map(|phase| phase.as_str()),
                "diagnostic": failure.diagnostic,
                "remote_host": failure.remote_host,
                "rule": failure.decided.rule,
            });
            if explain {
                value["explain"] = explained(&failure.decided);
            }
            value
        })
        .collect();
    let original = &report.original;
    let mut value = json!({
        "file": name,
        "verdict": report.verdict.as_str(),
        "reason": report.reason.as_str(),
        "recipients": failures,
        "reporting_host": report.reporting_host,
        "message_id": original.message_id,
        "subject": original.subject,
        "from": original.from,
        "to": original.to,
        "queue_id": original.queue_id,
        "rule": report.decided.rule,
    });
    if explain {
        value["explain"] = explained(&report.decided);
    }
    value
}

fn explained(decided: &Decided) -> Value {
    json!({ "source": decided.source, "rule": decided.rule, "text": decided.text })
}
