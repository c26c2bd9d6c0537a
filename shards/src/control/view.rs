//! What the paths that only tell something answer.

use std::time::{SystemTime, UNIX_EPOCH};

use engine::address::Domain;
use engine::clock::UnixMs;
use engine::counters::{By, CounterTable, Window};
use engine::delivery_log::utc;
use engine::ids::QueueId;
use engine::operator::{Answer, Query, ROWS_MAX};
use engine::schedule::Binding;
use engine::shard::{DestinationView, ShardStatus, Why};

use super::answer::{Body, Cell, Table};
use super::ask::{ask_all, must_run};
use super::paths::{Asked, by_and_window};
use super::request::Format;
use super::{Daemon, Refusal, State};

pub(super) fn unix_now() -> UnixMs {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMs(since.as_millis() as u64)
}

fn time(at: UnixMs) -> Cell {
    Cell::Text(utc::text(at).map(char::from).iter().collect())
}

pub(super) fn statuses(daemon: &dyn Daemon) -> Result<Vec<ShardStatus>, Refusal> {
    let answers = ask_all(daemon, &Query::Status)?;
    let status = |answer| match answer {
        (_, Answer::Status(status)) => Some(*status),
        _ => None,
    };
    Ok(answers.into_iter().filter_map(status).collect())
}

pub(super) fn disk_free_bytes(daemon: &dyn Daemon) -> u64 {
    rustix::fs::statvfs(daemon.data_dir()).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
}

pub(super) fn status(asked: &mut Asked<'_>) -> Result<Body, Refusal> {
    let daemon = asked.daemon;
    let shards = match daemon.state() {
        State::Locked => Vec::new(),
        State::Running | State::Stopping => statuses(daemon)?,
    };
    let sum = |value: fn(&ShardStatus) -> u64| shards.iter().map(value).sum::<u64>();
    let overload = shards
        .iter()
        .map(|shard| shard.overload)
        .find(|reason| !reason.is_empty());
    let unread = shards.iter().flat_map(|shard| &shard.unread);
    let unread = unread.min_by_key(|unread| unread.retry_at);
    let replaying = shards.iter().filter(|shard| shard.replaying).count() as u64;
    let started = daemon.started();
    let mut table = Table::new(&[
        "state",
        "hostname",
        "version",
        "pid",
        "started",
        "uptime_s",
        "shards",
        "replaying",
        "queued",
        "deferred",
        "delivering",
        "queued_messages",
        "delivered",
        "failed",
        "expired",
        "destinations",
        "connections",
        "memory_bytes",
        "segments",
        "disk_free_bytes",
        "refusing",
        "broken_segments",
        "unread_segments",
        "unread_bytes",
        "unread_next_try",
        "unread_cause",
    ]);
    table.push(vec![
        daemon.state().as_str().into(),
        daemon.hostname().into(),
        env!("CARGO_PKG_VERSION").into(),
        u64::from(std::process::id()).into(),
        time(started),
        daemon.uptime().as_secs().into(),
        u64::from(daemon.shards()).into(),
        replaying.into(),
        sum(|shard| shard.queued).into(),
        sum(|shard| shard.deferred).into(),
        sum(|shard| shard.delivering).into(),
        sum(|shard| shard.queued_messages).into(),
        sum(|shard| shard.delivered).into(),
        sum(|shard| shard.failed).into(),
        sum(|shard| shard.expired).into(),
        sum(|shard| shard.destinations).into(),
        sum(|shard| shard.connections).into(),
        sum(|shard| shard.memory_bytes).into(),
        sum(|shard| shard.segments).into(),
        disk_free_bytes(daemon).into(),
        overload.unwrap_or_default().into(),
        sum(|shard| shard.broken_segments).into(),
        sum(|shard| shard.unread.len() as u64).into(),
        sum(|shard| shard.unread_bytes).into(),
        unread.map_or("".into(), |unread| time(unread.retry_at)),
        unread.map_or("".into(), |unread| unread.cause.to_string().into()),
    ]);
    Ok(table.write(asked.target.format))
}

