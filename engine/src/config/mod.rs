//! Configuration: TOML text in, checked values out.
//!
//! [`Config::parse`] reads one file and gathers every fault with line and column. A file here for
//! each table: its keys, their defaults and bounds, and whether a change needs a restart, each named
//! where it is read ([`reader`]). A default that a machine has too is taken from the machine. What an
//! operator needs is in `docs/configuration.md`, which a test holds against [`Config::keys`].
//! [`crate::settings`] makes of it what each part of the relay is told; nothing else in the engine
//! knows this module. Nothing here touches a file: whether a path can be opened is found out by who
//! opens it.

mod control;
mod counters;
mod delivery;
mod dns;
mod key;
mod limits;
mod listen;
mod log;
mod policy;
mod queue;
mod reader;
mod route;
mod server;

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use crate::file_error::FileError as ConfigError;
pub use control::Control;
pub use counters::Counters;
pub use delivery::{Delivery, Timeouts};
pub use dns::Dns;
pub use key::{Key, KeySource};
pub use limits::Limits;
pub use listen::Listen;
pub use log::Log;
pub use policy::PolicyTable;
pub use queue::Queue;
pub use reader::KeyDoc;
pub use route::Route;
pub use server::Server;

use reader::{Reader, Sink};

use crate::limits::{LISTENERS_MAX, ROUTES_MAX};
use crate::policy::Row;
use crate::queue::record::RECORD_BYTES_MAX;
use crate::queue::record::message::{ADDRESS_BYTES_MAX, DOMAIN_BYTES_MAX};
use crate::units::format_size_bytes;

