//! Text between Rust and Python.

use std::ffi::c_char;

use pyo3_ffi as c;

use super::error::Res;
use super::object::{Obj, Ref};

pub fn string(s: &str) -> Res {
    // SAFETY: pointer and length of one live slice; `str` is UTF-8.
    unsafe { Ref::from_owned(c::PyUnicode_FromStringAndSize(s.as_ptr().cast::<c_char>(), s.len() as isize)) }
}

/// `os.fsdecode(bytes)`
pub fn path_text(bytes: &[u8]) -> Res {
    // SAFETY: pointer and length of one live slice.
    unsafe {
        Ref::from_owned(c::PyUnicode_DecodeFSDefaultAndSize(bytes.as_ptr().cast::<c_char>(), bytes.len() as isize))
    }
}

/// An interned `str`: attribute look-ups compare it by address.
pub fn intern(s: &str) -> Res {
    let mut p = string(s)?.into_raw();
    // SAFETY: `p` is a reference of ours, which the call may exchange for another.
    unsafe {
        c::PyUnicode_InternInPlace(&raw mut p);
        Ok(Ref::from_new(p))
    }
}

/// The text of a `str` object, borrowed from it.
pub fn utf8(o: &Obj) -> Res<&str> {
    let mut n = 0;
    // SAFETY: the interpreter checks the type, and keeps the UTF-8 form as long as the object lives.
    unsafe {
        let p = c::PyUnicode_AsUTF8AndSize(o.as_ptr(), &raw mut n);
        if p.is_null() {
            return Err(super::Raised::witness());
        }
        Ok(std::str::from_utf8_unchecked(std::slice::from_raw_parts(p.cast::<u8>(), n as usize)))
    }
}

/// `type(o).__name__`, for the text of an error.
pub fn type_name(o: &Obj) -> String {
    let name = intern("__name__").and_then(|name| o.class().getattr(&name)).and_then(|name| str_of(&name));
    name.unwrap_or_else(|raised| {
        raised.forget();
        "object".to_owned()
    })
}

/// `str(o)` as a Rust string, lone surrogates replaced.
pub fn str_of(o: &Obj) -> Res<String> {
    // SAFETY: a live object.
    let s = unsafe { Ref::from_owned(c::PyObject_Str(o.as_ptr()))? };
    match utf8(&s) {
        Ok(t) => Ok(t.to_owned()),
        Err(e) => {
            e.forget();
            let ascii = s.repr()?;
            Ok(utf8(&ascii).map(str::to_owned).unwrap_or_else(|e| {
                e.forget();
                "?".to_owned()
            }))
        }
    }
}
