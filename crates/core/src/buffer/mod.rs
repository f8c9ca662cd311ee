//! Bytes on their way out, the limits on them, and when to gather them.
//!
//! CPython counterpart: `_SelectorSocketTransport._buffer` and `transports._FlowControlMixin`.

mod gathering;
mod outbound;
mod watermarks;

pub use gathering::{Advice, CALLBACKS_TO_EARN, Gathering, SLOW_S};
pub use outbound::{Chunk, Outbound};
pub use watermarks::{InvalidLimits, Watermarks};
