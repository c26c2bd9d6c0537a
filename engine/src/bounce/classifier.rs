//! From a diagnostic text to a reason: the one classifier of delivery and of returned mail.
//!
//! All literal pieces of all rules are found in one pass (Aho-Corasick); the first rule of the
//! table whose pieces stand in order and whose conditions hold wins. Regular expressions, which
//! only an operator's file has, are one more pass over an automaton of bounded size. Nothing here
//! knows a vendor: that is what `rules.tsv` is for.

use aho_corasick::AhoCorasick;
use regex::{RegexSet, RegexSetBuilder};

use super::normal::normalise;
use super::reason::{Reason, Verdict};
use super::rules::{self, Alternative, Piece, Providers, Rule, RuleFault, phase_bit};
use crate::phase::Phase;
use crate::status::{EnhancedStatus, ReplyCode};

const BUILTIN_NAME: &str = "builtin";
const BUILTIN_RULES: &str = include_str!("rules.tsv");
const BUILTIN_PROVIDERS: &str = include_str!("providers.tsv");

/// Bytes between two pieces of one pattern.
const GAP_BYTES_MAX: usize = 100;
/// Bytes of compiled form of one operator's regular expression.
const REGEX_BYTES_MAX: usize = 256 << 10;
/// Bytes of compiled form of all of them.
const REGEX_SET_BYTES_MAX: usize = 8 << 20;
/// Bytes of the cache with which they are run.
const REGEX_CACHE_BYTES_MAX: usize = 256 << 10;
const REGEX_NEST_MAX: u32 = 32;

/// What is known of a failure.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence<'a> {
    /// SMTP reply code.
    pub reply: Option<ReplyCode>,
    /// Enhanced status code.
    pub enhanced: Option<EnhancedStatus>,
    /// The reply's text, or what a notice says.
    pub text: &'a str,
    /// The step of the dialog.
    pub phase: Option<Phase>,
    /// Name of the receiving provider, as [`Classifier::provider_of`] gives it.
    pub provider: Option<&'a str>,
    /// Name of the sending policy's row for it, if that is another.
    pub policy_provider: Option<&'a str>,
}

/// A rule's answer and which rule it was.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'c> {
    /// Why.
    pub reason: Reason,
    /// What that means for the address.
    pub verdict: Verdict,
    /// The rule that decided; `None` if none did.
    pub rule: Option<RuleRef<'c>>,
    /// The rule asked for words of the text, not for a code alone, and is no mere hint.
    pub by_text: bool,
}

/// Where a rule stands, and what else it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleRef<'c> {
    /// `builtin`, or the operator's file.
    pub file: &'c str,
    /// Line from 1.
    pub line: u32,
    /// Its place in the table.
    pub index: usize,
    /// Who says so.
    pub source: &'c str,
    /// What delivery is to do; empty for nothing.
    pub action: &'c str,
}

/// Every rule, ready to be asked. Built once, shared, never changed.
#[derive(Debug)]
pub struct Classifier {
    rules: Vec<Rule>,
    providers: Providers,
    pieces: AhoCorasick,
    /// Per literal of `pieces`: where it is used.
    uses: Vec<Vec<Use>>,
    /// Alternatives of more than one piece.
    sequences: usize,
    regexes: Option<(RegexSet, Vec<usize>)>,
    /// Rules without a text, in order.
    textless: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Use {
    rule: u32,
    /// Index of the sequence; `u32::MAX` for an alternative of one piece.
    sequence: u32,
    position: u8,
    length: u8,
    word_ends: bool,
    at_start: bool,
}

impl Classifier {
    /// The shipped rules.
    pub fn builtin() -> Self {
        match Self::with_overrides("", "") {
            Ok(classifier) => classifier,
            // A test builds this; a fault is a mistake in our own table.
            Err(faults) => unreachable!("shipped rules: {}", faults[0]),
        }
    }

    /// The shipped rules after the operator's, which win.
    ///
    /// `name`: how faults call the file. `text`: its content; this module opens no file.
    ///
    /// # Errors
    /// Everything that is wrong with the operator's rules, rules that can never win included.
    pub fn with_overrides(name: &str, text: &str) -> Result<Self, Vec<RuleFault>> {
        Self::for_providers(name, text, &[])
    }

