//! Mail and the disk: what is taken while it fails or is full, and the files of the delivery log.

use super::super::Stored;
use super::super::admit::{NOTICES_RESERVE, WAIT_MS_MAX};
use super::relay::{Relay, START_MS};
use crate::ids::SegmentId;
use crate::store::WRITE_RETRY_MS_MAX;

#[test]
fn mail_after_one_failed_write_is_accepted_at_once_and_after_several_in_a_row_when_writing_works() {
    let mut relay = Relay::new();
    relay.failing_writes = 1;
    relay.accept("a.example");
    // The clock has not moved: whoever comes next is not told to come again.
    relay.accept("a.example");
    assert_eq!(relay.answers, [Stored::Failed, Stored::Durable]);
    assert_eq!(relay.delivered, 1);
    relay.answers.clear();
    relay.failing_writes = u32::MAX;
    relay.accept("a.example");
    let mut tries = 0;
    let mut left = relay.failing_writes;
    for _ in 0..600 {
        relay.after_ms(100);
        tries += left - relay.failing_writes;
        left = relay.failing_writes;
    }
    assert!(
        (10..30).contains(&tries),
        "{tries} writes to a dead disk in a minute"
    );
    relay.accept("a.example");
    relay.after_ms(WAIT_MS_MAX);
    assert_eq!(relay.answers, [Stored::Failed, Stored::Failed]);
    relay.failing_writes = 0;
    relay.after_ms(WRITE_RETRY_MS_MAX);
    relay.accept("a.example");
    assert_eq!(relay.answers.last(), Some(&Stored::Durable));
    assert_eq!(relay.delivered, 2);
}

#[test]
fn a_full_queue_takes_the_notifications_of_other_shards_up_to_a_reserve() {
    let mut relay = Relay::with(|settings| settings.queued_entries_max = 0);
    relay.core.drain();
    assert_eq!(relay.given("a.example", false), Some(Stored::NoSpace));
    for _ in 0..NOTICES_RESERVE {
        assert_eq!(relay.given("a.example", true), Some(Stored::Durable));
    }
    assert_eq!(relay.given("a.example", true), Some(Stored::NoSpace));
}

#[test]
fn lines_of_a_batch_that_fits_no_log_file_are_counted_as_dropped() {
    let mut relay = Relay::with(|settings| settings.log_segment_bytes = 16_384);
    relay.accept_for("a.example", 300);
    relay.after_s(3);
    assert_eq!(relay.delivered, 300);
    assert_eq!(relay.core.status().log_dropped_lines, 300);
}

#[test]
fn delivery_log_files_end_with_the_hour() {
    let mut relay = Relay::new();
    for minute in 0..150 {
        relay.accept("a.example");
        relay.after_ms(1000);
        assert!(minute == 0 || !relay.logs.is_empty());
        relay.after_ms(59_000);
    }
    // The start lies on an hour: 0 to 60, 60 to 120, 120 to 150.
    assert_eq!(START_MS % 3_600_000, 0);
    assert_eq!(relay.logs, [SegmentId(1), SegmentId(2), SegmentId(3)]);
    assert_eq!(relay.delivered, 150);
}
