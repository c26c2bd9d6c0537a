//! Reply rules: what delivery does about a reply, besides what its code says.
//!
//! The rules are those of the bounce classifier: one table says why something failed, of a reply and of
//! returned mail alike, and its last column what delivery is to do. Here that column is read
//! ([`Step::parse_all`]) and the table asked ([`ReplyRules::judge`]); who carries it out are the pool
//! (what a site is sent) and the shard (the message itself).
//!
//! ```text
//!   rest-source 2h after 2/1h, alert
//! ```
//!
//! Steps stand with commas between them. `after N/TIME`: only from the Nth such reply of a site within
//! the time on. What operators need is in docs/bounce-rules.md.

use std::fmt;

use crate::bounce::{Classifier, Evidence, Reason, RuleFault, Verdict};
use crate::units::{format_duration_ms, parse_duration_ms};

/// Steps of one rule.
pub const STEPS_MAX: usize = 6;
/// How long a rule may rest or slow anything down, milliseconds.
pub const HOLD_MS_MAX: u64 = 7 * 24 * 3_600_000;
/// Replies that an `after` may wait for.
pub const AFTER_MAX: u16 = 1000;

/// What a message becomes, whatever its reply's code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treat {
    /// The peer has it.
    Delivered,
    /// It is not tried again.
    Failed,
    /// It is.
    Deferred,
}

/// One thing to be done. Times are milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// The site is sent at most `units` messages in `per_s` seconds.
    Slow {
        /// How many.
        units: u32,
        /// In how many seconds.
        per_s: u32,
        /// For how long.
        for_ms: u64,
    },
    /// The site has at most so many sessions.
    Sessions {
        /// How many.
        max: u32,
        /// For how long.
        for_ms: u64,
    },
    /// Sessions of the site are given half as much mail.
    FewerMessages {
        /// For how long.
        for_ms: u64,
    },
    /// Its transactions have half as many recipients as the one that was refused.
    FewerRecipients {
        /// For how long.
        for_ms: u64,
    },
    /// The site is sent nothing.
    RestSite {
        /// For how long.
        for_ms: u64,
    },
    /// The site is sent nothing from the source address that was refused; nothing at all if there is no
    /// other.
    RestSource {
        /// For how long.
        for_ms: u64,
    },
    /// The same, and the message goes out again at once, if there is another source.
    OtherSource {
        /// For how long.
        for_ms: u64,
    },
    /// The receiving address is passed over for a while, and the message goes to another at once, if there
    /// is one.
    NextMx,
    /// The message is tried again after this time, its schedule notwithstanding.
    Retry {
        /// After how long.
        after_ms: u64,
    },
    /// The message is tried again soon, by the schedule for greylisting.
    Greylisted,
    /// What the message becomes.
    Treat(Treat),
    /// It is how this site behaves, and no sign of congestion.
    Normal,
    /// An operator is told.
    Alert,
}

/// A deed, and from which reply on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What to do.
    pub deed: Deed,
    /// From the how manieth such reply within how many milliseconds on.
    pub after: Option<(u16, u64)>,
}

/// What a reply means and what is to be done about it.
#[derive(Clone, Copy, Debug)]
pub struct Judgement<'r> {
    /// Why.
    pub reason: Reason,
    /// What that means for the address.
    pub verdict: Verdict,
    /// The rule that decided, if any.
    pub rule: Option<RuleId<'r>>,
    /// Its steps.
    pub steps: &'r [Step],
}

/// A rule, as it is named to an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleId<'r> {
    /// `builtin`, or the operator's file.
    pub file: &'r str,
    /// Line from 1.
    pub line: u32,
    /// Its place in the table.
    pub index: usize,
    /// Who says so.
    pub source: &'r str,
}

impl fmt::Display for RuleId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// The table with what is to be done. Built once, shared, never changed.
#[derive(Debug)]
pub struct ReplyRules {
    classifier: Classifier,
    /// By the rule's place.
    steps: Vec<Box<[Step]>>,
}

impl ReplyRules {
    /// The longest time after which any rule has a message tried again, milliseconds.
    pub fn retry_ms_max(&self) -> u64 {
        let steps = self.steps.iter().flatten();
        let waits = steps.map(|step| match step.deed {
            Deed::Retry { after_ms } => after_ms,
            _ => 0,
        });
        waits.max().unwrap_or(0)
    }

