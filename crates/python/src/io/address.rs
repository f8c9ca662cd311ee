//! A peer's address as Python has it.
//!
//! CPython counterpart: `makesockaddr` of `socketmodule.c`. Only what `accept` brings on the hot families; for every other
//! one the socket object itself is asked.

use aioxide_core::net::Address;

use crate::ffi::{Obj, Ref, Res, exc, int, none, string, tuple};
use crate::name;

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
    const AF_INET: i64 = 2;
    const AF_INET6: i64 = 10;
    matches!(family, AF_INET | AF_INET6)
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
