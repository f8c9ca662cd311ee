//! Plain text in, records out.
//!
//! CPython counterpart: `SSLProtocol._write_appdata`, `_do_write`, `_process_outgoing`, `_control_app_writing`.
//!
//! asyncio encrypts and sends in each `write`. So do we, until a connection has earned it that what one callback writes is held
//! and becomes one record (`io::gather`). `writelines` is one record as well, as far as it fits into one.

use aioxide_core::buffer::{Chunk, Gathering};
use aioxide_core::sys::clock;
use aioxide_core::tls::{Phase, RECORD_BYTES};

use super::session::{Exchange, Progress, is_failure};
use super::{Limits, TlsTransport};
use crate::ffi::cell::RefCell;
use crate::ffi::{Context, Inst, Obj, Raised, ReadBuffer, Ref, Res, bytes_from, bytes_of, is_bytes_like, type_name};
use crate::io::base::Base;
use crate::io::driver::Driver;
use crate::io::finally;
use crate::io::gather::Gathers;
use crate::io::held::Held;
use crate::io::pieces::Piece;
use crate::name;
use crate::objects::report::Report;

/// What is encrypted before it is sent.
const CHUNK_BYTES: usize = 128 * 1024;

const FAILED: &str = match cfg!(Py_3_11) {
    true => "Fatal error on SSL protocol",
    false => "Fatal error on SSL transport",
};

impl Gathers for Inst<TlsTransport> {
    fn base(&self) -> &Base {
        &self.base
    }

    fn gathering(&self) -> &RefCell<Gathering> {
        &self.gathering
    }

    fn is_held_up(&self) -> bool {
        self.machine.get().phase() != Phase::Wrapped || !self.backlog.borrow().is_empty()
    }

    fn high(&self) -> i64 {
        self.write_limits.get().high
    }

    fn keep_context(&self, context: Ref) {
        self.held_context.put(context);
    }
}

impl TlsTransport {
    /// Same as `_get_write_buffer_size`: what waits, encrypted or not.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.backlog.borrow().len() + self.session.unsent()
    }

    /// Drop what is not sent.
    pub(super) fn discard(&self) {
        let dropped = self.backlog.borrow_mut().clear();
        drop(dropped);
    }
}

