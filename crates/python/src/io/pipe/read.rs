//! The reading end: one read per readiness, then the protocol.
//!
//! CPython counterpart: `asyncio.unix_events._UnixReadPipeTransport`. What `data_received` raises is its own affair: it is reported,
//! and reading goes on. The end of the stream closes the transport, whatever `eof_received` answers.

use crate::ffi::cell::Cell;

use aioxide_core::reactor::Direction;
use aioxide_core::sys::file;

use super::{OfPipe, Pipe, READ_CLASS, START, blocking, lose_connection};
use crate::ffi::{Class, Inst, Native, Obj, Owned, Res, Visit, bytes_of, exc, index_value, none};
use crate::io::base::Base;
use crate::io::driver::Driver;
use crate::io::finally;
use crate::io::poll::READ_ALL;
use crate::io::receive::{Room, arrived};
use crate::io::watch::Watch;
use crate::name;
use crate::objects::scheduler::Scheduler;

const REFUSAL: &str = "Pipe transport is for pipes/sockets only.";

const READ: u32 = Direction::Read as u32;

pub struct ReadPipeTransport {
    pub(super) pipe: Pipe,
    pub(super) paused: Cell<bool>,
    /// connection_made has been called, and what follows it.
    started: Cell<bool>,
    pub(super) reader: Watch,
    room: Room,
}

impl Native for ReadPipeTransport {
    fn class() -> &'static Class {
        &READ_CLASS
    }

    fn traverse(&self, visit: &Visit) {
        self.pipe.traverse(visit);
        self.reader.traverse(visit);
    }

    fn clear(&self) {
        self.pipe.clear();
        self.reader.clear();
    }
}

impl OfPipe for ReadPipeTransport {
    fn pipe(&self) -> &Pipe {
        &self.pipe
    }

    fn stop(&self, me: &Obj) -> Res<()> {
        self.pipe.stop(&self.reader, me)
    }
}

/// Same as `_UnixReadPipeTransport(loop, pipe, protocol, waiter, extra)`: `connection_made` is called in the next turn, then
/// reading starts, then `waiter` gets its result. The file object is the transport's from here on.
///
/// # Errors
/// ValueError for a regular file and the like, which stays the caller's; RuntimeError if the loop is closed; OSError.
pub fn make(
    event_loop: &Obj,
    object: &Obj,
    protocol: &Obj,
    waiter: Option<&Obj>,
    extra: Option<&Obj>,
) -> Res<Owned<ReadPipeTransport>> {
    let me = Owned::new(ReadPipeTransport {
        pipe: Pipe::new(event_loop, object, waiter, extra)?,
        paused: Cell::new(false),
        started: Cell::new(false),
        reader: Watch::new(Direction::Read),
        room: Room::default(),
    })?;
    me.set_up(protocol)?;
    Ok(me)
}

impl Inst<ReadPipeTransport> {
    fn base(&self) -> &Base {
        &self.pipe.base
    }

    fn set_up(&self, protocol: &Obj) -> Res<()> {
        self.base().protocol.set_plain(protocol)?;
        self.pipe.open(REFUSAL)?;
        self.reader.prepare(self.base())?;
        self.pipe.schedule_start(self.obj())
    }

    /// The watch on whose behalf all continuations run.
    pub fn watch(&self) -> &Watch {
        &self.reader
    }

