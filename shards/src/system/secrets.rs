//! Keys: is there what a start needs, and may those read it who must, and nobody else?

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use datadir::private::check_mode;
use datadir::source::CREDENTIALS_DIRECTORY;
use engine::config::KeySource;
use rustix::fs::{Access, access};

use super::{Said, Subject, bad, good, warning};

/// Longest path of a Unix socket, bytes.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A file that only its owner may read.
fn secret_file(path: &Path, remedy: &str) -> Result<(), String> {
    let shown = path.display();
    let meta = fs::metadata(path).map_err(|error| format!("{shown}: {error}; {remedy}"))?;
    if !meta.is_file() {
        // A pipe or a device: whoever made it answers for who else can read it.
        return Ok(());
    }
    check_mode(path, meta.mode(), 0o400).map_err(|error| error.to_string())?;
    access(path, Access::READ_OK)
        .map_err(|error| format!("{shown}: {error}; give it to the user hikyakud runs as"))
}

pub(super) fn passphrase(subject: &Subject) -> Said {
    let key = &subject.config.key;
    let said = match &key.source {
        KeySource::Prompt => Ok("asked for at the terminal, or by hikyaku unlock".to_owned()),
        KeySource::Stdin => Ok("read from standard input at the start".to_owned()),
        KeySource::Fd(number) => Ok(format!("read from descriptor {number} at the start")),
        KeySource::File(path) => secret_file(path, "hikyaku init --generate-key makes it")
            .map(|()| format!("in {}", path.display()))
            .map_err(|why| format!("[key] path: {why}")),
        KeySource::Credential(name) => match std::env::var_os(CREDENTIALS_DIRECTORY) {
            // An operator's shell has none of the unit's credentials.
            None => {
                return warning(format!(
                    "credential {name}: not seen outside its unit, which needs \
                     LoadCredentialEncrypted={name}:PATH"
                ));
            }
            Some(folder) => {
                let path = PathBuf::from(folder).join(name);
                secret_file(&path, "LoadCredentialEncrypted= of the unit names it")
                    .map(|()| format!("credential {name}"))
            }
        },
        KeySource::Command(command) => match command.first() {
            Some(program) => runnable(program).map(|()| format!("the output of {program}")),
            None => Err("[key] command is empty".to_owned()),
        },
    };
    said.map_or_else(bad, good)
}

/// Whether a program can be run, by the path or in $PATH. It is not run.
fn runnable(program: &str) -> Result<(), String> {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let found = if program.contains('/') {
        access(program, Access::EXEC_OK).is_ok()
    } else {
        std::env::split_paths(&places).any(|p| access(p.join(program), Access::EXEC_OK).is_ok())
    };
    found.then_some(()).ok_or_else(|| {
        format!("[key] command: {program} cannot be run; give the path of a program")
    })
}

pub(super) fn installation_secret(subject: &Subject) -> Said {
    let path = subject.installation.secret();
    match secret_file(
        path,
        "hikyaku init makes it; put back the copy if it was there",
    ) {
        Ok(()) => good(format!("in {}", path.display())),
        Err(why) => bad(format!("[key] secret: {why}")),
    }
}

/// Whether the daemon's user, whom the data directory belongs to, may read its files: root, who asks,
/// always may.
pub(super) fn readable(subject: &Subject) -> Said {
    let own = rustix::process::geteuid().as_raw();
    let Ok(owner) = fs::metadata(subject.installation.data_dir()) else {
        return warning("not known for whom: there is no data directory");
    };
    let (user, group) = (owner.uid(), owner.gid());
    let mut files = vec![
        subject.file.clone(),
        subject.installation.secret().to_owned(),
    ];
    files.extend(subject.config.policy.file.clone());
    if let KeySource::File(path) = &subject.config.key.source {
        files.push(path.clone());
    }
    for file in &files {
        let may = if own == 0 && user != 0 {
            may_read(file, user, group)
        } else {
            access(file, Access::READ_OK).map_err(io::Error::from)
        };
        // That it is not there, the check of what it is for says.
        if let Err(error) = may
            && error.kind() != io::ErrorKind::NotFound
        {
            let file = file.display();
            return bad(format!(
                "user {user}, whom the data directory belongs to, may not read {file}: {error}; run: \
                 chown {user} {file}"
            ));
        }
    }
    good(format!("by user {user}: configuration and keys"))
}

/// As the permission bits of the file and of the folders above it say.
fn may_read(file: &Path, user: u32, group: u32) -> io::Result<()> {
    let allowed = |path: &Path, bit: u32| -> io::Result<bool> {
        let meta = fs::metadata(path)?;
        let shift = if meta.uid() == user {
            6
        } else if meta.gid() == group {
            3
        } else {
            0
        };
        Ok(meta.permissions().mode() >> shift & bit != 0)
    };
    let file = fs::canonicalize(file)?;
    let folders = file.ancestors().skip(1);
    for folder in folders {
        if !allowed(folder, 0o1)? {
            return Err(io::Error::other(format!("{} is closed", folder.display())));
        }
    }
    if allowed(&file, 0o4)? {
        return Ok(());
    }
    Err(io::ErrorKind::PermissionDenied.into())
}

pub(super) fn control_socket(subject: &Subject) -> Said {
    let path = &subject.config.control.socket;
    let shown = path.display();
    let bytes = crate::control::name_while_made(path).as_os_str().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        return bad(format!(
            "{shown} is too long for a socket by {} bytes; set control.socket",
            bytes - SOCKET_PATH_BYTES_MAX
        ));
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return bad(format!(
                "control socket {shown}: there is something else of that name; set control.socket"
            ));
        }
        _ => {}
    }
    let folder = path.ancestors().skip(1).find(|folder| folder.exists());
    let folder = folder.unwrap_or_else(|| Path::new("/"));
    let may = match access(folder, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if !folder.is_dir() => Err(rustix::io::Errno::NOTDIR),
        may => may,
    };
    match may {
        Ok(()) => good(format!("{shown}")),
        Err(error) => bad(format!(
            "control socket {shown}: {} cannot be written to: {error}; make its folder \
             (RuntimeDirectory=hikyaku in the unit) or set control.socket",
            folder.display()
        )),
    }
}
