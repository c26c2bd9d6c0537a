//! Lending: what one place may be sent, exact over several senders.
//!
//! One of them owns it and has a [`Lender`]; each other has a [`Borrowed`]. Two things are lent: sessions, held
//! until they are given back, and units of a rate, which the owner takes out of its buckets before it lends
//! them and which are used within [`UNIT_MS_MAX`] or not at all.
//!
//! A borrower says with a [`Claim`] what it will use at most, `cap`, until a newer grant comes, and what it
//! would like. The owner answers with a [`Grant`], which goes over all earlier ones. The owner reckons with
//! the greatest of the newest cap and of the grants that cap does not know yet, so that whatever messages are
//! lost, late, doubled or out of order, all together never use more than there is; they are dealt with by
//! saying it again.
//!
//! A lease ends [`LEASE_MS`] after the claim that it answers *was sent*: from then on the borrower begins nothing
//! on it. The owner counts from when it answered, which is later, and takes back only [`TAKE_BACK_MS`] after
//! that, when what was under way has come to its end. Each measures with its own clock.
//!
//! Nothing here knows sites, the queue or a clock: `now` comes in.

use std::collections::VecDeque;

use crate::clock::Mono;

/// How long a lease holds that is not renewed, milliseconds.
pub const LEASE_MS: u64 = 10_000;
/// How long after its end what a silent borrower had is kept for it, milliseconds: the longest that a
/// transaction goes on by RFC 5321 §4.5.3.2, and something more.
pub const TAKE_BACK_MS: u64 = 900_000;
/// A lease that is in use is renewed so often, milliseconds.
const RENEW_MS: u64 = 2_500;
/// A claim that has found no answer is sent again so often, milliseconds.
const ASK_AGAIN_MS: u64 = 200;
/// How long sessions without work are kept, milliseconds: what comes in bursts would give them back and ask for
/// them again with each.
const SPARE_MS: u64 = 500;
/// How long units may be used after they were asked for, milliseconds.
pub const UNIT_MS_MAX: u64 = 200;
/// Sessions of which there are not enough for all go round so often, milliseconds.
pub const TURN_MS: u64 = 2_000;
/// How long the next unit is kept for who has waited longest for it, milliseconds.
const FIRST_MS: u64 = 400;
/// Grants that a borrower has not confirmed; of more the two oldest count as one.
const UNSEEN_MAX: usize = 8;

/// Kinds of units: messages and connections.
pub const UNITS: usize = 2;

/// What a borrower uses at most, and what it would like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Which life of the borrower: a later one has a greater number.
    pub term: u64,
    /// Grows with each claim of a term.
    pub number: u64,
    /// When it was sent, by the borrower's clock; comes back with the grant.
    pub at: Mono,
    /// The newest grant that it knows.
    pub seen: u64,
    /// Sessions that it uses at most until a newer grant comes.
    pub cap: u32,
    /// Sessions that it has.
    pub holds: u32,
    /// Sessions that it has work for.
    pub wants: u32,
    /// Sessions that all together may have, as far as the borrower knows.
    pub ceiling: u32,
    /// Units that it has used or has in hand, since its term began.
    pub kept: [u64; UNITS],
    /// Units that it would use at once.
    pub units_wanted: [u32; UNITS],
}

/// What a borrower may use from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Of the borrower's claim.
    pub term: u64,
    /// Grows with each grant.
    pub number: u64,
    /// [`Claim::at`] of the newest claim.
    pub claimed_at: Mono,
    /// Sessions.
    pub sessions: u32,
    /// Units more.
    pub units: [u32; UNITS],
    /// Where there were none: milliseconds until there may be, and the limit that is in the way.
    pub wait: [Option<(u64, u8)>; UNITS],
}

/// One borrower, as the owner sees it.
#[derive(Clone, Debug)]
struct Party {
    id: u16,
    newest: Claim,
    /// Grants that the newest claim does not know: number and sessions.
    unseen: VecDeque<(u64, u32)>,
    last_number: u64,
    last_sessions: u32,
    /// Units lent, less those that came back.
    lent: [u64; UNITS],
    heard: Mono,
    is_unanswered: bool,
}

impl Party {
    fn new(id: u16, claim: Claim, now: Mono) -> Self {
        Self {
            id,
            newest: claim,
            unseen: VecDeque::new(),
            last_number: claim.seen,
            last_sessions: claim.cap,
            lent: claim.kept,
            heard: now,
            is_unanswered: true,
        }
    }

    /// The most it may use, whatever it knows by now.
    fn most(&self) -> u32 {
        let unseen = self.unseen.iter().map(|(_, sessions)| *sessions);
        unseen.max().unwrap_or(0).max(self.newest.cap)
    }

