//! The Python face of a future: the methods and attributes that `Future` and `Task` have in common.
//!
//! Every method and getset of `_asyncio.Future` is overridden here, because the base's own storage stays empty.

use super::{Callback, Fut, Future, FutureLike, State, waiting};
use crate::ffi::Once;
use crate::ffi::trampoline::{MethodId, add_method};
use crate::ffi::{Args, ClassBuilder, Context, Inst, Obj, Owned, Raised, Res, exc, int, none, str_of, string};
use crate::objects::names::imports;
use crate::{constructor, finalizer, initializer, keywords, name, objarg};

pub fn result<T: FutureLike>(this: &Inst<T>) -> Res {
    let f = Fut::from_inst(this);
    check_has_outcome(f)?;
    f.result()
}

/// A future that was never initialised has no outcome: InvalidStateError here, RuntimeError everywhere else.
fn check_has_outcome(f: Fut<'_>) -> Res<()> {
    if f.core.event_loop.is_some() {
        return Ok(());
    }
    Err(Raised::new(&imports().invalid_state_error, "Future object is not initialized."))
}

pub fn exception<T: FutureLike>(this: &Inst<T>) -> Res {
    let f = Fut::from_inst(this);
    check_has_outcome(f)?;
    f.exception()
}

static SET_RESULT: Once<MethodId> = Once::new();

/// Is this callback `future.set_result` of a future of ours on a loop of ours? It runs no Python code: done-callbacks are
/// only queued.
#[inline]
pub fn is_own_set_result(callback: &Obj) -> bool {
    SET_RESULT.get().bound_to(callback).and_then(Fut::of_exact).is_some_and(|f| f.has_direct_loop())
}

/// The future behind a method that is declared for `_asyncio.Future` (see `build`).
fn ours(o: &Obj) -> Res<Fut<'_>> {
    match Fut::of(o) {
        Some(f) => Ok(f),
        None => Err(Raised::type_error(&format!(
            "descriptor of 'aioxide._native.Future' objects doesn't apply to a '{}' object",
            str_of(&*o.class().getattr(name!("__name__"))?)?
        ))),
    }
}

fn set_result(this: &Obj, value: &Obj) -> Res {
    let f = ours(this)?;
    f.check_alive()?;
    f.set_result(value.to_ref())?;
    Ok(none().to_ref())
}

fn set_exception(this: &Obj, e: &Obj) -> Res {
    let f = ours(this)?;
    f.check_alive()?;
    f.set_exception(e)?;
    Ok(none().to_ref())
}

fn cancel(this: &Inst<Future>, args: Args) -> Res {
    let [message] = args.bind("cancel", ["msg"], 1, 0)?;
    let f = Fut::from_inst(this);
    f.check_alive()?;
    Ok(f.cancel(message)?.into())
}

pub fn cancelled<T: FutureLike>(this: &Inst<T>) -> Res {
    Ok((Fut::from_inst(this).core.state.get() == State::Cancelled).into())
}

pub fn done<T: FutureLike>(this: &Inst<T>) -> Res {
    let core = Fut::from_inst(this).core;
    Ok((core.event_loop.is_some() && !core.is_pending()).into())
}

pub fn get_loop<T: FutureLike>(this: &Inst<T>) -> Res {
    Fut::from_inst(this).event_loop()
}

pub fn add_done_callback<T: FutureLike>(this: &Inst<T>, args: Args) -> Res {
    let [f, context] = args.bind("add_done_callback", ["fn", "context"], 1, 1)?;
    let context = match context.filter(|c| !c.is_none()) {
        Some(c) => c.to_ref(),
        None => Context::copy_current()?,
    };
    let future = Fut::from_inst(this);
    future.check_alive()?;
    let f = f.unwrap_or(none());
    // A task of ours that hands us its own wake-up builtin is stored as itself.
    let callback = match super::callbacks::WAKEUP.bound_to(f) {
        Some(task) => Callback::Task(task.to_ref()),
        None => Callback::Function(f.to_ref(), context),
    };
    future.add_callback(callback)?;
    Ok(none().to_ref())
}

pub fn remove_done_callback<T: FutureLike>(this: &Inst<T>, f: &Obj) -> Res {
    let future = Fut::from_inst(this);
    future.check_alive()?;
    int(future.remove_callback(f)? as i64)
}

pub fn make_cancelled_error<T: FutureLike>(this: &Inst<T>) -> Res {
    Fut::from_inst(this).make_cancelled_error()
}

pub fn class_getitem(class: &Obj, item: &Obj) -> Res {
    imports().generic_alias.call([class, item])
}

pub fn state<T: FutureLike>(this: &Inst<T>) -> Res {
    let f = Fut::from_inst(this);
    f.check_alive()?;
    Ok(match f.core.state.get() {
        State::Pending => name!("PENDING"),
        State::Cancelled => name!("CANCELLED"),
        State::Finished => name!("FINISHED"),
    }
    .to_ref())
}

