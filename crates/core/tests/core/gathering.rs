//! When a transport gathers: a table of the rules, then a model with a clock of its own.

use std::cell::Cell;

use aioxide_core::buffer::{Advice, CALLBACKS_TO_EARN, Gathering, SLOW_S};
use proptest::prelude::*;

use crate::support::{MAX_OPERATIONS, cases};

const QUICK_S: f64 = SLOW_S / 100.0;
const LATE_S: f64 = SLOW_S * 2.0;

/// A transport, and the loop around it.
struct Driver {
    gathering: Gathering,
    callback: u64,
    now_s: f64,
    readings: Cell<usize>,
    /// Since when bytes are held.
    held_since_s: Option<f64>,
    watched: bool,
    longest_hold_s: f64,
    late: usize,
}

impl Driver {
    fn new() -> Self {
        Self {
            gathering: Gathering::new(),
            callback: 1,
            now_s: 10.0,
            readings: Cell::new(0),
            held_since_s: None,
            watched: false,
            longest_hold_s: 0.0,
            late: 0,
        }
    }

    fn write(&mut self) -> Advice {
        let now = || {
            self.readings.set(self.readings.get() + 1);
            self.now_s
        };
        let advice = self.gathering.on_write(self.callback, now);
        match advice {
            Advice::Hold => self.held_since_s = self.held_since_s.or(Some(self.now_s)),
            Advice::SendAndWatch => self.watched = true,
            Advice::Send => self.sent(),
        }
        advice
    }

    fn sent(&mut self) {
        if let Some(since) = self.held_since_s.take() {
            let held_s = self.now_s - since;
            self.longest_hold_s = self.longest_hold_s.max(held_s);
            self.late += usize::from(held_s > SLOW_S);
        }
    }

    /// Bytes are held, or the end is asked for: what makes the caller say `on_end`.
    fn end(&mut self) {
        if self.held_since_s.is_some() || self.watched {
            self.gathering.on_end(self.now_s);
        }
        self.sent();
        self.watched = false;
    }

    fn callback(&mut self, pauses_s: &[f64]) -> Vec<Advice> {
        let mut advices = vec![self.write()];
        for pause in pauses_s {
            self.now_s += pause;
            advices.push(self.write());
        }
        self.end();
        self.callback += 1;
        advices
    }
}

use Advice::{Hold, Send, SendAndWatch};

#[test]
fn two_callbacks_with_several_writes_earn_it() {
    let mut t = Driver::new();
    assert_eq!(t.callback(&[QUICK_S; 2]), [Send, SendAndWatch, Send]);
    assert_eq!(t.callback(&[QUICK_S; 2]), [Send, SendAndWatch, Send]);
    assert!(t.gathering.gathers());
    for _ in 0..3 {
        assert_eq!(t.callback(&[QUICK_S; 2]), [Hold; 3]);
    }
}

#[test]
fn one_write_per_callback_is_sent_at_once_and_asks_for_no_time() {
    let mut t = Driver::new();
    for _ in 0..10 {
        assert_eq!(t.callback(&[]), [Send]);
    }
    assert_eq!(t.readings.get(), 0);
}

#[test]
fn callbacks_that_earn_it_come_in_a_row() {
    let mut t = Driver::new();
    for _ in 0..10 {
        assert_eq!(t.callback(&[QUICK_S]), [Send, SendAndWatch]);
        assert_eq!(t.callback(&[]), [Send]);
    }
}

#[test]
fn a_callback_with_one_write_is_the_last_that_gathers() {
    let mut t = Driver::new();
    (0..2).for_each(|_| drop(t.callback(&[QUICK_S])));
    assert_eq!(t.callback(&[]), [Hold]);
    assert_eq!(t.callback(&[QUICK_S]), [Send, SendAndWatch]);
    assert_eq!(t.callback(&[QUICK_S]), [Send, SendAndWatch]);
    assert_eq!(t.callback(&[QUICK_S]), [Hold, Hold]);
}

#[test]
fn slow_callbacks_never_earn_it() {
    let mut t = Driver::new();
    for _ in 0..100 {
        assert_eq!(t.callback(&[LATE_S, LATE_S]), [Send, SendAndWatch, Send]);
    }
    assert_eq!(t.late, 0);
}

