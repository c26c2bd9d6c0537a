//! The passphrase from where `[key] source` says.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use engine::config::{Key, KeySource};
use engine::keys::PASSPHRASE_BYTES_MAX;

use crate::error::KeysError;
use crate::locked::LockedBytes;
use crate::private::{read_secret, read_stream};
use crate::prompt;

/// What systemd names the directory of credentials by.
pub const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Gets the passphrase. One newline at its end is left out, since editors and `echo` put it there.
///
/// `credentials`: the value of `$CREDENTIALS_DIRECTORY`.
///
/// # Errors
/// [`KeysError::NoTerminal`] for source `prompt` without a terminal, on which the daemon starts
/// locked; any other [`KeysError`] says what to do.
pub fn passphrase(key: &Key, credentials: Option<OsString>) -> Result<LockedBytes, KeysError> {
    let mut bytes = match &key.source {
        KeySource::Prompt => return prompt::ask("Passphrase: "),
        KeySource::File(path) => read_secret(path, PASSPHRASE_BYTES_MAX)?,
        KeySource::Stdin => read_stream(
            io::stdin().lock(),
            Path::new("standard input"),
            PASSPHRASE_BYTES_MAX,
        )?,
        KeySource::Fd(number) => {
            // Whoever passes it answers for who else can read it: a memory file has mode 0777.
            let path = PathBuf::from(format!("/proc/self/fd/{number}"));
            let file = File::open(&path).map_err(KeysError::io("open", &path))?;
            read_stream(file, &path, PASSPHRASE_BYTES_MAX)?
        }
        KeySource::Credential(name) => {
            let directory = credentials.ok_or_else(|| {
                KeysError::Source(format!(
                    "source \"credential\" needs ${CREDENTIALS_DIRECTORY}; start from a \
                     systemd unit with LoadCredentialEncrypted={name}:PATH"
                ))
            })?;
            read_secret(&PathBuf::from(directory).join(name), PASSPHRASE_BYTES_MAX)?
        }
        KeySource::Command(command) => {
            output_of(command, Duration::from_millis(key.command_timeout_ms))?
        }
    };
    trim_newline(&mut bytes);
    if bytes.is_empty() {
        return Err(KeysError::Source(
            "the passphrase is empty; see [key] in the configuration".into(),
        ));
    }
    Ok(bytes)
}

/// Leaves out one LF or CRLF at the end.
pub fn trim_newline(bytes: &mut LockedBytes) {
    let len = bytes.len();
    let keep = match &**bytes {
        [.., b'\r', b'\n'] => len - 2,
        [.., b'\n'] => len - 1,
        _ => len,
    };
    bytes.truncate(keep);
}

/// Standard output of a program, run without a shell; its standard error is ours.
fn output_of(command: &[String], timeout: Duration) -> Result<LockedBytes, KeysError> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| KeysError::Source("[key] command is empty".into()))?;
    let path = Path::new(program);
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(KeysError::io("run", path))?;
    let Some(stdout) = child.stdout.take() else {
        return Err(KeysError::Source(format!("{program} has no output")));
    };
    let (send, receive) = mpsc::sync_channel(1);
    let reader_path = path.to_owned();
    // A thread, since reading a pipe has no timeout. It ends with the program.
    thread::spawn(move || send.send(read_stream(stdout, &reader_path, PASSPHRASE_BYTES_MAX)));
    let output = receive.recv_timeout(timeout);
    if output.is_err() {
        // It may have just ended by itself; then there is nothing to kill.
        let _ = child.kill();
    }
    let status = child.wait().map_err(KeysError::io("wait for", path))?;
    match output {
        // First: a program whose output we stopped reading may have ended for that.
        Ok(Err(error)) => Err(error),
        Ok(Ok(bytes)) if status.success() => Ok(bytes),
        Ok(Ok(_)) => Err(KeysError::Source(format!(
            "{program} gave no key: {status}"
        ))),
        Err(RecvTimeoutError::Timeout) => Err(KeysError::Source(format!(
            "{program} gave no key within {} s and was ended; see [key] command_timeout",
            timeout.as_secs_f32()
        ))),
        Err(RecvTimeoutError::Disconnected) => Err(KeysError::Source(format!(
            "the output of {program} could not be read"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn key(source: KeySource) -> Key {
        Key {
            source,
            secret: PathBuf::new(),
            command_timeout_ms: 5_000,
        }
    }

    fn sh(script: &str) -> Key {
        key(KeySource::Command(
            ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        ))
    }

    fn get(key: &Key) -> Result<Vec<u8>, String> {
        passphrase(key, None)
            .map(|bytes| bytes.to_vec())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_is_read_unless_others_may_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        fs::write(&path, "open sesame\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let file = key(KeySource::File(path.clone()));
        let shown = path.display();
        assert_eq!(
            get(&file),
            Err(format!(
                "{shown} is open to other users (mode 0640); run: chmod 0600 {shown}"
            ))
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(get(&file), Ok(b"open sesame".to_vec()));
        fs::remove_file(&path).unwrap();
        assert!(get(&file).unwrap_err().starts_with("cannot open "));
        fs::write(&path, "\r\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(get(&file).unwrap_err().contains("empty"));
    }

    #[test]
    fn a_credential_is_read_from_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hikyaku-key");
        fs::write(&path, "secret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        let credential = key(KeySource::Credential("hikyaku-key".into()));
        let found = passphrase(&credential, Some(directory.path().into())).unwrap();
        assert_eq!(&*found, b"secret");
        assert!(
            get(&credential)
                .unwrap_err()
                .contains("LoadCredentialEncrypted=")
        );
    }

    #[test]
    fn an_inherited_descriptor_is_read() {
        use std::io::Write as _;
        use std::os::fd::AsRawFd as _;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"from a descriptor\n").unwrap();
        let number = file.as_raw_fd() as u32;
        assert_eq!(
            get(&key(KeySource::Fd(number))),
            Ok(b"from a descriptor".to_vec())
        );
    }

    #[test]
    fn a_program_gives_the_key_or_says_why_not() {
        assert_eq!(get(&sh("printf 'a key\\n\\n'")), Ok(b"a key\n".to_vec()));
        assert!(
            get(&sh("echo key; exit 3"))
                .unwrap_err()
                .contains("exit status: 3")
        );
        let missing = key(KeySource::Command(vec!["/no/such/program".into()]));
        assert!(
            get(&missing)
                .unwrap_err()
                .starts_with("cannot run /no/such/program")
        );
        assert!(
            get(&sh("head -c 70000 /dev/zero"))
                .unwrap_err()
                .contains("longer than 65536")
        );
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let hanging = Key {
            command_timeout_ms: 50,
            ..sh("exec tail -f /dev/null")
        };
        assert!(get(&hanging).unwrap_err().contains("command_timeout"));
    }
}
