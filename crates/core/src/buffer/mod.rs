//! Bytes on their way out, and the limits on them.
//!
//! CPython counterpart: `_SelectorSocketTransport._buffer` and `transports._FlowControlMixin`.

mod outbound;
mod watermarks;

pub use outbound::{Chunk, Outbound};
pub use watermarks::{InvalidLimits, Watermarks};
