//! From C's calling conventions to safe Rust functions, and panics into exceptions.
//!
//! A panic that left an `extern "C"` function would abort the process (D10): each trampoline catches it and raises
//! SystemError, the class CPython uses for its own internal errors.

use std::any::Any;
use std::ffi::{CStr, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use pyo3_ffi as c;

use super::args::Args;
use super::error::{Raised, Res, exc};
use super::object::{Obj, Ref};

/// A function for a method table, and how it wants to be called.
pub struct Method {
    pub(crate) pointer: *mut c_void,
    pub(crate) flags: c_int,
}

impl Method {
    pub(crate) fn definition(self, name: &'static CStr, doc: &'static CStr) -> c::PyMethodDef {
        c::PyMethodDef {
            ml_name: name.as_ptr(),
            // SAFETY: all members of the union are function pointers; `flags` says which one it is.
            ml_meth: unsafe { std::mem::transmute::<*mut c_void, c::PyMethodDefPointer>(self.pointer) },
            ml_flags: self.flags,
            ml_doc: doc.as_ptr(),
        }
    }

    /// The method stands in the place of the one that a slot of the same name would make: Python code that calls it by name
    /// gets the method, the interpreter takes the slot.
    pub fn beside_slot(self) -> Method {
        Method { flags: self.flags | c::METH_COEXIST, ..self }
    }

    pub fn of_class(self) -> Method {
        Method { flags: self.flags | c::METH_CLASS, ..self }
    }
}

/// Run a body; an error or a panic leaves the indicator set and gives `failed`.
#[inline]
pub fn guarded<R>(failed: R, body: impl FnOnce() -> Res<R>) -> R {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(r)) => r,
        Ok(Err(_raised)) => failed,
        Err(panic) => {
            raise_panic(&*panic);
            failed
        }
    }
}

/// Run a body that gives an object.
#[inline]
pub fn guarded_object(body: impl FnOnce() -> Res) -> *mut c::PyObject {
    guarded(ptr::null_mut(), || body().map(Ref::into_raw))
}

#[cold]
fn raise_panic(panic: &(dyn Any + Send)) {
    let text = panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    let _raised =
        Raised::new(exc::system_error(), &format!("aioxide: internal error (a bug, please report it): {text}"));
}

/// # Safety
/// Arguments as the interpreter passes them.
#[inline]
pub unsafe fn args<'a>(first: *const *mut c::PyObject, n: isize, names: *mut c::PyObject) -> Args<'a> {
    // SAFETY: the caller's promise.
    unsafe { Args::from_raw(first, n, names) }
}

/// # Safety
/// `o` is a live object.
#[inline]
pub unsafe fn obj<'a>(o: *mut c::PyObject) -> &'a Obj {
    // SAFETY: the caller's promise.
    unsafe { Obj::from_raw(o) }
}

/// # Safety
/// `o` is a live instance of `T`'s class: the descriptors of a type check this before they call.
#[inline]
pub unsafe fn inst<'a, T: super::Native>(o: *mut c::PyObject) -> &'a super::Inst<T> {
    // SAFETY: the caller's promise.
    unsafe { super::class::inst(o) }
}

/// `fn(&Inst<T>) -> Res` as a method without arguments.
#[macro_export]
macro_rules! noargs {
    ($t:ty, $f:path) => {{
        unsafe extern "C" fn f(me: *mut pyo3_ffi::PyObject, _: *mut pyo3_ffi::PyObject) -> *mut pyo3_ffi::PyObject {
            // SAFETY: the method descriptor has checked the type.
            $crate::ffi::trampoline::guarded_object(|| $f(unsafe { $crate::ffi::trampoline::inst::<$t>(me) }))
        }
        $crate::ffi::trampoline::method(f as *mut std::ffi::c_void, pyo3_ffi::METH_NOARGS)
    }};
}

/// `fn(&Inst<T>, &Obj) -> Res` as a method with one positional argument.
#[macro_export]
macro_rules! onearg {
    ($t:ty, $f:path) => {{
        unsafe extern "C" fn f(me: *mut pyo3_ffi::PyObject, a: *mut pyo3_ffi::PyObject) -> *mut pyo3_ffi::PyObject {
            // SAFETY: the method descriptor has checked the type; the argument is live.
            $crate::ffi::trampoline::guarded_object(|| unsafe {
                $f($crate::ffi::trampoline::inst::<$t>(me), $crate::ffi::trampoline::obj(a))
            })
        }
        $crate::ffi::trampoline::method(f as *mut std::ffi::c_void, pyo3_ffi::METH_O)
    }};
}

