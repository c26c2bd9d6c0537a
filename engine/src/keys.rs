//! The installation's key: how it is derived, how a wrong one is told, which key reads what.
//!
//! passphrase and installation secret → Argon2id → [`MasterKey`] → HKDF-SHA256 with a purpose each:
//! the public [`KeyId`], the [`Verifier`]'s MAC, and one pair of keys for every segment
//! ([`crate::queue::cipher`]). Where the passphrase comes from and how its pages are locked is the
//! daemon's part.

use std::fmt;
use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, Version};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes of a master key and of every key derived from it.
pub const KEY_BYTES: usize = 32;
/// Bytes of the random salt of a passphrase.
pub const SALT_BYTES: usize = 16;
/// Shortest installation secret taken, bytes.
pub const INSTALLATION_SECRET_BYTES_MIN: usize = 16;
/// Longest passphrase taken, bytes: what a key management service may return.
pub const PASSPHRASE_BYTES_MAX: usize = 64 * 1024;
/// Most memory a verifier may ask for at unlocking, KiB: a damaged file must not exhaust the host.
pub const ARGON2_MEMORY_KIB_MAX: u32 = 4 * 1024 * 1024;
/// Most passes over that memory a verifier may ask for.
pub const ARGON2_PASSES_MAX: u32 = 1000;
/// Most lanes a verifier may ask for.
pub const ARGON2_LANES_MAX: u32 = 64;
/// Longest verifier file read, bytes.
pub const VERIFIER_BYTES_MAX: usize = 1024;
/// Keys kept beside the current one, at most: each `rekey` adds one until its segments are gone.
pub const OLDER_KEYS_MAX: usize = 16;

/// The key from which every other is derived; zeroed when its last clone is dropped.
///
/// Clones share their bytes: whoever has locked the page they lie on has locked them for all, wherever the
/// ring is handed.
#[derive(Clone)]
pub struct MasterKey(Arc<KeyBytes>);

/// Boxed, so that moving it leaves no copy behind on the stack.
#[derive(ZeroizeOnDrop)]
struct KeyBytes(Box<[u8; KEY_BYTES]>);

impl MasterKey {
    /// A key from its 32 bytes, which are zeroed.
    pub fn from_bytes(bytes: &mut [u8; KEY_BYTES]) -> Self {
        let key = KeyBytes(Box::new(*bytes));
        bytes.zeroize();
        Self(Arc::new(key))
    }

    /// The bytes themselves: to lock their pages in memory and to wrap the key under another.
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0.0
    }

    /// The public name of this key: tells keys apart, tells nothing about them.
    pub fn id(&self) -> KeyId {
        let mut id = [0; KeyId::BYTES];
        self.expand(&[], &[b"hikyaku key id 1"], &mut id);
        KeyId(id)
    }

    /// HKDF-SHA256 (RFC 5869) with `salt`, and `info` joined from its parts; fills `out`, at most
    /// 8160 bytes.
    pub(crate) fn expand(&self, salt: &[u8], info: &[&[u8]], out: &mut [u8]) {
        Hkdf::<Sha256>::new(Some(salt), &self.expose()[..])
            .expand_multi_info(info, out)
            .expect("every use asks for less than 255 hash lengths");
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

/// Public name of a [`MasterKey`], stands in every segment header; written as 16 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; Self::BYTES]);

impl KeyId {
    /// Bytes of an id.
    pub const BYTES: usize = 8;
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Cost and salt of the derivation (RFC 9106).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KdfParams {
    /// Memory, KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
    /// Random, new for every key.
    pub salt: [u8; SALT_BYTES],
}

impl KdfParams {
    /// The second recommended option of RFC 9106 §4: 64 MiB, 3 passes, 4 lanes.
    pub const fn recommended(salt: [u8; SALT_BYTES]) -> Self {
        Self {
            memory_kib: 64 * 1024,
            passes: 3,
            lanes: 4,
            salt,
        }
    }
}

/// Why no key could be derived or accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// An empty passphrase.
    EmptyPassphrase,
    /// More than [`PASSPHRASE_BYTES_MAX`].
    PassphraseTooLong,
    /// Fewer than [`INSTALLATION_SECRET_BYTES_MIN`] bytes.
    ShortInstallationSecret {
        /// Bytes found.
        bytes: usize,
    },
    /// Argon2 refuses the parameters, or they are over our bounds.
    Params(String),
    /// The derived key is not the one this data directory was set up with.
    WrongKey {
        /// The key the verifier was written for.
        expected: KeyId,
        /// The key derived.
        found: KeyId,
    },
    /// The key fits but the verifier's text was altered.
    AlteredVerifier,
    /// The verifier is of a later format.
    NewerVerifier {
        /// Version found.
        version: u32,
    },
    /// The verifier cannot be read.
    MalformedVerifier {
        /// 1-based line.
        line: usize,
        /// What was expected there.
        expected: &'static str,
    },
    /// More than [`OLDER_KEYS_MAX`] keys in use.
    TooManyKeys,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyPassphrase => f.write_str("the passphrase is empty"),
            Self::PassphraseTooLong => {
                write!(
                    f,
                    "the passphrase is longer than {PASSPHRASE_BYTES_MAX} bytes"
                )
            }
            Self::ShortInstallationSecret { bytes } => write!(
                f,
                "the installation secret has {bytes} bytes, at least \
                 {INSTALLATION_SECRET_BYTES_MIN} are needed: restore the file `hikyaku init` made"
            ),
            Self::Params(why) => write!(f, "key derivation parameters refused: {why}"),
            Self::WrongKey { expected, found } => write!(
                f,
                "wrong key: this data directory is under key {expected}, passphrase and \
                 installation secret give {found}; nothing was changed"
            ),
            Self::AlteredVerifier => f.write_str(
                "the key is right but the key verifier file was altered: restore it from a copy",
            ),
            Self::NewerVerifier { version } => write!(
                f,
                "the key verifier has version {version}, this program knows up to \
                 {VERIFIER_VERSION}: use the newer program that wrote it"
            ),
            Self::MalformedVerifier { line, expected } => {
                write!(f, "key verifier, line {line}: expected {expected}")
            }
            Self::TooManyKeys => write!(
                f,
                "{OLDER_KEYS_MAX} older keys are still in use: let their segments drain first"
            ),
        }
    }
}

