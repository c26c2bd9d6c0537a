//! Filters that Japanese mail wants and minijinja lacks: widths, eras, thousands, dates, emoji.

use jiff::civil::{Date, Time, Weekday};
use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior};

use super::{emoji, substitute};

/// Adds the filters and functions to `env`, each under an English and a Japanese name.
pub(super) fn install(env: &mut Environment<'_>) {
    for name in ["zenkaku", "全角"] {
        env.add_filter(name, |text: String| zenkaku(&text));
    }
    for name in ["hankaku", "半角"] {
        env.add_filter(name, |text: String, options: Kwargs| {
            hankaku_filter(&text, &options)
        });
    }
    for name in ["comma", "桁区切り"] {
        env.add_filter(name, |state: &State<'_, '_>, value: Value| {
            given(state, &value, comma)
        });
    }
    for (names, standard) in [
        (["wareki", "和暦"], "%E%N年%-m月%-d日"),
        (["date", "日付"], "%Y年%-m月%-d日"),
    ] {
        for name in names {
            env.add_filter(
                name,
                move |state: &State<'_, '_>, value: Value, format: Option<String>| {
                    given(state, &value, |value| {
                        date(value, format.as_deref().unwrap_or(standard))
                    })
                },
            );
        }
    }
    for name in ["emoji", "絵文字"] {
        env.add_function(name, |name: String| {
            emoji::by_name(&name)
                .ok_or_else(|| invalid(format!("there is no emoji called {name:?}")))
        });
    }
}

/// Applies `filter` to a value that is there; a missing one is empty where the template allows that.
fn given(
    state: &State<'_, '_>,
    value: &Value,
    filter: impl FnOnce(&Value) -> Result<String, Error>,
) -> Result<String, Error> {
    if !value.is_undefined() {
        return filter(value);
    }
    match state.undefined_behavior() {
        UndefinedBehavior::Strict | UndefinedBehavior::SemiStrict => {
            Err(Error::from(ErrorKind::UndefinedError))
        }
        _ => Ok(String::new()),
    }
}

/// Writes an expression's value: escaped in HTML with the five entities every mail reader knows,
/// nothing for none.
pub(super) fn write_value(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    if value.is_none() {
        return Ok(());
    }
    let Some(text) = value.as_str() else {
        return minijinja::escape_formatter(out, state, value);
    };
    if value.is_safe() || !matches!(state.auto_escape(), AutoEscape::Html) {
        return out.write_str(text).map_err(Error::from);
    }
    let mut rest = text;
    while let Some(at) = rest
        .bytes()
        .position(|b| matches!(b, b'&' | b'<' | b'>' | b'"' | b'\''))
    {
        out.write_str(&rest[..at])?;
        out.write_str(match rest.as_bytes()[at] {
            b'&' => "&amp;",
            b'<' => "&lt;",
            b'>' => "&gt;",
            b'"' => "&quot;",
            _ => "&#39;",
        })?;
        rest = &rest[at + 1..];
    }
    out.write_str(rest).map_err(Error::from)
}

fn invalid(detail: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail)
}

/// ASCII and half-width kana to full width.
fn zenkaku(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 3);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            ' ' => out.push('\u{3000}'),
            '!'..='~' => out.extend(char::from_u32(c as u32 + 0xFEE0)),
            '\u{FF61}'..='\u{FF9F}' => {
                let (wide, used) = substitute::widen_kana(c, rest);
                rest = &rest[used..];
                out.push(wide);
            }
            other => out.push(other),
        }
    }
    out
}

fn hankaku_filter(text: &str, options: &Kwargs) -> Result<String, Error> {
    let kana = options.get::<Option<bool>>("kana")?.unwrap_or(false);
    options.assert_all_used()?;
    Ok(hankaku(text, kana))
}

/// Full-width ASCII, and with `kana` katakana too, to half width.
fn hankaku(text: &str, kana: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{3000}' => out.push(' '),
            '！'..='～' => out.extend(char::from_u32(c as u32 - 0xFEE0)),
            '゠'..='ヿ' | '。' | '「' | '」' | '、' if kana => push_narrow(c, &mut out),
            other => out.push(other),
        }
    }
    out
}

