//! The data directory as far as keys go.
//!
//! ```text
//! DATA_DIR/format                     one line: `hikyaku data 2`
//! DATA_DIR/lock                       held by the daemon; its process id
//! DATA_DIR/keys/current               verifier of the key for new segments (engine::keys)
//! DATA_DIR/keys/OLD-under-NEW         an older key under the current one (engine::key_wrap)
//! DATA_DIR/shard-NN/STREAM/           segments
//! [key] secret                        the installation secret, on another disk
//! ```
//!
//! `rekey` first puts every older key under the new one, then replaces `current`: that is the
//! moment it happens. Wrapped keys that are not under the current key are left-overs of a rekey
//! that was cut short.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt};
use std::path::{Path, PathBuf};

use engine::key_wrap::{WRAP_NONCE_BYTES, WRAPPED_KEY_BYTES, unwrap, wrap};
use engine::keys::{
    KdfParams, KeyId, KeyRing, MasterKey, SALT_BYTES, VERIFIER_BYTES_MAX, Verifier, derive,
};
use rustix::fs::{FlockOperation, flock};

use crate::error::KeysError;
use crate::locked::{LockedBytes, lock_pages_of};
use crate::private::{
    check_directory, make_directory, make_parents_durably, read_secret, replace, write_new,
};

const FORMAT: &str = "hikyaku data 2";
const FORMAT_TITLE: &str = "hikyaku data ";

/// Bytes of a new installation secret.
const SECRET_BYTES: usize = 64;

/// Longest installation secret that is read, bytes.
const SECRET_BYTES_MAX: usize = 4096;

/// A data directory and the installation secret that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    data_dir: PathBuf,
    secret: PathBuf,
}

impl Installation {
    /// The installation of a configuration; nothing is looked at yet.
    pub fn new(data_dir: &Path, secret: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            secret: secret.to_owned(),
        }
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The file of the installation secret.
    pub fn secret(&self) -> &Path {
        &self.secret
    }

    /// What `init` would have to overwrite, if anything.
    pub fn found(&self) -> Option<PathBuf> {
        let taken = [
            self.format_file(),
            self.verifier_file(),
            self.secret.clone(),
        ];
        taken
            .into_iter()
            .find(|path| fs::symlink_metadata(path).is_ok())
    }

    /// Makes directories, installation secret and verifier for a new passphrase.
    ///
    /// # Errors
    /// [`KeysError::AlreadyThere`] before anything is made; [`KeysError::Io`].
    pub fn init(&self, passphrase: &[u8], cost: KdfCost) -> Result<KeyId, KeysError> {
        if let Some(path) = self.found() {
            return Err(KeysError::AlreadyThere(path));
        }
        make_directory(&self.data_dir)?;
        make_directory(&self.keys_dir())?;
        if let Some(parent) = self.secret.parent().filter(|p| !p.as_os_str().is_empty()) {
            make_parents_durably(parent)?;
        }
        let mut secret = LockedBytes::zeroed(SECRET_BYTES)
            .map_err(KeysError::io("lock memory for", &self.secret))?;
        random(&mut secret)?;
        let params = cost.params()?;
        let key = derive(passphrase, &secret, &params)?;
        write_new(&self.secret, 0o400, &secret)?;
        write_new(
            &self.verifier_file(),
            0o600,
            Verifier::new(&key, params).encode().as_bytes(),
        )?;
        // Last: with it the directory counts as an installation.
        write_new(&self.format_file(), 0o600, format!("{FORMAT}\n").as_bytes())?;
        Ok(key.id())
    }