impl std::error::Error for KeyError {}

/// Derives the master key: Argon2id over `passphrase` with `installation_secret` as Argon2's secret
/// value K (RFC 9106 §3.1), so that neither alone is enough.
///
/// Takes some 0.1 s and `params.memory_kib` of memory, which is zeroed afterwards.
///
/// # Errors
/// [`KeyError::EmptyPassphrase`], [`KeyError::PassphraseTooLong`],
/// [`KeyError::ShortInstallationSecret`] and [`KeyError::Params`]; never a wrong key: that is what
/// [`Verifier::check`] tells.
pub fn derive(
    passphrase: &[u8],
    installation_secret: &[u8],
    params: &KdfParams,
) -> Result<MasterKey, KeyError> {
    if passphrase.is_empty() {
        return Err(KeyError::EmptyPassphrase);
    }
    if passphrase.len() > PASSPHRASE_BYTES_MAX {
        return Err(KeyError::PassphraseTooLong);
    }
    if installation_secret.len() < INSTALLATION_SECRET_BYTES_MIN {
        return Err(KeyError::ShortInstallationSecret {
            bytes: installation_secret.len(),
        });
    }
    if params.memory_kib > ARGON2_MEMORY_KIB_MAX
        || params.passes > ARGON2_PASSES_MAX
        || params.lanes > ARGON2_LANES_MAX
    {
        return Err(KeyError::Params(format!(
            "at most {ARGON2_MEMORY_KIB_MAX} KiB, {ARGON2_PASSES_MAX} passes and \
             {ARGON2_LANES_MAX} lanes"
        )));
    }
    let refused = |error: argon2::Error| KeyError::Params(error.to_string());
    let cost = Params::new(
        params.memory_kib,
        params.passes,
        params.lanes,
        Some(KEY_BYTES),
    )
    .map_err(refused)?;
    let argon2 = Argon2::new_with_secret(
        installation_secret,
        Algorithm::Argon2id,
        Version::V0x13,
        cost,
    )
    .map_err(refused)?;
    let mut key = KeyBytes(Box::new([0; KEY_BYTES]));
    argon2
        .hash_password_into(passphrase, &params.salt, &mut key.0[..])
        .map_err(refused)?;
    Ok(MasterKey(Arc::new(key)))
}

const VERIFIER_VERSION: u32 = 1;
const VERIFIER_TITLE: &str = "hikyaku key verifier ";

