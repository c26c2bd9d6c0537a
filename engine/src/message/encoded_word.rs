//! Encoded words of an unstructured field (RFC 2047 §2, §6), read.
//!
//! Words are told apart by white space, as §5 has it, and each is decoded by itself, so that the
//! time is in proportion to the field. What is no whole encoded word, or names a charset nobody
//! knows, stays as it stands. `compose::words` writes them.

use mail_parser::parsers::MessageStream;

/// Octets of a field body that are looked at: as many as 255 octets of text need, several times over.
const FIELD_BYTES_MAX: usize = 4096;

/// The field body with its encoded words decoded; `None` if it has none.
pub(super) fn decoded(value: &[u8]) -> Option<String> {
    memchr::memmem::find(value, b"=?")?;
    let value = &value[..value.len().min(FIELD_BYTES_MAX)];
    let mut text = String::with_capacity(value.len());
    let mut is_behind_encoded = false;
    for token in value
        .split(u8::is_ascii_whitespace)
        .filter(|token| !token.is_empty())
    {
        let encoded = word(token);
        // White space between two encoded words only separates them (§6.2).
        if !text.is_empty() && (!is_behind_encoded || encoded.is_none()) {
            text.push(' ');
        }
        is_behind_encoded = encoded.is_some();
        match encoded {
            Some(word) => text.push_str(&word),
            None => text.push_str(&String::from_utf8_lossy(token)),
        }
    }
    Some(text)
}

/// One encoded word, `=?charset?encoding?text?=` and nothing else.
fn word(token: &[u8]) -> Option<String> {
    let inner = token.strip_prefix(b"=?")?.strip_suffix(b"?=")?;
    if inner.iter().filter(|&&b| b == b'?').count() != 2 {
        return None;
    }
    MessageStream::new(&token[1..]).decode_rfc2047()
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn words_are_decoded_and_joined() {
        for (field, text) in [
            ("=?utf-8?q?a?= =?utf-8?q?b?=", "ab"),
            ("=?utf-8?q?a?=\r\n\t=?utf-8?q?b?= c", "ab c"),
            ("x =?utf-8?q?a_=3D?= y", "x a = y"),
            ("=?shift_jis?B?k/qWew==?=", "日本"),
            ("=?utf-8*ja?B?5pel?=", "日"),
        ] {
            assert_eq!(decoded(field.as_bytes()).as_deref(), Some(text), "{field}");
        }
    }

    #[test]
    fn what_is_no_encoded_word_stays() {
        assert_eq!(decoded(b"plain  text"), None);
        for field in [
            "=?utf-8?q?a",
            "=?utf-8?x?a?=",
            "=?=",
            "=??=",
            "a=?utf-8?q?b?=",
            "=?a?b?c?d?=",
        ] {
            assert_eq!(decoded(field.as_bytes()).as_deref(), Some(field), "{field}");
        }
    }

    #[test]
    fn many_openings_take_time_in_proportion() {
        let field = "=?".repeat(1 << 20);
        assert!(decoded(field.as_bytes()).is_some_and(|text| text.len() <= super::FIELD_BYTES_MAX));
    }
}