    /// Checks that this is a data directory of our format, with right permissions. Changes nothing.
    ///
    /// # Errors
    /// [`KeysError::NotInitialised`], [`KeysError::OtherFormat`], [`KeysError::Exposed`],
    /// [`KeysError::Io`].
    pub fn check(&self) -> Result<(), KeysError> {
        let path = self.format_file();
        let text = match read_text(&path, 256) {
            Ok(text) => text,
            Err(KeysError::Io { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(KeysError::NotInitialised(self.data_dir.clone()));
            }
            Err(error) => return Err(error),
        };
        let line = text.trim_end();
        if line != FORMAT {
            let ours = line.starts_with(FORMAT_TITLE);
            let found = if ours {
                line.to_owned()
            } else {
                line.chars().take(40).collect()
            };
            return Err(KeysError::OtherFormat {
                data_dir: self.data_dir.clone(),
                found,
            });
        }
        check_directory(&self.data_dir)?;
        check_directory(&self.keys_dir())
    }

    /// Takes the exclusive lock, which is held until it is dropped or the process ends.
    ///
    /// The directory itself is locked as well as the file in it: a file that was deleted, or put back from
    /// a copy, would let a second daemon in while the first holds one that nobody finds any more.
    ///
    /// # Errors
    /// [`KeysError::InUse`], [`KeysError::Io`].
    pub fn lock(&self) -> Result<DataLock, KeysError> {
        let directory =
            File::open(&self.data_dir).map_err(KeysError::io("open", &self.data_dir))?;
        if is_taken(flock(&directory, FlockOperation::NonBlockingLockExclusive)) {
            return Err(KeysError::InUse {
                data_dir: self.data_dir.clone(),
                pid: self.pid_in_lock(),
            });
        }
        let path = self.data_dir.join("lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(KeysError::io("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(KeysError::InUse {
                    data_dir: self.data_dir.clone(),
                    pid: pid_in(&file),
                });
            }
            Err(error) => return Err(KeysError::io("lock", &path)(error.into())),
        }
        // In place, and no matter if it cannot be written: it only tells who has the lock, and a full disk
        // must not keep the daemon from starting, which is how the queue drains.
        let pid = format!("{:<PID_BYTES$}\n", std::process::id());
        let _ = file.write_all_at(pid.as_bytes(), 0);
        Ok(DataLock {
            _file: file,
            _directory: directory,
        })
    }

    fn pid_in_lock(&self) -> Option<u32> {
        pid_in(&File::open(self.data_dir.join("lock")).ok()?)
    }

