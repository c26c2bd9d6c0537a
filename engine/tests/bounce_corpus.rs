//! The corpus of real bounces beside the checkout, read and scored as its own scorer does.
//!
//! A note and no test where the corpus is absent, unless HIKYAKU_REQUIRE_SHARED=1 says that it has
//! to be there.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]
#![allow(clippy::disallowed_methods, reason = "a test reads files")]

use std::collections::BTreeMap;
use std::path::Path;

use engine::bounce::{Classifier, Group, Reader, Reason, Report, Verdict};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/bounces");

/// One line of expected.tsv; alternatives as it has them.
struct Expected {
    file: String,
    recipients: Vec<Vec<String>>,
    verdicts: Vec<Vec<String>>,
    reasons: Vec<Vec<String>>,
    source: String,
}

#[derive(Default)]
struct Tally {
    right: BTreeMap<&'static str, (usize, usize)>,
    false_alarms: usize,
    misses: Vec<String>,
}

impl Tally {
    fn add(&mut self, column: &'static str, right: usize, scored: usize) {
        let cell = self.right.entry(column).or_default();
        cell.0 += right;
        cell.1 += scored;
    }

    fn percent(&self, column: &str) -> f64 {
        let (right, scored) = self.right.get(column).copied().unwrap_or((0, 1));
        100.0 * right as f64 / scored as f64
    }

    fn print(&self, name: &str) {
        let cells = self.right.iter().map(|(column, (right, scored))| {
            format!("{column} {right}/{scored} {:.1}%", self.percent(column))
        });
        println!(
            "{name}: {}; false alarms {}",
            cells.collect::<Vec<_>>().join("  "),
            self.false_alarms
        );
    }
}

fn split(cell: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut current = String::new();
    let mut quoted = false;
    for c in cell.chars() {
        quoted ^= c == '"';
        if c == ',' && !quoted {
            out.push(std::mem::take(&mut current));
        } else {
            current.push(c);
        }
    }
    if !current.is_empty() || !out.is_empty() {
        out.push(current);
    }
    out
}

fn alternatives(cell: &str) -> Vec<Vec<String>> {
    let one = |word: String| -> Vec<String> {
        word.split('|')
            .filter(|w| !w.is_empty())
            .map(str::to_owned)
            .collect()
    };
    split(cell).into_iter().map(one).collect()
}

fn expected() -> Vec<Expected> {
    let text = std::fs::read_to_string(Path::new(CORPUS).join("expected.tsv")).unwrap();
    let cells = |line: &str| -> Vec<String> { line.split('\t').map(str::to_owned).collect() };
    text.lines()
        .skip(1)
        .map(cells)
        .map(|row| Expected {
            file: row[0].clone(),
            recipients: alternatives(&row[1].to_lowercase()),
            verdicts: alternatives(&row[2]),
            reasons: alternatives(&row[3]),
            source: row[5].clone(),
        })
        .collect()
}

fn is_reason(wanted: &str, got: Reason) -> bool {
    wanted == got.as_str() || (wanted == "@policy" && got.group() == Group::Policy)
}

