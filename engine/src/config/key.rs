//! `[key]`: where the passphrase comes from.

use std::path::{Path, PathBuf};

use super::reader::{Reader, TextDefault};
use super::{M, S};

/// Where the passphrase comes from. The key itself never touches a disk of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The terminal at start, else `hikyaku unlock`.
    Prompt,
    /// A file, read once.
    File(PathBuf),
    /// Standard input, read to its end.
    Stdin,
    /// An inherited file descriptor.
    Fd(u32),
    /// A file of that name in `$CREDENTIALS_DIRECTORY` (systemd).
    Credential(String),
    /// Standard output of a program; the first item is the program.
    Command(Vec<String>),
}

/// `[key]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Where the passphrase comes from.
    pub source: KeySource,
    /// The file that `hikyaku init` fills with the installation secret.
    pub secret: PathBuf,
    /// How long a key program may run, ms.
    pub command_timeout_ms: u64,
}

/// The words that `source` takes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum From {
    Prompt,
    File,
    Credential,
    Command,
}

pub(super) fn read(r: &mut Reader<'_, '_>) -> Option<Key> {
    let base = r.base();
    let from = r.at_start("source", |r, key| {
        let words = [
            ("prompt", From::Prompt),
            ("file", From::File),
            ("credential", From::Credential),
            ("command", From::Command),
        ];
        r.word(key, &words)
    });
    let path = r.at_start("path", |r, key| {
        r.text(
            key,
            "path, `-` or `fd:N`",
            TextDefault::Absent("none; required for source `file`"),
            |text| path_source(&base, text),
        )
    });
    let name = r.at_start("name", |r, key| {
        r.text(
            key,
            "credential name",
            TextDefault::Text("hikyaku-key"),
            credential_name,
        )
    });
    let command = r.at_start("command", |r, key| {
        r.list(key, "list: program and arguments", &[], 64, |text| {
            Ok(text.to_owned())
        })
    });
    let command_timeout_ms = r.at_start("command_timeout", |r, key| {
        r.duration_ms(key, 30 * S, S..=10 * M)
    });
    let secret = r.at_start("secret", |r, key| {
        r.path(key, TextDefault::Text("installation.secret"))
    });
    refuse_misplaced(r, from);
    let source = match from {
        From::Prompt => KeySource::Prompt,
        From::File => {
            if !r.has("path") {
                let hint =
                    "add `path = \"/run/hikyaku/key\"`, \"-\" for standard input or \"fd:3\"";
                r.fault("source", "source \"file\" needs `path`", Some(hint.into()));
            }
            path?
        }
        From::Credential => KeySource::Credential(name?),
        From::Command => {
            if command.first().is_none_or(String::is_empty) {
                let hint =
                    "add e.g. `command = [\"/usr/local/bin/fetch-key\", \"--name\", \"hikyaku\"]`";
                r.fault(
                    "source",
                    "source \"command\" needs `command`",
                    Some(hint.into()),
                );
            }
            KeySource::Command(command)
        }
    };
    Some(Key {
        source,
        secret: secret?,
        command_timeout_ms,
    })
}

fn path_source(base: &Path, text: &str) -> Result<KeySource, String> {
    if text == "-" {
        return Ok(KeySource::Stdin);
    }
    if let Some(number) = text.strip_prefix("fd:") {
        let number = number
            .parse()
            .map_err(|_| "write the descriptor as e.g. `fd:3`")?;
        return Ok(KeySource::Fd(number));
    }
    if text.is_empty() || text.contains('\0') {
        return Err("the path is empty or has a NUL in it".into());
    }
    Ok(KeySource::File(base.join(text)))
}

fn credential_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(['/', '\0']) || text.starts_with('.') {
        return Err(format!("`{text}` is not the name of a credential"));
    }
    Ok(text.to_owned())
}

/// Keys that the chosen source does not read.
fn refuse_misplaced(r: &mut Reader<'_, '_>, from: From) {
    for (key, wanted, word) in [
        ("path", From::File, "file"),
        ("name", From::Credential, "credential"),
        ("command", From::Command, "command"),
    ] {
        if r.has(key) && from != wanted {
            let hint = format!("set `source = \"{word}\"` or remove `{key}`");
            r.fault(
                key,
                format!("`{key}` has no meaning for this source"),
                Some(hint),
            );
        }
    }
}
