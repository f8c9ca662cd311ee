//! Native classes: heap types whose instances carry a Rust value behind the storage of their base class.
//!
//! CPython counterpart: `PyType_FromSpecWithBases`, `subtype_dealloc`. Invariants:
//!
//! * an instance is `[base's storage | padding | T]`; the base's size is read when the class is built, because it differs
//!   with each Python version;
//! * `T` is written before anybody can see the instance, and all its fields are `Cell`s: any call into Python may come
//!   back to the same object, so nobody ever holds `&mut T`;
//! * the collector sees what `T::traverse` shows, the base's storage through the base's own `tp_traverse`, and the type.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_int, c_void};
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr;

use pyo3_ffi as c;

use super::error::Res;
use super::object::{Obj, Ref, Slot};
use super::trampoline::Method;
use super::trash;

/// What the garbage collector calls back.
pub struct Visit {
    visit: c::visitproc,
    arg: *mut c_void,
    result: Cell<c_int>,
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
    fn raw(&self, p: *mut c::PyObject) {
        if !p.is_null() && self.result.get() == 0 {
            // SAFETY: a live object, and the collector's own function and argument.
            self.result.set(unsafe { (self.visit)(p, self.arg) });
        }
    }
}

/// A Rust value inside a Python object.
pub trait Native: Sized + 'static {
    /// Where the class lives once it is built.
    fn class() -> &'static Class;
    /// Show every reference held to the collector.
    fn traverse(&self, _visit: &Visit) {}
    /// Drop the references that can be part of a cycle.
    fn clear(&self) {}
    /// Would the class's own finalizer do anything? Asked before it is called for an object that nobody refers to.
    fn needs_finalizer(&self) -> bool {
        true
    }
}

/// A built class: its type object and where in an instance the Rust value begins.
pub struct Class {
    type_: Cell<*mut c::PyTypeObject>,
    /// One subclass that was seen, kept alive: most programs have exactly one kind of loop, a subclass of the native one.
    known_subclass: Cell<*mut c::PyTypeObject>,
    offset: Cell<usize>,
    weaklist: Cell<isize>,
    base_traverse: Cell<Option<c::traverseproc>>,
    base_clear: Cell<Option<c::inquiry>>,
    finalizer: Cell<Option<c::destructor>>,
    /// A class without storage of its own that was derived by `build_derived`: its instances have the same size.
    derived: Cell<*mut c::PyTypeObject>,
    /// Memory of dead instances, ready for the next ones; linked through the place of the Rust value.
    spare: Cell<*mut c::PyObject>,
    spare_count: Cell<u32>,
    /// How many dead instances are kept; 0 for classes that are seldom made.
    spare_max: Cell<u32>,
    /// Offset of an own `__dict__` pointer, 0 if the class makes none.
    dict: Cell<isize>,
    /// Offset of a `__slots__` member inherited from a Python class, 0 if none (see `slot_of_python_base`).
    inherited_slot: Cell<usize>,
}

// SAFETY: written once while the module is imported, read by attached threads afterwards.
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
    unsafe fn keep_spare(&self, o: *mut c::PyObject, type_: *mut c::PyTypeObject, is_gc: bool) -> bool {
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
}

impl Ref {
    pub fn downcast_into<T: Native>(self) -> Option<Owned<T>> {
        self.downcast::<T>()?;
        Some(Owned(self, PhantomData))
    }
}

/// Make an instance of `T`'s own class.
#[inline]
pub(crate) fn instantiate<T: Native>(value: T) -> Res<Owned<T>> {
    allocate(T::class().type_.get(), value)
}

impl<T: Native> Owned<T> {
    #[inline]
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

#[inline]
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


/// The slots whose C signature is one of the few below.
pub struct ClassBuilder<T: Native> {
    name: &'static CStr,
    bases: Vec<Ref>,
    slots: Vec<c::PyType_Slot>,
    methods: Vec<c::PyMethodDef>,
    getset: Vec<c::PyGetSetDef>,
    members: Vec<c::PyMemberDef>,
    gc: bool,
    subclassable: bool,
    has_dict: bool,
    has_weaklist: bool,
    python_base: bool,
    reserve: usize,
    _t: PhantomData<T>,
}

impl<T: Native> ClassBuilder<T> {
    pub fn new(name: &'static CStr, doc: &'static CStr) -> Self {
        let mut b = ClassBuilder {
            name,
            bases: Vec::new(),
            slots: Vec::new(),
            methods: Vec::new(),
            getset: Vec::new(),
            members: Vec::new(),
            gc: true,
            subclassable: false,
            has_dict: false,
            has_weaklist: false,
            python_base: false,
            reserve: 0,
            _t: PhantomData,
        };
        b = b.slot(c::Py_tp_doc, doc.as_ptr().cast_mut().cast());
        b
    }

