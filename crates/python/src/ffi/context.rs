//! Context variables: entering a `contextvars.Context` from native code (PEP 567).

use pyo3_ffi as c;

use super::error::{Raised, Res};
use super::object::{Obj, Ref};

pub struct Context;

impl Context {
    /// `contextvars.copy_context()`.
    #[inline]
    pub fn copy_current() -> Res {
        // SAFETY: attached.
        unsafe { Ref::from_owned(c::PyContext_CopyCurrent()) }
    }

    /// A copy of `context`. TypeError if it is none.
    pub fn copy(context: &Obj) -> Res {
        if !Context::is_context(context) {
            return Err(Raised::type_error("a context is expected"));
        }
        // SAFETY: just checked.
        unsafe { Ref::from_owned(c::PyContext_Copy(context.as_ptr())) }
    }

    pub fn is_context(o: &Obj) -> bool {
        // SAFETY: a live object.
        unsafe { c::PyContext_CheckExact(o.as_ptr()) == 1 }
    }

    /// Run `f` inside `context`. Fails, like `Context.run`, if it is entered already.
    #[inline]
    pub fn run<T>(context: &Obj, f: impl FnOnce() -> Res<T>) -> Res<T> {
        // SAFETY: a live object; both calls check that it is a Context.
        unsafe {
            Raised::check(c::PyContext_Enter(context.as_ptr()))?;
            let r = f();
            // Exit keeps a pending error: it only fails if the context is not the current one.
            let rc = c::PyContext_Exit(context.as_ptr());
            if rc < 0 && r.is_ok() {
                return Err(Raised::witness());
            }
            r
        }
    }
}
