//! Bounce or not: what kind of mail a message is that brings no delivery-status fields.
//!
//! Weighs who wrote it, what its subject and its sentences say, and the header fields by which
//! automatic answers name themselves (RFC 3834). The words stand in `signals.tsv`.

use super::mime::{Header, Mail, Role};
use super::reason::Reason;
use super::signals::{Signal, SignalSet, Signals};

/// Bytes of the notice that are looked at for its kind.
const NOTICE_BYTES_MAX: usize = 6000;
/// Points from which a message is a bounce.
const BOUNCE_POINTS_MIN: i32 = 3;

/// What the words of a message say, gathered once.
#[derive(Debug)]
pub(super) struct Clues {
    pub(super) subject: SignalSet,
    pub(super) text: SignalSet,
    /// The subject begins with a bounce's words.
    pub(super) subject_opens: bool,
    pub(super) from_daemon: bool,
    pub(super) codes: bool,
    pub(super) returns_original: bool,
}

impl Clues {
    pub(super) fn gather(
        mail: &Mail,
        notice: &str,
        inline_original: bool,
        signals: &Signals,
    ) -> Self {
        let header = &mail.header;
        let notice = super::normal::clip(notice, NOTICE_BYTES_MAX);
        let sender = |name| signals.scan(header.text(name)).has(Signal::Daemon);
        let from = header.text("from").trim();
        let return_path = header.get("return-path").map(str::trim);
        let null_path =
            return_path.is_some_and(|p| p == "<>" || signals.scan(p).has(Signal::Daemon));
        let returned =
            |p: &super::mime::Part| matches!(p.role, Role::Message | Role::MessageHeader);
        Self {
            subject: signals.scan(header.text("subject")),
            text: signals.scan(notice),
            subject_opens: signals.starts(header.text("subject"), Signal::BounceSubject),
            from_daemon: sender("from") || sender("sender") || from == "<>" || null_path,
            codes: super::scan::enhanced(notice).is_some()
                || super::scan::reply_code(notice).is_some(),
            returns_original: inline_original || mail.parts.iter().any(returned),
        }
    }

    /// Whether the message is a bounce without fields.
    pub(super) fn is_bounce(&self, header: &Header) -> bool {
        if header.get("x-failed-recipients").is_some() {
            return true;
        }
        let yes = |is: bool, points: i32| if is { points } else { 0 };
        let says = self.text.has(Signal::BounceText);
        let subject = self.subject.has(Signal::BounceSubject);
        if !(says || subject || self.codes || self.text.has(Signal::Delay)) {
            return false;
        }
        let points = yes(self.from_daemon, 2)
            + yes(subject, 2)
            + yes(self.subject_opens, 1)
            + yes(says, 1)
            + yes(self.codes, 1)
            + yes(self.returns_original, 1)
            + yes(header.content_type == "multipart/report", 2)
            - yes(is_answer(header.text("subject")) && !self.from_daemon, 4)
            - yes(
                self.subject
                    .any(&[Signal::AutoSubject, Signal::VacationSubject])
                    && !subject,
                3,
            )
            - yes(self.text.has(Signal::VacationText) && !subject, 2)
            - yes(self.text.has(Signal::AutoText) && !self.from_daemon, 1)
            - yes(
                is_from_a_list(header) && !self.from_daemon && !self.subject_opens,
                2,
            )
            - yes(
                header.get("in-reply-to").is_some() && !self.from_daemon && !subject,
                1,
            );
        points >= BOUNCE_POINTS_MIN
    }

