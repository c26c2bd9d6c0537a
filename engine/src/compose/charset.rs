//! Character sets on the wire: UTF-8, ISO-2022-JP, Shift_JIS and the carriers' dialects of them.
//!
//! [`Units`] walks a text and says, one character after the other, what goes out for it; body text
//! ([`encode_body`]) and header words (`words.rs`) are both built on it, so they cannot differ. What
//! the set lacks is replaced (`substitute.rs`) and counted in [`Units::lost`]; the caller decides
//! whether to send it so or to fall to UTF-8. [`decode`] is the way back.
//!
//! Why not encoding_rs alone: it writes 271 kanji into rows 79-7C of ISO-2022-JP and 138 into leads
//! FA-FC of Shift_JIS, where au and SoftBank show emoji, and it knows none of their symbols. Its
//! tables are used, its choices are not: NEC's extra kanji go out as ED/EE in Shift_JIS and as a
//! related kanji in ISO-2022-JP.

use std::sync::OnceLock;

use super::emoji::{self, EmojiSet};
use super::substitute;

/// A character set as it goes on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Wire {
    /// UTF-8 with Unicode emoji.
    #[default]
    Utf8,
    /// ISO-2022-JP without emoji: JIS X 0208 and NEC row 13.
    Jis,
    /// Shift_JIS without emoji: JIS X 0208, NEC row 13 and NEC's kanji at ED, EE.
    Sjis,
    /// Shift_JIS with docomo's emoji.
    DocomoSjis,
    /// ISO-2022-JP with au's emoji in rows 75-7B.
    AuJis,
    /// Shift_JIS with au's emoji.
    AuSjis,
    /// UTF-8 with SoftBank's private-use emoji.
    SoftbankUtf8,
    /// Shift_JIS with SoftBank's emoji.
    SoftbankSjis,
}

/// How a wire writes characters, whatever emoji it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Utf8,
    Jis,
    Sjis,
}

impl Wire {
    /// Every wire, in the order of `self as usize`.
    pub const ALL: [Self; 8] = [
        Self::Utf8,
        Self::Jis,
        Self::Sjis,
        Self::DocomoSjis,
        Self::AuJis,
        Self::AuSjis,
        Self::SoftbankUtf8,
        Self::SoftbankSjis,
    ];

    /// The charset parameter's value: a plain name, since mail programs know no carrier's dialect.
    pub const fn charset_name(self) -> &'static str {
        match self.form() {
            Form::Utf8 => "utf-8",
            Form::Jis => "iso-2022-jp",
            Form::Sjis => "shift_jis",
        }
    }

    /// Whose emoji it carries, `None` for plain sets.
    pub const fn emoji_set(self) -> Option<EmojiSet> {
        match self {
            Self::Utf8 | Self::Jis | Self::Sjis => None,
            Self::DocomoSjis => Some(EmojiSet::Docomo),
            Self::AuJis | Self::AuSjis => Some(EmojiSet::Au),
            Self::SoftbankUtf8 | Self::SoftbankSjis => Some(EmojiSet::Softbank),
        }
    }

    const fn form(self) -> Form {
        match self {
            Self::Utf8 | Self::SoftbankUtf8 => Form::Utf8,
            Self::Jis | Self::AuJis => Form::Jis,
            Self::Sjis | Self::DocomoSjis | Self::AuSjis | Self::SoftbankSjis => Form::Sjis,
        }
    }

    /// Characters switch by escape sequence and every run must end in ASCII.
    pub const fn has_escapes(self) -> bool {
        matches!(self.form(), Form::Jis)
    }

    /// Characters are UTF-8.
    pub const fn is_utf8(self) -> bool {
        matches!(self.form(), Form::Utf8)
    }
}

/// What goes out for one character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// One byte that stands for itself, or Shift_JIS half-width kana.
    Single(u8),
    /// Two bytes, in ISO-2022-JP between `ESC $ B` and `ESC ( B`.
    Double(u16),
    /// A character in UTF-8.
    Char(char),
}

