//! What was read from one message: the answer types, without any reading.

use super::reason::{Reason, Verdict};
use crate::phase::Phase;
use crate::status::{EnhancedStatus, ReplyCode};

/// What one message says.
#[derive(Clone, Debug)]
pub struct Report {
    /// Of the whole message: the first failure's, or why it is no bounce.
    pub verdict: Verdict,
    /// Of the whole message, as [`Report::verdict`].
    pub reason: Reason,
    /// One per recipient that the report is about; for what is no bounce mostly empty.
    pub failures: Vec<Failure>,
    /// The host that reports (Reporting-MTA, RFC 3464 §2.2.2), or the daemon's domain.
    pub reporting_host: Option<String>,
    /// The message that came back, as far as it came.
    pub original: Original,
    /// For what is no bounce: what told so.
    pub decided: Decided,
}

/// One recipient, and why the message did not reach it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The failed address as the report has it, without angle brackets.
    pub recipient: String,
    /// The address it was sent to, where the report has another one (RFC 3464 §2.3.1).
    pub original_recipient: Option<String>,
    /// What the reporting host did (RFC 3464 §2.3.3).
    pub action: Action,
    /// What it means for the address.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// SMTP reply code.
    pub reply: Option<ReplyCode>,
    /// Enhanced status code.
    pub enhanced: Option<EnhancedStatus>,
    /// Where in the SMTP dialog it failed, if that is said.
    pub phase: Option<Phase>,
    /// What the receiving side said, white space collapsed.
    pub diagnostic: String,
    /// The host that refused.
    pub remote_host: Option<String>,
    /// Which text and rule decided.
    pub decided: Decided,
}

/// RFC 3464 §2.3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Given up.
    Failed,
    /// Still being tried.
    Delayed,
    /// In the mailbox.
    Delivered,
    /// Passed to a host that reports no further.
    Relayed,
    /// Passed on to several addresses.
    Expanded,
}

impl Action {
    /// The word of RFC 3464.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
            Self::Expanded => "expanded",
        }
    }

    /// Whether nothing failed.
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Delivered | Self::Relayed | Self::Expanded)
    }
}

/// Headers of the returned message.
#[derive(Clone, Debug, Default)]
pub struct Original {
    /// Without angle brackets.
    pub message_id: Option<String>,
    /// Decoded.
    pub subject: Option<String>,
    /// The addresses in From.
    pub from: Option<String>,
    /// The addresses in To.
    pub to: Option<String>,
    /// Our queue id, from a Received field or the envelope id (RFC 3461 §4.4).
    pub queue_id: Option<String>,
}

/// How a verdict came about, so that it can be explained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decided {
    /// Which part of the message was read: `diagnostic-code`, `notice`, `header`, ….
    pub source: &'static str,
    /// The text that was asked about.
    pub text: String,
    /// `builtin:123`, the rule's file and line; empty where structure alone decided.
    pub rule: String,
}
