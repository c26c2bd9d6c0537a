//! Clients: the mail they send, and what they are told.

use std::sync::Arc;

use engine::address::Address;
use engine::envelope::Envelope;
use engine::ids::SessionTicket;
use engine::shard::{Event, Submission};

use super::ledger::{Checked, Heard};
use super::net;
use super::process::Moment;
use super::stops::GROUPS;
use super::world::{SECOND_US, World};

impl World {
    /// A client sends a message.
    pub(crate) fn inject(&mut self, n: usize, tries: u32) -> Checked {
        let at_shard = self.random.below(u64::from(self.shards)) as usize;
        let process = self.process.as_mut().filter(|process| !process.draining);
        let Some(shard) = process.and_then(|process| process.shards.get_mut(at_shard)) else {
            let at = self.now_us + SECOND_US;
            self.at(at, Moment::Inject(n, tries));
            return Ok(());
        };
        if shard.core.overload().is_some() {
            // The client is told 452 before it sends, and comes again.
            let at = self.now_us + 2 * SECOND_US;
            self.at(at, Moment::Inject(n, tries));
            return Ok(());
        }
        self.to_inject -= 1;
        let now = self.now();
        let queue_id = self.process.as_mut().unwrap().shards[at_shard]
            .core
            .next_queue_id(now);
        let submission = self.message(n, tries, queue_id);
        let names: Vec<String> = submission
            .recipients()
            .iter()
            .map(|recipient| recipient.as_str().to_owned())
            .collect();
        let reverse_path = &submission.envelope.reverse_path;
        let from = reverse_path.as_ref().map(Address::as_str);
        let mail = self.ledger.injected(&submission.content, from, &names);
        self.trace(|_| {
            let bytes = submission.content.len();
            format!(
                "shard {at_shard}: {queue_id} mail {mail} from {from:?} to {names:?}, {bytes} bytes"
            )
        });
        self.next_number += 1;
        let ticket = SessionTicket(self.next_number);
        self.tickets.insert(ticket, mail);
        if self.strikes(100) {
            let within_us = self.random.below(8 * SECOND_US);
            self.soon(within_us, Moment::GiveUp(at_shard, ticket));
        }
        if self.strikes(self.faults.full) {
            self.full_until_us = self.now_us + self.random.below(8 * SECOND_US);
            self.trace(|_| "the disk is full".into());
        }
        self.event(
            at_shard,
            Event::Accepted {
                ticket,
                submission: Box::new(submission),
            },
        )
    }

    /// A client goes without its answer. What is said after it is held to all the same.
    pub(crate) fn give_up(&mut self, shard: usize, ticket: SessionTicket) -> Checked {
        let Some(mail) = self.tickets.remove(&ticket) else {
            return Ok(());
        };
        self.trace(|_| format!("the client of mail {mail} gives up"));
        self.gone.insert(ticket, mail);
        self.event(shard, Event::Gone { ticket })
    }

    /// Nothing is under way any more: whoever is still there has heard.
    pub(crate) fn all_are_answered(&self) -> Checked {
        match self.tickets.values().min() {
            Some(mail) => Err(format!("the client of mail {mail} was never answered")),
            None => Ok(()),
        }
    }

    fn message(&mut self, n: usize, tries: u32, queue_id: engine::ids::QueueId) -> Submission {
        let random = &mut self.random;
        let mut recipients = Vec::new();
        let one_domain = random.below(8) == 0;
        let mut domain = net::DOMAINS[random.below(net::RECIPIENT_DOMAINS) as usize].0;
        for r in 0..1 + random.below(3) * random.below(3) {
            if !one_domain {
                domain = net::DOMAINS[random.below(net::RECIPIENT_DOMAINS) as usize].0;
            }
            let plan = net::random_plan(random);
            recipients.push(
                Address::parse(&format!("m{n}r{r}-{plan}@{domain}"))
                    .unwrap()
                    .into(),
            );
        }
        let reverse_path = match random.below(10) {
            0 | 1 => None,
            2 => Some(format!("s{n}@gone-sender.example")),
            _ => Some(format!("s{n}@sender.example")),
        };
        let bytes = [100, 1000, 3000, 8000][random.below(4) as usize] + random.below(500) as usize;
        let mut content =
            format!("Message-ID: <{n}.{tries}@client.example>\r\nSubject: {n}\r\n\r\n")
                .into_bytes();
        while content.len() < bytes {
            content.extend_from_slice(b"Simulated mail, one line of it.\r\n");
        }
        Submission {
            queue_id,
            accepted: self.now().unix,
            envelope: Arc::new(Envelope::new(
                reverse_path.map(|path| Address::parse(&path).unwrap()),
                recipients,
            )),
            group: GROUPS[n % 3].map(Into::into),
            tags: Vec::new(),
            message_id: None,
            peer: None,
            options: Box::default(),
            content,
        }
    }

    /// A session is answered; the client of mail that was not taken gives up.
    pub(crate) fn answer(
        &mut self,
        ticket: SessionTicket,
        result: engine::shard::Stored,
    ) -> Checked {
        let mail = (self.tickets.remove(&ticket)).or_else(|| self.gone.remove(&ticket));
        let Some(mail) = mail else {
            return Err("an answer to nobody".into());
        };
        self.trace(|_| format!("mail {mail} is answered {result:?}"));
        self.ledger.answered(mail, result)?;
        debug_assert_eq!(self.ledger.heard(mail), Heard::Told(result));
        Ok(())
    }
}
