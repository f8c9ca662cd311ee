//! One direction of a descriptor, watched for a transport: a Handle of asyncio's that is not there.
//!
//! CPython counterpart: `loop._add_reader(fd, callback)`, `_add_writer`, and the Handle that they make, which is kept for all
//! readiness to come.
//!
//! Invariants:
//! * The callback runs in the context in which the watch was set, and what it raises is reported as of the Handle that asyncio
//!   would have made then: with a source traceback if debug mode was on when the watch was set, whether it is on now or not.
//! * A watch that is stopped, and perhaps set anew, while the callback runs is another one: the report shows this one's Handle, cancelled.
//!   (Unlike asyncio's, the report's text names its callback all the same.)

use crate::ffi::cell::Cell;
use std::os::fd::RawFd;

use aioxide_core::reactor::Direction;

use super::base::Base;
use super::driver::Driver;
use crate::ffi::{Context, Obj, Raised, Ref, Res, Slot, Visit, int, none};
use crate::name;
use crate::objects::handle::{self, Handle};
use crate::objects::scheduler::Scheduler;

pub struct Watch {
    direction: Direction,
    is_on: Cell<bool>,
    /// How often it was stopped.
    ends: Cell<u32>,
    context: Slot,
    /// Empty unless it was taken in debug mode.
    source_traceback: Slot,
}

impl Watch {
    pub fn new(direction: Direction) -> Watch {
        Watch {
            direction,
            is_on: Cell::new(false),
            ends: Cell::new(0),
            context: Slot::empty(),
            source_traceback: Slot::empty(),
        }
    }

    pub fn traverse(&self, visit: &Visit) {
        visit.slot(&self.context);
        visit.slot(&self.source_traceback);
    }

    pub fn clear(&self) {
        self.context.clear();
        self.source_traceback.clear();
    }

    #[inline]
    pub fn is_on(&self) -> bool {
        self.is_on.get()
    }

    /// What a Handle that is made here and now would keep. May run user code: the collector's.
    pub fn prepare(&self, base: &Base) -> Res<()> {
        self.context.put(base.capture_context()?);
        self.note_source(base)
    }

    fn note_source(&self, base: &Base) -> Res<()> {
        match base.is_debug() {
            true => self.source_traceback.put(handle::current_stack()?),
            false => self.source_traceback.clear(),
        }
        Ok(())
    }

    /// Watch, as was prepared.
    ///
    /// # Errors
    /// PermissionError for what epoll does not watch (`/dev/null`, for one); RuntimeError if the loop is closed.
    pub fn start(&self, base: &Base, fd: RawFd, me: &Obj) -> Res<()> {
        let event_loop = base.event_loop()?;
        if let Some(driver) = Driver::of(&event_loop) {
            driver.watch(fd, self.direction, me)?;
            self.is_on.set(true);
        }
        Ok(())
    }

    /// The watch that was asked for when the transport was made, after `connection_made`: same as what is done by
    /// `call_soon(self._add_reader, fd, self._read_ready)`. That has a Handle, too, which is what [`Watch::prepare`] was for;
    /// the reader's own is of now, in the same context.
    ///
    /// # Errors
    /// Only SystemExit and KeyboardInterrupt.
    pub fn start_deferred(&self, base: &Base, fd: RawFd, me: &Obj, is_due: impl Fn() -> bool) -> Res<()> {
        let (event_loop, asked) = (base.event_loop.get(), self.made());
        if !is_due() {
            return Ok(());
        }
        let watched = self.note_source(base).and_then(|()| if is_due() { self.start(base, fd, me) } else { Ok(()) });
        watched.or_else(|raised| {
            report(raised, event_loop, me, asked, |event_loop| {
                let arguments = vec![int(fd.into())?, me.getattr(name!("_read_ready"))?];
                Ok((event_loop.getattr(name!("_add_reader"))?, arguments))
            })
        })
    }

    pub fn stop(&self, base: &Base, fd: RawFd, me: &Obj) -> Res<()> {
        if !self.is_on.replace(false) {
            return Ok(());
        }
        self.ends.set(self.ends.get().wrapping_add(1));
        let event_loop = base.event_loop.get();
        let driver = event_loop.as_deref().and_then(Driver::of);
        driver.map_or(Ok(()), |driver| driver.unwatch(fd, self.direction, me))
    }

    /// Run what is to be done when the descriptor is ready, which asyncio does in the method of that name. The entry may be
    /// stale: stopped by another one of the same turn.
    ///
    /// # Errors
    /// Only SystemExit and KeyboardInterrupt.
    #[inline]
    pub fn run(&self, base: &Base, me: &Obj, method: &Obj, body: impl FnOnce() -> Res<()>) -> Res<()> {
        let Some(context) = self.context.get().filter(|_| self.is_on.get()) else {
            return Ok(());
        };
        // The body may let go of the loop, and start the watch anew.
        let (event_loop, source_traceback) = (base.event_loop.get(), self.source_traceback.get());
        let ends = self.ends.get();
        Context::run(&context, body).or_else(|raised| {
            let is_cancelled = self.ends.get() != ends;
            let made = Made { context: Some(context), source_traceback, is_cancelled };
            report(raised, event_loop, me, made, |_| Ok((me.getattr(method)?, Vec::new())))
        })
    }

    /// For the repr; None if there is no loop any more that could say so.
    pub fn is_watched(&self, base: &Base, fd: RawFd, me: &Obj) -> Option<bool> {
        let event_loop = base.event_loop.get()?;
        Scheduler::of(&event_loop).filter(|s| !s.closed.get())?;
        Driver::of(&event_loop).map(|driver| driver.is_watched_by(fd, self.direction, me))
    }

    /// Where the watch was set, None if that was not in debug mode.
    pub fn source_traceback(&self) -> Ref {
        self.source_traceback.get().unwrap_or_else(|| none().to_ref())
    }

    fn made(&self) -> Made {
        Made { context: self.context.get(), source_traceback: self.source_traceback.get(), is_cancelled: false }
    }
}

/// What a Handle knows besides what it calls.
struct Made {
    context: Option<Ref>,
    source_traceback: Option<Ref>,
    is_cancelled: bool,
}

/// What a callback of the loop's left uncaught, reported as `Handle._run` does; `callback` says what asyncio would have had
/// called, with which arguments.
///
/// # Errors
/// Only SystemExit and KeyboardInterrupt.
#[cold]
fn report(
    raised: Raised,
    event_loop: Option<Ref>,
    me: &Obj,
    made: Made,
    callback: impl FnOnce(&Obj) -> Res<(Ref, Vec<Ref>)>,
) -> Res<()> {
    if raised.is_exit() {
        return Err(raised);
    }
    let Some(event_loop) = event_loop else {
        raised.unraisable(me);
        return Ok(());
    };
    let exception = raised.take();
    let told = callback(&event_loop).and_then(|(callback, arguments)| {
        let arguments: Vec<&Obj> = arguments.iter().map(|argument| &**argument).collect();
        let handle = Handle::new(&callback, &arguments, &event_loop, made.context.as_deref())?;
        if let Some(source_traceback) = made.source_traceback {
            handle.set_source_traceback(source_traceback);
        }
        if made.is_cancelled {
            handle.cancel()?;
            made.context.into_iter().for_each(|context| handle.show_context(context));
        }
        let event_loop = Some(event_loop.clone());
        let told = handle.report(Raised::raise(exception), event_loop, &callback, Obj::tuple_of(&arguments));
        handle.let_go();
        told
    });
    match told {
        Err(raised) if !raised.is_exit() => {
            raised.unraisable(me);
            Ok(())
        }
        outcome => outcome,
    }
}
