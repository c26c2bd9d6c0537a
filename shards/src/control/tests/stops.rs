//! `suspend`, `resume` and `stops` over the socket.

use super::Bench;

#[test]
fn suspensions_are_made_listed_and_ended() {
    let bench = Bench::running();
    let post = |target: &str| bench.ask("POST", target, "", "");
    let (status, none) = post("/api/v1/suspend");
    assert!(
        status == 400 && none.contains("nothing is selected"),
        "{none}"
    );
    assert_eq!(bench.get("/api/v1/suspend?group=news").0, 405);
    let (status, dry) = post("/api/v1/suspend?group=news&dry_run=1");
    assert!(
        status == 200 && dry.ends_with("\tgroup=news\t6\t8\t2\t0\n"),
        "{dry}"
    );
    assert!(!bench.get("/api/v1/stops").1.contains("group=news"));
    let (status, made) = post("/api/v1/suspend?group=news&reason=wrong+link&until=2h");
    assert!(
        status == 200 && made.ends_with("\n1\tgroup=news\t6\t8\t2\t0\n"),
        "{made}"
    );
    let (_, listed) = bench.get("/api/v1/stops");
    assert!(
        listed.contains("1\tgroup=news\tuser ") && listed.contains("wrong link"),
        "{listed}"
    );
    let (status, other) = post("/api/v1/resume?group=orders");
    assert!(status == 404 && other.contains("group=news"), "{other}");
    let (status, over) = post("/api/v1/resume?all=1");
    assert!(status == 200 && over.contains("1\tgroup=news"), "{over}");
    assert!(!bench.get("/api/v1/stops").1.contains("group=news"));
    assert!(bench.notes().contains("group=news suspended by user"));
}

#[test]
fn the_daemons_log_names_no_address() {
    let bench = Bench::running();
    let target = "/api/v1/suspend?domain=example.com&sender=ann@sender.example";
    assert_eq!(bench.ask("POST", target, "", "").0, 200);
    assert_eq!(bench.ask("POST", "/api/v1/resume?all=1", "", "").0, 200);
    let notes = bench.notes();
    assert!(!notes.contains("ann@"), "{notes}");
    for done in ["suspended", "resumed"] {
        let line = format!("domain=example.com sender=… {done} by user");
        assert!(notes.contains(&line), "{notes}");
    }
}

#[test]
fn a_selector_that_says_nothing_is_refused() {
    let bench = Bench::running();
    for wrong in [
        "source=nowhere",
        "older_than=5",
        "queue_id=7",
        "tag=x",
        "all=2",
        "all=1&group=a",
        "group=",
        "grp=a",
        "group=a&until=1s1h",
        "group=a&until=2001-01-01T00:00:00Z",
    ] {
        let (status, told) = bench.ask("POST", &format!("/api/v1/suspend?{wrong}"), "", "");
        assert_eq!(status, 400, "{wrong}: {told}");
    }
    assert_eq!(bench.get("/api/v1/stops").1.lines().count(), 1);
}