/// `fn(&Inst<T>, Args) -> Res` as a method with any arguments.
#[macro_export]
macro_rules! keywords {
    ($t:ty, $f:path) => {{
        unsafe extern "C" fn f(
            me: *mut pyo3_ffi::PyObject,
            first: *const *mut pyo3_ffi::PyObject,
            n: isize,
            names: *mut pyo3_ffi::PyObject,
        ) -> *mut pyo3_ffi::PyObject {
            // SAFETY: the method descriptor has checked the type; arguments as the interpreter passes them.
            $crate::ffi::trampoline::guarded_object(|| unsafe {
                $f($crate::ffi::trampoline::inst::<$t>(me), $crate::ffi::trampoline::args(first, n, names))
            })
        }
        $crate::ffi::trampoline::method(f as *mut std::ffi::c_void, pyo3_ffi::METH_FASTCALL | pyo3_ffi::METH_KEYWORDS)
    }};
}

/// `fn(Args) -> Res` as a function of the module, or as a static method.
#[macro_export]
macro_rules! function {
    ($f:path) => {{
        unsafe extern "C" fn f(
            _: *mut pyo3_ffi::PyObject,
            first: *const *mut pyo3_ffi::PyObject,
            n: isize,
            names: *mut pyo3_ffi::PyObject,
        ) -> *mut pyo3_ffi::PyObject {
            // SAFETY: arguments as the interpreter passes them.
            $crate::ffi::trampoline::guarded_object(|| $f(unsafe { $crate::ffi::trampoline::args(first, n, names) }))
        }
        $crate::ffi::trampoline::method(f as *mut std::ffi::c_void, pyo3_ffi::METH_FASTCALL | pyo3_ffi::METH_KEYWORDS)
    }};
}

/// `fn(&Inst<T>) -> Res` as the getter of an attribute.
#[macro_export]
macro_rules! getter {
    ($t:ty, $f:path) => {{
        unsafe extern "C" fn f(me: *mut pyo3_ffi::PyObject, _: *mut std::ffi::c_void) -> *mut pyo3_ffi::PyObject {
            // SAFETY: the getset descriptor has checked the type.
            $crate::ffi::trampoline::guarded_object(|| $f(unsafe { $crate::ffi::trampoline::inst::<$t>(me) }))
        }
        f as pyo3_ffi::getter
    }};
}

/// `fn(&Inst<T>, Option<&Obj>) -> Res<()>` as the setter of an attribute; None means `del`.
#[macro_export]
macro_rules! setter {
    ($t:ty, $f:path) => {{
        unsafe extern "C" fn f(
            me: *mut pyo3_ffi::PyObject,
            value: *mut pyo3_ffi::PyObject,
            _: *mut std::ffi::c_void,
        ) -> std::ffi::c_int {
            $crate::ffi::trampoline::guarded(-1, || {
                // SAFETY: the getset descriptor has checked the type; the value is live or NULL.
                unsafe {
                    let value = if value.is_null() { None } else { Some($crate::ffi::trampoline::obj(value)) };
                    $f($crate::ffi::trampoline::inst::<$t>(me), value).map(|()| 0)
                }
            })
        }
        Some(f as pyo3_ffi::setter)
    }};
}

/// `fn(&Inst<T>) -> Res` as a slot of one argument: repr, str, iter, await.
#[macro_export]
macro_rules! unary {
    ($t:ty, $f:path) => {{
        unsafe extern "C" fn f(me: *mut pyo3_ffi::PyObject) -> *mut pyo3_ffi::PyObject {
            // SAFETY: a slot is only called for instances of its type.
            $crate::ffi::trampoline::guarded_object(|| $f(unsafe { $crate::ffi::trampoline::inst::<$t>(me) }))
        }
        f as *mut std::ffi::c_void
    }};
}

