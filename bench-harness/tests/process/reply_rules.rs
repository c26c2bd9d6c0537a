//! Reply rules in the built program: a far end that says what rules are about, and rules that change under way.

use std::fs;
use std::net::Ipv4Addr;

use hikyaku_bench::world::World;

use crate::common::{Relay, eventually};

const OWN: &str = "rate-limited\t-\t-\t-\tcome back\t451 4.7.1 come back\tus\trest-site 1h\n";

/// Three replies in turn: at RCPT, after content, at MAIL.
const WORLD: &str = r#"
[[host]]
name = "mx.moody.test"
address = "127.0.0.1"
[[host.fault]]
at = "rcpt"
answer = "451 4.7.1 come back another time"
first = 1
[[host.fault]]
at = "end-of-data"
answer = "554 5.3.0 strange refusal"
first = 1
"#;

#[test]
fn site_rests_by_a_rule_and_a_reload_changes_what_is_done() {
    let mut world = World::parse(WORLD, "moody").unwrap();
    world.host[0].address = Ipv4Addr::LOCALHOST;
    world.port = 0;
    let mut file = None;
    let relay = Relay::start_with(41, world, |settings| {
        let path = settings.dir.join("own.tsv");
        fs::write(&path, OWN).unwrap();
        settings.extra.push_str("\n[policy]\nrules = \"own.tsv\"\n");
        settings.shards = Some(1);
        file = Some(path);
    });
    let Some(relay) = relay else { return };
    let file = file.unwrap();
    let why = || relay.daemon.control("/api/v1/why?domain=d.test").unwrap().1;

    relay.inject(relay.plan(1));
    let rests = eventually(|| why().contains("own.tsv:1 has the site rest"));
    assert!(rests, "{}\n{}", why(), relay.daemon.log_tail());
    assert!(why().contains("come back another time"), "{}", why());
    let mut more = relay.plan(4);
    more.first_id = 1;
    relay.inject(more);
    assert_eq!(relay.fleet.tally.totals().distinct, 0, "it rests");

    // A file with a fault changes nothing.
    fs::write(&file, format!("{OWN}spam\t-\t-\t-\tx y\t-\tus\tsleep 1h\n")).unwrap();
    let (status, text) = relay.daemon.command("/api/v1/reload").unwrap();
    assert!(
        status == 409 && text.contains("own.tsv:2"),
        "{status} {text}"
    );
    let put_off = "system-error\t-\tend-of-data\t-\tstrange refusal\t554 5.3.0 strange refusal\tus\tdeferred, retry 1s\n";
    fs::write(&file, format!("{OWN}{put_off}")).unwrap();
    assert_eq!(relay.daemon.command("/api/v1/reload").unwrap().0, 200);
    assert_eq!(
        relay
            .daemon
            .command("/api/v1/retry?domain=d.test")
            .unwrap()
            .0,
        200
    );
    relay.wait_for(5);
    let counted = |name: &str| relay.daemon.status(name);
    assert_eq!(
        counted("failed").as_deref(),
        Some("0"),
        "a 554 that is no failure"
    );
    assert!(relay.daemon.counter("tempfail").unwrap_or(0) >= 2);
}

#[test]
fn rule_that_decides_is_told_by_the_command_line() {
    let Some(relay) = Relay::start(42, |_| {}) else {
        return;
    };
    let reply = "550 Unknown user a@docomo.ne.jp";
    let ask = |phase: &str| {
        let args = [
            "policy",
            "reply",
            "--provider",
            "docomo",
            "--phase",
            phase,
            reply,
        ];
        let output = relay.daemon.cli(&args).unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(ask("rcpt").contains("user-unknown"), "{}", ask("rcpt"));
    assert!(ask("end-of-data").contains("filtered"));
}
