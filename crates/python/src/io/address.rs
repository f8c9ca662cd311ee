//! A peer's address as Python has it.
//!
//! CPython counterpart: `makesockaddr` of `socketmodule.c`. Only what `accept` brings on the hot families; for every other
//! one the socket object itself is asked.

use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};

use aioxide_core::net::{Address, ip_literal};

use crate::ffi::{Obj, Ref, Res, exc, index_value, int, none, string, tuple, utf8};
use crate::name;

const AF_INET: i64 = 2;
const AF_INET6: i64 = 10;

/// `(host, port)` or `(host, port, flowinfo, scope_id)`; None where the socket object has to say it.
pub fn to_python(address: &Address) -> Res<Option<Ref>> {
    let made = match address {
        Address::V4(v4) => tuple([&*string(&v4.ip().to_string())?, &*int(v4.port().into())?])?,
        Address::V6(v6) => tuple([
            &*string(&v6.ip().to_string())?,
            &*int(v6.port().into())?,
            &*int(v6.flowinfo().into())?,
            &*int(v6.scope_id().into())?,
        ])?,
        Address::UnixPath(_) | Address::UnixAbstract(_) | Address::UnixUnnamed => return Ok(None),
    };
    Ok(Some(made))
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
    let number = |o: &Obj| match o.is_long().then(|| index_value(o))? {
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
            IpAddr::V6(ip) => {
                Some(Address::V6(SocketAddrV6::new(ip, port(service)?, number(flowinfo)?, number(scope_id)?)))
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

/// The address of a peer that was accepted.
pub fn of_peer(sock: &Obj, address: Option<&Address>) -> Res {
    match address.map(to_python).transpose()?.flatten() {
        Some(known) => Ok(known),
        None => ask(sock, name!("getpeername")),
    }
}
