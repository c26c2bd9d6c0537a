//! Diagnostic text made comparable: what every rule is matched against.
//!
//! Lower case, one space between words, typographic quotes made plain, addresses replaced by
//! `{addr}`, and the reply and status codes at the head of each reply line taken out, since a
//! long reply repeats them in the middle of its sentences. White space between two wide (CJK)
//! characters goes too: Japanese notices break lines inside words.

/// Bytes of a diagnostic text that rules look at; what follows is cut off.
pub const TEXT_BYTES_MAX: usize = 4096;

/// Writes the comparable form of `text` into `out`, which is cleared first.
pub(super) fn normalise(text: &str, out: &mut String) {
    out.clear();
    let text = clip(text, TEXT_BYTES_MAX);
    let mut words = text.split(|c: char| c.is_whitespace() || c == '\u{a0}' || c == '\u{200b}');
    let mut previous_wide = false;
    let mut code_may_follow = true;
    for word in words.by_ref() {
        if word.is_empty() {
            continue;
        }
        let mut word = word;
        if is_reply_code(word) || (code_may_follow && is_status(word)) {
            code_may_follow = true;
            continue;
        }
        code_may_follow = false;
        if let Some(rest) = strip_continued_code(word) {
            word = rest;
            code_may_follow = true;
            if word.is_empty() || is_status(word) {
                continue;
            }
        }
        let first_wide = word.chars().next().is_some_and(is_wide);
        let joined = previous_wide && first_wide;
        if !joined && !out.is_empty() {
            out.push(' ');
        }
        push_word(word, out);
        previous_wide = word.chars().next_back().is_some_and(is_wide);
    }
}

/// The longest prefix of `text` of at most `bytes_max` bytes that ends between characters.
pub(super) fn clip(text: &str, bytes_max: usize) -> &str {
    if text.len() <= bytes_max {
        return text;
    }
    let mut end = bytes_max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn push_word(word: &str, out: &mut String) {
    if memchr::memchr(b'@', word.as_bytes()).is_some() && push_masked(word, out) {
        return;
    }
    push_lower(word, out);
}

fn push_lower(word: &str, out: &mut String) {
    for c in word.chars() {
        match c {
            'A'..='Z' => out.push(c.to_ascii_lowercase()),
            '\u{2018}' | '\u{2019}' => out.push('\''),
            '\u{201c}' | '\u{201d}' => out.push('"'),
            '\u{2010}'..='\u{2013}' => out.push('-'),
            c if c.is_ascii() => out.push(c),
            c => out.extend(c.to_lowercase()),
        }
    }
}

/// Replaces the address in `word`; `false` if there is none.
fn push_masked(word: &str, out: &mut String) -> bool {
    let bytes = word.as_bytes();
    let Some(at) = memchr::memrchr(b'@', bytes) else {
        return false;
    };
    let local = bytes[..at]
        .iter()
        .rev()
        .take_while(|b| is_local(**b))
        .count();
    let domain = bytes[at + 1..]
        .iter()
        .take_while(|b| is_domain(**b))
        .count();
    if local == 0 || domain == 0 {
        return false;
    }
    push_lower(&word[..at - local], out);
    out.push_str("{addr}");
    push_lower(&word[at + 1 + domain..], out);
    true
}

fn is_local(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.@\"".contains(&b)
}

fn is_domain(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_'
}

fn is_wide(c: char) -> bool {
    c >= '\u{2e80}'
}

/// `550`, as a word of its own.
fn is_reply_code(word: &str) -> bool {
    let b = word.as_bytes();
    b.len() == 3 && matches!(b[0], b'2' | b'4' | b'5') && b[1] <= b'5' && digits(&b[1..])
}

/// `550-text` gives `text`.
fn strip_continued_code(word: &str) -> Option<&str> {
    let b = word.as_bytes();
    (b.len() >= 4 && b[3] == b'-' && is_reply_code(word.get(..3)?)).then(|| &word[4..])
}

/// `5.1.1`, as a word of its own, perhaps with a colon.
fn is_status(word: &str) -> bool {
    let word = word.trim_end_matches(':');
    crate::status::EnhancedStatus::parse(word).is_some()
}

fn digits(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str) -> String {
        let mut out = String::new();
        normalise(text, &mut out);
        out
    }

    #[test]
    fn codes_inside_a_long_reply_do_not_break_its_sentences() {
        let reply = "550-5.1.1 The email account that you tried\r\n550 5.1.1 to  reach";
        assert_eq!(normal(reply), "the email account that you tried to reach");
        assert_eq!(
            normal("550 <a.b@Example.JP>: User Unknown"),
            "<{addr}>: user unknown"
        );
        assert_eq!(normal("say 5.1.1 aloud"), "say 5.1.1 aloud");
    }

    #[test]
    fn japanese_lines_are_joined_and_quotes_made_plain() {
        assert_eq!(normal("メール\r\n アドレス が"), "メールアドレスが");
        assert_eq!(normal("wasn\u{2019}t found"), "wasn't found");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let long = "あ".repeat(TEXT_BYTES_MAX);
        assert!(normal(&long).len() <= TEXT_BYTES_MAX);
    }
}
