//! The writing side: send at once if nothing is queued, queue the rest, send it when the kernel has room.
//!
//! CPython counterpart: `write`, `writelines`, `write_eof`, `_write_ready` (`_write_sendmsg` from 3.12).
//!
//! A `bytes` is queued by reference, it never changes; of anything else the unsent rest is copied, so the caller may
//! reuse its buffer (asyncio keeps a view of it from 3.12 on). Whoever calls out has let go of views and borrows.

use std::io;

use aioxide_core::buffer::Chunk;
use aioxide_core::reactor::Direction;
use aioxide_core::sys::socket;

use super::SocketTransport;
use crate::ffi::{
    Context, Inst, Obj, Raised, ReadBuffer, Ref, Res, bytes_from, bytes_of, import_attr, is_bytes_like, none, str_of,
};
use crate::io::driver::Driver;
use crate::io::gather::Gathers;
use crate::io::pieces::{Piece, queue_rest, send_queued, sent};
use crate::io::{finally, report_stray};
use crate::name;

pub(super) const SEND_FAILED: &str = "Fatal write error on socket transport";

impl SocketTransport {
    pub(super) fn unsent_bytes(&self) -> usize {
        self.queue.borrow().len()
    }

    /// Drop what is queued.
    pub(super) fn discard(&self) {
        let dropped = self.queue.borrow_mut().clear();
        drop(dropped);
    }

    /// One `sendmsg` of what is queued.
    fn send_queued(&self) -> io::Result<usize> {
        let fd = self.descriptor();
        send_queued(&self.queue, |slices| socket::send_vectored(fd, slices))
    }

    /// After the end of the connection a write is counted, and warned of from the fifth, never raised.
    fn is_lost(&self) -> Res<bool> {
        if self.base.conn_lost.get() == 0 {
            return Ok(false);
        }
        self.base.count_lost_write("socket.send() raised exception.").map(|()| true)
    }
}

impl Inst<SocketTransport> {
    pub(super) fn maybe_pause_protocol(&self) -> Res<()> {
        self.flow.maybe_pause(&self.base, self.obj(), self.unsent_bytes())
    }

    fn maybe_resume_protocol(&self) -> Res<()> {
        self.flow.maybe_resume(&self.base, self.obj(), self.unsent_bytes())
    }

    /// Same as `_add_writer`: what happens when there is room again runs in the writer's context.
    pub(super) fn start_writing(&self) -> Res<()> {
        let event_loop = self.base.event_loop()?;
        // First: a writer that is watched without a context would be reported for ever.
        self.write_context.put(self.base.capture_context()?);
        if let Some(driver) = Driver::of(&event_loop) {
            driver.watch(self.fd.get(), Direction::Write, self.obj())?;
            self.writing.set(true);
        }
        Ok(())
    }

    pub(super) fn stop_writing(&self) -> Res<()> {
        if !self.writing.replace(false) {
            return Ok(());
        }
        let Some(event_loop) = self.base.event_loop.get() else {
            return Ok(());
        };
        Driver::of(&event_loop).map_or(Ok(()), |d| d.unwatch(self.fd.get(), Direction::Write, self.obj()))
    }

    /// Same as `write`.
    ///
    /// # Errors
    /// TypeError for what is not bytes, bytearray or memoryview; RuntimeError after `write_eof`. An error of the send goes to
    /// `connection_lost`, not to the caller.
    #[inline]
    pub(super) fn write(&self, data: &Obj) -> Res<()> {
        if !is_bytes_like(data) {
            return Err(not_bytes(data));
        }
        if self.eof_written.get() {
            return Err(Raised::runtime("Cannot call write() after write_eof()"));
        }
        self.check_no_sendfile("write")?;
        let event_loop = self.base.event_loop.get();
        let held = event_loop.as_deref().and_then(Driver::of).map(|driver| &driver.held);
        let kept = bytes_of(data);
        let view = match kept {
            Some(_) => None,
            None => match ReadBuffer::new(data) {
                Ok(view) => Some(view),
                // A view that is not contiguous: `socket.send` refuses it.
                Err(raised) => return self.fatal_error(raised, SEND_FAILED),
            },
        };
        let bytes = kept.or(view.as_ref().map(ReadBuffer::as_slice)).unwrap_or_default();
        if bytes.is_empty() || self.is_lost()? {
            return Ok(());
        }
        let mut done = 0;
        if self.queue.borrow().is_empty() {
            if let Some(held) = held {
                // May run code that ends the connection.
                if self.holds_back(self.obj(), held, bytes)? || self.base.conn_lost.get() != 0 {
                    return Ok(());
                }
            }
        }
        // No code runs between here and the send: what is held, if anything is, is this transport's.
        if self.queue.borrow().is_empty() {
            let outcome = match held {
                Some(held) if !held.is_empty() => self.send_after_held(held, bytes),
                _ => sent(socket::send(self.descriptor(), bytes)).map_err(|e| Raised::os(&e)),
            };
            done = match outcome {
                Ok(done) if done == bytes.len() => return Ok(()),
                Ok(done) => done,
                Err(raised) => return self.fatal_error(raised, SEND_FAILED),
            };
        }
        let piece = match kept {
            Some(_) => Piece(data.to_ref()),
            None => Piece(bytes_from(&bytes[std::mem::take(&mut done)..])?),
        };
        drop(view);
        self.queue_and_watch(piece, done)
    }

    /// Queue what a send has left over. It is queued first: what follows may run code that writes here, after it.
    fn queue_and_watch(&self, piece: Piece, done: usize) -> Res<()> {
        queue_rest(&self.queue, piece, done);
        if !self.writing.get() {
            self.start_writing()?;
        }
        self.maybe_pause_protocol()
    }

