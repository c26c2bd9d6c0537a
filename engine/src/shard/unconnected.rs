//! What becomes of mail that no connection was found for.

use crate::dns::{DnsFailure, DnsTrouble, Target};
use crate::phase::Phase;
use crate::queue::record::OutcomeKind;
use crate::smtp::reply::Reply;

/// What becomes of mail without a connection.
#[derive(Clone, Debug)]
pub(super) enum Unconnected {
    /// Too old.
    Expired,
    /// DNS gave no answer.
    DnsTrouble(DnsTrouble),
    /// DNS says there is no host.
    DnsFailure(DnsFailure),
    /// No target would have us.
    NoConnection {
        phase: Phase,
        cause: Box<str>,
        /// The last one that was tried.
        target: Option<Target>,
        /// What it said, if it refused the session.
        refusal: Option<Reply>,
        connecting: bool,
    },
}

impl Unconnected {
    pub(super) fn outcome(&self) -> OutcomeKind {
        match self {
            Self::Expired => OutcomeKind::Expired,
            Self::DnsFailure(_) => OutcomeKind::Failed,
            Self::DnsTrouble(_) | Self::NoConnection { .. } => OutcomeKind::Deferred,
        }
    }

    pub(super) fn phase(&self) -> Option<Phase> {
        match self {
            Self::Expired => None,
            Self::DnsTrouble(_) | Self::DnsFailure(_) => Some(Phase::Dns),
            Self::NoConnection { phase, .. } => Some(*phase),
        }
    }
}