    fn granted(&mut self, number: u64, sessions: u32) {
        if self.unseen.len() == UNSEEN_MAX
            && let Some((_, oldest)) = self.unseen.pop_front()
            && let Some(next) = self.unseen.front_mut()
        {
            next.1 = next.1.max(oldest);
        }
        self.unseen.push_back((number, sessions));
        (self.last_number, self.last_sessions) = (number, sessions);
    }

    /// Sessions that it will find itself allowed when it has all our grants.
    fn allowed(&self) -> u32 {
        if self.unseen.is_empty() {
            self.last_sessions.min(self.newest.cap)
        } else {
            self.last_sessions
        }
    }

    /// Sessions that it has work for, as far as it is alive.
    const fn wants(&self, now: Mono) -> u32 {
        if now.ms_since(self.heard) < LEASE_MS {
            self.newest.wants
        } else {
            0
        }
    }

    fn is_idle(&self) -> bool {
        self.newest.wants == 0 && self.most() == 0
    }
}

/// What the owner itself has and wants, and what there is in all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Own {
    /// Sessions, all together.
    pub budget: u32,
    /// Sessions of the owner.
    pub holds: u32,
    /// Sessions that the owner has work for.
    pub wants: u32,
}

/// The owner's side.
#[derive(Clone, Debug, Default)]
pub struct Lender {
    parties: Vec<Party>,
    /// Who waits for the next unit, and until when it is kept for it; `None`: the owner itself.
    first: [Option<(Option<u16>, Mono)>; UNITS],
}

impl Lender {
    /// Takes in what a borrower says; `None` if it is known already, or else how many units have come back.
    pub fn claimed(&mut self, id: u16, claim: Claim, now: Mono) -> Option<[u64; UNITS]> {
        let Some(party) = self.parties.iter_mut().find(|party| party.id == id) else {
            self.parties.push(Party::new(id, claim, now));
            return Some([0; UNITS]);
        };
        if claim.term > party.newest.term {
            *party = Party::new(id, claim, now);
            return Some([0; UNITS]);
        }
        if claim.term < party.newest.term || claim.number <= party.newest.number {
            return None;
        }
        party.newest = claim;
        (party.heard, party.is_unanswered) = (now, true);
        party.unseen.retain(|(number, _)| *number > claim.seen);
        let mut back = [0; UNITS];
        if claim.seen == party.last_number {
            for (n, back) in back.iter_mut().enumerate() {
                *back = party.lent[n].saturating_sub(claim.kept[n]);
                party.lent[n] -= *back;
            }
        }
        Some(back)
    }

    /// Borrowers that have been silent for so long have nothing any more.
    pub fn expire(&mut self, now: Mono) {
        self.parties.retain(|party| {
            let silent_ms = now.ms_since(party.heard);
            silent_ms < LEASE_MS || !party.is_idle() && silent_ms < LEASE_MS + TAKE_BACK_MS
        });
    }

    /// Whether nobody has or wants anything.
    pub fn is_idle(&self) -> bool {
        self.parties.is_empty()
    }

    /// Sessions that all together may have: the least that any of them knows of.
    fn budget(&self, own: &Own) -> u32 {
        let ceilings = self.parties.iter().filter(|party| !party.is_idle());
        let ceilings = ceilings.map(|party| party.newest.ceiling);
        ceilings.min().unwrap_or(u32::MAX).min(own.budget)
    }

    /// Sessions for the owner, and for each borrower, if all had given back what is too much. First what
    /// there is work for, evenly; what is left, to those that have it.
    fn targets(&self, own: &Own, now: Mono) -> Vec<u32> {
        let budget = self.budget(own);
        let wants: Vec<(u32, u32)> = std::iter::once((own.wants, own.holds))
            .chain((self.parties.iter()).map(|party| (party.wants(now), party.newest.holds)))
            .collect();
        let mut left = budget;
        let mut targets = vec![0; wants.len()];
        let turn = (now.0 / (TURN_MS * 1000)) as usize % wants.len();
        let mut hungry: Vec<usize> = (0..wants.len()).collect();
        hungry.rotate_left(turn);
        // Each round takes from `left`, or satisfies somebody, or is the last.
        loop {
            hungry.retain(|at| targets[*at] < wants[*at].0);
            let each = left / (hungry.len().max(1) as u32);
            if each == 0 {
                break;
            }
            for at in &hungry {
                let more = each.min(wants[*at].0 - targets[*at]);
                targets[*at] += more;
                left -= more;
            }
            if hungry.is_empty() {
                break;
            }
        }
        for at in hungry.into_iter().take(left as usize) {
            targets[at] += 1;
            left -= 1;
        }
        for (target, (_, holds)) in targets.iter_mut().zip(&wants) {
            let more = holds.saturating_sub(*target).min(left);
            *target += more;
            left -= more;
        }
        targets
    }

