//! The writing end: write at once if nothing is queued, queue the rest, write it when there is room.
//!
//! CPython counterpart: `asyncio.unix_events._UnixWritePipeTransport`.
//!
//! A `bytes` is queued by reference, it never changes; of anything else the unsent rest is copied. The queue is resumed
//! (`resume_writing`) when it is empty, not when it sinks below the low limit: so does asyncio.
//!
//! The reader who hangs up is an event on the reading side of our descriptor: of a pipe the kernel tells EPOLLERR, of a socket
//! EPOLLHUP; what a socket's peer sends counts as hanging up, too, as in asyncio.

use crate::ffi::cell::{Cell, RefCell};
use std::os::fd::RawFd;

use aioxide_core::buffer::Outbound;
use aioxide_core::reactor::Direction;
use aioxide_core::sys::file::{self, Kind};

use super::{OfPipe, Pipe, START, WRITE_CLASS, blocking, lose_connection};
use crate::ffi::{
    Class, Inst, Native, Obj, Owned, Raised, ReadBuffer, Res, Visit, bytes_from, bytes_of, exc, is_bytes_like, none,
};
use crate::io::base::Base;
use crate::io::finally;
use crate::io::flow::Flow;
use crate::io::pieces::{Piece, queue_rest, send_queued, sent};
use crate::io::poll::READ_ALL;
use crate::io::watch::Watch;
use crate::name;

const REFUSAL: &str = "Pipe transport is only for pipes, sockets and character devices";

const WRITE_FAILED: &str = "Fatal write error on pipe transport";

const READ: u32 = Direction::Read as u32;
const WRITE: u32 = Direction::Write as u32;

pub struct WritePipeTransport {
    pub(super) pipe: Pipe,
    /// Does the kernel tell when the reader hangs up? Not of a device.
    tells_hang_up: Cell<bool>,
    queue: RefCell<Outbound<Piece>>,
    pub(super) flow: Flow,
    hang_up: Watch,
    /// On exactly while something is queued.
    pub(super) writer: Watch,
}

impl Native for WritePipeTransport {
    fn class() -> &'static Class {
        &WRITE_CLASS
    }

    fn traverse(&self, visit: &Visit) {
        self.pipe.traverse(visit);
        self.hang_up.traverse(visit);
        self.writer.traverse(visit);
    }

    fn clear(&self) {
        self.pipe.clear();
        self.hang_up.clear();
        self.writer.clear();
    }
}

impl OfPipe for WritePipeTransport {
    fn pipe(&self) -> &Pipe {
        &self.pipe
    }

    fn stop(&self, me: &Obj) -> Res<()> {
        finally(self.pipe.stop(&self.writer, me), || self.pipe.stop(&self.hang_up, me))
    }
}

/// Same as `_UnixWritePipeTransport(loop, pipe, protocol, waiter, extra)`: `connection_made` is called in the next turn, then
/// `waiter` gets its result. The file object is the transport's from here on.
///
/// # Errors
/// ValueError for a regular file and the like, which stays the caller's; RuntimeError if the loop is closed; OSError.
pub fn make(
    event_loop: &Obj,
    object: &Obj,
    protocol: &Obj,
    waiter: Option<&Obj>,
    extra: Option<&Obj>,
) -> Res<Owned<WritePipeTransport>> {
    let me = Owned::new(WritePipeTransport {
        pipe: Pipe::new(event_loop, object, waiter, extra)?,
        tells_hang_up: Cell::new(false),
        queue: RefCell::new(Outbound::new()),
        flow: Flow::new(),
        hang_up: Watch::new(Direction::Read),
        writer: Watch::new(Direction::Write),
    })?;
    me.set_up(protocol)?;
    Ok(me)
}

impl WritePipeTransport {
    pub(super) fn unsent_bytes(&self) -> usize {
        self.queue.borrow().len()
    }

    /// Drop what is queued.
    fn discard(&self) {
        let dropped = self.queue.borrow_mut().clear();
        drop(dropped);
    }
}

