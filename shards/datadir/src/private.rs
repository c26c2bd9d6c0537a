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

/// Makes a directory that only we may enter, with its parents, durably; one that is there is checked.
///
/// # Errors
/// [`KeysError::Exposed`], [`KeysError::Io`].
pub fn make_directory(path: &Path) -> Result<(), KeysError> {
    if !path.is_dir() {
        if let Some(parent) = parent(path) {
            make_parents(parent, &mut sync_directory)?;
        }
        DirBuilder::new()
            .mode(0o700)
            .create(path)
            .map_err(KeysError::io("make directory", path))?;
    } else {
        check_directory(path)?;
    }
    // Also of one that is there: who made it may have ended before this.
    sync_parent(path)
}

/// Makes a directory of ours that only we may enter, durably; one that is there is closed to others.
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
    if metadata.mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
            .map_err(KeysError::io("set the mode of", path))?;
    }
    sync_parent(path)
}

/// Makes the directories of `path` that are not there, and each of their names durable.
///
/// # Errors
/// [`KeysError::Io`].
pub fn make_parents_durably(path: &Path) -> Result<(), KeysError> {
    make_parents(path, &mut sync_directory)
}

/// `sync` makes the names in a directory durable; it comes once for each directory made, with the one
/// that the new name stands in.
fn make_parents(
    path: &Path,
    sync: &mut impl FnMut(&Path) -> Result<(), KeysError>,
) -> Result<(), KeysError> {
    if path.is_dir() {
        return Ok(());
    }
    let above = parent(path);
    if let Some(above) = above {
        make_parents(above, sync)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(KeysError::io("make directory", path)(error));
        }
        _ => {}
    }
    sync(above.unwrap_or(Path::new(".")))
}

fn parent(path: &Path) -> Option<&Path> {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
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
    sync_directory(parent(path).unwrap_or(Path::new(".")))
}

/// Makes the names in a directory durable.
fn sync_directory(path: &Path) -> Result<(), KeysError> {
    let directory = File::open(path).map_err(KeysError::io("open", path))?;
    directory.sync_all().map_err(KeysError::io("sync", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file system may forget every name whose directory was not synced after it was made: of a data
    /// directory whose parents were new, everything was gone after a power cut.
    #[test]
    fn every_new_directory_is_named_durably_in_the_one_above() {
        let root = tempfile::tempdir().unwrap();
        let mut synced = Vec::new();
        let mut note = |path: &Path| {
            let names: Vec<_> = fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            synced.push((path.to_owned(), names));
            Ok(())
        };
        make_parents(&root.path().join("a/b/c"), &mut note).unwrap();
        let expected = [
            (root.path().to_owned(), vec!["a".to_owned()]),
            (root.path().join("a"), vec!["b".to_owned()]),
            (root.path().join("a/b"), vec!["c".to_owned()]),
        ];
        assert_eq!(synced, expected);
    }
}
