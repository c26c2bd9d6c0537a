use super::*;
use crate::net::{Cidr, IpFamily};

struct World {
    cache: Cache,
    own: OwnNames,
    policy: DnsPolicy,
    random: Random,
    now: Mono,
}

impl World {
    fn new() -> Self {
        let own = OwnNames {
            hostname: "relay.example".into(),
            listening: vec!["192.0.2.99:25".parse().unwrap()],
        };
        Self {
            cache: Cache::new(1000),
            own,
            policy: DnsPolicy {
                mx_port: 25,
                mx_hosts_max: 16,
                family: IpFamily::Any,
                allowed: Vec::new(),
            },
            random: Random::new(5),
            now: Mono(0),
        }
    }

    fn mx(&mut self, domain: &str, records: &[(u16, &str)]) {
        let records = records
            .iter()
            .map(|(preference, host)| MxRecord {
                preference: *preference,
                host: (*host).into(),
            })
            .collect();
        let question = Question::Mx(Domain::from_stored(domain));
        self.cache.put(question, Answer::Mx(records), 300, self.now);
    }

    fn addresses(&mut self, host: &str, addresses: &[&str]) {
        let list = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let question = Question::Addresses(host.into());
        self.cache
            .put(question, Answer::Addresses(list), 300, self.now);
    }

    fn plan(&mut self, domain: &str) -> Plan {
        let domain = Domain::from_stored(domain);
        plan(
            &mut self.cache,
            &domain,
            None,
            &self.policy,
            &self.own,
            &mut self.random,
            self.now,
        )
    }

