//! Futures: the state machine that both `Future` and `Task` are.
//!
//! CPython counterpart: `_asyncio.Future` (`Modules/_asynciomodule.c`). Our classes derive from `_asyncio`'s, with storage of
//! their own behind the base's, which stays zero (D4): `isinstance` holds, and C code that checks for the exact class goes
//! through attributes, all of which we override.
//!
//! | state       | result         | exception | callbacks               |
//! |-------------|----------------|-----------|-------------------------|
//! | Pending     | none           | none      | any                     |
//! | Finished    | either one     |           | none: scheduled by then |
//! | Cancelled   | none           | none      | none                    |
//!
//! `Task` contains a `FutureCore` as its first field. Code that only needs the future takes a [`Fut`], a borrowed view.

pub mod callbacks;
pub mod face;
pub mod waiting;

pub use callbacks::Callback;
use callbacks::Callbacks;
pub use face::build;

use super::handle::whole_stack;
use super::names::{hexversion, imports};
use super::report::Report;
use super::scheduler::Scheduler;
use crate::ffi::cell::{Cell, RefCell};
use crate::ffi::{Class, Inst, Native, Obj, Once, Raised, Ref, Res, Slot, Visit, exc, none, str_of, string};
use crate::name;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum State {
    #[default]
    Pending,
    Cancelled,
    Finished,
}

#[derive(Default)]
pub struct FutureCore {
    pub state: Cell<State>,
    /// An exception was set and nobody has asked for it yet.
    pub log_traceback: Cell<bool>,
    /// Set by `await`, taken back by the task: tells `await fut` from `yield fut`.
    pub blocking: Cell<bool>,
    pub event_loop: Slot,
    callbacks: RefCell<Callbacks>,
    pub result: Slot,
    pub exception: Slot,
    /// The traceback the exception had when it was set: each `result()` starts from it again.
    exception_tb: Slot,
    pub source_traceback: Slot,
    pub cancel_message: Slot,
    /// The CancelledError that ended a task: raised once by whoever awaits it.
    pub cancelled_exc: Slot,
}

/// `aioxide.Future`.
#[repr(transparent)]
#[derive(Default)]
pub struct Future(pub FutureCore);

static FUTURE: Class = Class::new();

impl Native for Future {
    fn class() -> &'static Class {
        &FUTURE
    }

    fn traverse(&self, visit: &Visit) {
        self.0.traverse(visit);
    }

    fn clear(&self) {
        self.0.clear();
    }

    fn needs_finalizer(&self) -> bool {
        self.0.log_traceback.get()
    }
}

/// A class whose value holds a `FutureCore`.
pub trait FutureLike: Native {
    fn core(&self) -> &FutureCore;
    const NAME: &'static str;
}

impl FutureLike for Future {
    fn core(&self) -> &FutureCore {
        &self.0
    }
    const NAME: &'static str = "Future";
}

impl FutureCore {
    pub fn traverse(&self, visit: &Visit) {
        visit.slot(&self.event_loop);
        visit.slot(&self.result);
        visit.slot(&self.exception);
        visit.slot(&self.exception_tb);
        visit.slot(&self.source_traceback);
        visit.slot(&self.cancel_message);
        visit.slot(&self.cancelled_exc);
        if let Ok(callbacks) = self.callbacks.try_borrow() {
            callbacks.traverse(visit);
        }
    }

    pub fn clear(&self) {
        self.event_loop.clear();
        self.result.clear();
        self.exception.clear();
        self.exception_tb.clear();
        self.source_traceback.clear();
        self.cancel_message.clear();
        self.cancelled_exc.clear();
        drop(self.callbacks.take());
    }

    #[inline]
    pub fn is_pending(&self) -> bool {
        self.state.get() == State::Pending
    }
}

/// A future that somebody has a hold of: its object and its state.
#[derive(Clone, Copy)]
pub struct Fut<'a> {
    pub obj: &'a Obj,
    pub core: &'a FutureCore,
}

