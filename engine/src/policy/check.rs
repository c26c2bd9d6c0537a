//! What in a policy contradicts itself or can never hold.

use std::fmt;

use super::keys::Key;
use super::layers::Policy;
use super::row::{Layer, Origin, Row, Scope};
use crate::net::DomainPattern;

/// Something an operator should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The row it is about, and where it stands.
    pub origin: Origin,
    /// What is odd, and what to do.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.text)
    }
}

/// Looks the operator's rows over.
pub fn check(policy: &Policy) -> Vec<Finding> {
    let rows: Vec<&Row> = policy
        .rows()
        .filter(|row| matches!(row.origin, Origin::File(..)))
        .collect();
    let mut findings = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let mut find = |text: String| {
            findings.push(Finding {
                origin: row.origin.clone(),
                text,
            });
        };
        if row.values.is_empty() {
            find(format!("the row for {} sets no value", row.name));
        }
        for text in contradictions(row) {
            find(text);
        }
        if is_nobody(row, policy) {
            find(format!(
                "provider {} names neither domains nor mx, and no shipped provider has that name: it never applies",
                row.name
            ));
        }
        for earlier in rows[..at]
            .iter()
            .filter(|other| other.layer() == row.layer())
        {
            if let Some(what) = hidden_by(row, earlier) {
                find(format!(
                    "{what} stands in the row at {} already, which comes first: here it never applies",
                    earlier.origin
                ));
            }
        }
    }
    findings
}

/// Values of one row that cannot all be meant.
fn contradictions(row: &Row) -> Vec<String> {
    let count = |key: Key| match row.value(key)? {
        super::Value::Count(n) => Some(*n),
        _ => None,
    };
    let mut texts = Vec::new();
    let mut exceeds = |narrow: Key, wide: Key, seconds: u64, each: u64| {
        if let (Some(few), Some(many)) = (count(narrow), count(wide))
            && few.saturating_mul(seconds) < many.saturating_mul(each)
        {
            texts.push(format!(
                "{} = {many} is never reached: {} = {few} allows less",
                wide.spec().name,
                narrow.spec().name
            ));
        }
    };
    use Key::{
        MessagesPerDay, MessagesPerHour, MessagesPerMinute, MessagesPerSecond, SessionsMax,
        SessionsPerMta,
    };
    exceeds(MessagesPerSecond, MessagesPerMinute, 60, 1);
    exceeds(MessagesPerMinute, MessagesPerHour, 60, 1);
    exceeds(MessagesPerHour, MessagesPerDay, 24, 1);
    exceeds(MessagesPerSecond, MessagesPerHour, 3600, 1);
    exceeds(SessionsMax, SessionsPerMta, 1, 1);
    let ms = |key: Key| match row.value(key)? {
        super::Value::Duration(ms) => Some(*ms),
        _ => None,
    };
    if let (Some(super::Value::Durations(steps)), Some(expire)) =
        (row.value(Key::RetrySchedule), ms(Key::ExpireAfter))
        && steps.first().is_some_and(|first| *first >= expire)
    {
        texts.push("retry_schedule begins after expire_after: there is no second attempt".into());
    }
    if let (Some(idle), Some(time)) = (ms(Key::IdleTimeout), ms(Key::SessionTimeMax))
        && idle > time
    {
        texts.push("idle_timeout is longer than session_time_max".into());
    }
    texts
}

fn is_nobody(row: &Row, policy: &Policy) -> bool {
    let Scope::Provider { domains, mx } = &row.scope else {
        return false;
    };
    let is_shipped = || {
        policy
            .rows()
            .any(|other| other.origin == Origin::Shipped && other.name == row.name)
    };
    domains.is_empty() && mx.is_empty() && !is_shipped()
}

/// What of `row` never applies because of `earlier`, of the same layer.
fn hidden_by(row: &Row, earlier: &Row) -> Option<String> {
    let hidden: Vec<String> = match (&row.scope, &earlier.scope) {
        (Scope::Provider { .. }, Scope::Provider { .. }) if row.name == earlier.name => {
            return Some(format!("provider {}", row.name));
        }
        (Scope::Provider { domains, mx }, Scope::Provider { domains: d, mx: m }) => {
            let covered = |list: &[DomainPattern], by: &[DomainPattern]| -> Vec<String> {
                let is_covered = |pattern: &&DomainPattern| by.contains(pattern);
                list.iter()
                    .filter(is_covered)
                    .map(ToString::to_string)
                    .collect()
            };
            let mut both = covered(domains, d);
            both.extend(covered(mx, m));
            both
        }
        (Scope::Domains(list), Scope::Domains(by)) => list
            .iter()
            .filter(|p| by.contains(p))
            .map(ToString::to_string)
            .collect(),
        _ => Vec::new(),
    };
    debug_assert!(row.layer() != Layer::Default);
    (!hidden.is_empty()).then(|| hidden.join(", "))
}
