//! References to Python objects: borrowed (`&Obj`), owned (`Ref`) and stored (`Slot`).
//!
//! CPython counterpart: `PyObject *`, `Py_XSETREF`. Invariant of `Slot`: the old reference is dropped after the new one
//! is in place, because a DECREF may run any Python code, which may look at the same slot.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::{self, NonNull};

use pyo3_ffi as c;

use super::cell::Pointer;
use super::error::{Raised, Res};

/// A borrowed Python object. Zero-sized and opaque: only its address means something.
#[repr(C)]
pub struct Obj {
    _opaque: UnsafeCell<[u8; 0]>,
    _not_send: PhantomData<*mut ()>,
}

/// An owned reference.
#[repr(transparent)]
pub struct Ref(NonNull<c::PyObject>);

// SAFETY: without a GIL reference counts are atomic where threads share an object, and objects guard themselves: the
// interpreter's by their own means, native ones by `cell`.
#[cfg(Py_GIL_DISABLED)]
unsafe impl Send for Obj {}
// SAFETY: see above.
#[cfg(Py_GIL_DISABLED)]
unsafe impl Sync for Obj {}
// SAFETY: see above.
#[cfg(Py_GIL_DISABLED)]
unsafe impl Send for Ref {}
// SAFETY: see above.
#[cfg(Py_GIL_DISABLED)]
unsafe impl Sync for Ref {}

