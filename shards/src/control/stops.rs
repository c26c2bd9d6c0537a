//! `suspend`, `resume`, and what is suspended.

use std::time::{SystemTime, UNIX_EPOCH};

use engine::address::Domain;
use engine::clock::UnixMs;
use engine::delivery_log::utc;
use engine::operator::{Answer, Query};
use engine::policy::stop::{NewStop, STOPS_MAX, Selector, TEXT_BYTES_MAX};
use engine::shard::stops::Selected;
use engine::units::parse_duration_ms;

use super::Refusal;
use super::answer::{Body, Table};
use super::ask::ask_all;
use super::paths::Asked;
use super::request::Target;

/// What says which mail is meant.
pub(super) const SELECTORS: [&str; 9] = [
    "group",
    "domain",
    "site",
    "source",
    "sender",
    "tag",
    "older_than",
    "queue_id",
    "all",
];

/// Parameters of `suspend`.
pub(super) const SUSPEND: [&str; 12] = [
    "group",
    "domain",
    "site",
    "source",
    "sender",
    "tag",
    "older_than",
    "queue_id",
    "all",
    "reason",
    "until",
    "dry_run",
];

fn wrong(why: String) -> Refusal {
    Refusal::new(400, why)
}

fn unix_now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixMs(since.unwrap_or_default().as_millis() as u64)
}

fn text(target: &mut Target, name: &str) -> Result<Option<Box<str>>, Refusal> {
    match target.take(name) {
        Some(text) if text.is_empty() => Err(wrong(format!("{name}= is empty"))),
        Some(text) if text.len() > TEXT_BYTES_MAX => Err(wrong(format!(
            "{name} is longer than {TEXT_BYTES_MAX} bytes"
        ))),
        text => Ok(text.map(Into::into)),
    }
}

fn flag(target: &mut Target, name: &str) -> Result<bool, Refusal> {
    match target.take(name).as_deref() {
        None | Some("0") => Ok(false),
        Some("1") => Ok(true),
        Some(other) => Err(wrong(format!("{name} `{other}` must be 1 or left out"))),
    }
}

/// Takes the selectors out. None of them means nothing, not everything.
fn selector(target: &mut Target, now: UnixMs) -> Result<Selector, Refusal> {
    let all = flag(target, "all")?;
    let source = text(target, "source")?;
    let source = source.map(|text| {
        let net = Selector::parse_source(&text);
        net.ok_or_else(|| wrong(format!("source `{text}` must be an address or a network")))
    });
    let older_than = text(target, "older_than")?;
    let before = older_than.map(|text| {
        let age_ms = parse_duration_ms(&text);
        let age_ms =
            age_ms.ok_or_else(|| wrong(format!("older_than `{text}` must be like 30m, 4h, 2d")))?;
        Ok(UnixMs(now.0.saturating_sub(age_ms)))
    });
    let queue_id = text(target, "queue_id")?;
    let queue_id = queue_id.map(|text| {
        let id = text.parse();
        id.map_err(|error| wrong(format!("`{text}` is {error}")))
    });
    let tag = text(target, "tag")?;
    if let Some(tag) = tag.as_deref().filter(|tag| !tag.contains('=')) {
        return Err(wrong(format!("tag `{tag}` must be NAME=VALUE")));
    }
    let selector = Selector {
        group: text(target, "group")?,
        domain: text(target, "domain")?.map(|domain| Domain::as_queued(&domain).into()),
        site: text(target, "site")?,
        source: source.transpose()?,
        sender: text(target, "sender")?,
        tag,
        accepted_before: before.transpose()?,
        queue_id: queue_id.transpose()?,
    };
    if selector.is_all() != all {
        let known = SELECTORS.map(|name| format!("{name}=")).join(", ");
        return Err(wrong(if all {
            "all=1 is everything; leave the other selectors out".to_owned()
        } else {
            format!("nothing is selected; give one of: {known} (all=1 is everything)")
        }));
    }
    Ok(selector)
}

/// A selector in the daemon's log, which lies on disk in clear: no address stands there.
fn in_log(selector: &Selector) -> String {
    let mut shown = selector.clone();
    if let Some(sender) = &mut shown.sender {
        *sender = "…".into();
    }
    shown.to_string()
}

/// A time, `2026-11-25T08:00:00Z`, or how long from now.
fn until(target: &mut Target, now: UnixMs) -> Result<Option<UnixMs>, Refusal> {
    let Some(text) = text(target, "until")? else {
        return Ok(None);
    };
    let after = parse_duration_ms(&text).map(|ms| UnixMs(now.0.saturating_add(ms)));
    let until = after.or_else(|| utc::parse(&text));
    let until = until.ok_or_else(|| {
        wrong(format!(
            "until `{text}` must be a time such as 2026-11-25T08:00:00Z, or a duration such as 2h"
        ))
    })?;
    if until <= now {
        return Err(wrong(format!("until `{text}` is over")));
    }
    Ok(Some(until))
}

