//! The other end of a connection: takes, puts off, refuses, resets, loses its reply.

use engine::phase::Phase;
use engine::pool::ConnId;
use engine::shard::Event;
use engine::smtp::client::{OutboundTransaction, RecipientOutcome};

use super::actions::MS;
use super::ledger::Checked;
use super::net;
use super::process::Moment;
use super::world::{SECOND_US, World};

fn recipients(transaction: &OutboundTransaction) -> Vec<Box<str>> {
    transaction.forward_paths().map(Into::into).collect()
}

impl World {
    pub(crate) fn start(
        &mut self,
        shard: usize,
        conn: ConnId,
        transaction: OutboundTransaction,
    ) -> Checked {
        if self.shard(shard).core.is_writing_failing() {
            return Err(format!(
                "shard {shard} begins a delivery while it cannot note outcomes"
            ));
        }
        let recipients = recipients(&transaction);
        let mail = (self.ledger).started(shard as u16, &transaction.content, &recipients)?;
        self.trace(|_| format!("shard {shard}: send mail {mail} to {recipients:?}"));
        self.is_within_window(&recipients)?;
        let (early, now_us) = (self.random.below(2) == 0, self.now_us);
        let here = self.shard(shard);
        let host = here.conns.get(&conn).and_then(|connection| connection.host);
        let site = host.and_then(net::site_of);
        let rests_until_us = site.and_then(|site| here.resting.get(&site).copied());
        if rests_until_us.is_some_and(|until_us| now_us < until_us) && !here.lifts {
            return Err(format!("mail {mail} is begun at a site that rests"));
        }
        let Some(connection) = self.shard(shard).conns.get_mut(&conn) else {
            return Err(format!("mail {mail} is given to a connection that is gone"));
        };
        connection.offered = false;
        connection.waiting.push_back(transaction);
        if connection.waiting.len() == 1 {
            self.soon(100 * MS, Moment::Peer(shard, conn));
        }
        if early {
            self.soon(50 * MS, Moment::Offer(shard, conn));
        }
        Ok(())
    }

    /// What begins now may do so.
    fn is_within_window(&mut self, recipients: &[Box<str>]) -> Checked {
        let minute = self.now().unix.0 / 60_000 % 60;
        if self.open_minutes == (0..60) || !recipients.iter().any(|to| net::has_window(to)) {
            return Ok(());
        }
        self.summary.windowed += 1;
        if self.open_minutes.contains(&minute) {
            return Ok(());
        }
        Err(format!(
            "mail to {recipients:?} begins in minute {minute}, closed"
        ))
    }

    /// The connection would take another transaction.
    pub(crate) fn offer(&mut self, shard: usize, conn: ConnId) -> Checked {
        match self.shard(shard).conns.get_mut(&conn) {
            Some(connection) if !connection.offered => {
                connection.offered = true;
                self.event(shard, Event::CanStart { conn })
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn next_transaction(&mut self, shard: usize, conn: ConnId) {
        let Some(connection) = self.shard(shard).conns.get_mut(&conn) else {
            return;
        };
        if !connection.waiting.is_empty() {
            self.soon(100 * MS, Moment::Peer(shard, conn));
        } else if self.random.below(20) == 0 {
            self.soon(4000 * MS, Moment::PeerClose(shard, conn));
        }
    }

    /// The peer decides on the first waiting transaction.
    pub(crate) fn peer(&mut self, shard: usize, conn: ConnId) -> Checked {
        let Some(connection) = self.shard(shard).conns.get_mut(&conn) else {
            return Ok(());
        };
        let Some(transaction) = connection.waiting.pop_front() else {
            return Ok(());
        };
        let recipients = recipients(&transaction);
        let mail = (self.ledger).started(shard as u16, &transaction.content, &recipients)?;
        let reset = self.strikes(self.faults.reset);
        let reply_lost = !reset && self.strikes(self.faults.reply_lost);
        let put_off = self.strikes(self.faults.whole_4xx);
        let ruled = self.strikes(self.faults.ruled);
        let words = net::RULED[self.random.below(net::RULED.len() as u64) as usize];
        let mut results = Vec::with_capacity(recipients.len());
        for recipient in &recipients {
            if reset {
                results.push(net::lost());
                continue;
            }
            let tries = self.ledger.tries(mail, recipient);
            let mut result = net::verdict(recipient, tries);
            match result.outcome {
                RecipientOutcome::Delivered if ruled => {
                    let (outcome, phase) = (RecipientOutcome::Deferred, Phase::Mail);
                    result = net::result(outcome, phase, 451, (4, 7, 1), words);
                }
                RecipientOutcome::Delivered if put_off => {
                    let (outcome, phase) = (RecipientOutcome::Deferred, Phase::EndOfData);
                    result = net::result(outcome, phase, 451, (4, 3, 0), "cannot take it now");
                }
                RecipientOutcome::Delivered => {
                    self.ledger.taken(mail, recipient);
                    if reply_lost {
                        self.ledger.reply_lost(mail, recipient);
                        result = net::lost();
                    }
                }
                RecipientOutcome::Failed => self.ledger.refused(mail, recipient),
                RecipientOutcome::Deferred | RecipientOutcome::Lost => {}
            }
            results.push(result);
        }
        self.trace(|_| {
            let said: Vec<_> = results
                .iter()
                .map(|result| result.reply.to_string())
                .collect();
            format!("peer on mail {mail}: {said:?}, reset {reset}, reply lost {reply_lost}")
        });
        let broken = reset || reply_lost;
        let token = transaction.token;
        self.soon(
            100 * MS,
            Moment::Reply {
                shard,
                conn,
                token,
                results,
                broken,
            },
        );
        Ok(())
    }

    /// What a peer said may have its site rest, as the operator's rules say.
    pub(crate) fn note_rests(&mut self, shard: usize, conn: ConnId, finished: &Event) {
        let Event::Finished { results, .. } = finished else {
            return;
        };
        let until_us = self.now_us + net::REST_S * SECOND_US;
        let here = self.shard(shard);
        let host = here.conns.get(&conn).and_then(|connection| connection.host);
        let is_rest = results
            .iter()
            .any(|result| &*result.reply.text == net::REST);
        if let Some(site) = host.and_then(net::site_of)
            && is_rest
        {
            here.resting.insert(site, until_us);
        }
    }

    /// The connection is lost: the transaction under way has its result, those behind come back.
    pub(crate) fn break_off(&mut self, shard: usize, conn: ConnId, finished: Event) -> Checked {
        self.event(shard, finished)?;
        while let Some(connection) = self.shard(shard).conns.get_mut(&conn)
            && let Some(transaction) = connection.waiting.pop_front()
        {
            self.event(
                shard,
                Event::Returned {
                    conn,
                    token: transaction.token,
                },
            )?;
        }
        self.closed(shard, conn, Phase::EndOfData, "connection lost")
    }

    pub(crate) fn closed(
        &mut self,
        shard: usize,
        conn: ConnId,
        phase: Phase,
        cause: &str,
    ) -> Checked {
        if self.shard(shard).conns.remove(&conn).is_none() {
            return Ok(());
        }
        self.event(
            shard,
            Event::Closed {
                conn,
                phase,
                cause: cause.into(),
            },
        )
    }
}
