//! Bounds that hold whatever the configuration says, and how they relate.
//!
//! What an operator may choose lies within these. A bound that only one module
//! knows stays in that module.

use crate::message::header;
use crate::queue::{record, segment};

/// Shards of one daemon: queue ids have 8 bits for the shard that accepted.
pub const SHARDS_MAX: u16 = 256;

/// Content of one message as a client sends it, bytes. The queue takes 1 MiB more, for the headers
/// we add.
pub const MESSAGE_BYTES_MAX: u64 = 47 << 20;

/// Recipients of one transaction. RFC 5321 §4.5.3.1.8 asks for at least 100.
pub const RECIPIENTS_MAX: u32 = 10_000;

/// Recipients of one transaction of ours: what any server takes (RFC 5321 §4.5.3.1.8).
pub const RECIPIENTS_PER_TRANSACTION_MAX: u32 = 100;

/// One segment file, bytes.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Smallest segment that may be configured: some hundred direct writes.
pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;

/// Retries that a schedule may list; its last entry repeats.
pub const RETRY_STEPS_MAX: usize = 64;

/// Tag headers that go into the delivery log.
pub const TAG_HEADERS_MAX: usize = 16;

/// Name of a group or tag header, octets.
pub const HEADER_NAME_BYTES_MAX: usize = 77;

/// Listening addresses.
pub const LISTENERS_MAX: usize = 64;

/// Routes.
pub const ROUTES_MAX: usize = 10_000;

const _: () = {
    assert!(MESSAGE_BYTES_MAX + (1 << 20) <= record::message::CONTENT_BYTES_MAX as u64);
    assert!(RECIPIENTS_MAX as usize <= record::message::RECIPIENTS_MAX);
    assert!(SEGMENT_BYTES_MAX <= segment::SEGMENT_BYTES_MAX as u64);
    assert!(SEGMENT_BYTES_MIN >= segment::SEGMENT_BYTES_MIN as u64);
    assert!(SEGMENT_BYTES_MAX > record::RECORD_BYTES_MAX as u64);
    assert!(RECIPIENTS_MAX >= 100);
    // What a header section may give us goes into a record, or the mail would be refused for ever: tags
    // as `name=value` lines.
    let tag_bytes_max = HEADER_NAME_BYTES_MAX + 1 + header::VALUE_BYTES_MAX + 1;
    assert!(header::TAGS_MAX * tag_bytes_max <= record::message::TAGS_BYTES_MAX);
    assert!(header::VALUE_BYTES_MAX <= record::message::GROUP_BYTES_MAX);
    assert!(header::VALUE_BYTES_MAX <= record::message::MESSAGE_ID_BYTES_MAX);
};