/// Fullwidth code in Shift_JIS of every character that has one; 0 for none.
fn sjis_table() -> &'static [u16; 0x1_0000] {
    static TABLE: OnceLock<Box<[u16; 0x1_0000]>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table: Box<[u16; 0x1_0000]> = Box::new([0; 0x1_0000]);
        // JIS X 0208 first, so that its code wins where NEC repeats a sign; then row 13, then NEC's
        // kanji. F0-FC stay out: user-defined there, and emoji at the carriers.
        let leads = (0x81..=0x84)
            .chain(0x88..=0x9F)
            .chain(0xE0..=0xEA)
            .chain([0x87, 0xED, 0xEE]);
        for lead in leads {
            for trail in (0x40..=0x7E).chain(0x80..=0xFC) {
                if let Some(c) = decode_double(lead, trail) {
                    let slot = &mut table[c as usize & 0xFFFF];
                    if *slot == 0 {
                        *slot = u16::from(lead) << 8 | u16::from(trail);
                    }
                }
            }
        }
        table
    })
}

fn decode_double(lead: u8, trail: u8) -> Option<char> {
    let pair = [lead, trail];
    let (text, _, malformed) = encoding_rs::SHIFT_JIS.decode(&pair);
    let mut chars = text.chars();
    match (malformed, chars.next(), chars.next()) {
        (false, Some(c), None) if !('\u{E000}'..='\u{F8FF}').contains(&c) => Some(c),
        _ => None,
    }
}

/// Signs that Unicode has twice, as the tables of Windows and encoding_rs know them.
const fn unify(c: char) -> char {
    match c {
        '\u{301C}' => '\u{FF5E}',
        '\u{2014}' => '\u{2015}',
        '\u{2016}' => '\u{2225}',
        '\u{2212}' => '\u{FF0D}',
        '\u{A2}' => '\u{FFE0}',
        '\u{A3}' => '\u{FFE1}',
        '\u{AC}' => '\u{FFE2}',
        '\u{A5}' => '\u{FFE5}',
        '\u{203E}' => '\u{FFE3}',
        other => other,
    }
}

/// Walks a text and yields what goes out for each character.
#[derive(Debug)]
pub struct Units<'a> {
    wire: Wire,
    rest: &'a str,
    /// A replacement being spelled out before `rest` goes on.
    pending: &'static str,
    /// Second half of a two-symbol emoji.
    second: Option<Unit>,
    /// Characters replaced by something less than themselves. A carrier's stand-in for an emoji it
    /// lacks does not count: no other encoding would serve that carrier better.
    pub lost: usize,
    /// The first of them.
    pub first_lost: Option<char>,
}

impl<'a> Units<'a> {
    /// What `wire` carries for `text`.
    pub const fn new(wire: Wire, text: &'a str) -> Self {
        Self {
            wire,
            rest: text,
            pending: "",
            second: None,
            lost: 0,
            first_lost: None,
        }
    }

