//! Where a notice ends: at the message that it returns, or at what gateways add below it.

use super::normal::clip;
use super::notice::LINES_MAX;
use super::signals::{Signal, Signals};

/// Bytes after a quoted header in which the notice goes on, if it does.
const EXCERPT_LOOK_BYTES_MAX: usize = 300;

/// Where the returned message begins in `text`, in bytes; its length if it is not there.
pub(super) fn original_start(text: &str, signals: &Signals) -> (usize, usize) {
    let mut offset = 0;
    let mut window: Vec<(usize, &str)> = Vec::new();
    for line in text.split_inclusive('\n').take(LINES_MAX) {
        window.push((offset, line));
        offset += line.len();
    }
    let mut index = 0;
    while let Some((start, line)) = window.get(index) {
        let trimmed = line.trim();
        if !trimmed.is_empty() && is_marker(trimmed, signals) {
            return (*start, start + line.len());
        }
        if is_header_start(trimmed) && is_header_block(&window[index..]) {
            let length = window[index..]
                .iter()
                .take_while(|(_, l)| !l.trim().is_empty())
                .count();
            let after = window.get(index + length).map_or(offset, |(at, _)| *at);
            let rest = clip(&text[after..], EXCERPT_LOOK_BYTES_MAX);
            // Some reports quote the header first and say afterwards whom they are about.
            let excerpt =
                !text[..*start].contains('@') && signals.scan(rest).has(Signal::BounceText);
            if !excerpt {
                return (*start, *start);
            }
            index += length;
        }
        index += 1;
    }
    (offset, offset)
}

/// Where what gateways add below a notice begins: a rule of underscores or a disclaimer's words,
/// after an address. The length of `notice` if there is none.
pub(super) fn footer_start(notice: &str, signals: &Signals) -> usize {
    let (mut offset, mut ruled) = (0, None);
    let mut addressed = false;
    for line in notice.split_inclusive('\n').take(LINES_MAX) {
        let trimmed = line.trim();
        let ruler = trimmed.len() >= 10 && trimmed.bytes().all(|b| matches!(b, b'_' | b'*' | b'~'));
        if addressed && ruler {
            ruled = ruled.or(Some(offset));
        }
        if addressed && signals.scan(trimmed).has(Signal::Footer) {
            return ruled.unwrap_or(offset);
        }
        if !trimmed.is_empty() && !ruler && ruled.is_some_and(|at| offset - at > 400) {
            ruled = None;
        }
        addressed |= trimmed.contains('@');
        offset += line.len();
    }
    notice.len()
}

fn is_marker(line: &str, signals: &Signals) -> bool {
    if line.len() > 160 || !signals.scan(line).has(Signal::Original) {
        return false;
    }
    let edge = |c: char| matches!(c, '-' | '=' | '*' | '_' | '~' | '#' | '+' | '|');
    let decorated = line.chars().filter(|c| edge(*c)).count() >= 3
        && (line.starts_with(edge) || line.ends_with(edge));
    let announces = line.ends_with(':')
        || line.ends_with("follow")
        || line.ends_with("follows")
        || line.ends_with("follows.")
        || line.contains("below this line")
        || line.starts_with("---");
    decorated || announces
}

/// Names at which a returned header may begin.
fn is_header_start(line: &str) -> bool {
    header_name(line).is_some_and(|name| {
        let lower = name.to_ascii_lowercase();
        lower.starts_with("x-")
            || matches!(
                &*lower,
                "received"
                    | "return-path"
                    | "from"
                    | "to"
                    | "subject"
                    | "date"
                    | "message-id"
                    | "delivered-to"
                    | "mime-version"
                    | "dkim-signature"
                    | "content-type"
                    | "reply-to"
                    | "sender"
                    | "authentication-results"
                    | "domainkey-signature"
                    | "received-spf"
                    | "arc-seal"
            )
    })
}

fn header_name(line: &str) -> Option<&str> {
    let line = line.trim_start_matches(['>', '|', ' ', '\t']);
    let (name, _) = line.split_once(':')?;
    let plain = !name.is_empty()
        && name.len() < 50
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    plain.then_some(name)
}

fn is_header_block(lines: &[(usize, &str)]) -> bool {
    let (mut headers, mut strong, mut usual) = (0, 0, 0);
    for (index, (_, line)) in lines.iter().take(14).enumerate() {
        if line.trim().is_empty() {
            break;
        }
        let Some(name) = header_name(line.trim_end()) else {
            let folded = line.starts_with([' ', '\t', '>', '|']);
            if folded && index > 0 {
                continue;
            }
            break;
        };
        let name = name.to_ascii_lowercase();
        headers += 1;
        match &*name {
            "received"
            | "message-id"
            | "return-path"
            | "mime-version"
            | "dkim-signature"
            | "x-mailer"
            | "delivered-to"
            | "x-received"
            | "content-transfer-encoding" => strong += 1,
            "from" | "to" | "date" | "subject" => usual += 1,
            "final-recipient" | "reporting-mta" | "action" | "status" | "arrival-date"
            | "diagnostic-code" | "sent" | "reason" | "code" => return false,
            _ => {}
        }
    }
    (headers >= 3 && strong >= 1) || usual >= 4 || (strong >= 2)
}