/// `fn(&Inst<T>)` as tp_finalize: errors are its own business, a pending error is set aside.
#[macro_export]
macro_rules! finalizer {
    ($t:ty, $f:path) => {{
        unsafe extern "C" fn f(me: *mut pyo3_ffi::PyObject) {
            $crate::ffi::Raised::aside(|| {
                // SAFETY: a slot is only called for instances of its type.
                let this = unsafe { $crate::ffi::trampoline::inst::<$t>(me) };
                $crate::ffi::trampoline::guarded((), || {
                    $f(this);
                    Ok(())
                });
                if let Some(raised) = $crate::ffi::Raised::occurred() {
                    // SAFETY: as above.
                    raised.unraisable(unsafe { $crate::ffi::trampoline::obj(me) });
                }
            });
        }
        f as *mut std::ffi::c_void
    }};
}

/// `fn(&Inst<T>, &Obj, c_int) -> Res` as tp_richcompare.
#[macro_export]
macro_rules! richcompare {
    ($t:ty, $f:path) => {{
        unsafe extern "C" fn f(
            me: *mut pyo3_ffi::PyObject,
            other: *mut pyo3_ffi::PyObject,
            op: std::ffi::c_int,
        ) -> *mut pyo3_ffi::PyObject {
            // SAFETY: a slot is only called for instances of its type; the other is live.
            $crate::ffi::trampoline::guarded_object(|| unsafe {
                $f($crate::ffi::trampoline::inst::<$t>(me), $crate::ffi::trampoline::obj(other), op)
            })
        }
        f as *mut std::ffi::c_void
    }};
}

/// `fn(&Inst<T>) -> Res<isize>` as tp_hash.
#[macro_export]
macro_rules! hasher {
    ($t:ty, $f:path) => {{
        unsafe extern "C" fn f(me: *mut pyo3_ffi::PyObject) -> isize {
            // SAFETY: a slot is only called for instances of its type.
            $crate::ffi::trampoline::guarded(-1, || $f(unsafe { $crate::ffi::trampoline::inst::<$t>(me) }))
        }
        f as *mut std::ffi::c_void
    }};
}

/// `fn(&Inst<T>, &Obj, Option<&Obj>) -> Res<()>` as tp_setattro.
#[macro_export]
macro_rules! setattro {
    ($t:ty, $f:path) => {{
        unsafe extern "C" fn f(
            me: *mut pyo3_ffi::PyObject,
            name: *mut pyo3_ffi::PyObject,
            value: *mut pyo3_ffi::PyObject,
        ) -> std::ffi::c_int {
            $crate::ffi::trampoline::guarded(-1, || {
                // SAFETY: a slot is only called for instances of its type; the name is live, the value live or NULL.
                unsafe {
                    let value = if value.is_null() { None } else { Some($crate::ffi::trampoline::obj(value)) };
                    $f($crate::ffi::trampoline::inst::<$t>(me), $crate::ffi::trampoline::obj(name), value).map(|()| 0)
                }
            })
        }
        f as *mut std::ffi::c_void
    }};
}

/// `fn(&Inst<T>) -> Awaiting` as tp_iternext of an awaitable.
#[macro_export]
macro_rules! await_next {
    ($t:ty, $f:path) => {{
        unsafe extern "C" fn f(me: *mut pyo3_ffi::PyObject) -> *mut pyo3_ffi::PyObject {
            $crate::ffi::trampoline::guarded(std::ptr::null_mut(), || {
                // SAFETY: a slot is only called for instances of its type.
                Ok(match $f(unsafe { $crate::ffi::trampoline::inst::<$t>(me) })? {
                    $crate::ffi::trampoline::Awaiting::Yield(o) => $crate::ffi::trampoline::into_raw(o),
                    $crate::ffi::trampoline::Awaiting::Done(v) => $crate::ffi::send::stop_iteration(&v),
                })
            })
        }
        f as *mut std::ffi::c_void
    }};
}

/// The same function as am_send: the result needs no StopIteration.
#[macro_export]
macro_rules! await_send {
    ($t:ty, $f:path) => {{
        unsafe extern "C" fn f(
            me: *mut pyo3_ffi::PyObject,
            _value: *mut pyo3_ffi::PyObject,
            out: *mut *mut pyo3_ffi::PyObject,
        ) -> pyo3_ffi::PySendResult {
            let r = $crate::ffi::trampoline::guarded(None, || {
                // SAFETY: a slot is only called for instances of its type.
                $f(unsafe { $crate::ffi::trampoline::inst::<$t>(me) }).map(Some)
            });
            let (o, r) = match r {
                Some($crate::ffi::trampoline::Awaiting::Yield(o)) => {
                    ($crate::ffi::trampoline::into_raw(o), pyo3_ffi::PySendResult::PYGEN_NEXT)
                }
                Some($crate::ffi::trampoline::Awaiting::Done(v)) => {
                    ($crate::ffi::trampoline::into_raw(v), pyo3_ffi::PySendResult::PYGEN_RETURN)
                }
                None => (std::ptr::null_mut(), pyo3_ffi::PySendResult::PYGEN_ERROR),
            };
            // SAFETY: the caller lends a place for the result.
            unsafe { *out = o };
            r
        }
        f as *mut std::ffi::c_void
    }};
}

