//! `Handle` and `TimerHandle`: what `call_soon` and `call_later` give back.
//!
//! CPython counterpart: `asyncio.events.Handle`. One Rust struct serves both classes; `TimerHandle` adds only behaviour.
//!
//! Handles are not tracked by the garbage collector (decision 0003: a timer would cost a fifth more, and a busy loop makes
//! a handle per callback). Instead the loop visits what a handle refers to on its behalf, but only while the loop's queue
//! is the handle's sole owner: if anybody else holds the handle, its references count as coming from outside, which keeps
//! everything alive.
//!
//! So a handle lets go of everything, of its loop too, as soon as it cannot run any more: when it ran, was cancelled, or
//! its loop was closed. From then on no cycle leads through it, whoever holds it.
//!
//! `isinstance(handle, asyncio.Handle)` holds through `__class__`: asyncio's own class has eight slots that native code
//! does not need, and would double the size.

use super::names::imports;
use super::scheduler::{Entry, Scheduler};
use crate::ffi::cell::{Cell, RefCell};
use crate::ffi::{
    Args, Class, ClassBuilder, Context, Inst, Native, Obj, Owned, Raised, Ref, Res, Slot, Vector, Visit, exc, float,
    none, not_implemented, str_of, string, tuple_of_refs,
};
use crate::{constructor, getter, hasher, initializer, kwnames, name, noargs, richcompare, unary};

/// What will be called: taken out while it runs, so that `cancel()` from inside cannot pull it away.
struct Payload {
    callback: Ref,
    args: Vector,
    context: Ref,
}

pub struct Handle {
    payload: RefCell<Option<Payload>>,
    event_loop: Slot,
    cancelled: Cell<bool>,
    /// In the loop's timer heap.
    scheduled: Cell<bool>,
    /// The callback is native and runs no Python code, so it cannot see who the current task is.
    quiet: Cell<bool>,
    /// Run again and again (`add_reader`): the callback is kept.
    persistent: Cell<bool>,
    /// Absolute time in seconds of `loop.time()`; meaningless for a plain Handle.
    when: Cell<f64>,
    source_traceback: Slot,
    /// A reentrant lock that `run` and `cancel` hold, for handles of `call_soon_threadsafe` (3.14+): whoever cancels one from
    /// another thread knows afterwards that the callback does not run.
    lock: Slot,
    /// Kept for messages after a cancel in debug mode, as asyncio does.
    frozen_repr: Slot,
}

static HANDLE: Class = Class::new();
static TIMER: Class = Class::new();

impl Native for Handle {
    fn class() -> &'static Class {
        &HANDLE
    }
}

impl Handle {
    /// A handle for `callback(*args)` in `context` (None: a copy of the current one).
    pub fn new(callback: &Obj, args: &[&Obj], event_loop: &Obj, context: Option<&Obj>) -> Res<Owned<Handle>> {
        Owned::new(Handle::value(callback, args, event_loop, context, 0.0)?)
    }

    pub fn new_timer(
        when: f64,
        callback: &Obj,
        args: &[&Obj],
        event_loop: &Obj,
        context: Option<&Obj>,
    ) -> Res<Owned<Handle>> {
        Owned::of_class(TIMER.type_object(), Handle::value(callback, args, event_loop, context, when)?)
    }

    #[inline(always)]
    fn value(callback: &Obj, args: &[&Obj], event_loop: &Obj, context: Option<&Obj>, when: f64) -> Res<Handle> {
        let context = match context {
            Some(c) => c.to_ref(),
            None => Context::copy_current()?,
        };
        Ok(Handle {
            payload: RefCell::new(Some(Payload { callback: callback.to_ref(), args: Vector::new(args), context })),
            event_loop: Slot::of(event_loop.to_ref()),
            cancelled: Cell::new(false),
            scheduled: Cell::new(false),
            quiet: Cell::new(false),
            persistent: Cell::new(false),
            when: Cell::new(when),
            source_traceback: Slot::empty(),
            lock: Slot::empty(),
            frozen_repr: Slot::empty(),
        })
    }

