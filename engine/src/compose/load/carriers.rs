//! What a manifest sets for each carrier, and the tags and time zone it names.
//! What only the whole template shows is `whole.rs`.

use std::collections::BTreeMap;

use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::Offset;
use toml::Spanned;

use super::sources::mask_language;
use super::{Loader, text_of};
use crate::compose::fault::Fault;
use crate::compose::html;
use crate::compose::mailbox::{LocalStyle, Mailbox};
use crate::compose::manifest::{CarrierEntry, CharsetName, LocalPart, Send, Tags};
use crate::compose::profile::{Carrier, Profile};
use crate::compose::template::CarrierSetting;

impl Loader<'_> {
    pub(super) fn carriers(
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
    pub(super) fn check_tags(&mut self, carrier: Carrier, profile: Option<&Profile>) {
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

    pub(super) fn uses_variant(&self, file: &str, carrier: Carrier) -> bool {
        let name = file.strip_suffix(".html").unwrap_or(file);
        name.strip_prefix("html.") == Some(carrier.name())
    }

    pub(super) fn offset(&mut self, zone: Option<&Spanned<String>>) -> Offset {
        let japan = jiff::tz::offset(9);
        let Some(zone) = zone else { return japan };
        let read = BrokenDownTime::parse("%:z", zone.get_ref());
        read.ok().and_then(|read| read.offset()).unwrap_or_else(|| {
            self.fault_at(zone.span().start, "expected an offset such as +09:00");
            japan
        })
    }
}