pub(super) fn shards(asked: &mut Asked<'_>) -> Result<Body, Refusal> {
    let daemon = asked.daemon;
    let mut table = Table::new(&[
        "shard",
        "state",
        "queued",
        "deferred",
        "delivering",
        "queued_messages",
        "destinations",
        "connections",
        "memory_bytes",
        "waiting_bytes",
        "segments",
        "log_dropped_lines",
        "refusing",
        "broken_segments",
        "unread_segments",
        "unread_bytes",
        "unread_next_try",
        "unread_cause",
    ]);
    for shard in statuses(daemon)? {
        table.push(vec![
            u64::from(shard.shard.0).into(),
            if shard.replaying {
                "replaying"
            } else {
                "running"
            }
            .into(),
            shard.queued.into(),
            shard.deferred.into(),
            shard.delivering.into(),
            shard.queued_messages.into(),
            shard.destinations.into(),
            shard.connections.into(),
            shard.memory_bytes.into(),
            shard.waiting_bytes.into(),
            shard.segments.into(),
            shard.log_dropped_lines.into(),
            shard.overload.into(),
            shard.broken_segments.into(),
            (shard.unread.len() as u64).into(),
            shard.unread_bytes.into(),
            (shard.unread.first()).map_or("".into(), |unread| time(unread.retry_at)),
            (shard.unread.first()).map_or("".into(), |unread| unread.cause.to_string().into()),
        ]);
    }
    Ok(table.write(asked.target.format))
}

pub(super) fn counter_table(
    daemon: &dyn Daemon,
    by: By,
    window: Window,
) -> Result<CounterTable, Refusal> {
    let mut merged: Option<CounterTable> = None;
    for (_, answer) in ask_all(daemon, &Query::Counters(by, window))? {
        let Answer::Counters(table) = answer else {
            continue;
        };
        match &mut merged {
            None => merged = Some(table),
            Some(merged) => merged
                .merge(table)
                .map_err(|error| Refusal::new(500, format!("shards disagree: {error}")))?,
        }
    }
    merged.ok_or_else(|| Refusal::new(503, "there is no shard to ask"))
}

pub(super) fn counters(asked: &mut Asked<'_>) -> Result<Body, Refusal> {
    let (by, window) = by_and_window(&mut asked.target)?;
    let table = counter_table(asked.daemon, by, window)?;
    Ok(match asked.target.format {
        Format::Tsv => Body::new(super::answer::TSV, table.tsv()),
        Format::Json => Body::new(super::answer::JSON, table.json()),
    })
}

const DESTINATION_COLUMNS: [&str; 11] = [
    "domain",
    "site",
    "ready",
    "deferred",
    "busy",
    "connections",
    "binding",
    "last_reply",
    "unbound_by",
    "suspended",
    "pace_per_min",
];

/// What a destination's mail waits for, in words; what binds ready mail says nothing of the rest.
fn destination_binding(row: &DestinationView) -> String {
    match (&row.binding, row.ready, row.deferred, row.busy) {
        (Some(binding), ..) => binding.to_string(),
        (None, _, 0, 0) if row.suspended > 0 => "suspended, about to be set going".to_owned(),
        (None, _, 0, 0) => "nothing is queued".to_owned(),
        (None, _, 0, _) => Binding::Delivering.to_string(),
        (None, _, deferred, _) => format!(
            "{deferred} deferred, waiting for the next attempt; when: hikyaku queue --domain {}",
            row.domain
        ),
    }
}

fn destination_table(rows: Vec<DestinationView>) -> Table {
    let mut table = Table::new(&DESTINATION_COLUMNS);
    for row in rows {
        let binding = destination_binding(&row);
        table.push(vec![
            row.domain.into(),
            row.site.into(),
            row.ready.into(),
            row.deferred.into(),
            row.busy.into(),
            row.connections.into(),
            binding.into(),
            String::from(row.last_reply).into(),
            row.binding.as_ref().map_or("", Binding::unbound_by).into(),
            row.suspended.into(),
            row.pace_per_min.into(),
        ]);
    }
    table
}

