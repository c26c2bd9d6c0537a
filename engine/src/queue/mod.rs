//! The durable queue: encrypted records in segments.
//!
//! Read in this order:
//! - [`record`]: what one record says (a message, an outcome, …) and its bytes;
//! - [`cipher`]: how a record is encrypted and authenticated at its place;
//! - [`segment`]: a file's header, and the writer that gathers records into batches;
//! - [`replay`]: reading a segment back after a restart, torn tails and damage told apart;
//! - [`survivors`]: which copy of a message counts, and which note is about which message;
//! - [`chain`]: which segments should be there;
//! - [`set`]: which segment to compact or remove next, as accounting over all of them.
//!
//! No file is opened here: batches go out as bytes with their place, chunks come in as bytes.
//! `docs/segment-format.md` draws the bytes and lists what is assumed of the disk.

pub mod chain;
pub mod cipher;
pub mod record;
pub mod replay;
pub mod segment;
pub mod set;
pub mod survivors;
