//! From a folder's files to a [`Template`], or to the list of what is wrong with it.
//!
//! Order: manifest, files that parts and entries name, sources (scanned by `scan.rs`, then compiled),
//! header fields, and what only the whole shows: unknown fields, unused files. Trying the template out
//! is `check.rs`.
//!
//! `sources.rs` compiles the sources and reads the files, `fields.rs` the header fields, `carriers.rs` what
//! is set for each carrier; `whole.rs` looks at the whole.

mod carriers;
mod fields;
mod sources;
mod whole;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use toml::Spanned;

use crate::compose::data::BUILT_IN;
use crate::compose::fault::Fault;
use crate::compose::hash::fnv1a;
use crate::compose::limits::{
    RECURSION_DEPTH_MAX, RENDER_FUEL_MAX, SOURCE_BYTES_MAX, TEMPLATE_BYTES_MAX, TEMPLATE_FILES_MAX,
};
use crate::compose::mailbox::Mailbox;
use crate::compose::manifest::{MANIFEST, Manifest, Missing, Unencodable};
use crate::compose::scan::{Origin, Uses};
use crate::compose::template::{Files, Html, Template, computer_profile};
use crate::compose::{filters, manifest, scan};
use sources::{is_html, steps_of};

impl Template {
    /// Compiles the template in `files`.
    ///
    /// # Errors
    /// Every fault found, in order of file and place.
    pub fn load(files: &Files) -> Result<Self, Vec<Fault>> {
        let size: usize = files.values().map(Vec::len).sum();
        if size > TEMPLATE_BYTES_MAX || files.len() > TEMPLATE_FILES_MAX {
            let text = format!(
                "the folder holds {} files of {size} bytes together; limits are {TEMPLATE_FILES_MAX} \
                 files and {TEMPLATE_BYTES_MAX} bytes",
                files.len()
            );
            return Err(vec![Fault::of_file(MANIFEST, text)]);
        }
        let source = match files.get(MANIFEST).map(|bytes| text_of(MANIFEST, bytes)) {
            Some(source) => source.map_err(|fault| vec![fault])?,
            None => return Err(vec![Fault::of_file(MANIFEST, "the file is missing")]),
        };
        let manifest = manifest::parse(&source).map_err(|fault| vec![fault])?;
        let mut loader = Loader::new(files, source.into(), manifest.missing);
        let template = loader.template(manifest);
        loader.check_whole();
        loader.faults.sort();
        loader.faults.dedup();
        match template {
            Some(template) if loader.faults.is_empty() => Ok(loader.finish(template)),
            _ => Err(loader.faults),
        }
    }
}

/// A text file's content with LF line ends and without a byte order mark.
fn text_of(file: &str, bytes: &[u8]) -> Result<String, Fault> {
    if bytes.len() > SOURCE_BYTES_MAX {
        let text = format!("{} bytes; the limit is {SOURCE_BYTES_MAX}", bytes.len());
        return Err(Fault::of_file(file, text));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        Fault::at(
            file,
            &good,
            good.len(),
            "not UTF-8; convert the file to UTF-8",
        )
    })?;
    Ok(text.trim_start_matches('\u{FEFF}').replace("\r\n", "\n"))
}

struct Loader<'f> {
    files: &'f Files,
    manifest_source: Arc<str>,
    faults: Vec<Fault>,
    env: Environment<'static>,
    origins: HashMap<String, Origin>,
    uses: BTreeMap<String, Uses>,
    used_files: BTreeSet<String>,
    /// Names of `cid:` references and the Content-ID they become.
    cids: BTreeMap<String, (usize, String)>,
    shown_images: BTreeSet<usize>,
    declared: Option<BTreeSet<String>>,
}

impl<'f> Loader<'f> {
    fn new(files: &'f Files, manifest_source: Arc<str>, missing: Missing) -> Self {
        let mut env = Environment::new();
        env.remove_global("debug");
        env.set_syntax(scan::syntax());
        env.set_fuel(Some(RENDER_FUEL_MAX));
        env.set_recursion_limit(RECURSION_DEPTH_MAX);
        env.set_undefined_behavior(match missing {
            Missing::Strict | Missing::Skip => UndefinedBehavior::Strict,
            Missing::Default => UndefinedBehavior::Chainable,
        });
        env.set_auto_escape_callback(|name| {
            if is_html(name) {
                AutoEscape::Html
            } else {
                AutoEscape::None
            }
        });
        env.set_formatter(filters::write_value);
        filters::install(&mut env);
        Self {
            files,
            manifest_source,
            faults: Vec::new(),
            env,
            origins: HashMap::new(),
            uses: BTreeMap::new(),
            used_files: BTreeSet::new(),
            cids: BTreeMap::new(),
            shown_images: BTreeSet::new(),
            declared: None,
        }
    }

