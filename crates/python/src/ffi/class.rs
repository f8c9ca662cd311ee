//! Native classes: heap types whose instances carry a Rust value behind the storage of their base class.
//!
//! CPython counterpart: `PyType_FromSpecWithBases`, `subtype_dealloc`. Invariants:
//!
//! * an instance is `[base's storage | padding | T]`; the base's size is read when the class is built, because it differs
//!   with each Python version;
//! * `T` is written before anybody can see the instance, and all its fields are `Cell`s: any call into Python may come
//!   back to the same object, so nobody ever holds `&mut T`;
//! * the collector sees what `T::traverse` shows, the base's storage through the base's own `tp_traverse`, and the type.

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr;

use pyo3_ffi as c;

use super::cell::{Cell, Shareable};
use super::error::Res;
use super::lifecycle::field;
use super::object::{Obj, Ref, Slot};

/// What the garbage collector calls back.
pub struct Visit {
    pub(super) visit: c::visitproc,
    pub(super) arg: *mut c_void,
    pub(super) result: std::cell::Cell<c_int>,
}

impl Visit {
    #[inline]
    pub fn slot(&self, s: &Slot) {
        self.raw(s.as_ptr());
    }

    #[inline]
    pub fn obj(&self, o: &Obj) {
        self.raw(o.as_ptr());
    }

    #[inline]
    pub(super) fn raw(&self, p: *mut c::PyObject) {
        if !p.is_null() && self.result.get() == 0 {
            // SAFETY: a live object, and the collector's own function and argument.
            self.result.set(unsafe { (self.visit)(p, self.arg) });
        }
    }
}

/// A Rust value inside a Python object.
pub trait Native: Sized + Shareable + 'static {
    /// Where the class lives once it is built.
    fn class() -> &'static Class;
    /// Show every reference held to the collector.
    fn traverse(&self, _visit: &Visit) {}
    /// Drop the references that can be part of a cycle.
    fn clear(&self) {}
    /// Last words of an instance that nobody refers to, after its finalizer, which a subclass's `__del__` may have replaced.
    /// Must not make new references to it.
    const HAS_FAREWELL: bool = false;
    fn farewell(_this: &Inst<Self>) {}
    /// Would the class's own finalizer do anything? Asked before it is called for an object that nobody refers to.
    fn needs_finalizer(&self) -> bool {
        true
    }
}

/// A built class: its type object and where in an instance the Rust value begins.
pub struct Class {
    pub(super) type_: Cell<*mut c::PyTypeObject>,
    /// One subclass that was seen, kept alive: most programs have exactly one kind of loop, a subclass of the native one.
    pub(super) known_subclass: Cell<*mut c::PyTypeObject>,
    pub(super) offset: Cell<usize>,
    pub(super) weaklist: Cell<isize>,
    pub(super) base_traverse: Cell<Option<c::traverseproc>>,
    pub(super) base_clear: Cell<Option<c::inquiry>>,
    pub(super) finalizer: Cell<Option<c::destructor>>,
    /// A class without storage of its own that was derived by `build_derived`: its instances have the same size.
    pub(super) derived: Cell<*mut c::PyTypeObject>,
    /// Memory of dead instances, ready for the next ones; linked through the place of the Rust value.
    pub(super) spare: Cell<*mut c::PyObject>,
    pub(super) spare_count: Cell<u32>,
    /// How many dead instances are kept; 0 for classes that are seldom made.
    pub(super) spare_max: Cell<u32>,
    /// Offset of an own `__dict__` pointer, 0 if the class makes none.
    pub(super) dict: Cell<isize>,
    /// Offset of a `__slots__` member inherited from a Python class, 0 if none (see `slot_of_python_base`).
    pub(super) inherited_slot: Cell<usize>,
}

// SAFETY: written while the module is imported, read by attached threads afterwards; but for `known_subclass`, which keeps
// what it has ever held alive, and the spare instances, which exist on builds with a GIL only.
unsafe impl Sync for Class {}

