//! The polling rule: when to call `epoll_wait`, and with which timeout.
//!
//! CPython counterpart: `BaseEventLoop._run_once`, which polls on every turn. A poll costs more than a
//! task switch, so here a turn polls only if
//! * nothing is ready (then it may block), or
//! * it is the first of a `run_forever`, or stop is pending (`call_soon(stop); run_forever()` is how
//!   test-suites say "poll once"), or
//! * [`ENTRIES_PER_POLL`] entries have run since the last poll. Entries and not turns are counted: asyncio
//!   runs whole batches between polls, so latency is bounded as tightly as there; or
//! * [`MAX_POLL_GAP_S`] have passed, for entries that are slow.
//!
//! Pure: time is passed in. The clock is worth reading only every few entries
//! ([`PollRule::wants_time`]), and a coarse one will do.

use std::time::Duration;

/// Entries run between two polls, at most (but for a batch that is larger at its start).
pub const ENTRIES_PER_POLL: usize = 61;

/// Entries run between two readings of the clock.
pub const CLOCK_EVERY: usize = 4;

/// A poll is due after this much time, whatever was run. A poll of nothing costs a ten-thousandth of it.
pub const MAX_POLL_GAP_S: f64 = 0.001;

/// `asyncio.base_events.MAXIMUM_SELECT_TIMEOUT`
pub const MAX_TIMEOUT_S: f64 = 24.0 * 3600.0;

/// Counts what ran since the last poll.
#[derive(Clone, Debug, Default)]
pub struct PollRule {
    executed: usize,
    next_reading: usize,
    first_turn: bool,
    overdue: bool,
    /// First reading of the clock since the last poll.
    since_s: Option<f64>,
}

impl PollRule {
    /// A rule that has not started.
    pub const fn new() -> Self {
        Self { executed: 0, next_reading: 0, first_turn: false, overdue: false, since_s: None }
    }

    /// `run_forever` begins: its first turn polls.
    pub fn start(&mut self) {
        self.polled();
        self.first_turn = true;
    }

    /// So many entries were run.
    #[inline]
    pub fn ran(&mut self, entries: usize) {
        self.executed += entries;
    }

    /// Whether this turn has to poll.
    #[inline]
    pub fn must_poll(&self, ready_is_empty: bool, stopping: bool) -> bool {
        ready_is_empty || stopping || self.first_turn || self.overdue || self.executed >= ENTRIES_PER_POLL
    }

    /// A poll was made.
    #[inline]
    pub fn polled(&mut self) {
        *self = Self::new();
    }

    /// Whether [`elapsed`](Self::elapsed) would like to know the time: after a poll, and then every
    /// [`CLOCK_EVERY`] entries.
    #[inline]
    pub fn wants_time(&self) -> bool {
        self.executed >= self.next_reading
    }

    /// The time is `now_s`. The first call after a poll sets the start of the gap: best made with the
    /// reading that the timers need anyway.
    #[inline]
    pub fn elapsed(&mut self, now_s: f64) {
        self.next_reading = self.executed + CLOCK_EVERY;
        let since = *self.since_s.get_or_insert(now_s);
        self.overdue |= now_s - since >= MAX_POLL_GAP_S;
    }
}

/// How long a poll may block: not at all with work ready or stop pending, else until the next
/// deadline, a day at most; `None` (for ever) without one. A NaN deadline is due at once, as in asyncio.
#[inline]
pub fn poll_timeout(ready_is_empty: bool, stopping: bool, next_deadline: Option<f64>, now: f64) -> Option<Duration> {
    if !ready_is_empty || stopping {
        return Some(Duration::ZERO);
    }
    let delay = next_deadline? - now;
    // `max(0, nan)` is 0 in Python: the comparison fails and the first argument stays.
    let delay = if delay > 0.0 { delay.min(MAX_TIMEOUT_S) } else { 0.0 };
    Some(Duration::from_secs_f64(delay))
}
