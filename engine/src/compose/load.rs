//! From a folder's files to a [`Template`], or to the list of what is wrong with it.
//!
//! Order: manifest, files that parts and entries name, sources (scanned by `scan.rs`, then compiled),
//! header fields, and what only the whole shows: unknown fields, unused files. Trying the template out
//! is `check.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use toml::Spanned;

use super::blob::{self, Blob};
use super::data::BUILT_IN;
use super::fault::Fault;
use super::limits::{
    RECURSION_DEPTH_MAX, RENDER_FUEL_MAX, SOURCE_BYTES_MAX, TEMPLATE_BYTES_MAX, TEMPLATE_FILES_MAX,
};
use super::mailbox::{LocalStyle, Mailbox, split_named};
use super::manifest::{
    self, CarrierEntry, CharsetName, FileEntry, LocalPart, MANIFEST, Manifest, Missing, Send, Tags,
    Unencodable,
};
use super::message::{fnv1a, is_control, write_line};
use super::profile::{Carrier, Profile, Tree};
use super::scan::{self, Origin, Place, Uses};
use super::template::{
    CarrierSetting, Files, Html, Line, Party, Source, Template, Variants, computer_profile,
};
use super::{filters, html};

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
        let message_id_domain = manifest.message_id_domain.as_ref().and_then(|domain| {
            match Mailbox::parse(&format!("x@{}", domain.get_ref())) {
                Ok(mailbox) => Some(mailbox.domain().to_owned()),
                Err(error) => {
                    self.fault_at(domain.span().start, error.to_string());
                    None
                }
            }
        });
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

    /// Registers `source` under `name`, if it holds template language.
    fn compile(&mut self, name: &str, source: String, origin: Origin) -> Source {
        if !["{{", "{%", "{#"].iter().any(|open| source.contains(open)) {
            return Source::Fixed(source);
        }
        let mut uses = scan::uses(&source, &origin, &self.env);
        self.faults.append(&mut uses.faults);
        let files: Vec<Place> = uses.files.clone();
        self.uses.insert(name.to_owned(), uses);
        self.origins.insert(name.to_owned(), origin.clone());
        // The scan has reported what is wrong with it, with a place.
        let _ = self.env.add_template_owned(name.to_owned(), source);
        for (file, offset) in files {
            self.include(name, &file, &origin, offset);
        }
        Source::Live(name.to_owned())
    }

    fn include(&mut self, from: &str, file: &str, origin: &Origin, offset: usize) {
        let Some(bytes) = self.files.get(file) else {
            return self
                .faults
                .push(origin.fault(offset, format!("there is no file {file:?}")));
        };
        if !file.ends_with(".html") && !file.ends_with(".txt") {
            let text =
                "an included file is named *.html or *.txt, which says whether it is escaped";
            return self.faults.push(origin.fault(offset, text));
        }
        if is_html(from) != is_html(file) {
            let text = format!(
                "{file:?} is escaped otherwise than {from:?}: include .html in HTML only, .txt elsewhere"
            );
            return self.faults.push(origin.fault(offset, text));
        }
        if !self.used_files.insert(file.to_owned()) {
            if self.reaches(file, from, &mut BTreeSet::new()) {
                self.faults
                    .push(origin.fault(offset, format!("{file:?} includes itself")));
            }
            return;
        }
        match text_of(file, bytes) {
            Ok(text) => {
                let origin = Origin {
                    file: file.to_owned(),
                    source: text.clone().into(),
                    offset: 0,
                };
                let text = if is_html(file) {
                    self.resolve_cids(&text, &origin)
                } else {
                    text
                };
                if let Source::Fixed(text) = self.compile(file, text, origin) {
                    // Still looked up by name.
                    let _ = self.env.add_template_owned(file.to_owned(), text);
                }
            }
            Err(fault) => self.faults.push(fault),
        }
    }

    /// `from` includes `to`, directly or through others.
    fn reaches(&self, from: &str, to: &str, seen: &mut BTreeSet<String>) -> bool {
        if from == to {
            return true;
        }
        if !seen.insert(from.to_owned()) {
            return false;
        }
        let files = self.uses.get(from).map_or(&[][..], |uses| &uses.files);
        files.iter().any(|(file, _)| self.reaches(file, to, seen))
    }

    /// The part `kind` for everyone and for single carriers.
    fn parts<T>(&mut self, kind: &str, make: impl Fn(&mut Self, Source, &str) -> T) -> Variants<T> {
        let mut parts = Variants {
            common: None,
            by_carrier: Vec::new(),
        };
        for (file, bytes) in self.files {
            let Some(carrier) = self.part_of(file, kind) else {
                continue;
            };
            self.used_files.insert(file.clone());
            let text = match text_of(file, bytes) {
                Ok(text) => text,
                Err(fault) => {
                    self.faults.push(fault);
                    continue;
                }
            };
            let origin = Origin {
                file: file.clone(),
                source: text.clone().into(),
                offset: 0,
            };
            let text = if kind == "html" {
                self.resolve_cids(&text, &origin)
            } else {
                text
            };
            let source = self.compile(file, text, origin);
            let part = make(self, source, file);
            match carrier {
                Some(carrier) => parts.by_carrier.push((carrier, part)),
                None if parts.common.is_some() => {
                    let text = format!("there are two files for the part {kind}; keep one");
                    self.faults.push(Fault::of_file(file, text));
                }
                None => parts.common = Some(part),
            }
        }
        parts
    }

    /// `text`, `text.txt`, `text.docomo`, `text.docomo.txt`, and so with html.
    fn part_of(&mut self, file: &str, kind: &str) -> Option<Option<Carrier>> {
        let extension = if kind == "html" { ".html" } else { ".txt" };
        let rest = file
            .strip_suffix(extension)
            .unwrap_or(file)
            .strip_prefix(kind)?;
        if rest.is_empty() {
            return Some(None);
        }
        let carrier = rest.strip_prefix('.')?;
        if let Some(carrier) = Carrier::by_name(carrier) {
            return Some(Some(carrier));
        }
        if !carrier.contains(['/', '.']) {
            let known: Vec<_> = Carrier::ALL.iter().map(|c| c.name()).collect();
            let text = format!("{carrier:?} is no carrier; known are {}", known.join(", "));
            self.faults.push(Fault::of_file(file, text));
            self.used_files.insert(file.to_owned());
        }
        None
    }

    /// Puts the Content-IDs of inline images where the author wrote `cid:` and a name.
    fn resolve_cids(&mut self, source: &str, origin: &Origin) -> String {
        let mut out = String::with_capacity(source.len());
        let mut rest = source;
        while let Some(at) = rest.find("cid:") {
            let (before, reference) = rest.split_at(at + 4);
            out.push_str(before);
            let end = reference
                .find(|c: char| {
                    c.is_whitespace() || matches!(c, '"' | '\'' | '>' | ')' | '{' | '<')
                })
                .unwrap_or(reference.len());
            let name = &reference[..end];
            rest = &reference[end..];
            match self.cids.get(name) {
                Some((_, id)) => out.push_str(id),
                None => {
                    let offset = source.len() - reference.len();
                    let text = format!(
                        "there is no inline image called {name:?}; put it into inline/ or list it under [[inline]]"
                    );
                    self.faults.push(origin.fault(offset, text));
                }
            }
        }
        out.push_str(rest);
        out
    }

    /// Inline images that the source `name` shows, its includes with it.
    fn images_of(&mut self, name: &str) -> Vec<usize> {
        let mut sources = vec![name.to_owned()];
        let mut seen = BTreeSet::new();
        let mut images = BTreeSet::new();
        while let Some(source) = sources.pop() {
            if !seen.insert(source.clone()) {
                continue;
            }
            let text = self.files.get(&source).map_or(&b""[..], Vec::as_slice);
            let text = String::from_utf8_lossy(text);
            for (cid, (at, _)) in &self.cids {
                if text.contains(&format!("cid:{cid}")) {
                    images.insert(*at);
                }
            }
            let files = self.uses.get(&source).map_or(&[][..], |uses| &uses.files);
            sources.extend(files.iter().map(|(file, _)| file.clone()));
        }
        self.shown_images.extend(&images);
        images.into_iter().collect()
    }

    fn with_steps(&self, html: Variants<Html>, attachments: bool) -> Variants<Html> {
        let with = |html: Html| Html {
            steps: steps_of(true, !html.images.is_empty(), attachments),
            ..html
        };
        Variants {
            common: html.common.map(with),
            by_carrier: html
                .by_carrier
                .into_iter()
                .map(|(c, html)| (c, with(html)))
                .collect(),
        }
    }

    /// Files listed in the manifest, then the rest of `folder`.
    fn blobs(&mut self, entries: &[FileEntry], folder: &str, inline: bool) -> Vec<Blob> {
        let mut blobs = Vec::new();
        for entry in entries {
            let file = entry.file.get_ref();
            if !self.files.contains_key(file) {
                self.fault_at(
                    entry.file.span().start,
                    format!("there is no file {file:?}"),
                );
                continue;
            }
            if entry.cid.is_some() && !inline {
                self.fault_at(
                    entry.file.span().start,
                    "an attachment has no cid; list it under [[inline]]",
                );
            }
            let base = file.rsplit('/').next().unwrap_or(file);
            let name = entry.name.as_ref().map_or(base, |name| name.get_ref());
            let media_type = match &entry.media_type {
                Some(media_type) if !is_media_type(media_type.get_ref()) => {
                    self.fault_at(
                        media_type.span().start,
                        "not a media type such as image/gif",
                    );
                    continue;
                }
                Some(media_type) => media_type.get_ref(),
                None => blob::media_type_of(file),
            };
            let cid = entry.cid.as_ref().map_or(base, |cid| cid.get_ref());
            self.blob(&mut blobs, file, name, media_type, inline.then_some(cid));
        }
        for file in self.files.keys().filter(|file| file.starts_with(folder)) {
            let base = &file[folder.len()..];
            if !self.used_files.contains(file) && !base.starts_with('.') {
                self.blob(
                    &mut blobs,
                    file,
                    base,
                    blob::media_type_of(file),
                    inline.then_some(base),
                );
            }
        }
        blobs
    }

    fn blob(
        &mut self,
        blobs: &mut Vec<Blob>,
        file: &str,
        name: &str,
        media_type: &str,
        cid: Option<&str>,
    ) {
        self.used_files.insert(file.to_owned());
        if name.is_empty() || name.len() > 255 || name.chars().any(is_control) {
            let text =
                "the file's name in the message must be 1 to 255 bytes without control characters";
            return self.faults.push(Fault::of_file(file, text));
        }
        let Some(content) = self.files.get(file) else {
            return;
        };
        let number = blobs.len() + 1;
        if let Some(cid) = cid {
            let id = blob::content_id(content, number);
            if self
                .cids
                .insert(cid.to_owned(), (blobs.len(), id))
                .is_some()
            {
                let text = format!("two inline images are called {cid:?}");
                self.faults.push(Fault::of_file(file, text));
            }
        }
        blobs.push(Blob::new(
            file,
            content,
            name,
            media_type,
            cid.map(|cid| (cid, number)),
        ));
    }

    /// A manifest value that may hold template language.
    fn value(&mut self, key: &str, value: &Spanned<String>) -> Source {
        let start = value.span().start;
        let quoted = &self.manifest_source[start..];
        let quotes = if quoted.starts_with("\"\"\"") || quoted.starts_with("'''") {
            3
        } else {
            1
        };
        let source = Arc::clone(&self.manifest_source);
        let origin = Origin {
            file: MANIFEST.to_owned(),
            source,
            offset: start + quotes,
        };
        if value.get_ref().chars().any(is_control) {
            let text = format!("{key}: a line break or control character in a header's value");
            self.fault_at(start, text);
        }
        self.compile(
            &format!("{MANIFEST}#{key}"),
            value.get_ref().clone(),
            origin,
        )
    }

    fn line(&mut self, name: &str, key: &str, value: &Spanned<String>, structured: bool) -> Line {
        let source = self.value(key, value);
        let mut line = Line {
            name: name.to_owned(),
            source,
            structured,
            fixed: Vec::new(),
        };
        if let Source::Fixed(text) = &line.source {
            let mut fixed = Vec::new();
            for profile in Profile::ALL {
                let mut field = Vec::new();
                match write_line(&line, text, profile, &mut field) {
                    // What the set lacks must be noticed per message, so it is encoded per message.
                    Ok(lost) if lost.count == 0 => fixed.push(field),
                    Ok(_) => {
                        fixed.clear();
                        break;
                    }
                    Err(error) => {
                        self.fault_at(value.span().start, error.to_string());
                        break;
                    }
                }
            }
            line.fixed = fixed;
        }
        line
    }

    fn party(&mut self, header: &'static str, key: &str, value: &Spanned<String>) -> Option<Party> {
        let (name, address) = split_named(value.get_ref());
        let start = value.span().start;
        let place = |part: &str, text: &str| {
            let inside = value.get_ref().find(part).unwrap_or(0);
            Spanned::new(start + inside..value.span().end, text.to_owned())
        };
        let display = self.value(&format!("{key}.name"), &place(name, name));
        let source = self.value(key, &place(address, address));
        let mailbox = match &source {
            Source::Fixed(text) => match Mailbox::parse(text) {
                Ok(mailbox) => Some(mailbox),
                Err(error) => {
                    self.fault_at(start, format!("{key}: {text:?}: {error}"));
                    return None;
                }
            },
            Source::Live(_) => None,
        };
        Some(Party {
            header,
            display,
            address: source,
            mailbox,
        })
    }

    /// Every other header field: List-*, group, tags, the author's own.
    fn lines(&mut self, manifest: &Manifest) -> Vec<Line> {
        let mut lines = Vec::new();
        if let Some(urls) = manifest
            .list_unsubscribe
            .as_ref()
            .filter(|urls| !urls.is_empty())
        {
            let all: Vec<_> = urls
                .iter()
                .map(|url| format!("<{}>", url.get_ref()))
                .collect();
            for url in urls {
                let text = url.get_ref();
                if !["https://", "http://", "mailto:", "{{"]
                    .iter()
                    .any(|s| text.starts_with(s))
                {
                    self.fault_at(url.span().start, "expected a https: or mailto: address");
                }
                if text.contains(['<', '>', ' ']) && !text.contains("{{") {
                    self.fault_at(
                        url.span().start,
                        "an address without <, > and spaces is expected",
                    );
                }
            }
            let joined = Spanned::new(urls[0].span(), all.join(", "));
            lines.push(self.line("List-Unsubscribe", "list_unsubscribe", &joined, true));
            let https = urls.iter().any(|url| url.get_ref().starts_with("https://"));
            if manifest.list_unsubscribe_post.unwrap_or(https) {
                if !https {
                    let text = "list_unsubscribe_post needs a https: address (RFC 8058)";
                    self.fault_at(urls[0].span().start, text);
                }
                let post = Spanned::new(0..0, "List-Unsubscribe=One-Click".to_owned());
                lines.push(self.line(
                    "List-Unsubscribe-Post",
                    "list_unsubscribe_post",
                    &post,
                    true,
                ));
            }
        }
        if let Some(id) = &manifest.feedback_id {
            lines.push(self.line("Feedback-ID", "feedback_id", id, true));
        }
        if let Some(group) = &manifest.group {
            let name = self.header_name(manifest.group_header.get_ref(), &manifest.group_header);
            lines.push(self.line(&name, "group", group, false));
        }
        for (tag, value) in &manifest.tags {
            let name = self.header_name(manifest.tag_header.get_ref(), &manifest.tag_header);
            if tag.contains(['=', ';', ' ', '{']) {
                self.fault_at(
                    value.span().start,
                    format!("tag {tag:?}: no `=`, `;`, space or brace in its name"),
                );
            }
            let both = Spanned::new(value.span(), format!("{tag}={}", value.get_ref()));
            lines.push(self.line(&name, &format!("tags.{tag}"), &both, false));
        }
        for (name, value) in &manifest.headers {
            let name = self.header_name(name, value);
            if is_own_header(&name) {
                self.fault_at(
                    value.span().start,
                    format!("{name} is written by Hikyaku; see docs/templates.md for its key"),
                );
            }
            lines.push(self.line(&name, &format!("headers.{name}"), value, false));
        }
        lines
    }

    fn header_name(&mut self, name: &str, at: &Spanned<String>) -> String {
        let good = |b: u8| (0x21..0x7F).contains(&b) && b != b':';
        if name.is_empty() || name.len() > 60 || !name.bytes().all(good) {
            self.fault_at(at.span().start, format!("{name:?} is no header field name"));
        }
        name.to_owned()
    }

    fn carriers(
        &mut self,
        entries: &BTreeMap<String, CarrierEntry>,
    ) -> (Vec<CarrierSetting>, Vec<(String, Carrier)>) {
        let mut settings: Vec<CarrierSetting> = Carrier::ALL
            .iter()
            .map(|_| CarrierSetting::default())
            .collect();
        let mut domains = Vec::new();
        for (name, entry) in entries {
            let key = format!("carrier.{name}");
            let at = self.manifest_source.find(&key).unwrap_or(0);
            let Some(carrier) = Carrier::by_name(name) else {
                let known: Vec<_> = Carrier::ALL.iter().map(|c| c.name()).collect();
                self.fault_at(
                    at,
                    format!("{name:?} is no carrier; known are {}", known.join(", ")),
                );
                continue;
            };
            let sjis = entry.charset == Some(CharsetName::Sjis);
            let legacy = carrier.legacy(sjis);
            if entry.send == Send::Legacy && legacy.is_none() {
                self.fault_at(
                    at,
                    format!("{name} has no legacy handsets; send = \"utf8\""),
                );
            }
            if entry.charset.is_some()
                && (carrier != Carrier::Softbank || entry.charset == Some(CharsetName::Jis))
            {
                self.fault_at(
                    at,
                    "only softbank has a choice of charset: utf-8 or shift_jis",
                );
            }
            for domain in &entry.domains {
                match Mailbox::parse(&format!("x@{}", domain.get_ref())) {
                    Ok(mailbox) => domains.push((mailbox.domain().to_owned(), carrier)),
                    Err(error) => self.fault_at(domain.span().start, error.to_string()),
                }
            }
            let subject = entry.subject.as_ref();
            let style = match entry.local_part {
                LocalPart::Quoted => LocalStyle::Quoted,
                LocalPart::Raw => LocalStyle::Raw,
            };
            settings[carrier as usize] = CarrierSetting {
                profile: legacy.filter(|_| entry.send == Send::Legacy),
                local_style: style,
                strict_tags: entry.tags == Tags::Refuse,
                unencodable: entry.unencodable,
                subject: subject.map(|s| self.line("Subject", &format!("{key}.subject"), s, false)),
            };
            if entry.tags == Tags::Refuse {
                self.check_tags(carrier, legacy);
            }
        }
        (settings, domains)
    }

    /// Tags a carrier does not show, with their place in the HTML sources it gets.
    fn check_tags(&mut self, carrier: Carrier, profile: Option<&Profile>) {
        let Some(decomail) = profile.and_then(|p| p.decomail) else {
            return;
        };
        let own = self.files.keys().any(|f| self.uses_variant(f, carrier));
        for (file, bytes) in self.files {
            let part = if own {
                self.uses_variant(file, carrier)
            } else {
                matches!(&**file, "html" | "html.html")
            };
            let include = self.used_files.contains(file)
                && file.ends_with(".html")
                && !file.starts_with("html");
            if !part && !include {
                continue;
            }
            let Ok(source) = text_of(file, bytes) else {
                continue;
            };
            let masked = mask_language(&source);
            let mut tokens = html::tokens(&masked);
            loop {
                let offset = tokens.offset();
                let Some(token) = tokens.next() else { break };
                let html::Token::Open(name, attributes) = token else {
                    continue;
                };
                let attributes = if attributes.contains("{{") {
                    ""
                } else {
                    attributes
                };
                if let Some(refused) = html::refusal(decomail, name, attributes) {
                    let text = format!("{} does not show {}", decomail.carrier, refused.what);
                    self.faults.push(Fault::at(file, &source, offset, text));
                }
            }
        }
    }

    fn uses_variant(&self, file: &str, carrier: Carrier) -> bool {
        let name = file.strip_suffix(".html").unwrap_or(file);
        name.strip_prefix("html.") == Some(carrier.name())
    }

    fn offset(&mut self, zone: Option<&Spanned<String>>) -> time::UtcOffset {
        let japan = time::UtcOffset::from_hms(9, 0, 0).unwrap_or(time::UtcOffset::UTC);
        let Some(zone) = zone else { return japan };
        let parsed = zone.get_ref().strip_prefix(['+', '-']).and_then(|digits| {
            let (hours, minutes) = digits.split_once(':')?;
            let sign = if zone.get_ref().starts_with('-') {
                -1
            } else {
                1
            };
            let (hours, minutes): (i8, i8) = (hours.parse().ok()?, minutes.parse().ok()?);
            time::UtcOffset::from_hms(sign * hours, sign * minutes, 0).ok()
        });
        parsed.unwrap_or_else(|| {
            self.fault_at(zone.span().start, "expected an offset such as +09:00");
            japan
        })
    }

    fn known_names(&self) -> BTreeSet<&str> {
        let mut known: BTreeSet<&str> = BUILT_IN.iter().copied().collect();
        known.extend([
            "range",
            "dict",
            "namespace",
            "emoji",
            "絵文字",
            "self",
            "super",
            "loop",
            "caller",
        ]);
        known.extend(
            self.uses
                .values()
                .flat_map(|uses| &uses.sets)
                .map(String::as_str),
        );
        known
    }

    /// Unknown fields, files that nothing uses, images that nothing shows.
    fn check_whole(&mut self) {
        let mut faults = Vec::new();
        let known = self.known_names();
        if let Some(declared) = &self.declared {
            for (source, uses) in &self.uses {
                for (name, offset) in &uses.names {
                    if known.contains(name.as_str()) || declared.contains(name) {
                        continue;
                    }
                    let near = nearest(name, declared.iter().map(String::as_str));
                    let hint = near.map_or_else(
                        || "add it to `fields` or [defaults]".to_owned(),
                        |near| format!("did you mean `{near}`?"),
                    );
                    let text = format!("unknown field `{name}`; {hint}");
                    faults.extend(self.origins.get(source).map(|o| o.fault(*offset, text)));
                }
            }
        }
        for file in self.files.keys() {
            let ignored = file == MANIFEST
                || file.starts_with('.')
                || file.contains("/.")
                || file == "README.md";
            if !ignored && !self.used_files.contains(file) {
                let text = "unreachable: no part, include or entry of template.toml uses this file";
                faults.push(Fault::of_file(file, text));
            }
        }
        for (cid, (at, _)) in &self.cids {
            if !self.shown_images.contains(at) {
                let file = self.files.keys().find(|f| f.ends_with(cid.as_str()));
                let text = format!("unreachable: no HTML shows the inline image cid:{cid}");
                faults.push(Fault::of_file(file.map_or(MANIFEST, String::as_str), text));
            }
        }
        self.faults.append(&mut faults);
    }
}

