//! The header section of the notification itself.

use std::fmt::Write;

use super::text::{address_text, date};
use super::{Action, DsnRequest};

pub(super) fn write(request: &DsnRequest<'_>, utf8: bool, boundary: &str, out: &mut String) {
    let failed = request
        .recipients
        .iter()
        .any(|r| r.action == Action::Failed);
    let subject = if failed {
        "Undelivered mail returned to sender"
    } else {
        "Delivery delayed, still trying"
    };
    let host = request.reporting_mta;
    let to = address_text(request.to, utf8);
    let _ = write!(
        out,
        "Date: {date}\r\nFrom: Mail Delivery System <MAILER-DAEMON@{host}>\r\nTo: <{to}>\r\n\
         Subject: {subject}\r\nMessage-ID: <{id}@{host}>\r\nAuto-Submitted: auto-replied\r\n\
         MIME-Version: 1.0\r\nContent-Type: multipart/report; report-type={report_type};\r\n\
         \tboundary=\"{boundary}\"\r\n{transfer}\r\n\
         This is a delivery status notification in MIME format.\r\n",
        date = date(request.now),
        id = request.id,
        report_type = if utf8 {
            "global-delivery-status"
        } else {
            "delivery-status"
        },
        transfer = if utf8 {
            "Content-Transfer-Encoding: 8bit\r\n"
        } else {
            ""
        },
    );
}
