//! What may be sent now, and why the rest may not.
//!
//! `binding` names what mail may wait for. `index` holds an entry for every queued message, `wheel` those that wait for a time, `retry` says
//! how long they wait, `destination` what a recipient domain's mail waits for, `lookups` for which DNS answer. The connections that
//! take the mail are `pool`'s; `shard` joins the two.

mod binding;
pub mod destination;
pub mod index;
pub mod lookups;
pub(crate) mod mail;
pub mod retry;
pub mod steady;
pub mod wheel;

pub use binding::Binding;
