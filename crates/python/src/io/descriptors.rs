//! Which descriptor a file object means, and which descriptors belong to transports.
//!
//! CPython counterpart: `selectors._fileobj_to_fd`, `BaseSelectorEventLoop._transports` and `_ensure_fd_no_transport`.
//!
//! A transport is known by weak reference: being listed here must not keep one alive that nobody closes, or its
//! ResourceWarning would never come. A dead entry stays until its number is used again, so the table is as long as the
//! largest descriptor at most.

use std::collections::HashMap;
use std::os::fd::RawFd;

use super::datagram::DatagramTransport;
use super::transport::SocketTransport;
use crate::ffi::cell::RefCell;
use crate::ffi::{Obj, Raised, Ref, Res, exc, saturated_value, str_of};
use crate::name;
use crate::objects::names::imports;

/// Same as `selectors._fileobj_to_fd`, for the kernel.
///
/// # Errors
/// ValueError for what is no int and has no usable `fileno()`, or for a negative number; OverflowError for one that no
/// descriptor can have.
pub fn descriptor(file: &Obj) -> Res<RawFd> {
    possible_descriptor(file)?
        .ok_or_else(|| Raised::new(exc::overflow_error(), "signed integer is greater than maximum"))
}

/// The same; None for a number that no descriptor can have.
pub fn possible_descriptor(file: &Obj) -> Res<Option<RawFd>> {
    let fd = number(file)?;
    match saturated_value(&fd)? {
        negative if negative < 0 => Err(Raised::value_error(&format!("Invalid file descriptor: {}", str_of(&fd)?))),
        fd => Ok(RawFd::try_from(fd).ok()),
    }
}

/// The number, whatever it is.
fn number(file: &Obj) -> Res {
    if file.is_long() {
        return Ok(file.to_ref());
    }
    let asked = file.call_method(name!("fileno"), []).and_then(|fd| fd.to_int());
    match asked {
        Err(raised)
            if raised.matches(exc::attribute_error())
                || raised.matches(exc::type_error())
                || raised.matches(exc::value_error()) =>
        {
            raised.forget();
            Err(Raised::value_error(&format!("Invalid file object: {}", str_of(&*file.repr()?)?)))
        }
        other => other,
    }
}

/// The transports of one loop, by descriptor.
#[derive(Default)]
pub struct Transports(RefCell<HashMap<RawFd, Ref>>);

impl Transports {
    pub fn insert(&self, fd: RawFd, transport: &Obj) -> Res<()> {
        let weak = imports().weak_reference.call1(transport)?;
        let old = self.0.borrow_mut().insert(fd, weak);
        drop(old);
        Ok(())
    }

    /// To be called before the descriptor is closed: afterwards the number may be another transport's. One that was made in
    /// vain leaves the place to whoever has it.
    pub fn remove(&self, fd: RawFd, transport: &Obj) -> Res<()> {
        let Some(weak) = self.0.borrow().get(&fd).cloned() else { return Ok(()) };
        let listed = weak.call0()?;
        if listed.is_none() || listed.is(transport) {
            let old = self.0.borrow_mut().remove(&fd);
            drop(old);
        }
        Ok(())
    }

    /// The transports that are not closed; only those that a server has accepted, if one is given.
    pub fn open(&self, server: Option<&Obj>) -> Res<Vec<Ref>> {
        let all: Vec<Ref> = self.0.borrow().values().cloned().collect();
        let mut found = Vec::new();
        for weak in all {
            let transport = weak.call0()?;
            let is_open = match transport.downcast::<SocketTransport>() {
                Some(stream) => stream.is_open(server),
                None => server.is_none() && transport.downcast::<DatagramTransport>().is_some_and(|t| t.is_open()),
            };
            if is_open {
                found.push(transport);
            }
        }
        Ok(found)
    }

    /// Same as `_ensure_fd_no_transport`.
    ///
    /// # Errors
    /// RuntimeError if `file` is the descriptor of a transport that is not closing; ValueError for an invalid file object.
    pub fn ensure_none(&self, file: &Obj) -> Res<()> {
        let fd = saturated_value(&*number(file)?)?;
        RawFd::try_from(fd).map_or(Ok(()), |fd| self.ensure_free(fd, file))
    }

    /// The same for a descriptor that is known.
    pub fn ensure_free(&self, fd: RawFd, file: &Obj) -> Res<()> {
        let Some(weak) = self.0.borrow().get(&fd).cloned() else { return Ok(()) };
        let found = weak.call0()?;
        let in_use = match found.downcast::<SocketTransport>() {
            Some(stream) => !stream.is_closing(),
            None => found.downcast::<DatagramTransport>().is_some_and(|t| !t.is_closing()),
        };
        if !in_use {
            return Ok(());
        }
        Err(Raised::runtime(&format!(
            "File descriptor {} is used by transport {}",
            str_of(&*file.repr()?)?,
            str_of(&*found.repr()?)?
        )))
    }
}
