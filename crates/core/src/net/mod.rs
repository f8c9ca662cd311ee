//! Addresses before there is a socket: the order to try them in.
//!
//! CPython counterpart: `asyncio.base_events._interleave_addrinfos`.

mod interleave;

pub use crate::sys::Address;
pub use interleave::interleave;
