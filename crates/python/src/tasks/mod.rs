//! Layer 3: tasks, the coroutines' drivers, and coroutines whose body is native.

pub mod coroutine;
pub mod task;
