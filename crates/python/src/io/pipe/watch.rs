//! One direction of a descriptor, watched for a transport.
//!
//! CPython counterpart: `loop._add_reader(fd, callback)` and its Handle, which is kept for all readiness to come: so the callback
//! always runs in the context in which the watch was set.

use crate::ffi::cell::Cell;

use aioxide_core::reactor::Direction;

use super::{Pipe, driver_of};
use crate::ffi::{Context, Obj, Ref, Res, Slot, Visit};
use crate::io::driver::Driver;

pub(super) struct Watch {
    direction: Direction,
    is_on: Cell<bool>,
    context: Slot,
}

impl Watch {
    pub(super) fn new(direction: Direction) -> Watch {
        Watch { direction, is_on: Cell::new(false), context: Slot::empty() }
    }

    pub(super) fn traverse(&self, visit: &Visit) {
        visit.slot(&self.context);
    }

    pub(super) fn clear(&self) {
        self.context.clear();
    }

    /// The context in which the next callback runs.
    pub(super) fn context(&self) -> Option<Ref> {
        self.context.get()
    }

    /// The context for a watch that is set later.
    pub(super) fn set_context(&self, context: Ref) {
        self.context.put(context);
    }

    /// Watch; what happens runs in the context that is set.
    ///
    /// # Errors
    /// PermissionError for what epoll does not watch (`/dev/null`, for one); RuntimeError if the loop is closed.
    pub(super) fn start(&self, pipe: &Pipe, me: &Obj) -> Res<()> {
        let event_loop = pipe.base.event_loop()?;
        if let Some(driver) = Driver::of(&event_loop) {
            driver.watch(pipe.fd.get(), self.direction, me)?;
            self.is_on.set(true);
        }
        Ok(())
    }

    pub(super) fn stop(&self, pipe: &Pipe, me: &Obj) -> Res<()> {
        if !self.is_on.replace(false) {
            return Ok(());
        }
        let event_loop = pipe.base.event_loop.get();
        let driver = event_loop.as_deref().and_then(Driver::of);
        driver.map_or(Ok(()), |driver| driver.unwatch(pipe.fd.get(), self.direction, me))
    }

    /// Run what is to be done when the descriptor is ready. The entry may be stale: stopped by another one of the same turn.
    pub(super) fn run(&self, body: impl FnOnce() -> Res<()>) -> Res<()> {
        match self.context.get() {
            Some(context) if self.is_on.get() => Context::run(&context, body),
            _ => Ok(()),
        }
    }

    /// For the repr; None if there is no loop any more that could say so.
    pub(super) fn is_watched(&self, pipe: &Pipe, me: &Obj) -> Option<bool> {
        let event_loop = pipe.base.event_loop.get()?;
        driver_of(&event_loop).map(|driver| driver.is_watched_by(pipe.fd.get(), self.direction, me))
    }
}