    /// The shipped rules.
    pub fn builtin() -> Self {
        match Self::with_overrides("", "", &[]) {
            Ok(rules) => rules,
            // A test builds this; a fault is a mistake in our own table.
            Err(faults) => unreachable!("shipped rules: {}", faults[0]),
        }
    }

    /// The shipped rules after the operator's, which win.
    ///
    /// `name`: how faults call the file. `text`: its content. `providers`: names of the policy's rows, which
    /// rules may be for.
    ///
    /// # Errors
    /// Everything that is wrong with the operator's rules.
    pub fn with_overrides(
        name: &str,
        text: &str,
        providers: &[&str],
    ) -> Result<Self, Vec<RuleFault>> {
        let classifier = Classifier::for_providers(name, text, providers)?;
        let (mut steps, mut faults) = (Vec::new(), Vec::new());
        for rule in classifier.rules() {
            match Step::parse_all(rule.action) {
                Ok(list) => steps.push(list),
                Err(why) => faults.push(RuleFault {
                    file: rule.file.to_owned(),
                    line: rule.line,
                    why,
                }),
            }
        }
        if faults.is_empty() {
            Ok(Self { classifier, steps })
        } else {
            Err(faults)
        }
    }

    /// What a reply means, and what is to be done about it.
    pub fn judge(&self, evidence: &Evidence<'_>) -> Judgement<'_> {
        let decision = self.classifier.decide(evidence);
        Judgement {
            reason: decision.reason,
            verdict: decision.verdict,
            rule: decision.rule.map(|rule| RuleId {
                file: rule.file,
                line: rule.line,
                index: rule.index,
                source: rule.source,
            }),
            steps: decision.rule.map_or(&[], |rule| &*self.steps[rule.index]),
        }
    }

    /// The classifier with the same rules, for returned mail.
    pub const fn classifier(&self) -> &Classifier {
        &self.classifier
    }
}

impl Step {
    /// Reads the column.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn parse_all(text: &str) -> Result<Box<[Self]>, String> {
        let words = text.split(',').map(str::trim);
        let steps: Vec<Self> = words
            .filter(|step| !step.is_empty())
            .map(Self::parse)
            .collect::<Result<_, _>>()?;
        if steps.len() > STEPS_MAX {
            return Err(format!("{} actions, at most {STEPS_MAX}", steps.len()));
        }
        let treats = |step: &&Self| matches!(step.deed, Deed::Treat(_));
        if steps.iter().filter(treats).count() > 1 {
            return Err("a message can only be one of delivered, failed, deferred".to_owned());
        }
        Ok(steps.into())
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (deed, after) = match text.split_once(" after ") {
            Some((deed, after)) => (deed, Some(parse_after(after.trim())?)),
            None => (text, None),
        };
        let deed = parse_deed(deed.trim())?;
        if after.is_some() && matches!(deed, Deed::Treat(_) | Deed::Normal | Deed::Greylisted) {
            return Err(format!(
                "{text:?}: what a reply is cannot depend on the ones before it"
            ));
        }
        Ok(Self { deed, after })
    }
}

fn parse_after(text: &str) -> Result<(u16, u64), String> {
    let parsed = text.split_once('/').and_then(|(count, within)| {
        let count = count.trim().parse::<u16>().ok()?;
        let within_ms = parse_duration_ms(within)?;
        let is_sound =
            (1..=AFTER_MAX).contains(&count) && (1000..=HOLD_MS_MAX).contains(&within_ms);
        is_sound.then_some((count, within_ms))
    });
    parsed.ok_or_else(|| format!("`after {text}`: write how many within what time, as in 2/1h"))
}

