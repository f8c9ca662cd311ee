//! The descriptor of a `socket.socket`, as it is at this moment.
//!
//! CPython counterpart: `sock_fileno`, less the method call. A transport must not trust a number it has seen once: whoever
//! closes the socket object behind its back (asyncio then gets EBADF) frees the number, and bytes meant for a peer would go
//! into a stranger's file. The struct begins with the descriptor on every CPython; that is not promised anywhere, so it
//! is tried out on two real sockets at import, and where it does not hold, `fileno()` is called instead.

use std::cell::Cell;
use std::ffi::c_int;
use std::os::fd::RawFd;

use pyo3_ffi as c;

use super::call::import_attr;
use super::error::{Res, exc};
use super::number::index_value;
use super::object::{Obj, Ref};
use super::once::Once;
use super::text::intern;

struct Layout {
    class: Once<Ref>,
    is_known: Cell<bool>,
}

// SAFETY: written once during import.
unsafe impl Sync for Layout {}

static LAYOUT: Layout = Layout { class: Once::new(), is_known: Cell::new(false) };

/// Find out whether the descriptor can be read in place.
pub fn probe_socket_layout() -> Res<()> {
    LAYOUT.class.set(import_attr("_socket", "socket")?);
    let pair = match import_attr("socket", "socketpair")?.call0() {
        Ok(pair) => pair,
        // No sockets in this sandbox, or no descriptors left: `fileno()` is always right.
        Err(raised) if raised.matches(exc::os_error()) => {
            raised.forget();
            return Ok(());
        }
        Err(raised) => return Err(raised),
    };
    let mut is_known = true;
    for sock in pair.tuple_items() {
        is_known &= c_int::try_from(fileno(sock)?) == Ok(read(sock));
    }
    for sock in pair.tuple_items() {
        sock.call_method(&*intern("close")?, [])?;
        is_known &= read(sock) == -1;
    }
    LAYOUT.is_known.set(is_known);
    Ok(())
}

/// The descriptor of `sock`, -1 if it is closed; `fallback` if it is no socket object and has no `fileno()` that works.
#[inline]
pub fn socket_fd(sock: &Obj, fallback: RawFd) -> RawFd {
    if LAYOUT.is_known.get() && sock.has_type(LAYOUT.class.get()) {
        return read(sock);
    }
    ask(sock, fallback)
}

#[cold]
fn ask(sock: &Obj, fallback: RawFd) -> RawFd {
    match fileno(sock) {
        Ok(fd) => RawFd::try_from(fd).unwrap_or(fallback),
        Err(raised) => {
            raised.forget();
            fallback
        }
    }
}

fn fileno(sock: &Obj) -> Res<i64> {
    index_value(&*sock.call_method(&*intern("fileno")?, [])?)
}

fn read(sock: &Obj) -> c_int {
    // SAFETY: called for instances of `_socket.socket` only, whose storage is longer than the header and one int.
    unsafe { *sock.as_ptr().cast::<u8>().add(size_of::<c::PyObject>()).cast::<c_int>() }
}
