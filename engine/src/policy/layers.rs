//! Which rows hold for a destination, and what comes of them.

use std::borrow::Cow;
use std::collections::HashMap;

use super::keys::{KEYS, Key, Value};
use super::row::{Layer, Origin, Row, Scope};
use super::window::{Window, Zone};
use crate::net::DomainPattern;

/// For whom a policy is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject<'a> {
    /// The recipient domain, A-labels in lower case.
    pub domain: &'a str,
    /// Host names of its MX, in lower case; empty as long as they are not known.
    pub mx_hosts: &'a [&'a str],
}

/// Names to rows: whole names, names below another, all. Of equal patterns the first row's holds.
#[derive(Clone, Debug, Default)]
struct Names {
    exact: HashMap<Box<str>, usize>,
    below: HashMap<Box<str>, usize>,
    any: Option<usize>,
}

impl Names {
    fn add(&mut self, pattern: &DomainPattern, row: usize) {
        match pattern {
            DomainPattern::Any => {
                self.any.get_or_insert(row);
            }
            DomainPattern::Exact(name) => {
                self.exact.entry(name.clone()).or_insert(row);
            }
            DomainPattern::Below(suffix) => {
                self.below.entry(suffix.clone()).or_insert(row);
            }
        }
    }

    /// The row of the pattern that says most of `name`.
    fn find(&self, name: &str) -> Option<usize> {
        let whole = self.exact.get(name).copied();
        // From the longest suffix on.
        let suffixes = name.match_indices('.').filter(|(at, _)| *at > 0);
        let below = || {
            suffixes
                .map(|(at, _)| &name[at..])
                .find_map(|suffix| self.below.get(suffix).copied())
        };
        whole.or_else(below).or(self.any)
    }
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

    fn name(&self) -> &str {
        self.rows().next().map_or("", |row| &row.name)
    }

    /// Its domains and MX hosts. An operator's row that names none is for those of the shipped row.
    fn patterns(&self) -> (&[DomainPattern], &[DomainPattern]) {
        let patterns = |row: &'_ Row| match &row.scope {
            Scope::Provider { domains, mx } => !domains.is_empty() || !mx.is_empty(),
            _ => false,
        };
        let row = self.operators.as_ref().filter(|row| patterns(row));
        match row.or(self.shipped.as_ref()).map(|row| &row.scope) {
            Some(Scope::Provider { domains, mx }) => (domains, mx),
            _ => (&[], &[]),
        }
    }
}

/// All rows, by what they are for.
#[derive(Clone, Debug)]
pub struct Policy {
    default: Row,
    /// The operator's before the shipped.
    providers: Vec<Provider>,
    by_name: HashMap<Box<str>, usize>,
    provider_domains: Names,
    provider_hosts: Names,
    domains: Vec<Row>,
    domain_names: Names,
    /// Keys that a row above the default sets, in the order of [`KEYS`].
    is_set: [bool; KEYS.len()],
    /// The longest expiry that a provider sets, milliseconds; 0 if none does.
    provider_expiry_ms_max: u64,
    retry_ms_max: u64,
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

impl Default for Policy {
    /// No rows.
    fn default() -> Self {
        Self::new(Vec::new(), Vec::new(), Vec::new())
    }
}

impl Policy {
    /// `default`: values of `[delivery]`. `shipped` and `operators`: rows of any layer but the default.
    pub fn new(default: Vec<(Key, Value)>, shipped: Vec<Row>, operators: Vec<Row>) -> Self {
        let values = default.into_iter().map(|(key, value)| (key, value, 0));
        let default = Row {
            name: "default".into(),
            origin: Origin::Delivery,
            scope: Scope::Everything,
            values: values.collect(),
        };
        let (domains, mut own): (Vec<Row>, Vec<Row>) = operators
            .into_iter()
            .partition(|row| row.layer() == Layer::Domain);
        own.retain(|row| row.layer() == Layer::Provider);
        let mut policy = Self {
            default,
            providers: paired(own, shipped),
            by_name: HashMap::new(),
            provider_domains: Names::default(),
            provider_hosts: Names::default(),
            domains,
            domain_names: Names::default(),
            is_set: [false; KEYS.len()],
            provider_expiry_ms_max: 0,
            retry_ms_max: 0,
        };
        policy.index();
        policy
    }