pub fn blocking<T: FutureLike>(this: &Inst<T>) -> Res {
    let core = Fut::from_inst(this).core;
    Ok((core.event_loop.is_some() && core.blocking.get()).into())
}

pub fn set_blocking<T: FutureLike>(this: &Inst<T>, value: Option<&Obj>) -> Res<()> {
    let f = Fut::from_inst(this);
    f.check_alive()?;
    let Some(value) = value else {
        return Err(Raised::new(exc::attribute_error(), "cannot delete attribute"));
    };
    f.core.blocking.set(value.is_true()?);
    Ok(())
}

pub fn event_loop<T: FutureLike>(this: &Inst<T>) -> Res {
    Ok(Fut::from_inst(this).core.event_loop.get_or_none())
}

pub fn callbacks<T: FutureLike>(this: &Inst<T>) -> Res {
    let f = Fut::from_inst(this);
    f.check_alive()?;
    f.callback_list()
}

pub fn raw_result<T: FutureLike>(this: &Inst<T>) -> Res {
    let f = Fut::from_inst(this);
    f.check_alive()?;
    Ok(f.core.result.get_or_none())
}

pub fn raw_exception<T: FutureLike>(this: &Inst<T>) -> Res {
    let f = Fut::from_inst(this);
    f.check_alive()?;
    Ok(f.core.exception.get_or_none())
}

pub fn log_traceback<T: FutureLike>(this: &Inst<T>) -> Res {
    let f = Fut::from_inst(this);
    f.check_alive()?;
    Ok(f.core.log_traceback.get().into())
}

pub fn set_log_traceback<T: FutureLike>(this: &Inst<T>, value: Option<&Obj>) -> Res<()> {
    let Some(value) = value else {
        return Err(Raised::new(exc::attribute_error(), "cannot delete attribute"));
    };
    if value.is_true()? {
        return Err(Raised::value_error("_log_traceback can only be set to False"));
    }
    Fut::from_inst(this).core.log_traceback.set(false);
    Ok(())
}

pub fn source_traceback<T: FutureLike>(this: &Inst<T>) -> Res {
    Ok(Fut::from_inst(this).core.source_traceback.get_or_none())
}

pub fn cancel_message<T: FutureLike>(this: &Inst<T>) -> Res {
    Ok(Fut::from_inst(this).core.cancel_message.get_or_none())
}

pub fn set_cancel_message<T: FutureLike>(this: &Inst<T>, value: Option<&Obj>) -> Res<()> {
    let Some(value) = value else {
        return Err(Raised::new(exc::attribute_error(), "cannot delete attribute"));
    };
    Fut::from_inst(this).core.cancel_message.put(value.to_ref());
    Ok(())
}

/// Through the object, so that a subclass's `_repr_info` (3.10) or `__class__.__name__` shows.
pub fn repr_info<T: FutureLike>(this: &Inst<T>) -> Res {
    Fut::from_inst(this).check_alive()?;
    let f = if T::NAME == "Task" { &imports().task_repr } else { &imports().future_repr };
    f.call1(this.obj())
}

pub fn repr<T: FutureLike>(this: &Inst<T>) -> Res {
    Fut::from_inst(this).check_alive()?;
    #[cfg(Py_3_11)]
    {
        // reprlib's guard against recursion is in asyncio's own function.
        let _ = (str_of, string);
        let (module, function) = if T::NAME == "Task" {
            ("asyncio.base_tasks", "_task_repr")
        } else {
            ("asyncio.base_futures", "_future_repr")
        };
        crate::ffi::import_attr(module, function)?.call1(this.obj())
    }
    #[cfg(not(Py_3_11))]
    {
        let info = this.obj().call_method(name!("_repr_info"), [])?;
        let class = str_of(&*this.obj().class().getattr(name!("__name__"))?)?;
        let mut words = Vec::new();
        let items = info.iter()?;
        while let Some(word) = items.next()? {
            words.push(str_of(&word)?);
        }
        string(&format!("<{class} {}>", words.join(" ")))
    }
}

fn init(this: &Inst<Future>, args: Args) -> Res<()> {
    let [event_loop] = args.bind("Future", ["loop"], 0, 0)?;
    Fut::from_inst(this).refuse_second_init()?;
    Fut::from_inst(this).init(event_loop)
}

fn new(class: &Obj, _args: &Obj, _kwargs: Option<&Obj>) -> Res {
    Owned::of_class(class, Future::default()).map(Owned::into_ref)
}

fn finalize(this: &Inst<Future>) {
    if let Err(raised) = Fut::from_inst(this).report_unretrieved() {
        raised.unraisable(this.obj());
    }
}