/// As score.py does: lists stretched to the recipients, compared where their address was found.
fn score(wanted: &Expected, report: &Report, tally: &mut Tally) {
    let got: Vec<String> = report
        .failures
        .iter()
        .map(|f| f.recipient.to_lowercase())
        .collect();
    let count = wanted.recipients.len().max(wanted.verdicts.len()).max(1);
    let verdicts = stretch(&wanted.verdicts, count);
    let reasons = stretch(&wanted.reasons, count);
    let word = "not-a-bounce";
    let only_not = verdicts.iter().flatten().all(|v| v == word);
    let may_not = verdicts.iter().flatten().any(|v| v == word);
    let said_not = report.verdict == Verdict::NotABounce;
    let mut wrong = Vec::new();
    let bounce = may_not && !only_not || only_not == said_not;
    tally.add("bounce", usize::from(bounce), 1);
    tally.false_alarms += usize::from(only_not && !said_not);
    if !bounce {
        wrong.push("bounce");
    }

    let place = places(wanted, &got);
    if !wanted.recipients.is_empty() && !only_not {
        let found = place.iter().flatten().count();
        tally.add("recipients", found, place.len());
        if found < place.len() {
            wrong.push("recipients");
        }
    }

    let single = report.failures.len() <= 1;
    let value = |index: usize| {
        if single {
            return report
                .failures
                .first()
                .map_or((report.verdict, report.reason), |f| (f.verdict, f.reason))
                .into();
        }
        let at = place
            .get(index)
            .copied()
            .flatten()
            .or_else(|| (report.failures.len() == count).then_some(index))?;
        report.failures.get(at).map(|f| (f.verdict, f.reason))
    };
    let mut column = |name: &'static str,
                      open: &dyn Fn(usize) -> bool,
                      right: &dyn Fn(usize, (Verdict, Reason)) -> bool| {
        let todo: Vec<usize> = (0..count).filter(|i| open(*i)).collect();
        if todo.is_empty() {
            return;
        }
        let all = todo.iter().all(|&i| value(i).is_some_and(|v| right(i, v)));
        tally.add(name, usize::from(all), 1);
        if !all {
            wrong.push(name);
        }
    };
    // A verdict that the source leaves open is scored by the bounce column alone.
    column(
        "verdict",
        &|i| verdicts.get(i).is_some_and(|v| v.len() == 1),
        &|i, (v, _)| verdicts[i][0] == v.as_str(),
    );
    column(
        "reason",
        &|i| reasons.get(i).is_some_and(|r| !r.is_empty()),
        &|i, (_, r)| reasons[i].iter().any(|wanted| is_reason(wanted, r)),
    );
    if !wrong.is_empty() {
        tally
            .misses
            .push(format!("{}: {}", wanted.file, wrong.join(" ")));
    }
}

/// One for all stands for each.
fn stretch(list: &[Vec<String>], count: usize) -> Vec<Vec<String>> {
    if list.len() == 1 {
        vec![list[0].clone(); count]
    } else {
        list.to_vec()
    }
}

/// Where each wanted recipient stands among those that were read.
fn places(wanted: &Expected, got: &[String]) -> Vec<Option<usize>> {
    let mut used: Vec<usize> = Vec::new();
    wanted
        .recipients
        .iter()
        .map(|alternatives| {
            let fits = |i: &usize| alternatives.contains(&got[*i]);
            let fresh = (0..got.len()).find(|i| !used.contains(i) && fits(i));
            let found = fresh.or_else(|| (0..got.len()).find(|i| fits(i)));
            used.extend(found);
            found
        })
        .collect()
}

#[test]
fn corpus_is_read_above_its_bars() {
    if !Path::new(CORPUS).is_dir() {
        assert!(
            std::env::var_os("HIKYAKU_REQUIRE_SHARED").is_none_or(|v| v != "1"),
            "{CORPUS} is not there"
        );
        println!("note: {CORPUS} is not there, so its bounces are not read");
        return;
    }
    let reader = Reader::new(Classifier::builtin());
    let (mut all, mut others) = (Tally::default(), Tally::default());
    let expected = expected();
    assert!(expected.len() >= 558, "expected.tsv has lost lines");
    for wanted in &expected {
        let message = std::fs::read(Path::new(CORPUS).join(&wanted.file)).unwrap();
        let report = reader.read(&message);
        score(wanted, &report, &mut all);
        if wanted.source != "sisimai" {
            score(wanted, &report, &mut others);
        }
    }
    println!("{}", all.misses.join("\n"));
    all.print("all");
    others.print("not sisimai");
    let bars = [
        (&all, "bounce", 98.0),
        (&all, "recipients", 97.0),
        (&all, "verdict", 97.0),
        (&all, "reason", 94.0),
        (&others, "recipients", 94.0),
        (&others, "verdict", 95.0),
        (&others, "reason", 92.0),
    ];
    for (tally, column, bar) in bars {
        assert!(
            tally.percent(column) >= bar,
            "{column}: {:.1} %, wanted {bar} %",
            tally.percent(column)
        );
    }
    assert!(all.false_alarms <= 1, "{} false alarms", all.false_alarms);
}
