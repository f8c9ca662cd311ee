//! Socket addresses between Python and the kernel.
//!
//! CPython counterpart: `makesockaddr` and `getsockaddrarg` of `socketmodule.c`. Into Python of the families that the core
//! has words for, out of Python of the IP families only; for every other one the socket object itself is asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use aioxide_core::net::{Address, ip_literal};

use crate::ffi::{Obj, Res, bytes_from, exc, index_value, int, none, path_text, string, tuple, utf8};
use crate::name;

const AF_UNIX: i64 = 1;
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
            Endpoint::V4(v4) => v4_to_python(v4),
            Endpoint::V6(v6) => v6_to_python(v6),
        }
    }
}

fn v4_to_python(v4: &SocketAddrV4) -> Res {
    // One comes with each datagram, and the text of std's Display goes through a String.
    let mut text = [0; 15];
    let mut end = 0;
    for (i, byte) in v4.ip().octets().into_iter().enumerate() {
        if i > 0 {
            text[end] = b'.';
            end += 1;
        }
        for (least, divisor) in [(100, 100), (10, 10), (0, 1)] {
            if byte >= least {
                text[end] = b'0' + byte / divisor % 10;
                end += 1;
            }
        }
    }
    let text = std::str::from_utf8(&text[..end]).unwrap_or_default();
    tuple([&*string(text)?, &*int(v4.port().into())?])
}

fn v6_to_python(v6: &SocketAddrV6) -> Res {
    tuple([
        &*string(&v6_text(*v6.ip()))?,
        &*int(v6.port().into())?,
        &*int(v6.flowinfo().into())?,
        &*int(v6.scope_id().into())?,
    ])
}

/// The address of a datagram's sender, as `socket.recvfrom` gives it: None if it has none.
pub fn of_sender(sender: Option<&Address>) -> Res {
    match sender {
        None => Ok(none().to_ref()),
        Some(Address::V4(v4)) => v4_to_python(v4),
        Some(Address::V6(v6)) => v6_to_python(v6),
        // What follows a NUL is not seen.
        Some(Address::UnixPath(path)) => path_text(path.split(|&byte| byte == 0).next().unwrap_or_default()),
        Some(Address::UnixAbstract(name)) => bytes_from(&[&[0], name.as_slice()].concat()),
        Some(Address::UnixUnnamed) => string(""),
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

/// Can `of_sender` say every address of the family?
pub fn is_known_family(family: i64) -> bool {
    matches!(family, AF_UNIX | AF_INET | AF_INET6)
}

/// AF_INET and AF_INET6: hosts that may have to be resolved.
pub fn is_ip_family(family: i64) -> bool {
    matches!(family, AF_INET | AF_INET6)
}

/// A socket address with a numeric host: `(host, port)`, for AF_INET6 also with `flowinfo` and `scope_id`. None for any
/// other, which the socket's own method understands, or the resolver.
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
        (AF_INET6, [name, service, rest @ ..]) if rest.len() <= 2 => match host(name, AF_INET6 as i32)? {
            IpAddr::V6(ip) => {
                let flowinfo = rest.first().map_or(Some(0), |o| number(o).filter(|&n| n <= MOST_FLOWINFO))?;
                let scope_id = rest.get(1).map_or(Some(0), |o| number(o))?;
                Some(Address::V6(SocketAddrV6::new(ip, port(service)?, flowinfo, scope_id)))
            }
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
