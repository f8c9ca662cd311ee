//! The synchronisation primitives of the inbox and the pools: `std::sync`, or loom's doubles under `cfg(loom)`.
//!
//! CPython counterpart: none (the GIL). Invariant: code that two threads touch takes its
//! primitives from here and nowhere else, or loom would not see it.

#[cfg(loom)]
pub(crate) use loom::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};
