//! Why there is no key, in one line that says what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use engine::keys::KeyError;

/// What went wrong between the passphrase and the key ring.
#[derive(Debug)]
pub enum KeysError {
    /// The system refused something.
    Io {
        /// What was tried, e.g. `open`.
        doing: &'static str,
        /// On which path.
        path: PathBuf,
        /// Its answer.
        error: io::Error,
    },
    /// Others may read a secret.
    Exposed {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        wanted: u32,
    },
    /// `init` found something it would have had to overwrite.
    AlreadyThere(PathBuf),
    /// No installation in this directory.
    NotInitialised(PathBuf),
    /// The data directory was written by another version.
    OtherFormat {
        /// Whose.
        data_dir: PathBuf,
        /// What its `format` file says.
        found: String,
    },
    /// Another process holds the lock.
    InUse {
        /// Of this directory.
        data_dir: PathBuf,
        /// Its process id, if it wrote one.
        pid: Option<u32>,
    },
    /// The passphrase could not be had; the sentence says why and what to do.
    Source(String),
    /// There is no terminal to ask at.
    NoTerminal,
    /// The operator broke off.
    Cancelled,
    /// Derivation or the verifier refused.
    Key(KeyError),
    /// A file of an older key cannot be used.
    Wrapped {
        /// The file.
        path: PathBuf,
        /// Why.
        error: engine::key_wrap::UnwrapError,
    },
}

impl KeysError {
    /// For `map_err`: what was tried on which path.
    pub fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { doing, path, error }
    }
}

impl fmt::Display for KeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, path, error } => {
                write!(f, "cannot {doing} {}: {error}", path.display())
            }
            Self::Exposed { path, mode, wanted } => write!(
                f,
                "{0} is open to other users (mode {mode:04o}); run: chmod {wanted:04o} {0}",
                path.display()
            ),
            Self::AlreadyThere(path) => write!(
                f,
                "{} exists already and is never overwritten; move it away if you really want a \
                 new installation",
                path.display()
            ),
            Self::NotInitialised(data_dir) => {
                write!(
                    f,
                    "{} is no data directory yet; run: hikyaku init",
                    data_dir.display()
                )
            }
            Self::OtherFormat { data_dir, found } => write!(
                f,
                "{} is of format `{found}`, which this program does not read; start the version \
                 that wrote it, let it deliver what is queued, then run `hikyaku init` elsewhere",
                data_dir.display()
            ),
            Self::InUse { data_dir, pid } => {
                write!(f, "{} is in use by ", data_dir.display())?;
                match pid {
                    Some(pid) => write!(f, "process {pid}")?,
                    None => f.write_str("another process")?,
                }
                f.write_str("; stop that hikyakud first")
            }
            Self::Source(why) => f.write_str(why),
            Self::NoTerminal => f.write_str("there is no terminal to ask for the passphrase at"),
            Self::Cancelled => f.write_str("cancelled; nothing was changed"),
            Self::Key(error) => error.fmt(f),
            Self::Wrapped { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for KeysError {}

impl From<KeyError> for KeysError {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}