impl Inst<TlsTransport> {
    /// Same as `write`.
    ///
    /// # Errors
    /// TypeError for what is not bytes, bytearray or memoryview. An error of the connection goes to `connection_lost`.
    #[inline]
    pub(super) fn write(&self, data: &Obj) -> Res<()> {
        if !is_bytes_like(data) {
            return Err(not_bytes(data));
        }
        let kept = bytes_of(data);
        let view = match kept {
            Some(_) => None,
            None => match ReadBuffer::new(data) {
                Ok(view) => Some(view),
                Err(raised) => return self.write_failed(raised),
            },
        };
        let bytes = kept.or(view.as_ref().map(ReadBuffer::as_slice)).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(());
        }
        if self.machine.get().is_over() {
            return self.base.count_lost_write("SSL connection is closed");
        }
        let event_loop = self.base.event_loop.get();
        if let Some(driver) = event_loop.as_deref().and_then(Driver::of) {
            // May run code that ends the connection.
            if !self.is_held_up() && self.holds_back(self.obj(), &driver.held, bytes)? {
                return Ok(());
            }
            if self.machine.get().is_over() {
                return Ok(());
            }
            // What it holds itself comes first.
            if !driver.held.is_empty() {
                driver.held.flush()?;
            }
        }
        if self.is_held_up() {
            return self.queue(bytes, kept.map(|_| data));
        }
        match self.encrypt(bytes, kept.map(|_| data)) {
            Err(raised) => self.write_failed(raised),
            Ok(()) => Ok(()),
        }
    }

    #[cold]
    fn write_failed(&self, raised: Raised) -> Res<()> {
        if is_failure(&raised) { self.fail(&raised.take(), FAILED) } else { Err(raised) }
    }

    /// For later: the handshake is going on, or the peer has to speak first.
    fn queue(&self, bytes: &[u8], whole: Option<&Obj>) -> Res<()> {
        let piece = to_piece(bytes, whole)?;
        self.backlog.borrow_mut().push(piece);
        if self.machine.get().phase() != Phase::Wrapped {
            return Ok(());
        }
        match self.write_backlog() {
            Err(raised) => self.write_failed(raised),
            Ok(()) => Ok(()),
        }
    }

    /// Encrypt and send; `whole` is the `bytes` object that they are all of, if there is one.
    #[inline]
    fn encrypt(&self, bytes: &[u8], whole: Option<&Obj>) -> Res<()> {
        if bytes.len() > CHUNK_BYTES {
            // Piece by piece, and sending one may run code that writes: from the queue.
            let piece = to_piece(bytes, whole)?;
            self.backlog.borrow_mut().push(piece);
            return self.write_backlog();
        }
        let mut done = 0;
        while done < bytes.len() {
            match self.exchange_and_send(&[], |exchange| exchange.write(&bytes[done..], whole.filter(|_| done == 0)))? {
                Some(Progress::Bytes(count)) if count != 0 => done += count,
                _ => {
                    let piece = Piece(bytes_from(&bytes[done..])?);
                    self.backlog.borrow_mut().push(piece);
                    return self.control_writing();
                }
            }
        }
        // A callback of the context's may have written in the middle.
        if self.backlog.borrow().is_empty() { self.control_writing() } else { self.write_backlog() }
    }

    /// One exchange, and send what it gives, or keep it as long as the transport below is paused.
    #[inline]
    pub(super) fn exchange_and_send<R>(&self, input: &[u8], f: impl FnOnce(&Exchange<'_>) -> Res<R>) -> Res<Option<R>> {
        if self.lower_writing_is_paused.get() {
            return self.session.exchange(input, None, f);
        }
        self.with_output(|output| match self.session.exchange(input, Some(output), f) {
            Ok(answer) => self.send(output).map(|()| answer),
            Err(raised) => finally(Err(raised), || self.send(output)).map(|()| None),
        })
    }

    /// Same as `writelines`: each item is written, all of them as few records.
    pub(super) fn write_lines(&self, lines: &Obj) -> Res<()> {
        if !cfg!(Py_3_11) {
            let all = bytes_from(b"")?.call_method(name!("join"), [lines])?;
            return self.write(&all);
        }
        self.base.flush_held()?;
        if self.machine.get().is_over() {
            return self.base.count_lost_write("SSL connection is closed");
        }
        let mut pieces = Vec::new();
        let lines = lines.iter()?;
        while let Some(line) = lines.next()? {
            match bytes_of(&line) {
                Some([]) => {}
                Some(_) => pieces.push(Piece(line)),
                None => {
                    line.len()?;
                    let copy = match ReadBuffer::new(&line).and_then(|view| bytes_from(view.as_slice())) {
                        Ok(copy) => copy,
                        // As asyncio has it: what cannot be encrypted ends the connection.
                        Err(raised) => return self.write_failed(raised),
                    };
                    if !bytes_of(&copy).unwrap_or_default().is_empty() {
                        pieces.push(Piece(copy));
                    }
                }
            }
        }
        // The iterator is user code: it may have written, or closed.
        self.base.flush_held()?;
        if self.machine.get().is_over() {
            return Ok(());
        }
        {
            let mut backlog = self.backlog.borrow_mut();
            pieces.into_iter().for_each(|piece| backlog.push(piece));
        }
        if self.machine.get().phase() != Phase::Wrapped {
            return Ok(());
        }
        match self.write_backlog() {
            Err(raised) => self.write_failed(raised),
            Ok(()) => Ok(()),
        }
    }

    /// Same as `_do_write`, and `_process_outgoing` if there is nothing.
    pub(super) fn write_backlog(&self) -> Res<()> {
        while !self.backlog.borrow().is_empty() {
            let Some(bytes) = self.next_of_backlog() else {
                break;
            };
            // Sending may run code that writes: what is encrypted is off the queue before.
            let count = self.exchange_and_send(&[], |exchange| match exchange.write(bytes.as_bytes(), None)? {
                Progress::Bytes(count) => {
                    // A callback of the context's may have ended the connection, and emptied it.
                    let mut backlog = self.backlog.borrow_mut();
                    let left = backlog.len();
                    let done = backlog.advance(count.min(left));
                    drop(backlog);
                    drop(done);
                    Ok(count)
                }
                _ => Ok(0),
            })?;
            if count.unwrap_or(0) == 0 {
                break;
            }
        }
        self.send_waiting()?;
        self.control_writing()
    }

    /// The next bytes to be encrypted: of one piece, or of several small ones. The same again, or more, if they were not taken,
    /// as OpenSSL wants it.
    fn next_of_backlog(&self) -> Option<Next> {
        let backlog = self.backlog.borrow();
        let (front, done) = backlog.front()?;
        let size = front.as_bytes().len() - done;
        if size >= RECORD_BYTES || size == backlog.len() {
            let until = done + size.min(CHUNK_BYTES);
            return Some(Next::Of(Piece(front.0.clone()), done, until));
        }
        let mut joined = Vec::with_capacity(RECORD_BYTES.min(backlog.len()));
        let mut slices = [std::io::IoSlice::new(&[]); 64];
        let count = backlog.slices(&mut slices);
        for slice in &slices[..count] {
            let room = RECORD_BYTES - joined.len();
            joined.extend_from_slice(&slice[..slice.len().min(room)]);
            if joined.len() == RECORD_BYTES {
                break;
            }
        }
        Some(Next::Joined(joined))
    }

    /// Send what waits, if it can be sent now.
    pub(super) fn send_waiting(&self) -> Res<()> {
        if self.lower_writing_is_paused.get() || self.session.unsent() == 0 {
            return Ok(());
        }
        self.exchange_and_send(&[], |_| Ok(())).map(drop)
    }

    /// Give these records to the transport below, or keep them as long as that is paused.
    #[inline]
    pub(super) fn send(&self, records: &[u8]) -> Res<()> {
        if records.is_empty() {
            return Ok(());
        }
        if self.lower_writing_is_paused.get() {
            self.session.put_back(records);
            return Ok(());
        }
        if let Some(sent) = self.with_socket(|socket| socket.write_bytes(records)) {
            return sent;
        }
        match self.lower.get() {
            Some(lower) => lower.call_method(name!("write"), [&*bytes_from(records)?]).map(drop),
            None => Ok(()),
        }
    }

    /// The callback that has written has ended, or something comes that must find it sent.
    pub fn on_callback_end(&self, held: &Held) -> Res<()> {
        self.gathering.borrow_mut().on_end(clock::monotonic_s());
        if held.is_empty() {
            return Ok(());
        }
        let context = self.held_context.take();
        held.with_bytes(|bytes| {
            if self.machine.get().is_over() {
                return Ok(());
            }
            let encrypt = || match self.is_held_up() {
                true => self.queue(bytes, None),
                false => self.encrypt(bytes, None).or_else(|raised| self.write_failed(raised)),
            };
            match context {
                Some(context) => Context::run(&context, encrypt),
                None => encrypt(),
            }
        })
    }

    /// Same as `_control_app_writing`.
    #[inline]
    pub(super) fn control_writing(&self) -> Res<()> {
        // Of 3.10 the transport below tells the protocol.
        if !cfg!(Py_3_11) {
            return Ok(());
        }
        let size = self.unsent_bytes() as i64;
        let Limits { low, high } = self.write_limits.get();
        // Not where it would be resumed at once.
        if size >= high && size > low && !self.writing_is_paused.get() {
            self.writing_is_paused.set(true);
            self.tell_flow(self.base.protocol.pause_writing(), "protocol.pause_writing() failed")
        } else if size <= low && self.writing_is_paused.get() {
            self.writing_is_paused.set(false);
            self.tell_flow(self.base.protocol.resume_writing(), "protocol.resume_writing() failed")
        } else {
            Ok(())
        }
    }

    fn tell_flow(&self, outcome: Res<()>, message: &str) -> Res<()> {
        let Err(raised) = outcome else {
            return Ok(());
        };
        if raised.is_exit() {
            return Err(raised);
        }
        let exception = raised.take();
        let Some(event_loop) = self.base.event_loop.get() else {
            return Ok(());
        };
        Report::new(message)?
            .with(name!("exception"), &exception)?
            .with(name!("transport"), self.obj())?
            .with(name!("protocol"), self.obj())?
            .send(&event_loop)
    }

    /// The transport below has too much to send.
    pub(super) fn on_lower_paused(&self) -> Res<()> {
        if !cfg!(Py_3_11) {
            return self.base.protocol.pause_writing();
        }
        self.lower_writing_is_paused.set(true);
        Ok(())
    }

    /// It has not any more.
    pub(super) fn on_lower_resumed(&self) -> Res<()> {
        if !cfg!(Py_3_11) {
            return self.base.protocol.resume_writing();
        }
        self.lower_writing_is_paused.set(false);
        self.send_waiting()?;
        self.control_writing()
    }
}

fn to_piece(bytes: &[u8], whole: Option<&Obj>) -> Res<Piece> {
    whole.map_or_else(|| bytes_from(bytes), |whole| Ok(whole.to_ref())).map(Piece)
}

/// Bytes to be encrypted next.
enum Next {
    Of(Piece, usize, usize),
    Joined(Vec<u8>),
}

impl Next {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Next::Of(piece, from, until) => piece.as_bytes().get(*from..*until).unwrap_or_default(),
            Next::Joined(bytes) => bytes,
        }
    }
}

#[cold]
fn not_bytes(data: &Obj) -> Raised {
    Raised::type_error(&format!("data: expecting a bytes-like instance, got {}", type_name(data)))
}