fn parse_deed(text: &str) -> Result<Deed, String> {
    let mut words = text.split_whitespace();
    let word = words.next().unwrap_or_default();
    let rest: Vec<&str> = words.collect();
    let time = |text: &str| {
        parse_duration_ms(text)
            .filter(|ms| (1000..=HOLD_MS_MAX).contains(ms))
            .ok_or_else(|| {
                let most = format_duration_ms(HOLD_MS_MAX);
                format!("{text:?} is no time such as 30m or 2h, 1s to {most}")
            })
    };
    let deed = match (word, &rest[..]) {
        ("slow", [rate, for_ms]) => {
            let (units, per_s) = parse_rate(rate)?;
            Deed::Slow {
                units,
                per_s,
                for_ms: time(for_ms)?,
            }
        }
        ("sessions", [max, for_ms]) => Deed::Sessions {
            max: positive(max)?,
            for_ms: time(for_ms)?,
        },
        ("fewer-messages", [for_ms]) => Deed::FewerMessages {
            for_ms: time(for_ms)?,
        },
        ("fewer-recipients", [for_ms]) => Deed::FewerRecipients {
            for_ms: time(for_ms)?,
        },
        ("rest-site", [for_ms]) => Deed::RestSite {
            for_ms: time(for_ms)?,
        },
        ("rest-source", [for_ms]) => Deed::RestSource {
            for_ms: time(for_ms)?,
        },
        ("other-source", [for_ms]) => Deed::OtherSource {
            for_ms: time(for_ms)?,
        },
        ("retry", [after]) => Deed::Retry {
            after_ms: time(after)?,
        },
        ("greylisted", []) => Deed::Greylisted,
        ("next-mx", []) => Deed::NextMx,
        ("delivered", []) => Deed::Treat(Treat::Delivered),
        ("failed", []) => Deed::Treat(Treat::Failed),
        ("deferred", []) => Deed::Treat(Treat::Deferred),
        ("normal", []) => Deed::Normal,
        ("alert", []) => Deed::Alert,
        _ => {
            return Err(format!(
                "{text:?} is no action; known: slow N/TIME TIME, sessions N TIME, fewer-messages TIME, \
                 fewer-recipients TIME, rest-site TIME, rest-source TIME, other-source TIME, next-mx, \
                 retry TIME, greylisted, delivered, failed, deferred, normal, alert"
            ));
        }
    };
    Ok(deed)
}

fn positive(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|n| (1..=1_000_000).contains(n))
        .ok_or_else(|| format!("{text:?} is no number from 1 to 1000000"))
}

fn parse_rate(text: &str) -> Result<(u32, u32), String> {
    let parsed = text.split_once('/').and_then(|(units, per)| {
        let per_s = parse_duration_ms(per)?.div_ceil(1000);
        let per_s = u32::try_from(per_s).ok().filter(|s| *s > 0)?;
        Some((positive(units).ok()?, per_s))
    });
    parsed.ok_or_else(|| format!("{text:?} is no rate such as 10/1m"))
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |ms: u64| format_duration_ms(ms);
        match self.deed {
            Deed::Slow {
                units,
                per_s,
                for_ms,
            } => {
                let per = time(u64::from(per_s) * 1000);
                write!(f, "slow {units}/{per} {}", time(for_ms))
            }
            Deed::Sessions { max, for_ms } => write!(f, "sessions {max} {}", time(for_ms)),
            Deed::FewerMessages { for_ms } => write!(f, "fewer-messages {}", time(for_ms)),
            Deed::FewerRecipients { for_ms } => write!(f, "fewer-recipients {}", time(for_ms)),
            Deed::RestSite { for_ms } => write!(f, "rest-site {}", time(for_ms)),
            Deed::RestSource { for_ms } => write!(f, "rest-source {}", time(for_ms)),
            Deed::OtherSource { for_ms } => write!(f, "other-source {}", time(for_ms)),
            Deed::NextMx => f.write_str("next-mx"),
            Deed::Greylisted => f.write_str("greylisted"),
            Deed::Retry { after_ms } => write!(f, "retry {}", time(after_ms)),
            Deed::Treat(Treat::Delivered) => f.write_str("delivered"),
            Deed::Treat(Treat::Failed) => f.write_str("failed"),
            Deed::Treat(Treat::Deferred) => f.write_str("deferred"),
            Deed::Normal => f.write_str("normal"),
            Deed::Alert => f.write_str("alert"),
        }?;
        match self.after {
            Some((count, within_ms)) => write!(f, " after {count}/{}", time(within_ms)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
