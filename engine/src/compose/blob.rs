//! Attachments and inline images: encoded once when the template is loaded, copied into each message.

use super::profile::{ImageDisposition, Profile, Tree};
use super::transfer::Transfer;
use super::words;

/// A file that messages carry.
#[derive(Debug)]
pub(super) struct Blob {
    /// Path in the template folder.
    pub file: String,
    /// Decoded size.
    pub bytes: usize,
    pub media_type: String,
    /// Header lines and the empty line behind them, per profile index.
    heads: Vec<Vec<u8>>,
    /// Base64 in lines.
    body: Vec<u8>,
}

impl Blob {
    /// `number`: position among the template's inline images, from 1.
    pub(super) fn new(
        file: &str,
        content: &[u8],
        name: &str,
        media_type: &str,
        inline: Option<(&str, usize)>,
    ) -> Self {
        let mut body = Vec::new();
        Transfer::Base64.encode(content, &mut body);
        let content_id = inline.map(|(_, number)| content_id(content, number));
        let head = |profile: &&Profile| match (&content_id, inline) {
            (Some(id), Some((_, number))) => image_head(profile, name, media_type, id, number),
            _ => attachment_head(profile, name, media_type),
        };
        Self {
            file: file.to_owned(),
            bytes: content.len(),
            media_type: media_type.to_owned(),
            heads: Profile::ALL.iter().map(head).collect(),
            body,
        }
    }

    /// Appends the part: header, empty line, body.
    pub(super) fn write(&self, profile: &Profile, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.heads[profile.index]);
        out.extend_from_slice(&self.body);
    }

    /// Bytes that [`Blob::write`] appends.
    pub(super) fn encoded_bytes(&self, profile: &Profile) -> usize {
        self.heads[profile.index].len() + self.body.len()
    }
}

/// `NN` and a hash, one @, letters and digits only: au restricts what it takes in a Content-ID, and
/// phones write theirs `NN@..`.
pub(super) fn content_id(content: &[u8], number: usize) -> String {
    format!("{number:02}{:016x}@cid", super::hash::fnv1a(&[content]))
}

fn image_head(profile: &Profile, name: &str, media_type: &str, id: &str, number: usize) -> Vec<u8> {
    // Handsets want ASCII names that end in .gif or .jpg.
    let phone_name;
    let name = if profile.decomail.is_some() {
        let extension = if media_type == "image/gif" {
            "gif"
        } else {
            "jpg"
        };
        phone_name = format!("img{number:02}.{extension}");
        &phone_name
    } else {
        name
    };
    let mut out = content_type(profile, name, media_type);
    out.extend_from_slice(format!("Content-ID: <{id}>\r\n").as_bytes());
    match profile.image {
        ImageDisposition::None => {}
        ImageDisposition::Inline => disposition("inline", name, &mut out),
        ImageDisposition::Attachment => disposition("attachment", name, &mut out),
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn attachment_head(profile: &Profile, name: &str, media_type: &str) -> Vec<u8> {
    let mut out = content_type(profile, name, media_type);
    disposition("attachment", name, &mut out);
    out.extend_from_slice(b"\r\n");
    out
}

fn content_type(profile: &Profile, name: &str, media_type: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(b"Content-Type: ");
    out.extend_from_slice(media_type.as_bytes());
    words::legacy_parameter("name", name, profile.wire, &mut out);
    out.extend_from_slice(b"\r\nContent-Transfer-Encoding: base64\r\n");
    out
}

fn disposition(kind: &str, name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Content-Disposition: ");
    out.extend_from_slice(kind.as_bytes());
    words::parameter("filename", name, out);
    out.extend_from_slice(b"\r\n");
}

/// The media type that a file name's extension stands for.
pub(super) fn media_type_of(name: &str) -> &'static str {
    let extension = name
        .rsplit_once('.')
        .map_or("", |(_, e)| e)
        .to_ascii_lowercase();
    match extension.as_str() {
        "gif" => "image/gif",
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        "webp" => "image/webp",
        "svg" => "image/svg+xml",
        "pdf" => "application/pdf",
        "txt" => "text/plain",
        "csv" => "text/csv",
        "ics" => "text/calendar",
        "html" | "htm" => "text/html",
        "zip" => "application/zip",
        "doc" => "application/msword",
        "xls" => "application/vnd.ms-excel",
        "ppt" => "application/vnd.ms-powerpoint",
        "docx" => "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "xlsx" => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "pptx" => "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        _ => "application/octet-stream",
    }
}

/// One step in writing a message's parts, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Begin multipart/this.
    Open(&'static str),
    Text,
    Html,
    Images,
    Attachments,
    /// End the innermost multipart.
    Close,
}

/// The steps that make `tree` for what a message has.
pub(super) fn steps(tree: Tree, html: bool, images: bool, attachments: bool) -> Vec<Step> {
    use Step::{Attachments, Close, Html, Images, Open, Text};
    let alternative = [Open("alternative"), Text, Html, Close];
    let mut steps = Vec::with_capacity(10);
    match tree {
        Tree::Docomo if html => {
            steps.extend([Open("mixed"), Open("related")]);
            steps.extend(alternative);
            steps.extend([Images, Close, Attachments, Close]);
        }
        Tree::Au if html => {
            steps.push(Open("mixed"));
            steps.extend(alternative);
            steps.extend([Images, Attachments, Close]);
        }
        Tree::Softbank if html && (images || attachments) => {
            steps.push(Open("related"));
            steps.extend(alternative);
            steps.extend([Images, Attachments, Close]);
        }
        _ => {
            if attachments {
                steps.push(Open("mixed"));
            }
            match (
                html && tree != Tree::PlainOnly,
                images && tree == Tree::Modern,
            ) {
                (false, _) => steps.push(Text),
                (true, false) => steps.extend(alternative),
                (true, true) => steps.extend([
                    Open("alternative"),
                    Text,
                    Open("related"),
                    Html,
                    Images,
                    Close,
                    Close,
                ]),
            }
            if attachments {
                steps.extend([Attachments, Close]);
            }
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_without_content_are_left_out() {
        use Step::{Close, Html, Open, Text};
        assert_eq!(steps(Tree::Modern, false, false, false), [Text]);
        assert_eq!(steps(Tree::PlainOnly, true, true, false), [Text]);
        assert_eq!(steps(Tree::Modern, true, false, false), {
            [Open("alternative"), Text, Html, Close]
        });
        let docomo = steps(Tree::Docomo, true, true, false);
        assert_eq!(
            docomo[..3],
            [Open("mixed"), Open("related"), Open("alternative")]
        );
        for tree in [
            Tree::Modern,
            Tree::Docomo,
            Tree::Au,
            Tree::Softbank,
            Tree::PlainOnly,
        ] {
            for mask in 0..8 {
                let steps = steps(tree, mask & 1 > 0, mask & 2 > 0, mask & 4 > 0);
                let opened = steps.iter().filter(|s| matches!(s, Open(_))).count();
                let closed = steps.iter().filter(|s| matches!(s, Close)).count();
                assert_eq!(opened, closed, "{tree:?} {mask}");
            }
        }
    }
}
