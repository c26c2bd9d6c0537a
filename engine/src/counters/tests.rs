use proptest::prelude::*;

use super::*;

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
    let mut metrics = String::new();
    counters
        .table(By::Total, Window::All)
        .openmetrics(&mut metrics);
    assert!(metrics.contains("# TYPE hikyaku_queued gauge\nhikyaku_queued 1\n"));
    assert!(metrics.contains("# TYPE hikyaku_delivered counter\nhikyaku_delivered_total 4\n"));
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
    counters.save(&mut saved);
    let mut later = set();
    later.restore(&saved).unwrap();
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
        let _ = set().restore(&[&[1][..], &bytes].concat());
    }
}
