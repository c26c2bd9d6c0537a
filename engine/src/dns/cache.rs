//! Answers, kept as long as their TTL says and no more of them than fit.

use std::collections::HashMap;
use std::rc::Rc;

use super::{Answer, Question};
use crate::clock::Mono;

/// Shortest time an answer is used, seconds: planning one domain takes several questions, and an
/// answer with TTL 0 must live until the last of them is answered.
pub const TTL_S_MIN: u32 = 5;
/// Longest, whatever the TTL says.
pub const TTL_S_MAX: u32 = 86_400;
/// How long a missing answer (SERVFAIL, timeout) is believed (RFC 2308 §7 allows 5 minutes).
pub const TROUBLE_TTL_S: u32 = 15;

type Map = HashMap<Question, (Rc<Answer>, Mono)>;

/// A bounded cache in two generations: when the young one is full it becomes the old one, and what
/// nobody asked for since the last change is dropped with the old.
#[derive(Debug)]
pub struct Cache {
    generation_entries_max: usize,
    young: Map,
    old: Map,
}

impl Cache {
    /// At most `entries_max` answers (at least 64).
    pub fn new(entries_max: usize) -> Self {
        Self {
            generation_entries_max: entries_max.max(64) / 2,
            young: Map::new(),
            old: Map::new(),
        }
    }

    /// Keeps `answer` for `ttl_s` seconds, within the bounds above.
    pub fn put(&mut self, question: Question, answer: Answer, ttl_s: u32, now: Mono) {
        let ttl_s = match answer {
            Answer::Trouble(_) => TROUBLE_TTL_S,
            _ => ttl_s.clamp(TTL_S_MIN, TTL_S_MAX),
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