impl Inst<WritePipeTransport> {
    fn base(&self) -> &Base {
        &self.pipe.base
    }

    fn set_up(&self, protocol: &Obj) -> Res<()> {
        self.base().protocol.set_plain(protocol)?;
        let kind = self.pipe.open(REFUSAL)?;
        self.tells_hang_up.set(kind != Kind::CharDevice);
        self.hang_up.prepare(self.base())?;
        self.pipe.schedule_start(self.obj())
    }

    /// The watch on whose behalf a continuation runs.
    pub fn watch_of(&self, what: u32) -> &Watch {
        if what == WRITE { &self.writer } else { &self.hang_up }
    }

    /// Run one continuation.
    ///
    /// # Errors
    /// Only SystemExit and KeyboardInterrupt.
    pub fn run(&self, what: u32) -> Res<()> {
        let (base, me) = (self.base(), self.obj());
        match what {
            READ | READ_ALL => self.hang_up.run(base, me, name!("_read_ready"), || self.on_hang_up()),
            WRITE => self.writer.run(base, me, name!("_write_ready"), || self.on_writable()),
            START => self.pipe.on_start(me, &self.hang_up, || self.tells_hang_up.get() && !base.closing.get()),
            _ => Ok(()),
        }
    }

    /// Same as `_read_ready`: the pipe was closed by the peer.
    pub(super) fn on_hang_up(&self) -> Res<()> {
        self.base().log_info(self.obj(), "%r was closed by peer")?;
        match self.unsent_bytes() {
            0 => self.force_close(none()),
            _ => self.force_close(&*exc::broken_pipe_error().call0()?),
        }
    }

    /// Same as `write`.
    ///
    /// # Errors
    /// AssertionError for what is not bytes, bytearray or memoryview; PermissionError if there is no room in a file that epoll
    /// does not watch. An error of the write itself goes to `connection_lost`, not to the caller.
    pub(super) fn write(&self, data: &Obj) -> Res<()> {
        if !is_bytes_like(data) {
            return Err(Raised::with(exc::assertion_error(), &*data.repr()?));
        }
        // What is held was written before, and is seen before. It may be ours to be closed by.
        self.base().flush_held()?;
        if data.len()? == 0 {
            return Ok(());
        }
        if self.base().conn_lost.get() != 0 || self.base().closing.get() {
            return self.base().count_lost_write("pipe closed by peer or os.write(pipe, data) raised exception.");
        }
        let kept = bytes_of(data);
        let view = match kept {
            Some(_) => None,
            None => match ReadBuffer::new(data) {
                Ok(view) => Some(view),
                // A view that is not contiguous: `os.write` refuses it.
                Err(raised) => return self.write_failed(raised),
            },
        };
        let bytes = kept.or(view.as_ref().map(ReadBuffer::as_slice)).unwrap_or_default();
        let mut done = 0;
        if self.queue.borrow().is_empty() {
            let fd = self.pipe.fd.get();
            let outcome = match blocking::is_blocking(fd) {
                true => blocking::write(fd, bytes),
                false => sent(file::write(fd, bytes)).map_err(|e| Raised::os(&e)),
            };
            done = match outcome {
                Ok(done) if done == bytes.len() => return Ok(()),
                Ok(done) => done,
                Err(raised) => {
                    drop(view);
                    return self.write_failed(raised);
                }
            };
            // While it blocked, somebody may have ended the transport: nothing is written any more.
            if self.pipe.ends.get() {
                return Ok(());
            }
        }
        // A rest is queued by reference as the first one only: somebody may have written while it blocked.
        let is_whole = kept.is_some() && (done == 0 || self.queue.borrow().is_empty());
        let piece = match is_whole {
            true => Piece(data.to_ref()),
            false => Piece(bytes_from(&bytes[std::mem::take(&mut done)..])?),
        };
        let is_first = self.queue.borrow().is_empty();
        // Queued before anything that can run code, which may write here, too.
        queue_rest(&self.queue, piece, done);
        drop(view);
        if is_first {
            if let Err(raised) = self.start_writing() {
                self.discard();
                return Err(raised);
            }
        }
        self.flow.maybe_pause(self.base(), self.obj(), self.unsent_bytes())
    }

