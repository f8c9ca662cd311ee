//! Building a native class: name, bases, methods and slots, laid out behind the storage of the base.
//!
//! CPython counterpart: `PyType_FromSpecWithBases`. The tables of methods and attributes are leaked on purpose: the
//! descriptors of a type point into them for as long as the process lives.

use std::ffi::{CStr, c_int, c_void};
use std::marker::PhantomData;
use std::ptr;

use pyo3_ffi as c;

use super::class::{Class, Native};
use super::error::Res;
use super::lifecycle::{clear, dealloc, traverse};
use super::object::{Obj, Ref};
use super::trampoline::Method;

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

    pub fn getset(mut self, name: &'static CStr, get: c::getter, set: Option<c::setter>, doc: &'static CStr) -> Self {
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
        class.weaklist.set(if self.has_weaklist && base_weak == 0 {
            add_pointer(c"__weaklistoffset__")
        } else {
            base_weak
        });

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
        // A class without a constructor would inherit `object`'s, which knows of no Rust value.
        if self.slots.iter().all(|slot| slot.slot != c::Py_tp_new) && !derived {
            flags |= c::Py_TPFLAGS_DISALLOW_INSTANTIATION;
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
