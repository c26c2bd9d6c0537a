//! Answers, kept as long as their TTL says and no more of them than fit.

use std::collections::HashMap;
use std::rc::Rc;

use super::{Answer, Question};
use crate::clock::Mono;

/// Shortest time an answer is used, seconds: planning one domain takes several questions, and an
/// answer with TTL 0 must live until the last of them is answered.
pub(super) const TTL_S_MIN: u32 = 5;
/// Longest, whatever the TTL says, unless `Cache::set_ttl_max` says otherwise.
pub(super) const TTL_S_MAX: u32 = 86_400;
/// How long a missing answer (SERVFAIL, timeout) is believed (RFC 2308 §7 allows 5 minutes).
pub(super) const TROUBLE_TTL_S: u32 = 15;

type Map = HashMap<Question, (Rc<Answer>, Mono)>;

/// A bounded cache in two generations: when the young one is full it becomes the old one, and what
/// nobody asked for since the last change is dropped with the old.
#[derive(Debug)]
pub struct Cache {
    generation_entries_max: usize,
    ttl_s_max: u32,
    negative_ttl_s_max: u32,
    young: Map,
    old: Map,
}

impl Cache {
    /// At most `entries_max` answers (at least 64).
    pub fn new(entries_max: usize) -> Self {
        Self {
            generation_entries_max: entries_max.max(64) / 2,
            ttl_s_max: TTL_S_MAX,
            negative_ttl_s_max: TTL_S_MAX,
            young: Map::new(),
            old: Map::new(),
        }
    }

    /// Longest time an answer, and one that says that there is nothing, is used from now on, seconds;
    /// no shorter than 5 s.
    pub fn set_ttl_max(&mut self, ttl_s_max: u32, negative_ttl_s_max: u32) {
        self.ttl_s_max = ttl_s_max.max(TTL_S_MIN);
        self.negative_ttl_s_max = negative_ttl_s_max.max(TTL_S_MIN);
    }

    /// Keeps `answer` for `ttl_s` seconds, within the bounds above.
    pub fn put(&mut self, question: Question, answer: Answer, ttl_s: u32, now: Mono) {
        let is_negative = match &answer {
            Answer::Mx(records) => records.is_empty(),
            Answer::Addresses(list) => list.is_empty(),
            Answer::NxDomain | Answer::Trouble(_) => true,
        };
        let ttl_s = match answer {
            Answer::Trouble(_) => TROUBLE_TTL_S,
            _ if is_negative => ttl_s.clamp(TTL_S_MIN, self.negative_ttl_s_max),
            _ => ttl_s.clamp(TTL_S_MIN, self.ttl_s_max),
        };
        self.keep(
            question,
            (Rc::new(answer), now.plus_ms(u64::from(ttl_s) * 1000)),
        );
    }

    fn keep(&mut self, question: Question, entry: (Rc<Answer>, Mono)) {
        if self.young.len() >= self.generation_entries_max && !self.young.contains_key(&question) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(question, entry);
    }

    /// The answer and when it expires, if it has not.
    pub fn get(&mut self, question: &Question, now: Mono) -> Option<(Rc<Answer>, Mono)> {
        if let Some((answer, expires)) = self.young.get(question) {
            return (*expires > now).then(|| (Rc::clone(answer), *expires));
        }
        let (question, (answer, expires)) = self.old.remove_entry(question)?;
        if expires <= now {
            return None;
        }
        self.keep(question, (Rc::clone(&answer), expires));
        Some((answer, expires))
    }

    /// Forgets everything, as an operator may ask.
    pub fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    /// How many answers are held.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