    /// Stands for work that has no handle of its own, in debug mode: it knows where that comes from, and no more.
    pub fn stand_in(source_traceback: Ref) -> Res<Owned<Handle>> {
        let empty = Handle::empty();
        empty.source_traceback.put(source_traceback);
        Owned::new(empty)
    }

    fn empty() -> Handle {
        Handle {
            payload: RefCell::new(None),
            event_loop: Slot::empty(),
            cancelled: Cell::new(false),
            scheduled: Cell::new(false),
            quiet: Cell::new(false),
            persistent: Cell::new(false),
            when: Cell::new(0.0),
            source_traceback: Slot::empty(),
            lock: Slot::empty(),
            frozen_repr: Slot::empty(),
        }
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.get()
    }

    pub fn mark_scheduled(&self) {
        self.scheduled.set(true);
    }

    pub fn mark_unscheduled(&self) {
        self.scheduled.set(false);
    }

    /// Make `run` and `cancel` exclude one another across threads, as asyncio does from 3.14 on.
    pub fn guard_by_lock(&self) -> Res<()> {
        #[cfg(Py_3_14)]
        self.lock.put(imports().reentrant_lock.call0()?);
        Ok(())
    }

    pub fn mark_quiet(&self) {
        self.quiet.set(true);
    }

    #[inline]
    pub fn is_quiet(&self) -> bool {
        self.quiet.get()
    }

    pub fn mark_persistent(&self) {
        self.persistent.set(true);
    }

    pub fn set_source_traceback(&self, tb: Ref) {
        self.source_traceback.put(tb);
    }

    pub fn source_traceback(&self) -> Option<Ref> {
        self.source_traceback.get()
    }

    /// It will not run any more: refer to nothing that could lead back here.
    pub fn let_go(&self) {
        let payload = self.payload.take();
        self.event_loop.clear();
        drop(payload);
    }
}

impl Inst<Handle> {
    /// Run the callback once; a handle that is run again and again (`add_reader`) keeps it.
    ///
    /// # Errors
    /// Only SystemExit and KeyboardInterrupt come out; everything else goes to the exception handler.
    pub fn run(&self) -> Res<()> {
        if self.cancelled.get() {
            return Ok(());
        }
        if self.lock.is_some() { self.locked(Inst::run_unlocked) } else { self.run_unlocked() }
    }

    /// Hold the lock, if there is one, while `f` runs.
    fn locked<T>(&self, f: impl FnOnce(&Self) -> Res<T>) -> Res<T> {
        let Some(lock) = self.lock.get() else {
            return f(self);
        };
        lock.call_method(name!("acquire"), [])?;
        let r = f(self);
        let pending = match r {
            Ok(v) => {
                lock.call_method(name!("release"), [])?;
                return Ok(v);
            }
            Err(raised) => raised.take(),
        };
        lock.call_method(name!("release"), [])?;
        Err(Raised::raise(pending))
    }

    fn run_unlocked(&self) -> Res<()> {
        if self.cancelled.get() {
            return Ok(());
        }
        let Some(payload) = self.payload.take() else {
            return Ok(());
        };
        let outcome = Context::run(&payload.context, || payload.callback.call_vector(&payload.args).map(drop));
        let outcome = match outcome {
            Ok(()) if !self.persistent.get() => {
                self.event_loop.clear();
                return Ok(());
            }
            Ok(()) => {
                self.put_back(payload);
                Ok(())
            }
            Err(raised) => {
                // The report shows the handle with its callback.
                let (callback, args) = (payload.callback.clone(), payload.args.to_tuple());
                self.put_back(payload);
                self.report(raised, self.event_loop.get(), &callback, args)
            }
        };
        if self.cancelled.get() || !self.persistent.get() {
            self.let_go();
        }
        outcome
    }

