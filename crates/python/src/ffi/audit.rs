//! Audit events (PEP 578), where a system call is made that `socket.socket`'s own method would have announced.

use std::ffi::{CStr, c_char, c_int};

use pyo3_ffi as c;

use super::error::{Raised, Res};
use super::object::Obj;

unsafe extern "C" {
    // Variadic, so pyo3-ffi does not declare it.
    fn PySys_Audit(event: *const c_char, format: *const c_char, ...) -> c_int;
}

/// `sys.audit(event, first, second)`
///
/// # Errors
/// What a hook raises.
pub fn audit(event: &CStr, first: &Obj, second: &Obj) -> Res<()> {
    let objects: *const c_char = c"OO".as_ptr();
    let (first, second): (*mut c::PyObject, *mut c::PyObject) = (first.as_ptr(), second.as_ptr());
    // SAFETY: NUL-terminated texts, and two live objects as the format says.
    Raised::check(unsafe { PySys_Audit(event.as_ptr(), objects, first, second) })
}
