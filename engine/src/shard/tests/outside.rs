//! The outside of a [`Relay`]: carries out what its shard asks for.
//!
//! Every domain has an MX host of its own; those below `hosted.example` share one, those below
//! `three.example` have three each. A host has an address of each family.

use std::rc::Rc;

use super::super::{Action, DiskError, Event, PartMessage, ShardMessage};
use super::relay::{Connect, Peers, Relay};
use crate::dns::{Answer, MxRecord, Question};
use crate::phase::Phase;
use crate::pool::{ConnId, PeerInfo};
use crate::queue::cipher::Stream;
use crate::smtp::client::{OutboundTransaction, RecipientOutcome, RecipientResult};
use crate::smtp::reply::Reply;
use crate::status::EnhancedStatus;

impl Relay {
    pub(super) fn handle(&mut self, event: Event) {
        self.turn(event);
        self.settle();
    }

    fn turn(&mut self, event: Event) {
        self.core.handle(event, self.now);
        self.most_touched = self.most_touched.max(self.core.entries_touched());
    }

    /// Carries out what is asked until nothing is.
    pub(super) fn settle(&mut self) {
        let mut actions = Vec::new();
        loop {
            if !self.disk_is_slow {
                self.core.flush(self.now);
            }
            self.core.take_actions(&mut actions);
            if actions.is_empty() {
                return;
            }
            for action in actions.drain(..) {
                if let Some(event) = self.carry_out(action) {
                    self.turn(event);
                }
            }
        }
    }

    fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Answer { result, .. } => self.answers.push(result),
            Action::Tell { message, .. } => match message {
                ShardMessage::Part(PartMessage::Stored { result, .. }) => self.told.push(result),
                ShardMessage::Part(PartMessage::Store { split, .. }) => {
                    self.given_away.push(split);
                }
                _ => {}
            },
            Action::Resolve { question } => {
                self.questions.push(question.clone());
                if !self.resolver_hangs {
                    return Some(self.answered(question));
                }
            }
            Action::Connect {
                conn,
                target,
                source,
            } => {
                let target = target.address;
                let ends = Connect { source, target };
                self.connects.push(ends);
                self.ends.insert(conn, ends);
                return Some(self.connect(conn));
            }
            Action::Start { conn, transaction } => return self.start(conn, transaction),
            Action::Quit { conn } => {
                return Some(Event::Closed {
                    conn,
                    phase: Phase::Quit,
                    cause: "quit".into(),
                });
            }
            Action::Report { line } if line.contains("wall clock has leapt") => self.leaps += 1,
            Action::Report { line } if line.starts_with("queue write failed") => {}
            Action::Report { line } if line.contains(": rule ") => self.alerts.push(line),
            Action::Report { line } => panic!("{line}"),
            disk => return self.carry_out_on_disk(disk),
        }
        None
    }

    fn carry_out_on_disk(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Write {
                batch,
                stream,
                segment,
                offset,
                bytes,
                begin,
            } => {
                if stream == Stream::Queue {
                    let file = self.disk.entry(segment).or_default();
                    file.resize(file.len().max(offset as usize + bytes.len()), 0);
                    file[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
                }
                if stream == Stream::DeliveryLog && begin.is_some() {
                    self.logs.push(segment);
                }
                let result = if stream == Stream::Queue && self.failing_writes > 0 {
                    self.failing_writes -= 1;
                    Err(DiskError::Io("Input/output error".into()))
                } else {
                    Ok(())
                };
                Some(Event::Written { batch, result })
            }
            Action::Retire { segment, disposal } => {
                self.disk.remove(&segment);
                Some(Event::Retired {
                    segment,
                    disposal,
                    result: Ok(()),
                })
            }
            Action::NoteHandover { handover } => {
                let result = Ok(());
                Some(Event::HandoverNoted { handover, result })
            }
            Action::DeleteFree => Some(Event::FreeDeleted { result: Ok(()) }),
            Action::Compact { segment } => {
                // Nothing is alive there in these tests.
                self.core.compact_read(segment, Ok(()), self.now);
                None
            }
            Action::Read { read, placement } => {
                let from = placement.offset.0 as usize;
                let file = &self.disk[&placement.segment];
                let result = Ok(file[from..from + placement.bytes as usize].to_vec());
                Some(Event::Read { read, result })
            }
            Action::Delete { .. } => None,
            other => panic!("{other:?} is not for the disk"),
        }
    }

    fn connect(&self, conn: ConnId) -> Event {
        match self.peers.clone() {
            Peers::Refuse(cause) => Event::Closed {
                conn,
                phase: Phase::Greeting,
                cause,
            },
            Peers::Take | Peers::Hold | Peers::Break | Peers::Say(_) => Event::Connected {
                conn,
                peer: Rc::new(PeerInfo {
                    source_ip: self.ends[&conn].source,
                    eight_bit_mime: self.peers_take_eight_bit,
                    ..PeerInfo::default()
                }),
            },
        }
    }

    fn start(&mut self, conn: ConnId, transaction: OutboundTransaction) -> Option<Event> {
        self.sent.push(transaction.recipients.len());
        match self.peers.clone() {
            Peers::Say(said)
                if said
                    .only
                    .is_none_or(|ip| ip == self.ends[&conn].target.ip()) =>
            {
                self.say(conn, &transaction, said.phase, said.code, &said.text);
                Some(Event::CanStart { conn })
            }
            Peers::Hold => {
                self.held.push((conn, transaction));
                None
            }
            Peers::Break => {
                let phase = Phase::Data;
                let reply = Reply::synthetic(421, EnhancedStatus::new(4, 4, 2), "lost");
                self.finish(conn, &transaction, RecipientOutcome::Lost, phase, reply);
                Some(Event::Closed {
                    conn,
                    phase,
                    cause: "lost".into(),
                })
            }
            Peers::Take | Peers::Refuse(_) | Peers::Say(_) => {
                self.take(conn, &transaction);
                Some(Event::CanStart { conn })
            }
        }
    }

    /// The peer refuses the transaction with this reply.
    fn say(
        &mut self,
        conn: ConnId,
        transaction: &OutboundTransaction,
        phase: Phase,
        code: u16,
        text: &str,
    ) {
        let enhanced = text.split(' ').find_map(EnhancedStatus::parse);
        let reply = Reply {
            code: crate::smtp::reply::known(code),
            enhanced,
            text: match enhanced {
                Some(_) => text.split_once(' ').unwrap().1.into(),
                None => text.into(),
            },
        };
        let outcome = match code {
            500.. => RecipientOutcome::Failed,
            _ => RecipientOutcome::Deferred,
        };
        self.finish(conn, transaction, outcome, phase, reply);
    }

    /// The one that has held its transaction for longest answers with this, to MAIL.
    pub(super) fn first_held_says(&mut self, code: u16, text: &str) {
        let (conn, transaction) = self.held.remove(0);
        self.say(conn, &transaction, Phase::Mail, code, text);
        self.settle();
    }

    pub(super) fn take(&mut self, conn: ConnId, transaction: &OutboundTransaction) {
        self.delivered += transaction.recipients.len();
        let (outcome, phase) = (RecipientOutcome::Delivered, Phase::EndOfData);
        let reply = Reply::synthetic(250, EnhancedStatus::new(2, 0, 0), "ok");
        self.finish(conn, transaction, outcome, phase, reply);
    }

    fn finish(
        &mut self,
        conn: ConnId,
        transaction: &OutboundTransaction,
        outcome: RecipientOutcome,
        phase: Phase,
        reply: Reply,
    ) {
        let result = RecipientResult {
            outcome,
            phase,
            reply,
        };
        let results = vec![result; transaction.recipients.len()];
        let token = transaction.token;
        let event = Event::Finished {
            conn,
            token,
            results,
        };
        self.core.handle(event, self.now);
    }

    pub(super) fn answered(&self, question: Question) -> Event {
        let answer = match &question {
            Question::Addresses(_) => Answer::Addresses(self.addresses.clone()),
            Question::Mx(domain) => Answer::Mx(mx_hosts(domain.as_str())),
        };
        Event::Answered {
            question,
            answer,
            ttl_s: self.ttl_s,
        }
    }
}

fn mx_hosts(domain: &str) -> Vec<MxRecord> {
    let record = |preference: u16, host: String| MxRecord {
        preference,
        host: host.as_str().into(),
    };
    if domain.ends_with(".hosted.example") {
        vec![record(10, "mx.hosted.example".into())]
    } else if domain.ends_with(".three.example") {
        (1..=3)
            .map(|n| record(n, format!("mx{n}.{domain}")))
            .collect()
    } else {
        vec![record(10, format!("mx.{domain}"))]
    }
}
