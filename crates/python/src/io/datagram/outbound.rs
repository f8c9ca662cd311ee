//! The writing side: send at once if nothing is queued; queue what finds no room, and send it when it does.
//!
//! CPython counterpart: `_SelectorDatagramTransport.sendto` and `_sendto_ready`.
//!
//! A numeric IP address is passed to the system directly. Of any other destination (a name, a path) the socket's own
//! `sendto` makes what it makes of it, the resolver included.

use std::collections::VecDeque;
use std::io;

use aioxide_core::net::Address;
use aioxide_core::sys::socket;

use super::DatagramTransport;
use crate::ffi::{
    Inst, Obj, Raised, ReadBuffer, Ref, Res, Visit, audit, bytes_from, bytes_of, exc, is_bytes_like, none, str_of,
    type_name,
};
use crate::io::address;
use crate::io::finally;
use crate::io::pieces::sent;
use crate::io::sock::attempt;
use crate::name;

/// What a queued datagram counts beside its bytes, so that empty ones count too (3.13).
pub(super) const HEADER_BYTES: usize = if cfg!(Py_3_13) { 8 } else { 0 };

/// Before 3.13 an empty datagram is not sent.
const SENDS_EMPTY: bool = cfg!(Py_3_13);

const SEND_FAILED: &str = "Fatal write error on datagram transport";

/// Datagrams that wait for room, with their destinations.
#[derive(Default)]
pub(super) struct Queue {
    datagrams: VecDeque<(Ref, Ref)>,
    bytes: usize,
}

fn cost(data: &Obj) -> usize {
    bytes_of(data).unwrap_or_default().len() + HEADER_BYTES
}

impl Queue {
    pub(super) fn traverse(&self, visit: &Visit) {
        for (data, to) in &self.datagrams {
            visit.obj(data);
            visit.obj(to);
        }
    }

    fn push(&mut self, data: Ref, to: Ref) {
        self.bytes += cost(&data);
        self.datagrams.push_back((data, to));
    }

    fn pop(&mut self) -> Option<(Ref, Ref)> {
        let first = self.datagrams.pop_front()?;
        self.bytes -= cost(&first.0);
        Some(first)
    }

    fn put_back(&mut self, data: Ref, to: Ref) {
        self.bytes += cost(&data);
        self.datagrams.push_front((data, to));
    }
}

impl DatagramTransport {
    /// Bytes queued, with their headers.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.queue.borrow().bytes
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.borrow().datagrams.is_empty()
    }

    /// Drop what is queued.
    pub(super) fn discard(&self) {
        let dropped = self.queue.take();
        drop(dropped);
    }

    /// One datagram to the kernel; false if it has no room.
    ///
    /// # Errors
    /// OSError as the system has it; anything that the socket's own method raises.
    fn send(&self, data: &Obj, to: &Obj) -> Res<bool> {
        if self.is_plain {
            let view = if bytes_of(data).is_some() { Ok(None) } else { ReadBuffer::new(data).map(Some) };
            match view {
                Ok(view) => {
                    let bytes = bytes_of(data).or(view.as_ref().map(ReadBuffer::as_slice)).unwrap_or_default();
                    if self.is_connected {
                        return went(socket::send(self.descriptor(), bytes));
                    }
                    if let Some(address) = self.known_address(to) {
                        audit(c"socket.sendto", &self.sock.get_or_none(), to)?;
                        return went(socket::send_to(self.descriptor(), bytes, &address));
                    }
                }
                // A view that is not contiguous: the method has its own words for it.
                Err(raised) => raised.forget(),
            }
        }
        let sock = self.sock.get_or_none();
        let outcome = match self.is_connected {
            true => sock.call_method(name!("send"), [data]),
            false => sock.call_method(name!("sendto"), [data, to]),
        };
        attempt(outcome).map(|count| count.is_some())
    }

    /// A destination that nobody has to be asked about. Most often it is the last sender.
    fn known_address(&self, to: &Obj) -> Option<Address> {
        if self.sender.holds(to) && !to.is_none() {
            return self.sender_address.borrow().clone();
        }
        address::from_python(to, self.family)
    }
}

