//! Delivery windows: when mail may begin to be sent, by weekday and local time.
//!
//! A span opens when a clock of its zone first shows its opening time, or has passed over it, and closes when
//! the clock first shows or has passed over the closing time. So an hour that daylight saving leaves out
//! opens nothing by itself, and one that it repeats does not open a second time.
//!
//! What is due at a time is a [`Period`]: open or closed, since when, until when. It holds for all times
//! within it, whichever way the wall clock is set meanwhile.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use jiff::civil::{Date, DateTime, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan};

use crate::clock::UnixMs;

/// Spans of one window at most.
pub const WINDOW_SPANS_MAX: usize = 64;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY_MINUTES: u16 = 24 * 60;
/// Days looked ahead for an opening: a week, and one more that daylight saving may have swallowed.
const DAYS_AHEAD: i64 = 15;
/// Days looked back for the opening of what is open now: one across midnight begins the day before.
const DAYS_BACK: i64 = 2;

/// One time of a week, written `mon-fri 09:00-18:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// Weekdays on which it opens, Monday is bit 0.
    days: u8,
    /// Minutes after the midnight before.
    from: u16,
    /// Minutes after that midnight; beyond a day's if it closes on the next.
    to: u16,
}

impl Span {
    /// All day, each day.
    const ALWAYS: Self = Self {
        days: 0x7f,
        from: 0,
        to: DAY_MINUTES,
    };
}

impl FromStr for Span {
    type Err = ();

    /// `DAYS HH:MM-HH:MM`, or only one of both. Days: `daily`, `mon`, `mon-fri`, `sat,sun`. Times up to
    /// `24:00`; a closing time before the opening one is on the next day.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut span = Self::ALWAYS;
        let mut words = text.split_ascii_whitespace().peekable();
        if let Some(word) = words.next_if(|word| !word.contains(':')) {
            span.days = days(word).ok_or(())?;
        } else if words.peek().is_none() {
            return Err(());
        }
        if let Some(word) = words.next() {
            let (from, to) = word.split_once('-').ok_or(())?;
            (span.from, span.to) = (minutes(from).ok_or(())?, minutes(to).ok_or(())?);
            if span.from == span.to || span.from == DAY_MINUTES {
                return Err(());
            }
            if span.to < span.from {
                span.to += DAY_MINUTES;
            }
        }
        words.next().is_none().then_some(span).ok_or(())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days == Self::ALWAYS.days {
            f.write_str("daily")?;
        } else {
            let on = |day: &usize| self.days >> day & 1 == 1;
            let names: Vec<&str> = (0..DAYS.len()).filter(on).map(|day| DAYS[day]).collect();
            f.write_str(&names.join(","))?;
        }
        let to = match self.to {
            to if to > DAY_MINUTES => to - DAY_MINUTES,
            to => to,
        };
        write!(
            f,
            " {:02}:{:02}-{:02}:{:02}",
            self.from / 60,
            self.from % 60,
            to / 60,
            to % 60
        )
    }
}

fn days(word: &str) -> Option<u8> {
    if word == "daily" {
        return Some(Span::ALWAYS.days);
    }
    let day = |name: &str| DAYS.iter().position(|day| *day == name);
    let mut bits = 0;
    for part in word.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut at, last) = (day(first)?, day(last)?);
        bits |= 1 << at;
        while at != last {
            at = (at + 1) % DAYS.len();
            bits |= 1 << at;
        }
    }
    Some(bits)
}

fn minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| {
        let is_two_digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        is_two_digits.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let time = hours * 60 + minutes;
    (minutes < 60 && time <= DAY_MINUTES).then_some(time)
}

/// A time zone of the IANA database, which comes with the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Hash for Zone {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.iana_name().hash(state);
    }
}

impl Zone {
    /// Coordinated universal time.
    pub const UTC: Self = Self(TimeZone::UTC);
}

