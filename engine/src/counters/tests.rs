use proptest::prelude::*;

use super::*;
use crate::ids::{Offset, SegmentId};

const HOUR: u64 = 3_600_000;
const FIVE: u64 = 300_000;

fn start() -> UnixMs {
    UnixMs(500_000 * HOUR)
}

fn after(ms: u64) -> UnixMs {
    UnixMs(start().0 + ms)
}

fn set() -> Counters {
    Counters::new(start(), 100, 10)
}

fn values(table: &CounterTable, name: &str, counter: Counter) -> Vec<u64> {
    table.rows()[name]
        .iter()
        .map(|values| values[counter as usize])
        .collect()
}

#[test]
fn names_and_order_are_those_of_the_contract() {
    let mut counters = set();
    let (domain, group) = (counters.domain("example.jp"), counters.group("news"));
    for (n, counter) in (1..).zip(Counter::ALL) {
        if counter.is_level() {
            counters.raise(domain, group, counter, n);
        } else {
            counters.count(domain, group, counter, n);
        }
    }
    let names = "queued\tdeferred\tdelivering\tdelivered\tfailed\ttempfail\tdns_tempfail\tconnect_fail\t\
                 session_error\tdns_fail\texpired\tsuspended\n";
    let row = "1\t2\t3\t4\t5\t6\t7\t8\t9\t10\t11\t12\n";
    assert_eq!(
        counters.table(By::Total, Window::All).tsv(),
        format!("{names}{row}")
    );
    let by_domain = counters.table(By::Domain, Window::All).tsv();
    assert_eq!(by_domain, format!("domain\t{names}example.jp\t{row}"));
    let by_group = counters.table(By::Group, Window::All);
    assert_eq!(by_group.tsv(), format!("group\t{names}news\t{row}"));
    let json: serde_json::Value = serde_json::from_str(&by_group.json()).unwrap();
    assert_eq!(json[0]["group"], "news");
    assert_eq!(json[0]["suspended"], 12);
    let table = counters.table(By::Total, Window::All);
    let newest = table.newest().unwrap();
    assert_eq!(newest[Counter::Queued as usize], 1);
    assert_eq!(newest[Counter::Delivered as usize], 4);
}

#[test]
fn windows_are_aligned_to_the_clock_and_forget() {
    let mut counters = set();
    let (domain, group) = (counters.domain("example.jp"), counters.group(""));
    let delivered = |counters: &Counters, window| {
        values(
            &counters.table(By::Domain, window),
            "example.jp",
            Counter::Delivered,
        )
    };
    counters.advance(after(FIVE - 1));
    counters.count(domain, group, Counter::Delivered, 1);
    counters.advance(after(FIVE));
    counters.count(domain, group, Counter::Delivered, 10);
    assert_eq!(
        delivered(&counters, Window::Minutes),
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 10]
    );
    assert_eq!(delivered(&counters, Window::Hours), [0, 0, 0, 0, 0, 11]);
    counters.advance(after(HOUR));
    counters.count(domain, group, Counter::Delivered, 100);
    assert_eq!(
        delivered(&counters, Window::Minutes),
        [10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100]
    );
    assert_eq!(delivered(&counters, Window::Hours), [0, 0, 0, 0, 11, 100]);
    counters.advance(after(6 * HOUR));
    assert_eq!(delivered(&counters, Window::Hours), [100, 0, 0, 0, 0, 0]);
    assert!(
        counters
            .table(By::Domain, Window::Minutes)
            .rows()
            .is_empty(),
        "quiet for an hour"
    );
    counters.advance(after(7 * HOUR));
    assert!(
        counters.table(By::Domain, Window::Hours).rows().is_empty(),
        "quiet for six hours"
    );
    assert_eq!(delivered(&counters, Window::All), [111]);
    let tsv = counters.table(By::Group, Window::Hours).tsv();
    assert!(tsv.starts_with("group\tfrom\tqueued"));
}

#[test]
fn buckets_name_their_start() {
    let mut counters = set();
    counters.advance(after(HOUR + 1));
    let (domain, group) = (counters.domain("example.jp"), counters.group(""));
    counters.count(domain, group, Counter::Failed, 1);
    let tsv = counters.table(By::Total, Window::Hours).tsv();
    let lines: Vec<&str> = tsv.lines().collect();
    assert_eq!(lines.len(), 7);
    assert!(
        lines[1].starts_with("2027-01-15T04:00:00.000Z\t0"),
        "{}",
        lines[1]
    );
    assert!(
        lines[6].starts_with("2027-01-15T09:00:00.000Z\t0"),
        "{}",
        lines[6]
    );
}

