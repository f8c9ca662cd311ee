//! Numeric addresses, for which nobody has to be asked.
//!
//! CPython counterpart: `asyncio.base_events._ipaddr_info`, and what `socket.getaddrinfo` answers for a numeric host.

use std::net::IpAddr;

use aioxide_core::net::ip_literal;

use super::address::v6_text;
use crate::ffi::{Obj, Raised, Ref, Res, exc, index_value, int, list, none, tuple, utf8};
use crate::name;
use crate::objects::names::imports;

const STREAM: i64 = 1;
const DATAGRAM: i64 = 2;
const TCP: i64 = 6;
const UDP: i64 = 17;

/// The protocol of a kind of socket; None for kinds of which a numeric address says nothing.
fn protocol_of(kind: i64) -> Option<i64> {
    match kind {
        STREAM => Some(TCP),
        DATAGRAM => Some(UDP),
        _ => None,
    }
}

fn number(o: &Obj) -> Option<i64> {
    index_value(o).map_err(Raised::forget).ok()
}

/// "Ask the resolver."
fn ask() -> Res {
    Ok(none().to_ref())
}

/// The address that `text` spells in a family, 0 for any.
fn spelled(text: &str, family: i64) -> Option<IpAddr> {
    ip_literal(text, i32::try_from(family).unwrap_or(-1))
}

/// `(family, kind, protocol, canonical name, address)`
fn entry(family: &Obj, kind: &Obj, protocol: i64, address: &Obj) -> Res {
    tuple([family, kind, &*int(protocol)?, name!(""), address])
}

/// Same as `base_events._ipaddr_info`: what `getaddrinfo` would answer for a numeric address, or None if it must be asked.
/// It must be for names, services ("http") and zones ("fe80::1%eth0", which inet_pton(3) refuses). Family and kind come back
/// as they were given.
///
/// # Errors
/// UnicodeError for bytes that are no IDNA name, and for a lone surrogate; ValueError for a NUL.
pub fn literal_address(host: &Obj, port: &Obj, family: &Obj, kind: &Obj, protocol: &Obj, rest: [&Obj; 2]) -> Res {
    let (Some(known), Some(asked)) = (number(kind).and_then(protocol_of), number(protocol)) else { return ask() };
    if host.is_none() || !matches!(asked, 0 | TCP | UDP) {
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
    let (any, address) = match spelled(text, wanted) {
        Some(IpAddr::V4(_)) => (&imports().af_inet, tuple([&*name, &*port])?),
        Some(IpAddr::V6(_)) => (&imports().af_inet6, tuple([&*name, &*port, rest[0], rest[1]])?),
        None => return ask(),
    };
    entry(if wanted == 0 { any } else { family }, kind, known, &address)
}

/// Exactly what `socket.getaddrinfo(host, port, family, kind, protocol)` answers for a numeric address that it would not write
/// in another way; None if it is to be asked.
pub fn literal_answer(host: &Obj, port: &Obj, family: &Obj, kind: &Obj, protocol: &Obj) -> Res {
    let (Some(wanted), Some(kind), Some(asked)) = (number(family), number(kind), number(protocol)) else {
        return ask();
    };
    let Some(known) = protocol_of(kind).filter(|&known| asked == 0 || asked == known) else { return ask() };
    if !host.is_str() || !port.is_exact_int() || number(port).is_none_or(|port| u16::try_from(port).is_err()) {
        return ask();
    }
    let (text, zero) = (utf8(host)?, int(0)?);
    let (family, address) = match spelled(text, wanted) {
        Some(IpAddr::V4(_)) => (&imports().af_inet, tuple([host, port])?),
        Some(IpAddr::V6(ip)) if v6_text(ip) == text => (&imports().af_inet6, tuple([host, port, &*zero, &*zero])?),
        _ => return ask(),
    };
    let kind = if kind == STREAM { &imports().sock_stream } else { &imports().sock_dgram };
    let answer = list()?;
    answer.list_append(&*entry(family, kind, known, &address)?)?;
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