/// What the selector is about, in all shards.
fn selected(asked: &Asked<'_>, selector: &Selector) -> Result<Selected, Refusal> {
    let mut sum = Selected::default();
    for (_, answer) in ask_all(asked.daemon, &Query::Count(selector.clone()))? {
        if let Answer::Counted(found) = answer {
            sum.messages += found.messages;
            sum.recipients += found.recipients;
            sum.in_flight += found.in_flight;
            sum.unknown += found.unknown;
        }
    }
    Ok(sum)
}

/// When it has answered, no transaction begins any more that it is about, on any shard.
pub(super) fn suspend(asked: &mut Asked<'_>) -> Result<Body, Refusal> {
    let now = unix_now();
    let target = &mut asked.target;
    let selector = selector(target, now)?;
    let until = until(target, now)?;
    let reason = text(target, "reason")?.unwrap_or_default();
    let is_dry_run = flag(target, "dry_run")?;
    let mut number = String::new();
    if !is_dry_run {
        let author: Box<str> = asked.caller.to_string().into();
        let book = asked.daemon.change_stops(&|book| {
            let new = NewStop {
                selector: selector.clone(),
                reason: reason.clone(),
                author: author.clone(),
                until,
            };
            let full = |_| {
                Refusal::new(
                    409,
                    format!("{STOPS_MAX} suspensions are all there may be; resume some"),
                )
            };
            book.with(new, now).map_err(full)
        })?;
        let stop = book.stops().last();
        number = stop.map_or_else(String::new, |stop| stop.number.to_string());
        let by = &asked.caller;
        asked.daemon.note(&format!(
            "{} suspended by {by}: {reason}",
            in_log(&selector)
        ));
    }
    let found = selected(asked, &selector)?;
    let mut table = Table::new(&[
        "stop",
        "selector",
        "messages",
        "recipients",
        "in_flight",
        "unknown",
    ]);
    table.push(vec![
        number.into(),
        selector.to_string().into(),
        found.messages.into(),
        found.recipients.into(),
        found.in_flight.into(),
        found.unknown.into(),
    ]);
    Ok(table.write(asked.target.format))
}

/// Ends every suspension of the mail selected, or of a part of it.
pub(super) fn resume(asked: &mut Asked<'_>) -> Result<Body, Refusal> {
    let now = unix_now();
    let selector = selector(&mut asked.target, now)?;
    let is_meant = |stop: &engine::policy::stop::Stop| selector.covers(&stop.selector);
    let before = asked.daemon.stops();
    let over: Vec<_> = before
        .stops()
        .iter()
        .filter(|stop| is_meant(stop))
        .collect();
    if over.is_empty() {
        let there: Vec<String> = before
            .stops()
            .iter()
            .map(|stop| stop.selector.to_string())
            .collect();
        let why = match there.as_slice() {
            [] => "nothing is suspended".to_owned(),
            there => format!(
                "no suspension is of {selector}; there are: {}",
                there.join("; ")
            ),
        };
        return Err(Refusal::new(404, why));
    }
    asked
        .daemon
        .change_stops(&|book| Ok(book.without(is_meant, now)))?;
    let mut table = Table::new(&["stop", "selector"]);
    for stop in &over {
        let by = &asked.caller;
        asked
            .daemon
            .note(&format!("{} resumed by {by}", in_log(&stop.selector)));
        table.push(vec![stop.number.into(), stop.selector.to_string().into()]);
    }
    Ok(table.write(asked.target.format))
}

/// What is suspended, by whom and why.
pub(super) fn stops(asked: &mut Asked<'_>) -> Result<Body, Refusal> {
    super::ask::must_run(asked.daemon)?;
    let time = |at: UnixMs| utc::text(at).map(char::from).iter().collect::<String>();
    let mut table = Table::new(&["stop", "selector", "author", "reason", "since", "until"]);
    let now = unix_now();
    for stop in asked
        .daemon
        .stops()
        .stops()
        .iter()
        .filter(|stop| stop.is_in_force(now))
    {
        table.push(vec![
            stop.number.into(),
            stop.selector.to_string().into(),
            String::from(stop.author.clone()).into(),
            String::from(stop.reason.clone()).into(),
            time(stop.since).into(),
            stop.until.map_or_else(String::new, time).into(),
        ]);
    }
    Ok(table.write(asked.target.format))
}
