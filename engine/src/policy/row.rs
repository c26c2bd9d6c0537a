//! A row: values, and what they are for.

use std::fmt;

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
}

/// Values for a provider or for domains.
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

impl Row {
    /// Its layer.
    pub const fn layer(&self) -> Layer {
        match self.scope {
            Scope::Everything => Layer::Default,
            Scope::Provider { .. } => Layer::Provider,
            Scope::Domains(_) => Layer::Domain,
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
}