    /// The same, for rules that may name `more_providers` too.
    ///
    /// # Errors
    /// As [`Self::with_overrides`].
    pub fn for_providers(
        name: &str,
        text: &str,
        more_providers: &[&str],
    ) -> Result<Self, Vec<RuleFault>> {
        let mut providers = Providers::parse(BUILTIN_PROVIDERS);
        providers
            .names
            .extend(more_providers.iter().map(|name| Box::from(*name)));
        let mut rules = rules::parse(name, text, &providers.names)?;
        let own = rules.len();
        rules.extend(rules::parse(BUILTIN_NAME, BUILTIN_RULES, &providers.names)?);
        let regexes = compile_regexes(&rules)?;
        let (pieces, uses, sequences) = compile_pieces(&rules).map_err(|why| {
            vec![RuleFault {
                file: name.to_owned(),
                line: 0,
                why,
            }]
        })?;
        let textless = (0..rules.len())
            .filter(|&i| rules[i].alternatives.is_empty())
            .collect();
        let classifier = Self {
            rules,
            providers,
            pieces,
            uses,
            sequences,
            regexes,
            textless,
        };
        let faults = classifier.check(0..own);
        if faults.is_empty() {
            Ok(classifier)
        } else {
            Err(faults)
        }
    }

    /// Why a delivery failed, for the engine's own replies.
    ///
    /// `text`: the reply without its codes, or with them; at most
    /// [`TEXT_BYTES_MAX`](super::TEXT_BYTES_MAX) are looked at.
    pub fn classify(
        &self,
        reply: Option<ReplyCode>,
        enhanced: Option<EnhancedStatus>,
        text: &str,
        phase: Option<Phase>,
        provider: Option<&str>,
    ) -> (Reason, Verdict) {
        let decision = self.decide(&Evidence {
            reply,
            enhanced,
            text,
            phase,
            provider,
            policy_provider: None,
        });
        (decision.reason, decision.verdict)
    }

    /// The same, with the rule that decided.
    pub fn decide(&self, evidence: &Evidence<'_>) -> Decision<'_> {
        let mut normal = String::with_capacity(evidence.text.len().min(512));
        normalise(evidence.text, &mut normal);
        let by_text = self.find(evidence, &normal);
        let by_code = self
            .textless
            .iter()
            .copied()
            .find(|&i| self.holds(i, evidence));
        let winner = match (by_text, by_code) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let temporary = is_temporary(evidence.reply, evidence.enhanced);
        winner.map_or(
            Decision {
                reason: Reason::Unknown,
                verdict: Verdict::Soft,
                rule: None,
                by_text: false,
            },
            |index| {
                let rule = &self.rules[index];
                Decision {
                    reason: rule.reason,
                    verdict: rule
                        .verdict
                        .unwrap_or_else(|| rule.reason.verdict(temporary)),
                    rule: Some(self.rule(index)),
                    by_text: !rule.alternatives.is_empty() && !rule.hint,
                }
            },
        )
    }

    fn rule(&self, index: usize) -> RuleRef<'_> {
        let rule = &self.rules[index];
        RuleRef {
            file: &rule.file,
            line: rule.line,
            index,
            source: &rule.source,
            action: &rule.action,
        }
    }

    /// Every rule, the first to be asked first.
    pub fn rules(&self) -> impl Iterator<Item = RuleRef<'_>> {
        (0..self.rules.len()).map(|index| self.rule(index))
    }

    /// The provider that receives for a host or domain, by the shipped table.
    pub fn provider_of(&self, host_or_domain: &str) -> Option<&str> {
        self.providers.of(host_or_domain)
    }

    fn find(&self, evidence: &Evidence<'_>, text: &str) -> Option<usize> {
        let mut best: Option<usize> = None;
        self.each_match(text, |index| {
            if best.is_none_or(|best| index < best) && self.holds(index, evidence) {
                best = Some(index);
            }
        });
        best
    }

    /// Calls `found` with the index of every rule whose text stands in `text`, in any order.
    fn each_match(&self, text: &str, mut found: impl FnMut(usize)) {
        // Per sequence: pieces seen so far, and where the last of them ended.
        let mut progress = vec![(0_u8, 0_u32); self.sequences];
        let bytes = text.as_bytes();
        for hit in self.pieces.find_overlapping_iter(bytes) {
            let starts = word_starts(bytes, hit.start());
            for place in &self.uses[hit.pattern().as_usize()] {
                let fits = starts
                    && (!place.at_start || hit.start() == 0)
                    && (!place.word_ends || word_ends(bytes, hit.end()));
                if !fits {
                    continue;
                }
                if place.length == 1 {
                    found(place.rule as usize);
                    continue;
                }
                let (seen, end) = &mut progress[place.sequence as usize];
                let gap = hit.start().checked_sub(*end as usize);
                let next = place.position == 0
                    || (*seen == place.position && gap.is_some_and(|gap| gap <= GAP_BYTES_MAX));
                if !next || *seen > place.position + 1 {
                    continue;
                }
                *seen = place.position + 1;
                *end = hit.end() as u32;
                if *seen == place.length {
                    found(place.rule as usize);
                }
            }
        }
        if let Some((set, owners)) = &self.regexes {
            set.matches(text)
                .into_iter()
                .for_each(|regex| found(owners[regex]));
        }
    }

