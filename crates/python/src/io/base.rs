//! What every transport is made of, whatever it carries: its loop, its protocol, the context it was made in, and how far its
//! end has come.
//!
//! CPython counterpart: what `_SelectorTransport`, `_UnixReadPipeTransport` and `_UnixWritePipeTransport` each write down anew.
//!
//! A plain part of each transport, which passes itself where the world shall see it (`me`). It knows nothing of descriptors,
//! watches and queues; what ends when, the transport decides.
//!
//! Invariants:
//! * `conn_lost` counts: 0 while connected; then each write in vain adds one (asyncio warns from the fifth).
//! * Loop and protocol are let go together, by [`Base::clear`], after `connection_lost`.

use crate::ffi::cell::Cell;

use super::driver::Driver;
use super::protocol::Protocol;
use crate::ffi::{Context, Obj, Raised, Res, Slot, Visit, exc, none, string};
use crate::objects::future::{Fut, State};
use crate::objects::handle::{self, Handle};
use crate::objects::names::imports;
use crate::objects::report::Report;
use crate::objects::scheduler::Scheduler;
use crate::{kwnames, name};

/// `constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES`
const WARN_FROM_WRITE: usize = 5;

pub struct Base {
    pub event_loop: Slot,
    pub protocol: Protocol,
    /// What all its callbacks run in (3.15+); none: in a copy of the context in which each is asked for.
    context: Slot,
    pub closing: Cell<bool>,
    pub conn_lost: Cell<usize>,
}

impl Base {
    /// Without a protocol, which is set when the transport is an object.
    pub fn new(event_loop: &Obj, context: Option<&Obj>) -> Base {
        Base {
            event_loop: Slot::of(event_loop.to_ref()),
            protocol: Protocol::default(),
            context: context.map_or_else(Slot::empty, |c| Slot::of(c.to_ref())),
            closing: Cell::new(false),
            conn_lost: Cell::new(0),
        }
    }

    pub fn traverse(&self, visit: &Visit) {
        visit.slot(&self.event_loop);
        visit.slot(&self.context);
        self.protocol.traverse(visit);
    }

    /// Let go of protocol and loop: nothing is called any more. The context stays, as asyncio's does.
    pub fn clear(&self) {
        self.protocol.clear();
        self.event_loop.clear();
    }

    /// The same for the garbage collector.
    pub fn clear_all(&self) {
        self.clear();
        self.context.clear();
    }

    /// The loop.
    ///
    /// # Errors
    /// RuntimeError after `connection_lost`, when the transport has let it go.
    #[inline]
    pub fn event_loop(&self) -> Res {
        match self.event_loop.get() {
            Some(event_loop) => Ok(event_loop),
            None => Err(Raised::runtime("the transport is closed")),
        }
    }

    pub fn is_debug(&self) -> bool {
        self.event_loop.get().is_some_and(|l| Scheduler::of(&l).is_some_and(|s| s.debug.get()))
    }

    /// The context of a callback that is asked for now.
    pub fn capture_context(&self) -> Res {
        self.context.get().map_or_else(Context::copy_current, Ok)
    }

    /// Send what the loop holds, for any transport: what follows can be seen from outside.
    ///
    /// # Errors
    /// Only SystemExit and KeyboardInterrupt.
    #[inline]
    pub fn flush_held(&self) -> Res<()> {
        let event_loop = self.event_loop.get();
        event_loop.as_deref().and_then(Driver::of).map_or(Ok(()), |driver| driver.held.flush())
    }

    /// `loop.call_soon(callback, *arguments)`, by way of Python only if somebody has overridden it.
    pub fn call_soon(&self, scheduler: &Scheduler, callback: &Obj, arguments: &[&Obj]) -> Res<()> {
        let event_loop = self.event_loop()?;
        let context = self.context.get();
        if scheduler.direct.get() {
            scheduler.check_submit()?;
            let handle = Handle::new(callback, arguments, &event_loop, context.as_deref())?;
            return handle::queue(scheduler, &handle);
        }
        let call_soon = event_loop.getattr(name!("call_soon"))?;
        let mut all = vec![callback];
        all.extend_from_slice(arguments);
        match &context {
            Some(context) => {
                all.push(context);
                call_soon.call_kw(&all, kwnames!("context")).map(drop)
            }
            None => call_soon.call_tuple(&*Obj::tuple_of(&all)?).map(drop),
        }
    }

