//! What native objects keep their state in: `Cell`, `RefCell`, `Rc`, and the pointer inside a `Slot`.
//!
//! CPython counterpart: fields of an object that the GIL guards; without one, critical sections and atomic accesses.
//!
//! Whoever can reach a Python object can call its methods from any thread, also where that is a mistake (`future.set_result`
//! of a loop that another thread runs). With a GIL such a program gets a wrong order at worst, and these are the types of
//! the standard library. On a free-threaded interpreter they are types of the same names that several threads may use at
//! once (`shared`), and each native object has to be `Send` and `Sync`: a field of the standard library's, a raw pointer or
//! an `Rc` does not compile there. So a misuse can confuse what a loop does, but never memory, on both.
//!
//! All state of native objects uses these types; `make layout` knows no other `Cell` outside this fence.

#[cfg(not(Py_GIL_DISABLED))]
mod confined {
    use std::ptr::NonNull;

    use pyo3_ffi as c;

    pub use std::cell::{Cell, RefCell, RefMut};
    pub use std::rc::Rc;

    /// May be part of a native object.
    pub trait Shareable {}
    impl<T: ?Sized> Shareable for T {}

    /// May be a local variable of a native coroutine.
    pub trait Movable {}
    impl<T: ?Sized> Movable for T {}

    /// An object's address, or none.
    #[repr(transparent)]
    #[derive(Default)]
    pub struct Pointer(Cell<Option<NonNull<c::PyObject>>>);

    impl Pointer {
        pub const fn new(p: Option<NonNull<c::PyObject>>) -> Pointer {
            Pointer(Cell::new(p))
        }

        #[inline]
        pub fn get(&self) -> Option<NonNull<c::PyObject>> {
            self.0.get()
        }

        #[inline]
        pub fn replace(&self, p: Option<NonNull<c::PyObject>>) -> Option<NonNull<c::PyObject>> {
            self.0.replace(p)
        }

        /// Run `f` with the address; nobody exchanges it meanwhile.
        #[inline]
        pub fn held<R>(&self, f: impl FnOnce(NonNull<c::PyObject>) -> R) -> Option<R> {
            self.0.get().map(f)
        }
    }
}

#[cfg(not(Py_GIL_DISABLED))]
pub use confined::{Cell, Movable, Pointer, Rc, RefCell, RefMut, Shareable};

#[cfg(Py_GIL_DISABLED)]
pub use super::shared::{Cell, Movable, Pointer, Rc, RefCell, RefMut, Shareable};
