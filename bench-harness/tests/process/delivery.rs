//! Delivery by MX through DNS: preferences, aliases, refusals, retries, DSNs.

use std::sync::Arc;
use std::time::Duration;

use hikyaku_bench::daemon::{Daemon, Settings, free_address};
use hikyaku_bench::dns::Dns;
use hikyaku_bench::fleet::Fleet;
use hikyaku_bench::fleet::tally::Tally;
use hikyaku_bench::inject::{Injector, Plan};
use hikyaku_bench::world::World;

use crate::common::{FAST_RETRY, mix, programs, within};

const WORLD: &str = r#"
[[host]]
name = "mx.well.test"
address = "127.0.1.1"
[[host]]
name = "mx.sender.test"
address = "127.0.1.2"
[[host]]
name = "mx.down.test"
address = "127.0.1.3"
listens = false
[[host]]
name = "mx.later.test"
address = "127.0.1.4"
greylist_s = 0.5
[[host]]
name = "mx.never.test"
address = "127.0.1.5"
[[host.fault]]
at = "rcpt"
answer = "550 5.1.1 User unknown"
[[host]]
name = "mx.seven.test"
address = "127.0.1.6"
eight_bit_mime = false
messages_per_session_max = 3
reply_style = "bare"
[[host]]
name = "mx.old.test"
address = "127.0.1.7"
helo_only = true
pipelining = false
[[host]]
name = "mx.breaks.test"
address = "127.0.1.8"
[[host.fault]]
at = "data"
answer = "reset"
first = 1

[[domain]]
name = "sender.example"
mx = ["10 mx.sender.test"]
[[domain]]
name = "well.test"
mx = ["10 mx.well.test"]
[[domain]]
name = "alias.test"
cname = "well.test"
[[domain]]
name = "address.test"
a = ["127.0.1.1"]
[[domain]]
name = "backup.test"
mx = ["10 mx.down.test", "20 mx.gone.test", "30 mx.well.test"]
[[domain]]
name = "later.test"
mx = ["10 mx.later.test"]
[[domain]]
name = "never.test"
mx = ["10 mx.never.test"]
[[domain]]
name = "seven.test"
mx = ["10 mx.seven.test"]
[[domain]]
name = "old.test"
mx = ["10 mx.old.test"]
[[domain]]
name = "breaks.test"
mx = ["10 mx.breaks.test"]
[[domain]]
name = "null-mx.test"
null_mx = true
"#;

/// Arrives, or is reported to the sender with a DSN.
enum Fate {
    Arrives,
    IsReported,
}

#[test]
fn each_domain_gets_its_mail_or_the_sender_a_report() {
    let Some(programs) = programs() else { return };
    let dir = tempfile::tempdir().unwrap();
    let tally = Arc::new(Tally::new(1));
    let mut world = World::parse(WORLD, "delivery").unwrap().moved_to_block(240);
    world.port = free_address().unwrap().port();
    let fleet = Fleet::start(&world, Arc::clone(&tally)).unwrap();
    let dns = Dns::start(&world, free_address().unwrap()).unwrap();
    let mut settings = Settings::new(dir.path()).unwrap();
    settings.dns = Some(dns.address);
    settings.mx_port = Some(world.port);
    settings.delivery = FAST_RETRY.to_owned();
    let daemon = Daemon::start(settings, &programs).unwrap();
    let cases = [
        ("well.test", Fate::Arrives),
        ("alias.test", Fate::Arrives),
        ("address.test", Fate::Arrives),
        ("backup.test", Fate::Arrives),
        ("later.test", Fate::Arrives),
        ("seven.test", Fate::Arrives),
        ("old.test", Fate::Arrives),
        ("breaks.test", Fate::Arrives),
        ("never.test", Fate::IsReported),
        ("null-mx.test", Fate::IsReported),
        ("nowhere.test", Fate::IsReported),
    ];
    let mut first_id = 0;
    for (domain, fate) in cases {
        let before = tally.totals();
        let plan = Plan {
            messages: 10,
            sessions: 2,
            first_id,
            ..Plan::new(daemon.settings.listen, mix(domain), 1)
        };
        let injected = Injector::start(plan).unwrap().join();
        assert_eq!(
            injected.accepted_count(),
            10,
            "{domain}: {:?}",
            injected.failure
        );
        first_id += 10;
        let (arrived, reported) = match fate {
            Fate::Arrives => (10, 0),
            Fate::IsReported => (0, 10),
        };
        // A broken connection rests the site for half a minute.
        let done = within(Duration::from_secs(60), || {
            let now = tally.totals();
            now.distinct - before.distinct >= arrived && now.unmarked - before.unmarked >= reported
        });
        let now = tally.totals();
        assert!(
            done,
            "{domain}: from {before:?} to {now:?}\n{}",
            daemon.log_tail()
        );
        assert_eq!(
            now.unmarked - before.unmarked,
            reported,
            "{domain}: reports"
        );
        assert_eq!((now.altered, now.mixed_up), (0, 0), "{domain}");
    }
    drop(daemon);
    fleet.stop();
    dns.stop();
}
