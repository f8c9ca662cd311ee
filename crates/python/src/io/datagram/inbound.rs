//! The reading side: one receive per readiness, then the protocol.
//!
//! CPython counterpart: `_SelectorDatagramTransport._read_ready`, `_SelectorTransport.pause_reading` and `resume_reading`.
//!
//! Where datagrams come faster than they are read, a poll for each would cost as much as the receive. So after a datagram
//! the transport takes its place in the ready queue again and receives in the next turn, unpolled; who else is ready has had
//! his turn in between, and the loop polls as often as ever. A receive in vain ends it, and the next [`REPORTS_BETWEEN`]
//! datagrams are left to the poll: where they come one at a time there is nothing to gain.
//!
//! A datagram is received into the loop's buffer, asyncio's `max_size` of bytes, and copied into a `bytes` of its size. Its
//! sender's address is made here as `socket.recvfrom` would make it.

use crate::ffi::cell::Cell;
use std::io::ErrorKind;

use aioxide_core::sys::socket;

use super::{DatagramTransport, READ_MORE};
use crate::ffi::{Inst, Obj, Raised, Ref, Res, bytes_from, exc, int};
use crate::io::address;
use crate::io::driver::{Driver, RECEIVE_BYTES};
use crate::io::sock::attempt;
use crate::name;
use crate::objects::scheduler::{Entry, Scheduler};

/// Reports of the poll after a receive in vain until the next is risked.
const REPORTS_BETWEEN: u8 = 16;

/// Whether to receive without having been told that there is something.
#[derive(Default)]
pub(super) struct Lookahead {
    /// The transport is in the ready queue for it.
    queued: Cell<bool>,
    /// Reports still to be waited for.
    reports: Cell<u8>,
}

impl DatagramTransport {
    pub(super) fn is_reading(&self) -> bool {
        !self.base.closing.get() && !self.paused.get()
    }

    /// The next datagram and its sender; None if there is none.
    fn receive(&self) -> Res<Option<(Ref, Ref)>> {
        let event_loop = self.base.event_loop()?;
        let Some(driver) = Driver::of(&event_loop).filter(|_| self.is_plain) else {
            return self.receive_by_method();
        };
        let fd = self.descriptor();
        // Given back before an error becomes an exception: the collector may run there, and user code with it.
        let outcome = socket::recv_from(fd, &mut driver.receive_buffer.borrow_mut());
        let (count, sender) = match outcome {
            Ok(received) => received,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(None),
            Err(e) => return Err(Raised::os(&e)),
        };
        let data = bytes_from(&driver.receive_buffer.borrow()[..count])?;
        if self.sender.is_some() && *self.sender_address.borrow() == sender {
            return Ok(Some((data, self.sender.get_or_none())));
        }
        let named = address::of_sender(sender.as_ref())?;
        *self.sender_address.borrow_mut() = sender;
        self.sender.put(named.clone());
        Ok(Some((data, named)))
    }

    #[cold]
    fn receive_by_method(&self) -> Res<Option<(Ref, Ref)>> {
        let most = int(RECEIVE_BYTES as i64)?;
        match attempt(self.sock.get_or_none().call_method(name!("recvfrom"), [&*most]))? {
            Some(received) => received.unpack::<2>().map(|[data, sender]| Some((data, sender))),
            None => Ok(None),
        }
    }
}

impl Inst<DatagramTransport> {
    pub(super) fn stop_reading(&self) -> Res<()> {
        self.reader.stop(&self.base, self.fd.get(), self.obj())
    }

    /// Same as `pause_reading`: idempotent. What arrives meanwhile waits in the kernel, as far as it has room.
    pub(super) fn pause_reading(&self) -> Res<()> {
        if !self.is_reading() {
            return Ok(());
        }
        self.paused.set(true);
        self.stop_reading()?;
        self.base.log_debug(self.obj(), "%r pauses reading")
    }

    /// Same as `resume_reading`: idempotent.
    pub(super) fn resume_reading(&self) -> Res<()> {
        if self.base.closing.get() || !self.paused.get() {
            return Ok(());
        }
        self.paused.set(false);
        // Inside connection_made: the start is due next, in the context of whoever made the transport.
        if self.started.get() {
            self.reader.prepare(&self.base)?;
            // That may have run the collector, and user code with it.
            if self.is_reading() {
                self.reader.start(&self.base, self.fd.get(), self.obj())?;
            }
        }
        self.base.log_debug(self.obj(), "%r resumes reading")
    }

    /// The descriptor is readable. The entry may be stale: paused or closed by another entry of the same turn.
    #[inline]
    pub(super) fn on_readable(&self) -> Res<()> {
        // In the queue already: that one will receive it.
        if self.lookahead.queued.get() {
            return Ok(());
        }
        self.lookahead.reports.set(self.lookahead.reports.get().saturating_sub(1));
        self.read_if_wanted()
    }

    /// Unpolled: the turn after one in which a datagram came.
    #[inline]
    pub(super) fn on_turn(&self) -> Res<()> {
        self.lookahead.queued.set(false);
        // The poll would not report a socket that somebody has closed.
        if self.descriptor() < 0 {
            return Ok(());
        }
        self.read_if_wanted()
    }

    #[inline]
    fn read_if_wanted(&self) -> Res<()> {
        if self.base.conn_lost.get() != 0 {
            return Ok(());
        }
        let mut came = false;
        let outcome = self.reader.run(&self.base, self.obj(), name!("_read_ready"), || {
            came = self.read()?;
            Ok(())
        });
        // A foreign socket's method is called when there is something, and only then.
        if came && self.is_plain && self.lookahead.reports.get() == 0 {
            self.look_again();
        }
        outcome
    }

    /// Runs no Python: an error may be set.
    fn look_again(&self) {
        let event_loop = self.base.event_loop.get();
        if let Some(scheduler) = event_loop.as_deref().and_then(Scheduler::of).filter(|_| self.reader.is_on()) {
            self.lookahead.queued.set(true);
            scheduler.push(Entry::Native(self.obj().to_ref(), READ_MORE));
        }
    }

    /// Same as `_read_ready`; was there anything?
    pub(super) fn read(&self) -> Res<bool> {
        if self.base.conn_lost.get() != 0 {
            return Ok(false);
        }
        match self.receive() {
            Ok(Some((data, sender))) => {
                let protocol = self.base.protocol.object();
                protocol.call_method(name!("datagram_received"), [&*data, &*sender]).map(|_| true)
            }
            Ok(None) => {
                self.lookahead.reports.set(REPORTS_BETWEEN);
                Ok(false)
            }
            Err(raised) if raised.matches(exc::os_error()) => self.tell_of_error(raised).map(|()| false),
            Err(raised) => self.fatal_error(raised, "Fatal read error on datagram transport").map(|()| false),
        }
    }

    /// `protocol.error_received(exception)`
    #[cold]
    pub(super) fn tell_of_error(&self, raised: Raised) -> Res<()> {
        let exception = raised.take();
        self.base.protocol.object().call_method(name!("error_received"), [&*exception as &Obj]).map(drop)
    }
}