    fn put_back(&self, payload: Payload) {
        if self.cancelled.get() {
            return self.show_context(payload.context);
        }
        drop(self.payload.replace(Some(payload)));
    }

    /// One that its own callback has cancelled still tells the context of that: what it raised is reported there. Until
    /// [`Handle::let_go`].
    pub fn show_context(&self, context: Ref) {
        let shown = Payload { callback: none().to_ref(), args: Vector::new(&[]), context };
        drop(self.payload.replace(Some(shown)));
    }

    /// Debug mode: run with callback and arguments left in place, so that the handle can be shown meanwhile and afterwards.
    /// The caller ends it with [`Self::ran`].
    pub fn run_shown(&self) -> Res<()> {
        self.locked(|this| {
            let event_loop = this.event_loop.get();
            let payload =
                this.payload.borrow().as_ref().map(|p| (p.callback.clone(), p.args.to_refs(), p.context.clone()));
            let (Some((callback, args, context)), false) = (payload, this.cancelled.get()) else {
                return Ok(());
            };
            let borrowed: Vec<&Obj> = args.iter().map(|a| &**a).collect();
            let vector = Vector::new(&borrowed);
            match Context::run(&context, || callback.call_vector(&vector).map(drop)) {
                Ok(()) => Ok(()),
                Err(raised) => {
                    if this.cancelled.get() {
                        this.show_context(context);
                    }
                    this.report(raised, event_loop, &callback, vector.to_tuple())
                }
            }
        })
    }

    /// After a run: let go, unless it will run again.
    pub fn ran(&self) {
        if self.cancelled.get() || !self.persistent.get() {
            self.let_go();
        }
    }

    /// The task whose method this handle calls.
    pub fn task(&self) -> Res<Option<Ref>> {
        let callback = self.payload.borrow().as_ref().map(|p| p.callback.clone());
        let Some(callback) = callback else {
            return Ok(None);
        };
        let bound_to = match callback.getattr(name!("__self__")) {
            Ok(o) => o,
            Err(raised) if raised.matches(exc::attribute_error()) => {
                raised.forget();
                return Ok(None);
            }
            Err(raised) => return Err(raised),
        };
        Ok(bound_to.is_instance(&imports().c_task)?.then_some(bound_to))
    }

    /// Tell the exception handler of what the callback raised.
    ///
    /// # Errors
    /// SystemExit and KeyboardInterrupt go on, and what the report raised.
    pub fn report(&self, raised: Raised, event_loop: Option<Ref>, callback: &Obj, args: Res) -> Res<()> {
        let Some(event_loop) = event_loop else {
            raised.unraisable(self.obj());
            return Ok(());
        };
        super::report::callback_failed(
            raised,
            &event_loop,
            || Ok(format!("Exception in callback {}", format_callback(callback, &*args?, &event_loop)?)),
            |r| r.with(name!("handle"), self.obj())?.with_opt(name!("source_traceback"), self.source_traceback.get()),
        )
    }

    /// Same as `asyncio.Handle.cancel`.
    pub fn cancel(&self) -> Res<()> {
        self.locked(Inst::cancel_unlocked)
    }

    fn cancel_unlocked(&self) -> Res<()> {
        if self.cancelled.replace(true) {
            return Ok(());
        }
        if let Some(event_loop) = self.event_loop.get() {
            if let Some(scheduler) = Scheduler::of(&event_loop) {
                if scheduler.debug.get() {
                    // Keep a representation: the callback is about to be dropped.
                    self.frozen_repr.put(repr(self)?);
                }
                if self.scheduled.get() {
                    scheduler.on_timer_cancelled();
                }
            }
        }
        // One that is running has no payload here, and needs its loop if the callback raises.
        if self.payload.borrow().is_some() {
            self.let_go();
        }
        Ok(())
    }

