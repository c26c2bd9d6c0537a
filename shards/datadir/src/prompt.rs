//! Asks for a passphrase at the terminal, without echo.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use engine::keys::PASSPHRASE_BYTES_MAX;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::error::KeysError;
use crate::locked::LockedBytes;

const TERMINAL: &str = "/dev/tty";

/// What Ctrl-C sends while the terminal makes no signal of it.
const INTERRUPT: u8 = 3;

/// Asks once, with `question` in front.
///
/// # Errors
/// [`KeysError::NoTerminal`], [`KeysError::Cancelled`] at Ctrl-C or Ctrl-D, [`KeysError::Io`].
pub fn ask(question: &str) -> Result<LockedBytes, KeysError> {
    let mut terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .open(TERMINAL)
        .map_err(|_| KeysError::NoTerminal)?;
    let path = Path::new(TERMINAL);
    terminal
        .write_all(question.as_bytes())
        .map_err(KeysError::io("write to", path))?;
    let silence = Silence::begin(&terminal)?;
    let line = read_line(&terminal, path);
    drop(silence);
    terminal
        .write_all(b"\n")
        .map_err(KeysError::io("write to", path))?;
    line
}

/// Asks twice and takes it only if both are the same.
///
/// # Errors
/// As [`ask`]; [`KeysError::Source`] if they differ.
pub fn ask_new(question: &str) -> Result<LockedBytes, KeysError> {
    let first = ask(question)?;
    let again = ask("Again: ")?;
    if *first == *again {
        Ok(first)
    } else {
        Err(KeysError::Source(
            "the two passphrases differ; nothing was changed".into(),
        ))
    }
}

/// Reads up to the end of the line.
fn read_line(from: impl Read, path: &Path) -> Result<LockedBytes, KeysError> {
    let mut from = from;
    let mut line = LockedBytes::zeroed(PASSPHRASE_BYTES_MAX)
        .map_err(KeysError::io("lock memory for", path))?;
    let mut len = 0;
    loop {
        let mut byte = [0];
        let n = from.read(&mut byte).map_err(KeysError::io("read", path))?;
        match byte[0] {
            _ if n == 0 && len == 0 => return Err(KeysError::Cancelled),
            INTERRUPT => return Err(KeysError::Cancelled),
            _ if n == 0 => break,
            b'\n' => break,
            _ if len == line.len() => {
                return Err(KeysError::Source("the passphrase is too long".into()));
            }
            byte => {
                line[len] = byte;
                len += 1;
            }
        }
    }
    line.truncate(len);
    Ok(line)
}

/// Echo and signals are off while this lives: a Ctrl-C must not leave the terminal mute.
struct Silence<'t> {
    terminal: &'t File,
    before: Termios,
}

impl<'t> Silence<'t> {
    fn begin(terminal: &'t File) -> Result<Self, KeysError> {
        let refused =
            |error: rustix::io::Errno| KeysError::io("set up", Path::new(TERMINAL))(error.into());
        let before = tcgetattr(terminal).map_err(refused)?;
        let mut silent = before.clone();
        silent.local_modes -= LocalModes::ECHO | LocalModes::ISIG;
        tcsetattr(terminal, OptionalActions::Flush, &silent).map_err(refused)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        // Nothing better can be done about a terminal that is gone.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(input: &[u8]) -> Result<LockedBytes, KeysError> {
        read_line(input, Path::new(TERMINAL))
    }

    #[test]
    fn a_line_ends_at_newline_or_end_and_can_be_cancelled() {
        assert_eq!(&*line(b"open sesame\nmore").unwrap(), b"open sesame");
        assert_eq!(&*line(b"open").unwrap(), b"open");
        assert_eq!(&*line(b"\n").unwrap(), b"");
        assert!(matches!(line(b""), Err(KeysError::Cancelled)));
        assert!(matches!(line(b"op\x03en\n"), Err(KeysError::Cancelled)));
        assert!(line(&vec![b'x'; PASSPHRASE_BYTES_MAX + 1]).is_err());
    }
}