/// How the tasks layer, which lies above, tells us that an object is a Task.
static TASK_CORE: Once<fn(&Obj) -> Option<&FutureCore>> = Once::new();

static EXACT_TASK_CORE: Once<fn(&Obj) -> Option<&FutureCore>> = Once::new();

pub fn register_task_class(find: fn(&Obj) -> Option<&FutureCore>, find_exact: fn(&Obj) -> Option<&FutureCore>) {
    TASK_CORE.set(find);
    EXACT_TASK_CORE.set(find_exact);
}

impl<'a> Fut<'a> {
    /// The object as one of our futures or tasks, subclasses included.
    #[inline]
    pub fn of(obj: &'a Obj) -> Option<Fut<'a>> {
        if FUTURE.is_exact(obj) {
            return obj.downcast::<Future>().map(|f| Fut { obj, core: &f.0 });
        }
        if let Some(core) = TASK_CORE.get()(obj) {
            return Some(Fut { obj, core });
        }
        obj.downcast::<Future>().map(|f| Fut { obj, core: &f.0 })
    }

    /// The object as a Future or a Task of ours and no subclass, which may have overridden anything.
    #[inline]
    pub fn of_exact(obj: &'a Obj) -> Option<Fut<'a>> {
        if FUTURE.is_exact(obj) {
            return obj.downcast::<Future>().map(|f| Fut { obj, core: &f.0 });
        }
        EXACT_TASK_CORE.get()(obj).map(|core| Fut { obj, core })
    }

    pub fn from_inst<T: FutureLike>(i: &'a Inst<T>) -> Fut<'a> {
        Fut { obj: i.obj(), core: (**i).core() }
    }

    /// The loop.
    ///
    /// # Errors
    /// RuntimeError if `__init__` was never called.
    #[inline]
    pub fn event_loop(self) -> Res {
        match self.core.event_loop.get() {
            Some(l) => Ok(l),
            None => Err(Raised::runtime("Future object is not initialized.")),
        }
    }

    /// Do completions go straight into the ready queue?
    pub fn has_direct_loop(self) -> bool {
        self.core.event_loop.get().is_some_and(|l| Scheduler::direct(&l).is_some())
    }

    #[inline]
    pub fn check_alive(self) -> Res<()> {
        if self.core.event_loop.is_some() { Ok(()) } else { self.event_loop().map(drop) }
    }

    /// From 3.15 on `__init__` of a future that is initialised raises RuntimeError; before, it resets it.
    pub fn refuse_second_init(self) -> Res<()> {
        if cfg!(Py_3_15) && self.core.event_loop.is_some() {
            let class = str_of(&*self.obj.class().getattr(name!("__name__"))?)?;
            return Err(Raised::runtime(&format!("{class} object is already initialized")));
        }
        Ok(())
    }

    /// `__init__`: also resets a future that is initialised once more.
    pub fn init(self, event_loop: Option<&Obj>) -> Res<()> {
        let event_loop = match event_loop.filter(|l| !l.is_none()) {
            Some(l) => l.to_ref(),
            None => default_loop()?,
        };
        self.core.clear();
        self.core.state.set(State::Pending);
        self.core.log_traceback.set(false);
        self.core.blocking.set(false);
        let debug = match Scheduler::of(&event_loop) {
            Some(s) => s.debug.get(),
            None => event_loop.call_method(name!("get_debug"), [])?.is_true()?,
        };
        self.core.event_loop.put(event_loop);
        if debug {
            self.core.source_traceback.put(whole_stack()?);
        }
        Ok(())
    }

    // --- the outcome --------------------------------------------------------------------------------------------

    /// Same as `Future.result`.
    pub fn result(self) -> Res {
        match self.core.state.get() {
            State::Cancelled => Err(Raised::raise(self.make_cancelled_error()?)),
            State::Pending => Err(Raised::new(&imports().invalid_state_error, "Result is not set.")),
            State::Finished => {
                self.core.log_traceback.set(false);
                match self.core.exception.get() {
                    None => Ok(self.core.result.get_or_none()),
                    Some(e) => {
                        self.restore_traceback(&e);
                        Err(Raised::raise(e))
                    }
                }
            }
        }
    }

    /// The exception to throw into whoever awaited this; None if there is a result.
    pub fn failure(self) -> Res<Option<Ref>> {
        match self.core.state.get() {
            State::Cancelled => self.make_cancelled_error().map(Some),
            State::Pending => Err(Raised::new(&imports().invalid_state_error, "Result is not set.")),
            State::Finished => {
                self.core.log_traceback.set(false);
                let e = self.core.exception.get();
                if let Some(e) = &e {
                    self.restore_traceback(e);
                }
                Ok(e)
            }
        }
    }

    /// Raising adds frames to the exception's traceback; each waiter starts from the one it was set with.
    fn restore_traceback(self, e: &Obj) {
        e.set_traceback(self.core.exception_tb.get().as_deref());
    }

    pub fn exception(self) -> Res {
        match self.core.state.get() {
            State::Cancelled => Err(Raised::raise(self.make_cancelled_error()?)),
            State::Pending => Err(Raised::new(&imports().invalid_state_error, "Exception is not set.")),
            State::Finished => {
                self.core.log_traceback.set(false);
                match self.core.exception.get() {
                    None => Ok(none().to_ref()),
                    Some(e) => {
                        self.restore_traceback(&e);
                        Ok(e)
                    }
                }
            }
        }
    }

    #[inline]
    pub fn set_result(self, value: Ref) -> Res<()> {
        if !self.core.is_pending() {
            return Err(Raised::new(&imports().invalid_state_error, "invalid state"));
        }
        self.core.result.put(value);
        self.core.state.set(State::Finished);
        self.schedule_callbacks()
    }

    /// Same as `Future.set_exception`: an instance or a class.
    pub fn set_exception(self, e: &Obj) -> Res<()> {
        if !self.core.is_pending() {
            return Err(Raised::new(&imports().invalid_state_error, "invalid state"));
        }
        let e = if e.is_exception_class() { e.call0()? } else { e.to_ref() };
        if !e.is_exception() {
            return Err(Raised::type_error("invalid exception object"));
        }
        let e = if e.is_exception_of(exc::stop_iteration()) { refuse_stop_iteration(e)? } else { e };
        // A constructor may have run anything.
        if !self.core.is_pending() {
            return Err(Raised::new(&imports().invalid_state_error, "invalid state"));
        }
        self.finish_with(e)
    }

    pub fn finish_with(self, e: Ref) -> Res<()> {
        match e.traceback() {
            Some(tb) => self.core.exception_tb.put(tb),
            None => self.core.exception_tb.clear(),
        }
        self.core.exception.put(e);
        self.core.state.set(State::Finished);
        // First the mark, then the callbacks: one of them may retrieve the exception at once.
        self.core.log_traceback.set(true);
        self.schedule_callbacks()
    }

    /// Same as `Future.cancel`.
    pub fn cancel(self, message: Option<&Obj>) -> Res<bool> {
        self.core.log_traceback.set(false);
        if !self.core.is_pending() {
            return Ok(false);
        }
        self.core.state.set(State::Cancelled);
        match message {
            Some(m) => self.core.cancel_message.put(m.to_ref()),
            None => self.core.cancel_message.clear(),
        }
        self.schedule_callbacks()?;
        Ok(true)
    }

    /// Same as `Future._make_cancelled_error`: the error that cancelled a task is raised once, then fresh ones.
    pub fn make_cancelled_error(self) -> Res {
        #[cfg(Py_3_11)]
        if let Some(e) = self.core.cancelled_exc.take() {
            return Ok(e);
        }
        let class = &imports().cancelled_error;
        let e = match self.core.cancel_message.get().filter(|m| !m.is_none()) {
            Some(m) => class.call1(&m)?,
            None => class.call0()?,
        };
        #[cfg(not(Py_3_11))]
        if let Some(cause) = self.core.cancelled_exc.take() {
            e.set_context(cause);
        }
        Ok(e)
    }

    // --- callbacks ------------------------------------------------------------------------------------------------

    /// Add a callback; one that comes after the end is scheduled at once.
    pub fn add_callback(self, callback: Callback) -> Res<()> {
        if self.core.is_pending() {
            self.core.callbacks.borrow_mut().push(callback);
            Ok(())
        } else {
            callback.schedule(self.obj, &*self.event_loop()?)
        }
    }

    #[inline]
    fn schedule_callbacks(self) -> Res<()> {
        if self.core.callbacks.borrow().is_empty() {
            return Ok(());
        }
        let callbacks = self.core.callbacks.take();
        let event_loop = self.event_loop()?;
        callbacks.into_each(|c| c.schedule(self.obj, &event_loop))
    }

    /// Same as `Future.remove_done_callback`: how many were removed.
    pub fn remove_callback(self, f: &Obj) -> Res<usize> {
        // `==` may run any code, which may add or remove callbacks: work on a copy, then drop what was equal by identity
        // of its place.
        let all = self.core.callbacks.borrow().copy();
        let mut equal = Vec::with_capacity(all.len());
        for c in &all {
            equal.push(c.is(f)?);
        }
        let mut removed = 0;
        for (c, equal) in all.iter().zip(equal) {
            if equal && self.core.callbacks.borrow_mut().remove(c) {
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// `_callbacks`: a list of (callback, context), or None.
    pub fn callback_list(self) -> Res {
        let all = self.core.callbacks.borrow().copy();
        if all.is_empty() {
            return Ok(none().to_ref());
        }
        let l = crate::ffi::list()?;
        for c in &all {
            l.list_append(&*c.to_pair()?)?;
        }
        Ok(l)
    }

    // --- the end --------------------------------------------------------------------------------------------------

    /// tp_finalize: report an exception that nobody retrieved.
    pub fn report_unretrieved(self) -> Res<()> {
        if !self.core.log_traceback.replace(false) {
            return Ok(());
        }
        let (Some(e), Some(event_loop)) = (self.core.exception.get(), self.core.event_loop.get()) else {
            return Ok(());
        };
        let class = str_of(&*self.obj.class().getattr(name!("__name__"))?)?;
        Report::new(&format!("{class} exception was never retrieved"))?
            .with(name!("exception"), &e)?
            .with(name!("future"), self.obj)?
            .with_opt(name!("source_traceback"), self.core.source_traceback.get())?
            .send(&event_loop)
    }
}

/// The loop of `Future()` without one: the running loop, or the policy's, as the version has it.
pub fn default_loop() -> Res {
    let running = imports().get_running_loop.call0()?;
    if !running.is_none() {
        return Ok(running);
    }
    #[cfg(Py_3_12)]
    {
        imports().get_event_loop.call0()
    }
    #[cfg(not(Py_3_12))]
    {
        // 3.10.9+ and 3.11: the policy warns by itself where it has to.
        imports().get_event_loop_policy.call0()?.call_method(name!("get_event_loop"), [])
    }
}

/// StopIteration would end the generator that awaits the future. Since gh-112182 (3.11.8, 3.12.2) a RuntimeError is set in
/// its place; before, it is refused.
fn refuse_stop_iteration(e: Ref) -> Res {
    let text = "StopIteration interacts badly with generators and cannot be raised into a Future";
    let v = hexversion();
    if v >= 0x030c_0200 || (0x030b_0800..0x030c_0000).contains(&v) {
        let wrapped = exc::runtime_error().call1(&*string(text)?)?;
        wrapped.set_cause(e.clone());
        wrapped.set_context(e);
        Ok(wrapped)
    } else {
        Err(Raised::type_error(text))
    }
}