impl Obj {
    /// # Safety
    /// `p` is a live object for all of `'a`.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(p: *mut c::PyObject) -> &'a Obj {
        debug_assert!(!p.is_null());
        // SAFETY: the caller's promise; `Obj` is zero-sized, so no byte of the object is claimed.
        unsafe { &*p.cast::<Obj>() }
    }

    #[inline]
    pub fn as_ptr(&self) -> *mut c::PyObject {
        ptr::from_ref(self).cast_mut().cast()
    }

    #[inline]
    pub fn to_ref(&self) -> Ref {
        // SAFETY: `self` is a live object.
        unsafe {
            c::Py_INCREF(self.as_ptr());
            Ref(NonNull::new_unchecked(self.as_ptr()))
        }
    }

    /// The address: `id(self)`.
    #[inline]
    pub fn address(&self) -> usize {
        ptr::from_ref(self) as usize
    }

    /// Identity, Python's `is`.
    #[inline]
    pub fn is(&self, other: &Obj) -> bool {
        ptr::eq(self, other)
    }

    #[inline]
    pub fn is_none(&self) -> bool {
        self.is(none())
    }

    #[inline]
    pub fn type_ptr(&self) -> *mut c::PyTypeObject {
        // SAFETY: `self` is a live object.
        unsafe { c::Py_TYPE(self.as_ptr()) }
    }

    pub fn class(&self) -> &Obj {
        // SAFETY: an object keeps its type alive.
        unsafe { Obj::from_raw(self.type_ptr().cast()) }
    }

    pub fn refcount(&self) -> isize {
        // SAFETY: `self` is a live object.
        unsafe { c::Py_REFCNT(self.as_ptr()) }
    }

    pub fn getattr(&self, name: &Obj) -> Res {
        // SAFETY: both are live objects.
        unsafe { Ref::from_owned(super::unwind::PyObject_GetAttr(self.as_ptr(), name.as_ptr())) }
    }

    /// The attribute, or None where there is none; other errors are kept.
    pub fn getattr_opt(&self, name: &Obj) -> Res<Option<Ref>> {
        match self.getattr(name) {
            Ok(v) => Ok(Some(v)),
            Err(e) if e.matches(super::exc::attribute_error()) => {
                e.forget();
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    pub fn setattr(&self, name: &Obj, value: &Obj) -> Res<()> {
        // SAFETY: all three are live objects.
        Raised::check(unsafe { c::PyObject_SetAttr(self.as_ptr(), name.as_ptr(), value.as_ptr()) })
    }

    pub fn is_true(&self) -> Res<bool> {
        if self.is(true_()) {
            return Ok(true);
        }
        if self.is(false_()) || self.is_none() {
            return Ok(false);
        }
        // SAFETY: a live object.
        match unsafe { c::PyObject_IsTrue(self.as_ptr()) } {
            -1 => Err(Raised::witness()),
            n => Ok(n == 1),
        }
    }

    /// `self == other`.
    pub fn equals(&self, other: &Obj) -> Res<bool> {
        // SAFETY: both are live objects.
        match unsafe { c::PyObject_RichCompareBool(self.as_ptr(), other.as_ptr(), c::Py_EQ) } {
            -1 => Err(Raised::witness()),
            n => Ok(n == 1),
        }
    }

    pub fn is_instance(&self, class: &Obj) -> Res<bool> {
        // SAFETY: both are live objects.
        match unsafe { c::PyObject_IsInstance(self.as_ptr(), class.as_ptr()) } {
            -1 => Err(Raised::witness()),
            n => Ok(n == 1),
        }
    }

    /// Is `type(self)` `class` or derived from it? Runs no Python code.
    #[inline]
    pub fn has_type(&self, class: &Obj) -> bool {
        let want = class.as_ptr().cast::<c::PyTypeObject>();
        let have = self.type_ptr();
        // SAFETY: both are live types.
        have == want || unsafe { c::PyType_IsSubtype(have, want) } != 0
    }

    pub fn is_callable(&self) -> bool {
        // SAFETY: a live object.
        unsafe { c::PyCallable_Check(self.as_ptr()) == 1 }
    }

    pub fn is_class(&self) -> bool {
        // SAFETY: a live object.
        unsafe { c::PyType_Check(self.as_ptr()) == 1 }
    }

    pub fn is_exception_class(&self) -> bool {
        // SAFETY: a live object.
        unsafe { c::PyExceptionClass_Check(self.as_ptr()) == 1 }
    }

    pub fn is_exception(&self) -> bool {
        // SAFETY: a live object.
        unsafe { c::PyExceptionInstance_Check(self.as_ptr()) == 1 }
    }

    pub fn is_bytes(&self) -> bool {
        // SAFETY: a live object.
        unsafe { c::PyBytes_Check(self.as_ptr()) == 1 }
    }

    pub fn is_str(&self) -> bool {
        // SAFETY: a live object.
        unsafe { c::PyUnicode_Check(self.as_ptr()) == 1 }
    }

    pub fn is_long(&self) -> bool {
        // SAFETY: a live object.
        unsafe { c::PyLong_Check(self.as_ptr()) == 1 }
    }

    /// An `int`, and no `bool`.
    pub fn is_exact_int(&self) -> bool {
        // SAFETY: a live object.
        unsafe { c::PyLong_CheckExact(self.as_ptr()) != 0 }
    }

    pub fn repr(&self) -> Res {
        // SAFETY: a live object.
        unsafe { Ref::from_owned(c::PyObject_Repr(self.as_ptr())) }
    }

    pub fn hash(&self) -> Res<isize> {
        // SAFETY: a live object.
        match unsafe { c::PyObject_Hash(self.as_ptr()) } {
            -1 => Err(Raised::witness()),
            n => Ok(n),
        }
    }

    pub fn iter(&self) -> Res {
        // SAFETY: a live object.
        unsafe { Ref::from_owned(c::PyObject_GetIter(self.as_ptr())) }
    }

    /// The next item of an iterator; None at its end.
    pub fn next(&self) -> Res<Option<Ref>> {
        // SAFETY: a live object; PyIter_Next checks nothing, so ask first.
        unsafe {
            if c::PyIter_Check(self.as_ptr()) == 0 {
                return Err(Raised::type_error("iterator expected"));
            }
            let item = c::PyIter_Next(self.as_ptr());
            if !item.is_null() {
                Ok(Some(Ref::from_new(item)))
            } else if c::PyErr_Occurred().is_null() {
                Ok(None)
            } else {
                Err(Raised::witness())
            }
        }
    }

    pub fn len(&self) -> Res<usize> {
        // SAFETY: a live object.
        match unsafe { c::PyObject_Length(self.as_ptr()) } {
            -1 => Err(Raised::witness()),
            n => Ok(n as usize),
        }
    }

    /// `item in self`
    pub fn contains(&self, item: &Obj) -> Res<bool> {
        // SAFETY: live objects.
        match unsafe { c::PySequence_Contains(self.as_ptr(), item.as_ptr()) } {
            -1 => Err(Raised::witness()),
            n => Ok(n == 1),
        }
    }

    /// `int(self)`
    pub fn to_int(&self) -> Res {
        // SAFETY: a live object.
        unsafe { Ref::from_owned(c::PyNumber_Long(self.as_ptr())) }
    }

    /// `a, b, ... = self`
    ///
    /// # Errors
    /// TypeError for what cannot be iterated, ValueError with the interpreter's texts for another number of items.
    pub fn unpack<const N: usize>(&self) -> Res<[Ref; N]> {
        let mut items = Vec::with_capacity(N);
        let iterator = self.iter()?;
        while let Some(item) = iterator.next()? {
            if items.len() == N {
                return Err(Raised::value_error(&format!("too many values to unpack (expected {N})")));
            }
            items.push(item);
        }
        items.try_into().map_err(|few: Vec<Ref>| {
            Raised::value_error(&format!("not enough values to unpack (expected {N}, got {})", few.len()))
        })
    }

    /// `self.get(key)` of a dict.
    #[inline]
    pub fn dict_get(&self, key: &Obj) -> Option<Ref> {
        self.dict_get_if(key, |_| true)
    }

    /// `self.get(key)` of a dict, but for the object that is expected there.
    #[inline]
    pub fn dict_get_other(&self, key: &Obj, expected: &Obj) -> Option<Ref> {
        self.dict_get_if(key, |value| !value.is(expected))
    }

    #[inline]
    fn dict_get_if(&self, key: &Obj, wanted: impl FnOnce(&Obj) -> bool) -> Option<Ref> {
        // SAFETY: live objects; a missing key is no error here, nor is what is no dict. Nothing runs before the reference
        // of our own.
        #[cfg(not(Py_GIL_DISABLED))]
        unsafe {
            let p = c::PyDict_GetItemWithError(self.as_ptr(), key.as_ptr());
            if p.is_null() || !wanted(Obj::from_raw(p)) { None } else { Some(Obj::from_raw(p).to_ref()) }
        }
        // SAFETY: as above. Another thread may drop the dict's reference at any time: only one of our own is safe.
        #[cfg(Py_GIL_DISABLED)]
        unsafe {
            let mut p = ptr::null_mut();
            c::PyDict_GetItemRef(self.as_ptr(), key.as_ptr(), &raw mut p);
            Ref::from_owned_opt(p).filter(|value| wanted(value))
        }
    }

    /// The values of a dict, borrowed. `f` must not change it, nor run Python.
    pub fn dict_for_each_value(&self, mut f: impl FnMut(&Obj)) {
        let (mut position, mut value) = (0, std::ptr::null_mut());
        // SAFETY: a live object, and nobody changes it meanwhile (above); what is no dict has no items.
        unsafe {
            while c::PyDict_Next(self.as_ptr(), &mut position, std::ptr::null_mut(), &mut value) != 0 {
                f(Obj::from_raw(value));
            }
        }
    }

    pub fn get_item(&self, key: &Obj) -> Res {
        // SAFETY: live objects.
        unsafe { Ref::from_owned(c::PyObject_GetItem(self.as_ptr(), key.as_ptr())) }
    }

    pub fn set_item(&self, key: &Obj, value: &Obj) -> Res<()> {
        // SAFETY: live objects.
        Raised::check(unsafe { c::PyObject_SetItem(self.as_ptr(), key.as_ptr(), value.as_ptr()) })
    }

    pub fn is_tuple(&self) -> bool {
        // SAFETY: a live object.
        unsafe { c::PyTuple_Check(self.as_ptr()) == 1 }
    }

    /// The items of a tuple; empty for anything else.
    pub fn tuple_items(&self) -> &[&Obj] {
        if !self.is_tuple() {
            return &[];
        }
        // SAFETY: a tuple is immutable, its items are live as long as it is; `&Obj` has the layout of a pointer.
        unsafe {
            let n = c::PyTuple_GET_SIZE(self.as_ptr()) as usize;
            let first = (*self.as_ptr().cast::<c::PyTupleObject>()).ob_item.as_ptr();
            std::slice::from_raw_parts(first.cast::<&Obj>(), n)
        }
    }

    pub fn list_append(&self, item: &Obj) -> Res<()> {
        // SAFETY: live objects; PyList_Append checks the type.
        Raised::check(unsafe { c::PyList_Append(self.as_ptr(), item.as_ptr()) })
    }
}

impl Ref {
    /// A new reference from the C API; NULL means that the error indicator is set.
    ///
    /// # Safety
    /// `p` is NULL or a reference that the caller owns.
    #[inline]
    pub(crate) unsafe fn from_owned(p: *mut c::PyObject) -> Res {
        NonNull::new(p).map(Ref).ok_or_else(Raised::witness)
    }

    /// # Safety
    /// `p` is not NULL and a reference that the caller owns.
    #[inline]
    pub(crate) unsafe fn from_new(p: *mut c::PyObject) -> Ref {
        // SAFETY: the caller's promise.
        Ref(unsafe { NonNull::new_unchecked(p) })
    }

    #[inline]
    pub(crate) fn into_raw(self) -> *mut c::PyObject {
        let p = self.0.as_ptr();
        std::mem::forget(self);
        p
    }
}

impl Deref for Ref {
    type Target = Obj;
    #[inline]
    fn deref(&self) -> &Obj {
        // SAFETY: an owned reference keeps its object alive.
        unsafe { Obj::from_raw(self.0.as_ptr()) }
    }
}

impl Clone for Ref {
    #[inline]
    fn clone(&self) -> Ref {
        self.to_ref()
    }
}

impl Drop for Ref {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: we own this reference, and the thread is attached (module rule).
        unsafe { c::Py_DECREF(self.0.as_ptr()) }
    }
}

/// A place that holds a reference or nothing, shared by everyone who can reach the object it is in.
#[repr(transparent)]
#[derive(Default)]
pub struct Slot(Pointer);

impl Slot {
    pub const fn empty() -> Slot {
        Slot(Pointer::new(None))
    }

    pub fn of(r: Ref) -> Slot {
        Slot(Pointer::new(NonNull::new(r.into_raw())))
    }

    #[inline]
    pub fn is_some(&self) -> bool {
        self.0.get().is_some()
    }

    #[inline]
    pub fn take(&self) -> Option<Ref> {
        self.0.replace(None).map(Ref)
    }

    /// A reference of one's own to what is inside.
    #[inline]
    pub fn get(&self) -> Option<Ref> {
        // SAFETY: what is inside is live, and stays inside meanwhile.
        self.0.held(|p| unsafe { Obj::from_raw(p.as_ptr()).to_ref() })
    }

    #[inline]
    pub fn get_or_none(&self) -> Ref {
        self.get().unwrap_or_else(|| none().to_ref())
    }

    /// Is `o` inside?
    #[inline]
    pub fn holds(&self, o: &Obj) -> bool {
        self.as_ptr() == o.as_ptr()
    }

    #[inline]
    pub fn as_ptr(&self) -> *mut c::PyObject {
        self.0.get().map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    #[inline]
    pub fn put(&self, r: Ref) {
        let old = self.0.replace(NonNull::new(r.into_raw()));
        drop(old.map(Ref));
    }

    #[inline]
    pub fn clear(&self) {
        drop(self.take());
    }
}

impl Drop for Slot {
    #[inline]
    fn drop(&mut self) {
        self.clear();
    }
}

#[inline]
pub fn none() -> &'static Obj {
    // SAFETY: immortal, or kept alive by the interpreter.
    unsafe { Obj::from_raw(c::Py_None()) }
}

#[inline]
pub fn true_() -> &'static Obj {
    // SAFETY: as for `none`.
    unsafe { Obj::from_raw(c::Py_True()) }
}

