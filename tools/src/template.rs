//! `hikyaku template`: preview, check and render message templates, without any daemon.
//!
//! The rules are `engine::compose`; here a folder becomes a map of files, a list is read, and messages
//! are printed or written.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};
use engine::clock::UnixMs;
use engine::compose::charset::{self, Wire};
use engine::compose::limits::{TEMPLATE_BYTES_MAX, TEMPLATE_FILES_MAX};
use engine::compose::list::List;
use engine::compose::{Carrier, Choice, Data, Files, Job, Mailbox, Scratch, Template, check};
use indicatif::{ProgressBar, ProgressStyle};
use mail_parser::decoders::base64::base64_decode;
use mail_parser::decoders::quoted_printable::quoted_printable_decode;
use mail_parser::{Encoding, MessageParser};

use crate::site::Failure;

/// A recipient list, bytes.
const LIST_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Bad lines shown one by one; the rest is counted.
const BAD_LINES_SHOWN_MAX: usize = 1000;

/// Arguments of `hikyaku template`.
#[derive(Debug, Args)]
pub(crate) struct TemplateArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the message that one recipient would get
    Preview(PreviewArgs),
    /// List a template's faults as file:line:column: text; exit code 1 if there are any
    Check(CheckArgs),
    /// Compose the messages of a whole list
    Render(RenderArgs),
}

#[derive(Debug, Args)]
struct PreviewArgs {
    /// Template folder
    #[arg(long, value_name = "TEMPLATE_DIR")]
    dir: PathBuf,
    /// Recipient address
    #[arg(long, value_name = "ADDRESS")]
    to: String,
    /// Write as this carrier's legacy handsets want it, or in UTF-8; by the address if not given
    #[arg(long, value_enum)]
    carrier: Option<CarrierName>,
    /// Value of a field; may be given many times. The template's [sample] serves the others
    #[arg(long = "var", value_name = "NAME=VALUE")]
    vars: Vec<String>,
    /// The whole message with CRLF line ends, or its text or HTML alone
    #[arg(long, value_parser = ["source", "text", "html"], default_value = "source")]
    format: String,
    #[command(flatten)]
    moment: Moment,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Template folder
    #[arg(long, value_name = "TEMPLATE_DIR")]
    dir: PathBuf,
    /// Check against this carrier's limits too, though the template does not send it legacy mail
    #[arg(long, value_enum)]
    carrier: Vec<CarrierName>,
}

#[derive(Debug, Args)]
struct RenderArgs {
    /// Template folder
    #[arg(long, value_name = "TEMPLATE_DIR")]
    dir: PathBuf,
    /// Recipients in CSV, UTF-8; its first line names the fields, one of them `address`
    #[arg(long, value_name = "FILE.csv")]
    list: PathBuf,
    /// A folder for one file a message, or a mailbox file (a name that is or ends in `mbox`)
    #[arg(long, value_name = "DIR|mbox")]
    out: PathBuf,
    /// As for preview
    #[arg(long, value_enum)]
    carrier: Option<CarrierName>,
    #[command(flatten)]
    moment: Moment,
}

/// What makes two runs differ; given, they give the same bytes.
#[derive(Debug, Args)]
struct Moment {
    /// Seconds since 1970 to use as the time of composition instead of now
    #[arg(long, value_name = "SECONDS")]
    time: Option<u64>,
    /// Identifier for Message-ID, letters and digits; from the time if not given
    #[arg(long, value_name = "ID")]
    id: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CarrierName {
    Utf8,
    Docomo,
    Au,
    Softbank,
    Uq,
    Emobile,
    Willcom,
}

/// Which part `preview` shows alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    Html,
}

impl CarrierName {
    const fn carrier(self) -> Option<Carrier> {
        match self {
            Self::Utf8 => None,
            Self::Docomo => Some(Carrier::Docomo),
            Self::Au => Some(Carrier::Au),
            Self::Softbank => Some(Carrier::Softbank),
            Self::Uq => Some(Carrier::Uq),
            Self::Emobile => Some(Carrier::Emobile),
            Self::Willcom => Some(Carrier::Willcom),
        }
    }

