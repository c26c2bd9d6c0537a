//! What must hold between the rooms of a shard at all times, looked at in full: for tests and the
//! simulation.

use super::ShardCore;
use super::admit::WAITING_MAX;
use crate::counters::Counter;

impl ShardCore {
    /// Holds the books against each other: the queue's states, lists, lengths and levels
    /// (`schedule::mail`), its deliveries, and the rounds of the sites.
    ///
    /// # Panics
    /// If they do not agree.
    pub fn assert_consistent(&self) {
        self.mail.assert_consistent(&self.counters);
        assert_eq!(self.mail.sending_len(), self.deliveries.len());
        let delivering = self.deliveries.values();
        let recipients: usize = delivering.map(|delivery| delivery.recipients.len()).sum();
        assert_eq!(
            self.counters.total(Counter::Delivering),
            recipients as u64,
            "recipients with connections"
        );
        self.assert_parked();
        let (at_door, bytes) = (self.admission.len(), self.admission.bytes());
        assert!(at_door <= WAITING_MAX, "{at_door} wait to be admitted");
        assert_eq!(self.content.at_door_bytes(), bytes, "memory of those");
        let mut in_rounds = 0;
        self.pool.assert_consistent();
        for (round, ready_len, name) in self.pool.rounds() {
            let ready = round
                .iter()
                .map(|id| u64::from(self.mail.destination(*id).ready_len()));
            assert_eq!(ready.sum::<u64>(), ready_len, "ready at {name}");
            in_rounds += round.len();
        }
        let destinations = self.mail.destinations();
        let marked = destinations.filter(|destination| destination.in_round);
        assert_eq!(marked.count(), in_rounds, "destinations in rounds");
    }

    /// Whether outcomes could not be noted now: then no delivery may begin.
    pub const fn is_writing_failing(&self) -> bool {
        self.store.queue.is_failing()
    }

    /// How many entries wait to be durable at every shard that owns a recipient. Looked at in full, too.
    pub fn storing_len(&self) -> usize {
        self.mail.storing_len()
    }
}