    /// Show the references to the collector on behalf of the queue that holds this handle.
    pub fn traverse_as_sole_owner(&self, visit: &Visit) {
        if self.obj().refcount() != 1 {
            return;
        }
        visit.slot(&self.event_loop);
        visit.slot(&self.source_traceback);
        if let Ok(payload) = self.payload.try_borrow() {
            if let Some(p) = &*payload {
                visit.obj(&p.callback);
                visit.obj(&p.context);
                p.args.iter().for_each(|a| visit.obj(a));
            }
        }
    }
}

/// `asyncio.format_helpers._format_callback_source(callback, args)`. From 3.13 on the arguments, which may be secrets, are
/// shown in debug mode only.
pub fn format_callback(callback: &Obj, args: &Obj, event_loop: &Obj) -> Res<String> {
    let format = &imports().format_callback_source;
    if !cfg!(Py_3_13) {
        return str_of(&*format.call([callback, args])?);
    }
    let is_debug = event_loop.call_method(name!("get_debug"), [])?;
    str_of(&*format.call_kw(&[callback, args, &*is_debug], kwnames!("debug"))?)
}

/// A copy of the stack for debug mode, without the native frames: `extract_stack(sys._getframe(0))`.
pub fn current_stack() -> Res {
    let frame = match imports().get_frame.call0() {
        Ok(f) => f,
        // No Python frame at all: nothing to show.
        Err(e) if e.matches(exc::value_error()) => {
            e.forget();
            return Ok(none().to_ref());
        }
        Err(e) => return Err(e),
    };
    imports().extract_stack.call1(&frame)
}

/// The whole stack: `_asyncio` keeps that of futures and tasks.
pub fn whole_stack() -> Res {
    match imports().get_frame.call0() {
        Ok(frame) => imports().extract_whole_stack.call1(&frame),
        Err(e) if e.matches(exc::value_error()) => {
            e.forget();
            Ok(none().to_ref())
        }
        Err(e) => Err(e),
    }
}

/// Reports the failure of a callback that had no handle: one is made for the report.
pub fn report_call(raised: Raised, event_loop: &Obj, callback: &Obj, args: &[&Obj], context: Option<&Obj>) -> Res<()> {
    let handle = Handle::new(callback, args, event_loop, context);
    match handle {
        Ok(h) => {
            let told = h.report(raised, Some(event_loop.to_ref()), callback, Obj::tuple_of(args));
            h.let_go();
            told
        }
        Err(e) => {
            e.forget();
            Err(raised)
        }
    }
}

// --- the Python face ------------------------------------------------------------------------------------------------

fn new(class: &Obj, _args: &Obj, _kwargs: Option<&Obj>) -> Res {
    Owned::of_class(class, Handle::empty()).map(Owned::into_ref)
}

fn init_with(this: &Inst<Handle>, callback: &Obj, args: &Obj, event_loop: &Obj, context: Option<&Obj>) -> Res<()> {
    let value = Handle::value(callback, args.tuple_items(), event_loop, context.filter(|c| !c.is_none()), 0.0)?;
    drop(this.payload.replace(value.payload.take()));
    this.event_loop.put(event_loop.to_ref());
    if event_loop.call_method(name!("get_debug"), [])?.is_true()? {
        this.source_traceback.put(current_stack()?);
    }
    Ok(())
}

fn init(this: &Inst<Handle>, args: Args) -> Res<()> {
    let [callback, call_args, event_loop, context] =
        args.bind("Handle", ["callback", "args", "loop", "context"], 4, 3)?;
    init_with(this, callback.unwrap_or(none()), call_args.unwrap_or(none()), event_loop.unwrap_or(none()), context)
}

fn init_timer(this: &Inst<Handle>, args: Args) -> Res<()> {
    let [when, callback, call_args, event_loop, context] =
        args.bind("TimerHandle", ["when", "callback", "args", "loop", "context"], 5, 4)?;
    this.when.set(crate::ffi::float_value(when.unwrap_or(none()))?);
    init_with(this, callback.unwrap_or(none()), call_args.unwrap_or(none()), event_loop.unwrap_or(none()), context)
}