    /// The text not yet walked.
    pub const fn rest(&self) -> &'a str {
        self.rest
    }

    fn lose(&mut self, c: char) {
        self.lost += 1;
        self.first_lost.get_or_insert(c);
    }

    fn take(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    fn emoji(&mut self, c: char) -> Option<Option<Unit>> {
        if self.wire == Wire::Utf8 {
            return None;
        }
        let (row, bytes) = emoji::match_at(self.rest)?;
        let Some(set) = self.wire.emoji_set() else {
            // A plain set may have the sign itself: arrows, ㊙ are not worth a stand-in.
            if let Some(unit) = self.plain(c) {
                self.take(bytes);
                return Some(Some(unit));
            }
            self.lose(c);
            self.take(bytes);
            self.pending = row.map_or("〓", |row| row.label);
            return Some(None);
        };
        self.take(bytes);
        match row.and_then(|row| row.code(set)) {
            Some(code) => {
                let [first, second] = code.private;
                self.second = (second != 0).then(|| self.symbol(set, second)).flatten();
                Some(self.symbol(set, first))
            }
            None => {
                match self.plain(c) {
                    Some(unit) => return Some(Some(unit)),
                    None => self.pending = row.map_or("〓", |row| row.label),
                }
                Some(None)
            }
        }
    }

    /// A carrier's symbol on this wire.
    fn symbol(&self, set: EmojiSet, private: u16) -> Option<Unit> {
        let sjis = emoji::sjis_of(set, private)?;
        Some(match self.wire.form() {
            Form::Utf8 => Unit::Char(char::from_u32(u32::from(private))?),
            Form::Jis => Unit::Double(emoji::au_jis_of(sjis)),
            Form::Sjis => Unit::Double(sjis),
        })
    }

    /// A character of the set itself.
    fn plain(&self, c: char) -> Option<Unit> {
        let c = unify(c);
        let code = match sjis_table().get(c as usize) {
            Some(&code) if code != 0 => code,
            _ => return None,
        };
        match self.wire.form() {
            Form::Utf8 => None,
            Form::Sjis => Some(Unit::Double(code)),
            // NEC's kanji would be rows 89-92, written 79-7C: au's emoji.
            Form::Jis if code >= 0xED40 => None,
            Form::Jis => Some(Unit::Double(emoji::jis_of_sjis(code))),
        }
    }

    fn next_wide(&mut self, c: char) -> Option<Unit> {
        if let Some(done) = self.emoji(c) {
            return done;
        }
        self.take(c.len_utf8());
        if let Some(unit) = self.private(c) {
            return Some(unit);
        }
        if self.wire.is_utf8() {
            if self.wire == Wire::SoftbankUtf8 && emoji::is_modifier(c) {
                return None;
            }
            return Some(Unit::Char(c));
        }
        if let half @ '\u{FF61}'..='\u{FF9F}' = c {
            if self.wire.form() == Form::Sjis {
                return Some(Unit::Single((half as u32 - 0xFF61 + 0xA1) as u8));
            }
            let (wide, bytes) = substitute::widen_kana(half, self.rest);
            self.take(bytes);
            return self.plain(wide);
        }
        if let Some(unit) = self.plain(c) {
            return Some(unit);
        }
        if substitute::is_invisible(c) {
            return None;
        }
        self.lose(c);
        self.pending = substitute::stand_in(c, self.wire.form() == Form::Jis);
        None
    }

    /// A carrier's own private-use code, met in data that came from one.
    fn private(&self, c: char) -> Option<Unit> {
        let private = u16::try_from(c as u32)
            .ok()
            .filter(|p| (0xE000..0xF900).contains(p))?;
        let set = self.wire.emoji_set()?;
        self.symbol(set, private).or_else(|| {
            let sjis = (set == EmojiSet::Au).then(|| emoji::au_internal_sjis(private))??;
            self.symbol(set, emoji::private_of(set, sjis)?)
        })
    }
}

impl Iterator for Units<'_> {
    type Item = Unit;

    fn next(&mut self) -> Option<Unit> {
        if let Some(second) = self.second.take() {
            return Some(second);
        }
        loop {
            if let Some(c) = self.pending.chars().next() {
                self.pending = &self.pending[c.len_utf8()..];
                // Stand-ins are written in ASCII and JIS X 0208; half-width kana in a label widen.
                let wide = match c {
                    '\u{FF61}'..='\u{FF9F}' => substitute::widen_kana(c, "").0,
                    other => other,
                };
                match wide {
                    ascii if ascii.is_ascii() => return Some(Unit::Single(ascii as u8)),
                    wide if self.wire.is_utf8() => return Some(Unit::Char(wide)),
                    wide => match self.plain(wide) {
                        Some(unit) => return Some(unit),
                        None => continue,
                    },
                }
            }
            let bytes = self.rest.as_bytes();
            let &first = bytes.first()?;
            if first < 0x80 && !matches!(bytes.get(1), Some(0xE2 | 0xEF)) {
                self.take(1);
                return Some(Unit::Single(first));
            }
            let c = self.rest.chars().next()?;
            if c.is_ascii() && (self.wire == Wire::Utf8 || emoji::match_at(self.rest).is_none()) {
                self.take(1);
                return Some(Unit::Single(first));
            }
            if self.wire == Wire::Utf8 {
                self.take(c.len_utf8());
                if c < '\u{10F000}' {
                    return Some(Unit::Char(c));
                }
                match emoji::match_at(&c.to_string()) {
                    Some((Some(row), _)) => self.pending = row.label,
                    _ => return Some(Unit::Char(c)),
                }
                continue;
            }
            if let Some(unit) = self.next_wide(c) {
                return Some(unit);
            }
        }
    }
}

