//! The content of a message: what the relay reads from its header section and adds to it.
//!
//! [`header`] walks the header section once, as it comes in. [`date`] writes RFC 5322 dates.
//! [`downgrade`](mod@downgrade) makes 8-bit content fit for a server without 8BITMIME. Bodies are
//! otherwise never looked at; composing messages is [`crate::compose`], notifications are
//! [`crate::dsn`].

pub mod date;
pub mod downgrade;
mod encoded_word;
pub mod header;

pub use downgrade::{DowngradeError, downgrade};
