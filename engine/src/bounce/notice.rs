//! Reads a notice as a human does: whom could it not reach, and what does it say about each.
//!
//! Works on text alone, for the many formats that follow no standard: every address with the words
//! around it, then the text that belongs to each failed one. Where the notice ends is found before,
//! in [`super::returned`]; what the text means is for [`super::Classifier`].

use super::scan;
use super::signals::{Signal, Signals};

/// Addresses looked at in one notice.
const CANDIDATES_MAX: usize = 1024;
/// Lines of a notice.
pub(super) const LINES_MAX: usize = 1500;
/// Bytes of text taken for one recipient.
const BLOCK_BYTES_MAX: usize = 2048;
/// Lines of text taken for one recipient.
const BLOCK_LINES_MAX: usize = 30;
/// Recipients for which the whole notice is searched; a longer list is read as a list.
pub(super) const SEARCHES_MAX: usize = 64;
/// Recipients taken from one notice.
const MENTIONS_MAX: usize = 256;
/// Bytes before an address that say what it is.
const CONTEXT_BYTES_MAX: usize = 90;

/// A failed address and what the notice says about it.
#[derive(Debug, Clone)]
pub(super) struct Mention {
    pub(super) address: String,
    /// The text nearest to it: the paragraph that it begins, or the reply that names it.
    pub(super) head: String,
    /// All of the text up to the next address.
    pub(super) block: String,
    /// Lines elsewhere that name the address and hold a reply code.
    pub(super) replies: String,
}

/// How sure it is that an address is the failed one; the best kind present is taken, alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// `<x@example.jp>:`, or in a list under a heading that announces it.
    Listed,
    /// After words such as `could not be delivered to`.
    Named,
    /// In an SMTP reply or command.
    Replied,
    /// After words such as `user` or `address`.
    Hinted,
    /// On a line of its own, nothing announcing it.
    Alone,
    /// Anywhere else.
    Loose,
}

#[derive(Debug)]
struct Candidate<'t> {
    address: &'t str,
    line: usize,
    end: usize,
    kind: Kind,
}

/// The failed addresses of a notice. `senders`: addresses that are never the failed one.
pub(super) fn mentions(notice: &str, senders: &[&str], signals: &Signals) -> Vec<Mention> {
    let lines: Vec<&str> = notice.lines().take(LINES_MAX).collect();
    let candidates = candidates(&lines, senders, signals);
    let Some(best) = candidates.iter().map(|c| c.kind).min() else {
        return Vec::new();
    };
    let mut chosen: Vec<&Candidate<'_>> = Vec::new();
    for candidate in candidates.iter().filter(|c| c.kind == best) {
        let known = chosen
            .iter()
            .any(|c| c.address.eq_ignore_ascii_case(candidate.address));
        if !known {
            chosen.push(candidate);
        }
        // A guess is taken once; a list as long as it is.
        if best == Kind::Loose || chosen.len() >= MENTIONS_MAX {
            break;
        }
    }
    let mut out: Vec<Mention> = chosen
        .iter()
        .enumerate()
        .map(|(index, candidate)| {
            let replies = if index < SEARCHES_MAX {
                replies(&lines, candidate.address)
            } else {
                String::new()
            };
            let (head, block) = if best == Kind::Replied {
                let from = index
                    .checked_sub(1)
                    .map_or(0, |before| chosen[before].line + 1);
                (replies.clone(), dialog(&lines, from, candidate.line))
            } else {
                let block = block(&lines, candidate, chosen.get(index + 1).copied());
                (head(&block), block)
            };
            Mention {
                address: candidate.address.to_owned(),
                head,
                block,
                replies,
            }
        })
        .collect();
    // Addresses listed one under the other share the text that follows the last.
    for index in (0..out.len().saturating_sub(1)).rev() {
        if !out[index]
            .block
            .bytes()
            .any(|b| b.is_ascii_alphanumeric() || b >= 0x80)
        {
            out[index].block = out[index + 1].block.clone();
            out[index].head = out[index + 1].head.clone();
        }
    }
    out
}

/// What the notice says about one address that is known already.
pub(super) fn about(notice: &str, address: &str) -> Option<Mention> {
    let lines: Vec<&str> = notice.lines().take(LINES_MAX).collect();
    let (line, end) = lines.iter().enumerate().find_map(|(index, line)| {
        scan::addresses(line)
            .find(|f| line[f.start..f.end].eq_ignore_ascii_case(address))
            .map(|found| (index, found.end))
    })?;
    let candidate = Candidate {
        address,
        line,
        end,
        kind: Kind::Listed,
    };
    // Another recipient's line ends the block.
    let next = lines
        .iter()
        .enumerate()
        .skip(line + 1)
        .find_map(|(index, text)| {
            let found = scan::addresses(text).next()?;
            let other = &text[found.start..found.end];
            let begins = bare_prefix(&text[..found.start]).is_empty();
            (begins && !other.eq_ignore_ascii_case(address)).then_some(Candidate {
                address: other,
                line: index,
                end: found.end,
                kind: Kind::Listed,
            })
        });
    let block = block(&lines, &candidate, next.as_ref());
    let replies = replies(&lines, address);
    Some(Mention {
        address: address.to_owned(),
        head: head(&block),
        block,
        replies,
    })
}