/// Characters of a text that its wire cannot carry as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// How many.
    pub count: usize,
    /// The first of them.
    pub first: Option<char>,
}

impl Lost {
    /// Adds the losses of one more text.
    pub fn add(&mut self, other: Self) {
        self.count += other.count;
        self.first = self.first.or(other.first);
    }
}

/// Appends `text` in `wire` with CRLF line ends; CR LF, CR and LF all count as one.
///
/// ISO-2022-JP returns to ASCII before every line end and at the end of the text.
pub fn encode_body(wire: Wire, text: &str, out: &mut Vec<u8>) -> Lost {
    out.reserve(text.len() + text.len() / 16);
    if wire == Wire::Utf8 && memchr::memchr(0xF4, text.as_bytes()).is_none() {
        copy_lines(text.as_bytes(), out);
        return Lost::default();
    }
    let mut units = Units::new(wire, text);
    let mut double = false;
    let mut after_cr = false;
    for unit in units.by_ref() {
        let lf_done = std::mem::take(&mut after_cr);
        if wire.has_escapes() {
            switch(matches!(unit, Unit::Double(_)), &mut double, out);
        }
        match unit {
            Unit::Single(b'\r') => {
                after_cr = true;
                out.extend_from_slice(b"\r\n");
            }
            Unit::Single(b'\n') if lf_done => {}
            Unit::Single(b'\n') => out.extend_from_slice(b"\r\n"),
            Unit::Single(byte) => out.push(byte),
            Unit::Double(code) => out.extend_from_slice(&code.to_be_bytes()),
            Unit::Char(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    if wire.has_escapes() {
        switch(false, &mut double, out);
    }
    Lost {
        count: units.lost,
        first: units.first_lost,
    }
}

fn switch(to_double: bool, double: &mut bool, out: &mut Vec<u8>) {
    if to_double != *double {
        out.extend_from_slice(if to_double { b"\x1b$B" } else { b"\x1b(B" });
        *double = to_double;
    }
}

fn copy_lines(mut text: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = memchr::memchr2(b'\r', b'\n', text) {
        out.extend_from_slice(&text[..at]);
        out.extend_from_slice(b"\r\n");
        let both = text[at] == b'\r' && text.get(at + 1) == Some(&b'\n');
        text = &text[at + 1 + usize::from(both)..];
    }
    out.extend_from_slice(text);
}

/// Reads bytes of `wire` back into Unicode.
///
/// Carrier symbols become Unicode emoji, those that Unicode lacks their internal code point (see
/// [`emoji`]). Malformed bytes become U+FFFD. Line ends stay as they are.
pub fn decode(wire: Wire, bytes: &[u8]) -> String {
    match wire.form() {
        Form::Utf8 => decode_utf8(wire, &String::from_utf8_lossy(bytes)),
        Form::Sjis => decode_sjis(wire, bytes),
        Form::Jis => decode_jis(wire, bytes),
    }
}

fn push_symbol(set: Option<EmojiSet>, private: Option<u16>, out: &mut String) -> bool {
    let row = set
        .zip(private)
        .and_then(|(set, private)| emoji::of_private(set, private));
    if let Some(row) = row {
        out.push_str(&row.unicode);
    }
    row.is_some()
}

fn decode_utf8(wire: Wire, text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if !push_symbol(wire.emoji_set(), u16::try_from(c as u32).ok(), &mut out) {
            out.push(c);
        }
    }
    out
}

fn decode_sjis(wire: Wire, bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (*first, tail.first()) {
            (0..=0x7F, _) => out.push(*first as char),
            (0xA1..=0xDF, _) => {
                let kana = 0xFF61 - 0xA1 + u32::from(*first);
                out.push(char::from_u32(kana).unwrap_or('\u{FFFD}'));
            }
            (lead, Some(&trail @ (0x40..=0x7E | 0x80..=0xFC))) => {
                rest = &tail[1..];
                push_double(wire, u16::from(lead) << 8 | u16::from(trail), &mut out);
            }
            _ => out.push('\u{FFFD}'),
        }
    }
    out
}

/// `sjis`: a two-byte code in Shift_JIS, whichever wire it came by.
fn push_double(wire: Wire, sjis: u16, out: &mut String) {
    let set = wire.emoji_set();
    if !push_symbol(set, set.and_then(|set| emoji::private_of(set, sjis)), out) {
        let [lead, trail] = sjis.to_be_bytes();
        out.push(decode_double(lead, trail).unwrap_or('\u{FFFD}'));
    }
}

fn decode_jis(wire: Wire, bytes: &[u8]) -> String {
    #[derive(Clone, Copy, PartialEq)]
    enum Shift {
        Ascii,
        Kana,
        Double,
    }
    let mut out = String::with_capacity(bytes.len() * 2);
    let (mut rest, mut shift) = (bytes, Shift::Ascii);
    while let [first, tail @ ..] = rest {
        let escape = match rest {
            [0x1B, b'(', b'B' | b'J', ..] => Some(Shift::Ascii),
            [0x1B, b'(', b'I', ..] => Some(Shift::Kana),
            [0x1B, b'$', b'B' | b'@', ..] => Some(Shift::Double),
            _ => None,
        };
        if let Some(next) = escape {
            (shift, rest) = (next, &rest[3..]);
            continue;
        }
        rest = tail;
        match (shift, *first, tail.first()) {
            (_, b'\r' | b'\n', _) => {
                shift = Shift::Ascii;
                out.push(*first as char);
            }
            (Shift::Ascii, 0..=0x7F, _) => out.push(*first as char),
            (Shift::Kana, 0x21..=0x5F, _) => {
                out.push(char::from_u32(0xFF61 - 0x21 + u32::from(*first)).unwrap_or('\u{FFFD}'));
            }
            (Shift::Double, 0x21..=0x7E, Some(&cell @ 0x21..=0x7E)) => {
                rest = &tail[1..];
                let jis = u16::from(*first) << 8 | u16::from(cell);
                let au = wire.emoji_set().and_then(|_| emoji::au_sjis_of_jis(jis));
                push_double(
                    wire,
                    au.unwrap_or_else(|| emoji::sjis_of_jis(jis)),
                    &mut out,
                );
            }
            _ => out.push('\u{FFFD}'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(wire: Wire, text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        encode_body(wire, text, &mut out);
        out
    }

    #[test]
    fn a_symbol_is_written_as_each_carrier_wants_it() {
        assert_eq!(
            bytes(Wire::DocomoSjis, "☀です"),
            b"\xF8\x9F\x82\xC5\x82\xB7"
        );
        assert_eq!(
            bytes(Wire::AuJis, "☀\u{FE0F}です"),
            b"\x1b$B\x75\x41\x24\x47\x24\x39\x1b(B"
        );
        assert_eq!(bytes(Wire::AuSjis, "☀"), b"\xF6\x60");
        assert_eq!(
            bytes(Wire::SoftbankUtf8, "☀です"),
            "\u{E04A}です".as_bytes()
        );
        assert_eq!(
            bytes(Wire::SoftbankSjis, "☀です"),
            b"\xF9\x8B\x82\xC5\x82\xB7"
        );
        assert_eq!(bytes(Wire::Utf8, "☀\u{FE0F}"), "☀\u{FE0F}".as_bytes());
        // docomo has no frog, nobody has a sloth.
        assert_eq!(
            decode(Wire::Sjis, &bytes(Wire::DocomoSjis, "🐸🦥")),
            "[カエル]〓"
        );
        // The sun behind a cloud is a sun and a cloud at docomo.
        assert_eq!(bytes(Wire::DocomoSjis, "⛅"), b"\xF8\x9F\xF8\xA0");
    }

    #[test]
    fn symbols_without_unicode_leave_as_symbol_or_label() {
        let imode = "\u{10F001}";
        assert_eq!(bytes(Wire::DocomoSjis, imode), b"\xF9\x75");
        assert_eq!(bytes(Wire::Utf8, imode), "[iモード]".as_bytes());
        assert_eq!(decode(Wire::Jis, &bytes(Wire::AuJis, imode)), "[iモード]");
    }

    #[test]
    fn kanji_never_land_on_emoji_codes() {
        for c in ('\u{80}'..='\u{FFFF}').filter(|c| !('\u{E000}'..='\u{F8FF}').contains(c)) {
            let text = c.to_string();
            if emoji::match_at(&text).is_some() {
                continue;
            }
            let jis = bytes(Wire::AuJis, &text);
            for pair in jis.strip_prefix(b"\x1b$B").unwrap_or(b"").chunks_exact(2) {
                assert!(pair[0] < 0x75, "{c} became {jis:x?}");
            }
            for wire in [Wire::DocomoSjis, Wire::SoftbankSjis, Wire::AuSjis] {
                let sjis = bytes(wire, &text);
                assert!(
                    sjis[..].first().is_none_or(|&lead| lead < 0xF0),
                    "{c}: {sjis:x?}"
                );
            }
        }
    }

    #[test]
    fn doubled_signs_kana_and_extra_kanji() {
        assert_eq!(
            decode(Wire::Jis, &bytes(Wire::Jis, "〜—‖−¢£¬¥‾")),
            "～―∥－￠￡￢￥￣"
        );
        assert_eq!(decode(Wire::Jis, &bytes(Wire::Jis, "ｶﾞｷﾞﾊﾟﾝ｡")), "ガギパン。");
        assert_eq!(bytes(Wire::Sjis, "ｶﾞ"), b"\xB6\xDE");
        assert_eq!(bytes(Wire::Jis, "①㈱"), b"\x1b$B\x2D\x21\x2D\x6A\x1b(B");
        assert_eq!(decode(Wire::Jis, &bytes(Wire::Jis, "髙﨑德")), "高崎徳");
        assert_eq!(decode(Wire::Sjis, &bytes(Wire::Sjis, "髙﨑淸")), "髙﨑淸");
        assert!(matches!(bytes(Wire::Sjis, "淸")[0], 0xED | 0xEE));
        let mut out = Vec::new();
        let lost = encode_body(Wire::Jis, "café 한", &mut out);
        assert_eq!((lost.count, lost.first), (2, Some('é')));
        assert_eq!(decode(Wire::Jis, &out), "cafe 〓");
    }

    #[test]
    fn lines_end_in_crlf_and_ascii() {
        assert_eq!(bytes(Wire::Utf8, "a\nb\r\nc\rd"), b"a\r\nb\r\nc\r\nd");
        assert_eq!(
            bytes(Wire::Jis, "あ\nい"),
            b"\x1b$B\x24\x22\x1b(B\r\n\x1b$B\x24\x24\x1b(B"
        );
        assert_eq!(bytes(Wire::Sjis, "a\r\n\nb"), b"a\r\n\r\nb");
    }
}
