//! Numbers between Rust and Python.

use pyo3_ffi as c;

use super::error::{Raised, Res};
use super::object::{Obj, Ref};

pub fn float(v: f64) -> Res {
    // SAFETY: no precondition.
    unsafe { Ref::from_owned(c::PyFloat_FromDouble(v)) }
}

pub fn int(v: i64) -> Res {
    // SAFETY: no precondition.
    unsafe { Ref::from_owned(c::PyLong_FromLongLong(v)) }
}

pub fn int_u64(v: u64) -> Res {
    // SAFETY: no precondition.
    unsafe { Ref::from_owned(c::PyLong_FromUnsignedLongLong(v)) }
}

/// `float(o)` through `__float__`/`__index__`.
#[inline]
pub fn float_value(o: &Obj) -> Res<f64> {
    // SAFETY: a live object.
    let v = unsafe { c::PyFloat_AsDouble(o.as_ptr()) };
    if v == -1.0 && Raised::is_set() {
        return Err(Raised::witness());
    }
    Ok(v)
}

/// An integer through `__index__`, OverflowError beyond 64 bits.
pub fn index_value(o: &Obj) -> Res<i64> {
    // SAFETY: a live object.
    unsafe {
        let i = Ref::from_owned(c::PyNumber_Index(o.as_ptr()))?;
        let v = c::PyLong_AsLongLong(i.as_ptr());
        if v == -1 && Raised::is_set() {
            return Err(Raised::witness());
        }
        Ok(v)
    }
}

/// The value of an int; the nearest that 64 bits can say.
pub fn saturated_value(int: &Obj) -> Res<i64> {
    let mut overflow = 0;
    // SAFETY: a live object; what is no int raises.
    let v = unsafe { c::PyLong_AsLongLongAndOverflow(int.as_ptr(), &raw mut overflow) };
    match overflow {
        0 if v == -1 && Raised::is_set() => Err(Raised::witness()),
        0 => Ok(v),
        negative if negative < 0 => Ok(i64::MIN),
        _ => Ok(i64::MAX),
    }
}
