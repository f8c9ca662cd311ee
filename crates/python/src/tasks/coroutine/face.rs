//! The Python class: what `asyncio.iscoroutine`, `inspect` and the interpreter ask of a coroutine.
//!
//! CPython counterpart: `PyCoro_Type`. There is no `cr_code` and no `cr_await`: with them, tools would look for a real frame
//! behind `cr_frame` (3.14's call graph raises AttributeError); without, they stop at the coroutine, as they do for those
//! of Cython.

use super::{COROUTINE, Coroutine, Stage, next};
use crate::ffi::trampoline::Awaiting;
use crate::ffi::{
    Args, ClassBuilder, Inst, Obj, Raised, Ref, Res, exc, import, index_value, none, string, tuple, tuple_of_refs,
    type_name,
};
use crate::objects::future::waiting::exception_of_throw;
use crate::objects::names::imports;
use crate::{await_next, await_send, finalizer, getter, keywords, name, noargs, onearg, unary};

type This = Inst<Coroutine>;

fn itself(this: &This) -> Res {
    if this.stage.get() == Stage::Closed {
        return Err(Raised::runtime("cannot reuse already awaited coroutine"));
    }
    Ok(this.obj().to_ref())
}

/// A step as a method call has it: the end is a StopIteration.
fn stepped(step: Awaiting) -> Res {
    match step {
        Awaiting::Yield(value) => Ok(value),
        Awaiting::Done(value) if value.is_none() => Err(Raised::bare(exc::stop_iteration())),
        Awaiting::Done(value) => Err(Raised::raise(exc::stop_iteration().call1(&value)?)),
    }
}

fn send(this: &This, value: &Obj) -> Res {
    if this.stage.get() == Stage::Created && !value.is_none() {
        return Err(Raised::type_error("can't send non-None value to a just-started coroutine"));
    }
    stepped(this.resume(None)?)
}

fn throw(this: &This, args: Args) -> Res {
    let exception = exception_of_throw(args, |wrong| {
        format!("exceptions must be classes or instances deriving from BaseException, not {}", type_name(wrong))
    })?;
    stepped(this.resume(Some(exception))?)
}

fn close(this: &This) -> Res {
    this.close().map(|()| none().to_ref())
}

fn last_word(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn name(this: &This) -> Res {
    string(last_word(this.name))
}

fn qualname(this: &This) -> Res {
    string(this.name)
}

fn running(this: &This) -> Res {
    Ok((this.stage.get() == Stage::Running).into())
}

fn suspended(this: &This) -> Res {
    Ok((this.stage.get() == Stage::Suspended).into())
}

fn frame(_: &This) -> Res {
    Ok(none().to_ref())
}

fn origin_of(this: &This) -> Res {
    Ok(this.origin.get_or_none())
}

fn repr(this: &This) -> Res {
    string(&format!("<coroutine object {} at {:#x}>", this.name, this.obj().address()))
}

/// `((filename, line, function), ...)`, innermost first, as deep as `sys.set_coroutine_origin_tracking_depth` says; None if
/// it says 0.
pub(super) fn origin() -> Res<Option<Ref>> {
    let depth = index_value(&*imports().get_origin_depth.call0()?)?;
    if depth <= 0 {
        return Ok(None);
    }
    let mut frames = Vec::new();
    let mut frame = match imports().get_frame.call0() {
        Ok(frame) => frame,
        // Called by no Python code at all.
        Err(raised) if raised.matches(exc::value_error()) => {
            raised.forget();
            return Ok(None);
        }
        Err(raised) => return Err(raised),
    };
    while !frame.is_none() && (frames.len() as i64) < depth {
        let code = frame.getattr(name!("f_code"))?;
        let line = frame.getattr(name!("f_lineno"))?;
        frames.push(tuple([&*code.getattr(name!("co_filename"))?, &*line, &*code.getattr(name!("co_name"))?])?);
        frame = frame.getattr(name!("f_back"))?;
    }
    tuple_of_refs(&frames).map(Some)
}

/// Nobody has awaited it: the interpreter's own warning.
fn finalize(this: &This) {
    if this.stage.get() != Stage::Created {
        return;
    }
    let warned = import("warnings").and_then(|w| w.call_method(name!("_warn_unawaited_coroutine"), [this.obj()]));
    if let Err(raised) = warned {
        raised.unraisable(this.obj());
    }
}

pub fn build() -> Res {
    let class = ClassBuilder::<Coroutine>::new(c"aioxide._native.Coroutine", c"A coroutine whose body is native.")
        .with_weaklist()
        .slot(pyo3_ffi::Py_am_await, unary!(Coroutine, itself))
        .slot(pyo3_ffi::Py_tp_iternext, await_next!(Coroutine, next))
        .slot(pyo3_ffi::Py_am_send, await_send!(Coroutine, next))
        .slot(pyo3_ffi::Py_tp_repr, unary!(Coroutine, repr))
        .slot(pyo3_ffi::Py_tp_finalize, finalizer!(Coroutine, finalize))
        .method(c"send", onearg!(Coroutine, send), c"send($self, value, /)\n--\n\nResume.")
        .method(c"throw", keywords!(Coroutine, throw), c"throw(typ[, val[, tb]])\n\nRaise an exception where it waits.")
        .method(c"close", noargs!(Coroutine, close), c"close($self, /)\n--\n\nGive up what it waits for.")
        .getset(c"__name__", getter!(Coroutine, name), None, c"Name of the method.")
        .getset(c"__qualname__", getter!(Coroutine, qualname), None, c"Name of the method, with its class.")
        .getset(c"cr_running", getter!(Coroutine, running), None, c"Whether it runs right now.")
        .getset(c"cr_suspended", getter!(Coroutine, suspended), None, c"Whether it waits.")
        .getset(c"cr_frame", getter!(Coroutine, frame), None, c"None.")
        .getset(c"cr_origin", getter!(Coroutine, origin_of), None, c"Where it was made, in debug mode.")
        .build()?;
    debug_assert!(COROUTINE.type_object().is(&class));
    Ok(class)
}