    fn start_writing(&self) -> Res<()> {
        self.writer.prepare(self.base())?;
        // That may have run the collector, and user code with it.
        if self.unsent_bytes() == 0 { Ok(()) } else { self.pipe.start(&self.writer, self.obj()) }
    }

    fn write_failed(&self, raised: Raised) -> Res<()> {
        if raised.is_exit() {
            return Err(raised);
        }
        self.base().conn_lost.set(self.base().conn_lost.get() + 1);
        self.fail(&raised.take(), WRITE_FAILED)
    }

    /// Same as `_write_ready`.
    pub(super) fn on_writable(&self) -> Res<()> {
        let fd = self.pipe.fd.get();
        let outcome = match blocking::is_blocking(fd) {
            true => self.write_front(fd),
            false => send_queued(&self.queue, |slices| file::write_vectored(fd, slices))
                .map(drop)
                .map_err(|e| Raised::os(&e)),
        };
        if let Err(raised) = outcome {
            if raised.is_exit() {
                return Err(raised);
            }
            self.discard();
            return finally(self.pipe.stop(&self.writer, self.obj()), || self.write_failed(raised));
        }
        // While it blocked, somebody may have aborted.
        if self.unsent_bytes() != 0 || self.pipe.ends.get() {
            return Ok(());
        }
        self.pipe.stop(&self.writer, self.obj())?;
        // The protocol may close or abort in there, or end the program.
        finally(self.flow.maybe_resume(self.base(), self.obj(), 0), || {
            // It may have written, too: then close() still waits.
            if !self.base().closing.get() || self.pipe.ends.get() || self.unsent_bytes() != 0 {
                return Ok(());
            }
            // close() waited for this.
            finally(self.pipe.stop(&self.hang_up, self.obj()), || self.lose_connection(none()))
        })
    }

    /// Write the first of what is queued to a descriptor that blocks; it is held by a reference of its own meanwhile.
    #[cold]
    fn write_front(&self, fd: RawFd) -> Res<()> {
        let front = self.queue.borrow().front().map(|(piece, done)| (piece.0.clone(), done));
        let Some((front, done)) = front else {
            return Ok(());
        };
        let rest = bytes_of(&front).and_then(|bytes| bytes.get(done..)).unwrap_or_default();
        let count = blocking::write(fd, rest)?;
        let mut queue = self.queue.borrow_mut();
        // An abort may have emptied it meanwhile.
        let count = count.min(queue.len());
        let gone = queue.advance(count);
        drop(queue);
        drop(gone);
        Ok(())
    }

    /// Same as `write_eof`, and as `close`: the end of what is written is the end of the pipe.
    pub(super) fn write_eof(&self) -> Res<()> {
        finally(self.base().flush_held(), || {
            if self.base().closing.replace(true) || self.unsent_bytes() != 0 {
                return Ok(());
            }
            finally(self.pipe.stop(&self.hang_up, self.obj()), || self.pipe.schedule_loss(self.obj(), none()))
        })
    }

    /// Same as `_close`: what is queued is lost; `exception` may be None.
    pub(super) fn force_close(&self, exception: &Obj) -> Res<()> {
        finally(self.base().flush_held(), || {
            self.base().closing.set(true);
            self.discard();
            finally(self.stop(self.obj()), || self.pipe.schedule_loss(self.obj(), exception))
        })
    }

    /// Same as `_fatal_error`.
    #[cold]
    pub(super) fn fail(&self, exception: &Obj, message: &str) -> Res<()> {
        let told = finally(self.base().flush_held(), || {
            self.base().tell_of(self.obj(), exception, message, Base::is_os_error(exception))
        });
        finally(told, || self.force_close(exception))
    }

    /// Same as `_call_connection_lost`.
    pub(super) fn lose_connection(&self, exception: &Obj) -> Res<()> {
        lose_connection(&**self, self.obj(), exception)
    }
}