    /// Same as `write`, of bytes that are not held back: what TLS has made of what is written to it.
    pub fn write_bytes(&self, bytes: &[u8]) -> Res<()> {
        self.check_no_sendfile("write")?;
        if bytes.is_empty() || self.is_lost()? {
            return Ok(());
        }
        let mut done = 0;
        if self.queue.borrow().is_empty() {
            done = match sent(socket::send(self.descriptor(), bytes)) {
                Ok(done) if done == bytes.len() => return Ok(()),
                Ok(done) => done,
                Err(e) => return self.fatal_error(Raised::os(&e), SEND_FAILED),
            };
        }
        self.queue_and_watch(Piece(bytes_from(&bytes[done..])?), 0)
    }

    /// Same as `writelines`: joined and written up to 3.11, one `sendmsg` of everything queued from 3.12.
    pub(super) fn write_lines(&self, lines: &Obj) -> Res<()> {
        if !cfg!(Py_3_12) {
            let all = bytes_from(b"")?.call_method(name!("join"), [lines])?;
            return finally(self.write(&all), || self.base.flush_held());
        }
        if self.eof_written.get() {
            return Err(Raised::runtime("Cannot call writelines() after write_eof()"));
        }
        self.check_no_sendfile("writelines")?;
        self.base.flush_held()?;
        if !lines.is_true()? || self.is_lost()? {
            return Ok(());
        }
        // All are looked at before one is queued: the list may fail in the middle.
        let mut pieces = Vec::new();
        let lines = lines.iter()?;
        while let Some(line) = lines.next()? {
            let piece = to_piece(line)?;
            // An empty chunk could never be seen to be sent.
            if !piece.as_bytes().is_empty() {
                pieces.push(piece);
            }
        }
        // The iterator is user code. What it has written comes first; and it may have closed us.
        self.base.flush_held()?;
        if self.base.conn_lost.get() != 0 {
            return Ok(());
        }
        {
            let mut queue = self.queue.borrow_mut();
            pieces.into_iter().for_each(|piece| queue.push(piece));
        }
        if self.unsent_bytes() == 0 {
            return Ok(());
        }
        self.flush()?;
        if self.unsent_bytes() == 0 || self.base.conn_lost.get() != 0 {
            return Ok(());
        }
        self.start_writing()?;
        self.maybe_pause_protocol()
    }

    /// Same as `write_eof`: the sending half is shut down when everything queued is sent.
    pub(super) fn write_eof(&self) -> Res<()> {
        self.base.flush_held()?;
        if self.base.closing.get() || self.eof_written.replace(true) || self.unsent_bytes() != 0 {
            return Ok(());
        }
        self.shut_down()
    }

    fn shut_down(&self) -> Res<()> {
        socket::shutdown_write(self.descriptor()).map_err(|e| Raised::os(&e))
    }

    /// The descriptor is writable. The entry may be stale: aborted by another entry of the same turn.
    pub(super) fn on_writable(&self) -> Res<()> {
        if !self.writing.get() || self.base.conn_lost.get() != 0 {
            return Ok(());
        }
        // Nothing to send, and nobody to be told: an exit out of `resume_writing` has kept the watch from ending.
        if self.unsent_bytes() == 0 && !self.base.closing.get() && !self.eof_written.get() {
            return self.stop_writing();
        }
        let Some(context) = self.write_context.get() else {
            return Ok(());
        };
        Context::run(&context, || self.flush())
    }

    /// Same as `_write_sendmsg`.
    fn flush(&self) -> Res<()> {
        match self.send_queued() {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) => {
                self.stop_writing()?;
                self.discard();
                let told = self.fatal_error(Raised::os(&e), SEND_FAILED);
                return finally(told, || self.settle_empty_waiter(Some(Raised::os(&e).take())));
            }
        }
        // The protocol may write again, close or abort in there, or end the program.
        finally(self.maybe_resume_protocol(), || self.on_progress())
    }

    /// Some of what was queued has gone.
    fn on_progress(&self) -> Res<()> {
        if self.unsent_bytes() != 0 {
            return Ok(());
        }
        finally(self.stop_writing(), || self.settle_empty_waiter(None))?;
        if self.base.closing.get() && self.base.conn_lost.get() == 0 {
            // close() waited for this; `connection_lost` comes once, so the count goes up first (gh-156512).
            self.base.conn_lost.set(1);
            // What it raises is reported to the loop, which it lets go.
            let event_loop = self.base.event_loop.get();
            self.lose_connection(none())
                .or_else(|raised| report_stray(raised, event_loop, self.obj(), "SocketTransport._write_ready()"))
        } else if self.eof_written.get() && self.base.conn_lost.get() == 0 {
            self.shut_down()
        } else {
            Ok(())
        }
    }
}

fn to_piece(line: Ref) -> Res<Piece> {
    if bytes_of(&line).is_some() {
        return Ok(Piece(line));
    }
    match ReadBuffer::new(&line) {
        Ok(view) => bytes_from(view.as_slice()).map(Piece),
        Err(raised) => {
            // The text that asyncio's `memoryview(data)` has.
            raised.forget();
            import_attr("builtins", "memoryview")?.call1(&line)?.call_method(name!("tobytes"), []).map(Piece)
        }
    }
}

#[cold]
fn not_bytes(data: &Obj) -> Raised {
    let name = data.class().getattr(name!("__name__")).and_then(|n| n.repr()).and_then(|n| str_of(&n));
    let wanted = if cfg!(Py_3_14) { "bytes, bytearray, or memoryview object" } else { "bytes-like object" };
    match name {
        Ok(name) => Raised::type_error(&format!("data argument must be a {wanted}, not {name}")),
        Err(raised) => raised,
    }
}