/// Sources whose values are escaped for HTML.
fn is_html(name: &str) -> bool {
    name.ends_with(".html") || name == "html" || name.starts_with("html.")
}

fn steps_of(html: bool, images: bool, attachments: bool) -> Vec<Vec<blob::Step>> {
    Profile::ALL
        .iter()
        .map(|p: &&Profile| blob::steps(Tree::clone(&p.tree), html, images, attachments))
        .collect()
}

fn is_media_type(text: &str) -> bool {
    let token = |t: &str| {
        !t.is_empty()
            && t.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-.+_".contains(&b))
    };
    text.split_once('/')
        .is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

fn is_own_header(name: &str) -> bool {
    let own = [
        "from",
        "sender",
        "reply-to",
        "to",
        "cc",
        "bcc",
        "subject",
        "date",
        "message-id",
        "mime-version",
        "return-path",
        "received",
        "dkim-signature",
        "list-unsubscribe",
        "list-unsubscribe-post",
        "feedback-id",
    ];
    let lower = name.to_ascii_lowercase();
    own.contains(&&*lower) || lower.starts_with("content-")
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

/// The name closest to `wanted`, if it could be a slip of it.
fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (distance(wanted, name), name))
        .filter(|(d, _)| *d <= 2)
        .min()
        .map(|(_, n)| n)
}

/// Edits (insert, delete, replace, swap neighbours) from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) =
        (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (rows[i][j] + usize::from(x != y))
                .min(rows[i][j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// The source with what could be taken for HTML inside `{{ }}`, `{% %}` and `{# #}` made harmless, every
/// place kept.
fn mask_language(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = ["{{", "{%", "{#"]
        .iter()
        .filter_map(|open| rest.find(open))
        .min()
    {
        let (before, inside) = rest.split_at(at);
        out.push_str(before);
        let close = match &inside[..2] {
            "{{" => "}}",
            "{%" => "%}",
            _ => "#}",
        };
        let end = inside.find(close).map_or(inside.len(), |end| end + 2);
        out.push_str(&inside[..end].replace(['<', '>', '"', '\''], "_"));
        rest = &inside[end..];
    }
    out.push_str(rest);
    out
}
