//! The supervisor that started us, systemd above all: told when we are ready, what we are doing, that we
//! end, and as long as every shard answers that we are alive (sd_notify(3)).
//!
//! Without `$NOTIFY_SOCKET` nothing is said to anybody.

use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use engine::ids::ShardId;
use engine::operator::{Answer, Query};
use sd_notify::NotifyState;

use crate::control::Daemon;

/// Beyond `[delivery] stop_timeout`, for all else of an end.
const END_MAX: Duration = Duration::from_secs(20);

/// The start is over: mail is accepted, or `hikyaku unlock` is waited for.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The end has begun, and may take as long as deliveries in flight may.
pub(crate) fn stopping(longest: Duration) {
    let micros = (longest + END_MAX).as_micros();
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("stopping: deliveries in flight are waited for"),
        NotifyState::ExtendTimeoutUsec(u32::try_from(micros).unwrap_or(u32::MAX)),
    ]);
}

/// How often the supervisor wants to hear that we are alive, if it does: half of its patience.
pub(crate) fn wants_to_hear() -> Option<Duration> {
    let patience = sd_notify::watchdog_enabled()?;
    (!patience.is_zero()).then(|| patience / 2)
}

/// Says again and again that we are alive, for as long as that is so.
pub(crate) fn keep_saying(daemon: &dyn Daemon, every: Duration) {
    loop {
        let begun = Instant::now();
        let ask = |shard| daemon.ask(ShardId(shard), Query::Status).ok();
        if all_answer(daemon.shards(), ask, every) {
            tell(&[NotifyState::Watchdog]);
        } else {
            crate::say!(
                "warning: a shard does not answer; the supervisor is not told that all is well"
            );
        }
        std::thread::sleep(every.saturating_sub(begun.elapsed()));
    }
}

/// Whether every shard answers within `longest`; none runs while locked and while stopping.
fn all_answer(
    shards: u16,
    ask: impl Fn(u16) -> Option<Receiver<Answer>>,
    longest: Duration,
) -> bool {
    let end = Instant::now() + longest;
    let asked: Vec<_> = (0..shards).map(ask).collect();
    // One that has gone since its number was asked for takes its end of the channel with it.
    asked
        .into_iter()
        .all(|answer| answer.is_some_and(|answer| answer.recv_deadline(end).is_ok()))
}

/// A supervisor that cannot be told has no way to know better; there is nothing else to do.
fn tell(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;

    #[test]
    fn one_silent_shard_is_enough() {
        let soon = Duration::from_millis(50);
        let (answers, silence) = bounded(1);
        let answered = || {
            let (send, receive) = bounded(1);
            send.send(Answer::Retried(0)).unwrap();
            Some(receive)
        };
        assert!(all_answer(0, |_| None, soon), "locked");
        assert!(all_answer(3, |_| answered(), soon));
        let one_silent = |n| {
            if n == 1 {
                Some(silence.clone())
            } else {
                answered()
            }
        };
        assert!(!all_answer(3, one_silent, soon));
        assert!(!all_answer(
            3,
            |n| if n == 2 { None } else { answered() },
            soon
        ));
        drop(answers);
    }
}
