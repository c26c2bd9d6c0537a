//! What each path does.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use engine::clock::UnixMs;
use engine::counters::{By, CounterTable, Window};
use engine::delivery_log::utc;
use engine::ids::{QueueId, ShardId};
use engine::keys::PASSPHRASE_BYTES_MAX;
use engine::operator::{Answer, Query, ROWS_MAX};
use engine::schedule::Binding;
use engine::shard::{DestinationView, ShardStatus, Why};
use tiny_http::{Method, Request};

use super::answer::{Body, Cell, Table, response};
use super::log::{self, Readers};
use super::page;
use super::request::{Format, Target, may_change, secret_body};
use super::{AskError, Daemon, Refusal, State};

/// Every path, for the error that says which there are.
const PATHS: [&str; 14] = [
    "/",
    "/healthz",
    "/metrics",
    "/api/v1/status",
    "/api/v1/shards",
    "/api/v1/counters",
    "/api/v1/destinations",
    "/api/v1/queue",
    "/api/v1/why",
    "/api/v1/log",
    "/api/v1/retry",
    "/api/v1/reload",
    "/api/v1/unlock",
    "/api/v1/rekey",
];

/// Answers one request. A client that has gone away is its own affair.
pub(super) fn answer(request: Request, daemon: &Arc<dyn Daemon>, readers: &Arc<Readers>) {
    let mut request = request;
    let target = match Target::parse(request.url()) {
        Ok(target) => target,
        Err(refusal) => {
            let _ = request.respond(response(Err(refusal), Format::Tsv));
            return;
        }
    };
    let format = target.format;
    if target.path == "/api/v1/log" {
        if let Err(refused) = log::answer(request, target, daemon, readers) {
            let (request, refusal) = *refused;
            let _ = request.respond(response(Err(refusal), format));
        }
        return;
    }
    let result = route(&mut request, target, &**daemon);
    let _ = request.respond(response(result, format));
}

fn route(request: &mut Request, target: Target, daemon: &dyn Daemon) -> Result<Body, Refusal> {
    let mut target = target;
    let path = target.path.clone();
    match path.as_str() {
        "/api/v1/unlock" | "/api/v1/rekey" | "/api/v1/retry" | "/api/v1/reload" => {
            may_change(request)?;
            change(request, &mut target, daemon)
        }
        _ if !matches!(request.method(), Method::Get | Method::Head) => Err(Refusal::new(
            405,
            format!("{path} only tells something: use GET"),
        )),
        "/" => {
            target.finish(&[])?;
            Ok(Body::new("text/html; charset=utf-8", page::PAGE.to_owned()))
        }
        "/healthz" => health(daemon),
        "/metrics" => metrics(daemon),
        "/api/v1/status" => status(&target, daemon),
        "/api/v1/shards" => shards(&target, daemon),
        "/api/v1/counters" => counters(&mut target, daemon),
        "/api/v1/destinations" => destinations(&mut target, daemon),
        "/api/v1/queue" => queue(&mut target, daemon),
        "/api/v1/why" => why(&mut target, daemon),
        _ => Err(Refusal::new(
            404,
            format!("no such path; there are: {}", PATHS.join(" ")),
        )),
    }
}

fn change(
    request: &mut Request,
    target: &mut Target,
    daemon: &dyn Daemon,
) -> Result<Body, Refusal> {
    let format = target.format;
    let mut table = Table::new(&["result"]);
    match target.path.as_str() {
        "/api/v1/unlock" => {
            target.finish(&[])?;
            if daemon.state() != State::Locked {
                return Err(Refusal::new(409, "the daemon is unlocked already"));
            }
            let passphrase = secret_body(request, PASSPHRASE_BYTES_MAX)?;
            daemon.unlock(passphrase)?;
            daemon.note("unlocked through the control socket");
            table.push(vec!["unlocked".into()]);
        }
        "/api/v1/rekey" => {
            target.finish(&[])?;
            must_run(daemon)?;
            let passphrase = secret_body(request, PASSPHRASE_BYTES_MAX)?;
            let id = daemon.rekey(passphrase)?;
            daemon.note(&format!("new segments are under key {id} from now on"));
            table.push(vec![format!("new segments are under key {id}").into()]);
        }
        "/api/v1/reload" => {
            target.finish(&[])?;
            let notes = daemon.reload()?;
            daemon.note("configuration reloaded through the control socket");
            table.push(vec!["reloaded".into()]);
            for note in notes {
                table.push(vec![note.into()]);
            }
        }
        _ => {
            let domain = target
                .take("domain")
                .map(|domain| domain.to_ascii_lowercase());
            target.finish(&["domain"])?;
            let mut retried = 0;
            for (_, answer) in ask_all(
                daemon,
                &Query::Retry {
                    domain: domain.clone(),
                },
            )? {
                if let Answer::Retried(n) = answer {
                    retried += n;
                }
            }
            let whose = domain.as_deref().unwrap_or("every domain");
            daemon.note(&format!(
                "{retried} deferred of {whose} made ready by an operator"
            ));
            let mut table = Table::new(&["retried"]);
            table.push(vec![retried.into()]);
            return Ok(table.write(format));
        }
    }
    Ok(table.write(format))
}