#[test]
fn a_level_is_shown_as_each_bucket_ended() {
    let mut counters = set();
    let (domain, group) = (counters.domain("example.jp"), counters.group("news"));
    let queued = |counters: &Counters, window| {
        values(&counters.table(By::Total, window), "", Counter::Queued)
    };
    counters.raise(domain, group, Counter::Queued, 5);
    counters.advance(after(3 * FIVE));
    assert_eq!(
        queued(&counters, Window::Minutes),
        [0, 0, 0, 0, 0, 0, 0, 0, 5, 5, 5, 5]
    );
    counters.lower(domain, group, Counter::Queued, 2);
    assert_eq!(
        queued(&counters, Window::Minutes),
        [0, 0, 0, 0, 0, 0, 0, 0, 5, 5, 5, 3]
    );
    assert_eq!(queued(&counters, Window::Hours), [0, 0, 0, 0, 0, 3]);
    counters.advance(after(30 * HOUR));
    assert_eq!(queued(&counters, Window::Hours), [3; 6]);
    assert_eq!(counters.total(Counter::Queued), 3);
}

#[test]
fn a_clock_set_back_counts_on_in_the_running_bucket() {
    let mut counters = set();
    let (domain, group) = (counters.domain("example.jp"), counters.group(""));
    counters.advance(after(HOUR));
    counters.count(domain, group, Counter::Delivered, 1);
    counters.advance(start());
    counters.count(domain, group, Counter::Delivered, 1);
    let hours = values(
        &counters.table(By::Total, Window::Hours),
        "",
        Counter::Delivered,
    );
    assert_eq!(hours, [0, 0, 0, 0, 0, 2]);
}

#[test]
fn names_beyond_the_cap_are_counted_under_other() {
    let mut counters = Counters::new(start(), 2, 1);
    let group = counters.group("");
    for name in ["a.example", "b.example", "c.example", "d.example"] {
        let domain = counters.domain(name);
        counters.count(domain, group, Counter::Delivered, 1);
    }
    let table = counters.table(By::Domain, Window::All);
    let names: Vec<_> = table.rows().keys().map(String::as_str).collect();
    assert_eq!(names, [OTHER, "a.example", "b.example"]);
    assert_eq!(values(&table, OTHER, Counter::Delivered), [2]);
    let news = counters.group("news");
    let domain = counters.domain("a.example");
    counters.count(domain, news, Counter::Delivered, 1);
    let groups = counters.table(By::Group, Window::All);
    assert_eq!(
        values(&groups, OTHER, Counter::Delivered),
        [1],
        "(none) has the only row"
    );
    assert_eq!(values(&groups, NO_GROUP, Counter::Delivered), [4]);
}

#[test]
fn a_row_comes_back_by_its_number() {
    let mut counters = set();
    let (domain, group) = (counters.domain("example.jp"), counters.group("news"));
    assert_eq!(counters.domain_row(domain.number()), domain);
    assert_eq!(counters.group_row(group.number()), group);
    let unknown = counters.domain_row(99);
    counters.count(unknown, group, Counter::Failed, 1);
    assert_eq!(
        values(
            &counters.table(By::Domain, Window::All),
            OTHER,
            Counter::Failed
        ),
        [1]
    );
}

#[test]
fn a_quiet_row_is_given_to_another_name_and_its_counts_kept_under_other() {
    let mut counters = Counters::new(start(), 2, 1);
    let group = counters.group("");
    let (quiet, held) = (
        counters.domain("quiet.example"),
        counters.domain("held.example"),
    );
    counters.count(quiet, group, Counter::Delivered, 7);
    counters.raise(held, group, Counter::Queued, 1);
    counters.advance(after(6 * HOUR));
    let new = counters.domain("new.example");
    counters.count(new, group, Counter::Delivered, 1);
    counters.count(quiet, group, Counter::Delivered, 1);
    counters.lower(held, group, Counter::Queued, 1);
    let table = counters.table(By::Domain, Window::All);
    assert_eq!(
        values(&table, OTHER, Counter::Delivered),
        [8],
        "7 before, 1 by the old handle"
    );
    assert_eq!(values(&table, "new.example", Counter::Delivered), [1]);
    assert!(!table.rows().contains_key("quiet.example"));
}

