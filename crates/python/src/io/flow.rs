//! Flow control: when the protocol is told to pause writing, and to go on.
//!
//! CPython counterpart: `asyncio.transports._FlowControlMixin`. The state changes before the protocol is called, which may
//! write, abort or raise; what it raises is reported and does not disturb the transport.

use crate::ffi::cell::RefCell;

use aioxide_core::buffer::Watermarks;

use super::base::Base;
use crate::ffi::{Obj, Raised, Ref, Res, exc, float_value, index_value, int, tuple};
use crate::name;
use crate::objects::report::Report;

/// The limits of one transport, and whether its protocol is paused. Sizes are bytes that wait to be sent.
pub struct Flow(RefCell<Watermarks>);

impl Flow {
    pub fn new() -> Flow {
        Flow(RefCell::new(Watermarks::new()))
    }

    pub fn high(&self) -> i64 {
        self.0.borrow().high()
    }

    /// `(low, high)`, for `get_write_buffer_limits`.
    pub fn limits(&self) -> Res {
        let (low, high) = {
            let limits = self.0.borrow();
            (limits.low(), limits.high())
        };
        tuple([&*int(low)?, &*int(high)?])
    }

    pub fn is_paused(&self) -> bool {
        self.0.borrow().is_paused()
    }

    /// Same as `_maybe_pause_protocol`, when `size` bytes wait.
    pub fn maybe_pause(&self, base: &Base, me: &Obj, size: usize) -> Res<()> {
        if !self.0.borrow_mut().on_grow(size) {
            return Ok(());
        }
        match base.protocol.pause_writing() {
            Ok(()) => Ok(()),
            Err(raised) => report(base, me, raised, "protocol.pause_writing() failed"),
        }
    }

    /// Same as `_maybe_resume_protocol`.
    pub fn maybe_resume(&self, base: &Base, me: &Obj, size: usize) -> Res<()> {
        if !self.0.borrow_mut().on_shrink(size) {
            return Ok(());
        }
        match base.protocol.resume_writing() {
            Ok(()) => Ok(()),
            Err(raised) => report(base, me, raised, "protocol.resume_writing() failed"),
        }
    }

    /// Same as `set_write_buffer_limits`; `size` is asked for once what the loop holds is sent.
    ///
    /// # Errors
    /// ValueError unless `high >= low >= 0`.
    pub fn set(&self, base: &Base, me: &Obj, [high, low]: [Option<&Obj>; 2], size: impl FnOnce() -> usize) -> Res<()> {
        let (high, low) = (limit(high)?, limit(low)?);
        base.flush_held()?;
        let set = self.0.borrow_mut().set(high, low);
        set.map_err(|invalid| Raised::value_error(&invalid.to_string()))?;
        if base.event_loop.is_some() { self.maybe_pause(base, me, size()) } else { Ok(()) }
    }
}

fn report(base: &Base, me: &Obj, raised: Raised, message: &str) -> Res<()> {
    if raised.is_exit() {
        return Err(raised);
    }
    let exception: Ref = raised.take();
    let Some(event_loop) = base.event_loop.get() else {
        return Ok(());
    };
    Report::new(message)?
        .with(name!("exception"), &exception)?
        .with(name!("transport"), me)?
        .with(name!("protocol"), &base.protocol.object())?
        .send(&event_loop)
}

/// A limit as Python code gives it: an int of any size, or a float.
fn limit(given: Option<&Obj>) -> Res<Option<i64>> {
    let Some(given) = given.filter(|o| !o.is_none()) else {
        return Ok(None);
    };
    if !given.is_long() {
        return Ok(Some(float_value(given)? as i64));
    }
    match index_value(given) {
        Err(raised) if raised.matches(exc::overflow_error()) => {
            raised.forget();
            Ok(Some(i64::MAX))
        }
        value => value.map(Some),
    }
}
