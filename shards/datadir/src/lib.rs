//! The data directory of an installation, by plain files: its keys, its lock, and reading its
//! segments.
//!
//! For keys: [`locked`] is memory that is neither swapped nor dumped; [`source`] reads the
//! passphrase from file, credential, program or terminal ([`prompt`]) into it; [`private`] opens
//! files that nobody else may read; [`installation`] is what `hikyaku init` makes, the exclusive
//! lock, unlocking and `hikyaku rekey`. Deriving, verifying and wrapping keys is `engine::keys`'
//! and `engine::key_wrap`'s part.
//!
//! For reading: [`segments`] lists and reads the segments of any stream, [`log`] the delivery log,
//! [`verify`] checks everything. Nothing here writes a segment but for [`stops`], which no shard owns:
//! that is the shards' part, through io_uring.
//!
//! A crate of its own because both the daemon and the CLI need it, and the CLI must not know
//! glommio: docs/decisions/050.

pub mod error;
pub mod installation;
pub mod locked;
pub mod log;
pub mod private;
pub mod prompt;
pub mod segments;
pub mod source;
pub mod stops;
pub mod text;
pub mod verify;

pub use error::KeysError;
pub use installation::{DataLock, Installation};
pub use locked::{LockedBytes, lock_all_memory, process_not_dumpable};
