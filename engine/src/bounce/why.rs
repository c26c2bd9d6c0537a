//! Why one recipient failed: which texts of the message are asked about, and in which order.
//!
//! The most specific text comes first, and a rule about words beats one about codes, wherever the
//! words stand. The rules are the [`super::Classifier`]'s.

use super::classifier::{Classifier, Decision, Evidence, is_temporary};
use super::normal::clip;
use super::notice::Mention;
use super::reason::{Reason, Verdict};
use super::report::{Action, Decided, Failure};
use super::scan;
use crate::phase::Phase;
use crate::status::{EnhancedStatus, ReplyCode};

/// Bytes of a diagnostic that the answer carries.
const DIAGNOSTIC_BYTES_MAX: usize = 1024;

/// A text to ask the classifier about.
#[derive(Clone, Copy)]
pub(super) struct Source<'t> {
    pub(super) name: &'static str,
    pub(super) text: &'t str,
}

const CODES_ALONE: Source<'static> = Source {
    name: "codes",
    text: "",
};

/// Asks the classifier, most specific text first; a rule about words beats one about codes.
pub(super) fn decide(
    classifier: &Classifier,
    recipient: &str,
    sources: &[Source<'_>],
    enhanced: Option<EnhancedStatus>,
    remote: Option<&str>,
    action: Action,
) -> Failure {
    let domain = recipient.rsplit_once('@').map_or("", |(_, domain)| domain);
    let mut best: Option<(Decision<'_>, &Source<'_>)> = None;
    let mut codes: (Option<ReplyCode>, Option<EnhancedStatus>) = (None, enhanced);
    let (mut phase, mut host) = (None, remote.map(str::to_owned));
    for source in sources
        .iter()
        .filter(|source| !source.text.trim().is_empty())
    {
        let text = clip(source.text, super::normal::TEXT_BYTES_MAX);
        let lower = text.to_ascii_lowercase();
        codes.0 = codes.0.or_else(|| scan::reply_code(text));
        codes.1 = match codes.1 {
            Some(known) if known.subject != 0 => Some(known),
            known => scan::enhanced(text).or(known),
        };
        phase = phase.or_else(|| scan::phase(&lower));
        host = host.or_else(|| scan::remote_host(&lower));
        let provider = host
            .as_deref()
            .and_then(|host| classifier.provider_of(host))
            .or_else(|| classifier.provider_of(domain));
        let evidence = Evidence {
            policy_provider: None,
            reply: codes.0,
            enhanced: codes.1,
            text,
            phase,
            provider,
        };
        let decision = classifier.decide(&evidence);
        let better = match &best {
            None => true,
            Some((old, _)) => decision.by_text && !old.by_text || old.rule.is_none(),
        };
        if better {
            best = Some((decision, source));
        }
        if decision.by_text {
            break;
        }
    }
    if best.is_none() {
        // No words at all: the codes alone.
        let provider = host
            .as_deref()
            .and_then(|host| classifier.provider_of(host));
        let evidence = Evidence {
            policy_provider: None,
            reply: codes.0,
            enhanced: codes.1,
            text: "",
            phase,
            provider,
        };
        best = Some((classifier.decide(&evidence), &CODES_ALONE));
    }
    failure(recipient, best, codes, action, (phase, host))
}

fn failure(
    recipient: &str,
    best: Option<(Decision<'_>, &Source<'_>)>,
    codes: (Option<ReplyCode>, Option<EnhancedStatus>),
    action: Action,
    place: (Option<Phase>, Option<String>),
) -> Failure {
    let (mut reason, mut verdict) = best
        .as_ref()
        .map_or((Reason::Unknown, Verdict::Soft), |(d, _)| {
            (d.reason, d.verdict)
        });
    if action == Action::Delayed {
        if reason == Reason::Unknown || !best.as_ref().is_some_and(|(d, _)| d.by_text) {
            reason = Reason::Expired;
        }
        verdict = Verdict::Soft;
    } else if reason == Reason::Unknown && is_temporary(codes.0, codes.1) {
        verdict = Verdict::Soft;
    }
    let text = best.as_ref().map_or("", |(_, source)| source.text);
    let diagnostic = squeeze(text);
    let rule = best
        .as_ref()
        .and_then(|(decision, _)| decision.rule)
        .map_or_else(String::new, |rule| format!("{}:{}", rule.file, rule.line));
    let source = best.as_ref().map_or("structure", |(_, source)| source.name);
    Failure {
        recipient: recipient.to_owned(),
        original_recipient: None,
        action,
        verdict,
        reason,
        reply: codes.0,
        enhanced: codes.1,
        phase: place.0,
        diagnostic: diagnostic.clone(),
        remote_host: place.1,
        decided: Decided {
            source,
            text: diagnostic,
            rule,
        },
    }
}

pub(super) fn push_mention<'t>(sources: &mut Vec<Source<'t>>, mention: Option<&'t Mention>) {
    if let Some(mention) = mention {
        sources.push(Source {
            name: "notice-line",
            text: &mention.head,
        });
        sources.push(Source {
            name: "notice-block",
            text: &mention.block,
        });
        sources.push(Source {
            name: "transcript",
            text: &mention.replies,
        });
    }
}

/// The reply that a diagnostic quotes: `5.1.0 - Unknown address error 550-'…' (delivery attempts: 0)`.
/// What stands around it is the reporting host's own wording and says less.
pub(super) fn quoted_reply(diagnostic: &str) -> &str {
    let quoted = diagnostic.split_once('\'').and_then(|(before, rest)| {
        let code = before.trim_end_matches('-').rsplit(' ').next()?;
        let is_code = code.len() == 3 && scan::reply_code(code).is_some();
        let (reply, _) = rest.rsplit_once('\'')?;
        is_code.then_some(reply)
    });
    quoted.unwrap_or_default()
}

/// Words by which a notice says that it is the last one.
pub(super) fn says_final(notice: &str) -> bool {
    const FINAL: [&str; 12] = [
        "failed permanently",
        "permanent error",
        "fatal error",
        "permanent failure",
        "giving up",
        "given up",
        "gave up",
        "going to try again",
        "no further",
        "permanently",
        "not try again",
        "delivery failed",
    ];
    let lower = clip(notice, 6000).to_ascii_lowercase();
    FINAL.iter().any(|words| lower.contains(words))
}

pub(super) fn squeeze(text: &str) -> String {
    let mut out = String::new();
    for word in clip(text, DIAGNOSTIC_BYTES_MAX).split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}