    /// What a message is that is no bounce.
    pub(super) fn other_kind(&self, header: &Header, notice: &str) -> Reason {
        let subject = header.text("subject");
        if header.report_type == "disposition-notification" || self.is_receipt(subject) {
            return Reason::Receipt;
        }
        // A List-Unsubscribe address that a program wrote to (RFC 2369 §3.2).
        if subject.trim().eq_ignore_ascii_case("unsubscribe")
            && header.get("auto-submitted").is_some()
        {
            return Reason::Feedback;
        }
        if self.subject.has(Signal::FeedbackSubject) && self.returns_original
            || header.get("x-hmxmroriginalrecipient").is_some()
        {
            return Reason::Feedback;
        }
        let automatic = names_itself_automatic(header);
        let short = notice.len() < 3000;
        let vacation_subject = self.subject.has(Signal::VacationSubject);
        let vacation_text = self.text.has(Signal::VacationText) && short;
        if (automatic && (vacation_subject || vacation_text))
            || (vacation_subject
                && short
                && (vacation_text || self.subject.has(Signal::AutoSubject)))
            || (vacation_text
                && (is_answer(subject)
                    || self.subject.has(Signal::AutoSubject)
                    || self.from_daemon))
        {
            return Reason::Vacation;
        }
        // An answer in a person's place: an absence, unless it says that it only took the mail in.
        let replied = header
            .text("auto-submitted")
            .to_ascii_lowercase()
            .starts_with("auto-replied");
        let personal = replied || self.subject.has(Signal::AutoSubject);
        if personal && short && !self.text.has(Signal::AutoText) && !self.from_daemon {
            return Reason::Vacation;
        }
        if self.text.has(Signal::SuccessText) && self.from_daemon {
            return Reason::Delivered;
        }
        if automatic
            || (self.subject.has(Signal::AckSubject) && self.text.has(Signal::AutoText) && short)
            || (self.text.has(Signal::AutoText) && self.from_daemon)
            || self.subject.has(Signal::AutoSubject)
        {
            return Reason::AutoReply;
        }
        if vacation_subject && short && is_vacation_subject_alone(subject) {
            return Reason::Vacation;
        }
        Reason::Message
    }

    fn is_receipt(&self, subject: &str) -> bool {
        let subject = subject.to_lowercase();
        self.subject.has(Signal::ReceiptSubject)
            && [
                "read:",
                "not read:",
                "gelesen:",
                "lu :",
                "leído",
                "letto:",
                "return receipt",
                "read receipt",
                "lida:",
                "已读",
            ]
            .iter()
            .any(|start| subject.starts_with(start))
    }
}

/// `Re:` or `Fwd:`, of whatever language.
pub(super) fn is_answer(subject: &str) -> bool {
    const ANSWERS: [&str; 12] = [
        "re:", "fw:", "fwd:", "aw:", "wg:", "tr:", "rv:", "sv:", "antw:", "回复", "转发", "re ",
    ];
    let subject = subject.trim().to_lowercase();
    ANSWERS.iter().any(|answer| subject.starts_with(answer))
}

fn is_from_a_list(header: &Header) -> bool {
    header.get("list-id").is_some() || header.get("list-unsubscribe").is_some()
}

/// RFC 3834 §5 and its forerunners.
fn names_itself_automatic(header: &Header) -> bool {
    const FIELDS: [&str; 8] = [
        "x-autoreply",
        "x-autorespond",
        "x-autoresponder",
        "x-auto-reply-from",
        "x-mail-autoreply",
        "x-autogenerated",
        "x-vacation",
        "x-bounce",
    ];
    let submitted = header.text("auto-submitted").to_ascii_lowercase();
    let precedence = format!(
        "{} {}",
        header.text("precedence"),
        header.text("x-precedence")
    );
    (!submitted.is_empty() && !submitted.starts_with("no"))
        || precedence.to_ascii_lowercase().contains("auto_reply")
        || FIELDS.iter().any(|name| header.get(name).is_some())
}

fn is_vacation_subject_alone(subject: &str) -> bool {
    let subject = subject.trim().to_lowercase();
    subject.starts_with("out of office")
        || subject.starts_with("out of the office")
        || subject.starts_with("ooo")
        || subject.contains("不在")
        || subject.starts_with("vacation")
        || subject.contains("abwesenheit")
}
