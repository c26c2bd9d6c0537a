use super::*;

fn rows(text: &str) -> Vec<Row> {
    Row::parse_file("policy.toml", text).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn faults(text: &str) -> String {
    let errors = Row::parse_file("policy.toml", text).unwrap_err();
    let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn policy(text: &str) -> Policy {
    let default = vec![
        (Key::SessionsMax, Value::Count(20)),
        (Key::MessagesPerSession, Value::Count(1000)),
        (Key::ExpireAfter, Value::Duration(432_000_000)),
    ];
    Policy::new(default, shipped(), rows(text))
}

const fn of<'a>(domain: &'a str, mx_hosts: &'a [&'a str]) -> Subject<'a> {
    Subject { domain, mx_hosts }
}

#[test]
fn shipped_table_is_sound() {
    let shipped = Row::parse_shipped(shipped::SHIPPED_TOML).unwrap();
    assert!(shipped.len() >= 20, "{}", shipped.len());
    let policy = Policy::new(Vec::new(), shipped, Vec::new());
    for (domain, mx, provider) in [
        (
            "gmail.com",
            &["alt1.gmail-smtp-in.l.google.com"][..],
            "google",
        ),
        (
            "hosted.example",
            &["aspmx.l.google.com", "alt1.aspmx.l.google.com"],
            "google",
        ),
        ("docomo.ne.jp", &[], "docomo"),
        ("ezweb.ne.jp", &[], "au"),
        ("i.softbank.jp", &[], "softbank"),
        ("yahoo.co.jp", &[], "yahoo.co.jp"),
        (
            "a.example",
            &["a-example.mail.protection.outlook.com"],
            "office365",
        ),
    ] {
        assert_eq!(
            policy.provider_of(&of(domain, mx)),
            Some(provider),
            "{domain}"
        );
    }
    let mixed = ["aspmx.l.google.com", "mx.elsewhere.example"];
    let subject = of("mixed.example", &mixed);
    assert_eq!(
        policy.provider_of(&subject),
        None,
        "one host is not Google's"
    );
}

#[test]
fn most_specific_row_wins_value_by_value_and_says_what_it_overrode() {
    let policy = policy(
        "[[provider]]\nname = \"google\"\nmessages_per_session = 30\nexpire_after = \"2d\"\n\
         [[domain]]\ndomain = \"gmail.com\"\nexpire_after = \"1d\"\n",
    );
    let effective = policy.of(&of("gmail.com", &[]));
    assert_eq!(effective.count(Key::SessionsMax), Some(5), "shipped");
    let messages = effective.count(Key::MessagesPerSession);
    assert_eq!(messages, Some(30), "the operator's");
    let from = effective.value(Key::ExpireAfter).unwrap();
    assert_eq!(*from.value, Value::Duration(86_400_000), "the domain's");
    let origin = |row: &Row| row.origin.to_string();
    let overrode: Vec<_> = from.overrode.iter().map(|row| origin(row)).collect();
    assert_eq!(origin(from.row), "policy.toml:5");
    assert_eq!(overrode, ["policy.toml:1", "[delivery]"]);
    let others = policy.of(&of("a.example", &[]));
    assert_eq!(others.count(Key::SessionsMax), Some(20), "[delivery]");
    assert!(policy.is_set(Key::ExpireAfter) && !policy.is_set(Key::RetrySchedule));
}

#[test]
fn longer_pattern_wins_and_whole_names_win_over_all() {
    let policy = policy(
        "[[domain]]\ndomain = \"*.example\"\nexpire_after = \"1h\"\n\
         [[domain]]\ndomain = \"*.b.example\"\nexpire_after = \"2h\"\n\
         [[domain]]\ndomain = \"a.b.example\"\nexpire_after = \"3h\"\n",
    );
    let hours = |domain| {
        policy
            .of(&of(domain, &[]))
            .duration_ms(Key::ExpireAfter)
            .unwrap()
            / 3_600_000
    };
    assert_eq!(
        [
            hours("x.example"),
            hours("x.b.example"),
            hours("a.b.example")
        ],
        [1, 2, 3]
    );
}

