//! What decides when the loop looks at the kernel, and how other threads reach it.
//!
//! CPython counterpart: the head of `BaseEventLoop._run_once`, and `call_soon_threadsafe`.

mod inbox;
mod polling;

pub use inbox::Inbox;
pub use polling::{CLOCK_EVERY, ENTRIES_PER_POLL, MAX_POLL_GAP_S, MAX_TIMEOUT_S, PollRule, poll_timeout};
