//! A book of stops as bytes: lines of text, one a stop, which an operator can read.
//!
//! ```text
//! hikyaku-stops 1 <next number>
//! <number> TAB <since> TAB <until or -> TAB <author> TAB <reason> { TAB <condition>=<value> }*
//! ```
//! Times are milliseconds since the epoch; texts are escaped as in TSV.

use std::fmt;
use std::sync::Arc;

use super::{STOPS_MAX, Selector, Stop, StopBook};
use crate::clock::UnixMs;
use crate::delivery_log::text::{escape_tsv, unescape_tsv};

const HEAD: &str = "hikyaku-stops 1 ";

/// A book that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookError {
    /// 1 is the first.
    pub line: usize,
}

impl fmt::Display for BookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {} of the book of stops is not understood",
            self.line
        )
    }
}

impl std::error::Error for BookError {}

impl StopBook {
    /// The book as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = format!("{HEAD}{}\n", self.next_number);
        for stop in &self.stops {
            let until = stop
                .until
                .map_or_else(|| "-".into(), |until| until.0.to_string());
            out.push_str(&format!("{}\t{}\t{until}\t", stop.number, stop.since.0));
            escape_tsv(&stop.author, &mut out);
            out.push('\t');
            escape_tsv(&stop.reason, &mut out);
            for (name, value) in conditions(&stop.selector) {
                out.push('\t');
                out.push_str(name);
                out.push('=');
                escape_tsv(&value, &mut out);
            }
            out.push('\n');
        }
        out.into_bytes()
    }

    /// A book out of what [`Self::encode`] gave.
    ///
    /// # Errors
    /// [`BookError`] if it is nothing of the kind.
    pub fn decode(bytes: &[u8]) -> Result<Self, BookError> {
        let fault = |line| BookError { line };
        let text = std::str::from_utf8(bytes).map_err(|_| fault(1))?;
        let mut lines = text.lines();
        let head = lines.next().and_then(|line| line.strip_prefix(HEAD));
        let next_number = head.and_then(|number| number.parse().ok());
        let next_number = next_number.ok_or_else(|| fault(1))?;
        let mut stops = Vec::new();
        for (n, line) in lines.enumerate() {
            let stop = stop_of(line).ok_or_else(|| fault(n + 2))?;
            stops.push(Arc::new(stop));
        }
        if stops.len() > STOPS_MAX {
            return Err(fault(STOPS_MAX + 2));
        }
        Ok(Self { next_number, stops })
    }
}

fn conditions(selector: &Selector) -> Vec<(&'static str, String)> {
    let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
    let all = [
        ("group", text(&selector.group)),
        ("domain", text(&selector.domain)),
        ("site", text(&selector.site)),
        ("source", selector.source.map(|net| net.to_string())),
        ("sender", text(&selector.sender)),
        ("tag", text(&selector.tag)),
        (
            "accepted_before",
            selector.accepted_before.map(|at| at.0.to_string()),
        ),
        ("queue_id", selector.queue_id.map(|id| id.to_string())),
    ];
    let set = all.into_iter();
    set.filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

fn stop_of(line: &str) -> Option<Stop> {
    let mut fields = line.split('\t');
    let number = fields.next()?.parse().ok()?;
    let since = UnixMs(fields.next()?.parse().ok()?);
    let until = match fields.next()? {
        "-" => None,
        until => Some(UnixMs(until.parse().ok()?)),
    };
    let author = unescape_tsv(fields.next()?).into();
    let reason = unescape_tsv(fields.next()?).into();
    let mut selector = Selector::default();
    for field in fields {
        let (name, value) = field.split_once('=')?;
        let value = unescape_tsv(value);
        match name {
            "group" => selector.group = Some(value.into()),
            "domain" => selector.domain = Some(value.into()),
            "site" => selector.site = Some(value.into()),
            "source" => selector.source = Some(value.parse().ok()?),
            "sender" => selector.sender = Some(value.into()),
            "tag" => selector.tag = Some(value.into()),
            "accepted_before" => selector.accepted_before = Some(UnixMs(value.parse().ok()?)),
            "queue_id" => selector.queue_id = Some(value.parse().ok()?),
            // What it says more, a stop without it would not: rather none is read than another.
            _ => return None,
        }
    }
    Some(Stop {
        number,
        selector,
        reason,
        author,
        since,
        until,
    })
}
