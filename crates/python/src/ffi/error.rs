//! Python's error indicator as a Rust error, and the exceptions that we raise.
//!
//! CPython counterpart: `PyErr_*`. Invariant: a `Raised` exists exactly while the indicator is set; whoever drops one
//! without passing it on calls `forget`, `take` or `unraisable`.

use std::ffi::{CString, c_int};

use pyo3_ffi as c;

use super::object::{Obj, Ref, none};

pub type Res<T = Ref> = Result<T, Raised>;

/// Witness: this thread's error indicator is set.
#[must_use]
#[derive(Debug)]
pub struct Raised(());

impl Raised {
    #[inline]
    pub(crate) fn witness() -> Raised {
        debug_assert!(Raised::is_set(), "an error is reported, but none is set");
        Raised(())
    }

    /// The C convention: negative means that the indicator is set.
    #[inline]
    pub(crate) fn check(rc: c_int) -> Res<()> {
        if rc < 0 { Err(Raised::witness()) } else { Ok(()) }
    }

    pub fn is_set() -> bool {
        // SAFETY: attached (module rule).
        unsafe { !c::PyErr_Occurred().is_null() }
    }

    /// Raise `class(message)`.
    pub fn new(class: &Obj, message: &str) -> Raised {
        let text = CString::new(message.replace('\0', "\\0")).unwrap_or_default();
        // SAFETY: a live exception class and a NUL-terminated text.
        unsafe { c::PyErr_SetString(class.as_ptr(), text.as_ptr()) };
        Raised(())
    }

    /// Raise `class` with no message.
    pub fn bare(class: &Obj) -> Raised {
        // SAFETY: a live exception class.
        unsafe { c::PyErr_SetNone(class.as_ptr()) };
        Raised(())
    }

    /// Raise `class(*value)` as C code does: `value` is the argument.
    pub fn with(class: &Obj, value: &Obj) -> Raised {
        // SAFETY: live objects.
        unsafe { c::PyErr_SetObject(class.as_ptr(), value.as_ptr()) };
        Raised(())
    }

    pub fn type_error(message: &str) -> Raised {
        Raised::new(exc::type_error(), message)
    }

    pub fn runtime(message: &str) -> Raised {
        Raised::new(exc::runtime_error(), message)
    }

    pub fn value_error(message: &str) -> Raised {
        Raised::new(exc::value_error(), message)
    }

    /// Raise an exception object with the traceback it has, chaining nothing (`PyErr_SetObject` would re-chain
    /// `__context__`).
    pub fn raise(exception: Ref) -> Raised {
        #[cfg(Py_3_12)]
        // SAFETY: the reference is stolen.
        unsafe {
            c::PyErr_SetRaisedException(exception.into_raw());
        }
        #[cfg(not(Py_3_12))]
        // SAFETY: all three references are stolen; the traceback may be NULL.
        #[allow(deprecated)]
        unsafe {
            let class = exception.class().to_ref();
            let tb = c::PyException_GetTraceback(exception.as_ptr());
            c::PyErr_Restore(class.into_raw(), exception.into_raw(), tb);
        }
        Raised(())
    }

    /// MemoryError
    #[cold]
    pub fn no_memory() -> Raised {
        // SAFETY: attached.
        unsafe { c::PyErr_NoMemory() };
        Raised(())
    }

    /// The OSError (or its subclass) of an operating system error.
    pub fn os(error: &std::io::Error) -> Raised {
        let Some(code) = error.raw_os_error() else {
            return Raised::new(exc::os_error(), &error.to_string());
        };
        match os_exception(code) {
            Ok(e) => Raised::raise(e),
            Err(raised) => raised,
        }
    }

    /// Take the exception out of the indicator.
    pub fn take(self) -> Ref {
        #[cfg(Py_3_12)]
        // SAFETY: set, so not NULL; the reference is ours.
        unsafe {
            Ref::from_new(c::PyErr_GetRaisedException())
        }
        #[cfg(not(Py_3_12))]
        // SAFETY: fetch gives references of ours; after normalisation the value is an exception object.
        #[allow(deprecated)]
        unsafe {
            let (mut t, mut v, mut tb) = (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
            c::PyErr_Fetch(&raw mut t, &raw mut v, &raw mut tb);
            c::PyErr_NormalizeException(&raw mut t, &raw mut v, &raw mut tb);
            if !tb.is_null() {
                c::PyException_SetTraceback(v, tb);
                c::Py_DECREF(tb);
            }
            c::Py_XDECREF(t);
            Ref::from_new(v)
        }
    }

    pub fn matches(&self, class: &Obj) -> bool {
        // SAFETY: the indicator is set; a live class or tuple.
        unsafe { c::PyErr_ExceptionMatches(class.as_ptr()) != 0 }
    }

    /// Clear the indicator.
    pub fn forget(self) {
        // SAFETY: attached.
        unsafe { c::PyErr_Clear() }
    }

    /// Report through `sys.unraisablehook`: for destructors, which cannot raise.
    pub fn unraisable(self, whence: &Obj) {
        // SAFETY: the indicator is set; a live object.
        unsafe { c::PyErr_WriteUnraisable(whence.as_ptr()) }
    }

    /// An exception that a callback must not swallow: it ends `run_forever`.
    pub fn is_exit(&self) -> bool {
        self.matches(exc::system_exit()) || self.matches(exc::keyboard_interrupt())
    }

    /// Set the error indicator aside while `f` runs (finalizers run with an error pending).
    pub fn aside<T>(f: impl FnOnce() -> T) -> T {
        let saved = Raised::is_set().then(|| Raised(()).take());
        let r = f();
        if let Some(e) = saved {
            let _reinstated = Raised::raise(e);
        }
        r
    }

    /// The witness of an indicator that C code has just set.
    pub fn occurred() -> Option<Raised> {
        Raised::is_set().then_some(Raised(()))
    }
}

fn os_exception(code: i32) -> Res {
    let text = os_message(code);
    let args = super::tuple([&*super::int(code as i64)?, &*super::string(&text)?])?;
    exc::os_error().call_tuple(&args)
}

/// `strerror(code)`, as `os.strerror` has it.
fn os_message(code: i32) -> String {
    let text = std::io::Error::from_raw_os_error(code).to_string();
    // std appends " (os error N)".
    match text.rfind(" (os error") {
        Some(i) => text[..i].to_owned(),
        None => text,
    }
}

impl Obj {
    /// `raise ... ` tests on an exception object: `isinstance` without `__instancecheck__`.
    pub fn is_exception_of(&self, class: &Obj) -> bool {
        // SAFETY: live objects.
        unsafe { c::PyErr_GivenExceptionMatches(self.as_ptr(), class.as_ptr()) != 0 }
    }