fn py_cancel(this: &Inst<Handle>) -> Res {
    this.cancel()?;
    Ok(none().to_ref())
}

fn py_cancelled(this: &Inst<Handle>) -> Res {
    this.locked(|this| Ok(this.cancelled.get().into()))
}

fn py_run(this: &Inst<Handle>) -> Res {
    this.run()?;
    Ok(none().to_ref())
}

fn get_context(this: &Inst<Handle>) -> Res {
    Ok(this.payload.borrow().as_ref().map_or_else(|| none().to_ref(), |p| p.context.clone()))
}

fn callback(this: &Inst<Handle>) -> Res {
    Ok(this.payload.borrow().as_ref().map_or_else(|| none().to_ref(), |p| p.callback.clone()))
}

fn call_args(this: &Inst<Handle>) -> Res {
    // Making a tuple may run the collector, and that any code: not under the borrow.
    let args = this.payload.borrow().as_ref().map(|p| p.args.to_refs());
    match args {
        Some(args) => tuple_of_refs(&args),
        None => Ok(none().to_ref()),
    }
}

fn loop_of(this: &Inst<Handle>) -> Res {
    Ok(this.event_loop.get_or_none())
}

fn scheduled(this: &Inst<Handle>) -> Res {
    Ok(this.scheduled.get().into())
}

fn py_source_traceback(this: &Inst<Handle>) -> Res {
    Ok(this.source_traceback.get_or_none())
}

fn when(this: &Inst<Handle>) -> Res {
    float(this.when.get())
}

fn class_of_handle(this: &Inst<Handle>) -> Res {
    if this.lock.is_some() {
        return crate::ffi::import_attr("asyncio.events", "_ThreadSafeHandle");
    }
    Ok(imports().handle_class.clone())
}

fn class_of_timer(_: &Inst<Handle>) -> Res {
    Ok(imports().timer_handle_class.clone())
}

/// Same as `asyncio.Handle.__repr__`.
fn repr(this: &Inst<Handle>) -> Res {
    if let Some(text) = this.frozen_repr.get() {
        return Ok(text);
    }
    let is_timer = TIMER.is_exact(this.obj());
    let class = match this.lock.is_some() {
        true => "_ThreadSafeHandle",
        false if is_timer => "TimerHandle",
        false => "Handle",
    };
    let mut info = vec![class.to_owned()];
    if this.cancelled.get() {
        info.push("cancelled".to_owned());
    }
    if is_timer {
        info.push(format!("when={}", str_of(&*float(this.when.get())?.repr()?)?));
    }
    let parts = this.payload.borrow().as_ref().map(|p| (p.callback.clone(), p.args.to_refs()));
    if let Some((callback, args)) = parts.filter(|(callback, _)| !callback.is_none()) {
        let event_loop = this.event_loop.get_or_none();
        info.push(format_callback(&callback, &*tuple_of_refs(&args)?, &event_loop)?);
    }
    if let Some(tb) = this.source_traceback.get().filter(|tb| !tb.is_none()) {
        let n = tb.len()?;
        if n > 0 {
            let frame = tb.get_item(&*crate::ffi::int(n as i64 - 1)?)?;
            let file = frame.get_item(&*crate::ffi::int(0)?)?;
            let line = frame.get_item(&*crate::ffi::int(1)?)?;
            info.push(format!("created at {}:{}", str_of(&file)?, str_of(&line)?));
        }
    }
    string(&format!("<{}>", info.join(" ")))
}

/// Timers compare by deadline; equal ones also by what they call (`asyncio.TimerHandle.__eq__`).
fn compare(this: &Inst<Handle>, other: &Obj, op: i32) -> Res {
    let Some(other) = other.downcast::<Handle>().filter(|o| TIMER.is_exact(o.obj())) else {
        return Ok(not_implemented().to_ref());
    };
    let (a, b) = (this.when.get(), other.when.get());
    let equal = || -> Res<bool> {
        Ok(a == b
            && callback(this)?.equals(&*callback(other)?)?
            && call_args(this)?.equals(&*call_args(other)?)?
            && this.cancelled.get() == other.cancelled.get())
    };
    let answer = match op {
        pyo3_ffi::Py_LT => a < b,
        pyo3_ffi::Py_GT => a > b,
        pyo3_ffi::Py_EQ => equal()?,
        pyo3_ffi::Py_NE => !equal()?,
        pyo3_ffi::Py_LE => a < b || equal()?,
        _ => a > b || equal()?,
    };
    Ok(answer.into())
}

