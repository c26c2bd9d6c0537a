//! What a message or a recipient has beyond the ordinary, each by a number of its own.
//!
//! ```text
//! tag u8 | bytes u16 | value …     once for each option, tags rising
//! ```
//!
//! Most mail has none. A version that does not know a tag below [`CRITICAL`] keeps the option as it is,
//! through compaction and handovers; one from [`CRITICAL`] on changes what is to be sent, so a message
//! with an unknown one is a [`DecodeError`] and stays on disk for a version that knows it.

use super::DecodeError;
use super::bytes::{Put, Take};
use crate::envelope::{Notify, Recipient, Ret, XTEXT_BYTES_MAX};

/// Tags from here on must be understood.
pub const CRITICAL: u8 = 0x80;
/// Longest options of one message, bytes.
pub const MESSAGE_OPTIONS_BYTES_MAX: usize = 8 * 1024;
/// Longest options of one recipient, bytes.
pub const RECIPIENT_OPTIONS_BYTES_MAX: usize = 2 * 1024;

/// Of a message: [`Ret`], one byte.
const RET: u8 = 1;
/// Of a message: ENVID.
const ENVID: u8 = 2;
/// Of a recipient: [`Notify`], one byte.
const NOTIFY: u8 = 1;
/// Of a recipient: ORCPT.
const ORCPT: u8 = 2;

/// Options as they stand in a record; empty if there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    /// No options.
    pub const NONE: Self = Self(&[]);

    /// The bytes, to be written or kept.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Checks bytes out of a record or from [`Self::as_bytes`].
    ///
    /// # Errors
    /// [`DecodeError`] if they are cut, out of order, or hold a critical option this version does not
    /// know.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut before = None;
        let mut take = Take::new(bytes);
        while !take.is_empty() {
            let (tag, _) = take_one(&mut take)?;
            if tag >= CRITICAL || before.is_some_and(|before| before >= tag) {
                return Err(DecodeError { field: "options" });
            }
            before = Some(tag);
        }
        Ok(Self(bytes))
    }

    fn get(self, wanted: u8) -> Option<&'a [u8]> {
        let mut take = Take::new(self.0);
        while !take.is_empty() {
            let (tag, value) = take_one(&mut take).ok()?;
            if tag == wanted {
                return Some(value);
            }
        }
        None
    }

    fn text(self, tag: u8) -> Option<&'a str> {
        std::str::from_utf8(self.get(tag)?).ok()
    }

    /// Of a message: what a notification returns.
    pub fn ret(self) -> Option<Ret> {
        match self.get(RET)? {
            [1] => Some(Ret::Full),
            [2] => Some(Ret::Headers),
            _ => None,
        }
    }

    /// Of a message: the sender's name for it.
    pub fn envid(self) -> Option<&'a str> {
        self.text(ENVID)
    }

    /// Of a recipient: when the sender wants to hear of it.
    pub fn notify(self) -> Notify {
        match self.get(NOTIFY) {
            Some([bits]) => Notify::from_bits(*bits).unwrap_or_default(),
            _ => Notify::default(),
        }
    }

    /// Of a recipient: whom the sender meant.
    pub fn orcpt(self) -> Option<&'a str> {
        self.text(ORCPT)
    }

    /// Those of a message that are in no field of an envelope, appended to `out`.
    pub fn other_of_message(self, out: &mut Vec<u8>) {
        let mut take = Take::new(self.0);
        while let Ok((tag, value)) = take_one(&mut take) {
            if tag > ENVID {
                put(tag, value, out);
            }
        }
    }
}

/// Appends the options of a message to `out`; `other` as from [`Options::other_of_message`].
pub fn put_message(ret: Option<Ret>, envid: Option<&str>, other: &[u8], out: &mut Vec<u8>) {
    if let Some(ret) = ret {
        let number = match ret {
            Ret::Full => 1,
            Ret::Headers => 2,
        };
        put(RET, &[number], out);
    }
    if let Some(envid) = envid {
        put(ENVID, envid.as_bytes(), out);
    }
    out.extend_from_slice(other);
}

/// Appends the options of a recipient to `out`.
pub fn put_recipient(recipient: &Recipient, out: &mut Vec<u8>) {
    if recipient.notify.is_given() {
        put(NOTIFY, &[recipient.notify.bits()], out);
    }
    if let Some(orcpt) = &recipient.orcpt {
        put(ORCPT, orcpt.as_bytes(), out);
    }
}

fn put(tag: u8, value: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.put_u16(value.len() as u16);
    out.extend_from_slice(value);
}

fn take_one<'a>(take: &mut Take<'a>) -> Result<(u8, &'a [u8]), DecodeError> {
    let tag = take.u8()?;
    let length = take.u16()?;
    Ok((tag, take.bytes(usize::from(length))?))
}

const _: () = assert!(
    MESSAGE_OPTIONS_BYTES_MAX >= 2 * (3 + XTEXT_BYTES_MAX)
        && RECIPIENT_OPTIONS_BYTES_MAX >= 2 * (3 + XTEXT_BYTES_MAX)
        && MESSAGE_OPTIONS_BYTES_MAX <= u16::MAX as usize
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;

    #[test]
    fn options_of_rfc_3461_read_back() {
        let mut bytes = Vec::new();
        put_message(Some(Ret::Headers), Some("QQ314159"), &[], &mut bytes);
        let options = Options::decode(&bytes).unwrap();
        assert_eq!(
            (options.ret(), options.envid()),
            (Some(Ret::Headers), Some("QQ314159"))
        );
        bytes.clear();
        let notify = Notify::SUCCESS.with(Notify::DELAY);
        put_recipient(
            &Recipient {
                notify,
                orcpt: Some("rfc822;a+2Bb@example.jp".into()),
                ..Recipient::from(Address::parse("a@example.jp").unwrap())
            },
            &mut bytes,
        );
        let options = Options::decode(&bytes).unwrap();
        assert_eq!(options.notify(), notify);
        assert_eq!(options.orcpt(), Some("rfc822;a+2Bb@example.jp"));
    }

    #[test]
    fn unknown_option_is_kept_and_a_critical_one_refused() {
        let later = [0x20, 3, 0, b'n', b'e', b'w'];
        let mut bytes = Vec::new();
        put_message(Some(Ret::Full), None, &later, &mut bytes);
        let options = Options::decode(&bytes).unwrap();
        assert_eq!(options.ret(), Some(Ret::Full));
        let mut other = Vec::new();
        options.other_of_message(&mut other);
        assert_eq!(other, later);
        let field = "options";
        assert_eq!(
            Options::decode(&[CRITICAL, 0, 0]),
            Err(DecodeError { field })
        );
        assert_eq!(
            Options::decode(&[2, 0, 0, 1, 0, 0]),
            Err(DecodeError { field }),
            "tags rise"
        );
        assert!(Options::decode(&[2, 5, 0, 1]).is_err(), "cut");
    }
}
