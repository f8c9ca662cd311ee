//! Numeric addresses, recognised without a resolver.
//!
//! CPython counterpart: `asyncio.base_events._ipaddr_info`, which spares a `getaddrinfo` in a thread for a
//! host that is an address already.
//!
//! `std::net` parses what `inet_pton(3)` does: strict dotted quads without leading zeros, IPv6 in every
//! shorthand. A host with a `%` is refused for all families as in asyncio: the scope's name needs
//! the resolver. The caller turns Python's port (int, str, bytes, None) into a number and keeps
//! the host as it was given: asyncio returns the text, not a normal form of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::net::AddressFamily;

pub use crate::sys::Address;

const AF_UNSPEC: i32 = AddressFamily::UNSPEC.as_raw() as i32;
const AF_INET: i32 = AddressFamily::INET.as_raw() as i32;
const AF_INET6: i32 = AddressFamily::INET6.as_raw() as i32;

/// The address that `host` spells in `family` (`AF_UNSPEC`: IPv4 first, then IPv6), if it spells one.
pub fn ip_literal(host: &str, family: i32) -> Option<IpAddr> {
    if host.contains('%') {
        return None;
    }
    let is_wanted = |candidate| family == AF_UNSPEC || family == candidate;
    let v4 = if is_wanted(AF_INET) { host.parse::<Ipv4Addr>().ok() } else { None };
    let v6 = || {
        if is_wanted(AF_INET6) { host.parse::<Ipv6Addr>().ok() } else { None }
    };
    v4.map(IpAddr::V4).or_else(|| v6().map(IpAddr::V6))
}
