//! Durations and sizes as an operator writes them: `30s`, `1h30m`, `10MiB`.

/// Longest text that is looked at, bytes.
const TEXT_BYTES_MAX: usize = 64;

const DURATION_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

/// Milliseconds of a duration such as `500ms`, `30s`, `5m`, `4h`, `5d` or `1h30m`; `None` for
/// anything else, a number without a unit included.
pub fn parse_duration_ms(text: &str) -> Option<u64> {
    let text = text.trim();
    if text.is_empty() || text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let mut total: u64 = 0;
    let mut unit_before = u64::MAX;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = split_number(rest)?;
        let unit_chars = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_chars);
        let scale = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?.1;
        // `30m1h` and `5m5m` are slips more often than intentions.
        if scale >= unit_before {
            return None;
        }
        unit_before = scale;
        total = total.checked_add(number.checked_mul(scale)?)?;
        rest = next;
    }
    Some(total)
}

/// Bytes of a size such as `512B`, `64KiB`, `10MiB`, `2GB`; `None` for anything else, a number
/// without a unit included.
pub fn parse_size_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let (number, unit) = split_number(text)?;
    let unit = unit.trim_start();
    let scale = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?.1;
    number.checked_mul(scale)
}

/// The duration in the form [`parse_duration_ms`] reads, in the largest unit that is exact.
pub fn format_duration_ms(ms: u64) -> String {
    largest_exact(ms, DURATION_UNITS.iter().rev(), "s")
}

/// The size in the form [`parse_size_bytes`] reads, in the largest binary unit that is exact.
pub fn format_size_bytes(bytes: u64) -> String {
    largest_exact(bytes, SIZE_UNITS[..5].iter().rev(), "B")
}

fn largest_exact<'u>(
    value: u64,
    mut units: impl Iterator<Item = &'u (&'u str, u64)>,
    unit_of_zero: &str,
) -> String {
    match units.find(|(_, scale)| value > 0 && value.is_multiple_of(*scale)) {
        Some((name, scale)) => format!("{}{name}", value / scale),
        None => format!("{value}{unit_of_zero}"),
    }
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    Some((number.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_units_in_falling_order() {
        assert_eq!(parse_duration_ms("500ms"), Some(500));
        assert_eq!(parse_duration_ms("30s"), Some(30_000));
        assert_eq!(parse_duration_ms("1h30m"), Some(5_400_000));
        assert_eq!(parse_duration_ms("5d"), Some(432_000_000));
        assert_eq!(parse_duration_ms("0s"), Some(0));
        for bad in [
            "",
            "5",
            "5 m",
            "m",
            "30m1h",
            "5m5m",
            "-1s",
            "1.5h",
            "5min",
            "99999999999999999999d",
        ] {
            assert_eq!(parse_duration_ms(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_need_units() {
        assert_eq!(parse_size_bytes("10MiB"), Some(10 << 20));
        assert_eq!(parse_size_bytes("10 MiB"), Some(10 << 20));
        assert_eq!(parse_size_bytes("2GB"), Some(2_000_000_000));
        assert_eq!(parse_size_bytes("0B"), Some(0));
        for bad in ["", "10", "10M", "MiB", "-1B", "20000000TiB", "1.5MiB"] {
            assert_eq!(parse_size_bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_formatted_reads_back() {
        for ms in [0, 1, 999, 1_000, 90_000, 3_600_000, 86_400_000, 90_061_001] {
            assert_eq!(parse_duration_ms(&format_duration_ms(ms)), Some(ms));
        }
        for bytes in [0, 1, 1_000, 1_024, 10 << 20, 3 << 40, 1_025] {
            assert_eq!(parse_size_bytes(&format_size_bytes(bytes)), Some(bytes));
        }
    }
}
