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

    /// Exactly the parameters `names`, by position or by name.
    #[inline]
    pub fn exactly<const N: usize>(&self, function: &str, names: [&str; N]) -> Res<[&'a Obj; N]> {
        if self.names.is_null() {
            if let Ok(given) = <[&'a Obj; N]>::try_from(self.positional()) {
                return Ok(given);
            }
        }
        Ok(self.bind(function, names, N, N)?.map(|o| o.unwrap_or(super::none())))
    }

    /// `(first, second, *args, context=None)` of `call_soon` and its like: the named leading parameters, the rest, and the
    /// context if it is not None. A method without one passes `has_context = false`.
    #[inline]
    pub fn leading<const N: usize>(
        &self,
        function: &str,
        names: [&str; N],
        has_context: bool,
    ) -> Res<([&'a Obj; N], &'a [&'a Obj], Option<&'a Obj>)> {
        let positional = self.positional();
        if self.names.is_null() {
            if let Some((first, rest)) = positional.split_first_chunk::<N>() {
                return Ok((*first, rest, None));
            }
        }
        self.leading_by_name(function, names, has_context)
    }

    fn leading_by_name<const N: usize>(
        &self,
        function: &str,
        names: [&str; N],
        has_context: bool,
    ) -> Res<([&'a Obj; N], &'a [&'a Obj], Option<&'a Obj>)> {
        let positional = self.positional();
        let mut found: [Option<&'a Obj>; N] = [None; N];
        for (place, given) in found.iter_mut().zip(positional) {
            *place = Some(*given);
        }
        let mut context = None;
        for (name, value) in self.keywords() {
            let name = utf8(name)?;
            match names.iter().position(|n| *n == name) {
                Some(i) if found[i].is_some() => {
                    return Err(Raised::type_error(&format!("{function}() got multiple values for argument '{name}'")));
                }
                Some(i) => found[i] = Some(value),
                None if has_context && name == "context" => context = Some(value).filter(|c| !c.is_none()),
                None => {
                    return Err(Raised::type_error(&format!(
                        "{function}() got an unexpected keyword argument '{name}'"
                    )));
                }
            }
        }
        let missing: Vec<String> =
            names.iter().zip(&found).filter(|(_, f)| f.is_none()).map(|(n, _)| format!("'{n}'")).collect();
        if !missing.is_empty() {
            let plural = if missing.len() == 1 { "" } else { "s" };
            return Err(Raised::type_error(&format!(
                "{function}() missing {} required positional argument{plural}: {}",
                missing.len(),
                missing.join(" and ")
            )));
        }
        let rest = positional.get(N..).unwrap_or(&[]);
        Ok((found.map(|f| f.unwrap_or(super::none())), rest, context))
    }
}
