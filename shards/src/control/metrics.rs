//! `/metrics`: counters of all mail and levels of each shard, as OpenMetrics.

use engine::counters::{By, Counter, Window};
use engine::shard::ShardStatus;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use super::answer::Body;
use super::paths::Asked;
use super::view::{counter_table, disk_free_bytes, statuses};
use super::{Daemon, Refusal, State};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Name, meaning, and where it is read.
type Level = (&'static str, &'static str, fn(&ShardStatus) -> u64);

const LEVELS: [Level; 6] = [
    ("shard_queued", "Recipients not delivered to yet", |shard| {
        shard.queued
    }),
    (
        "shard_queued_messages",
        "Queue entries, one a message and recipient domain",
        |shard| shard.queued_messages,
    ),
    ("shard_connections", "Connections out", |shard| {
        shard.connections
    }),
    ("shard_memory_bytes", "Content in memory", |shard| {
        shard.memory_bytes
    }),
    ("shard_segments", "Segment files in use", |shard| {
        shard.segments
    }),
    (
        "shard_refusing",
        "1 while no mail is accepted for want of memory, disk or room in the queue",
        |shard| u64::from(!shard.overload.is_empty()),
    ),
];

pub(super) fn metrics(asked: &mut Asked<'_>) -> Result<Body, Refusal> {
    let daemon = asked.daemon;
    let mut registry = Registry::with_prefix("hikyaku");
    let is_running = daemon.state() != State::Locked;
    let unlocked = ConstGauge::new(i64::from(is_running));
    registry.register("unlocked", "1 once the key is there", unlocked);
    if is_running {
        counters(daemon, &mut registry)?;
        levels(&statuses(daemon)?, &mut registry);
        registry.register(
            "disk_free_bytes",
            "Free space on the file system of data_dir",
            ConstGauge::new(signed(disk_free_bytes(daemon))),
        );
    }
    let mut out = String::new();
    encode(&mut out, &registry)
        .map_err(|_| Refusal::new(500, "the metrics could not be written"))?;
    Ok(Body::new(OPENMETRICS, out))
}

fn counters(daemon: &dyn Daemon, registry: &mut Registry) -> Result<(), Refusal> {
    let table = counter_table(daemon, By::Total, Window::All)?;
    let Some(values) = table.newest() else {
        return Ok(());
    };
    for (counter, value) in Counter::ALL.iter().zip(values) {
        let (name, help) = (counter.as_str(), "Recipients; see docs/operations.md");
        if counter.is_level() {
            registry.register(name, help, ConstGauge::new(signed(*value)));
        } else {
            registry.register(name, help, ConstCounter::new(*value));
        }
    }
    Ok(())
}

fn levels(shards: &[ShardStatus], registry: &mut Registry) {
    for (name, help, value) in LEVELS {
        let family = Family::<[(&'static str, String); 1], Gauge>::default();
        for shard in shards {
            let labels = [("shard", shard.shard.0.to_string())];
            family.get_or_create(&labels).set(signed(value(shard)));
        }
        registry.register(name, help, family);
    }
}

/// Gauges are signed there.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