    fn holds(&self, index: usize, evidence: &Evidence<'_>) -> bool {
        let rule = &self.rules[index];
        let names = [evidence.provider, evidence.policy_provider];
        let mut names = names.into_iter().flatten();
        let provider = rule.providers.is_empty()
            || names.any(|name| rule.providers.iter().any(|p| **p == *name));
        let phase = rule.phases == 0
            || evidence
                .phase
                .is_some_and(|phase| rule.phases & phase_bit(phase) != 0);
        let code = rule.codes.is_empty()
            || rule
                .codes
                .iter()
                .any(|code| code.matches(evidence.reply, evidence.enhanced));
        provider && phase && code
    }

    /// Rules that can never win, and samples that their own rule does not match.
    fn check(&self, range: std::ops::Range<usize>) -> Vec<RuleFault> {
        let mut faults = Vec::new();
        for index in range {
            let rule = &self.rules[index];
            let fault = |why| RuleFault {
                file: rule.file.to_string(),
                line: rule.line,
                why,
            };
            if let Some(winner) = self.shadowed_by(index) {
                faults.push(fault(format!(
                    "can never win: line {} matches all that this rule matches; \
                     put this one first, or drop it",
                    self.rules[winner].line
                )));
            } else if !rule.sample.is_empty() && !rule.alternatives.is_empty() {
                let mut normal = String::new();
                normalise(&rule.sample, &mut normal);
                let mut hit = false;
                self.each_match(&normal, |found| hit |= found == index);
                if !hit {
                    faults.push(fault(format!(
                        "the pattern does not match its own sample {:?}",
                        rule.sample
                    )));
                }
            }
            if faults.len() >= rules::FAULTS_MAX {
                break;
            }
        }
        faults
    }

    /// An earlier rule that wins wherever this one matches.
    fn shadowed_by(&self, index: usize) -> Option<usize> {
        let rule = &self.rules[index];
        let wider = |other: usize| other < index && covers(&self.rules[other], rule);
        if rule.alternatives.is_empty() {
            return self.textless.iter().copied().find(|&other| wider(other));
        }
        let mut winner = None;
        for alternative in &rule.alternatives {
            let Alternative::Pieces(pieces) = alternative else {
                return None;
            };
            let mut found = self.textless.iter().copied().find(|&other| wider(other));
            self.each_match(&least_text(pieces), |other| {
                if wider(other) && is_plain(&self.rules[other]) {
                    found = Some(other);
                }
            });
            winner = Some(found?);
        }
        winner
    }
}

/// Whether the words call the failure temporary.
pub(super) fn is_temporary(reply: Option<ReplyCode>, enhanced: Option<EnhancedStatus>) -> bool {
    enhanced.map_or_else(
        || reply.is_some_and(ReplyCode::is_transient),
        |status| status.class == 4,
    )
}

/// The shortest text that pieces match: what any longer one has in common.
fn least_text(pieces: &[Piece]) -> String {
    let mut text = String::new();
    for piece in pieces {
        if !text.is_empty() {
            text.push_str(" \u{1} ");
        }
        text.push_str(&piece.text);
        let open = piece.text.ends_with(|c: char| c.is_ascii_alphanumeric());
        if !piece.word_ends && open {
            text.push('x');
        }
    }
    text
}

/// No anchor and no regular expression: it matches any longer text too.
fn is_plain(rule: &Rule) -> bool {
    rule.alternatives
        .iter()
        .all(|alternative| match alternative {
            Alternative::Pieces(pieces) => pieces.iter().all(|piece| !piece.at_start),
            Alternative::Regex(_) => false,
        })
}

/// Whether the conditions of `wide` hold wherever those of `narrow` do.
fn covers(wide: &Rule, narrow: &Rule) -> bool {
    let provider = wide.providers.is_empty()
        || (!narrow.providers.is_empty()
            && narrow.providers.iter().all(|p| wide.providers.contains(p)));
    let phase = wide.phases == 0 || (narrow.phases != 0 && narrow.phases & !wide.phases == 0);
    let code = wide.codes.is_empty()
        || (!narrow.codes.is_empty()
            && narrow
                .codes
                .iter()
                .all(|n| wide.codes.iter().any(|w| w.covers(*n))));
    provider && phase && code
}

