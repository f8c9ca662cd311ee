//! Driving a coroutine by one step, and handing a result back (`PyIter_Send`, `StopIteration`).

use std::ptr;

use pyo3_ffi as c;

use super::error::{Raised, Res, exc};
use super::object::{Obj, Ref, none};
use super::unwind;

/// What a step of a coroutine came to.
pub enum Step {
    Yielded(Ref),
    Returned(Ref),
    Raised(Raised),
}

impl Obj {
    /// Is this a coroutine made by `async def`?
    #[inline]
    pub fn is_exact_coroutine(&self) -> bool {
        // SAFETY: a live object.
        unsafe { c::PyCoro_CheckExact(self.as_ptr()) != 0 }
    }

    /// The iterator that `await self` runs.
    ///
    /// # Errors
    /// TypeError with the interpreter's texts.
    pub fn awaitable_iter(&self) -> Res {
        // SAFETY: a live object, whose type stays alive with it.
        unsafe {
            if self.is_exact_coroutine() || is_iterable_coroutine(self) {
                return Ok(self.to_ref());
            }
            let methods = (*self.type_ptr()).tp_as_async;
            let get = if methods.is_null() { None } else { (*methods).am_await };
            let type_name = || super::text::type_name(self);
            let Some(get) = get else {
                let text = format!("object {} can't be used in 'await' expression", type_name());
                return Err(Raised::type_error(&text));
            };
            let iterator = Ref::from_owned(get(self.as_ptr()))?;
            if iterator.is_exact_coroutine() || is_iterable_coroutine(&iterator) {
                return Err(Raised::type_error("__await__() returned a coroutine"));
            }
            if c::PyIter_Check(iterator.as_ptr()) == 0 {
                let text = format!("__await__() returned non-iterator of type '{}'", super::text::type_name(&iterator));
                return Err(Raised::type_error(&text));
            }
            Ok(iterator)
        }
    }

    /// `coro.send(value)`, by `am_send` where the type has it.
    #[inline]
    pub fn send(&self, value: &Obj) -> Step {
        let mut out = ptr::null_mut();
        // SAFETY: live objects; `out` receives a reference of ours.
        unsafe {
            match unwind::PyIter_Send(self.as_ptr(), value.as_ptr(), &raw mut out) {
                c::PySendResult::PYGEN_NEXT => Step::Yielded(Ref::from_new(out)),
                c::PySendResult::PYGEN_RETURN => Step::Returned(Ref::from_new(out)),
                c::PySendResult::PYGEN_ERROR => Step::Raised(Raised::witness()),
            }
        }
    }

    /// `coro.throw(exception)`.
    pub fn throw(&self, throw: &Obj, exception: &Obj) -> Step {
        match self.call_method(throw, [exception]) {
            Ok(v) => Step::Yielded(v),
            Err(e) if e.matches(exc::stop_iteration()) => match stop_value(e) {
                Ok(v) => Step::Returned(v),
                Err(e) => Step::Raised(e),
            },
            Err(e) => Step::Raised(e),
        }
    }
}

/// A generator that `types.coroutine` has marked.
fn is_iterable_coroutine(o: &Obj) -> bool {
    // SAFETY: a live object.
    if unsafe { c::PyGen_CheckExact(o.as_ptr()) } == 0 {
        return false;
    }
    const CO_ITERABLE_COROUTINE: i64 = 0x100;
    let flags = super::intern("gi_code")
        .and_then(|name| o.getattr(&name))
        .and_then(|code| code.getattr(&*super::intern("co_flags")?))
        .and_then(|flags| super::index_value(&flags));
    match flags {
        Ok(flags) => flags & CO_ITERABLE_COROUTINE != 0,
        Err(raised) => {
            raised.forget();
            false
        }
    }
}

/// The value of the StopIteration that is raised.
fn stop_value(e: Raised) -> Res {
    let exception = e.take();
    // SAFETY: a StopIteration object has this layout.
    let value = unsafe { (*exception.as_ptr().cast::<c::PyStopIterationObject>()).value };
    if value.is_null() {
        return Ok(none().to_ref());
    }
    // SAFETY: the exception keeps its value alive.
    Ok(unsafe { Obj::from_raw(value).to_ref() })
}

/// Ends an `__next__` of an awaitable with `value`: `None` needs no exception at all (the caller takes NULL without an
/// error for it), anything else is a StopIteration.
///
/// The interpreter's SEND (3.12 to 3.14) asks `tp_iternext` of awaitables, takes `value` out and drops the exception at
/// once. `PyErr_SetObject` would spend 55 ns on the way through the constructor and on chaining; the object is made
/// directly instead. It is not cached: a cached one would keep the result alive after the awaiting frame dropped it.
pub fn stop_iteration(value: &Obj) -> *mut c::PyObject {
    if !value.is_none() {
        match new_stop(value) {
            Ok(exception) => {
                let _raised = Raised::raise(exception);
            }
            Err(_raised) => {}
        }
    }
    ptr::null_mut()
}

fn new_stop(value: &Obj) -> Res {
    let args = super::tuple([value])?;
    let class = exc::stop_iteration().as_ptr().cast::<c::PyTypeObject>();
    // SAFETY: StopIteration's own allocator gives a zeroed object of this layout; all other fields may stay NULL.
    unsafe {
        let Some(alloc) = (*class).tp_alloc else {
            return exc::stop_iteration().call_tuple(&args);
        };
        let exception = Ref::from_owned(alloc(class, 0))?;
        let fields = exception.as_ptr().cast::<c::PyStopIterationObject>();
        (*fields).args = args.into_raw();
        (*fields).value = value.to_ref().into_raw();
        Ok(exception)
    }
}
