//! Python's socket objects: made of a descriptor, and looked at.
//!
//! CPython counterpart: `socket.socket.__init__` and `socket.socket.accept`.

use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};

use aioxide_core::sys::socket;

use crate::ffi::{Obj, Ref, Res, float_value, import, index_value, int, tuple_of_refs};
use crate::name;
use crate::objects::names::imports;

/// `(sock.family, sock.type, sock.proto)`, as they are.
pub fn attributes(sock: &Obj) -> Res<[Ref; 3]> {
    Ok([sock.getattr(name!("family"))?, sock.getattr(name!("type"))?, sock.getattr(name!("proto"))?])
}

/// The numbers that `socket.socket(family, type, proto)` was made of.
pub fn kind(sock: &Obj) -> Res<[i64; 3]> {
    let [family, type_, protocol] = attributes(sock)?;
    Ok([index_value(&family)?, index_value(&type_)?, index_value(&protocol)?])
}

/// `sock.family` as a number, without the enum that Python's property makes of it.
pub fn family(sock: &Obj) -> Res<i64> {
    if !is_plain(sock) {
        return index_value(&*sock.getattr(name!("family"))?);
    }
    let member = imports().c_socket_class.getattr(name!("family"))?;
    index_value(&*member.call_method(name!("__get__"), [sock])?)
}

/// A non-blocking socket object that owns `fd`.
///
/// The steps of `socket.socket.__init__` without its Python frame: there a signal handler could raise when the object has
/// taken the descriptor already, and nobody would know who has to close it.
pub fn adopt(fd: OwnedFd, kind: [i64; 3]) -> Res {
    make(kind, Some(fd))
}

/// A new non-blocking socket: `socket.socket(*kind)`.
pub fn open(kind: [i64; 3]) -> Res {
    make(kind, None)
}

fn make(kind: [i64; 3], fd: Option<OwnedFd>) -> Res {
    let imports = imports();
    let [family, type_, protocol] = kind;
    // Told so, the object does not ask the system to make it non-blocking.
    let type_ = type_ | i64::from(socket::NONBLOCK);
    let sock = imports.socket_class.call_method(name!("__new__"), [&*imports.socket_class])?;
    let mut numbers = vec![sock.clone(), int(family)?, int(type_)?, int(protocol)?];
    if let Some(fd) = &fd {
        numbers.push(int(fd.as_raw_fd().into())?);
    }
    imports.c_socket_class.getattr(name!("__init__"))?.call_tuple(&*tuple_of_refs(&numbers)?)?;
    // From here on it is the object's.
    let _number = fd.map(OwnedFd::into_raw_fd);
    sock.setattr(name!("_io_refs"), &*int(0)?)?;
    sock.setattr(name!("_closed"), crate::ffi::false_())?;
    Ok(sock)
}

/// `sock.close()`, without its Python frames for a plain socket: files made of it by `makefile()` keep the descriptor open.
pub fn close(sock: &Obj) -> Res<()> {
    if !is_plain(sock) {
        return sock.call_method(name!("close"), []).map(drop);
    }
    sock.setattr(name!("_closed"), crate::ffi::true_())?;
    if index_value(&*sock.getattr(name!("_io_refs"))?)? > 0 {
        return Ok(());
    }
    imports().c_socket_class.call_method(name!("close"), [sock]).map(drop)
}

/// `sock.setblocking(False)`, without the system call for one that does not block already.
pub fn make_non_blocking(sock: &Obj) -> Res<()> {
    if is_plain(sock) {
        let timeout = sock.call_method(name!("gettimeout"), [])?;
        if !timeout.is_none() && float_value(&timeout)? == 0.0 {
            return Ok(());
        }
    }
    sock.call_method(name!("setblocking"), [crate::ffi::false_()]).map(drop)
}

/// Exactly `socket.socket`: its methods are the system's calls, and no program's own.
#[inline]
pub fn is_plain(sock: &Obj) -> bool {
    sock.class().is(&imports().socket_class)
}

/// Same as `base_events._check_ssl_socket`.
///
/// # Errors
/// TypeError for an `ssl.SSLSocket`, which does its own reading and writing.
pub fn refuse_tls(sock: &Obj) -> Res<()> {
    if is_plain(sock) {
        return Ok(());
    }
    let tls: Option<Ref> = match import("ssl") {
        Ok(module) => module.getattr_opt(name!("SSLSocket"))?,
        // An interpreter without OpenSSL.
        Err(raised) if raised.matches(crate::ffi::exc::import_error()) => {
            raised.forget();
            None
        }
        Err(raised) => return Err(raised),
    };
    match tls {
        Some(class) if sock.is_instance(&class)? => {
            Err(crate::ffi::Raised::type_error("Socket cannot be of type SSLSocket"))
        }
        _ => Ok(()),
    }
}