    /// Derive from a C class with storage of its own; its traverse and clear are chained.
    pub fn base(mut self, base: &Obj) -> Self {
        self.bases.push(base.to_ref());
        self
    }

    /// Derive from a class written in Python with `__slots__` of one member in all and no `__dict__`
    /// (`asyncio.Transport` and its like).
    ///
    /// Its tp_traverse and tp_clear must not be chained: CPython's `subtype_traverse` finds "the base's" function by
    /// walking from the instance's type, which would lead back to ours without end. The member is handled by hand.
    pub fn python_base(mut self, base: &Obj) -> Self {
        self.bases.push(base.to_ref());
        self.python_base = true;
        self
    }

    /// Instances are not tracked by the collector: for classes whose owner traverses for them.
    pub fn untracked(mut self) -> Self {
        self.gc = false;
        self
    }

    pub fn subclassable(mut self) -> Self {
        self.subclassable = true;
        self
    }

    pub fn with_dict(mut self) -> Self {
        self.has_dict = true;
        self
    }

    pub fn with_weaklist(mut self) -> Self {
        self.has_weaklist = true;
        self
    }

    /// Keep the memory of up to `n` dead instances: for objects that programs make and drop all the time.
    pub fn pooled(self, n: u32) -> Self {
        T::class().spare_max.set(n);
        self
    }

    /// The value begins no lower than this offset: two classes can then share code that looks at a common prefix.
    pub fn at_least(mut self, offset: usize) -> Self {
        self.reserve = offset;
        self
    }

    pub fn slot(mut self, id: c_int, f: *mut c_void) -> Self {
        self.slots.push(c::PyType_Slot { slot: id, pfunc: f });
        self
    }

    pub fn method(mut self, name: &'static CStr, m: Method, doc: &'static CStr) -> Self {
        self.methods.push(m.definition(name, doc));
        self
    }

    pub fn getset(
        mut self,
        name: &'static CStr,
        get: c::getter,
        set: Option<c::setter>,
        doc: &'static CStr,
    ) -> Self {
        self.getset.push(c::PyGetSetDef {
            name: name.as_ptr(),
            get: Some(get),
            set,
            doc: doc.as_ptr(),
            closure: ptr::null_mut(),
        });
        self
    }

    /// Build the type and remember it in `T::class()`.
    pub fn build(self) -> Res {
        self.build_as(T::class(), false)
    }

    /// Build a class derived from `T`'s own that adds behaviour but no storage, and remember it in `class`.
    pub fn build_derived(self, class: &'static Class) -> Res {
        self.base(T::class().type_object()).build_as(class, true)
    }

    fn build_as(mut self, class: &'static Class, derived: bool) -> Res {
        let mut base_size = size_of::<c::PyObject>();
        let (mut base_weak, mut base_dict) = (0, 0);
        if let Some(base) = self.bases.first() {
            // SAFETY: a live type object.
            let t = unsafe { &*base.as_ptr().cast::<c::PyTypeObject>() };
            base_size = t.tp_basicsize as usize;
            base_weak = t.tp_weaklistoffset;
            base_dict = t.tp_dictoffset;
            if self.python_base {
                // BaseTransport's only slot, `_extra`, is its last word.
                if base_size > size_of::<c::PyObject>() {
                    class.inherited_slot.set(base_size - size_of::<*mut c_void>());
                }
            } else if !derived {
                class.base_traverse.set(t.tp_traverse);
                class.base_clear.set(t.tp_clear);
            }
        }
        let align = align_of::<T>().max(8);
        let offset = base_size.max(self.reserve).next_multiple_of(align);
        let mut size = (offset + size_of::<T>()).next_multiple_of(8);
        if derived {
            size = base_size;
        } else {
            class.offset.set(offset);
        }
        let mut add_pointer = |name: &'static CStr| {
            let at = size as isize;
            size += size_of::<*mut c_void>();
            self.members.push(c::PyMemberDef {
                name: name.as_ptr(),
                type_code: c::Py_T_PYSSIZET,
                offset: at,
                flags: c::Py_READONLY,
                doc: ptr::null(),
            });
            at
        };
        if self.has_dict && base_dict == 0 {
            class.dict.set(add_pointer(c"__dictoffset__"));
        }
        class.weaklist.set(if self.has_weaklist && base_weak == 0 { add_pointer(c"__weaklistoffset__") } else { base_weak });