/// The text file beside the data that tells a wrong key before anything is written under it.
///
/// ```text
/// hikyaku key verifier 1
/// argon2id memory_kib=65536 passes=3 lanes=4
/// salt=5f0c…           32 hex digits
/// key_id=0a1b…         16 hex digits
/// mac=77ab…            64 hex digits: HMAC-SHA256 over the lines above
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    params: KdfParams,
    key_id: KeyId,
    mac: [u8; 32],
}

impl Verifier {
    /// The verifier of `key`, which was derived with `params`.
    pub fn new(key: &MasterKey, params: KdfParams) -> Self {
        let mut verifier = Self {
            params,
            key_id: key.id(),
            mac: [0; 32],
        };
        verifier.mac = verifier.keyed_mac(key).finalize().into_bytes().into();
        verifier
    }

    /// What to derive with.
    pub const fn params(&self) -> &KdfParams {
        &self.params
    }

    /// The key this verifier stands for.
    pub const fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// Whether `key` is the one this verifier was made for.
    ///
    /// # Errors
    /// [`KeyError::WrongKey`], [`KeyError::AlteredVerifier`].
    pub fn check(&self, key: &MasterKey) -> Result<(), KeyError> {
        if self.keyed_mac(key).verify_slice(&self.mac).is_ok() {
            return Ok(());
        }
        let found = key.id();
        if found == self.key_id {
            Err(KeyError::AlteredVerifier)
        } else {
            Err(KeyError::WrongKey {
                expected: self.key_id,
                found,
            })
        }
    }

    /// The file's text.
    pub fn encode(&self) -> String {
        let mut text = self.authenticated_text();
        text.push_str("mac=");
        HEXLOWER.encode_append(&self.mac, &mut text);
        text.push('\n');
        text
    }

    /// Reads a verifier's text.
    ///
    /// # Errors
    /// [`KeyError::MalformedVerifier`], [`KeyError::NewerVerifier`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text.len() > VERIFIER_BYTES_MAX {
            return Err(KeyError::MalformedVerifier {
                line: 1,
                expected: "at most 1024 bytes",
            });
        }
        let mut lines = text.lines();
        let mut line = |number, expected| {
            lines.next().ok_or(KeyError::MalformedVerifier {
                line: number,
                expected,
            })
        };
        let malformed = |line, expected| KeyError::MalformedVerifier { line, expected };

        let title = "`hikyaku key verifier 1`";
        let version = line(1, title)?
            .strip_prefix(VERIFIER_TITLE)
            .and_then(|version| version.parse().ok())
            .ok_or(malformed(1, title))?;
        if version != VERIFIER_VERSION {
            return Err(KeyError::NewerVerifier { version });
        }
        let cost = "`argon2id memory_kib=N passes=N lanes=N`";
        let (memory_kib, passes, lanes) = cost_line(line(2, cost)?).ok_or(malformed(2, cost))?;
        let salt = "`salt=` and 32 hex digits";
        let salt = hex_line(line(3, salt)?, "salt=").ok_or(malformed(3, salt))?;
        let key_id = "`key_id=` and 16 hex digits";
        let key_id = KeyId(hex_line(line(4, key_id)?, "key_id=").ok_or(malformed(4, key_id))?);
        let mac = "`mac=` and 64 hex digits";
        let mac = hex_line(line(5, mac)?, "mac=").ok_or(malformed(5, mac))?;
        if lines.next().is_some() {
            return Err(malformed(6, "nothing more"));
        }
        Ok(Self {
            params: KdfParams {
                memory_kib,
                passes,
                lanes,
                salt,
            },
            key_id,
            mac,
        })
    }

    fn authenticated_text(&self) -> String {
        let KdfParams {
            memory_kib,
            passes,
            lanes,
            salt,
        } = self.params;
        let mut text = format!(
            "{VERIFIER_TITLE}{VERIFIER_VERSION}\nargon2id memory_kib={memory_kib} \
             passes={passes} lanes={lanes}\nsalt="
        );
        HEXLOWER.encode_append(&salt, &mut text);
        text.push_str("\nkey_id=");
        HEXLOWER.encode_append(&self.key_id.0, &mut text);
        text.push('\n');
        text
    }

    fn keyed_mac(&self, key: &MasterKey) -> Hmac<Sha256> {
        let mut mac_key = [0; KEY_BYTES];
        key.expand(&[], &[b"hikyaku key verifier 1"], &mut mac_key);
        let mut mac = Hmac::<Sha256>::new_from_slice(&mac_key).expect("HMAC takes any key length");
        mac_key.zeroize();
        mac.update(self.authenticated_text().as_bytes());
        mac
    }
}

