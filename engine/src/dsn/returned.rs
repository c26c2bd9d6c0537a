//! What of the message goes back to its sender, and the end of the notification.

use crate::message::downgrade::quoted_printable;

/// The header section of the message, and the end.
pub(super) fn header(header: &[u8], utf8: bool, boundary: &str, out: &mut Vec<u8>) {
    let encode = !utf8 && !header.is_ascii();
    let kind = if utf8 {
        "message/global-headers"
    } else {
        "text/rfc822-headers"
    };
    let encoding = match (utf8, encode) {
        (true, _) => "8bit",
        (false, true) => "quoted-printable",
        (false, false) => "7bit",
    };
    let opening = format!(
        "\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    );
    out.extend_from_slice(opening.as_bytes());
    if encode {
        quoted_printable(header, out);
    } else {
        out.extend_from_slice(header);
    }
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
}

/// The whole message (RFC 3462 §2, "returned content"), and the end.
pub(super) fn whole(whole: &[u8], boundary: &str, out: &mut Vec<u8>) {
    let opening = format!(
        "\r\n--{boundary}\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n\r\n"
    );
    out.extend_from_slice(opening.as_bytes());
    out.extend_from_slice(whole);
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
}