    fn index(&mut self) {
        for (at, provider) in self.providers.iter().enumerate() {
            self.by_name.entry(provider.name().into()).or_insert(at);
            let (domains, hosts) = provider.patterns();
            for pattern in domains {
                self.provider_domains.add(pattern, at);
            }
            for pattern in hosts {
                self.provider_hosts.add(pattern, at);
            }
        }
        for (at, row) in self.domains.iter().enumerate() {
            if let Scope::Domains(patterns) = &row.scope {
                for pattern in patterns {
                    self.domain_names.add(pattern, at);
                }
            }
        }
        let above = self.providers.iter().flat_map(Provider::rows);
        for (key, _) in above.chain(&self.domains).flat_map(Row::values) {
            self.is_set[key as usize] = true;
        }
        let of_providers = self.providers.iter().flat_map(Provider::rows);
        let expiries = of_providers.filter_map(|row| match row.value(Key::ExpireAfter) {
            Some(Value::Duration(ms)) => Some(*ms),
            _ => None,
        });
        self.provider_expiry_ms_max = expiries.max().unwrap_or(0);
        let delays = self.rows().flat_map(Row::values).map(|(key, value)| {
            let is_retry = matches!(
                key,
                Key::RetrySchedule
                    | Key::RetryGreylisted
                    | Key::RetryMailbox
                    | Key::RetryTransient
                    | Key::RetryPolicy
            );
            match value {
                Value::Durations(delays) if is_retry => delays.iter().max().copied().unwrap_or(0),
                _ => 0,
            }
        });
        self.retry_ms_max = delays.max().unwrap_or(0);
    }

    /// Every row, least specific layer first.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        let providers = self.providers.iter().flat_map(Provider::rows);
        std::iter::once(&self.default)
            .chain(providers)
            .chain(&self.domains)
    }

    /// Names of all providers.
    pub fn providers(&self) -> impl Iterator<Item = &str> {
        self.providers.iter().map(Provider::name)
    }

    /// Sets a value of the default layer.
    pub fn set_default(&mut self, key: Key, value: Value) {
        self.default.values.retain(|(set, ..)| *set != key);
        self.default.values.push((key, value, 0));
        self.default.values.sort_by_key(|(key, ..)| *key);
    }

    /// Whether any row above the default sets `key`: whoever asks for each message may spare the asking.
    pub const fn is_set(&self, key: Key) -> bool {
        self.is_set[key as usize]
    }

    /// Whether any row sets `key`, the default one too.
    pub fn is_set_anywhere(&self, key: Key) -> bool {
        self.is_set(key) || self.default.value(key).is_some()
    }

    /// The longest expiry that a provider may turn out to set for a domain, milliseconds; 0 if none can.
    pub fn provider_expiry_ms_max(&self, domain: &str) -> u64 {
        let row = self.domain_names.find(domain).map(|at| &self.domains[at]);
        match row.and_then(|row| row.value(Key::ExpireAfter)) {
            Some(_) => 0,
            None => self.provider_expiry_ms_max,
        }
    }

    /// The longest delay between two attempts that any row sets, milliseconds.
    pub const fn retry_ms_max(&self) -> u64 {
        self.retry_ms_max
    }

    /// The rows that hold for `subject`. Of rows of one layer the one that meets it best, and of equals
    /// the first.
    pub fn of<'p>(&'p self, subject: &Subject<'_>) -> Effective<'p> {
        self.of_domain(self.provider_of(subject), subject.domain)
    }

