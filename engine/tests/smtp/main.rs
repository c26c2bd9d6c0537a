//! The SMTP machines from outside: dialogs written as text files, both machines against each
//! other, and what a hostile peer can make them hold.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod client_dialogs;
mod dialog;
mod limits;
mod pair;
mod server_dialogs;
mod splits;
