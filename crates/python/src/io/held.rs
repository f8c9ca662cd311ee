//! What one transport of a loop holds back until the callback that runs has ended: one place, and the bytes.
//!
//! CPython counterpart: none; asyncio sends in each `write`. When to hold is `core::buffer::Gathering`'s decision, how is
//! `io::gather`'s.
//!
//! Invariants:
//! * One transport at most: a write of another one flushes it first, so the order of bytes across connections is asyncio's.
//!   The place keeps its transport alive.
//! * The place is empty between two callbacks, before a wait, before a fork, and when nobody runs the loop.
//! * In a forked child nothing is sent that was held before the fork: it is the parent's. (The forking thread has flushed;
//!   this is about loops of other threads.)

use std::io::{self, IoSlice};
use std::os::fd::RawFd;

use aioxide_core::sys::socket;

use super::pieces::sent;
use super::tls::TlsTransport;
use super::transport::SocketTransport;
use super::{finally, fork};
use crate::ffi::cell::{Cell, RefCell, RefMut};
use crate::ffi::{Obj, Res, Slot, Visit};

/// Programs for which lost or late bytes of a crash matter more than speed set it to 0.
const SWITCH: &str = "AIOXIDE_GATHER";

pub struct Held {
    /// Number of the callback that runs, or runs next; a transport that has not written yet has 0.
    callback: Cell<u64>,
    enabled: Cell<bool>,
    /// Who holds bytes, or wants to know when the callback ends.
    owner: Slot,
    bytes: RefCell<Vec<u8>>,
    fork_generation: Cell<u32>,
}

/// What came of a send.
pub struct Sent {
    /// Bytes that were held and found no room.
    pub rest: Vec<u8>,
    /// How many of the others went.
    pub others: usize,
}

impl Held {
    pub fn new() -> Held {
        Held {
            callback: Cell::new(1),
            enabled: Cell::new(std::env::var_os(SWITCH).is_none_or(|value| value != "0")),
            owner: Slot::empty(),
            bytes: RefCell::new(Vec::new()),
            fork_generation: Cell::new(0),
        }
    }

    #[inline]
    pub fn callback(&self) -> u64 {
        self.callback.get()
    }

    pub fn is_enabled(&self) -> bool {
        self.enabled.get()
    }

    pub fn set_enabled(&self, enabled: bool) {
        self.enabled.set(enabled);
    }

    /// Does another transport have the place?
    #[inline]
    pub fn is_anothers(&self, me: &Obj) -> bool {
        self.owner.is_some() && !self.owner.holds(me)
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes.borrow().is_empty()
    }

    pub fn len(&self) -> usize {
        self.bytes.borrow().len()
    }

    /// `me` is told when the callback ends.
    pub fn watch(&self, me: &Obj) {
        if !self.owner.holds(me) {
            self.owner.put(me.to_ref());
        }
    }

    /// `me`, which has the place or finds it empty, holds these bytes too.
    pub fn append(&self, me: &Obj, bytes: &[u8]) {
        if self.is_empty() {
            self.fork_generation.set(fork::generation());
        }
        self.bytes.borrow_mut().extend_from_slice(bytes);
        self.watch(me);
    }

    /// Send what is held and then `others`, in one system call. Nothing is held afterwards.
    pub fn send(&self, fd: RawFd, others: &[u8]) -> io::Result<Sent> {
        let mut bytes = self.own_bytes();
        let outcome = match (bytes.is_empty(), others.is_empty()) {
            (true, true) => Ok(0),
            (true, false) => socket::send(fd, others),
            (false, true) => socket::send(fd, &bytes),
            (false, false) => socket::send_vectored(fd, &[IoSlice::new(&bytes), IoSlice::new(others)]),
        };
        let sent = sent(outcome).map(|count| Sent {
            rest: bytes.get(count..).unwrap_or_default().to_vec(),
            others: count.saturating_sub(bytes.len()),
        });
        bytes.clear();
        sent
    }

    /// What is held, without a send. Nothing is held afterwards.
    pub fn take(&self) -> Sent {
        Sent { rest: std::mem::take(&mut *self.own_bytes()), others: 0 }
    }

    /// Run `f` with what is held. Nothing is held afterwards; what `f` writes may be.
    pub fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        let mut bytes = std::mem::take(&mut *self.own_bytes());
        let answer = f(&bytes);
        bytes.clear();
        let mut place = self.bytes.borrow_mut();
        if place.capacity() == 0 {
            *place = bytes;
        }
        answer
    }

    /// What is held, without what a parent process held when it forked.
    fn own_bytes(&self) -> RefMut<'_, Vec<u8>> {
        let mut bytes = self.bytes.borrow_mut();
        if self.fork_generation.get() != fork::generation() {
            bytes.clear();
        }
        bytes
    }

    /// Send what is held, if anything is.
    ///
    /// # Errors
    /// Only SystemExit and KeyboardInterrupt: a send that fails is the transport's matter.
    #[inline]
    pub fn flush(&self) -> Res<()> {
        if self.owner.is_some() { self.release() } else { Ok(()) }
    }

    #[inline(never)]
    fn release(&self) -> Res<()> {
        match self.owner.take() {
            Some(owner) => match owner.downcast_exact::<SocketTransport>() {
                Some(transport) => transport.on_callback_end(self),
                None => owner.downcast_exact::<TlsTransport>().map_or(Ok(()), |t| t.on_callback_end(self)),
            },
            None => Ok(()),
        }
    }

    /// The callback has ended in this way: send what it has written.
    #[inline]
    pub fn end_of_callback(&self, outcome: Res<()>) -> Res<()> {
        self.callback.set(self.callback.get().wrapping_add(1));
        if self.owner.is_some() { finally(outcome, || self.release()) } else { outcome }
    }

    pub fn traverse(&self, visit: &Visit) {
        visit.slot(&self.owner);
    }

    pub fn clear(&self) {
        self.owner.clear();
    }
}
