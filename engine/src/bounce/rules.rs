//! Reads the rule table: text an operator can write, one rule a line, faults told by file and line.
//!
//! The columns and the little pattern language are described at the head of `rules.tsv`, and for
//! operators in docs/bounce-rules.md. Matching is in [`super::classifier`].

use std::fmt;
use std::sync::Arc;

use super::reason::{Reason, Verdict};
use crate::phase::Phase;
use crate::status::{EnhancedStatus, ReplyCode};

/// Bytes of one rule file.
pub(super) const FILE_BYTES_MAX: usize = 1 << 20;
/// Rules in one file.
pub(super) const FILE_RULES_MAX: usize = 4096;
/// Bytes of the pattern column of one rule.
pub(super) const PATTERN_BYTES_MAX: usize = 2048;
/// Alternatives in one rule.
pub(super) const ALTERNATIVES_MAX: usize = 256;
/// Pieces of text (between `*`) in one alternative.
pub(super) const FRAGMENTS_MAX: usize = 8;
/// Faults reported at once; more would not be read.
pub(super) const FAULTS_MAX: usize = 50;

/// What is wrong with a rule file: where, what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleFault {
    /// The name under which the text was given, mostly its path.
    pub file: String,
    /// Line number from 1; 0 when the whole file is meant.
    pub line: u32,
    /// What is wrong, and what would be right.
    pub why: String,
}

impl fmt::Display for RuleFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.why)
    }
}

/// One line of a rule table.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) reason: Reason,
    pub(super) verdict: Option<Verdict>,
    /// Only a hint: another text of the same message may say more.
    pub(super) hint: bool,
    /// Empty: any provider.
    pub(super) providers: Vec<Box<str>>,
    /// Bit `1 << Phase::index`; zero: any phase.
    pub(super) phases: u16,
    /// Empty: any code.
    pub(super) codes: Vec<CodePattern>,
    /// Empty: any text.
    pub(super) alternatives: Vec<Alternative>,
    pub(super) sample: Box<str>,
    /// Who says so.
    pub(super) source: Box<str>,
    /// What delivery is to do, as it is written: the sending policy reads it.
    pub(super) action: Box<str>,
    pub(super) file: Arc<str>,
    pub(super) line: u32,
}

/// One way in which a rule's text may be found.
#[derive(Clone, Debug)]
pub(super) enum Alternative {
    /// Pieces that follow each other, with anything short between them.
    Pieces(Vec<Piece>),
    /// A regular expression over the normalised text.
    Regex(Box<str>),
}

/// A piece of literal text.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) text: Box<str>,
    /// The word has to end where the piece ends.
    pub(super) word_ends: bool,
    /// The piece has to stand at the start of the text.
    pub(super) at_start: bool,
}

/// A reply code or status with digits left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CodePattern {
    /// `550`, `55x`, `4xx`: `None` is `x`.
    Reply([Option<u8>; 3]),
    /// `5.1.1`, `x.2.2`, `5.7.x`.
    Status([Option<u16>; 3]),
}

impl CodePattern {
    fn parse(text: &str) -> Option<Self> {
        if text.contains('.') {
            let mut parts = text.split('.');
            let mut numbers = [None; 3];
            for number in &mut numbers {
                *number = match parts.next()? {
                    "x" => None,
                    part if part.len() <= 3 => Some(part.parse::<u16>().ok()?),
                    _ => return None,
                };
            }
            return parts.next().is_none().then_some(Self::Status(numbers));
        }
        let bytes: [u8; 3] = text.as_bytes().try_into().ok()?;
        let mut wanted = [None; 3];
        for (slot, byte) in wanted.iter_mut().zip(bytes) {
            *slot = match byte {
                b'x' => None,
                b'0'..=b'9' => Some(byte - b'0'),
                _ => return None,
            };
        }
        Some(Self::Reply(wanted))
    }

    pub(super) fn matches(
        self,
        reply: Option<ReplyCode>,
        enhanced: Option<EnhancedStatus>,
    ) -> bool {
        match self {
            Self::Reply(wanted) => reply.is_some_and(|reply| {
                let code = reply.get();
                let digits = [code / 100, code / 10 % 10, code % 10];
                wanted
                    .iter()
                    .zip(digits)
                    .all(|(w, d)| w.is_none_or(|w| u16::from(w) == d))
            }),
            Self::Status(wanted) => enhanced.is_some_and(|status| {
                let numbers = [u16::from(status.class), status.subject, status.detail];
                wanted
                    .iter()
                    .zip(numbers)
                    .all(|(w, n)| w.is_none_or(|w| w == n))
            }),
        }
    }

