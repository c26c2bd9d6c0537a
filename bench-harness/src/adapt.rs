//! `hikyaku-bench adapt`: a pace found by trying beside fixed ones, against a receiver whose limit changes.
//!
//! All of it in simulated time, with the engine's own [`Adapt`] and [`Bucket`]; nothing is sent.

use std::fmt::Write as _;
use std::path::PathBuf;

use engine::clock::Mono;
use engine::policy::adapt::{Adapt, PaceBounds, Sign};
use engine::policy::bucket::{Bucket, Rate};

use crate::failure::{Context, Failure};

/// What the receiver takes, messages a minute: from which minute on.
const LIMITS: [(u64, u64); 4] = [(0, 600), (20, 150), (40, 600), (60, 1200)];
/// How long the run is, minutes.
const MINUTES: u64 = 80;
/// Refusals within a minute after which the receiver refuses everything, and for how long, seconds.
const REFUSALS_MAX: u64 = 60;
const SHUT_S: u64 = 30;
/// A sender asks so often, milliseconds, as a shard's ticks do, and can send no more at a time.
const TICK_MS: u64 = 100;
const PER_TICK_MAX: u64 = 20;

/// As the shipped rows have it.
const BOUNDS: PaceBounds = PaceBounds {
    floor_per_h: 6 * 60,
    ceiling_per_h: None,
    decrease_percent: 30,
    increase_percent: 30,
};

/// Draw an adaptive pace beside fixed rates against a receiver whose limit changes, in simulated time.
#[derive(Debug, clap::Args)]
pub struct AdaptArgs {
    /// The chart; a table of the same goes beside it (`.tsv`).
    #[arg(long, default_value = "docs/benchmarks/adaptive.svg")]
    out: PathBuf,
}

/// A receiver that counts.
#[derive(Debug, Default)]
struct Receiver {
    used: Bucket,
    refused_in: (u64, u64),
    shut_until: Option<Mono>,
}

fn limit_at(minute: u64) -> u64 {
    let held = LIMITS.iter().rev().find(|(from, _)| *from <= minute);
    held.map_or(0, |(_, limit)| *limit)
}

impl Receiver {
    /// Whether it takes a message.
    fn offer(&mut self, now: Mono) -> bool {
        let minute = now.0 / 60_000_000;
        let limit = limit_at(minute);
        let rate = Rate::new(limit, 60, limit / 60 + 1);
        let is_shut = self.shut_until.is_some_and(|until| until > now);
        if !is_shut && self.used.may_take(rate, now).is_ok() {
            self.used.take(rate, 1, now);
            return true;
        }
        if self.refused_in.0 != minute {
            self.refused_in = (minute, 0);
        }
        self.refused_in.1 += 1;
        if self.refused_in.1 >= REFUSALS_MAX && !is_shut {
            self.refused_in.1 = 0;
            self.shut_until = Some(now.plus_ms(SHUT_S * 1000));
        }
        false
    }
}

/// How a sender keeps its pace.
#[derive(Debug)]
enum Sender {
    /// So many a minute, whatever is said.
    Fixed(u64, Bucket),
    Adaptive(Box<Adapt>),
}

impl Sender {
    fn may_send(&self, now: Mono) -> bool {
        match self {
            Self::Fixed(per_min, used) => used.may_take(fixed(*per_min), now).is_ok(),
            Self::Adaptive(adapt) => adapt.may_send(now).is_ok(),
        }
    }

    fn sent(&mut self, is_taken: bool, now: Mono) {
        match self {
            Self::Fixed(per_min, used) => used.take(fixed(*per_min), 1, now),
            Self::Adaptive(adapt) => {
                adapt.send(now);
                let sign = if is_taken {
                    Sign::Taken(20)
                } else {
                    Sign::Trouble
                };
                adapt.learn(sign, &BOUNDS, now);
            }
        }
    }
}

fn fixed(per_min: u64) -> Rate {
    Rate::new(per_min, 60, per_min / 300 + 1)
}

/// What came of a run.
#[derive(Debug)]
struct Run {
    name: String,
    /// Taken and refused in each minute.
    minutes: Vec<(u64, u64)>,
}

impl Run {
    fn of(name: String, mut sender: Sender) -> Self {
        let mut receiver = Receiver::default();
        let mut minutes = vec![(0, 0); MINUTES as usize];
        for tick in 0..MINUTES * 60_000 / TICK_MS {
            // Not from 0, where a bucket has never been used.
            let now = Mono(tick * TICK_MS * 1000 + 1);
            for _ in 0..PER_TICK_MAX {
                if !sender.may_send(now) {
                    break;
                }
                let is_taken = receiver.offer(now);
                sender.sent(is_taken, now);
                let (taken, refused) = &mut minutes[(now.0 / 60_000_000) as usize];
                *taken += u64::from(is_taken);
                *refused += u64::from(!is_taken);
            }
        }
        Self { name, minutes }
    }