fn cost_line(line: &str) -> Option<(u32, u32, u32)> {
    let mut fields = line.strip_prefix("argon2id ")?.split(' ');
    let mut field = |name| fields.next()?.strip_prefix(name)?.parse().ok();
    let cost = (field("memory_kib=")?, field("passes=")?, field("lanes=")?);
    fields.next().is_none().then_some(cost)
}

fn hex_line<const N: usize>(line: &str, name: &str) -> Option<[u8; N]> {
    let hex = line.strip_prefix(name)?;
    let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok()?;
    bytes.try_into().ok()
}

/// The key new segments are written under, and older ones whose segments are still draining.
#[derive(Clone, Debug)]
pub struct KeyRing {
    current: MasterKey,
    current_id: KeyId,
    older: Vec<(KeyId, MasterKey)>,
}

impl KeyRing {
    /// A ring of one key.
    pub fn new(current: MasterKey) -> Self {
        let current_id = current.id();
        Self {
            current,
            current_id,
            older: Vec::new(),
        }
    }

    /// The key for new segments.
    pub const fn current(&self) -> &MasterKey {
        &self.current
    }

    /// Its id.
    pub const fn current_id(&self) -> KeyId {
        self.current_id
    }

    /// The key of that id.
    pub fn find(&self, id: KeyId) -> Option<&MasterKey> {
        if id == self.current_id {
            return Some(&self.current);
        }
        self.older
            .iter()
            .find(|(older, _)| *older == id)
            .map(|(_, key)| key)
    }

    /// Adds a key that only reads. One that is in the ring already stays where it is.
    ///
    /// # Errors
    /// [`KeyError::TooManyKeys`].
    pub fn add_older(&mut self, key: MasterKey) -> Result<(), KeyError> {
        let id = key.id();
        if self.find(id).is_some() {
            return Ok(());
        }
        if self.older.len() == OLDER_KEYS_MAX {
            return Err(KeyError::TooManyKeys);
        }
        self.older.push((id, key));
        Ok(())
    }

    /// Starts a new key for new segments; the one so far keeps reading (`hikyaku rekey`).
    ///
    /// # Errors
    /// [`KeyError::TooManyKeys`]; the ring is unchanged then.
    pub fn rekey(&mut self, key: MasterKey) -> Result<(), KeyError> {
        let id = key.id();
        if id == self.current_id {
            return Ok(());
        }
        let known = self.older.iter().position(|(older, _)| *older == id);
        if known.is_none() && self.older.len() == OLDER_KEYS_MAX {
            return Err(KeyError::TooManyKeys);
        }
        if let Some(known) = known {
            self.older.swap_remove(known);
        }
        let last = std::mem::replace(&mut self.current, key);
        self.older
            .push((std::mem::replace(&mut self.current_id, id), last));
        Ok(())
    }

    /// Forgets an older key; true if it was there. Call when no segment names it any more.
    pub fn retire(&mut self, id: KeyId) -> bool {
        let before = self.older.len();
        self.older.retain(|(older, _)| *older != id);
        self.older.len() != before
    }