#[test]
fn every_fault_is_told_with_its_place_and_the_right_name() {
    let text = faults(
        "[[provider]]\nname = \"p\"\nsession_max = 3\n\
         [[domain]]\ndomain = \"a.example\"\nsessions_max = 3\nexpire_after = 5\n\
         [[domian]]\ndomain = \"x\"\n[default]\nsessions_max = 1\n\
         [[provider]]\nname = \"q\"\nmx = \"192.0.2.0/24\"\n[[domain]]\nexpire_after = \"1d\"\n",
    );
    for part in [
        "policy.toml:3:1: unknown key `session_max` in [[provider]]; did you mean `sessions_max`?",
        "policy.toml:6:1: `sessions_max` cannot be set for a domain; it may be set for: default, provider",
        "policy.toml:7:16: `expire_after` is no such value; it must be a duration",
        "unknown table `domian`; did you mean [[domain]]?",
        "what holds for all mail stands in [delivery] of the configuration",
        "`192.0.2.0/24` is not a host name",
        "the row has no `domain`",
    ] {
        assert!(text.contains(part), "{part}\nin\n{text}");
    }
}

#[test]
fn check_finds_contradictions_and_rows_that_never_apply() {
    let policy = policy(
        "[[provider]]\nname = \"nobody\"\nsessions_max = 3\n\
         [[provider]]\nname = \"big\"\ndomains = \"big.example\"\nsessions_max = 2\n\
         sessions_per_mta = 4\nmessages_per_minute = 5\nmessages_per_hour = 1000\n\
         [[domain]]\ndomain = \"a.example\"\nexpire_after = \"3h\"\n\
         [[domain]]\ndomain = [\"b.example\", \"a.example\"]\nexpire_after = \"1h\"\nretry_schedule = \"2h\"\n",
    );
    let found: Vec<_> = check(&policy).iter().map(ToString::to_string).collect();
    for part in [
        "policy.toml:1: provider nobody names neither domains nor mx",
        "sessions_per_mta = 4 is never reached: sessions_max = 2 allows less",
        "messages_per_hour = 1000 is never reached: messages_per_minute = 5 allows less",
        "a.example stands in the row at policy.toml:11 already",
        "there is no second attempt",
    ] {
        assert!(
            found.iter().any(|line| line.contains(part)),
            "{part}\n{found:#?}"
        );
    }
    assert_eq!(found.len(), 5, "{found:#?}");
    let shipped = self::policy("");
    assert!(
        check(&shipped).is_empty(),
        "what is shipped is not the operator's to mend"
    );
}

#[test]
fn every_key_is_documented() {
    let page = include_str!("../../../docs/policy.md");
    for spec in &KEYS {
        let start = format!("| `{}` |", spec.name);
        let line = page.lines().find(|line| line.starts_with(&start));
        let line = line.unwrap_or_else(|| panic!("{} is not in docs/policy.md", spec.name));
        let layers: Vec<_> = spec.layers.iter().map(|layer| layer.name()).collect();
        assert!(
            line.contains(&format!("| {} |", layers.join(", "))),
            "{line}"
        );
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "[\\[\\]a-z_=\"0-9*. ,\n-]{0,300}") {
        let _ = Row::parse_file("policy.toml", &text);
    }

    #[test]
    fn no_value_makes_the_reader_panic(key in 0..KEYS.len(), value in "\\PC{0,40}") {
        let name = KEYS[key].name;
        let _ = Row::parse_file("p", &format!("[[provider]]\nname = \"p\"\n{name} = {value}\n"));
        let _ = Row::parse_file("p", &format!("[[domain]]\ndomain = \"{value}\"\n"));
    }
}
