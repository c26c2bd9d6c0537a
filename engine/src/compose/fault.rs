//! What is wrong, and where: faults of a template, and why one message could not be composed.

use std::fmt;

use super::mailbox::MailboxError;

/// A fault at a place in a template's files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Path within the template folder.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong and what to do.
    pub text: String,
}

impl Fault {
    /// A fault at byte `offset` of `source`.
    pub fn at(file: &str, source: &str, offset: usize, text: impl Into<String>) -> Self {
        let mut end = offset.min(source.len());
        while !source.is_char_boundary(end) {
            end -= 1;
        }
        let before = &source[..end];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            text: text.into(),
        }
    }

    /// A fault of a file as a whole.
    pub fn of_file(file: &str, text: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: 1,
            column: 1,
            text: text.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: {}",
            self.file, self.line, self.column, self.text
        )
    }
}

/// Why a message could not be composed for one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ComposeError {
    /// The template wants a field that the recipient's data lacks.
    MissingField(Fault),
    /// The same, and the template says to leave such recipients out (`missing = "skip"`).
    Skipped(Fault),
    /// The template failed on this data: a filter refused a value, a loop over no list.
    Render(Fault),
    /// The template costs more work or depth than `limits.rs` allows.
    Unbounded(Fault),
    /// A part or header grew over its limit.
    TooLarge {
        /// File or header field.
        part: String,
        /// The limit.
        bytes_max: usize,
    },
    /// A header's value has a line break or other control in it.
    HeaderInjection {
        /// Header field.
        header: String,
    },
    /// A header's value that must be ASCII is not, or has no place to fold.
    BadHeader {
        /// Header field.
        header: String,
        /// What is wrong.
        why: &'static str,
    },
    /// An address made from the data is none.
    BadAddress {
        /// Header field.
        header: String,
        /// What the data gave.
        text: String,
        /// What is wrong with it.
        error: MailboxError,
    },
    /// A carrier would not take it.
    OverCarrierLimit {
        /// Carrier.
        carrier: &'static str,
        /// What is too much.
        what: &'static str,
        /// How much there is.
        figure: usize,
        /// How much it takes.
        limit: usize,
    },
    /// Something the carrier does not show: an image's type, or a tag where the template says to
    /// refuse rather than strip.
    Refused {
        /// Carrier.
        carrier: &'static str,
        /// The tag or image.
        what: String,
    },
    /// A character the character set lacks, where the template says to refuse.
    Unencodable {
        /// The first such character.
        character: char,
        /// Character set.
        charset: &'static str,
    },
}

impl fmt::Display for ComposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingField(fault) | Self::Render(fault) | Self::Unbounded(fault) => {
                fault.fmt(f)
            }
            Self::Skipped(fault) => write!(f, "left out: {fault}"),
            Self::TooLarge { part, bytes_max } => {
                write!(f, "{part} renders to more than {bytes_max} bytes")
            }
            Self::HeaderInjection { header } => {
                write!(
                    f,
                    "{header}: a line break or control character in the value; refused"
                )
            }
            Self::BadHeader { header, why } => write!(f, "{header}: {why}"),
            Self::BadAddress {
                header,
                text,
                error,
            } => write!(f, "{header}: {text:?}: {error}"),
            Self::OverCarrierLimit {
                carrier,
                what,
                figure,
                limit,
            } => {
                write!(f, "{carrier}: {what}: {figure}, limit {limit}")
            }
            Self::Refused { carrier, what } => write!(f, "{carrier}: does not show {what}"),
            Self::Unencodable { character, charset } => {
                write!(
                    f,
                    "{charset} has no {character:?} (U+{:04X})",
                    *character as u32
                )
            }
        }
    }
}

impl std::error::Error for ComposeError {}