    fn taken(&self) -> u64 {
        self.minutes.iter().map(|(taken, _)| taken).sum()
    }

    fn refused(&self) -> u64 {
        self.minutes.iter().map(|(_, refused)| refused).sum()
    }
}

/// The adaptive run, and fixed ones at each rate the receiver ever has.
fn runs() -> Vec<Run> {
    let adaptive = Run::of("adaptive".to_owned(), Sender::Adaptive(Box::default()));
    let rates = [150, 300, 600, 1200];
    let fixed = rates.map(|per_min| {
        let sender = Sender::Fixed(per_min, Bucket::default());
        Run::of(format!("fixed {per_min}/min"), sender)
    });
    std::iter::once(adaptive).chain(fixed).collect()
}

fn possible() -> u64 {
    (0..MINUTES).map(limit_at).sum()
}

fn table(runs: &[Run]) -> String {
    let mut text = "sender\ttaken\tof_possible_percent\trefused\n".to_owned();
    for run in runs {
        let share = run.taken() * 100 / possible();
        let _ = writeln!(
            text,
            "{}\t{}\t{share}\t{}",
            run.name,
            run.taken(),
            run.refused()
        );
    }
    text
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 60.0;
const BOTTOM: f64 = 280.0;
const TOP: f64 = 40.0;

fn draw(runs: &[Run]) -> String {
    let most = LIMITS.iter().map(|(_, limit)| *limit).max().unwrap_or(1) as f64;
    let x = |minute: f64| LEFT + (WIDTH - LEFT - 20.0) * minute / MINUTES as f64;
    let y = |per_min: f64| BOTTOM - (BOTTOM - TOP) * per_min / (most * 1.05);
    let line = |values: &[f64], colour: &str, dashes: &str| {
        let mut path = String::new();
        for (minute, value) in values.iter().enumerate() {
            let command = if minute == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.1} {:.1}", x(minute as f64), y(*value));
        }
        format!(
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\"{dashes}/>\n"
        )
    };
    let mut body = String::new();
    let limit: Vec<f64> = (0..MINUTES).map(|minute| limit_at(minute) as f64).collect();
    body += &line(&limit, "#888", " stroke-dasharray=\"5 3\"");
    let taken = |run: &Run| {
        run.minutes
            .iter()
            .map(|(taken, _)| *taken as f64)
            .collect::<Vec<_>>()
    };
    let shown = [(&runs[0], "#3b6ea5"), (&runs[3], "#c0504d")];
    for (run, colour) in shown {
        body += &line(&taken(run), colour, "");
    }
    let legend = [
        ("limit of the receiver".to_owned(), "#888"),
        (format!("{}: taken a minute", runs[0].name), "#3b6ea5"),
        (format!("{}: taken a minute", runs[3].name), "#c0504d"),
    ];
    for (nth, (text, colour)) in legend.iter().enumerate() {
        let at = LEFT + 230.0 * nth as f64;
        let _ = writeln!(
            body,
            "<rect x=\"{at}\" y=\"14\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"24\">{text}</text>",
            at + 18.0
        );
    }
    let _ = writeln!(
        body,
        "<path d=\"M{LEFT} {TOP}V{BOTTOM}H{}\" stroke=\"#444\" fill=\"none\"/>",
        WIDTH - 20.0
    );
    for per_min in (0..=1200).step_by(200) {
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{per_min}</text>",
            LEFT - 6.0,
            y(f64::from(per_min)) + 4.0
        );
    }
    for minute in (0..=MINUTES).step_by(20) {
        let _ = writeln!(
            body,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{minute} min</text>",
            x(minute as f64),
            BOTTOM + 18.0
        );
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

/// Runs `hikyaku-bench adapt`.
///
/// # Errors
/// When the chart or the table cannot be written.
pub fn run(args: &AdaptArgs) -> Result<(), Failure> {
    let runs = runs();
    let text = table(&runs);
    let what = || format!("cannot write {}", args.out.display());
    std::fs::write(&args.out, draw(&runs)).context(what)?;
    std::fs::write(args.out.with_extension("tsv"), &text).context(what)?;
    print!("{text}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adaptive_pace_beats_every_fixed_rate_against_a_limit_that_changes() {
        let runs = runs();
        let text = table(&runs);
        let (adaptive, fixed) = runs.split_first().unwrap();
        for run in fixed {
            assert!(adaptive.taken() > run.taken(), "{text}");
        }
        assert!(adaptive.taken() * 100 >= possible() * 75, "{text}");
        assert!(adaptive.refused() * 50 < adaptive.taken(), "{text}");
    }

    #[test]
    fn chart_has_its_lines_and_its_axes() {
        let drawn = draw(&runs());
        assert!(drawn.matches("<path").count() == 4 && drawn.contains("60 min"));
    }
}