fn candidates<'t>(lines: &[&'t str], senders: &[&str], signals: &Signals) -> Vec<Candidate<'t>> {
    let mut out: Vec<Candidate<'t>> = Vec::new();
    let mut heading = "";
    let mut list_open = false;
    for (index, line) in lines.iter().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let mut listed_here = false;
        for found in scan::addresses(line) {
            let address = &line[found.start..found.end];
            let usable = is_mailable(address) && out.len() < CANDIDATES_MAX;
            if !usable {
                continue;
            }
            let Some(kind) = kind_of(line, found, heading, list_open, signals) else {
                continue;
            };
            let mut kind = kind;
            if senders.iter().any(|s| s.eq_ignore_ascii_case(address)) {
                if kind != Kind::Listed {
                    continue;
                }
                kind = Kind::Loose;
            }
            if kind > Kind::Replied && is_role(address) {
                continue;
            }
            listed_here |= kind == Kind::Listed;
            out.push(Candidate {
                address,
                line: index,
                end: found.end,
                kind,
            });
        }
        list_open = listed_here;
        if !listed_here {
            heading = line;
        }
    }
    out
}

const ROLES: [Signal; 3] = [
    Signal::ToRecipient,
    Signal::MaybeRecipient,
    Signal::NotRecipient,
];

fn kind_of(
    line: &str,
    found: scan::Found,
    heading: &str,
    list_open: bool,
    signals: &Signals,
) -> Option<Kind> {
    let before = &line[..found.start];
    let after = line[found.end..].trim_start_matches(['>', ')', '"', '\'', ']']);
    let bare = bare_prefix(before);
    // `a@b.jp <c@d.jp>: …`: the first is a name, the second the address.
    let follows = after.trim_start();
    if follows.starts_with('<')
        && !after.starts_with("<mailto:")
        && scan::addresses(follows)
            .next()
            .is_some_and(|f| f.start == 1)
    {
        return None;
    }
    let bracketed = before.ends_with('<') && after.starts_with(':');
    if bare.is_empty() || bracketed && scan::addresses(before).next().is_some() {
        if after.trim_start().starts_with("wrote") {
            return None;
        }
        let marked = after.starts_with(':') || after.trim_start().starts_with("...");
        let announced = list_open || announces(heading, signals);
        return if marked || announced {
            Some(Kind::Listed)
        } else if repels(heading, signals) {
            None
        } else {
            Some(Kind::Alone)
        };
    }
    let dialog = bare.starts_with("<<<") || bare.starts_with(">>>") || starts_with_code(bare);
    let context = tail(before, CONTEXT_BYTES_MAX);
    match signals.last_of(context, &ROLES) {
        Some(Signal::NotRecipient) => None,
        _ if dialog => Some(Kind::Replied),
        Some(Signal::ToRecipient) => Some(Kind::Named),
        Some(_) => Some(Kind::Hinted),
        None => {
            let joined = format!("{} {context}", tail(heading.trim_end(), CONTEXT_BYTES_MAX));
            match signals.last_of(&joined, &ROLES) {
                Some(Signal::NotRecipient) => None,
                _ => Some(Kind::Loose),
            }
        }
    }
}

/// A heading after which addresses are the failed ones.
fn announces(heading: &str, signals: &Signals) -> bool {
    let set = signals.scan(heading);
    let last = signals.last_of(tail(heading, CONTEXT_BYTES_MAX), &ROLES);
    last != Some(Signal::NotRecipient)
        && set.any(&[
            Signal::BounceText,
            Signal::ToRecipient,
            Signal::MaybeRecipient,
            Signal::Delay,
        ])
        && !set.has(Signal::Original)
}

fn repels(heading: &str, signals: &Signals) -> bool {
    let context = tail(heading, CONTEXT_BYTES_MAX);
    signals.last_of(context, &ROLES) == Some(Signal::NotRecipient)
}

