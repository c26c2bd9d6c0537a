//! Which rows hold for a destination, and what comes of them.

use std::net::IpAddr;

use super::keys::{KEYS, Key, Value};
use super::row::{Layer, Row, Scope};

/// For whom a policy is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject<'a> {
    /// The recipient domain, A-labels in lower case.
    pub domain: &'a str,
    /// Host names of its MX, in lower case; empty as long as they are not known.
    pub mx_hosts: &'a [&'a str],
    /// Group of the message, empty if it has none.
    pub group: &'a str,
    /// Our address.
    pub source: Option<IpAddr>,
}

/// All rows, in the order in which they are asked.
#[derive(Clone, Debug)]
pub struct Policy {
    default: Row,
    /// The operator's before the shipped; the first that matches is the provider.
    providers: Vec<Provider>,
    domains: Vec<Row>,
    groups: Vec<Row>,
    sources: Vec<Row>,
}

/// A provider: the operator's row, the shipped one of the same name, or both.
#[derive(Clone, Debug)]
struct Provider {
    operators: Option<Row>,
    shipped: Option<Row>,
}

impl Provider {
    fn rows(&self) -> impl Iterator<Item = &Row> {
        self.shipped.iter().chain(&self.operators)
    }

    /// An operator's row that names no domain and no MX host is for those of the shipped row.
    fn is_of(&self, subject: &Subject<'_>) -> bool {
        let names = |row: &&Row| match &row.scope {
            Scope::Provider { domains, mx } => !domains.is_empty() || !mx.is_empty(),
            _ => false,
        };
        let row = self.operators.iter().find(names).or(self.shipped.as_ref());
        row.is_some_and(|row| row.is_provider_of(subject.domain, subject.mx_hosts))
    }
}

/// A value and where it comes from.
#[derive(Clone, Debug)]
pub struct From<'p> {
    /// What holds.
    pub value: &'p Value,
    /// The row that says so.
    pub row: &'p Row,
    /// Rows that say otherwise and are less specific, the nearest first.
    pub overrode: Vec<&'p Row>,
}

/// The rows that hold for one subject, least specific first.
#[derive(Clone, Debug)]
pub struct Effective<'p> {
    rows: Vec<&'p Row>,
}

impl Policy {
    /// `default`: values of `[delivery]`. `shipped` and `operators`: rows of any layer but the default.
    pub fn new(default: Vec<(Key, Value)>, shipped: Vec<Row>, operators: Vec<Row>) -> Self {
        let values = default.into_iter().map(|(key, value)| (key, value, 0));
        let mut policy = Self {
            default: Row {
                name: "default".into(),
                origin: super::Origin::Delivery,
                scope: Scope::Everything,
                values: values.collect(),
            },
            providers: Vec::new(),
            domains: Vec::new(),
            groups: Vec::new(),
            sources: Vec::new(),
        };
        let mut shipped: Vec<Option<Row>> = shipped.into_iter().map(Some).collect();
        for row in operators {
            match row.layer() {
                Layer::Default => {}
                Layer::Provider => {
                    let same = |other: &&mut Option<Row>| {
                        other.as_ref().is_some_and(|other| other.name == row.name)
                    };
                    let shipped = shipped.iter_mut().find(same).and_then(Option::take);
                    policy.providers.push(Provider {
                        operators: Some(row),
                        shipped,
                    });
                }
                Layer::Domain => policy.domains.push(row),
                Layer::Group => policy.groups.push(row),
                Layer::Source => policy.sources.push(row),
            }
        }
        for row in shipped.into_iter().flatten() {
            policy.providers.push(Provider {
                operators: None,
                shipped: Some(row),
            });
        }
        policy
    }

    /// Every row, least specific layer first.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        let providers = self.providers.iter().flat_map(Provider::rows);
        std::iter::once(&self.default)
            .chain(providers)
            .chain(&self.domains)
            .chain(&self.groups)
            .chain(&self.sources)
    }

    /// The rows that hold for `subject`. Of rows of one layer the one that meets it best, and of equals
    /// the first.
    pub fn of<'p>(&'p self, subject: &Subject<'_>) -> Effective<'p> {
        let mut rows = vec![&self.default];
        let provider = self.providers.iter().find(|p| p.is_of(subject));
        rows.extend(provider.into_iter().flat_map(Provider::rows));
        rows.extend(best(&self.domains, |row| row.domain_weight(subject.domain)));
        rows.extend(best(&self.groups, |row| row.group_weight(subject.group)));
        let source = subject
            .source
            .and_then(|ip| self.sources.iter().find(|row| row.has_source(ip)));
        rows.extend(source);
        Effective { rows }
    }

    /// Name of the subject's provider, if it has one.
    pub fn provider_of(&self, subject: &Subject<'_>) -> Option<&str> {
        let provider = self.providers.iter().find(|p| p.is_of(subject))?;
        provider.rows().next().map(|row| &*row.name)
    }
}

fn best(rows: &[Row], weight: impl Fn(&Row) -> Option<usize>) -> Option<&Row> {
    let mut best = None;
    for row in rows {
        if let Some(weight) = weight(row)
            && best.is_none_or(|(least, _)| weight > least)
        {
            best = Some((weight, row));
        }
    }
    best.map(|(_, row)| row)
}

impl<'p> Effective<'p> {
    /// The rows, least specific first.
    pub fn rows(&self) -> &[&'p Row] {
        &self.rows
    }

    /// The value that holds, and what it overrode; `None` where no row sets it. Not for limits that
    /// hold in each layer by itself: [`Self::each`].
    pub fn value(&self, key: Key) -> Option<From<'p>> {
        let mut setting = self
            .rows
            .iter()
            .rev()
            .filter(|row| row.value(key).is_some());
        let row = setting.next()?;
        Some(From {
            value: row.value(key)?,
            row,
            overrode: setting.copied().collect(),
        })
    }

    /// Every row that sets `key`, each with its value: a rate of a group holds beside that of a site.
    /// Of a provider's two rows the operator's holds.
    pub fn each(&self, key: Key) -> impl Iterator<Item = From<'p>> {
        let layers = [
            Layer::Default,
            Layer::Provider,
            Layer::Domain,
            Layer::Group,
            Layer::Source,
        ];
        layers.into_iter().filter_map(move |layer| {
            let rows = self.rows.iter().filter(|row| row.layer() == layer);
            let within = Self {
                rows: rows.copied().collect(),
            };
            within.value(key)
        })
    }

    /// A whole number.
    pub fn count(&self, key: Key) -> Option<u64> {
        match self.value(key)?.value {
            Value::Count(n) => Some(*n),
            _ => None,
        }
    }

    /// Milliseconds.
    pub fn duration_ms(&self, key: Key) -> Option<u64> {
        match self.value(key)?.value {
            Value::Duration(ms) => Some(*ms),
            _ => None,
        }
    }

    /// Every value that is set, in the order of the keys: those that hold in each layer once a layer.
    pub fn explain(&self) -> Vec<(Key, From<'p>)> {
        let mut all = Vec::new();
        for spec in &KEYS {
            if spec.key.holds_in_each_layer() {
                all.extend(self.each(spec.key).map(|from| (spec.key, from)));
            } else {
                all.extend(self.value(spec.key).map(|from| (spec.key, from)));
            }
        }
        all
    }
}
