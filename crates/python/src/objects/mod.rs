//! Layer 2: names, the scheduler, handles and futures. Knows nothing of tasks, transports or the loop object.

pub mod future;
pub mod handle;
pub mod names;
pub mod report;
pub mod scheduler;