    /// The rows for a domain whose provider is known.
    pub fn of_domain(&self, provider: Option<&str>, domain: &str) -> Effective<'_> {
        let mut effective = self.of_provider(provider);
        let row = self.domain_names.find(domain);
        effective.rows.extend(row.map(|at| &self.domains[at]));
        effective
    }

    /// As [`Effective::number`], of the default layer alone: for what [`Self::is_set`] says is set
    /// nowhere else.
    pub fn default_number(&self, key: Key) -> u64 {
        number_of(key, self.default.value(key))
    }

    /// The rows for all mail of a provider, or of none.
    pub fn of_provider(&self, name: Option<&str>) -> Effective<'_> {
        let mut rows = vec![&self.default];
        let at = name.and_then(|name| self.by_name.get(name).copied());
        rows.extend(at.into_iter().flat_map(|at| self.providers[at].rows()));
        Effective { rows }
    }

    /// The subject's provider: by the recipient domain, or by the MX hosts, of which every one must be
    /// the same provider's. A domain with one host elsewhere is not his.
    pub fn provider_of(&self, subject: &Subject<'_>) -> Option<&str> {
        let by_hosts = || {
            let mut hosts = subject.mx_hosts.iter();
            let first = self.provider_hosts.find(hosts.next()?)?;
            hosts
                .all(|host| self.provider_hosts.find(host) == Some(first))
                .then_some(first)
        };
        let by_domain = self.provider_domains.find(subject.domain);
        let at = by_domain.or_else(by_hosts)?;
        Some(self.providers[at].name())
    }
}

/// An operator's rows, each with the shipped one of its name; then what is left of the shipped.
fn paired(operators: Vec<Row>, shipped: Vec<Row>) -> Vec<Provider> {
    let mut providers: Vec<Provider> = operators
        .into_iter()
        .map(|row| Provider {
            operators: Some(row),
            shipped: None,
        })
        .collect();
    for row in shipped {
        match providers
            .iter_mut()
            .find(|p| p.shipped.is_none() && p.name() == &*row.name)
        {
            Some(provider) => provider.shipped = Some(row),
            None => providers.push(Provider {
                operators: None,
                shipped: Some(row),
            }),
        }
    }
    providers
}

fn number_of(key: Key, set: Option<&Value>) -> u64 {
    let number = |value: &Value| match value {
        Value::Count(n) | Value::Duration(n) => Some(*n),
        _ => None,
    };
    let built_in = || key.built_in().as_ref().and_then(number);
    set.and_then(number).or_else(built_in).unwrap_or(0)
}

impl<'p> Effective<'p> {
    /// The value that holds, and what it overrode; `None` where no row sets it.
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

    /// A whole number or milliseconds, of a key that has a value where no row sets it; 0 for another.
    pub fn number(&self, key: Key) -> u64 {
        number_of(key, self.value(key).map(|from| from.value))
    }

    /// Milliseconds each.
    pub fn durations_ms(&self, key: Key) -> Option<&'p [u64]> {
        match self.value(key)?.value {
            Value::Durations(list) => Some(list),
            _ => None,
        }
    }

    /// When mail may begin to be sent; `None` at any time.
    pub fn window(&self) -> Option<Window> {
        let Value::Window(spans) = self.value(Key::Window)?.value else {
            return None;
        };
        let zone = match self.value(Key::WindowZone).map(|from| from.value) {
            Some(Value::Zone(zone)) => zone.clone(),
            _ => Zone::UTC,
        };
        Some(Window::new(spans.clone(), zone))
    }

    /// Milliseconds each, of a key that has a value where no row sets it; empty for another.
    pub fn steps_ms(&self, key: Key) -> Cow<'p, [u64]> {
        match (self.value(key).map(|from| from.value), key.built_in()) {
            (Some(Value::Durations(list)), _) => Cow::Borrowed(list),
            (_, Some(Value::Durations(list))) => Cow::Owned(list.into()),
            _ => Cow::Borrowed(&[]),
        }
    }

    /// Every value that is set, in the order of the keys.
    pub fn explain(&self) -> Vec<(Key, From<'p>)> {
        let of = |key| self.value(key).map(|from| (key, from));
        KEYS.iter().filter_map(|spec| of(spec.key)).collect()
    }
}
