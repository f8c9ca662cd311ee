//! Addresses before there is a socket: literals that need no resolver, and the order to try them in.
//!
//! CPython counterpart: `asyncio.base_events._ipaddr_info` and `_interleave_addrinfos`.

mod address;
mod interleave;

pub use address::{Address, LiteralInfo, ip_literal, ipaddr_info};
pub use interleave::interleave;
