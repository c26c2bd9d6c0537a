//! Reads one table of a configuration file key by key, and gathers every fault.
//!
//! Each key is named once, where it is read, together with its default and bounds, and marked there
//! if it is read at the start only ([`Reader::at_start`]). What was asked
//! for is what is known: a key that nobody asked for is an error, and the same list is what
//! `docs/configuration.md` is tested against.

use std::fmt::{Debug, Display};
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::file_error::{FileError as ConfigError, nearest, position};
use crate::units::{format_duration_ms, format_size_bytes, parse_duration_ms, parse_size_bytes};

/// Elements of a list at most.
const LIST_ITEMS_MAX: usize = 4096;

/// One key as the documentation must show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDoc {
    /// The table as a heading shows it: `[server]`, `[[listen]]`.
    pub table: String,
    /// The key.
    pub key: &'static str,
    /// `duration`, `size`, `number`, `text`, `true or false`, …
    pub unit: &'static str,
    /// The default as one would write it, `required` or `none`.
    pub default: String,
    /// Least and greatest value, `–` if there is none.
    pub bounds: String,
    /// A change takes effect only at the next start.
    pub at_start: bool,
}

/// A key that is read at the start only, as `table.key`, and its value, to be compared.
pub(super) type AtStart = (String, String);

/// What one file is read into: faults and the keys known so far.
pub(super) struct Sink<'t> {
    pub(super) file: &'t str,
    pub(super) text: &'t str,
    pub(super) errors: Vec<ConfigError>,
    pub(super) keys: Vec<KeyDoc>,
    pub(super) at_start: Vec<AtStart>,
}

impl<'t> Sink<'t> {
    pub(super) const fn new(file: &'t str, text: &'t str) -> Self {
        Self {
            file,
            text,
            errors: Vec::new(),
            keys: Vec::new(),
            at_start: Vec::new(),
        }
    }

    pub(super) fn error(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        let (line, column) = position(self.text, span.start);
        let (file, message) = (self.file.to_owned(), message.into());
        self.errors.push(ConfigError {
            file,
            line,
            column,
            message,
            hint,
        });
    }

    /// The directory that relative paths start from: that of the configuration file.
    pub(super) fn base(&self) -> PathBuf {
        std::path::Path::new(self.file)
            .parent()
            .map_or_else(PathBuf::new, PathBuf::from)
    }
}

/// One table being read.
pub(super) struct Reader<'a, 't> {
    sink: &'a mut Sink<'t>,
    heading: String,
    table: Option<&'a DeTable<'t>>,
    span: Range<usize>,
    known: Vec<&'static str>,
}

impl<'a, 't> Reader<'a, 't> {
    /// Reads `table`, which stands at `span`; `None` if the file has no such table.
    pub(super) fn new(
        sink: &'a mut Sink<'t>,
        heading: impl Into<String>,
        table: Option<&'a DeTable<'t>>,
        span: Range<usize>,
    ) -> Self {
        Self {
            sink,
            heading: heading.into(),
            table,
            span,
            known: Vec::new(),
        }
    }

    /// Ends the table: keys nobody asked for are errors.
    pub(super) fn finish(self) {
        for (key, _) in self.table.into_iter().flatten() {
            let name: &str = key.get_ref();
            if !self.known.contains(&name) {
                let hint = match nearest(name, self.known.iter().copied()) {
                    Some(right) => format!("did you mean `{right}`?"),
                    None => format!("known keys: {}", self.known.join(", ")),
                };
                let message = format!("unknown key `{name}` in {}", self.heading);
                self.sink.error(key.span(), message, Some(hint));
            }
        }
    }

