//! Times as text: RFC 3339 in UTC, milliseconds always.

use crate::clock::UnixMs;

/// Characters of a time's text.
pub const TEXT_CHARS: usize = 24;

const DAY_MS: u64 = 86_400_000;

/// The last time that has four digits of year: 9999-12-31T23:59:59.999Z.
const UNIX_MS_MAX: u64 = 253_402_300_799_999;

/// `2026-11-24T06:57:00.123Z` as ASCII; a time beyond the year 9999 is shown as its last moment.
pub fn text(time: UnixMs) -> [u8; TEXT_CHARS] {
    let ms = time.0.min(UNIX_MS_MAX);
    let (year, month, day) = civil_from_days((ms / DAY_MS) as i64);
    let in_day = ms % DAY_MS;
    let mut out = *b"0000-00-00T00:00:00.000Z";
    let mut put = |range: std::ops::Range<usize>, mut value: u64| {
        for slot in out[range].iter_mut().rev() {
            *slot = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0..4, year as u64);
    put(5..7, month);
    put(8..10, day);
    put(11..13, in_day / 3_600_000);
    put(14..16, in_day / 60_000 % 60);
    put(17..19, in_day / 1_000 % 60);
    put(20..23, in_day % 1_000);
    out
}

/// Reads `2026-11-24`, `2026-11-24T06:57`, `…:00`, `…:00.123`, with or without `Z` or an offset
/// such as `+09:00`; without one it is UTC.
pub fn parse(text: &str) -> Option<UnixMs> {
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let mut parts = date.split('-');
    let year = digits(parts.next()?, 4)?;
    let month = digits(parts.next()?, 2)?;
    let day = digits(parts.next()?, 2)?;
    if parts.next().is_some() || !(1970..=9999).contains(&year) {
        return None;
    }
    let days = days_from_civil(year as i64, month, day)?;
    let mut ms = days * DAY_MS as i64;
    if let Some(time) = time {
        let (clock, offset_ms) = split_offset(time)?;
        ms += clock_ms(clock)? - offset_ms;
    }
    u64::try_from(ms)
        .ok()
        .filter(|&ms| ms <= UNIX_MS_MAX)
        .map(UnixMs)
}

fn split_offset(time: &str) -> Option<(&str, i64)> {
    if let Some(clock) = time.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let Some(at) = time.find(['+', '-']) else {
        return Some((time, 0));
    };
    let (clock, offset) = time.split_at(at);
    let (hours, minutes) = offset[1..].split_once(':')?;
    let (hours, minutes) = (digits(hours, 2)?, digits(minutes, 2)?);
    if hours > 14 || minutes > 59 {
        return None;
    }
    let ms = (hours * 60 + minutes) as i64 * 60_000;
    Some((clock, if offset.starts_with('-') { -ms } else { ms }))
}

fn clock_ms(clock: &str) -> Option<i64> {
    let (clock, fraction) = match clock.split_once('.') {
        Some((clock, fraction)) => (clock, Some(fraction)),
        None => (clock, None),
    };
    let mut parts = clock.split(':');
    let hours = digits(parts.next()?, 2)?;
    let minutes = digits(parts.next()?, 2)?;
    let seconds = match parts.next() {
        Some(seconds) => digits(seconds, 2)?,
        None if fraction.is_none() => 0,
        None => return None,
    };
    if parts.next().is_some() || hours > 23 || minutes > 59 || seconds > 60 {
        return None;
    }
    let ms = match fraction {
        None => 0,
        Some(text) if (1..=9).contains(&text.len()) => {
            let value = digits(text, text.len())?;
            value * 1_000 / 10_u64.pow(text.len() as u32)
        }
        Some(_) => return None,
    };
    Some((((hours * 60 + minutes) * 60 + seconds) * 1_000 + ms) as i64)
}

fn digits(text: &str, chars: usize) -> Option<u64> {
    let plain = text.len() == chars && text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// Year, month and day of a day number (days since 1970-01-01), in the Gregorian calendar.
///
/// Years are counted from March, so that the leap day is the last one of its year.
const fn civil_from_days(days: i64) -> (i64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month as u64, day as u64)
}

fn days_from_civil(year: i64, month: u64, day: u64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (month, day) = (month as i64, day as i64);
    let from_march = if month <= 2 { year - 1 } else { year };
    let era = from_march.div_euclid(400);
    let year_of_era = from_march.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    // 31 April and the like come out as another date.
    (civil_from_days(days) == (year, month as u64, day as u64)).then_some(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_back() {
        for (ms, shown) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_503_420_123, "2026-11-24T06:57:00.123Z"),
            (UNIX_MS_MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(std::str::from_utf8(&text(UnixMs(ms))), Ok(shown));
            assert_eq!(parse(shown), Some(UnixMs(ms)));
        }
        assert_eq!(text(UnixMs(u64::MAX)), text(UnixMs(UNIX_MS_MAX)));
    }

    #[test]
    fn short_forms_and_offsets_are_read() {
        let at =
            |text| parse(text).map(|time| String::from_utf8(self::text(time).to_vec()).unwrap());
        for (given, shown) in [
            ("2026-11-24", "2026-11-24T00:00:00.000Z"),
            ("2026-11-24T06:57", "2026-11-24T06:57:00.000Z"),
            ("2026-11-24 06:57:01", "2026-11-24T06:57:01.000Z"),
            ("2026-11-24T06:57:01.5Z", "2026-11-24T06:57:01.500Z"),
            ("2026-11-24T06:57:01+09:00", "2026-11-23T21:57:01.000Z"),
            ("2026-11-24T06:57-01:30", "2026-11-24T08:27:00.000Z"),
        ] {
            assert_eq!(at(given).as_deref(), Some(shown));
        }
        for bad in [
            "",
            "2026",
            "2026-13-01",
            "2026-02-30",
            "2026-11-24T25:00",
            "1969-12-31",
            "2026-11-24T1:00",
            "2026-11-24T",
            "2026-11-24T00:00:00.",
            "2026-11-24T00:00+9",
            "１２34-01-01",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
