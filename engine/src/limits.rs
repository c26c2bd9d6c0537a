//! Bounds that hold whatever the configuration says, and how they relate.
//!
//! What an operator may choose is in [`crate::config`], within these. A bound that only one module knows
//! stays in that module.

/// Shards of one daemon: queue ids have 8 bits for the shard that accepted.
pub const SHARDS_MAX: u16 = 256;

/// Content of one message, bytes.
pub const MESSAGE_BYTES_MAX: u64 = 1 << 30;

/// Recipients of one transaction. RFC 5321 §4.5.3.1.8 asks for at least 100.
pub const RECIPIENTS_MAX: u32 = 50_000;

/// One line of content, bytes with its CRLF. RFC 5321 §4.5.3.1.6 asks for at least 1000.
pub const TEXT_LINE_BYTES_MAX: u64 = 16 << 20;

/// One segment file, bytes; offsets in it are 32 bits wide.
pub const SEGMENT_BYTES_MAX: u64 = 2 << 30;

/// Smallest segment that makes sense: some hundred direct writes.
pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;

/// What a message's record may hold beside the content (envelope, header), bytes: the longest paths
/// (RFC 5321 §4.5.3.1.3) of the most recipients, with room.
pub const ENVELOPE_BYTES_MAX: u64 = RECIPIENTS_MAX as u64 * 320 + (64 << 10);

/// Retries that a schedule may list; its last entry repeats.
pub const RETRY_STEPS_MAX: usize = 64;

/// Tag headers that go into the delivery log.
pub const TAG_HEADERS_MAX: usize = 16;

/// Listening addresses.
pub const LISTENERS_MAX: usize = 64;

/// Routes.
pub const ROUTES_MAX: usize = 10_000;

const _: () = {
    assert!(MESSAGE_BYTES_MAX + ENVELOPE_BYTES_MAX < SEGMENT_BYTES_MAX);
    assert!(SEGMENT_BYTES_MAX <= u32::MAX as u64);
    assert!(SEGMENT_BYTES_MIN <= SEGMENT_BYTES_MAX);
    assert!(TEXT_LINE_BYTES_MAX <= MESSAGE_BYTES_MAX);
    assert!(RECIPIENTS_MAX >= 100);
};
