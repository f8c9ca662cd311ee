//! The timer heap: a min-heap on (deadline, order of insertion).
//!
//! CPython counterpart: `BaseEventLoop._scheduled`, a list under `heapq` whose order of equal
//! deadlines is arbitrary. Here equal deadlines keep their order, which no asyncio program can
//! tell from a lucky heap, and which `call_soon`-like users of `call_later(0, ...)` hope for.
//!
//! Deadlines are `f64` because asyncio's are: negative and infinite ones are legal and are simply
//! early and late. NaN sorts after everything (the order must be total or the heap breaks); -0.0
//! equals 0.0.
//!
//! Cancelled timers stay until they surface or until [`TimerHeap::drain_where`] sweeps them: lazy
//! cancel costs nothing, and most cancelled timers are young timeouts. Dropping an item may run
//! user code, so nothing is dropped in here; everything removed is handed out.
//!
//! A binary heap of 24-byte entries beats a timer wheel at asyncio's sizes (tens to some thousands)
//! and needs no tick.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A min-heap of items by deadline.
#[derive(Debug)]
pub struct TimerHeap<T> {
    heap: BinaryHeap<Entry<T>>,
    next_sequence: u64,
}

#[derive(Debug)]
struct Entry<T> {
    /// Canonical: no -0.0, NaN only as `f64::NAN`, so that `total_cmp` is the order we want.
    when: f64,
    sequence: u64,
    item: T,
}

impl<T> Ord for Entry<T> {
    /// Reversed: `BinaryHeap` keeps the greatest on top.
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        other.when.total_cmp(&self.when).then(other.sequence.cmp(&self.sequence))
    }
}

impl<T> PartialOrd for Entry<T> {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Entry<T> {}

impl<T> TimerHeap<T> {
    /// An empty heap; allocates nothing.
    pub const fn new() -> Self {
        Self { heap: BinaryHeap::new(), next_sequence: 0 }
    }

    /// Adds an item that is due at `when`, behind those that are due at the same time.
    #[inline]
    pub fn push(&mut self, when: f64, item: T) {
        let when = if when.is_nan() { f64::NAN } else { when + 0.0 };
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.heap.push(Entry { when, sequence, item });
    }

    /// The earliest deadline.
    #[inline]
    pub fn peek_when(&self) -> Option<f64> {
        self.heap.peek().map(|entry| entry.when)
    }

    /// The item with the earliest deadline.
    #[inline]
    pub fn peek(&self) -> Option<&T> {
        self.heap.peek().map(|entry| &entry.item)
    }

    /// Takes the first item if it is due before `end`, where `end` is now plus the clock's resolution.
    ///
    /// asyncio stops at `when >= end_time`; the negation is spelled out because a NaN deadline that has
    /// come to the top is due there, and here.
    #[inline]
    #[allow(clippy::neg_cmp_op_on_partial_ord)]
    pub fn pop_due(&mut self, end: f64) -> Option<T> {
        let when = self.peek_when()?;
        if !(when >= end) { self.heap.pop().map(|entry| entry.item) } else { None }
    }

    /// Takes the first item whenever it is due.
    pub fn pop(&mut self) -> Option<(f64, T)> {
        self.heap.pop().map(|entry| (entry.when, entry.item))
    }

    /// Number of items, the dead ones included.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether there is no item.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Removes every item for which `dead` says so and returns them in no particular order, so that
    /// the caller can drop them outside the borrow. O(n), like asyncio's sweep.
    pub fn drain_where(&mut self, mut dead: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut entries = std::mem::take(&mut self.heap).into_vec();
        let mut removed = Vec::new();
        let mut index = 0;
        while let Some(entry) = entries.get(index) {
            if dead(&entry.item) {
                removed.push(entries.swap_remove(index).item);
            } else {
                index += 1;
            }
        }
        self.heap = BinaryHeap::from(entries);
        removed
    }

    /// Every item, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.heap.iter().map(|entry| &entry.item)
    }
}

impl<T> Default for TimerHeap<T> {
    fn default() -> Self {
        Self::new()
    }
}