    fn targets(&mut self, domain: &str) -> Vec<String> {
        match self.plan(domain) {
            Plan::Targets(targets) => targets.list.iter().map(|t| t.address.to_string()).collect(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn questions_are_asked_until_all_is_known() {
    let mut world = World::new();
    let domain = Domain::from_stored("a.example");
    assert_eq!(
        world.plan("a.example"),
        Plan::Ask(vec![Question::Mx(domain)])
    );
    world.mx("a.example", &[(20, "mx2.a.example"), (10, "mx1.a.example")]);
    let hosts = ["mx1.a.example", "mx2.a.example"].map(|host| Question::Addresses(host.into()));
    assert_eq!(world.plan("a.example"), Plan::Ask(hosts.to_vec()));
    world.addresses("mx1.a.example", &["192.0.2.1"]);
    world.addresses("mx2.a.example", &["192.0.2.2", "2001:db8::2"]);
    let targets = world.targets("a.example");
    assert_eq!(targets[0], "192.0.2.1:25");
    assert_eq!(targets.len(), 3);
}

#[test]
fn equal_preferences_are_shuffled_and_unequal_ones_are_not() {
    let mut world = World::new();
    world.mx("a.example", &[(10, "m1"), (10, "m2"), (5, "m0")]);
    for (host, address) in [
        ("m0", "192.0.2.10"),
        ("m1", "192.0.2.11"),
        ("m2", "192.0.2.12"),
    ] {
        world.addresses(host, &[address]);
    }
    let mut second = std::collections::HashSet::new();
    for _ in 0..100 {
        let targets = world.targets("a.example");
        assert_eq!(targets[0], "192.0.2.10:25");
        second.insert(targets[1].clone());
    }
    assert_eq!(second.len(), 2);
}

#[test]
fn domain_without_mx_gets_its_own_addresses() {
    let mut world = World::new();
    world.mx("a.example", &[]);
    world.addresses("a.example", &["192.0.2.7"]);
    assert_eq!(world.targets("a.example"), ["192.0.2.7:25"]);
}

#[test]
fn null_mx_nxdomain_and_no_address_are_permanent_and_trouble_is_not() {
    let mut world = World::new();
    world.mx("null.example", &[(0, "")]);
    assert_eq!(
        world.plan("null.example"),
        Plan::Failure(DnsFailure::NullMx)
    );
    let question = Question::Mx(Domain::from_stored("gone.example"));
    world.cache.put(question, Answer::NxDomain, 60, world.now);
    assert_eq!(
        world.plan("gone.example"),
        Plan::Failure(DnsFailure::NoSuchDomain)
    );
    world.mx("empty.example", &[(10, "m")]);
    world.addresses("m", &[]);
    assert_eq!(
        world.plan("empty.example"),
        Plan::Failure(DnsFailure::NoAddress)
    );
    world.mx("half.example", &[(10, "m"), (20, "n")]);
    let trouble = Answer::Trouble(DnsTrouble::Timeout);
    world
        .cache
        .put(Question::Addresses("n".into()), trouble, 60, world.now);
    assert_eq!(
        world.plan("half.example"),
        Plan::Trouble(DnsTrouble::Timeout)
    );
}

#[test]
fn hosts_at_our_own_preference_or_beyond_are_left_out() {
    let mut world = World::new();
    for host in ["m5", "m10", "m20"] {
        world.addresses(host, &["192.0.2.1"]);
    }
    world.addresses("relay.example", &["192.0.2.50"]);
    world.mx(
        "backup.example",
        &[(5, "m5"), (10, "relay.example"), (10, "m10"), (20, "m20")],
    );
    assert_eq!(world.targets("backup.example").len(), 1);
    world.mx("own.example", &[(10, "relay.example"), (20, "m20")]);
    assert_eq!(
        world.plan("own.example"),
        Plan::Failure(DnsFailure::LoopsToSelf)
    );
    world.mx("byip.example", &[(10, "alias"), (20, "m20")]);
    world.addresses("alias", &["192.0.2.99"]);
    assert_eq!(
        world.plan("byip.example"),
        Plan::Failure(DnsFailure::LoopsToSelf)
    );
}

#[test]
fn answers_expire_with_their_ttl() {
    let mut world = World::new();
    world.mx("a.example", &[(10, "m")]);
    world.addresses("m", &["192.0.2.1"]);
    let Plan::Targets(targets) = world.plan("a.example") else {
        panic!()
    };
    assert_eq!(targets.expires, Mono(300_000_000));
    world.now = targets.expires;
    assert!(matches!(world.plan("a.example"), Plan::Ask(_)));
}

#[test]
fn cache_stays_within_its_bound_and_keeps_what_is_asked_for() {
    let mut cache = Cache::new(100);
    let hot = Question::Addresses("hot".into());
    cache.put(hot.clone(), Answer::NxDomain, 300, Mono(0));
    for n in 0..10_000 {
        cache.put(
            Question::Addresses(format!("h{n}").into()),
            Answer::NxDomain,
            300,
            Mono(0),
        );
        assert!(cache.len() <= 100);
        if n % 20 == 0 {
            assert!(cache.get(&hot, Mono(1)).is_some(), "after {n}");
        }
    }
}

#[test]
fn address_literals_and_routes_need_no_mx() {
    let mut world = World::new();
    assert_eq!(world.targets("[192.0.2.8]"), ["192.0.2.8:25"]);
    assert_eq!(world.targets("[IPv6:2001:db8::8]"), ["[2001:db8::8]:25"]);
    let domain = Domain::from_stored("a.example");
    let mut to = |host: &str| {
        let route = [NextHop::parse(host).unwrap()];
        plan(
            &mut world.cache,
            &domain,
            Some(&route),
            &world.policy,
            &world.own,
            &mut world.random,
            world.now,
        )
    };
    let Plan::Targets(targets) = to("127.0.0.1:2600") else {
        panic!()
    };
    assert_eq!(targets.list[0].address.to_string(), "127.0.0.1:2600");
    assert_eq!(
        to("smart.example"),
        Plan::Ask(vec![Question::Addresses("smart.example".into())])
    );
}

#[test]
fn only_addresses_of_the_family_wanted_are_used() {
    let mut world = World::new();
    world.mx("a.example", &[(10, "m")]);
    world.addresses("m", &["192.0.2.1", "2001:db8::1"]);
    world.policy.family = IpFamily::Ipv4;
    assert_eq!(world.targets("a.example"), ["192.0.2.1:25"]);
    world.policy.family = IpFamily::Ipv6;
    assert_eq!(world.targets("a.example"), ["[2001:db8::1]:25"]);
    world.addresses("m", &["192.0.2.1"]);
    assert_eq!(
        world.plan("a.example"),
        Plan::Failure(DnsFailure::NoAddress)
    );
    // What the sender or the operator wrote is no choice of ours.
    assert_eq!(world.targets("[192.0.2.8]"), ["192.0.2.8:25"]);
}

/// Such a domain reached this host, or other services of it that trust loopback.
#[test]
fn strangers_cannot_lead_mail_to_this_host_or_its_link() {
    let mut world = World::new();
    for address in [
        "127.0.0.9",
        "0.0.0.0",
        "0.1.2.3",
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "ff02::1",
        "::ffff:127.0.0.9",
        "::ffff:0.0.0.0",
        "::127.0.0.9",
    ] {
        let domain = format!("d{}.example", address.replace([':', '.'], "-"));
        let host = format!("mx.{domain}");
        world.mx(&domain, &[(10, &host)]);
        world.addresses(&host, &[address]);
        let refused = Plan::Failure(DnsFailure::NeverPublic);
        assert_eq!(world.plan(&domain), refused, "MX at {address}");
        let implicit = format!("i{domain}");
        world.mx(&implicit, &[]);
        world.addresses(&implicit, &[address]);
        assert_eq!(world.plan(&implicit), refused, "address {address}");
        let tag = if address.contains(':') { "IPv6:" } else { "" };
        let literal = format!("[{tag}{address}]");
        assert_eq!(world.plan(&literal), refused, "{literal}");
    }
    assert_eq!(DnsFailure::NeverPublic.status().to_string(), "5.4.4");
}

#[test]
fn the_next_mx_host_is_used_instead_of_one_on_loopback() {
    let mut world = World::new();
    world.mx("a.example", &[(10, "m1"), (20, "m2")]);
    world.addresses("m1", &["127.0.0.9"]);
    world.addresses("m2", &["::1", "192.0.2.2"]);
    assert_eq!(world.targets("a.example"), ["192.0.2.2:25"]);
    world.policy.allowed = vec![Cidr::parse("127.0.0.8/30").unwrap()];
    assert_eq!(
        world.targets("a.example"),
        ["127.0.0.9:25", "192.0.2.2:25"],
        "allowed by the operator"
    );
}

#[test]
fn a_route_leads_anywhere() {
    let mut world = World::new();
    world.addresses("localhost", &["127.0.0.1"]);
    let route = [
        NextHop::Address("127.0.0.1:2600".parse().unwrap()),
        NextHop::Host("localhost".into(), 2601),
    ];
    let domain = Domain::from_stored("a.example");
    let (own, policy) = (world.own.clone(), world.policy.clone());
    let plan = plan(
        &mut world.cache,
        &domain,
        Some(&route),
        &policy,
        &own,
        &mut world.random,
        world.now,
    );
    let Plan::Targets(targets) = plan else {
        panic!("{plan:?}")
    };
    let targets: Vec<_> = targets.list.iter().map(|t| t.address.to_string()).collect();
    assert_eq!(targets, ["127.0.0.1:2600", "127.0.0.1:2601"]);
}

#[test]
fn no_more_hosts_than_allowed_are_asked_for() {
    let mut world = World::new();
    world.mx("a.example", &[(30, "m3"), (10, "m1"), (20, "m2")]);
    world.policy.mx_hosts_max = 2;
    let hosts = ["m1", "m2"].map(|host| Question::Addresses(host.into()));
    assert_eq!(world.plan("a.example"), Plan::Ask(hosts.to_vec()));
}

#[test]
fn answers_are_kept_no_longer_than_the_operator_says() {
    let mut world = World::new();
    world.cache.set_ttl_max(100, 20);
    let question = |name: &str| Question::Addresses(name.into());
    let found = Answer::Addresses(vec!["192.0.2.1".parse().unwrap()]);
    world.cache.put(question("there"), found, 3600, world.now);
    world
        .cache
        .put(question("gone"), Answer::NxDomain, 3600, world.now);
    let nothing = Answer::Addresses(Vec::new());
    world.cache.put(question("empty"), nothing, 3600, world.now);
    let mut known = |ms| {
        let now = world.now.plus_ms(ms);
        ["there", "gone", "empty"].map(|name| world.cache.get(&question(name), now).is_some())
    };
    assert_eq!(known(19_000), [true, true, true]);
    assert_eq!(known(21_000), [true, false, false]);
    assert_eq!(known(101_000), [false, false, false]);
}

#[test]
fn ttls_have_a_floor_and_a_ceiling_and_trouble_a_time_of_its_own() {
    let mut cache = Cache::new(100);
    let question = |name: &str| Question::Addresses(name.into());
    let found = || Answer::Addresses(vec!["192.0.2.1".parse().unwrap()]);
    cache.put(question("zero"), found(), 0, Mono(0));
    cache.put(question("forever"), found(), u32::MAX, Mono(0));
    cache.put(question("never"), Answer::NxDomain, u32::MAX, Mono(0));
    let trouble = Answer::Trouble(DnsTrouble::ServFail);
    cache.put(question("trouble"), trouble, 3600, Mono(0));
    let mut known = |s: u64| {
        ["zero", "forever", "never", "trouble"]
            .map(|name| cache.get(&question(name), Mono(s * 1_000_000)).is_some())
    };
    assert_eq!(known(4), [true, true, true, true]);
    assert_eq!(known(5), [false, true, true, true]);
    assert_eq!(known(14), [false, true, true, true]);
    assert_eq!(known(15), [false, true, true, false]);
    assert_eq!(known(86_399), [false, true, true, false]);
    assert_eq!(known(86_400), [false, false, false, false]);
}

#[test]
fn an_answer_that_comes_anew_takes_the_place_of_the_old_one() {
    let mut cache = Cache::new(64);
    let question = || Question::Addresses("moves.example".into());
    let at = |ip: &str| Answer::Addresses(vec![ip.parse().unwrap()]);
    cache.put(question(), at("192.0.2.1"), 300, Mono(0));
    // Into the old generation with it.
    for n in 0..32 {
        let other = Question::Addresses(format!("h{n}").into());
        cache.put(other, Answer::NxDomain, 300, Mono(0));
    }
    cache.put(question(), at("192.0.2.2"), 300, Mono(1));
    let (answer, _) = cache.get(&question(), Mono(2)).unwrap();
    assert_eq!(*answer, at("192.0.2.2"));
    for n in 0..64 {
        let other = Question::Addresses(format!("i{n}").into());
        cache.put(other, Answer::NxDomain, 300, Mono(0));
        assert!(cache.len() <= 64);
        if let Some((answer, _)) = cache.get(&question(), Mono(2)) {
            assert_eq!(*answer, at("192.0.2.2"), "the older one never comes back");
        }
    }
}
