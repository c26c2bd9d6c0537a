//! The carrier emoji table, read once from `carriers.txt`, and the search for a symbol in a text.
//!
//! Symbols that Unicode lacks stand at U+10F000 and on inside Hikyaku, in the last private plane
//! where no carrier and no font has anything; they never leave it (`charset.rs` writes their label).

use std::collections::HashMap;
use std::sync::OnceLock;

use super::EmojiSet;

const SOURCE: &str = include_str!("carriers.txt");

/// First of the internal code points of symbols without Unicode.
const UNICODELESS: u32 = 0x10F000;

/// What a carrier has for a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// Both directions hold; otherwise only Unicode to carrier.
    pub exact: bool,
    /// Private-use codes; the second is 0 unless two symbols together make the picture.
    pub private: [u16; 2],
}

/// One symbol.
#[derive(Debug)]
pub struct Emoji {
    /// The Unicode sequence without U+FE0F, or one internal code point from U+10F000 on.
    pub unicode: Box<str>,
    /// docomo, au, SoftBank.
    pub codes: [Option<Code>; 3],
    /// Stand-in where a carrier has nothing, such as `[カエル]`; may be empty.
    pub label: &'static str,
    /// A carrier's Japanese name where it differs from the stand-in, or empty.
    pub name: &'static str,
}

impl Emoji {
    /// What `set` has for this symbol.
    pub const fn code(&self, set: EmojiSet) -> Option<Code> {
        self.codes[set as usize]
    }

    /// Unicode has no such symbol.
    pub fn is_unicodeless(&self) -> bool {
        self.unicode
            .chars()
            .next()
            .is_some_and(|c| c as u32 >= UNICODELESS)
    }
}

struct Table {
    /// Sorted by first character, the longer sequence first.
    rows: Vec<Emoji>,
    /// First character to its rows.
    first: HashMap<char, (u16, u16)>,
    /// Characters of the basic plane that begin a symbol, one bit each.
    basic: Box<[u64; 1024]>,
    /// Private-use code to its exact row, per carrier.
    private: [HashMap<u16, u16>; 3],
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        Table::new(
            SOURCE
                .lines()
                .filter(|l| !l.starts_with('#'))
                .map(parse_row),
        )
    })
}

/// Every row, in no particular order.
pub fn rows() -> &'static [Emoji] {
    &table().rows
}

/// A malformed line is a fault of the build, found by every test that touches the table.
fn parse_row(line: &'static str) -> Emoji {
    let mut cells = line.split(';');
    let mut cell = || cells.next().expect("carriers.txt: six cells a line");
    let unicode = match cell() {
        special if special.starts_with('@') => {
            let number: u32 = special[1..].parse().expect("carriers.txt: @ and a number");
            char::from_u32(UNICODELESS + number)
                .into_iter()
                .collect::<String>()
        }
        hex => hex
            .split('+')
            .filter_map(|h| char::from_u32(number(h, 0x10_FFFF)))
            .collect(),
    };
    let codes = [cell(), cell(), cell()].map(parse_code);
    Emoji {
        unicode: unicode.into(),
        codes,
        label: cell(),
        name: cell(),
    }
}

fn parse_code(cell: &str) -> Option<Code> {
    let exact = !cell.starts_with('~');
    let (first, second) = match cell.trim_start_matches('~') {
        "-" => return None,
        both => both.split_once('+').unwrap_or((both, "0")),
    };
    let private = [number(first, 0xFFFF) as u16, number(second, 0xFFFF) as u16];
    Some(Code { exact, private })
}

fn number(hex: &str, max: u32) -> u32 {
    let value = u32::from_str_radix(hex, 16).expect("carriers.txt: hexadecimal");
    assert!(value <= max, "carriers.txt: {hex} too large");
    value
}

impl Table {
    fn new(rows: impl Iterator<Item = Emoji>) -> Self {
        let mut rows: Vec<Emoji> = rows.collect();
        let first_of = |e: &Emoji| {
            e.unicode
                .chars()
                .next()
                .expect("carriers.txt: no empty row")
        };
        rows.sort_by_key(|e| (first_of(e), usize::MAX - e.unicode.len()));
        let mut table = Self {
            first: HashMap::new(),
            basic: Box::new([0; 1024]),
            private: Default::default(),
            rows: Vec::new(),
        };
        for (at, row) in rows.iter().enumerate() {
            let at = at as u16;
            let c = first_of(row);
            table.first.entry(c).or_insert((at, at)).1 = at + 1;
            if (c as usize) < 0x1_0000 {
                table.basic[c as usize / 64] |= 1 << (c as usize % 64);
            }
            for (set, code) in row.codes.iter().enumerate() {
                if let Some(code) = code.filter(|code| code.exact) {
                    table.private[set].insert(code.private[0], at);
                }
            }
        }
        table.rows = rows;
        table
    }