    /// The process that holds the lock now, `Some(None)` if it is not known which. Changes nothing.
    pub fn in_use_by(&self) -> Option<Option<u32>> {
        let directory = File::open(&self.data_dir).ok()?;
        if is_taken(flock(&directory, FlockOperation::NonBlockingLockShared)) {
            return Some(self.pid_in_lock());
        }
        let file = File::open(self.data_dir.join("lock")).ok()?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => None,
            Err(_) => Some(pid_in(&file)),
        }
    }

    /// Derives and verifies the key, opens the older ones, and locks their pages in memory. Changes
    /// nothing on disk.
    ///
    /// # Errors
    /// [`KeysError::Key`] with [`engine::keys::KeyError::WrongKey`] for a wrong passphrase, and all
    /// that reading can meet.
    pub fn unlock(&self, passphrase: &[u8]) -> Result<KeyRing, KeysError> {
        self.check()?;
        let verifier = self.verifier()?;
        let secret = read_secret(&self.secret, SECRET_BYTES_MAX)?;
        let key = derive(passphrase, &secret, verifier.params())?;
        verifier.check(&key)?;
        let mut ring = KeyRing::new(key);
        lock_key(ring.current())?;
        for (id, path) in self.wrapped_under(ring.current_id())? {
            let wrapped = read_secret(&path, WRAPPED_KEY_BYTES)?;
            let older = unwrap(&wrapped, ring.current()).map_err(|error| KeysError::Wrapped {
                path: path.clone(),
                error,
            })?;
            ring.add_older(older)?;
            if let Some(key) = ring.find(id) {
                lock_key(key)?;
            }
        }
        Ok(ring)
    }

    /// The id of the current key, without unlocking anything.
    ///
    /// # Errors
    /// As reading the verifier can meet.
    pub fn current_key_id(&self) -> Result<KeyId, KeysError> {
        Ok(self.verifier()?.key_id())
    }

    /// Starts a new key, derived from `passphrase` with a new salt; the keys of `ring` are kept for
    /// reading. Returns the ring with which new segments are to be written.
    ///
    /// # Errors
    /// [`KeysError`]; then the old key is still the current one, on disk and in `ring`.
    pub fn rekey(
        &self,
        ring: &KeyRing,
        passphrase: &[u8],
        cost: KdfCost,
    ) -> Result<KeyRing, KeysError> {
        self.check()?;
        let secret = read_secret(&self.secret, SECRET_BYTES_MAX)?;
        let params = cost.params()?;
        let key = derive(passphrase, &secret, &params)?;
        let verifier = Verifier::new(&key, params);
        let mut new_ring = ring.clone();
        new_ring.rekey(key)?;
        lock_key(new_ring.current())?;
        let older: Vec<KeyId> = new_ring.older_ids().collect();
        for id in older {
            let Some(key) = new_ring.find(id) else {
                continue;
            };
            lock_key(key)?;
            let mut nonce = [0; WRAP_NONCE_BYTES];
            random(&mut nonce)?;
            let wrapped = wrap(key, new_ring.current(), &nonce);
            replace(
                &self.wrapped_file(id, new_ring.current_id()),
                0o600,
                &wrapped,
            )?;
        }
        replace(&self.verifier_file(), 0o600, verifier.encode().as_bytes())?;
        self.remove_wrapped(|_, under| under != new_ring.current_id())?;
        Ok(new_ring)
    }

    /// Forgets an older key on disk. Call when no segment names it any more.
    ///
    /// # Errors
    /// [`KeysError::Io`].
    pub fn retire(&self, id: KeyId) -> Result<(), KeysError> {
        self.remove_wrapped(|wrapped, _| wrapped == id)
    }

    fn verifier(&self) -> Result<Verifier, KeysError> {
        let text = read_text(&self.verifier_file(), VERIFIER_BYTES_MAX)?;
        Ok(Verifier::parse(&text)?)
    }

    fn keys_dir(&self) -> PathBuf {
        self.data_dir.join("keys")
    }

    fn format_file(&self) -> PathBuf {
        self.data_dir.join("format")
    }

    fn verifier_file(&self) -> PathBuf {
        self.keys_dir().join("current")
    }

    fn wrapped_file(&self, id: KeyId, under: KeyId) -> PathBuf {
        self.keys_dir().join(format!("{id}-under-{under}"))
    }

    fn wrapped_under(&self, current: KeyId) -> Result<Vec<(KeyId, PathBuf)>, KeysError> {
        let mut found = self.wrapped()?;
        found.retain(|(_, under, _)| *under == current);
        found.sort();
        Ok(found.into_iter().map(|(id, _, path)| (id, path)).collect())
    }

    fn wrapped(&self) -> Result<Vec<(KeyId, KeyId, PathBuf)>, KeysError> {
        let directory = self.keys_dir();
        let mut found = Vec::new();
        for entry in fs::read_dir(&directory).map_err(KeysError::io("list", &directory))? {
            let entry = entry.map_err(KeysError::io("list", &directory))?;
            let name = entry.file_name();
            let ids = name.to_str().and_then(|name| name.split_once("-under-"));
            let ids = ids.and_then(|(id, under)| Some((parse_id(id)?, parse_id(under)?)));
            if let Some((id, under)) = ids {
                found.push((id, under, entry.path()));
            }
        }
        Ok(found)
    }

    fn remove_wrapped(&self, unwanted: impl Fn(KeyId, KeyId) -> bool) -> Result<(), KeysError> {
        for (id, under, path) in self.wrapped()? {
            if unwanted(id, under) {
                fs::remove_file(&path).map_err(KeysError::io("remove", &path))?;
            }
        }
        Ok(())
    }
}

/// How dear a derivation is made: it slows down whoever tries passphrases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KdfCost {
    /// What RFC 9106 §4 recommends second: 64 MiB and 3 passes, some 0.1 s.
    #[default]
    Recommended,
    /// The least Argon2 takes; for tests, which derive often.
    Least,
}

impl KdfCost {
    fn params(self) -> Result<KdfParams, KeysError> {
        let mut salt = [0; SALT_BYTES];
        random(&mut salt)?;
        let recommended = KdfParams::recommended(salt);
        Ok(match self {
            Self::Recommended => recommended,
            Self::Least => KdfParams {
                memory_kib: 8,
                passes: 1,
                lanes: 1,
                ..recommended
            },
        })
    }
}

/// The exclusive lock of a data directory.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
    _directory: File,
}

/// Whether somebody else has the lock. A file system that cannot lock a directory (NFS) has only the file's.
const fn is_taken(locked: rustix::io::Result<()>) -> bool {
    matches!(locked, Err(rustix::io::Errno::WOULDBLOCK))
}

fn lock_key(key: &MasterKey) -> Result<(), KeysError> {
    lock_pages_of(key.expose()).map_err(|error| KeysError::Source(error.to_string()))
}

fn random(bytes: &mut [u8]) -> Result<(), KeysError> {
    getrandom::fill(bytes)
        .map_err(|error| KeysError::Source(format!("no random bytes from the system: {error}")))
}

/// A process id in the lock file, so wide that a shorter one covers what was there.
const PID_BYTES: usize = 10;

fn pid_in(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.lines().next()?.trim().parse().ok()
}