#[test]
fn windows_pass_as_time_does_while_the_clock_is_wrong_and_are_named_by_it() {
    let mut counters = set();
    let (domain, group) = (counters.domain("example.jp"), counters.group(""));
    let at = |counters: &mut Counters, ms: u64, leap_ms: i64| {
        let wall = UnixMs(after(ms).0.saturating_add_signed(leap_ms));
        counters.observe(after(ms), wall);
    };
    let minutes = |counters: &Counters| {
        let table = counters.table(By::Total, Window::Minutes);
        (
            values(&table, "", Counter::Delivered),
            table.bucket_start(11),
        )
    };
    at(&mut counters, 0, 0);
    counters.count(domain, group, Counter::Delivered, 1);
    // Two days ahead for a moment, and 3 minutes, which bring the next bucket nearer.
    let ahead_ms = (48 * HOUR + 3 * 60_000).cast_signed();
    at(&mut counters, 1000, ahead_ms);
    counters.count(domain, group, Counter::Delivered, 10);
    let (counts, start) = minutes(&counters);
    assert_eq!(counts[11], 11);
    assert_eq!(start, Some(after(48 * HOUR)), "as the clock says");
    at(&mut counters, FIVE, 0);
    counters.count(domain, group, Counter::Delivered, 100);
    let (counts, start) = minutes(&counters);
    assert_eq!((counts[10], counts[11]), (11, 100), "{counts:?}");
    assert_eq!(start, Some(after(FIVE)));
    // An hour back for good.
    for five in 2..=11 {
        at(&mut counters, five * FIVE, -(HOUR.cast_signed()));
    }
    let (counts, start) = minutes(&counters);
    assert_eq!((counts[0], counts[1]), (11, 100), "{counts:?}");
    let start_back = UnixMs(after(11 * FIVE).0 - HOUR);
    assert_eq!(start, Some(start_back));
}

#[test]
fn windows_survive_a_restart_under_a_clock_that_leapt() {
    let mut counters = set();
    let (domain, group) = (counters.domain("example.jp"), counters.group("news"));
    counters.observe(start(), after(50 * HOUR));
    counters.count(domain, group, Counter::Failed, 9);
    let mut saved = Vec::new();
    counters.save((SegmentId(1), Offset(0)), &mut saved);
    let sum = |now: UnixMs| {
        let mut later = Counters::new(now, 5, 3);
        later.restore(&saved).unwrap();
        let table = later.table(By::Total, Window::Hours);
        values(&table, "", Counter::Failed).iter().sum::<u64>()
    };
    assert_eq!(sum(after(51 * HOUR)), 9);
    assert_eq!(sum(UnixMs(after(50 * HOUR).0 - 2000)), 9, "set back by 2 s");
}

#[test]
fn answers_of_shards_add_up_even_across_a_bucket_end() {
    let mut one = set();
    let mut two = set();
    for counters in [&mut one, &mut two] {
        let (domain, group) = (counters.domain("example.jp"), counters.group(""));
        counters.count(domain, group, Counter::Delivered, 1);
        counters.raise(domain, group, Counter::Queued, 2);
    }
    let mut merged = one.table(By::Total, Window::Minutes);
    two.advance(after(FIVE));
    merged.merge(two.table(By::Total, Window::Minutes)).unwrap();
    let tail = |counter| values(&merged, "", counter)[9..].to_vec();
    assert_eq!(tail(Counter::Delivered), [0, 2, 0]);
    assert_eq!(tail(Counter::Queued), [0, 4, 4]);
    let other = two.table(By::Total, Window::All);
    assert_eq!(merged.merge(other), Err(TableMismatch));
}

#[test]
fn saved_counts_come_back_without_levels() {
    let mut counters = set();
    let (domain, group) = (counters.domain("example.jp"), counters.group("news"));
    counters.raise(domain, group, Counter::Queued, 4);
    counters.count(domain, group, Counter::Delivered, 3_000_000_000);
    counters.count(domain, group, Counter::Delivered, 3_000_000_000);
    let mut saved = Vec::new();
    let covered = (SegmentId(7), Offset(4096));
    counters.save(covered, &mut saved);
    let mut later = set();
    assert_eq!(later.restore(&saved), Ok(covered));
    later.restore(&saved).unwrap();
    for by in [By::Total, By::Domain, By::Group] {
        let table = later.table(by, Window::All);
        let row = table.rows().values().next().unwrap()[0];
        assert_eq!((row[0], row[3]), (0, 12_000_000_000), "{by:?}");
    }
    for end in 0..saved.len() {
        let mut fresh = set();
        assert!(fresh.restore(&saved[..end]).is_err());
        assert_eq!(fresh.total(Counter::Delivered), 0, "half of it was added");
    }
    saved[0] = 9;
    assert_eq!(set().restore(&saved), Err(CountersDecodeError::Version(9)));
}

