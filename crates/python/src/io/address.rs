//! Socket addresses between Python and the kernel.
//!
//! CPython counterpart: `makesockaddr` and `getsockaddrarg` of `socketmodule.c`. Only the IP families; for every other one
//! the socket object itself is asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use aioxide_core::net::{Address, ip_literal};

use crate::ffi::{Obj, Res, exc, index_value, int, none, string, tuple, utf8};
use crate::name;

const AF_INET: i64 = 2;
const AF_INET6: i64 = 10;

/// 20 bits; for more the method has its own error.
const MOST_FLOWINFO: u32 = 0xF_FFFF;

/// One end of an IP connection, in two words.
pub enum Endpoint {
    V4(SocketAddrV4),
    V6(Box<SocketAddrV6>),
}

impl Endpoint {
    /// None for other families.
    pub fn of(address: Address) -> Option<Endpoint> {
        match address {
            Address::V4(v4) => Some(Endpoint::V4(v4)),
            Address::V6(v6) => Some(Endpoint::V6(Box::new(v6))),
            Address::UnixPath(_) | Address::UnixAbstract(_) | Address::UnixUnnamed => None,
        }
    }

    /// `(host, port)` or `(host, port, flowinfo, scope_id)`
    pub fn to_python(&self) -> Res {
        match self {
            Endpoint::V4(v4) => tuple([&*string(&v4.ip().to_string())?, &*int(v4.port().into())?]),
            Endpoint::V6(v6) => tuple([
                &*string(&v6_text(*v6.ip()))?,
                &*int(v6.port().into())?,
                &*int(v6.flowinfo().into())?,
                &*int(v6.scope_id().into())?,
            ]),
        }
    }
}

/// As inet_ntop(3) writes it: with a dotted end also where the upper 96 bits are zero.
pub fn v6_text(ip: Ipv6Addr) -> String {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => {
            format!("::{}", Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)))
        }
        _ => ip.to_string(),
    }
}

/// AF_INET and AF_INET6: hosts that may have to be resolved.
pub fn is_ip_family(family: i64) -> bool {
    matches!(family, AF_INET | AF_INET6)
}

/// A socket address in exactly the form that the kernel's has in Python: `(host, port)` or `(host, port, flowinfo,
/// scope_id)` with a numeric host. None for any other, which the socket's own method understands, or the resolver.
pub fn from_python(address: &Obj, family: i64) -> Option<Address> {
    if !address.is_tuple() {
        return None;
    }
    let number = |o: &Obj| match o.is_exact_int().then(|| index_value(o))? {
        Ok(n) => u32::try_from(n).ok(),
        Err(raised) => {
            raised.forget();
            None
        }
    };
    let port = |o: &Obj| u16::try_from(number(o)?).ok();
    let host = |o: &Obj, family: i32| match o.is_str().then(|| utf8(o))? {
        Ok(host) => ip_literal(host, family),
        Err(raised) => {
            raised.forget();
            None
        }
    };
    match (family, address.tuple_items()) {
        (AF_INET, [name, service]) => match host(name, AF_INET as i32)? {
            IpAddr::V4(ip) => Some(Address::V4(SocketAddrV4::new(ip, port(service)?))),
            IpAddr::V6(_) => None,
        },
        (AF_INET6, [name, service, flowinfo, scope_id]) => match host(name, AF_INET6 as i32)? {
            IpAddr::V6(ip) => Some(Address::V6(SocketAddrV6::new(
                ip,
                port(service)?,
                number(flowinfo).filter(|&n| n <= MOST_FLOWINFO)?,
                number(scope_id)?,
            ))),
            IpAddr::V4(_) => None,
        },
        _ => None,
    }
}

/// `sock.getpeername()` or `sock.getsockname()`; None where there is none.
pub fn ask(sock: &Obj, method: &Obj) -> Res {
    match sock.call_method(method, []) {
        Err(raised) if raised.matches(exc::os_error()) => {
            raised.forget();
            Ok(none().to_ref())
        }
        answer => answer,
    }
}

/// The address of a peer that was accepted; where it is of no family known here, the socket object says it.
pub fn of_peer(sock: &Obj, peer: Option<&Endpoint>) -> Res {
    peer.map_or_else(|| ask(sock, name!("getpeername")), Endpoint::to_python)
}
