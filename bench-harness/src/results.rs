//! Figures kept by date: a table that is committed, and the chart of it in the documentation.
//!
//! A run with `--record FILE` adds a line for each of its figures; `hikyaku-bench chart FILE` draws them. Only
//! runs that kept their promises get so far: what ends with an error records nothing.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::failure::{Context, Failure};

/// The table's columns.
const COLUMNS: &str = "date\tcommand\tmeasure\tvalue\tunit";

/// Draw a table of recorded figures as SVG.
#[derive(Debug, clap::Args)]
pub struct ChartArgs {
    /// The table, as `--record` writes it.
    table: PathBuf,
    /// Where the chart goes (default: beside the table, `.svg`).
    #[arg(long)]
    out: Option<PathBuf>,
}

/// One figure of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    date: String,
    command: String,
    measure: String,
    value: f64,
    unit: String,
}

/// Adds this run's figures, name, value and unit, to the table; none without a table.
///
/// # Errors
/// When it cannot be written.
pub fn record(table: Option<&Path>, figures: &[(&str, f64, &str)]) -> Result<(), Failure> {
    let Some(table) = table else { return Ok(()) };
    let what = || format!("cannot write {}", table.display());
    let command: Vec<String> = std::env::args().skip(1).collect();
    let kept = command.iter().position(|arg| arg == "--record");
    let command = command[..kept.unwrap_or(command.len())].join(" ");
    let mut text = String::new();
    if !table.exists() {
        text = format!("{COLUMNS}\n");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let date = date(now.unwrap_or_default().as_secs() / 86_400);
    for (measure, value, unit) in figures {
        let _ = writeln!(text, "{date}\t{command}\t{measure}\t{value:.2}\t{unit}");
    }
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(table)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .context(what)
}

/// The date of the `days`-th day after 1970-01-01.
fn date(days: u64) -> String {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", left + 1)
}

/// Runs `hikyaku-bench chart`.
///
/// # Errors
/// When the table cannot be read or the chart not be written.
pub fn chart(args: &ChartArgs) -> Result<(), Failure> {
    let text = std::fs::read_to_string(&args.table)
        .context(|| format!("cannot read {}", args.table.display()))?;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| args.table.with_extension("svg"));
    std::fs::write(&out, draw(&parse(&text)?)).context(|| format!("cannot write {}", out.display()))
}

fn parse(text: &str) -> Result<Vec<Figure>, Failure> {
    let lines = text.lines().enumerate().skip(1);
    lines
        .filter(|(_, line)| !line.is_empty())
        .map(|(n, line)| {
            let fields: Vec<&str> = line.split('\t').collect();
            let wrong = || Failure::setup(format!("line {}: not {COLUMNS:?}", n + 1));
            let [date, command, measure, value, unit] = fields[..] else {
                return Err(wrong());
            };
            Ok(Figure {
                date: date.to_owned(),
                command: command.to_owned(),
                measure: measure.to_owned(),
                value: value.parse().map_err(|_| wrong())?,
                unit: unit.to_owned(),
            })
        })
        .collect()
}

const WIDTH: f64 = 760.0;
/// Left of the bars: their dates.
const LEFT: f64 = 100.0;
/// Of the longest bar.
const BAR: f64 = 560.0;
const ROW: f64 = 18.0;
/// Above a measure's bars and below them: its name, its axis.
const HEAD: f64 = 26.0;
const FOOT: f64 = 34.0;

/// A panel a measure, in the order of the table; in it a bar a figure, over an axis from 0.
fn draw(figures: &[Figure]) -> String {
    let mut measures: Vec<(&str, &str)> = Vec::new();
    for figure in figures {
        let measure = (figure.measure.as_str(), figure.unit.as_str());
        if !measures.contains(&measure) {
            measures.push(measure);
        }
    }
    let (mut body, mut y) = (String::new(), 10.0);
    for (measure, unit) in measures {
        let of_measure: Vec<&Figure> = (figures.iter())
            .filter(|figure| (figure.measure.as_str(), figure.unit.as_str()) == (measure, unit))
            .collect();
        y = panel(&mut body, y, measure, unit, &of_measure);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

/// Draws one panel from `y` down; where the next begins.
fn panel(body: &mut String, y: f64, measure: &str, unit: &str, figures: &[&Figure]) -> f64 {
    let largest = figures
        .iter()
        .map(|figure| figure.value)
        .fold(0.0, f64::max);
    let step = tick(largest);
    let end = (largest / step).ceil().max(1.0) * step;
    let bottom = y + HEAD + ROW * figures.len() as f64;
    let name = escaped(measure);
    let _ = writeln!(
        body,
        "<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{name}</text>",
        y + 16.0
    );
    for (n, figure) in figures.iter().enumerate() {
        let top = y + HEAD + ROW * n as f64;
        let length = BAR * figure.value / end;
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{}\" width=\"{length:.1}\" height=\"12\" fill=\"#3b6ea5\">\
             <title>{}</title></rect>\
             <text x=\"{:.1}\" y=\"{}\">{}</text>",
            LEFT - 8.0,
            top + 11.0,
            escaped(&figure.date),
            top + 1.0,
            escaped(&figure.command),
            LEFT + length + 5.0,
            top + 11.0,
            figure.value,
        );
    }
    let _ = writeln!(
        body,
        "<path d=\"M{LEFT} {bottom}h{BAR}\" stroke=\"#444\" fill=\"none\"/>"
    );
    for n in 0..=(end / step).round() as u32 {
        let value = f64::from(n) * step;
        let x = LEFT + BAR * value / end;
        let _ = writeln!(
            body,
            "<path d=\"M{x:.1} {bottom}v4\" stroke=\"#444\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{value}</text>",
            bottom + 15.0
        );
    }
    let _ = writeln!(
        body,
        "<text x=\"{}\" y=\"{}\">{}</text>",
        LEFT + BAR + 24.0,
        bottom + 15.0,
        escaped(unit)
    );
    bottom + FOOT
}

/// The distance of an axis' marks: 1, 2 or 5 times a power of ten, at most some six of them.
fn tick(largest: f64) -> f64 {
    let power = 10f64.powf((largest.max(0.1) / 6.0).log10().floor());
    let wanted = largest / 6.0;
    [1.0, 2.0, 5.0, 10.0]
        .map(|step| step * power)
        .into_iter()
        .find(|step| *step >= wanted)
        .unwrap_or(10.0 * power)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(11_016), "2000-02-29");
        assert_eq!(date(20_781), "2026-11-24");
    }

    #[test]
    fn recorded_figures_are_drawn_with_axes_and_names() {
        let dir = tempfile::tempdir().unwrap();
        let table = dir.path().join("results.tsv");
        record(Some(&table), &[("rate", 27_000.0, "messages/s")]).unwrap();
        record(
            Some(&table),
            &[("rate", 29_500.0, "messages/s"), ("cost < bar", 35.5, "µs")],
        )
        .unwrap();
        let args = ChartArgs {
            table: table.clone(),
            out: None,
        };
        chart(&args).unwrap();
        let drawn = std::fs::read_to_string(table.with_extension("svg")).unwrap();
        for part in [
            "29500",
            "messages/s",
            "cost &lt; bar",
            "35.5",
            ">30000<",
            "</svg>",
        ] {
            assert!(drawn.contains(part), "{part} in {drawn}");
        }
    }

    #[test]
    fn line_that_is_no_figure_is_named() {
        let error = parse("head\n2026-11-24\tbench\n").unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