#[test]
fn windows_come_back_in_the_buckets_of_the_clock() {
    let mut counters = set();
    let (domain, group) = (counters.domain("example.jp"), counters.group("news"));
    counters.raise(domain, group, Counter::Queued, 4);
    for (minutes, n) in [(0, 1), (10, 20), (70, 300)] {
        counters.advance(UnixMs(start().0 + minutes * 60_000));
        counters.count(domain, group, Counter::Delivered, n);
    }
    let mut saved = Vec::new();
    counters.save((SegmentId(1), Offset(0)), &mut saved);
    for pause_min in [0, 20, 200, 2000] {
        let now = UnixMs(start().0 + (70 + pause_min) * 60_000);
        let mut later = Counters::new(now, 5, 3);
        later.restore(&saved).unwrap();
        // As if there had been no restart: but for what is queued, which replay counts.
        let mut same = set();
        let rows = (same.domain("example.jp"), same.group("news"));
        for (minutes, n) in [(0, 1), (10, 20), (70, 300)] {
            same.advance(UnixMs(start().0 + minutes * 60_000));
            same.count(rows.0, rows.1, Counter::Delivered, n);
        }
        same.advance(now);
        for window in [Window::Hours, Window::Minutes] {
            let of = |counters: &Counters| {
                let table = counters.table(By::Total, window);
                let rows = table.rows().values().flatten();
                rows.map(|values| values[Counter::Delivered as usize])
                    .collect::<Vec<_>>()
            };
            let sum = |all: &[u64]| all.iter().sum::<u64>();
            let (later, same) = (of(&later), of(&same));
            assert!(
                later == same || sum(&later) + sum(&same) == 0,
                "{window:?}: {later:?} {same:?}"
            );
        }
    }
    // What is found behind the save goes into the buckets of the save.
    let now = UnixMs(start().0 + 90 * 60_000);
    let mut later = Counters::new(now, 5, 3);
    later.restore(&saved).unwrap();
    let rows = (later.domain("example.jp"), later.group("news"));
    later.recount(rows.0, rows.1, Counter::Delivered, 5000);
    let table = later.table(By::Domain, Window::Minutes);
    let fives = table.rows()["example.jp"].iter();
    let fives: Vec<_> = fives
        .map(|values| values[Counter::Delivered as usize])
        .collect();
    assert_eq!(fives, [0, 0, 0, 0, 0, 0, 0, 5300, 0, 0, 0, 0]);
    assert_eq!(later.total(Counter::Delivered), 5321);
}

#[test]
fn windows_of_a_clock_that_was_ahead_are_left_out() {
    let mut counters = Counters::new(UnixMs(start().0 + 10 * HOUR), 5, 3);
    let (domain, group) = (counters.domain("example.jp"), counters.group("news"));
    counters.count(domain, group, Counter::Failed, 9);
    let mut saved = Vec::new();
    counters.save((SegmentId(1), Offset(0)), &mut saved);
    let mut later = set();
    later.restore(&saved).unwrap();
    assert_eq!(later.total(Counter::Failed), 9);
    let table = later.table(By::Total, Window::Hours);
    let sum: u64 = table
        .rows()
        .values()
        .flatten()
        .map(|values| values[4])
        .sum();
    assert_eq!(sum, 0);
}

proptest! {
    #[test]
    fn rows_always_add_up_to_the_total(
        events in proptest::collection::vec((0..12_u32, 0..6_u32, 0..12_usize, 1..5_u32, 0..HOUR), 1..200),
    ) {
        let mut counters = Counters::new(start(), 5, 3);
        let mut now = start().0;
        for (domain, group, counter, n, pause) in events {
            now += pause;
            counters.advance(UnixMs(now));
            let domain = counters.domain(&format!("d{domain}.example"));
            let group = counters.group(&format!("g{group}"));
            match Counter::ALL[counter] {
                level if level.is_level() => counters.raise(domain, group, level, n),
                other => counters.count(domain, group, other, n),
            }
        }
        let sum = |by| {
            let table = counters.table(by, Window::All);
            table.rows().values().fold(Values::default(), |sum, row| std::array::from_fn(|i| sum[i] + row[0][i]))
        };
        prop_assert_eq!(sum(By::Domain), sum(By::Total));
        prop_assert_eq!(sum(By::Group), sum(By::Total));
        prop_assert!(counters.table(By::Domain, Window::All).rows().len() <= 6);
    }

    #[test]
    fn no_bytes_make_restore_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = set().restore(&bytes);
        let _ = set().restore(&[&[2][..], &bytes].concat());
    }
}