/// `fn(&Obj class, Args-as-(tuple, dict)) -> Res` as tp_new.
#[macro_export]
macro_rules! constructor {
    ($f:path) => {{
        unsafe extern "C" fn f(
            class: *mut pyo3_ffi::PyTypeObject,
            args: *mut pyo3_ffi::PyObject,
            kwargs: *mut pyo3_ffi::PyObject,
        ) -> *mut pyo3_ffi::PyObject {
            // SAFETY: the interpreter passes a live type, a tuple, and a dict or NULL.
            $crate::ffi::trampoline::guarded_object(|| unsafe {
                let kwargs = if kwargs.is_null() { None } else { Some($crate::ffi::trampoline::obj(kwargs)) };
                $f($crate::ffi::trampoline::obj(class.cast()), $crate::ffi::trampoline::obj(args), kwargs)
            })
        }
        f as *mut std::ffi::c_void
    }};
}

/// `fn(&Inst<T>, Args) -> Res<()>` as tp_init.
#[macro_export]
macro_rules! initializer {
    ($t:ty, $f:path) => {{
        unsafe extern "C" fn f(
            me: *mut pyo3_ffi::PyObject,
            args: *mut pyo3_ffi::PyObject,
            kwargs: *mut pyo3_ffi::PyObject,
        ) -> std::ffi::c_int {
            $crate::ffi::trampoline::guarded(-1, || {
                // SAFETY: the interpreter passes an instance, a tuple, and a dict or NULL.
                unsafe {
                    let kwargs = if kwargs.is_null() { None } else { Some($crate::ffi::trampoline::obj(kwargs)) };
                    let me = $crate::ffi::trampoline::inst::<$t>(me);
                    $crate::ffi::trampoline::with_vector($crate::ffi::trampoline::obj(args), kwargs, |a| $f(me, a))
                        .map(|()| 0)
                }
            })
        }
        f as *mut std::ffi::c_void
    }};
}

/// What an awaitable came to when it was asked for its next value.
pub enum Awaiting {
    Yield(Ref),
    Done(Ref),
}

#[inline]
pub fn into_raw(r: Ref) -> *mut c::PyObject {
    r.into_raw()
}

#[inline]
pub fn method(pointer: *mut c_void, flags: c_int) -> Method {
    Method { pointer, flags }
}

