//! The sources and files of a template: compiled, with what they include, their images and their
//! attachments. Header fields are `fields.rs`.

use std::collections::BTreeSet;

use super::{Loader, text_of};
use crate::compose::blob::Blob;
use crate::compose::fault::Fault;
use crate::compose::manifest::FileEntry;
use crate::compose::message::is_control;
use crate::compose::profile::{Carrier, Profile, Tree};
use crate::compose::scan::{Origin, Place};
use crate::compose::template::{Html, Source, Variants};
use crate::compose::{blob, scan};

impl Loader<'_> {
    /// Registers `source` under `name`, if it holds template language.
    pub(super) fn compile(&mut self, name: &str, source: String, origin: Origin) -> Source {
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

    pub(super) fn include(&mut self, from: &str, file: &str, origin: &Origin, offset: usize) {
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
    pub(super) fn reaches(&self, from: &str, to: &str, seen: &mut BTreeSet<String>) -> bool {
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
    pub(super) fn parts<T>(
        &mut self,
        kind: &str,
        make: impl Fn(&mut Self, Source, &str) -> T,
    ) -> Variants<T> {
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
    pub(super) fn part_of(&mut self, file: &str, kind: &str) -> Option<Option<Carrier>> {
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
    pub(super) fn resolve_cids(&mut self, source: &str, origin: &Origin) -> String {
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
    pub(super) fn images_of(&mut self, name: &str) -> Vec<usize> {
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

    pub(super) fn with_steps(&self, html: Variants<Html>, attachments: bool) -> Variants<Html> {
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
    pub(super) fn blobs(&mut self, entries: &[FileEntry], folder: &str, inline: bool) -> Vec<Blob> {
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

    pub(super) fn blob(
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
}

/// Sources whose values are escaped for HTML.
pub(super) fn is_html(name: &str) -> bool {
    name.ends_with(".html") || name == "html" || name.starts_with("html.")
}

pub(super) fn steps_of(html: bool, images: bool, attachments: bool) -> Vec<Vec<blob::Step>> {
    Profile::ALL
        .iter()
        .map(|p: &&Profile| blob::steps(Tree::clone(&p.tree), html, images, attachments))
        .collect()
}

pub(super) fn is_media_type(text: &str) -> bool {
    let token = |t: &str| {
        !t.is_empty()
            && t.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-.+_".contains(&b))
    };
    text.split_once('/')
        .is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

/// The source with what could be taken for HTML inside `{{ }}`, `{% %}` and `{# #}` made harmless, every
/// place kept.
pub(super) fn mask_language(source: &str) -> String {
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
