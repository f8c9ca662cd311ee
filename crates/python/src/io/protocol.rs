//! A transport's protocol, and its methods that run for every message.
//!
//! CPython counterpart: `_SelectorTransport._protocol` and `_read_ready_cb`. The methods are looked up once per
//! `set_protocol`: asyncio looks them up for each message, so a program that replaces `protocol.data_received` on an instance
//! later must call `set_protocol` again (uvloop has the same rule; `docs/differences.md`).
//!
//! A method that is not there is not missed until it is needed: then the look-up is made again and its error is the one
//! that asyncio would report.

use super::tls::TlsTransport;
use crate::ffi::cell::Cell;
use crate::ffi::{Obj, Ref, Res, Slot, Visit, int};
use crate::name;
use crate::objects::names::imports;

#[derive(Default)]
pub struct Protocol {
    object: Slot,
    is_buffered: Cell<bool>,
    /// TLS: what is received goes to it without passing through Python.
    is_native: Cell<bool>,
    /// `data_received`, or `get_buffer` of one that lends its own buffer.
    receive: Method,
    /// `buffer_updated` of one that lends its own buffer.
    received: Method,
}

/// A method of the protocol. Of one written in Python only the function is kept, which all instances share: a bound method
/// for each would be 80 bytes a connection.
#[derive(Default)]
struct Method {
    function: Slot,
    wants_self: Cell<bool>,
}

impl Method {
    fn set(&self, protocol: &Obj, name: &Obj) -> Res<()> {
        let method = match protocol.getattr(name) {
            Ok(method) => method,
            Err(raised) if raised.is_exit() => return Err(raised),
            Err(raised) => {
                raised.forget();
                return Ok(());
            }
        };
        let function = method.function_bound_to(protocol).map(Obj::to_ref);
        self.wants_self.set(function.is_some());
        self.function.put(function.unwrap_or(method));
        Ok(())
    }

    #[inline]
    fn call(&self, protocol: &Slot, name: &Obj, argument: &Obj) -> Res {
        match (self.function.get(), self.wants_self.get()) {
            (Some(function), true) => function.call([&*protocol.get_or_none(), argument]),
            (Some(method), false) => method.call1(argument),
            (None, _) => protocol.get_or_none().call_method(name, [argument]),
        }
    }
}

impl Protocol {
    /// Same as `_SelectorSocketTransport.set_protocol`.
    pub fn set(&self, protocol: &Obj) -> Res<()> {
        if protocol.downcast_exact::<TlsTransport>().is_some() {
            self.set_plain(protocol)?;
            self.is_native.set(true);
            return Ok(());
        }
        let is_buffered = protocol.is_instance(&imports().buffered_protocol_class)?;
        self.clear();
        self.is_buffered.set(is_buffered);
        self.is_native.set(false);
        self.object.put(protocol.to_ref());
        if is_buffered {
            self.receive.set(protocol, name!("get_buffer"))?;
            self.received.set(protocol, name!("buffer_updated"))
        } else {
            self.receive.set(protocol, name!("data_received"))
        }
    }

    /// Of a pipe: `data_received` is all it gets.
    pub fn set_plain(&self, protocol: &Obj) -> Res<()> {
        self.clear();
        self.is_buffered.set(false);
        self.is_native.set(false);
        self.object.put(protocol.to_ref());
        self.receive.set(protocol, name!("data_received"))
    }

    /// Of a transport that receives no stream: nothing is looked up.
    pub fn set_object(&self, protocol: &Obj) {
        self.object.put(protocol.to_ref());
    }

    fn slots(&self) -> [&Slot; 3] {
        [&self.object, &self.receive.function, &self.received.function]
    }

    pub fn clear(&self) {
        self.slots().into_iter().for_each(Slot::clear);
    }

    pub fn traverse(&self, visit: &Visit) {
        self.slots().into_iter().for_each(|slot| visit.slot(slot));
    }

    pub fn object(&self) -> Ref {
        self.object.get_or_none()
    }

    /// Does it lend its own buffer?
    #[inline]
    pub fn is_buffered(&self) -> bool {
        self.is_buffered.get()
    }

    /// Does TLS come next?
    #[inline]
    pub fn is_native(&self) -> bool {
        self.is_native.get()
    }

    /// `data_received` of a native one, less the `bytes` object.
    #[inline]
    pub fn records_received(&self, records: &[u8]) -> Res<()> {
        let object = self.object();
        object.downcast_exact::<TlsTransport>().map_or(Ok(()), |tls| tls.on_bytes(records))
    }

    #[inline]
    pub fn data_received(&self, bytes: &Obj) -> Res<()> {
        self.receive.call(&self.object, name!("data_received"), bytes).map(drop)
    }

    pub fn get_buffer(&self) -> Res {
        self.get_buffer_of(-1)
    }

    /// `get_buffer(hint)`
    pub fn get_buffer_of(&self, hint: i64) -> Res {
        self.receive.call(&self.object, name!("get_buffer"), &*int(hint)?)
    }

    pub fn buffer_updated(&self, count: usize) -> Res<()> {
        self.received.call(&self.object, name!("buffer_updated"), &*int(count as i64)?).map(drop)
    }

    /// The answer of `eof_received`: keep the connection open?
    pub fn eof_received(&self) -> Res {
        self.object().call_method(name!("eof_received"), [])
    }

    pub fn pause_writing(&self) -> Res<()> {
        self.object().call_method(name!("pause_writing"), []).map(drop)
    }

    pub fn resume_writing(&self) -> Res<()> {
        self.object().call_method(name!("resume_writing"), []).map(drop)
    }

    pub fn connection_lost(&self, exception: &Obj) -> Res<()> {
        self.object().call_method(name!("connection_lost"), [exception]).map(drop)
    }
}