#[test]
fn a_slow_end_counts_as_slow() {
    let mut t = Driver::new();
    for _ in 0..10 {
        assert_eq!(t.write(), Send);
        assert_eq!(t.write(), SendAndWatch);
        t.now_s += LATE_S;
        t.end();
        t.callback += 1;
    }
    assert!(!t.gathering.gathers());
}

#[test]
fn a_late_write_sends_at_once_and_the_rest_of_the_callback_too() {
    let mut t = Driver::new();
    (0..2).for_each(|_| drop(t.callback(&[QUICK_S])));
    assert_eq!(t.callback(&[LATE_S, LATE_S, QUICK_S]), [Hold, Send, Send, Send]);
    assert_eq!((t.late, t.longest_hold_s > SLOW_S), (1, true));
}

#[test]
fn each_lateness_costs_twice_the_callbacks_of_the_last() {
    let mut t = Driver::new();
    let earn = usize::from(CALLBACKS_TO_EARN);
    (0..earn).for_each(|_| drop(t.callback(&[QUICK_S])));
    for penalty in [16, 32, 64, 128, 256, 512, 1024, 1024] {
        assert_eq!(t.callback(&[LATE_S]), [Hold, Send]);
        let mut direct = 0;
        while t.callback(&[QUICK_S])[0] == Send {
            direct += 1;
        }
        assert_eq!(direct, penalty + earn);
    }
}

#[test]
fn what_was_sent_before_the_end_is_not_late() {
    let mut t = Driver::new();
    (0..2).for_each(|_| drop(t.callback(&[QUICK_S])));
    // A large write took the held one with it, then the callback works on.
    assert_eq!(t.write(), Hold);
    assert_eq!(t.write(), Hold);
    t.sent();
    t.gathering.on_sent();
    t.now_s += LATE_S;
    t.gathering.on_end(t.now_s);
    t.callback += 1;
    assert_eq!(t.callback(&[QUICK_S]), [Hold, Hold]);
}

#[test]
fn what_was_flushed_on_the_way_is_held_anew() {
    let mut t = Driver::new();
    (0..2).for_each(|_| drop(t.callback(&[QUICK_S])));
    assert_eq!(t.write(), Hold);
    t.end();
    t.now_s += LATE_S;
    assert_eq!(t.write(), Hold, "nothing was held meanwhile");
    t.end();
    assert!(t.gathering.gathers());
    assert_eq!(t.late, 0);
}

#[test]
fn a_callback_that_another_transport_cuts_short_counts_once() {
    let mut t = Driver::new();
    assert_eq!((t.write(), t.write()), (Send, SendAndWatch));
    t.end();
    assert_eq!((t.write(), t.write()), (Send, Send));
    t.end();
    assert!(!t.gathering.gathers());
}

proptest! {
    #![proptest_config(cases())]

    /// Whatever a program does: bytes are held over the end of no callback, and late only as often as the penalties allow.
    #[test]
    fn lateness_is_rare(
        callbacks in prop::collection::vec(
            prop::collection::vec(prop_oneof![3 => Just(QUICK_S), 1 => Just(LATE_S)], 0..5),
            1..MAX_OPERATIONS,
        )
    ) {
        let mut t = Driver::new();
        let mut several = 0_usize;
        for pauses in &callbacks {
            let advices = t.callback(pauses);
            prop_assert!(t.held_since_s.is_none());
            let first_hold = advices.iter().position(|a| *a == Hold);
            prop_assert!(first_hold.is_none_or(|at| at == 0), "a callback gathers from its first write on");
            several += usize::from(!pauses.is_empty());
        }
        // The n-th lateness comes after 16 * (2^(n-1) - 1) callbacks of penalty, and two to earn it each time.
        let mut allowed = 0_usize;
        let mut needed = 2_usize;
        let mut penalty = 16_usize;
        while several > needed {
            allowed += 1;
            needed += penalty + 3;
            penalty = (penalty * 2).min(1024);
        }
        prop_assert!(t.late <= allowed, "{} of {several}, allowed {allowed}", t.late);
    }
}
