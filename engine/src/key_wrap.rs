//! One master key kept under another, so that after `hikyaku rekey` one passphrase opens old and
//! new segments.
//!
//! HKDF-SHA256 over the newer key, with a fresh nonce as salt, gives a pad that is used once and a
//! key for HMAC-SHA256 over nonce, key id and ciphertext.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroize;

use crate::keys::{KEY_BYTES, KeyId, MasterKey};

/// Bytes of the nonce.
pub const WRAP_NONCE_BYTES: usize = 16;

/// Bytes of a wrapped key: version, nonce, id and ciphertext of the key, MAC.
pub const WRAPPED_KEY_BYTES: usize = 1 + WRAP_NONCE_BYTES + KeyId::BYTES + KEY_BYTES + MAC_BYTES;

const MAC_BYTES: usize = 32;
const VERSION: u8 = 1;
const INFO: &[u8] = b"hikyaku wrapped key 1";

/// A wrapped key cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnwrapError {
    /// Not the length of a wrapped key, or another version.
    NotAWrappedKey,
    /// It was wrapped under another key, or altered.
    WrongKey,
}

impl fmt::Display for UnwrapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAWrappedKey => "not a wrapped key of a version known here",
            Self::WrongKey => "wrapped under another key, or altered: restore it from a copy",
        })
    }
}

impl std::error::Error for UnwrapError {}

/// `key` under `under`. `nonce` must be fresh from the system's random source.
pub fn wrap(
    key: &MasterKey,
    under: &MasterKey,
    nonce: &[u8; WRAP_NONCE_BYTES],
) -> [u8; WRAPPED_KEY_BYTES] {
    let mut derived = derived(under, nonce);
    let (pad, mac_key) = derived.split_at(KEY_BYTES);
    let mut out = [0; WRAPPED_KEY_BYTES];
    out[0] = VERSION;
    let (text, mac) = out.split_at_mut(WRAPPED_KEY_BYTES - MAC_BYTES);
    let (head, ciphertext) = text.split_at_mut(1 + WRAP_NONCE_BYTES + KeyId::BYTES);
    head[1..=WRAP_NONCE_BYTES].copy_from_slice(nonce);
    head[1 + WRAP_NONCE_BYTES..].copy_from_slice(&key.id().0);
    for ((out, byte), pad) in ciphertext.iter_mut().zip(key.expose()).zip(pad) {
        *out = byte ^ pad;
    }
    mac.copy_from_slice(&keyed_mac(mac_key, text).finalize().into_bytes());
    derived.zeroize();
    out
}

/// The key that was wrapped under `under`.
///
/// # Errors
/// [`UnwrapError`].
pub fn unwrap(wrapped: &[u8], under: &MasterKey) -> Result<MasterKey, UnwrapError> {
    if wrapped.len() != WRAPPED_KEY_BYTES || wrapped[0] != VERSION {
        return Err(UnwrapError::NotAWrappedKey);
    }
    let (text, mac) = wrapped.split_at(WRAPPED_KEY_BYTES - MAC_BYTES);
    let nonce = text[1..].first_chunk().ok_or(UnwrapError::NotAWrappedKey)?;
    let mut derived = derived(under, nonce);
    let (pad, mac_key) = derived.split_at(KEY_BYTES);
    let genuine = keyed_mac(mac_key, text).verify_slice(mac).is_ok();
    let mut key = [0; KEY_BYTES];
    for ((out, byte), pad) in key.iter_mut().zip(&text[text.len() - KEY_BYTES..]).zip(pad) {
        *out = byte ^ pad;
    }
    derived.zeroize();
    // `from_bytes` zeroes what it is given, so the key is made even if it is then thrown away.
    let key = MasterKey::from_bytes(&mut key);
    if genuine {
        Ok(key)
    } else {
        Err(UnwrapError::WrongKey)
    }
}

fn derived(under: &MasterKey, nonce: &[u8; WRAP_NONCE_BYTES]) -> [u8; 2 * KEY_BYTES] {
    let mut derived = [0; 2 * KEY_BYTES];
    under.expand(nonce, &[INFO], &mut derived);
    derived
}

fn keyed_mac(key: &[u8], text: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key length");
    mac.update(text);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> MasterKey {
        MasterKey::from_bytes(&mut [n; KEY_BYTES])
    }

    #[test]
    fn a_wrapped_key_opens_under_its_key_only() {
        let wrapped = wrap(&key(1), &key(2), &[7; WRAP_NONCE_BYTES]);
        assert_eq!(unwrap(&wrapped, &key(2)).unwrap().id(), key(1).id());
        assert_eq!(
            unwrap(&wrapped, &key(3)).unwrap_err(),
            UnwrapError::WrongKey
        );
        assert_eq!(
            unwrap(&wrapped[1..], &key(2)).unwrap_err(),
            UnwrapError::NotAWrappedKey
        );
        assert!(
            !wrapped.windows(4).any(|bytes| bytes == [1; 4]),
            "the key shows"
        );
    }

    #[test]
    fn no_bit_of_a_wrapped_key_can_be_altered() {
        let wrapped = wrap(&key(1), &key(2), &[7; WRAP_NONCE_BYTES]);
        for bit in 0..wrapped.len() * 8 {
            let mut altered = wrapped;
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(unwrap(&altered, &key(2)).is_err(), "bit {bit}");
        }
    }
}
