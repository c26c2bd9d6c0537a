//! Who failed and why, from returned mail and SMTP replies.
//!
//! - [`Classifier`] (`classifier.rs`) says why: from a reply code, a status and a text to a
//!   [`Reason`] and a [`Verdict`] (`reason.rs`). Delivery asks it on every failure. What it knows
//!   stands in `rules.tsv` and `providers.tsv`, read by `rules.rs`.
//! - [`Reader`] (`read.rs`) reads returned mail to a [`Report`] (`report.rs`), in this order:
//!   `mime.rs` takes it apart within bounds, `returned.rs` finds where the notice ends, and
//!   `reading.rs` reads it: `dsn.rs` and `events.rs` the fields where there are any, `kind.rs` tells
//!   bounces from other mail, `notice.rs` finds whom a notice could not reach, `why.rs` asks why,
//!   `original.rs` reads what is left of our message. The words they go by stand in `signals.tsv`.
//!
//! Left out: what follows from an answer (error addresses, suppression), and how a returned message
//! came in.

mod classifier;
mod dsn;
mod events;
mod kind;
mod mime;
mod normal;
mod notice;
mod original;
mod read;
mod reading;
mod reason;
mod report;
mod returned;
mod rules;
mod scan;
mod signals;
mod why;

pub use classifier::{Classifier, Decision, Evidence, RuleRef};
pub use mime::{READ_BYTES_MAX, READ_LINES_MAX, READ_PARTS_MAX};
pub use normal::TEXT_BYTES_MAX;
pub use read::Reader;
pub use reason::{Group, Reason, Verdict};
pub use report::{Action, Decided, Failure, Original, Report};
pub use rules::RuleFault;