    fn lent_sessions(&self) -> u32 {
        self.parties.iter().map(Party::most).sum()
    }

    /// Sessions that the owner itself may have now.
    pub fn own_sessions(&self, own: &Own, now: Mono) -> u32 {
        let budget = self.budget(own);
        if self.parties.is_empty() {
            return budget;
        }
        let theirs = self.parties.iter().map(|party| party.wants(now));
        let wanted = theirs.fold(own.wants, u32::saturating_add);
        // Asked for each message: where there is enough for all, nothing has to be shared out.
        let target = match budget.checked_sub(wanted) {
            Some(left) => own.wants + own.holds.saturating_sub(own.wants).min(left),
            None => self.targets(own, now)[0],
        };
        target.min(budget.saturating_sub(self.lent_sessions()))
    }

    /// Borrowers that are to be told something, and how many sessions they may have from then on.
    pub fn due(&self, own: &Own, now: Mono) -> Vec<(u16, u32)> {
        let targets = self.targets(own, now);
        let lent = self.lent_sessions();
        let mut free = (self.budget(own)).saturating_sub(own.holds.saturating_add(lent));
        let mut due = Vec::new();
        for (party, target) in self.parties.iter().zip(&targets[1..]) {
            let most = party.most();
            let sessions = (*target).min(most.saturating_add(free));
            free -= sessions.saturating_sub(most);
            if party.is_unanswered || sessions != party.allowed() {
                due.push((party.id, sessions));
            }
        }
        due
    }

    /// The newest claim of a borrower, if it has not been answered.
    pub fn unanswered(&self, id: u16) -> Option<&Claim> {
        let party = self.parties.iter().find(|party| party.id == id)?;
        party.is_unanswered.then_some(&party.newest)
    }

    /// Grants `id` sessions, by [`Self::due`], and units that the owner has taken out of its buckets for it.
    /// `number`: greater than that of every grant before.
    pub fn grant(
        &mut self,
        id: u16,
        sessions: u32,
        units: [u32; UNITS],
        number: u64,
    ) -> Option<Grant> {
        let party = self.parties.iter_mut().find(|party| party.id == id)?;
        party.granted(number, sessions);
        party.is_unanswered = false;
        for (lent, units) in party.lent.iter_mut().zip(units) {
            *lent += u64::from(units);
        }
        Some(Grant {
            term: party.newest.term,
            number,
            claimed_at: party.newest.at,
            sessions,
            units,
            wait: [None; UNITS],
        })
    }

    /// Whether `who` (`None`: the owner) may take units of `kind`: somebody else may have waited longer.
    pub fn may_take(&self, kind: usize, who: Option<u16>, now: Mono) -> bool {
        match self.first[kind] {
            Some((first, until)) => first == who || until <= now,
            None => true,
        }
    }

    /// `who` has had a unit.
    pub fn took(&mut self, kind: usize, who: Option<u16>) {
        if self.first[kind].is_some_and(|(first, _)| first == who) {
            self.first[kind] = None;
        }
    }

    /// `who` waits for the next unit, which is there in `wait_ms`.
    pub fn waits(&mut self, kind: usize, who: Option<u16>, wait_ms: u64, now: Mono) {
        let first = &mut self.first[kind];
        if first.is_none_or(|(first, until)| until <= now || first == who) {
            *first = Some((who, now.plus_ms(wait_ms + FIRST_MS)));
        }
    }
}

/// What a borrower has and wants at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Sessions that it has.
    pub holds: u32,
    /// Sessions that it has work for.
    pub wants: u32,
    /// [`Claim::ceiling`].
    pub ceiling: u32,
    /// Units that it would use at once.
    pub units: [u32; UNITS],
}

/// The borrower's side.
#[derive(Clone, Debug, Default)]
pub struct Borrowed {
    term: u64,
    seen: u64,
    /// By the newest grant, or less by its own word.
    sessions: u32,
    ends: Mono,
    kept: [u64; UNITS],
    in_hand: [u32; UNITS],
    units_end: [Mono; UNITS],
    wait: [Option<(Mono, u8)>; UNITS],
    asked: Option<(Mono, Need)>,
    is_answered: bool,
    waits_since: Option<Mono>,
    /// Sessions that the owner reckons with: of the newest claim, and of the grants since.
    reckoned: u32,
    /// Since when it has sessions that it has no work for.
    spare_since: Option<Mono>,
    /// Units were not used, and the owner does not know yet.
    gives_back: bool,
}

impl Borrowed {
    /// Nothing yet. `term`: greater than that of all that borrowed for the same sender before.
    pub fn new(term: u64) -> Self {
        Self {
            term,
            ..Self::default()
        }
    }

