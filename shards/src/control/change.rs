//! What changes something: `unlock`, `rekey`, `reload`, `retry`.

use engine::address::Domain;
use engine::keys::PASSPHRASE_BYTES_MAX;
use engine::operator::{Answer, Query};

use super::answer::{Body, Table};
use super::ask::{ask_all, must_run};
use super::paths::{Asked, SELECTORS};
use super::request::secrets;
use super::{Refusal, State};

/// Rows that say what was done.
fn results(asked: &Asked<'_>, lines: Vec<String>) -> Body {
    let mut table = Table::new(&["result"]);
    for line in lines {
        table.push(vec![line.into()]);
    }
    table.write(asked.target.format)
}

/// The body is the passphrase.
pub(super) fn unlock(asked: &mut Asked<'_>) -> Result<Body, Refusal> {
    if asked.daemon.state() != State::Locked {
        return Err(Refusal::new(409, "the daemon is unlocked already"));
    }
    let passphrase = super::request::secret_body(asked.request, PASSPHRASE_BYTES_MAX)?;
    asked.daemon.unlock(passphrase)?;
    asked.daemon.note(&format!(
        "unlocked through the control socket by {}",
        asked.caller
    ));
    Ok(results(asked, vec!["unlocked".to_owned()]))
}

/// The body is `old=…&new=…`: whoever can reach the socket cannot lock the operator out by that
/// alone.
pub(super) fn rekey(asked: &mut Asked<'_>) -> Result<Body, Refusal> {
    must_run(asked.daemon)?;
    let [old, new] = secrets(asked.request, ["old", "new"], PASSPHRASE_BYTES_MAX)?;
    let id = asked.daemon.rekey(old, new).inspect_err(|refusal| {
        let why = &refusal.message;
        asked
            .daemon
            .note(&format!("rekey by {} refused: {why}", asked.caller));
    })?;
    let done = format!("new segments are under key {id}");
    asked
        .daemon
        .note(&format!("{done} from now on, by {}", asked.caller));
    Ok(results(asked, vec![done]))
}

pub(super) fn reload(asked: &mut Asked<'_>) -> Result<Body, Refusal> {
    let notes = asked.daemon.reload()?;
    asked.daemon.note(&format!(
        "configuration reloaded through the control socket by {}",
        asked.caller
    ));
    let mut lines = vec!["reloaded".to_owned()];
    lines.extend(notes);
    Ok(results(asked, lines))
}

/// No selector means nothing, not everything.
pub(super) fn retry(asked: &mut Asked<'_>) -> Result<Body, Refusal> {
    let target = &mut asked.target;
    let domain = target
        .take("domain")
        .map(|domain| Domain::as_queued(&domain));
    let all = match target.take("all").as_deref() {
        None | Some("0") => false,
        Some("1") => true,
        Some(other) => {
            let why = format!("all `{other}` must be 1 or left out");
            return Err(Refusal::new(400, why));
        }
    };
    let whose = match (&domain, all) {
        (Some(domain), false) if !domain.is_empty() => domain.clone(),
        (None, true) => "every domain".to_owned(),
        _ => {
            let known = SELECTORS.map(|name| format!("{name}=")).join(", ");
            let why = format!("nothing is selected; give one of: {known} (all=1 is everything)");
            return Err(Refusal::new(400, why));
        }
    };
    let mut retried = 0;
    for (_, answer) in ask_all(asked.daemon, &Query::Retry { domain })? {
        if let Answer::Retried(n) = answer {
            retried += n;
        }
    }
    asked.daemon.note(&format!(
        "{retried} deferred of {whose} made ready by {}",
        asked.caller
    ));
    let mut table = Table::new(&["retried"]);
    table.push(vec![retried.into()]);
    Ok(table.write(asked.target.format))
}