fn must_run(daemon: &dyn Daemon) -> Result<(), Refusal> {
    match daemon.state() {
        State::Locked => Err(Refusal::new(
            503,
            "the daemon is locked; run: hikyaku unlock",
        )),
        State::Running | State::Stopping => Ok(()),
    }
}

/// Asks every shard. An answer without one of them would be wrong without saying so, so it is an
/// error.
fn ask_all(daemon: &dyn Daemon, query: &Query) -> Result<Vec<(ShardId, Answer)>, Refusal> {
    must_run(daemon)?;
    (0..daemon.shards())
        .map(ShardId)
        .map(|shard| match daemon.ask(shard, query.clone()) {
            Ok(answer) => Ok((shard, answer)),
            Err(error) => {
                let status = if error == AskError::TimedOut {
                    504
                } else {
                    503
                };
                Err(Refusal::new(status, format!("shard {} {error}", shard.0)))
            }
        })
        .collect()
}

pub(super) fn unix_now() -> UnixMs {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMs(since.as_millis() as u64)
}

fn time(at: UnixMs) -> Cell {
    Cell::Text(utc::text(at).map(char::from).iter().collect())
}

fn statuses(daemon: &dyn Daemon) -> Result<Vec<ShardStatus>, Refusal> {
    let answers = ask_all(daemon, &Query::Status)?;
    let status = |answer| match answer {
        (_, Answer::Status(status)) => Some(*status),
        _ => None,
    };
    Ok(answers.into_iter().filter_map(status).collect())
}

fn disk_free_bytes(daemon: &dyn Daemon) -> u64 {
    rustix::fs::statvfs(daemon.data_dir()).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
}

fn status(target: &Target, daemon: &dyn Daemon) -> Result<Body, Refusal> {
    target.finish(&["format"])?;
    let shards = match daemon.state() {
        State::Locked => Vec::new(),
        State::Running | State::Stopping => statuses(daemon)?,
    };
    let sum = |value: fn(&ShardStatus) -> u64| shards.iter().map(value).sum::<u64>();
    let overload = shards
        .iter()
        .map(|shard| shard.overload)
        .find(|reason| !reason.is_empty());
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
        "delivered",
        "failed",
        "expired",
        "destinations",
        "connections",
        "memory_bytes",
        "segments",
        "disk_free_bytes",
        "refusing",
    ]);
    table.push(vec![
        daemon.state().as_str().into(),
        daemon.hostname().into(),
        env!("CARGO_PKG_VERSION").into(),
        u64::from(std::process::id()).into(),
        time(started),
        (unix_now().0.saturating_sub(started.0) / 1000).into(),
        u64::from(daemon.shards()).into(),
        replaying.into(),
        sum(|shard| shard.queued).into(),
        sum(|shard| shard.deferred).into(),
        sum(|shard| shard.delivering).into(),
        sum(|shard| shard.delivered).into(),
        sum(|shard| shard.failed).into(),
        sum(|shard| shard.expired).into(),
        sum(|shard| shard.destinations).into(),
        sum(|shard| shard.connections).into(),
        sum(|shard| shard.memory_bytes).into(),
        sum(|shard| shard.segments).into(),
        disk_free_bytes(daemon).into(),
        overload.unwrap_or_default().into(),
    ]);
    Ok(table.write(target.format))
}

fn shards(target: &Target, daemon: &dyn Daemon) -> Result<Body, Refusal> {
    target.finish(&["format"])?;
    let mut table = Table::new(&[
        "shard",
        "state",
        "queued",
        "deferred",
        "delivering",
        "destinations",
        "connections",
        "memory_bytes",
        "waiting_bytes",
        "segments",
        "log_dropped_lines",
        "refusing",
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
            shard.destinations.into(),
            shard.connections.into(),
            shard.memory_bytes.into(),
            shard.waiting_bytes.into(),
            shard.segments.into(),
            shard.log_dropped_lines.into(),
            shard.overload.into(),
        ]);
    }
    Ok(table.write(target.format))
}

