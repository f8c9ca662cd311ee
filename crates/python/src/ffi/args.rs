//! Arguments of a native method, as the vectorcall protocol hands them over: positional first, then keywords.
//!
//! CPython counterpart: `_PyArg_ParseStackAndKeywords`, with its error texts.

use std::marker::PhantomData;
use std::slice;

use pyo3_ffi as c;

use super::error::{Raised, Res};
use super::object::Obj;
use super::text::utf8;

#[derive(Clone, Copy)]
pub struct Args<'a> {
    first: *const *mut c::PyObject,
    positional: usize,
    names: *mut c::PyObject,
    _a: PhantomData<&'a Obj>,
}

impl<'a> Args<'a> {
    /// # Safety
    /// As the interpreter passes them to a METH_FASTCALL | METH_KEYWORDS function; live during `'a`.
    #[inline]
    pub(crate) unsafe fn from_raw(first: *const *mut c::PyObject, n: isize, names: *mut c::PyObject) -> Args<'a> {
        Args { first, positional: n as usize, names, _a: PhantomData }
    }

    #[inline]
    pub fn positional(&self) -> &'a [&'a Obj] {
        if self.positional == 0 {
            return &[];
        }
        // SAFETY: `positional` live objects from `first` on; `&Obj` has the layout of a pointer.
        unsafe { slice::from_raw_parts(self.first.cast(), self.positional) }
    }

    /// The keyword arguments as (name, value).
    #[inline]
    pub fn keywords(&self) -> impl Iterator<Item = (&'a Obj, &'a Obj)> + use<'a> {
        let names: &'a [&'a Obj] = if self.names.is_null() {
            &[]
        } else {
            // SAFETY: a tuple of names, with as many values after the positional ones.
            unsafe { Obj::from_raw::<'a>(self.names) }.tuple_items()
        };
        let values: &'a [&'a Obj] = if names.is_empty() {
            &[]
        } else {
            // SAFETY: see above.
            unsafe { slice::from_raw_parts(self.first.add(self.positional).cast(), names.len()) }
        };
        names.iter().copied().zip(values.iter().copied())
    }

    pub fn has_keywords(&self) -> bool {
        !self.names.is_null() && self.keywords().next().is_some()
    }

    /// Bind to the parameters `names`, of which the first `max_positional` may be given by position and the first
    /// `required` must be given.
    ///
    /// # Errors
    /// TypeError with CPython's texts.
    pub fn bind<const N: usize>(
        &self,
        function: &str,
        names: [&str; N],
        max_positional: usize,
        required: usize,
    ) -> Res<[Option<&'a Obj>; N]> {
        let mut out = [None; N];
        let given = self.positional();
        if given.len() > max_positional {
            let at_most = if required == max_positional { "exactly" } else { "at most" };
            let plural = if max_positional == 1 { "" } else { "s" };
            return Err(Raised::type_error(&format!(
                "{function}() takes {at_most} {max_positional} positional argument{plural} ({} given)",
                given.len()
            )));
        }
        for (o, g) in out.iter_mut().zip(given) {
            *o = Some(*g);
        }
        for (name, value) in self.keywords() {
            let name = utf8(name)?;
            match names.iter().position(|n| *n == name) {
                None => {
                    return Err(Raised::type_error(&format!(
                        "{function}() got an unexpected keyword argument '{name}'"
                    )));
                }
                Some(i) if out[i].is_some() => {
                    return Err(Raised::type_error(&format!(
                        "argument for {function}() given by name ('{name}') and position ({})",
                        i + 1
                    )));
                }
                Some(i) => out[i] = Some(value),
            }
        }
        for (i, name) in names.iter().enumerate().take(required) {
            if out[i].is_none() {
                return Err(Raised::type_error(&format!(
                    "{function}() missing required argument '{name}' (pos {})",
                    i + 1
                )));
            }
        }
        Ok(out)
    }

    /// `(*args, context=None)` of `call_soon` and its like: the positional ones and the context, if it is not None.
    #[inline]
    pub fn with_context(&self, function: &str) -> Res<(&'a [&'a Obj], Option<&'a Obj>)> {
        let mut context = None;
        if !self.names.is_null() {
            for (name, value) in self.keywords() {
                if utf8(name)? != "context" {
                    return Err(Raised::type_error(&format!(
                        "{function}() got an unexpected keyword argument '{}'",
                        utf8(name)?
                    )));
                }
                if !value.is_none() {
                    context = Some(value);
                }
            }
        }
        Ok((self.positional(), context))
    }
}
