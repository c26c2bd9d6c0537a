//! From the configuration's words to what each room of the relay is told.
//!
//! With [`crate::config`] the top of the house: both know the rooms, no room knows them. What the
//! runtime alone is told (its resolver, its timeouts of connecting) it takes from the configuration
//! itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::config::Config;
use crate::dns::{DnsPolicy, OwnNames};
use crate::message::header::WatchedHeaders;
use crate::policy::{self, Policy, ReplyRules};
use crate::route::RouteTable;
use crate::shard::{ENTRIES_PER_TURN_MAX, QUESTIONS_MAX, Settings};
use crate::smtp::client::{ClientSettings, ClientTimeouts};
use crate::smtp::server::ServerSettings;

/// First wait after no target of a site would have us, and the longest, milliseconds.
const SITE_BACKOFF_MS: (u64, u64) = (30_000, 1_800_000);

/// What one of `shards` shards is told. `host_addresses`: this host's own, as far as they are known.
pub fn shard(
    config: &Config,
    shards: u16,
    rules: &Arc<ReplyRules>,
    host_addresses: &[IpAddr],
) -> Settings {
    let each = u64::from(shards.max(1));
    let delivery = &config.delivery;
    let mut routes = RouteTable::default();
    for route in &config.routes {
        routes.push(route.domain.clone(), route.to.clone());
    }
    Settings {
        hostname: config.server.hostname.as_str().into(),
        own: own_names(config, host_addresses),
        routes,
        policy: Arc::new(policy(config)),
        dns_policy: DnsPolicy {
            mx_port: delivery.port,
            mx_hosts_max: delivery.mx_hosts_max as usize,
            family: delivery.ip_family,
            allowed: delivery.allow_addresses.clone(),
        },
        recipients_per_message_max: delivery.recipients_per_message as u16,
        site_backoff_ms: SITE_BACKOFF_MS,
        source_addresses: delivery.source_addresses.clone(),
        dsn: delivery.dsn,
        dsn_return: delivery.dsn_return,
        content_bytes_max: (config.limits.memory_bytes_max / each) as usize,
        memory_bytes_max: (config.limits.content_cache_bytes_max / each) as usize,
        queued_entries_max: (config.limits.queued_messages_max / each) as usize,
        disk_reserve_bytes: config.limits.disk_reserve_bytes,
        entries_per_turn_max: ENTRIES_PER_TURN_MAX,
        outcome_sync_ms_max: config.queue.outcome_commit_ms_max,
        dns_entries_max: config.dns.cache_entries_max as usize,
        dns_ttl_s_max: (
            seconds(config.dns.ttl_ms_max),
            seconds(config.dns.negative_ttl_ms_max),
        ),
        questions_max: (config.dns.queries_max as usize).min(QUESTIONS_MAX),
        segment_bytes: config.queue.segment_bytes as u32,
        log_segment_bytes: config.log.rotate_bytes as u32,
        log_rotate_ms: config.log.rotate_every_ms,
        counter_domains_max: config.counters.domains_max,
        counter_groups_max: config.counters.groups_max,
        counter_save_ms: config.counters.save_every_ms,
        rules: Arc::clone(rules),
    }
}

/// Sending policy: `[delivery]`, the shipped table, the operator's rows.
pub fn policy(config: &Config) -> Policy {
    let shipped = if config.policy.shipped {
        policy::shipped()
    } else {
        Vec::new()
    };
    Policy::new(
        config.delivery.policy.clone(),
        shipped,
        config.policy_rows.clone(),
    )
}

/// Reply rules: the operator's, then the shipped ones.
///
/// # Errors
/// Every fault of the operator's, one a line.
pub fn reply_rules(config: &Config, policy: &Policy) -> Result<ReplyRules, Vec<String>> {
    let file = config.policy.rules.as_ref();
    let name = file.map_or_else(String::new, |file| file.display().to_string());
    let providers: Vec<&str> = policy.providers().collect();
    ReplyRules::with_overrides(&name, &config.policy_rules, &providers)
        .map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

/// What is odd in a configuration and its policy, or has no effect, as sentences for the operator.
pub fn warnings(config: &Config) -> Vec<String> {
    let findings = policy::check(&policy(config));
    let mut warnings = config.warnings();
    warnings.extend(findings.iter().map(ToString::to_string));
    warnings
}

fn seconds(ms: u64) -> u32 {
    u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX)
}

/// Our name and the addresses we listen on; a wildcard stands for every address of this host.
fn own_names(config: &Config, host_addresses: &[IpAddr]) -> OwnNames {
    let mut listening = Vec::new();
    for listen in &config.listen {
        if listen.address.ip().is_unspecified() {
            let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            let addresses = host_addresses.iter().copied().chain(loopback);
            listening.extend(addresses.map(|ip| SocketAddr::new(ip, listen.address.port())));
        } else {
            listening.push(listen.address);
        }
    }
    OwnNames {
        hostname: config.server.hostname.to_ascii_lowercase().into(),
        listening,
    }
}

/// How SMTP sessions in behave.
pub fn server(config: &Config) -> ServerSettings {
    let limits = &config.limits;
    ServerSettings {
        hostname: config.server.hostname.as_str().into(),
        size_max_bytes: limits.message_bytes_max,
        recipients_max: limits.recipients_max as usize,
        errors_max: limits.errors_per_session_max,
        hops_max: limits.hops_max,
        content_line_bytes_max: limits.content_line_bytes_max as usize,
        nul_octets: limits.nul_octets,
        messages_per_session_max: limits.messages_per_session_max,
        add_date: config.server.add_date,
        add_message_id: config.server.add_message_id,
        watched: WatchedHeaders {
            group: Some(config.server.group_header.as_str().into()),
            tags: config
                .server
                .tag_headers
                .iter()
                .map(|name| name.as_str().into())
                .collect(),
            strip: config.server.strip_headers,
        },
        idle_ms_max: limits.idle_timeout_ms,
        data_idle_ms_max: limits.data_timeout_ms,
        command_ms_max: limits.command_timeout_ms,
        data_ms_max: limits.message_time_ms_max,
        ..ServerSettings::default()
    }
}

/// How a dialog with a server goes; `[delivery] connect_timeout` is not part of it.
pub fn client(config: &Config) -> ClientSettings {
    let timeouts = &config.delivery.timeouts;
    ClientSettings {
        helo_name: config.server.hostname.as_str().into(),
        pipelining: true,
        timeouts: ClientTimeouts {
            greeting_ms: timeouts.greeting_ms,
            ehlo_ms: timeouts.ehlo_ms,
            mail_ms: timeouts.mail_ms,
            rcpt_ms: timeouts.rcpt_ms,
            data_ms: timeouts.data_ms,
            data_block_ms: timeouts.data_block_ms,
            end_of_data_ms: timeouts.end_of_data_ms,
            quit_ms: timeouts.quit_ms,
        },
    }
}
