//! A template as it stands in memory: sources compiled, headers and files encoded, ready to be
//! composed any number of times. How it comes to be: `load/`; what is made of it: `message.rs`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, machinery};

use super::blob::{Blob, Step};
use super::fault::{ComposeError, Fault};
use super::limits::RENDER_FUEL_MAX;
use super::mailbox::{LocalStyle, Mailbox};
use super::manifest::{Missing, Unencodable};
use super::profile::{Carrier, Profile, SJIS, UTF8};
use super::scan::Origin;

/// A template's files by path within its folder, `/` between names.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Text that may hold template language.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// None in it: goes out as it is.
    Fixed(String),
    /// Compiled in the environment under this name.
    Live(String),
}

/// One header field.
#[derive(Debug)]
pub(super) struct Line {
    pub name: String,
    pub source: Source,
    /// ASCII with a syntax of its own, never encoded words.
    pub structured: bool,
    /// The encoded field per profile index, if the source is fixed.
    pub fixed: Vec<Vec<u8>>,
}

/// A header field with an address.
#[derive(Debug)]
pub(super) struct Party {
    pub header: &'static str,
    pub display: Source,
    pub address: Source,
    /// The address, if its source is fixed.
    pub mailbox: Option<Mailbox>,
}

/// What the template says for one carrier.
#[derive(Debug, Default)]
pub(super) struct CarrierSetting {
    /// Set to legacy, so: how.
    pub profile: Option<&'static Profile>,
    pub local_style: LocalStyle,
    pub strict_tags: bool,
    pub unencodable: Option<Unencodable>,
    pub subject: Option<Line>,
}

/// HTML and the inline images it shows.
#[derive(Debug)]
pub(super) struct Html {
    pub source: Source,
    /// Positions in `Template::images`.
    pub images: Vec<usize>,
    /// What to write, per profile index.
    pub steps: Vec<Vec<Step>>,
}

/// Which way of writing a message takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// By the recipient's domain and the template's settings.
    #[default]
    Auto,
    /// UTF-8 with Unicode emoji whatever the template says.
    Utf8,
    /// As this carrier's legacy handsets want it, if it has any.
    Legacy(Carrier),
}

/// A template, compiled.
#[derive(Debug)]
pub struct Template {
    pub(super) version: u64,
    pub(super) env: Environment<'static>,
    pub(super) origins: HashMap<String, Origin>,
    pub(super) defaults: Arc<HashMap<String, Value>>,
    pub(super) sample: HashMap<String, Value>,
    pub(super) missing: Missing,
    pub(super) unencodable: Unencodable,
    pub(super) computer: &'static Profile,
    pub(super) offset: jiff::tz::Offset,
    pub(super) uses_built_in: bool,
    pub(super) from: Party,
    pub(super) parties: Vec<Party>,
    pub(super) return_path: Option<Party>,
    pub(super) to_name: Source,
    pub(super) subject: Line,
    pub(super) lines: Vec<Line>,
    pub(super) message_id_domain: Option<String>,
    pub(super) text: Variants<Source>,
    pub(super) html: Variants<Html>,
    pub(super) images: Vec<Blob>,
    pub(super) attachments: Vec<Blob>,
    pub(super) text_steps: Vec<Vec<Step>>,
    pub(super) carriers: Vec<CarrierSetting>,
    pub(super) domains: Vec<(String, Carrier)>,
    pub(super) fields: Vec<String>,
}

/// A part for everyone, and others for some carriers.
#[derive(Debug)]
pub(super) struct Variants<T> {
    pub common: Option<T>,
    pub by_carrier: Vec<(Carrier, T)>,
}

impl<T> Variants<T> {
    pub(super) fn of(&self, carrier: Option<Carrier>) -> Option<&T> {
        let own = self
            .by_carrier
            .iter()
            .find(|(c, _)| Some(*c) == carrier)
            .map(|(_, part)| part);
        own.or(self.common.as_ref())
    }
}

impl Template {
    /// A hash of all its files: a queue that keeps messages as (version, data) sees a change.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The fields its sources read, sorted.
    pub fn fields(&self) -> &[String] {
        &self.fields
    }

    /// Values the template's author gave for trying it out (`[sample]`).
    pub fn sample(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.sample
            .iter()
            .map(|(name, value)| (name.as_str(), value))
    }

    /// The carrier of a recipient domain, the template's additions first.
    pub fn carrier_of(&self, domain: &str) -> Option<Carrier> {
        let own = self
            .domains
            .iter()
            .find(|(name, _)| name == domain)
            .map(|&(_, c)| c);
        own.or_else(|| Carrier::of_domain(domain))
    }