/// Present the tuple and dict of tp_init as vectorcall arguments.
pub fn with_vector<R>(args: &Obj, kwargs: Option<&Obj>, f: impl FnOnce(Args<'_>) -> Res<R>) -> Res<R> {
    let Some(kwargs) = kwargs else {
        let items = args.tuple_items();
        // SAFETY: the tuple keeps its items alive during the call.
        return f(unsafe { Args::from_raw(items.as_ptr().cast(), items.len() as isize, ptr::null_mut()) });
    };
    let mut values: Vec<*mut c::PyObject> = args.tuple_items().iter().map(|o| o.as_ptr()).collect();
    let n = values.len();
    let (mut at, mut key, mut value) = (0, ptr::null_mut(), ptr::null_mut());
    let mut names = Vec::new();
    // SAFETY: kwargs is a dict that nobody else has; keys and values are borrowed from it.
    unsafe {
        while c::PyDict_Next(kwargs.as_ptr(), &raw mut at, &raw mut key, &raw mut value) != 0 {
            names.push(Obj::from_raw(key));
            values.push(value);
        }
        let names = Obj::tuple_of(&names)?;
        f(Args::from_raw(values.as_ptr(), n as isize, names.as_ptr()))
    }
}

/// Add functions to a module.
pub fn module_functions(module: &Obj, functions: Vec<(&'static CStr, Method, &'static CStr)>) -> Res<()> {
    let mut table: Vec<c::PyMethodDef> = functions.into_iter().map(|(n, m, d)| m.definition(n, d)).collect();
    table.push(c::PyMethodDef::zeroed());
    // SAFETY: a live module; the table is leaked, the functions point into it.
    Raised::check(unsafe { c::PyModule_AddFunctions(module.as_ptr(), table.leak().as_mut_ptr()) })
}

/// `fn(&Obj class, &Obj) -> Res` as a class method with one argument.
#[macro_export]
macro_rules! classarg {
    ($f:path) => {{
        unsafe extern "C" fn f(class: *mut pyo3_ffi::PyObject, a: *mut pyo3_ffi::PyObject) -> *mut pyo3_ffi::PyObject {
            // SAFETY: the descriptor passes a live class; the argument is live.
            $crate::ffi::trampoline::guarded_object(|| unsafe {
                $f($crate::ffi::trampoline::obj(class), $crate::ffi::trampoline::obj(a))
            })
        }
        $crate::ffi::trampoline::method(f as *mut std::ffi::c_void, pyo3_ffi::METH_O | pyo3_ffi::METH_CLASS)
    }};
}

/// `fn(&Obj me, &Obj) -> Res` as a method with one positional argument that checks `me` itself.
#[macro_export]
macro_rules! objarg {
    ($f:path) => {{
        unsafe extern "C" fn f(me: *mut pyo3_ffi::PyObject, a: *mut pyo3_ffi::PyObject) -> *mut pyo3_ffi::PyObject {
            // SAFETY: live objects.
            $crate::ffi::trampoline::guarded_object(|| unsafe {
                $f($crate::ffi::trampoline::obj(me), $crate::ffi::trampoline::obj(a))
            })
        }
        $crate::ffi::trampoline::method(f as *mut std::ffi::c_void, pyo3_ffi::METH_O)
    }};
}

/// Tells bound methods made from one definition from all others.
pub struct MethodId(*const c::PyMethodDef);

// SAFETY: never written to, and never freed.
unsafe impl Send for MethodId {}
// SAFETY: see above.
unsafe impl Sync for MethodId {}

impl MethodId {
    /// What `function` is bound to, if it is a bound method of this definition.
    #[inline]
    pub fn bound_to<'a>(&self, function: &'a Obj) -> Option<&'a Obj> {
        bound_to(self.0, function)
    }
}

/// Put a method into `class` whose descriptor accepts every instance of `declared_for`.
pub fn add_method(
    class: &Obj,
    declared_for: &Obj,
    name: &'static CStr,
    m: Method,
    doc: &'static CStr,
) -> Res<MethodId> {
    let definition = Box::leak(Box::new(m.definition(name, doc)));
    let id = MethodId(definition);
    // SAFETY: a live type and a definition that is never freed.
    let descriptor = unsafe { Ref::from_owned(c::PyDescr_NewMethod(declared_for.as_ptr().cast(), definition))? };
    class.setattr(&*super::intern(name.to_str().unwrap_or_default())?, &descriptor)?;
    Ok(id)
}

/// What a builtin function made from `definition` is bound to; None for anything else.
#[inline]
fn bound_to(definition: *const c::PyMethodDef, function: &Obj) -> Option<&Obj> {
    // SAFETY: a live object; the fields are read only if it is exactly a builtin function, which keeps its self alive.
    unsafe {
        if c::PyCFunction_CheckExact(function.as_ptr()) == 0 {
            return None;
        }
        let f = &*function.as_ptr().cast::<c::PyCFunctionObject>();
        (ptr::eq(f.m_ml, definition) && !f.m_self.is_null()).then(|| Obj::from_raw(f.m_self))
    }
}

/// A definition for `bound`: `fn(&Obj me, &Obj argument) -> Res`.
pub struct Definition(c::PyMethodDef);

// SAFETY: never written to.
unsafe impl Sync for Definition {}

impl Definition {
    pub const fn new(name: &'static CStr, f: c::PyCFunction, flags: c_int) -> Definition {
        Definition(c::PyMethodDef {
            ml_name: name.as_ptr(),
            ml_meth: c::PyMethodDefPointer { PyCFunction: f },
            ml_flags: flags,
            ml_doc: ptr::null(),
        })
    }

