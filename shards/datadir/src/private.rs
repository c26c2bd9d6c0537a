//! Files and directories that nobody else may read.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt as _};
use std::path::Path;

use crate::error::KeysError;
use crate::locked::LockedBytes;

/// Reads a secret of at most `bytes_max` bytes into locked memory. A regular file that others may
/// read is refused.
///
/// # Errors
/// [`KeysError::Exposed`] with the `chmod` to run, [`KeysError::Io`].
pub fn read_secret(path: &Path, bytes_max: usize) -> Result<LockedBytes, KeysError> {
    let file = File::open(path).map_err(KeysError::io("open", path))?;
    let metadata = file.metadata().map_err(KeysError::io("read", path))?;
    // Looked at through the open file: the name may point elsewhere a moment later.
    if metadata.is_file() {
        check_mode(path, metadata.mode(), 0o600)?;
    }
    read_stream(file, path, bytes_max)
}

/// Reads a stream to its end, at most `bytes_max` bytes, into locked memory. `path` names it in
/// errors.
///
/// # Errors
/// [`KeysError::Io`], also if there is more.
pub fn read_stream(
    mut from: impl Read,
    path: &Path,
    bytes_max: usize,
) -> Result<LockedBytes, KeysError> {
    let mut bytes =
        LockedBytes::zeroed(bytes_max + 1).map_err(KeysError::io("lock memory for", path))?;
    let mut len = 0;
    loop {
        match from.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(KeysError::io("read", path)(error)),
        }
        if len > bytes_max {
            let error = std::io::Error::other(format!("it is longer than {bytes_max} bytes"));
            return Err(KeysError::io("use", path)(error));
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Checks that a file or directory gives nothing to group and others.
///
/// # Errors
/// [`KeysError::Exposed`].
pub fn check_mode(path: &Path, mode: u32, wanted: u32) -> Result<(), KeysError> {
    let mode = mode & 0o7777;
    if mode & 0o077 == 0 {
        Ok(())
    } else {
        Err(KeysError::Exposed {
            path: path.to_owned(),
            mode,
            wanted,
        })
    }
}

/// Checks the permissions of a directory of ours.
///
/// # Errors
/// [`KeysError::Exposed`], [`KeysError::Io`].
pub fn check_directory(path: &Path) -> Result<(), KeysError> {
    let metadata = fs::metadata(path).map_err(KeysError::io("open", path))?;
    check_mode(path, metadata.mode(), 0o700)
}

/// Makes a directory that only we may enter, with its parents; one that is there is checked.
///
/// # Errors
/// [`KeysError::Exposed`], [`KeysError::Io`].
pub fn make_directory(path: &Path) -> Result<(), KeysError> {
    if path.is_dir() {
        return check_directory(path);
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(KeysError::io("make directory", parent))?;
    }
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(KeysError::io("make directory", path))
}

/// Makes a directory of ours that only we may enter; one that is there is closed to others.
///
/// # Errors
/// [`KeysError::Io`].
pub fn make_closed_directory(path: &Path) -> Result<(), KeysError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(KeysError::io("make directory", path)(error));
        }
        _ => {}
    }
    let metadata = fs::metadata(path).map_err(KeysError::io("open", path))?;
    if metadata.mode() & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .map_err(KeysError::io("set the mode of", path))
}

/// Writes a new file durably; one that is there is not touched.
///
/// # Errors
/// [`KeysError::AlreadyThere`], [`KeysError::Io`].
pub fn write_new(path: &Path, mode: u32, content: &[u8]) -> Result<(), KeysError> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    let mut file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(KeysError::AlreadyThere(path.to_owned()));
        }
        Err(error) => return Err(KeysError::io("make", path)(error)),
    };
    file.write_all(content)
        .map_err(KeysError::io("write", path))?;
    file.sync_all().map_err(KeysError::io("sync", path))?;
    sync_parent(path)
}

/// Replaces a file durably and at once: after a crash it is the old or the new one.
///
/// # Errors
/// [`KeysError::Io`].
pub fn replace(path: &Path, mode: u32, content: &[u8]) -> Result<(), KeysError> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(KeysError::io("remove", &new)(error));
        }
        _ => {}
    }
    write_new(&new, mode, content)?;
    fs::rename(&new, path).map_err(KeysError::io("replace", path))?;
    sync_parent(path)
}

fn sync_parent(path: &Path) -> Result<(), KeysError> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let directory = File::open(parent).map_err(KeysError::io("open", parent))?;
    directory.sync_all().map_err(KeysError::io("sync", parent))
}
