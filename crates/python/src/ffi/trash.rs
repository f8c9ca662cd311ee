//! Freeing long chains of objects without overflowing the C stack.
//!
//! CPython counterpart: `Py_TRASHCAN_BEGIN`, whose shape changed in 3.13 and again in 3.14. A future holds its result, its
//! callbacks, a task its coroutine and so the future it awaits: dropping the first of a hundred thousand would nest a
//! deallocator in each other. Beyond a depth objects are put aside instead, and freed when the depth is small again.
//!
//! With a GIL the state is one for all threads and needs no lock; a thread that waits inside a finalizer keeps its own small
//! part of the depth and nothing else from being freed. Without, each thread has its own, as it has its own stack.

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;

use pyo3_ffi as c;

/// Objects are put aside from this depth on; CPython's own limit is 50.
const DEEP: u32 = 64;
/// They are freed when it is back here.
const SHALLOW: u32 = 16;

type Destroy = unsafe fn(*mut c::PyObject);

struct Trash {
    depth: Cell<u32>,
    is_empty: Cell<bool>,
    /// Without a destructor: objects may die while a thread's own storage is being taken down.
    kept: RefCell<ManuallyDrop<Vec<(*mut c::PyObject, Destroy)>>>,
}

impl Trash {
    const fn new() -> Trash {
        Trash { depth: Cell::new(0), is_empty: Cell::new(true), kept: RefCell::new(ManuallyDrop::new(Vec::new())) }
    }
}

#[cfg(not(Py_GIL_DISABLED))]
mod place {
    use super::Trash;

    // SAFETY: touched by attached threads only, on builds with a GIL; no borrow lasts across a call into Python.
    unsafe impl Sync for Trash {}

    static TRASH: Trash = Trash::new();

    #[inline]
    pub(super) fn trash<R>(f: impl FnOnce(&Trash) -> R) -> R {
        f(&TRASH)
    }
}

#[cfg(Py_GIL_DISABLED)]
mod place {
    use super::Trash;

    thread_local!(static TRASH: Trash = const { Trash::new() });

    #[inline]
    pub(super) fn trash<R>(f: impl FnOnce(&Trash) -> R) -> R {
        TRASH.with(f)
    }
}

use place::trash;

#[inline]
pub(super) fn is_deep() -> bool {
    trash(|t| t.depth.get()) >= DEEP
}

/// Put an object aside, to be destroyed later.
///
/// # Safety
/// Nobody refers to `o`, and nobody else destroys it.
#[cold]
pub(super) unsafe fn keep(o: *mut c::PyObject, destroy: Destroy) {
    // SAFETY: a live object. The collector must not meet an object that nobody refers to.
    unsafe {
        if c::PyType_IS_GC(c::Py_TYPE(o)) != 0 {
            c::PyObject_GC_UnTrack(o.cast());
        }
    }
    trash(|t| {
        t.kept.borrow_mut().push((o, destroy));
        t.is_empty.set(false);
    });
}

/// Destroy an object one level deeper.
#[inline]
pub(super) fn nested(destroy: impl FnOnce()) {
    deepen(1);
    destroy();
    let depth = deepen(-1);
    if depth <= SHALLOW && !trash(|t| t.is_empty.get()) {
        empty();
    }
}

/// The new depth.
#[inline]
fn deepen(by: i32) -> u32 {
    trash(|t| {
        t.depth.set(t.depth.get().wrapping_add_signed(by));
        t.depth.get()
    })
}

#[cold]
fn empty() {
    deepen(1);
    loop {
        let next = trash(|t| t.kept.borrow_mut().pop());
        let Some((o, destroy)) = next else { break };
        // SAFETY: the promise of `keep`; it is whole again, tracked as it was, when its destruction begins.
        unsafe {
            if c::PyType_IS_GC(c::Py_TYPE(o)) != 0 {
                c::PyObject_GC_Track(o.cast());
            }
            destroy(o);
        }
    }
    trash(|t| t.is_empty.set(true));
    deepen(-1);
}