    /// Reads `key` by `read`, and marks it: whoever changes it must start the daemon anew.
    pub(super) fn at_start<T: Debug>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Self, &'static str) -> T,
    ) -> T {
        let value = read(self, key);
        if let Some(doc) = self.sink.keys.last_mut().filter(|doc| doc.key == key) {
            doc.at_start = true;
        }
        let table = self.heading.trim_matches(['[', ']']);
        let named = format!("{table}.{key}");
        self.sink.at_start.push((named, format!("{value:?}")));
        value
    }

    /// Adds a fault at the value of `key`, or at the table if the key is not there.
    pub(super) fn fault(&mut self, key: &str, message: impl Into<String>, hint: Option<String>) {
        let span = self
            .value(key)
            .map_or_else(|| self.span.clone(), Spanned::span);
        self.sink.error(span, message, hint);
    }

    /// Whether the file sets `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// Directory of the configuration file.
    pub(super) fn base(&self) -> PathBuf {
        self.sink.base()
    }

    pub(super) fn number<N>(
        &mut self,
        key: &'static str,
        default: N,
        bounds: RangeInclusive<N>,
    ) -> N
    where
        N: Copy + Display + TryFrom<i128> + Into<u64> + PartialOrd,
    {
        self.number_or(key, Some(default), default.to_string(), bounds)
            .unwrap_or(default)
    }

    /// A number whose default is not a number, such as one worked out at run time.
    pub(super) fn number_or<N>(
        &mut self,
        key: &'static str,
        default: Option<N>,
        default_text: String,
        bounds: RangeInclusive<N>,
    ) -> Option<N>
    where
        N: Copy + Display + TryFrom<i128> + Into<u64> + PartialOrd,
    {
        let between = format!("{} to {}", bounds.start(), bounds.end());
        self.know(key, "number", default_text, between.clone());
        let Some(value) = self.value(key) else {
            return default;
        };
        let span = value.span();
        let parsed = integer(value.get_ref()).and_then(|n| N::try_from(n).ok());
        if let Some(n) = parsed.filter(|n| bounds.contains(n)) {
            return Some(n);
        }
        let message = format!("`{key}` is {}", shown(value.get_ref()));
        self.sink.error(
            span,
            message,
            Some(format!("it must be a whole number, {between}")),
        );
        default
    }

    /// Milliseconds, written with a unit; without one only if the key's name ends in `_s` or `_ms`.
    pub(super) fn duration_ms(
        &mut self,
        key: &'static str,
        default_ms: u64,
        bounds: RangeInclusive<u64>,
    ) -> u64 {
        let between = format!(
            "{} to {}",
            format_duration_ms(*bounds.start()),
            format_duration_ms(*bounds.end())
        );
        self.know(
            key,
            "duration",
            format_duration_ms(default_ms),
            between.clone(),
        );
        let Some(value) = self.value(key) else {
            return default_ms;
        };
        let span = value.span();
        let plain = if key.ends_with("_ms") {
            Some(1)
        } else if key.ends_with("_s") {
            Some(1_000)
        } else {
            None
        };
        let parsed = match value.get_ref() {
            DeValue::String(text) => parse_duration_ms(text),
            other => integer(other)
                .zip(plain)
                .and_then(|(n, scale)| u64::try_from(n).ok()?.checked_mul(scale)),
        };
        if let Some(ms) = parsed.filter(|ms| bounds.contains(ms)) {
            return ms;
        }
        let message = format!("`{key}` is {}", shown(value.get_ref()));
        let hint = format!("it must be a duration such as \"30s\", \"5m\", \"4h\", {between}");
        self.sink.error(span, message, Some(hint));
        default_ms
    }

    /// Bytes, written with a unit, or as a number if the key's name has `bytes` in it.
    pub(super) fn bytes(
        &mut self,
        key: &'static str,
        default: u64,
        bounds: RangeInclusive<u64>,
    ) -> u64 {
        let between = format!(
            "{} to {}",
            format_size_bytes(*bounds.start()),
            format_size_bytes(*bounds.end())
        );
        self.know(key, "size", format_size_bytes(default), between.clone());
        let Some(value) = self.value(key) else {
            return default;
        };
        let span = value.span();
        let parsed = match value.get_ref() {
            DeValue::String(text) => parse_size_bytes(text),
            other if key.contains("bytes") => integer(other).and_then(|n| u64::try_from(n).ok()),
            _ => None,
        };
        if let Some(bytes) = parsed.filter(|bytes| bounds.contains(bytes)) {
            return bytes;
        }
        let message = format!("`{key}` is {}", shown(value.get_ref()));
        let hint = format!("it must be a size such as \"64KiB\" or \"10MiB\", {between}");
        self.sink.error(span, message, Some(hint));
        default
    }

    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        self.know(key, "true or false", default.to_string(), "–".into());
        let Some(value) = self.value(key) else {
            return default;
        };
        let span = value.span();
        if let DeValue::Boolean(on) = value.get_ref() {
            return *on;
        }
        let message = format!("`{key}` is {}", shown(value.get_ref()));
        self.sink.error(
            span,
            message,
            Some("write true or false, without quotes".into()),
        );
        default
    }

    /// One word out of `words`, whose first is the default.
    pub(super) fn word<T: Copy>(&mut self, key: &'static str, words: &[(&'static str, T)]) -> T {
        let names: Vec<&str> = words.iter().map(|w| w.0).collect();
        let quoted = |name: &&str| format!("\"{name}\"");
        let listed = names.iter().map(quoted).collect::<Vec<_>>().join(", ");
        self.know(key, "word", quoted(&names[0]), listed.clone());
        let Some(value) = self.value(key) else {
            return words[0].1;
        };
        let span = value.span();
        let given = if let DeValue::String(text) = value.get_ref() {
            Some(text.as_ref())
        } else {
            None
        };
        if let Some((_, found)) = words.iter().find(|(name, _)| Some(*name) == given) {
            return *found;
        }
        let message = format!("`{key}` is {}", shown(value.get_ref()));
        let hint = match given.and_then(|text| nearest(text, names)) {
            Some(right) => format!("did you mean \"{right}\"? It may be {listed}"),
            None => format!("it may be {listed}"),
        };
        self.sink.error(span, message, Some(hint));
        words[0].1
    }

    /// A text that `parse` turns into a value. `default` is used when the key is absent; `None`
    /// means that there is none, and with `required` that this is an error.
    pub(super) fn text<T>(
        &mut self,
        key: &'static str,
        unit: &'static str,
        default: TextDefault<'_>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let default_text = match default {
            TextDefault::Required => "required".to_owned(),
            TextDefault::Absent(what) => what.to_owned(),
            TextDefault::Text(text) => format!("\"{text}\""),
        };
        self.know(key, unit, default_text, "–".into());
        let Some(value) = self.value(key) else {
            return match default {
                TextDefault::Text(text) => parse(text).ok(),
                TextDefault::Absent(_) => None,
                TextDefault::Required => {
                    let message = format!("{} has no `{key}`", self.heading);
                    let hint = format!("add `{key} = \"…\"` ({unit})");
                    self.sink.error(self.span.clone(), message, Some(hint));
                    None
                }
            };
        };
        let span = value.span();
        let DeValue::String(text) = value.get_ref() else {
            let message = format!("`{key}` is {}", shown(value.get_ref()));
            self.sink.error(
                span,
                message,
                Some(format!("it must be text in quotes ({unit})")),
            );
            return None;
        };
        match parse(text) {
            Ok(parsed) => Some(parsed),
            Err(why) => {
                self.sink.error(span, format!("`{key}`: {why}"), None);
                None
            }
        }
    }

    /// A path; relative ones start from the directory of the configuration file.
    pub(super) fn path(&mut self, key: &'static str, default: TextDefault<'_>) -> Option<PathBuf> {
        let base = self.base();
        self.text(key, "path", default, |text| {
            if text.is_empty() || text.contains('\0') {
                return Err("the path is empty or has a NUL in it".into());
            }
            Ok(base.join(text))
        })
    }

    /// A list of texts, or one text for a list of one.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        unit: &'static str,
        default: &[&str],
        items_max: usize,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let quoted: Vec<_> = default.iter().map(|item| format!("\"{item}\"")).collect();
        let items_max = items_max.min(LIST_ITEMS_MAX);
        self.know(
            key,
            unit,
            format!("[{}]", quoted.join(", ")),
            format!("at most {items_max} items"),
        );
        let Some(value) = self.value(key) else {
            return default.iter().filter_map(|item| parse(item).ok()).collect();
        };
        let span = value.span();
        let items: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
            DeValue::String(_) => vec![value],
            DeValue::Array(items) => items.iter().collect(),
            other => {
                let message = format!("`{key}` is {}", shown(other));
                let hint = format!("it must be a list such as [\"…\", \"…\"] ({unit})");
                self.sink.error(span, message, Some(hint));
                return Vec::new();
            }
        };
        if items.len() > items_max {
            let message = format!("`{key}` has {} items", items.len());
            self.sink.error(
                span,
                message,
                Some(format!("it may have at most {items_max}")),
            );
            return Vec::new();
        }
        let mut out = Vec::with_capacity(items.len());
        for item in items {
            let parsed = match item.get_ref() {
                DeValue::String(text) => parse(text),
                other => Err(format!(
                    "an item is {}; it must be text in quotes ({unit})",
                    shown(other)
                )),
            };
            match parsed {
                Ok(parsed) => out.push(parsed),
                Err(why) => self
                    .sink
                    .error(item.span(), format!("`{key}`: {why}"), None),
            }
        }
        out
    }

    fn know(&mut self, key: &'static str, unit: &'static str, default: String, bounds: String) {
        self.known.push(key);
        let table = self.heading.clone();
        self.sink.keys.push(KeyDoc {
            table,
            key,
            unit,
            default,
            bounds,
            at_start: false,
        });
    }

    fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'t>>> {
        self.table?.get(key)
    }
}

/// What holds when a text is absent.
#[derive(Clone, Copy, Debug)]
pub(super) enum TextDefault<'d> {
    /// Its absence is an error.
    Required,
    /// Nothing; the text says for the documentation what then happens.
    Absent(&'d str),
    /// This text, as if it had been written.
    Text(&'d str),
}

fn integer(value: &DeValue<'_>) -> Option<i128> {
    let integer = value.as_integer()?;
    i128::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// The value as an error names it: short, with its type if that is the point.
fn shown(value: &DeValue<'_>) -> String {
    let text = match value {
        DeValue::String(text) => format!("\"{text}\""),
        DeValue::Integer(n) if n.radix() == 10 => n.as_str().to_owned(),
        DeValue::Boolean(on) => on.to_string(),
        DeValue::Float(x) => x.as_str().to_owned(),
        other => return format!("of type {}", other.type_str()),
    };
    if text.chars().count() > 60 {
        format!("{}…", text.chars().take(60).collect::<String>())
    } else {
        text
    }
}