fn word_starts(text: &[u8], at: usize) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric();
    at == 0 || !(inside(text[at]) && inside(text[at - 1]))
}

fn word_ends(text: &[u8], end: usize) -> bool {
    match text.get(end) {
        None => true,
        Some(b) if b.is_ascii_alphanumeric() => false,
        // `spam.example.com` is a host, `spam.` the end of a sentence.
        Some(b'.' | b'-' | b'_' | b'@') => {
            !text.get(end + 1).is_some_and(u8::is_ascii_alphanumeric)
        }
        Some(_) => true,
    }
}

type Pieces = (AhoCorasick, Vec<Vec<Use>>, usize);

fn compile_pieces(rules: &[Rule]) -> Result<Pieces, String> {
    let mut literals: Vec<&str> = Vec::new();
    let mut index_of = std::collections::HashMap::new();
    let mut uses: Vec<Vec<Use>> = Vec::new();
    let mut sequences = 0;
    for (rule, number) in rules.iter().zip(0_u32..) {
        for alternative in &rule.alternatives {
            let Alternative::Pieces(pieces) = alternative else {
                continue;
            };
            let sequence = if pieces.len() > 1 {
                sequences
            } else {
                u32::MAX
            };
            for (piece, position) in pieces.iter().zip(0_u8..) {
                let literal = *index_of.entry(&*piece.text).or_insert_with(|| {
                    literals.push(&piece.text);
                    uses.push(Vec::new());
                    literals.len() - 1
                });
                uses[literal].push(Use {
                    rule: number,
                    sequence,
                    position,
                    length: pieces.len() as u8,
                    word_ends: piece.word_ends,
                    at_start: piece.at_start,
                });
            }
            sequences += u32::from(pieces.len() > 1);
        }
    }
    let automaton = AhoCorasick::new(&literals)
        .map_err(|error| format!("the patterns are too many or too long: {error}"))?;
    Ok((automaton, uses, sequences as usize))
}