fn hash(this: &Inst<Handle>) -> Res<isize> {
    float(this.when.get())?.hash()
}

/// The wake-up builtin of a task is recognised by the tasks layer; here only `call_soon`'s own work is done.
pub fn queue(scheduler: &Scheduler, handle: &Owned<Handle>) -> Res<()> {
    if scheduler.debug.get() {
        handle.set_source_traceback(current_stack()?);
    }
    scheduler.push(Entry::Handle(handle.clone()));
    Ok(())
}

pub fn build() -> Res<(Ref, Ref)> {
    fn common(b: ClassBuilder<Handle>) -> ClassBuilder<Handle> {
        b.untracked().slot(pyo3_ffi::Py_tp_repr, unary!(Handle, repr)).slot(pyo3_ffi::Py_tp_new, constructor!(new))
    }
    let handle = common(ClassBuilder::<Handle>::new(
        c"aioxide._native.Handle",
        c"Handle(callback, args, loop, context=None)\n--\n\nA callback in the ready queue. Same as asyncio.Handle.",
    ))
    .subclassable()
    .pooled(256)
    .with_weaklist()
    .slot(pyo3_ffi::Py_tp_init, initializer!(Handle, init))
    .method(c"cancel", noargs!(Handle, py_cancel), c"Cancel the callback; it will not run. Loop's thread only.")
    .method(c"cancelled", noargs!(Handle, py_cancelled), c"Whether the callback was cancelled.")
    .method(c"_run", noargs!(Handle, py_run), c"Run the callback now, in its context.")
    .method(c"get_context", noargs!(Handle, get_context), c"The context the callback runs in.")
    .getset(c"_callback", getter!(Handle, callback), None, c"The callback; None once run or cancelled.")
    .getset(c"_args", getter!(Handle, call_args), None, c"Its arguments.")
    .getset(c"_context", getter!(Handle, get_context), None, c"Its context.")
    .getset(c"_loop", getter!(Handle, loop_of), None, c"The loop.")
    .getset(c"_cancelled", getter!(Handle, py_cancelled), None, c"Whether it was cancelled.")
    .getset(c"_source_traceback", getter!(Handle, py_source_traceback), None, c"Where it was made (debug mode).")
    .getset(c"__class__", getter!(Handle, class_of_handle), None, c"asyncio.Handle, for isinstance().")
    .build()?;
    let timer = common(ClassBuilder::<Handle>::new(
        c"aioxide._native.TimerHandle",
        c"TimerHandle(when, callback, args, loop, context=None)\n--\n\nA callback at a time. Same as asyncio.TimerHandle.",
    ))
    .slot(pyo3_ffi::Py_tp_init, initializer!(Handle, init_timer))
    .slot(pyo3_ffi::Py_tp_richcompare, richcompare!(Handle, compare))
    .slot(pyo3_ffi::Py_tp_hash, hasher!(Handle, hash))
    .method(c"when", noargs!(Handle, when), c"Deadline, in seconds of loop.time().")
    .getset(c"_when", getter!(Handle, when), None, c"Deadline, in seconds of loop.time().")
    .getset(c"_scheduled", getter!(Handle, scheduled), None, c"Whether it is in the loop's timer heap.")
    .getset(c"__class__", getter!(Handle, class_of_timer), None, c"asyncio.TimerHandle, for isinstance().")
    .subclassable()
    .build_derived(&TIMER)?;
    Ok((handle, timer))
}