    fn finish(self, mut template: Template) -> Template {
        let mut read = BTreeSet::new();
        for uses in self.uses.values() {
            read.extend(uses.names.iter().map(|(name, _)| name.clone()));
        }
        template.uses_built_in = read.iter().any(|name| BUILT_IN.contains(&name.as_str()));
        let known = self.known_names();
        read.retain(|name| !known.contains(name.as_str()));
        template.fields = read.into_iter().collect();
        template.env = self.env;
        template.origins = self.origins;
        template
    }

    fn template(&mut self, manifest: Manifest) -> Option<Template> {
        if manifest.fields.is_some() || !manifest.defaults.is_empty() {
            let fields = manifest
                .fields
                .iter()
                .flatten()
                .map(|f| f.get_ref().clone());
            self.declared = Some(fields.chain(manifest.defaults.keys().cloned()).collect());
        }
        let images = self.blobs(&manifest.inline, "inline/", true);
        let attachments = self.blobs(&manifest.attachment, "attachments/", false);
        let text = self.parts("text", |_, source, _| source);
        let has_attachments = !attachments.is_empty();
        let html = self.parts("html", |loader, source, name| Html {
            images: loader.images_of(name),
            source,
            steps: Vec::new(),
        });
        if text.common.is_none() && html.common.is_none() {
            let text = "neither a file `text` nor a file `html`: there is nothing to send";
            self.faults.push(Fault::of_file(MANIFEST, text));
        }
        let html = self.with_steps(html, has_attachments);
        let from = self.party("From", "from", &manifest.from)?;
        let mut parties = Vec::new();
        for (header, key, value) in [
            ("Sender", "sender", &manifest.sender),
            ("Reply-To", "reply_to", &manifest.reply_to),
        ] {
            parties.extend(
                value
                    .iter()
                    .filter_map(|value| self.party(header, key, value)),
            );
        }
        let return_path = manifest.return_path.as_ref();
        let return_path = return_path.and_then(|v| self.party("Return-Path", "return_path", v));
        let no_name = Spanned::new(0..0, String::new());
        let to_name = manifest.to_name.as_ref().unwrap_or(&no_name);
        let to_name = self.value("to_name", to_name);
        let subject = self.line("Subject", "subject", &manifest.subject, false);
        let (carriers, domains) = self.carriers(&manifest.carrier);
        let lines = self.lines(&manifest);
        let offset = self.offset(manifest.time_zone.as_ref());
        let message_id_domain = self.message_id_domain(&manifest);
        let text_steps = steps_of(false, false, has_attachments);
        Some(Template {
            version: self.version(),
            env: Environment::empty(),
            origins: HashMap::new(),
            defaults: Arc::new(values(&manifest.defaults)),
            sample: values(&manifest.sample),
            missing: manifest.missing,
            unencodable: manifest.unencodable.unwrap_or(Unencodable::Utf8),
            computer: computer_profile(manifest.charset),
            offset,
            uses_built_in: false,
            from,
            parties,
            return_path,
            to_name,
            subject,
            lines,
            message_id_domain,
            text,
            html,
            images,
            attachments,
            text_steps,
            carriers,
            domains,
            fields: Vec::new(),
        })
    }

    fn message_id_domain(&mut self, manifest: &Manifest) -> Option<String> {
        let domain = manifest.message_id_domain.as_ref()?;
        match Mailbox::parse(&format!("x@{}", domain.get_ref())) {
            Ok(mailbox) => Some(mailbox.domain().to_owned()),
            Err(error) => {
                self.fault_at(domain.span().start, error.to_string());
                None
            }
        }
    }

    fn version(&self) -> u64 {
        let pieces = self
            .files
            .iter()
            .flat_map(|(name, bytes)| [name.as_bytes(), bytes.as_slice()]);
        fnv1a(&pieces.collect::<Vec<_>>())
    }

    fn fault_at(&mut self, offset: usize, text: impl Into<String>) {
        let fault = Fault::at(MANIFEST, &self.manifest_source, offset, text);
        self.faults.push(fault);
    }
}

fn values(table: &BTreeMap<String, toml::Value>) -> HashMap<String, Value> {
    table
        .iter()
        .map(|(name, value)| (name.clone(), value_of(value)))
        .collect()
}

fn value_of(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::from(text.as_str()),
        toml::Value::Integer(number) => Value::from(*number),
        toml::Value::Float(number) => Value::from(*number),
        toml::Value::Boolean(flag) => Value::from(*flag),
        toml::Value::Datetime(date) => Value::from(date.to_string()),
        toml::Value::Array(items) => Value::from(items.iter().map(value_of).collect::<Vec<_>>()),
        toml::Value::Table(table) => Value::from_pairs(
            table
                .iter()
                .map(|(name, value)| (name.clone(), value_of(value))),
        ),
    }
}
