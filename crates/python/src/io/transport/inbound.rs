//! The reading side: one receive per readiness, then the protocol.
//!
//! CPython counterpart: `_read_ready`, `_read_ready__data_received`, `_read_ready__get_buffer`, `_read_ready__on_eof`.
//!
//! A TCP socket is reported once for what arrives (`Reactor::set_edge`), so whatever is not known to be read is asked to be
//! reported again: after each continuation but for those in which a receive came back empty, or filled less than its room
//! with nothing at hand that could have cut it short (the end of the stream, an error, urgent data).

use std::io::{self, ErrorKind};

use aioxide_core::reactor::Direction;
use aioxide_core::sys::socket;

use super::SocketTransport;
use crate::ffi::cell::Cell;
use crate::ffi::{Context, Inst, Raised, Ref, Res, Slot, Visit, WriteBuffer, bytes_of};
use crate::io::driver::Driver;
use crate::io::receive::{Room, not_writable};

/// What asyncio's TLS protocol is, it is told by.
const RECORDS_FAILED: &str = match cfg!(Py_3_11) {
    true => "Fatal error: protocol.buffer_updated() call failed.",
    false => "Fatal error: protocol.data_received() call failed.",
};

/// State of the reading side.
#[derive(Default)]
pub(super) struct Inbound {
    pub(super) paused: Cell<bool>,
    /// connection_made has been called, and what follows it.
    pub(super) started: Cell<bool>,
    watched: Cell<bool>,
    /// TCP: the kernel tells of new bytes only.
    pub(super) reports_once: Cell<bool>,
    /// There may be bytes, or an end, that no receive has found yet.
    unread: Cell<bool>,
    /// A short receive does not mean that nothing is left: only an empty one does.
    reads_all: Cell<bool>,
    /// Copied where asyncio would make the reader's Handle: at construction, or in `resume_reading`.
    pub(super) context: Slot,
    room: Room,
}

impl Inbound {
    fn is_watched(&self) -> bool {
        self.watched.get()
    }

    pub(super) fn traverse(&self, visit: &Visit) {
        visit.slot(&self.context);
    }

    pub(super) fn clear(&self) {
        self.context.clear();
    }

    /// What a receive into `room` bytes came to; None: nothing there, the kernel will report again.
    fn arrived(&self, outcome: io::Result<usize>, room: usize) -> Res<Option<usize>> {
        match outcome {
            Ok(count) => {
                self.unread.set(count == room || self.reads_all.get());
                Ok(Some(count))
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                self.unread.set(false);
                self.reads_all.set(false);
                Ok(None)
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(None),
            Err(e) => Err(Raised::os(&e)),
        }
    }
}

impl SocketTransport {
    pub(super) fn is_reading(&self) -> bool {
        !self.base.closing.get() && !self.inbound.paused.get()
    }

    /// The next bytes, empty at the end of the stream; None if there are none yet.
    fn receive(&self, driver: &Driver) -> Res<Option<Ref>> {
        let fd = self.descriptor();
        self.inbound.room.receive(
            driver,
            |buffer| socket::recv_into(fd, buffer),
            |room| socket::recv(fd, room),
            |outcome, room| self.inbound.arrived(outcome, room),
        )
    }
}

impl Inst<SocketTransport> {
    /// Same as `_add_reader`: does nothing if reading is paused or at an end.
    pub(super) fn start_reading(&self, context: Ref) -> Res<()> {
        if !self.is_reading() {
            return Ok(());
        }
        let event_loop = self.base.event_loop()?;
        if let Some(driver) = Driver::of(&event_loop) {
            if self.inbound.reports_once.get() {
                driver.watch_edge(self.fd.get(), self.obj())?;
            } else {
                driver.watch(self.fd.get(), Direction::Read, self.obj())?;
            }
            self.inbound.watched.set(true);
        }
        self.inbound.context.put(context);
        Ok(())
    }

    pub(super) fn stop_reading(&self) -> Res<()> {
        if !self.inbound.watched.replace(false) {
            return Ok(());
        }
        let Some(event_loop) = self.base.event_loop.get() else {
            return Ok(());
        };
        Driver::of(&event_loop).map_or(Ok(()), |d| d.unwatch(self.fd.get(), Direction::Read, self.obj()))
    }

    /// Same as `pause_reading`: idempotent.
    pub(super) fn pause_reading(&self) -> Res<()> {
        if !self.is_reading() {
            return Ok(());
        }
        self.inbound.paused.set(true);
        self.stop_reading()?;
        self.base.log_debug(self.obj(), "%r pauses reading")
    }

    /// Same as `resume_reading`: idempotent. What arrives is handed over in the caller's context.
    pub(super) fn resume_reading(&self) -> Res<()> {
        if self.base.closing.get() || !self.inbound.paused.get() {
            return Ok(());
        }
        self.inbound.paused.set(false);
        // Inside connection_made: the start is due next, in the context of whoever made the transport.
        if self.inbound.started.get() {
            self.start_reading(self.base.capture_context()?)?;
        }
        self.base.log_debug(self.obj(), "%r resumes reading")
    }