fn read_text(path: &Path, bytes_max: usize) -> Result<String, KeysError> {
    let file = File::open(path).map_err(KeysError::io("open", path))?;
    let mut text = String::new();
    file.take(bytes_max as u64 + 1)
        .read_to_string(&mut text)
        .map_err(KeysError::io("read", path))?;
    Ok(text)
}

fn parse_id(hex: &str) -> Option<KeyId> {
    if hex.len() != 2 * KeyId::BYTES || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(hex, 16)
        .ok()
        .map(|id| KeyId(id.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use engine::keys::KeyError;

    use super::*;

    fn fresh() -> (tempfile::TempDir, Installation) {
        let directory = tempfile::tempdir().unwrap();
        let installation = Installation::new(
            &directory.path().join("data"),
            &directory.path().join("etc/installation.secret"),
        );
        (directory, installation)
    }

    fn installed() -> (tempfile::TempDir, Installation) {
        let (directory, installation) = fresh();
        installation.init(b"open sesame", KdfCost::Least).unwrap();
        (directory, installation)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn init_makes_private_files_and_never_overwrites() {
        let (_directory, installation) = fresh();
        assert!(matches!(
            installation.unlock(b"open sesame"),
            Err(KeysError::NotInitialised(_))
        ));
        let id = installation.init(b"open sesame", KdfCost::Least).unwrap();
        assert_eq!(mode(installation.data_dir()), 0o700);
        assert_eq!(mode(installation.secret()), 0o400);
        let secret = fs::read(installation.secret()).unwrap();
        assert_eq!(secret.len(), SECRET_BYTES);
        assert_eq!(
            installation.unlock(b"open sesame").unwrap().current_id(),
            id
        );
        assert_eq!(installation.current_key_id().unwrap(), id);
        let again = installation.init(b"other", KdfCost::Least).unwrap_err();
        assert!(matches!(again, KeysError::AlreadyThere(_)), "{again}");
        fs::remove_dir_all(installation.data_dir()).unwrap();
        let again = installation.init(b"other", KdfCost::Least).unwrap_err();
        assert!(matches!(&again, KeysError::AlreadyThere(path) if path == installation.secret()));
        assert_eq!(fs::read(installation.secret()).unwrap(), secret);
        assert!(!installation.data_dir().exists(), "nothing was made");
    }

    #[test]
    fn a_wrong_key_is_refused_and_needs_both_halves() {
        let (_directory, installation) = installed();
        let wrong = installation.unlock(b"open sesamf").unwrap_err();
        assert!(matches!(wrong, KeysError::Key(KeyError::WrongKey { .. })));
        fs::set_permissions(installation.secret(), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(installation.secret(), [7; SECRET_BYTES]).unwrap();
        let wrong = installation.unlock(b"open sesame").unwrap_err();
        assert!(matches!(wrong, KeysError::Key(KeyError::WrongKey { .. })));
        fs::remove_file(installation.secret()).unwrap();
        assert!(matches!(
            installation.unlock(b"open sesame"),
            Err(KeysError::Io { .. })
        ));
    }

    #[test]
    fn what_others_may_read_is_refused_with_the_command_to_run() {
        let (_directory, installation) = installed();
        for path in [installation.data_dir(), installation.secret()] {
            let right = mode(path);
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
            let error = installation.unlock(b"open sesame").unwrap_err().to_string();
            assert!(error.contains("run: chmod 0") && error.contains(&path.display().to_string()));
            fs::set_permissions(path, fs::Permissions::from_mode(right)).unwrap();
        }
        installation.unlock(b"open sesame").unwrap();
    }

    #[test]
    fn another_format_is_refused() {
        let (_directory, installation) = installed();
        fs::write(installation.data_dir().join("format"), "hikyaku data 3\n").unwrap();
        let error = installation.unlock(b"open sesame").unwrap_err().to_string();
        assert!(
            error.contains("`hikyaku data 3`, which this program does not read"),
            "{error}"
        );
    }

    #[test]
    fn the_lock_holds_when_its_file_is_deleted() {
        let (_directory, installation) = installed();
        let lock = installation.lock().unwrap();
        fs::remove_file(installation.data_dir.join("lock")).unwrap();
        let error = installation.lock().unwrap_err().to_string();
        assert!(error.contains("in use"), "{error}");
        assert_eq!(installation.in_use_by(), Some(None));
        // One that nobody holds, as a second daemon would have made.
        File::create(installation.data_dir.join("lock")).unwrap();
        assert!(installation.lock().is_err());
        drop(lock);
        installation.lock().unwrap();
    }

    #[test]
    fn a_lock_needs_no_room_on_the_disk() {
        let (_directory, installation) = installed();
        drop(installation.lock().unwrap());
        let path = installation.data_dir.join("lock");
        let left_over = "4294967295\nof an earlier form\n";
        fs::write(&path, left_over).unwrap();
        let lock = installation.lock().unwrap();
        let pid = std::process::id();
        assert_eq!(installation.in_use_by(), Some(Some(pid)));
        let length = fs::metadata(&path).unwrap().len();
        assert_eq!(
            length,
            left_over.len() as u64,
            "written over, not made anew"
        );
        drop(lock);
    }

    #[test]
    fn only_one_process_holds_the_lock() {
        let (_directory, installation) = installed();
        assert_eq!(installation.in_use_by(), None);
        let lock = installation.lock().unwrap();
        let pid = std::process::id();
        assert_eq!(installation.in_use_by(), Some(Some(pid)));
        let error = installation.lock().unwrap_err().to_string();
        assert!(
            error.contains(&format!("in use by process {pid}")),
            "{error}"
        );
        drop(lock);
        assert_eq!(installation.in_use_by(), None);
        installation.lock().unwrap();
    }

    #[test]
    fn after_rekey_the_new_passphrase_opens_all_keys_and_the_old_one_none() {
        let (_directory, installation) = installed();
        let first = installation.unlock(b"open sesame").unwrap();
        let second = installation
            .rekey(&first, b"second", KdfCost::Least)
            .unwrap();
        let third = installation
            .rekey(&second, b"third", KdfCost::Least)
            .unwrap();
        for old in [&b"open sesame"[..], b"second"] {
            let refused = installation.unlock(old).unwrap_err();
            assert!(matches!(refused, KeysError::Key(KeyError::WrongKey { .. })));
        }
        let ring = installation.unlock(b"third").unwrap();
        assert_eq!(ring.current_id(), third.current_id());
        for id in [first.current_id(), second.current_id()] {
            assert_eq!(ring.find(id).map(MasterKey::id), Some(id));
        }
        installation.retire(first.current_id()).unwrap();
        let ring = installation.unlock(b"third").unwrap();
        assert!(ring.find(first.current_id()).is_none());
        assert!(ring.find(second.current_id()).is_some());
    }

    #[test]
    fn a_rekey_cut_short_leaves_the_old_key_in_force() {
        let (_directory, installation) = installed();
        let first = installation.unlock(b"open sesame").unwrap();
        let verifier = fs::read(installation.verifier_file()).unwrap();
        let second = installation
            .rekey(&first, b"second", KdfCost::Least)
            .unwrap();
        // As if power had gone before the last step: wrapped keys are there, the verifier is the
        // old one.
        fs::write(installation.verifier_file(), verifier).unwrap();
        let ring = installation.unlock(b"open sesame").unwrap();
        assert_eq!(ring.current_id(), first.current_id());
        assert_eq!(ring.older_ids().count(), 0);
        let again = installation.rekey(&ring, b"third", KdfCost::Least).unwrap();
        let files = installation.wrapped().unwrap();
        assert_eq!(files.len(), 1, "left-overs of the first try are gone");
        assert_ne!(again.current_id(), second.current_id());
        assert!(
            installation
                .unlock(b"third")
                .unwrap()
                .find(first.current_id())
                .is_some()
        );
    }

    #[test]
    fn no_key_and_no_passphrase_is_on_disk() {
        let (directory, installation) = installed();
        let first = installation.unlock(b"open sesame").unwrap();
        let second = installation
            .rekey(&first, b"second passphrase", KdfCost::Least)
            .unwrap();
        let secrets: [&[u8]; 4] = [
            b"open sesame",
            b"second passphrase",
            first.current().expose(),
            second.current().expose(),
        ];
        let mut directories = vec![directory.path().to_owned()];
        let mut files = 0;
        while let Some(next) = directories.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                    continue;
                }
                files += 1;
                let content = fs::read(&path).unwrap();
                for secret in secrets {
                    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
                    let found = |needle: &[u8]| content.windows(needle.len()).any(|w| w == needle);
                    assert!(
                        !found(secret) && !found(hex.as_bytes()),
                        "{}",
                        path.display()
                    );
                }
            }
        }
        assert!(files >= 4);
    }
}