    /// Sessions that may be used now.
    pub fn sessions(&self, now: Mono) -> u32 {
        if now < self.ends { self.sessions } else { 0 }
    }

    /// Since when it waits for the owner.
    pub const fn waits_since(&self) -> Option<Mono> {
        self.waits_since
    }

    /// Whether a unit may be used now; else when one may be had, with the limit that is in the way, as far as
    /// the owner has told.
    ///
    /// # Errors
    /// There is none.
    pub fn may_take(&self, kind: usize, now: Mono) -> Result<(), Option<(Mono, u8)>> {
        if self.in_hand[kind] > 0 && now < self.units_end[kind] {
            return Ok(());
        }
        Err(self.wait[kind].filter(|(until, _)| *until > now))
    }

    /// Uses one.
    pub const fn take(&mut self, kind: usize) {
        self.in_hand[kind] = self.in_hand[kind].saturating_sub(1);
    }

    /// Takes in a grant; `false` if a newer one was there.
    pub fn granted(&mut self, grant: &Grant, now: Mono) -> bool {
        if grant.term != self.term || grant.number <= self.seen {
            return false;
        }
        self.seen = grant.number;
        self.sessions = grant.sessions;
        self.reckoned = self.reckoned.max(grant.sessions);
        self.ends = self.ends.max(grant.claimed_at.plus_ms(LEASE_MS));
        self.is_answered = true;
        for kind in 0..UNITS {
            let end = grant.claimed_at.plus_ms(UNIT_MS_MAX);
            if grant.units[kind] > 0 && now < end {
                self.drop_old(kind, now);
                self.in_hand[kind] += grant.units[kind];
                self.kept[kind] += u64::from(grant.units[kind]);
                // Those in hand already may have less time: all have the least.
                let earlier = self.in_hand[kind] > grant.units[kind];
                self.units_end[kind] = if earlier {
                    self.units_end[kind].min(end)
                } else {
                    end
                };
            }
            self.wait[kind] = grant.wait[kind].map(|(ms, limit)| (now.plus_ms(ms), limit));
        }
        true
    }

    fn drop_old(&mut self, kind: usize, now: Mono) {
        if now >= self.units_end[kind] && self.in_hand[kind] > 0 {
            self.gives_back = true;
            self.kept[kind] -= u64::from(std::mem::take(&mut self.in_hand[kind]));
        }
    }

    /// Whether there is anything to renew or to give back.
    pub const fn is_idle(&self) -> bool {
        self.sessions == 0
            && self.in_hand[0] == 0
            && self.in_hand[1] == 0
            && (self.is_answered || self.asked.is_none())
    }

    /// What is to be said to the owner now, if anything. `number`: greater than that of every claim before.
    pub fn claim(&mut self, need: Need, number: u64, now: Mono) -> Option<Claim> {
        for kind in 0..UNITS {
            self.drop_old(kind, now);
        }
        let sessions = self.sessions(now);
        // What is not needed is given back without being asked, but not at once.
        let used = need.holds.max(need.wants.min(sessions));
        let is_spare = used < self.sessions;
        self.spare_since = is_spare.then(|| self.spare_since.unwrap_or(now));
        let is_kept = self
            .spare_since
            .is_none_or(|since| now.ms_since(since) < SPARE_MS);
        let cap = if is_kept { used.max(sessions) } else { used };
        let needs_units =
            (0..UNITS).any(|kind| need.units[kind] > 0 && self.may_take(kind, now) == Err(None));
        let needs = need.wants > sessions || needs_units;
        let has_changed = cap < self.reckoned || self.asked.is_none() || self.gives_back;
        let ms = self.asked.map_or(u64::MAX, |(at, _)| now.ms_since(at));
        let before = self.asked.map(|(_, need)| need).unwrap_or_default();
        let is_more = need.wants > before.wants && need.wants > sessions || needs_units;
        let is_less = need.wants == 0 && before.wants > 0 && ms >= SPARE_MS;
        let is_due = if self.is_answered {
            has_changed
                || is_more
                || is_less
                || needs && ms >= ASK_AGAIN_MS
                || (cap > 0 || need.wants > 0) && ms >= RENEW_MS
        } else {
            has_changed || is_less || ms >= ASK_AGAIN_MS
        };
        self.waits_since = needs.then(|| self.waits_since.unwrap_or(now));
        if !is_due {
            return None;
        }
        self.sessions = self.sessions.min(cap);
        self.reckoned = cap;
        self.gives_back = false;
        self.asked = Some((now, need));
        self.is_answered = false;
        Some(Claim {
            term: self.term,
            number,
            at: now,
            seen: self.seen,
            cap,
            holds: need.holds,
            wants: need.wants,
            ceiling: need.ceiling,
            kept: self.kept,
            units_wanted: need.units,
        })
    }
}