    /// Run one continuation.
    ///
    /// # Errors
    /// Only SystemExit and KeyboardInterrupt.
    #[inline]
    pub fn run(&self, what: u32) -> Res<()> {
        match what {
            READ | READ_ALL => self.reader.run(self.base(), self.obj(), name!("_read_ready"), || self.read()),
            START => {
                self.started.set(true);
                self.pipe.on_start(self.obj(), &self.reader, || self.is_reading())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn is_reading(&self) -> bool {
        !self.paused.get() && !self.base().closing.get()
    }

    /// Same as `_read_ready`.
    pub(super) fn read(&self) -> Res<()> {
        let event_loop = self.base().event_loop()?;
        let Some(driver) = Driver::of(&event_loop) else {
            return Ok(());
        };
        let fd = self.pipe.fd.get();
        let received = if blocking::is_blocking(fd) {
            blocking::read(fd)
        } else {
            self.room.receive(
                driver,
                |buffer| file::read_into(fd, buffer),
                |room| file::read(fd, room),
                |outcome, _| arrived(outcome),
            )
        };
        // While it blocked, the end may have come and gone.
        if !self.pipe.object.is_some() {
            return received.map(drop);
        }
        match received {
            Ok(None) => Ok(()),
            Ok(Some(data)) if bytes_of(&data).is_some_and(<[u8]>::is_empty) => self.on_eof(),
            Ok(Some(data)) => self.base().protocol.data_received(&data),
            Err(raised) if raised.matches(exc::os_error()) => {
                self.fail(&raised.take(), "Fatal read error on pipe transport")
            }
            Err(raised) => Err(raised),
        }
    }

    fn on_eof(&self) -> Res<()> {
        self.base().log_info(self.obj(), "%r was closed by peer")?;
        if self.base().closing.replace(true) {
            return Ok(());
        }
        let event_loop = self.base().event_loop()?;
        let Some(scheduler) = Scheduler::of(&event_loop) else {
            return Ok(());
        };
        finally(self.stop(self.obj()), || {
            let told = self
                .base()
                .protocol
                .object()
                .getattr(name!("eof_received"))
                .and_then(|eof_received| self.base().call_soon(scheduler, &eof_received, &[]));
            finally(told, || self.pipe.schedule_loss(self.obj(), none()))
        })
    }

    /// Same as `pause_reading`: idempotent.
    pub(super) fn pause_reading(&self) -> Res<()> {
        if !self.is_reading() {
            return Ok(());
        }
        self.paused.set(true);
        self.stop(self.obj())?;
        self.base().log_debug(self.obj(), "%r pauses reading")
    }

    /// Same as `resume_reading`: idempotent. What arrives is handed over in the caller's context.
    pub(super) fn resume_reading(&self) -> Res<()> {
        if self.base().closing.get() || !self.paused.get() {
            return Ok(());
        }
        // Inside connection_made: the start is due next, in the context of whoever made the transport.
        if self.started.get() {
            self.reader.prepare(self.base())?;
        }
        self.paused.set(false);
        if self.started.get() && !self.base().closing.get() {
            self.pipe.start(&self.reader, self.obj())?;
        }
        self.base().log_debug(self.obj(), "%r resumes reading")
    }

    /// Same as `close`.
    pub(super) fn close(&self) -> Res<()> {
        finally(self.base().flush_held(), || if self.base().closing.get() { Ok(()) } else { self.end(none()) })
    }

    /// Same as `_close`: `exception` may be None.
    pub(super) fn end(&self, exception: &Obj) -> Res<()> {
        self.base().closing.set(true);
        finally(self.stop(self.obj()), || self.pipe.schedule_loss(self.obj(), exception))
    }

    /// Same as `_fatal_error`: that the other end of a terminal has gone is no error.
    #[cold]
    pub(super) fn fail(&self, exception: &Obj, message: &str) -> Res<()> {
        let is_expected = || Ok(Base::is_os_error(exception) && has_errno(exception, file::EIO)?);
        let told = self
            .base()
            .flush_held()
            .and_then(|()| is_expected())
            .and_then(|is_expected| self.base().tell_of(self.obj(), exception, message, is_expected));
        finally(told, || self.end(exception))
    }

    /// Same as `_call_connection_lost`.
    pub(super) fn lose_connection(&self, exception: &Obj) -> Res<()> {
        lose_connection(&**self, self.obj(), exception)
    }
}

fn has_errno(exception: &Obj, code: i32) -> Res<bool> {
    let errno = exception.getattr(name!("errno"))?;
    Ok(errno.is_long() && index_value(&errno)? == i64::from(code))
}