#[inline]
pub fn false_() -> &'static Obj {
    // SAFETY: as for `none`.
    unsafe { Obj::from_raw(c::Py_False()) }
}

pub fn not_implemented() -> &'static Obj {
    // SAFETY: as for `none`.
    unsafe { Obj::from_raw(c::Py_NotImplemented()) }
}

impl From<bool> for Ref {
    #[inline]
    fn from(b: bool) -> Ref {
        if b { true_().to_ref() } else { false_().to_ref() }
    }
}

/// A tuple of the given items.
pub fn tuple<const N: usize>(items: [&Obj; N]) -> Res {
    tuple_from(&items)
}

/// A tuple of owned items.
pub fn tuple_of_refs(items: &[Ref]) -> Res {
    let items: Vec<&Obj> = items.iter().map(|r| &**r).collect();
    tuple_from(&items)
}

fn tuple_from(items: &[&Obj]) -> Res {
    // SAFETY: PyTuple_SET_ITEM steals a fresh reference into a fresh tuple.
    unsafe {
        let t = Ref::from_owned(c::PyTuple_New(items.len() as isize))?;
        for (i, item) in items.iter().enumerate() {
            c::PyTuple_SET_ITEM(t.as_ptr(), i as isize, item.to_ref().into_raw());
        }
        Ok(t)
    }
}