/// What stands before an address, without bullets, brackets and `mailto:`.
fn bare_prefix(before: &str) -> &str {
    let mut bare = before.trim();
    loop {
        let next = strip_type(bare).trim_matches(|c: char| {
            c.is_whitespace()
                || matches!(
                    c,
                    '<' | '*'
                        | '-'
                        | '"'
                        | '\''
                        | '('
                        | '['
                        | '|'
                        | '•'
                        | '・'
                        | '+'
                        | '#'
                        | '{'
                        | '.'
                )
        });
        if next.len() == bare.len() {
            return if bare.starts_with("<<<") || before.trim_start().starts_with("<<<") {
                before.trim_start()
            } else {
                bare
            };
        }
        bare = next;
    }
}

/// Cuts the kind of address that stands before it, an X.400 name around it included.
fn strip_type(before: &str) -> &str {
    let cut = |kind: &str| {
        let at = before.len().checked_sub(kind.len())?;
        let same = before.is_char_boundary(at) && before[at..].eq_ignore_ascii_case(kind);
        same.then(|| &before[..at])
    };
    if let Some(rest) = cut("smtp=") {
        let name = rest.rsplit(['\t', '(']).next().unwrap_or(rest);
        return if name.contains(';') { "" } else { rest };
    }
    ["mailto:", "smtp:", "rfc822;", "rfc822:"]
        .iter()
        .find_map(|kind| cut(kind))
        .unwrap_or(before)
}

fn starts_with_code(text: &str) -> bool {
    text.len() >= 3 && scan::reply_code(super::normal::clip(text, 4)).is_some()
}

fn tail(text: &str, bytes_max: usize) -> &str {
    let mut start = text.len().saturating_sub(bytes_max);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

fn is_mailable(address: &str) -> bool {
    address.rsplit_once('@').is_some_and(|(local, domain)| {
        !local.is_empty() && (domain.contains('.') || domain.starts_with('['))
    })
}

/// Addresses of a role, which notices give as a contact.
fn is_role(address: &str) -> bool {
    const LOCAL_PARTS: [&str; 9] = [
        "postmaster",
        "mailer-daemon",
        "abuse",
        "support",
        "helpdesk",
        "help",
        "noc",
        "hostmaster",
        "webmaster",
    ];
    let local = address.split('@').next().unwrap_or_default();
    LOCAL_PARTS
        .iter()
        .any(|role| local.eq_ignore_ascii_case(role))
}

fn block(lines: &[&str], candidate: &Candidate<'_>, next: Option<&Candidate<'_>>) -> String {
    let mut text = String::new();
    let end = next.map_or(lines.len(), |next| next.line.max(candidate.line));
    let rest =
        lines[candidate.line][candidate.end..].trim_start_matches(['>', ')', '"', '\'', ']', ':']);
    text.push_str(rest.trim_start());
    for line in lines[..end]
        .iter()
        .skip(candidate.line + 1)
        .take(BLOCK_LINES_MAX)
    {
        if text.len() + line.len() > BLOCK_BYTES_MAX {
            break;
        }
        text.push('\n');
        text.push_str(line);
    }
    text
}

/// The first paragraph of a block, which is about its address alone.
fn head(block: &str) -> String {
    let lines = block.lines().skip_while(|line| line.trim().is_empty());
    let head = lines.take_while(|line| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with("---")
    });
    head.take(8).collect::<Vec<_>>().join("\n")
}

/// A stretch of an SMTP transcript, up to and with one line.
fn dialog(lines: &[&str], from: usize, line: usize) -> String {
    let from = from.max(line.saturating_sub(BLOCK_LINES_MAX)).min(line);
    super::normal::clip(&lines[from..=line].join("\n"), BLOCK_BYTES_MAX).to_owned()
}

/// Lines that name the address and a reply code, and what the server said just before.
fn replies(lines: &[&str], address: &str) -> String {
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        if text.len() > BLOCK_BYTES_MAX {
            break;
        }
        let names = line.len() >= address.len()
            && scan::addresses(line).any(|f| line[f.start..f.end].eq_ignore_ascii_case(address));
        if !names || scan::reply_code(line).is_none() {
            continue;
        }
        for said in lines[..index]
            .iter()
            .rev()
            .take(3)
            .filter(|l| l.trim_start().starts_with("<<<"))
        {
            text.push_str(said.trim());
            text.push('\n');
        }
        text.push_str(line.trim());
        text.push('\n');
    }
    text
}

/// A name without a domain that is listed alone on an indented line after an announcing one.
pub(super) fn listed_name(notice: &str) -> Option<&str> {
    let mut announced = false;
    for line in notice
        .lines()
        .take(LINES_MAX)
        .filter(|line| !line.trim().is_empty())
    {
        let word = line.trim();
        let indented = line.starts_with([' ', '\t']);
        let plain = word.len() <= 64
            && word
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if announced && indented && plain {
            return Some(word);
        }
        announced = line.contains("recipient") || line.contains("address");
        announced |= word.ends_with(':');
    }
    None
}
