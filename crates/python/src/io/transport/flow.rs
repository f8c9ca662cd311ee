//! Flow control: when the protocol is told to pause writing, and to go on.
//!
//! CPython counterpart: `asyncio.transports._FlowControlMixin`. The state changes before the protocol is called, which may
//! write, abort or raise; what it raises is reported and does not disturb the transport.

use super::SocketTransport;
use crate::ffi::{Inst, Obj, Raised, Res, exc, float_value, index_value};
use crate::name;
use crate::objects::report::Report;

impl Inst<SocketTransport> {
    pub(super) fn maybe_pause_protocol(&self) -> Res<()> {
        let size = self.unsent_bytes();
        if !self.limits.borrow_mut().on_grow(size) {
            return Ok(());
        }
        match self.protocol.pause_writing() {
            Ok(()) => Ok(()),
            Err(raised) => self.report_flow(raised, "protocol.pause_writing() failed"),
        }
    }

    pub(super) fn maybe_resume_protocol(&self) -> Res<()> {
        let size = self.unsent_bytes();
        if !self.limits.borrow_mut().on_shrink(size) {
            return Ok(());
        }
        match self.protocol.resume_writing() {
            Ok(()) => Ok(()),
            Err(raised) => self.report_flow(raised, "protocol.resume_writing() failed"),
        }
    }

    /// Same as `set_write_buffer_limits`, in bytes.
    ///
    /// # Errors
    /// ValueError unless `high >= low >= 0`.
    pub(super) fn set_limits(&self, high: Option<&Obj>, low: Option<&Obj>) -> Res<()> {
        let (high, low) = (limit(high)?, limit(low)?);
        self.flush_held()?;
        let set = self.limits.borrow_mut().set(high, low);
        set.map_err(|invalid| Raised::value_error(&invalid.to_string()))?;
        if self.event_loop.is_some() { self.maybe_pause_protocol() } else { Ok(()) }
    }

    fn report_flow(&self, raised: Raised, message: &str) -> Res<()> {
        if raised.is_exit() {
            return Err(raised);
        }
        let exception = raised.take();
        let Some(event_loop) = self.event_loop.get() else {
            return Ok(());
        };
        Report::new(message)?
            .with(name!("exception"), &exception)?
            .with(name!("transport"), self.obj())?
            .with(name!("protocol"), &self.protocol.object())?
            .send(&event_loop)
    }
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
