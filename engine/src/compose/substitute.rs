//! What stands in for a character that ISO-2022-JP or Shift_JIS lacks.
//!
//! A reader should still get the word: a letter without its accent, the everyday form of a name's
//! kanji, a wide kana for a narrow one; and 〓, the printers' mark for a missing type, only for what
//! has no relative.

/// Related kanji that JIS X 0208 has, for variants met in names and in today's prescribed forms.
///
/// Only plain variants of one character: another kanji would be another name.
const KANJI: &[(char, &str)] = &[
    ('髙', "高"),
    ('德', "徳"),
    ('淸', "清"),
    ('瀨', "瀬"),
    ('濵', "浜"),
    ('桒', "桑"),
    ('栁', "柳"),
    ('增', "増"),
    ('寬', "寛"),
    ('敎', "教"),
    ('曻', "昇"),
    ('橫', "横"),
    ('郞', "郎"),
    ('鄕', "郷"),
    ('黑', "黒"),
    ('悅', "悦"),
    ('戶', "戸"),
    ('每', "毎"),
    ('步', "歩"),
    ('淚', "涙"),
    ('靑', "青"),
    ('緖', "緒"),
    ('綠', "緑"),
    ('緣', "縁"),
    ('薰', "薫"),
    ('賴', "頼"),
    ('銳', "鋭"),
    ('錄', "録"),
    ('閒', "間"),
    ('顚', "顛"),
    ('卽', "即"),
    ('靍', "鶴"),
    ('靏', "鶴"),
    ('㐂', "喜"),
    ('尙', "尚"),
    ('晥', "皖"),
    ('晳', "晢"),
    ('內', "内"),
    ('兊', "兌"),
    ('吿', "告"),
    ('吳', "呉"),
    ('塡', "填"),
    ('剝', "剥"),
    ('嚙', "噛"),
    ('頰', "頬"),
    ('摑', "掴"),
    ('搔', "掻"),
    ('甁', "瓶"),
    ('禱', "祷"),
    ('簞', "箪"),
    ('繡', "繍"),
    ('蟬', "蝉"),
    ('蠟', "蝋"),
    ('醬', "醤"),
    ('鷗', "鴎"),
    ('麴', "麹"),
    ('姸', "妍"),
    ('峀', "岫"),
    ('溫', "温"),
    ('狀', "状"),
    ('虛', "虚"),
    ('冝', "宜"),
    ('\u{FA10}', "塚"),
    ('\u{FA11}', "崎"),
    ('\u{FA12}', "晴"),
    ('\u{FA16}', "猪"),
    ('\u{FA17}', "益"),
    ('\u{FA18}', "礼"),
    ('\u{FA19}', "神"),
    ('\u{FA1A}', "祥"),
    ('\u{FA1B}', "福"),
    ('\u{FA1C}', "靖"),
    ('\u{FA1D}', "精"),
    ('\u{FA1E}', "羽"),
    ('\u{FA22}', "諸"),
    ('\u{FA25}', "逸"),
    ('\u{FA26}', "都"),
    ('\u{FA2A}', "飯"),
    ('\u{FA2B}', "飼"),
    ('\u{FA2C}', "館"),
    ('\u{FA2D}', "鶴"),
    ('\u{F929}', "朗"),
    ('\u{F9DC}', "隆"),
    ('\u{20BB7}', "吉"),
    ('\u{20B9F}', "叱"),
    ('\u{FA30}', "侮"),
];

/// Letters of the Latin-1 and Latin Extended-A blocks and what is left without their accents.
const LATIN: &[(&str, &str)] = &[
    ("ÀÁÂÃÄÅĀĂĄ", "A"),
    ("ÇĆĈĊČ", "C"),
    ("ÐĎĐ", "D"),
    ("ÈÉÊËĒĔĖĘĚ", "E"),
    ("ĜĞĠĢ", "G"),
    ("ĤĦ", "H"),
    ("ÌÍÎÏĨĪĬĮİ", "I"),
    ("Ĵ", "J"),
    ("Ķ", "K"),
    ("ĹĻĽĿŁ", "L"),
    ("ÑŃŅŇ", "N"),
    ("ÒÓÔÕÖØŌŎŐ", "O"),
    ("ŔŖŘ", "R"),
    ("ŚŜŞŠ", "S"),
    ("ŢŤŦ", "T"),
    ("ÙÚÛÜŨŪŬŮŰŲ", "U"),
    ("Ŵ", "W"),
    ("ÝŶŸ", "Y"),
    ("ŹŻŽ", "Z"),
    ("àáâãäåāăą", "a"),
    ("çćĉċč", "c"),
    ("ðďđ", "d"),
    ("èéêëēĕėęě", "e"),
    ("ĝğġģ", "g"),
    ("ĥħ", "h"),
    ("ìíîïĩīĭįı", "i"),
    ("ĵ", "j"),
    ("ķĸ", "k"),
    ("ĺļľŀł", "l"),
    ("ñńņňŉ", "n"),
    ("òóôõöøōŏő", "o"),
    ("ŕŗř", "r"),
    ("śŝşšſ", "s"),
    ("ţťŧ", "t"),
    ("ùúûüũūŭůűų", "u"),
    ("ŵ", "w"),
    ("ýÿŷ", "y"),
    ("źżž", "z"),
];

