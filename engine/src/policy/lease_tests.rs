//! A lender and its borrowers, with a channel between them that loses, delays, doubles and reorders.

use super::lease::*;
use crate::clock::Mono;
use crate::policy::bucket::{Bucket, Rate};
use crate::random::Random;

const MS: u64 = 1000;

enum Letter {
    Claim(u16, Claim),
    Grant(u16, Grant),
}

#[derive(Default)]
struct User {
    borrowed: Borrowed,
    holds: u32,
    work: u32,
    /// Nothing is done and said, though its sessions stand.
    is_dead: bool,
    served: u64,
}

/// An owner with work of its own, and borrowers.
struct World {
    random: Random,
    now: Mono,
    budget: u32,
    lender: Lender,
    own_holds: u32,
    own_work: u32,
    own_served: u64,
    users: Vec<User>,
    letters: Vec<(u64, Letter)>,
    number: u64,
    rate: Option<(Rate, Bucket)>,
    sent_at: Vec<u64>,
    loss: u64,
}

impl World {
    fn new(seed: u64, budget: u32, users: usize, loss: u64) -> Self {
        Self {
            random: Random::new(seed),
            now: Mono(1_000_000),
            budget,
            lender: Lender::default(),
            own_holds: 0,
            own_work: 0,
            own_served: 0,
            users: (0..users)
                .map(|n| User {
                    borrowed: Borrowed::new(n as u64 + 1),
                    ..User::default()
                })
                .collect(),
            letters: Vec::new(),
            number: 100,
            rate: None,
            sent_at: Vec::new(),
            loss,
        }
    }

    fn own(&self) -> Own {
        Own {
            budget: self.budget,
            holds: self.own_holds,
            wants: self.own_work.min(self.budget),
        }
    }

    fn post(&mut self, letter: impl Fn() -> Letter) {
        let mut copies = 1;
        if self.random.below(100) < self.loss {
            copies = 2 * self.random.below(2);
        }
        for _ in 0..copies {
            let late = self.random.below(100) < self.loss;
            let ms = if late { self.random.below(3000) } else { 1 };
            self.letters.push((self.now.0 + ms * MS, letter()));
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.letters)
            .into_iter()
            .partition(|(at, _)| *at <= now.0);
        self.letters = later;
        for (_, letter) in due {
            match letter {
                Letter::Claim(from, claim) => {
                    if let Some(back) = self.lender.claimed(from, claim, now)
                        && let Some((rate, bucket)) = &mut self.rate
                    {
                        bucket.give_back(*rate, back[0]);
                    }
                }
                Letter::Grant(to, grant) => {
                    let user = &mut self.users[usize::from(to)];
                    if !user.is_dead {
                        user.borrowed.granted(&grant, now);
                    }
                }
            }
        }
    }

    fn lend(&mut self) {
        let (own, now) = (self.own(), self.now);
        self.lender.expire(now);
        for (to, sessions) in self.lender.due(&own, now) {
            let wanted = self
                .lender
                .unanswered(to)
                .map_or(0, |claim| claim.units_wanted[0]);
            let mut units = [0; UNITS];
            let mut wait = [None; UNITS];
            if let Some((rate, bucket)) = &mut self.rate {
                while units[0] < wanted && self.lender.may_take(0, Some(to), now) {
                    if let Err(us) = bucket.may_take(*rate, now) {
                        wait[0] = Some((us.div_ceil(1000), 0));
                        break;
                    }
                    bucket.take(*rate, 1, now);
                    self.lender.took(0, Some(to));
                    units[0] += 1;
                }
                if wanted > 0 && units[0] == 0 {
                    let (ms, _) = *wait[0].get_or_insert((1, 0));
                    self.lender.waits(0, Some(to), ms, now);
                }
            }
            self.number += 1;
            let mut grant = self.lender.grant(to, sessions, units, self.number).unwrap();
            grant.wait = wait;
            self.post(|| Letter::Grant(to, grant));
        }
    }

