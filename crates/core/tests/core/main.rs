//! The core's tests, one module per subject; one binary, because linking is what tests cost.
//!
//! Three kinds: models (proptest against a plain structure), traps (real descriptors, each a fact about
//! the kernel), tables (pure functions against asyncio's answers). Under `cfg(loom)` only the inbox and
//! the pools are here.

#[cfg(loom)]
mod loom_inbox;
#[cfg(loom)]
mod loom_pool;

#[cfg(not(loom))]
mod support;

#[cfg(not(loom))]
mod gathering;
#[cfg(not(loom))]
mod heap_model;
#[cfg(not(loom))]
mod inbox;
#[cfg(not(loom))]
mod net;
#[cfg(not(loom))]
mod outbound_model;
#[cfg(not(loom))]
mod polling;
#[cfg(not(loom))]
mod pool;
#[cfg(not(loom))]
mod reactor_edges;
#[cfg(not(loom))]
mod reactor_model;
#[cfg(not(loom))]
mod reactor_traps;
#[cfg(not(loom))]
mod ready_model;
#[cfg(not(loom))]
mod sys;
#[cfg(not(loom))]
mod tls_model;
#[cfg(not(loom))]
mod tls_records_model;
#[cfg(not(loom))]
mod watermarks;
