//! `template.toml`: what the author writes beside text and html.
//!
//! Only the form is read here, with every key's place kept; what it means is `load/`. An unknown
//! key is a fault that lists the known ones. The keys are described in docs/templates.md.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::fault::Fault;

/// The manifest's file name.
pub(super) const MANIFEST: &str = "template.toml";

type Text = Spanned<String>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub from: Text,
    pub sender: Option<Text>,
    pub reply_to: Option<Text>,
    pub return_path: Option<Text>,
    pub to_name: Option<Text>,
    pub subject: Text,
    pub group: Option<Text>,
    #[serde(default = "group_header")]
    pub group_header: Text,
    #[serde(default = "tag_header")]
    pub tag_header: Text,
    #[serde(default)]
    pub missing: Missing,
    #[serde(default)]
    pub charset: CharsetName,
    pub unencodable: Option<Unencodable>,
    pub time_zone: Option<Text>,
    pub message_id_domain: Option<Text>,
    pub feedback_id: Option<Text>,
    pub list_unsubscribe: Option<Vec<Text>>,
    pub list_unsubscribe_post: Option<bool>,
    pub fields: Option<Vec<Text>>,
    #[serde(default)]
    pub defaults: BTreeMap<String, toml::Value>,
    #[serde(default)]
    pub sample: BTreeMap<String, toml::Value>,
    #[serde(default)]
    pub tags: BTreeMap<String, Text>,
    #[serde(default)]
    pub headers: BTreeMap<String, Text>,
    #[serde(default)]
    pub attachment: Vec<FileEntry>,
    #[serde(default)]
    pub inline: Vec<FileEntry>,
    #[serde(default)]
    pub carrier: BTreeMap<String, CarrierEntry>,
}

fn group_header() -> Text {
    Spanned::new(0..0, "X-Hikyaku-Group".to_owned())
}

fn tag_header() -> Text {
    Spanned::new(0..0, "X-Hikyaku-Tag".to_owned())
}

/// What to do with a recipient whose data lacks a field that has no default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Missing {
    #[default]
    Strict,
    Default,
    Skip,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) enum CharsetName {
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    #[serde(rename = "iso-2022-jp")]
    Jis,
    #[serde(rename = "shift_jis")]
    Sjis,
}

/// What to do with a character that the character set lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Unencodable {
    /// Send the whole message in UTF-8.
    #[serde(rename = "utf-8")]
    Utf8,
    #[serde(rename = "substitute")]
    Substitute,
    #[serde(rename = "refuse")]
    Refuse,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileEntry {
    pub file: Text,
    pub name: Option<Text>,
    pub cid: Option<Text>,
    #[serde(rename = "type")]
    pub media_type: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CarrierEntry {
    #[serde(default)]
    pub send: Send,
    pub charset: Option<CharsetName>,
    pub unencodable: Option<Unencodable>,
    #[serde(default)]
    pub local_part: LocalPart,
    #[serde(default)]
    pub tags: Tags,
    pub subject: Option<Text>,
    #[serde(default)]
    pub domains: Vec<Text>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Send {
    #[default]
    Utf8,
    Legacy,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum LocalPart {
    #[default]
    Quoted,
    Raw,
}

/// What to do with tags a carrier does not show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Tags {
    #[default]
    Strip,
    Refuse,
}

/// Reads the manifest.
pub(super) fn parse(source: &str) -> Result<Manifest, Fault> {
    toml::from_str(source).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        Fault::at(MANIFEST, source, offset, error.message().replace('\n', " "))
    })
}
