//! SMTP (RFC 5321): server and client dialogs as state machines.
//!
//! [`server`] takes mail in, [`client`] sends it on; both are fed bytes and [`crate::clock::Now`]
//! and hand out bytes and events, in the manner of quinn-proto. Beneath them: [`command`] reads
//! command lines, [`reply`] reads replies, [`dot`] knows where content ends and how dots are
//! stuffed, [`received`] writes the trace field. TLS and authentication are not here.

pub mod client;
pub mod command;
pub mod dot;
pub mod received;
pub mod reply;
pub mod server;
