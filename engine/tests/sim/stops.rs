//! An operator stops mail and sets it going again, at any moment; what is stopped is not sent.

use std::sync::Arc;

use engine::address::Address;
use engine::clock::UnixMs;
use engine::policy::stop::{NewStop, Selector, StopBook};
use engine::smtp::client::OutboundTransaction;

use super::ledger::Checked;
use super::net;
use super::world::World;

/// The groups of clients' mail, by number.
pub(crate) const GROUPS: [Option<&str>; 3] = [None, Some("news"), Some("orders")];

impl World {
    /// Stops the mail of a domain, a group, a sender's address or a part of it, or lets go what was stopped.
    pub(crate) fn stop_or_resume(&mut self) -> Checked {
        if self.calm || self.process.is_none() {
            return Ok(());
        }
        let mut selector = Selector::default();
        let domain = net::DOMAINS[self.random.below(net::RECIPIENT_DOMAINS) as usize].0;
        match self.random.below(5) {
            0 => return self.resume_all(),
            1 => selector.domain = Some(domain.into()),
            2 => selector.group = Some("news".into()),
            3 => {
                selector.domain = Some(domain.into());
                selector.group = Some("orders".into());
            }
            _ => {
                selector.sender = Some(format!("s{}@sender.example", self.random.below(60)).into())
            }
        }
        let new = NewStop {
            selector,
            ..NewStop::default()
        };
        // The clocks of shards and operator may differ; nothing here ends by time.
        let book = self.stops.with(new, UnixMs(0));
        self.bring(book.map_err(|_| "too many stops")?)
    }

    pub(crate) fn resume_all(&mut self) -> Checked {
        self.bring(self.stops.without(|_| true, UnixMs(0)))
    }

    fn bring(&mut self, book: StopBook) -> Checked {
        self.stops = Arc::new(book);
        self.trace(|world| {
            let stops = world.stops.stops().iter();
            let stops: Vec<String> = stops.map(|stop| stop.selector.to_string()).collect();
            format!("stopped from now on: {stops:?}")
        });
        let now = self.now();
        let stops = Arc::clone(&self.stops);
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        for shard in &mut process.shards {
            shard.core.set_stops(Arc::clone(&stops), now);
        }
        let shards = process.shards.len();
        (0..shards).try_for_each(|shard| self.carry_out(shard))
    }

    /// A transaction is about to begin: nobody has stopped it.
    pub(crate) fn check_stops(&mut self, transaction: &OutboundTransaction) -> Checked {
        let subject = String::from_utf8_lossy(&transaction.content);
        let number = subject
            .lines()
            .find_map(|line| line.strip_prefix("Subject: "));
        // Notifications have no number there.
        let number = number.and_then(|number| number.trim().parse::<usize>().ok());
        let group = number.and_then(|number| GROUPS[number % 3]);
        let sender = (transaction.envelope.reverse_path.as_ref()).map(Address::as_str);
        for stop in self.stops.stops() {
            let Selector {
                domain,
                group: of_group,
                sender: of_sender,
                ..
            } = &stop.selector;
            let is_to = |domain: &str| {
                let mut to = transaction.forward_paths();
                to.any(|to| to.rsplit_once('@').is_some_and(|(_, at)| at == domain))
            };
            let is_meant = domain.as_deref().is_none_or(is_to)
                && of_group.as_deref().is_none_or(|of| group == Some(of))
                && of_sender.as_deref().is_none_or(|of| sender == Some(of));
            if is_meant {
                let to: Vec<&str> = transaction.forward_paths().collect();
                let what = &stop.selector;
                return Err(format!("mail to {to:?} is sent, which is stopped: {what}"));
            }
        }
        if !self.stops.is_empty() {
            self.summary.passed_stops += 1;
        }
        Ok(())
    }
}