fn counter_table(daemon: &dyn Daemon, by: By, window: Window) -> Result<CounterTable, Refusal> {
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

fn counters(target: &mut Target, daemon: &dyn Daemon) -> Result<Body, Refusal> {
    let by = target
        .take("by")
        .unwrap_or_else(|| By::Total.as_str().to_owned());
    let window = target
        .take("window")
        .unwrap_or_else(|| Window::All.as_str().to_owned());
    target.finish(&["by", "window", "format"])?;
    let by = By::from_name(&by)
        .ok_or_else(|| Refusal::new(400, format!("by `{by}` must be total, domain or group")))?;
    let window = Window::from_name(&window).ok_or_else(|| {
        Refusal::new(
            400,
            format!("window `{window}` must be all, hours or minutes"),
        )
    })?;
    let table = counter_table(daemon, by, window)?;
    Ok(match target.format {
        Format::Tsv => Body::new(super::answer::TSV, table.tsv()),
        Format::Json => Body::new(super::answer::JSON, table.json()),
    })
}

const DESTINATION_COLUMNS: [&str; 7] = [
    "domain",
    "site",
    "ready",
    "deferred",
    "busy",
    "connections",
    "binding",
];

/// What a destination's mail waits for, in words; what binds ready mail says nothing of the rest.
fn destination_binding(row: &DestinationView) -> String {
    match (&row.binding, row.ready, row.deferred, row.busy) {
        (Binding::None, 0, 0, 0) => "nothing is queued".to_owned(),
        (Binding::None, 0, 0, _) => Binding::Delivering.to_string(),
        (Binding::None, 0, deferred, _) => format!(
            "{deferred} deferred, waiting for the next attempt; when: hikyaku queue --domain {}",
            row.domain
        ),
        (binding, ..) => binding.to_string(),
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
        ]);
    }
    table
}

fn destinations(target: &mut Target, daemon: &dyn Daemon) -> Result<Body, Refusal> {
    let rows_max = target.take_limit(100, ROWS_MAX)?;
    target.finish(&["limit", "format"])?;
    let mut rows = Vec::new();
    for (_, answer) in ask_all(daemon, &Query::Destinations { rows_max })? {
        if let Answer::Destinations(found) = answer {
            rows.extend(found);
        }
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.ready + row.deferred + row.busy));
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
    ]);
    for row in rows {
        table.push(vec![
            row.queue_id.to_string().into(),
            time(UnixMs(row.queue_id.accepted_ms())),
            row.domain.into(),
            row.recipients.into(),
            row.attempts.into(),
            row.binding.to_string().into(),
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

fn queue(target: &mut Target, daemon: &dyn Daemon) -> Result<Body, Refusal> {
    let domain = target
        .take("domain")
        .map(|domain| domain.to_ascii_lowercase());
    let rows_max = target.take_limit(100, ROWS_MAX)?;
    target.finish(&["domain", "limit", "format"])?;
    let mut rows = messages(daemon, &Query::Search { domain, rows_max })?;
    rows.truncate(rows_max);
    Ok(message_table(rows).write(target.format))
}

fn why(target: &mut Target, daemon: &dyn Daemon) -> Result<Body, Refusal> {
    let domain = target.take("domain");
    let queue_id = target.take("queue_id");
    target.finish(&["domain", "queue_id", "format"])?;
    match (domain, queue_id) {
        (Some(domain), None) => {
            let domain = domain.to_ascii_lowercase();
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

fn health(daemon: &dyn Daemon) -> Result<Body, Refusal> {
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

fn metrics(daemon: &dyn Daemon) -> Result<Body, Refusal> {
    use std::fmt::Write as _;
    let mut out = String::new();
    let running = daemon.state() != State::Locked;
    let _ = writeln!(
        out,
        "# TYPE hikyaku_unlocked gauge\nhikyaku_unlocked {}",
        u8::from(running)
    );
    if running {
        counter_table(daemon, By::Total, Window::All)?.openmetrics(&mut out);
        let shards = statuses(daemon)?;
        type Gauge = (&'static str, fn(&ShardStatus) -> u64);
        let gauges: [Gauge; 5] = [
            ("hikyaku_shard_queued", |shard| shard.queued),
            ("hikyaku_shard_connections", |shard| shard.connections),
            ("hikyaku_shard_memory_bytes", |shard| shard.memory_bytes),
            ("hikyaku_shard_segments", |shard| shard.segments),
            ("hikyaku_shard_refusing", |shard| {
                u64::from(!shard.overload.is_empty())
            }),
        ];
        for (name, value) in gauges {
            let _ = writeln!(out, "# TYPE {name} gauge");
            for shard in &shards {
                let _ = writeln!(
                    out,
                    "{name}{{shard=\"{}\"}} {}",
                    shard.shard.0,
                    value(shard)
                );
            }
        }
        let _ = writeln!(out, "# TYPE hikyaku_disk_free_bytes gauge");
        let _ = writeln!(out, "hikyaku_disk_free_bytes {}", disk_free_bytes(daemon));
    }
    out.push_str("# EOF\n");
    let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(Body::new(openmetrics, out))
}