impl Class {
    pub const fn new() -> Class {
        Class {
            type_: Cell::new(ptr::null_mut()),
            known_subclass: Cell::new(ptr::null_mut()),
            offset: Cell::new(0),
            weaklist: Cell::new(0),
            base_traverse: Cell::new(None),
            base_clear: Cell::new(None),
            finalizer: Cell::new(None),
            derived: Cell::new(ptr::null_mut()),
            spare: Cell::new(ptr::null_mut()),
            spare_count: Cell::new(0),
            spare_max: Cell::new(0),
            dict: Cell::new(0),
            inherited_slot: Cell::new(0),
        }
    }

    #[inline]
    pub fn type_object(&self) -> &Obj {
        // SAFETY: built at import, and kept for ever by a reference of ours.
        unsafe { Obj::from_raw(self.type_.get().cast()) }
    }

    /// Memory of a dead instance for a new one of `type_`.
    #[inline]
    fn take_spare(&self, type_: *mut c::PyTypeObject) -> Option<*mut c::PyObject> {
        let spare = self.spare.get();
        if spare.is_null() || (type_ != self.type_.get() && type_ != self.derived.get()) {
            return None;
        }
        // SAFETY: `keep_spare` has put the next link there.
        unsafe { self.spare.set(*field(spare, self.offset.get())) };
        self.spare_count.set(self.spare_count.get() - 1);
        Some(spare)
    }

    /// Keep the memory of an instance that is dead and cleared; false if it is to be freed.
    ///
    /// # Safety
    /// `o` is an untracked instance with no references left inside; its Rust value has been dropped.
    #[inline]
    pub(super) unsafe fn keep_spare(&self, o: *mut c::PyObject, type_: *mut c::PyTypeObject, is_gc: bool) -> bool {
        // A debug interpreter counts references and blocks, and one without a GIL ties memory to threads.
        let is_off = cfg!(any(Py_DEBUG, Py_GIL_DISABLED));
        if is_off
            || self.spare_count.get() >= self.spare_max.get()
            || (type_ != self.type_.get() && type_ != self.derived.get())
        {
            return false;
        }
        // SAFETY: the caller's promise. The collector's mark of a finalizer that has run would outlive the object.
        unsafe {
            if is_gc && c::PyObject_GC_IsFinalized(o) != 0 {
                return false;
            }
            *field(o, self.offset.get()) = self.spare.get();
        }
        self.spare.set(o);
        self.spare_count.set(self.spare_count.get() + 1);
        true
    }

    #[inline]
    pub fn is_exact(&self, o: &Obj) -> bool {
        o.type_ptr() == self.type_.get()
    }

    /// Is `o` an instance of this class or of a subclass?
    #[inline]
    pub fn includes(&self, o: &Obj) -> bool {
        let t = o.type_ptr();
        t == self.type_.get() || t == self.known_subclass.get() || self.includes_type(t)
    }

    fn includes_type(&self, t: *mut c::PyTypeObject) -> bool {
        // SAFETY: live type objects.
        if self.type_.get().is_null() || unsafe { c::PyType_IsSubtype(t, self.type_.get()) } == 0 {
            return false;
        }
        if self.known_subclass.get().is_null() {
            // SAFETY: a live type; our reference keeps its address from being used for another one.
            unsafe { c::Py_INCREF(t.cast()) };
            self.known_subclass.set(t);
        }
        true
    }
}

/// An instance of `T`'s class, borrowed.
#[repr(transparent)]
pub struct Inst<T: Native>(Obj, PhantomData<T>);

/// An instance of `T`'s class, owned.
#[repr(transparent)]
pub struct Owned<T: Native>(Ref, PhantomData<T>);

impl<T: Native> Inst<T> {
    #[inline]
    pub fn obj(&self) -> &Obj {
        &self.0
    }

    #[inline]
    pub fn to_owned(&self) -> Owned<T> {
        Owned(self.0.to_ref(), PhantomData)
    }
}

impl<T: Native> Deref for Inst<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: an `Inst<T>` is only made of instances of the class, whose value lies at this offset.
        unsafe { &*self.0.as_ptr().cast::<u8>().add(T::class().offset.get()).cast::<T>() }
    }
}

