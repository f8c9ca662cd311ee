//! The FIFO of work that is ready to run.
//!
//! CPython counterpart: `BaseEventLoop._ready`, a `collections.deque`.
//!
//! Invariants: strict FIFO, but for [`Ready::push_front`]; the capacity reached is kept, so a loop in
//! its steady state never allocates here; an item is never dropped in here, only handed out (its drop
//! may run user code that pushes).
//!
//! Why a wrapped `VecDeque`: it is a ring already. A power-of-two ring of `MaybeUninit` would save a
//! compare per operation and cost an unsafe block per operation.

use std::collections::VecDeque;

/// A queue of ready work.
#[derive(Debug)]
pub struct Ready<T> {
    ring: VecDeque<T>,
}

impl<T> Ready<T> {
    /// An empty queue; allocates nothing.
    pub const fn new() -> Self {
        Self { ring: VecDeque::new() }
    }

    /// Appends work.
    #[inline]
    pub fn push_back(&mut self, item: T) {
        self.ring.push_back(item);
    }

    /// Puts work before everything else: for an item taken too early.
    #[inline]
    pub fn push_front(&mut self, item: T) {
        self.ring.push_front(item);
    }

    /// Takes the oldest work.
    #[inline]
    pub fn pop_front(&mut self) -> Option<T> {
        self.ring.pop_front()
    }

    /// Number of items; what a turn runs is this number at its start.
    #[inline]
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether there is no work.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Every item, the oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + ExactSizeIterator {
        self.ring.iter()
    }

    /// Takes everything out, the oldest first, and keeps the capacity.
    pub fn drain(&mut self) -> impl DoubleEndedIterator<Item = T> + ExactSizeIterator {
        self.ring.drain(..)
    }

    /// Moves everything into `out`, the oldest first: to drop it outside the borrow.
    pub fn drain_into(&mut self, out: &mut Vec<T>) {
        out.extend(self.ring.drain(..));
    }
}

impl<T> Default for Ready<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Extend<T> for Ready<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, items: I) {
        self.ring.extend(items);
    }
}
