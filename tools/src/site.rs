//! The installation that the command line is about: its configuration, daemon and data directory.

use std::fmt;
use std::io::{self, IsTerminal};
use std::path::Path;

use datadir::{Installation, KeysError, LockedBytes, prompt, source};
use engine::config::Config;
use engine::keys::{KeyRing, PASSPHRASE_BYTES_MAX};

use crate::client::{Client, ClientError};

/// Why a command failed: one line for the operator, or several for a configuration.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl Failure {
    /// Whoever read the output has enough of it (`| head`): no failure, and nothing to say.
    pub(crate) const fn quiet() -> Self {
        Self(String::new())
    }

    pub(crate) const fn is_quiet(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self(why)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self(error.to_string())
    }
}

impl From<KeysError> for Failure {
    fn from(error: KeysError) -> Self {
        Self(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::quiet();
        }
        Self(error.to_string())
    }
}

/// The installation of one configuration file.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) config: Config,
    pub(crate) installation: Installation,
    pub(crate) client: Client,
}

impl Site {
    /// Reads the configuration.
    ///
    /// # Errors
    /// Every fault of the file, one a line.
    pub(crate) fn open(file: &Path) -> Result<Self, Failure> {
        let shown = file.display();
        let text = std::fs::read_to_string(file).map_err(|error| {
            Failure(format!(
                "cannot read {shown}: {error}; name the configuration with --config"
            ))
        })?;
        let config = Config::parse(&shown.to_string(), &text).map_err(|errors| {
            let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
            Failure(lines.join("\nhikyaku: "))
        })?;
        let installation = Installation::new(&config.server.data_dir, &config.key.secret);
        let client = Client::new(&config.control.socket);
        Ok(Self {
            config,
            installation,
            client,
        })
    }

    /// The keys, for reading files: from the configured source, at the terminal if that is
    /// `prompt`.
    ///
    /// # Errors
    /// As getting and checking the passphrase can meet.
    pub(crate) fn unlock(&self) -> Result<KeyRing, Failure> {
        self.installation.check()?;
        Ok(self.installation.unlock(&self.passphrase()?)?)
    }

    /// The passphrase so far, from the configured source.
    ///
    /// # Errors
    /// As the source fails.
    pub(crate) fn passphrase(&self) -> Result<LockedBytes, Failure> {
        datadir::process_not_dumpable()?;
        let credentials = std::env::var_os(source::CREDENTIALS_DIRECTORY);
        Ok(source::passphrase(&self.config.key, credentials)?)
    }

    /// Says so if a daemon is at work on the files that are about to be read.
    pub(crate) fn note_if_running(&self) {
        if let Some(pid) = self.installation.in_use_by() {
            let pid = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
            tell!(
                "hikyaku: note: hikyakud{pid} is running; its newest records may be missing here"
            );
        }
    }
}

/// A new or the only passphrase from the operator: at the terminal if there is one, else standard
/// input.
///
/// # Errors
/// [`KeysError`] as [`prompt`] and reading can meet.
pub(crate) fn typed_passphrase(question: &str, twice: bool) -> Result<LockedBytes, Failure> {
    datadir::process_not_dumpable()?;
    let passphrase = if !io::stdin().is_terminal() {
        let path = Path::new("standard input");
        let mut bytes =
            datadir::private::read_stream(io::stdin().lock(), path, PASSPHRASE_BYTES_MAX)?;
        source::trim_newline(&mut bytes);
        if twice {
            take_one_of_two(&mut bytes);
        }
        if bytes.contains(&b'\n') {
            return Err(Failure(
                "standard input has more than one line; a passphrase with a line end in it could \
                 not be typed at any prompt, so nothing was changed"
                    .into(),
            ));
        }
        bytes
    } else if twice {
        prompt::ask_new(question)?
    } else {
        prompt::ask(question)?
    };
    if passphrase.is_empty() {
        return Err(Failure(
            "the passphrase is empty; nothing was changed".into(),
        ));
    }
    Ok(passphrase)
}

/// Two equal lines are one passphrase given twice, as a prompt asks for it.
fn take_one_of_two(bytes: &mut LockedBytes) {
    let len = bytes.len() / 2;
    if bytes.len() % 2 == 1 && bytes[len] == b'\n' && bytes[..len] == bytes[len + 1..] {
        bytes.truncate(len);
    }
}