        self.slots.push(c::PyType_Slot { slot: c::Py_tp_dealloc, pfunc: dealloc::<T> as *mut c_void });
        if self.gc {
            self.slots.push(c::PyType_Slot { slot: c::Py_tp_traverse, pfunc: traverse::<T> as *mut c_void });
            self.slots.push(c::PyType_Slot { slot: c::Py_tp_clear, pfunc: clear::<T> as *mut c_void });
        }
        self.push_table(c::Py_tp_methods, |b| std::mem::take(&mut b.methods), c::PyMethodDef::zeroed());
        if self.has_dict {
            self.getset.push(c::PyGetSetDef {
                name: c"__dict__".as_ptr(),
                get: Some(c::PyObject_GenericGetDict),
                set: Some(c::PyObject_GenericSetDict),
                doc: ptr::null(),
                closure: ptr::null_mut(),
            });
        }
        self.push_table(c::Py_tp_getset, |b| std::mem::take(&mut b.getset), c::PyGetSetDef::default());
        // SAFETY: all-zero ends the table of members.
        self.push_table(c::Py_tp_members, |b| std::mem::take(&mut b.members), unsafe { std::mem::zeroed() });
        self.slots.push(c::PyType_Slot { slot: 0, pfunc: ptr::null_mut() });

        let mut flags = c::Py_TPFLAGS_DEFAULT;
        if self.gc {
            flags |= c::Py_TPFLAGS_HAVE_GC;
        }
        if self.subclassable {
            flags |= c::Py_TPFLAGS_BASETYPE;
        }
        let bases: Vec<&Obj> = self.bases.iter().map(|b| &**b).collect();
        let bases = Obj::tuple_of(&bases)?;
        let mut spec = c::PyType_Spec {
            name: self.name.as_ptr(),
            basicsize: size as c_int,
            itemsize: 0,
            flags: flags as u32,
            slots: self.slots.as_mut_ptr(),
        };
        // SAFETY: a complete spec; its tables are leaked, because method and getset descriptors point into them.
        let made = unsafe {
            let bases = if self.bases.is_empty() { ptr::null_mut() } else { bases.as_ptr() };
            Ref::from_owned(c::PyType_FromSpecWithBases(&raw mut spec, bases))?
        };
        class.type_.set(made.clone().into_raw().cast());
        if derived {
            T::class().derived.set(class.type_.get());
        }
        // SAFETY: a live type.
        class.finalizer.set(unsafe { (*class.type_.get()).tp_finalize });
        Ok(made)
    }

    fn push_table<D: Copy + 'static>(&mut self, slot: c_int, take: impl FnOnce(&mut Self) -> Vec<D>, end: D) {
        let mut table = take(self);
        if table.is_empty() {
            return;
        }
        table.push(end);
        let table: &'static mut [D] = table.leak();
        self.slots.push(c::PyType_Slot { slot, pfunc: table.as_mut_ptr().cast() });
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

unsafe extern "C" fn traverse<T: Native>(o: *mut c::PyObject, visit: c::visitproc, arg: *mut c_void) -> c_int {
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

unsafe extern "C" fn clear<T: Native>(o: *mut c::PyObject) -> c_int {
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

unsafe fn field(o: *mut c::PyObject, offset: usize) -> *mut *mut c::PyObject {
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

unsafe extern "C" fn dealloc<T: Native>(o: *mut c::PyObject) {
    // SAFETY: the interpreter passes an instance nobody refers to any more. One of a subclass comes from CPython's own
    // `subtype_dealloc`, which bounds the depth itself and must not be left half-way.
    unsafe {
        let is_whole = || (*c::Py_TYPE(o)).tp_dealloc.is_some_and(|f| ptr::fn_addr_eq(f, dealloc::<T> as c::destructor));
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

/// A static name for a method table, from a Rust string that lives for ever.
pub fn leaked(s: &str) -> &'static CStr {
    CString::new(s).unwrap_or_default().leak_cstr()
}

trait LeakCStr {
    fn leak_cstr(self) -> &'static CStr;
}

impl LeakCStr for CString {
    fn leak_cstr(self) -> &'static CStr {
        Box::leak(self.into_boxed_c_str())
    }
}
