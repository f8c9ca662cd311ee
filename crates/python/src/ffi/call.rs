//! Calls into Python by the vectorcall protocol (PEP 590).

use std::ptr;

use pyo3_ffi as c;

use super::error::Res;
use super::object::{Obj, Ref};
use super::text::intern;
use super::unwind;

/// Tells the callee that it may use the slot before the first argument.
const OFFSET: usize = 1 << (usize::BITS - 1);

impl Obj {
    #[inline]
    pub fn call0(&self) -> Res {
        // SAFETY: live objects; no arguments.
        unsafe { Ref::from_owned(unwind::PyObject_CallNoArgs(self.as_ptr())) }
    }

    #[inline]
    pub fn call1(&self, a: &Obj) -> Res {
        self.call([a])
    }

    #[inline]
    pub fn call<const N: usize>(&self, args: [&Obj; N]) -> Res {
        // One spare word in front lets bound methods insert self without copying.
        #[repr(C)]
        struct Frame<const N: usize> {
            spare: *mut c::PyObject,
            args: [*mut c::PyObject; N],
        }
        let mut f = Frame { spare: ptr::null_mut(), args: args.map(Obj::as_ptr) };
        // SAFETY: live objects; the word before args[0] is ours to lend.
        unsafe {
            let first = (&raw mut f).cast::<*mut c::PyObject>().add(1);
            Ref::from_owned(unwind::PyObject_Vectorcall(self.as_ptr(), first, N | OFFSET, ptr::null_mut()))
        }
    }

    /// Call with arguments that were kept for later.
    #[inline]
    pub fn call_vector(&self, v: &Vector) -> Res {
        // SAFETY: `Vector` keeps its objects alive; `Option<Ref>` has the layout of a pointer; the callee restores the
        // spare word before the first argument if it uses it (PEP 590), so a shared borrow of it is enough.
        unsafe {
            let first = v.words().as_ptr().add(1).cast::<*mut c::PyObject>();
            Ref::from_owned(unwind::PyObject_Vectorcall(self.as_ptr(), first, v.n | OFFSET, ptr::null_mut()))
        }
    }

    /// Call with keywords: the last `names.len()` of `args` are their values.
    pub fn call_kw(&self, args: &[&Obj], names: &Obj) -> Res {
        let nkw = names.tuple_items().len();
        // SAFETY: `&Obj` has the layout of a pointer; live objects; `names` is a tuple of str.
        unsafe {
            Ref::from_owned(unwind::PyObject_Vectorcall(
                self.as_ptr(),
                args.as_ptr().cast(),
                args.len() - nkw,
                names.as_ptr(),
            ))
        }
    }

    pub fn call_tuple(&self, args: &Obj) -> Res {
        // SAFETY: live objects; PyObject_CallObject checks that it is a tuple.
        unsafe { Ref::from_owned(unwind::PyObject_CallObject(self.as_ptr(), args.as_ptr())) }
    }

    /// `self(*args, **kwargs)`.
    pub fn call_dict(&self, args: &Obj, kwargs: Option<&Obj>) -> Res {
        // SAFETY: live objects; a tuple, and a dict or NULL.
        unsafe {
            Ref::from_owned(unwind::PyObject_Call(
                self.as_ptr(),
                args.as_ptr(),
                kwargs.map_or(ptr::null_mut(), Obj::as_ptr),
            ))
        }
    }

    /// `self.name(*args)` without making a bound method.
    #[inline]
    pub fn call_method<const N: usize>(&self, name: &Obj, args: [&Obj; N]) -> Res {
        #[repr(C)]
        struct Frame<const N: usize> {
            me: *mut c::PyObject,
            args: [*mut c::PyObject; N],
        }
        let f = Frame { me: self.as_ptr(), args: args.map(Obj::as_ptr) };
        // SAFETY: live objects, laid out as self followed by the arguments.
        unsafe {
            let first = (&raw const f).cast::<*mut c::PyObject>();
            Ref::from_owned(unwind::PyObject_VectorcallMethod(name.as_ptr(), first, N + 1, ptr::null_mut()))
        }
    }

    /// `self.name(*args)`, the last values being keywords.
    pub fn call_method_kw<const N: usize>(&self, name: &Obj, args: [&Obj; N], names: &Obj) -> Res {
        let nkw = names.tuple_items().len();
        let mut v: Vec<*mut c::PyObject> = Vec::with_capacity(N + 1);
        v.push(self.as_ptr());
        v.extend(args.iter().map(|a| a.as_ptr()));
        // SAFETY: live objects, laid out as self followed by the arguments.
        unsafe {
            Ref::from_owned(unwind::PyObject_VectorcallMethod(name.as_ptr(), v.as_ptr(), N + 1 - nkw, names.as_ptr()))
        }
    }
}

unsafe extern "C" {
    // Not declared by pyo3-ffi.
    static mut PyMethod_Type: c::PyTypeObject;
    fn PyMethod_Self(method: *mut c::PyObject) -> *mut c::PyObject;
    fn PyMethod_Function(method: *mut c::PyObject) -> *mut c::PyObject;
}

impl Obj {
    /// The function in a bound method (`method.__func__`), if this is one and bound to `me`.
    pub fn function_bound_to(&self, me: &Obj) -> Option<&Obj> {
        // SAFETY: a live object; its fields are looked at only if it is a bound method, which keeps them alive.
        unsafe {
            let is_method = c::Py_TYPE(self.as_ptr()) == &raw mut PyMethod_Type;
            if !is_method || PyMethod_Self(self.as_ptr()) != me.as_ptr() {
                return None;
            }
            Some(Obj::from_raw(PyMethod_Function(self.as_ptr())))
        }
    }
}

/// Arguments of a call that will be made later: owned, and laid out for `call_vector`, the first word being spare.
///
/// Up to three are held in place: nearly all callbacks have no more, and an allocation costs as much as the call.
pub struct Vector {
    inline: [Option<Ref>; 4],
    n: usize,
    many: Option<Box<[Option<Ref>]>>,
}

impl Vector {
    #[inline]
    pub fn new(args: &[&Obj]) -> Vector {
        let mut v = Vector { inline: [None, None, None, None], n: args.len(), many: None };
        if args.len() < v.inline.len() {
            for (place, a) in v.inline[1..].iter_mut().zip(args) {
                *place = Some(a.to_ref());
            }
        } else {
            v.many = Some(std::iter::once(None).chain(args.iter().map(|a| Some(a.to_ref()))).collect());
        }
        v
    }

    #[inline]
    fn words(&self) -> &[Option<Ref>] {
        match &self.many {
            None => &self.inline[..=self.n],
            Some(many) => many,
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Ref> {
        self.words()[1..].iter().flatten()
    }

    pub fn len(&self) -> usize {
        self.n
    }

    /// References of one's own to the arguments.
    pub fn to_refs(&self) -> Vec<Ref> {
        self.iter().cloned().collect()
    }

    pub fn to_tuple(&self) -> Res {
        let items: Vec<&Obj> = self.iter().map(|r| &**r).collect();
        Obj::tuple_of(&items)
    }
}

pub fn import(module: &str) -> Res {
    let name = intern(module)?;
    // SAFETY: a live str.
    unsafe { Ref::from_owned(c::PyImport_Import(name.as_ptr())) }
}

pub fn import_attr(module: &str, name: &str) -> Res {
    import(module)?.getattr(&*intern(name)?)
}