/// What `Future` and `Task` share.
#[macro_export]
macro_rules! future_methods {
    ($t:ty, $b:expr) => {{
        use $crate::objects::future::{face, waiting};
        use $crate::{await_next, await_send, classarg, getter, keywords, noargs, onearg, setter, unary};
        $b.subclassable()
        .slot(pyo3_ffi::Py_tp_repr, unary!($t, face::repr::<$t>))
        .slot(pyo3_ffi::Py_tp_iter, unary!($t, waiting::iter_of::<$t>))
        .slot(pyo3_ffi::Py_am_await, unary!($t, waiting::itself::<$t>))
        .method(c"__await__", noargs!($t, waiting::iter_of::<$t>).beside_slot(), c"An iterator to drive by hand.")
        .slot(pyo3_ffi::Py_tp_iternext, await_next!($t, waiting::next_of::<$t>))
        .slot(pyo3_ffi::Py_am_send, await_send!($t, waiting::next_of::<$t>))
        .method(c"result", noargs!($t, face::result::<$t>), c"The result, or raise the exception, CancelledError or InvalidStateError.")
        .method(c"exception", noargs!($t, face::exception::<$t>), c"The exception or None; CancelledError or InvalidStateError if there is neither.")
        .method(c"cancelled", noargs!($t, face::cancelled::<$t>), c"Whether it was cancelled.")
        .method(c"done", noargs!($t, face::done::<$t>), c"Whether it is finished or cancelled.")
        .method(c"get_loop", noargs!($t, face::get_loop::<$t>), c"The loop it belongs to.")
        .method(c"add_done_callback", keywords!($t, face::add_done_callback::<$t>), c"add_done_callback($self, fn, /, *, context=None)\n--\n\nSchedule fn(self) for when it is done; at once by call_soon if it is.")
        .method(c"remove_done_callback", onearg!($t, face::remove_done_callback::<$t>), c"Remove all callbacks equal to fn; how many there were.")
        .method(c"_make_cancelled_error", noargs!($t, face::make_cancelled_error::<$t>), c"The CancelledError to raise.")
        .method(c"_repr_info", noargs!($t, face::repr_info::<$t>), c"The words of repr().")
        .method(c"__class_getitem__", classarg!(face::class_getitem), c"See PEP 585")
        .getset(c"_state", getter!($t, face::state::<$t>), None, c"'PENDING', 'CANCELLED' or 'FINISHED'.")
        .getset(c"_asyncio_future_blocking", getter!($t, face::blocking::<$t>), setter!($t, face::set_blocking::<$t>), c"Set while `await` hands it to a task.")
        .getset(c"_loop", getter!($t, face::event_loop::<$t>), None, c"The loop it belongs to.")
        .getset(c"_callbacks", getter!($t, face::callbacks::<$t>), None, c"List of (callback, context), or None.")
        .getset(c"_result", getter!($t, face::raw_result::<$t>), None, c"The result, None while there is none.")
        .getset(c"_exception", getter!($t, face::raw_exception::<$t>), None, c"The exception, None if there is none.")
        .getset(c"_log_traceback", getter!($t, face::log_traceback::<$t>), setter!($t, face::set_log_traceback::<$t>), c"Whether the exception is still to be retrieved.")
        .getset(c"_source_traceback", getter!($t, face::source_traceback::<$t>), None, c"Where it was made (debug mode).")
        .getset(c"_cancel_message", getter!($t, face::cancel_message::<$t>), setter!($t, face::set_cancel_message::<$t>), c"The message for CancelledError.")
    }};
}

pub fn build(offset: usize) -> Res {
    waiting::build()?;
    let b = ClassBuilder::<Future>::new(
        c"aioxide._native.Future",
        c"Future(*, loop=None)\n--\n\nA result that is to come. Same as asyncio.Future, and derived from it.",
    )
    .base(&imports().c_future)
    .at_least(offset)
    .pooled(256)
    .slot(pyo3_ffi::Py_tp_new, constructor!(new))
    .slot(pyo3_ffi::Py_tp_init, initializer!(Future, init))
    .slot(pyo3_ffi::Py_tp_finalize, finalizer!(Future, finalize))
    .method(
        c"cancel",
        keywords!(Future, cancel),
        c"cancel($self, /, msg=None)\n--\n\nCancel; False if it is done.",
    );
    let class = crate::future_methods!(Future, b).build()?;
    // `Future.set_result(task, x)` must work on a Task, as with asyncio's classes; ours cannot derive from one another
    // (each has storage behind another base), so these two are declared for the base that both have.
    let base = &imports().c_future;
    let text = c"Finish with a result; InvalidStateError if it is done.";
    SET_RESULT.set(add_method(&class, base, c"set_result", objarg!(set_result), text)?);
    add_method(
        &class,
        base,
        c"set_exception",
        objarg!(set_exception),
        c"Finish with an exception, an instance or a class.",
    )?;
    Ok(class)
}
