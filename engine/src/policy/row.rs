//! A row: values, and what they are for.

use std::fmt;
use std::net::IpAddr;

pub use super::keys::Layer;
use super::keys::{Key, Value};
use crate::net::DomainPattern;

/// Where a row was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `[delivery]` of the configuration, or its built-in values.
    Delivery,
    /// The table that comes with the program.
    Shipped,
    /// A file of the operator's, at this line.
    File(Box<str>, usize),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delivery => f.write_str("[delivery]"),
            Self::Shipped => f.write_str("shipped"),
            Self::File(file, line) => write!(f, "{file}:{line}"),
        }
    }
}

/// What a row is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Everything,
    /// Recipient domains, and MX hosts.
    Provider {
        domains: Vec<DomainPattern>,
        mx: Vec<DomainPattern>,
    },
    Domains(Vec<DomainPattern>),
    Groups(Vec<GroupPattern>),
    Sources(Vec<IpAddr>),
}

/// Groups by name: all of it, or its beginning and `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum GroupPattern {
    Exact(Box<str>),
    Prefix(Box<str>),
}

impl GroupPattern {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (name, is_prefix) = match text.strip_suffix('*') {
            Some(name) => (name, true),
            None => (text, false),
        };
        if name.contains('*') {
            return Err(format!("`{text}`: `*` may stand at the end only"));
        }
        if name.is_empty() && !is_prefix {
            return Err("a group without a name; write `*` for every group".into());
        }
        Ok(if is_prefix {
            Self::Prefix(name.into())
        } else {
            Self::Exact(name.into())
        })
    }

    fn matches(&self, group: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *group,
            Self::Prefix(name) => group.starts_with(&**name),
        }
    }

    /// How much of a name it gives; an exact one goes over every prefix.
    fn weight(&self) -> usize {
        match self {
            Self::Exact(_) => usize::MAX,
            Self::Prefix(name) => name.len(),
        }
    }
}

/// Values for a provider, domains, groups, or source addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// A provider's name; for the others how the row is written.
    pub name: Box<str>,
    /// Where it stands.
    pub origin: Origin,
    pub(super) scope: Scope,
    /// In the order of the keys, each once; the line of each in its file, 0 outside of one.
    pub(super) values: Vec<(Key, Value, usize)>,
}

fn domain_weight(pattern: &DomainPattern) -> usize {
    match pattern {
        DomainPattern::Exact(_) => usize::MAX,
        DomainPattern::Below(suffix) => suffix.len(),
        DomainPattern::Any => 0,
    }
}

fn best_domain(patterns: &[DomainPattern], domain: &str) -> Option<usize> {
    patterns
        .iter()
        .filter(|pattern| pattern.matches(domain))
        .map(domain_weight)
        .max()
}

impl Row {
    /// Its layer.
    pub const fn layer(&self) -> Layer {
        match self.scope {
            Scope::Everything => Layer::Default,
            Scope::Provider { .. } => Layer::Provider,
            Scope::Domains(_) => Layer::Domain,
            Scope::Groups(_) => Layer::Group,
            Scope::Sources(_) => Layer::Source,
        }
    }

    /// The value it sets.
    pub fn value(&self, key: Key) -> Option<&Value> {
        self.values
            .iter()
            .find(|(set, ..)| *set == key)
            .map(|(_, value, _)| value)
    }

    /// What it sets.
    pub fn values(&self) -> impl Iterator<Item = (Key, &Value)> {
        self.values.iter().map(|(key, value, _)| (*key, value))
    }

    /// Whether it is for this provider's mail: by the recipient domain, or by the MX hosts that were
    /// found, of which every one must be the provider's. A domain with one host elsewhere is not his.
    pub(super) fn is_provider_of(&self, domain: &str, mx_hosts: &[&str]) -> bool {
        let Scope::Provider { domains, mx } = &self.scope else {
            return false;
        };
        let is_his = |host: &&str| mx.iter().any(|pattern| pattern.matches(host));
        domains.iter().any(|pattern| pattern.matches(domain))
            || !mx_hosts.is_empty() && mx_hosts.iter().all(is_his)
    }

    /// How well a row of domains meets `domain`: the longer the pattern the better, whole names best.
    pub(super) fn domain_weight(&self, domain: &str) -> Option<usize> {
        match &self.scope {
            Scope::Domains(patterns) => best_domain(patterns, domain),
            _ => None,
        }
    }

    /// The same for a row of groups.
    pub(super) fn group_weight(&self, group: &str) -> Option<usize> {
        let Scope::Groups(patterns) = &self.scope else {
            return None;
        };
        let met = patterns.iter().filter(|pattern| pattern.matches(group));
        met.map(GroupPattern::weight).max()
    }

    /// Whether it is for one of our addresses.
    pub(super) fn has_source(&self, source: IpAddr) -> bool {
        matches!(&self.scope, Scope::Sources(list) if list.contains(&source))
    }
}