impl FromStr for Zone {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "UTC" => Ok(Self::UTC),
            _ => TimeZone::get(text).map(Self).map_err(|_| ()),
        }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.iana_name().unwrap_or("UTC"))
    }
}

/// When mail may begin to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    spans: Box<[Span]>,
    zone: Zone,
}

/// A time in which a window is open, or closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Whether mail may begin.
    pub is_open: bool,
    /// Since when; or since before that.
    pub from: UnixMs,
    /// Until when, not included. It may go on beyond that, if it began long ago.
    pub until: UnixMs,
}

impl Period {
    /// Whether it holds at that time.
    pub const fn holds(&self, at: UnixMs) -> bool {
        self.from.0 <= at.0 && at.0 < self.until.0
    }
}

impl Window {
    /// Open in these spans of the zone's local time.
    pub const fn new(spans: Box<[Span]>, zone: Zone) -> Self {
        Self { spans, zone }
    }

    /// What it is at a time.
    pub fn at(&self, now: UnixMs) -> Period {
        let now_ms = now.0.min(i64::MAX as u64).cast_signed();
        let always = Period {
            is_open: true,
            from: UnixMs(0),
            until: UnixMs(u64::MAX),
        };
        let Ok(at) = Timestamp::from_millisecond(now_ms) else {
            return always;
        };
        let today = self.zone.0.to_datetime(at).date();
        let (Ok(first), Ok(last)) = (
            today.checked_sub(DAYS_BACK.days()),
            today.checked_add(DAYS_AHEAD.days()),
        ) else {
            return always;
        };
        let mut open = self.open_between(first, last);
        open.sort_unstable();
        let mut closed_since = self.instant(first.at(0, 0, 0, 0)).unwrap_or(0);
        for (from, to) in merged(&open) {
            if now_ms < from {
                return period(false, closed_since, from);
            }
            if now_ms < to {
                return period(true, from, to);
            }
            closed_since = to;
        }
        let end = self.instant(last.at(0, 0, 0, 0)).unwrap_or(i64::MAX);
        period(false, closed_since, end.max(now_ms.saturating_add(1)))
    }

    /// When it is open, in milliseconds since the epoch: what opens on those days.
    fn open_between(&self, first: Date, last: Date) -> Vec<(i64, i64)> {
        let mut open = Vec::new();
        for day in first.series(1.day()).take_while(|day| *day < last) {
            let bit = match day.weekday() {
                Weekday::Monday => 0,
                Weekday::Tuesday => 1,
                Weekday::Wednesday => 2,
                Weekday::Thursday => 3,
                Weekday::Friday => 4,
                Weekday::Saturday => 5,
                Weekday::Sunday => 6,
            };
            for span in self.spans.iter().filter(|span| span.days >> bit & 1 == 1) {
                let time = |minutes: u16| {
                    let midnight = day.at(0, 0, 0, 0);
                    let local = midnight.checked_add(i64::from(minutes).minutes()).ok()?;
                    self.instant(local)
                };
                if let (Some(from), Some(to)) = (time(span.from), time(span.to))
                    && from < to
                {
                    open.push((from, to));
                }
            }
        }
        open
    }

    /// When a clock of the zone first shows `local`, or has passed over it; milliseconds since the epoch.
    fn instant(&self, local: DateTime) -> Option<i64> {
        let zone = &self.zone.0;
        let ambiguous = zone.to_ambiguous_timestamp(local);
        let first = match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(local).ok()?,
            // The clock shows it twice; `before` is the offset until it is set back.
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(local).ok()?,
            AmbiguousOffset::Gap { before, .. } => {
                let beyond = before.to_timestamp(local).ok()?;
                let after = beyond.checked_add(1.second()).ok()?;
                zone.preceding(after).next()?.timestamp()
            }
        };
        Some(first.as_millisecond())
    }
}

