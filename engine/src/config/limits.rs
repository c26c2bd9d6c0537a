//! `[limits]`: what clients, memory and disk may take.

use super::reader::Reader;
use super::{D, H, KIB, MIB, S, TIB};
use crate::limits::{MESSAGE_BYTES_MAX, RECIPIENTS_MAX};
use crate::smtp::dot::NulOctets;
use crate::smtp::server::ServerSettings;

/// `[limits]`: what clients and memory may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Content of one message, bytes; announced with SIZE.
    pub message_bytes_max: u64,
    /// Recipients of one transaction.
    pub recipients_max: u32,
    /// Received headers before a message is taken for looping.
    pub hops_max: u32,
    /// Longest line of content, CRLF not counted, bytes.
    pub content_line_bytes_max: u64,
    /// What a NUL octet in content leads to.
    pub nul_octets: NulOctets,
    /// SMTP sessions in, in all.
    pub sessions_max: u32,
    /// SMTP sessions in from one client address.
    pub sessions_per_client_max: u32,
    /// Refused commands before a session is closed with 421.
    pub errors_per_session_max: u32,
    /// Messages of one session before it is closed with 421.
    pub messages_per_session_max: u32,
    /// Wait between transactions, ms.
    pub idle_timeout_ms: u64,
    /// Wait for a whole command within a transaction, ms.
    pub command_timeout_ms: u64,
    /// Wait for more content, ms.
    pub data_timeout_ms: u64,
    /// From 354 to the end of content, ms.
    pub message_time_ms_max: u64,
    /// Content held in memory, in all shards, bytes.
    pub memory_bytes_max: u64,
    /// Part of it that may keep accepted content for its first delivery, bytes.
    pub content_cache_bytes_max: u64,
    /// Free space that is never used, bytes.
    pub disk_reserve_bytes: u64,
    /// Messages in the queue, in all shards.
    pub queued_messages_max: u64,
}

pub(super) fn read(r: &mut Reader<'_, '_>) -> Limits {
    let machine = ServerSettings::default();
    let limits = Limits {
        message_bytes_max: r.bytes(
            "message_bytes_max",
            machine.size_max_bytes,
            64 * KIB..=MESSAGE_BYTES_MAX,
        ),
        recipients_max: r.number(
            "recipients_max",
            machine.recipients_max as u32,
            100..=RECIPIENTS_MAX,
        ),
        hops_max: r.number("hops_max", machine.hops_max, 1..=1_000),
        content_line_bytes_max: r.bytes(
            "content_line_bytes_max",
            machine.content_line_bytes_max as u64,
            998..=MESSAGE_BYTES_MAX,
        ),
        nul_octets: r.word(
            "nul_octets",
            &[("refuse", NulOctets::Refuse), ("pass", NulOctets::Pass)],
        ),
        sessions_max: r.at_start("sessions_max", |r, key| {
            r.number(key, 10_000, 1..=1_000_000)
        }),
        sessions_per_client_max: r.at_start("sessions_per_client_max", |r, key| {
            r.number(key, 1_000, 1..=1_000_000)
        }),
        errors_per_session_max: r.number(
            "errors_per_session_max",
            machine.errors_max,
            1..=1_000_000,
        ),
        messages_per_session_max: r.number(
            "messages_per_session_max",
            machine.messages_per_session_max,
            1..=1_000_000_000,
        ),
        idle_timeout_ms: r.duration_ms("idle_timeout", machine.idle_ms_max, S..=H),
        command_timeout_ms: r.duration_ms("command_timeout", machine.command_ms_max, S..=H),
        data_timeout_ms: r.duration_ms("data_timeout", machine.data_idle_ms_max, S..=H),
        message_time_ms_max: r.duration_ms("message_time_max", machine.data_ms_max, 10 * S..=D),
        memory_bytes_max: r.at_start("memory_bytes_max", |r, key| {
            r.bytes(key, 256 * MIB, 8 * MIB..=TIB)
        }),
        content_cache_bytes_max: r.bytes("content_cache_bytes_max", 64 * MIB, 0..=TIB),
        disk_reserve_bytes: r.bytes("disk_reserve_bytes", 256 * MIB, 0..=TIB),
        queued_messages_max: r.number("queued_messages_max", 10_000_000, 1..=4_000_000_000),
    };
    if limits.content_cache_bytes_max > limits.memory_bytes_max {
        let hint = "lower it, or raise `memory_bytes_max`".to_owned();
        let message =
            "`content_cache_bytes_max` is more than `memory_bytes_max`, which it is part of";
        r.fault("content_cache_bytes_max", message, Some(hint));
    }
    if limits.message_bytes_max > limits.memory_bytes_max {
        let hint = "lower it, or raise `memory_bytes_max`".to_owned();
        let message = "`message_bytes_max` is more than `memory_bytes_max`: such a message could \
                       not be accepted";
        r.fault("message_bytes_max", message, Some(hint));
    }
    limits
}
