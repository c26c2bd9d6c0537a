//! Messages into a shard from other threads: the resolver, the control plane, and other shards.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use futures_lite::future::poll_fn;

type SharedWaker = Arc<Mutex<Option<Waker>>>;

/// The threads' end.
#[derive(Debug)]
pub(crate) struct MailboxSender<T> {
    // Dropped in this order: the shard that is woken then finds the sender gone.
    sender: Sender<T>,
    waker: SenderWaker,
}

/// Wakes the shard when a sender goes, as it may have been the last.
#[derive(Debug)]
struct SenderWaker(SharedWaker);

impl SenderWaker {
    fn wake(&self) {
        let waker = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for SenderWaker {
    fn drop(&mut self) {
        self.wake();
    }
}

impl<T> Clone for MailboxSender<T> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            waker: SenderWaker(Arc::clone(&self.waker.0)),
        }
    }
}

/// The shard's end.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    receiver: Receiver<T>,
    waker: SharedWaker,
}

/// A mailbox for at most `messages_max` messages.
pub(crate) fn mailbox<T>(messages_max: usize) -> (MailboxSender<T>, Mailbox<T>) {
    let (sender, receiver) = bounded(messages_max);
    let waker = SharedWaker::default();
    (
        MailboxSender {
            sender,
            waker: SenderWaker(Arc::clone(&waker)),
        },
        Mailbox { receiver, waker },
    )
}

impl<T> MailboxSender<T> {
    /// Puts a message in, or gives it back if the box is full or the shard is gone.
    ///
    /// # Errors
    /// The message.
    pub(crate) fn try_send(&self, message: T) -> Result<(), T> {
        self.try_send_all([message])
    }

    /// Puts messages in until one does not fit, and wakes the shard once.
    ///
    /// # Errors
    /// The message that did not fit; those behind it were not asked for.
    pub(crate) fn try_send_all(&self, messages: impl IntoIterator<Item = T>) -> Result<(), T> {
        let (mut any_sent, mut refused) = (false, None);
        for message in messages {
            match self.sender.try_send(message) {
                Ok(()) => any_sent = true,
                Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                    refused = Some(message);
                    break;
                }
            }
        }
        if any_sent {
            self.waker.wake();
        }
        refused.map_or(Ok(()), Err)
    }
}

impl<T> Mailbox<T> {
    /// The next message if there is one.
    pub(crate) fn try_recv(&self) -> Option<T> {
        self.receiver.try_recv().ok()
    }

    /// The next message; `None` when every sender is gone.
    pub(crate) async fn recv(&self) -> Option<T> {
        poll_fn(|cx| {
            // Looked at again after the waker is in place: a message may come in between.
            for last_look in [false, true] {
                match self.receiver.try_recv() {
                    Ok(message) => return Poll::Ready(Some(message)),
                    Err(crossbeam_channel::TryRecvError::Disconnected) => return Poll::Ready(None),
                    Err(crossbeam_channel::TryRecvError::Empty) if last_look => {}
                    Err(crossbeam_channel::TryRecvError::Empty) => {
                        let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
                        *waker = Some(cx.waker().clone());
                    }
                }
            }
            Poll::Pending
        })
        .await
    }
}
