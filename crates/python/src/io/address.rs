//! A peer's address as Python has it.
//!
//! CPython counterpart: `makesockaddr` of `socketmodule.c`. Only what `accept` brings on the hot families; for every other
//! one the socket object itself is asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use aioxide_core::net::{Address, ip_literal};

use crate::ffi::{Obj, Raised, Ref, Res, exc, index_value, int, list, none, string, tuple, utf8};
use crate::name;
use crate::objects::names::imports;

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
fn v6_text(ip: Ipv6Addr) -> String {
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

/// Same as `base_events._ipaddr_info`: what `getaddrinfo` would answer for a numeric address, or None if it must be asked.
/// It must be for names, services ("http") and zones ("fe80::1%eth0", which inet_pton(3) refuses).
///
/// # Errors
/// UnicodeError for bytes that are no IDNA name, and for a lone surrogate; ValueError for a NUL.
pub fn literal_info(host: &Obj, port: &Obj, family: &Obj, kind: &Obj, protocol: &Obj, rest: [&Obj; 2]) -> Res {
    const STREAM_AND_TCP: (i64, i64) = (1, 6);
    const DATAGRAM_AND_UDP: (i64, i64) = (2, 17);
    let number = |o: &Obj| index_value(o).map_err(Raised::forget).ok();
    let ask = || Ok(none().to_ref());
    let known = [STREAM_AND_TCP, DATAGRAM_AND_UDP];
    let (Some(kind_number), Some(asked)) = (number(kind), number(protocol)) else { return ask() };
    let Some((_, protocol)) = known.into_iter().find(|(kind, _)| *kind == kind_number) else { return ask() };
    if host.is_none() || (asked != 0 && known.iter().all(|(_, protocol)| *protocol != asked)) {
        return ask();
    }
    let Some(port) = port_number(port)? else { return ask() };
    let name = if host.is_bytes() { host.call_method(name!("decode"), [name!("idna")])? } else { host.to_ref() };
    // A zone's name needs the resolver.
    if name.contains(name!("%"))? {
        return ask();
    }
    let Some(wanted) = number(family).filter(|_| name.is_str()) else { return ask() };
    let text = utf8(&name)?;
    if text.contains('\0') {
        return Err(Raised::value_error("embedded null character"));
    }
    let family = Some(family).filter(|_| wanted != 0);
    match ip_literal(text, i32::try_from(wanted).unwrap_or(-1)) {
        Some(IpAddr::V4(_)) => {
            let address = tuple([&*name, &*port])?;
            tuple([family.unwrap_or(&imports().af_inet), kind, &*int(protocol)?, name!(""), &*address])
        }
        Some(IpAddr::V6(_)) => {
            let [flowinfo, scope_id] = rest;
            let address = tuple([&*name, &*port, flowinfo, scope_id])?;
            tuple([family.unwrap_or(&imports().af_inet6), kind, &*int(protocol)?, name!(""), &*address])
        }
        None => ask(),
    }
}

/// Exactly what `socket.getaddrinfo(host, port, family, kind, protocol)` answers for a numeric address that it would not write
/// in another way; None if it is to be asked.
pub fn literal_answer(host: &Obj, port: &Obj, family: &Obj, kind: &Obj, protocol: &Obj) -> Res {
    let number = |o: &Obj| index_value(o).map_err(Raised::forget).ok();
    let ask = || Ok(none().to_ref());
    let (Some(wanted), Some(kind), Some(asked)) = (number(family), number(kind), number(protocol)) else {
        return ask();
    };
    let (kind, protocol) = match kind {
        1 if matches!(asked, 0 | 6) => (&imports().sock_stream, 6),
        2 if matches!(asked, 0 | 17) => (&imports().sock_dgram, 17),
        _ => return ask(),
    };
    if !host.is_str() || !port.is_exact_int() || number(port).is_none_or(|port| u16::try_from(port).is_err()) {
        return ask();
    }
    let text = utf8(host)?;
    let zero = int(0)?;
    let (family, address) = match ip_literal(text, i32::try_from(wanted).unwrap_or(-1)) {
        Some(IpAddr::V4(_)) => (&imports().af_inet, tuple([host, port])?),
        Some(IpAddr::V6(ip)) if v6_text(ip) == text => (&imports().af_inet6, tuple([host, port, &*zero, &*zero])?),
        _ => return ask(),
    };
    let answer = list()?;
    answer.list_append(&*tuple([&**family, &**kind, &*int(protocol)?, name!(""), &*address])?)?;
    Ok(answer)
}

/// `int(port)`, 0 for None and for no text; None for the name of a service.
fn port_number(port: &Obj) -> Res<Option<Ref>> {
    let is_no_text = |port: &Obj| Ok((port.is_bytes() || port.is_str()) && port.len()? == 0);
    if port.is_none() || is_no_text(port)? {
        return int(0).map(Some);
    }
    match port.to_int() {
        Ok(number) => Ok(Some(number)),
        Err(raised) if raised.matches(exc::type_error()) || raised.matches(exc::value_error()) => {
            raised.forget();
            Ok(None)
        }
        Err(raised) => Err(raised),
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