fn push_narrow(c: char, out: &mut String) {
    let narrow = |wanted: char| {
        ('\u{FF61}'..='\u{FF9F}').find(|&half| substitute::widen_kana(half, "").0 == wanted)
    };
    let base = |offset: u32| char::from_u32(c as u32 - offset).and_then(narrow);
    let marked = |offset, mark| base(offset).map(|half| (half, mark));
    let voiced = match c {
        'ガ'..='ポ' => marked(1, '\u{FF9E}').or_else(|| marked(2, '\u{FF9F}')),
        'ヴ' => Some(('\u{FF73}', '\u{FF9E}')),
        _ => None,
    };
    match (narrow(c), voiced) {
        (Some(half), _) => out.push(half),
        (None, Some((half, mark))) => out.extend([half, mark]),
        (None, None) => out.push(c),
    }
}

/// Thousands apart: `1234567.5` becomes `1,234,567.5`.
fn comma(value: &Value) -> Result<String, Error> {
    let text = value.to_string();
    let plain = text.trim().replace(',', "");
    let (sign, digits) = plain
        .strip_prefix('-')
        .map_or(("", &*plain), |digits| ("-", digits));
    let (whole, fraction) = digits
        .split_once('.')
        .map_or((digits, None), |(w, f)| (w, Some(f)));
    let numeric = |d: &str| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit());
    if !numeric(whole) || fraction.is_some_and(|f| !numeric(f)) {
        return Err(invalid(format!("{text:?} is not a number")));
    }
    let mut out = String::from(sign);
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.extend([".", fraction]);
    }
    Ok(out)
}

/// `value` in `format`: `%Y %y %m %-m %d %-d %H %-H %M %S`, `%a` 火, `%A` 火曜日, `%E` 令和, `%R` R,
/// `%N` the year within the era (元 for its first), `%%`.
fn date(value: &Value, format: &str) -> Result<String, Error> {
    let text = value.to_string();
    let (day, clock) = parse_date(&text).ok_or_else(|| {
        invalid(format!(
            "{text:?} is not a date: expected 2026-11-24, 2026/11/24 or 2026年11月24日, and a time"
        ))
    })?;
    let mut out = String::with_capacity(format.len() * 2);
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let (padded, code) = match chars.next() {
            Some('-') => (false, chars.next()),
            code => (true, code),
        };
        let number = match code {
            Some('Y') => i64::from(day.year()),
            Some('y') => i64::from(day.year() % 100),
            Some('m') => i64::from(day.month()),
            Some('d') => i64::from(day.day()),
            Some('H') => i64::from(clock.hour()),
            Some('M') => i64::from(clock.minute()),
            Some('S') => i64::from(clock.second()),
            other => {
                out.push_str(&date_word(day, other)?);
                continue;
            }
        };
        out.push_str(&if padded {
            format!("{number:02}")
        } else {
            number.to_string()
        });
    }
    Ok(out)
}

fn date_word(day: Date, code: Option<char>) -> Result<String, Error> {
    Ok(match code {
        Some('a') => weekday(day).to_owned(),
        Some('A') => format!("{}曜日", weekday(day)),
        Some('%') => "%".to_owned(),
        Some('E') => era(day)?.0.to_owned(),
        Some('R') => era(day)?.1.to_owned(),
        Some('N') => match era(day)?.2 {
            1 => "元".to_owned(),
            year => year.to_string(),
        },
        other => {
            let code = other.map(String::from).unwrap_or_default();
            return Err(invalid(format!("%{code} is not a date code")));
        }
    })
}

fn weekday(day: Date) -> &'static str {
    match day.weekday() {
        Weekday::Monday => "月",
        Weekday::Tuesday => "火",
        Weekday::Wednesday => "水",
        Weekday::Thursday => "木",
        Weekday::Friday => "金",
        Weekday::Saturday => "土",
        Weekday::Sunday => "日",
    }
}