    pub fn traceback(&self) -> Option<Ref> {
        // SAFETY: asked only of exceptions.
        unsafe { Ref::from_owned_opt(c::PyException_GetTraceback(self.as_ptr())) }
    }

    /// `exception.__traceback__ = tb` (None clears it).
    pub fn set_traceback(&self, tb: Option<&Obj>) {
        let tb = tb.unwrap_or(none());
        // SAFETY: asked only of exceptions; a traceback or None.
        unsafe { c::PyException_SetTraceback(self.as_ptr(), tb.as_ptr()) };
    }

    pub fn set_cause(&self, cause: Ref) {
        // SAFETY: asked only of exceptions; steals the cause.
        unsafe { c::PyException_SetCause(self.as_ptr(), cause.into_raw()) }
    }

    pub fn set_context(&self, context: Ref) {
        // SAFETY: asked only of exceptions; steals the context.
        unsafe { c::PyException_SetContext(self.as_ptr(), context.into_raw()) }
    }
}

impl Ref {
    /// # Safety
    /// `p` is NULL (which means: nothing) or a reference that the caller owns.
    pub(crate) unsafe fn from_owned_opt(p: *mut c::PyObject) -> Option<Ref> {
        if p.is_null() {
            None
        } else {
            // SAFETY: the caller's promise.
            Some(unsafe { Ref::from_new(p) })
        }
    }
}

/// `warnings.warn_explicit`-like: a warning from `source`, or an exception if warnings are errors.
pub fn warn(class: &Obj, message: &str, source: Option<&Obj>) -> Res<()> {
    match source {
        None => {
            let text = CString::new(message.replace('\0', "\\0")).unwrap_or_default();
            // SAFETY: a live class, a NUL-terminated text.
            Raised::check(unsafe { c::PyErr_WarnEx(class.as_ptr(), text.as_ptr(), 1) })
        }
        Some(source) => {
            let text = CString::new(message.replace('\0', "\\0").replace('%', "%%")).unwrap_or_default();
            // SAFETY: live objects, a format without arguments.
            Raised::check(unsafe { c::PyErr_ResourceWarning(source.as_ptr(), 1, text.as_ptr()) })
        }
    }
}

/// The interpreter's own exception classes.
pub mod exc {
    use super::Obj;
    use pyo3_ffi as c;

    macro_rules! classes {
        ($($name:ident = $symbol:ident),* $(,)?) => { $(
            #[inline]
            pub fn $name() -> &'static Obj {
                // SAFETY: the interpreter sets these statics before any extension is loaded and keeps them.
                unsafe { Obj::from_raw(c::$symbol) }
            }
        )* }
    }

    classes! {
        base_exception = PyExc_BaseException,
        exception = PyExc_Exception,
        assertion_error = PyExc_AssertionError,
        attribute_error = PyExc_AttributeError,
        blocking_io_error = PyExc_BlockingIOError,
        broken_pipe_error = PyExc_BrokenPipeError,
        buffer_error = PyExc_BufferError,
        connection_aborted = PyExc_ConnectionAbortedError,
        connection_reset = PyExc_ConnectionResetError,
        generator_exit = PyExc_GeneratorExit,
        import_error = PyExc_ImportError,
        interrupted_error = PyExc_InterruptedError,
        key_error = PyExc_KeyError,
        keyboard_interrupt = PyExc_KeyboardInterrupt,
        not_implemented_error = PyExc_NotImplementedError,
        os_error = PyExc_OSError,
        connection_error = PyExc_ConnectionError,
        overflow_error = PyExc_OverflowError,
        permission_error = PyExc_PermissionError,
        process_lookup_error = PyExc_ProcessLookupError,
        runtime_error = PyExc_RuntimeError,
        stop_iteration = PyExc_StopIteration,
        system_error = PyExc_SystemError,
        system_exit = PyExc_SystemExit,
        type_error = PyExc_TypeError,
        value_error = PyExc_ValueError,
        deprecation_warning = PyExc_DeprecationWarning,
        resource_warning = PyExc_ResourceWarning,
        runtime_warning = PyExc_RuntimeWarning,
    }
}
