//! The interpreter lock, threads and signals.

use std::ffi::CStr;

use pyo3_ffi as c;

use super::error::{Raised, Res};
use super::object::Obj;

/// Run `f` without holding the interpreter: other threads may run Python meanwhile.
///
/// `f` must touch no Python object; the types of this module are not `Send`, so a closure that does will not compile.
pub fn detached<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    struct Reattach(*mut c::PyThreadState);
    impl Drop for Reattach {
        fn drop(&mut self) {
            // SAFETY: the state that SaveThread gave, on the same thread; also when `f` unwinds.
            unsafe { c::PyEval_RestoreThread(self.0) }
        }
    }
    // SAFETY: attached (module rule).
    let _reattach = Reattach(unsafe { c::PyEval_SaveThread() });
    f()
}

/// `threading.get_ident()` of this thread.
#[inline]
pub fn thread_ident() -> u64 {
    // SAFETY: no precondition.
    unsafe { c::PyThread_get_thread_ident() as u64 }
}

/// Run the Python signal handlers that are due (main thread only; a no-op elsewhere).
pub fn check_signals() -> Res<()> {
    // SAFETY: attached.
    Raised::check(unsafe { c::PyErr_CheckSignals() })
}

/// Work on its way to another thread's loop. It is made, moved and dropped only by attached threads, so the reference
/// counts inside are never touched concurrently on a build with a GIL.
pub struct CrossThread<T>(pub T);

// SAFETY: see the type: both ends are attached threads.
unsafe impl<T> Send for CrossThread<T> {}

/// Is this the interpreter that the process started with?
pub fn is_main_interpreter() -> bool {
    // SAFETY: attached; both calls only read.
    unsafe { c::PyInterpreterState_Get() == c::PyInterpreterState_Main() }
}

/// Run `f` while no other thread is inside a method of `o` that guards itself (PEP 703). With a GIL there is nothing to do.
#[cfg(not(Py_GIL_DISABLED))]
#[inline]
pub fn critical_section<T>(_o: &Obj, f: impl FnOnce() -> T) -> T {
    f()
}

/// The same without a GIL. Calls into Python inside may let others in.
#[cfg(Py_GIL_DISABLED)]
pub fn critical_section<T>(o: &Obj, f: impl FnOnce() -> T) -> T {
    struct Leave(c::PyCriticalSection);
    impl Drop for Leave {
        fn drop(&mut self) {
            // SAFETY: begun below, at the same address, by the same thread.
            unsafe { c::PyCriticalSection_End(&raw mut self.0) }
        }
    }
    // SAFETY: an all-zero section is one that has not begun.
    let mut section = Leave(unsafe { std::mem::zeroed() });
    // SAFETY: a live object; the section stays where it is until it ends.
    unsafe { c::PyCriticalSection_Begin(&raw mut section.0, o.as_ptr()) };
    f()
}

/// Run `f` one level deeper on the C stack.
///
/// # Errors
/// RecursionError: "maximum recursion depth exceeded" and `whence`, instead of a crash.
#[inline]
pub fn recursion_guarded<T>(whence: &CStr, f: impl FnOnce() -> Res<T>) -> Res<T> {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            // SAFETY: entered below.
            unsafe { c::Py_LeaveRecursiveCall() }
        }
    }
    // SAFETY: attached; a NUL-terminated text.
    Raised::check(-(unsafe { c::Py_EnterRecursiveCall(whence.as_ptr()) }).abs())?;
    let _leave = Leave;
    f()
}
