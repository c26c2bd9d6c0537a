//! Names for `emoji("...")`: English names and shortcodes of Unicode, the carriers' Japanese names,
//! or the code points themselves.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::table::{Emoji, rows};

/// The emoji called `name`, as Unicode text with U+FE0F where it makes the picture coloured.
///
/// `name`: `sun`, `sunny`, `:sunny:`, `カエル`, `U+2600` or `2600 FE0F`.
pub fn by_name(name: &str) -> Option<&'static str> {
    let name = name.trim().trim_matches(':');
    if let Some(found) = names().get(name) {
        return Some(found);
    }
    let lower = name.to_lowercase();
    if let Some(found) = names().get(lower.as_str()) {
        return Some(found);
    }
    let hex = lower
        .split_whitespace()
        .map(|part| part.trim_start_matches("u+"));
    let chars: Option<String> = hex
        .map(|h| u32::from_str_radix(h, 16).ok().and_then(char::from_u32))
        .collect();
    emojis::get(&chars.filter(|c| !c.is_empty())?).map(emojis::Emoji::as_str)
}

fn names() -> &'static HashMap<&'static str, &'static str> {
    static NAMES: OnceLock<HashMap<&'static str, &'static str>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let mut names = HashMap::new();
        for emoji in emojis::iter() {
            names.entry(emoji.name()).or_insert(emoji.as_str());
            for shortcode in emoji.shortcodes() {
                names.entry(shortcode).or_insert(emoji.as_str());
            }
        }
        for row in rows() {
            let label = row.label.trim_matches(['[', ']']);
            for name in [label, row.name]
                .into_iter()
                .filter(|name| !name.is_empty())
            {
                names.entry(name).or_insert_with(|| text_of(row));
            }
        }
        names
    })
}

fn text_of(row: &'static Emoji) -> &'static str {
    emojis::get(&row.unicode).map_or(&row.unicode, emojis::Emoji::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_shortcodes_japanese_and_code_points_are_known() {
        for name in ["sun", ":sunny:", "Sun", "太陽", "U+2600", "2600 FE0F"] {
            assert_eq!(by_name(name), Some("\u{2600}\u{FE0F}"), "{name}");
        }
        assert_eq!(by_name("カエル"), Some("\u{1F438}"));
        assert_eq!(by_name("iモード"), Some("\u{10F001}"));
        assert_eq!(by_name("no such thing"), None);
        assert_eq!(by_name(""), None);
    }
}
