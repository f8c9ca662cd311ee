//! `asyncio.current_task()` and `all_tasks()` kept right for native tasks, on each version's own registry.
//!
//! Up to 3.13 the current task of a loop is an entry of the dict `_asyncio._current_tasks`; from 3.14 it is a field of the
//! thread state behind `_asyncio._swap_current_task`. We publish at each step and withdraw lazily: nothing but native
//! code runs between the end of a step and the next publication or withdrawal, so nobody can see the difference (D6).

#![cfg(not(Py_3_14))]

use pyo3_ffi as c;

use super::error::{Raised, Res};
use super::object::Obj;

unsafe extern "C" {
    // Exported by every CPython from 3.10 to 3.13; not declared by pyo3-ffi.
    fn _PyDict_SetItem_KnownHash(
        dict: *mut c::PyObject,
        key: *mut c::PyObject,
        item: *mut c::PyObject,
        hash: c::Py_hash_t,
    ) -> std::ffi::c_int;
    fn _PyDict_DelItem_KnownHash(dict: *mut c::PyObject, key: *mut c::PyObject, hash: c::Py_hash_t) -> std::ffi::c_int;
}

/// `dict[key] = value` without hashing.
#[inline]
pub fn set_known_hash(dict: &Obj, key: &Obj, value: &Obj, hash: isize) -> Res<()> {
    // SAFETY: a dict, live objects, and the key's own hash.
    Raised::check(unsafe { _PyDict_SetItem_KnownHash(dict.as_ptr(), key.as_ptr(), value.as_ptr(), hash as _) })
}

/// `dict.pop(key, None)`, dropping the value.
pub fn dict_discard(dict: &Obj, key: &Obj) {
    // SAFETY: a dict and a live key.
    unsafe {
        if c::PyDict_DelItem(dict.as_ptr(), key.as_ptr()) < 0 {
            c::PyErr_Clear();
        }
    }
}

/// The same without hashing.
pub fn dict_discard_known_hash(dict: &Obj, key: &Obj, hash: isize) {
    // SAFETY: a dict, a live key and its own hash.
    unsafe {
        if _PyDict_DelItem_KnownHash(dict.as_ptr(), key.as_ptr(), hash as _) < 0 {
            c::PyErr_Clear();
        }
    }
}
