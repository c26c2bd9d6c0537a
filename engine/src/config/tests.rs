use super::*;
use crate::net::NextHop;
use crate::policy::{KEYS, Key, Layer, Value};

const SMALL: &str =
    "[server]\nhostname = \"relay.example.jp\"\n[[listen]]\naddress = \"127.0.0.1:2525\"\n";

fn faults(text: &str) -> Vec<String> {
    match Config::parse("/etc/hikyaku/hikyaku.toml", text) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

fn with(more: &str) -> String {
    format!("{SMALL}{more}")
}

#[test]
fn a_small_file_has_defaults_for_the_rest() {
    let config = Config::parse("/etc/hikyaku/hikyaku.toml", SMALL).unwrap();
    assert_eq!(config.server.hostname, "relay.example.jp");
    assert_eq!(config.server.data_dir.to_str(), Some("/var/lib/hikyaku"));
    assert_eq!(config.server.shards, None);
    assert_eq!(config.key.source, KeySource::Prompt);
    assert_eq!(
        config.key.secret.to_str(),
        Some("/etc/hikyaku/installation.secret")
    );
    assert_eq!(config.limits.message_bytes_max, 32 << 20);
    let policy = |key| {
        let mut set = config.delivery.policy.iter();
        set.find(|(set, _)| *set == key).map(|(_, value)| value)
    };
    assert_eq!(
        policy(Key::ExpireAfter),
        Some(&Value::Duration(5 * 86_400_000))
    );
    let Some(Value::Durations(steps)) = policy(Key::RetrySchedule) else {
        panic!("no retry_schedule")
    };
    assert_eq!(steps[..2], [60_000, 300_000]);
    assert!(config.routes.is_empty() && config.dns.servers.is_empty());
    assert!(!config.listen[0].may_relay("127.0.0.1".parse().unwrap()));
    assert_eq!(
        config.warnings().len(),
        1,
        "a listener without relay_from is worth a word"
    );
}

/// `[delivery]` and the shard had numbers of their own, and retried by different ones.
#[test]
fn what_the_file_leaves_out_is_the_policy_s_default_layer() {
    let config = Config::parse("h.toml", SMALL).unwrap();
    let built_in = KEYS.iter().filter_map(|spec| {
        let value = spec.key.built_in()?;
        assert!(spec.layers.contains(&Layer::Default), "{}", spec.name);
        Some((spec.key, value))
    });
    let built_in: Vec<(Key, Value)> = built_in.collect();
    assert_eq!(config.delivery.policy, built_in);

    let text = with("[delivery]\nsessions_max = 3\nretry_schedule = [\"2m\"]\n");
    let config = Config::parse("h.toml", &text).unwrap();
    let policy = crate::settings::policy(&config);
    let effective = policy.of_provider(None);
    assert_eq!(effective.number(Key::SessionsMax), 3);
    assert_eq!(*effective.steps_ms(Key::RetrySchedule), [120_000]);
    assert_eq!(effective.number(Key::MessagesPerSession), 1000);
}

#[test]
fn more_recipients_than_a_transaction_takes_are_refused_with_the_bound() {
    let found = faults(&with("[delivery]\nrecipients_per_message = 101\n"));
    assert!(found[0].contains("1 to 100"), "{found:?}");
    assert!(
        Config::parse(
            "h.toml",
            &with("[delivery]\nrecipients_per_message = 100\n")
        )
        .is_ok()
    );
}

#[test]
fn an_open_relay_is_worth_a_word() {
    for net in ["0.0.0.0/0", "::/0"] {
        let text = format!("{SMALL}relay_from = [\"192.0.2.0/24\", \"{net}\"]\n");
        let warnings = Config::parse("h.toml", &text).unwrap().warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains(net), "{warnings:?}");
    }
}

