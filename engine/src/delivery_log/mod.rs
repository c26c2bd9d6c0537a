//! The delivery log: one record per recipient and attempt, from which every second of it can be
//! told.
//!
//! [`record`] is what a line says and how it is packed; [`batch`] packs records together into what
//! one encrypted segment record holds; [`rotation`] says when a segment is sealed and which are
//! deleted; [`text`] writes TSV and JSON lines; [`filter`] picks records. Writing segments, and
//! reading them back, is `queue::segment`'s and the daemon's part: the log is one more stream of
//! sealed segments.

pub mod batch;
pub mod filter;
pub mod record;
pub mod rotation;
pub mod text;
pub mod utc;

pub use batch::{LogBatch, LogBatchHeader, read_batch};
pub use filter::LogFilter;
pub use record::{LogDecodeError, LogRecord};
pub use rotation::{LogRotation, SealedLog, expired_segments};
pub use text::{COLUMNS, write_json_line, write_tsv_header, write_tsv_line};

#[cfg(test)]
mod tests;