    /// A tenth of a second for one: sessions end and begin, units are used.
    fn act(&mut self, at: Option<usize>) {
        let (own, now) = (self.own(), self.now);
        let ends = self.random.below(3) == 0;
        let Some(at) = at else {
            let allowed = self.lender.own_sessions(&own, now);
            self.own_holds = self.own_holds.min(self.own_work.max(allowed));
            if self.own_holds > allowed.min(self.own_work) && ends {
                self.own_holds -= 1;
            } else if self.own_holds < allowed.min(self.own_work) {
                self.own_holds = allowed.min(self.own_work);
            }
            self.own_served += u64::from(self.own_holds);
            return;
        };
        let user = &mut self.users[at];
        if user.is_dead {
            return;
        }
        let allowed = user.borrowed.sessions(now).min(self.budget);
        let most = allowed.min(user.work);
        if user.holds > most && ends {
            user.holds -= 1;
        } else if user.holds < most {
            user.holds = most;
        }
        user.served += u64::from(user.holds);
        while user.work > 0 && self.rate.is_some() && user.borrowed.may_take(0, now).is_ok() {
            user.borrowed.take(0);
            self.sent_at.push(now.0);
        }
        let need = Need {
            holds: user.holds,
            wants: user.work.min(self.budget),
            ceiling: self.budget,
            units: [
                if self.rate.is_some() {
                    user.work.min(10)
                } else {
                    0
                },
                0,
            ],
        };
        self.number += 1;
        if let Some(claim) = user.borrowed.claim(need, self.number, now) {
            self.post(|| Letter::Claim(at as u16, claim));
        }
    }

    fn step(&mut self) {
        self.now = Mono(self.now.0 + 20 * MS);
        self.deliver();
        self.act(None);
        for at in 0..self.users.len() {
            self.act(Some(at));
        }
        self.lend();
    }

    fn held(&self) -> u32 {
        self.own_holds + self.users.iter().map(|user| user.holds).sum::<u32>()
    }

    fn run_ms(&mut self, ms: u64) {
        let end = self.now.plus_ms(ms);
        while self.now < end {
            self.step();
            assert!(
                self.held() <= self.budget,
                "{} of {}",
                self.held(),
                self.budget
            );
        }
    }
}

#[test]
fn all_together_never_have_more_sessions_than_there_are_whatever_becomes_of_messages() {
    for seed in 0..150 {
        let loss = [0, 10, 40][seed as usize % 3];
        let (budget, users) = (1 + (seed % 7) as u32, 1 + seed as usize % 4);
        let mut world = World::new(seed, budget, users, loss);
        for _ in 0..60 {
            world.own_work = world.random.below(8) as u32;
            let at = world.random.below(users as u64) as usize;
            world.users[at].work = world.random.below(8) as u32;
            // Lives that end begin anew without a session; late words of the old one say nothing.
            if world.random.below(20) == 0 {
                let term = 1000 + world.number;
                world.users[at] = User {
                    borrowed: Borrowed::new(term),
                    ..User::default()
                };
            }
            let ms = 20 * (1 + world.random.below(40));
            world.run_ms(ms);
        }
    }
}

#[test]
fn one_session_goes_round_and_starves_nobody() {
    let mut world = World::new(1, 1, 2, 0);
    world.own_work = 5;
    world.users.iter_mut().for_each(|user| user.work = 5);
    world.run_ms(60_000);
    let served = [
        world.own_served,
        world.users[0].served,
        world.users[1].served,
    ];
    assert!(
        served.iter().all(|served| *served > 600),
        "{served:?} of 3000"
    );
    assert!(served.iter().sum::<u64>() > 2800, "{served:?} of 3000");
}

#[test]
fn what_one_does_not_use_is_anothers_within_a_second() {
    let mut world = World::new(1, 10, 2, 0);
    world.own_work = 10;
    world.users[0].work = 10;
    world.users[1].work = 10;
    world.run_ms(5_000);
    assert_eq!(world.held(), 10);
    assert!(world.users.iter().all(|user| user.holds >= 3));
    world.own_work = 0;
    world.users[0].work = 0;
    world.run_ms(1_000);
    assert_eq!(world.users[1].holds, 10);
    world.users[1].work = 0;
    world.own_work = 10;
    world.run_ms(1_000);
    assert_eq!(world.own_holds, 10);
}

