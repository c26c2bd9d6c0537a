//! A reload: listeners come and go, routes change, sessions go on; a file with a fault changes nothing.

use std::net::{SocketAddr, TcpListener, TcpStream};

use hikyaku_bench::daemon::free_address;

use crate::common::{Client, Relay, eventually};

const CONTENT: &str = "From: <a@sender.example>\r\nSubject: x\r\n\r\nhello\r\n";

/// Writes the settings anew and has the daemon read them; its answer.
fn reload(relay: &Relay) -> (u16, String) {
    relay.daemon.settings.write().unwrap();
    relay.daemon.command("/api/v1/reload").unwrap()
}

fn listens(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}

/// Another table for the end of the configuration.
fn listen(address: SocketAddr) -> String {
    format!("\n[[listen]]\naddress = \"{address}\"\nrelay_from = [\"127.0.0.0/8\"]\n")
}

#[test]
fn listeners_come_and_go_and_sessions_go_on() {
    let Some(mut relay) = Relay::start(193, |_| {}) else {
        return;
    };
    let (old, new) = (relay.address(), free_address().unwrap());
    let mut before = Client::hello(old);
    relay.daemon.settings.extra = listen(new);
    assert_eq!(reload(&relay).0, 200);
    // Told when every shard has done it.
    let mut beside = Client::hello(new);
    assert_eq!(beside.transaction("a@d.test", CONTENT), 250);

    relay.daemon.settings.extra = String::new();
    relay.daemon.settings.listen = new;
    assert_eq!(reload(&relay).0, 200);
    assert!(eventually(|| !listens(old)), "the old one is closed");
    assert_eq!(before.transaction("b@d.test", CONTENT), 250);
    assert_eq!(Client::hello(new).transaction("c@d.test", CONTENT), 250);
    assert!(eventually(|| relay.fleet.tally.totals().unmarked == 3));
}

#[test]
fn a_route_that_changes_takes_waiting_mail_along() {
    let dead = free_address().unwrap().to_string();
    let route = ("moved.test".to_owned(), dead);
    let Some(mut relay) = Relay::start(194, |settings| settings.routes.insert(0, route)) else {
        return;
    };
    let mut client = Client::hello(relay.address());
    assert_eq!(client.transaction("a@moved.test", CONTENT), 250);
    let waits = || {
        relay
            .daemon
            .control("/api/v1/why?domain=moved.test")
            .unwrap()
            .1
    };
    assert!(eventually(|| waits().contains("refused")), "{}", waits());
    relay.daemon.settings.routes.remove(0);
    assert_eq!(reload(&relay).0, 200);
    let arrived = eventually(|| relay.fleet.tally.totals().unmarked == 1);
    assert!(arrived, "{}", relay.daemon.log_tail());
}

#[test]
fn a_file_with_a_fault_changes_nothing() {
    let Some(mut relay) = Relay::start(195, |_| {}) else {
        return;
    };
    let (new, taken) = (
        free_address().unwrap(),
        TcpListener::bind("127.0.0.1:0").unwrap(),
    );
    let taken_address = taken.local_addr().unwrap();
    let policy = relay.daemon.settings.dir.join("policy.toml");
    std::fs::write(&policy, "[[domain]]\nno such = key\n").unwrap();
    let table = format!("\n[policy]\nfile = {policy:?}\n");
    for (fault, word) in [
        (
            "\n[limits]\nrecipient_max = 500\n".to_owned(),
            "recipients_max",
        ),
        (table, "policy.toml"),
        (listen(taken_address), "in use"),
    ] {
        // With it comes a listener that would be right, and a route that leads nowhere.
        relay.daemon.settings.extra = listen(new) + &fault;
        let dead = free_address().unwrap().to_string();
        relay.daemon.settings.routes.insert(0, ("*".into(), dead));
        let (code, text) = reload(&relay);
        assert!((400..500).contains(&code), "{code}: {text}");
        assert!(text.contains(word), "{word:?} in {text}");
        assert!(!listens(new), "{word}: a part of it was taken up");
        relay.daemon.settings.routes.remove(0);
    }
    let mut client = Client::hello(relay.address());
    assert_eq!(client.transaction("a@d.test", CONTENT), 250);
    let arrived = eventually(|| relay.fleet.tally.totals().unmarked == 1);
    assert!(arrived, "by the route so far: {}", relay.daemon.log_tail());

    // What was prepared for the last one is gone: the next reload is as if it had never been.
    relay.daemon.settings.extra = listen(new);
    assert_eq!(reload(&relay).0, 200);
    assert!(listens(new));
}
