//! `await future`, and `yield from future`.
//!
//! CPython counterpart: `FutureIter`. `await` needs no iterator object: `am_await` gives the future itself, whose
//! `tp_iternext` and `am_send` do what FutureIter's do. Only `iter(future)` and `future.__await__()` make an iterator with
//! `send`, `throw` and `close`, for people who drive it by hand; on the future itself these methods would make it look like a coroutine.

use super::{Fut, FutureLike};
use crate::ffi::trampoline::Awaiting;
use crate::ffi::{Args, Class, ClassBuilder, Inst, Native, Obj, Owned, Raised, Ref, Res, Slot, Visit, exc, none};
use crate::{await_next, await_send, keywords, noargs, onearg, unary};

/// One step of an await: the future while it is pending, then its outcome.
#[inline]
pub fn advance(f: Fut<'_>) -> Res<Awaiting> {
    if f.core.is_pending() {
        f.check_alive()?;
        if f.core.blocking.replace(true) {
            return Err(Raised::runtime("await wasn't used with future"));
        }
        return Ok(Awaiting::Yield(f.obj.to_ref()));
    }
    f.result().map(Awaiting::Done)
}

pub fn next_of<T: FutureLike>(this: &Inst<T>) -> Res<Awaiting> {
    advance(Fut::from_inst(this))
}

pub fn itself<T: FutureLike>(this: &Inst<T>) -> Res {
    Fut::from_inst(this).check_alive()?;
    Ok(this.obj().to_ref())
}

pub struct FutureIter {
    future: Slot,
}

static ITER: Class = Class::new();

impl Native for FutureIter {
    fn class() -> &'static Class {
        &ITER
    }
    fn traverse(&self, visit: &Visit) {
        visit.slot(&self.future);
    }
    fn clear(&self) {
        self.future.clear();
    }
}

pub fn iter_of<T: FutureLike>(this: &Inst<T>) -> Res {
    Fut::from_inst(this).check_alive()?;
    Owned::new(FutureIter { future: Slot::of(this.obj().to_ref()) }).map(Owned::into_ref)
}

fn next(this: &Inst<FutureIter>) -> Res<Awaiting> {
    let Some(future) = this.future.get() else {
        return Err(Raised::bare(exc::stop_iteration()));
    };
    let Some(f) = Fut::of(&future) else {
        return Err(Raised::bare(exc::stop_iteration()));
    };
    let step = advance(f);
    if !matches!(step, Ok(Awaiting::Yield(_))) {
        this.future.clear();
    }
    step
}

fn send(this: &Inst<FutureIter>, _value: &Obj) -> Res {
    match next(this)? {
        Awaiting::Yield(f) => Ok(f),
        Awaiting::Done(v) => {
            let e = exc::stop_iteration().call1(&v)?;
            Err(Raised::raise(e))
        }
    }
}

fn throw(this: &Inst<FutureIter>, args: Args) -> Res {
    let exception = exception_of_throw(args, |_| {
        "exceptions must be classes deriving BaseException or instances of such a class".to_owned()
    })?;
    this.future.clear();
    Err(Raised::raise(exception))
}

/// What `generator.throw` raises for its arguments: an instance, or the old triple (deprecated from 3.12 on).
///
/// # Errors
/// TypeError for what is no exception, with the text that `no_exception` makes.
pub fn exception_of_throw(args: Args, no_exception: impl FnOnce(&Obj) -> String) -> Res {
    let [class, value, tb] = args.bind("throw", ["type", "val", "tb"], 3, 1)?;
    let class = class.unwrap_or(none());
    let value = value.filter(|v| !v.is_none());
    #[cfg(Py_3_12)]
    if args.positional().len() > 1 {
        crate::ffi::warn(
            exc::deprecation_warning(),
            "the (type, exc, tb) signature of throw() is deprecated, use the single-arg signature instead.",
            None,
        )?;
    }
    if tb.is_some_and(|t| !t.is_none() && !is_traceback(t)) {
        return Err(Raised::type_error("throw() third argument must be a traceback"));
    }
    let e: Ref = if class.is_exception_class() {
        match value {
            Some(v) if v.is_exception_of(class) && v.is_exception() => v.to_ref(),
            Some(v) if v.is_tuple() => class.call_tuple(v)?,
            Some(v) => class.call1(v)?,
            None => class.call0()?,
        }
    } else if class.is_exception() {
        if value.is_some() {
            return Err(Raised::type_error("instance exception may not have a separate value"));
        }
        class.to_ref()
    } else {
        return Err(Raised::type_error(&no_exception(class)));
    };
    if !e.is_exception() {
        return Err(Raised::type_error("exceptions must derive from BaseException"));
    }
    if let Some(tb) = tb.filter(|t| !t.is_none()) {
        e.set_traceback(Some(tb));
    }
    Ok(e)
}

fn is_traceback(o: &Obj) -> bool {
    o.class().getattr(crate::name!("__name__")).and_then(|n| crate::ffi::str_of(&n)).is_ok_and(|n| n == "traceback")
}

fn close(this: &Inst<FutureIter>) -> Res {
    this.future.clear();
    Ok(none().to_ref())
}

fn this_iter(this: &Inst<FutureIter>) -> Res {
    Ok(this.obj().to_ref())
}

pub fn build() -> Res {
    ClassBuilder::<FutureIter>::new(c"aioxide._native.FutureIter", c"The iterator of a future.")
        .slot(pyo3_ffi::Py_tp_iter, unary!(FutureIter, this_iter))
        .slot(pyo3_ffi::Py_tp_iternext, await_next!(FutureIter, next))
        .slot(pyo3_ffi::Py_am_send, await_send!(FutureIter, next))
        .method(c"send", onearg!(FutureIter, send), c"Resume; the value is ignored.")
        .method(c"throw", keywords!(FutureIter, throw), c"Raise here.")
        .method(c"close", noargs!(FutureIter, close), c"Forget the future.")
        .build()
}