/// Those that touch or overlap become one.
fn merged(sorted: &[(i64, i64)]) -> Vec<(i64, i64)> {
    let mut merged: Vec<(i64, i64)> = Vec::new();
    for (from, to) in sorted {
        match merged.last_mut() {
            Some(last) if *from <= last.1 => last.1 = last.1.max(*to),
            _ => merged.push((*from, *to)),
        }
    }
    merged
}

fn period(is_open: bool, from: i64, until: i64) -> Period {
    let ms = |at: i64| UnixMs(u64::try_from(at).unwrap_or(0));
    Period {
        is_open,
        from: ms(from),
        until: ms(until),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn window(spans: &[&str], zone: &str) -> Window {
        let spans = spans.iter().map(|text| text.parse().unwrap()).collect();
        Window::new(spans, zone.parse().unwrap())
    }

    fn utc(text: &str) -> UnixMs {
        let at: Timestamp = text.parse().unwrap();
        UnixMs(at.as_millisecond().cast_unsigned())
    }

    /// Changes of `window` from a time on.
    fn changes(window: &Window, from: &str, count: usize) -> Vec<String> {
        let mut at = utc(from);
        let mut found = Vec::new();
        for _ in 0..count {
            let now = window.at(at);
            assert!(now.holds(at));
            let until = Timestamp::from_millisecond(now.until.0.cast_signed()).unwrap();
            found.push(format!("{until}"));
            at = now.until;
            assert_ne!(window.at(at).is_open, now.is_open, "{until}");
        }
        found
    }

    #[test]
    fn spans_are_read_and_shown() {
        for (text, shown) in [
            ("mon-fri 09:00-18:00", "mon,tue,wed,thu,fri 09:00-18:00"),
            ("fri-mon 22:00-06:00", "mon,fri,sat,sun 22:00-06:00"),
            ("08:30-24:00", "daily 08:30-24:00"),
            ("sat,sun", "sat,sun 00:00-24:00"),
            ("daily 23:59-00:00", "daily 23:59-24:00"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(span), "{text}");
        }
        for wrong in [
            "",
            "noon",
            "mon-",
            "mon 9:00-18:00",
            "09:00",
            "09:00-09:00",
            "09:00-24:01",
            "24:00-01:00",
            "09:60-10:00",
            "mon 09:00-10:00 x",
            "mon tue",
            "09:00-+9:00",
        ] {
            assert_eq!(wrong.parse::<Span>(), Err(()), "{wrong}");
        }
        assert_eq!(
            "Europe/Berlin".parse::<Zone>().unwrap().to_string(),
            "Europe/Berlin"
        );
        assert!("Europe/Nowhere".parse::<Zone>().is_err());
    }

    #[test]
    fn opens_by_weekday_and_local_time() {
        let office = window(&["mon-fri 09:00-18:00"], "Asia/Tokyo");
        // 2026-11-27 is a Friday.
        assert_eq!(
            changes(&office, "2026-11-27T08:59:59Z", 3),
            [
                "2026-11-27T09:00:00Z",
                "2026-11-30T00:00:00Z",
                "2026-11-30T09:00:00Z"
            ]
        );
        let at_close = office.at(utc("2026-11-27T09:00:00Z"));
        assert!(!at_close.is_open, "nothing begins at the closing time");
    }

    #[test]
    fn goes_on_across_midnight_and_joins_what_touches() {
        let night = window(&["fri 22:00-06:00", "sat 06:00-07:00"], "UTC");
        assert_eq!(
            changes(&night, "2026-11-28T00:00:00Z", 2),
            ["2026-11-28T07:00:00Z", "2026-12-04T22:00:00Z"],
            "Saturday's night is part of Friday's"
        );
        let always = window(&["daily"], "Europe/Berlin");
        let now = always.at(utc("2026-11-28T00:00:00Z"));
        assert!(now.is_open && now.until > utc("2026-12-10T00:00:00Z"));
    }

    /// 2026-03-29: 02:00 to 03:00 is left out in Berlin; on 2026-03-08 in New York.
    #[test]
    fn spring_leaves_an_hour_out() {
        let berlin = window(&["daily 01:30-02:30"], "Europe/Berlin");
        assert_eq!(
            changes(&berlin, "2026-03-28T12:00:00Z", 4),
            [
                "2026-03-29T00:30:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-29T23:30:00Z",
                "2026-03-30T00:30:00Z"
            ],
            "closes when 02:30 is passed over"
        );
        let within = window(&["daily 02:15-02:45"], "America/New_York");
        assert_eq!(
            changes(&within, "2026-03-07T12:00:00Z", 2),
            ["2026-03-09T06:15:00Z", "2026-03-09T06:45:00Z"],
            "what is left out opens nothing"
        );
        let from_within = window(&["daily 02:15-05:00"], "America/New_York");
        assert_eq!(
            changes(&from_within, "2026-03-07T12:00:00Z", 2),
            ["2026-03-08T07:00:00Z", "2026-03-08T09:00:00Z"]
        );
    }

    /// 2026-10-25: 02:00 to 03:00 comes twice in Berlin; 01:00 to 02:00 on 2026-11-01 in New York.
    #[test]
    fn autumn_repeats_an_hour() {
        let berlin = window(&["daily 02:15-02:45"], "Europe/Berlin");
        assert_eq!(
            changes(&berlin, "2026-10-24T12:00:00Z", 4),
            [
                "2026-10-25T00:15:00Z",
                "2026-10-25T00:45:00Z",
                "2026-10-26T01:15:00Z",
                "2026-10-26T01:45:00Z"
            ],
            "once"
        );
        let new_york = window(&["daily 00:30-03:00"], "America/New_York");
        assert_eq!(
            changes(&new_york, "2026-11-01T00:00:00Z", 2),
            ["2026-11-01T04:30:00Z", "2026-11-01T08:00:00Z"],
            "it is an hour longer"
        );
    }

    #[test]
    fn leap_day_is_a_day() {
        let tuesday = window(&["tue 23:00-01:00"], "UTC");
        // 2028-02-29 is a Tuesday.
        assert_eq!(
            changes(&tuesday, "2028-02-29T00:00:00Z", 2),
            ["2028-02-29T23:00:00Z", "2028-03-01T01:00:00Z"]
        );
    }

    /// A clock that is set an hour back or ahead meets the same window.
    #[test]
    fn is_what_it_is_whichever_way_the_clock_is_set() {
        let day = window(&["daily 09:00-18:00"], "UTC");
        for (at, is_open) in [
            ("2026-11-25T17:30:00Z", true),
            ("2026-11-25T18:30:00Z", false),
            ("2026-11-25T17:30:00Z", true),
            ("2026-11-25T08:30:00Z", false),
        ] {
            assert_eq!(day.at(utc(at)).is_open, is_open, "{at}");
        }
    }

    proptest! {
        #[test]
        fn every_time_of_a_period_agrees(
            days in 1u8..128, from in 0u16..1440, length in 1u16..1440,
            zone in prop::sample::select(vec!["Europe/Berlin", "America/New_York", "Asia/Tokyo",
                "Australia/Lord_Howe", "America/Sao_Paulo"]),
            at in 1_700_000_000_000u64..1_900_000_000_000, within in 0u64..1000,
        ) {
            let span = Span { days, from, to: from + length };
            let window = Window::new([span].into(), zone.parse().unwrap());
            let now = window.at(UnixMs(at));
            prop_assert!(now.holds(UnixMs(at)));
            let start = now.from.0.max(at - 86_400_000);
            let other = start + (now.until.0 - 1 - start) * within / 1000;
            prop_assert_eq!(window.at(UnixMs(other)).is_open, now.is_open);
            prop_assert_ne!(window.at(now.until).is_open, now.is_open);
        }
    }
}
