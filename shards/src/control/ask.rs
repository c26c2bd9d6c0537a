//! Questions to all shards at once.

use std::time::Instant;

use engine::ids::ShardId;
use engine::operator::{Answer, Query};

use super::{AskError, Daemon, Refusal, State};

/// Asks every shard, then waits for all of them until one deadline.
pub(super) fn ask_each(
    daemon: &dyn Daemon,
    query: &Query,
) -> Vec<(ShardId, Result<Answer, AskError>)> {
    let deadline = Instant::now() + daemon.answer_timeout();
    let asked: Vec<_> = (0..daemon.shards())
        .map(ShardId)
        .map(|shard| (shard, daemon.ask(shard, query.clone())))
        .collect();
    asked
        .into_iter()
        .map(|(shard, asked)| {
            let answer = asked.and_then(|answer| {
                answer.recv_deadline(deadline).map_err(|error| match error {
                    crossbeam_channel::RecvTimeoutError::Timeout => AskError::TimedOut,
                    crossbeam_channel::RecvTimeoutError::Disconnected => AskError::Gone,
                })
            });
            (shard, answer)
        })
        .collect()
}

/// The same where an answer without one of the shards would be wrong without saying so.
pub(crate) fn ask_all(
    daemon: &dyn Daemon,
    query: &Query,
) -> Result<Vec<(ShardId, Answer)>, Refusal> {
    must_run(daemon)?;
    ask_each(daemon, query)
        .into_iter()
        .map(|(shard, answer)| match answer {
            Ok(answer) => Ok((shard, answer)),
            Err(error) => {
                let status = if error == AskError::TimedOut {
                    504
                } else {
                    503
                };
                Err(Refusal::new(status, format!("shard {} {error}", shard.0)))
            }
        })
        .collect()
}

/// Refuses while locked.
pub(super) fn must_run(daemon: &dyn Daemon) -> Result<(), Refusal> {
    match daemon.state() {
        State::Locked => Err(Refusal::new(
            503,
            "the daemon is locked; run: hikyaku unlock",
        )),
        State::Running | State::Stopping => Ok(()),
    }
}
