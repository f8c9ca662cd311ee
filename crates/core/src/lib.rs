//! The engine of aioxide: an event loop's parts without Python.
//!
//! CPython counterpart: what `asyncio.base_events`, `asyncio.selector_events` and `selectors` do
//! below the level of Python objects. The crate knows no Python: the work item, the watcher and
//! the chunk of bytes are type parameters, so all of it is tested without an interpreter.
//!
//! | module          | one idea                                                                   |
//! |-----------------|----------------------------------------------------------------------------|
//! | [`sys`]         | the unsafe fence: clock, epoll, wake-up pipe, sockets, one file per mechanism |
//! | [`time`]        | the timer heap: deadlines with stable order                                |
//! | [`ready`]       | the FIFO of work                                                           |
//! | [`buffer`]      | outbound bytes; flow control and write gathering as state machines         |
//! | [`reactor`]     | who waits for which descriptor; tokens with generations                    |
//! | [`kernel`]      | when to poll and for how long; work that comes from other threads          |
//! | [`pool`]        | calls for threads: a queue, and who waits for it                           |
//! | [`net`]         | addresses: numeric literals                                                |
//!
//! Dependencies point up this table only (`net::Address` is a type of `sys`, re-exported).
//!
//! Invariants of the whole crate: one owner per descriptor, with `Drop`; no lock but the inbox's and the pools';
//! no call to user code from inside, so whatever may run user code when it is dropped (a watcher,
//! a timer, a chunk) is handed back to the caller, who drops it outside the borrow.
//!
//! How to test: `cargo test -p aioxide-core`; longer model tests by `AIOXIDE_PROPTEST_CASES=20000`
//! (another seed: `AIOXIDE_PROPTEST_SEED=7`); the inbox and the pools under loom by
//! `RUSTFLAGS="--cfg loom" cargo test -p aioxide-core --release loom`.

#![deny(unsafe_code)]
#![warn(missing_docs, missing_debug_implementations)]
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod buffer;
pub mod kernel;
pub mod net;
pub mod pool;
pub mod reactor;
pub mod ready;
mod sync;
pub mod sys;
pub mod time;
pub mod tls;
