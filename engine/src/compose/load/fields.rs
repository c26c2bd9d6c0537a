//! Manifest values and header fields: parties, the subject, lines of the operator's own.
//! The sources they compile to are `sources.rs`.

use std::sync::Arc;

use toml::Spanned;

use super::Loader;
use crate::compose::mailbox::{Mailbox, split_named};
use crate::compose::manifest::{MANIFEST, Manifest};
use crate::compose::message::{is_control, write_line};
use crate::compose::profile::Profile;
use crate::compose::scan::Origin;
use crate::compose::template::{Line, Party, Source};

impl Loader<'_> {
    /// A manifest value that may hold template language.
    pub(super) fn value(&mut self, key: &str, value: &Spanned<String>) -> Source {
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

    pub(super) fn line(
        &mut self,
        name: &str,
        key: &str,
        value: &Spanned<String>,
        structured: bool,
    ) -> Line {
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

    pub(super) fn party(
        &mut self,
        header: &'static str,
        key: &str,
        value: &Spanned<String>,
    ) -> Option<Party> {
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
    pub(super) fn lines(&mut self, manifest: &Manifest) -> Vec<Line> {
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

    pub(super) fn header_name(&mut self, name: &str, at: &Spanned<String>) -> String {
        let good = |b: u8| (0x21..0x7F).contains(&b) && b != b':';
        if name.is_empty() || name.len() > 60 || !name.bytes().all(good) {
            self.fault_at(at.span().start, format!("{name:?} is no header field name"));
        }
        name.to_owned()
    }
}

pub(super) fn is_own_header(name: &str) -> bool {
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