#[test]
fn the_published_example_is_read() {
    let text = r#"
[server]
hostname = "Relay.Example.jp"
data_dir = "/var/lib/hikyaku"
shards   = 2                       # default: one per available core
group_header = "X-Hikyaku-Group"   # emergency stop, counters
tag_headers  = ["X-Hikyaku-Tag"]   # into the delivery log
strip_headers = true               # of the two above, on delivery
[key]
source = "file"
path   = "/run/hikyaku/key"
[[listen]]
address    = "127.0.0.1:2525"
relay_from = ["127.0.0.0/8"]
[control]
socket = "/run/hikyaku/control.sock"
https  = "127.0.0.1:8443"
[dns]
servers = ["127.0.0.1:53"]
[[route]]
domain = "*"
to     = "127.0.0.1:2600"
"#;
    let config = Config::parse("hikyaku.toml", text).unwrap();
    assert_eq!(config.server.shards, Some(2));
    assert_eq!(config.server.hostname, "relay.example.jp");
    assert_eq!(
        config.key.source,
        KeySource::File("/run/hikyaku/key".into())
    );
    assert!(config.listen[0].may_relay("127.9.9.9".parse().unwrap()));
    assert!(!config.listen[0].may_relay("128.0.0.1".parse().unwrap()));
    assert!(config.routes[0].domain.matches("example.com"));
    assert_eq!(
        config.routes[0].to,
        [NextHop::Address("127.0.0.1:2600".parse().unwrap())]
    );
}

#[test]
fn an_unknown_key_is_told_with_place_and_nearest_name() {
    assert_eq!(
        faults("[server]\nhostnmae = \"a.example\"\n[[listen]]\naddress = \"127.0.0.1:25\"\n"),
        [
            "/etc/hikyaku/hikyaku.toml:1:1: [server] has no `hostname`; add `hostname = \"…\"` (host name)",
            "/etc/hikyaku/hikyaku.toml:2:1: unknown key `hostnmae` in [server]; did you mean `hostname`?",
        ]
    );
    assert_eq!(
        faults(&with("relay-from = []\n[delivry]\nport = 25\n")),
        [
            "/etc/hikyaku/hikyaku.toml:5:1: unknown key `relay-from` in [[listen]]; did you mean `relay_from`?",
            "/etc/hikyaku/hikyaku.toml:6:2: unknown table `delivry`; did you mean [delivery]?",
        ]
    );
}

#[test]
fn wrong_values_say_what_is_right() {
    for (more, place, part) in [
        ("[limits]\nrecipients_max = 5\n", "6:18", "100 to 10000"),
        (
            "[limits]\nrecipients_max = \"many\"\n",
            "6:18",
            "whole number",
        ),
        ("[limits]\nidle_timeout = 300\n", "6:16", "\"5m\""),
        ("[limits]\nmessage_bytes_max = \"10M\"\n", "6:21", "10MiB"),
        ("[delivery]\ndsn = \"yes\"\n", "6:7", "true or false"),
        ("[delivery]\nip_family = \"ipv5\"\n", "6:13", "\"ipv4\""),
        (
            "[delivery]\nretry_schedule = [\"5m\", \"soon\"]\n",
            "6:25",
            "soon",
        ),
        (
            "[delivery]\nretry_schedule = []\n",
            "6:18",
            "no valid entry",
        ),
        ("relay_from = [\"10.1.2.3/8\"]\n", "5:15", "10.0.0.0/8"),
        ("[[route]]\ndomain = \"*\"\n", "5:1", "has no `to`"),
        (
            "[[route]]\ndomain = \"*\"\nto = \"host:0\"\n",
            "7:6",
            "1 to 65535",
        ),
        (
            "[route]\ndomain = \"*\"\nto = \"host\"\n",
            "5:2",
            "[[route]]",
        ),
        ("[key]\nsource = \"file\"\n", "6:10", "needs `path`"),
        ("[key]\npath = \"/run/key\"\n", "6:8", "source = \"file\""),
        ("[key]\nsource = \"command\"\n", "6:10", "needs `command`"),
        (
            "[[listen]]\naddress = \"127.0.0.1:2525\"\n",
            "3:1",
            "two [[listen]]",
        ),
        (
            "[dns]\nservers = [\"localhost\"]\n",
            "6:12",
            "not an address",
        ),
        (
            "[queue]\nsegment_bytes = \"8MiB\"\n",
            "6:17",
            "does not fit a segment",
        ),
        (
            "[limits]\nmemory_bytes_max = \"16MiB\"\ncontent_cache_bytes_max = 0\n",
            "5:1",
            "memory_bytes_max",
        ),
    ] {
        let found = faults(&with(more));
        assert!(
            found
                .iter()
                .any(|f| f.contains(&format!(":{place}: ")) && f.contains(part)),
            "{more} at {place} with {part}: {found:#?}"
        );
    }
}