    /// Whether whatever `other` matches is matched by `self` too.
    pub(super) fn covers(self, other: Self) -> bool {
        fn wider<T: PartialEq + Copy>(a: [Option<T>; 3], b: [Option<T>; 3]) -> bool {
            a.iter().zip(b).all(|(a, b)| a.is_none() || *a == b)
        }
        match (self, other) {
            (Self::Reply(a), Self::Reply(b)) => wider(a, b),
            (Self::Status(a), Self::Status(b)) => wider(a, b),
            _ => false,
        }
    }
}

/// The bit of a phase in [`Rule::phases`].
pub(super) const fn phase_bit(phase: Phase) -> u16 {
    1 << phase as u16
}

/// Reads a table. `providers` are the names that the provider column may hold.
///
/// # Errors
/// All faults found, at most [`FAULTS_MAX`], in the order of the lines.
pub(super) fn parse(
    file: &str,
    text: &str,
    providers: &[Box<str>],
) -> Result<Vec<Rule>, Vec<RuleFault>> {
    let fault = |line: u32, why: String| RuleFault {
        file: file.to_owned(),
        line,
        why,
    };
    if text.len() > FILE_BYTES_MAX {
        let why = format!(
            "{} bytes, at most {FILE_BYTES_MAX} are read: split it",
            text.len()
        );
        return Err(vec![fault(0, why)]);
    }
    let name: Arc<str> = Arc::from(file);
    let mut rules = Vec::new();
    let mut faults = Vec::new();
    for (line, number) in text.lines().zip(1_u32..) {
        let line = line.trim_end_matches('\r');
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(more) = line.strip_prefix("\t|") {
            if let Err(why) = extend(rules.last_mut(), more) {
                faults.push(fault(number, why));
            }
            continue;
        }
        match parse_line(line, providers) {
            Ok(parsed) => rules.push(Rule {
                file: Arc::clone(&name),
                line: number,
                ..parsed
            }),
            Err(why) => faults.push(fault(number, why)),
        }
        if rules.len() > FILE_RULES_MAX {
            faults.push(fault(number, format!("more than {FILE_RULES_MAX} rules")));
        }
        if faults.len() >= FAULTS_MAX || rules.len() > FILE_RULES_MAX {
            break;
        }
    }
    if faults.is_empty() {
        Ok(rules)
    } else {
        Err(faults)
    }
}

fn parse_line(line: &str, providers: &[Box<str>]) -> Result<Rule, String> {
    let cells: Vec<&str> = line
        .split('\t')
        .map(str::trim)
        .filter(|c| !c.is_empty())
        .collect();
    let (seven, action) = match cells.len() {
        8 => (&cells[..7], cells[7]),
        _ => (&cells[..], "-"),
    };
    let &[reason, provider, phase, codes, pattern, sample, source] = seven else {
        return Err(format!(
            "{} columns, 7 or 8 wanted, tab separated: reason, provider, phase, codes, pattern, sample, \
             source, action (write `-` for none)",
            cells.len()
        ));
    };
    let (reason, hint) = match reason.strip_suffix('?') {
        Some(word) => (word, true),
        None => (reason, false),
    };
    let (reason, verdict) = parse_reason(reason)?;
    Ok(Rule {
        reason,
        verdict,
        hint,
        providers: parse_providers(provider, providers)?,
        phases: parse_phases(phase)?,
        codes: parse_codes(codes)?,
        alternatives: parse_pattern(pattern)?,
        sample: given(sample),
        source: given(source),
        action: given(action),
        file: Arc::from(""),
        line: 0,
    })
}

fn given(cell: &str) -> Box<str> {
    if cell == "-" { "" } else { cell }.into()
}

fn parse_reason(cell: &str) -> Result<(Reason, Option<Verdict>), String> {
    let (word, verdict) = match cell.split_once('/') {
        Some((word, verdict)) => (word, Some(verdict)),
        None => (cell, None),
    };
    let reason = Reason::from_name(word).ok_or_else(|| {
        format!(
            "no reason is called {word:?}; known: {}",
            names(Reason::ALL, |r| r.as_str())
        )
    })?;
    let verdict = match verdict {
        None => None,
        Some(word) => Some(Verdict::from_name(word).ok_or_else(|| {
            format!("no verdict is called {word:?}; known: hard, soft, not-a-bounce")
        })?),
    };
    Ok((reason, verdict))
}

fn parse_providers(cell: &str, known: &[Box<str>]) -> Result<Vec<Box<str>>, String> {
    let mut out = Vec::new();
    for word in list(cell) {
        if !known.iter().any(|name| **name == *word) {
            let known: Vec<&str> = known.iter().map(|name| &**name).collect();
            return Err(format!(
                "no provider is called {word:?}; known: {}",
                known.join(", ")
            ));
        }
        out.push(word.into());
    }
    Ok(out)
}