    pub(super) fn setting(&self, carrier: Option<Carrier>) -> Option<&CarrierSetting> {
        self.carriers.get(carrier? as usize)
    }

    /// The carrier whose variants apply, and how the message is written.
    pub(super) fn profile(
        &self,
        choice: Choice,
        domain: &str,
    ) -> (Option<Carrier>, &'static Profile) {
        let carrier = self.carrier_of(domain);
        match choice {
            Choice::Utf8 => (carrier, &UTF8),
            Choice::Legacy(forced) => {
                let set = self.setting(Some(forced)).and_then(|s| s.profile);
                (
                    Some(forced),
                    set.or_else(|| forced.legacy(false)).unwrap_or(&UTF8),
                )
            }
            Choice::Auto => match (carrier, self.setting(carrier).and_then(|s| s.profile)) {
                (_, Some(profile)) => (carrier, profile),
                (Some(_), None) => (carrier, &UTF8),
                (None, None) => (None, self.computer),
            },
        }
    }

    /// Renders `source` onto `out`.
    pub(super) fn render(
        &self,
        source: &Source,
        root: &Value,
        part: &str,
        bytes_max: usize,
        out: &mut String,
    ) -> Result<(), ComposeError> {
        let start = out.len();
        match source {
            Source::Fixed(text) => out.push_str(text),
            Source::Live(name) => {
                let template = self.env.get_template(name).map_err(|e| self.error(&e))?;
                let compiled = machinery::get_compiled_template(&template);
                let mut output = machinery::make_string_output(out);
                // Straight into the caller's buffer: `Template::render` would make a string a part.
                machinery::eval(
                    &self.env,
                    &compiled.instructions,
                    root.clone(),
                    &compiled.blocks,
                    &mut output,
                    compiled.initial_auto_escape.clone(),
                )
                .map_err(|e| self.error(&e))?;
            }
        }
        if out.len() - start > bytes_max {
            return Err(ComposeError::TooLarge {
                part: part.to_owned(),
                bytes_max,
            });
        }
        Ok(())
    }

    fn error(&self, error: &Error) -> ComposeError {
        let at = error.range().map(|range| range.start);
        let (origin, snippet) = match error.name().and_then(|name| self.origins.get(name)) {
            Some(origin) => {
                let range = error.range().unwrap_or(0..0);
                let (from, to) = (origin.offset + range.start, origin.offset + range.end);
                (Some(origin), origin.source.get(from..to).unwrap_or(""))
            }
            None => (None, ""),
        };
        let place = |text: String| match (origin, at, error.line()) {
            (Some(origin), Some(at), _) => origin.fault(at, text),
            (Some(origin), None, line) => {
                let mut fault = origin.fault(0, text);
                fault.line += line.unwrap_or(1) - 1;
                fault
            }
            _ => Fault::of_file(error.name().unwrap_or("template"), text),
        };
        let detail = error
            .detail()
            .map_or_else(|| error.kind().to_string(), str::to_owned);
        match error.kind() {
            ErrorKind::UndefinedError => {
                let fault = place(format!("the data has no value for `{snippet}`"));
                match self.missing {
                    Missing::Skip => ComposeError::Skipped(fault),
                    Missing::Strict | Missing::Default => ComposeError::MissingField(fault),
                }
            }
            ErrorKind::OutOfFuel => {
                let text = format!(
                    "costs more than {RENDER_FUEL_MAX} steps; is there a loop without end?"
                );
                ComposeError::Unbounded(place(text))
            }
            _ if detail.contains("recursion limit") => ComposeError::Unbounded(place(
                "includes, macros or loops nest too deeply".to_owned(),
            )),
            _ => {
                let source = std::error::Error::source(error).map(|s| format!(": {s}"));
                ComposeError::Render(place(format!("{detail}{}", source.unwrap_or_default())))
            }
        }
    }

    /// What to do with characters `profile` lacks.
    pub(super) fn unencodable(&self, carrier: Option<Carrier>, profile: &Profile) -> Unencodable {
        if profile.decomail.is_some() {
            let own = self.setting(carrier).and_then(|s| s.unencodable);
            return own.unwrap_or(Unencodable::Substitute);
        }
        self.unencodable
    }
}

pub(super) const fn computer_profile(charset: super::manifest::CharsetName) -> &'static Profile {
    use super::manifest::CharsetName;
    match charset {
        CharsetName::Utf8 => &UTF8,
        CharsetName::Jis => &super::profile::JIS,
        CharsetName::Sjis => &SJIS,
    }
}