/// Signs and ligatures.
const SIGNS: &[(char, &str)] = &[
    ('\u{A0}', " "),
    ('\u{A1}', "!"),
    ('\u{A6}', "|"),
    ('\u{A9}', "(C)"),
    ('\u{AA}', "a"),
    ('\u{AB}', "≪"),
    ('\u{AE}', "(R)"),
    ('\u{AF}', "￣"),
    ('\u{B2}', "2"),
    ('\u{B3}', "3"),
    ('\u{B5}', "μ"),
    ('\u{B7}', "・"),
    ('\u{B8}', ","),
    ('\u{B9}', "1"),
    ('\u{BA}', "o"),
    ('\u{BB}', "≫"),
    ('\u{BC}', "1/4"),
    ('\u{BD}', "1/2"),
    ('\u{BE}', "3/4"),
    ('\u{BF}', "?"),
    ('Æ', "AE"),
    ('æ', "ae"),
    ('Œ', "OE"),
    ('œ', "oe"),
    ('ß', "ss"),
    ('Þ', "Th"),
    ('þ', "th"),
    ('\u{2013}', "-"),
    ('\u{2022}', "・"),
    ('\u{2011}', "-"),
    ('\u{2039}', "〈"),
    ('\u{203A}', "〉"),
    ('\u{20AC}', "EUR"),
    ('\u{2122}', "(TM)"),
    ('\u{FF5F}', "（"),
    ('\u{FF60}', "）"),
    ('\u{FFE4}', "|"),
    ('\u{FF02}', "”"),
    ('\u{FF07}', "’"),
    ('\u{2170}', "i"),
    ('\u{2171}', "ii"),
    ('\u{2172}', "iii"),
    ('\u{2173}', "iv"),
    ('\u{2174}', "v"),
    ('\u{2175}', "vi"),
    ('\u{2176}', "vii"),
    ('\u{2177}', "viii"),
    ('\u{2178}', "ix"),
    ('\u{2179}', "x"),
];

/// The stand-in for `c`: ASCII or JIS X 0208, never empty.
///
/// `jis`: for ISO-2022-JP, where NEC's kanji are out of reach.
pub(super) fn stand_in(c: char, jis: bool) -> &'static str {
    let sign = SIGNS.iter().find(|(from, _)| *from == c).map(|(_, to)| *to);
    let kanji = || KANJI.iter().find(|(from, _)| *from == c).map(|(_, to)| *to);
    let latin = || {
        LATIN
            .iter()
            .find(|(from, _)| from.contains(c))
            .map(|(_, to)| *to)
    };
    match sign {
        Some(to) => to,
        None if jis || c as u32 >= 0x3000 => kanji().or_else(latin).unwrap_or("〓"),
        None => latin().unwrap_or("〓"),
    }
}

/// Characters without width or meaning of their own, which simply stay out.
pub(super) const fn is_invisible(c: char) -> bool {
    matches!(c, '\u{AD}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}'
        | '\u{2060}'..='\u{2064}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{E0100}'..='\u{E01EF}'
        | '\u{300}'..='\u{36F}' | '\u{1F3FB}'..='\u{1F3FF}' | '\u{E0020}'..='\u{E007F}')
}

const WIDE_KANA: &str = "。「」、・ヲァィゥェォャュョッーアイウエオカキクケコサシスセソタチツテトナニヌネノ\
                         ハヒフヘホマミムメモヤユヨラリルレロワン゛゜";

/// The wide form of half-width `kana`, joined with a voicing mark at the start of `rest`.
///
/// Returns it and the bytes of `rest` it used.
pub(super) fn widen_kana(kana: char, rest: &str) -> (char, usize) {
    let at = (kana as usize).saturating_sub(0xFF61);
    let wide = WIDE_KANA.chars().nth(at).unwrap_or('〓');
    let voiced = match (rest.chars().next(), wide) {
        (Some('\u{FF9E}'), 'カ'..='ト' | 'ハ'..='ホ') => char::from_u32(wide as u32 + 1),
        (Some('\u{FF9E}'), 'ウ') => Some('ヴ'),
        (Some('\u{FF9F}'), 'ハ'..='ホ') => char::from_u32(wide as u32 + 2),
        _ => None,
    };
    voiced.map_or((wide, 0), |voiced| (voiced, '\u{FF9E}'.len_utf8()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kana_widen_with_their_voicing_marks() {
        assert_eq!(widen_kana('ｶ', "ﾞx"), ('ガ', 3));
        assert_eq!(widen_kana('ｳ', "ﾞ"), ('ヴ', 3));
        assert_eq!(widen_kana('ﾎ', "ﾟ"), ('ポ', 3));
        assert_eq!(widen_kana('ﾅ', "ﾞ"), ('ナ', 0));
        assert_eq!(widen_kana('ﾟ', ""), ('゜', 0));
        assert_eq!(widen_kana('｡', ""), ('。', 0));
    }

    #[test]
    fn stand_ins_keep_the_word_readable() {
        assert_eq!(stand_in('é', true), "e");
        assert_eq!(stand_in('髙', true), "高");
        assert_eq!(stand_in('€', false), "EUR");
        assert_eq!(stand_in('한', false), "〓");
    }
}