fn parse_phases(cell: &str) -> Result<u16, String> {
    let mut bits = 0;
    for word in list(cell) {
        let phase = Phase::from_name(word).ok_or_else(|| {
            format!(
                "no phase is called {word:?}; known: {}",
                names(&Phase::ALL, |p| p.as_str())
            )
        })?;
        bits |= phase_bit(phase);
    }
    Ok(bits)
}

fn parse_codes(cell: &str) -> Result<Vec<CodePattern>, String> {
    list(cell)
        .map(|word| {
            CodePattern::parse(word).ok_or_else(|| {
                format!("{word:?} is no code; write 550, 55x, 5.1.1, x.2.2 or 5.7.x")
            })
        })
        .collect()
}

fn parse_pattern(cell: &str) -> Result<Vec<Alternative>, String> {
    if cell.len() > PATTERN_BYTES_MAX {
        return Err(format!(
            "pattern of {} bytes, at most {PATTERN_BYTES_MAX}",
            cell.len()
        ));
    }
    if cell == "*" || cell == "-" {
        return Ok(Vec::new());
    }
    if let Some(regex) = cell
        .strip_prefix('/')
        .and_then(|rest| rest.strip_suffix('/'))
    {
        return Ok(vec![Alternative::Regex(regex.into())]);
    }
    let mut out = Vec::new();
    for alternative in cell.split(" | ") {
        let pieces: Vec<Piece> = alternative
            .split(" * ")
            .map(parse_piece)
            .collect::<Result<_, _>>()?;
        if pieces.len() > FRAGMENTS_MAX {
            return Err(format!(
                "{alternative:?}: more than {FRAGMENTS_MAX} pieces between `*`"
            ));
        }
        out.push(Alternative::Pieces(pieces));
    }
    if out.len() > ALTERNATIVES_MAX {
        return Err(format!(
            "more than {ALTERNATIVES_MAX} alternatives: use two rules"
        ));
    }
    Ok(out)
}

/// A continuation line: further alternatives of the rule above.
fn extend(rule: Option<&mut Rule>, more: &str) -> Result<(), String> {
    let Some(rule) = rule else {
        return Err("no rule above to add alternatives to".to_owned());
    };
    if rule.alternatives.is_empty() {
        return Err("the rule above asks for no text (`*`): nothing to add to".to_owned());
    }
    rule.alternatives.extend(parse_pattern(more.trim())?);
    if rule.alternatives.len() > ALTERNATIVES_MAX {
        return Err(format!(
            "more than {ALTERNATIVES_MAX} alternatives: begin another rule"
        ));
    }
    Ok(())
}

fn parse_piece(text: &str) -> Result<Piece, String> {
    let text = text.trim();
    let (text, at_start) = match text.strip_prefix('^') {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let (text, word_ends) = match text.strip_suffix('~') {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    if text.chars().count() < 2 {
        return Err(format!(
            "{text:?} is too short to mean anything: two characters at least"
        ));
    }
    Ok(Piece {
        text: text.to_lowercase().into(),
        word_ends,
        at_start,
    })
}

fn list(cell: &str) -> impl Iterator<Item = &str> {
    let cell = if cell == "-" { "" } else { cell };
    cell.split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

fn names<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str) -> String {
    all.iter()
        .map(|&one| name(one))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Mail providers and the domains and hosts by which they are known.
#[derive(Debug)]
pub(super) struct Providers {
    pub(super) names: Vec<Box<str>>,
    /// Domain suffix and index into `names`, longest suffix first.
    suffixes: Vec<(Box<str>, usize)>,
}

impl Providers {
    /// Reads the shipped table: name, then suffixes of domains and MX hosts.
    pub(super) fn parse(text: &str) -> Self {
        let mut names: Vec<Box<str>> = Vec::new();
        let mut suffixes: Vec<(Box<str>, usize)> = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            let Some(name) = words.next() else { continue };
            suffixes.extend(words.map(|suffix| (suffix.into(), names.len())));
            names.push(name.into());
        }
        suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        Self { names, suffixes }
    }

    /// The provider of a host or domain name, any case.
    pub(super) fn of(&self, host: &str) -> Option<&str> {
        let host = host.trim_end_matches('.').as_bytes();
        self.suffixes.iter().find_map(|(suffix, index)| {
            let at = host.len().checked_sub(suffix.len())?;
            let same = host[at..].eq_ignore_ascii_case(suffix.as_bytes());
            (same && (at == 0 || host[at - 1] == b'.')).then(|| &*self.names[*index])
        })
    }
}