const S: u64 = 1_000;
const M: u64 = 60 * S;
const H: u64 = 60 * M;
const D: u64 = 24 * H;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Everything one configuration file says, with defaults for what it leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[server]`
    pub server: Server,
    /// `[key]`
    pub key: Key,
    /// `[[listen]]`, at least one.
    pub listen: Vec<Listen>,
    /// `[control]`
    pub control: Control,
    /// `[dns]`
    pub dns: Dns,
    /// `[[route]]`, first match wins.
    pub routes: Vec<Route>,
    /// `[limits]`
    pub limits: Limits,
    /// `[delivery]`
    pub delivery: Delivery,
    /// `[policy]`
    pub policy: PolicyTable,
    /// Rows of the file that `[policy]` names; [`Self::load_policy`] reads it.
    pub policy_rows: Vec<Row>,
    /// Text of the rules that `[policy]` names; [`Self::load_policy`] reads it, and
    /// [`crate::settings::reply_rules`] makes rules of it.
    pub policy_rules: String,
    /// `[queue]`
    pub queue: Queue,
    /// `[log]`
    pub log: Log,
    /// `[counters]`
    pub counters: Counters,
    /// The values of the keys that are read at the start only.
    at_start: Vec<reader::AtStart>,
}

/// The tables in the order of the documentation; `true` for those that may be repeated.
const TABLES: [(&str, bool); 12] = [
    ("server", false),
    ("key", false),
    ("listen", true),
    ("control", false),
    ("dns", false),
    ("route", true),
    ("limits", false),
    ("delivery", false),
    ("policy", false),
    ("queue", false),
    ("log", false),
    ("counters", false),
];

impl Config {
    /// Reads a whole file. `file_name` is used in errors, and its directory for relative paths.
    ///
    /// # Errors
    /// Every fault found, in the order of the file; never an empty list.
    pub fn parse(file_name: &str, text: &str) -> Result<Self, Vec<ConfigError>> {
        let mut sink = Sink::new(file_name, text);
        let (root, syntax) = DeTable::parse_recoverable(text);
        for fault in syntax {
            let message = fault.message().trim().replace('\n', "; ");
            sink.error(fault.span().unwrap_or(0..0), message, None);
        }
        if !sink.errors.is_empty() {
            // What a half-read file seems to lack or to hold too much of would only mislead.
            return Err(in_file_order(sink.errors));
        }
        let config = Self::read(&mut sink, root.get_ref());
        match config {
            Some(config) if sink.errors.is_empty() => Ok(config),
            _ => Err(in_file_order(sink.errors)),
        }
    }

    /// Takes in the files that `[policy]` names, which `read` gives the texts of.
    ///
    /// # Errors
    /// Every fault of the policy file, or that one of them cannot be read, one a line.
    pub fn load_policy(
        &mut self,
        read: impl Fn(&Path) -> Result<String, String>,
    ) -> Result<(), Vec<String>> {
        let text_of = |file: &Path| {
            let name = file.display();
            read(file).map_err(|why| vec![format!("cannot read {name}: {why}")])
        };
        if let Some(file) = &self.policy.file {
            self.policy_rows = Row::parse_file(&file.display().to_string(), &text_of(file)?)
                .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        }
        if let Some(file) = &self.policy.rules {
            self.policy_rules = text_of(file)?;
        }
        Ok(())
    }

    /// Every key there is, for the documentation.
    pub fn keys() -> Vec<KeyDoc> {
        let mut sink = Sink::new("", "");
        Self::read(&mut sink, &DeTable::new());
        // The repeatable tables are absent from an empty file, so they are read once for their
        // keys.
        listen::read(&mut Reader::new(&mut sink, "[[listen]]", None, 0..0));
        route::read(&mut Reader::new(&mut sink, "[[route]]", None, 0..0));
        let order = |key: &KeyDoc| {
            let name = key.table.trim_matches(['[', ']']);
            TABLES.iter().position(|(table, _)| *table == name)
        };
        sink.keys.sort_by_key(order);
        sink.keys
    }

    /// What `new` changes that takes effect only at the next start, as `table.key`; empty if a reload
    /// does.
    pub fn needs_restart(&self, new: &Self) -> Vec<String> {
        let both = self.at_start.iter().zip(&new.at_start);
        both.filter(|(old, new)| old != new)
            .map(|((key, _), _)| key.clone())
            .collect()
    }

    /// What holds after `new` was reloaded: what waits for the next start goes on waiting, so that the
    /// reload after this one says so again.
    #[must_use]
    pub fn reloaded(&self, new: Self) -> Self {
        Self {
            at_start: self.at_start.clone(),
            ..new
        }
    }

    /// What is set but has no effect in this version, as sentences for the operator.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(https) = self.control.https {
            warnings.push(format!(
                "control.https = \"{https}\" is not served by this version; the Unix socket {} is",
                self.control.socket.display()
            ));
        }
        for listen in &self.listen {
            if let Some(net) = listen.relay_from.iter().find(|net| net.is_everyone()) {
                warnings.push(format!(
                    "the listener {} has relay_from = \"{net}\": anyone may send anything \
                     through this relay",
                    listen.address
                ));
            }
        }
        for listen in self
            .listen
            .iter()
            .filter(|listen| listen.relay_from.is_empty())
        {
            warnings.push(format!(
                "the listener {} has no relay_from, so it refuses every recipient",
                listen.address
            ));
        }
        warnings
    }

    /// `None` only if a required value is absent or wrong, which then is among the errors.
    fn read<'t>(sink: &mut Sink<'t>, root: &DeTable<'t>) -> Option<Self> {
        for (key, value) in root {
            let name: &str = key.get_ref();
            let Some((_, repeated)) = TABLES.iter().find(|(table, _)| *table == name) else {
                let hint = match crate::file_error::nearest(name, TABLES.iter().map(|t| t.0)) {
                    Some(right) => format!("did you mean {}?", heading(right)),
                    None => "see docs/configuration.md for the tables there are".to_owned(),
                };
                sink.error(key.span(), format!("unknown table `{name}`"), Some(hint));
                continue;
            };
            let form_is_right = match value.get_ref() {
                DeValue::Table(_) => !repeated,
                DeValue::Array(items) => {
                    *repeated && items.iter().all(|item| item.get_ref().is_table())
                }
                _ => false,
            };
            if !form_is_right {
                let message = format!("`{name}` must be written as {}", heading(name));
                sink.error(key.span(), message, None);
            }
        }
        let server = one(sink, root, "server", server::read);
        let key = one(sink, root, "key", key::read);
        let listen = many(sink, root, "listen", LISTENERS_MAX, listen::read);
        let control = one(sink, root, "control", control::read);
        let dns = one(sink, root, "dns", dns::read);
        let routes = many(sink, root, "route", ROUTES_MAX, route::read);
        let limits = one(sink, root, "limits", limits::read);
        let delivery = one(sink, root, "delivery", delivery::read);
        let policy = one(sink, root, "policy", policy::read);
        let queue = one(sink, root, "queue", queue::read);
        let log = one(sink, root, "log", log::read);
        let counters = one(sink, root, "counters", counters::read);
        if !root.contains_key("listen") {
            sink.error(
                0..0,
                "no [[listen]] table: nothing could be accepted",
                Some("add one with `address = \"127.0.0.1:25\"`".into()),
            );
        }
        check_listeners(sink, root, &listen);
        check_sizes(sink, root, &limits, &queue);
        Some(Self {
            server: server?,
            key: key?,
            listen,
            control,
            dns,
            routes,
            limits,
            delivery,
            policy,
            policy_rows: Vec::new(),
            policy_rules: String::new(),
            queue,
            log,
            counters,
            at_start: std::mem::take(&mut sink.at_start),
        })
    }
}