    /// Ids of the keys that only read.
    pub fn older_ids(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.older.iter().map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_of_a_ring_hold_no_key_bytes_of_their_own() {
        let mut ring = KeyRing::new(MasterKey::from_bytes(&mut [1; KEY_BYTES]));
        let older = ring.current_id();
        ring.rekey(MasterKey::from_bytes(&mut [2; KEY_BYTES]))
            .unwrap();
        let clone = ring.clone();
        let at = |ring: &KeyRing, id| ring.find(id).unwrap().expose().as_ptr();
        for id in [older, ring.current_id()] {
            assert_eq!(at(&ring, id), at(&clone, id));
        }
    }

    const SECRET: &[u8] = b"0123456789abcdef";

    fn cheap(salt: u8) -> KdfParams {
        KdfParams {
            memory_kib: 32,
            passes: 1,
            lanes: 1,
            salt: [salt; SALT_BYTES],
        }
    }

    #[test]
    fn key_depends_on_passphrase_secret_salt_and_cost() {
        let base = derive(b"open sesame", SECRET, &cheap(1)).unwrap();
        let same = derive(b"open sesame", SECRET, &cheap(1)).unwrap();
        assert_eq!(base.id(), same.id());
        let slower = KdfParams {
            passes: 2,
            ..cheap(1)
        };
        let others = [
            derive(b"open sesamf", SECRET, &cheap(1)).unwrap(),
            derive(b"open sesame", b"0123456789abcdeF", &cheap(1)).unwrap(),
            derive(b"open sesame", SECRET, &cheap(2)).unwrap(),
            derive(b"open sesame", SECRET, &slower).unwrap(),
        ];
        for other in &others {
            assert_ne!(other.id(), base.id());
        }
    }

    #[test]
    fn unusable_inputs_are_refused() {
        let err = |result: Result<MasterKey, KeyError>| result.unwrap_err();
        assert_eq!(
            err(derive(b"", SECRET, &cheap(1))),
            KeyError::EmptyPassphrase
        );
        assert_eq!(
            err(derive(b"x", b"short", &cheap(1))),
            KeyError::ShortInstallationSecret { bytes: 5 }
        );
        let huge = KdfParams {
            memory_kib: u32::MAX,
            ..cheap(1)
        };
        assert!(matches!(
            err(derive(b"x", SECRET, &huge)),
            KeyError::Params(_)
        ));
        let none = KdfParams {
            passes: 0,
            ..cheap(1)
        };
        assert!(matches!(
            err(derive(b"x", SECRET, &none)),
            KeyError::Params(_)
        ));
        let long = vec![b'x'; PASSPHRASE_BYTES_MAX + 1];
        assert_eq!(
            err(derive(&long, SECRET, &cheap(1))),
            KeyError::PassphraseTooLong
        );
    }

    #[test]
    fn verifier_tells_a_wrong_key_and_an_altered_file() {
        let key = derive(b"right", SECRET, &cheap(1)).unwrap();
        let verifier = Verifier::new(&key, cheap(1));
        let text = verifier.encode();
        let read = Verifier::parse(&text).unwrap();
        assert_eq!(read, verifier);
        read.check(&key).unwrap();

        let wrong = derive(b"wrong", SECRET, read.params()).unwrap();
        assert_eq!(
            read.check(&wrong),
            Err(KeyError::WrongKey {
                expected: key.id(),
                found: wrong.id()
            })
        );
        let altered = Verifier::parse(&text.replace("passes=1", "passes=2")).unwrap();
        assert_eq!(altered.check(&key), Err(KeyError::AlteredVerifier));
    }

    #[test]
    fn malformed_verifier_names_its_line() {
        let key = derive(b"right", SECRET, &cheap(1)).unwrap();
        let text = Verifier::new(&key, cheap(1)).encode();
        let line_of = |text: &str| match Verifier::parse(text) {
            Err(KeyError::MalformedVerifier { line, .. }) => line,
            other => panic!("{other:?}"),
        };
        assert_eq!(line_of(""), 1);
        assert_eq!(line_of(&text.replace("lanes", "lines")), 2);
        assert_eq!(line_of(&text.replace("salt=01", "salt=+1")), 3);
        assert_eq!(line_of(&text.replace("key_id=", "key_id=0")), 4);
        assert_eq!(line_of(text.split("mac=").next().unwrap()), 5);
        assert_eq!(line_of(&format!("{text}more\n")), 6);
        assert_eq!(
            Verifier::parse(&text.replace("verifier 1", "verifier 2")),
            Err(KeyError::NewerVerifier { version: 2 })
        );
    }

    #[test]
    fn rekey_keeps_the_old_key_for_reading() {
        let key = |n| MasterKey::from_bytes(&mut [n; KEY_BYTES]);
        let (first, second) = (key(1), key(2));
        let mut ring = KeyRing::new(first.clone());
        ring.rekey(second.clone()).unwrap();
        assert_eq!(ring.current_id(), second.id());
        assert_eq!(ring.find(first.id()).map(MasterKey::id), Some(first.id()));
        assert!(ring.find(key(3).id()).is_none());
        assert!(ring.retire(first.id()));
        assert!(ring.find(first.id()).is_none());
        for n in 10..10 + OLDER_KEYS_MAX as u8 {
            ring.add_older(key(n)).unwrap();
        }
        assert_eq!(ring.add_older(key(99)), Err(KeyError::TooManyKeys));
        assert_eq!(ring.rekey(key(99)), Err(KeyError::TooManyKeys));
        assert_eq!(ring.current_id(), second.id());
    }

    #[test]
    fn debug_shows_no_key() {
        let key = MasterKey::from_bytes(&mut [0xab; KEY_BYTES]);
        assert_eq!(format!("{key:?}"), "MasterKey(..)");
        assert!(!format!("{:?}", KeyRing::new(key)).contains("171"));
    }
}