impl Obj {
    /// A tuple of borrowed items, as long as needed.
    pub fn tuple_of(items: &[&Obj]) -> Res {
        tuple_from(items)
    }
}

pub fn list() -> Res {
    // SAFETY: no precondition.
    unsafe { Ref::from_owned(c::PyList_New(0)) }
}

pub fn dict() -> Res {
    // SAFETY: no precondition.
    unsafe { Ref::from_owned(c::PyDict_New()) }
}

/// `True` or `False` as a borrowed object.
pub trait BoolExt {
    fn into_obj(self) -> &'static Obj;
}

impl BoolExt for bool {
    fn into_obj(self) -> &'static Obj {
        if self { true_() } else { false_() }
    }
}

impl Obj {
    /// `object.__setattr__(self, name, value)`; None deletes.
    pub fn generic_setattr(&self, name: &Obj, value: Option<&Obj>) -> Res<()> {
        // SAFETY: live objects, or NULL to delete.
        Raised::check(unsafe {
            c::PyObject_GenericSetAttr(self.as_ptr(), name.as_ptr(), value.map_or(ptr::null_mut(), Obj::as_ptr))
        })
    }

    /// `class.__basicsize__` of a class object; 0 for anything else.
    pub fn instance_size(&self) -> usize {
        if !self.is_class() {
            return 0;
        }
        // SAFETY: just checked that it is a type.
        unsafe { (*self.as_ptr().cast::<c::PyTypeObject>()).tp_basicsize as usize }
    }
}
