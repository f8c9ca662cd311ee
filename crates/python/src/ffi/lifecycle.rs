//! What the interpreter does to instances of native classes: traverse, clear, deallocate.
//!
//! CPython counterpart: `subtype_traverse`, `subtype_clear`, `subtype_dealloc`, and the deallocators of C classes, whose
//! order of steps is kept.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;

use pyo3_ffi as c;

use super::class::{Class, Native, Visit, inst};
use super::trash;

pub(super) unsafe extern "C" fn traverse<T: Native>(
    o: *mut c::PyObject,
    visit: c::visitproc,
    arg: *mut c_void,
) -> c_int {
    let class = T::class();
    let v = Visit { visit, arg, result: Cell::new(0) };
    // SAFETY: the collector passes a live instance; the base's function knows its own storage only.
    unsafe {
        match class.base_traverse.get() {
            Some(base) => {
                let rc = base(o, visit, arg);
                if rc != 0 {
                    return rc;
                }
                // A heap base (3.12+) visits the type itself; a static one does not.
                #[cfg(not(Py_3_12))]
                v.raw(c::Py_TYPE(o).cast());
            }
            None => v.raw(c::Py_TYPE(o).cast()),
        }
        if class.inherited_slot.get() != 0 {
            v.raw(*field(o, class.inherited_slot.get()));
        }
        if class.dict.get() != 0 {
            v.raw(*field(o, class.dict.get() as usize));
        }
        inst::<T>(o).traverse(&v);
    }
    v.result.get()
}

pub(super) unsafe extern "C" fn clear<T: Native>(o: *mut c::PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    unsafe {
        inst::<T>(o).clear();
        clear_base(T::class(), o);
    }
    0
}

/// # Safety
/// `o` is an instance of `class`.
unsafe fn clear_base(class: &Class, o: *mut c::PyObject) {
    // SAFETY: the offsets were computed for this class.
    unsafe {
        if class.inherited_slot.get() != 0 {
            take_field(o, class.inherited_slot.get());
        }
        if class.dict.get() != 0 {
            take_field(o, class.dict.get() as usize);
        }
        if let Some(base) = class.base_clear.get() {
            base(o);
        }
    }
}

/// The word at an offset of an instance.
///
/// # Safety
/// The offset lies inside the instance.
pub(super) unsafe fn field(o: *mut c::PyObject, offset: usize) -> *mut *mut c::PyObject {
    // SAFETY: the caller passes an offset inside the instance.
    unsafe { o.cast::<u8>().add(offset).cast() }
}

unsafe fn take_field(o: *mut c::PyObject, offset: usize) {
    // SAFETY: the field holds NULL or a reference of the instance's; it is emptied before the DECREF runs code.
    unsafe {
        let f = field(o, offset);
        let old = *f;
        *f = ptr::null_mut();
        c::Py_XDECREF(old);
    }
}

pub(super) unsafe extern "C" fn dealloc<T: Native>(o: *mut c::PyObject) {
    // SAFETY: the interpreter passes an instance nobody refers to any more. One of a subclass comes from CPython's own
    // `subtype_dealloc`, which bounds the depth itself and must not be left half-way.
    unsafe {
        let is_whole =
            || (*c::Py_TYPE(o)).tp_dealloc.is_some_and(|f| ptr::fn_addr_eq(f, dealloc::<T> as c::destructor));
        if trash::is_deep() && is_whole() {
            trash::keep(o, destroy::<T>);
        } else {
            trash::nested(|| destroy::<T>(o));
        }
    }
}

unsafe fn destroy<T: Native>(o: *mut c::PyObject) {
    // SAFETY: as for `dealloc`. The order is that of CPython's own deallocators: finalizer (may resurrect), untrack, weak
    // references, own fields, base, memory, type.
    unsafe {
        let type_ = c::Py_TYPE(o);
        let class = T::class();
        let value = o.cast::<u8>().add(class.offset.get()).cast::<T>();
        if let Some(finalizer) = (*type_).tp_finalize {
            // A subclass's `__del__` is always called; our own only if it has something to say.
            let is_ours = class.finalizer.get().is_some_and(|f| ptr::fn_addr_eq(f, finalizer));
            if (!is_ours || (*value).needs_finalizer()) && c::PyObject_CallFinalizerFromDealloc(o) < 0 {
                return;
            }
        }
        let gc = c::PyType_IS_GC(type_) != 0;
        if gc {
            c::PyObject_GC_UnTrack(o.cast());
        }
        if class.weaklist.get() != 0 && !(*field(o, class.weaklist.get() as usize)).is_null() {
            c::PyObject_ClearWeakRefs(o);
        }
        if T::HAS_FAREWELL {
            say_farewell::<T>(o);
        }
        ptr::drop_in_place(value);
        clear_base(class, o);
        if !class.keep_spare(o, type_, gc) {
            if let Some(free) = (*type_).tp_free {
                free(o.cast());
            }
        }
        c::Py_DECREF(type_.cast());
    }
}

/// Let a dying instance call into Python once more: it needs a reference count to be passed as an argument.
///
/// # Safety
/// `o` is an untracked instance that nobody refers to.
unsafe fn say_farewell<T: Native>(o: *mut c::PyObject) {
    // SAFETY: the caller's promise; the count is 0 before and after.
    unsafe {
        set_refcount(o, 1);
        super::Raised::aside(|| {
            super::trampoline::guarded((), || {
                T::farewell(inst::<T>(o));
                Ok(())
            });
            if let Some(raised) = super::Raised::occurred() {
                raised.forget();
            }
        });
        set_refcount(o, 0);
    }
}

#[cfg(Py_3_14)]
unsafe fn set_refcount(o: *mut c::PyObject, n: isize) {
    unsafe extern "C" {
        // Exported since 3.13 for Py_SET_REFCNT; not declared by pyo3-ffi.
        fn _Py_SetRefcnt(o: *mut c::PyObject, n: isize);
    }
    // SAFETY: the caller owns the object.
    unsafe { _Py_SetRefcnt(o, n) }
}

#[cfg(not(Py_3_14))]
unsafe fn set_refcount(_: *mut c::PyObject, _: isize) {
    // No class says farewell before 3.14.
}
