//! The operator's file: TOML text to rows.
//!
//! ```toml
//! [[provider]]
//! name    = "google"
//! domains = ["gmail.com"]         # recipient domains
//! mx      = ["*.google.com"]      # or all MX hosts of a domain are among these
//! sessions_max = 5
//!
//! [[domain]]
//! domain = ["example.jp", "*.example.jp"]
//! expire_after = "2d"
//! ```

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, Key, Value};
use super::row::{Layer, Origin, Row, Scope};
use super::{PATTERNS_PER_ROW_MAX, ROWS_MAX};
use crate::file_error::{FileError, nearest, position};
use crate::net::DomainPattern;

const TABLES: [(&str, Layer); 2] = [("provider", Layer::Provider), ("domain", Layer::Domain)];

type Item<'t> = Spanned<DeValue<'t>>;

/// A file being read.
struct Reading<'t> {
    file: &'t str,
    text: &'t str,
    origin: fn(&str, usize) -> Origin,
    errors: Vec<FileError>,
}

impl Row {
    /// Reads a whole file. `file`: how errors and [`Origin::File`] name it.
    ///
    /// # Errors
    /// Every fault found, in the order of the file; never an empty list.
    pub fn parse_file(file: &str, text: &str) -> Result<Vec<Self>, Vec<FileError>> {
        let origin = |file: &str, line| Origin::File(file.into(), line);
        read(file, text, origin)
    }

    /// The same for the table that comes with the program.
    pub(super) fn parse_shipped(text: &str) -> Result<Vec<Self>, Vec<FileError>> {
        read("shipped policy", text, |_, _| Origin::Shipped)
    }
}

fn read(
    file: &str,
    text: &str,
    origin: fn(&str, usize) -> Origin,
) -> Result<Vec<Row>, Vec<FileError>> {
    let mut reading = Reading {
        file,
        text,
        origin,
        errors: Vec::new(),
    };
    let (root, syntax) = DeTable::parse_recoverable(text);
    for fault in syntax {
        let message = fault.message().trim().replace('\n', "; ");
        reading.error(fault.span().unwrap_or(0..0), message, None);
    }
    // What a half-read file seems to lack would only mislead.
    let rows = if reading.errors.is_empty() {
        reading.tables(root.get_ref())
    } else {
        Vec::new()
    };
    if reading.errors.is_empty() {
        return Ok(rows);
    }
    reading
        .errors
        .sort_by_key(|error| (error.line, error.column));
    Err(reading.errors)
}