fn compile_regexes(rules: &[Rule]) -> Result<Option<(RegexSet, Vec<usize>)>, Vec<RuleFault>> {
    let mut sources: Vec<&str> = Vec::new();
    let mut owners = Vec::new();
    let mut faults = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        for alternative in &rule.alternatives {
            let Alternative::Regex(source) = alternative else {
                continue;
            };
            let checked = builder(&[&**source], REGEX_BYTES_MAX).build();
            if let Err(error) = checked {
                faults.push(RuleFault {
                    file: rule.file.to_string(),
                    line: rule.line,
                    why: format!("bad regular expression: {error}"),
                });
            }
            sources.push(source);
            owners.push(index);
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    if sources.is_empty() {
        return Ok(None);
    }
    let set = builder(&sources, REGEX_SET_BYTES_MAX)
        .build()
        .map_err(|error| {
            let rule = &rules[owners[0]];
            let why = format!("the regular expressions together are too large: {error}");
            vec![RuleFault {
                file: rule.file.to_string(),
                line: 0,
                why,
            }]
        })?;
    Ok(Some((set, owners)))
}

fn builder(sources: &[&str], bytes_max: usize) -> RegexSetBuilder {
    let mut builder = RegexSetBuilder::new(sources);
    builder
        .size_limit(bytes_max)
        .dfa_size_limit(REGEX_CACHE_BYTES_MAX)
        .nest_limit(REGEX_NEST_MAX);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builtin_faults() -> Vec<RuleFault> {
        let classifier = Classifier::builtin();
        classifier.check(0..classifier.rules.len())
    }

    #[test]
    fn every_shipped_rule_can_win_and_matches_its_sample() {
        let faults: Vec<String> = builtin_faults().iter().map(ToString::to_string).collect();
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }

    #[test]
    fn every_shipped_sample_is_won_by_its_own_rule() {
        let classifier = Classifier::builtin();
        let mut wrong = Vec::new();
        for rule in classifier
            .rules
            .iter()
            .filter(|rule| !rule.sample.is_empty())
        {
            let mut words = rule.sample.split_whitespace();
            let reply = words
                .next()
                .and_then(|w| ReplyCode::new(w.get(..3)?.parse().ok()?));
            let enhanced = rule
                .sample
                .split_whitespace()
                .find_map(EnhancedStatus::parse);
            let phase = Phase::ALL
                .into_iter()
                .find(|&p| rule.phases & phase_bit(p) != 0);
            let provider = rule.providers.first().map(|p| &**p);
            let evidence = Evidence {
                reply,
                enhanced,
                text: &rule.sample,
                phase,
                provider,
                policy_provider: None,
            };
            let decision = classifier.decide(&evidence);
            if decision.rule.map(|r| r.line) != Some(rule.line) {
                wrong.push(format!(
                    "line {} ({}): {:?} is won by line {:?} ({})",
                    rule.line,
                    rule.reason,
                    rule.sample,
                    decision.rule.map(|r| r.line),
                    decision.reason
                ));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn phase_and_provider_change_the_meaning() {
        let classifier = Classifier::builtin();
        let ask = |text, phase, host| {
            let provider = classifier.provider_of(host);
            classifier.classify(ReplyCode::new(550), None, text, Some(phase), provider)
        };
        let docomo = "mfsmax.docomo.ne.jp";
        let unknown = (Reason::UserUnknown, Verdict::Hard);
        let filtered = (Reason::Filtered, Verdict::Soft);
        assert_eq!(
            ask("Unknown user a@docomo.ne.jp", Phase::Rcpt, docomo),
            unknown
        );
        assert_eq!(
            ask("Unknown user a@docomo.ne.jp", Phase::EndOfData, docomo),
            filtered
        );
        assert_eq!(
            ask("<a@au.com>: User unknown", Phase::Rcpt, "msmx.au.com"),
            unknown
        );
        assert_eq!(
            ask(": User unknown", Phase::EndOfData, "msmx.au.com"),
            filtered
        );
        let limited = (Reason::RateLimited, Verdict::Soft);
        assert_eq!(
            ask("Ip frequency limited [1]", Phase::Connect, "mx3.qq.com."),
            limited
        );
    }

    #[test]
    fn operator_rules_win_and_their_faults_are_told() {
        let own = "policy\t-\t-\t-\tgo away * please\tgo away now please\tus\n";
        let classifier = Classifier::with_overrides("own.tsv", own).unwrap();
        let decision = classifier.decide(&Evidence {
            text: "Go away, please",
            ..Evidence::default()
        });
        assert_eq!(decision.reason, Reason::Policy);
        let rule = decision.rule.unwrap();
        assert_eq!((rule.file, rule.line, rule.source), ("own.tsv", 1, "us"));

        let bad = "# mine\n\
            nonsense\t-\t-\t-\tabc\t-\tx\n\
            policy\tnowhere\t-\t-\tabc\t-\tx\n\
            policy\t-\tlunch\t-\tabc\t-\tx\n\
            policy\t-\t-\t5.1\tabc\t-\tx\n\
            policy\tonly three\tcolumns\n";
        let faults = Classifier::with_overrides("own.tsv", bad).unwrap_err();
        assert_eq!(
            faults.iter().map(|f| f.line).collect::<Vec<_>>(),
            [2, 3, 4, 5, 6]
        );
        assert!(
            faults[0]
                .to_string()
                .starts_with("own.tsv:2: no reason is called")
        );
    }

    #[test]
    fn rules_that_can_never_win_are_reported() {
        let own = "policy\t-\t-\t-\tgo away\t-\tx\n\
            spam\tqq\t-\t-\tplease go away now\t-\tx\n\
            spam\t-\t-\t-\tgo awa\t-\tx\n";
        let faults = Classifier::with_overrides("own.tsv", own).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(
            faults[0]
                .to_string()
                .starts_with("own.tsv:2: can never win: line 1")
        );
    }

    #[test]
    fn dangerous_regular_expressions_are_refused_or_harmless() {
        let huge = "policy\t-\t-\t-\t/(a{1000}){1000}/\t-\tx\n";
        let faults = Classifier::with_overrides("own.tsv", huge).unwrap_err();
        assert!(
            faults[0].why.contains("bad regular expression"),
            "{faults:?}"
        );
        assert!(
            Classifier::with_overrides("own.tsv", "policy\t-\t-\t-\t/(unclosed/\t-\tx\n").is_err()
        );

        let slow = "policy\t-\t-\t-\t/(a+)+$/\t-\tx\n";
        let classifier = Classifier::with_overrides("own.tsv", slow).unwrap();
        let text = "a".repeat(4000) + "!";
        let (reason, _) = classifier.classify(None, None, &text, None, None);
        assert_eq!(reason, Reason::Unknown);
    }
}