    fn candidates(&self, c: char) -> &[Emoji] {
        let at = c as usize;
        if at < 0x1_0000 && self.basic[at / 64] >> (at % 64) & 1 == 0 {
            return &[];
        }
        self.first
            .get(&c)
            .map_or(&[], |&(from, to)| &self.rows[from as usize..to as usize])
    }
}

/// The symbol of `set` at a private-use code.
pub fn of_private(set: EmojiSet, private: u16) -> Option<&'static Emoji> {
    let table = table();
    table.private[set as usize]
        .get(&private)
        .map(|&at| &table.rows[at as usize])
}

/// Characters that only change the emoji before them and mean nothing to a carrier.
pub const fn is_modifier(c: char) -> bool {
    matches!(c, '\u{FE0E}' | '\u{FE0F}' | '\u{200D}' | '\u{1F3FB}'..='\u{1F3FF}'
        | '\u{E0020}'..='\u{E007F}')
}

/// The symbol `text` begins with and how many bytes it takes with its modifiers: variation
/// selectors, skin tones, tags, and everything joined behind it by U+200D.
///
/// The row is `None` for an emoji newer than the carriers' sets.
pub fn match_at(text: &str) -> Option<(Option<&'static Emoji>, usize)> {
    let first = text.chars().next()?;
    let found = table()
        .candidates(first)
        .iter()
        .find_map(|row| Some((row, match_sequence(&row.unicode, text)?)));
    let (row, mut bytes) = match found {
        Some((row, bytes)) => (Some(row), bytes),
        None if is_newer_emoji(first) => (None, first.len_utf8()),
        None => return None,
    };
    bytes += tail_bytes(&text[bytes..]);
    Some((row, bytes))
}

/// Bytes of `text` that spell `sequence`, U+FE0F between its members not counted.
fn match_sequence(sequence: &str, text: &str) -> Option<usize> {
    let mut rest = text;
    for wanted in sequence.chars() {
        let mut chars = rest.chars();
        let mut c = chars.next()?;
        if c == '\u{FE0F}' && wanted != c {
            c = chars.next()?;
        }
        if c != wanted {
            return None;
        }
        rest = chars.as_str();
    }
    Some(text.len() - rest.len())
}

fn tail_bytes(text: &str) -> usize {
    let mut rest = text;
    while let Some(c) = rest.chars().next().filter(|&c| is_modifier(c)) {
        rest = &rest[c.len_utf8()..];
        if c == '\u{200D}'
            && let Some(joined) = rest.chars().next().filter(|&c| c as u32 >= 0x2000)
        {
            rest = &rest[joined.len_utf8()..];
        }
    }
    text.len() - rest.len()
}

/// Emoji blocks of Unicode, for what the carriers never had.
const fn is_newer_emoji(c: char) -> bool {
    matches!(c, '\u{1F000}'..='\u{1FAFF}' | '\u{2600}'..='\u{27BF}' | '\u{2B00}'..='\u{2BFF}'
        | '\u{23E9}'..='\u{23FA}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> (Option<&str>, usize) {
        let (row, bytes) = match_at(text).unwrap();
        (row.map(|r| &*r.unicode), bytes)
    }

    #[test]
    fn longest_sequence_is_found_with_its_modifiers() {
        assert_eq!(found("\u{2600}\u{FE0F}です"), (Some("\u{2600}"), 6));
        assert_eq!(found("1\u{FE0F}\u{20E3}"), (Some("1\u{20E3}"), 7));
        assert_eq!(
            found("\u{1F1EF}\u{1F1F5}\u{1F1EF}"),
            (Some("\u{1F1EF}\u{1F1F5}"), 8)
        );
        assert_eq!(found("\u{1F44D}\u{1F3FD}!"), (Some("\u{1F44D}"), 8));
        let family = "\u{1F468}\u{200D}\u{1F469}\u{200D}\u{1F467}x";
        assert_eq!(found(family), (Some("\u{1F468}"), family.len() - 1));
        assert_eq!(found("\u{1F9A5}\u{FE0F}"), (None, 7));
        assert!(match_at("1 is a digit").is_none());
        assert!(match_at("晴れ").is_none());
    }

    #[test]
    fn every_code_of_a_carrier_has_one_exact_symbol() {
        let counts = EmojiSet::ALL.map(|set| table().private[set as usize].len());
        assert_eq!(counts, [282, 647, 485]);
        assert_eq!(rows().len(), 815);
    }
}