#[test]
fn what_a_silent_borrower_had_comes_back_at_its_time_and_not_before() {
    let mut world = World::new(1, 4, 1, 0);
    world.users[0].work = 4;
    world.run_ms(1_000);
    assert_eq!(world.users[0].holds, 4);
    world.users[0].is_dead = true;
    world.own_work = 4;
    world.run_ms(LEASE_MS + TAKE_BACK_MS - 4_000);
    assert_eq!(world.own_holds, 0);
    // Its sessions have ended long ago by then.
    world.users[0].holds = 0;
    world.run_ms(8_000);
    assert_eq!(world.own_holds, 4);
}

#[test]
fn a_borrower_whose_lease_is_not_renewed_begins_nothing() {
    let mut borrowed = Borrowed::new(7);
    let need = Need {
        wants: 3,
        ceiling: 9,
        ..Need::default()
    };
    let claim = borrowed.claim(need, 1, Mono(0)).unwrap();
    let mut lender = Lender::default();
    // The claim was on its way for four seconds: that is part of the time.
    let late = Mono(0).plus_ms(4_000);
    lender.claimed(1, claim, late);
    let own = Own {
        budget: 9,
        ..Own::default()
    };
    assert_eq!(lender.due(&own, late), [(1, 3)]);
    let grant = lender.grant(1, 3, [0; UNITS], 1).unwrap();
    assert!(borrowed.granted(&grant, late));
    assert!(!borrowed.granted(&grant, late), "twice is once");
    assert_eq!(borrowed.sessions(Mono(0).plus_ms(LEASE_MS - 1)), 3);
    assert_eq!(borrowed.sessions(Mono(0).plus_ms(LEASE_MS)), 0);
    // What the owner has work for itself: never what may still be in use.
    let own = Own { wants: 9, ..own };
    assert_eq!(lender.own_sessions(&own, late.plus_ms(LEASE_MS)), 6);
}

#[test]
fn a_lowered_budget_holds_for_new_sessions_at_once_and_the_rest_comes_back() {
    let mut world = World::new(1, 10, 1, 0);
    world.own_work = 10;
    world.users[0].work = 10;
    world.run_ms(3_000);
    world.budget = 3;
    let mut before = world.held();
    for _ in 0..200 {
        world.step();
        assert!(world.held() <= before.max(3), "no new session above it");
        before = world.held();
    }
    assert_eq!(world.held(), 3);
}

#[test]
fn units_of_all_together_keep_to_the_rate_and_its_depth_and_use_it() {
    for seed in 0..40 {
        let loss = [0, 10, 40][seed as usize % 3];
        let mut world = World::new(seed, 5, 1 + seed as usize % 3, loss);
        let (units, burst) = ([50, 5, 300][seed as usize % 3], 11);
        world.rate = Some((Rate::new(units, 1, burst), Bucket::default()));
        world.users.iter_mut().for_each(|user| user.work = 10);
        world.run_ms(20_000);
        let sent = world.sent_at.clone();
        // Beside the depth, what is lent may be used a little later than it was taken.
        let depth = burst + units * UNIT_MS_MAX / 1000 + 1;
        for (nth, first) in sent.iter().enumerate() {
            for (later, last) in sent.iter().enumerate().skip(nth) {
                let held = (later - nth + 1) as u64;
                let allowed = (last - first) * units / 1_000_000 + depth;
                assert!(held <= allowed, "seed {seed}: {held} > {allowed}");
            }
        }
        if loss == 0 {
            let least = 20 * units * 97 / 100;
            assert!(
                sent.len() as u64 >= least,
                "seed {seed}: {} < {least}",
                sent.len()
            );
        }
    }
}
