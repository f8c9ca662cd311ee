//! Numeric addresses, recognised without a resolver.
//!
//! CPython counterpart: `asyncio.base_events._ipaddr_info`, which spares a `getaddrinfo` in a thread for a
//! host that is an address already.
//!
//! `std::net` parses what `inet_pton(3)` does: strict dotted quads without leading zeros, IPv6 in every
//! shorthand. A host with a `%` is refused for all families as in asyncio: the scope's name
//! needs the resolver. The caller turns Python's port (int, str, bytes, None) into a number and keeps
//! the host as it was given: asyncio returns the text, not a normal form of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use rustix::net::{AddressFamily, SocketType, ipproto};

pub use crate::sys::Address;

const AF_UNSPEC: i32 = AddressFamily::UNSPEC.as_raw() as i32;
const AF_INET: i32 = AddressFamily::INET.as_raw() as i32;
const AF_INET6: i32 = AddressFamily::INET6.as_raw() as i32;
const SOCK_STREAM: i32 = SocketType::STREAM.as_raw() as i32;
const SOCK_DGRAM: i32 = SocketType::DGRAM.as_raw() as i32;
const IPPROTO_TCP: i32 = ipproto::TCP.as_raw().get() as i32;
const IPPROTO_UDP: i32 = ipproto::UDP.as_raw().get() as i32;

/// What `_ipaddr_info` returns, less the host's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiteralInfo {
    /// `AF_INET` or `AF_INET6`
    pub family: i32,
    /// `SOCK_STREAM` or `SOCK_DGRAM`
    pub kind: i32,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`, by the kind
    pub protocol: i32,
    /// Where to.
    pub address: Address,
}

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

/// Same as `_ipaddr_info`: `None` means that `getaddrinfo` has to be asked. `flowinfo` and `scope_id` are those
/// of an IPv6 4-tuple, zero otherwise.
pub fn ipaddr_info(
    host: &str,
    port: u16,
    family: i32,
    kind: i32,
    protocol: i32,
    flowinfo: u32,
    scope_id: u32,
) -> Option<LiteralInfo> {
    if ![0, IPPROTO_TCP, IPPROTO_UDP].contains(&protocol) {
        return None;
    }
    let protocol = match kind {
        SOCK_STREAM => IPPROTO_TCP,
        SOCK_DGRAM => IPPROTO_UDP,
        _ => return None,
    };
    let address = match ip_literal(host, family)? {
        IpAddr::V4(ip) => Address::V4(SocketAddrV4::new(ip, port)),
        IpAddr::V6(ip) => Address::V6(SocketAddrV6::new(ip, port, flowinfo, scope_id)),
    };
    Some(LiteralInfo { family: address.family(), kind, protocol, address })
}