    fn choice(name: Option<Self>) -> Choice {
        match name.map(Self::carrier) {
            None => Choice::Auto,
            Some(None) => Choice::Utf8,
            Some(Some(carrier)) => Choice::Legacy(carrier),
        }
    }
}

impl Moment {
    fn now(&self) -> UnixMs {
        let clock = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
        };
        UnixMs(
            self.time
                .map_or_else(|| clock().as_millis() as u64, |s| s.saturating_mul(1000)),
        )
    }

    fn id(&self) -> String {
        self.id
            .clone()
            .unwrap_or_else(|| format!("{:x}", self.now().0))
    }
}

/// Runs `hikyaku template`.
pub(crate) fn run(args: &TemplateArgs) -> ExitCode {
    let done = match &args.command {
        Command::Preview(args) => preview(args),
        Command::Check(args) => run_check(args),
        Command::Render(args) => render(args),
    };
    match done {
        Ok(code) => code,
        Err(failure) if failure.is_quiet() => ExitCode::SUCCESS,
        Err(failure) => {
            tell!("hikyaku template: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn preview(args: &PreviewArgs) -> Result<ExitCode, Failure> {
    let template = load(&args.dir)?;
    let recipient = Mailbox::parse(&args.to).map_err(|e| format!("--to {:?}: {e}", args.to))?;
    let mut pairs = Vec::new();
    for var in &args.vars {
        let pair = var
            .split_once('=')
            .ok_or_else(|| format!("--var {var:?}: expected NAME=VALUE"))?;
        pairs.push(pair);
    }
    let data = Arc::new(with_sample(&template, &pairs));
    let (now, id) = (args.moment.now(), args.moment.id());
    let choice = CarrierName::choice(args.carrier);
    let job = Job {
        data: &data,
        recipient: &recipient,
        now,
        id: &id,
        choice,
    };
    let mut message = Vec::new();
    let composed = template.compose(&job, &mut Scratch::default(), &mut message);
    let wire = composed.map_err(|e| e.to_string())?.wire;
    let shown = match &*args.format {
        "text" => part(&message, wire, Format::Text)?,
        "html" => part(&message, wire, Format::Html)?,
        _ => message,
    };
    io::stdout().write_all(&shown)?;
    Ok(ExitCode::SUCCESS)
}

/// The sample's values under those given.
fn with_sample(template: &Template, pairs: &[(&str, &str)]) -> Data {
    let mut names: Vec<&str> = pairs.iter().map(|&(name, _)| name).collect();
    let mut values: Vec<_> = pairs
        .iter()
        .map(|&(_, v)| engine::compose::Value::from(v))
        .collect();
    for (name, value) in template.sample() {
        if !names.contains(&name) {
            names.push(name);
            values.push(value.clone());
        }
    }
    Data::from_values(engine::compose::Columns::new(names), values)
}

/// The text or HTML part as its reader sees it: UTF-8, LF, carrier symbols as Unicode emoji or their
/// stand-ins.
fn part(message: &[u8], wire: Wire, format: Format) -> Result<Vec<u8>, String> {
    let parsed = MessageParser::default()
        .parse(message)
        .ok_or("the message cannot be read back")?;
    let found = match format {
        Format::Html => parsed.html_body.first(),
        Format::Text => parsed.text_body.first(),
    };
    let part = found.and_then(|&at| parsed.parts.get(at as usize));
    let part = part.filter(|part| part.is_text_html() == (format == Format::Html));
    let missing = || {
        format!(
            "the message has no {} part",
            if format == Format::Html {
                "HTML"
            } else {
                "text"
            }
        )
    };
    let part = part.ok_or_else(missing)?;
    // The carriers' dialects are no parser's business, so the part's own bytes are decoded here.
    let raw = message
        .get(part.offset_body as usize..part.offset_end as usize)
        .ok_or_else(missing)?;
    let bytes = match part.encoding {
        Encoding::None => Some(raw.to_vec()),
        Encoding::QuotedPrintable => quoted_printable_decode(raw),
        Encoding::Base64 => base64_decode(raw),
    };
    let mut shown = Vec::new();
    let text = charset::decode(wire, &bytes.ok_or("the part cannot be decoded")?);
    charset::encode_body(Wire::Utf8, &text, &mut shown);
    shown.retain(|&byte| byte != b'\r');
    Ok(shown)
}

fn run_check(args: &CheckArgs) -> Result<ExitCode, Failure> {
    let files = read_folder(&args.dir)?;
    let also: Vec<Carrier> = args
        .carrier
        .iter()
        .filter_map(|name| name.carrier())
        .collect();
    let faults = check(&files, &also);
    for fault in &faults {
        writeln!(io::stdout(), "{fault}")?;
    }
    Ok(if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn render(args: &RenderArgs) -> Result<ExitCode, Failure> {
    let template = load(&args.dir)?;
    let shown = args.list.display();
    let size = fs::metadata(&args.list)
        .map_err(|e| format!("{shown}: {e}"))?
        .len();
    if size > LIST_BYTES_MAX {
        let why = format!("{shown}: {size} bytes; the limit is {LIST_BYTES_MAX}, split the list");
        return Err(why.into());
    }
    let bytes = fs::read(&args.list).map_err(|e| format!("{shown}: {e}"))?;
    let mut list = List::open(&bytes).map_err(|e| format!("{shown}:{e}"))?;
    let mut out = Output::open(&args.out)?;
    let bar = progress_bar(size);
    let (now, id) = (args.moment.now(), args.moment.id());
    let choice = CarrierName::choice(args.carrier);
    let (mut scratch, mut message) = (Scratch::default(), Vec::new());
    let (mut good, mut bad) = (0_u64, 0_usize);
    while let Some(entry) = list.next() {
        let composed = entry.map_err(|error| error.to_string()).and_then(|entry| {
            let (line, id) = (entry.line, format!("{id}-{}", entry.line));
            let job = Job {
                data: &entry.data,
                recipient: &entry.recipient,
                now,
                id: &id,
                choice,
            };
            message.clear();
            let composed = template.compose(&job, &mut scratch, &mut message);
            composed
                .map(|composed| (line, composed))
                .map_err(|error| format!("{line}: {error}"))
        });
        match composed {
            Ok((line, composed)) => {
                good += 1;
                out.write(line, &composed.return_path, now, &message)?;
            }
            Err(error) => {
                bad += 1;
                if bad <= BAD_LINES_SHOWN_MAX {
                    bar.suspend(|| tell!("{shown}:{error}"));
                }
            }
        }
        if (good + bad as u64).is_multiple_of(256) {
            bar.set_position(size - list.rest_bytes() as u64);
        }
    }
    out.finish()?;
    bar.finish_and_clear();
    if bad > BAD_LINES_SHOWN_MAX {
        let more = bad - BAD_LINES_SHOWN_MAX;
        tell!("{shown}: and {more} more bad lines");
    }
    writeln!(
        io::stdout(),
        "{good} messages written to {}, {bad} lines bad",
        args.out.display()
    )?;
    Ok(if bad == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn progress_bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    let style = "{bar:40} {percent:>3}% {bytes}/{total_bytes} {eta} left";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar
}

/// Where rendered messages go.
enum Output {
    Folder(PathBuf),
    Mailbox(PathBuf, BufWriter<fs::File>),
}

impl Output {
    fn open(path: &Path) -> Result<Self, String> {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let shown = path.display();
        if !path.is_dir() && name.is_some_and(|name| name == "mbox" || name.ends_with(".mbox")) {
            let file = fs::File::create(path).map_err(|e| format!("{shown}: {e}"))?;
            return Ok(Self::Mailbox(path.to_owned(), BufWriter::new(file)));
        }
        fs::create_dir_all(path).map_err(|e| format!("{shown}: {e}"))?;
        Ok(Self::Folder(path.to_owned()))
    }

    /// `line`: the list's line, which names the file.
    fn write(
        &mut self,
        line: usize,
        sender: &Mailbox,
        now: UnixMs,
        message: &[u8],
    ) -> Result<(), String> {
        match self {
            Self::Folder(folder) => {
                let path = folder.join(format!("{line:07}.eml"));
                fs::write(&path, message).map_err(|e| format!("{}: {e}", path.display()))
            }
            Self::Mailbox(path, file) => write_mailbox(file, sender, now, message)
                .map_err(|e| format!("{}: {e}", path.display())),
        }
    }

    fn finish(self) -> Result<(), String> {
        match self {
            Self::Folder(_) => Ok(()),
            Self::Mailbox(path, mut file) => {
                file.flush().map_err(|e| format!("{}: {e}", path.display()))
            }
        }
    }
}

/// One message in mboxrd: LF line ends, and a `>` before every line of the form `>*From `.
fn write_mailbox(
    file: &mut impl Write,
    sender: &Mailbox,
    now: UnixMs,
    message: &[u8],
) -> io::Result<()> {
    writeln!(file, "From {sender} {}", asctime(now))?;
    for line in message.split_inclusive(|&b| b == b'\n') {
        let bare = line.strip_suffix(b"\r\n").unwrap_or(line);
        let quotes = bare.iter().take_while(|&&b| b == b'>').count();
        if bare[quotes..].starts_with(b"From ") {
            file.write_all(b">")?;
        }
        file.write_all(bare)?;
        file.write_all(b"\n")?;
    }
    file.write_all(b"\n")
}

/// `Tue Nov 24 07:15:48 2026`, UTC.
fn asctime(now: UnixMs) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (days, seconds) = (now.0 / 86_400_000, now.0 / 1000 % 86_400);
    // Days since 0000-03-01, then years of 365.2425 days that begin in March.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = year_of_era + era * 400 + u64::from(month < 2);
    format!(
        "{} {} {day:2} {:02}:{:02}:{:02} {year}",
        DAYS[(days % 7) as usize],
        MONTHS[month as usize],
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

fn load(dir: &Path) -> Result<Template, String> {
    let files = read_folder(dir)?;
    Template::load(&files).map_err(|faults| {
        let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
        format!("the template has faults\n{}", lines.join("\n"))
    })
}

/// Reads a template folder, sub-folders too, within the engine's limits.
fn read_folder(dir: &Path) -> Result<Files, String> {
    let mut files = Files::new();
    let mut bytes = 0;
    let mut folders = vec![(dir.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        let failed = |e: io::Error| format!("{}: {e}", folder.display());
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            let shown = path.display();
            let name = entry.file_name();
            let name = name
                .to_str()
                .ok_or_else(|| format!("{shown}: the name is not UTF-8"))?;
            let inside = format!("{prefix}{name}");
            if name.starts_with('.') {
                continue;
            }
            let meta = fs::metadata(&path).map_err(|e| format!("{shown}: {e}"))?;
            if meta.is_dir() {
                // Bounded like files, so that a link to a parent folder ends too.
                if inside.matches('/').count() >= 8 {
                    return Err(format!("{shown}: folders nest deeper than 8"));
                }
                folders.push((path, format!("{inside}/")));
                continue;
            }
            bytes += meta.len();
            if files.len() >= TEMPLATE_FILES_MAX || bytes > TEMPLATE_BYTES_MAX as u64 {
                return Err(format!(
                    "{}: more than {TEMPLATE_FILES_MAX} files or {TEMPLATE_BYTES_MAX} bytes",
                    dir.display()
                ));
            }
            files.insert(
                inside,
                fs::read(&path).map_err(|e| format!("{shown}: {e}"))?,
            );
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asctime_agrees_with_the_calendar() {
        assert_eq!(asctime(UnixMs(0)), "Thu Jan  1 00:00:00 1970");
        assert_eq!(
            asctime(UnixMs(1_795_504_548_000)),
            "Tue Nov 24 07:15:48 2026"
        );
        assert_eq!(asctime(UnixMs(951_782_400_000)), "Tue Feb 29 00:00:00 2000");
    }

    #[test]
    fn mailbox_lines_that_look_like_separators_are_quoted() {
        let sender = Mailbox::parse("a@example.jp").unwrap();
        let mut out = Vec::new();
        write_mailbox(
            &mut out,
            &sender,
            UnixMs(0),
            b"A: b\r\n\r\nFrom x\r\n>From y\r\n",
        )
        .unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "From a@example.jp Thu Jan  1 00:00:00 1970\nA: b\n\n>From x\n>>From y\n\n"
        );
    }
}
