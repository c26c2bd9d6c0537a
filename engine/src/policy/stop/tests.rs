use super::*;
use crate::ids::QueueId;

fn shown<'a>(domain: &'a str, group: Option<&'a str>) -> Shown<'a> {
    Shown {
        queue_id: QueueId(1_800_000_000_000 << 22),
        domain,
        group,
        site: Some("mx.example"),
    }
}

const NOW: UnixMs = UnixMs(2_000_000_000_000);

fn book(selectors: &[Selector]) -> StopBook {
    selectors
        .iter()
        .fold(StopBook::default(), |book, selector| {
            let new = NewStop {
                selector: selector.clone(),
                reason: "wrong\tlink".into(),
                author: "user 0".into(),
                until: None,
            };
            book.with(new, NOW).unwrap()
        })
}

fn of_group(group: &str) -> Selector {
    Selector {
        group: Some(group.into()),
        ..Selector::default()
    }
}

#[test]
fn a_stop_holds_what_meets_all_its_conditions() {
    let selector = Selector {
        domain: Some("a.example".into()),
        ..of_group("news")
    };
    let book = book(&[selector]);
    let is_held = |shown| matches!(book.holds(&shown, NOW), Verdict::Held(_));
    assert!(is_held(shown("a.example", Some("news"))));
    assert!(!is_held(shown("b.example", Some("news"))));
    assert!(!is_held(shown("a.example", Some("orders"))));
    let unknown = book.holds(&shown("a.example", None), NOW);
    assert_eq!(unknown, Verdict::AskRecord, "its name is in the record");
    assert_eq!(book.holds(&shown("b.example", None), NOW), Verdict::Goes);
}

#[test]
fn what_stands_in_the_record_is_asked_of_it() {
    let tags = [("X-Hikyaku-Tag".into(), "c42".into())];
    let written = Written {
        group: "",
        sender: Some("News@Shop.example"),
        source: Some("::ffff:192.0.2.7".parse().unwrap()),
        tags: &tags,
    };
    let holds = |selector: Selector| {
        let book = book(&[selector]);
        let shown = shown("a.example", Some("(none)"));
        assert_eq!(book.holds(&shown, NOW), Verdict::AskRecord);
        book.holds_record(&shown, &written, NOW).is_some()
    };
    let sender = |text: &str| Selector {
        sender: Some(text.into()),
        ..Selector::default()
    };
    let source = |net: &str| Selector {
        source: Some(net.parse().unwrap()),
        ..of_group("(none)")
    };
    let tag = |text: &str| Selector {
        tag: Some(text.into()),
        ..Selector::default()
    };
    assert!(holds(sender("news@shop.example")) && !holds(sender("<>")));
    assert!(holds(source("192.0.2.0/24")) && !holds(source("198.51.100.0/24")));
    assert!(holds(tag("x-hikyaku-tag=c42")) && !holds(tag("x-hikyaku-tag=c4")));
}

#[test]
fn a_stop_ends_by_itself_and_makes_room() {
    let until = UnixMs(NOW.0 + 1000);
    let new = NewStop {
        selector: of_group("news"),
        until: Some(until),
        ..NewStop::default()
    };
    let book = StopBook::default().with(new.clone(), NOW).unwrap();
    assert_eq!(book.next_end(NOW), Some(until));
    let news = shown("a.example", Some("news"));
    assert!(matches!(book.holds(&news, NOW), Verdict::Held(_)));
    assert_eq!(book.holds(&news, until), Verdict::Goes);
    let mut full = StopBook::default();
    for _ in 0..STOPS_MAX {
        full = full.with(new.clone(), NOW).unwrap();
    }
    assert_eq!(full.with(new.clone(), NOW), Err(TooManyStops));
    let after = full.with(new, until).unwrap();
    assert_eq!(
        (after.stops().len(), after.next_number()),
        (1, STOPS_MAX as u64 + 2)
    );
}

#[test]
fn resuming_a_wider_selection_covers_the_narrower() {
    let narrow = Selector {
        domain: Some("a.example".into()),
        ..of_group("news")
    };
    assert!(Selector::default().covers(&narrow) && of_group("news").covers(&narrow));
    assert!(!narrow.covers(&of_group("news")) && !of_group("orders").covers(&narrow));
}

#[test]
fn a_book_reads_back_and_damage_is_an_error() {
    let every = Selector {
        group: Some("n\te\nws".into()),
        domain: Some("a.example".into()),
        site: Some("mx.example".into()),
        source: Some("2001:db8::/32".parse().unwrap()),
        sender: Some("<>".into()),
        tag: Some("a=b=c".into()),
        accepted_before: Some(NOW),
        queue_id: Some(QueueId(7 << 22)),
    };
    let book = book(&[every, Selector::default()]);
    let bytes = book.encode();
    assert_eq!(StopBook::decode(&bytes), Ok(book));
    for cut in [0, 5, bytes.len() / 2] {
        let faulty = [&bytes[..cut], b"\tx=y\n"].concat();
        assert!(StopBook::decode(&faulty).is_err(), "cut at {cut}");
    }
}
