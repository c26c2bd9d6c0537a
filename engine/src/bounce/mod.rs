//! Who failed and why, from returned mail and SMTP replies.
//!
//! - [`Classifier`] (`classifier.rs`) says why: from a reply code, a status and a text to a
//!   [`Reason`] and a [`Verdict`] (`reason.rs`). Delivery asks it on every failure.
//! - What it knows stands in `rules.tsv` and `providers.tsv`, read by `rules.rs`.

mod classifier;
mod normal;
mod reason;
mod rules;

pub use classifier::{Classifier, Decision, Evidence, RuleRef};
pub use normal::TEXT_BYTES_MAX;
pub use reason::{Group, Reason, Verdict};
pub use rules::RuleFault;
