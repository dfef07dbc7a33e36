use std::time::{Duration, Instant};

use crate::{Journal, JournalTotals};

const MILLISECOND: Duration = Duration::from_millis(1);

#[test]
fn notifications_are_numbered_from_one_for_each_device() {
    let now = Instant::now();
    let mut journal = Journal::new(2);
    assert_eq!([journal.sent(0, now), journal.sent(0, now), journal.sent(1, now)], [1, 2, 1]);
}

#[test]
fn a_notification_that_arrives_has_a_latency() {
    let now = Instant::now();
    let mut journal = Journal::new(1);
    let number = journal.sent(0, now);
    journal.received(0, number, now + 5 * MILLISECOND);
    assert_eq!(journal.latencies().count(), 1);
    let latency = journal.latencies().percentile(100.0);
    assert!((latency.as_secs_f64() - 0.005).abs() < 0.000_01, "{latency:?}");
    assert_eq!(journal.take_recent().count(), 1);
    assert_eq!(journal.take_recent().count(), 0);
}

#[test]
fn what_does_not_arrive_is_missing_and_what_arrives_again_is_twice() {
    let now = Instant::now();
    let mut journal = Journal::new(1);
    for _ in 0..3 {
        journal.sent(0, now);
    }
    journal.received(0, 1, now);
    journal.received(0, 1, now);
    journal.received(0, 3, now);
    journal.received(0, 3, now);
    let totals = journal.totals();
    assert_eq!(totals, JournalTotals { sent: 3, received: 2, twice: 2, ..JournalTotals::default() });
    assert_eq!(totals.missing(), 1);
}

#[test]
fn an_earlier_number_after_a_later_one_is_out_of_order() {
    let now = Instant::now();
    let mut journal = Journal::new(1);
    for _ in 0..3 {
        journal.sent(0, now);
    }
    for number in [2, 1, 3] {
        journal.received(0, number, now);
    }
    assert_eq!(journal.totals().out_of_order, 1);
    assert_eq!(journal.totals().missing(), 0);
}

#[test]
fn numbers_and_devices_that_nobody_sent_are_unknown() {
    let now = Instant::now();
    let mut journal = Journal::new(1);
    journal.sent(0, now);
    journal.received(0, 2, now);
    journal.received(1, 1, now);
    assert_eq!(journal.totals().unknown, 2);
    assert_eq!(journal.totals().received, 0);
}

#[test]
fn the_oldest_of_too_many_under_way_is_given_up_and_stays_missing() {
    let now = Instant::now();
    let mut journal = Journal::new(1);
    for _ in 0..65_537 {
        journal.sent(0, now);
    }
    assert_eq!(journal.totals().given_up, 1);
    journal.received(0, 65_537, now);
    assert_eq!(journal.totals().received, 1);
    assert_eq!(journal.totals().missing(), 65_536);
}
