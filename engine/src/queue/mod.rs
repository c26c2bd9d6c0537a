//! The durable queue: encrypted records in segments.
