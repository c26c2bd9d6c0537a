//! Messages from shard to shard.
//!
//! Each shard has one bounded box that all others put into; order from one shard to another is
//! kept. A shard puts in what gathered in its outboxes when its ready tasks have run, and wakes the
//! other once for all of it. glommio's own mesh wakes the *sender* too, for each message taken out:
//! two wakes too many for each message whose session is on one shard and whose mail on another.

use std::collections::VecDeque;

use engine::ids::ShardId;
use engine::shard::ShardMessage;

use super::mailbox::{Mailbox, MailboxSender, mailbox};

/// One shard's end of the mesh.
#[derive(Debug)]
pub(crate) struct MeshEnd {
    pub(crate) boxes: MeshBoxes,
    pub(crate) inbox: Mailbox<(ShardId, ShardMessage)>,
}

/// The boxes of all shards, by their numbers.
#[derive(Clone, Debug)]
pub(crate) struct MeshBoxes(Vec<MailboxSender<(ShardId, ShardMessage)>>);

/// Joins `shards` shards; a box holds at most `messages_max`. The ends in the shards' order.
pub(crate) fn mesh(shards: u16, messages_max: usize) -> Vec<MeshEnd> {
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..shards).map(|_| mailbox(messages_max)).unzip();
    inboxes
        .into_iter()
        .map(|inbox| MeshEnd {
            boxes: MeshBoxes(senders.clone()),
            inbox,
        })
        .collect()
}

impl MeshBoxes {
    /// How many shards there are.
    pub(super) fn shards(&self) -> usize {
        self.0.len()
    }

    /// Puts the messages of `outbox` into the box of `to`, in order, and wakes it once. What there
    /// is no room for stays; true if nothing did.
    pub(super) fn send_all(
        &self,
        from: ShardId,
        to: usize,
        outbox: &mut VecDeque<ShardMessage>,
    ) -> bool {
        if outbox.is_empty() {
            return true;
        }
        let messages = std::iter::from_fn(|| outbox.pop_front()).map(|message| (from, message));
        match self.0[to].try_send_all(messages) {
            Ok(()) => true,
            Err((_, message)) => {
                outbox.push_front(message);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use engine::ids::QueueId;
    use engine::shard::PartMessage;

    use super::*;

    fn confirm(id: u64) -> ShardMessage {
        let queue_id = QueueId(id);
        PartMessage::Confirm { queue_id }.into()
    }

    fn id_of((from, message): (ShardId, ShardMessage)) -> (u16, u64) {
        match message {
            ShardMessage::Part(PartMessage::Confirm { queue_id }) => (from.0, queue_id.0),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn full_box_keeps_the_rest_in_order_with_the_sender() {
        let ends = mesh(2, 3);
        let mut outbox: VecDeque<_> = (1..=5).map(confirm).collect();
        assert!(!ends[0].boxes.send_all(ShardId(0), 1, &mut outbox));
        assert_eq!(outbox.len(), 2);
        let taken: Vec<_> = std::iter::from_fn(|| ends[1].inbox.try_recv())
            .map(id_of)
            .collect();
        assert_eq!(taken, [(0, 1), (0, 2), (0, 3)]);
        assert!(ends[0].boxes.send_all(ShardId(0), 1, &mut outbox));
        let rest: Vec<_> = std::iter::from_fn(|| ends[1].inbox.try_recv())
            .map(id_of)
            .collect();
        assert_eq!(rest, [(0, 4), (0, 5)]);
    }

    #[test]
    fn messages_of_one_turn_wake_the_other_shard_once() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicUsize, Ordering};
        use std::task::{Context, Wake, Waker};

        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let ends = mesh(2, 64);
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut waiting = Box::pin(ends[1].inbox.recv());
        let mut cx = Context::from_waker(&waker);
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        let mut outbox: VecDeque<_> = (1..=10).map(confirm).collect();
        assert!(ends[0].boxes.send_all(ShardId(0), 1, &mut outbox));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(waiting.as_mut().poll(&mut cx).is_ready());
    }
}
