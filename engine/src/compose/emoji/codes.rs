//! Arithmetic between the codes of one carrier symbol: private use, Shift_JIS and (au) JIS.
//!
//! Each carrier numbered its private-use area in the order of its Shift_JIS rows, in a few runs. So
//! the table stores private-use codes only and everything on the wire follows from here. Which
//! Unicode emoji a code stands for is `table.rs`.

use super::EmojiSet;

/// A run of private-use codes and the Shift_JIS code of its first member.
struct Run {
    first: u16,
    last: u16,
    sjis: u16,
}

const fn run(first: u16, last: u16, sjis: u16) -> Run {
    Run { first, last, sjis }
}

const DOCOMO: &[Run] = &[run(0xE63E, 0xE757, 0xF89F)];

const AU: &[Run] = &[
    run(0xE468, 0xE5B4, 0xF640),
    run(0xE5B5, 0xE5CC, 0xF7E5),
    run(0xE5CD, 0xE5DF, 0xF340),
    run(0xEA80, 0xEAFA, 0xF353),
    run(0xEAFB, 0xEB0D, 0xF7D2),
    run(0xEB0E, 0xEB8E, 0xF3CF),
];

const SOFTBANK: &[Run] = &[
    run(0xE001, 0xE05A, 0xF941),
    run(0xE101, 0xE15A, 0xF741),
    run(0xE201, 0xE25A, 0xF7A1),
    run(0xE301, 0xE34D, 0xF9A1),
    run(0xE401, 0xE44C, 0xFB41),
    run(0xE501, 0xE53E, 0xFBA1),
];

const fn runs(carrier: EmojiSet) -> &'static [Run] {
    match carrier {
        EmojiSet::Docomo => DOCOMO,
        EmojiSet::Au => AU,
        EmojiSet::Softbank => SOFTBANK,
    }
}

/// Position of a Shift_JIS code from lead F0 on, counting 188 codes a lead (trails 40-7E, 80-FC).
const fn linear(sjis: u16) -> u16 {
    let trail = sjis & 0xFF;
    ((sjis >> 8) - 0xF0) * 188 + trail - 0x40 - (trail > 0x7F) as u16
}

const fn from_linear(linear: u16) -> u16 {
    let (lead, offset) = (linear / 188, linear % 188);
    (0xF0 + lead) << 8 | (offset + 0x40 + (offset >= 0x3F) as u16)
}

/// The Shift_JIS code of the symbol at `private`, or `None` where the carrier has no such symbol.
pub fn sjis_of(carrier: EmojiSet, private: u16) -> Option<u16> {
    let run = runs(carrier)
        .iter()
        .find(|r| (r.first..=r.last).contains(&private))?;
    Some(from_linear(linear(run.sjis) + (private - run.first)))
}

/// The private-use code of the symbol at `sjis`.
pub fn private_of(carrier: EmojiSet, sjis: u16) -> Option<u16> {
    let (lead, trail) = (sjis >> 8, sjis & 0xFF);
    if !(0xF3..=0xFB).contains(&lead) || !matches!(trail, 0x40..=0x7E | 0x80..=0xFC) {
        return None;
    }
    let at = linear(sjis);
    runs(carrier).iter().find_map(|r| {
        let offset = at.checked_sub(linear(r.sjis))?;
        (offset <= r.last - r.first).then(|| r.first + offset)
    })
}

/// au's row-and-cell code in ISO-2022-JP (7521-7B73) for its Shift_JIS code.
///
/// The lead is first moved down onto the rows behind JIS X 0208 (F3, F4 by 6; F6, F7 by 0B), then
/// ordinary Shift_JIS to JIS arithmetic holds.
pub fn au_jis_of(sjis: u16) -> u16 {
    let lead = sjis >> 8;
    let moved = if lead < 0xF6 {
        lead - 0x06
    } else {
        lead - 0x0B
    };
    jis_of_sjis(moved << 8 | sjis & 0xFF)
}

/// au's Shift_JIS code for its ISO-2022-JP code, `None` outside rows 75-7B.
pub fn au_sjis_of_jis(jis: u16) -> Option<u16> {
    let (row, cell) = (jis >> 8, jis & 0xFF);
    if !(0x75..=0x7B).contains(&row) || !(0x21..=0x7E).contains(&cell) {
        return None;
    }
    let plain = sjis_of_jis(jis);
    let lead = plain >> 8;
    let moved = if lead < 0xED {
        lead + 0x0B
    } else {
        lead + 0x06
    };
    Some(moved << 8 | plain & 0xFF)
}

/// JIS X 0208 code (2121-7E7E) of a two-byte Shift_JIS code with lead 81-9F or E0-EF.
pub const fn jis_of_sjis(sjis: u16) -> u16 {
    let (lead, trail) = (sjis >> 8, sjis & 0xFF);
    let row = (lead - if lead >= 0xE0 { 0xC1 } else { 0x81 }) * 2 + 0x21;
    if trail >= 0x9F {
        (row + 1) << 8 | (trail - 0x7E)
    } else {
        row << 8 | (trail - 0x1F - (trail > 0x7F) as u16)
    }
}

/// Two-byte Shift_JIS code of a JIS X 0208 code.
pub const fn sjis_of_jis(jis: u16) -> u16 {
    let (row, cell) = (jis >> 8, jis & 0xFF);
    let pair = (row - 0x21) / 2;
    let lead = pair + if pair >= 0x1F { 0xC1 } else { 0x81 };
    let trail = if (row - 0x21) % 2 == 1 {
        cell + 0x7E
    } else {
        cell + 0x1F + (cell >= 0x60) as u16
    };
    lead << 8 | trail
}

/// au's device-internal private use, Shift_JIS minus 0700, met in forwarded mail.
pub fn au_internal_sjis(private: u16) -> Option<u16> {
    let sjis = private.checked_add(0x0700)?;
    private_of(EmojiSet::Au, sjis).map(|_| sjis)
}