pub(super) fn destinations(asked: &mut Asked<'_>) -> Result<Body, Refusal> {
    let Asked { target, daemon, .. } = asked;
    let daemon = *daemon;
    let rows_max = target.take_limit(100, ROWS_MAX)?;
    let mut rows = Vec::new();
    for (_, answer) in ask_all(daemon, &Query::Destinations { rows_max })? {
        if let Answer::Destinations(found) = answer {
            rows.extend(found);
        }
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.ready + row.deferred + row.busy + row.suspended));
    rows.truncate(rows_max);
    Ok(destination_table(rows).write(target.format))
}

fn message_table(rows: Vec<Why>) -> Table {
    let mut table = Table::new(&[
        "queue_id",
        "accepted",
        "domain",
        "recipients",
        "attempts",
        "binding",
        "unbound_by",
    ]);
    for row in rows {
        table.push(vec![
            row.queue_id.to_string().into(),
            time(UnixMs(row.queue_id.accepted_ms())),
            row.domain.into(),
            row.recipients.into(),
            row.attempts.into(),
            row.binding.to_string().into(),
            row.binding.unbound_by().into(),
        ]);
    }
    table
}

fn messages(daemon: &dyn Daemon, query: &Query) -> Result<Vec<Why>, Refusal> {
    let mut rows = Vec::new();
    for (_, answer) in ask_all(daemon, query)? {
        if let Answer::Messages(found) = answer {
            rows.extend(found);
        }
    }
    rows.sort_by(|a, b| (a.queue_id, &a.domain).cmp(&(b.queue_id, &b.domain)));
    Ok(rows)
}

pub(super) fn queue(asked: &mut Asked<'_>) -> Result<Body, Refusal> {
    let Asked { target, daemon, .. } = asked;
    let daemon = *daemon;
    let domain = target
        .take("domain")
        .map(|domain| Domain::as_queued(&domain));
    let rows_max = target.take_limit(100, ROWS_MAX)?;
    let mut rows = messages(daemon, &Query::Search { domain, rows_max })?;
    rows.truncate(rows_max);
    Ok(message_table(rows).write(target.format))
}

pub(super) fn why(asked: &mut Asked<'_>) -> Result<Body, Refusal> {
    let Asked { target, daemon, .. } = asked;
    let daemon = *daemon;
    let domain = target.take("domain");
    let queue_id = target.take("queue_id");
    match (domain, queue_id) {
        (Some(domain), None) => {
            let domain = Domain::as_queued(&domain);
            let mut rows = Vec::new();
            for (_, answer) in ask_all(daemon, &Query::Destination(domain.clone()))? {
                if let Answer::Destinations(found) = answer {
                    rows.extend(found);
                }
            }
            if rows.is_empty() {
                return Err(Refusal::new(404, format!("no mail for {domain} is queued")));
            }
            Ok(destination_table(rows).write(target.format))
        }
        (None, Some(text)) => {
            let id: QueueId = text
                .parse()
                .map_err(|error| Refusal::new(400, format!("`{text}` is {error}")))?;
            let rows = messages(daemon, &Query::Message(id))?;
            if rows.is_empty() {
                return Err(Refusal::new(
                    404,
                    format!("{id} is not queued; what became of it: hikyaku log --queue-id {id}"),
                ));
            }
            Ok(message_table(rows).write(target.format))
        }
        _ => Err(Refusal::new(400, "give either domain= or queue_id=")),
    }
}

pub(super) fn health(asked: &mut Asked<'_>) -> Result<Body, Refusal> {
    let daemon = asked.daemon;
    let plain = "text/plain; charset=utf-8";
    must_run(daemon)?;
    if daemon.state() == State::Stopping {
        return Err(Refusal::new(503, "the daemon is stopping"));
    }
    match statuses(daemon)?
        .iter()
        .find(|shard| !shard.overload.is_empty())
    {
        Some(shard) => Err(Refusal::new(
            503,
            format!("no mail is accepted for want of {}", shard.overload),
        )),
        None => Ok(Body::new(plain, "ok\n".to_owned())),
    }
}
