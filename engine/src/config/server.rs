//! `[server]`: who this relay is and where its data lies.

use std::path::PathBuf;

use super::reader::{Reader, TextDefault};
use crate::limits::{HEADER_NAME_BYTES_MAX, SHARDS_MAX, TAG_HEADERS_MAX};
use crate::net::check_host_name;

/// `[server]`: who we are and where our data lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Name in greeting, EHLO and Received, lower case.
    pub hostname: String,
    /// The directory of everything that must survive.
    pub data_dir: PathBuf,
    /// Number of shards; `None`: one per available core.
    pub shards: Option<u16>,
    /// Header whose value is the message's group; compared without case.
    pub group_header: String,
    /// Headers whose values go into the delivery log as tags.
    pub tag_headers: Vec<String>,
    /// Remove group and tag headers on delivery.
    pub strip_headers: bool,
    /// Add a Date header where there is none.
    pub add_date: bool,
    /// Add a Message-ID header where there is none.
    pub add_message_id: bool,
}

pub(super) fn read(r: &mut Reader<'_, '_>) -> Option<Server> {
    let hostname = r.text("hostname", "host name", TextDefault::Required, |text| {
        check_host_name(text)?;
        Ok(text.to_ascii_lowercase())
    });
    let data_dir = r.at_start("data_dir", |r, key| {
        r.path(key, TextDefault::Text("/var/lib/hikyaku"))
    });
    let shards = r.at_start("shards", |r, key| {
        let one_each = "one per available core".into();
        r.number_or(key, None, one_each, 1..=SHARDS_MAX)
    });
    let group_header = r.text(
        "group_header",
        "header name",
        TextDefault::Text("X-Hikyaku-Group"),
        header_name,
    );
    let tag_headers = r.list(
        "tag_headers",
        "list of header names",
        &["X-Hikyaku-Tag"],
        TAG_HEADERS_MAX,
        header_name,
    );
    let strip_headers = r.boolean("strip_headers", true);
    let add_date = r.boolean("add_date", true);
    let add_message_id = r.boolean("add_message_id", true);
    Some(Server {
        hostname: hostname?,
        data_dir: data_dir?,
        shards,
        group_header: group_header?,
        tag_headers,
        strip_headers,
        add_date,
        add_message_id,
    })
}

/// A field name (RFC 5322 §2.2).
fn header_name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_graphic() && b != b':';
    if !text.is_empty() && text.len() <= HEADER_NAME_BYTES_MAX && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is not a header name; write it without colon and spaces"
        ))
    }
}
