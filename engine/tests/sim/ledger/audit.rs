//! When all is over: what was promised is kept, and all of it is written down.

use engine::ids::ShardId;
use engine::keys::KeyRing;
use engine::queue::cipher::SegmentName;
use engine::queue::record::OutcomeKind;
use engine::queue::segment::SegmentHeader;
use engine::shard::Stored;

use super::mail::{Part, expected_kind};
use super::{Checked, Heard, Ledger};

impl Ledger {
    /// All is written down: no part on disk is open.
    pub(crate) fn nothing_open(&self) -> Checked {
        for (n, mail) in self
            .mails
            .iter()
            .enumerate()
            .filter(|(_, mail)| !mail.spoiled)
        {
            let is_left = |part: &&Part| part.failed && !part.void && !part.saw_cut;
            if let Some(part) = mail.parts.iter().find(is_left) {
                return Err(format!(
                    "mail {n} at shard {} was not cancelled after its write failed",
                    part.shard
                ));
            }
            // A cancel is moot when the segment of what it is about goes before it is written.
            let was_refused = matches!(mail.heard, Heard::Told(told) if told != Stored::Durable);
            let is_open =
                |part: &&Part| part.certain && !part.void && !(was_refused && part.let_go);
            for part in mail.parts.iter().filter(is_open) {
                let open = |address: &&String| {
                    let settled = part.done.contains(*address)
                        || part.perhaps.contains_key(*address)
                        || part.saw_cut && mail.may_be_done(address);
                    !settled
                };
                if let Some(address) = part.addresses.iter().find(open)
                    && !part.perhaps_void
                {
                    return Err(format!(
                        "the outcome of mail {n} to {address} at shard {} was never durable",
                        part.shard
                    ));
                }
            }
        }
        Ok(())
    }

    /// Mail of which all is over, one way or another.
    pub(crate) fn settled(&self) -> Checked {
        for (n, mail) in self
            .mails
            .iter()
            .enumerate()
            .filter(|(_, mail)| !mail.spoiled)
        {
            let owed = mail.heard == Heard::Told(Stored::Durable);
            for (address, fate) in &mail.fates {
                let what = format!("mail {n} to {address}");
                match fate.recorded {
                    None if owed && !mail.may_be_done(address) => {
                        return Err(format!("{what} was answered 250 and is lost: {fate:?}"));
                    }
                    None => {}
                    Some(kind) => {
                        let may_expire = self.started_wrong || fate.has_window;
                        let expired = may_expire && kind == OutcomeKind::Expired;
                        if !expired {
                            check_kind(address, kind).map_err(|why| format!("{what}: {why}"))?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// How many messages of clients there are, and how many of them were answered 250.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let clients = self.mails.iter().filter(|mail| !mail.is_notice);
        let durable = clients
            .clone()
            .filter(|mail| mail.heard == Heard::Told(Stored::Durable));
        (
            clients.count(),
            durable.count(),
            self.mails.iter().filter(|mail| mail.is_notice).count(),
        )
    }
}

fn check_kind(address: &str, kind: OutcomeKind) -> Checked {
    let expected = expected_kind(address);
    if kind == expected {
        Ok(())
    } else {
        Err(format!("{kind:?} instead of {expected:?}"))
    }
}

/// No file of the queue can be read with other keys, nor under another name.
pub(crate) fn is_sealed(
    front: &[u8],
    right: &KeyRing,
    wrong: &KeyRing,
    name: SegmentName,
) -> Checked {
    if SegmentHeader::open(front, wrong, name).is_ok() {
        return Err(format!("{name:?} opens without its key"));
    }
    let SegmentName {
        stream,
        shard,
        segment,
    } = name;
    let elsewhere = SegmentName {
        stream,
        shard: ShardId(shard.0 + 1),
        segment,
    };
    if SegmentHeader::open(front, right, elsewhere).is_ok() {
        return Err(format!("{name:?} opens as another shard's"));
    }
    Ok(())
}
