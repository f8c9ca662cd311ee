//! Calls into Python that may never return: daemon threads at the end of the interpreter.
//!
//! Up to 3.13 a thread that asks for the GIL while the interpreter is being finalised is ended by `pthread_exit()`, in the
//! middle of whatever Python code it runs. glibc then unwinds its stack, and a foreign unwind that meets a Rust frame with
//! anything to clean up, or `catch_unwind`, aborts the process. So the calls by which user code is run are declared as
//! ones that may unwind, and a guard in front of everything else parks the thread for good; 3.14 does the same by itself
//! (gh-87135), and `pyo3-ffi` does it for `PyEval_RestoreThread`.

use std::thread;

use pyo3_ffi as c;

struct HangThread;

impl Drop for HangThread {
    /// Runs only while the thread is being unwound.
    fn drop(&mut self) {
        loop {
            thread::park();
        }
    }
}

/// # Safety
/// The precondition of the call that `f` makes. `f` must not panic.
#[inline(always)]
unsafe fn or_hang<T>(f: impl FnOnce() -> T) -> T {
    let guard = HangThread;
    let r = f();
    std::mem::forget(guard);
    r
}

mod raw {
    use super::c;

    unsafe extern "C-unwind" {
        pub fn PyIter_Send(
            iter: *mut c::PyObject,
            arg: *mut c::PyObject,
            result: *mut *mut c::PyObject,
        ) -> c::PySendResult;
        #[cfg(Py_3_12)]
        pub fn PyObject_Vectorcall(
            callable: *mut c::PyObject,
            args: *const *mut c::PyObject,
            nargsf: usize,
            kwnames: *mut c::PyObject,
        ) -> *mut c::PyObject;
        // PyObject_Vectorcall is no exported function before 3.12.
        #[cfg(not(Py_3_12))]
        pub fn PyObject_VectorcallDict(
            callable: *mut c::PyObject,
            args: *const *mut c::PyObject,
            nargsf: usize,
            kwargs: *mut c::PyObject,
        ) -> *mut c::PyObject;
        pub fn PyObject_VectorcallMethod(
            name: *mut c::PyObject,
            args: *const *mut c::PyObject,
            nargsf: usize,
            kwnames: *mut c::PyObject,
        ) -> *mut c::PyObject;
        pub fn PyObject_Call(
            callable: *mut c::PyObject,
            args: *mut c::PyObject,
            kwargs: *mut c::PyObject,
        ) -> *mut c::PyObject;
        pub fn PyObject_CallObject(callable: *mut c::PyObject, args: *mut c::PyObject) -> *mut c::PyObject;
        pub fn PyObject_CallNoArgs(callable: *mut c::PyObject) -> *mut c::PyObject;
        // A property is a function too.
        pub fn PyObject_GetAttr(o: *mut c::PyObject, name: *mut c::PyObject) -> *mut c::PyObject;
    }
}

macro_rules! guarded {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $t:ty),*) -> $r:ty;)*) => { $(
        /// The function of the same name of the C API.
        ///
        /// # Safety
        /// As there.
        $(#[$meta])*
        #[inline]
        #[allow(non_snake_case)]
        pub(super) unsafe fn $name($($arg: $t),*) -> $r {
            // SAFETY: the caller's promise.
            unsafe { or_hang(|| raw::$name($($arg),*)) }
        }
    )* };
}

type P = *mut c::PyObject;

guarded! {
    fn PyIter_Send(iter: P, arg: P, result: *mut P) -> c::PySendResult;
    #[cfg(Py_3_12)]
    fn PyObject_Vectorcall(callable: P, args: *const P, nargsf: usize, kwnames: P) -> P;
    fn PyObject_VectorcallMethod(name: P, args: *const P, nargsf: usize, kwnames: P) -> P;
    fn PyObject_Call(callable: P, args: P, kwargs: P) -> P;
    fn PyObject_CallObject(callable: P, args: P) -> P;
    fn PyObject_CallNoArgs(callable: P) -> P;
    fn PyObject_GetAttr(o: P, name: P) -> P;
}

/// The function of the same name of the C API. Keywords, of cold calls only, become a dict on these versions.
///
/// # Safety
/// As there.
#[cfg(not(Py_3_12))]
#[inline]
#[allow(non_snake_case)]
pub(super) unsafe fn PyObject_Vectorcall(callable: P, args: *const P, nargsf: usize, kwnames: P) -> P {
    // SAFETY: the caller's promise.
    unsafe {
        if kwnames.is_null() {
            return or_hang(|| raw::PyObject_VectorcallDict(callable, args, nargsf, std::ptr::null_mut()));
        }
        let keywords = c::PyDict_New();
        if keywords.is_null() {
            return std::ptr::null_mut();
        }
        let positional = c::PyVectorcall_NARGS(nargsf);
        for i in 0..c::PyTuple_GET_SIZE(kwnames) {
            let value = *args.offset(positional + i);
            if c::PyDict_SetItem(keywords, c::PyTuple_GET_ITEM(kwnames, i), value) < 0 {
                c::Py_DECREF(keywords);
                return std::ptr::null_mut();
            }
        }
        let answer = or_hang(|| raw::PyObject_VectorcallDict(callable, args, nargsf, keywords));
        c::Py_DECREF(keywords);
        answer
    }
}
