//! The shard starts again, from what it has written to its queue.

use super::super::{Event, HandoverMessage, Settings};
use super::policy::policy;
use super::relay::{Relay, settings, shard};
use crate::address::Domain;
use crate::clock::UnixMs;
use crate::counters::Counter;
use crate::ids::{HandoverId, SegmentId, ShardId};
use crate::queue::cipher::{SegmentName, Stream};
use crate::queue::replay::{Contents, Found, SegmentReader};
use crate::route::owner;
use crate::shard::ShardCore;

/// Starting.
impl Relay {
    /// Ends without a word, and a shard is made of `shards`, which knows its segments and has read none.
    fn ends(&mut self, shards: u16, change: impl FnOnce(&mut Settings)) -> Vec<SegmentId> {
        let mut settings = settings();
        change(&mut settings);
        let mut segments: Vec<SegmentId> = self.disk.keys().copied().collect();
        segments.sort_unstable();
        let next = segments.last().map_or(1, |last| last.0 + 1);
        self.core = shard(ShardId(0), shards, settings, SegmentId(next), self.now);
        let files: Vec<(SegmentId, u64)> = segments.iter().map(|s| (*s, 1 << 20)).collect();
        self.core.found_files(&files, &[]);
        segments
    }

    /// Gives the records of a segment to the shard.
    fn read(&mut self, segment: SegmentId, take: impl Fn(&mut ShardCore, &Found<'_>)) {
        let name = SegmentName {
            stream: Stream::Queue,
            shard: ShardId(0),
            segment,
        };
        let bytes = &self.disk[&segment];
        let mut reader =
            SegmentReader::open(bytes, self.core.keys(), name, Contents::Skip).unwrap();
        self.core.replay_segment(reader.header());
        reader.push(bytes);
        reader.close_input();
        while let Some(found) = reader.next() {
            take(&mut self.core, &found);
        }
    }

    /// Starts again, with all of its segments read.
    fn restarts(&mut self, shards: u16, change: impl FnOnce(&mut Settings)) {
        for segment in self.ends(shards, change) {
            self.read(segment, |core, found| {
                core.replay(found.placement, &found.record);
            });
        }
        self.core.replay_done();
    }
}

const MANY: usize = 500;
/// Entries that a task may touch in a turn; a tick has several of them, and looks at 16 times as many slots
/// to schedule what replay found.
const A_TURN: usize = 10;

fn relay() -> Relay {
    Relay::with(|settings| settings.entries_per_turn_max = A_TURN)
}

#[test]
fn what_was_given_to_a_shard_is_released_a_bounded_part_a_turn() {
    let mut relay = relay();
    let handover = HandoverId::from_random(5);
    for _ in 0..MANY {
        relay.given_under(Some(handover), "a.example", false);
    }
    assert_eq!(relay.delivered, 0, "it is not noted");
    relay.most_touched = 0;
    let message = HandoverMessage::Noted { handover }.into();
    let from = ShardId(1);
    relay.handle(Event::FromShard { from, message });
    let mut ticks = 0;
    while relay.delivered < MANY {
        relay.after_ms(100);
        ticks += 1;
        assert!(ticks < MANY, "{} delivered", relay.delivered);
    }
    assert!(ticks >= MANY / A_TURN - 1, "{ticks}");
    assert!(relay.most_touched <= 4 * A_TURN, "{}", relay.most_touched);
}

#[test]
fn what_a_shard_gave_away_leaves_its_queue_a_bounded_part_a_turn() {
    let mut relay = relay();
    relay.peers_refuse("nobody there");
    let is_theirs = |domain: &String| {
        let domain = Domain::parse(domain).unwrap();
        owner(&domain, 2) == ShardId(1)
    };
    let theirs = (0..).map(|n| format!("d{n}.example")).find(is_theirs);
    relay.accept_many(MANY, &theirs.unwrap());
    relay.restarts(2, |settings| settings.entries_per_turn_max = A_TURN);
    relay.most_touched = 0;
    let mut ticks = 0;
    while relay.core.status().queued > 0 {
        relay.after_ms(100);
        for split in std::mem::take(&mut relay.given_away) {
            relay.other_has_stored(split);
        }
        ticks += 1;
        assert!(ticks < 2000, "{} left", relay.core.status().queued);
    }
    assert!(ticks >= MANY / A_TURN, "{ticks}");
    assert!(relay.most_touched <= 20 * A_TURN, "{}", relay.most_touched);
    assert_eq!(relay.counted(Counter::Queued), 0);
}

#[test]
fn a_providers_long_retry_is_not_cut_by_a_start() {
    let text =
        "[[provider]]\nname = \"p\"\nmx = \"mx.hosted.example\"\nretry_schedule = [\"4h\"]\n";
    let with = |settings: &mut Settings| settings.policy = policy(text);
    let mut relay = Relay::with(with);
    relay.peers_refuse("nobody there");
    relay.accept("a.hosted.example");
    relay.accept("b.example");
    relay.after_s(10);
    relay.restarts(1, with);
    relay.peers_take();
    relay.after_s(3 * 3600);
    assert_eq!(
        relay.delivered, 1,
        "what is no provider's waits for a minute"
    );
    relay.after_s(3600);
    assert_eq!(relay.delivered, 2);
}

#[test]
fn ids_of_past_mail_are_forgotten_with_its_segments() {
    let mut relay = Relay::new();
    relay.peers_refuse("nobody there");
    relay.accept_many(100, "a.example");
    relay.restarts(1, |_| {});
    relay.peers_take();
    relay.after_s(200);
    assert_eq!(relay.delivered, 100);
    relay.after_s(60);
    assert!(relay.core.moves.past_ids.is_empty());
}

#[test]
fn mail_expires_after_a_start_in_1970_once_the_clock_is_set() {
    let mut relay = Relay::new();
    relay.peers_refuse("nobody there");
    relay.accept("a.example");
    let wall = relay.now.unix;
    relay.now.unix = UnixMs(3_600_000);
    relay.restarts(1, |_| {});
    relay.after_s(60);
    assert_eq!(relay.counted(Counter::Expired), 0);
    let behind_ms = wall.0 - 3_600_000;
    relay.wall_clock_leaps(behind_ms.cast_signed());
    // A day until it expires, and the time that the clock is on trial.
    for _ in 0..25 * 60 {
        relay.after_ms(60_000);
    }
    assert_eq!(relay.counted(Counter::Expired), 1);
    assert_eq!(relay.core.status().queued, 0);
}
