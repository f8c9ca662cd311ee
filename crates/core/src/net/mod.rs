//! Addresses before there is a socket: literals that need no resolver.
//!
//! CPython counterpart: `asyncio.base_events._ipaddr_info`.

mod address;

pub use address::{Address, ip_literal};
