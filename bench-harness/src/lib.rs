//! The load harness of Hikyaku: everything a relay meets, on loopback and from one seed.
//!
//! - [`inject`] speaks the client side of SMTP and remembers what each message was answered;
//! - [`fleet`] is many MX hosts that misbehave on request and count every message they get;
//! - [`dns`] answers for their domains;
//! - [`daemon`] starts, measures, kills and stops `hikyakud`;
//! - [`adapt`] tries the engine's adaptive pace in simulated time;
//! - [`run`] puts them together: demo, bench, peers, crash, queue of a million.
//!
//! A message carries its id, so "received = accepted" is checked message by message, see
//! [`message`]. But for [`adapt`], nothing here knows how the relay works inside: only its public ports
//! and files.

pub mod adapt;
pub mod daemon;
pub mod dns;
pub mod domains;
pub mod failure;
pub mod fleet;
pub mod inject;
pub mod machine;
pub mod message;
pub mod random;
pub mod report;
pub mod results;
pub mod run;
pub mod thread;
pub mod world;
