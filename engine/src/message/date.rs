//! Dates as RFC 5322 §3.3 writes them, always in UTC.

use crate::clock::{UnixMs, civil_from_days};

/// Length of a written date, octets: `Tue, 24 Nov 2026 06:49:29 +0000`.
pub const DATE_BYTES: usize = 31;

const WEEKDAYS: [&[u8; 3]; 7] = [b"Sun", b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat"];
const MONTHS: [&[u8; 3]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

/// The date-time of `unix`. Years beyond 9999 are written as 9999.
pub fn rfc5322_date(unix: UnixMs) -> [u8; DATE_BYTES] {
    let seconds = unix.0 / 1000;
    let days = seconds / 86_400;
    let (year, month, day) = civil_from_days(days);
    let year = year.min(9999);

    let mut out = *b"Thu, 01 Jan 1970 00:00:00 +0000";
    out[..3].copy_from_slice(WEEKDAYS[((days + 4) % 7) as usize]);
    two_digits(&mut out[5..7], day);
    out[8..11].copy_from_slice(MONTHS[(month - 1) as usize]);
    two_digits(&mut out[12..14], year / 100);
    two_digits(&mut out[14..16], year % 100);
    two_digits(&mut out[17..19], seconds / 3600 % 24);
    two_digits(&mut out[20..22], seconds / 60 % 60);
    two_digits(&mut out[23..25], seconds % 60);
    out
}

fn two_digits(out: &mut [u8], value: u64) {
    out[0] = b'0' + (value / 10 % 10) as u8;
    out[1] = b'0' + (value % 10) as u8;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_known_moments() {
        for (seconds, expected) in [
            (0, "Thu, 01 Jan 1970 00:00:00 +0000"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 +0000"),
            (1_709_251_200, "Fri, 01 Mar 2024 00:00:00 +0000"),
            (1_795_502_969, "Tue, 24 Nov 2026 06:49:29 +0000"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 +0000"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 +0000"),
        ] {
            let written = rfc5322_date(UnixMs(seconds * 1000));
            assert_eq!(std::str::from_utf8(&written).unwrap(), expected);
        }
        rfc5322_date(UnixMs(u64::MAX));
    }
}
