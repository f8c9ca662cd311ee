//! The polling rule under a clock that the test turns.

use std::time::Duration;

use aioxide_core::kernel::{CLOCK_EVERY, ENTRIES_PER_POLL, MAX_POLL_GAP_S, PollRule, poll_timeout};

/// A loop that always has work: only the rule makes it poll.
struct BusyLoop {
    rule: PollRule,
    now_s: f64,
    polls: usize,
    readings: usize,
}

impl BusyLoop {
    fn started() -> Self {
        let mut rule = PollRule::new();
        rule.start();
        Self { rule, now_s: 100.0, polls: 0, readings: 0 }
    }

    fn turn(&mut self, entries: usize, each_s: f64) {
        if self.rule.must_poll(false, false) {
            self.polls += 1;
            self.rule.polled();
        }
        self.now_s += each_s * entries as f64;
        self.rule.ran(entries);
        if self.rule.wants_time() {
            self.readings += 1;
            self.rule.elapsed(self.now_s);
        }
    }
}

#[test]
fn the_first_turn_of_each_run_polls() {
    let mut rule = PollRule::new();
    assert!(!rule.must_poll(false, false));
    for _ in 0..3 {
        rule.start();
        assert!(rule.must_poll(false, false));
        rule.polled();
        assert!(!rule.must_poll(false, false));
    }
}

#[test]
fn an_empty_queue_or_a_pending_stop_polls() {
    let rule = PollRule::new();
    assert!(rule.must_poll(true, false));
    assert!(rule.must_poll(false, true));
    assert!(!rule.must_poll(false, false));
}

#[test]
fn a_busy_loop_polls_after_61_entries_however_they_come_in_turns() {
    for entries in [1, 2, 7, 61] {
        let mut busy = BusyLoop::started();
        let turns = 610 * 7 / entries + 1;
        (0..turns).for_each(|_| busy.turn(entries, 0.0));
        let turns_per_poll = ENTRIES_PER_POLL.div_ceil(entries);
        assert_eq!(busy.polls, (turns - 1) / turns_per_poll + 1, "turns of {entries}");
    }
}

#[test]
fn slow_entries_poll_when_the_gap_is_over() {
    let mut busy = BusyLoop::started();
    (0..30).for_each(|_| busy.turn(1, 0.010));
    // The reading that sees the gap comes CLOCK_EVERY entries after the one that opened it.
    assert_eq!(busy.polls, 30 / (CLOCK_EVERY + 1));
}

#[test]
fn fast_entries_are_not_polled_for_by_the_clock() {
    let mut busy = BusyLoop::started();
    (0..61).for_each(|_| busy.turn(1, MAX_POLL_GAP_S / 100.0));
    assert_eq!(busy.polls, 1);
}

#[test]
fn the_clock_is_read_every_few_entries_only() {
    let mut busy = BusyLoop::started();
    (0..610).for_each(|_| busy.turn(1, 0.0));
    assert!(busy.readings <= 610 / CLOCK_EVERY + 10, "{} readings", busy.readings);
}

#[test]
fn a_clock_that_stands_still_or_goes_back_never_forces_a_poll() {
    let mut rule = PollRule::new();
    rule.elapsed(5.0);
    rule.elapsed(5.0);
    rule.elapsed(1.0);
    assert!(!rule.must_poll(false, false));
    rule.elapsed(5.0 + MAX_POLL_GAP_S);
    assert!(rule.must_poll(false, false));
}

#[test]
fn the_timeout_is_that_of_run_once() {
    let seconds = |s| Some(Duration::from_secs_f64(s));
    assert_eq!(poll_timeout(false, false, Some(9.0), 1.0), seconds(0.0));
    assert_eq!(poll_timeout(true, true, None, 1.0), seconds(0.0));
    assert_eq!(poll_timeout(true, false, None, 1.0), None);
    assert_eq!(poll_timeout(true, false, Some(9.0), 1.0), seconds(8.0));
    assert_eq!(poll_timeout(true, false, Some(0.5), 1.0), seconds(0.0));
    assert_eq!(poll_timeout(true, false, Some(f64::INFINITY), 1.0), seconds(86_400.0));
    assert_eq!(poll_timeout(true, false, Some(f64::NEG_INFINITY), 1.0), seconds(0.0));
    assert_eq!(poll_timeout(true, false, Some(f64::NAN), 1.0), seconds(0.0));
    assert_eq!(poll_timeout(true, false, Some(1e300), 1.0), seconds(86_400.0));
}