    /// The descriptor is readable. The entry may be stale: paused or closed by another entry of the same turn.
    #[inline]
    pub(super) fn on_readable(&self, reads_all: bool) -> Res<()> {
        if !self.inbound.is_watched() || self.base.conn_lost.get() != 0 {
            return Ok(());
        }
        let Some(context) = self.inbound.context.get() else {
            return Ok(());
        };
        if reads_all {
            self.inbound.reads_all.set(true);
        }
        // Until a receive says otherwise: user code may raise before it is made.
        self.inbound.unread.set(true);
        let outcome = Context::run(&context, || {
            if self.base.protocol.is_native() {
                self.read_records()
            } else if self.base.protocol.is_buffered() {
                self.read_into_protocol()
            } else {
                self.read_bytes()
            }
        });
        if self.inbound.unread.get() && self.inbound.reports_once.get() && self.inbound.is_watched() {
            self.read_again();
        }
        outcome
    }

    /// Ask to be reported again. Runs no Python: an error may be set.
    #[cold]
    fn read_again(&self) {
        let event_loop = self.base.event_loop.get();
        if let Some(driver) = event_loop.as_deref().and_then(Driver::of) {
            driver.report_again(self.fd.get(), self.obj());
        }
    }

    fn read_bytes(&self) -> Res<()> {
        let event_loop = self.base.event_loop()?;
        let Some(driver) = Driver::of(&event_loop) else {
            return Ok(());
        };
        let data = match self.receive(driver) {
            Ok(Some(data)) => data,
            Ok(None) => return Ok(()),
            Err(raised) => return self.fatal_error(raised, "Fatal read error on socket transport"),
        };
        if bytes_of(&data).is_some_and(<[u8]>::is_empty) {
            return self.on_eof();
        }
        match self.base.protocol.data_received(&data) {
            Ok(()) => Ok(()),
            Err(raised) => self.fatal_error(raised, "Fatal error: protocol.data_received() call failed."),
        }
    }

    /// For TLS, which decrypts from where they were received.
    fn read_records(&self) -> Res<()> {
        let event_loop = self.base.event_loop()?;
        let Some(driver) = Driver::of(&event_loop) else {
            return Ok(());
        };
        driver.records.with_room(|room| {
            let received = socket::recv_into(self.descriptor(), room);
            let count = match self.inbound.arrived(received, room.len()) {
                Ok(Some(0)) => return self.on_eof(),
                Ok(Some(count)) => count,
                Ok(None) => return Ok(()),
                Err(raised) => return self.fatal_error(raised, "Fatal read error on socket transport"),
            };
            match self.base.protocol.records_received(&room[..count]) {
                Ok(()) => Ok(()),
                Err(raised) => self.fatal_error(raised, RECORDS_FAILED),
            }
        })
    }

    fn read_into_protocol(&self) -> Res<()> {
        let buffer = match self.borrow_buffer() {
            Ok(buffer) => buffer,
            Err(raised) => {
                return self.fatal_error(raised, "Fatal error: protocol.get_buffer() call failed.");
            }
        };
        // The view goes back before `buffer_updated`, where the protocol may resize its buffer.
        let received = match WriteBuffer::new(&buffer) {
            Ok(mut view) => {
                let size = view.len();
                self.inbound.arrived(socket::recv(self.descriptor(), view.room()), size)
            }
            Err(raised) => Err(not_writable(raised, &buffer)),
        };
        drop(buffer);
        let count = match received {
            Ok(Some(count)) => count,
            Ok(None) => return Ok(()),
            Err(raised) => return self.fatal_error(raised, "Fatal read error on socket transport"),
        };
        if count == 0 {
            return self.on_eof();
        }
        match self.base.protocol.buffer_updated(count) {
            Ok(()) => Ok(()),
            Err(raised) => self.fatal_error(raised, "Fatal error: protocol.buffer_updated() call failed."),
        }
    }

    fn borrow_buffer(&self) -> Res {
        let buffer = self.base.protocol.get_buffer()?;
        // An empty buffer would make `recv` answer 0, which means the end of the stream.
        if buffer.len()? == 0 {
            return Err(Raised::runtime("get_buffer() returned an empty buffer"));
        }
        Ok(buffer)
    }

    fn on_eof(&self) -> Res<()> {
        self.base.log_debug(self.obj(), "%r received EOF")?;
        let keep_open = match self.base.protocol.eof_received() {
            Ok(answer) => answer,
            Err(raised) => {
                return self.fatal_error(raised, "Fatal error: protocol.eof_received() call failed.");
            }
        };
        if keep_open.is_true()? {
            // The protocol may write on, but there is nothing to read any more, and the kernel would report it for ever.
            self.stop_reading()
        } else {
            self.close()
        }
    }
}