#[test]
fn syntax_faults_have_a_place() {
    let found = faults("[server]\nhostname = relay\n");
    assert!(found[0].contains(":2:12: "), "{found:?}");
    assert_eq!(faults("").len(), 2, "no hostname, no listener");
}

#[test]
fn units_may_be_left_out_only_where_the_name_has_them() {
    let config =
        Config::parse("h.toml", &with("[limits]\nmessage_bytes_max = 1_048_576\n")).unwrap();
    assert_eq!(config.limits.message_bytes_max, 1 << 20);
}

#[test]
fn relative_paths_start_beside_the_file() {
    let text = "[server]\nhostname = \"a.example\"\ndata_dir = \"data\"\n[[listen]]\naddress = \"127.0.0.1:25\"\n[key]\nsource = \"file\"\npath = \"fd:3\"\n";
    let config = Config::parse("/srv/h/hikyaku.toml", text).unwrap();
    assert_eq!(config.server.data_dir.to_str(), Some("/srv/h/data"));
    assert_eq!(config.key.source, KeySource::Fd(3));
}

#[test]
fn a_reload_names_what_needs_a_restart() {
    let parse = |text: &str| Config::parse("h.toml", text).unwrap();
    let old = parse(SMALL);
    let new = parse(&SMALL.replace("[[", "shards = 3\n[["));
    assert_eq!(old.needs_restart(&new), ["server.shards"]);
    let routed = with("[[route]]\ndomain = \"*\"\nto = \"127.0.0.1\"\n");
    assert!(old.needs_restart(&parse(&routed)).is_empty());
    let same = with("[limits]\nmemory_bytes_max = 268435456\n");
    assert!(
        old.needs_restart(&parse(&same)).is_empty(),
        "the default, written in another way, is no change"
    );
}

#[test]
fn a_change_that_waits_for_a_restart_is_named_by_each_reload() {
    let started = Config::parse("h.toml", SMALL).unwrap();
    let changed = with("[limits]\nsessions_max = 5\n[dns]\nattempts = 3\n");
    let changed = || Config::parse("h.toml", &changed).unwrap();
    let waiting = ["dns.attempts", "limits.sessions_max"];
    assert_eq!(started.needs_restart(&changed()), waiting);
    let running = started.reloaded(changed());
    assert_eq!(running.needs_restart(&changed()), waiting);
    assert!(
        running
            .needs_restart(&Config::parse("h.toml", SMALL).unwrap())
            .is_empty()
    );
}

/// What a machine assumes where nothing is configured is what the documentation says.
#[test]
fn machines_and_configuration_have_the_same_defaults() {
    let config = Config::parse("h.toml", SMALL).unwrap();
    let told = crate::settings::server(&config);
    let machine = crate::smtp::server::ServerSettings {
        hostname: told.hostname.clone(),
        watched: told.watched.clone(),
        ..Default::default()
    };
    assert_eq!(format!("{told:?}"), format!("{machine:?}"));
    let told = crate::settings::client(&config);
    let machine = crate::smtp::client::ClientSettings {
        helo_name: told.helo_name.clone(),
        ..Default::default()
    };
    assert_eq!(format!("{told:?}"), format!("{machine:?}"));
}

#[test]
fn every_key_is_documented() {
    let docs = include_str!("../../../docs/configuration.md");
    let mut missing = Vec::new();
    for key in Config::keys() {
        let heading = format!("## `{}`", key.table);
        let section = docs
            .split("\n")
            .skip_while(|line| !line.starts_with(&heading))
            .skip(1);
        let row = format!(
            "| `{}` | {} | {} | {} |",
            key.key, key.unit, key.default, key.bounds
        );
        if !section
            .take_while(|line| !line.starts_with("## "))
            .any(|line| {
                line.starts_with(&row) && line.contains("Restart to change.") == key.at_start
            })
        {
            let restart = if key.at_start {
                " … Restart to change."
            } else {
                ""
            };
            missing.push(format!("under {heading}: {row}{restart}"));
        }
    }
    assert!(
        missing.is_empty(),
        "docs/configuration.md lacks\n{}",
        missing.join("\n")
    );
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(\\[\\[?(server|listen|route|key)\\]\\]?|[a-z_]{1,12} = |\"[^\"]{0,9}\"|[0-9\\-+.]{1,9}|\\n|.){0,40}") {
        let _ = Config::parse("h.toml", &text);
    }
}
