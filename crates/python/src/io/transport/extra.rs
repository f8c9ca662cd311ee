//! What `get_extra_info` knows of a transport: made into Python objects when somebody asks.
//!
//! CPython counterpart: `BaseTransport._extra`, which each transport fills in when it is made. A dict, a TransportSocket and
//! two addresses are 600 bytes a connection, and a fifth of the time it takes to accept one; most connections are never asked.
//!
//! Invariant: the addresses are those the socket had when the transport was made, as in asyncio; a connection that is lost
//! still tells them.

use std::os::fd::RawFd;

use aioxide_core::sys::socket;

use crate::ffi::{Obj, Ref, Res, Slot, dict};
use crate::io::address::{self, Endpoint};
use crate::io::socket_object;
use crate::name;
use crate::objects::names::imports;

pub struct Extra {
    /// The dict, once somebody has asked for more than an address.
    dict: Slot,
    /// Until then, the socket,
    sock: Slot,
    /// and its two ends.
    ends: Option<[Endpoint; 2]>,
}

impl Extra {
    /// Of a socket; `given` is a dict to be filled in, the caller's own as in asyncio.
    pub fn of_socket(event_loop: &Obj, sock: &Obj, fd: RawFd, given: Option<&Obj>) -> Res<Extra> {
        if given.is_none() && socket_object::is_plain(sock) {
            if let Some(peer) = socket::peer_address(fd).ok().and_then(Endpoint::of) {
                return Extra::of_accepted(event_loop, sock, fd, peer);
            }
        }
        Ok(Extra { dict: Slot::of(describe(event_loop, sock, given)?), sock: Slot::empty(), ends: None })
    }

    /// Of a socket whose peer is known.
    pub fn of_accepted(event_loop: &Obj, sock: &Obj, fd: RawFd, peer: Endpoint) -> Res<Extra> {
        match socket::local_address(fd).ok().and_then(Endpoint::of) {
            Some(local) => Ok(Extra { dict: Slot::empty(), sock: Slot::of(sock.to_ref()), ends: Some([local, peer]) }),
            None => {
                let given = dict()?;
                given.set_item(name!("peername"), &*peer.to_python()?)?;
                Ok(Extra { dict: Slot::of(describe(event_loop, sock, Some(&given))?), sock: Slot::empty(), ends: None })
            }
        }
    }

    pub fn slots(&self) -> [&Slot; 2] {
        [&self.dict, &self.sock]
    }

    /// `_extra.get(key, default)`
    pub fn get(&self, event_loop: Option<&Obj>, key: &Obj, default: &Obj) -> Res {
        if let (Some([local, peer]), false) = (&self.ends, self.dict.is_some()) {
            if key.equals(name!("peername"))? {
                return peer.to_python();
            }
            if key.equals(name!("sockname"))? {
                return local.to_python();
            }
            if key.is_str() && !key.equals(name!("socket"))? {
                return Ok(default.to_ref());
            }
        }
        self.dict(event_loop)?.call_method(name!("get"), [key, default])
    }

    /// The dict.
    pub fn dict(&self, event_loop: Option<&Obj>) -> Res {
        if let Some(made) = self.dict.get() {
            return Ok(made);
        }
        let made = dict()?;
        if let Some([local, peer]) = &self.ends {
            let sock = self.sock.get_or_none();
            made.set_item(name!("socket"), &*transport_socket(event_loop, &sock)?)?;
            made.set_item(name!("sockname"), &*local.to_python()?)?;
            made.set_item(name!("peername"), &*peer.to_python()?)?;
        }
        self.dict.put(made.clone());
        self.sock.clear();
        Ok(made)
    }
}

fn describe(event_loop: &Obj, sock: &Obj, given: Option<&Obj>) -> Res<Ref> {
    let extra = given.map_or_else(dict, |given| Ok(given.to_ref()))?;
    extra.set_item(name!("socket"), &*transport_socket(Some(event_loop), sock)?)?;
    extra.set_item(name!("sockname"), &*address::ask(sock, name!("getsockname"))?)?;
    if !extra.contains(name!("peername"))? {
        extra.set_item(name!("peername"), &*address::ask(sock, name!("getpeername"))?)?;
    }
    Ok(extra)
}

/// What programs get of the socket. The loop's own kind sends what is held before it changes the connection; once the
/// connection is lost, nothing can be held.
fn transport_socket(event_loop: Option<&Obj>, sock: &Obj) -> Res {
    match event_loop {
        Some(event_loop) => event_loop.call_method(name!("_make_transport_socket"), [sock]),
        None => imports().transport_socket_class.call1(sock),
    }
}