/// A datagram goes whole or not at all.
fn went(outcome: io::Result<usize>) -> Res<bool> {
    match outcome {
        Ok(_) => Ok(true),
        Err(e) => sent(Err(e)).map(|_| false).map_err(|e| Raised::os(&e)),
    }
}

impl Inst<DatagramTransport> {
    /// Same as `_add_writer`: what happens when there is room again runs in the sender's context.
    fn start_writing(&self) -> Res<()> {
        self.writer.prepare(&self.base)?;
        self.writer.start(&self.base, self.fd.get(), self.obj())
    }

    pub(super) fn stop_writing(&self) -> Res<()> {
        self.writer.stop(&self.base, self.fd.get(), self.obj())
    }

    /// Same as `sendto`.
    ///
    /// # Errors
    /// TypeError for what is not bytes, bytearray or memoryview; ValueError for another address than that of the transport;
    /// what `error_received` raises. An OSError of the send goes to `error_received`, not to the caller.
    pub(super) fn sendto(&self, data: &Obj, to: &Obj) -> Res<()> {
        if !is_bytes_like(data) {
            return Err(not_bytes(data));
        }
        if !SENDS_EMPTY && !data.is_true()? {
            return Ok(());
        }
        let only = self.address.get();
        if let Some(only) = &only {
            if !to.is_none() && !to.is(only) && !only.equals(to)? {
                let text = str_of(only)?;
                return Err(Raised::value_error(&format!("Invalid address: must be None or {text}")));
            }
        }
        let to = only.as_deref().unwrap_or(to);
        // What a stream has written before comes before this. May run code that ends the transport.
        self.base.flush_held()?;
        // After close() an unconnected one sends until its socket is closed, as asyncio's does.
        if !self.sock.is_some() || (only.is_some() && self.base.conn_lost.get() != 0) {
            return self.base.count_lost_write("socket.send() raised exception.");
        }
        if self.is_idle() {
            match self.send(data, to) {
                Ok(true) => return Ok(()),
                Ok(false) => self.start_writing()?,
                Err(raised) => return self.send_failed(raised),
            }
        }
        // What is queued does not change any more.
        let kept = match bytes_of(data) {
            Some(_) => data.to_ref(),
            None => data_of(data)?,
        };
        self.queue.borrow_mut().push(kept, to.to_ref());
        self.flow.maybe_pause(&self.base, self.obj(), self.unsent_bytes())
    }

    #[cold]
    fn send_failed(&self, raised: Raised) -> Res<()> {
        if raised.matches(exc::os_error()) {
            return self.tell_of_error(raised);
        }
        self.fatal_error(raised, SEND_FAILED)
    }

    /// Same as `_sendto_ready`. An error ends the round: the rest is sent when the kernel reports room again.
    pub(super) fn send_queued(&self) -> Res<()> {
        loop {
            // No borrow lasts until the send, which may be the program's own method.
            let Some((data, to)) = self.queue.borrow_mut().pop() else {
                break;
            };
            match self.send(&data, &to) {
                Ok(true) => {}
                Ok(false) => {
                    self.queue.borrow_mut().put_back(data, to);
                    break;
                }
                Err(raised) => return self.send_failed(raised),
            }
        }
        // The protocol may send again, close or abort in there, or end the program.
        finally(self.flow.maybe_resume(&self.base, self.obj(), self.unsent_bytes()), || self.on_progress())
    }

    fn on_progress(&self) -> Res<()> {
        if !self.is_idle() {
            return Ok(());
        }
        self.stop_writing()?;
        if self.base.closing.get() && self.base.conn_lost.get() == 0 {
            // close() waited for this; `connection_lost` comes once, so the count goes up first.
            self.base.conn_lost.set(1);
            return self.lose_connection(none());
        }
        Ok(())
    }
}

/// `bytes(data)` of a bytearray, a memoryview or an instance of a subclass of `bytes`.
fn data_of(data: &Obj) -> Res {
    match ReadBuffer::new(data) {
        Ok(view) => bytes_from(view.as_slice()),
        Err(raised) => {
            raised.forget();
            data.call_method(name!("tobytes"), [])
        }
    }
}

#[cold]
fn not_bytes(data: &Obj) -> Raised {
    Raised::type_error(&format!("data argument must be a bytes-like object, not '{}'", type_name(data)))
}