impl Reading<'_> {
    fn error(&mut self, span: Range<usize>, message: impl Into<String>, hint: Option<String>) {
        let (line, column) = position(self.text, span.start);
        self.errors.push(FileError {
            file: self.file.to_owned(),
            line,
            column,
            message: message.into(),
            hint,
        });
    }

    fn line(&self, span: &Range<usize>) -> usize {
        position(self.text, span.start).0
    }

    fn tables(&mut self, root: &DeTable<'_>) -> Vec<Row> {
        let mut rows = Vec::new();
        for (name, value) in root {
            let Some((_, layer)) = TABLES.iter().find(|(table, _)| *table == name.get_ref()) else {
                let hint = self.table_hint(name.get_ref());
                self.error(
                    name.span(),
                    format!("unknown table `{}`", name.get_ref()),
                    Some(hint),
                );
                continue;
            };
            let DeValue::Array(items) = value.get_ref() else {
                let hint = format!(
                    "write [[{0}]], in double brackets, for each {0}",
                    name.get_ref()
                );
                self.error(
                    name.span(),
                    format!("`{}` is no list of tables", name.get_ref()),
                    Some(hint),
                );
                continue;
            };
            for item in items.iter() {
                match item.get_ref() {
                    DeValue::Table(table) if rows.len() < ROWS_MAX => {
                        rows.extend(self.row(*layer, table, item.span()));
                    }
                    DeValue::Table(_) => {
                        let message = format!("more than {ROWS_MAX} rows");
                        let hint = "put domains with the same values into one row".to_owned();
                        self.error(item.span(), message, Some(hint));
                        return rows;
                    }
                    _ => self.error(item.span(), "this is no table", None),
                }
            }
        }
        rows
    }

    fn table_hint(&self, name: &str) -> String {
        if matches!(name, "default" | "delivery") {
            return "what holds for all mail stands in [delivery] of the configuration".to_owned();
        }
        match nearest(name, TABLES.iter().map(|table| table.0)) {
            Some(right) => format!("did you mean [[{right}]]?"),
            None => "there are [[provider]] and [[domain]]".to_owned(),
        }
    }

    fn row(&mut self, layer: Layer, table: &DeTable<'_>, span: Range<usize>) -> Option<Row> {
        let faults = self.errors.len();
        let (name, scope) = self.scope(layer, table, &span)?;
        let mut values: Vec<(Key, Value, usize)> = Vec::new();
        for (key, value) in table {
            let written: &str = key.get_ref();
            if scope_keys(layer).contains(&written) {
                continue;
            }
            let Some(key_read) = Key::named(written) else {
                self.unknown_key(layer, written, key.span());
                continue;
            };
            let spec = key_read.spec();
            if !spec.layers.contains(&layer) {
                let layers: Vec<_> = spec.layers.iter().map(|layer| layer.name()).collect();
                let hint = format!("it may be set for: {}", layers.join(", "));
                let message = format!("`{written}` cannot be set for a {}", layer.name());
                self.error(key.span(), message, Some(hint));
                continue;
            }
            match value_of(key_read, value.get_ref()) {
                Some(read) => {
                    let line = self.line(&key.span());
                    values.push((key_read, read, line));
                }
                None => {
                    let hint = format!("it must be {}", spec.kind);
                    self.error(
                        value.span(),
                        format!("`{written}` is no such value"),
                        Some(hint),
                    );
                }
            }
        }
        values.sort_by_key(|(key, ..)| *key);
        (self.errors.len() == faults).then(|| Row {
            name,
            origin: (self.origin)(self.file, self.line(&span)),
            scope,
            values,
        })
    }

    fn unknown_key(&mut self, layer: Layer, written: &str, span: Range<usize>) {
        let of_layer = KEYS.iter().filter(|spec| spec.layers.contains(&layer));
        let known = of_layer
            .map(|spec| spec.name)
            .chain(scope_keys(layer).iter().copied());
        let known: Vec<_> = known.collect();
        let hint = match nearest(written, known.iter().copied()) {
            Some(right) => format!("did you mean `{right}`?"),
            None => format!("known keys: {}", known.join(", ")),
        };
        let message = format!("unknown key `{written}` in [[{}]]", layer.name());
        self.error(span, message, Some(hint));
    }

    /// What the row is for, and how it is called.
    fn scope(
        &mut self,
        layer: Layer,
        table: &DeTable<'_>,
        span: &Range<usize>,
    ) -> Option<(Box<str>, Scope)> {
        match layer {
            Layer::Default => None,
            Layer::Provider => {
                let names = self.list(table, "name", |text| match text {
                    "" => Err("a provider without a name".to_owned()),
                    _ if text.chars().any(char::is_control) => {
                        Err("the name has control characters".to_owned())
                    }
                    _ => Ok(Box::<str>::from(text)),
                })?;
                let domains = self.list(table, "domains", DomainPattern::parse)?;
                let mx = self.list(table, "mx", DomainPattern::parse)?;
                let [name] = &names[..] else {
                    let hint = "add `name = \"…\"`; with the name of a shipped provider the row goes over its row";
                    self.error(
                        span.clone(),
                        "[[provider]] has no `name`",
                        Some(hint.into()),
                    );
                    return None;
                };
                Some((name.clone(), Scope::Provider { domains, mx }))
            }
            Layer::Domain => {
                let patterns = self.required(table, "domain", span, DomainPattern::parse)?;
                Some((joined(&patterns), Scope::Domains(patterns)))
            }
        }
    }

    fn required<T>(
        &mut self,
        table: &DeTable<'_>,
        key: &'static str,
        span: &Range<usize>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let faults = self.errors.len();
        let list = self.list(table, key, parse)?;
        if list.is_empty() && self.errors.len() == faults {
            let hint = format!("add `{key} = \"…\"`, or a list of them");
            self.error(span.clone(), format!("the row has no `{key}`"), Some(hint));
        }
        (!list.is_empty()).then_some(list)
    }

    /// A text or a list of texts; empty if there is none, `None` if a fault was found.
    fn list<T>(
        &mut self,
        table: &DeTable<'_>,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let Some(value) = table.get(key) else {
            return Some(Vec::new());
        };
        let Some(items) = texts(value).filter(|items| items.len() <= PATTERNS_PER_ROW_MAX) else {
            let hint =
                format!("it must be text in quotes, or a list of {PATTERNS_PER_ROW_MAX} at most");
            self.error(value.span(), format!("`{key}` is no such list"), Some(hint));
            return None;
        };
        let mut read = Vec::with_capacity(items.len());
        let faults = self.errors.len();
        for (text, span) in items {
            match parse(text) {
                Ok(item) => read.push(item),
                Err(why) => self.error(span, format!("`{key}`: {why}"), None),
            }
        }
        (self.errors.len() == faults).then_some(read)
    }
}

/// Keys that say what a row is for.
const fn scope_keys(layer: Layer) -> &'static [&'static str] {
    match layer {
        Layer::Default => &[],
        Layer::Provider => &["name", "domains", "mx"],
        Layer::Domain => &["domain"],
    }
}

/// A text, or a list of nothing but texts, each with its place.
fn texts<'a>(value: &'a Item<'_>) -> Option<Vec<(&'a str, Range<usize>)>> {
    fn text<'a>(item: &'a Item<'_>) -> Option<(&'a str, Range<usize>)> {
        match item.get_ref() {
            DeValue::String(text) => Some((text.as_ref(), item.span())),
            _ => None,
        }
    }
    match value.get_ref() {
        DeValue::Array(items) => items.iter().map(text).collect(),
        _ => text(value).map(|one| vec![one]),
    }
}

fn value_of(key: Key, value: &DeValue<'_>) -> Option<Value> {
    let kind = key.spec().kind;
    match value {
        DeValue::Integer(n) => {
            let n = u64::from_str_radix(n.as_str(), n.radix()).ok()?;
            kind.number(n)
        }
        DeValue::String(text) => kind.text(text),
        DeValue::Array(items) => {
            let items: Option<Vec<&str>> = items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => Some(text.as_ref()),
                    _ => None,
                })
                .collect();
            kind.texts(&items?)
        }
        _ => None,
    }
}

fn joined<T: ToString>(items: &[T]) -> Box<str> {
    let texts: Vec<_> = items.iter().map(ToString::to_string).collect();
    texts.join(", ").into()
}
