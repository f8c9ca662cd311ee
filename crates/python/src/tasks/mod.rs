//! Layer 3: tasks, the coroutines' drivers.

pub mod task;
