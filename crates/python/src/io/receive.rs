//! What a receive came to, and what is said of a buffer that cannot take it.
//!
//! CPython counterpart: `sock_recv` and `sock_recv_into` of `socketmodule.c`.

use std::io::{self, ErrorKind};

use crate::ffi::{Obj, Raised, Res, str_of};
use crate::name;

/// What a receive came to; None: nothing there, the kernel will report again.
#[inline]
pub(super) fn arrived(outcome: io::Result<usize>) -> Res<Option<usize>> {
    match outcome {
        Ok(count) => Ok(Some(count)),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(e) => Err(Raised::os(&e)),
    }
}

/// What `socket.recv_into` says of such a buffer.
#[cold]
pub(super) fn not_writable(raised: Raised, buffer: &Obj) -> Raised {
    if raised.is_exit() {
        return raised;
    }
    raised.forget();
    if buffer.is_none() {
        return Raised::type_error("recv_into() argument 1 must be read-write bytes-like object, not None");
    }
    let name = buffer.class().getattr(name!("__name__"));
    match name.and_then(|n| str_of(&n)) {
        Ok(name) => {
            Raised::type_error(&format!("recv_into() argument 1 must be read-write bytes-like object, not {name}"))
        }
        Err(raised) => raised,
    }
}
