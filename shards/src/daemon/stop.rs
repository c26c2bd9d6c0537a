//! The end: shards finish what is in flight, for `[delivery] stop_timeout`, or less when a second
//! signal says so.

use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use signal_hook::consts::SIGHUP;

use super::{COMMAND_REST, Happened, Hikyakud, SHARD_START_MAX, lock, spawn_thread};
use crate::control::Daemon as _;
use crate::runtime::mailbox::MailboxSender;
use crate::shard_main::Command;
use crate::supervisor;

impl Hikyakud {
    /// Ends the shards. `happened` is where a second signal comes from.
    pub(super) fn stop(&self, happened: Receiver<Happened>) {
        let longest = Duration::from_millis(self.config().delivery.stop_ms_max);
        supervisor::stopping(longest);
        let taken = {
            let mut shards = lock(&self.shards);
            *lock(&self.stopping) = true;
            shards.take()
        };
        let Some(shards) = taken else {
            return;
        };
        let commands = shards.commands;
        tell(&commands, longest);
        // Like the thread that waits for signals, this one ends with the process.
        let second = spawn_thread("stop", move || {
            for what in happened {
                if matches!(what, Happened::Signal(signal) if signal != SIGHUP) {
                    tell(&commands, Duration::ZERO);
                }
            }
        });
        if let Err(why) = second {
            self.note(&why);
        }
        for handle in shards.handles {
            if let Err(error) = handle.join() {
                self.note(&format!("a shard ended badly: {error}"));
            }
        }
        self.note("stopped");
    }
}

/// Tells every shard to end, with `longest` for what is in flight. One that has too many commands
/// waiting is told when it has room.
pub(super) fn tell(shards: &[MailboxSender<Command>], longest: Duration) {
    let begun = Instant::now();
    let mut untold: Vec<_> = shards.iter().collect();
    loop {
        untold.retain(|shard| shard.try_send(Command::Stop { longest }).is_err());
        // Those that have ended already cannot be told either.
        if untold.is_empty() || begun.elapsed() > SHARD_START_MAX {
            return;
        }
        std::thread::sleep(COMMAND_REST);
    }
}