    /// `call_soon(protocol.connection_made, me)`
    pub fn schedule_made(&self, scheduler: &Scheduler, me: &Obj) -> Res<()> {
        let connection_made = self.protocol.object().getattr(name!("connection_made"))?;
        self.call_soon(scheduler, &connection_made, &[me])
    }

    /// [`Base::call_soon`], where nobody has the scheduler at hand.
    pub fn schedule(&self, callback: &Obj, arguments: &[&Obj]) -> Res<()> {
        let event_loop = self.event_loop()?;
        Scheduler::of(&event_loop).map_or(Ok(()), |scheduler| self.call_soon(scheduler, callback, arguments))
    }

    /// `call_soon(me._call_connection_lost, exception)`
    pub fn schedule_loss(&self, me: &Obj, exception: &Obj) -> Res<()> {
        let callback = me.getattr(name!("_call_connection_lost"))?;
        self.schedule(&callback, &[exception])
    }

    /// A write after the end: counted, and warned of from the fifth, never raised.
    #[cold]
    pub fn count_lost_write(&self, warning: &str) -> Res<()> {
        let lost = self.conn_lost.get();
        self.conn_lost.set(lost + 1);
        if lost < WARN_FROM_WRITE {
            return Ok(());
        }
        imports().logger.call_method(name!("warning"), [&*string(warning)?]).map(drop)
    }

    /// What `_fatal_error` says of `exception`. An expected one (the network's) is only logged, in debug mode; any other is
    /// somebody's bug and goes to the exception handler.
    #[cold]
    pub fn tell_of(&self, me: &Obj, exception: &Obj, message: &str, is_expected: bool) -> Res<()> {
        let Some(event_loop) = self.event_loop.get() else {
            return Ok(());
        };
        if !is_expected {
            return Report::new(message)?
                .with(name!("exception"), exception)?
                .with(name!("transport"), me)?
                .with(name!("protocol"), &self.protocol.object())?
                .send(&event_loop);
        }
        if !self.is_debug() {
            return Ok(());
        }
        let (format, message) = (string("%r: %s")?, string(message)?);
        imports()
            .logger
            .call_method_kw(name!("debug"), [&*format, me, &*message, exception], kwnames!("exc_info"))
            .map(drop)
    }

    /// The network's own error: an OSError.
    pub fn is_os_error(exception: &Obj) -> bool {
        exception.is_exception_of(exc::os_error())
    }

    /// `logger.debug(format, me)` in debug mode.
    #[inline]
    pub fn log_debug(&self, me: &Obj, format: &str) -> Res<()> {
        if self.is_debug() { log(name!("debug"), me, format) } else { Ok(()) }
    }

    /// `logger.info(format, me)` in debug mode.
    pub fn log_info(&self, me: &Obj, format: &str) -> Res<()> {
        if self.is_debug() { log(name!("info"), me, format) } else { Ok(()) }
    }
}

#[cold]
fn log(level: &Obj, me: &Obj, format: &str) -> Res<()> {
    imports().logger.call_method(level, [&*string(format)?, me]).map(drop)
}

/// Same as `futures._set_result_unless_cancelled(waiter, None)`.
pub fn wake(waiter: &Obj) -> Res<()> {
    match Fut::of(waiter) {
        Some(future) if future.core.state.get() == State::Cancelled => Ok(()),
        Some(future) => future.set_result(none().to_ref()),
        None if waiter.call_method(name!("cancelled"), [])?.is_true()? => Ok(()),
        None => waiter.call_method(name!("set_result"), [none()]).map(drop),
    }
}

/// Raise `exception` where the waiter is awaited, unless it is cancelled.
pub fn fail(waiter: &Obj, exception: &Obj) -> Res<()> {
    if waiter.call_method(name!("cancelled"), [])?.is_true()? {
        return Ok(());
    }
    waiter.call_method(name!("set_exception"), [exception]).map(drop)
}
