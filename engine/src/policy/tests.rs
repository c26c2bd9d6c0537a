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

fn of<'a>(domain: &'a str, mx_hosts: &'a [&'a str], group: &'a str) -> Subject<'a> {
    Subject {
        domain,
        mx_hosts,
        group,
        source: None,
    }
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
            policy.provider_of(&of(domain, mx, "")),
            Some(provider),
            "{domain}"
        );
    }
    let mixed = ["aspmx.l.google.com", "mx.elsewhere.example"];
    let subject = of("mixed.example", &mixed, "");
    assert_eq!(
        policy.provider_of(&subject),
        None,
        "one host is not Google's"
    );
}

#[test]
fn most_specific_row_wins_value_by_value_and_says_what_it_overrode() {
    let policy = policy(
        "[[provider]]\nname = \"google\"\nmessages_per_session = 30\n\
         [[domain]]\ndomain = \"gmail.com\"\nexpire_after = \"1d\"\n\
         [[group]]\ngroup = \"otp-*\"\nexpire_after = \"10m\"\n",
    );
    let effective = policy.of(&of("gmail.com", &[], "otp-login"));
    assert_eq!(effective.count(Key::SessionsMax), Some(5), "shipped");
    assert_eq!(
        effective.count(Key::MessagesPerSession),
        Some(30),
        "the operator's"
    );
    assert_eq!(
        effective.duration_ms(Key::ExpireAfter),
        Some(600_000),
        "the group's"
    );
    let from = effective.value(Key::ExpireAfter).unwrap();
    let overrode: Vec<_> = from
        .overrode
        .iter()
        .map(|row| row.origin.to_string())
        .collect();
    assert_eq!(from.row.origin.to_string(), "policy.toml:7");
    assert_eq!(overrode, ["policy.toml:4", "[delivery]"]);
    let plain = policy.of(&of("gmail.com", &[], "news"));
    assert_eq!(
        plain.duration_ms(Key::ExpireAfter),
        Some(86_400_000),
        "the domain's"
    );
    let others = policy.of(&of("a.example", &[], ""));
    assert_eq!(others.count(Key::SessionsMax), Some(20), "[delivery]");
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
            .of(&of(domain, &[], ""))
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
fn rates_hold_in_each_layer_at_once() {
    let policy = policy(
        "[[provider]]\nname = \"docomo\"\nmessages_per_second = 3\n\
         [[group]]\ngroup = \"news\"\nmessages_per_second = 50\n\
         [[source]]\naddress = \"192.0.2.1\"\nmessages_per_second = 9\n",
    );
    let subject = Subject {
        source: Some("192.0.2.1".parse().unwrap()),
        ..of("docomo.ne.jp", &[], "news")
    };
    let effective = policy.of(&subject);
    let rates: Vec<_> = effective
        .each(Key::MessagesPerSecond)
        .map(|from| format!("{} {}", from.row.layer().name(), from.value))
        .collect();
    assert_eq!(rates, ["provider 3", "group 50", "source 9"]);
    let provider = effective.each(Key::MessagesPerSecond).next().unwrap();
    assert_eq!(provider.overrode.len(), 1, "the shipped row's 1");
}

#[test]
fn every_fault_is_told_with_its_place_and_the_right_name() {
    let text = faults(
        "[[provider]]\nname = \"p\"\nsession_max = 3\n\
         [[domain]]\ndomain = \"a.example\"\nsessions_max = 3\nexpire_after = 5\n\
         [[gruop]]\ngroup = \"x\"\n[default]\nsessions_max = 1\n\
         [[source]]\naddress = \"192.0.2.300\"\n[[group]]\nexpire_after = \"1d\"\n",
    );
    for part in [
        "policy.toml:3:1: unknown key `session_max` in [[provider]]; did you mean `sessions_max`?",
        "policy.toml:6:1: `sessions_max` cannot be set for a domain; it may be set for: default, provider",
        "policy.toml:7:16: `expire_after` is no such value; it must be a duration",
        "unknown table `gruop`; did you mean [[group]]?",
        "what holds for all mail stands in [delivery] of the configuration",
        "`192.0.2.300` is not an IP address",
        "the row has no `group`",
    ] {
        assert!(text.contains(part), "{part}\nin\n{text}");
    }
}

#[test]
fn check_finds_contradictions_and_rows_that_never_apply() {
    let policy = policy(
        "[[provider]]\nname = \"nobody\"\nsessions_max = 3\n\
         [[provider]]\nname = \"big\"\ndomains = \"big.example\"\nsessions_max = 2\nsessions_per_mta = 4\n\
         [[domain]]\ndomain = \"a.example\"\nmessages_per_minute = 5\nmessages_per_hour = 1000\n\
         [[domain]]\ndomain = [\"b.example\", \"a.example\"]\nexpire_after = \"1h\"\nretry_schedule = \"2h\"\n",
    );
    let found: Vec<_> = check(&policy).iter().map(ToString::to_string).collect();
    for part in [
        "policy.toml:1: provider nobody names neither domains nor mx",
        "sessions_per_mta = 4 is never reached: sessions_max = 2 allows less",
        "messages_per_hour = 1000 is never reached: messages_per_minute = 5 allows less",
        "a.example stands in the row at policy.toml:9 already",
        "there is no second attempt",
    ] {
        assert!(
            found.iter().any(|line| line.contains(part)),
            "{part}\n{found:#?}"
        );
    }
    assert_eq!(found.len(), 5, "{found:#?}");
    let ours = self::policy("");
    assert!(
        check(&ours).is_empty(),
        "what is shipped is not the operator's to mend"
    );
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
        let _ = Row::parse_file("p", &format!("[[group]]\ngroup = \"{value}\"\n"));
    }
}
