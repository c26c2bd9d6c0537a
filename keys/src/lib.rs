//! Where the key of an installation comes from, and how it stays in memory only.
//!
//! [`locked`] is memory that is neither swapped nor dumped; [`source`] reads the passphrase from file,
//! credential, program or terminal ([`prompt`]) into it; [`private`] opens files that nobody else may read;
//! [`installation`] is the data directory as far as keys go: what `hikyaku init` makes, the exclusive lock, unlocking
//! and `hikyaku rekey`. Deriving, verifying and wrapping keys is `engine::keys`' and `engine::key_wrap`'s part.
//!
//! A crate of its own because both the daemon and the CLI (offline reading, `init`) need it, and the CLI must not
//! know glommio: docs/decisions/050.

pub mod error;
pub mod installation;
pub mod locked;
pub mod private;
pub mod prompt;
pub mod source;

pub use error::KeysError;
pub use installation::{DataLock, Installation};
pub use locked::{LockedBytes, process_not_dumpable};
