//! `[[route]]`: domains whose next hop is not looked up.

use super::reader::{Reader, TextDefault};
use crate::net::{DomainPattern, NextHop};

/// One `[[route]]`: overrides MX lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The recipient domains.
    pub domain: DomainPattern,
    /// Tried in this order, at least one.
    pub to: Vec<NextHop>,
}

pub(super) fn read(r: &mut Reader<'_, '_>) -> Option<Route> {
    let domain = r.text(
        "domain",
        "domain, `*.domain` or `*`",
        TextDefault::Required,
        DomainPattern::parse,
    );
    let to = r.list(
        "to",
        "list of hosts or addresses, port 25 unless given",
        &[],
        32,
        NextHop::parse,
    );
    if !r.has("to") {
        let hint = "add `to = \"smarthost.example.jp\"` or `to = \"192.0.2.1:25\"`";
        r.fault("to", "[[route]] has no `to`", Some(hint.into()));
    } else if to.is_empty() {
        r.fault("to", "`to` names no next hop", None);
    }
    Some(Route {
        domain: domain?,
        to,
    })
}
