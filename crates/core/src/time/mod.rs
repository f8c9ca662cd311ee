//! Deadlines: the timer heap. The clock itself is [`crate::sys::clock`].
//!
//! CPython counterpart: `BaseEventLoop._scheduled` and `heapq`.

mod heap;

pub use heap::TimerHeap;
