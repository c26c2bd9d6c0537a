//! The words of an answer: why it failed ([`Reason`]), what that means for the address
//! ([`Verdict`]), and the five families of reasons ([`Group`]).
//!
//! The words are a contract: delivery log, rules, error addresses and the CLI all use them.
//! Which text means which reason is the business of `rules.tsv` and [`super::Classifier`].

use std::fmt;

/// What a failure says about the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// The address or its domain is dead: do not write to it again.
    Hard,
    /// Every other failure, delays included: the mailbox exists or may exist.
    Soft,
    /// Nothing failed: an automatic answer, a receipt, a report of success, ordinary mail.
    NotABounce,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 3] = [Self::Hard, Self::Soft, Self::NotABounce];

    /// The word used in logs, rules and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hard => "hard",
            Self::Soft => "soft",
            Self::NotABounce => "not-a-bounce",
        }
    }

    /// The verdict of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|verdict| verdict.as_str() == name)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A family of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// The address or its domain is wrong.
    Address,
    /// The mailbox exists and cannot take this message now.
    Mailbox,
    /// Network, time or the receiving system.
    Transient,
    /// The receiver does not want it.
    Policy,
    /// Nothing failed.
    NotABounce,
    /// The text says nothing we know.
    Unknown,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $word:literal, $group:ident;)*) => {
        /// Why a message was not delivered, or what came back instead of a failure.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            /// Every reason, family by family.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word used in logs, rules and answers.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            /// The family of the reason.
            pub const fn group(self) -> Group {
                match self {
                    $(Self::$variant => Group::$group,)*
                }
            }
        }
    };
}

reasons! {
    /// No such mailbox.
    UserUnknown = "user-unknown", Address;
    /// No such domain or host.
    HostUnknown = "host-unknown", Address;
    /// The address was given up for another.
    HasMoved = "has-moved", Address;
    /// The host or domain takes no mail at all (RFC 7504, RFC 7505).
    HostNotAccepting = "host-not-accepting", Address;
    /// Mailbox full or over quota.
    MailboxFull = "mailbox-full", Mailbox;
    /// Account suspended, disabled or inactive.
    MailboxSuspended = "mailbox-suspended", Mailbox;
    /// Over a size limit.
    MessageTooLarge = "message-too-large", Mailbox;
    /// Not delivered in time: given up, or still tried.
    Expired = "expired", Transient;
    /// Connection, DNS or routing failure.
    NetworkError = "network-error", Transient;
    /// A failure inside the receiving system, a full disk among them.
    SystemError = "system-error", Transient;
    /// Too many connections, messages or recipients.
    RateLimited = "rate-limited", Transient;
    /// STARTTLS failed.
    TlsFailure = "tls-failure", Transient;
    /// The client address or host was refused, blocklists included.
    Blocked = "blocked", Policy;
    /// Refused for the sender's reputation.
    BadReputation = "bad-reputation", Policy;
    /// No or wrong reverse DNS.
    RequiresPtr = "requires-ptr", Policy;
    /// SPF, DKIM or DMARC.
    AuthFailure = "auth-failure", Policy;
    /// Content taken for spam.
    Spam = "spam", Policy;
    /// Content taken for malware.
    Virus = "virus", Policy;
    /// Another refusal of the content.
    Content = "content", Policy;
    /// Local policy.
    Policy = "policy", Policy;
    /// Authentication or another security rule.
    Security = "security", Policy;
    /// The envelope sender was refused.
    SenderRejected = "sender-rejected", Policy;
    /// Refused by the recipient's own filter, or after the content.
    Filtered = "filtered", Policy;
    /// No relaying.
    RelayingDenied = "relaying-denied", Policy;
    /// Message or header fields break the rules.
    NotRfcCompliant = "not-rfc-compliant", Policy;
    /// SMTP syntax or command sequence.
    ProtocolError = "protocol-error", Policy;
    /// Abuse or authentication failure report (RFC 5965, RFC 6591).
    Feedback = "feedback", NotABounce;
    /// Out of office.
    Vacation = "vacation", NotABounce;
    /// Another automatic answer, challenge-response included.
    AutoReply = "auto-reply", NotABounce;
    /// Read receipt (RFC 8098).
    Receipt = "receipt", NotABounce;
    /// A delivery report of success.
    Delivered = "delivered", NotABounce;
    /// An ordinary message or reply.
    Message = "message", NotABounce;
    /// Nothing known fits.
    Unknown = "unknown", Unknown;
}

impl Reason {
    /// The reason of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.as_str() == name)
    }

    /// What the reason means for the address, unless a rule says otherwise.
    ///
    /// `temporary`: the reply was 4yz or the status 4.x.x. A dead address stays dead whatever the
    /// digit (many servers answer 450 for good), but a host that takes no mail *now* may take it
    /// later.
    pub const fn verdict(self, temporary: bool) -> Verdict {
        match self.group() {
            Group::Address if temporary && matches!(self, Self::HostNotAccepting) => Verdict::Soft,
            Group::Address => Verdict::Hard,
            Group::NotABounce => Verdict::NotABounce,
            Group::Mailbox | Group::Transient | Group::Policy | Group::Unknown => Verdict::Soft,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_names_its_own_value() {
        for &reason in Reason::ALL {
            assert_eq!(Reason::from_name(reason.as_str()), Some(reason));
        }
        for verdict in Verdict::ALL {
            assert_eq!(Verdict::from_name(verdict.as_str()), Some(verdict));
        }
        assert_eq!(Reason::from_name("userunknown"), None);
        assert_eq!(Reason::ALL.len(), 33);
    }

    #[test]
    fn only_dead_addresses_are_hard() {
        for &reason in Reason::ALL {
            let hard = reason.verdict(false) == Verdict::Hard;
            assert_eq!(hard, reason.group() == Group::Address, "{reason}");
        }
        assert_eq!(Reason::HostNotAccepting.verdict(true), Verdict::Soft);
        assert_eq!(Reason::UserUnknown.verdict(true), Verdict::Hard);
    }
}