    /// A builtin function bound to `me`.
    pub fn bind(&'static self, me: &Obj) -> Res {
        // SAFETY: a complete definition; `me` is live. The definition is never written to.
        unsafe { Ref::from_owned(c::PyCFunction_NewEx((&raw const self.0).cast_mut(), me.as_ptr(), ptr::null_mut())) }
    }

    /// What a function made by `bind` is bound to; None for anything else.
    #[inline]
    pub fn bound_to<'a>(&'static self, function: &'a Obj) -> Option<&'a Obj> {
        bound_to(&raw const self.0, function)
    }
}

/// A static `Definition` of a builtin with one argument, from `fn(&Obj me, &Obj argument) -> Res`.
#[macro_export]
macro_rules! definition_onearg {
    ($name:literal, $f:path) => {{
        unsafe extern "C" fn f(me: *mut pyo3_ffi::PyObject, a: *mut pyo3_ffi::PyObject) -> *mut pyo3_ffi::PyObject {
            // SAFETY: bound to a live object; the argument is live.
            $crate::ffi::trampoline::guarded_object(|| unsafe {
                $f($crate::ffi::trampoline::obj(me), $crate::ffi::trampoline::obj(a))
            })
        }
        $crate::ffi::trampoline::Definition::new($name, f, pyo3_ffi::METH_O)
    }};
}

/// A static `Definition` of a builtin without arguments, from `fn(&Obj me) -> Res`.
#[macro_export]
macro_rules! definition_noargs {
    ($name:literal, $f:path) => {{
        unsafe extern "C" fn f(me: *mut pyo3_ffi::PyObject, _: *mut pyo3_ffi::PyObject) -> *mut pyo3_ffi::PyObject {
            // SAFETY: bound to a live object.
            $crate::ffi::trampoline::guarded_object(|| $f(unsafe { $crate::ffi::trampoline::obj(me) }))
        }
        $crate::ffi::trampoline::Definition::new($name, f, pyo3_ffi::METH_NOARGS)
    }};
}

/// The entry point of the extension: a module with multi-phase initialisation (PEP 489), built by `fn(&Obj) -> Res<()>`.
#[macro_export]
macro_rules! module_entry {
    ($init:ident, $name:expr, $doc:expr, $execute:path) => {
        /// Called by the interpreter's import machinery.
        #[unsafe(no_mangle)]
        pub extern "C" fn $init() -> *mut pyo3_ffi::PyObject {
            unsafe extern "C" fn execute(module: *mut pyo3_ffi::PyObject) -> std::ffi::c_int {
                $crate::ffi::trampoline::guarded(-1, || {
                    // SAFETY: the import machinery passes a live module.
                    $execute(unsafe { $crate::ffi::trampoline::obj(module) }).map(|()| 0)
                })
            }
            $crate::ffi::trampoline::define_module($name, $doc, execute)
        }
    };
}
pub use module_entry;

/// Called once per import of the module; the definition is kept for the process.
pub fn define_module(
    name: &'static CStr,
    doc: &'static CStr,
    execute: unsafe extern "C" fn(*mut c::PyObject) -> c_int,
) -> *mut c::PyObject {
    let mut slots = vec![c::PyModuleDef_Slot { slot: c::Py_mod_exec, value: execute as *mut c_void }];
    #[cfg(Py_3_12)]
    slots.push(c::PyModuleDef_Slot {
        slot: c::Py_mod_multiple_interpreters,
        value: c::Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED,
    });
    #[cfg(Py_3_13)]
    slots.push(c::PyModuleDef_Slot {
        slot: c::Py_mod_gil,
        value: if cfg!(Py_GIL_DISABLED) { c::Py_MOD_GIL_NOT_USED } else { c::Py_MOD_GIL_USED },
    });
    slots.push(c::PyModuleDef_Slot { slot: 0, value: ptr::null_mut() });
    let definition = Box::new(c::PyModuleDef {
        m_base: c::PyModuleDef_HEAD_INIT,
        m_name: name.as_ptr(),
        m_doc: doc.as_ptr(),
        m_size: 0,
        m_methods: ptr::null_mut(),
        m_slots: slots.leak().as_mut_ptr(),
        m_traverse: None,
        m_clear: None,
        m_free: None,
    });
    // SAFETY: a complete definition that is never freed.
    unsafe { c::PyModuleDef_Init(Box::into_raw(definition)) }
}
