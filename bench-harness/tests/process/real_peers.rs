//! Programs others wrote: smtp-source, smtp-sink, swaks, Postfix.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::Arc;

use hikyaku_bench::daemon::{Settings, free_address, greets};
use hikyaku_bench::fleet::Fleet;
use hikyaku_bench::fleet::tally::Tally;
use hikyaku_bench::run::peers::postfix::Postfix;
use hikyaku_bench::world::World;

use crate::common::{self, Relay, eventually, peer, within};

#[test]
fn smtp_source_reaches_smtp_sink_through_the_relay() {
    let (Some(source), Some(sink)) = (peer("smtp-source"), peer("smtp-sink")) else {
        return;
    };
    let far_end = free_address().unwrap();
    let route = far_end.to_string();
    let change = |settings: &mut Settings| settings.routes = vec![("*".to_owned(), route)];
    let Some(relay) = Relay::start(1, change) else {
        return;
    };
    let mut command = Command::new(sink);
    if rustix::process::geteuid().is_root() {
        command.args(["-u", "nobody"]);
    }
    // -M: it ends by itself once it has counted all messages.
    command.args(["-m", "1000", "-M", "3000", &far_end.to_string(), "1000"]);
    let mut sink = command.stdout(Stdio::null()).spawn().unwrap();
    assert!(eventually(|| greets(far_end)));
    let address = relay.address().to_string();
    for flags in [&["-d"][..], &[]] {
        let output = Command::new(&source)
            .args(flags)
            .args([
                "-s",
                "20",
                "-m",
                "1500",
                "-l",
                "1024",
                "-f",
                "a@sender.example",
            ])
            .args(["-t", "b@far.example", &address])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let ended = eventually(|| matches!(sink.try_wait(), Ok(Some(_))));
    let _ = sink.kill();
    let _ = sink.wait();
    assert!(
        ended,
        "smtp-sink misses messages\n{}",
        relay.daemon.log_tail()
    );
}

#[test]
fn swaks_session_is_relayed() {
    let Some(swaks) = peer("swaks") else { return };
    let Some(relay) = Relay::start(2, |_| {}) else {
        return;
    };
    let output = Command::new(swaks)
        .args([
            "--server",
            "127.0.0.1",
            "--port",
            &relay.address().port().to_string(),
        ])
        .args([
            "--from",
            "sender@sender.example",
            "--to",
            "one@far.example,two@far.example",
        ])
        .args([
            "--ehlo",
            "client.example",
            "--body",
            "hello\n.dot at the start\nend",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    for offer in [
        "PIPELINING",
        "8BITMIME",
        "SIZE",
        "ENHANCEDSTATUSCODES",
        "CHUNKING",
        "SMTPUTF8",
    ] {
        assert!(said.contains(offer), "EHLO offers {offer}: {said}");
    }
    assert!(
        eventually(|| relay.fleet.tally.received() == 1),
        "one message for both recipients"
    );
}

#[test]
fn postfix_takes_mail_as_next_hop() {
    if !Postfix::is_possible() {
        assert!(
            !common::required("HIKYAKU_REQUIRE_ORACLES"),
            "Postfix cannot be run here"
        );
        println!("note: skipped: Postfix is not installed, or we are not root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let last = World::single(Ipv4Addr::LOCALHOST, 0);
    let last = Fleet::start(&last, Arc::new(Tally::new(3))).unwrap();
    let end = last.hosts[0].1;
    let postfix = Postfix::start(&dir.path().join("postfix"), end, ("warm.test", end)).unwrap();
    let hop = postfix.address.to_string();
    let change = |settings: &mut Settings| settings.routes = vec![("*".to_owned(), hop)];
    let Some(relay) = Relay::start(3, change) else {
        return;
    };
    relay.inject(hikyaku_bench::inject::Plan {
        recipients: 3,
        ..relay.plan(200)
    });
    let all = within(std::time::Duration::from_secs(40), || {
        last.tally.totals().distinct == 600
    });
    let totals = last.tally.totals();
    assert!(all, "{totals:?}\n{}", relay.daemon.log_tail());
    assert_eq!(
        (totals.altered, totals.mixed_up, totals.duplicates),
        (0, 0, 0)
    );
    postfix.stop();
    last.stop();
}
