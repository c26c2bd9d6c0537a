//! Times as text: RFC 3339 in UTC, milliseconds always. Each line of the log has one, so they are
//! written by hand; jiff reads them.

use jiff::civil::{DateTime, Time};
use jiff::fmt::temporal::Pieces;
use jiff::tz::Offset;

use crate::clock::{UnixMs, civil_from_days};

/// Characters of a time's text.
pub const TEXT_CHARS: usize = 24;

const DAY_MS: u64 = 86_400_000;

const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// The last time that has four digits of year: 9999-12-31T23:59:59.999Z.
const UNIX_MS_MAX: u64 = 253_402_300_799_999;

/// `2026-11-24T06:57:00.123Z` as ASCII; a time beyond the year 9999 is shown as its last moment.
pub fn text(time: UnixMs) -> [u8; TEXT_CHARS] {
    let ms = time.0.min(UNIX_MS_MAX);
    let (year, month, day) = civil_from_days(ms / DAY_MS);
    let in_day = ms % DAY_MS;
    let mut out = *b"0000-00-00T00:00:00.000Z";
    let mut put = |range: std::ops::Range<usize>, mut value: u64| {
        for slot in out[range].iter_mut().rev() {
            *slot = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0..4, year);
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
    let pieces = Pieces::parse(text).ok()?;
    if pieces.time_zone_annotation().is_some() {
        return None;
    }
    let clock = pieces.time().unwrap_or(Time::midnight());
    let offset = pieces.to_numeric_offset().unwrap_or(Offset::UTC);
    // Not by jiff's timestamps: those end a day before the last one that we write.
    let since = (pieces.date().to_datetime(clock)).duration_since(EPOCH);
    let ms = since.as_millis() - i128::from(offset.seconds()) * 1000;
    u64::try_from(ms)
        .ok()
        .filter(|&ms| ms <= UNIX_MS_MAX)
        .map(UnixMs)
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