fn heading(table: &str) -> String {
    match TABLES.iter().find(|(name, _)| *name == table) {
        Some((_, true)) => format!("[[{table}]]"),
        _ => format!("[{table}]"),
    }
}

fn in_file_order(mut errors: Vec<ConfigError>) -> Vec<ConfigError> {
    errors.sort_by_key(|error| (error.line, error.column));
    errors
}

fn one<'t, T>(
    sink: &mut Sink<'t>,
    root: &DeTable<'t>,
    name: &'static str,
    read: impl Fn(&mut Reader<'_, '_>) -> T,
) -> T {
    let value = root.get(name);
    let span = value.map_or(0..0, Spanned::span);
    let table = value.and_then(|value| value.get_ref().as_table());
    let mut reader = Reader::new(sink, format!("[{name}]"), table, span);
    let section = read(&mut reader);
    reader.finish();
    section
}

fn many<'t, T>(
    sink: &mut Sink<'t>,
    root: &DeTable<'t>,
    name: &'static str,
    tables_max: usize,
    read: impl Fn(&mut Reader<'_, '_>) -> Option<T>,
) -> Vec<T> {
    let mut out = Vec::new();
    let Some(items) = root.get(name).and_then(|value| value.get_ref().as_array()) else {
        return out;
    };
    for (index, item) in items.iter().enumerate() {
        if index == tables_max {
            let message = format!("more than {tables_max} [[{name}]] tables");
            sink.error(item.span(), message, None);
            break;
        }
        let Some(table) = item.get_ref().as_table() else {
            continue;
        };
        let mut reader = Reader::new(sink, format!("[[{name}]]"), Some(table), item.span());
        out.extend(read(&mut reader));
        reader.finish();
    }
    out
}

fn check_listeners(sink: &mut Sink<'_>, root: &DeTable<'_>, listen: &[Listen]) {
    for (index, one) in listen.iter().enumerate() {
        if listen[..index]
            .iter()
            .any(|other| other.address == one.address)
        {
            let span = root.get("listen").map_or(0..0, Spanned::span);
            let message = format!("two [[listen]] tables have the address {}", one.address);
            sink.error(span, message, Some("remove one of them".into()));
        }
    }
}

/// A message with its envelope must fit one segment.
fn check_sizes(sink: &mut Sink<'_>, root: &DeTable<'_>, limits: &Limits, queue: &Queue) {
    // Each recipient with a domain of its own, the other texts of the envelope, and the frame
    // around it all.
    let per_recipient = (ADDRESS_BYTES_MAX + DOMAIN_BYTES_MAX + 8) as u64;
    let around = (3 << 20).min(u64::from(limits.recipients_max) * per_recipient) + (64 << 10);
    let needed = (limits.message_bytes_max + around).min(RECORD_BYTES_MAX as u64 + (64 << 10));
    if needed > queue.segment_bytes {
        let span_of = |table: &str, key: &str| {
            let table = root.get(table)?.get_ref().as_table()?;
            table.get(key).map(Spanned::span)
        };
        let span = span_of("limits", "message_bytes_max")
            .or_else(|| span_of("queue", "segment_bytes"))
            .or_else(|| span_of("limits", "recipients_max"));
        sink.error(
            span.unwrap_or(0..0),
            format!(
                "a message of limits.message_bytes_max ({}) does not fit a segment of \
                 queue.segment_bytes ({})",
                format_size_bytes(limits.message_bytes_max),
                format_size_bytes(queue.segment_bytes)
            ),
            Some(format!(
                "set segment_bytes to at least \"{}MiB\" or lower message_bytes_max",
                needed.div_ceil(1 << 20)
            )),
        );
    }
}

#[cfg(test)]
mod tests;
