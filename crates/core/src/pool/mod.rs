//! What the threads of a pool share: a queue of calls and the workers that wait for one.
//!
//! CPython counterpart: `queue.SimpleQueue`, `_idle_semaphore` and `_worker` of `concurrent.futures.thread`.

mod work_queue;

pub use work_queue::{Take, WorkQueue};
