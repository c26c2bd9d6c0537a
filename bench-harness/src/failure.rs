//! Why a run of the harness ended badly.

use std::fmt;
use std::io;

/// Why a run ended badly. The exit code tells a broken promise from a bad set-up.
#[derive(Debug)]
pub enum Failure {
    /// The set-up is wrong: arguments, files, ports, missing programs. Exit code 2.
    Setup(String),
    /// The operating system refused something: what we tried, and its answer. Exit code 2.
    Io(String, io::Error),
    /// The relay did not keep a promise: a lost message, too many duplicates. Exit code 1.
    Broken(String),
}

impl Failure {
    /// The process exit code for this failure.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Broken(_) => 1,
            Self::Setup(_) | Self::Io(..) => 2,
        }
    }

    /// A set-up failure with this text.
    pub fn setup(text: impl Into<String>) -> Self {
        Self::Setup(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setup(text) => f.write_str(text),
            Self::Io(what, error) => write!(f, "{what}: {error}"),
            Self::Broken(text) => write!(f, "BROKEN PROMISE: {text}"),
        }
    }
}

impl std::error::Error for Failure {}

/// Says what was being done when the operating system refused.
pub trait Context<T> {
    /// Wraps the error with `what`, evaluated only on failure.
    ///
    /// # Errors
    /// [`Failure::Io`] with `what` when `self` is an error.
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::Io(what(), error))
    }
}
