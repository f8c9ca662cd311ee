//! A transport's protocol, and its methods that run for every message.
//!
//! CPython counterpart: `_SelectorTransport._protocol` and `_read_ready_cb`. The bound methods are looked up once per
//! `set_protocol`: asyncio looks them up for each message, so a program that replaces `protocol.data_received` on an instance
//! later must call `set_protocol` again (uvloop has the same rule; `docs/differences.md`).
//!
//! A method that is not there is not missed until it is needed: then the look-up is made again and its error is the one
//! that asyncio would report.

use std::cell::Cell;

use crate::ffi::{Obj, Ref, Res, Slot, Visit, int};
use crate::name;
use crate::objects::names::imports;

#[derive(Default)]
pub struct Protocol {
    object: Slot,
    is_buffered: Cell<bool>,
    data_received: Slot,
    get_buffer: Slot,
    buffer_updated: Slot,
}

impl Protocol {
    /// Same as `_SelectorSocketTransport.set_protocol`.
    pub fn set(&self, protocol: &Obj) -> Res<()> {
        let is_buffered = protocol.is_instance(&imports().buffered_protocol_class)?;
        self.clear();
        self.is_buffered.set(is_buffered);
        self.object.put(protocol.to_ref());
        if is_buffered {
            keep(&self.get_buffer, protocol, name!("get_buffer"))?;
            keep(&self.buffer_updated, protocol, name!("buffer_updated"))
        } else {
            keep(&self.data_received, protocol, name!("data_received"))
        }
    }

    pub fn clear(&self) {
        self.object.clear();
        self.data_received.clear();
        self.get_buffer.clear();
        self.buffer_updated.clear();
    }

    pub fn traverse(&self, visit: &Visit) {
        for slot in [&self.object, &self.data_received, &self.get_buffer, &self.buffer_updated] {
            visit.slot(slot);
        }
    }

    pub fn object(&self) -> Ref {
        self.object.get_or_none()
    }

    /// Does it lend its own buffer?
    #[inline]
    pub fn is_buffered(&self) -> bool {
        self.is_buffered.get()
    }

    #[inline]
    pub fn data_received(&self, bytes: &Obj) -> Res<()> {
        match self.data_received.get() {
            Some(f) => f.call1(bytes).map(drop),
            None => self.object().call_method(name!("data_received"), [bytes]).map(drop),
        }
    }

    pub fn get_buffer(&self) -> Res {
        let sizehint = int(-1)?;
        match self.get_buffer.get() {
            Some(f) => f.call1(&sizehint),
            None => self.object().call_method(name!("get_buffer"), [&*sizehint]),
        }
    }

    pub fn buffer_updated(&self, count: usize) -> Res<()> {
        let count = int(count as i64)?;
        match self.buffer_updated.get() {
            Some(f) => f.call1(&count).map(drop),
            None => self.object().call_method(name!("buffer_updated"), [&*count]).map(drop),
        }
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

fn keep(slot: &Slot, protocol: &Obj, name: &Obj) -> Res<()> {
    match protocol.getattr(name) {
        Ok(method) => slot.put(method),
        Err(raised) if raised.is_exit() => return Err(raised),
        Err(raised) => raised.forget(),
    }
    Ok(())
}
