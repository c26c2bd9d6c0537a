//! Messages from templates and merge data.
//!
//! A template is a folder (`template.toml`, `text`, `html`, files); [`Template::load`] compiles it from
//! its files' bytes, [`check()`] also tries it out, and [`Template::compose`] makes one message of it: a
//! pure function of template version, data, recipient, time and id, so that a campaign can be queued as
//! one template and one list and still be the same bytes on each retry.
//!
//! The way of a message: `message.rs` renders headers and parts (`template.rs`, `filters.rs`), chooses
//! the way of writing by the recipient's provider (`profile.rs`), and writes header fields (`words.rs`,
//! `mailbox.rs`) and parts (`charset.rs` and `emoji/` for characters, `transfer.rs` for the transfer
//! encoding, `blob.rs` for files and the MIME tree, `html.rs` for text made from HTML and Decomail).
//! Faults: `fault.rs`. Lists of recipients: `list.rs`. Bounds: `limits.rs`.
//!
//! Not here: reading folders (tools), sending (API and queue), DKIM.

mod blob;
mod check;
mod data;
mod fault;
mod filters;
mod hash;
mod load;
mod manifest;
mod message;
mod scan;
mod substitute;
mod template;

pub mod charset;
pub mod emoji;
pub mod html;
pub mod limits;
pub mod list;
pub mod mailbox;
pub mod profile;
pub mod transfer;
pub mod words;

pub use check::check;
pub use data::{Columns, Data};
pub use fault::{ComposeError, Fault};
pub use mailbox::{LocalStyle, Mailbox, MailboxError};
pub use message::{Composed, Job, Scratch};
pub use minijinja::Value;
pub use profile::Carrier;
pub use template::{Choice, Files, Template};