/// First days of the eras in the Gregorian calendar, which Japan has used since 1873.
const ERAS: &[(i16, i8, i8, &str, &str)] = &[
    (2019, 5, 1, "令和", "R"),
    (1989, 1, 8, "平成", "H"),
    (1926, 12, 25, "昭和", "S"),
    (1912, 7, 30, "大正", "T"),
    (1873, 1, 1, "明治", "M"),
];

fn era(day: Date) -> Result<(&'static str, &'static str, i16), Error> {
    let at = (day.year(), day.month(), day.day());
    let era = ERAS.iter().find(|(y, m, d, ..)| at >= (*y, *m, *d));
    let &(year, _, _, name, letter) = era.ok_or_else(|| {
        invalid(format!(
            "{day} lies before 1873, where 和暦 had another calendar"
        ))
    })?;
    let first = if name == "明治" { 1868 } else { year };
    Ok((name, letter, day.year() - first + 1))
}

fn parse_date(text: &str) -> Option<(Date, Time)> {
    let mut numbers = [0_u32; 6];
    let mut count = 0;
    let mut rest = text.trim();
    while count < 6 && !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > 4 {
            return None;
        }
        numbers[count] = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        count += 1;
        let separators: &[char] = match count {
            1 => &['-', '/', '.', '年'],
            2 => &['-', '/', '.', '月'],
            3 => &['T', ' ', '日'],
            4 | 5 => &[':'],
            _ => &[],
        };
        let Some(tail) = rest.strip_prefix(separators) else {
            break;
        };
        rest = if count == 3 { tail.trim_start() } else { tail };
    }
    // What may follow a time: fractions of a second and the offset, which the sender chose.
    let tail_fits = rest.is_empty() || (count >= 5 && rest.starts_with(['.', '+', '-', 'Z']));
    if count < 3 || count == 4 || !tail_fits {
        return None;
    }
    let [year, ..] = numbers.map(|n| i16::try_from(n).unwrap_or(i16::MAX));
    let [_, month, day, hour, minute, second] = numbers.map(|n| i8::try_from(n).unwrap_or(i8::MAX));
    let date = Date::new(year, month, day).ok()?;
    Some((date, Time::new(hour, minute, second, 0).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &str, format: &str) -> String {
        date(&Value::from(value), format).unwrap()
    }

    #[test]
    fn widths_change_both_ways() {
        assert_eq!(zenkaku("Abc 12ｶﾞｷ"), "Ａｂｃ　１２ガキ");
        assert_eq!(hankaku("Ａｂｃ　１２ガキ", false), "Abc 12ガキ");
        assert_eq!(hankaku("ガパヴー。", true), "ｶﾞﾊﾟｳﾞｰ｡");
    }

    #[test]
    fn thousands_are_set_apart() {
        for (from, to) in [
            ("1234567.50", "1,234,567.50"),
            ("-1000", "-1,000"),
            ("999", "999"),
        ] {
            assert_eq!(comma(&Value::from(from)).unwrap(), to);
        }
        assert_eq!(comma(&Value::from(1_000_000)).unwrap(), "1,000,000");
        assert!(comma(&Value::from("12x")).is_err());
    }

    #[test]
    fn dates_are_read_and_shown_in_both_calendars() {
        assert_eq!(
            shown("2026-11-24", "%Y年%-m月%-d日(%a)"),
            "2026年11月24日(火)"
        );
        assert_eq!(shown("2026/1/2 9:05", "%m/%d %H:%M"), "01/02 09:05");
        assert_eq!(
            shown("2026-11-24T15:49:29+09:00", "%-H時%M分%S秒"),
            "15時49分29秒"
        );
        assert_eq!(shown("2026年11月24日", "%E%N年"), "令和8年");
        assert_eq!(shown("2019-05-01", "%E%N年%-m月%-d日"), "令和元年5月1日");
        assert_eq!(shown("2019-04-30", "%R%N.%m.%d"), "H31.04.30");
        assert_eq!(shown("1926-12-24", "%E%N年"), "大正15年");
        for bad in [
            "2026-13-01",
            "24/11/2026",
            "soon",
            "",
            "2026-11-24x",
            "99999-01-01",
        ] {
            assert!(date(&Value::from(bad), "%Y").is_err(), "{bad}");
        }
    }
}