impl<T: Native> Owned<T> {
    #[inline]
    pub fn into_ref(self) -> Ref {
        self.0
    }
}

impl<T: Native> Clone for Owned<T> {
    fn clone(&self) -> Self {
        Owned(self.0.clone(), PhantomData)
    }
}

impl<T: Native> Deref for Owned<T> {
    type Target = Inst<T>;
    #[inline]
    fn deref(&self) -> &Inst<T> {
        // SAFETY: as for `Inst`: same address, transparent.
        unsafe { &*ptr::from_ref::<Obj>(&self.0).cast::<Inst<T>>() }
    }
}

impl Obj {
    /// This object as an instance of `T`'s class or a subclass; None if it is none.
    #[inline]
    pub fn downcast<T: Native>(&self) -> Option<&Inst<T>> {
        if T::class().includes(self) {
            // SAFETY: just checked.
            Some(unsafe { &*ptr::from_ref(self).cast::<Inst<T>>() })
        } else {
            None
        }
    }

    /// The same for a class that nothing can be derived from: a comparison, also where it is none.
    #[inline]
    pub fn downcast_exact<T: Native>(&self) -> Option<&Inst<T>> {
        if T::class().is_exact(self) {
            // SAFETY: just checked.
            Some(unsafe { &*ptr::from_ref(self).cast::<Inst<T>>() })
        } else {
            None
        }
    }
}

impl Ref {
    pub fn downcast_into<T: Native>(self) -> Option<Owned<T>> {
        self.downcast::<T>()?;
        Some(Owned(self, PhantomData))
    }
}

/// Make an instance of `T`'s own class.
#[inline(always)]
pub(crate) fn instantiate<T: Native>(value: T) -> Res<Owned<T>> {
    allocate(T::class().type_.get(), value)
}

impl<T: Native> Owned<T> {
    #[inline(always)]
    pub fn new(value: T) -> Res<Owned<T>> {
        instantiate(value)
    }

    /// Make an instance of `class`, which must be `T`'s class or derived from it.
    pub fn of_class(class: &Obj, value: T) -> Res<Owned<T>> {
        let t = class.as_ptr().cast::<c::PyTypeObject>();
        // SAFETY: live type objects.
        if !class.is_class() || unsafe { c::PyType_IsSubtype(t, T::class().type_.get()) } == 0 {
            return Err(super::Raised::type_error("not a subclass of the native class"));
        }
        allocate(t, value)
    }
}

// Inlined always: the value is then built where it will lie.
#[inline(always)]
fn allocate<T: Native>(type_: *mut c::PyTypeObject, value: T) -> Res<Owned<T>> {
    if let Some(spare) = T::class().take_spare(type_) {
        // SAFETY: memory of a dead instance: its base storage was cleared, and its Rust value is written anew here.
        unsafe {
            spare.cast::<u8>().add(T::class().offset.get()).cast::<T>().write(value);
            c::PyObject_Init(spare, type_);
            if c::PyType_IS_GC(type_) != 0 {
                c::PyObject_GC_Track(spare.cast());
            }
            return Ok(Owned(Ref::from_new(spare), PhantomData));
        }
    }
    // SAFETY: the type's own allocator gives a zeroed instance with room for T at the offset; nobody has seen it yet.
    // (The collector may, from inside the allocator only; it is untracked until then, and T is written right after.)
    unsafe {
        let Some(alloc) = (*type_).tp_alloc else {
            return Err(super::Raised::type_error("cannot create instances"));
        };
        let o = Ref::from_owned(alloc(type_, 0))?;
        o.as_ptr().cast::<u8>().add(T::class().offset.get()).cast::<T>().write(value);
        Ok(Owned(o, PhantomData))
    }
}

/// The value of a raw instance.
///
/// # Safety
/// `o` is a live instance of `T`'s class.
#[inline]
pub(crate) unsafe fn inst<'a, T: Native>(o: *mut c::PyObject) -> &'a Inst<T> {
    // SAFETY: the caller's promise.
    unsafe { &*o.cast::<Inst<T>>() }
}
